"""Choosing a base layer by the bytes it really takes: kind, window, latents, steps and width."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vae_core.base.columns import CATEGORICAL, MAX_LEVELS, NUMERIC, BaseColumn, Features, fit_features
from vae_core.base.cost import entropy_bits, stored_bytes
from vae_core.base.export import Export, linear_layer, network_layer
from vae_core.base.klt import Basis, covariance, fit_klt, round_latents
from vae_core.base.layer import BaseLayer
from vae_core.base.windows import Split, split_windows

if TYPE_CHECKING:
    from vae_core.base.training import Aim, FitProgress

log = logging.getLogger(__name__)

MAX_ROWS = 100_000
"""At most this many rows are looked at."""
MAX_CELLS = 1 << 24
"""And at most this many features of rows."""
MAX_INPUTS = 1024
"""Windows are at most so wide: rows times features."""
WINDOWS = (1, 4, 8, 16, 32)
MARGIN = 0.99
"""Held-out RMSE is brought to this fraction of the target, so that most shards meet it at unit gain."""
_MEASURED_ROWS = 1 << 16
_MEASURED_CELLS = 1 << 22
_WORTH = 0.97
"""A preview must bring the mean relative RMSE below this, or it is not worth its bytes."""


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
        return (
            float(np.mean(self.ratios)) if self.accuracy is None else float(np.mean([*self.ratios, 1 - self.accuracy]))
        )

    def row(self) -> dict[str, Any]:
        """A line of the comparison of siblings."""
        return {
            "kind": self.layer.kind, "window": self.layer.window, "n_latents": self.layer.n_latents, "n_bytes": round(self.n_bytes),
            "model_bytes": self.model_bytes, "worst_ratio": float(self.ratios.max()) if len(self.ratios) else 0.0,
            "mean_ratio": float(self.ratios.mean()) if len(self.ratios) else 0.0, "accuracy": self.accuracy, "sparsity": self.sparsity,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class BaseFit:
    """layer is None when nothing paid; curve is FitProgress; compared has a line for each sibling at the same error or budget."""

    layer: BaseLayer | None
    curve: tuple[FitProgress, ...]
    compared: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One fit: codes (n, D), presence, features, groups of columns with a common target, and what bytes are counted over.

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
        return (
            self.present[rows][:, self.features.column]
            .astype(np.float32)
            .reshape(-1, window * self.features.n_features)
        )

    @property
    def feature_targets(self) -> NDArray[np.float64]:
        """(F,) target RMSE of each feature in standardised units (distortion mode)."""
        assert self.rmse is not None
        return np.asarray(
            self.rmse[self.group[self.features.column]]
            / 2.0 ** self.features.up[self.features.column]
            / self.features.scale,
            np.float64,
        )


def fit_base(
    columns: Sequence[BaseColumn],
    values: NDArray[np.int64],
    present: NDArray[np.bool_] | None = None,
    *,
    bits_per_row: float | None = None,
    n_rows_total: int | None = None,
    runs: Sequence[int] | None = None,
    windows: Sequence[int] = WINDOWS,
    seed: int = 0,
    time_budget_s: float = 30.0,
    progress: Callable[[FitProgress], None] | None = None,
    kinds: Sequence[str] = ("klt", "vae"),
) -> BaseFit:
    """Fit a base layer to codes `values` (n, D) int64, `present` (n, D) bool (None: all).

    bits_per_row : preview: latents as stored plus decoder and encoder over n_rows_total rows (default n) may cost so much.
                   None: distortion mode, every column has an rmse target; elements of one name share it.
    runs         : lengths of runs of consecutive rows in `values`, None for one run; windows never cross runs
    windows      : rows a window to try; (1,) when rows have no order
    kinds        : siblings to try, of "klt" and "vae"
    The same seed and data give the same layer. Raises ValueError when a target is missing or shapes disagree.
    """
    began = time.monotonic()
    task = prepare(tuple(columns), values, present, bits_per_row, n_rows_total, runs)
    if len(task.values) < 8 or not len(columns):
        return BaseFit(None, (), ())
    usable = [
        w for w in windows if w == 1 or (w * task.features.n_features <= MAX_INPUTS and len(task.values) >= 24 * w)
    ]
    linear: list[tuple[Measured, Basis]] = []
    for window in usable:
        if time.monotonic() - began > 0.6 * time_budget_s and linear:
            log.warning(
                "no time to try windows of %d rows: %.0f s of %.0f s are gone",
                window,
                time.monotonic() - began,
                time_budget_s,
            )
            break
        candidate = klt_candidate(task, window)
        linear += [] if candidate is None else [candidate]
    linear.sort(key=lambda c: order(task, c[0]))
    found = [c[0] for c in linear]
    curve: tuple[FitProgress, ...] = ()
    if "vae" in kinds and linear:
        left = max(
            0.3 * time_budget_s, time_budget_s - 2 * (time.monotonic() - began)
        )  # measuring a network takes time too
        tried = vae_candidates(task, linear, seed, left, progress)
        found += [m for m, _ in tried]
        curve = tuple(p for _, points in tried for p in points)
    ranked = sorted((m for m in found if m.layer.kind in kinds), key=lambda m: order(task, m))
    compared = tuple(m.row() for m in sorted(found, key=lambda m: order(task, m)))
    chosen = ranked[0] if ranked and acceptable(task, ranked[0]) else None
    return BaseFit(None if chosen is None else chosen.layer, curve, compared)


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
    """About n_kept row numbers in stretches of up to 4096 consecutive ones spread evenly, and the stretches' lengths."""
    pieces: list[tuple[int, int]] = []
    first = 0
    for length in runs if runs is not None else (n_rows,):
        pieces += [(first + at, min(4096, length - at)) for at in range(0, length, 4096)]
        first += length
    wanted = max(1, int(len(pieces) * n_kept / n_rows))
    chosen = [pieces[i] for i in np.unique(np.linspace(0, len(pieces) - 1, wanted).astype(int))]
    return np.concatenate([np.arange(a, a + n, dtype=np.int64) for a, n in chosen]), tuple(n for _, n in chosen)


def measure(task: Task, layer: BaseLayer, rows: NDArray[np.int64]) -> Measured:
    """Errors on held-out rows really encoded and decoded; bytes of a long stretch of the sample really stored."""
    rows = measured_rows(task, layer.window, rows)
    ratios, accuracy, z = errors(task, layer, rows)
    n_most = len(measured_rows(task, layer.window, np.arange(len(task.values))))
    if len(rows) < n_most:
        z = layer.encode(task.values[:n_most], task.present[:n_most])
    model_bytes = layer.n_bytes
    n_bytes = stored_bytes(z) * task.n_rows_total / max(1, len(z)) + model_bytes
    return Measured(layer, n_bytes, model_bytes, ratios, accuracy, layer.sparsity(z))


def measured_rows(task: Task, window: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """As many of the rows as measuring takes, whole windows."""
    n_most = min(_MEASURED_ROWS, _MEASURED_CELLS // task.features.n_features) // window * window
    return rows[: max(window, n_most)]


def errors(
    task: Task, layer: BaseLayer, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float | None, NDArray[np.integer[Any]]]:
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
    right = [
        float((decoded[:, d] == values[:, d])[present[:, d]].mean())
        for d in np.flatnonzero(~numeric)
        if present[:, d].any()
    ]
    return each[numeric] / deviation[numeric], float(np.mean(right)) if right else None, z


def acceptable(task: Task, found: Measured) -> bool:
    """Whether a layer meets its targets, or fits its budget and is worth it."""
    if task.rmse is not None:
        return float(found.ratios.max()) <= 1.0
    assert task.budget is not None
    modes = [mode_share(task, d) for d, c in enumerate(task.columns) if c.kind == CATEGORICAL]
    n_numeric = sum(c.kind == NUMERIC for c in task.columns)
    nothing = float(np.mean([1.0] * n_numeric + ([1 - float(np.mean(modes))] if modes else [])))
    return found.n_bytes <= task.budget and found.score < _WORTH * nothing


def mode_share(task: Task, column: int) -> float:
    """How often a categorical column is its most frequent level."""
    seen = task.values[task.present[:, column], column]
    return float(np.unique(seen, return_counts=True)[1].max() / len(seen)) if len(seen) else 1.0


def order(task: Task, found: Measured) -> tuple[bool, float]:
    """Sort key: what is acceptable first, then bytes (distortion mode) or error (preview)."""
    return (not acceptable(task, found), found.n_bytes if task.rmse is not None else found.score)


def settle(task: Task, export: Export, rows: NDArray[np.int64]) -> Measured | None:
    """The coarsest step of an exported map that meets the targets (or the finest within the budget) on held-out rows."""
    return settle_at_targets(task, export, rows) if task.rmse is not None else settle_in_budget(task, export, rows)


def settle_at_targets(task: Task, export: Export, rows: NDArray[np.int64]) -> Measured | None:
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
        guess = step * MARGIN / worst if worst > 0 else coarse
        step = guess if fine < guess < coarse else (fine * coarse) ** 0.5
        if coarse / fine < 1.004:
            break
    return None if best is None else measure(task, best, rows)


def settle_in_budget(task: Task, export: Export, rows: NDArray[np.int64]) -> Measured | None:
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
        if spare <= 0:
            break
        guess = step * float((found.n_bytes - found.model_bytes) / (0.985 * spare)) ** 0.7
        step = guess if fine < guess < coarse else (fine * coarse) ** 0.5
    return best


def klt_candidate(task: Task, window: int) -> tuple[Measured, Basis] | None:
    """The best linear layer of a window and its basis, or None when none meets the targets or the budget."""
    split = task.split(window)
    if len(split.train) == 0:
        return None
    train, held = task.windows(split.train, window), task.windows(split.held, window)
    moments = covariance(train)
    if task.rmse is not None:
        options = [
            klt_at_targets(task, moments, held, window, least)
            for least in ((0.3, 0.55) if len(moments) <= 400 else (0.45,))
        ]
    else:
        sizes = [n for n in (1, 2, 3, 4, 6, 8, 12) if n <= len(moments)]
        rough = [r for n in sizes for r in (klt_at_budget(task, moments, held, window, n),) if r is not None]
        options = [basis for _, basis in sorted(rough, key=lambda r: r[0])[:2]]
    best: tuple[Measured, Basis] | None = None
    for basis in options:
        found = settle(task, linear_layer("klt", task.columns, task.features, window, basis, train), split.held)
        if found is not None and (best is None or order(task, found) < order(task, best[0])):
            best = (found, basis)
    return best


def klt_at_targets(
    task: Task, moments: NDArray[np.float64], held: NDArray[np.float32], window: int, least: float
) -> Basis:
    """A basis whose groups all come out near their targets: weights follow the error."""
    target = task.feature_targets
    group = task.group[task.features.column]
    weight = 1 / (2.5 * target)
    sample = held[:: max(1, len(held) * held.shape[1] // 2_000_000)]
    for _ in range(12 if len(moments) <= 400 else 5):
        basis = fit_klt(moments, np.tile(weight, window), 512, least)
        error = round_latents(sample @ basis.encode.T.astype(np.float32)) @ basis.decode.T.astype(np.float32) - sample
        squared = (error.astype(np.float64) ** 2).mean(axis=0).reshape(window, -1).mean(axis=0)
        relative = squared / target**2
        ratio = np.sqrt(np.bincount(group, relative) / np.bincount(group))
        if np.abs(ratio / MARGIN - 1).max() < 0.004:
            break
        weight = weight * np.clip(ratio / MARGIN, 0.5, 2.0)[group]
    return basis


def klt_at_budget(
    task: Task, moments: NDArray[np.float64], held: NDArray[np.float32], window: int, n_latents: int
) -> tuple[float, Basis] | None:
    """(mean relative RMSE, basis) of n_latents latents whose entropy fits the budget once the model is paid for."""
    assert task.budget is not None
    features = task.features
    model_bytes = 0.75 * n_latents * window * features.n_features + 12 * features.n_features + 120
    spare = (task.budget - model_bytes) * 8 / task.n_rows_total * window
    if spare <= 0:
        return None
    weight = 1 / np.sqrt(features.counts[features.column].astype(np.float64))
    sample = held[:: max(1, len(held) * held.shape[1] // 300_000)]
    low, high = 1e-3, 1e3
    basis: Basis | None = None
    for step in range(16):
        scale = (low * high) ** 0.5
        basis = fit_klt(moments, np.tile(weight * scale, window), n_latents, 0.3)
        latents = round_latents(sample @ basis.encode.T.astype(np.float32))
        low, high = (scale, high) if entropy_bits(latents) * 1.1 < spare else (low, scale)
        if step in (6, 9):  # RMSE, not its square, is what counts: columns already well served weigh more
            error = latents @ basis.decode.T.astype(np.float32) - sample
            squared = (error.astype(np.float64) ** 2).mean(axis=0).reshape(window, -1).mean(axis=0)
            weight = 1 / np.sqrt(features.counts[features.column] * np.sqrt(np.maximum(squared, 1e-4)))
            low, high = scale / 4, scale * 4
    if basis is None:
        return None
    error = round_latents(sample @ basis.encode.T.astype(np.float32)) @ basis.decode.T.astype(np.float32) - sample
    each = np.sqrt((error.astype(np.float64) ** 2).mean(axis=0))
    return float((each / np.tile(features.counts[features.column], window)).sum()), basis


def vae_candidates(
    task: Task,
    linear: list[tuple[Measured, Basis]],
    seed: int,
    budget_s: float,
    progress: Callable[[FitProgress], None] | None,
) -> list[tuple[Measured, tuple[FitProgress, ...]]]:
    """Train autoencoders from the best linear layers (best first) within the time budget."""
    from vae_core.base.training import fit_network

    out: list[tuple[Measured, tuple[FitProgress, ...]]] = []
    plans = plan_networks(task, linear)
    for index, (window, basis, width) in enumerate(plans):
        split = task.split(window)
        train, held = task.windows(split.train, window), task.windows(split.held, window)
        model_bytes = 0.75 * (
            window * task.features.n_features * (basis.n_latents + width) + width * (width + basis.n_latents)
        )
        aim = aim_of(task, window, model_bytes)
        if aim is None:
            continue
        precision = 6 / np.log(2) * basis.weight**2
        trained = fit_network(
            train, task.mask(split.train, window), held, task.mask(split.held, window), basis, aim, precision,
            width=width, window=window, seed=seed, time_budget_s=budget_s / max(1, len(plans)), progress=progress,
        )  # fmt: skip
        for amortised in (False, True) if len(train) < 4 * MAX_ROWS else (False,):
            export = network_layer(
                task.columns, task.features, window, trained.network, train, trained.precision, amortised
            )
            found = settle(task, export, split.held)
            log.info(
                "autoencoder %d of %d: window %d, width %d, amortised %s, %s",
                index + 1,
                len(plans),
                window,
                width,
                amortised,
                found and found.row(),
            )
            if found is not None:
                out.append((found, () if amortised else trained.curve))
    return out


def plan_networks(task: Task, linear: list[tuple[Measured, Basis]]) -> list[tuple[int, Basis, int]]:
    """(window, basis, width) of the autoencoders worth training: a network must be able to earn its own bytes."""
    plans: list[tuple[int, Basis, int]] = []
    for found, basis in linear[:2]:
        n = found.layer.window * task.features.n_features
        latents = found.n_bytes - found.model_bytes
        for width in (96, 48, 24, 12):
            weights = 0.75 * width * (n + width + basis.n_latents)
            if weights < 0.12 * latents:
                plans.append((found.layer.window, basis, width))
                break
    return plans[:2]


def aim_of(task: Task, window: int, model_bytes: float) -> Aim | None:
    """What training steers to: the targets, or what the budget leaves for latents."""
    from vae_core.base.training import Aim

    group = np.tile(task.group[task.features.column], window)
    if task.rmse is not None:
        targets = np.zeros(len(task.rmse))
        targets[task.group[task.features.column]] = task.feature_targets * MARGIN
        return Aim(targets, None, group)
    assert task.budget is not None
    spare = (task.budget - model_bytes) * 8 / task.n_rows_total * window
    return Aim(None, spare / 1.1, group) if spare > 0 else None
