"""What reading sooner is worth when columns' codes are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from telemetry import profiled

from vae_core.decoding import decode_block
from vae_core.entropy import kernel
from vae_core.exact import price as prices
from vae_core.exact.digits import Direct, Residual
from vae_core.exact.features import Decoded, Feature
from vae_core.exact.linear import Linear, Mixed, Simple, Term
from vae_core.exact.plans import CellPlan, ColumnCode, DigitPlan
from vae_core.exact.price import (
    BALANCE,
    FOR_READING,
    FREE,
    OF_MANY_ROWS,
    READING,
    SIZE,
    USUAL,
    Price,
    cells_made,
    column_price,
    price_of,
)
from vae_core.exact.schedule import SHORT_STRETCHES, STRETCH, Chunks
from vae_core.exact.search import STATELESS
from vae_core.exact.tuning import coded, in_long_chunks, in_short_lanes
from vae_core.fitting import fit, refresh
from vae_core.model import FitConfig, Model, Sample
from vae_core.shard import encode_shard

N = 12_000


def telling_rows() -> pa.Table:
    """What is one after another, what another column tells, and what recurs."""
    rng = np.random.default_rng(17)
    walk = rng.integers(-2, 3, N).cumsum()
    place = rng.integers(0, 200, N)
    return pa.table({
        "walk": walk, "place": place, "zone": place // 7, "twice": 2 * walk + place, "noise": rng.integers(0, 90, N),
    })  # fmt: skip


def fitted(table: pa.Table, *, favour: str) -> Model:
    config = FitConfig(time_budget_s=20, preview="off", favour=favour)
    return fit(Sample(table, (table.num_rows,)), profiled(table), table.schema, {}, config).model


@contextmanager
def without_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "library", lambda: None)
        yield


def size(model: Model, table: pa.Table) -> int:
    """Bytes of the table as one block, which comes back as it was, with the kernel and without."""
    shard = encode_shard(model, table, block_rows=table.num_rows)
    (block,) = shard.blocks
    parts = model, shard.layout, block.n_rows, block.natives, block.payloads
    assert decode_block(*parts).equals(table)
    with without_kernel():
        assert decode_block(*parts).equals(table)
    return sum(map(len, block.payloads.values()))


def test_what_is_for_reading_has_no_rows_one_after_another():
    table = telling_rows()
    small, soon = fitted(table, favour=SIZE), fitted(table, favour=READING)
    plans = [code.value for code in soon.codes]
    assert plans and not any(plan.forward is not None for plan in plans) and any(plan.gathered for plan in plans)
    assert any(code.value.forward is not None for code in small.codes)  # or there was nothing to leave out
    assert size(soon, table) < 1.5 * size(small, table)


def refreshed(model: Model, table: pa.Table, *, favour: str) -> Model:
    config = FitConfig(time_budget_s=20, preview="off", favour=favour)
    return refresh(model, Sample(table, (table.num_rows,)), profiled(table), config).model


def test_a_refresh_makes_a_model_for_reading_and_one_for_reading_stays_so():
    table = telling_rows()
    small, soon = fitted(table, favour=SIZE), fitted(table, favour=READING)
    for model in (refreshed(small, table, favour=READING), refreshed(soon, table, favour=USUAL)):
        read = Model.from_files(model.to_files())
        assert read.favour == READING and not any(code.value.forward is not None for code in read.codes)
        assert any(code.value.gathered for code in read.codes)
    again = refreshed(small, table, favour=USUAL)
    assert again.favour == SIZE and any(code.value.forward is not None for code in again.codes)


def test_the_rate_of_a_model_for_reading_is_of_its_bits_alone():
    table = telling_rows()
    model = fitted(table, favour=READING)
    assert model.rate_bits_per_row == pytest.approx(8 * size(model, table) / N, rel=0.05)


def test_what_time_is_worth_counts_for_tables_of_many_rows():
    table = telling_rows()
    for favour in (SIZE, BALANCE):
        assert price_of(favour, 200_000) == FREE and price_of(favour, 200_001) == OF_MANY_ROWS[favour]
    assert price_of(READING, 10) == price_of(READING, 10, has_above=True) == FOR_READING
    assert price_of(BALANCE, 200_001, has_above=True) == OF_MANY_ROWS[SIZE] and price_of(BALANCE, 9, has_above=True) == FREE
    config, gathered = FitConfig(time_budget_s=20, preview="off", favour=BALANCE), []
    for times in (1, 100):
        profile = profiled(table)
        for column in profile.columns.values():
            column.n_rows *= times
        model = fit(Sample(table, (N,)), profile, table.schema, {}, config).model
        gathered.append({code.column for code in model.codes if code.value.gathered})
    assert 3 in gathered[1] - gathered[0]


def test_what_a_model_favours_is_kept_and_told_of_models_before_it_had_a_name():
    table = telling_rows().slice(0, 400)
    for favour in (SIZE, BALANCE, READING):
        model = fitted(table, favour=favour)
        assert Model.from_files(model.to_files()).favour == favour
        assert refreshed(model, table, favour=USUAL).favour == favour


def test_a_column_pays_for_what_reading_it_takes():
    """Rows one after another or looked up in counts do, gathered ones do not."""
    rng = np.random.default_rng(3)
    decoded = Decoded(N, {0: rng.integers(0, 9, N), 1: rng.integers(0, 9, N)}, {0: None, 1: None})
    counted = CellPlan(Direct.over(0, 9), None, (DigitPlan((Feature("value", 0, 0, 10),), (8, 8)),))
    forward = replace(counted, linear=Linear((Term("lag1", -1, 1 << 16),), 0), forward=())
    codes = [ColumnCode(1, 0, 0, STATELESS, plan) for plan in (counted.as_gathered(), counted, forward)]
    price = OF_MANY_ROWS[BALANCE]
    costs = [column_price(price, decoded, code) for code in codes]
    assert costs[0] == 0 < costs[1] < costs[2] and not any(column_price(FREE, decoded, code) for code in codes)
    decoded.states[1] = (rng.random(N) < 0.1).astype(np.uint8)
    assert 0 < column_price(price, decoded, codes[0]) < costs[1]
    assert column_price(price, decoded, replace(codes[0], state=STATELESS.as_gathered())) == 0


def test_reading_is_worth_a_share_of_a_tables_bits_at_most():
    price = OF_MANY_ROWS[BALANCE]
    assert price.for_table(2 * price.numpy * 1000, 1000) == price and price.for_table(1.0, 0.0) == price and FREE.for_table(1, 1e9) == FREE
    less = price.for_table(price.numpy * 1000, 1000)
    assert (less.numpy, less.packing) == pytest.approx((price.numpy / 2, price.packing / 2))
    assert (less.lanes, less.steps) == (price.lanes, price.steps)


def test_a_table_that_takes_few_bits_is_not_made_much_larger_to_be_read_sooner(monkeypatch):
    """Flags that tell each other: looked up in counts they take some hundredths of a bit, and each as long to read as any other digit."""
    rng = np.random.default_rng(8)
    state = np.repeat(rng.random(N // 40) < 0.3, 40)
    table = pa.table({f"f{k}": (state ^ (rng.random(N) < 0.01)).astype(np.int8) for k in range(8)})
    profile, found = profiled(table), []
    for column in profile.columns.values():
        column.n_rows *= 100
    for most in (prices.MOST_SHARE, 1e9):
        monkeypatch.setattr(prices, "MOST_SHARE", most)
        model = fit(Sample(table, (N,)), profile, table.schema, {}, FitConfig(time_budget_s=20, preview="off", favour=BALANCE)).model
        found.append(size(model, table))
    assert found[0] < 0.7 * found[1]


def test_a_price_is_of_digits_tables_and_steps():
    digits = (DigitPlan((), (1,)),)
    plain, price = CellPlan(Direct.over(0, 9), None, digits), Price(steps=0.5, mixed=0.25, numpy=2.0)
    linear = Linear((Term("lag1", -1, 1 << 16),), 0)
    forward = CellPlan(Residual(1), linear, digits, forward=())
    chunk = 2 * 60 / 1024
    assert price.of(plain, [0.0]) == pytest.approx(0.14 + chunk)
    told = replace(plain, digits=(DigitPlan((Feature("value", 0, 0, 9),), (1, 1)), *digits))
    assert price.of(told, [10.0, 0.0]) == pytest.approx(0.14 + 0.08 + 0.14 + 0.18 + 2 * chunk)
    assert price.of(replace(plain, chunks=Chunks(64, 8)), [0.0]) == pytest.approx(0.14 + 16 * chunk)
    assert price.of(forward, [0.0]) == pytest.approx(0.14 + 0.5 + 1.8) and price.of_short(forward, [0.0]) == pytest.approx(0.14 + 0.5 + 0.9)
    short = forward.stretched(64)
    assert price.of(short, [0.0]) == price.of_short(short, [0.0]) == pytest.approx(0.14 + 0.5 + 1.8 / 8)
    mixed = Mixed((), (Simple(0, ((1, 4),)),), (1,), 8, 1)
    assert price.of(CellPlan(Residual(1), Linear((), 0, mixed=mixed), digits, forward=()), []) == pytest.approx(0.5 + 1.8 + 0.25)
    assert FREE.of(plain, [10.0]) == 0.0


def test_cells_are_those_of_all_contexts_or_where_these_are_many_of_the_ones_in_a_chunk():
    rng = np.random.default_rng(3)
    decoded = Decoded(N, {0: rng.integers(0, 30, N), 1: rng.integers(0, 5, N)}, {0: None, 1: None})
    few, many = Feature("value", 0, 0, 31), Feature("value", 0, 0, 4000)
    scheme = Direct.over(0, 8)
    assert scheme.sizes == (10,)
    own = np.zeros(N, np.int64)
    plans = [CellPlan(scheme, None, (DigitPlan((feature,), (1, 1)),), Chunks(256, 8)) for feature in (few, many)]
    assert cells_made(decoded, plans[0], own, None) == [pytest.approx(31 * 10 / 256)]
    assert cells_made(decoded, plans[1], own, None) == [pytest.approx(30 * 10 / 256)]
    growing = replace(plans[0], chunks=Chunks(16384, 8))
    assert cells_made(decoded, growing, own, None) == [pytest.approx(31 * 10 / (N // 2 // 8))]
    assert cells_made(decoded, plans[0], own, np.zeros(N, np.bool_)) == []


def order_of_rows() -> tuple[Decoded, CellPlan, np.ndarray]:
    """A column told by the row before, and one by another column."""
    rng = np.random.default_rng(8)
    walk = rng.integers(-2, 3, N).cumsum()
    plan = CellPlan(Residual(8), Linear((Term("lag1", -1, 1 << 16),), 0), (DigitPlan((), (8,)),) * 2, Chunks(1024, 8), ())
    digits = plan.digits[0], DigitPlan((Feature("digit", -1, 0, plan.scheme.sizes[0]),), (8, 8))
    return Decoded(N, {0: rng.integers(0, 40, N)}, {0: None}), replace(plan, digits=digits), walk


@pytest.mark.parametrize("numpy", [0.0, 0.02, 1.0, 50.0])
def test_lanes_are_as_short_as_pays(numpy):
    decoded, plan, walk = order_of_rows()
    price, tried = Price(numpy=numpy), [plan, *(plan.stretched(places) for places in SHORT_STRETCHES)]
    costs = [coded(decoded, one, walk, None).bits + N * price.of(one, []) for one in tried]
    found, bits = in_short_lanes(lambda one: coded(decoded, one, walk, None).bits, plan, coded(decoded, plan, walk, None).bits, N, price)
    assert bits + N * price.of(found, []) == pytest.approx(min(costs)) and found == tried[int(np.argmin(costs))]
    assert found.chunks.stretch == {0.0: STRETCH, 0.02: STRETCH}.get(numpy, found.chunks.stretch)
    assert numpy < 50 or found.chunks.stretch == SHORT_STRETCHES[-1]
    again, _ = in_short_lanes(lambda one: coded(decoded, one, walk, None).bits, found, bits, N, price)
    assert again == found


@pytest.mark.parametrize("numpy", [0.0, 0.6, 1000.0])
def test_counts_are_learned_after_as_many_rows_as_pays(numpy):
    decoded, _, _ = order_of_rows()
    own = (decoded.values[0] + np.arange(N) // 4000) % 40
    plan = CellPlan(Direct.over(0, 39), None, (DigitPlan((Feature("value", 0, 0, 40),), (8, 8)),), Chunks(64, 64))
    price, before = Price(numpy=numpy), coded(decoded, plan, own, None).bits
    found, bits = in_long_chunks(decoded, plan, own, None, before, price)
    assert bits == coded(decoded, found, own, None).bits
    worth = [N * price.of(one, cells_made(decoded, one, own, None)) for one in (plan, found)]
    assert bits + worth[1] <= before + worth[0]
    assert found.chunks.last == {0.0: 64, 1000.0: 16384}.get(numpy, found.chunks.last) and found.chunks.last >= 64
    gathered = plan.as_gathered()
    assert in_long_chunks(decoded, gathered, own, None, 0.0, Price(numpy=9.0)) == (gathered, 0.0)


def test_what_packing_takes_grows_with_what_recurs_and_not_with_what_is_one():
    rng = np.random.default_rng(5)
    decoded = Decoded(N, {0: np.zeros(N, np.int64)}, {0: None})
    plan = CellPlan(Direct.over(0, 99), None, (DigitPlan((), (8,)),)).as_gathered()
    kinds = np.full(N, 3), (rng.random(N) < 0.01).astype(np.int64), rng.integers(0, 99, N), np.resize(rng.integers(0, 99, N // 4), N)
    times = [coded(decoded, plan, own, None, packing=0.2).packing_us for own in kinds]
    assert times[0] == 0 < times[1] < times[2] < times[3] and coded(decoded, plan, kinds[3], None).packing_us == 0
