"""Arrow IPC: the file format (Feather V2) with random access to record batches, and the stream format without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from storage.formats.contract import Format, Outline, narrowed, sliced, unreadable

_FILE_MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"


class ArrowIPC(Format):
    """Arrow IPC files and streams. Batches are validated in full: their buffers are taken as they are on disk."""

    name = "arrow"

    def outline(self, file: BinaryIO, n_bytes: int, where: str) -> Outline:
        try:
            magic = file.read(len(_FILE_MAGIC))
            if magic.startswith(_FEATHER_1):
                raise ValueError("it is Feather of version 1, which Arrow gives up: write it again with pyarrow.feather.write_feather")
            is_file = magic == _FILE_MAGIC
            file.seek(0)
            if is_file:
                return Outline(pa.ipc.open_file(file).schema, None)
            return Outline(pa.ipc.open_stream(file).schema, None)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(where, "Arrow IPC", error) from error

    def batches(
        self, path: str, schema: pa.Schema, start: int, stop: int | None, batch_rows: int, where: str
    ) -> Iterator[pa.RecordBatch]:
        """In the file format, stored batches before `start` are not decoded."""
        try:
            with pa.memory_map(path) as source:
                first, before = (0, 0) if start == 0 else _batch_holding(source, start)
                stream = _stored_batches(source, first)
                for batch in sliced(stream, start - before, None if stop is None else stop - before):
                    batch.validate(full=True)
                    yield from narrowed(batch, batch_rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(where, "Arrow IPC", error) from error

    def group_rows(self, path: str, where: str) -> tuple[int, ...]:
        """Rows of each stored batch of a local file; decodes at most one column."""
        try:
            with pa.memory_map(path) as source:
                return tuple(_lengths(source))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(where, "Arrow IPC", error) from error


def _batch_holding(source: pa.MemoryMappedFile, row: int) -> tuple[int, int]:
    """(index of the stored batch that holds `row`, rows before that batch); (0, 0) in a stream, which has no index."""
    if not _is_file(source):
        return 0, 0
    index = before = 0
    for length in _lengths(source):
        if before + length > row:
            break
        index, before = index + 1, before + length
    return index, before


def _lengths(source: pa.MemoryMappedFile) -> Iterator[int]:
    options = pa.ipc.IpcReadOptions(included_fields=[0])
    return (batch.num_rows for batch in _stored_batches(source, 0, options))


def _stored_batches(
    source: pa.MemoryMappedFile, first: int, options: pa.ipc.IpcReadOptions | None = None
) -> Iterator[pa.RecordBatch]:
    if _is_file(source):
        reader = pa.ipc.open_file(source, options=options)
        for i in range(first, reader.num_record_batches):
            yield reader.get_batch(i)
    else:
        yield from pa.ipc.open_stream(source, options=options)


def _is_file(source: pa.MemoryMappedFile) -> bool:
    source.seek(0)
    is_file = bool(source.read(len(_FILE_MAGIC)) == _FILE_MAGIC)
    source.seek(0)
    return is_file
