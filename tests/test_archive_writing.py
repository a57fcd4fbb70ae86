"""Commits, crashes, races, leftovers and the ledger."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from archive_fakes import MODEL_FILES, Killed, encode_table, example_table, killed_at, open_fake, run_once, stage_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.ledger import LEDGER_PARTS, bytes_by_part, column_totals
from storage.manifest import Manifest
from storage.objects import ObjectStore
from storage.shards import SourceSlice, load_record
from storage.snapshots import list_snapshots, newest_manifest
from storage.vacuum import vacuum
from storage.verity import read_verified
from storage.writer import commit, find_pending, load_model, shard_id, stage_model, stage_shard
from vae_core.errors import BadInput, Conflict, CorruptArchive
from vae_core.shard import ColumnOutcome, EncodedBlock, EncodedShard, NativeColumn

TABLE = example_table(500)
FIRST, SECOND = [TABLE.slice(0, 200)], [TABLE.slice(0, 200), TABLE.slice(200)]


def bytes_on_disk(root: Path) -> int:
    return sum(f.stat().st_size for f in root.rglob("*") if f.is_file() and "reports" not in f.relative_to(root).parts)


def test_a_kill_at_any_write_leaves_the_last_snapshot_and_a_rerun_finishes(tmp_path: Path) -> None:
    k = 0
    reused_by_some_rerun = 0
    while True:
        root = tmp_path / str(k)
        store = ObjectStore.open(str(root))
        run_once(store, FIRST)
        try:
            with killed_at(store, k):
                run_once(store, SECOND)
        except Killed:
            snapshot = max(list_snapshots(store))
            seen = FIRST if snapshot == 1 else SECOND
            assert open_fake(store, TABLE.schema).to_table().equals(pa.concat_tables(seen))
            number, n_reused = run_once(store, SECOND)
            assert number == snapshot + 1
            reused_by_some_rerun = max(reused_by_some_rerun, n_reused)
            assert open_fake(store, TABLE.schema).to_table().equals(TABLE)
            assert bytes_on_disk(root) == sum(bytes_by_part(store).values())
            k += 1
            continue
        break
    assert k >= 10
    assert reused_by_some_rerun == 2


def test_a_first_run_killed_anywhere_leaves_no_archive_to_read(tmp_path: Path) -> None:
    for k in range(6):
        store = ObjectStore.open(str(tmp_path / str(k)))
        with pytest.raises(Killed), killed_at(store, k):
            run_once(store, FIRST)
        with pytest.raises(BadInput, match=r"no archive here|no snapshot yet"):
            open_fake(store, TABLE.schema)
        assert run_once(store, FIRST)[0] == 1


def test_of_two_racing_runs_one_wins_and_the_other_says_so(tmp_path: Path) -> None:
    here, there = ObjectStore.open(str(tmp_path)), ObjectStore.open(str(tmp_path))
    run_once(here, FIRST)
    model, entries, _ = stage_parts(there, SECOND)
    assert run_once(here, SECOND)[0] == 2
    late = Manifest(schema=TABLE.schema, models=(model,), shards=tuple(entry.ref for entry in entries), parent=1)
    with pytest.raises(Conflict, match=r"snapshot 2 was committed by run run-1 .* built on snapshot 1"):
        commit(there, late)
    assert list(list_snapshots(here)) == [1, 2]
    assert open_fake(here, TABLE.schema).to_table().equals(TABLE)


def test_the_exclusive_create_decides_when_both_looked_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore.open(str(tmp_path))
    run_once(store, FIRST)
    model, entries, _ = stage_parts(store, FIRST)
    late = Manifest(schema=TABLE.schema, models=(model,), shards=tuple(entry.ref for entry in entries), parent=1)
    before = list_snapshots(store)
    run_once(store, SECOND)
    monkeypatch.setattr("storage.writer.list_snapshots", lambda _: before)
    with pytest.raises(Conflict, match="snapshot 2 was committed"):
        commit(store, late)
    assert open_fake(store, TABLE.schema).num_rows == 500


def test_a_snapshot_never_names_what_is_gone(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    model, entries, _ = stage_parts(store, FIRST)
    vacuum(store, grace_s=-1)
    with pytest.raises(Conflict, match="run again"):
        commit(store, Manifest(schema=TABLE.schema, models=(model,), shards=(entries[0].ref,)))
    assert list_snapshots(store) == {}


def test_a_staged_shard_is_found_again_unless_it_is_damaged(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    model = stage_model(store, MODEL_FILES)
    key = shard_id("some rows", model.digest)
    assert find_pending(store, key) is None
    entry = stage_shard(store, model, key, encode_table(TABLE, 100), [("a.parquet", 5, 505)])
    found = find_pending(store, key)
    assert found is not None and found.ref == entry.ref and found.objects == entry.objects
    assert entry.sources == (SourceSlice("a.parquet", 5, 505),)
    assert load_record(store, entry.ref, [outcome.name for outcome in entry.outcomes]) == entry
    path = tmp_path / entry.objects["corrections.parquet"].path
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert find_pending(store, key) is None


def test_another_encoding_of_the_same_rows_never_touches_a_stored_shard(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    model = stage_model(store, MODEL_FILES)
    key = shard_id("some rows", model.digest)
    first = stage_shard(store, model, key, encode_table(TABLE, 100))
    commit(store, Manifest(schema=TABLE.schema, models=(model,), shards=(first.ref,)))
    second = stage_shard(store, model, key, encode_table(TABLE, 99))
    assert second.record.path != first.record.path
    assert open_fake(store, TABLE.schema).to_table().equals(TABLE)


def test_a_place_with_other_files_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "january.csv").write_text("a,b")
    with pytest.raises(BadInput, match=r"holds 'january.csv' and is no archive"):
        stage_model(ObjectStore.open(str(tmp_path)), MODEL_FILES)
    assert [p.name for p in tmp_path.iterdir()] == ["january.csv"]


def test_a_model_comes_back_with_or_without_its_encoder(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    ref = stage_model(store, MODEL_FILES)
    assert stage_model(store, dict(reversed(MODEL_FILES.items()))).digest == ref.digest

    class Files:
        def load(self, files: dict[str, bytes], schema: pa.Schema | None = None) -> dict[str, bytes]:
            return files

    assert load_model(store, ref, codec=Files()) == MODEL_FILES  # type: ignore[arg-type]
    assert set(load_model(store, ref, with_encoder=False, codec=Files())) == {"plan.json.zst", "decoder.safetensors"}  # type: ignore[arg-type]


def leftovers(store: ObjectStore) -> set[str]:
    model = stage_model(store, {**MODEL_FILES, "plan.json.zst": b"another"})
    entry = stage_shard(store, model, shard_id("lost", model.digest), encode_table(TABLE, 50))
    folders = {f"models/{model.digest}", entry.record.path.rpartition("/")[0]}
    return {
        info.path
        for info in store.list("")
        if info.path.rpartition("/")[0] in folders or info.path.startswith("pending/")
    }


def test_vacuum_removes_what_no_snapshot_names_and_nothing_else(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    run_once(store, FIRST)
    run_once(store, SECOND)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "run.html").write_text("kept")
    (tmp_path / "shards" / "notes.txt").write_text("somebody's notes")
    kept = {info.path for info in store.list("")}
    garbage = leftovers(store)
    young = vacuum(store)
    assert young.paths == () and young.n_pending == len(garbage)
    assert young.pending_bytes == sum(store.size(path) for path in garbage)
    later = {"now": os.path.getmtime(tmp_path / "FORMAT") + 3 * 24 * 3600}
    planned = vacuum(store, dry_run=True, **later)
    assert set(planned.paths) == garbage
    assert {info.path for info in store.list("")} == kept | garbage
    assert vacuum(store, **later) == planned
    assert {info.path for info in store.list("")} == kept
    assert open_fake(store, TABLE.schema, snapshot=1).to_table().equals(FIRST[0])
    assert open_fake(store, TABLE.schema).to_table().equals(TABLE)


def test_vacuum_removes_at_once_what_nobody_claims(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    run_once(store, FIRST)
    garbage = leftovers(store)
    for path in [path for path in garbage if path.startswith("pending/")]:
        store.delete(path)
    assert set(vacuum(store).paths) == {path for path in garbage if not path.startswith("pending/")}


def test_vacuum_follows_no_link_out_of_the_archive(tmp_path: Path) -> None:
    outside = tmp_path / "raw"
    outside.mkdir()
    (outside / "latents.parquet").write_bytes(b"raw data")
    store = ObjectStore.open(str(tmp_path / "archive"))
    run_once(store, FIRST)
    (tmp_path / "archive" / "shards" / f"{'a' * 32}-{'b' * 16}").symlink_to(outside)
    try:
        assert vacuum(store).paths == ()
    except BadInput as error:
        assert "outside" in str(error)
    assert (outside / "latents.parquet").read_bytes() == b"raw data"


def test_vacuum_removes_nothing_while_a_snapshot_is_unreadable(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    run_once(store, FIRST)
    run_once(store, SECOND)
    before = {info.path for info in store.list("")} | leftovers(store)
    path = tmp_path / "snapshots" / "0000000001.json"
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-2"))
    with pytest.raises(CorruptArchive, match="0000000001"):
        vacuum(store, grace_s=-1)
    assert {info.path for info in store.list("")} == before


def test_the_ledger_sums_to_the_bytes_on_disk(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    run_once(store, FIRST)
    run_once(store, SECOND)
    parts = bytes_by_part(store)
    assert tuple(parts) == LEDGER_PARTS
    assert sum(parts.values()) == bytes_on_disk(tmp_path)
    assert parts["corrections"] == 500 * 3 * 8
    assert parts["model"] == sum(map(len, MODEL_FILES.values()))
    leftovers(store)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "r.json").write_text("{}")
    with_leftovers = bytes_by_part(store)
    assert sum(with_leftovers.values()) == bytes_on_disk(tmp_path)
    assert {**with_leftovers, "metadata": 0} == {**parts, "metadata": 0}


def test_a_manifest_counts_before_it_is_committed(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    model, entries, _ = stage_parts(store, SECOND)
    manifest = Manifest(schema=TABLE.schema, models=(model,), shards=tuple(entry.ref for entry in entries))
    parts = bytes_by_part(store, manifest)
    assert parts["corrections"] == 500 * 3 * 8 and parts["model"] == model.n_bytes
    assert sum(parts.values()) == bytes_on_disk(tmp_path)


def test_column_totals_add_shards_and_native_bytes(tmp_path: Path) -> None:
    _, entries, _ = stage_parts(ObjectStore.open(str(tmp_path)), SECOND)
    totals = column_totals(entries)
    assert totals["a1"] == {"bytes": 500 * 8, "conventional_bytes": 1998, "max_abs_error": 0.0, "coding": "exact"}
    assert totals["text"]["bytes"] == sum(entry.parts["verbatim"] for entry in entries) > 0


def wide_shard(n_columns: int, n_blocks: int, payload_bytes: int) -> EncodedShard:
    names = [f"soil_type_{i}" for i in range(n_columns)]
    groups = tuple(f"g{i}" for i in range(n_columns))
    rows = pa.array([0, 1, 0, 3] * 500, pa.int8())
    payload = bytes(range(250)) * (payload_bytes // 250)
    blocks = tuple(
        EncodedBlock(2000, {f"z{i}": rows for i in range(8)}, dict.fromkeys(groups, payload)) for _ in range(n_blocks)
    )
    natives = tuple(NativeColumn(f"z{i}", "latent", "plain", None) for i in range(8))
    outcomes = tuple(
        ColumnOutcome(name, "network", 40_000 + 7 * i, 50_000 + 13 * i, i / 7) for i, name in enumerate(names)
    )
    layout = {"columns": [{"coding": "network", "lanes": 256, "k": i * 37 % 11} for i in range(n_columns)]}
    return EncodedShard(layout, natives, groups, blocks, outcomes, {name: i / 13 for i, name in enumerate(names)})


def test_the_fixed_cost_of_a_wide_archive_is_under_six_kilobytes(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    model = stage_model(store, MODEL_FILES)
    entry = stage_shard(
        store, model, shard_id("wide", model.digest), wide_shard(55, 5, 8000), [("part.parquet", 0, None)]
    )
    schema = pa.schema([pa.field(f"soil_type_{i}", pa.int64()) for i in range(55)])
    commit(store, Manifest(schema=schema, models=(model,), shards=(entry.ref,), created_at="2026-01-02T03:04:05Z"))
    assert bytes_by_part(store)["metadata"] < 6_000


def test_the_fixed_cost_of_a_small_archive_is_under_sixteen_hundred_bytes(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    table = example_table(2000, n_learned=7).drop_columns(["text"])
    model = stage_model(store, MODEL_FILES)
    encoded = encode_table(table, 2000)
    shard = replace(encoded, natives=(), blocks=tuple(replace(block, natives={}) for block in encoded.blocks))
    entry = stage_shard(store, model, shard_id("small", model.digest), shard, [("part.parquet", 0, None)])
    commit(store, Manifest(schema=table.schema, models=(model,), shards=(entry.ref,), created_at="2026-01-02T03:04:05Z"))
    corrections = entry.objects["corrections.parquet"]
    assert corrections.n_bytes - entry.parts["corrections"] < 150
    assert bytes_by_part(store)["metadata"] < 1_600


def test_footers_say_no_more_than_a_reader_needs_and_other_engines_read_them(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    table = example_table(3000)
    _, [entry], _ = stage_parts(ObjectStore.open(str(tmp_path)), [table], block_rows=1000)
    path = str(tmp_path / entry.objects["latents.parquet"].path)
    footer = pq.read_metadata(path)
    assert footer.created_by == "" and footer.num_rows == 3000 and footer.num_row_groups == 3
    assert not any(footer.row_group(0).column(j).is_stats_set for j in range(footer.num_columns))
    words = table.column("text").to_pylist()
    assert pq.read_table(path).column("vtext").to_pylist() == words
    assert polars.read_parquet(path)["vtext"].to_list() == words
    assert [row[0] for row in duckdb.sql(f"select vtext from '{path}'").fetchall()] == words
    payloads = str(tmp_path / entry.objects["corrections.parquet"].path)
    found = [row[0] for row in duckdb.sql(f"select payload from '{payloads}'").fetchall()]
    assert found == polars.read_parquet(payloads)["payload"].to_list() == pq.read_table(payloads).column("payload").to_pylist()


@given(
    lengths=st.lists(st.lists(st.binary(max_size=300), min_size=3, max_size=3), min_size=1, max_size=5),
    rows=st.integers(0, 3),
)
@settings(deadline=None, max_examples=25)
def test_any_payloads_come_back_as_they_were(lengths: list[list[bytes]], rows: int) -> None:
    store = ObjectStore.open("memory://archive-payloads")
    model = stage_model(store, MODEL_FILES)
    blocks = tuple(EncodedBlock(rows, {}, dict(zip("abc", payloads, strict=True))) for payloads in lengths)
    entry = stage_shard(
        store, model, shard_id(repr(lengths), model.digest), EncodedShard({}, (), ("a", "b", "c"), blocks, ())
    )
    from storage.blocks import ShardReader

    reader = ShardReader(store, load_record(store, entry.ref))
    for i, payloads in enumerate(lengths):
        assert reader.read_block(i, (), ("c", "a")) == ({}, {"c": payloads[2], "a": payloads[0]})
    table = parquet_of(read_verified(store, entry.objects["corrections.parquet"]))
    assert table.column("payload").to_pylist() == [payload for payloads in lengths for payload in payloads]


def parquet_of(data: bytes) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(data))


@pytest.mark.parametrize("encoding", ["plain", "dictionary", "delta", "split"])
def test_natives_of_any_type_keep_their_values_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    import decimal

    from storage.blocks import ShardReader

    arrays = {
        "i8": pa.array([1, None, -3], pa.int8()),
        "u64": pa.array([2**64 - 1, 0, 5], pa.uint64()),
        "f": pa.array([0.5, float("-inf"), -0.0]),
        "b": pa.array([True, None, False]),
        "s": pa.array(["", None, "a\0b"]),
        "y": pa.array([b"ab", b"cd", None], pa.binary(2)),
        "d": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-7.00")], pa.decimal128(30, 2)),
        "t": pa.array([1, None, 3], pa.timestamp("us", "Europe/Paris")),
        "l": pa.array([[1, None], [], None], pa.list_(pa.int32())),
        "r": pa.array(
            [{"x": 1, "y": "a"}, None, {"x": None, "y": None}], pa.struct([("x", pa.int16()), ("y", pa.string())])
        ),
        "n": pa.nulls(3),
    }
    natives = tuple(NativeColumn(name, "verbatim", encoding, name) for name in arrays)
    store = ObjectStore.open(str(tmp_path))
    model = stage_model(store, MODEL_FILES)
    shard = EncodedShard({}, natives, (), (EncodedBlock(3, arrays, {}), EncodedBlock(3, arrays, {})), ())
    entry = stage_shard(store, model, shard_id(encoding, model.digest), shard)
    back, _ = ShardReader(store, entry).read_block(1, tuple(arrays), ())
    assert {name: array.to_pylist() for name, array in back.items()} == {
        name: array.to_pylist() for name, array in arrays.items()
    }
    assert newest_manifest(store) is None
