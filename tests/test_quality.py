from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import tables

from vae_core.errors import BadInput
from vae_core.quality import combine, compare, differences, digest, pooled
from vae_core.tolerance import Tolerance

LAW = settings(deadline=None, max_examples=40)


def one(raw, decoded, tolerance=None, kind=None):
    tolerances = {} if tolerance is None else {"x": tolerance}
    (quality,) = compare(pa.table({"x": pa.array(raw, kind)}), pa.table({"x": pa.array(decoded, kind)}), tolerances)
    return quality


@LAW
@given(tables())
def test_a_table_equals_itself_nan_and_nested_values_included(table):
    assert all(q.mismatches == 0 and q.violations == 0 for q in compare(table, table, {}))


@LAW
@given(tables(), st.integers(1, 9))
def test_the_digest_does_not_depend_on_batches(table, size):
    assert digest([table]) == digest(table.to_batches(max_chunksize=size), table.schema)


def test_the_digest_crosses_chunk_borders():
    table = pa.table({"x": np.arange(150_000), "s": pa.array([str(i % 7) for i in range(150_000)]).dictionary_encode()})
    assert digest([table]) == digest(table.to_batches(max_chunksize=41_117))
    other = table.set_column(0, "x", pa.array(np.where(np.arange(150_000) == 149_999, 0, np.arange(150_000))))
    assert digest([table]) != digest([other])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0.0, 1.0], [-0.0, 1.0]),
        ([1.0, None], [1.0, 0.0]),
        ([float("nan")], [float("inf")]),
        (["a", "bc"], ["ab", "c"]),
        ([[1.0], [2.0]], [[1.0, 2.0], []]),
        ([[None]], [[]]),
        ([{"x": None}], [None]),
        ([[-0.0]], [[0.0]]),
    ],
)
def test_what_differs_is_seen_by_comparison_and_digest(a, b):
    kind = pa.struct([("x", pa.int64())]) if isinstance(a[0], dict) else None
    x, y = pa.array(a, kind), pa.array(b, kind)
    assert differences(x, y).any()
    assert digest([pa.table({"v": x})]) != digest([pa.table({"v": y})])


def test_the_first_wrong_row_is_named():
    quality = one([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.5, 9.0])
    assert (quality.mismatches, quality.first_violation_row) == (2, 2)
    quality = one([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.5, 9.0], Tolerance("absolute", 0.5))
    assert (quality.violations, quality.first_violation_row, quality.max_abs_error) == (1, 3, 5.0)


@pytest.mark.parametrize(
    ("raw", "decoded", "kind", "worst"),
    [
        ([1.0, 2.0, 3.0, None], [1.0, 2.5, 3.0, None], None, 0.5),
        ([1.0, float("nan")], [1.0, 4.0], None, 0.0),  # no error between a number and none
        ([2**53], [2**53 + 1], pa.int64(), 1.0),
        ([0, 2], [2**64 - 1, 2], pa.uint64(), 2.0**64),
        ([-1e308], [1e308], None, 1.7976931348623157e308),
        ([Decimal("1.25")], [Decimal("1.00")], pa.decimal128(5, 2), 0.25),
        ([Decimal("1.25")], [Decimal("1.00")], pa.decimal128(38, 2), 0.25),
        ([[1, 2], None, [3, 4]], [[1, 2], None, [3, 9]], pa.list_(pa.int32(), 2), 5.0),
        ([[[1], [2]]], [[[1], [4]]], pa.list_(pa.list_(pa.float32(), 1), 2), 2.0),
        (["a"], ["b"], None, 0.0),
        ([True], [False], None, 0.0),
    ],
)
def test_numbers_that_should_be_exact_and_are_not_tell_their_error(raw, decoded, kind, worst):
    quality = one(raw, decoded, kind=kind)
    assert quality.mismatches == 1 and quality.max_abs_error == worst
    assert (quality.rmse > 0) == (worst > 0) and quality.rmse <= worst


def test_a_bound_has_no_slack():
    tolerance = Tolerance("absolute", 0.5)
    assert one([0.0], [0.5], tolerance).violations == 0
    assert one([0.0], [float(np.nextafter(0.5, 1))], tolerance).violations == 1
    assert one([2**53], [2**53 + 3], Tolerance("absolute", 2.0), pa.int64()).violations == 1
    assert one([-(2**63)], [2**63 - 1], Tolerance("absolute", 1e19), pa.int64()).violations == 1
    assert one([0], [2**64 - 1], Tolerance("absolute", 1e19), pa.uint64()).violations == 1


@pytest.mark.parametrize(
    ("raw", "decoded"),
    [(None, 0.0), (0.0, None), (float("nan"), 0.0), (float("inf"), 1e308), (-0.0, 0.0), (1.0, float("nan"))],
)
def test_no_tolerance_excuses_a_lost_null_or_special(raw, decoded):
    for tolerance in (Tolerance("absolute", 1e300), Tolerance("rmse", 1e300)):
        quality = one([raw], [decoded], tolerance, pa.float64())
        assert quality.violations == 1 and not quality.keeps(tolerance)


def test_a_tensor_names_the_row_not_the_cell():
    kind = pa.list_(pa.float32(), 2)
    quality = one([[1.0, 2.0], None, [3.0, 4.0]], [[1.0, 2.0], None, [3.0, 9.0]], Tolerance("absolute", 0.1), kind)
    assert (quality.violations, quality.first_violation_row) == (1, 2)


def test_distortion_is_judged_over_the_column():
    tolerance = Tolerance("rmse", 1.0)
    raw, decoded = [0.0] * 4, [0.0, 0.0, 0.0, 1.9]
    assert one(raw, decoded, tolerance).keeps(tolerance)
    assert not one(raw, [0.0, 0.0, 0.0, 2.1], tolerance).keeps(tolerance)


def test_pieces_combine_into_the_whole():
    rng = np.random.default_rng(1)
    raw, decoded = rng.normal(size=100), rng.normal(size=100)
    tolerance = {"x": Tolerance("absolute", 1.0)}
    a, b = pa.table({"x": raw}), pa.table({"x": decoded})
    (whole,) = compare(a, b, tolerance)
    (left,), (right,) = compare(a[:37], b[:37], tolerance), compare(a[37:], b[37:], tolerance, first_row=37)
    both = combine(left, right)
    assert (both.violations, both.first_violation_row, both.n_rows) == (
        whole.violations,
        whole.first_violation_row,
        100,
    )
    assert both.rmse == pytest.approx(whole.rmse, rel=1e-12)


def test_a_different_number_of_rows_is_said():
    with pytest.raises(BadInput, match="2 raw rows"):
        compare(pa.table({"x": [1, 2]}), pa.table({"x": [1]}), {})


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200, 1e307])
def test_pieces_are_pooled_whatever_their_size(scale):
    assert pooled([(3.0 * scale, 2), (0.0, 3), (4.0 * scale, 5)]) == pytest.approx(scale * math.sqrt((9 * 2 + 16 * 5) / 10), rel=1e-12)
    assert pooled([]) == 0.0 and pooled([(0.0, 5)]) == 0.0
    assert pooled([(math.inf, 1), (1.0, 5)]) == math.inf
