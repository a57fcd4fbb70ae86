"""What somebody meets in the first hour with the command line, and data as it lies about."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import cli
from storage import open_archive


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(table):
    """The archive of a table that was written as Parquet."""
    pq.write_table(table, "raw.parquet")
    assert cli.main(["run", "raw.parquet", "archive", "--time-budget", "1", "--quiet"]) == 0
    return open_archive("archive")


def test_maps_come_back_as_arrow_itself_reads_their_schema(place):
    """What the entries of a map are called is lost in Arrow's own serialisation; nullability and metadata are not."""
    ids = [{b"PARQUET:field_id": b"%d" % k} for k in (1, 2, 3)]
    kind = pa.map_(pa.field("k", pa.string(), nullable=False, metadata=ids[1]), pa.field("v", pa.int32(), nullable=False, metadata=ids[2]))
    items = pa.array([[("a", 1), ("b", 2)], None, []] * 20, kind)
    archive = stored(pa.Table.from_arrays([items], schema=pa.schema([pa.field("m", kind, metadata=ids[0])])))
    raw, back = pq.read_table("raw.parquet"), archive.to_table()
    assert back.equals(raw) and back.schema.equals(pa.ipc.read_schema(raw.schema.serialize()), check_metadata=True)
    field = back.schema.field("m")
    assert [(item.nullable, item.metadata) for item in (field, field.type.key_field, field.type.item_field)] == [
        (True, ids[0]), (False, ids[1]), (False, ids[2]),
    ]  # fmt: skip
    assert cli.main(["read", "archive", "back.parquet"]) == 0
    assert pq.read_table("back.parquet").schema.equals(raw.schema, check_metadata=True)


def refused(capsys, *words, code=2):
    """The one line with which the command is refused."""
    try:
        assert cli.main(list(words)) == code
    except SystemExit as stop:
        assert stop.code == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("latentpack: error: ")
    return said


def test_a_glob_that_the_shell_has_expanded_is_told_to_be_quoted(place, capsys):
    said = refused(capsys, "run", *(f"data/{k}.csv" for k in range(5000)), "archive")
    assert said == (
        "latentpack: error: unrecognized arguments: data/2.csv data/3.csv data/4.csv and 4,996 more; SOURCE is one file, folder or glob, "
        "and a glob needs quotes: 'data/*.csv' (see latentpack --help)"
    )
    assert "quotes" not in refused(capsys, "run", "data", "archive", "--tolerence", "x=1")


def test_a_server_that_is_met_at_once_and_does_not_answer_is_named(place, capsys):
    said = refused(capsys, "run", "ftp://127.0.0.1:9/data", "archive", code=3)
    assert "ftp://127.0.0.1:9/data: the storage does not answer (Connection refused)" in said


@pytest.mark.parametrize("words", [["read"], ["sample", "--rows", "3"]])
def test_a_result_is_not_put_inside_the_archive(place, capsys, words):
    stored(pa.table({"x": range(30)}))
    (place / "link").symlink_to("archive")
    for out in ("archive/x.parquet", "link/shards/../x.parquet"):
        assert f"{out}: is inside the archive archive; put it elsewhere" in refused(capsys, words[0], "archive", out, *words[1:])
    assert not (place / "archive" / "x.parquet").exists()
    assert cli.main([words[0], "archive", "archive.parquet", *words[1:]]) == 0
