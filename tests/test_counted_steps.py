"""Columns on hidden steps: their counts are learned, and what cannot be counted comes back all the same."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, profiled, resolved, stored_again

from vae_core.coders.lattices import Counted, counted
from vae_core.columns.physical import ordered_bits
from vae_core.encoding import encode_shard
from vae_core.errors import CorruptArchive
from vae_core.exact.forms import STEPS, STEPS_OF_DOUBLES, is_stepped
from vae_core.fitting import refresh
from vae_core.model import FitConfig, Sample
from vae_core.sampling import sample_rows
from vae_core.streams import _kept_for_counts

N_ROWS = 6000


def walk(seed: int, n: int = N_ROWS) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, n).cumsum()


def telemetry_in_other_units() -> pa.Table:
    """Readings in steps of 0.0545 and, from a row on, 0.0712, rounded; prices in cents, some in tenths of them; a scaled counter."""
    rng, k = np.random.default_rng(7), walk(1)
    reading = np.round(k * np.where(np.arange(N_ROWS) < 3500, 0.0545454, 0.0712121) + 20, 3)
    price = (90_000 + 61 * walk(2) + 7 * walk(3)) / 100
    price = np.where(rng.random(N_ROWS) < 0.03, np.round(price + rng.integers(1, 99, N_ROWS) / 1e4, 4), price)
    scaled = (61 * walk(4) + 13 * walk(5)) * (4.7 / 4095)
    close = np.round(price + rng.integers(-6, 7, N_ROWS) / 100, 4)
    return pa.table({
        "reading": pa.array(reading, mask=rng.random(N_ROWS) < 0.02), "price": price, "close": close, "scaled": scaled, "k": k,
    })  # fmt: skip


@pytest.mark.parametrize("dtype", [None, np.dtype("<f4"), np.dtype("<f8")])
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([0, 1, 300, 2500]), st.sampled_from(["steps", "noise", "stretches", "cents", "wild"]))
def test_any_codes_come_back_from_their_counts(dtype, seed, n, kind):
    rng, k = np.random.default_rng(seed), walk(seed, n)
    values = {
        "steps": np.rint(k * 12.345 + 7), "noise": rng.integers(-(2**40), 2**40, n), "cents": k * 100 + (rng.random(n) < 0.03) * 7,
        "stretches": np.where(np.arange(n) % 700 < 500, np.rint(k * 99.7), rng.integers(0, 10**6, n)),
        "wild": rng.integers(-(2**63), 2**63 - 1, n),
    }[kind].astype(np.int64)
    codes = values if dtype is None else ordered_bits((values * 0.4535).astype(dtype))
    made, counts = counted(codes, dtype)
    assert np.array_equal(Counted.from_bytes(made.to_bytes(), n, dtype).codes(counts), codes)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_garbled_segments_give_other_codes_or_a_corrupt_archive(data):
    made, counts = counted(np.rint(walk(5, 700) * 31.7).astype(np.int64))
    told = bytearray(made.to_bytes())
    told[data.draw(st.integers(0, len(told) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(CorruptArchive):
        assert Counted.from_bytes(bytes(told), 700).codes(counts).shape == (700,)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return telemetry_in_other_units()


@pytest.fixture(scope="module")
def model(table):
    return fitted(table, preview="off").model


def test_counts_are_learned_take_less_than_any_coding_and_come_back(table, model):
    forms = {model.columns[code.column].name: code.form for code in model.codes}
    assert forms["reading"] == forms["price"] == STEPS and forms["scaled"] == STEPS_OF_DOUBLES and forms["k"] == 0
    shard = encode_shard(model, table, block_rows=2500)
    coded = {outcome.name: outcome for outcome in shard.outcomes}
    for name in ("reading", "close"):
        assert coded[name].coding == "learned" and coded[name].n_bytes < 0.9 * coded[name].conventional_bytes
    price, close = coded["price"], coded["close"]  # the one takes more than pcodec, and the other is told by its counts
    assert price.coding == "learned" and price.n_bytes + close.n_bytes < 0.8 * (price.conventional_bytes + close.conventional_bytes)
    assert price.n_bytes > price.conventional_bytes
    assert_kept(table, decoded(stored_again(model), shard))


def test_columns_told_by_counts_are_coded_anew_where_these_are_stored_otherwise(table, model):
    told = {j for code in model.codes for j in code.columns}
    stepped = {code.column for code in model.codes if is_stepped(code.form)}
    lost = [code.column for code in model.codes if code.column in told & stepped][-1:]
    strange = table
    for j in lost:  # nothing is learned of it
        noise = np.random.default_rng(j).normal(size=N_ROWS) * 10.0 ** np.random.default_rng(j).integers(-9, 9, N_ROWS)
        strange = strange.set_column(j, table.schema.field(j), pa.array(noise))
    shard = encode_shard(model, strange, block_rows=2500)
    codings = {model.schema.get_field_index(outcome.name): outcome.coding for outcome in shard.outcomes}
    assert lost and all(codings[j] != "learned" for j in lost) and "learned" in codings.values()
    assert_kept(strange, decoded(stored_again(model), shard))


@pytest.mark.parametrize(
    ("gained", "kept"),
    [
        ({0: -3.0, 1: -3.0, 2: -3.0, 3: 5.0, 4: -1.0, 5: 9.0}, {4}),  # 3 saves more than each of those that tell it, and less than all
        ({0: -3.0, 1: -3.0, 2: -3.0, 3: 10.0, 4: -1.0, 5: 9.0}, {0, 1, 2, 4}),
        ({0: -3.0, 1: -3.0, 2: -3.0, 3: 5.0, 4: -1.0, 5: 1.0}, set()),
        ({0: 3.0, 2: -3.0, 3: 5.0, 4: -1.0}, {2}),  # 1 and 5 are not learned
    ],
)
def test_what_a_column_saves_counts_once_for_those_that_tell_it(gained, kept):
    told = {0: set(), 1: set(), 2: set(), 3: {0, 1, 2}, 4: set(), 5: {4}}
    codes = [SimpleNamespace(column=j, form=STEPS if j in (0, 1, 2, 4) else 0, columns=by) for j, by in told.items()]
    assert _kept_for_counts(cast(Any, SimpleNamespace(codes=codes)), gained) == kept


def test_rows_are_drawn_beside_counted_columns(table, model):
    drawn = sample_rows(model, table.slice(0, 2000), 300, seed=1)
    assert drawn.num_rows == 300 and drawn.schema.equals(table.schema)
    assert set(drawn.column("price").to_pylist()) <= set(table.column("price").to_pylist())


def changed(kind: str) -> tuple[pa.Array, pa.Array]:
    """A column on steps, and what comes of it in later rows: other types of steps, none, the far ends of its type."""
    rng, n = np.random.default_rng(5), 4000
    k = rng.integers(-4000, 4001, n).cumsum() + 2_000_000
    decimals, doubles = np.round(k * np.where(np.arange(n) < n // 2, 12.345678, 8.765432), 2), k * 0.1234567
    special = np.where(rng.random(n) < 0.1, rng.choice([np.nan, np.inf, -np.inf, -0.0, 5e-324, -1.7e308], n), doubles)
    ends = np.where(rng.random(n) < 0.1, rng.choice([-(2**63), 2**63 - 1], n), np.rint(100 * decimals).astype(np.int64))
    singles = rng.normal(size=n).astype(np.float32).astype(np.float64)
    return {
        "none": (decimals, rng.normal(size=n) * 100), "doubles": (decimals, doubles), "decimals": (doubles, decimals),
        "singles": (doubles, singles), "special": (doubles, special), "ends": (np.rint(100 * decimals).astype(np.int64), ends),
        "wild": (doubles, np.ldexp(rng.normal(size=n), rng.integers(-1000, 1000, n))),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["none", "doubles", "decimals", "singles", "special", "ends", "wild"])
def test_a_refresh_counts_the_steps_of_what_the_column_is_now(kind):
    rng = np.random.default_rng(9)
    before, after = (pa.table({"x": pa.array(x), "d": rng.integers(0, 9, len(x))}) for x in changed(kind))
    model = fitted(before, preview="off").model
    assert is_stepped(next(code.form for code in model.codes if code.column == 0))
    config = FitConfig(time_budget_s=4, preview="off")
    again = stored_again(refresh(model, Sample(after, (after.num_rows,)), profiled(after), config).model)
    for table in (before, after):
        assert_kept(table, decoded(again, encode_shard(again, table, block_rows=1500)))


def test_a_column_told_by_one_that_is_stored_raw_and_not_exactly_is_not_learned_either():
    rng, n = np.random.default_rng(2), 6000
    fb, fc = int(rng.integers(2, 40)), int(rng.integers(1, 6))
    nb, nc = int(rng.integers(2, 9)), int(rng.integers(2, 60))
    scale = float(rng.choice([3, 10, 60]))
    rng.choice([0.5, 1, 0.2])

    def rows(a: np.ndarray) -> pa.Table:
        kb = np.rint(a * 3 / scale * 20).astype(int) * fb + rng.integers(0, nb, n) + 3000
        kc, half = kb * fc + rng.integers(0, nc, n), np.arange(n) < n // 2
        b, c = np.round(kb * np.where(half, 12.345678, 8.765432), 2), np.round(kc * np.where(half, 3.3456789, 7.1234567), 2)
        return pa.table({"a": a, "b": b, "c": c})

    first = rows(rng.normal(size=n) * scale)
    few = np.round(rng.normal(size=4) * scale, 1) + rng.uniform(0, 2, 4)
    second, asked = rows(rng.choice(few, n)), ["a=rmse:0.2"]
    model = fitted(first, asked, preview="off").model
    for raw in (first, second, pa.concat_tables([second, first])):
        shard = encode_shard(model, raw, targets={"a": 0.2})
        assert_kept(raw, decoded(stored_again(model), shard), resolved(first, asked))
