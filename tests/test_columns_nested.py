"""Keys of nested rows: equal exactly where the rows are; dictionaries of lists and structs."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, profiled

from vae_core.columns import decode_column, encode_column, plan_columns
from vae_core.columns.nested import has_row_keys, row_keys
from vae_core.quality import compare_column
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=100)
TYPES = (
    (pa.list_(pa.string()), st.lists(st.sampled_from(["", "a", "aa", "\x00", None]), max_size=3)),
    (pa.large_list(pa.int16()), st.lists(st.sampled_from([0, 1, -1, None]), max_size=3)),
    (pa.list_(pa.list_(pa.bool_())), st.lists(st.lists(st.sampled_from([True, False, None]), max_size=2), max_size=2)),
    (pa.list_(pa.list_(pa.int8(), 2)), st.lists(st.one_of(st.none(), st.lists(st.integers(0, 1), min_size=2, max_size=2)), max_size=2)),
    (
        pa.struct([("x", pa.float32()), ("s", pa.list_(pa.binary()))]),
        st.fixed_dictionaries(
            {"x": st.sampled_from([0.0, 1.5, None]), "s": st.sampled_from([[], [b""], [None], None, [b"a", b"b"], [b"ab"]])}
        ),
    ),
)


@LAW
@given(st.data())
def test_keys_are_equal_exactly_where_rows_are_also_in_slices_and_under_nulls(data):
    kind, rows = data.draw(st.sampled_from(TYPES))
    values = data.draw(st.lists(st.one_of(st.none(), rows), max_size=12))
    array = pa.array(values, kind)
    start = data.draw(st.integers(0, len(values)))
    keys = row_keys(array).to_pylist()
    assert [k is None for k in keys] == [v is None for v in array.to_pylist()]
    for i, a in enumerate(array.to_pylist()):
        for j, b in enumerate(array.to_pylist()):
            assert (keys[i] == keys[j]) == (a == b)
    assert row_keys(array.slice(start)).to_pylist() == keys[start:]


def test_what_a_null_row_holds_does_not_count():
    inner = pa.array([1, 2, 3, 4], pa.int32())
    one = pa.ListArray.from_arrays(pa.array([0, 2, 3, 4], pa.int32()), inner, mask=pa.array([True, False, False]))
    assert row_keys(one).to_pylist() == row_keys(pa.array([None, [3], [4]], pa.list_(pa.int32()))).to_pylist()


@pytest.mark.parametrize(
    ("kind", "has"),
    [
        (pa.list_(pa.string()), True), (pa.struct([("a", pa.decimal128(9, 2))]), True), (pa.list_(pa.timestamp("ns", "UTC")), True),
        (pa.string(), False), (pa.map_(pa.string(), pa.int8()), False), (pa.list_(pa.dictionary(pa.int8(), pa.string())), False),
        (pa.list_(pa.string_view()), False), (pa.list_(pa.null()), False),
    ],
    ids=str,
)  # fmt: skip
def test_the_types_that_have_keys(kind, has):
    assert has_row_keys(kind) == has


@LAW
@given(st.data())
def test_few_nested_values_have_a_dictionary_and_others_are_held_beside_it(data):
    kind, rows = data.draw(st.sampled_from(TYPES))
    few = data.draw(st.lists(rows, min_size=1, max_size=3))
    column = pa.chunked_array([pa.array([*few, None] * 10, kind)])
    (plan,) = plan_columns(pa.schema([("c", kind)]), profiled(pa.table({"c": column})), pa.table({"c": column}), {})
    assert plan.kind == "categorical" and plan.n_levels <= len(few)
    fresh = pa.array(data.draw(st.lists(st.one_of(st.none(), rows), max_size=8)) + few, kind)
    back = decode_column(plan, encode_column(plan, fresh))
    assert back.type == kind and compare_column("c", fresh, back, plan.tolerance).mismatches == 0


@pytest.mark.parametrize("element", [pa.list_(pa.int8(), 2), pa.list_(pa.int8()), pa.struct([("a", pa.int8())])])
def test_fixed_size_lists_of_nested_values_are_kept_as_they_are(element):
    one = {"a": 1} if pa.types.is_struct(element) else [1, 2]
    table = pa.table({"x": pa.array([[one, None] if i % 3 else [one, one] for i in range(50)], pa.list_(element, 2))})
    model = fitted(table, (), preview="off", seconds=2).model
    assert model.columns[0].kind == "verbatim"
    assert_kept(table, decoded(model, encode_shard(model, table)))
