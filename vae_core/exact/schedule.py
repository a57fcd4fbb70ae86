"""In which order the rows of one column are coded, so that neighbours serve as context and whole vectors decode at once.

A column that uses its own neighbouring rows is coded coarse to fine: every STRIDE-th row first, then the midpoints, and so
on down to step 1. When a row of step s is coded the rows s before and s after it are known, all rows of a step are
independent of each other, so decoding works on whole vectors (measured against previous-row context: within a few per
cent, without its serial loop). Within a pass, counts learned from a chunk of rows serve the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

STRIDE = 32
FIRST_CHUNK = 64
LAST_CHUNKS = (64, 256, 1024, 8192)  # short ones where rows that are near tell most, long ones for columns that cost little
DEFAULT_CHUNK, LONG_CHUNK = 1024, 8192
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


def chunks(n_rows: int, last: int, before: int = 0) -> Iterator[slice]:
    """Slices of a pass of n_rows rows; a chunk is half as long as what came before it, in the pass and `before` it, within
    FIRST_CHUNK and `last`: where much is to be learned, fresh counts are worth more than long vectors."""
    start = 0
    while start < n_rows:
        length = min(last, max(FIRST_CHUNK, (before + start) // 2))
        yield slice(start, min(n_rows, start + length))
        start += length


def chunk_ends(n_rows: int, last: int) -> Ints:
    """Where the chunks of a pass end."""
    found: list[int] = []
    for part in chunks(n_rows, last):
        found.append(part.stop)
        if part.stop - part.start == last:
            break  # all others are as long
    start = found[-1] if found else n_rows
    rest = np.arange(start + last, n_rows + last, last, dtype=np.int64)
    return np.concatenate([np.array(found, np.int64), np.minimum(rest, n_rows)])


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
