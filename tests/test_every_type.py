from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from strategies import _PLAIN, column_of
from telemetry import decoded, fitted

from flows.proof import preview_errors
from vae_core.columns.rows import kept, taken
from vae_core.quality import compare, differences, digest
from vae_core.sampling import sample_rows
from vae_core.shard import encode_shard

N = 60


def with_nulls(items: list[Any]) -> list[Any]:
    return [None if i % 7 == 3 else item for i, item in enumerate(items)]


def plain_items(kind: pa.DataType) -> list[Any]:
    """N values of a flat type, texts and bytes too long for the inside of a view."""
    t, every = pa.types, range(N)
    if t.is_boolean(kind):
        return [bool(i % 3) for i in every]
    if t.is_floating(kind):
        return [i / 4 for i in every]
    if t.is_decimal(kind):
        return [Decimal(i) for i in every]
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return [f"a text longer than a view holds inside, {i}" for i in every]
    if t.is_fixed_size_binary(kind):
        return [bytes([i] * kind.byte_width) for i in every]
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind):
        return [b"bytes longer than a view holds inside, %d" % i for i in every]
    return [i * 86_400_000 if t.is_date64(kind) else i for i in every]


def every_type_with_nulls() -> dict[str, pa.Array]:
    """A column of each type, and of types made of those that Arrow's own kernels leave out."""
    found = {str(kind): column_of(kind, with_nulls(plain_items(kind))) for kind in _PLAIN}
    mask, offsets = pa.array([i % 5 == 2 for i in range(N)]), pa.array(range(N + 1), pa.int32())
    runs = pc.run_end_encode(pa.array(with_nulls([i // 4 for i in range(N)])))
    hard = {"string_view": found["string_view"], "binary_view": found["binary_view"], "runs": runs}
    for name, inner in hard.items():
        found[f"struct of {name}"] = pa.StructArray.from_arrays([inner, pa.array(range(N))], ["f", "g"], mask=mask)
        found[f"list of {name}"] = pa.ListArray.from_arrays(offsets, inner, mask=mask)
        found[f"large list of {name}"] = pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), inner, mask=mask)
        found[f"fixed list of {name}"] = pa.FixedSizeListArray.from_arrays(inner, 1, mask=mask)
        found[f"map of {name}"] = pa.MapArray.from_arrays(offsets, pa.array(range(N)), inner)
    found["runs"] = runs
    found["runs of string_view"] = pa.RunEndEncodedArray.from_arrays(pa.array(range(1, N + 1), pa.int32()), found["string_view"])
    index = pa.array(with_nulls([i % 5 for i in range(N)]), pa.int8())
    for kind in (pa.string_view(), pa.binary_view(), pa.binary(3)):
        found[f"dictionary of {kind}"] = pa.DictionaryArray.from_arrays(index, column_of(kind, plain_items(kind)[:5]))
    found["dictionary of struct of string_view"] = pa.DictionaryArray.from_arrays(index, found["struct of string_view"].slice(0, 2 + 3))
    found["list view"] = pa.array(with_nulls([[i] for i in range(N)]), pa.list_view(pa.int32()))
    found["large list view"] = pa.array(with_nulls([[i] for i in range(N)]), pa.large_list_view(pa.int32()))
    hundreds = pa.decimal128(12, -2)  # which Parquet does not know
    found[str(hundreds)] = pa.array(with_nulls([Decimal(100 * i) for i in range(N)]), hundreds)
    found["interval"] = pa.array(with_nulls([pa.MonthDayNano([i, 2, 3]) for i in range(N)]))
    found["map"] = pa.array(with_nulls([[("k", i)] for i in range(N)]), pa.map_(pa.string(), pa.int64()))
    found["json"] = pa.ExtensionArray.from_storage(pa.json_(), pa.array(with_nulls(['{"a":1}'] * N)))
    found["null"] = pa.nulls(N)
    tags = pa.array([i % 2 for i in range(N)], pa.int8())
    found["union"] = pa.UnionArray.from_sparse(tags, [pa.array(with_nulls(list(range(N)))), found["string_view"]])
    return found


COLUMNS = every_type_with_nulls()


@pytest.mark.parametrize("name", COLUMNS)
def test_nulls_of_every_type_are_compared_and_digested(name):
    table = pa.table({"x": COLUMNS[name]})
    (same,) = compare(table, table, {})
    assert same.mismatches == 0
    assert digest(table.to_batches(max_chunksize=7), table.schema) == digest([table])
    if name not in ("null", "dictionary of struct of string_view"):
        other = pa.table({"x": pa.concat_arrays([COLUMNS[name].slice(1), COLUMNS[name].slice(0, 1)])})
        (differs,) = compare(table, other, {})
        assert differs.mismatches > 0 and digest([other]) != digest([table])


@pytest.mark.parametrize("name", COLUMNS)
def test_nulls_of_every_type_come_back(name):
    table = pa.table({"x": COLUMNS[name], "row": np.arange(N)})
    model = fitted(table).model
    back = decoded(model, encode_shard(model, table, block_rows=25))
    assert back.schema.equals(table.schema, check_metadata=True)
    assert all(column.mismatches == 0 for column in compare(table, back, {})) and digest([back]) == digest([table])
    drawn = sample_rows(model, table, 13, 1)
    drawn.validate(full=True)
    assert drawn.schema.equals(table.schema) and drawn.num_rows == 13


def test_the_error_of_a_preview_of_the_largest_floats_is_a_number():
    raw = pa.table({"x": [1.7e308, -1.7e308, 0.0, float("inf")], "y": pa.array([3e38, -3e38, 1.0, None], pa.float32())})
    preview = pa.table({"x": [-1.7e308, 1.7e308, 1.0, 0.0], "y": pa.array([3e38, -3e38, 0.0, None], pa.float32())})
    found = preview_errors(preview, raw)
    assert found["x"].relative_rmse == pytest.approx(2.0) and found["y"].relative_rmse < 1e-30


@pytest.mark.filterwarnings("error")
def test_columns_with_the_largest_floats_are_planned_without_a_warning():
    values = np.tile([1.7e308, -1.7e308, 1e-310, 1.0], 60)
    for column in (values, np.tile(np.float32([3e38, -3e38, 1e-45, 1]), 60)):
        for bound in ((), ("x=1%",), ("x=0.01",)):
            fitted(pa.table({"x": column}), bound)


def test_rows_of_slices_are_their_own_also_where_lists_of_one_size_are_in_such():
    inner = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(32, dtype=np.int8)), 2)
    outer = pa.FixedSizeListArray.from_arrays(inner, 2)
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 5], pa.int32()), outer.slice(3))
    for array in (outer.slice(1), pa.StructArray.from_arrays([outer], ["x"]).slice(2), lists):
        rows = np.arange(len(array))
        assert taken(array, rows[::-1]).to_pylist() == array.to_pylist()[::-1]
        assert kept(array, rows > 0).to_pylist() == array.to_pylist()[1:]
        assert not differences(array, pa.concat_arrays([array])).any()
