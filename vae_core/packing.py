"""Bytes in zstd, arrays as Arrow streams, and what reads these and pcodec from a payload that may be hostile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from numpy.typing import NDArray
from pcodec import standalone

from vae_core.errors import CorruptArchive

_MOST_BYTES = 1 << 28


def zstd(data: bytes, level: int = 19) -> bytes:
    """zstd frame with its content size."""
    return bytes(zstandard.ZstdCompressor(level=level).compress(data))


def unzstd(data: bytes, most_bytes: int = _MOST_BYTES) -> bytes:
    """The inverse of `zstd`; raises CorruptArchive when the frame is damaged or claims more than most_bytes."""
    try:
        n_bytes = zstandard.frame_content_size(data)
        if not 0 <= n_bytes <= most_bytes:
            raise CorruptArchive(f"a zstd frame claims {n_bytes} bytes, at most {most_bytes} are read")
        return bytes(zstandard.ZstdDecompressor().decompress(data))
    except zstandard.ZstdError as error:
        raise CorruptArchive(f"a zstd frame cannot be read: {error}") from None


def to_ipc(array: pa.Array | pa.ChunkedArray) -> bytes:
    """One array, or chunks, as an Arrow IPC stream of a batch each, uncompressed. Extension types keep their names."""
    sink = pa.BufferOutputStream()
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    with pa.ipc.new_stream(sink, pa.schema([("v", array.type)])) as writer:
        for chunk in chunks:
            writer.write_batch(pa.record_batch([chunk], names=["v"]))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes, expected: pa.DataType | None = None) -> pa.Array:
    """The inverse of `to_ipc` of one array, validated; raises CorruptArchive on damage or an unexpected type."""
    array = chunks_from_ipc(data, expected)
    if array.num_chunks != 1:
        raise CorruptArchive("an Arrow stream does not hold exactly one array")
    return array.chunk(0)


def chunks_from_ipc(data: bytes, expected: pa.DataType | None = None) -> pa.ChunkedArray:
    """The inverse of `to_ipc`, validated; raises CorruptArchive on damage or an unexpected type."""
    try:
        with pa.ipc.open_stream(data) as reader:
            batches, schema = list(reader), reader.schema
        if len(schema) != 1:
            raise CorruptArchive("an Arrow stream does not hold exactly one array")
        for batch in batches:
            _check(batch.column(0))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptArchive(f"an Arrow stream cannot be read: {error}") from None
    kind = schema.field(0).type
    if expected is not None and kind != expected:
        raise CorruptArchive(f"an Arrow stream holds {kind}, expected {expected}")
    return pa.chunked_array([batch.column(0) for batch in batches], kind)


def _check(array: pa.Array) -> None:
    """Full validation of the layout; dates, times and decimals may hold what Arrow itself let in."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        bare = _bare(array.type)
        if bare == array.type:
            raise
        array.view(bare).validate(full=True)


def _bare(kind: pa.DataType) -> pa.DataType:
    """The same layout with integers and bytes for dates, times and decimals, through lists and structs."""
    t = pa.types
    if t.is_date(kind) or t.is_time(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if t.is_decimal(kind):
        return pa.binary(kind.byte_width)
    if t.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_bare(kind.value_type)), kind.list_size)
    if t.is_list(kind):
        return pa.list_(kind.value_field.with_type(_bare(kind.value_type)))
    if t.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_bare(kind.value_type)))
    if t.is_struct(kind):
        return pa.struct([kind.field(i).with_type(_bare(kind.field(i).type)) for i in range(kind.num_fields)])
    return kind


def unpco(data: bytes, dtype: np.dtype[Any], n: int) -> NDArray[Any]:
    """Exactly n numbers of dtype from a pcodec stream; raises CorruptArchive."""
    values = np.empty(n, dtype)
    try:
        progress = standalone.simple_decompress_into(data, values)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CorruptArchive(f"a pcodec stream cannot be read: {error}") from None
    if progress.n_processed != n or not progress.finished:
        raise CorruptArchive(f"a pcodec stream does not hold exactly {n} numbers")
    return values
