from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import fitted
from test_exact_linear import N_COLUMNS, any_int64s, forward_linears, matches_of

from vae_core.entropy import kernel
from vae_core.errors import CorruptArchive
from vae_core.exact import bench, recurring
from vae_core.exact.digits import Residual
from vae_core.exact.features import Decoded
from vae_core.exact.forward import known_of_rows
from vae_core.exact.lags import forward_terms, sort_orders
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import SHIFT, Linear, Term
from vae_core.exact.matches import Match
from vae_core.exact.options import Option
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.recurring import MOST_BESIDE, keys_to_try
from vae_core.exact.sampled import Sampled, decoded_sample
from vae_core.exact.schedule import LONG_STRETCHES, SHORT_STRETCHES
from vae_core.exact.schedule import STRETCH as STEPS
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=40)
SIZES = st.sampled_from([0, 1, 2, STEPS - 1, STEPS, STEPS + 1, 3 * STEPS + 17])


def block(n: int, seed: int) -> tuple[Decoded, np.ndarray]:
    """Columns of a few values and of any, and the rows that count."""
    rng = np.random.default_rng(seed)
    values = {0: rng.integers(0, 5, n), 1: rng.integers(-3, 3, n) * 7, 2: any_int64s(rng, n)}
    return Decoded(n, values, dict.fromkeys(values)), np.flatnonzero(rng.random(n) < 0.8)


@LAW
@given(
    SIZES, st.lists(st.integers(0, N_COLUMNS - 1), max_size=2), st.integers(0, 2**32),
    st.sampled_from((STEPS, *SHORT_STRETCHES, *LONG_STRETCHES)),
)  # fmt: skip
def test_lanes_take_every_row_once_and_none_before_the_row_it_follows(n, keys, seed, stretch):
    decoded, active = block(n, seed)
    lanes = Lanes(decoded, keys, active, stretch=stretch)
    assert lanes.n_steps <= stretch
    assert sorted(lanes.rows.tolist()) == active.tolist() and lanes.edges[-1] == len(active)
    order = lanes.sorted_rows.tolist()
    assert order == sorted(active.tolist(), key=lambda i: tuple(int(decoded.values[j][i]) for j in keys))
    place, step_of = {row: k for k, row in enumerate(order)}, {}
    for step, (start, stop) in enumerate(itertools.pairwise(lanes.edges.tolist())):
        assert 0 < stop - start <= lanes.n_lanes
        step_of |= {row: step for row in lanes.rows[start:stop].tolist()}
    for row, step in step_of.items():
        if step:
            assert step_of[order[place[row] - 1]] == step - 1


@given(st.sampled_from([1, 2, 511, 512, 513, 1024, 1300, 512 * 512 + 7]), st.sampled_from([0, 1, 7, 512, 600]), st.booleans(), st.data())
@settings(deadline=None, max_examples=40)
def test_what_stands_rows_before_or_behind_is_what_the_row_number_says(n, piece, is_whole, data):
    values = np.random.default_rng(n).integers(-99, 99, n)
    active = np.arange(n) if is_whole else np.arange(0, n, 2)
    lanes = Lanes(Decoded(n, piece=piece), (), active, Linear((), 0))
    for lag in data.draw(st.lists(st.sampled_from([0, 1, -1, 3, 700, -700, n, -n, 1 << 22, -(1 << 22)]), min_size=1, max_size=3)):
        order = np.arange(n) if piece else active
        place = np.searchsorted(order, lanes.rows)
        assert np.array_equal(values[lanes.rows_before(np.arange(lanes.n), lag)], values[order[np.clip(place - lag, 0, len(order) - 1)]])


def test_long_blocks_have_longer_lanes_not_more():
    n = STEPS * STEPS * 2
    lanes = Lanes(Decoded(n), (), np.arange(n))
    assert lanes.n_lanes == STEPS and lanes.n_steps == 2 * STEPS
    for stretch in SHORT_STRETCHES:  # half as long, twice as many
        lanes = Lanes(Decoded(n), (), np.arange(n), stretch=stretch)
        assert lanes.n_lanes == STEPS * STEPS // stretch and lanes.n_steps == 2 * stretch


@LAW
@given(SIZES, forward_linears(), matches_of(3), st.sampled_from([None, 0, 2]), st.integers(0, 2**32), st.booleans())
def test_the_kernel_knows_of_rows_what_numpy_knows(n, linear, matches, leader, seed, recurring):
    decoded, active = block(n, seed)
    rng = np.random.default_rng(seed + 1)
    own = rng.choice(any_int64s(rng, 4), n) if recurring else any_int64s(rng, n)
    lanes = Lanes(decoded, (0,), active)
    found = known_of_rows(lanes, linear, decoded, own, matches, leader)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "library", lambda: None)
        assert np.array_equal(known_of_rows(lanes, linear, decoded, own, matches, leader), found)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_match_knows_what_followed_its_key_in_any_lane(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernel, "library", lambda: None)
    rng = np.random.default_rng(5)
    n = 8 * STEPS
    pattern = rng.permutation(1000)
    own = np.concatenate([pattern[(k := int(rng.integers(0, 900))) : k + 60] for _ in range(-(-n // 60))])[:n]
    decoded, lanes = Decoded(n), Lanes(Decoded(n), (), np.arange(n))
    levels = known_of_rows(lanes, Linear((), 0), decoded, own, [Match((), (1, 2))])[4]
    seen: dict[tuple[int, int], int] = {}
    wanted = np.zeros(n, np.int64)
    for start, stop in itertools.pairwise(lanes.edges.tolist()):
        rows = [i for i in lanes.rows[start:stop].tolist() if i % STEPS >= 2]
        for place, i in zip(range(start, stop), lanes.rows[start:stop].tolist(), strict=True):
            recalled = seen.get((own[i - 1], own[i - 2])) if i % STEPS >= 2 else None
            if recalled is not None:
                wanted[place] = recalled + 16 if recalled <= 15 else min(35, 27 + int(recalled).bit_length())
        seen |= {(own[i - 1], own[i - 2]): own[i] for i in rows}
    known = levels > 0  # a cell has room for one key: some are lost
    assert np.array_equal(levels[known], wanted[known]) and known.sum() > 0.8 * (wanted > 0).sum() > 0.5 * n


def test_patterns_that_recur_are_told_by_what_followed_last_time():
    rng = np.random.default_rng(6)
    pattern = rng.permutation(4000)
    own = np.concatenate([pattern[(k := int(rng.integers(0, 3600))) : k + int(rng.integers(50, 300))] for _ in range(240)])[:30_000]
    table = pa.table({"x": own})
    model = fitted(table, (), preview="off").model
    assert model.learned[0].value.matches
    (outcome,) = encode_shard(model, table, preview=False).outcomes
    assert outcome.coding == "learned" and 8 * outcome.n_bytes < 2.5 * len(own)


@pytest.mark.parametrize("compiled", [True, False])
def test_memories_that_tell_nothing_beside_one_prediction_are_not_tried_beside_the_next(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernel, "library", lambda: None)
    monkeypatch.setattr(recurring, "kernel", SimpleNamespace(available=lambda: True))  # without one a fit asks for no memories at all
    rng = np.random.default_rng(8)
    n = 4 * STEPS
    values = [rng.integers(0, 50, n) for _ in range(8)]
    picked = [SampleColumn(j, v, None, 0, 0, 49, False) for j, v in enumerate(values)]
    sampled = Sampled(n, n, decoded_sample(picked), picked[:7], remembers=True)
    tried = list[int]()
    walk = bench.known_of_rows
    monkeypatch.setattr(bench, "known_of_rows", lambda *args: (tried.append(len(args[4])), walk(*args))[1])
    rows = bench.Rows(sampled, 7, values[7], np.arange(n), False)

    def tried_by(linear: Linear, keys: tuple[int, ...] = ()) -> int:
        tried.clear()
        bench.Bench(rows, Option(Residual(6), linear, keys))
        return sum(tried)

    lag = Linear((Term("lag1", -1, 1 << 16),), 0)
    every = len(keys_to_try(sampled, 7))
    assert tried_by(Linear((), 25 << SHIFT)) == every > MOST_BESIDE  # a constant is no prediction
    assert tried_by(lag) == every and tried_by(Linear((*lag.terms, Term("at", 0, 1 << 10)), 0)) == MOST_BESIDE
    assert tried_by(lag, (3,)) == every  # rows in another order


def test_a_jump_does_not_bend_what_other_rows_follow():
    rng = np.random.default_rng(7)
    n = 20_000
    ramp = np.zeros(n)
    where, pace = 0.0, 30.0
    for i in range(n):
        if rng.random() < 0.1:  # another line, far away, which goes on at another pace
            where, pace = float(rng.integers(0, 6000)), float(rng.normal()) * 40
        ramp[i] = where = where + pace
    own = np.round(ramp).astype(np.int64)
    lanes = Lanes(Decoded(n), (), np.arange(n))
    terms, bias = forward_terms(lanes, own, {}, n)
    off = np.abs(own[lanes.rows] - known_of_rows(lanes, Linear(terms, bias), Decoded(n), own)[0])
    assert np.quantile(off, 0.7) <= 4


def test_a_key_that_is_not_decoded_is_refused():
    with pytest.raises(CorruptArchive, match="not decoded before"):
        Lanes(Decoded(3), (4,), np.arange(3))


def test_a_walk_far_from_zero_is_told_by_the_row_before_it():
    rng = np.random.default_rng(1)
    own = 1_500_000_000 + np.cumsum(rng.integers(0, 1200, 20_000))
    terms, bias = forward_terms(Lanes(Decoded(len(own)), (), np.arange(len(own))), own, {}, len(own))
    weights = {term.kind: term.weight for term in terms}
    assert abs(sum(weights.values()) / (1 << SHIFT) - 1) < 1e-4 and abs(weights["lag1"] / (1 << SHIFT) - 1) < 0.05
    linear = Linear(terms, bias, (), int(own[0]) << SHIFT)
    guess = known_of_rows(Lanes(Decoded(len(own)), (), np.arange(len(own))), linear, Decoded(len(own)), own)[0]
    off = np.abs(own[Lanes(Decoded(len(own)), (), np.arange(len(own))).rows] - guess)
    assert np.median(off) < 330  # steps are uniform over 1,200: half of them are within 300 of their middle


def test_a_season_is_found_and_told_by():
    rng = np.random.default_rng(2)
    t = np.arange(20_000)
    own = np.round(900 * np.sin(t * 2 * np.pi / 48) ** 15 + np.cumsum(rng.normal(size=len(t)))).astype(np.int64)
    terms, _ = forward_terms(Lanes(Decoded(len(own)), (), t), own, {}, len(own))
    assert {"lag48", "lag49"} <= {term.kind for term in terms}


def test_rows_of_devices_that_are_mixed_are_sorted_by_device():
    rng = np.random.default_rng(3)
    n = 30_000
    device = rng.integers(0, 40, n)
    level = rng.integers(0, 1 << 16, 40)
    own = np.empty(n, np.int64)
    for i in range(n):
        level[device[i]] += rng.integers(-20, 21)
        own[i] = level[device[i]]
    assert sort_orders({0: device, 1: np.arange(n)}, own, np.arange(n))[0] == (0,)
    assert sort_orders({1: np.arange(n)}, np.round(999 * rng.normal(size=n)).astype(np.int64), np.arange(n)) == []
    table = pa.table({"device": device, "level": own})
    model = fitted(table, (), preview="off").model
    assert model.learned[1].value.forward == (0,)
    encoded = encode_shard(model, table, preview=False)
    outcome = next(o for o in encoded.outcomes if o.name == "level")
    assert outcome.coding == "learned" and 8 * outcome.n_bytes < 6.5 * n < 0.6 * 8 * outcome.conventional_bytes  # steps take 5.4 bits


def test_a_column_that_is_another_some_rows_later_costs_next_to_nothing():
    rng = np.random.default_rng(4)
    n = 20_000
    sales = np.round(50 * np.cumsum(rng.normal(size=n + 60))).astype(np.int64)
    table = pa.table({"a_week_later": sales[:n], "noise": rng.integers(0, 999, n), "now": sales[37 : n + 37], "before": sales[30 : n + 30]})
    model = fitted(table, (), preview="off").model
    outcomes = {o.name: o.n_bytes for o in encode_shard(model, table, preview=False).outcomes}
    first, *others = sorted((outcomes[name] for name in ("a_week_later", "now", "before")), reverse=True)
    assert max(others) < 0.05 * first
