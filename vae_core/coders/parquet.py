"""One column in Parquet without Arrow's own metadata: what goes in, what comes back, and what it weighs."""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from vae_core.columns.joining import alike, narrowest, one_array, wide_type, wrapped
from vae_core.columns.plan import ColumnPlan, storage_type
from vae_core.columns.profile import storage_of
from vae_core.columns.rows import dense
from vae_core.errors import CorruptArchive
from vae_core.quality import differences

ENCODINGS = ("plain", "dictionary", "delta", "split")


def chunk_bytes(native: pa.Array, encoding: str, level: int = 19) -> int:
    """Bytes of the column chunks (dictionary page included) of one native column in one row group, zstd, 19 as it is stored."""
    data = _write(native, encoding, "zstd", level)
    group = pq.read_metadata(pa.BufferReader(data))
    if group.num_row_groups == 0:
        return 0
    return sum(group.row_group(0).column(i).total_compressed_size for i in range(group.num_columns))


def _write(native: pa.Array, encoding: str, compression: str, level: int = 19) -> pa.Buffer:
    schema = pa.schema([pa.field("v", native.type, nullable=native.null_count > 0)])
    encodings: dict[str, str] = {}
    dictionaries: list[str] = []
    for path, physical_type in _leaves(native.type, native.null_count > 0):
        if encoding == "dictionary" and physical_type != "BOOLEAN":
            dictionaries.append(path)
        else:
            encodings[path] = leaf_encoding(encoding, physical_type)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        schema,
        compression=compression,
        compression_level=level if compression == "zstd" else None,
        use_dictionary=dictionaries,
        column_encoding=encodings or None,
        write_statistics=False,
        store_schema=False,
        data_page_version="2.0",
        data_page_size=1 << 26,
        dictionary_pagesize_limit=1 << 26,
        max_rows_per_page=1 << 22,
    ) as writer:
        writer.write_table(pa.Table.from_arrays([native], schema=schema), row_group_size=max(1, len(native)))
    return sink.getvalue()


@lru_cache(maxsize=512)
def _leaves(kind: pa.DataType, nullable: bool) -> tuple[tuple[str, str], ...]:
    """(path, physical type) of the leaves Parquet has for a column "v" of a type."""
    head = pa.BufferOutputStream()
    pq.write_table(pa.schema([pa.field("v", kind, nullable=nullable)]).empty_table(), head, store_schema=False)
    leaves = pq.ParquetFile(pa.BufferReader(head.getvalue())).schema
    return tuple((leaf.path, leaf.physical_type) for leaf in map(leaves.column, range(len(leaves))))


def leaf_encoding(encoding: str, physical_type: str) -> str:
    """The Parquet name of an encoding for a physical type; PLAIN where the type has no such encoding."""
    if physical_type == "BOOLEAN":
        return "PLAIN" if encoding == "plain" else "RLE"
    if encoding == "delta":
        if physical_type in ("INT32", "INT64"):
            return "DELTA_BINARY_PACKED"
        return "DELTA_BYTE_ARRAY" if physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY") else "PLAIN"
    if encoding == "split" and physical_type in ("INT32", "INT64", "FLOAT", "DOUBLE", "FIXED_LEN_BYTE_ARRAY"):
        return "BYTE_STREAM_SPLIT"
    return "PLAIN"


def native_of(array: pa.Array) -> pa.Array:
    """The array in a type Parquet keeps by itself: storage of extensions, values of dictionaries, plain strings."""
    array = storage_of(array)
    t = pa.types
    if t.is_dictionary(array.type):
        array = dense(array)
    if t.is_string_view(array.type):
        return array.cast(pa.large_string())
    if t.is_binary_view(array.type):
        return array.cast(pa.large_binary())
    if t.is_duration(array.type):
        return array.view(pa.int64())
    return array


def from_native(plan: ColumnPlan, native: pa.Array) -> pa.Array:
    """The inverse of `native_of`, `alike` the plan's type (vae_core.columns.joining). Raises CorruptArchive."""
    target = storage_type(plan.field.type)
    t = pa.types
    try:
        if t.is_dictionary(target):
            values = native.cast(target.value_type)
            array = values.dictionary_encode()
            indices = narrowest(array.indices, len(array.dictionary), target.index_type)
            array = pa.DictionaryArray.from_arrays(indices, array.dictionary, ordered=target.ordered)
        elif t.is_duration(target):
            array = native.cast(pa.int64()).view(target)
        else:
            array = native if native.type == target else _cast(native, target)
    except (pa.ArrowException, ValueError) as error:
        raise CorruptArchive(f"column {plan.name!r} is stored as {native.type}, no {target}: {error}") from None
    return wrapped(plan.field.type, array)


def _cast(native: pa.Array, target: pa.DataType) -> pa.Array:
    """The array in a type, over 32-bit indices where the values of a dictionary within are too many for its own."""
    try:
        return native.cast(target)
    except pa.ArrowInvalid:
        wide = wide_type(target)
        if wide == target:
            raise
        return native.cast(wide)


def survives(plan: ColumnPlan, array: pa.Array) -> bool:
    """Whether Parquet, without Arrow's own metadata, gives the array back; plain types do, the others are tried."""
    t, kind = pa.types, storage_type(plan.field.type)
    safe = t.is_boolean(kind) or t.is_integer(kind) or t.is_float32(kind) or t.is_float64(kind) or t.is_string(kind)
    if safe or t.is_large_string(kind) or t.is_binary(kind) or t.is_large_binary(kind) or t.is_date32(kind):
        return True
    try:
        data = _write(native_of(array), "plain", "none")
        native = one_array(pq.read_table(pa.BufferReader(data)).column(0))
        back = from_native(plan, native)
        return bool(alike(back.type, array.type) and len(back) == len(array) and not differences(array, back).any())
    except (pa.ArrowException, OSError, CorruptArchive, ValueError, NotImplementedError, TypeError):
        # whichever way Parquet or Arrow refuses a type is the answer: OSError, too, is Arrow's word (decimals of negative scale), for
        # all of this is in memory. The column is kept in Arrow's own form then (tests/test_every_type.py)
        return False
