from __future__ import annotations

from contextlib import suppress
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core import fitting
from vae_core.coders import conventional, lattices, steps, varints
from vae_core.coders.conventional import Stored
from vae_core.coders.lattices import PLAIN, FixedPoint, Segment, pack, packed, unpack
from vae_core.columns import Codes, ColumnPlan, TableProfile, encode_column, one_array, plan_columns
from vae_core.columns.floats import OrderedBits
from vae_core.columns.physical import ordered_bits
from vae_core.errors import CorruptArchive
from vae_core.quality import compare_column
from vae_core.shard import encode_shard
from vae_core.tolerance import LOSSLESS

LAW = settings(deadline=None, max_examples=80)
INT64 = st.integers(-(2**63), 2**63 - 1)
COUNTS = np.random.default_rng(8).integers(1, 99_000, 20_000)
NUMBERS = st.one_of(st.integers(-50, 50), st.sampled_from([-(2**63), 2**63 - 1, 10**17, -(10**9)]), INT64)


def counted(n: int, seed: int = 0) -> np.ndarray:
    """(n,) int64: a smooth count with noise, as meters have it."""
    rng = np.random.default_rng(seed)
    return np.round(6000 + 2500 * np.sin(np.arange(n) / 60) + 150 * rng.normal(size=n)).astype(np.int64)


def monthly(n: int, months: int = 4) -> np.ndarray:
    """(n,) float64: counts on a step of its own for each month, to five decimals."""
    step = np.random.default_rng(1).uniform(1, 4, months)[np.arange(n) * months // n]
    return np.round(counted(n) * step, 5)


def planned(column: pa.Array) -> tuple[ColumnPlan, Codes]:
    table = pa.table({"x": column})
    profile = TableProfile(table.schema)
    profile.update(table)
    (plan,) = plan_columns(table.schema, profile.finish(), table, {})
    return plan, encode_column(plan, column)


def sizes(plan: ColumnPlan, column: pa.Array, codes: Codes) -> tuple[int, int]:
    """Bytes under lattices, and under the best conventional coding."""
    return conventional.measure(plan, column, codes, ["lattices"])[1], conventional.rank(plan, column, codes)[0][1]


def wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def point(s: Segment, k: int) -> int:
    """FORMAT.md, "Lattices", in Python's integers."""
    whole, fraction, half = s.step >> s.shift, s.step % (1 << s.shift), (1 << s.shift) // 2
    a = wrapped(k * whole + s.base)
    b = wrapped(k * fraction + s.phase)
    p = wrapped(a + (wrapped(b + half) >> s.shift))
    if s.digits and p != -(2**63) and abs(p) >= 10**s.digits:
        g = 10 ** (len(str(abs(p))) - s.digits)
        p = wrapped(wrapped(wrapped(a + (b >> s.shift)) + g // 2) // g * g)
    return p


@st.composite
def segments(draw: st.DrawFn, n_rows: int) -> Segment:
    shift = draw(st.integers(0, 62))
    phase = draw(st.integers(0, (1 << shift) - 1))
    return Segment(n_rows, 0, draw(st.integers(0, 18)), shift, draw(NUMBERS), draw(NUMBERS), phase)


@LAW
@given(arrays.arrays(np.int64, st.integers(0, 300), elements=NUMBERS))
def test_any_integers_come_back(values):
    assert np.array_equal(unpack(pack(values), len(values)), values)


@LAW
@given(st.data())
def test_any_integers_come_back_under_any_segments_with_any_counts(data):
    values = data.draw(arrays.arrays(np.int64, st.integers(1, 60), elements=NUMBERS))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(values) - 1), max_size=5))) if len(values) > 1 else []
    lengths = np.diff([0, *cuts, len(values)])
    forced = []
    for n in lengths.tolist():
        segment = data.draw(segments(n))
        forced.append((segment, data.draw(arrays.arrays(np.int64, n, elements=NUMBERS))))
    assert np.array_equal(unpack(packed(values, forced), len(values)), values)


@LAW
@given(st.data(), st.sampled_from(["<f4", "<f8"]))
def test_any_floats_and_any_integers_for_their_bits_come_back(data, kind):
    dtype = np.dtype(kind)
    floats = data.draw(arrays.arrays(dtype, st.integers(0, 200), elements=st.floats(width=8 * dtype.itemsize)))
    values = np.concatenate([ordered_bits(floats), data.draw(arrays.arrays(np.int64, st.integers(0, 9), elements=NUMBERS))])
    assert np.array_equal(unpack(pack(values, dtype), len(values), dtype), values)
    form = FixedPoint(dtype, data.draw(st.integers(-960, 960)))
    segment, k = data.draw(segments(len(values))), data.draw(arrays.arrays(np.int64, len(values), elements=NUMBERS))
    if len(values):
        assert np.array_equal(unpack(packed(values, [(segment, k)], form), len(values), dtype), values)


@LAW
@given(st.data())
def test_points_are_those_of_the_format_document(data):
    segment = data.draw(segments(1))
    k = data.draw(st.lists(NUMBERS, min_size=1, max_size=20))
    assert segment.points(np.array(k, np.int64)).tolist() == [point(segment, count) for count in k]


@pytest.mark.parametrize("step", [7, 1000, 2**33 + 1, 2**50 + 12345])
@pytest.mark.parametrize("end", [-(2**63), 2**63 - 1])
def test_a_lattice_at_the_ends_of_int64_comes_back(step, end):
    k = np.random.default_rng(9).integers(0, 4000, 2000)
    values = np.array([end - step * int(c) if end > 0 else end + step * int(c) for c in k], np.int64)
    assert np.array_equal(unpack(pack(values), 2000), values)


@LAW
@given(st.integers(0, 3000), st.floats(5, 1e7), st.floats(-1e9, 1e9), st.integers(0, 2**32), st.integers(8, 400_000))
def test_a_lattice_comes_back_whatever_its_step(n, step, origin, seed, span):
    k = np.random.default_rng(seed).integers(0, span, n)
    values = np.rint(k * step + origin).astype(np.int64)
    assert np.array_equal(unpack(pack(values), n), values)


def test_steps_that_change_by_the_month_are_found_and_halve_the_best_conventional_coding():
    column = pa.array(monthly(12_000))
    plan, codes = planned(column)
    assert lattices.worth_trying(plan, codes)
    ours, theirs = sizes(plan, column, codes)
    assert 2 * ours < theirs
    runs = steps.find_runs(codes.values)
    assert sum(run.stop - run.start for run in runs) > 0.99 * len(column) and len(runs) <= 8


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("pounds in kilograms", np.round(np.random.default_rng(2).integers(0, 90_000, 9000) * 0.45359237, 5)),
        ("scaled to the unit interval", np.round(np.random.default_rng(2).integers(0, 30_000, 9000) / 29_999, 6)),
        ("ten significant digits", np.array([float(f"{v:.10g}") for v in np.random.default_rng(2).integers(0, 9000, 9000) * 3.0379747])),
        ("seconds at 44.1 kHz", np.random.default_rng(2).integers(1, 4, 9000).cumsum() * 10**9 // 44_100 + 17 * 10**17),
        ("integers", np.rint(np.random.default_rng(2).integers(0, 90_000, 9000) * 1234.567 - 5e7).astype(np.int64)),
    ],
)
def test_steps_no_decimal_shows_are_found(name, values):
    column = pa.array(values)
    plan, codes = planned(column)
    assert lattices.worth_trying(plan, codes), name
    ours, theirs = sizes(plan, column, codes)
    assert ours < 0.9 * theirs, name


@pytest.mark.parametrize(
    ("name", "values", "at_least"),
    [
        ("standardised doubles", (COUNTS - COUNTS.mean()) / COUNTS.std(), 2.5),
        ("single precision", (COUNTS * 0.45359237).astype(np.float32), 1.3),
        ("unpacked with scale and offset", COUNTS.astype(np.float32) * np.float32(0.000916) + np.float32(281.3), 1.2),
        ("single precision kept in doubles", (COUNTS / 99_999).astype(np.float32).astype(np.float64), 1.3),
    ],
)
def test_floats_that_are_no_decimals_are_multiples_of_a_step_too(name, values, at_least):
    column = pa.array(values, mask=np.arange(len(values)) % 50 == 3)
    plan, codes = planned(column)
    assert isinstance(plan.transform, OrderedBits) and lattices.worth_trying(plan, codes), name
    ours, theirs = sizes(plan, column, codes)
    assert at_least * ours < theirs, name
    stored = conventional.encode(plan, "lattices", column, codes)
    back = conventional.decode(plan, "lattices", stored, len(column))
    assert compare_column("x", column, back, LOSSLESS).mismatches == 0


def test_short_batches_with_a_step_each_are_found():
    step = np.random.default_rng(3).uniform(1, 4, 60)[np.arange(12_000) // 200]
    column = pa.array(np.round(counted(12_000) * step, 5))
    plan, codes = planned(column)
    ours, theirs = sizes(plan, column, codes)
    assert 2 * ours < theirs


def test_nulls_specials_and_rows_off_the_lattice_do_not_break_a_run():
    rng = np.random.default_rng(4)
    values = monthly(12_000)
    values[rng.random(12_000) < 0.03] = np.nan
    off = rng.random(12_000) < 0.02
    values[off] = np.round(rng.uniform(0, 30_000, int(off.sum())), 5)
    column = pa.array(values, mask=rng.random(12_000) < 0.2)
    plan, codes = planned(column)
    assert codes.state is not None and lattices.worth_trying(plan, codes)
    stored = conventional.encode(plan, "lattices", column, codes)
    back = conventional.decode(plan, "lattices", stored, len(column))
    assert compare_column("x", column, back, LOSSLESS).mismatches == 0
    again = conventional.decode_codes(plan, "lattices", stored, len(column))
    assert np.array_equal(again.values, codes.values) and np.array_equal(again.state, codes.state)
    ours, theirs = sizes(plan, column, codes)
    assert 1.7 * ours < theirs


def test_one_value_far_off_does_not_cost_a_step_its_precision():
    clean = np.rint(counted(4000) * 317.77777).astype(np.int64)
    values = clean.copy()
    values[::100] = -(2**63)
    values[7::100] = -99_999_999_999
    assert np.array_equal(unpack(pack(values), 4000), values)
    assert len(pack(values)) < len(pack(clean)) + 400


@pytest.mark.parametrize("values", [
    np.random.default_rng(5).integers(-(2**62), 2**62, 50_000),
    np.random.default_rng(5).integers(0, 10**9, 50_000),
    np.random.default_rng(5).integers(0, 300, 50_000),
    np.arange(50_000),
    np.cumsum(1000 + np.random.default_rng(5).integers(-20, 21, 50_000)),
])  # fmt: skip
def test_where_there_is_no_step_a_few_windows_are_looked_at_and_nothing_else(values):
    looked, real = [], steps.step_of

    def counting(window, digits=0):
        looked.append(len(window))
        return real(window, digits)

    with mock.patch.object(steps, "step_of", counting):
        assert steps.find_runs(values) == []
    assert len(looked) <= steps.PLACES * len(steps.WINDOWS) and sum(looked) <= steps.PLACES * sum(steps.WINDOWS)


def test_the_step_is_the_largest_one():
    k = np.random.default_rng(6).integers(0, 5000, 512)
    for step in (4.5, 10, 303797.468354, 12.5):
        found = steps.step_of(np.rint(k * step).astype(np.int64))
        assert found is not None and found.step == pytest.approx(step, rel=1e-5)


def test_a_shard_takes_lattices_by_their_bytes_and_reports_what_is_conventional_without_them():
    raw = pa.table({"power": monthly(12_000), "noise": np.random.default_rng(7).normal(size=12_000)})
    with mock.patch.object(fitting, "_fit_exact", lambda *_: ((), 0.0)):  # else its counts are learned
        model = fitted(raw).model
    shard = encode_shard(model, raw, block_rows=5000)
    power, noise = shard.outcomes
    assert power.coding == "lattices" and noise.coding != "lattices"
    plan, codes = model.columns[0], encode_column(model.columns[0], one_array(raw.column(0)))
    assert power.conventional_bytes == conventional.rank(plan, one_array(raw.column(0)), codes)[0][1] > 2 * power.n_bytes
    with mock.patch.object(lattices, "worth_trying", return_value=False):
        assert encode_shard(model, raw, block_rows=5000).outcomes[0].conventional_bytes == power.conventional_bytes
    assert_kept(raw, decoded(stored_again(model), shard))


def test_no_conventional_ranking_ever_has_lattices():
    plan, codes = planned(pa.array(monthly(3000)))
    assert "lattices" not in conventional.candidates_for(plan)
    assert "lattices" not in dict(conventional.rank(plan, pa.array(monthly(3000)), codes))


@LAW
@given(st.data())
def test_a_damaged_payload_is_corrupt_or_as_long_as_asked_never_another_error(data):
    values = np.rint(counted(900) * 303.7974).astype(np.int64)
    values[::50] += 3
    payload = bytearray(pack(values))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, min(len(payload), 80) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    for damaged in (bytes(payload), bytes(payload[:cut])):
        with suppress(CorruptArchive):
            assert len(unpack(damaged, 900)) == 900


@LAW
@given(st.binary(max_size=200), st.integers(0, 1000))
def test_bytes_of_any_kind_are_corrupt_or_as_long_as_asked(data, n):
    with suppress(CorruptArchive):
        assert len(unpack(data, n)) == n


def numbers(*values: int) -> bytes:
    return varints.varints(values)


@pytest.mark.parametrize(("head", "why"), [
    (numbers(0, 1, 11, 0, 0, 0, 1, 0, 0), "11 where 1 to 10"),
    (numbers(0, 1, 9, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0), "9 rows, expected 10"),
    (numbers(0, 1, 0), "0 where 1 to 10"),
    (numbers(0, 11), "11 where 0 to 10"),
    (numbers(0, -1), "-1 where"),
    (numbers(1, 0, 0), "1 where 0 to 0"),
    (numbers(0, 1, 10, 0, 0, 63), "63 where 0 to 62"),
    (numbers(0, 1, 10, 0, 19), "19 where 0 to 18"),
    (numbers(0, 1, 10, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0), "segments"),
    (numbers(0, 1, 10, 0, 0, 3, 1, 0, 8, 1, 0, 0, 0), "phase beyond"),
    (numbers(0, 1, 10, 0, 0, 3, 1, 0, -1, 1, 0, 0, 0), "phase beyond"),
    (numbers(0, 1, 10, 0, 0, 0, 1, 0, 0, 1, 7, 0, 0), "7 where 0 to 6"),
    (numbers(0, 1, 10, 0, 0, 0, 1, 0, 0, 1, 0, 10**9), "1000000000 where"),
    (numbers(0, 1, 10, 0, 0, 0, 1, 0, 0, 1, 0, 5, 0), "cut short"),
    (numbers(0, 1, 10, 0, 0, 0, 1, 0, 0, 1, 0, 0, 3), "3 where 0 to 2"),
    (b"\xff" * 11, "longer than 64 bits"),
    (b"", "cut short"),
])  # fmt: skip
def test_a_lie_in_the_table_is_named(head, why):
    with pytest.raises(CorruptArchive, match=why):
        unpack(head, 10)


@pytest.mark.parametrize("misses", [b"", b"\x07", b"\x00", b"\x00rubbish"])
@pytest.mark.parametrize("how", [1, 2])
def test_misses_that_cannot_be_read_are_corrupt(how, misses):
    body = lattices.pco_of(np.arange(10))[1]
    table = numbers(0, 1, 10, 0, 0, 0, 1, 0, 0, 1, 0, len(body))
    assert np.array_equal(unpack(table + numbers(0) + body, 10), np.arange(10))
    with pytest.raises(CorruptArchive):
        unpack(table + numbers(how) + body + misses, 10)
    with pytest.raises(CorruptArchive, match="behind lattices"):
        unpack(table + numbers(0) + body + b"\0", 10)


def test_a_miss_outside_the_block_is_corrupt():
    body = lattices.pco_of(np.arange(10))[1]
    table = numbers(0, 1, 10, 0, 0, 0, 1, 0, 0, 1, 0, len(body), 2)
    for gaps in ([11], [0], [2, 2**32 - 1], [1] * 11):
        frame = lattices.zstd(lattices._planes(np.array(gaps, np.uint32)) + bytes(len(gaps)))
        with pytest.raises(CorruptArchive):
            unpack(table + body + b"\0" + frame, 10)


def test_a_column_without_codes_of_its_own_cannot_be_lattices():
    plan, codes = planned(pa.array(["a", "b", None] * 200))
    assert not lattices.worth_trying(plan, codes) and not lattices.worth_trying(plan, None)
    assert plan.n_levels is not None and PLAIN.points(np.arange(3)).tolist() == [0, 1, 2]
    with pytest.raises(CorruptArchive):
        conventional.decode(plan, "lattices", Stored(None, b"\0\0\0\0\0"), 600)
