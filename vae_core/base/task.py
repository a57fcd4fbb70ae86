"""What a base layer is fitted to: codes, presence, features, targets, and what its bytes are counted over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.base.columns import CATEGORICAL, MAX_LEVELS, NUMERIC, BaseColumn, Features, fit_features
from vae_core.base.windows import Split, split_windows

MAX_ROWS = 100_000
"""At most this many rows are looked at."""
MAX_CELLS = 1 << 24
"""And at most this many features of rows."""


@dataclass(frozen=True, slots=True)
class FitProgress:
    """One point of the training curve. Bits are of the latents alone, entropy of the rounded ones on held-out rows."""

    step: int
    seconds: float
    bits_per_row: float
    held_out_bits_per_row: float
    stage: str


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One fit: codes (n, D), presence, features, groups of columns with a common target, and what bytes are counted
    over.

    rmse : (G,) targets in code units, or None in a preview            budget : bytes of a preview in all, or None
    """

    columns: tuple[BaseColumn, ...]
    values: NDArray[np.int64]
    present: NDArray[np.bool_]
    features: Features
    x: NDArray[np.float32]
    group: NDArray[np.int64]
    rmse: NDArray[np.float64] | None
    budget: float | None
    n_rows_total: int
    runs: tuple[int, ...] | None

    def split(self, window: int) -> Split:
        """Windows to fit on and to hold out."""
        return split_windows(len(self.values), self.runs, window)

    def windows(self, rows: NDArray[np.int64], window: int) -> NDArray[np.float32]:
        """Features of whole windows (m, W*F)."""
        return self.x[rows].reshape(-1, window * self.features.n_features)

    def mask(self, rows: NDArray[np.int64], window: int) -> NDArray[np.float32]:
        """1 where a feature of a window is present, (m, W*F)."""
        return self.present[rows][:, self.features.column].astype(np.float32).reshape(-1, window * self.features.n_features)

    @property
    def feature_targets(self) -> NDArray[np.float64]:
        """(F,) target RMSE of each feature in standardised units (distortion mode)."""
        assert self.rmse is not None
        return np.asarray(
            self.rmse[self.group[self.features.column]] / 2.0 ** self.features.up[self.features.column] / self.features.scale,
            np.float64,
        )


def prepare(
    columns: tuple[BaseColumn, ...],
    values: NDArray[np.int64],
    present: NDArray[np.bool_] | None,
    bits_per_row: float | None,
    n_rows_total: int | None,
    runs: Sequence[int] | None,
) -> Task:
    """Check what was asked for, bound the rows looked at, standardise."""
    if values.ndim != 2 or values.shape[1] != len(columns) or (present is not None and present.shape != values.shape):
        raise ValueError(f"codes are {values.shape} for {len(columns)} columns")
    if bits_per_row is None and any(c.rmse is None or c.rmse <= 0 or c.kind != NUMERIC for c in columns):
        raise ValueError("without a budget every column needs to be numeric and have an rmse target above 0")
    total = n_rows_total if n_rows_total is not None else len(values)
    kept_runs = None if runs is None else tuple(runs)
    n_features = sum(min(c.n_levels or MAX_LEVELS, MAX_LEVELS) if c.kind == CATEGORICAL else 1 for c in columns)
    n_rows = max(256, min(MAX_ROWS, MAX_CELLS // max(1, n_features)))
    if len(values) > n_rows:
        keep, kept_runs = bounded_rows(len(values), n_rows, kept_runs)
        values, present = values[keep], None if present is None else present[keep]
    if present is None:
        present = np.ones(values.shape, np.bool_)
    features = fit_features(columns, values, present)
    names: dict[str, int] = {}
    group = np.array([names.setdefault(c.name, len(names)) for c in columns], np.int64)
    rmse = None
    if bits_per_row is None:
        rmse = np.zeros(len(names))
        for c, g in zip(columns, group, strict=True):
            rmse[g] = c.rmse
    x = features.transform(values, present)
    budget = None if bits_per_row is None else bits_per_row * total / 8
    return Task(columns, values, present, features, x, group, rmse, budget, total, kept_runs)


def bounded_rows(n_rows: int, n_kept: int, runs: tuple[int, ...] | None) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """About n_kept row numbers in stretches of up to 4096 consecutive ones spread evenly, and the stretches'
    lengths."""
    pieces: list[tuple[int, int]] = []
    first = 0
    for length in runs if runs is not None else (n_rows,):
        pieces += [(first + at, min(4096, length - at)) for at in range(0, length, 4096)]
        first += length
    wanted = max(1, int(len(pieces) * n_kept / n_rows))
    chosen = [pieces[i] for i in np.unique(np.linspace(0, len(pieces) - 1, wanted).astype(int))]
    return np.concatenate([np.arange(a, a + n, dtype=np.int64) for a, n in chosen]), tuple(n for _, n in chosen)
