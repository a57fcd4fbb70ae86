"""Finding the integer linear prediction of a column on a sample: least absolute deviations by reweighting, greedy in terms.

Absolute deviations, because the code length of a residual grows with the logarithm of its size: a relation that holds
exactly on most rows must not be bent by the few where it does not (flights that land after midnight).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.effort import MAX_PAIRED
from vae_core.exact.linear import SHIFT, Linear, Term
from vae_core.exact.robust import fitted, short

Floats = NDArray[np.float64]
MAX_TERMS = 6
MIN_GAIN_BITS = 0.03
WIDE_TERMS, WORTH_WIDE = 64, 0.05  # terms that are left of a wide fit, bits a row it has to save
LIKELY = 3  # variables solved for at each step
ROWS_A_VARIABLE = 20  # that a wide fit has at least: noise fits a few rows
PAIR_ROWS = 400
SIGNS = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0))
SETTLED = 1e-9  # of a code, what a solution may still move
Name = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Variable:
    """A candidate term: kind and column as in linear.Term, values (n,) float64."""

    kind: str
    column: int
    values: Floats

    @property
    def name(self) -> Name:
        """What tells it from the other variables of a target."""
        return self.kind, self.column


@dataclass(frozen=True, slots=True)
class Fitted:
    """weights of the chosen variables, bias, and the mean of log2(1 + |residual|), in bits."""

    terms: tuple[Term, ...]
    bias: int
    score: float


def score_of(residual: Floats) -> float:
    """About what is left of codes, in bits a row."""
    return float(np.log2(1 + np.abs(np.round(residual))).mean())


class Regression:
    """Fits of one (n,) float64 target. What it cost to solve is remembered: columns come and go, the best of them recur."""

    def __init__(self, target: Floats) -> None:
        self._target = target
        self._solved: dict[tuple[Name, ...], tuple[Floats, float]] = {}
        self._sums: dict[tuple[Name, Name], tuple[float, float, float]] = {}

    def fit(self, variables: Sequence[Variable], max_terms: int = MAX_TERMS) -> Fitted:
        """Greedy forward selection of at most max_terms variables."""
        target = self._target
        if not len(target):
            return Fitted((), 0, 0.0)
        solution, chosen = np.array([float(np.median(target))]), list[int]()
        residual = target - solution[0]
        score = score_of(residual)
        centered = np.stack([v.values for v in variables]) if variables else np.zeros((0, len(target)))
        centered -= centered.mean(axis=1, keepdims=True)
        spread = np.sqrt(np.square(centered).mean(axis=1))
        pair = self._best_sum(variables) if max_terms >= 2 else None
        if pair is not None:
            i, j, sign_i, sign_j = pair
            left = target - sign_i * variables[i].values - sign_j * variables[j].values
            middle = float(np.median(left))
            if score_of(left - middle) < min(score, self._next(variables, centered, spread, [], residual, score)[1]) - 2 * MIN_GAIN_BITS:
                chosen, solution, residual = [i, j], np.array([sign_i, sign_j, middle]), left - middle
                score = score_of(residual)
        while len(chosen) < max_terms and score > 0.02 and len(target) >= 16:
            added, better = self._next(variables, centered, spread, chosen, residual, score)
            if added is None:
                break
            chosen.append(added)
            score, (solution, _) = better, self._solution([variables[k] for k in chosen])
            residual = target - _at(variables, chosen, solution)
        weights = [round(float(w) * (1 << SHIFT)) for w in solution]
        terms = tuple(Term(variables[k].kind, variables[k].column, w) for k, w in zip(chosen, weights, strict=False) if w)
        if any(abs(w) >= 1 << 40 for w in weights[:-1]) or abs(weights[-1]) >= 1 << 61:
            return Fitted((), 0, float("inf"))
        return Fitted(terms, weights[-1], score)

    def fit_wide(self, variables: Sequence[Variable], n_total: int, narrow: Fitted) -> Fitted:
        """Of all variables at once as many terms as pay for their place over n_total rows; `narrow` where that is as good."""
        variables = variables[: len(self._target) // ROWS_A_VARIABLE]
        if len(variables) <= max(2, len(narrow.terms)):
            return narrow
        middles = np.array([float(np.median(v.values)) for v in variables])
        middle = float(np.median(self._target))
        design = np.stack([*(v.values - m for v, m in zip(variables, middles, strict=True)), np.ones(len(self._target))], axis=1)
        target = self._target - middle
        gram = design.T @ design
        gram.flat[:: len(gram) + 1] += 1e-6 * np.maximum(np.diag(gram), 1e-300)
        if score_of(target - design @ np.linalg.solve(gram, design.T @ target)) > narrow.score - WORTH_WIDE:
            return narrow
        weights = fitted(design, target, n_total, most_terms=WIDE_TERMS)
        units = short(design, target, weights, 1 << SHIFT)
        weights[:-1] = units / (1 << SHIFT)
        bias = (middle + float(weights[-1])) * (1 << SHIFT) - float(units @ middles)
        score = score_of(target - design @ weights)
        if not (score <= narrow.score - WORTH_WIDE and np.abs(units).max() < 1 << 40 and abs(bias) < 1 << 60):
            return narrow
        terms = tuple(Term(v.kind, v.column, int(w)) for v, w in zip(variables, units, strict=True) if w)
        return Fitted(terms, round(bias), score)

    def _next(
        self, variables: Sequence[Variable], centered: Floats, spread: Floats, chosen: list[int], residual: Floats, score: float
    ) -> tuple[int | None, float]:
        """The variable to add to those chosen and the score with it; None and the score without where none gains enough."""
        bounded = np.clip(residual, *np.quantile(residual, [0.02, 0.98]))
        gains = np.abs(centered @ (bounded - bounded.mean())) / np.where(spread > 0, spread, np.inf)
        gains[chosen] = 0.0
        likely = [int(k) for k in np.argsort(-gains, kind="stable")[:LIKELY] if gains[k] > 0]
        scores = [self._solution([variables[c] for c in (*chosen, k)])[1] for k in likely]
        if not scores or min(scores) > score - MIN_GAIN_BITS:
            return None, score
        best = int(np.argmin(scores))
        return likely[best], scores[best]

    def _solution(self, variables: Sequence[Variable]) -> tuple[Floats, float]:
        """Weights of variables, the last the bias, and the score of what they leave."""
        names = tuple(v.name for v in variables)
        if names not in self._solved:
            self._solved[names] = solve([v.values for v in variables], self._target, 0.5)
        return self._solved[names]

    def _best_sum(self, variables: Sequence[Variable]) -> tuple[int, int, float, float] | None:
        """Two variables and signs whose sum is nearest the target: neither need show any correlation alone."""
        pick = np.linspace(0, len(self._target) - 1, min(len(self._target), PAIR_ROWS)).astype(np.int64)
        y, paired = self._target[pick], variables[:MAX_PAIRED]
        values = np.stack([v.values[pick] for v in paired]) if paired else np.zeros((0, len(pick)))
        for i, a in enumerate(paired):
            fresh = [j for j in range(i) if (a.name, paired[j].name) not in self._sums]
            if not fresh:
                continue
            rest = np.stack([y - sign_i * values[i] - sign_j * values[fresh] for sign_i, sign_j in SIGNS])
            rest -= np.median(rest, axis=2, keepdims=True)
            scores = np.log2(1 + np.abs(rest)).mean(axis=2)
            for j, best, score in zip(fresh, scores.argmin(axis=0), scores.min(axis=0), strict=True):
                self._sums[a.name, paired[j].name] = float(score), *SIGNS[best]
        sums = [(self._sums[a.name, paired[j].name], i, j) for i, a in enumerate(paired) for j in range(i)]
        if not sums:
            return None
        (_, sign_i, sign_j), i, j = min(sums, key=lambda s: s[0][0])
        return i, j, sign_i, sign_j


def _at(variables: Sequence[Variable], chosen: Sequence[int], solution: Floats) -> Floats:
    found = np.full(len(variables[0].values), solution[-1])
    for k, weight in zip(chosen, solution, strict=False):
        found += weight * variables[k].values
    return found


def solve(columns: list[Floats], target: Floats, scale: float) -> tuple[Floats, float]:
    """Weights (len(columns) + 1, the last the bias) of a reweighted least-squares fit, and the score of its residual."""
    design = np.stack([*columns, np.ones(len(target))])
    size = np.abs(design).max(axis=1)
    size[size == 0] = 1
    scaled = design / size[:, None]
    weight = np.ones(len(target))
    solution = np.zeros(len(design))
    residual = target
    for _ in range(12):
        weighted = scaled * weight
        gram = weighted @ scaled.T
        gram.flat[:: len(gram) + 1] += 1e-9 * weight.sum()
        before, solution = solution, np.linalg.solve(gram, weighted @ target) / size
        residual = target - solution @ design
        if (np.abs(solution - before) * size).max() < SETTLED * scale:
            break
        weight = 1 / np.maximum(np.abs(residual), scale)
        weight /= weight.max()
    near = np.round(solution * 4) / 4
    score = score_of(residual)
    if (np.abs(near - solution)[:-1] < 0.01).all() and len(solution) > 1:
        snapped = target - near[:-1] @ design[:-1]
        bias = float(np.median(snapped))
        if (other := score_of(snapped - bias)) <= score:
            solution, score = np.concatenate([near[:-1], [bias]]), other
    return solution, score


def linear(with_neighbours: Fitted, without: Fitted) -> Linear:
    """The prediction that uses neighbours, falling back on `without` on anchor rows."""
    return Linear(with_neighbours.terms, with_neighbours.bias, without.terms, without.bias)
