"""What latents cost as they will be stored: Parquet, zstd-19, one row group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

ENCODINGS = ("plain", "dictionary", "split")


def stored_bytes(z: NDArray[np.integer[Any]]) -> int:
    """Bytes of latents z (n, C): for each column the smallest of the Parquet encodings, pages and dictionary
    included."""
    encodings = ENCODINGS if z.shape[1] <= 8 else ("dictionary", "split")
    return sum(column_bytes(z[:, c], encodings)[1] for c in range(z.shape[1]))


def column_bytes(column: NDArray[np.integer[Any]], encodings: Sequence[str] = ENCODINGS) -> tuple[str, int]:
    """The best encoding of one column of latents and its bytes."""
    sizes = [(measured(column, encoding), encoding) for encoding in encodings]
    n_bytes, encoding = min(sizes)
    return encoding, n_bytes


def measured(column: NDArray[np.integer[Any]], encoding: str) -> int:
    """Bytes of the column chunk under one encoding ("plain" | "dictionary" | "split")."""
    sink = pa.BufferOutputStream()
    # from buffers: pa.array(numpy) would import pandas first
    column = np.ascontiguousarray(column)
    array = pa.Array.from_buffers(pa.int8() if column.dtype == np.int8 else pa.int16(), len(column), [None, pa.py_buffer(column)])
    table = pa.Table.from_arrays([array], names=["z"])
    special: Any = {"z": "BYTE_STREAM_SPLIT"} if encoding == "split" else None
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", compression_level=19, use_dictionary=encoding == "dictionary",
        column_encoding=special, write_statistics=False, store_schema=False,
    ) as writer:  # fmt: skip
        writer.write_table(table, row_group_size=max(1, len(column)))
    chunk = pq.ParquetFile(pa.BufferReader(sink.getvalue())).metadata.row_group(0).column(0)
    return int(chunk.total_compressed_size)


def entropy_bits(latents: NDArray[np.integer]) -> float:
    """Zero-order entropy of latents (m, L), bits a window, each latent under its own histogram."""
    total = 0.0
    for column in latents.T:
        counts = np.bincount(column.astype(np.int64) - int(column.min()))
        p = counts[counts > 0] / len(column)
        total -= float((p * np.log2(p)).sum())
    return total
