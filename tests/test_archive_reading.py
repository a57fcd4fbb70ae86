"""What is read back from an archive, and how few bytes move for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from archive_fakes import COARSE, FakeCodec, example_table, open_fake, run_once
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.archive import Archive
from storage.blocks import ShardReader
from storage.objects import ObjectStore
from storage.shards import encode_files
from storage.snapshots import load_manifest
from vae_core.errors import BadInput, CorruptArchive, UsageError
from vae_core.shard import EncodedBlock, EncodedShard

TABLE = example_table(1000)
PARTS = [TABLE.slice(0, 430), TABLE.slice(430, 250), TABLE.slice(680)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = str(tmp_path_factory.mktemp("archive"))
    run_once(ObjectStore.open(root), PARTS)
    return root


def test_the_whole_table_comes_back_with_its_exact_schema(place: str) -> None:
    archive = open_fake(ObjectStore.open(place), TABLE.schema)
    table = archive.to_table()
    assert table.equals(TABLE)
    assert table.schema.equals(TABLE.schema, check_metadata=True)
    assert archive.num_rows == 1000


@given(
    start=st.integers(-1100, 1100) | st.none(),
    stop=st.integers(-1100, 1100) | st.none(),
    columns=st.permutations(TABLE.column_names),
)
@settings(deadline=None, max_examples=50)
def test_any_slice_of_any_columns_is_what_python_slicing_gives(
    place: str, start: Any, stop: Any, columns: list[str]
) -> None:
    archive = open_fake(ObjectStore.open(place), TABLE.schema)
    low, high, _ = slice(start, stop).indices(1000)
    expected = TABLE.select(columns[:2]).slice(low, max(high - low, 0))
    assert archive.to_table(columns[:2], (start, stop)).equals(expected)
    assert archive.to_table(columns=columns[:2], rows=slice(start, stop)).schema.equals(
        expected.schema, check_metadata=True
    )


def test_batches_stream_the_same_rows(place: str) -> None:
    archive = open_fake(ObjectStore.open(place), TABLE.schema)
    batches = list(archive.to_batches(rows=(95, 705)))
    assert pa.Table.from_batches(batches).equals(TABLE.slice(95, 610))
    assert max(batch.num_rows for batch in batches) <= 100


def test_a_preview_comes_from_the_latents_alone(place: str) -> None:
    archive = open_fake(ObjectStore.open(place), TABLE.schema)
    preview = archive.to_table(["a1"], preview=True).column("a1").to_pylist()
    assert preview == [value // COARSE * COARSE for value in TABLE.column("a1").to_pylist()]


def test_pandas_arguments_are_passed_on(place: str) -> None:
    frame = open_fake(ObjectStore.open(place), TABLE.schema).to_pandas(["text"], rows=(0, 5), types_mapper=pd_types)
    assert str(frame["text"].dtype) == "string"


def pd_types(type_: pa.DataType) -> Any:
    import pandas as pd

    return pd.StringDtype() if type_ == pa.string() else None


def test_no_columns_still_count_the_rows(place: str) -> None:
    table = open_fake(ObjectStore.open(place), TABLE.schema).to_table([], rows=(0, 450))
    assert table.num_columns == 0
    assert table.num_rows == 450


def test_an_unknown_column_is_refused_with_the_names_that_are_close(place: str) -> None:
    archive = open_fake(ObjectStore.open(place), TABLE.schema)
    with pytest.raises(UsageError, match=r"no column 'tex'; did you mean 'text'"):
        archive.to_table(["tex"])
    with pytest.raises(UsageError, match="twice"):
        archive.to_batches(["text", "text"])
    with pytest.raises(UsageError, match="step"):
        archive.to_table(rows=slice(0, 10, 2))
    with pytest.raises(UsageError, match="one text"):
        archive.to_table("text")
    with pytest.raises(UsageError, match="whole numbers"):
        archive.to_table(rows=(0.5, 2))  # type: ignore[arg-type]


def test_a_dataset_without_rows_is_an_archive(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path / "empty"))
    from storage.manifest import Manifest
    from storage.writer import commit

    commit(store, Manifest(schema=TABLE.schema, created_at="2026-01-01T00:00:00Z"))
    archive = open_fake(store, TABLE.schema)
    assert archive.to_table().equals(TABLE.slice(0, 0))
    assert archive.to_table(["text"], (5, 9)).num_rows == 0
    assert list(archive.to_batches()) == []
    with pytest.raises(UsageError, match="no model"):
        archive.newest_model()


UNION = pa.dense_union([pa.field("number", pa.int64()), pa.field("text", pa.string())])


@pytest.mark.parametrize("kind", [UNION, pa.sparse_union(list(UNION)), pa.list_(UNION), pa.struct([("id", pa.uuid())])], ids=str)
def test_no_rows_of_any_type_are_a_table_of_the_exact_schema(place: str, kind: pa.DataType) -> None:
    store = ObjectStore.open(place)
    schema = TABLE.schema.append(pa.field("odd", kind, metadata={"unit": "none"}))
    archive = Archive(store, replace(load_manifest(store), schema=schema), FakeCodec(schema))
    for rows in ((5, 5), slice(9, 3), (1000, None)):
        found = archive.to_table(rows=rows)
        assert found.num_rows == 0
        assert found.schema.equals(schema, check_metadata=True)
        assert archive.to_table(["odd", "text"], rows).schema.names == ["odd", "text"]


def test_old_snapshots_stay_readable(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    assert run_once(store, PARTS[:1])[0] == 1
    assert run_once(store, PARTS)[0] == 2
    assert open_fake(store, TABLE.schema).num_rows == 1000
    old = open_fake(store, TABLE.schema, snapshot=1)
    assert old.to_table().equals(PARTS[0])
    assert old.snapshots() == (1, 2)
    with pytest.raises(UsageError, match=r"no snapshot 3; it has 1, 2"):
        open_fake(store, TABLE.schema, snapshot=3)


def test_where_there_is_no_archive_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no archive here"):
        Archive.open(ObjectStore.open(str(tmp_path)))
    with pytest.raises(BadInput, match="no archive here"):
        Archive.open(ObjectStore.open(str(tmp_path / "absent")))


def test_an_archive_in_memory_reads_like_one_on_disk() -> None:
    store = ObjectStore.open("memory://archive-reading-test")
    run_once(store, PARTS)
    assert open_fake(store, TABLE.schema).to_table(rows=(400, 500)).equals(TABLE.slice(400, 100))


WIDE = example_table(20_000, seed=5, n_learned=6)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = str(tmp_path_factory.mktemp("wide"))
    run_once(ObjectStore.open(root), [WIDE.slice(0, 10_000), WIDE.slice(10_000)], block_rows=2000)
    return root


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"preview": True},
        {"columns": ["a2"]},
        {"columns": ["text", "a0"], "rows": (1500, 13_000)},
        {"rows": (5, 6)},
        {"rows": (5, 5)},
    ],
)
def test_a_planned_read_moves_exactly_what_was_planned(wide: str, request_: dict[str, Any]) -> None:
    planned = open_fake(ObjectStore.open(wide), WIDE.schema).plan_read(**request_)
    archive = open_fake(ObjectStore.open(wide), WIDE.schema)
    archive.to_table(**request_)
    assert archive.meter.bytes_read == planned


def test_a_narrow_read_moves_a_small_share_of_the_bytes(wide: str) -> None:
    archive = open_fake(ObjectStore.open(wide), WIDE.schema)
    full = archive.plan_read()
    assert full >= 20_000 * 6 * 8
    assert archive.plan_read(["a3"]) < full * 0.30
    assert archive.plan_read(rows=(0, 10)) < full * 0.20
    assert archive.plan_read(["a3"], (4000, 4010)) < full * 0.08
    assert archive.plan_read(preview=True) < full * 0.30


def test_the_encoder_is_left_alone_until_it_is_asked_for(place: str) -> None:
    codec = FakeCodec(TABLE.schema)
    archive = Archive.open(ObjectStore.open(place), codec=codec)
    archive.to_table()
    archive.to_table(["a0"])
    assert codec.loaded == [("decoder.safetensors", "plan.json.zst")]
    archive.newest_model(with_encoder=True)
    assert codec.loaded[1:] == [("decoder.safetensors", "encoder.safetensors", "plan.json.zst")]


def test_reading_and_writing_import_neither_torch_nor_prefect() -> None:
    import subprocess
    import sys

    program = (
        "import sys, storage, storage.archive, storage.writer, storage.ledger, storage.codec;"
        "import vae_core.model, vae_core.shard;"
        "print(sorted({'torch', 'prefect', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("small_first", [False, True])
def test_a_small_payload_is_read_without_the_large_ones_beside_it(small_first: bool) -> None:
    store = ObjectStore.open("memory://small-payloads")
    payloads = {"large": bytes(200_000), "pool": bytes(300), "none": b""}
    groups = ("pool", "none", "large") if small_first else ("large", "pool", "none")
    blocks = tuple(EncodedBlock(10, {}, payloads) for _ in range(3))
    entry, files = encode_files("ab" * 16, "cd" * 32, EncodedShard({}, (), groups, blocks, (), {}), [])
    for path, data in files.items():
        store.write(path, data)
    reader = ShardReader(store, entry)
    before = store.meter.bytes_read
    for block in range(3):
        assert reader.read_block(block, (), ("pool",)) == ({}, {"pool": bytes(300)})
    assert store.meter.bytes_read - before == reader.planned_bytes(range(3), (), ("pool",)) < 1500


@pytest.mark.parametrize("error", [CorruptArchive("the plan of column 'x' cannot be read"), UsageError("kind 'absolutf'")])
def test_a_model_that_cannot_be_read_is_named(tmp_path: Path, error: Exception) -> None:
    table = example_table(50)
    store = ObjectStore.open(str(tmp_path))
    run_once(store, [table])

    class Refusing(FakeCodec):
        def load(self, files: Any, schema: pa.Schema | None = None) -> Any:
            raise error

    archive = Archive.open(store, codec=Refusing(table.schema))
    with pytest.raises(CorruptArchive, match=rf"models/[0-9a-f]{{64}}: {error}"):
        archive.to_table()


def test_blocks_decoded_together_are_cut_as_single_ones_and_a_broken_one_is_named(tmp_path: Path) -> None:
    table = example_table(1000)
    store = ObjectStore.open(str(tmp_path))
    run_once(store, [table])

    class Breaking(FakeCodec):
        def decode_block(self, model: Any, layout: Any, n_rows: int, *rest: Any) -> pa.Table:
            found = super().decode_block(model, layout, n_rows, *rest)
            if found.column(0)[0].as_py() == broken:
                raise ValueError("no such value")
            return found

    broken = -1
    for at_once in (1, 2, 3, 100):
        archive = Archive.open(store, codec=Breaking(table.schema, at_once))
        assert archive.to_table() == table and archive.to_table(["text", "a1"], (130, 777)) == table.select(["text", "a1"]).slice(130, 647)
    first, block_rows = archive.to_table(), archive._reader(archive.manifest.shards[0]).entry.block_rows
    assert len(block_rows) > 2
    broken = first.column(0)[block_rows[0]].as_py()
    with pytest.raises(CorruptArchive, match=r"block 1 cannot be decoded \(ValueError: no such value\)"):
        archive.to_table()
