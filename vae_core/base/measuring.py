"""Layers measured by what they really do: errors on held-out rows decoded, bytes of latents really stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.base.columns import CATEGORICAL, NUMERIC, BaseColumn
from vae_core.base.cost import stored_bytes
from vae_core.base.export import Export
from vae_core.base.layer import BaseLayer
from vae_core.base.task import Task, prepare

MARGIN = 0.99
"""Held-out RMSE is brought to this fraction of the target, so that most shards meet it at unit gain."""
_MEASURED_ROWS = 1 << 16
_MEASURED_CELLS = 1 << 22
_PREVIEW_ROWS = 1 << 16
_BLOCK_ROWS = 1 << 17
_WORTH = 0.87
"""A preview must bring the mean relative RMSE below this, or it is not worth its bytes: at 0.95 it is little more than the means."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A layer and what it does on held-out rows.

    n_bytes  : latents of n_rows_total rows plus decoder and encoder       model_bytes : the latter two
    ratios   : (G,) RMSE over target (distortion mode), or RMSE over standard deviation (preview)
    accuracy : mean over categorical columns, None without any             sparsity    : fraction of zero latents
    """

    layer: BaseLayer
    n_bytes: float
    model_bytes: int
    ratios: NDArray[np.float64]
    accuracy: float | None
    sparsity: float

    @property
    def score(self) -> float:
        """Mean relative RMSE and mean error rate, the mean over columns: what a preview minimises."""
        return float(np.mean(self.ratios)) if self.accuracy is None else float(np.mean([*self.ratios, 1 - self.accuracy]))

    def row(self) -> dict[str, Any]:
        """A line of the comparison of siblings."""
        return {
            "kind": self.layer.kind, "window": self.layer.window, "n_latents": self.layer.n_latents, "n_bytes": round(self.n_bytes),
            "model_bytes": self.model_bytes, "worst_ratio": float(self.ratios.max()) if len(self.ratios) else 0.0,
            "mean_ratio": float(self.ratios.mean()) if len(self.ratios) else 0.0, "accuracy": self.accuracy, "sparsity": self.sparsity,
        }  # fmt: skip


def measure(task: Task, layer: BaseLayer, rows: NDArray[np.int64], model_bytes: int | None = None) -> Measured:
    """Errors on held-out rows really encoded and decoded; bytes of a long stretch of the sample really stored. model_bytes, where they
    are known."""
    rows = measured_rows(task, layer.window, rows)
    ratios, accuracy, z = errors(task, layer, rows)
    n_most = len(measured_rows(task, layer.window, np.arange(len(task.values))))
    if len(rows) < n_most:
        z = layer.encode(task.values[:n_most], task.present[:n_most])
    model_bytes = layer.n_bytes if model_bytes is None else model_bytes
    n_bytes = latent_bytes(task, z) + model_bytes
    return Measured(layer, n_bytes, model_bytes, ratios, accuracy, layer.sparsity(z))


def latent_bytes(task: Task, z: NDArray[np.integer[Any]]) -> float:
    """Bytes of the latents of all rows, by those of some; a page and its tables, which cost the same of any rows, are one a block."""
    stored, scale = stored_bytes(z), task.n_rows_total / max(1, len(z))
    if task.rmse is not None or scale <= 1:
        return stored * scale
    nothing = min(stored, stored_bytes(np.zeros_like(z)))
    return (stored - nothing) * scale + nothing * max(1.0, task.n_rows_total / _BLOCK_ROWS)


def measured_rows(task: Task, window: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """As many of the rows as measuring takes, whole windows."""
    n_most = min(_MEASURED_ROWS if task.rmse is not None else _PREVIEW_ROWS, _MEASURED_CELLS // task.features.n_features) // window * window
    return rows[: max(window, n_most)]


def errors(task: Task, layer: BaseLayer, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], float | None, NDArray[np.integer[Any]]]:
    """(ratios, accuracy) as in Measured, and the latents of the rows."""
    values, present = task.values[rows], task.present[rows]
    z = layer.encode(values, present)
    decoded = layer.decode(z)
    numeric = np.array([c.kind == NUMERIC for c in task.columns])
    error = np.where(present, (decoded - values).astype(np.float64), 0.0)
    n_groups = int(task.group.max()) + 1
    seen = np.bincount(task.group, present.sum(axis=0), n_groups)
    rmse = np.sqrt(np.bincount(task.group, (error**2).sum(axis=0), n_groups) / np.maximum(seen, 1))
    if task.rmse is not None:
        return rmse / task.rmse, None, z
    deviation = task.features.scale[task.features.start] * 2.0**task.features.up
    each = np.sqrt((error**2).sum(axis=0) / np.maximum(present.sum(axis=0), 1))
    right = [float((decoded[:, d] == values[:, d])[present[:, d]].mean()) for d in np.flatnonzero(~numeric) if present[:, d].any()]
    return each[numeric] / deviation[numeric], float(np.mean(right)) if right else None, z


def acceptable(task: Task, found: Measured) -> bool:
    """Whether a layer meets its targets, or fits its budget and is worth it."""
    if task.rmse is not None:
        return float(found.ratios.max()) <= 1.0
    assert task.budget is not None
    return found.n_bytes <= task.budget and found.score < _WORTH * error_of_nothing(task)


def error_of_nothing(task: Task) -> float:
    """The score (see Measured) of the mean and of the commonest level of every column."""
    modes = [mode_share(task, d) for d, c in enumerate(task.columns) if c.kind == CATEGORICAL]
    n_numeric = sum(c.kind == NUMERIC for c in task.columns)
    return float(np.mean([1.0] * n_numeric + ([1 - float(np.mean(modes))] if modes else [])))


@dataclass(frozen=True, slots=True)
class Fitness:
    """What a preview's layer does on other rows than it was fitted to.

    error : as Measured.score    is_worth_it : by the rule a fit has    bits_per_row : of its latents as stored
    """

    error: float
    is_worth_it: bool
    bits_per_row: float


def fitness(
    layer: BaseLayer,
    columns: Sequence[BaseColumn],
    values: NDArray[np.int64],
    present: NDArray[np.bool_],
    runs: Sequence[int] | None = None,
) -> Fitness:
    """How a preview's layer fits codes `values` (n, D) and `present` (n, D), measured over all of the rows it never saw."""
    task = prepare(tuple(columns), values, present, float("inf"), None, runs)
    whole = task.split(layer.window)
    rows = np.sort(np.unique(np.concatenate([whole.train, whole.held])))
    most = len(measured_rows(task, layer.window, rows))
    every = rows.reshape(-1, layer.window)
    rows = every[np.unique(np.linspace(0, len(every) - 1, most // layer.window).astype(np.int64))].reshape(-1) if len(every) else rows
    if not len(rows):
        return Fitness(1.0, False, 0.0)
    ratios, accuracy, z = errors(task, layer, rows)
    found = Measured(layer, float(stored_bytes(z)), 0, ratios, accuracy, 0.0)
    return Fitness(found.score, found.score < _WORTH * error_of_nothing(task), 8 * found.n_bytes / len(rows))


def mode_share(task: Task, column: int) -> float:
    """How often a categorical column is its most frequent level."""
    seen = task.values[task.present[:, column], column]
    return float(np.unique(seen, return_counts=True)[1].max() / len(seen)) if len(seen) else 1.0


def order(task: Task, found: Measured) -> tuple[bool, float]:
    """Sort key: what is acceptable first, then bytes (distortion mode) or error (preview)."""
    return (not acceptable(task, found), found.n_bytes if task.rmse is not None else found.score)


def settle(task: Task, export: Export, rows: NDArray[np.int64], deadline: float) -> Measured | None:
    """The coarsest step of an exported map that meets the targets (or the finest within the budget) on held-out
    rows, or the best that was found by the deadline (time.monotonic)."""
    return (settle_at_targets if task.rmse is not None else settle_in_budget)(task, export, rows, deadline)


def settle_at_targets(task: Task, export: Export, rows: NDArray[np.int64], deadline: float) -> Measured | None:
    """The coarsest step at which every held-out RMSE is within its target, or None."""
    step, fine, coarse = 1.0, 0.05, 20.0
    best: BaseLayer | None = None
    for _ in range(8):
        layer = export(step)
        worst = float(errors(task, layer, measured_rows(task, layer.window, rows))[0].max())
        if worst <= MARGIN + 0.005:
            best, fine = layer, step
            if worst > MARGIN - 0.01:
                break
        else:
            coarse = step
        guess = step * MARGIN / worst * (1.0 if best is layer else 0.985) if worst > 0 else coarse
        step = guess if fine < guess < coarse else (fine * coarse) ** 0.5
        if coarse / fine < 1.004 or time.monotonic() > deadline:
            break
    return None if best is None else measure(task, best, rows)


def settle_in_budget(task: Task, export: Export, rows: NDArray[np.int64], deadline: float) -> Measured | None:
    """The finest step whose bytes are within the budget, or None."""
    assert task.budget is not None
    step, fine, coarse = 1.0, 0.05, 20.0
    best: Measured | None = None
    for _ in range(6):
        found = measure(task, export(step), rows)
        spare = task.budget - found.model_bytes
        if found.n_bytes <= task.budget:
            coarse = step
            best = found if best is None or order(task, found) < order(task, best) else best
            if found.n_bytes > 0.97 * task.budget:
                break
        else:
            fine = step
        if spare <= 0 or time.monotonic() > deadline:
            break
        guess = step * float((found.n_bytes - found.model_bytes) / (0.985 * spare)) ** 0.7
        step = guess if fine < guess < coarse else (fine * coarse) ** 0.5
    return best
