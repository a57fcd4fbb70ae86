"""Reading blocks of a shard back: only the segments that cover them are fetched, and nothing is parsed unchecked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.pages import check_chunk
from storage.parquet import chunk_range
from storage.shards import CORRECTIONS, LATENTS, ShardEntry
from storage.verity import VerifiedFile
from vae_core.errors import CorruptArchive

if TYPE_CHECKING:
    from storage.objects import ObjectStore

MAX_FOOTER_BYTES = 64 << 20
MAX_BLOCK_BYTES = (2 << 30) - 1

Range = tuple[int, int]


class ShardReader:
    """Natives and payloads of one shard, block by block."""

    def __init__(self, store: ObjectStore, entry: ShardEntry) -> None:
        self.entry = entry
        self._latents = VerifiedFile(store, entry.objects[LATENTS]) if LATENTS in entry.objects else None
        self._corrections = VerifiedFile(store, entry.objects[CORRECTIONS]) if CORRECTIONS in entry.objects else None
        self._metadata: Any = None
        self._parquet: Any = None
        self._footer: Range = (0, 0)
        self._group_index = {group: i for i, group in enumerate(entry.groups)}
        self._offsets = [entry.payload_start]
        for length in entry.payload_lengths:
            self._offsets.append(self._offsets[-1] + 4 + length)
        self._n_groups = len(entry.groups)

    def read_block(
        self, block: int, natives: Sequence[str], groups: Sequence[str]
    ) -> tuple[dict[str, pa.Array], dict[str, bytes]]:
        """(native arrays, payloads) of one block, those named and no others. Raises CorruptArchive."""
        return self._read_natives(block, natives), self._read_payloads(block, groups)

    def release(self) -> None:
        """Drop the bytes held from the last block; footers stay parsed."""
        for file in (self._latents, self._corrections):
            if file is not None:
                file.prefetch(())

    def planned_bytes(self, blocks: Sequence[int], natives: Sequence[str], groups: Sequence[str]) -> int:
        """Bytes that `read_block` of all these blocks moves, the footer included."""
        n_bytes = 0
        if natives and blocks and self._latents is not None:
            self._open()
            n_bytes += self._latents.planned(
                [[self._footer], *(self._native_ranges(block, natives) for block in blocks)]
            )
        if groups and self._corrections is not None:
            n_bytes += self._corrections.planned(self._payload_ranges(block, groups) for block in blocks)
        return n_bytes

    def _read_payloads(self, block: int, groups: Sequence[str]) -> dict[str, bytes]:
        if not groups:
            return {}
        if self._corrections is None:
            raise self._lacks("payload", groups[0])
        ranges = self._payload_ranges(block, groups)
        self._corrections.prefetch(ranges)
        payloads = {}
        for group, (start, stop) in zip(groups, ranges, strict=True):
            data = self._corrections.read_range(start, stop)
            if int.from_bytes(data[:4], "little") != len(data) - 4:
                path = self.entry.objects[CORRECTIONS].path
                raise CorruptArchive(f"{path}: payload {group!r} of block {block} has another length than recorded")
            payloads[group] = data[4:]
        return payloads

    def _payload_ranges(self, block: int, groups: Sequence[str]) -> list[Range]:
        ranges = []
        for group in groups:
            if group not in self._group_index:
                raise self._lacks("payload", group)
            index = block * self._n_groups + self._group_index[group]
            ranges.append((self._offsets[index], self._offsets[index + 1]))
        return ranges

    def _read_natives(self, block: int, natives: Sequence[str]) -> dict[str, pa.Array]:
        if not natives:
            return {}
        if self._latents is None:
            raise self._lacks("native column", natives[0])
        self._open()
        self._latents.prefetch(self._native_ranges(block, natives))
        self._check_pages(block, set(natives))
        arrays = {}
        try:
            table = self._parquet.read_row_group(block, columns=list(natives), use_threads=False)
            for name in natives:
                if name not in table.column_names or table.num_rows != self.entry.block_rows[block]:
                    raise self._lacks("native column", name)
                array = _one_array(table.column(name))
                array.validate(full=True)
                arrays[name] = self._dense(array, block)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CorruptArchive(f"{self._path}: row group {block} is unreadable ({_first_line(error)})") from None
        return arrays

    def _check_pages(self, block: int, natives: set[str]) -> None:
        """Hold every page header against the rows of the block before the Parquet reader believes it."""
        assert self._latents is not None
        group = self._metadata.row_group(block)
        for leaf in range(group.num_columns):
            chunk = group.column(leaf)
            if chunk.path_in_schema.partition(".")[0] in natives:
                where = f"{self._path}: row group {block}, column {chunk.path_in_schema!r}"
                data = self._latents.read_range(*chunk_range(chunk))
                check_chunk(data, self.entry.block_rows[block], self._metadata.schema.column(leaf), where)

    def _dense(self, array: pa.Array, block: int) -> pa.Array:
        """Text that was read as a dictionary, written out: a long entry may be named by every row."""
        if not pa.types.is_dictionary(array.type):
            return array
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        n_bytes = pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0
        if n_bytes > MAX_BLOCK_BYTES:
            limit = f"at most {MAX_BLOCK_BYTES} are read"
            raise CorruptArchive(f"{self._path}: row group {block} holds a column of {n_bytes} bytes, {limit}")
        return array.dictionary_decode()

    def _native_ranges(self, block: int, natives: Sequence[str]) -> list[Range]:
        wanted = set(natives)
        group = self._metadata.row_group(block)
        ranges = []
        n_bytes = 0
        for leaf in range(group.num_columns):
            chunk = group.column(leaf)
            if chunk.path_in_schema.partition(".")[0] in wanted:
                ranges.append(chunk_range(chunk))
                n_bytes += chunk.total_uncompressed_size
        if n_bytes > MAX_BLOCK_BYTES:
            limit = f"at most {MAX_BLOCK_BYTES} are read"
            raise CorruptArchive(f"{self._path}: row group {block} claims {n_bytes} bytes, {limit}")
        return ranges

    @property
    def _path(self) -> str:
        return self.entry.objects[LATENTS].path

    def _open(self) -> None:
        """Read the footer, and hold it against the record before anything is allocated for the rows it claims."""
        if self._parquet is not None or self._latents is None:
            return
        file = self._latents
        if file.n_bytes < 12:
            raise CorruptArchive(f"{self._path}: too short for a Parquet file")
        tail = file.read_range(file.n_bytes - 8, file.n_bytes)
        n_footer = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or not 0 < n_footer <= min(file.n_bytes - 12, MAX_FOOTER_BYTES):
            raise CorruptArchive(f"{self._path}: not a Parquet file")
        self._footer = (file.n_bytes - 8 - n_footer, file.n_bytes)
        try:
            metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + file.read_range(*self._footer)))
            rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
            names = set(metadata.schema.to_arrow_schema().names)
            expected = {native.name for native in self.entry.natives}
            if rows != self.entry.block_rows or metadata.num_rows != sum(rows) or names != expected:
                raise CorruptArchive(f"{self._path}: its rows or columns are not those of the shard's record")
            self._check_chunks(metadata)
            texts = _dictionary_texts(metadata)
            self._parquet = pq.ParquetFile(
                file, metadata=metadata, read_dictionary=texts, pre_buffer=False, buffer_size=0
            )
        except (pa.ArrowException, OSError) as error:
            raise CorruptArchive(f"{self._path}: the Parquet footer is unreadable ({_first_line(error)})") from None
        self._metadata = metadata

    def _check_chunks(self, metadata: Any) -> None:
        for index in range(metadata.num_row_groups):
            for leaf in range(metadata.num_columns):
                chunk = metadata.row_group(index).column(leaf)
                start, stop = chunk_range(chunk)
                if not 4 <= start <= stop <= self._footer[0] or chunk.file_path:
                    raise CorruptArchive(f"{self._path}: a column chunk lies outside the data of the file")

    def _lacks(self, what: str, name: str) -> CorruptArchive:
        return CorruptArchive(f"{self.entry.record.path}: {what} {name!r} is needed and not there")


def block_spans(block_rows: Sequence[int], start: int, stop: int) -> list[tuple[int, int, int]]:
    """(block, first row, end row), counted within the block, of the blocks that hold rows start..stop of a shard."""
    spans = []
    first = 0
    for block, n_rows in enumerate(block_rows):
        low, high = max(start - first, 0), min(stop - first, n_rows)
        if low < high:
            spans.append((block, low, high))
        first += n_rows
    return spans


def _dictionary_texts(metadata: Any) -> list[str]:
    """Names of the flat text and binary columns that some row group stores with a dictionary."""
    leaves = [metadata.schema.column(leaf) for leaf in range(metadata.num_columns)]
    return [
        column.path
        for leaf, column in enumerate(leaves)
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in ("STRING", "NONE")
        if "." not in column.path and column.max_repetition_level == 0
        if any(metadata.row_group(i).column(leaf).has_dictionary_page for i in range(metadata.num_row_groups))
    ]


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
