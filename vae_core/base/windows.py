"""Windows of consecutive rows, split into those to fit on and those held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEGMENTS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers of whole windows, flattened: train (a*W,), held (b*W,) int64. Held-out windows lie in contiguous
    segments."""

    window: int
    train: NDArray[np.int64]
    held: NDArray[np.int64]


def split_windows(n_rows: int, runs: Sequence[int] | None, window: int) -> Split:
    """Cut runs of consecutive rows (all rows when None) into whole windows; about a fifth of them is held out.

    With fewer than 40 windows the same windows serve both ends.
    """
    starts: list[NDArray[np.int64]] = []
    first = 0
    for length in runs if runs is not None else (n_rows,):
        starts.append(np.arange(first, first + length - window + 1, window, dtype=np.int64))
        first += length
    start = np.concatenate(starts) if starts else np.zeros(0, np.int64)
    rows = start[:, None] + np.arange(window)
    if len(start) < 40:
        return Split(window, rows.reshape(-1), rows.reshape(-1))
    segment = len(start) // _SEGMENTS
    position = np.arange(len(start)) % segment
    held = (position >= segment * 2 // 5) & (position < max(segment * 3 // 5, segment * 2 // 5 + 1))
    return Split(window, rows[~held].reshape(-1), rows[held].reshape(-1))
