"""A second reader of snapshots and chapters, written from storage/FORMAT.md alone: JSON, zstd and hashes, nothing of the package."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard

GOLDEN = Path(__file__).parent / "golden"
PHRASES = Path(__file__).parent.parent / "vae_core" / "phrases.zdict"
ARCHIVES = sorted(root for version in ("1.7", "1.21", "1.22") for root in (GOLDEN / version).glob("*/archive"))


def unzstd(data: bytes) -> bytes:
    assert 0 <= zstandard.frame_content_size(data) <= 256 << 20
    phrases = zstandard.ZstdCompressionDict(PHRASES.read_bytes())
    return zstandard.ZstdDecompressor(dict_data=phrases).decompress(data)


def schema_of(data: bytes) -> pa.Schema:
    if data[:1] != b"[":
        return pa.ipc.read_schema(pa.BufferReader(data))
    told, message = data.split(b"\n", 1)
    (names, runs), kinds = json.loads(told), pa.ipc.read_schema(pa.BufferReader(message))
    fields = [kinds.field(kind) for kind, n in zip(runs[::2], runs[1::2], strict=True) for _ in range(n)]
    return pa.schema([field.with_name(name) for field, name in zip(fields, names, strict=True)], kinds.metadata)


def unpacked(value: Any) -> Any:
    return json.loads(unzstd(from_base64(value["zstd"]))) if isinstance(value, dict) and set(value) == {"zstd"} else value


def from_base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


class Store:
    def __init__(self, root: Path) -> None:
        self.root, self.read = root, set[str]()

    def verified(self, description: list[Any], path: str | None = None, where: str = "{}") -> bytes:
        """The object a description describes; its first digest is its name where it has no other."""
        n, told = description[0], from_base64(description[1])
        lengths, at = [], 0
        for _ in range(n):
            length = shift = 0
            while True:
                byte = told[at]
                length, shift, at = length | (byte & 127) << shift, shift + 7, at + 1
                if byte < 128:
                    break
            lengths.append(length)
        digests = [told[at + 16 * k : at + 16 * (k + 1)] for k in range(n)]
        assert len(told) == at + 16 * n
        path = path or where.format(digests[0].hex())
        data, first = (self.root / path).read_bytes(), 0
        assert len(data) == sum(lengths)
        for length, digest in zip(lengths, digests, strict=True):
            assert hashlib.blake2b(data[first : first + length], digest_size=16).digest() == digest
            first += length
        self.read.add(path)
        return data

    def seal(self, description: list[Any]) -> str:
        """Half the first digest of a description of one segment."""
        return from_base64(description[1])[-16:-8].hex()


def snapshot(root: Path, number: int) -> dict[str, Any]:
    data = (root / f"snapshots/{number:010}.json").read_bytes()
    body, seal = data[:-77], data[-77:]
    assert seal == b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    return json.loads(data)


def whole(root: Path, number: int) -> dict[str, Any]:
    """A snapshot with all its lists: schema, models, shards as (folder, model, rows, proof), sources; every object read and checked."""
    store, told = Store(root), snapshot(root, number)
    schema = told["schema"]
    frame = from_base64(schema) if isinstance(schema, str) else store.verified(schema, where="schemas/{}.arrow.zst")
    models: dict[str, Any] = {}
    shards: list[tuple[str, str, int, list[Any]]] = []
    sources = list(unpacked(told.get("sources", [])))

    def take(items: list[Any], own: list[Any]) -> None:
        models.update({model["digest"]: model["objects"] for model in own})
        for item in items:
            if isinstance(item[0], int):
                chapter = json.loads(unzstd(store.verified(item, where="chapters/{}.json.zst")))
                take(chapter["shards"], chapter["models"])
                sources.extend(chapter["sources"])
                continue
            shard, index, n_rows, description, *proof = item
            folder = f"shards/{shard}-{store.seal(description)}"
            record = json.loads(unzstd(store.verified(description, f"{folder}/shard.json.zst")))
            assert (record["id"], record["model"], sum(record["block_rows"])) == (shard, own[index]["digest"], n_rows)
            for name, described in record["objects"].items():
                store.verified(described, f"{folder}/{name}")
            shards.append((shard, own[index]["digest"], n_rows, [*proof[:1], *map(unpacked, proof[1:])]))

    take(told["shards"], told["models"])
    for digest, objects in models.items():
        hasher = hashlib.sha256()
        for name in sorted(objects):
            data = store.verified(objects[name], f"models/{digest}/{name}")
            hasher.update(json.dumps([name, len(data)], separators=(",", ":")).encode() + data)
        assert hasher.hexdigest() == digest
    assert told["n_rows"] == sum(n_rows for _, _, n_rows, _ in shards) and told["snapshot"] == number
    return {
        "schema": schema_of(unzstd(frame)), "models": models, "shards": shards,
        "sources": sorted(sources), "read": store.read,
    }  # fmt: skip


@pytest.mark.parametrize("root", ARCHIVES, ids=lambda root: root.parent.name)
def test_every_object_of_an_archive_is_reached_from_its_snapshots(root: Path) -> None:
    read: set[str] = set()
    for path in sorted((root / "snapshots").iterdir()):
        found = whole(root, int(path.stem))
        with pa.ipc.open_file(root.parent / "expected.arrow") as reader:
            assert found["schema"].equals(reader.schema, check_metadata=True)
        read |= found["read"] | {f"snapshots/{path.name}"}
    assert read | {"FORMAT"} == {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}


def test_lists_of_a_history_are_those_of_every_run() -> None:
    root = GOLDEN / "1.7" / "history" / "archive"
    numbers = sorted(int(path.stem) for path in (root / "snapshots").iterdir())
    assert len(numbers) >= 9 and any(not isinstance(item[0], str) for item in snapshot(root, numbers[-1])["shards"])
    for number in numbers:
        found = whole(root, number)
        assert [shard for shard, *_ in found["shards"]] == [f"{k:032x}" for k in range(number)]
        assert [proof[0] for *_, proof in found["shards"]] == [f"{k:064x}" for k in range(number)]
        at = found["schema"].get_field_index("temp")
        for *_, proof in found["shards"]:
            assert [lists[at] for lists in proof[1]] == [0.05, 0.03, 50]
            assert sum(value is not None for lists in proof[1] for value in lists) == 3
        assert [source[0] for source in found["sources"]] == [f"{k:02}.parquet" for k in range(number)]
