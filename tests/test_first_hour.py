"""What somebody meets in the first hour with the command line, and data as it lies about."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import cli
from storage import open_archive


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


def told(caplog, source):
    """The warnings of a run over text that is written to a file first."""
    caplog.clear()
    assert cli.main(["run", str(source), f"archive of {source.name}", "--time-budget", "1"]) == 0
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_zeros_in_front_of_numbers_and_names_that_are_numbers_are_told_of_once(place, caplog):
    (place / "zips").mkdir()
    for name in "ab":
        (place / "zips" / f"{name}.csv").write_text('zip,n,x,when\n"01234",0,0.5,2024-01-01\n99999,10,00.25,2024-01-02\n')
    lines = told(caplog, place / "zips")
    assert sorted(line.partition("zips/")[2] for line in lines) == [
        "a.csv: field 'x' is read as double: the zeros in front of its numbers go; as text only from Parquet",
        "a.csv: field 'zip' is read as int64: the zeros in front of its numbers go; as text only from Parquet",
    ]
    (place / "bare.csv").write_text("1,2.5,-3,4\n5,6,7,8\n")
    (line,) = told(caplog, place / "bare.csv")
    assert line.endswith("bare.csv: its first line (1, 2.5, -3, …) is taken for the names of its columns")


@pytest.mark.parametrize("text", ["a,b\n0,0.5\n-1,1e-05\n,\n", 'a,b\n"x\n001",1\n', "a\n", "a,b\n1,nan\n2,inf\n"])
def test_other_text_is_told_nothing_of(place, caplog, text):
    (place / "plain.csv").write_text(text)
    assert told(caplog, place / "plain.csv") == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (' \n[{"a": 1}]', "is one JSON array; JSON lines are objects, one a line"),
        ("1\n2\n", "does not begin with an object"),
        ('"text"\n', "does not begin with an object"),
    ],
)
def test_json_that_is_no_lines_of_objects_is_refused_by_what_it_is(place, capsys, text, what):
    (place / "x.json").write_text(text)
    assert f"x.json: {what}" in refused(capsys, "run", "x.json", "archive", code=3)
    (place / "x.json").write_text('\ufeff\n {"a": 1}\n')
    assert cli.main(["run", "x.json", "archive", "--time-budget", "1", "--quiet"]) == 0


def test_types_that_parquet_does_not_keep_are_told_of(place, caplog):
    kinds = {"day": pa.date64(), "at": pa.time32("s"), "when": pa.timestamp("s", "UTC"), "n": pa.int8(), "text": pa.large_string()}
    table = pa.table({name: pa.array(["x"] if name == "text" else [0], kind) for name, kind in kinds.items()})
    with pa.OSFile("raw.arrow", "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert cli.main(["run", "raw.arrow", "archive", "--time-budget", "1", "--quiet"]) == 0
    caplog.clear()
    for out in ("back.arrow", "back.parquet"):
        assert cli.main(["read", "archive", out]) == 0
    wanted = ["column 'day' is date32[day] in Parquet, not date64[ms], as 2 others are of another type; .arrow keeps the types"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == wanted
    assert pa.ipc.open_file("back.arrow").read_all().equals(table)
    assert pq.read_table("back.parquet").cast(table.schema).equals(table)
