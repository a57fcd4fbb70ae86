from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import tables, tolerances_for

from vae_core.columns import ColumnPlan, TableProfile, decode_column, encode_column, one_array, plan_columns
from vae_core.columns.floats import OrderedBits
from vae_core.errors import BadInput
from vae_core.quality import compare_column, differences
from vae_core.tolerance import Tolerance

LAW = settings(deadline=None, max_examples=30)


def profiled(table: pa.Table) -> TableProfile:
    profile = TableProfile(table.schema)
    for batch in table.to_batches(max_chunksize=7):
        profile.update(batch)
    return profile.finish()


def planned(table: pa.Table, tolerances: dict | None = None) -> tuple[ColumnPlan, ...]:
    return plan_columns(table.schema, profiled(table), table, tolerances or {})


def rebuilt(plan: ColumnPlan, schema: pa.Schema) -> ColumnPlan:
    return ColumnPlan.from_json(json.loads(json.dumps(plan.to_json())), plan.blobs(), schema)


@LAW
@given(tables())
def test_every_column_comes_back_exactly_when_nothing_is_tolerated(table):
    for plan in planned(table):
        if plan.kind == "verbatim":
            continue
        raw = one_array(table.column(plan.index))
        back = decode_column(plan, encode_column(plan, raw))
        back.validate()
        assert back.type == raw.type and not differences(raw, back).any()


@LAW
@given(st.data())
def test_every_value_comes_back_inside_its_tolerance(data):
    table = data.draw(tables())
    tolerances = data.draw(tolerances_for(table.schema))
    for plan in planned(table, tolerances):
        if plan.kind == "verbatim":
            continue
        raw = one_array(table.column(plan.index))
        back = decode_column(plan, encode_column(plan, raw))
        quality = compare_column(plan.name, raw, back, plan.tolerance)
        assert quality.keeps(plan.tolerance), (plan, quality)


@LAW
@given(st.data())
def test_distortion_codes_keep_every_null_and_special_and_stay_far_below_the_target(data):
    table = data.draw(tables())
    tolerances = data.draw(tolerances_for(table.schema, distortion=True))
    for plan in planned(table, tolerances):
        if plan.kind == "verbatim" or not plan.tolerance.is_distortion:
            continue
        raw = one_array(table.column(plan.index))
        quality = compare_column(plan.name, raw, decode_column(plan, encode_column(plan, raw)), plan.tolerance)
        assert quality.violations == 0
        assert quality.rmse <= plan.tolerance.value


@pytest.mark.parametrize("target", ["rmse:0.05", "rmse:3%", "psnr:30"])
@pytest.mark.parametrize("far", [6.181012152526479e16, 1e18, -3e18, 1e300, -1.7976931348623157e308])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_values_meet_a_target_below_the_gaps_between_floats(target, far, dtype):
    values = np.zeros(84, dtype)
    values[[3, 40, 83]] = np.nan, np.clip(far, np.finfo(dtype).min, np.finfo(dtype).max), 1
    for raw in (pa.array(values), pa.FixedSizeListArray.from_arrays(pa.array(values), 4)):
        (plan,) = planned(pa.table({"x": raw}), {"x": Tolerance.parse(target)})
        quality = compare_column("x", raw, decode_column(plan, encode_column(plan, raw)), plan.tolerance)
        assert quality.violations == 0 and quality.rmse <= plan.tolerance.value


@LAW
@given(st.data())
def test_a_plan_rebuilt_from_its_json_decodes_the_same(data):
    table = data.draw(tables())
    for plan in planned(table, data.draw(tolerances_for(table.schema, distortion=True))):
        again = rebuilt(plan, table.schema)
        for name in ("kind", "lo", "hi", "fill", "n_levels", "width", "opaque", "has_state", "tolerance", "field"):
            assert getattr(again, name) == getattr(plan, name)
        if plan.kind != "verbatim":
            codes = encode_column(plan, table.column(plan.index))
            assert not differences(decode_column(plan, codes), decode_column(again, codes)).any()


@LAW
@given(st.data())
def test_data_the_profile_never_saw_comes_back_too(data):
    seen = data.draw(tables(max_columns=1))
    kind = seen.schema.field(0).type
    from strategies import column_of, values

    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind) or kind == pa.null():
        return
    if pa.types.is_interval(kind) or pa.types.is_run_end_encoded(kind) or pa.types.is_union(kind):
        return
    fresh = column_of(kind, data.draw(st.lists(st.one_of(values(kind), st.none()), max_size=20)))
    (plan,) = planned(seen, data.draw(tolerances_for(seen.schema)))
    if plan.kind == "verbatim":
        return
    back = decode_column(plan, encode_column(plan, fresh))
    assert compare_column(plan.name, fresh, back, plan.tolerance).keeps(plan.tolerance)


@LAW
@given(tables())
def test_codes_lie_within_the_plan_range_on_the_data_it_was_made_from(table):
    for plan in planned(table):
        if plan.kind == "verbatim":
            continue
        codes = encode_column(plan, table.column(plan.index))
        assert codes.values.dtype == np.int64 and len(codes.values) == table.num_rows * plan.width
        assert plan.lo <= plan.fill <= plan.hi
        if codes.state is not None:
            assert (codes.values[codes.state != 0] == plan.fill).all()
            assert codes.state.any()
            assert plan.has_state or not codes.state.any()
        if len(codes.values):
            within = plan.lo <= codes.values.min() and codes.values.max() <= plan.hi
            assert within or (isinstance(plan.transform, OrderedBits) and plan.lo == plan.hi == 0)  # of bits the plan says none


@LAW
@given(tables())
def test_profiles_of_pieces_merge_into_the_profile_of_the_whole(table):
    whole, left, right = profiled(table), TableProfile(table.schema), TableProfile(table.schema)
    cut = table.num_rows // 3
    left.update(table.slice(0, cut))
    right.update(table.slice(cut))
    left.merge(right)
    left.finish()
    assert left.ranges() == whole.ranges()
    for name, column in whole.columns.items():
        if column.step and left.columns[name].step:
            assert column.step == left.columns[name].step


def test_a_column_name_that_occurs_twice_is_refused_by_name():
    schema = pa.schema([("a", pa.int64()), ("a", pa.string())])
    with pytest.raises(BadInput, match="'a'"):
        TableProfile(schema)
