"""Raw datasets: the files behind a URI as one stream of Arrow batches under one schema.

    source = open_source("s3://bucket/events/")
    for part in source.parts(target_rows=262_144):
        for batch in source.batches(part): ...

Nothing is read whole: Parquet by row group, text by block, arrays by memory map. Remote files are fetched once to a
local folder when their rows (or digests) are first asked for; local files are read in place.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from storage.agreement import Claim, agree, conform, other_metadata, surprises
from storage.errors import BadInput
from storage.formats import FORMATS, Outline, format_of
from storage.formats.contract import unreadable
from storage.formats.ipc import ArrowIPC
from storage.formats.recognise import N_MAGIC_BYTES
from storage.leaves import WHOLE, Leaves, Recipe, find_recipe
from storage.listing import list_source
from storage.metering import Meter
from storage.objects import ObjectInfo, ObjectStore
from storage.parts import SourcePart, divide
from storage.ranges import RangeFile
from storage.sampling import SourceSample, compact, draw_runs
from storage.staging import Staging, changed
from storage.transient import shown

__all__ = ["Source", "SourceFile", "SourcePart", "SourceSample", "open_source"]

BATCH_ROWS, PEEK_ROWS = 65_536, 4_096
_N_INSPECTORS = 8
_EXACT = 2.0**53  # below it every integer is a double

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source and what identifies its content.

    path   : relative to the folder of the source
    etag   : the server's name for this version, None for local files
    mtime  : seconds since 1970, None where unknown
    digest : sha256 of the bytes, hexadecimal; None until the file was read through
    n_rows : None until known: text and Arrow streams tell only when read
    stamp  : of a local file as it was digested, see `Staging.stamp`; of no use to another run
    """

    path: str
    n_bytes: int
    etag: str | None
    mtime: float | None
    digest: str | None
    n_rows: int | None
    format: str
    stamp: str | None = None


def open_source(
    uri: str,
    *,
    widen: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    meter: Meter | None = None,
    staging_dir: str | None = None,
    recipe: Recipe | None = WHOLE,
) -> Source:
    """The dataset at `uri`: a file, a folder or a glob on any fsspec filesystem.

    Headers and footers are read, rows are not. `widen` lets files join whose numeric types are narrower (see
    `storage.agreement.agree`). Remote files are kept in `staging_dir` if given, else in a temporary folder until `close`.
    `recipe` says how nested columns are divided (see `storage.leaves`); None finds out, from the first rows where there are lists
    of numbers.
    Raises BadInput for a missing path, an empty folder, an unreadable file, schemas that disagree, and files without columns.
    """
    store, infos = list_source(uri, storage_options, meter)
    with ThreadPoolExecutor(1 if store.is_local else _N_INSPECTORS) as pool:
        inspected = list(pool.map(lambda info: _inspect(store, info), infos))
    claims = [
        Claim(store.shown(info.path), outline.schema, FORMATS[name].inferred, optional_fields=name == "jsonl")
        for info, (name, outline) in zip(infos, inspected, strict=True)
    ]
    schema = agree(claims, widen=widen)
    if not len(schema):
        raise BadInput(f"{shown(uri)}: its rows have no columns, there is nothing to store")
    outlines = [outline for _, outline in inspected]
    notes = [*surprises(shown(uri), infos, claims, outlines), *other_metadata(claims)]
    source = Source(uri, Leaves.of(schema, WHOLE), store, infos, inspected, Staging(store, staging_dir), notes)
    try:
        source.divide(find_recipe(schema, source.peek) if recipe is None else recipe)
    except BaseException:
        source.close()
        raise
    return source


class Source:
    """A dataset to divide, sample and stream. Build it with `open_source`; close it, or use it as a context.

    schema : exact Arrow schema of every batch: of the leaves of the dataset, see `storage.leaves`
    meter  : counts the bytes read (a local file's compressed bytes each time they are read)
    notes  : what may surprise, a line each, for whoever opens the source first to tell; reading rows may add to them
    """

    def __init__(
        self,
        uri: str,
        leaves: Leaves,
        store: ObjectStore,
        infos: Sequence[ObjectInfo],
        inspected: Sequence[tuple[str, Outline]],
        staging: Staging,
        notes: Sequence[str] = (),
    ) -> None:
        self.uri = uri
        self.leaves = leaves
        self.notes = list(notes)
        self.meter = store.meter
        self._store = store
        self._staging = staging
        self._infos = {info.path: info for info in infos}
        self._formats = {info.path: name for info, (name, _) in zip(infos, inspected, strict=True)}
        self._groups = {info.path: outline.groups for info, (_, outline) in zip(infos, inspected, strict=True)}
        self._digests: dict[str, tuple[str, str | None]] = {}  # and the stamp
        self._warned: set[str] = set()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Source({shown(self.uri)!r}, {len(self._infos)} files, {self.raw_bytes} bytes)"

    def close(self) -> None:
        """Remove the local copies of remote files, unless they are in a folder the caller gave."""
        self._staging.close()

    @property
    def schema(self) -> pa.Schema:
        """Of every batch."""
        return self.leaves.schema

    def divide(self, recipe: Recipe) -> None:
        """Have nested columns divided by a recipe from now on."""
        self.leaves = Leaves.of(self.leaves.outer, recipe)

    def peek(self, n_rows: int = PEEK_ROWS) -> pa.RecordBatch | None:
        """The first rows, of the first files that have any; None of an empty dataset."""
        found, left = list[pa.RecordBatch](), n_rows
        batches = (batch for path in self._infos for batch in self._rows(path, 0, None, n_rows))
        while left > 0 and (batch := next(batches, None)) is not None:
            found.append(batch.slice(0, left))
            left -= found[-1].num_rows
        whole = pa.Table.from_batches(found).combine_chunks().to_batches() if len(found) > 1 else found
        return next(iter([*whole, *found]), None)  # a table without rows has no batches

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Every file in order of path, with digests and row counts as far as they are known by now."""
        return tuple(self._file(path) for path in self._infos)

    @property
    def raw_bytes(self) -> int:
        """Bytes of all files as stored."""
        return sum(info.n_bytes for info in self._infos.values())

    def fingerprints(self, only: Collection[str] | None = None) -> tuple[SourceFile, ...]:
        """The files (or those whose path is in `only`) with their digests; each file is digested once."""
        paths = self._chosen(only)
        for path in paths:
            if path not in self._digests:
                self._digests[path] = self._staging.digest(self._infos[path])
        return tuple(self._file(path) for path in paths)

    @contextmanager
    def holding(self, files: Iterable[SourceFile]) -> Iterator[None]:
        """What is read inside is of these files as they were digested: each is the same version, or has the same bytes, before and after.

        Raises BadInput naming one that has neither.
        """
        held = list(files)
        for file in held:
            self._refuse_other(file)
        try:
            yield
        finally:
            for file in held:
                self._refuse_other(file)

    def n_rows(self, only: Collection[str] | None = None) -> int:
        """Rows of all files (or of those in `only`); reads through the files that do not state it."""
        return sum(sum(self._known_groups(path)) for path in self._chosen(only))

    def parts(self, target_rows: int, only: Collection[str] | None = None) -> list[SourcePart]:
        """The rows in pieces of about `target_rows`, in order; no part for no rows.

        Whole files are joined while they fit; a larger file is divided between row groups, and within one that is
        larger still. The same files give the same parts with the same names. `only` restricts to these paths.
        """
        groups = {path: self._known_groups(path) for path in self._chosen(only)}
        return divide(self.uri, groups, target_rows)

    def batches(self, part: SourcePart | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """The rows of a part (or of everything) in order, at most `batch_rows` at a time, under `self.schema`.

        Raises BadInput naming the file when it is corrupt, changed since the source was opened, or holds a value that
        does not fit the schema.
        """
        slices = [(path, 0, None) for path in self._infos] if part is None else part.slices
        for path, start, stop in slices:
            yield from self._rows(path, start, stop, batch_rows)

    def table(self, part: SourcePart | None = None) -> pa.Table:
        """The rows of one part (or of everything) at once."""
        return pa.Table.from_batches(list(self.batches(part)), schema=self.schema)

    def sample(self, n_rows: int, seed: int, run_rows: int = 4096, only: Collection[str] | None = None) -> SourceSample:
        """About `n_rows` rows of all files (or of those in `only`): everything if there are no more, else runs of consecutive
        rows spread over them.

        The dataset is cut into equal stretches and one run of at least `run_rows` rows (or `n_rows`, if fewer) drawn
        from each. The same seed draws the same rows. Only the row groups the runs touch are read.
        """
        paths = self._chosen(only)
        total = self.n_rows(paths)
        if total <= n_rows:
            batches = [batch for path in paths for batch in self._rows(path, 0, None, BATCH_ROWS)]
            return SourceSample(_combined(pa.Table.from_batches(batches, schema=self.schema)), (total,) if total else ())
        runs = draw_runs(total, n_rows, run_rows, seed)
        pieces: list[pa.RecordBatch] = []
        first_row = 0
        for path in paths:
            length = sum(self._known_groups(path))
            wanted = [(max(a - first_row, 0), min(b - first_row, length)) for a, b in runs]
            pieces += self._pieces(path, [(a, b) for a, b in wanted if a < b])
            first_row += length
        return SourceSample(pa.Table.from_batches(pieces, schema=self.schema), tuple(b - a for a, b in runs))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _file(self, path: str) -> SourceFile:
        info, groups = self._infos[path], self._groups[path]
        n_rows = None if groups is None else sum(groups)
        digest, stamp = self._digests.get(path, (None, None))
        return SourceFile(path, info.n_bytes, info.etag, info.mtime, digest, n_rows, self._formats[path], stamp)

    def _refuse_other(self, file: SourceFile) -> None:
        info = self._infos.get(file.path)
        if info is None or info.n_bytes != file.n_bytes:
            raise changed(self._store.shown(file.path))
        is_same = info.etag == file.etag if info.etag is not None else file.stamp is not None and self._staging.stamp(info) == file.stamp
        if not is_same and self._staging.digest(info)[0] != file.digest:
            raise changed(self._store.shown(file.path))

    def _chosen(self, only: Collection[str] | None) -> list[str]:
        if only is None:
            return list(self._infos)
        unknown = sorted(set(only) - set(self._infos))
        if unknown:
            raise BadInput(f"{shown(self.uri)}: no file {unknown[0]!r}")
        return [path for path in self._infos if path in set(only)]

    def _known_groups(self, path: str) -> tuple[int, ...]:
        """Rows of each stretch of a file; counts them once where the file does not say."""
        groups = self._groups[path]
        if groups is None:
            reader = FORMATS[self._formats[path]]
            if isinstance(reader, ArrowIPC):
                groups = reader.group_rows(self._staging.local_path(self._infos[path]), self._store.shown(path))
            else:
                groups = (sum(batch.num_rows for batch in self._rows(path, 0, None, BATCH_ROWS)),)
            self._groups[path] = groups
        return groups

    def _rows(self, path: str, start: int, stop: int | None, batch_rows: int) -> Iterator[pa.RecordBatch]:
        where = self._store.shown(path)
        info = self._infos.get(path)
        if info is None:
            raise BadInput(f"{where}: not a file of this source any more")
        local = self._staging.local_path(info)
        if self._store.is_local:
            self.meter.record_read(self._share(path, start, stop))
        reader = FORMATS[self._formats[path]]
        outer = self.leaves.outer
        n_rows = 0
        for batch in reader.batches(local, outer, start, stop, batch_rows, where):
            n_rows += batch.num_rows
            if reader.inferred:
                self._warn_of_digits(batch, where)
            yield self.leaves.split(conform(batch, outer, where))
        if start == 0 and stop is None and self._groups[path] is None:
            self._groups[path] = (n_rows,)
        if stop is not None and n_rows != stop - start:
            raise BadInput(f"{where}: rows {start} to {stop} were expected, {n_rows} were there; it changed meanwhile")

    def _warn_of_digits(self, batch: pa.RecordBatch, where: str) -> None:
        """Note once a column that numbers read from text may have had more digits than their type holds."""
        for item, column in zip(batch.schema, batch.columns, strict=True):
            if pa.types.is_float64(item.type) and item.name not in self._warned:
                extremes = pc.min_max(column)
                if any(_EXACT <= abs(end) < math.inf for end in (extremes["min"].as_py(), extremes["max"].as_py()) if end is not None):
                    self._warned.add(item.name)
                    told = "is read as double and has values beyond 2^53: integers of so many digits lose some"
                    self.notes.append(f"{where}: field {item.name!r} {told}")

    def _pieces(self, path: str, wanted: list[tuple[int, int]]) -> Iterator[pa.RecordBatch]:
        """The rows of these ascending, disjoint ranges of one file, each batch without the memory of its neighbours.

        A gap larger than a row group is skipped by a new read; a smaller one is read over.
        """
        groups = self._known_groups(path)
        skippable = max(groups) if len(groups) > 1 else sum(groups)
        if self._formats[path] == "npy":
            skippable = 0  # every row can be reached directly
        reads: list[list[tuple[int, int]]] = []
        for a, b in wanted:
            if reads and a - reads[-1][-1][1] <= skippable:
                reads[-1].append((a, b))
            else:
                reads.append([(a, b)])
        for ranges in reads:
            position = ranges[0][0]
            for batch in self._rows(path, position, ranges[-1][1], BATCH_ROWS):
                for a, b in ranges:
                    low, high = max(a - position, 0), min(b - position, batch.num_rows)
                    if low < high:
                        yield compact(batch.slice(low, high - low))
                position += batch.num_rows

    def _share(self, path: str, start: int, stop: int | None) -> int:
        """Bytes of a file that reading rows [start, stop) takes, by their share of its rows."""
        n_bytes, groups = self._infos[path].n_bytes, self._groups[path]
        if stop is None or groups is None or not sum(groups):
            return n_bytes
        return n_bytes * (min(stop, sum(groups)) - start) // sum(groups)


def _combined(table: pa.Table) -> pa.Table:
    """A table in one chunk; as it is where dictionaries have too many values together for the type of their indices."""
    try:
        return table.combine_chunks()
    except pa.ArrowInvalid:
        return table


def _inspect(store: ObjectStore, info: ObjectInfo) -> tuple[str, Outline]:
    """The format of a file and its outline, from as few bytes as that takes."""
    where = store.shown(info.path)
    if info.n_bytes == 0:
        raise BadInput(f"{where}: the file is empty")
    try:
        with _opened(store, info) as file:
            name = format_of(info.path, file.read(N_MAGIC_BYTES), where)
            file.seek(0)
            return name, FORMATS[name].outline(file, info.n_bytes, where)
    except FileNotFoundError as error:
        raise BadInput(f"{where}: disappeared while the source was opened") from error
    except PermissionError as error:
        raise BadInput(f"{where}: no permission to read it") from error
    except (OSError, pa.ArrowException) as error:
        raise unreadable(where, "data", error) from error


def _opened(store: ObjectStore, info: ObjectInfo) -> BinaryIO:
    if store.is_local:
        return open(store.full_path(info.path), "rb")
    return cast(BinaryIO, RangeFile(store, info.path, info.n_bytes))
