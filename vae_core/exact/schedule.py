"""In which order the rows of one column are coded, so that neighbours serve as context and whole vectors decode at once.

A column that uses its own neighbouring rows is coded coarse to fine: every STRIDE-th row first, then the midpoints, and so
on down to step 1. When a row of step s is coded the rows s before and s after it are known, all rows of a step are
independent of each other, so decoding works on whole vectors (measured against previous-row context: within a few per
cent, without its serial loop). Within a pass, counts learned from a chunk of rows serve the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive

STRIDE = 32
FIRST_CHUNK, OLD_FIRST_CHUNK = 8, 64
LAST_CHUNKS = tuple(1 << k for k in range(6, 15))  # 64 ... 16384
DEFAULT_CHUNK, LONG_CHUNK = 1024, 8192
FEW_ROWS = 200_000  # of more there is less to be gained by learning soon than it takes to read them
PARTS = (2, 4, 8, 16, 32, 64)
OLD_PART = PARTS[0]
STRETCH = 512  # places of a lane, unless there are more rows than so many lanes of them
SHORT_STRETCHES, LONG_STRETCHES = (256, 128, 64), (1024, 2048, 4096)
STEPS = tuple(1 << k for k in range(STRIDE.bit_length() - 1, -1, -1))  # 32 (anchors), 16, 8, 4, 2, 1

Ints = NDArray[np.int64]
S = TypeVar("S", bound=np.generic)


def passes(n_rows: int, by_level: bool) -> list[tuple[int, Ints]]:
    """(step, rows) of every pass over n_rows rows; one pass with step 0 when the column does not look at its neighbours.

    Raises nothing; the rows of all passes are a permutation of range(n_rows).
    """
    if not by_level:
        return [(0, _all(n_rows))]
    found = [(STRIDE, np.arange(0, n_rows, STRIDE, dtype=np.int64))]
    for step in STEPS[1:]:
        found.append((step, np.arange(step, n_rows, 2 * step, dtype=np.int64)))
    return [(step, rows) for step, rows in found if len(rows)]


@lru_cache(maxsize=2)  # blocks have the same number of rows, nearly all of them
def _all(n_rows: int) -> Ints:
    found = np.arange(n_rows, dtype=np.int64)
    found.flags.writeable = False
    return found


def every(step: int) -> slice:
    """The rows of the pass of that step, when none is left out, as a slice."""
    return slice(None) if step == 0 else slice(0, None, STRIDE) if step == STRIDE else slice(step, None, 2 * step)


@dataclass(frozen=True, slots=True)
class Chunks:
    """After how many rows counts are learned.

    last : rows at most: few where rows that are near tell most, many in columns that cost little
    part : a chunk is this part of the rows before it, but FIRST_CHUNK at least: where much is to be learned, fresh counts are worth
           more than long vectors. 2, before format 1.12, is of the rows of a pass alone where these are not one after another, and of
           OLD_FIRST_CHUNK at least
    stretch : places of a lane at least, where rows are coded one after another: few where numpy is to take few steps
    """

    last: int = DEFAULT_CHUNK
    part: int = 32
    stretch: int = STRETCH

    def slices(self, n_rows: int, before: int = 0) -> Iterator[slice]:
        """The chunks of a pass of n_rows rows, so many rows having been coded `before`."""
        start = 0
        while start < n_rows:
            length = min(self.last, max(self.first, (before + start) // self.part))
            yield slice(start, min(n_rows, start + length))
            start += length

    def ends(self, n_rows: int, before: int = 0) -> Ints:
        """Where they end."""
        found: list[int] = []
        for chunk in self.slices(n_rows, before):
            found.append(chunk.stop)
            if chunk.stop - chunk.start == self.last:
                break  # all others are as long
        start = found[-1] if found else n_rows
        rest = np.arange(start + self.last, n_rows + self.last, self.last, dtype=np.int64)
        return np.concatenate([np.array(found, np.int64), np.minimum(rest, n_rows)])

    @classmethod
    def over(cls, last: int, n_rows: int) -> Chunks:
        """Those of a column of so many rows in all."""
        return cls(last) if n_rows <= FEW_ROWS else cls(last, 8)

    @property
    def first(self) -> int:
        """Rows of a chunk at least."""
        return OLD_FIRST_CHUNK if self.part == OLD_PART else FIRST_CHUNK

    def counted(self, before: int) -> int:
        """Of the rows that a plan which is not forward has coded in passes before, those that count for the chunks of the next one."""
        return 0 if self.part == OLD_PART else before

    def to_json(self) -> Any:
        """What a plan says of them."""
        if self.part == OLD_PART:
            return self.last
        return [self.last, self.part] if self.stretch == STRETCH else [self.last, self.part, self.stretch]

    @classmethod
    def from_json(cls, said: Any) -> Chunks:
        """The inverse. Raises CorruptArchive for what to_json does not say."""
        is_old = not (isinstance(said, list) and len(said) in (2, 3))
        last, part, *stretch = (said, OLD_PART) if is_old else said
        if type(last) is not int or type(part) is not int or last not in LAST_CHUNKS or part not in PARTS or (part == OLD_PART) != is_old:
            raise CorruptArchive(f"model learns in chunks of {str(said)[:40]} rows: at most one of {LAST_CHUNKS}, a part of {PARTS[1:]}")
        if stretch and (type(stretch[0]) is not int or stretch[0] not in (*SHORT_STRETCHES, *LONG_STRETCHES)):
            known = (*SHORT_STRETCHES, *LONG_STRETCHES)
            raise CorruptArchive(f"model cuts rows into lanes of {str(stretch[0])[:40]} places: one of {known}")
        return cls(last, part, *stretch)


USUAL_CHUNKS = Chunks()


def taken(values: NDArray[S], rows: Ints | slice) -> NDArray[S]:
    """What (n_rows,) values hold in some rows."""
    found: NDArray[S] = values[rows] if isinstance(rows, slice) else values.take(rows)
    return found


def neighbours(step: int, rows: Ints, n_rows: int) -> tuple[Ints, Ints]:
    """Row numbers of the decoded neighbours before and after each row of a pass, each (n,) int64.

    Anchors (step STRIDE) have none: -1. A row too near the end has its left neighbour on both sides.
    """
    if step >= STRIDE:
        none = np.full(len(rows), -1, np.int64)
        return none, none
    left = rows - step
    right = rows + step
    return left, np.where(right < n_rows, right, left)
