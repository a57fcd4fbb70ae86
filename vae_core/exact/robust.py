"""Weights of a linear fit that far-off rows do not bend, of as many variables as pay for their place in a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST_TERMS = 20
TERM_BITS = 40.0  # what a term takes in the stored plan, with a margin
WORTH_BENDING = 0.02  # bits a row
HEAVY = 2.5  # times the median that a mean distance is where a few rows are far off
UNTOLD = 0.03  # of the distance that half of the rows are nearer than


def fitted(design: Floats, target: Floats, n_total: int, steps: Sequence[Floats] = (), most_terms: int = MOST_TERMS) -> Floats:
    """(k,) weights of (n, k) columns, the last one the bias; 0 for those that do not pay. steps: (k - 1,) weights to start from.

    n_total : rows that a term has to pay for its place in the plan by      most_terms : that are left

    Least absolute deviations, or what makes the logarithm of distances small where that tells rows by more: a jump, and the row after
    it, whose step before is the jump, must not bend what all others follow.
    """
    size: Floats = np.sqrt(np.square(design).mean(axis=0))
    scaled = design / np.where(size > 0, size, 1.0)
    found = _reweighted(scaled, target, n_total, None, most_terms)
    # as the row before, as it goes on, and as another column steps
    starts = [found, np.zeros(design.shape[1]), *(np.append(step, 0.0) * size for step in steps)]
    closest = min(starts, key=lambda w: logarithm(target - scaled @ w))
    off = np.abs(target - scaled @ found)
    if closest is not found or off.mean() > HEAVY * np.median(off) + 1:
        closer = _reweighted(scaled, target, n_total, closest, most_terms)
        if logarithm(target - scaled @ closer) < logarithm(target - scaled @ found) - WORTH_BENDING:
            found = closer
    weights: Floats = found / np.where(size > 0, size, 1.0)
    return weights


def short(design: Floats, target: Floats, weights: Floats, units: int) -> Floats:
    """(k - 1,) weights but the last in units, of as few decimal digits as rows do not tell: the plan lists them."""
    off = float(np.median(np.abs(target - design @ weights)))
    size = np.sqrt(np.square(design[:, :-1]).mean(axis=0)) / units
    grain = 10.0 ** np.floor(np.log10(np.clip(UNTOLD * max(off, 0.5) / np.where(size > 0, size, np.inf), 1.0, 1e4)))
    return np.asarray(np.rint(weights[:-1] * units / grain) * grain, np.float64)


def logarithm(off: Floats) -> float:
    """About what distances take, in bits each."""
    return float(np.log2(1 + np.abs(off)).mean())


def _reweighted(scaled: Floats, target: Floats, n_total: int, start: Floats | None, most_terms: int) -> Floats:
    """(k,) weights by iteratively reweighted least squares: of absolute deviations, or from a start on of their logarithms."""
    used: NDArray[np.bool_] = np.abs(scaled).max(axis=0) > 0
    weights, near = np.zeros(scaled.shape[1]), np.ones(len(target))
    reach = math.inf
    if start is not None:
        off = np.abs(target - scaled @ start)
        reach = max(1.0, 4 * float(np.median(off)))
        near = 1 / (np.maximum(off, 0.5) * (1 + off / reach))
    for rounds in (4, 3, 3):
        for _ in range(rounds):
            part = scaled[:, used]
            weighted = (part * near[:, None]).T
            gram = weighted @ part
            gram.flat[:: len(gram) + 1] += 1e-9 * near.sum()
            found = np.linalg.solve(gram, weighted @ target)
            off = np.abs(target - part @ found)
            reach = max(1.0, min(reach / 2, 2 * float(np.median(off)))) if start is not None else math.inf
            near = 1 / (np.maximum(off, 0.5) * (1 + off / reach))
        squares = float((near * np.square(off)).sum()) + 1e-12
        kept = _paying(gram, found, squares, n_total, most_terms)
        weights[:] = 0
        weights[used] = found
        if kept.all():
            break
        used[np.flatnonzero(used)[~kept]] = False
    weights[~used] = 0
    return weights


def _paying(
    gram: Floats, weights: NDArray[np.floating[Any]], squares: float, n_total: int, most_terms: int
) -> NDArray[np.bool_]:
    """Which of the terms, the bias (last) always, are worth their place: backward elimination on the normal equations."""
    kept = np.ones(len(weights), bool)
    inverse, w = np.linalg.inv(gram), weights.copy()
    while kept[:-1].any():
        # by what leaving one out adds to the squares
        rise = np.full(len(w), np.inf)
        own = np.diag(inverse)[:-1][kept[:-1]]
        rise[:-1][kept[:-1]] = np.where(own > 0, np.square(w[:-1][kept[:-1]]) / np.where(own > 0, own, 1.0), 0.0)
        least = int(rise.argmin())
        bits = 0.5 * n_total * np.log2(1 + rise[least] / squares)
        if bits > TERM_BITS and int(kept.sum()) - 1 <= most_terms:
            break
        column = inverse[:, least].copy()
        w = w - column * (w[least] / column[least])
        inverse = inverse - np.outer(column, column) / column[least]
        inverse[least, least] = 1.0
        kept[least] = False
        w[least] = 0.0
        squares += float(rise[least])
    return kept

