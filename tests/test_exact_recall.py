"""Recall: rows that repeat what their key last was; keys found on a sample; the order that makes them possible."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, profiled, stored_again
from test_exact_linear import any_int64s

from vae_core import fitting, picking
from vae_core.errors import CorruptArchive
from vae_core.exact import arrange, drafts
from vae_core.exact.arrange import Arrangement
from vae_core.exact.features import Decoded
from vae_core.exact.keys import best_keys
from vae_core.exact.ordering import SampleColumn, _greedy, _Price, _price, orders
from vae_core.exact.recall import Recalled, key_numbers
from vae_core.exact.sampled import Sampled, decoded_sample
from vae_core.model import FitConfig, Sample
from vae_core.quality import compare
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=60)


@LAW
@given(st.integers(0, 300), st.integers(1, 3), st.integers(0, 2**32))
def test_keys_are_numbered_alike_exactly_where_their_rows_are(n, n_keys, seed):
    rng = np.random.default_rng(seed)
    columns = [any_int64s(rng, n) if rng.random() < 0.3 else rng.integers(-3, 3, n) for _ in range(n_keys)]
    numbers = key_numbers(columns)
    rows = list(zip(*(c.tolist() for c in columns), strict=True))
    assert len(set(zip(rows, numbers.tolist(), strict=True))) == len(set(rows)) == len(set(numbers.tolist()))


@LAW
@given(st.integers(0, 200), st.integers(0, 2**32), st.booleans())
def test_flags_and_the_values_of_other_rows_give_every_row_back(n, seed, partial):
    rng = np.random.default_rng(seed)
    key = rng.integers(0, 12, n)
    values = np.where(rng.random(n) < 0.3, any_int64s(rng, n), key * 1000)
    active = rng.random(n) < 0.7 if partial else None
    counted = np.ones(n, bool) if active is None else active
    rows = Recalled(Decoded(n, {0: key}), (0,), active)
    same = rows.same(values)
    last: dict[int, int] = {}
    for i in np.flatnonzero(counted):
        assert rows.seen[i] == (key[i] in last)
        assert same[i] == (key[i] in last and values[last[key[i]]] == values[i])
        last[key[i]] = i
    assert not rows.seen[~counted].any() and not same[~rows.seen].any()
    damaged = np.where(same == 1, -5, values)
    rows.copy(damaged, same)
    assert np.array_equal(damaged[counted], values[counted])


def test_a_key_that_is_not_decoded_before_is_a_corrupt_archive():
    with pytest.raises(CorruptArchive, match="column 3"):
        Recalled(Decoded(4, {0: np.zeros(4, np.int64)}), (0, 3), None)


def test_two_columns_that_only_together_determine_a_third_are_found():
    rng = np.random.default_rng(1)
    a, b, noise = rng.integers(0, 60, 20_000), rng.integers(0, 50, 20_000), rng.integers(0, 60, 20_000)
    truth = rng.integers(0, 1 << 20, (60, 50))[a, b]
    keys, bits = best_keys({0: noise, 1: a, 2: b}, truth, 11.0 * len(a))
    assert set(keys) == {1, 2}
    assert bits < 0.3 * 11 * len(a)
    assert best_keys({0: noise}, rng.integers(0, 999, 20_000), 10.0 * 20_000)[0] == ()


def test_what_determines_comes_before_what_it_determines():
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 3000, 20_000)
    names = rng.permutation(100_000)[:3000] // 30  # several ids a name, which is cheaper on its own
    columns = [
        SampleColumn(j, v.astype(np.int64), None, 0, int(v.min()), int(v.max()), False)
        for j, v in enumerate((names[ids], ids, rng.integers(0, 4, 20_000)))
    ]
    found, gains = orders(columns, rng)
    assert found.pop(1) == [0, 1, 2]  # as the schema has them
    assert found and all(placed.index(1) < placed.index(0) for placed in found)
    assert gains[0][1] > 5 * max(gains[0][2], 0.01)
    assert all(sorted(placed) == [0, 1, 2] for placed in found)
    assert orders([], rng) == ([[]], {})
    assert orders(columns, rng, tick=lambda: False)[1] == {0: {}, 1: {}, 2: {}}  # no time: the columns as they cost alone


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_next_comes_the_column_that_is_cheapest_then(n, seed):
    rng = np.random.default_rng(seed)
    prices = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        given_sets = [sum(1 << int(j) for j in rng.permutation(others)[: rng.integers(0, 3)]) for _ in range(6)]
        prices.append(sorted([_Price(float(rng.integers(0, 9)), given) for given in given_sets] + [_Price(9.0, 0)]))
    placed, before = _greedy(prices), 0
    for k, i in enumerate(placed):
        assert (_price(prices[i], before), i) == min((_price(prices[j], before), j) for j in placed[k:])
        before |= 1 << i
    assert sorted(placed) == list(range(n))


def test_dependent_columns_cost_their_first_sights_whatever_their_type():
    rng = np.random.default_rng(3)
    n, n_ids = 30_000, 900
    ids, sites = rng.integers(0, n_ids, n), rng.integers(0, 5, n)
    words = np.array([f"{w:x}" for w in rng.integers(0, 2**60, 200)])
    tags = [list(words[rng.integers(0, 200, rng.integers(0, 4))]) for _ in range(n_ids)]
    levels = rng.integers(0, 2**40, (n_ids, 5))
    table = pa.table({
        "id": ids, "site": sites, "title": [f"title of {i * 7919 % 450}" for i in ids],
        "tags": pa.array([tags[i] for i in ids], pa.list_(pa.string())), "level": levels[ids, sites],
    })  # fmt: skip
    model = fitted(table, [], preview="off", seconds=30).model
    learned = {model.columns[c.column].name: c for c in model.codes}
    shard = encode_shard(model, table, preview=False)
    outcome = {o.name: o for o in shard.outcomes}
    assert outcome["title"].n_bytes + outcome["tags"].n_bytes < 2 * 2.5 * n_ids
    assert learned["level"].recall is not None and {model.columns[k].name for k in learned["level"].recall.keys} >= {"id", "site"}
    assert outcome["level"].n_bytes < 5 * n_ids * 6.5
    assert_kept(table, decoded(stored_again(model), shard))


def test_a_column_told_better_by_those_it_tells_of_ends_up_after_them():
    rng = np.random.default_rng(5)
    n = 16_000
    a, b = rng.integers(0, 40, n), rng.integers(0, 40, n)
    made = rng.integers(0, 900, (40, 40))[a, b]  # of both, and alone it tells much of either
    picked = [SampleColumn(j, v.astype(np.int64), None, 0, 0, int(v.max()), False) for j, v in enumerate((made, a, b))]
    sampled = Sampled(n, 50 * n, decoded_sample(picked), gains={0: {1: 5.0, 2: 5.0}})
    found = Arrangement(sampled, picked, lambda: True)
    for j in range(3):
        found.add(j)
    before, reports = found.bits, []
    found.improve(lambda: reports.append(found.bits))
    assert found.order[-1] == 0 and set(found.order) == {0, 1, 2}
    assert found.bits < before and reports == sorted(reports, reverse=True) and reports[-1] == found.bits
    known: set[int] = set()
    for code in found.codes:
        assert code.columns <= known
        known.add(code.column)
    again = found.searched_again(sampled, picked)
    assert again is not found and (again.order, again.codes) == (found.order, found.codes)
    late = Arrangement(sampled, picked, lambda: False)
    late.order, late.found = found.order, found.found
    assert late.searched_again(sampled, picked).found == found.found
    calls = iter([True, False])
    hurried = Arrangement(sampled, picked, lambda: next(calls, False))
    hurried.order, hurried.found = found.order, found.found
    assert hurried.searched_again(sampled, picked).order == found.order


def test_screened_moves_are_those_that_quick_searches_do_not_find_hopeless(monkeypatch):
    rng = np.random.default_rng(5)
    n = arrange.WORTH_SCREENING
    a, b = rng.integers(0, 40, n), rng.integers(0, 40, n)
    made = rng.integers(0, 900, (40, 40))[a, b]
    picked = [SampleColumn(j, v.astype(np.int64), None, 0, 0, int(v.max()), False) for j, v in enumerate((made, a, b))]
    searched = list[tuple[int, bool]]()
    whole = Arrangement._search

    def counted(self, column, before, hurry=False):
        searched.append((column, hurry))
        return whole(self, column, before, hurry)

    monkeypatch.setattr(Arrangement, "_search", counted)

    def moved(screened):
        found = Arrangement(Sampled(n, 50 * n, decoded_sample(picked), gains={0: {1: 5.0, 2: 5.0}}), picked, lambda: True)
        for j in range(3):
            found.add(j)
        searched.clear()
        found.improve(lambda: None, screened=screened)
        return found

    # two columns at once tell the first one, of which 8,192 rows show nothing
    screened = moved(True)
    assert screened.order == [0, 1, 2] and all(hurry for _, hurry in searched) and 0 < len(searched) <= 8
    free = moved(False)
    assert free.order[-1] == 0 and free.bits < screened.bits and not any(hurry for _, hurry in searched)
    monkeypatch.setattr(arrange, "HOPELESS", 1.0)
    assert moved(True).order == free.order


def test_an_old_code_that_costs_more_than_none_is_replaced_though_time_is_out(monkeypatch):
    rng = np.random.default_rng(6)
    n = 20_000

    def columns(b):
        a = rng.integers(0, 50, n)
        return [SampleColumn(j, v.astype(np.int64), None, 0, 0, 400, False) for j, v in enumerate((a, b(a)))]

    old, new = columns(lambda a: 3 * a + rng.integers(0, 3, n)), columns(lambda a: rng.integers(0, 300, n))
    first = Arrangement(Sampled(n, 4 * n, decoded_sample(old)), old, lambda: True)
    for j in (0, 1):
        first.add(j)
    sampled, alone = Sampled(n, 4 * n, decoded_sample(new)), {c.column: picking.plain_bits(c) for c in new}
    known = arrange.arranged_before(first.codes, sampled, new, lambda: False)
    assert known.found[1][1] > 1.03 * alone[1]
    known.relieve(alone)
    assert all(known.found[j][1] < 1.01 * alone[j] for j in (0, 1))
    monkeypatch.setattr(arrange, "WIDE", 1)
    wide = arrange.arranged_before(first.codes, sampled, new, lambda: False)
    wide.relieve(alone)
    assert wide.order == [0]  # of very many columns it is not learned


def test_columns_of_a_wide_table_that_no_time_is_left_for_are_not_learned(monkeypatch):
    rng = np.random.default_rng(8)
    n = 3000
    table = pa.table({
        "few": pa.array(rng.integers(-3, 9, n), mask=rng.random(n) < 0.1), "many": rng.integers(-9000, 9000, n),
        "wide": rng.integers(-(2**62), 2**62, n), "text": pa.array([f"t{k % 7}" for k in range(n)]), "same": np.full(n, 5),
    })  # fmt: skip
    picked = [SampleColumn(j, np.arange(n), None, 0, 0, n, False) for j in range(3)]
    assert not Arrangement(Sampled(n, n, Decoded(n)), picked, lambda: False).late
    monkeypatch.setattr(arrange, "WIDE", 2)
    assert Arrangement(Sampled(n, n, Decoded(n)), picked, lambda: False).late
    assert not Arrangement(Sampled(n, n, Decoded(n)), picked, lambda: True).late
    monkeypatch.setattr(drafts, "SURE", 2)
    times = iter([0.0] * 12)
    config = FitConfig(time_budget_s=1e-3, preview="off")
    found = fitting.fit(Sample(table, (n,)), profiled(table), table.schema, {}, config, now=lambda: next(times, 1.0))
    assert len(found.model.learned) == 2
    shard = encode_shard(found.model, table, preview=False)
    assert all(column.mismatches == 0 for column in compare(table, decoded(found.model, shard), {}))
