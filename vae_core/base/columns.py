"""Columns of integer codes as standardised features, and back: what a base layer sees of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUMERIC, CATEGORICAL = "numeric", "categorical"
MAX_LEVELS = 32
"""A categorical column is predicted among its most frequent levels only, at most this many."""
LEAST_SHARE = 0.01
"""And those only that so many of its rows have, but for the commonest: of keys there is nothing to tell in a preview."""
MAX_SPAN_BITS = 24
"""A numeric code range wider than 2^24 is previewed in units of a power of two."""


@dataclass(frozen=True, slots=True)
class BaseColumn:
    """One column of codes (or one element of a tensor column: elements share the name, and so the target).

    kind     : "numeric" | "categorical"
    lo, hi   : smallest and largest code
    n_levels : number of levels of a categorical column, else None
    rmse     : target in code units over all elements of that name (distortion mode), else None
    """

    name: str
    kind: str
    lo: int
    hi: int
    n_levels: int | None = None
    rmse: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """How D columns become F features; one a numeric column, one a kept level of a categorical column.

    lo, hi  : (D,) int64                     up     : (D,) int64, codes are taken in units of 2^up above lo
    counts  : (D,) int64, features a column  start  : (D,) int64, its first feature
    levels  : (F,) int64, the code of a categorical feature, -1 for a numeric one
    center, scale : (F,) float64, of the feature before it is standardised
    column  : (F,) int64, the column of a feature
    """

    lo: NDArray[np.int64]
    hi: NDArray[np.int64]
    up: NDArray[np.int64]
    counts: NDArray[np.int64]
    start: NDArray[np.int64]
    levels: NDArray[np.int64]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def n_features(self) -> int:
        """F."""
        return len(self.levels)

    @property
    def column(self) -> NDArray[np.int64]:
        """(F,) int64: the column each feature belongs to."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def transform(self, values: NDArray[np.int64], present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Codes (n, D) and their presence (n, D) as standardised features (n, F) float32, 0 where absent."""
        return standardise(self, values, present)


def span(lo: int, hi: int) -> int:
    """The power of two a code range lo..hi is divided by so that it fits MAX_SPAN_BITS."""
    return max(0, (hi - lo).bit_length() - MAX_SPAN_BITS)


def standardise(features: Features, values: NDArray[np.int64], present: NDArray[np.bool_]) -> NDArray[np.float32]:
    """See Features.transform. Column by column, the same float64 arithmetic as on `units`; a level's feature has but two values."""
    x = np.empty((features.n_features, len(values)), np.float32)
    low, high = (((edge - features.center) / features.scale).astype(np.float32) for edge in (0.0, 1.0))
    numeric = features.levels < 0
    for d, count in enumerate(features.counts.tolist()):
        start = int(features.start[d])
        column = np.ascontiguousarray(values[:, d])
        for f in range(start, start + count):
            if numeric[f]:
                above = np.clip(column, features.lo[d], features.hi[d]).view(np.uint64) - features.lo[d : d + 1].view(np.uint64)
                raw = (above >> features.up.astype(np.uint64)[d] if features.up[d] else above).astype(np.float64)
                raw -= features.center[f]
                raw /= features.scale[f]
                x[f] = raw
            else:
                x[f] = np.where(column == features.levels[f], high[f], low[f])
        if not (there := present[:, d]).all():
            x[start : start + count, ~there] = 0.0
    return np.ascontiguousarray(x.T)


def units(features: Features, values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Codes (n, D) as (n, F) float64 before standardising: units of 2^up above lo, or 0/1 for a categorical level."""
    column = features.column
    numeric = features.levels < 0
    wide = values[:, column]
    above = (np.clip(wide, features.lo[column], features.hi[column]).view(np.uint64) - features.lo[column].view(np.uint64)) >> (
        features.up[column].astype(np.uint64)
    )
    return np.where(numeric, above.astype(np.float64), (wide == features.levels).astype(np.float64))


def fit_features(columns: Sequence[BaseColumn], values: NDArray[np.int64], present: NDArray[np.bool_]) -> Features:
    """Choose levels, centres and scales from codes (n, D) and presence (n, D)."""
    levels: list[int] = []
    counts: list[int] = []
    for d, column in enumerate(columns):
        if column.kind == CATEGORICAL:
            seen, times = np.unique(values[present[:, d], d], return_counts=True)
            first = np.argsort(-times, kind="stable")[:MAX_LEVELS]
            first = first[: max(1, int((times[first] >= LEAST_SHARE * times.sum()).sum()))]
            kept = [int(v) for v in seen[first]] or [column.lo]
        else:
            kept = [-1]
        levels += kept
        counts.append(len(kept))
    lo = np.array([c.lo for c in columns], np.int64)
    hi = np.array([c.hi for c in columns], np.int64)
    up = np.array([span(c.lo, c.hi) if c.kind == NUMERIC else 0 for c in columns], np.int64)
    count = np.array(counts, np.int64)
    start = np.concatenate(([0], np.cumsum(count)[:-1])).astype(np.int64)
    n_features = len(levels)
    blank = Features(lo, hi, up, count, start, np.array(levels, np.int64), np.zeros(n_features), np.ones(n_features))
    raw = units(blank, values)
    weight = present[:, blank.column]
    n = np.maximum(weight.sum(axis=0), 1)
    center = np.where(weight, raw, 0.0).sum(axis=0) / n
    scale = np.sqrt(np.where(weight, (raw - center) ** 2, 0.0).sum(axis=0) / n)
    return Features(lo, hi, up, count, start, blank.levels, center, np.where(scale > 0, scale, 1.0))
