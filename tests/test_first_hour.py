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
