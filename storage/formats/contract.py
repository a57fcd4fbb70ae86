"""The one small contract every file format fits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, ClassVar

import pyarrow as pa

from storage.errors import BadInput


@dataclass(frozen=True, slots=True)
class Outline:
    """What a file says about itself before its rows are read.

    schema : exact Arrow schema with metadata
    groups : rows of each stretch that can be read without the others, in order; None when only reading tells
    notes  : field (or "" for all) -> what may surprise of how it is read
    """

    schema: pa.Schema
    groups: tuple[int, ...] | None
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_rows(self) -> int | None:
        return None if self.groups is None else sum(self.groups)


class Format(ABC):
    """One file format. `where` is how messages name the file; every failure to read is a BadInput that starts with it.

    inferred : column types come from a look at the values, not from the file; all files of a source agree on them
    """

    name: ClassVar[str]
    inferred: ClassVar[bool] = False

    @abstractmethod
    def outline(self, file: BinaryIO, n_bytes: int, where: str) -> Outline:
        """Read only what is needed of a seekable binary `file` of `n_bytes`."""

    @abstractmethod
    def batches(
        self, path: str, schema: pa.Schema, start: int, stop: int | None, batch_rows: int, where: str
    ) -> Iterator[pa.RecordBatch]:
        """Rows [start, stop) of a local file in order, at most `batch_rows` at a time.

        `schema` is the source's schema; an inferred format parses to it, the others return their own types.
        """


def sliced(batches: Iterator[pa.RecordBatch], start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
    """Rows [start, stop) of a stream of batches; stops pulling as soon as it has them."""
    position = 0
    for batch in batches:
        low, high = max(start - position, 0), batch.num_rows if stop is None else min(stop - position, batch.num_rows)
        position += batch.num_rows
        if high > low:
            yield batch.slice(low, high - low)
        if stop is not None and position >= stop:
            return


def narrowed(batch: pa.RecordBatch, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """`batch` in pieces of at most `batch_rows` rows; nothing for an empty batch."""
    for offset in range(0, batch.num_rows, batch_rows):
        yield batch.slice(offset, batch_rows)


def unreadable(where: str, what: str, error: BaseException) -> BadInput:
    """A BadInput in one line for a file that its own reader refuses."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return BadInput(f"{where}: not readable as {what}: {reason}")
