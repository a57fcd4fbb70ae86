"""A source is what its files hold: every format, exactly, in order, a part at a time."""

import gzip
import json
import os
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import BadInput
from storage.formats.npy import to_arrow, to_numpy
from storage.parts import SourcePart, divide
from storage.sampling import draw_runs
from storage.sources import open_source


def rich_table(n_rows=1000):
    """One column of every awkward kind, with metadata on schema and field."""
    rng = np.random.default_rng(7)
    words = pa.array([["a"], None, [], ["b", None]] * (n_rows // 4))
    columns = {
        "id": pa.array(range(n_rows), pa.uint64()),
        "x": pa.array(rng.normal(size=n_rows), pa.float32()),
        "null": pa.nulls(n_rows),
        "when": pa.array([datetime(2020, 1, 1, tzinfo=UTC)] * n_rows, pa.timestamp("us", "Europe/Berlin")),
        "money": pa.array([Decimal("1.25"), None] * (n_rows // 2), pa.decimal128(12, 2)),
        "kind": pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 1] * (n_rows // 4), pa.int8()), ["b", "a"]),
        "words": words,
        "pair": pa.array([{"u": 1, "v": "x"}, None] * (n_rows // 2)),
        "raw": pa.array([b"\x00", None] * (n_rows // 2), pa.binary()),
        "Name ": pa.array(["é", ""] * (n_rows // 2)),
    }
    table = pa.table(columns).replace_schema_metadata({"owner": "tests", "pandas": "{}"})
    field = table.schema.field("x").with_metadata({"unit": "m/s"}).with_nullable(False)
    return table.cast(table.schema.set(1, field))


def read_in_parts(source, target_rows, batch_rows=100):
    batches = [b for part in source.parts(target_rows) for b in source.batches(part, batch_rows)]
    assert all(0 < b.num_rows <= batch_rows for b in batches)
    return pa.Table.from_batches(batches, schema=source.schema)


# -- what is stored comes back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_rows", [7, 300, 400, 10_000])
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.arrows", "t.feather"])
def test_a_typed_file_comes_back_exactly_whatever_its_parts(tmp_path, name, target_rows):
    table = rich_table()
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(table, path, row_group_size=300)
    elif name.endswith("arrows"):
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=300)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if name.endswith("feather") else None)
        with pa.ipc.new_file(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=300)
    if name.endswith("parquet"):
        table = pq.read_table(path)  # Parquet renames the items of lists; what it reads as is what is stored
        assert isinstance(table.schema.field("kind").type, pa.DictionaryType)
    source = open_source(str(path))
    assert source.schema.equals(table.schema, check_metadata=True)
    back = read_in_parts(source, target_rows)
    back.validate(full=True)
    assert back.schema.equals(table.schema, check_metadata=True)
    assert back.equals(table)
    assert source.files[0].n_rows == 1000 and source.raw_bytes == os.path.getsize(path)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "txt.csv"])
def test_delimited_text_is_typed_by_its_values(tmp_path, suffix):
    separator = {"tsv": "\t", "txt.csv": ";"}.get(suffix, ",")
    rows = [["n", "x", "when", "text"], ["1", "0.5", "2020-01-02 03:04:05", '"a\nb"'], ["", "nan", "", ""]]
    text = "".join(separator.join(row) + "\n" for row in rows).encode()
    (tmp_path / f"t.{suffix}").write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    source = open_source(str(tmp_path / f"t.{suffix}"))
    assert [str(f.type) for f in source.schema] == ["int64", "double", "timestamp[s]", "string"]
    assert source.files[0].n_rows is None, "text tells only when read"
    table = source.table()
    assert table["n"].to_pylist() == [1, None] and table["text"].to_pylist() == ["a\nb", ""]
    assert source.files[0].n_rows == 2
    assert read_in_parts(source, 1).equals(table)


def test_json_lines_may_miss_keys_in_any_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"i": 1, "o": {"x": 1.5}}\n{"i": 2}\n')
    (tmp_path / "b.jsonl").write_text('{"i": 3, "o": {"x": 1, "y": "z"}, "new": null}\n'.replace("1,", "1.0,"))
    source = open_source(str(tmp_path))
    assert source.table().to_pylist() == [
        {"i": 1, "o": {"x": 1.5, "y": None}, "new": None},
        {"i": 2, "o": None, "new": None},
        {"i": 3, "o": {"x": 1.0, "y": "z"}, "new": None},
    ]


def test_text_larger_than_a_block_is_streamed_and_divided(tmp_path):
    n_rows = 300_000
    with open(tmp_path / "big.csv", "w") as file:
        file.write("i,half,late\n")
        file.writelines(f"{i},{i / 2},{i if i > 250_000 else ''}\n" for i in range(n_rows))
    source = open_source(str(tmp_path / "big.csv"))
    assert str(source.schema.field("late").type) == "int64", "a column empty at first is looked at for longer"
    table = read_in_parts(source, 100_000, batch_rows=65_536)
    assert table["i"].to_pylist() == list(range(n_rows)) and table["late"].null_count == 250_001
    assert [part.n_rows for part in source.parts(100_000)] == [100_000] * 3


DTYPES = ["?", "u1", "<i2", ">i4", "<i8", "<u8", "<f2", ">f4", "<f8", "<M8[ns]", "<m8[s]", ">M8[ms]", "<M8[D]", ">M8[D]"]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(DTYPES), st.lists(st.integers(1, 4), max_size=3), st.integers(0, 9), st.booleans(), st.data())
def test_arrays_come_back_with_dtype_shape_and_order(tmp_path_factory, dtype, row_shape, n_rows, fortran, data):
    dtype = np.dtype(dtype)
    raw = data.draw(st.integers(0, 2**32 - 1))
    shape = (n_rows, *row_shape)
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    content = np.random.default_rng(raw).integers(0, 2 if dtype.kind == "b" else 256, n_bytes, dtype=np.uint8)
    array = content.view(dtype).reshape(shape)
    if dtype.newbyteorder("=") == "M8[D]":  # as far as a date reaches, and no date
        days = content.view(np.int32).reshape(*shape, 2)
        array = np.where(days[..., 1] % 5 == 0, np.datetime64("NaT", "D"), days[..., 0].astype("M8[D]")).astype(dtype)
    array = np.asfortranarray(array) if fortran else array
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, array)
    source = open_source(str(path))
    table = read_in_parts(source, 4, batch_rows=3) if n_rows else source.table()
    assert table.equals(to_arrow(array)) or dtype.kind == "f"
    back = to_numpy(table)
    assert back.dtype == dtype and back.shape == shape
    np.testing.assert_array_equal(back, array)
    again = path.with_name("b.npy")
    np.save(again, back)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("days", [2**31, -(2**31) - 1])
def test_days_that_no_date_of_arrow_reaches_are_refused_not_wrapped_round(tmp_path, days):
    np.save(tmp_path / "a.npy", np.array([0, days]).astype("M8[D]"))
    with pytest.raises(BadInput, match=r"a\.npy: holds days more than 5\.8 million years away"):
        open_source(str(tmp_path / "a.npy")).table()


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("/tmp/latentpack-was-tricked",))


def _npy_header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.array([Trap()], dtype=object), "object array is a pickle"),
        (np.array(3.0), "0-d"),
        (np.zeros(3, "c16"), "dtype complex128"),
        (np.zeros(3, [("a", "i4"), ("b", "f4")]), "no Arrow type"),
        (np.zeros(3, "M8[h]"), r"dtype datetime64\[h\] has no Arrow type; save it in one of the units D, s, ms, us, ns"),
        (np.zeros(3, "M8[10s]"), r"dtype datetime64\[10s\] has no Arrow type"),
        (np.zeros(3, "M8"), "dtype datetime64 has no Arrow type"),
        (np.zeros(3, "m8[D]"), r"dtype timedelta64\[D\] has no Arrow type; save it in one of the units s, ms, us, ns"),
        (np.zeros((3, 0)), "hold no values"),
        (_npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (10,), }") + b"\0" * 79, "promises"),
        (_npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**9,), }"), "not readable as NPY"),
        (_npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,), }"), "promises"),
        (_npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"), "negative"),
        (_npy_header("__import__('os').mkdir('/tmp/latentpack-was-tricked')"), "not readable as NPY"),
        (_npy_header("(" * 3000), "not readable as NPY"),
        (b"\x93NUMPY\x09\x00", "version"),
        (b"\x93NUM", "not readable as NPY"),
    ],
)
def test_a_hostile_or_odd_array_file_is_refused_and_executes_nothing(tmp_path, content, reason):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(BadInput, match=reason) as caught:
        open_source(str(path))
    assert "a.npy" in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("/tmp/latentpack-was-tricked").exists()


# -- which files ------------------------------------------------------------------------------------------------------


def flights(folder, *numbers, **changes):
    for number in numbers:
        columns = {"month": pa.array([number] * 10, pa.int64()), "row": pa.array(range(10), pa.int32())} | changes
        pq.write_table(pa.table(columns), folder / f"m{number:02d}.parquet")


def test_a_folder_is_its_data_files_in_order_without_hidden_files_and_companions(tmp_path):
    flights(tmp_path, 3, 1, 2)
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / "._m01.parquet").write_bytes(b"mac")
    (tmp_path / ".m01.parquet.crc").write_bytes(b"crc")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.parquet").write_bytes(b"no")
    for uri in (str(tmp_path), str(tmp_path) + "/", f"file://{tmp_path}"):
        assert [f.path for f in open_source(uri).files] == ["m01.parquet", "m02.parquet", "m03.parquet"]


def test_a_glob_takes_the_matches_and_a_name_with_brackets_is_still_a_name(tmp_path):
    flights(tmp_path, 1, 2, 10)
    (tmp_path / "sub").mkdir()
    os.rename(tmp_path / "m10.parquet", tmp_path / "sub" / "m10.parquet")
    assert [f.path for f in open_source(f"{tmp_path}/m0[12].parquet").files] == ["m01.parquet", "m02.parquet"]
    assert [f.path for f in open_source(f"{tmp_path}/**/*.parquet").files][-1] == "sub/m10.parquet"
    os.rename(tmp_path / "m01.parquet", tmp_path / "m[1].parquet")
    assert [f.path for f in open_source(f"{tmp_path}/m[1].parquet").files] == ["m[1].parquet"]


def test_a_file_without_a_telling_name_is_known_by_its_first_bytes(tmp_path):
    flights(tmp_path, 1)
    os.rename(tmp_path / "m01.parquet", tmp_path / "part-0000")
    assert open_source(str(tmp_path)).files[0].format == "parquet"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.parquet", b"PAR1 this is not parquet PAR1", "not readable as Parquet"),
        ("a.parquet", b"", "empty"),
        ("a.arrow", b"ARROW1\0\0garbage", "not readable as Arrow IPC"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"a,b\n1,2\n3\n", "not readable as CSV"),
        ("a.csv", b"a,b,a\n1,2,3\n", "duplicate column names 'a'"),
        ("a.jsonl", b'{"a": 1}\nnot json\n', "not readable as JSON lines"),
        ("a.xlsx", b"PK\x03\x04", "neither Parquet, CSV"),
    ],
)
def test_an_unreadable_file_is_one_line_that_names_it(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=reason) as caught:
        open_source(str(tmp_path)).table()
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_path_an_empty_folder_and_a_glob_without_matches_are_bad_input(tmp_path):
    for name, reason in (("no", "no such file"), ("", "holds no data"), ("*.csv", "no file")):
        with pytest.raises(BadInput, match=reason):
            open_source(str(tmp_path / name))


def test_duplicate_columns_in_parquet_are_named(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["x", "y", "x"])
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(BadInput, match=r"d\.parquet: duplicate column names 'x'"):
        open_source(str(tmp_path / "d.parquet"))


@pytest.mark.parametrize("n_kept", [0.3, 0.6, 0.9])
def test_corruption_inside_a_file_is_bad_input_naming_it(tmp_path, n_kept):
    pq.write_table(rich_table(4000), tmp_path / "t.parquet", compression="zstd")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    at = int(len(data) * n_kept * 0.8)
    data[at : at + 64] = b"\xff" * 64
    (tmp_path / "t.parquet").write_bytes(data)
    try:
        open_source(str(tmp_path / "t.parquet")).table()
    except BadInput as error:
        assert "t.parquet" in str(error) and "\n" not in str(error)


# -- one schema -------------------------------------------------------------------------------------------------------


def test_a_disagreement_names_file_field_and_both_types(tmp_path):
    flights(tmp_path, 1)
    flights(tmp_path, 2, row=pa.array([0.5] * 10, pa.float64()))
    with pytest.raises(BadInput, match=r"m02\.parquet: field 'row' is double, but int32 in .*m01\.parquet; --widen"):
        open_source(str(tmp_path))
    source = open_source(str(tmp_path), widen=True)
    assert source.table()["row"].to_pylist() == [*map(float, range(10)), *[0.5] * 10]


def test_a_missing_an_extra_and_a_moved_field_are_told_apart(tmp_path):
    flights(tmp_path, 1)
    for columns, reason in (
        ({"month": [1]}, "'row' is missing"),
        ({"month": [1], "row": [1], "more": [1]}, "'more' is new"),
        ({"row": [1], "month": [1]}, "another place"),
    ):
        pq.write_table(pa.table(columns), tmp_path / "m02.parquet")
        with pytest.raises(BadInput, match=reason):
            open_source(str(tmp_path), widen=True)


def test_a_disagreement_about_nulls_says_both_sides_in_full(tmp_path):
    for name, nullable in (("a", False), ("b", True)):
        schema = pa.schema([pa.field("x", pa.int64(), nullable=nullable)])
        pq.write_table(pa.table({"x": [1]}, schema=schema), tmp_path / f"{name}.parquet")
    said = r"b\.parquet: field 'x' is int64 \(may be null\), but int64 \(never null\) in .*a\.parquet; --widen"
    with pytest.raises(BadInput, match=said):
        open_source(str(tmp_path))


def with_metadata(folder, name, *, schema=None, x=None, item=None):
    fields = [pa.field("x", pa.int64(), metadata=x), pa.field("y", pa.list_(pa.field("item", pa.int8(), metadata=item)))]
    pq.write_table(pa.table({"x": [1], "y": [[1]]}, schema=pa.schema(fields, metadata=schema)), folder / f"{name}.parquet")


def test_metadata_that_is_not_kept_is_told_once_a_field(tmp_path):
    with_metadata(tmp_path, "a", schema={"k": "1"}, x={"u": "m"}, item={"u": "s"})
    with_metadata(tmp_path, "b", schema={"k": "1"}, x={"u": "km"}, item={"u": "h"})
    with_metadata(tmp_path, "c", x={"u": "mm"})
    source = open_source(str(tmp_path))
    assert source.schema.field("x").metadata == {b"u": b"m"}
    x, y, schema = source.notes
    assert "b.parquet: field 'x' has other metadata" in x and "a.parquet" in x
    assert "b.parquet: field 'y'" in y and "c.parquet: the schema" in schema


def test_what_libraries_note_for_themselves_is_no_difference(tmp_path):
    with_metadata(tmp_path, "a", schema={"pandas": "1", "k": "1"}, x={"PARQUET:field_id": "7"})
    with_metadata(tmp_path, "b", schema={"pandas": "2", "k": "1"})
    frame = pa.table({"x": [1]}).to_pandas()
    assert open_source(str(tmp_path / "[ab].parquet")).notes == []
    (tmp_path / "frames").mkdir()
    for start in (0, 5):
        pq.write_table(pa.Table.from_pandas(frame.set_index(frame.index + start)), tmp_path / "frames" / f"{start}.parquet")
    assert open_source(str(tmp_path / "frames")).notes == []


@pytest.mark.parametrize(
    ("a", "b", "joined"),
    [
        (pa.int32(), pa.int64(), "int64"),
        (pa.uint16(), pa.int8(), "int32"),
        (pa.int8(), pa.float32(), "float"),
        (pa.float32(), pa.int32(), "double"),
        (pa.null(), pa.string(), "string"),
        (pa.float32(), pa.float64(), "double"),
        (pa.uint64(), pa.int64(), None),
        (pa.string(), pa.int64(), None),
        (pa.timestamp("s"), pa.int64(), None),
    ],
)
def test_widening_is_asked_for_and_stays_numeric(tmp_path, a, b, joined):
    for name, kind in (("a", a), ("b", b)):
        with pa.ipc.new_file(tmp_path / f"{name}.arrow", pa.schema({"x": kind})) as writer:
            writer.write_table(pa.table({"x": pa.array([None], kind)}))
    with pytest.raises(BadInput, match=r"b\.arrow: field 'x'"):
        open_source(str(tmp_path))
    if joined is None:
        with pytest.raises(BadInput, match=r"b\.arrow: field 'x'"):
            open_source(str(tmp_path), widen=True)
    else:
        assert str(open_source(str(tmp_path), widen=True).schema.field("x").type) == joined


def test_widening_that_would_change_a_value_is_refused_at_that_file(tmp_path):
    pq.write_table(pa.table({"x": pa.array([2**53 + 1])}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": pa.array([0.5])}), tmp_path / "b.parquet")
    with pytest.raises(BadInput, match=r"a\.parquet: field 'x' cannot become double exactly"):
        open_source(str(tmp_path), widen=True).table()


def test_a_csv_file_that_turns_to_another_type_is_bad_input(tmp_path):
    (tmp_path / "a.csv").write_text("x\n" + "1\n" * 3_000_000 + "oops\n")
    with pytest.raises(BadInput, match=r"a\.csv: field 'x', some way after row \d{6,}: not int64: invalid value 'oops'; its type"):
        for _ in open_source(str(tmp_path)).batches():
            pass


# -- parts and samples ------------------------------------------------------------------------------------------------


def test_parts_join_small_files_and_divide_large_ones_at_row_groups():
    groups = {"a": [10], "b": [20], "c": [90], "d": [60, 60, 60], "e": [250], "empty": [], "f": [1]}
    parts = divide("s", groups, 100)
    assert [p.slices for p in parts] == [
        (("a", 0, 10), ("b", 0, 20)),
        (("c", 0, 90),),
        (("d", 0, 60),),
        (("d", 60, 120),),
        (("d", 120, 180),),
        (("e", 0, 83),),
        (("e", 83, 166),),
        (("e", 166, 250),),
        (("f", 0, 1),),
    ]
    assert len({p.name for p in parts}) == len(parts) and parts == divide("s", groups, 100)
    assert [SourcePart.from_json(json.loads(json.dumps(p.to_json()))) for p in parts] == parts


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 500), max_size=5), max_size=6), st.integers(1, 300))
def test_parts_hold_every_row_once_in_order_and_never_more_than_asked(lengths, target_rows):
    groups = {f"f{i}": rows for i, rows in enumerate(lengths)}
    parts = divide("s", groups, target_rows)
    rows = [(path, r) for part in parts for path, a, b in part.slices for r in range(a, b)]
    assert rows == [(path, r) for path, n in groups.items() for r in range(sum(n))]
    assert all(0 < part.n_rows <= target_rows for part in parts)
    assert len({part.name for part in parts}) == len(parts)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 10_000), st.integers(1, 9_999), st.integers(1, 500), st.integers(0, 5))
def test_runs_are_disjoint_ascending_and_one_to_a_stretch(total, n_rows, run_rows, seed):
    n_rows = min(n_rows, total - 1)
    runs = draw_runs(total, n_rows, run_rows, seed)
    n_runs = max(1, n_rows // run_rows)
    assert len(runs) == n_runs
    for i, (a, b) in enumerate(runs):
        assert total * i // n_runs <= a < b <= total * (i + 1) // n_runs
    assert n_rows - n_runs <= sum(b - a for a, b in runs) <= n_rows


@pytest.mark.parametrize("name", ["parquet", "csv", "arrow", "npy"])
def test_a_sample_is_runs_of_rows_from_everywhere_and_the_same_for_a_seed(tmp_path, name):
    n_rows, n_files = 5000, 4
    for i in range(n_files):
        rows = np.arange(i * n_rows, (i + 1) * n_rows)
        table = pa.table({"value": rows})
        path = str(tmp_path / f"{i}.{name}")
        if name == "parquet":
            pq.write_table(table, path, row_group_size=700)
        elif name == "csv":
            (tmp_path / f"{i}.csv").write_text("value\n" + "".join(f"{r}\n" for r in rows))
        elif name == "arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=700)
        else:
            np.save(path, rows)
    source = open_source(str(tmp_path))
    sample = source.sample(2000, seed=1, run_rows=100)
    rows = sample.table["value"].to_numpy()
    assert len(rows) == sum(sample.runs) == 2000 and len(sample.runs) == 20
    assert set(rows // n_rows) == set(range(n_files))
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    assert set(breaks) <= set(np.cumsum(sample.runs)) and (np.diff(rows) > 0).all()
    assert source.sample(2000, seed=1, run_rows=100).table.equals(sample.table)
    assert not source.sample(2000, seed=2, run_rows=100).table.equals(sample.table)
    everything = source.sample(10**9, seed=0)
    assert everything.table["value"].to_pylist() == list(range(n_files * n_rows)) and everything.runs == (20_000,)


def test_a_sample_reads_only_the_row_groups_it_needs_and_keeps_only_its_rows(tmp_path):
    table = pa.table({"x": np.random.default_rng(0).normal(size=200_000)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1000)
    source = open_source(str(tmp_path / "t.parquet"))
    sample = source.sample(2000, seed=0, run_rows=500)
    assert source.meter.bytes_read < 0.1 * source.raw_bytes
    assert sum(c.get_total_buffer_size() for c in sample.table["x"].chunks) < 4 * sample.table.nbytes


def test_an_empty_dataset_has_a_schema_and_no_parts(tmp_path):
    table = rich_table(1000).slice(0, 0)
    pq.write_table(table, tmp_path / "t.parquet")
    source = open_source(str(tmp_path / "t.parquet"))
    assert source.parts(10) == [] and list(source.batches()) == []
    sample = source.sample(10, 0)
    assert sample.runs == () and sample.table.schema.equals(source.schema, check_metadata=True)


def test_only_restricts_parts_and_fingerprints_to_new_files(tmp_path):
    flights(tmp_path, 1, 2, 3)
    source = open_source(str(tmp_path))
    assert [p.slices for p in source.parts(100, only={"m03.parquet"})] == [(("m03.parquet", 0, 10),)]
    assert [f.path for f in source.fingerprints({"m02.parquet"})] == ["m02.parquet"]
    assert [f.digest is not None for f in source.files] == [False, True, False]
    with pytest.raises(BadInput, match=r"no file 'm99\.parquet'"):
        source.parts(100, only={"m99.parquet"})


def test_a_file_that_changes_under_the_reader_is_noticed(tmp_path):
    flights(tmp_path, 1, 2)
    source = open_source(str(tmp_path))
    parts = source.parts(10)
    os.utime(tmp_path / "m02.parquet", (1, 1))
    assert sum(b.num_rows for b in source.batches(parts[0])) == 10
    with pytest.raises(BadInput, match=r"m02\.parquet: changed"):
        list(source.batches(parts[1]))
    os.remove(tmp_path / "m01.parquet")
    with pytest.raises(BadInput, match=r"m01\.parquet: disappeared"):
        source.fingerprints()


# -- remote -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket():
    return f"memory://{uuid.uuid4().hex}"


def put(uri, content):
    with fsspec.open(uri, "wb") as file:
        file.write(content)


def test_a_remote_source_is_outlined_by_ranges_fetched_once_and_cleaned_up(bucket, tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        pq.write_table(pa.table({"x": rng.normal(size=100_000)}), tmp_path / f"{name}.parquet", row_group_size=10_000)
        put(f"{bucket}/data/{name}.parquet", (tmp_path / f"{name}.parquet").read_bytes())
    put(f"{bucket}/data/_SUCCESS", b"")
    with open_source(f"{bucket}/data") as source:
        assert source.meter.bytes_read < 0.2 * source.raw_bytes
        before = source.meter.snapshot()
        local = open_source(str(tmp_path))
        assert source.table().equals(local.table())
        assert [f.digest for f in source.fingerprints()] == [f.digest for f in local.fingerprints()]
        assert source.sample(1000, 0).table.equals(local.sample(1000, 0).table)
        assert (source.meter.snapshot() - before).bytes_read == source.raw_bytes
        staged = Path(source._staging._directory)
        assert len(list(staged.iterdir())) == 4
    assert not staged.exists()


def test_a_given_staging_folder_serves_the_next_process_without_fetching_again(bucket, tmp_path):
    put(f"{bucket}/a.csv", b"x\n1\n2\n")
    first = open_source(f"{bucket}/*.csv", staging_dir=str(tmp_path))
    assert first.table()["x"].to_pylist() == [1, 2]
    digest = first.fingerprints()[0].digest
    first.close()
    second = open_source(f"{bucket}/*.csv", staging_dir=str(tmp_path))
    before = second.meter.snapshot()
    assert second.table()["x"].to_pylist() == [1, 2] and second.fingerprints()[0].digest == digest
    assert (second.meter.snapshot() - before).bytes_read == 0


@pytest.mark.parametrize("name", ["a.npy", "a.arrow", "a.jsonl.gz"])
def test_every_format_is_read_remotely(bucket, tmp_path, name):
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, np.arange(12.0).reshape(4, 3))
    elif name.endswith("arrow"):
        with pa.ipc.new_file(path, pa.schema({"x": pa.int64()})) as writer:
            writer.write_table(pa.table({"x": [1, 2]}))
    else:
        path.write_bytes(gzip.compress(b'{"x": 1}\n{"x": 2}\n'))
    put(f"{bucket}/{name}", path.read_bytes())
    with open_source(f"{bucket}/{name}") as source:
        assert source.table().equals(open_source(str(path)).table()) and source.n_rows() in (2, 4)


def test_the_bundled_flights_are_whole():
    folder = Path(__file__).resolve().parent.parent / "benchmarks" / "data" / "flights"
    source = open_source(str(folder))
    assert source.n_rows() == 336_776 and len(source.files) == 12 and len(source.schema) == 19
    assert source.raw_bytes < 6_000_000 and max(f.n_bytes for f in source.files) < 2 << 20


def test_a_feather_file_of_the_first_version_is_named_as_such(tmp_path):
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(60) + b"FEA1")
    with pytest.raises(BadInput, match=r"old\.feather: not readable as Arrow IPC: it is Feather of version 1"):
        open_source(str(tmp_path / "old.feather"))


def test_a_link_is_read_as_what_it_leads_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "real" / "x.parquet")
    os.utime(tmp_path / "real" / "x.parquet", (1e9, 1e9))
    (tmp_path / "source" / "link.parquet").symlink_to(tmp_path / "real" / "x.parquet")
    for uri in (tmp_path / "source", tmp_path / "source" / "link.parquet", tmp_path / "source" / "*.parquet"):
        with open_source(str(uri)) as source:
            assert source.table().num_rows == 2 and source.files[0].mtime == 1e9
    os.utime(tmp_path / "real" / "x.parquet", (2e9, 2e9))
    with open_source(str(tmp_path / "source")) as source:
        os.utime(tmp_path / "real" / "x.parquet", (1e9, 1e9))
        with pytest.raises(BadInput, match="changed while the source was read"):
            source.table()
    (tmp_path / "source" / "lost.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"lost\.parquet: a link to nothing"):
        open_source(str(tmp_path / "source"))
    (tmp_path / "source" / "lost.parquet").unlink()
    (tmp_path / "source" / "folder").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(BadInput, match="folder: links to folders are not followed"):
        open_source(str(tmp_path / "source"))


def test_rows_without_columns_are_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n{}\n")
    with pytest.raises(BadInput, match="have no columns"):
        open_source(str(tmp_path / "x.jsonl"))


@pytest.mark.parametrize(
    ("name", "text"), [("x.csv", "a\n10000000000000007919\n1\n"), ("x.jsonl", '{"a":10000000000000007919}\n{"a":1}\n')]
)
def test_integers_with_more_digits_than_their_type_holds_are_noted_once(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with open_source(str(tmp_path / name)) as source:
        assert source.table().equals(source.table())
        (note,) = source.notes
    assert "field 'a' is read as double" in note and "2^53" in note


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (b"a\n1\n\n3\n", [1, None, 3]),
        (b"a\r\n1\r\n\r\n3", [1, None, 3]),
        (b"\n\na\n\n\n2\n\n", [None, None, 2, None]),
        (b'"a"\n"x"\n\n""\nNA\n', ["x", None, "", "NA"]),
    ],
)
def test_an_empty_line_of_one_column_is_a_null(tmp_path, content, values):
    (tmp_path / "a.csv").write_bytes(content)
    source = open_source(str(tmp_path / "a.csv"))
    assert source.table().column("a").to_pylist() == values
    assert source.n_rows() == len(values)
    rows = [row for part in source.parts(2) for row in source.table(part).column("a").to_pylist()]
    assert rows == values


def test_one_column_written_as_csv_has_as_many_rows_read_back(tmp_path):
    for column in (pa.array([1, None, 3, None]), pa.array(["x", None, "", "y"])):
        pyarrow.csv.write_csv(pa.table({"a": column}), tmp_path / "a.csv")
        assert open_source(str(tmp_path / "a.csv")).table().column("a").to_pylist() == column.to_pylist()


def test_an_empty_line_between_rows_of_several_columns_is_no_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\na,b\n1,2\n\n3,4\n\n")
    assert open_source(str(tmp_path / "a.csv")).table().to_pydict() == {"a": [1, 3], "b": [2, 4]}
