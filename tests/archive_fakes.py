"""A codec small enough to see through: integers as payloads, a coarse latent for the preview, text stored natively."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from storage.archive import Archive
from storage.entries import ModelRef, SourceRecord
from storage.manifest import Manifest
from storage.objects import ObjectStore
from storage.shards import ShardEntry
from storage.snapshots import newest_manifest
from storage.writer import commit, find_pending, shard_id, stage_model, stage_shard
from vae_core.shard import ColumnOutcome, EncodedBlock, EncodedShard, NativeColumn, Needs

MODEL_FILES = {
    "plan.json.zst": b"plan" * 30,
    "decoder.safetensors": bytes(range(256)) * 8,
    "encoder.safetensors": b"enc" * 500,
}
COARSE = 1000


class FakeCodec:
    """int64 columns are payloads of little-endian bytes plus a shared coarse latent; string columns are verbatim."""

    def __init__(self, schema: pa.Schema, at_once: int = 1) -> None:
        self.schema, self.at_once = schema, at_once
        self.loaded: list[tuple[str, ...]] = []

    def load(self, files: Mapping[str, bytes], schema: pa.Schema | None = None) -> Any:
        self.loaded.append(tuple(sorted(files)))
        return self

    def needs(self, model: Any, layout: dict[str, Any], columns: Sequence[str] | None, preview: bool) -> Needs:
        wanted = self.schema.names if columns is None else columns
        learned = [name for name in wanted if self.schema.field(name).type == pa.int64()]
        verbatim = tuple(f"v{name}" for name in wanted if name not in learned)
        latents = tuple(f"z{self.schema.get_field_index(name)}" for name in learned)
        return Needs(latents + verbatim, ()) if preview else Needs(verbatim, tuple(learned))

    def decode_block(
        self,
        model: Any,
        layout: dict[str, Any],
        n_rows: int,
        natives: Mapping[str, pa.Array],
        payloads: Mapping[str, bytes],
        columns: Sequence[str] | None,
        preview: bool,
    ) -> pa.Table:
        assert layout["kind"] == "fake"
        out = {}
        for name in self.schema.names if columns is None else columns:
            if self.schema.field(name).type != pa.int64():
                out[name] = natives[f"v{name}"]
            elif preview:
                latent = natives[f"z{self.schema.get_field_index(name)}"].to_numpy().astype(np.int64)
                out[name] = pa.array(latent * COARSE)
            else:
                out[name] = pa.array(np.frombuffer(payloads[name], "<i8"))
        return pa.table(out)

    def blocks_at_once(self, model: Any, block_rows: int) -> int:
        return self.at_once

    def decode_blocks(self, model: Any, layout: dict[str, Any], *blocks_and_wishes: Any) -> Iterator[pa.Table]:
        *parts, columns, preview = blocks_and_wishes
        for n_rows, natives, payloads in zip(*parts, strict=True):
            yield self.decode_block(model, layout, n_rows, natives, payloads, columns, preview)


def encode_table(table: pa.Table, block_rows: int) -> EncodedShard:
    """What the fake codec makes of a table of int64 and string columns."""
    learned = [name for name in table.column_names if table.schema.field(name).type == pa.int64()]
    verbatim = [name for name in table.column_names if name not in learned]
    natives = [NativeColumn(f"z{table.schema.get_field_index(name)}", "latent", "plain", None) for name in learned]
    natives += [NativeColumn(f"v{name}", "verbatim", "dictionary", name) for name in verbatim]
    blocks = []
    for start in range(0, table.num_rows, block_rows):
        part = table.slice(start, block_rows).combine_chunks()
        arrays: dict[str, pa.Array] = {}
        payloads = {}
        for name in learned:
            values = part.column(name).to_numpy()
            arrays[f"z{table.schema.get_field_index(name)}"] = pa.array((values // COARSE).astype(np.int16))
            payloads[name] = values.astype("<i8").tobytes()
        for name in verbatim:
            arrays[f"v{name}"] = pa.concat_arrays(part.column(name).chunks)
        blocks.append(EncodedBlock(part.num_rows, arrays, payloads))
    outcomes = [
        ColumnOutcome(
            name, "exact" if name in learned else "verbatim", table.num_rows * 8 * (name in learned), 999, 0.0
        )
        for name in table.column_names
    ]
    return EncodedShard(
        {"kind": "fake"}, tuple(natives), tuple(learned), tuple(blocks), tuple(outcomes), {learned[0]: 12.25}
    )


def example_table(n_rows: int, seed: int = 0, n_learned: int = 3) -> pa.Table:
    """Integers, text with nulls, and metadata on schema and field."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {f"a{i}": rng.integers(0, 30_000, n_rows) for i in range(n_learned)}
    text = [None if v == 0 else f"word {v}" for v in rng.integers(0, 9, n_rows)]
    fields = [pa.field(name, pa.int64(), metadata={"unit": "kelvin"}) for name in columns]
    schema = pa.schema([*fields, pa.field("text", pa.string())], metadata={"origin": "a test"})
    return pa.Table.from_arrays([*map(pa.array, columns.values()), pa.array(text, pa.string())], schema=schema)


def stage_parts(
    store: ObjectStore, parts: Sequence[pa.Table], block_rows: int = 100
) -> tuple[ModelRef, list[ShardEntry], int]:
    """(model, entry of each part, how many were staged already) as a run does it."""
    model = stage_model(store, MODEL_FILES)
    entries = []
    n_reused = 0
    for number, part in enumerate(parts):
        fingerprint = hashlib.sha256(repr((number, part.to_pydict())).encode()).hexdigest()
        key = shard_id(fingerprint, model.digest)
        entry = find_pending(store, key)
        n_reused += entry is not None
        if entry is None:
            entry = stage_shard(
                store, model, key, encode_table(part, block_rows), [(f"part-{number}.parquet", 0, None)]
            )
        entries.append(entry)
    return model, entries, n_reused


def run_once(store: ObjectStore, parts: Sequence[pa.Table], block_rows: int = 100) -> tuple[int, int]:
    """(snapshot committed, shards reused): stage every part, then commit a snapshot that holds just these."""
    parent = newest_manifest(store)
    model, entries, n_reused = stage_parts(store, parts, block_rows)
    manifest = Manifest(
        schema=parts[0].schema,
        models=(model,),
        shards=tuple(entry.ref for entry in entries),
        parent=parent.snapshot if parent else 0,
        chapters=parent.chapters if parent else (),
        created_at="2026-01-02T03:04:05Z",
        run="run-1",
        sources=tuple(
            SourceRecord(f"part-{i}.parquet", 100 + i, "ab" * 32, None, 1.5, p.num_rows) for i, p in enumerate(parts)
        ),
    )
    return commit(store, manifest), n_reused


def open_fake(store: ObjectStore, schema: pa.Schema, snapshot: int | None = None) -> Archive:
    """The archive, read through the fake codec."""
    return Archive.open(store, snapshot=snapshot, codec=FakeCodec(schema))


class Killed(BaseException):
    """The process died here."""


@contextmanager
def killed_at(store: ObjectStore, k: int) -> Iterator[None]:
    """The k-th call that changes the store never happens: everything stops there."""
    originals = {name: getattr(store, name) for name in ("write", "create", "delete", "put_file")}
    left = [k]

    def dying(original: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return original(*arguments)

        return call

    for name, original in originals.items():
        setattr(store, name, dying(original))
    try:
        yield
    finally:
        for name in originals:
            delattr(store, name)
