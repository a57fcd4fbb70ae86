"""Products and quotients of two columns decoded before, as the prediction of a third: a price by a number, a share of a total, a speed.

Every pair of the columns that tell most of a target is tried on few rows, in closed form, with or without what the first of the two
adds by itself (a discount takes its share of an amount: a x + b x y). The best are solved for on all rows, and weights rounded to what
people write down, where that tells rows better: what is exact has to be told exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.linear import MOST_SHIFTED, SHIFT, Term, kind_of_two
from vae_core.exact.regress import Fitted, Name, Variable, score_of, solve

Floats = NDArray[np.float64]
MOST_FACTORS = 10  # columns, those that tell most of the target
FEW_ROWS = 400
CLEARLY_LESS, CLEARLY_NEARER = 1.5, 0.5  # bits a row below what sums leave, or as a part of it: what is only nearly so spoils orders
LEAST_BITS = 0.3  # a row that sums leave, for anything to be looked for
SOLVED = 2  # pairs
ROUNDS = 6
DIGITS = 6  # that a rounded weight has at most
ROOM_BITS, WEIGHT_BITS = 59, 39  # of what is multiplied before it is shifted, and of a weight
BEYOND_BITS = 3  # how much larger rows may be than those of the sample


@dataclass(frozen=True, slots=True)
class _Pair:
    """score on few rows, lower is better; whether it is a quotient, whether the first adds by itself, and of which two variables."""

    score: float
    is_quotient: bool
    with_first: bool
    first: Variable
    second: Variable


class Products:
    """Predictions of one (n,) float64 target. What pairs tell on few rows is remembered: columns come and go, the best of them recur."""

    def __init__(self, target: Floats) -> None:
        self._target = target
        self._pick = np.linspace(0, len(target) - 1, min(len(target), FEW_ROWS)).astype(np.int64)
        self._known: dict[tuple[Name, Name], list[tuple[float, bool, bool]]] = {}

    def best(self, variables: Sequence[Variable], sums: Fitted, most: int = MOST_FACTORS) -> Fitted | None:
        """The prediction by a product or a quotient of two of some columns, None where it is not clearly nearer than sums.

        variables : of kind "at", those that tell most first, of which so many are tried       sums : the best prediction by sums
        """
        variables, most_bits = variables[:most], max(sums.score - CLEARLY_LESS, CLEARLY_NEARER * sums.score)
        if sums.score < LEAST_BITS or not variables:
            return None
        pairs = [_Pair(*known, a, b) for a, b, found in self._tried(variables) for known in found if known[0] < most_bits]
        found = [one for p in sorted(pairs, key=lambda p: p.score)[:SOLVED] if (one := _solved(self._target, p)) is not None]
        best = min(found, key=lambda one: one.score, default=None)
        return best if best is not None and best.score < most_bits else None

    def _tried(self, variables: Sequence[Variable]) -> Iterator[tuple[Variable, Variable, list[tuple[float, bool, bool]]]]:
        """Every pair with what it leaves on few rows."""
        y, values = self._target[self._pick], np.stack([v.values[self._pick] for v in variables])
        ones = np.ones(len(y))
        for a, x in zip(variables, values, strict=True):
            fresh = [j for j, b in enumerate(variables) if (a.name, b.name) not in self._known]
            for j in fresh:
                self._known[a.name, variables[j].name] = []
            for is_quotient in (False, True) if fresh else ():
                made = _two(x, values[fresh], is_quotient)
                for with_first, beside in ((True, x), (False, ones)):
                    for j, score in zip(fresh, _scores(y, beside, made), strict=True):
                        if not (is_quotient and variables[j] is a):
                            self._known[a.name, variables[j].name].append((float(score), is_quotient, with_first))
            yield from ((a, b, self._known[a.name, b.name]) for b in variables)


def _two(x: Floats, others: Floats, is_quotient: bool) -> Floats:
    """x times or over each of others, 0 where these are below 1: as `Term.of_two` has it."""
    return np.where(others > 0, x / np.maximum(others, 1), 0.0) if is_quotient else x * others


def _scores(y: Floats, beside: Floats, made: Floats) -> Floats:
    """(k,) about what is left of y, in bits a row, by the nearest sum of one variable and of each of (k, n) others."""
    off = np.abs(y - np.median(y))
    near = np.broadcast_to(1 / np.maximum(off, max(0.5, float(np.median(off)))), made.shape)
    left = np.broadcast_to(y, made.shape)
    for _ in range(ROUNDS):  # least squares, of absolute deviations: rows that follow no rule must not hide one
        weighed, weighed_made = near * beside, near * made
        aa, ab, bb = weighed @ beside, weighed_made @ beside, (weighed_made * made).sum(axis=1)
        ya, yb = weighed @ y, weighed_made @ y
        apart = aa * bb - ab * ab
        solvable = apart > 1e-9 * aa * bb
        apart = np.where(solvable, apart, 1.0)
        a, b = (ya * bb - yb * ab) / apart, (yb * aa - ya * ab) / apart
        left = y - a[:, None] * beside - b[:, None] * made
        near = 1 / np.maximum(np.abs(left), 0.5)
    found: Floats = np.log2(1 + np.abs(np.round(left))).mean(axis=1)
    return np.where(solvable, found, np.inf)


def _solved(target: Floats, pair: _Pair) -> Fitted | None:
    """A pair's weights by all rows, as people would write them where that is as near; None where no term holds them."""
    first, second = pair.first, pair.second
    made = _two(first.values, second.values, pair.is_quotient)
    columns = [made, *([first.values] if pair.with_first else [])]
    solution, score = solve(columns, target, 0.5)
    design = np.stack([*columns, np.ones(len(target))])

    def score_with(weights: Floats) -> float:
        return score_of(target - weights @ design)

    for k in (*range(len(columns)), -1):
        for value in [0.0] if k in (-1, 1) else []:  # nothing is what most leave out
            solution, score = _better(solution, score, k, value, score_with)
        for value in _written(float(solution[k])) if k >= 0 else []:
            solution, score = _better(solution, score, k, value, score_with)
    weight, bias = float(solution[0]), float(solution[-1])
    largest = max(1.0, float(np.abs(first.values).max()) * (1.0 if pair.is_quotient else float(np.abs(second.values).max())))
    if not weight or abs(bias) >= 1 << 44:
        return None
    # as many bits behind the point as fit into what is multiplied
    room = ROOM_BITS - BEYOND_BITS - np.log2(abs(weight) * largest)
    shifted = int(min(room, WEIGHT_BITS - np.log2(abs(weight)), SHIFT + MOST_SHIFTED)) - SHIFT
    if shifted < 0:
        return None
    terms = [Term(kind_of_two(pair.is_quotient, second.column, shifted), first.column, round(weight * 2.0 ** (SHIFT + shifted)))]
    if pair.with_first and solution[1]:
        terms.append(Term("at", first.column, round(float(solution[1]) * (1 << SHIFT))))
    return None if any(abs(t.weight) >= 1 << 40 for t in terms) else Fitted(tuple(terms), round(bias * (1 << SHIFT)), score)


def _better(
    solution: Floats, score: float, k: int, value: float, score_with: Callable[[Floats], float]
) -> tuple[Floats, float]:
    """The solution with another weight where that is no worse."""
    trial = solution.copy()
    trial[k] = value
    other = score_with(trial)
    return (trial, other) if other <= score else (solution, score)


def _written(value: float) -> list[float]:
    """Numbers of few digits near one, and numbers whose inverse has few: the longest first, so that the shortest of equals stays."""
    if not value or not np.isfinite(value) or not np.isfinite(1 / value):
        return []
    return [n for digits in range(DIGITS, 0, -1) for n in (1 / float(f"{1 / value:.{digits}g}"), float(f"{value:.{digits}g}"))]
