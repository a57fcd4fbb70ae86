"""The two Parquet files of a shard, written so that footers stay small and every read is a few ranges.

FORMAT.md, sections "latents.parquet" and "corrections.parquet".
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.thrift import Compact, Without, copy_without
from vae_core.errors import BadInput
from vae_core.shard import EncodedShard, NativeColumn

ROLES = ("latent", "verbatim", "coded")
ENCODINGS = ("plain", "dictionary", "delta", "split")
MAX_BLOCK_ROWS = 1 << 22
MAX_PAYLOAD_BYTES = (1 << 31) - (1 << 20)

# Optional fields of the structs of a footer (parquet.thrift). ColumnMetaData: statistics, encoding_stats, size_statistics.
# RowGroup: file_offset, total_compressed_size, ordinal. FileMetaData: created_by, column_orders.
_CHUNK = Without(within={3: Without(frozenset({12, 13, 16}))})
_FOOTER = Without(frozenset({6, 7}), {2: Without(), 4: Without(frozenset({5, 6, 7}), {1: _CHUNK})})


def footer_start(data: bytes) -> int:
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def slim(data: bytes) -> bytes:
    """A Parquet file with a footer of only what a reader needs: no writer's name, no statistics, nothing said twice."""
    start = footer_start(data)
    footer = copy_without(Compact(memoryview(data)[: len(data) - 8], start), _FOOTER)
    return data[:start] + footer + len(footer).to_bytes(4, "little") + data[-4:]


def chunk_range(chunk: Any) -> tuple[int, int]:
    """(start, stop) of a column chunk in its file, dictionary page included."""
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset)
    return start, start + chunk.total_compressed_size


def column_chunks(data: bytes, natives: Sequence[NativeColumn]) -> list[tuple[NativeColumn, int, int]]:
    """(native, offset, bytes) of every column chunk of a Parquet file, in file order."""
    metadata = pq.read_metadata(pa.BufferReader(data))
    by_name = {native.name: native for native in natives}
    found = []
    for group in range(metadata.num_row_groups):
        for leaf in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(leaf)
            start, stop = chunk_range(chunk)
            found.append((by_name[chunk.path_in_schema.partition(".")[0]], start, stop - start))
    return found


def write_latents(shard: EncodedShard) -> bytes:
    """One row group a block; zstd 19; each column in the Parquet encoding it asks for."""
    names = [native.name for native in shard.natives]
    for native in shard.natives:
        if "." in native.name or native.role not in ROLES or native.encoding not in ENCODINGS:
            raise ValueError(f"native column {native} cannot be stored")
    fields = []
    for name in names:
        arrays = [block.natives[name] for block in shard.blocks]
        fields.append(pa.field(name, arrays[0].type, nullable=any(array.null_count for array in arrays)))
    schema = pa.schema(fields)
    leaves = _leaf_encodings(schema, shard.natives)
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=19,
        use_dictionary=[path for path, encoding in leaves.items() if encoding is None],
        column_encoding={path: encoding for path, encoding in leaves.items() if encoding is not None} or None,
        write_statistics=False,
        store_schema=False,
        write_page_index=False,
        data_page_version="2.0",
        data_page_size=1 << 26,
        dictionary_pagesize_limit=1 << 26,
        max_rows_per_page=MAX_BLOCK_ROWS,
    ) as writer:
        for block in shard.blocks:
            table = pa.Table.from_arrays([block.natives[name] for name in names], schema=schema)
            if table.num_rows != block.n_rows:
                raise ValueError(f"a block of {block.n_rows} rows has native columns of {table.num_rows}")
            writer.write_table(table, row_group_size=max(block.n_rows, 1))
    return slim(sink.getvalue())


def _leaf_encodings(schema: pa.Schema, natives: Sequence[NativeColumn]) -> dict[str, str | None]:
    """Leaf path -> Parquet encoding, None for a dictionary."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink, store_schema=False)
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    wanted = {native.name: native.encoding for native in natives}
    encodings: dict[str, str | None] = {}
    for index in range(len(leaves)):
        leaf = leaves.column(index)
        encodings[leaf.path] = _parquet_encoding(wanted[leaf.path.partition(".")[0]], leaf.physical_type)
    return encodings


def _parquet_encoding(encoding: str, physical_type: str) -> str | None:
    """The Parquet name of an encoding for a physical type, "PLAIN" where the type has no such encoding."""
    if encoding == "dictionary" and physical_type != "BOOLEAN":
        return None
    if physical_type == "BOOLEAN":
        return "PLAIN" if encoding == "plain" else "RLE"
    if encoding == "delta":
        integers = physical_type in ("INT32", "INT64")
        arrays = physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
        return "DELTA_BINARY_PACKED" if integers else "DELTA_BYTE_ARRAY" if arrays else "PLAIN"
    if encoding == "split" and physical_type in ("INT32", "INT64", "FLOAT", "DOUBLE", "FIXED_LEN_BYTE_ARRAY"):
        return "BYTE_STREAM_SPLIT"
    return "PLAIN"


_CORRECTIONS_SCHEMA = pa.schema([pa.field("payload", pa.large_binary(), nullable=False)])


def write_corrections(shard: EncodedShard, lengths: Sequence[int]) -> tuple[bytes, int]:
    """(file, offset of the first payload's length prefix). All payloads lie in one uncompressed PLAIN page.

    So a reader that knows their lengths reaches each one with a range request, and no footer entry is spent on it.
    """
    n_payload_bytes = sum(lengths) + 4 * len(lengths)
    if n_payload_bytes > MAX_PAYLOAD_BYTES:
        raise BadInput(
            f"a shard has {n_payload_bytes} bytes of corrections, {MAX_PAYLOAD_BYTES} fit: use smaller parts"
        )
    payloads = [block.payloads.get(group, b"") for block in shard.blocks for group in shard.groups]
    table = pa.Table.from_arrays([pa.array(payloads, pa.large_binary())], schema=_CORRECTIONS_SCHEMA)
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        _CORRECTIONS_SCHEMA,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        write_page_index=False,
        data_page_version="1.0",
        data_page_size=(1 << 31) - 1,
        max_rows_per_page=(1 << 31) - 1,
        write_batch_size=(1 << 31) - 1,
    ) as writer:
        writer.write_table(table, row_group_size=max(table.num_rows, 1))
    data = slim(sink.getvalue())
    stop = 0
    if table.num_rows:
        _, stop = chunk_range(pq.read_metadata(pa.BufferReader(data)).row_group(0).column(0))
    first = stop - n_payload_bytes
    position = first
    for payload in payloads:
        if data[position : position + 4 + len(payload)] != len(payload).to_bytes(4, "little") + payload:
            raise RuntimeError("this pyarrow splits the payload page; latentpack needs it whole")
        position += 4 + len(payload)
    return data, max(first, 0)
