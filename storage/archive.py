"""Opening and reading an archive: any columns, any rows, exact or as a preview, from any snapshot."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.blocks import ShardReader, block_spans
from storage.codec import Codec, LearnedCodec
from storage.entries import ShardRef
from storage.leaves import Leaves
from storage.manifest import Manifest
from storage.objects import Meter, ObjectStore
from storage.shards import ShardEntry, load_record, load_records
from storage.snapshots import list_snapshots, load_manifest, snapshot_path
from storage.verity import read_whole
from storage.version import FORMAT_OBJECT
from storage.writer import ENCODER_PREFIX, load_model
from vae_core.errors import CorruptArchive, LatentpackError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from vae_core.shard import Needs

__all__ = ["Archive", "Meter", "open_archive"]

RECORDS_AHEAD = 256
BROKEN = (ValueError, LookupError, TypeError, ArithmeticError, MemoryError, pa.ArrowException)  # what bytes that make no sense end in

Rows = tuple[int | None, int | None] | slice | range


def open_archive(uri: str, *, snapshot: int | None = None, storage_options: Mapping[str, Any] | None = None) -> Archive:
    """The archive at a path or any fsspec URI, at its newest snapshot or the one named.

    Reads FORMAT, one snapshot and the few objects it names for its schema and lists, nothing else. Raises BadInput when there is
    none, UsageError for a snapshot it lacks, CorruptArchive when what lies there cannot be trusted.
    """
    return Archive.open(ObjectStore.open(uri, storage_options=storage_options), snapshot=snapshot)


class Archive:
    """One snapshot of an archive, for reading. Needs neither torch nor Prefect."""

    def __init__(self, store: ObjectStore, manifest: Manifest, codec: Codec | None = None) -> None:
        self.store = store
        self.manifest = manifest
        self.leaves = Leaves.read(manifest.schema)
        self._codec = codec or LearnedCodec()
        self._models: dict[tuple[str, bool], Any] = {}
        self._readers: dict[str, ShardReader] = {}

    @classmethod
    def open(cls, store: ObjectStore, *, snapshot: int | None = None, codec: Codec | None = None) -> Archive:
        """As `open_archive`, over a store that is open already; `codec` stands in for vae_core."""
        return cls(store, load_manifest(store, snapshot), codec)

    @property
    def schema(self) -> pa.Schema:
        """The exact Arrow schema of the dataset, metadata included."""
        return self.leaves.outer

    @property
    def num_rows(self) -> int:
        """Rows of the dataset."""
        return self.manifest.n_rows

    @property
    def snapshot(self) -> int:
        """Number of the snapshot being read."""
        return self.manifest.snapshot

    @property
    def meter(self) -> Meter:
        """Bytes and requests moved through the store so far."""
        return self.store.meter

    def snapshots(self) -> tuple[int, ...]:
        """Numbers of all snapshots, oldest first."""
        return tuple(list_snapshots(self.store))

    def entries(self) -> tuple[ShardEntry, ...]:
        """The records of all shards, in row order. Raises CorruptArchive."""
        self._read_records(self.manifest.shards)
        return tuple(self._reader(shard).entry for shard in self.manifest.shards)

    def model(self, digest: str, *, with_encoder: bool = False) -> Any:
        """A model of this snapshot, read once. With its encoder it can also encode. Raises CorruptArchive."""
        if not with_encoder and (digest, True) in self._models:
            return self._models[digest, True]
        if (digest, with_encoder) not in self._models:
            ref = self.manifest.model(digest)
            model = load_model(self.store, ref, with_encoder=with_encoder, codec=self._codec)
            self._models[digest, with_encoder] = model
        return self._models[digest, with_encoder]

    def newest_model(self, *, with_encoder: bool = False) -> Any:
        """The model that was stored last. Raises UsageError when the archive has none (an empty dataset)."""
        if not self.manifest.models:
            raise UsageError(f"{self.store.uri}: the archive holds no model")
        return self.model(self.manifest.models[-1].digest, with_encoder=with_encoder)

    def to_table(self, columns: Sequence[str] | None = None, rows: Rows | None = None, preview: bool = False) -> pa.Table:
        """The dataset, or the named columns in the order named, and the rows of a slice, as one table.

        columns : of the schema, or members of structs by their path (`geo.lat`), as columns of that name
        rows    : (start, stop), or a slice or range with step 1; ends may be None or negative, as in Python
        preview : from the latents alone, inexact, at a fraction of the transfer
        Chunks of a dictionary column may have dictionaries of their own.
        Raises UsageError for an unknown column or a slice with a step, CorruptArchive.
        """
        leaves = self._project(columns)
        if not len(leaves.outer) and columns is not None:
            start, stop = self._row_range(rows)
            return pa.table({"row": pa.nulls(stop - start)}).select([])
        tables = list(map(leaves.join, self._tables(leaves.schema, columns, self._row_range(rows), preview)))
        if not tables:  # Arrow's empty_table knows no unions, and no extensions within maps or structs
            return pa.Table.from_arrays([pa.nulls(0, field.type) for field in leaves.outer], schema=leaves.outer)
        return pa.concat_tables(tables)

    def to_batches(self, columns: Sequence[str] | None = None, rows: Rows | None = None, preview: bool = False) -> Iterator[pa.RecordBatch]:
        """As `to_table`, block by block in the memory of one, a few without the kernel. Arguments are checked before the first batch."""
        leaves = self._project(columns)
        tables = self._tables(leaves.schema, columns, self._row_range(rows), preview)
        return (batch for table in tables for batch in leaves.join(table).to_batches() if batch.num_rows)

    def leaf_batches(self, columns: Sequence[str] | None = None, rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """As `to_batches`, of columns as they are stored: under the manifest's schema, or the leaves named (see `storage.leaves`)."""
        schema = self.manifest.schema if columns is None else pa.schema([self.manifest.schema.field(name) for name in columns])
        tables = self._tables(schema, columns, self._row_range(rows), False)
        return (batch for table in tables for batch in table.to_batches() if batch.num_rows)

    def to_pandas(
        self, columns: Sequence[str] | None = None, rows: Rows | None = None, preview: bool = False, **kwargs: Any
    ) -> pd.DataFrame:
        """As `to_table`, as a DataFrame; further arguments go to pyarrow's `Table.to_pandas`."""
        frame: pd.DataFrame = self.to_table(columns, rows, preview).to_pandas(**kwargs)
        return frame

    def plan_read(self, columns: Sequence[str] | None = None, rows: Rows | None = None, preview: bool = False) -> int:
        """Bytes that opening the archive and this read move, models and metadata included.

        Reads records and footers where they have not been read yet, no data.
        """
        schema = self._project(columns).schema
        n_bytes = self.store.size(FORMAT_OBJECT) + self.store.size(snapshot_path(self.snapshot))
        n_bytes += sum(ref.n_bytes for ref in self.manifest.beside)
        seen: set[str] = set()
        for shard, start, stop in self._shards(self._row_range(rows)):
            reader = self._reader(shard)
            if shard.model not in seen:
                files = self.manifest.model(shard.model).objects.items()
                n_bytes += sum(ref.n_bytes for name, ref in files if not name.startswith(ENCODER_PREFIX))
            if shard.record.path not in seen:
                n_bytes += shard.record.n_bytes
            needs = self._needs(reader.entry, schema, columns, preview)
            blocks = [block for block, _, _ in block_spans(reader.entry.block_rows, start, stop)]
            n_bytes += reader.planned_bytes(blocks, needs.natives, needs.groups)
            seen |= {shard.model, shard.record.path}
        return n_bytes

    def check_objects(self) -> Iterator[str]:
        """Read every object this snapshot names and check every byte; yields each path once it is proved.

        Raises CorruptArchive naming the first object that is not what it should be.
        """
        described = [ref for model in self.manifest.models for ref in model.objects.values()]
        for ref in [*self.manifest.beside, *described]:
            read_whole(self.store, ref)
            yield ref.path
        for shard in self.manifest.shards:
            entry = load_record(self.store, shard)
            read_whole(self.store, shard.record)
            yield shard.record.path
            for ref in entry.objects.values():
                read_whole(self.store, ref)
                yield ref.path

    def schema_of(self, columns: Sequence[str] | None) -> pa.Schema:
        """The schema of a read of these columns. Raises UsageError for an unknown one."""
        return self._project(columns).outer

    def _project(self, columns: Sequence[str] | None) -> Leaves:
        if columns is None:
            return self.leaves
        if isinstance(columns, str):
            raise UsageError(f"columns is {columns!r}, one text; pass a list of names")
        names, seen = dict.fromkeys(self.leaves.names), set[str]()
        for column in columns:
            if not isinstance(column, str) or column not in names:
                close = difflib.get_close_matches(str(column), names, n=3, cutoff=0.5) or list(names)[:10]
                raise UsageError(f"{self.store.uri}: no column {column!r}; did you mean {', '.join(map(repr, close))}?")
            if column in seen:
                raise UsageError(f"{self.store.uri}: column {column!r} is asked for twice")
            seen.add(column)
        return self.leaves.project(columns)

    def _row_range(self, rows: Rows | None) -> tuple[int, int]:
        if rows is None:
            return 0, self.num_rows
        if isinstance(rows, range):
            rows = slice(rows.start, rows.stop, rows.step)
        if not isinstance(rows, slice):
            try:
                start, stop = rows
            except (TypeError, ValueError):
                raise UsageError(f"rows is {rows!r}; pass (start, stop) or a slice") from None
            rows = slice(start, stop)
        if rows.step not in (None, 1):
            raise UsageError(f"rows has step {rows.step}; only whole ranges can be read")
        try:
            start, stop, _ = rows.indices(self.num_rows)
        except TypeError:
            raise UsageError(f"rows is {rows!r}; its ends must be whole numbers") from None
        return start, max(start, stop)

    def _shards(self, rows: tuple[int, int]) -> Iterator[tuple[ShardRef, int, int]]:
        """(shard, first row, end row) of the shards that hold some of these rows, rows counted within the shard.

        Their records are read, many at a time.
        """
        wanted = list(self._spans(rows))
        for number, span in enumerate(wanted):
            if number % RECORDS_AHEAD == 0:
                self._read_records([shard for shard, _, _ in wanted[number : number + RECORDS_AHEAD]])
            yield span

    def _spans(self, rows: tuple[int, int]) -> Iterator[tuple[ShardRef, int, int]]:
        first = 0
        for shard in self.manifest.shards:
            start, stop = max(rows[0] - first, 0), min(rows[1] - first, shard.n_rows)
            if start < stop:
                yield shard, start, stop
            first += shard.n_rows

    def _read_records(self, shards: Sequence[ShardRef]) -> None:
        missing = [shard for shard in shards if shard.record.path not in self._readers]
        for shard, entry in zip(missing, load_records(self.store, missing, self.manifest.schema.names), strict=True):
            self._readers[shard.record.path] = ShardReader(self.store, entry)

    def _reader(self, shard: ShardRef) -> ShardReader:
        if shard.record.path not in self._readers:
            self._read_records([shard])
        return self._readers[shard.record.path]

    def _needs(self, entry: ShardEntry, schema: pa.Schema, columns: Sequence[str] | None, preview: bool) -> Needs:
        wanted = None if columns is None else schema.names
        return self._codec.needs(self.model(entry.model), dict(entry.layout), wanted, preview)

    def _tables(self, schema: pa.Schema, columns: Sequence[str] | None, rows: tuple[int, int], preview: bool) -> Iterator[pa.Table]:
        """One table a block, cut to the rows asked for, with exactly `schema`."""
        for shard, start, stop in self._shards(rows):
            reader = self._reader(shard)
            entry = reader.entry
            needs = self._needs(entry, schema, columns, preview)
            spans, wanted = block_spans(entry.block_rows, start, stop), None if columns is None else schema.names
            at_once = self._codec.blocks_at_once(self.model(entry.model), max(entry.block_rows, default=0))
            for first in range(0, len(spans), at_once):
                some = spans[first : first + at_once]
                tables = self._decode_together(reader, [block for block, _, _ in some], needs, wanted, preview)
                for (block, low, high), table in zip(some, tables, strict=True):
                    yield _conform(table, schema, entry, block).slice(low, high - low)
            reader.release()

    def _decode_together(
        self, reader: ShardReader, blocks: Sequence[int], needs: Needs, columns: Sequence[str] | None, preview: bool
    ) -> Iterator[pa.Table]:
        """The tables of some blocks. What is wrong with one of them is found when each is decoded alone."""
        entry = reader.entry
        found: list[pa.Table] = []
        if len(blocks) > 1:
            n_rows = [entry.block_rows[block] for block in blocks]
            with suppress(LatentpackError, *BROKEN):
                parts = [reader.read_block(block, needs.natives, needs.groups) for block in blocks]
                natives, payloads = [part[0] for part in parts], [part[1] for part in parts]
                model, layout = self.model(entry.model), dict(entry.layout)
                found = list(self._codec.decode_blocks(model, layout, n_rows, natives, payloads, columns, preview))
        yield from found
        for block in () if found else blocks:
            yield self._decode(entry, block, *reader.read_block(block, needs.natives, needs.groups), columns, preview)

    def _decode(
        self,
        entry: ShardEntry,
        block: int,
        natives: Mapping[str, pa.Array],
        payloads: Mapping[str, bytes],
        columns: Sequence[str] | None,
        preview: bool,
    ) -> pa.Table:
        model, layout = self.model(entry.model), dict(entry.layout)
        try:
            return next(iter(self._codec.decode_blocks(model, layout, [entry.block_rows[block]], [natives], [payloads], columns, preview)))
        except CorruptArchive as error:
            raise CorruptArchive(f"{_folder(entry)}: block {block}: {error}") from error
        except LatentpackError:
            raise
        except BROKEN as error:
            message = f"{_folder(entry)}: block {block} cannot be decoded ({type(error).__name__}: {error})"
            raise CorruptArchive(message) from error


def _conform(table: pa.Table, schema: pa.Schema, entry: ShardEntry, block: int) -> pa.Table:
    """`table` with exactly `schema`. Raises CorruptArchive when the block does not hold what the archive promises."""
    where = f"{_folder(entry)}: block {block}"
    if table.num_rows != entry.block_rows[block]:
        raise CorruptArchive(f"{where} decodes to {table.num_rows} rows, not {entry.block_rows[block]}")
    columns = []
    for field in schema:
        if field.name not in table.column_names or table.schema.field(field.name).type != field.type:
            raise CorruptArchive(f"{where} decodes without column {field.name!r} of type {field.type}")
        columns.append(table.column(field.name))
    return pa.Table.from_arrays(columns, schema=schema)


def _folder(entry: ShardEntry) -> str:
    return entry.record.path.rpartition("/")[0]
