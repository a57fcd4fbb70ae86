from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core.columns import encode_column
from vae_core.encoding import encode_shard
from vae_core.exact.features import Decoded, Feature, from_json
from vae_core.periods import DAY, HOUR, WEEK, YEAR, periods_of

N = 6_000
RNG = np.random.default_rng(2)
SECONDS = 1_700_000_000 + np.sort(RNG.integers(0, 90 * DAY, N))  # a Tuesday, 22:13:20


def plan_of(values: pa.Array):
    return fitted(pa.table({"when": values}), seconds=2).model.columns[0]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        (pa.array(SECONDS, pa.timestamp("s")), 1),
        (pa.array(SECONDS * 10**6 + RNG.integers(0, 10**6, N), pa.timestamp("us", "Europe/Berlin")), 10**6),
        (pa.array(SECONDS * 10**9 + RNG.integers(0, 10**9, N), pa.timestamp("ns")), 10**9),
        (pa.array(SECONDS // 60 * 60, pa.timestamp("s")), 1),
        (pa.array(SECONDS), 1),
        (pa.array(SECONDS * 1000 + RNG.integers(0, 1000, N)), 1000),
    ],
    ids=["s", "us", "ns", "minutes", "epoch", "epoch in ms"],
)  # fmt: skip
def test_the_parts_of_a_column_s_periods_are_hours_and_weekdays(values: pa.Array, ticks: int):
    plan = plan_of(values)
    codes = encode_column(plan, pa.chunked_array([values]))
    ticks_of = np.asarray(values.cast(pa.int64()))
    lengths = {round(p.length * plan.transform.width / ticks): p for p in periods_of(plan)}
    assert set(lengths) == {HOUR, DAY, WEEK}  # of years there are not two
    known = Decoded(N, {0: codes.values})
    for seconds, size, wanted in [(DAY, 24, ticks_of // (HOUR * ticks) % 24), (WEEK, 7, (ticks_of // (DAY * ticks) + 3) % 7)]:
        p = lengths[seconds]
        assert size in p.parts
        found = known.feature(Feature("phase", 0, p.length, size, (p.start,)))
        assert np.array_equal(found, wanted)


def test_days_have_weeks_and_years_and_what_is_no_time_has_no_periods():
    days = pa.array(np.arange(N).astype(np.int32), pa.int32()).cast(pa.date32())
    assert [(p.length, p.parts) for p in periods_of(plan_of(days))] == [(7, (7,)), (365, (12, 52))]
    hours = pa.array(np.arange(N) * HOUR, pa.timestamp("s"))
    assert [(p.length, p.parts) for p in periods_of(plan_of(hours))] == [(24, (24,)), (168, (7, 168))]
    for other in (np.arange(N), RNG.integers(0, 2**40, N), np.round(RNG.normal(size=N), 3), SECONDS // DAY):
        assert periods_of(plan_of(pa.array(other))) == ()
    assert YEAR // DAY == 365
    ages = pa.array((np.arange(N) * 20).astype(np.int32), pa.int32()).cast(pa.date32())  # centuries: years of 365 days tell nothing of them
    assert plan_of(ages).transform.width == 20 and periods_of(plan_of(ages)) == ()
    steps = pa.array(SECONDS[0] + np.arange(N) * 61, pa.timestamp("s"))
    assert [(p.length, p.parts[0]) for p in periods_of(plan_of(steps))] == [(59, 12), (1416, 24)]


def test_the_periods_of_any_column_make_features_that_a_reader_takes():
    rng = np.random.default_rng(9)
    spread = np.sort(rng.integers(0, 2**62, N))
    kinds = [pa.timestamp("ns", "UTC"), pa.duration("ns"), pa.int64(), pa.uint64()]
    kinds += [pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")]
    columns = [pa.array(spread).cast(kind, safe=False) for kind in kinds]
    columns += [pa.array(-spread).cast(pa.timestamp("us")), pa.array(spread % DAY * 10**9).cast(pa.time64("ns"))]
    columns += [pa.array(SECONDS * 10**9 * 7 % 2**62, pa.timestamp("ns")), pa.array(SECONDS * 7 + 3, pa.timestamp("s"))]
    columns += [pa.array([what] * N, pa.timestamp("us")) for what in (None, 5)] + [pa.array([0, 2**62] * (N // 2), pa.int64())]
    found = 0
    for values in columns:
        for bound in ((), ("when=0.5%",)) if pa.types.is_int64(values.type) else ((),):
            table = pa.table({"when": values})
            plan = fitted(table, bound, seconds=1).model.columns[0]
            if plan.kind != "numeric":
                continue
            codes = encode_column(plan, table.column(0)).values
            for p in periods_of(plan):
                for n in p.parts:
                    feature = from_json(Feature("phase", 0, p.length, n, (p.start,)).to_json(), 1)
                    levels = Decoded(N, {0: codes}).feature(feature)
                    assert levels.min() >= 0 and levels.max() < n
                    found += 1
    assert found > 40


def test_events_are_told_by_the_hour_of_the_day_and_the_day_of_the_week():
    rng = np.random.default_rng(4)
    n = 40_000
    when = 1_700_000_000 + np.sort(rng.integers(0, 120 * DAY, n))
    shop = (when // HOUR % 24 * 5 + when // DAY % 7 * 3) % 16
    kind = np.where(rng.random(n) < 0.9, shop, rng.integers(0, 16, n))
    table = pa.table({"kind": pa.array(kind.astype(np.int8)), "when": pa.array(when, pa.timestamp("s"))})
    shuffled = table.take(rng.permutation(n))  # so that rows before tell nothing
    for rows in (table, shuffled):
        model = fitted(rows, seconds=20).model
        code = next(code for code in model.codes if code.column == 0)
        kinds = [f.kind for digit in code.value.digits for f in digit.features]
        assert "phase" in kinds, kinds
        shard = encode_shard(model, rows, preview=False)
        assert shard.bits_per_value["kind"] < 1.4  # 4 bits, 0.9 of them with the hour and the day
        assert_kept(rows, decoded(stored_again(model), shard))
