"""Choosing a base layer by the bytes it really takes: kind, window, latents, steps and width."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vae_core.base.columns import BaseColumn
from vae_core.base.cost import entropy_bits
from vae_core.base.discrete import code_candidates
from vae_core.base.export import linear_layer, network_layer
from vae_core.base.klt import Axes, Basis, basis_of, centred, covariance, fit_klt, principal_axes, round_latents
from vae_core.base.layer import MAX_COLUMNS, MAX_WINDOW, BaseLayer
from vae_core.base.measuring import MARGIN, Measured, acceptable, order, settle
from vae_core.base.siblings import THRESHOLD, fit_dictionary
from vae_core.base.task import MAX_ROWS, FitProgress, Task, prepare

if TYPE_CHECKING:
    from vae_core.base.training import Aim

log = logging.getLogger(__name__)

MAX_INPUTS = 1024
"""Windows are at most so wide: rows times features."""
WINDOWS = (1, 4, 8, 16, 32)
LINEAR_WINDOW = 16
_WEIGHT_BOUNDS = (127, 31, 15, 7, 3)
"""The largest integer weights to try for a decoder: bytes of a model weigh as much as those of its latents."""
_LIGHT = 0.03
"""Of all bytes: a model below this is not worth making smaller."""
_WIDE = 200
_STEERED_CELLS = 1 << 20
"""A preview's step is steered on so many features of held-out windows."""
_PRIOR_WINDOWS = 1 << 14
"""What a network's latents are like is asked of so many windows: each is a descent on the decoder."""
LINEAR_SHARE = 0.8
"""Of the time budget: after it no further window is tried."""
GRACE_S = 1.0
"""The clock decides only so late: until then it is the plan, so that a seed repeats itself."""
AXES_S = 1e-8
"""Of the decompositions of a preview's linear layers: seconds for a third power of their features."""


@dataclass(frozen=True, slots=True, eq=False)
class BaseFit:
    """layer is None when nothing paid; curve is FitProgress; compared has a line for each sibling at the same error
    or budget; error is what a preview minimises (Measured.score), on rows held out."""

    layer: BaseLayer | None
    curve: tuple[FitProgress, ...]
    compared: tuple[dict[str, Any], ...]
    error: float | None = None


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
    hasty: bool = False,
) -> BaseFit:
    """Fit a base layer to codes `values` (n, D) int64, `present` (n, D) bool (None: all).

    bits_per_row : preview: latents as stored plus decoder and encoder over n_rows_total rows (default n) may cost so
    much.
                   None: distortion mode, every column has an rmse target; elements of one name share it.
    runs         : lengths of runs of consecutive rows in `values`, None for one run; windows never cross runs
    windows      : rows a window to try; (1,) when rows have no order
    kinds        : siblings to try, of "klt", "vae", "ae" (plain autoencoder) and "ista" (sparse dictionary)
    hasty        : of a preview, one linear map is measured, one shape trained on all rows, and half the prices tried that may meet the
                   budget, or all of them until one does
    The same seed and data give the same layer, unless the time budget runs out: then fewer windows, networks and steps are
    tried. The first linear layer with targets is always finished; of a preview it is the best there is by then, and none where
    decompositions of so many features alone would take longer. Raises ValueError when a target is missing or shapes disagree.
    """
    began = time.monotonic()
    deadline = began + time_budget_s + GRACE_S
    task = prepare(tuple(columns), values, present, bits_per_row, n_rows_total, runs)
    if len(task.values) < 8 or not 0 < len(columns) <= MAX_COLUMNS:
        return BaseFit(None, (), ())
    # of a preview wide windows are the autoencoder's: a linear map pays for every row of them
    most = MAX_WINDOW if task.rmse is not None else LINEAR_WINDOW
    usable = [w for w in windows if w <= most]
    usable = [w for w in usable if w == 1 or (w * task.features.n_features <= MAX_INPUTS and len(task.values) >= 24 * w)]
    linear: list[tuple[Measured, Basis]] = []
    for window in usable:
        spent = time.monotonic() - began
        if spent > LINEAR_SHARE * time_budget_s + GRACE_S and linear:
            log.info("no time to try windows of %d rows: %.0f s of %.0f s are gone", window, spent, time_budget_s)
            break
        if task.rmse is None and AXES_S * (window * task.features.n_features) ** 3 > time_budget_s + GRACE_S:
            continue
        candidate = klt_candidate(task, window, math.inf if task.rmse is not None and not linear else deadline, hasty)
        linear += [] if candidate is None else [candidate]
    linear.sort(key=lambda c: order(task, c[0]))
    found = [c[0] for c in linear]
    curve: tuple[FitProgress, ...] = ()
    if "vae" in kinds and task.rmse is None:
        tried, curve = code_candidates(task, windows, seed, deadline, progress, hasty)
        found += tried
    elif "vae" in kinds and linear:
        # a fixed share, never what the clock leaves: the same seed has to give the same layer
        tried, curve = vae_candidates(task, linear, seed, 0.6 * time_budget_s, deadline, progress)
        found += tried
    if "ae" in kinds and linear:
        found += vae_candidates(task, linear[:1], seed, 0.3 * time_budget_s, math.inf, None, variational=False)[0]
    if "ista" in kinds and linear:
        found += dictionary_candidates(task, linear[0], seed)
    ranked = sorted((m for m in found if m.layer.kind in kinds), key=lambda m: order(task, m))
    compared = tuple(m.row() for m in sorted(found, key=lambda m: order(task, m)))
    chosen = ranked[0] if ranked and acceptable(task, ranked[0]) else None
    return BaseFit(None, curve, compared) if chosen is None else BaseFit(chosen.layer, curve, compared, chosen.score)


def klt_candidate(task: Task, window: int, deadline: float, hasty: bool = False) -> tuple[Measured, Basis] | None:
    """The best linear layer of a window and its basis, or None when none meets the targets or the budget. hasty: as of fit_base"""
    split = task.split(window)
    if len(split.train) == 0:
        return None
    train, held = task.windows(split.train, window), task.windows(split.held, window)
    moments = covariance(train)
    if task.rmse is not None:
        options = [klt_at_targets(task, moments, held, window, least) for least in ((0.3, 0.55) if len(moments) <= 400 else (0.45, 0.8))]
    else:
        held = held[: max(256, _STEERED_CELLS // held.shape[1])]
        sizes = [n for n in (1, 2, 3, 4, 6, 8, 12) if n <= len(moments)]
        axes = principal_axes(moments, np.tile(klt_weight(task), window))
        rough = [r for n in sizes for r in (klt_at_budget(task, moments, axes, held, window, n),) if r is not None]
        options = [basis for _, basis in sorted(rough, key=lambda r: r[0])[: 1 if hasty else 2]]
    best: tuple[Measured, Basis] | None = None
    for basis in options:
        found = settled_linear(task, basis, window, train, split.held, deadline)
        if found is not None and (best is None or order(task, found[0]) < order(task, best[0])):
            best = found
    return best


def settled_linear(
    task: Task, basis: Basis, window: int, train: NDArray[np.float32], rows: NDArray[np.int64], deadline: float
) -> tuple[Measured, Basis] | None:
    """The layer of a basis on held-out rows, and the basis with the bound of weights that takes the fewest bytes."""
    best: tuple[Measured, Basis] | None = None
    for bound in _WEIGHT_BOUNDS:
        bounded = replace(basis, bound=bound)
        found = settle(task, linear_layer("klt", task.columns, task.features, window, bounded, train), rows, deadline)
        if found is None or (best is not None and order(task, found) >= order(task, best[0])):
            break
        best = (found, bounded)
        if task.rmse is None or found.model_bytes < _LIGHT * found.n_bytes:
            break
    return best


def klt_at_targets(task: Task, moments: NDArray[np.float64], held: NDArray[np.float32], window: int, least: float) -> Basis:
    """A basis whose groups all come out near their targets: weights follow the error."""
    target = task.feature_targets
    group = task.group[task.features.column]
    weight = 1 / (2.5 * target)
    sample = held[:: max(1, len(held) * held.shape[1] // 2_000_000)]
    for _ in range(12 if len(moments) <= 400 else 5):
        basis = centred(fit_klt(moments, np.tile(weight, window), 512, least), sample)
        error = round_latents(sample @ basis.encode.T.astype(np.float32)) @ basis.decode.T.astype(np.float32) - sample
        squared = (error.astype(np.float64) ** 2).mean(axis=0).reshape(window, -1).mean(axis=0)
        relative = squared / target**2
        ratio = np.sqrt(np.bincount(group, relative) / np.bincount(group))
        if np.abs(ratio / MARGIN - 1).max() < 0.004:
            break
        weight = weight * np.clip(ratio / MARGIN, 0.5, 2.0)[group]
    return basis


def klt_weight(task: Task) -> NDArray[np.float64]:
    """(F,) of features whose errors are all alike."""
    return np.asarray(1 / np.sqrt(task.features.counts[task.features.column].astype(np.float64)))


def klt_at_budget(
    task: Task, moments: NDArray[np.float64], axes: Axes, held: NDArray[np.float32], window: int, n_latents: int
) -> tuple[float, Basis] | None:
    """(mean relative RMSE, basis) of n_latents latents whose entropy fits the budget once the model is paid for; axes: by klt_weight."""
    assert task.budget is not None
    features = task.features
    model_bytes = 0.75 * n_latents * window * features.n_features + 12 * features.n_features + 120
    spare = (task.budget - model_bytes) * 8 / task.n_rows_total * window
    if spare <= 0:
        return None
    sample = held[:: max(1, len(held) * held.shape[1] // 300_000)]
    low, high = 1e-3, 1e3
    basis: Basis | None = None
    for step in range(16):
        scale = (low * high) ** 0.5
        basis = basis_of(axes.scaled(scale), n_latents, 0.3)
        latents = round_latents(sample @ basis.encode.T.astype(np.float32))
        low, high = (scale, high) if entropy_bits(latents) * 1.1 < spare else (low, scale)
        if step == 7:  # RMSE, not its square, is what counts: columns already well served weigh more
            error = latents @ basis.decode.T.astype(np.float32) - sample
            squared = (error.astype(np.float64) ** 2).mean(axis=0).reshape(window, -1).mean(axis=0)
            weight = 1 / np.sqrt(features.counts[features.column] * np.sqrt(np.maximum(squared, 1e-4)))
            axes = principal_axes(moments, np.tile(weight, window))
            low, high = scale / 16, scale * 16
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
    deadline: float,
    progress: Callable[[FitProgress], None] | None,
    variational: bool = True,
) -> tuple[list[Measured], tuple[FitProgress, ...]]:
    """Train autoencoders from the best linear layers (best first) within the time budget: what came out before the
    deadline, and the curves."""
    from vae_core.base.training import fit_network

    out: list[Measured] = []
    curve: tuple[FitProgress, ...] = ()
    plans = plan_networks(task, linear)
    for index, (window, basis, width) in enumerate(plans):
        if time.monotonic() > deadline:
            log.info("no time to train autoencoder %d of %d", index + 1, len(plans))
            break
        split = task.split(window)
        train, held = task.windows(split.train, window), task.windows(split.held, window)
        model_bytes = 0.75 * (window * task.features.n_features * (basis.n_latents + width) + width * (width + basis.n_latents))
        aim = aim_of(task, window, model_bytes)
        if aim is None:
            continue
        precision = 6 / np.log(2) * basis.weight**2
        trained = fit_network(
            train, task.mask(split.train, window), held, task.mask(split.held, window), basis, aim, precision,
            width=width, window=window, seed=seed, time_budget_s=budget_s / max(1, len(plans)), variational=variational, progress=progress,
        )  # fmt: skip
        curve += trained.curve
        log.info("autoencoder of window %d: %.2f bits a window, errors %s", window, trained.bits, np.round(trained.rmse, 4))
        some = train[:: -(-len(train) // _PRIOR_WINDOWS)]
        for amortised in (False, True) if len(train) < 4 * MAX_ROWS else (False,):
            export = network_layer(
                task.columns,
                task.features,
                window,
                trained.network,
                some,
                trained.precision,
                amortised,
                "vae" if variational else "ae",
                basis.bound,
            )
            found = settle(task, export, split.held, deadline)
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
                out.append(found)
    return out, curve


def dictionary_candidates(task: Task, linear: tuple[Measured, Basis], seed: int) -> list[Measured]:
    """The sparse dictionary that grows from the best linear basis, when it meets the targets or the budget."""
    found, basis = linear
    window = found.layer.window
    split = task.split(window)
    train = task.windows(split.train, window)
    grown = fit_dictionary(train, basis, max(2, basis.n_latents // 2), seed)
    settled = settle(task, linear_layer("ista", task.columns, task.features, window, grown, train, THRESHOLD), split.held, math.inf)
    return [] if settled is None else [settled]


def plan_networks(task: Task, linear: list[tuple[Measured, Basis]]) -> list[tuple[int, Basis, int]]:
    """(window, basis, width) of the autoencoders worth training: a network must be able to earn its own bytes."""
    plans: list[tuple[int, Basis, int]] = []
    if task.features.n_features > _WIDE and linear:
        # wide rows: few latents and a broad network, or many and a narrow one; a third of the linear bytes pays for
        # the first
        found, basis = linear[0]
        if 0.75 * 112 * (task.features.n_features + 120) < 0.3 * found.n_bytes:
            return [(found.layer.window, basis.keep(slice(0, 64)), 112)]
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
        return Aim(np.full(len(task.rmse), MARGIN), None, group, np.tile(task.feature_targets, window))
    assert task.budget is not None
    spare = (task.budget - model_bytes) * 8 / task.n_rows_total * window
    return Aim(None, spare / 1.1, group, np.ones(len(group))) if spare > 0 else None
