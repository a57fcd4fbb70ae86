"""Dictionaries that are too many values together for their indices: joined, cut again, stored, drawn from, written to files."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from flows import reading
from flows.launch import run_pipeline
from flows.settings import RunRequest
from flows.verify import verify_archive
from storage import open_archive
from storage.sources import open_source
from vae_core.columns.joining import alike, fitted, has_narrow_dictionary, one_array, wide_type
from vae_core.errors import BadInput, UsageError

SHAPES = ("flat", "struct", "list", "fixed", "ordered", "numbers", "nested", "nulls")


def words(prefix: str, n_values: int = 100, n_rows: int = 300, index_type: pa.DataType | None = None) -> pa.DictionaryArray:
    """Rows of n_values values, one of them null."""
    index = pa.array([None if i == 5 else i * 7 % n_values for i in range(n_rows)], index_type or pa.int8())
    return pa.DictionaryArray.from_arrays(index, pa.array([f"{prefix}{i}" for i in range(n_values)]))


def shaped(shape: str, prefix: str, n_values: int = 100) -> pa.Array:
    column = words(prefix, n_values)
    match shape:
        case "struct":
            missing = pa.array([i == 7 for i in range(300)])
            return pa.StructArray.from_arrays([column, pa.array(range(300))], ["word", "place"], mask=missing)
        case "list":
            return pa.ListArray.from_arrays(pa.array([0, None, *range(2, 301)], pa.int32()), column)
        case "fixed":
            return pa.FixedSizeListArray.from_arrays(column, 3)
        case "ordered":
            return pa.DictionaryArray.from_arrays(column.indices, column.dictionary, ordered=True)
        case "numbers":
            return pa.DictionaryArray.from_arrays(column.indices, pa.array([ord(prefix) * 1000 + i for i in range(n_values)]))
        case "nested":
            values = [{"word": value} for value in column.dictionary.to_pylist()]
            return pa.DictionaryArray.from_arrays(column.indices, pa.array(values))
        case "nulls":
            return pa.DictionaryArray.from_arrays(column.indices, pa.array([None, *column.dictionary.to_pylist()[1:]]))
    return column


def table(prefix: str, n_values: int = 100, shape: str = "flat") -> pa.Table:
    column = shaped(shape, prefix, n_values)
    return pa.table({"word": column, "n": pa.array(range(len(column)))})


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_with_too_many_values_together_are_joined_and_cut_again(shape):
    column = pa.chunked_array([shaped(shape, prefix) for prefix in "abc"])
    whole = one_array(column)
    assert whole.type == wide_type(column.type) != column.type and alike(whole.type, column.type)
    assert whole.to_pylist() == column.to_pylist()
    back = fitted(whole, column.type)
    assert back.type == column.type and back.to_pylist() == column.to_pylist()
    back.validate(full=True)
    assert fitted(whole.slice(310, 20), column.type).to_pylist() == column.to_pylist()[310:330]


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_that_fit_are_joined_in_their_own_type(shape):
    column = pa.chunked_array([shaped(shape, prefix, 40) for prefix in "ab"])
    whole = one_array(column)
    assert whole.type == column.type and whole.to_pylist() == column.to_pylist()


def test_a_row_of_more_values_than_its_type_holds_is_named():
    kind = pa.list_(pa.dictionary(pa.int8(), pa.string()))
    row = pa.ListArray.from_arrays([0, 200], pa.array([f"v{i}" for i in range(200)]).dictionary_encode())
    with pytest.raises(BadInput, match="more distinct values"):
        fitted(row, kind)


def test_wide_dictionaries_are_left_alone():
    kind = pa.dictionary(pa.int32(), pa.string())
    assert not has_narrow_dictionary(kind) and wide_type(kind) == kind
    assert has_narrow_dictionary(pa.struct([("a", pa.list_(pa.dictionary(pa.uint16(), pa.string())))]))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    (tmp_path / "raw").mkdir()
    return tmp_path


def pack(place, **values) -> None:
    run_pipeline(RunRequest(source=str(place / "raw"), archive=str(place / "archive"), time_budget_s=1, preview="off", **values))


def check(place, expected: pa.Table) -> None:
    """The archive holds the table under its schema, is proved against its source, and can be drawn from."""
    found = open_archive(str(place / "archive")).to_table()
    found.validate(full=True)
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.to_pylist() == expected.to_pylist()
    proof = verify_archive(str(place / "archive"), str(place / "raw"))
    assert (proof["violations"], proof["mismatches"], proof["rows"]) == (0, 0, expected.num_rows)
    reading.export_sample(str(place / "archive"), place / "drawn.parquet", n_rows=300, seed=1)
    drawn = pq.read_table(place / "drawn.parquet")
    assert drawn.num_rows == 300 and drawn.schema.equals(expected.schema)
    reading.export(str(place / "archive"), place / "whole.parquet")
    assert pq.read_table(place / "whole.parquet").to_pylist() == expected.to_pylist()


def write(place, name: str, *tables: pa.Table) -> None:
    path = place / "raw" / name
    if path.suffix == ".parquet":
        return pq.write_table(pa.concat_tables(tables), path)
    opened = pa.ipc.new_stream if len(tables) > 1 else pa.ipc.new_file
    with opened(path, tables[0].schema) as writer:
        for item in tables:
            writer.write_table(item)


@pytest.mark.parametrize("shape", ["flat", "struct"])
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_files_of_categories_too_many_together_are_stored_as_they_are(shape, suffix, place):
    tables = [table(prefix, shape=shape) for prefix in "abc"]
    for i, item in enumerate(tables):
        write(place, f"{i}.{suffix}", item)
    pack(place)
    check(place, pa.concat_tables(tables))


def test_one_stream_that_replaces_its_dictionary_is_stored_as_it_is(place):
    tables = [table("a"), table("b")]
    write(place, "all.arrow", *tables)
    pack(place)
    check(place, pa.concat_tables(tables))


def test_categories_may_become_too_many_one_file_after_another_and_be_learned_anew(place):
    tables = [table("a"), table("b")]
    for i, item in enumerate(tables):
        write(place, f"{i}.parquet", item)
        pack(place)
    check(place, pa.concat_tables(tables))
    pack(place, retrain=True)
    check(place, pa.concat_tables(tables))


def test_a_sample_of_a_source_keeps_chunks_that_cannot_be_one(place):
    for prefix in "ab":
        write(place, f"{prefix}.parquet", table(prefix))
    with open_source(str(place / "raw")) as source:
        sample = source.sample(10_000, seed=1)
    assert sample.table.schema == table("a").schema and sample.table.num_rows == 600


@pytest.mark.parametrize("shape", ["flat", "struct", "list"])
def test_arrow_files_hold_dictionaries_that_differ_between_batches(shape, tmp_path):
    tables = [table(prefix, 40, shape) for prefix in "abab"]
    whole = pa.concat_tables(tables)
    reading.write_file(tmp_path / "t.arrow", whole.schema, whole.to_batches(), whole.num_rows)
    back = pa.ipc.open_file(tmp_path / "t.arrow").read_all()
    assert back.to_pylist() == whole.to_pylist() and back.schema.equals(whole.schema, check_metadata=True)


def test_an_archive_of_two_runs_is_read_into_arrow(place):
    tables = [table("a", 50), table("b", 60)]
    for i, item in enumerate(tables):
        write(place, f"{i}.parquet", item)
        pack(place)
    reading.export(str(place / "archive"), place / "out.arrow")
    back = pa.ipc.open_file(place / "out.arrow").read_all()
    assert back.to_pylist() == pa.concat_tables(tables).to_pylist() and back.schema == tables[0].schema


@pytest.mark.parametrize("shape", ["flat", "struct"])
def test_dictionaries_no_arrow_file_can_hold_are_refused_in_one_line(shape, tmp_path):
    whole = pa.concat_tables([table(prefix, shape=shape) for prefix in "ab"])
    with pytest.raises(UsageError, match=r"write \.parquet instead"):
        reading.write_file(tmp_path / "t.arrow", whole.schema, whole.to_batches(), whole.num_rows)
    assert not (tmp_path / "t.arrow").exists()


def test_a_dictionary_with_nulls_among_its_values_stays_as_it_is_in_arrow_files(tmp_path):
    whole = table("a", shape="nulls")
    reading.write_file(tmp_path / "t.arrow", whole.schema, whole.to_batches(max_chunksize=100), whole.num_rows)
    assert pa.ipc.open_file(tmp_path / "t.arrow").read_all().equals(whole)
