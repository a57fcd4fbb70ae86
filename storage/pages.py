"""Page headers of a Parquet column chunk, read before a Parquet reader allocates what they claim.

A header is a Thrift struct (PageHeader in the Parquet format's parquet.thrift). The footer's
sizes do not bind the headers, so a few stored bytes could make a reader allocate gigabytes; here every page is held
against the rows the block really has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage.thrift import Compact
from vae_core.errors import CorruptArchive

MAX_CHUNK_BYTES = 2 << 30
MAX_CHUNK_VALUES = 1 << 28
SLACK_BYTES = 64 << 10

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_DATA_PAGE, _INDEX_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = range(4)
_VALUES_STRUCT = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_V2: 8}


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its kind, the values it claims, and its size before and after decompression."""

    kind: int
    n_values: int
    n_stored_bytes: int
    n_bytes: int


def read_pages(chunk: bytes, where: str) -> list[Page]:
    """The pages of a column chunk, in order. Raises CorruptArchive when they do not tile it."""
    view = memoryview(chunk)
    pages = []
    position = 0
    while position < len(chunk):
        cursor = Compact(view, position)
        try:
            header = cursor.struct()
            kind, n_bytes, n_stored = (int(header[field]) for field in (1, 2, 3))
            values = header[_VALUES_STRUCT[kind]][1] if kind in _VALUES_STRUCT else 0
            pages.append(Page(kind, int(values), n_stored, n_bytes))
            cursor.skip(n_stored)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CorruptArchive(f"{where}: damaged page header at byte {position} ({reason})") from None
        position = cursor.position
    return pages


def check_chunk(chunk: bytes, n_rows: int, column: Any, where: str) -> None:
    """Raise CorruptArchive when the pages of a chunk claim more than `n_rows` rows of this column can take.

    column : pyarrow's description of the Parquet leaf (physical type, length, repetition level)
    A leaf of fixed width is held to its width; others to MAX_CHUNK_BYTES.
    """
    pages = read_pages(chunk, where)
    data = [page for page in pages if page.kind in (_DATA_PAGE, _DATA_PAGE_V2)]
    n_values = sum(page.n_values for page in data)
    is_flat = column.max_repetition_level == 0
    if any(page.n_values < 0 or page.n_bytes < 0 for page in pages) or n_values > MAX_CHUNK_VALUES:
        raise CorruptArchive(f"{where}: its pages claim {n_values} values")
    if is_flat and n_values != n_rows:
        raise CorruptArchive(f"{where}: its pages hold {n_values} values for {n_rows} rows")
    if any(page.n_values > n_values + 1 for page in pages):
        raise CorruptArchive(f"{where}: a dictionary is larger than the column")
    width = column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(column.physical_type)
    limit = MAX_CHUNK_BYTES
    if width is not None:
        limit = min(limit, 2 * n_values * (width + 2) + SLACK_BYTES * len(pages))
    n_bytes = sum(page.n_bytes for page in pages)
    if n_bytes > limit:
        raise CorruptArchive(
            f"{where}: its pages claim {n_bytes} bytes for {n_values} values, at most {limit} are read"
        )
