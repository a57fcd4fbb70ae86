"""Damaged and hostile archives: one clear error that names the object, and nothing else happens."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from archive_fakes import encode_table, example_table, open_fake, run_once, stage_parts

from storage.archive import Archive
from storage.document import compress, decompress, from_json, to_base64, to_json
from storage.manifest import Manifest
from storage.objects import ObjectStore
from storage.pages import check_chunk, read_pages
from storage.parquet import chunk_range
from storage.shards import RECORD_NAME, ShardEntry, encode_files
from storage.snapshots import list_snapshots, load_manifest, snapshot_path
from storage.verity import ObjectRef
from storage.version import FORMAT_VERSION
from storage.writer import commit, prepare, stage_model, stage_shard
from vae_core.errors import CorruptArchive
from vae_core.shard import EncodedBlock, EncodedShard, NativeColumn

TABLE = example_table(300)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    run_once(ObjectStore.open(str(tmp_path)), [TABLE.slice(0, 200), TABLE.slice(200)])
    return tmp_path


def read_everything(root: Path) -> pa.Table:
    archive = open_fake(ObjectStore.open(str(root)), TABLE.schema)
    table = archive.to_table()
    archive.to_table(preview=True)
    assert list(archive.check_objects())
    return table


def test_bytes_behind_an_object_are_an_error_that_names_it(place: Path) -> None:
    for path in sorted(p for folder in ("models", "shards") for p in (place / folder).rglob("*") if p.is_file()):
        data = path.read_bytes()
        path.write_bytes(data + b"x")
        with pytest.raises(CorruptArchive, match=path.name):
            list(open_fake(ObjectStore.open(str(place)), TABLE.schema).check_objects())
        path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_an_error_that_names_the_object(place: Path) -> None:
    rng = random.Random(1)
    n_flips = 0
    for path in sorted(p for p in place.rglob("*") if p.is_file()):
        name = path.relative_to(place).as_posix()
        data = path.read_bytes()
        for position in {0, len(data) - 1, *range(rng.randrange(23), len(data), max(len(data) // 24, 1))}:
            damaged = bytearray(data)
            damaged[position] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(CorruptArchive) as caught:
                read_everything(place)
            assert name in str(caught.value) or (name == "FORMAT" and "format" in str(caught.value)), (name, position)
            assert "\n" not in str(caught.value)
            n_flips += 1
        path.write_bytes(data)
    assert n_flips > 200
    assert read_everything(place).equals(TABLE)


def test_a_truncated_object_is_an_error_that_names_it(place: Path) -> None:
    for path in sorted(p for p in place.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for n_bytes in (0, 1, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:n_bytes])
            with pytest.raises(CorruptArchive, match=re.escape(path.name)):
                read_everything(place)
        path.write_bytes(data)


def test_a_missing_object_is_an_error_that_names_it(place: Path) -> None:
    for path in sorted(p for p in place.rglob("*") if p.is_file() and p.parent.name != "snapshots"):
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(CorruptArchive, match=re.escape(path.name)):
            read_everything(place)
        path.write_bytes(data)


def test_objects_of_two_shards_cannot_change_places(place: Path) -> None:
    one, two = sorted(place.glob("shards/*/corrections.parquet"))
    one_data, two_data = one.read_bytes(), two.read_bytes()
    one.write_bytes(two_data)
    two.write_bytes(one_data)
    with pytest.raises(CorruptArchive, match=r"corrections\.parquet"):
        read_everything(place)


def test_a_newer_major_version_is_refused_by_name(place: Path) -> None:
    (place / "FORMAT").write_bytes(b"latentpack 2.0\n")
    with pytest.raises(CorruptArchive, match=r"archive has format 2\.0, this release reads up to 1\.22"):
        read_everything(place)


def test_a_newer_minor_version_is_read(place: Path) -> None:
    rewrite_snapshot(place, lambda document: document.update(format="1.23", created_with="1.22", something_new=[1]))
    assert read_everything(place).equals(TABLE)


def test_an_archive_of_an_older_minor_version_goes_on_and_its_snapshots_say_so(place: Path) -> None:
    (place / "FORMAT").write_bytes(b"latentpack 1.0\n")
    with pytest.raises(CorruptArchive, match=r"FORMAT: says 1\.0, .* 1\.22"):
        read_everything(place)
    rewrite_snapshot(place, lambda document: document.update(format="1.0"))
    assert read_everything(place).equals(TABLE)
    store = ObjectStore.open(str(place))
    manifest = replace(load_manifest(store), parent=1, format_version=FORMAT_VERSION)
    commit(store, manifest)
    assert load_manifest(store).created_with == (1, 0) and read_everything(place).equals(TABLE)
    (place / "FORMAT").write_bytes(b"latentpack 1.22\n")
    with pytest.raises(CorruptArchive, match=r"FORMAT"):
        read_everything(place)


def rewrite_snapshot(place: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the newest snapshot the way somebody hostile would: with a seal that fits."""
    import hashlib

    path = max(place.glob("snapshots/*.json"))
    document = json.loads(path.read_bytes())
    del document["sha256"]
    change(document)
    body = json.dumps(document, separators=(",", ":")).encode()[:-1]
    path.write_bytes(body + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}')


HOSTILE_SNAPSHOTS: list[Callable[[dict[str, Any]], Any]] = [
    lambda d: d["shards"][0].__setitem__(0, "../../../etc"),
    lambda d: d["shards"][0].__setitem__(0, "/etc/passwd"),
    lambda d: d["shards"][0].__setitem__(0, "s3://elsewhere/x"),
    lambda d: d["shards"][0].__setitem__(1, 9),
    lambda d: d["shards"][0].__setitem__(1, -1),
    lambda d: d["shards"][0].__setitem__(2, 10**15),
    lambda d: d["shards"][0].__setitem__(2, -1),
    lambda d: d["shards"][0].__setitem__(3, [2, ""]),
    lambda d: d["shards"][0].__setitem__(3, [10**9, d["shards"][0][3][1]]),
    lambda d: d["shards"].__setitem__(0, None),
    lambda d: d["models"][0].__setitem__("digest", ".."),
    lambda d: d["models"][0]["objects"].__setitem__("../x.json", d["models"][0]["objects"]["plan.json.zst"]),
    lambda d: d["models"][0]["objects"].__setitem__("C:\\x", [1, ""]),
    lambda d: d.__setitem__("snapshot", 7),
    lambda d: d.__setitem__("n_rows", 10**15),
    lambda d: d.__setitem__("n_rows", True),
    lambda d: d.__setitem__("schema", "!!"),
    lambda d: d.__setitem__("schema", to_base64(compress(b"no schema"))),
    lambda d: d.__setitem__("schema", to_base64(compress(bytes(65 << 20)))),
    lambda d: d.__setitem__("tolerances", {"zstd": to_base64(compress(bytes(300 << 20)))}),
    lambda d: d.__setitem__("tolerances", [[{}, 0, 10**9]]),
    lambda d: d.__setitem__("sources", [["a"]]),
    lambda d: d.__setitem__("sources", {"zstd": to_base64(compress(b"{" * 10))}),
    lambda d: d.__setitem__("format", "one"),
    lambda d: d.clear(),
]


@pytest.mark.parametrize("change", range(len(HOSTILE_SNAPSHOTS)))
def test_a_hostile_snapshot_is_refused_before_anything_is_followed(place: Path, change: int) -> None:
    rewrite_snapshot(place, HOSTILE_SNAPSHOTS[change])
    store = ObjectStore.open(str(place))
    with pytest.raises(CorruptArchive, match=r"snapshots/|shards/"):
        Archive.open(store).entries()


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b""]
)
def test_hostile_json_is_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(CorruptArchive, match=r"^somewhere: ") as caught:
        from_json(text, "somewhere")
    assert "\n" not in str(caught.value)


def restage(
    place: Path, change: Callable[[ShardEntry], ShardEntry], objects: dict[str, Callable[[bytes], bytes]] | None = None
) -> Archive:
    """An archive whose only shard was written by somebody hostile, every digest in order."""
    store = ObjectStore.open(str(place))
    model = stage_model(store, {"plan.json.zst": b"plan"})
    entry, files = encode_files("ab" * 16, model.digest, encode_table(TABLE, 100), ())
    contents = {path.rpartition("/")[2]: data for path, data in files.items()}
    described = dict(entry.objects)
    for name, forge in (objects or {}).items():
        contents[name] = forge(contents[name])
        described[name] = ObjectRef.of(name, contents[name])
    record = change(replace(entry, objects=described)).to_bytes()
    ref = ObjectRef.of("", record)
    folder = f"shards/{entry.id}-{ref.digests[:8].hex()}"
    ref = replace(ref, path=f"{folder}/{RECORD_NAME}")
    for name, data in {**contents, RECORD_NAME: record}.items():
        store.write(f"{folder}/{name}", data)
    shard = replace(entry.ref, record=ref, n_rows=sum(change(entry).block_rows))
    commit_unseen(store, Manifest(schema=TABLE.schema, models=(model,), shards=(shard,)))
    return open_fake(store, TABLE.schema)


def commit_unseen(store: ObjectStore, manifest: Manifest) -> None:
    """A commit by somebody who does not look at what the snapshot names."""
    prepare(store)
    written = replace(manifest, snapshot=1).to_objects()
    for path, data in written.objects.items():
        store.write(path, data)
    store.create(snapshot_path(1), written.data)


HOSTILE_RECORDS: list[Callable[[ShardEntry], ShardEntry]] = [
    lambda e: replace(e, block_rows=(1 << 22, *e.block_rows[1:])),
    lambda e: replace(e, block_rows=(1 << 40, *e.block_rows[1:])),
    lambda e: replace(e, block_rows=e.block_rows * 1000),
    lambda e: replace(e, payload_start=1 << 50),
    lambda e: replace(e, payload_lengths=(1 << 45, *e.payload_lengths[1:])),
    lambda e: replace(e, payload_lengths=(e.payload_lengths[0] + 1, e.payload_lengths[1] - 1, *e.payload_lengths[2:])),
    lambda e: replace(e, groups=(e.groups[0], *e.groups[:-1])),
    lambda e: replace(e, groups=("other", *e.groups[1:])),
    lambda e: replace(e, objects={"../../x": e.objects["latents.parquet"]}),
    lambda e: replace(e, objects={"latents.parquet": e.objects["latents.parquet"]}),
    lambda e: replace(e, natives=(replace(e.natives[0], name="other"), *e.natives[1:])),
    lambda e: replace(e, natives=(replace(e.natives[0], role="pickle"), *e.natives[1:])),
    lambda e: replace(e, model="f" * 64),
    lambda e: replace(e, id="cd" * 16),
    lambda e: replace(e, parts={**e.parts, "latents": 1 << 40}),
    lambda e: replace(e, layout={}),
    lambda e: replace(
        e,
        objects={
            **e.objects,
            "latents.parquet": replace(
                e.objects["latents.parquet"], n_bytes=1 << 50, ends=(1 << 50,), digests=bytes(16)
            ),
        },
    ),
]


@pytest.mark.parametrize("change", range(len(HOSTILE_RECORDS)))
def test_a_hostile_shard_record_is_refused(tmp_path: Path, change: int) -> None:
    archive = restage(tmp_path, HOSTILE_RECORDS[change])
    with pytest.raises(CorruptArchive, match=r"shards/"):
        archive.to_table(preview=True)
        archive.to_table()


def forged_latents(table: pa.Table, **options: Any) -> Callable[[bytes], bytes]:
    def forge(_: bytes) -> bytes:
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **options)
        return sink.getvalue().to_pybytes()

    return forge


@pytest.mark.parametrize(
    "forge",
    [
        forged_latents(pa.table({"z0": pa.nulls(300, pa.int16())})),
        forged_latents(pa.table({"z0": [1], "z1": [1], "z2": [1], "vtext": ["x"]})),
        lambda data: b"PAR1" + data[4:-8] + (1 << 31).to_bytes(4, "little") + b"PAR1",
        lambda data: data[:-8] + (len(data)).to_bytes(4, "little") + b"PAR1",
        lambda data: data[:-200] + bytes(192) + data[-8:],
        lambda data: b"",
        lambda data: b"PAR1",
        lambda data: data[:30] + b"\xff" * 30 + data[60:],
    ],
)
def test_a_parquet_file_that_is_not_what_the_record_says_is_refused(
    tmp_path: Path, forge: Callable[[bytes], bytes]
) -> None:
    archive = restage(tmp_path, lambda entry: entry, {"latents.parquet": forge})
    with pytest.raises(CorruptArchive, match=r"shards/"):
        archive.to_table(preview=True)
        archive.to_table()


def test_a_record_of_another_shard_is_refused(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    model, entries, _ = stage_parts(store, [TABLE.slice(0, 200), TABLE.slice(200)])
    swapped = replace(entries[0].ref, n_rows=100)
    late = Manifest(schema=TABLE.schema, models=(model,), shards=(swapped, entries[1].ref))
    with pytest.raises(CorruptArchive, match="not the shard"):
        commit(store, late)
    assert not list_snapshots(store)
    commit_unseen(store, late)
    with pytest.raises(CorruptArchive, match="not the shard"):
        open_fake(store, TABLE.schema).to_table()


def test_a_decompression_bomb_stops_at_its_claim() -> None:
    with pytest.raises(CorruptArchive, match="claims 100000000 bytes, at most 1000"):
        decompress(compress(bytes(100_000_000)), "somewhere", 1000)
    with pytest.raises(CorruptArchive, match="damaged"):
        decompress(compress(bytes(1000))[:-2], "somewhere")


def test_a_snapshot_larger_than_any_real_one_is_not_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.snapshots.MAX_SNAPSHOT_BYTES", 100)
    with pytest.raises(CorruptArchive, match="reads snapshots up to 100"):
        load_manifest(ObjectStore.open(str(place)))


def test_json_with_infinities_is_never_written() -> None:
    with pytest.raises(ValueError):
        to_json({"x": float("nan")})


def column_chunk(values: pa.Array, **options: Any) -> tuple[bytes, Any]:
    """(bytes, description) of the only column chunk of a Parquet file."""
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": values}), sink, **options)
    data = sink.getvalue().to_pybytes()
    metadata = pq.read_metadata(pa.BufferReader(data))
    start, stop = chunk_range(metadata.row_group(0).column(0))
    return data[start:stop], metadata.schema.column(0)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("use_dictionary", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None, 3] * 500),
        pa.array(["a", "bb", None] * 500),
        pa.array([[1, 2], [], None] * 500),
        pa.nulls(1500),
    ],
)
def test_page_headers_are_read_as_they_were_written(version: str, use_dictionary: bool, values: pa.Array) -> None:
    options = {"use_dictionary": use_dictionary, "data_page_version": version, "write_page_checksum": True}
    chunk, column = column_chunk(values, max_rows_per_page=400, write_batch_size=100, **options)
    pages = [page for page in read_pages(chunk, "here") if page.kind in (0, 3)]
    assert len(pages) >= 4
    assert sum(page.n_values for page in pages) == (2000 if pa.types.is_list(values.type) else 1500)
    check_chunk(chunk, 1500, column, "here")
    if not pa.types.is_list(values.type):
        with pytest.raises(CorruptArchive, match=r"here: its pages hold 1500 values for 1499 rows"):
            check_chunk(chunk, 1499, column, "here")


def test_a_page_that_claims_a_gigabyte_is_refused_before_it_is_opened() -> None:
    import zstandard

    bomb, column = column_chunk(pa.array([7] * 300, pa.int64()), use_dictionary=False)
    body = zstandard.compress(bytes(1 << 20))

    def zigzag(value: int) -> bytes:
        from storage.document import to_varints

        return to_varints([value << 1])

    # PageHeader: type 0, uncompressed size, compressed size, data_page_header {num_values, encoding, levels, levels}
    header = b"\x15\x00\x15" + zigzag(1 << 30) + b"\x15" + zigzag(len(body)) + b"\x2c\x15" + zigzag(300)
    header += b"\x15\x00\x15\x06\x15\x06\x00\x00"
    check_chunk(bomb, 300, column, "here")
    with pytest.raises(CorruptArchive, match=r"here: its pages claim 1073741824 bytes for 300 values"):
        check_chunk(header + body, 300, column, "here")


@pytest.mark.parametrize(
    "chunk",
    [b"\x15", b"\xff" * 40, b"\x1c" * 60, b"\x00", b"\x15\x00\x15\x00\x15\x7e\x00", b"\x19\xf5\xff\xff\xff\x7f"],
)
def test_a_damaged_page_header_is_refused(chunk: bytes) -> None:
    with pytest.raises(CorruptArchive, match=r"here: damaged page header"):
        read_pages(chunk, "here")


def test_a_short_dictionary_cannot_become_a_huge_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import storage.blocks

    store = ObjectStore.open(str(tmp_path))
    model = stage_model(store, {"plan.json.zst": b"plan"})
    texts = pa.array(["x" * 10_000] * 300)
    natives = (NativeColumn("vtext", "verbatim", "dictionary", "text"),)
    shard = EncodedShard({"kind": "fake"}, natives, (), (EncodedBlock(300, {"vtext": texts}, {}),), ())
    entry = stage_shard(store, model, "ab" * 16, shard)
    assert storage.blocks.ShardReader(store, entry).read_block(0, ("vtext",), ())[0]["vtext"].equals(texts)
    monkeypatch.setattr("storage.blocks.MAX_BLOCK_BYTES", 1_000_000)
    with pytest.raises(CorruptArchive, match=r"holds a column of 3000000 bytes, at most 1000000 are read"):
        storage.blocks.ShardReader(store, entry).read_block(0, ("vtext",), ())
