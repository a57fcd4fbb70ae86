"""Writing decoded batches to files: every format gives back what went in, and a file appears whole or not at all."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from flows import reading
from storage.formats.npy import to_arrow
from vae_core.errors import UsageError


def sample_table() -> pa.Table:
    return pa.table(
        {
            "id": pa.array([1, 2, None, 4], pa.int32()),
            "x": pa.array([0.5, None, float("inf"), -0.0]),
            "when": pa.array([datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)] * 4, pa.timestamp("us", "UTC")),
            "kind": pa.array(["a", "b,", None, 'q"']).dictionary_encode(),
            "nested": pa.array([[1, 2], None, [], [3]], pa.list_(pa.int64())),
            "raw": pa.array([b"\x00\xff", b"", None, b"x"]),
        }
    ).replace_schema_metadata({"made": "here"})


def halves(table: pa.Table) -> list[pa.RecordBatch]:
    return table.to_batches(max_chunksize=2)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_parquet_and_arrow_files_hold_the_table_with_its_schema(suffix, tmp_path):
    table = sample_table()
    out = tmp_path / f"t{suffix}"
    n_bytes = reading.write_file(out, table.schema, halves(table), table.num_rows)
    back = pq.read_table(out) if suffix == ".parquet" else pa.ipc.open_file(out).read_all()
    assert back.equals(table)
    assert back.schema.equals(table.schema, check_metadata=True)
    assert n_bytes == out.stat().st_size


def test_csv_holds_every_type_as_text(tmp_path):
    table = sample_table()
    out = tmp_path / "t.csv"
    reading.write_file(out, table.schema, halves(table), table.num_rows)
    back = pyarrow.csv.read_csv(out)
    assert back.column_names == table.column_names
    assert back.column("id").to_pylist() == [1, 2, None, 4]
    assert back.column("kind").to_pylist()[1:4:2] == ["b,", 'q"']
    assert back.column("nested").to_pylist()[0] == "[1, 2]"


@pytest.mark.parametrize("suffix", reading.FORMATS)
def test_an_empty_table_is_still_a_file(suffix, tmp_path):
    table = pa.table({"x": pa.array([], pa.float32())})
    reading.write_file(tmp_path / f"t{suffix}", table.schema, [], 0)
    if suffix == ".npy":
        assert np.load(tmp_path / "t.npy").shape == (0,)


@pytest.mark.parametrize("dtype", ["int8", "uint64", ">f4", "float16", "float64", "bool", "datetime64[us]", "datetime64[D]", "m8[s]"])
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 2), (0, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_gives_the_array_back_with_its_shape_dtype_and_order(dtype, shape, order, tmp_path):
    values = np.asarray(np.arange(int(np.prod(shape))).reshape(shape).astype(dtype), order=order)
    table = to_arrow(values)
    reading.write_file(tmp_path / "a.npy", table.schema, table.to_batches(max_chunksize=2), len(values))
    back = np.load(tmp_path / "a.npy")
    assert back.dtype == values.dtype and back.shape == values.shape
    assert back.flags.f_contiguous == values.flags.f_contiguous
    assert (back == values).all()


def test_a_single_numeric_column_becomes_an_array_wherever_it_came_from(tmp_path):
    table = pa.table({"x": [1.5, 2.5, 3.5]})
    reading.write_file(tmp_path / "a.npy", table.schema, table.to_batches(max_chunksize=2), 3)
    assert np.load(tmp_path / "a.npy").tolist() == [1.5, 2.5, 3.5]


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"a": [1], "b": [2]}, "--columns"),
        ({"a": ["text"]}, "string"),
        ({"a": [1, None]}, "nulls"),
        ({"a": pa.array([[1, None]], pa.list_(pa.int8(), 2))}, "nulls"),
    ],
)
def test_npy_refuses_what_it_cannot_hold_and_leaves_nothing_behind(columns, word, tmp_path):
    table = pa.table(columns)
    with pytest.raises(UsageError, match=word):
        reading.write_file(tmp_path / "a.npy", table.schema, table.to_batches(), table.num_rows)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_keeps_the_old_file_and_no_temporary_one(tmp_path):
    out = tmp_path / "t.parquet"
    out.write_bytes(b"old")

    def breaking():
        yield from sample_table().to_batches()
        raise RuntimeError("the archive is damaged")

    with pytest.raises(RuntimeError):
        reading.write_file(out, sample_table().schema, breaking(), 4)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_an_output_folder_that_does_not_exist_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        reading.write_file(tmp_path / "no" / "t.csv", sample_table().schema, [], 0)


def test_many_small_batches_become_bounded_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "GROUP_ROWS", 100)
    table = pa.table({"x": range(1000)})
    reading.write_file(tmp_path / "t.parquet", table.schema, table.to_batches(max_chunksize=30), 1000)
    sizes = [pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(i).num_rows for i in range(9)]
    assert max(sizes) <= 130
    assert pq.read_table(tmp_path / "t.parquet").equals(table)


def test_a_type_parquet_has_no_word_for_is_a_usage_error_and_a_store_that_fails_is_not(tmp_path):
    hundreds = pa.table({"x": pa.array([100, 300], pa.int64()).cast(pa.decimal128(22, 0)).cast(pa.decimal128(20, -2))})
    with pytest.raises(UsageError, match=r"\.parquet cannot hold this schema .*: write \.arrow"):
        reading.write_file(tmp_path / "x.parquet", hundreds.schema, hundreds.to_batches(), 2)
    reading.write_file(tmp_path / "x.arrow", hundreds.schema, hundreds.to_batches(), 2)
    assert pa.feather.read_table(tmp_path / "x.arrow").equals(hundreds)

    def failing():
        yield from ()
        raise OSError("the store hung up")

    with pytest.raises(OSError, match="hung up"):
        reading.write_file(tmp_path / "y.parquet", pa.schema([("x", pa.int64())]), failing(), 2)
    assert not (tmp_path / "y.parquet").exists()


def same_named() -> pa.Array:
    return pa.StructArray.from_arrays([pa.array([1, 2]), pa.array(["x", "y"])], names=["a", "a"])


def permuted() -> pa.Array:
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0])
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12, dtype=np.float32)), 6))


@pytest.mark.parametrize(
    ("column", "suffix"),
    [
        (same_named(), ".csv"),
        (pa.array([2**60, 5]).view(pa.timestamp("s")), ".parquet"),
        (permuted(), ".npy"),
    ],
    ids=["same names", "timestamps", "permuted array"],
)
def test_values_a_format_has_no_place_for_are_a_usage_error(column, suffix, tmp_path):
    table = pa.table({"x": column})
    with pytest.raises(UsageError, match=rf"\{suffix} cannot hold .*: write \.arrow, or leave columns out"):
        reading.write_file(tmp_path / f"x{suffix}", table.schema, table.to_batches(), 2)
    reading.write_file(tmp_path / "x.arrow", table.schema, table.to_batches(), 2)
    assert pa.ipc.open_file(tmp_path / "x.arrow").read_all().equals(table)


@pytest.mark.parametrize("column", [permuted(), pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((2, 3, 2), np.uint8))])
def test_parquet_holds_tensors_whose_type_states_a_permutation(column, tmp_path):
    table = pa.table({"x": column})
    reading.write_file(tmp_path / "x.parquet", table.schema, table.to_batches(), 2)
    assert pq.read_table(tmp_path / "x.parquet").equals(table)


def test_views_are_texts_and_bytes_in_csv(tmp_path):
    texts, binary = ["x", None, "y"], [b"\x01", b"\xff", None]
    views = pa.table({
        "text": pa.array(texts, pa.string_view()),
        "bytes": pa.array(binary, pa.binary_view()),
        "few": pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["p", "q"], pa.string_view())),
    })  # fmt: skip
    plain = pa.table({"text": texts, "bytes": binary, "few": ["p", "q", None]})
    for name, table in (("views", views), ("plain", plain)):
        reading.write_file(tmp_path / f"{name}.csv", table.schema, table.to_batches(), 3)
    assert (tmp_path / "views.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_an_error_of_the_archive_is_not_one_of_the_file(tmp_path):
    def failing():
        yield from ()
        raise ValueError("a block is odd")

    with pytest.raises(ValueError, match="a block is odd"):
        reading.write_file(tmp_path / "y.csv", pa.schema([("x", pa.int64())]), failing(), 2)


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [
        (pa.timestamp("s"), -62_135_596_800, 253_402_300_799),
        (pa.timestamp("ns", "Europe/Madrid"), -(2**63), 2**63 - 1),
        (pa.timestamp("us", "UTC"), -62_135_596_800_000_000, 253_402_300_799_999_999),
        (pa.date32(), -719_162, 2_932_896),
        (pa.date64(), -62_135_596_800_000, 253_402_214_400_000),
    ],
)
def test_times_that_csv_has_no_text_for_are_a_usage_error(kind, first, last, tmp_path):
    def table(*ticks: int | None) -> pa.Table:
        return pa.table({"t": pa.array(ticks, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)})

    reading.write_file(tmp_path / "t.csv", table(0).schema, table(first, None, last).to_batches(), 3)
    assert "out of range" not in (tmp_path / "t.csv").read_text()
    for beyond in (first - 1, last + 1) if abs(first) < 2**62 else ():
        step = 86_400_000 if kind == pa.date64() else 1
        wrong = table(beyond if step == 1 else first - step if beyond < 0 else last + step)
        with pytest.raises(UsageError, match="years 1 to 9999"):
            reading.write_file(tmp_path / "u.csv", wrong.schema, wrong.to_batches(), 1)
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]
