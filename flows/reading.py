"""Archive to file: stream decoded batches into .parquet, .csv, .arrow or .npy; the file appears whole or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.formats.npy import METADATA_KEY, to_numpy
from vae_core.columns.joining import has_dictionary, has_narrow_dictionary, one_array
from vae_core.columns.profile import storage_of
from vae_core.columns.rows import dense
from vae_core.errors import BadInput, UsageError

if TYPE_CHECKING:
    from storage.archive import Archive

log = logging.getLogger(__name__)

FORMATS = (".parquet", ".csv", ".arrow", ".npy")
FIRST_DAY, LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31
# what new rows are drawn from: rows decoded for it, and of these, in runs, rows and bytes to learn from
DECODED_ROWS, DECODED_RUN_ROWS = 1 << 20, 1 << 17
KNOWN_ROWS, KNOWN_RUN_ROWS, KNOWN_BYTES = 1 << 16, 1 << 11, 256 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: n_bytes in the file, n_bytes_moved through the archive's object store to get it."""

    n_rows: int
    n_columns: int
    n_bytes: int
    n_bytes_moved: int


def export(
    archive_uri: str,
    out: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    rows: tuple[int | None, int | None] | None = None,
    preview: bool = False,
    snapshot: int | None = None,
) -> Exported:
    """Decode an archive, or the named columns and the row slice of it, into `out`, in bounded memory.

    The suffix of `out` decides the format. Raises UsageError for an unknown suffix or column and for data the format
    cannot hold; CorruptArchive from the archive.
    """
    check_suffix(out)
    from storage import open_archive

    archive = open_archive(archive_uri, snapshot=snapshot)
    _refuse_inside(archive, out)
    schema = archive.schema_of(columns)
    start, stop, _ = slice(*(rows or (None, None))).indices(archive.num_rows)
    n_rows = max(0, stop - start)
    batches = archive.to_batches(columns=columns, rows=(start, start + n_rows), preview=preview)
    if preview:  # what latents do not tell of is null, whether or not it may be
        schema = pa.schema([item.with_nullable(True) for item in schema], metadata=schema.metadata)
        batches = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches)
    n_written = write_file(out, schema, batches, n_rows)
    return Exported(n_rows, len(schema), n_written, archive.meter.bytes_read)


def export_sample(archive_uri: str, out: str | os.PathLike[str], *, n_rows: int, seed: int) -> Exported:
    """Draw n_rows seeded rows that look like the archive's into `out`, with its exact schema."""
    check_suffix(out)
    from storage import open_archive
    from vae_core.shard import nulls, sample_rows

    archive = open_archive(archive_uri)
    _refuse_inside(archive, out)
    if archive.num_rows:
        table = archive.leaves.join(sample_rows(archive.newest_model(), _known_rows(archive, seed), n_rows, seed), drawn=True)
    else:
        table = nulls(archive.schema, n_rows)
    n_written = write_file(out, table.schema, table.to_batches(), table.num_rows)
    return Exported(table.num_rows, table.num_columns, n_written, archive.meter.bytes_read)


def _refuse_inside(archive: Archive, out: str | os.PathLike[str]) -> None:
    """Raise UsageError when the file would be an object of the archive, which no snapshot names: a vacuum may remove it."""
    root = Path(archive.store.root).resolve()
    if archive.store.is_local and root in Path(out).resolve().parents:
        raise UsageError(f"{os.fspath(out)}: is inside the archive {archive.store.uri}; put it elsewhere")


def _known_rows(archive: Archive, seed: int) -> pa.Table:
    """Leaves of rows to learn from: of all there are, or of runs from all over the archive, bounded in rows and bytes."""
    from storage.sampling import compact, draw_runs

    n_decoded = min(archive.num_rows, DECODED_ROWS)
    stretches = [(0, archive.num_rows)]
    if n_decoded < archive.num_rows:
        stretches = draw_runs(archive.num_rows, n_decoded, DECODED_RUN_ROWS, seed)
    batches = []
    for stretch in stretches:
        for batch in archive.leaf_batches(rows=stretch):
            n = batch.num_rows
            share = max(1, int(n / n_decoded * min(KNOWN_ROWS, KNOWN_BYTES * n / max(1, batch.nbytes))))
            runs = draw_runs(n, share, KNOWN_RUN_ROWS, seed) if share < n else [(0, n)]
            batches += [compact(batch.slice(start, stop - start)) for start, stop in runs]
    return pa.Table.from_batches(batches, archive.leaves.schema)


def check_suffix(out: str | os.PathLike[str]) -> str:
    """The format of a file name, as its lower-case suffix. Raises UsageError when it is none of FORMATS."""
    suffix = Path(out).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{os.fspath(out)}: the name must end in one of {' '.join(FORMATS)}")
    return suffix


def write_file(
    out: str | os.PathLike[str],
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch] | Sequence[pa.RecordBatch],
    n_rows: int,
) -> int:
    """Write record batches of `schema`, n_rows rows in all, to a local file; returns its size in bytes."""
    suffix = check_suffix(out)
    failures: list[Exception] = []
    with replacing(out) as temporary:
        try:
            WRITERS[suffix](temporary, schema, _watched(batches, failures), n_rows)
        except (NotImplementedError, ValueError, OverflowError) as error:  # Arrow's words for types and values it cannot write
            if error in failures:
                raise
            what = "this schema" if isinstance(error, NotImplementedError) else "these values"
            raise UsageError(f"{os.fspath(out)}: {suffix} cannot hold {what} ({error}): write .arrow, or leave columns out") from error
        return temporary.stat().st_size


def _watched(batches: Iterable[pa.RecordBatch], failures: list[Exception]) -> Iterator[pa.RecordBatch]:
    """The same batches; an error of theirs, which says nothing of the file written, is noted."""
    try:
        yield from batches
    except Exception as error:
        failures.append(error)
        raise


@contextlib.contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `target` that takes its name on success and vanishes on any failure."""
    final = Path(target)
    if "://" in str(target):
        raise UsageError(f"{target}: OUT is a file on this machine; write there, and copy it")
    if final.is_dir():
        raise UsageError(f"{final}: is a folder; give the name of a file")
    if not final.absolute().parent.is_dir():
        raise UsageError(f"{final}: the folder {final.absolute().parent} does not exist")
    mode = 0o666 & ~_umask()
    try:
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.absolute().parent)
    except OSError as error:
        raise BadInput(f"{final}: cannot be written ({error.strerror})") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_parquet(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], n_rows: int) -> None:
    import pyarrow.parquet as pq

    empty = pa.BufferOutputStream()
    try:
        pq.write_table(pa.Table.from_batches([], schema), empty)
    except OSError as error:  # in memory, so a type Parquet has no word for: decimals of negative scale
        raise pa.ArrowNotImplementedError(str(error)) from error
    _tell_of_other_types(schema, pq.read_schema(pa.BufferReader(empty.getvalue())))
    with pq.ParquetWriter(path, schema, compression="zstd", use_compliant_nested_type=False) as writer:
        for group in _gathered(schema, batches):
            writer.write_table(group, row_group_size=group.num_rows or 1)


def _tell_of_other_types(ours: pa.Schema, theirs: pa.Schema) -> None:
    """A warning where columns come back from Parquet in other types, with the same values."""
    other = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.type != b.type]
    if other:
        a, b = other[0]
        more = f", as {len(other) - 1:,} other{'s are' if len(other) > 2 else ' is'} of another type" if len(other) > 1 else ""
        log.warning("column %r is %s in Parquet, not %s%s; .arrow keeps the types", a.name, b.type, a.type, more)


def _write_arrow(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], n_rows: int) -> None:
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True, unify_dictionaries=False)
    with pa.OSFile(str(path), "wb") as sink:
        try:
            with pa.ipc.new_file(sink, schema, options=options) as writer:
                for batch in _growing(schema, batches):
                    writer.write_batch(batch)
        except pa.ArrowInvalid as error:
            if "ictionary replacement" not in str(error):
                raise
            raise UsageError(
                "dictionaries differ between blocks and do not fit into one, and .arrow holds one a column: write .parquet instead"
            ) from error


def _growing(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows over dictionaries that only grow: the file format adds to a dictionary, it does not replace one."""
    growing = [i for i, field in enumerate(schema) if has_dictionary(field.type)]
    known: dict[int, pa.Array] = {}
    for batch in batches:
        columns = batch.columns
        for i in growing:
            if i in known:
                columns[i] = _grown(known[i], columns[i])
            if columns[i].type != schema.field(i).type:
                raise UsageError(
                    f"column {schema.field(i).name!r} has more values than one dictionary of {schema.field(i).type} holds, "
                    "and .arrow holds one a column: write .parquet instead"
                )
            known[i] = columns[i].slice(0, 0)
        yield pa.RecordBatch.from_arrays(columns, schema=schema) if growing else batch


def _grown(known: pa.Array, column: pa.Array) -> pa.Array:
    """A column over the dictionaries of `known`, an array without rows, and its own values behind."""
    before, own = storage_of(known), storage_of(column)
    if isinstance(own, pa.DictionaryArray) and own.dictionary.equals(before.dictionary):
        return column  # whatever values they are: Arrow joins no dictionaries of some types
    return one_array(pa.chunked_array([known, column]))


def _write_csv(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], n_rows: int) -> None:
    from pyarrow import csv

    flat = pa.schema([pa.field(field.name, _csv_type(field.type), field.nullable) for field in schema])
    with csv.CSVWriter(str(path), flat) as writer:
        for batch in batches:
            arrays = [_csv_array(batch.column(i), flat.field(i).type) for i in range(len(flat))]
            for field, array in zip(flat, arrays, strict=True):
                _check_years(field.name, array)
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=flat))


def _check_years(name: str, array: pa.Array) -> None:
    """Raise UsageError where CSV would have a placeholder instead of a time: Arrow prints the years 1 to 9999."""
    kind = array.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return
    day = 1 if pa.types.is_date32(kind) else 86_400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[getattr(kind, "unit", "ms")]
    ends = pc.min_max(array.view(pa.int32() if kind.bit_width == 32 else pa.int64()))
    low, high = ends["min"].as_py(), ends["max"].as_py()
    if low is not None and not FIRST_DAY * day <= low <= high < (LAST_DAY + 1) * day:
        raise UsageError(f".csv cannot hold column {name!r}, which has times beyond the years 1 to 9999: write .arrow or .parquet")


def _csv_type(type_: pa.DataType) -> pa.DataType:
    """The type a column has on its way into CSV: dictionaries as their values, nested values as JSON text, bytes as hexadecimal digits."""
    if pa.types.is_dictionary(type_):
        return _csv_type(type_.value_type)
    if isinstance(type_, pa.BaseExtensionType) or pa.types.is_nested(type_) or _is_bytes(type_) or pa.types.is_string_view(type_):
        return pa.string()
    return type_


def _csv_array(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = dense(array)
    if array.type == type_:
        return array
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return pa.array([None if value is None else _csv_text(value) for value in array.to_pylist()], pa.string())


def _csv_text(value: Any) -> str:
    if isinstance(value, str | bytes):
        return value if isinstance(value, str) else value.hex()
    return json.dumps(value, default=_jsonable)


def _jsonable(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _is_bytes(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_kind(type_) for is_kind in kinds)


def _write_npy(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], n_rows: int) -> None:
    """One column as one array, filled in place as it streams; what was NPY keeps its dtype, shape and memory order."""
    if len(schema) != 1:
        raise UsageError(f".npy holds one array, not {len(schema)} columns: name one with --columns, or write .parquet")
    layout = _array(schema.empty_table())
    order = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}")).get("fortran_order", False)
    if n_rows == 0 or layout.itemsize == 0 or 0 in layout.shape[1:]:
        with path.open("wb") as file:
            np.save(
                file,
                np.empty((n_rows, *layout.shape[1:]), layout.dtype, order="F" if order else "C"),
                allow_pickle=False,
            )
        return
    target = np.lib.format.open_memmap(path, "w+", layout.dtype, (n_rows, *layout.shape[1:]), fortran_order=order)
    filled = 0
    for batch in batches:
        target[filled : filled + batch.num_rows] = _array(pa.Table.from_batches([batch], schema))
        filled += batch.num_rows
    target.flush()


def _array(table: pa.Table) -> NDArray[Any]:
    try:
        return to_numpy(table)
    except BadInput as error:
        raise UsageError(f"{error}: write .parquet instead") from error


WRITERS: dict[str, Callable[[Path, pa.Schema, Iterator[pa.RecordBatch], int], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".arrow": _write_arrow,
    ".npy": _write_npy,
}

GROUP_ROWS = 1 << 18
GROUP_BYTES = 128 << 20


def _gathered(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches joined into row groups of bounded rows and bytes."""
    held: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for batch in batches:
        held.append(batch)
        n_rows += batch.num_rows
        n_bytes += batch.nbytes
        if n_rows >= GROUP_ROWS or n_bytes >= GROUP_BYTES:
            yield from _readable(schema, held)
            held, n_rows, n_bytes = [], 0, 0
    if held:
        yield from _readable(schema, held)


def _readable(schema: pa.Schema, held: list[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches as one table, or several: Parquet makes one dictionary of a row group, which has to fit the type of its indices."""
    table = pa.Table.from_batches(held, schema=schema)
    narrow = [i for i, field in enumerate(schema) if has_narrow_dictionary(field.type)]
    joined = {i: one_array(table.column(i)) for i in narrow}
    if all(column.type == schema.field(i).type for i, column in joined.items()):
        yield pa.Table.from_arrays([joined.get(i, column) for i, column in enumerate(table.columns)], schema=schema)
    else:
        yield from _readable(schema, held[: len(held) // 2])
        yield from _readable(schema, held[len(held) // 2 :])
