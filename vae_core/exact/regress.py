"""Finding the integer linear prediction of a column on a sample: least absolute deviations by reweighting, greedy in terms.

Absolute deviations, because the code length of a residual grows with the logarithm of its size: a relation that holds
exactly on most rows must not be bent by the few where it does not (flights that land after midnight).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.linear import SHIFT, Linear, Term

Floats = NDArray[np.float64]
MAX_TERMS = 6
MAX_PAIRED = 24
MIN_GAIN_BITS = 0.03


@dataclass(frozen=True, slots=True)
class Variable:
    """A candidate term: kind and column as in linear.Term, values (n,) float64."""

    kind: str
    column: int
    values: Floats


@dataclass(frozen=True, slots=True)
class Fitted:
    """weights of the chosen variables, bias, and the mean of log2(1 + |residual|), in bits."""

    terms: tuple[Term, ...]
    bias: int
    score: float


def _score(residual: Floats) -> float:
    return float(np.log2(1 + np.abs(np.round(residual))).mean())


def _solve(columns: list[Floats], target: Floats, scale: float) -> tuple[Floats, Floats]:
    """Weights (len(columns) + 1, the last the bias) of a reweighted least-squares fit, and its residual."""
    design = np.stack([*columns, np.ones(len(target))], axis=1)
    size = np.abs(design).max(axis=0)
    size[size == 0] = 1
    scaled = design / size
    weight = np.ones(len(target))
    solution = np.zeros(design.shape[1])
    residual = target
    for _ in range(12):
        gram = (scaled * weight[:, None]).T @ scaled
        gram[np.diag_indices_from(gram)] += 1e-9 * weight.sum()
        solution = np.linalg.solve(gram, (scaled * weight[:, None]).T @ target) / size
        residual = target - design @ solution
        weight = 1 / np.maximum(np.abs(residual), scale)
        weight /= weight.max()
    near = np.round(solution * 4) / 4
    if (np.abs(near - solution)[:-1] < 0.01).all() and len(solution) > 1:
        snapped = target - design[:, :-1] @ near[:-1]
        bias = float(np.median(snapped))
        if _score(snapped - bias) <= _score(residual):
            solution, residual = np.concatenate([near[:-1], [bias]]), snapped - bias
    return solution, residual


def _best_pair(target: Floats, variables: Sequence[Variable]) -> tuple[int, int, float, float] | None:
    """Two variables and signs whose sum is nearest the target: neither need show any correlation alone."""
    pick = np.linspace(0, len(target) - 1, min(len(target), 400)).astype(np.int64) if len(target) else np.empty(0, np.int64)
    y = target[pick]
    best, best_score = None, float("inf")
    values = [v.values[pick] for v in variables[:MAX_PAIRED]]
    for i, a in enumerate(values):
        for j in range(i):
            for sign_i, sign_j in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)):
                rest = y - sign_i * a - sign_j * values[j]
                score = float(np.log2(1 + np.abs(rest - np.median(rest))).mean())
                if score < best_score:
                    best, best_score = (i, j, sign_i, sign_j), score
    return best


def fit(target: Floats, variables: Sequence[Variable], max_terms: int = MAX_TERMS) -> Fitted:
    """Greedy forward selection of at most max_terms variables for (n,) float64 targets."""
    bias = float(np.median(target)) if len(target) else 0.0
    residual = target - bias
    chosen: list[int] = []
    solution = np.array([bias])
    score = _score(residual) if len(target) else 0.0
    pair = _best_pair(target, variables) if max_terms >= 2 else None
    if pair is not None:
        i, j, sign_i, sign_j = pair
        left = target - sign_i * variables[i].values - sign_j * variables[j].values
        middle = float(np.median(left))
        if _score(left - middle) < min(score, fit(target, variables, 1).score) - 2 * MIN_GAIN_BITS:
            chosen, solution, residual = [i, j], np.array([sign_i, sign_j, middle]), left - middle
            score = _score(residual)
    spread = [float(v.values.std()) if len(target) else 0.0 for v in variables]
    while len(chosen) < max_terms and score > 0.02 and len(target) >= 16:
        bounded = np.clip(residual, *np.quantile(residual, [0.02, 0.98]))
        bounded = bounded - bounded.mean()
        gains = [
            abs(float(bounded @ (v.values - v.values.mean()))) / s if s > 0 and k not in chosen else 0.0
            for k, (v, s) in enumerate(zip(variables, spread, strict=True))
        ]
        best: tuple[float, int, Floats, Floats] | None = None
        for k in sorted(range(len(variables)), key=lambda i: -gains[i])[:3]:
            if gains[k] <= 0:
                continue
            trial, left = _solve([variables[c].values for c in (*chosen, k)], target, 0.5)
            trial_score = _score(left)
            if best is None or trial_score < best[0]:
                best = trial_score, k, trial, left
        if best is None or best[0] > score - MIN_GAIN_BITS:
            break
        score, added, solution, residual = best
        chosen.append(added)
    weights = [round(float(w) * (1 << SHIFT)) for w in solution]
    terms = tuple(Term(variables[k].kind, variables[k].column, w) for k, w in zip(chosen, weights, strict=False) if w)
    if any(abs(w) >= 1 << 40 for w in weights[:-1]) or abs(weights[-1]) >= 1 << 61:
        return Fitted((), 0, float("inf"))
    return Fitted(terms, weights[-1], score)


def linear(with_neighbours: Fitted, without: Fitted) -> Linear:
    """The prediction that uses neighbours, falling back on `without` on anchor rows."""
    return Linear(with_neighbours.terms, with_neighbours.bias, without.terms, without.bias)
