"""Parquet: exact types by the ARROW:schema the writer left, row groups read one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from storage.formats.contract import Format, Outline, sliced, unreadable


class Parquet(Format):
    """Apache Parquet files."""

    name = "parquet"

    def outline(self, file: BinaryIO, n_bytes: int, where: str) -> Outline:
        try:
            reader = pq.ParquetFile(file)
            metadata = reader.metadata
            groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
            return Outline(reader.schema_arrow, groups)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(where, "Parquet", error) from error

    def batches(
        self, path: str, schema: pa.Schema, start: int, stop: int | None, batch_rows: int, where: str
    ) -> Iterator[pa.RecordBatch]:
        """Only row groups that overlap [start, stop) are read; of the last one only the pages up to `stop`."""
        try:
            with pq.ParquetFile(path, pre_buffer=False) as reader:
                position = 0
                chosen: list[int] = []
                before = 0
                for i in range(reader.metadata.num_row_groups):
                    n_rows = reader.metadata.row_group(i).num_rows
                    if position + n_rows > start and (stop is None or position < stop):
                        chosen.append(i)
                    elif not chosen:
                        before += n_rows
                    position += n_rows
                if chosen:
                    stream = reader.iter_batches(batch_size=batch_rows, row_groups=chosen)
                    yield from sliced(stream, start - before, None if stop is None else stop - before)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(where, "Parquet", error) from error
