"""Finding, on a sample, how a column is told by the rows before it: the order they are in, and the lags that predict it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.effort import FULL, Effort
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import SHIFT, Term, beside_of, kind_beside, kind_of, lag_of
from vae_core.exact.robust import fitted, logarithm, short

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Spectrum = NDArray[np.complex128]
MOST_LAG = MOST_LEAD = 256  # that are looked for
OWN_LAGS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
SEASONS, SHORTEST_SEASON, RECURRENT = 2, 9, 0.08  # how many, in rows, and how much of a step is to be seen in the one a season before
WEEK = 7  # seasons
OTHER_KINDS = ("at", "lag1", "lag2", "lead1")
WORTH_SORTING = 0.15  # bits a row
UNRELATED = 0.35  # bits by which steps may be dearer than values: those of independent normal values are dearer by a half
MOST_ORDERS = 2
BESIDE = (0, -1, 1, 2)  # rows from the row above, each told by its difference from one of those before: itself from the row before
STEP = 1  # where the column's last step is among the variables of a fit
COPY_ROWS, ALIKE = 8_192, 0.25  # rows that are looked at for copies, and the correlation of their steps


def sort_orders(
    known: Mapping[int, Ints], own: Ints, active: Ints, sorted_by: Callable[[int], NDArray[np.integer[Any]]] | None = None,
    looks_far: bool = False,
) -> list[tuple[int, ...]]:
    """Keys of orders of the rows in which steps tell much of a column, the best first; () is the rows as they are.

    known     : column -> (n_rows,) of columns that may be sorted by      own : (n_rows,) the column      active : (n,) rows that count
    sorted_by : the rows sorted by a column, ties as they are, where that is remembered        looks_far : as of seasons_of
    """
    if len(active) < 64:
        return []
    values = own[active]
    plain, floats = _size(values - float(np.median(values))), values.astype(np.float64)
    recurring = [_size(floats[season:] - floats[:-season]) for season in seasons_of(values, looks_far)]
    found: list[tuple[float, tuple[int, ...]]] = [(min([_size(np.diff(floats)), *recurring]), ())]
    counts = None if len(active) == len(own) else np.zeros(len(own), np.bool_)
    if counts is not None:
        counts[active] = True
        floats = own.astype(np.float64)
    for j, keys in known.items():
        order = np.argsort(keys, kind="stable") if sorted_by is None else sorted_by(j)
        if counts is not None:
            order = order[counts[order]]
        if (order[1:] > order[:-1]).all():
            continue  # as they are
        size = _size(np.diff(floats[order])) + WORTH_SORTING
        if all(size != other for other, _ in found):  # another name of the same key
            found.append((size, (j,)))
    found.sort(key=lambda f: (f[0], len(f[1])))
    return [keys for size, keys in found[:MOST_ORDERS] if size < plain + UNRELATED]


def _size(x: NDArray[np.floating[Any]]) -> float:
    return float(np.log2(1 + np.abs(x)).mean())


def lagged_copies(others: Mapping[int, Spectrum | None], own: Spectrum | None) -> dict[int, int]:
    """Of columns, by their spectra, the lag at which their steps are most like a column's, where that is not near by; the best first.

    Feature tables hold what they are to predict a week later, and sums of the days before.
    """
    if own is None:
        return {}
    found: list[tuple[float, int, int]] = []
    for j, steps in others.items():
        if steps is None:
            continue
        alike = np.fft.irfft(own * np.conj(steps))
        alike = np.abs(np.concatenate([alike[-MOST_LEAD + 1 :], alike[:MOST_LAG]]))  # the step behind it is read, too
        lag = int(alike.argmax()) - (MOST_LEAD - 1)
        strength = float(alike[lag + MOST_LEAD - 1])
        if strength > ALIKE and not -1 <= lag <= 2:
            found.append((-strength, j, lag))
    return {j: lag for _, j, lag in sorted(found)}


def spectrum(values: Ints) -> Spectrum | None:
    """Of the steps of the first of (n_rows,) values, bounded and of norm one; None where there are few rows, or no steps."""
    steps = np.diff(values[:COPY_ROWS].astype(np.float64))
    if len(steps) < 4 * MOST_LAG:
        return None
    steps = np.clip(steps, *np.quantile(steps, [0.01, 0.99]))
    steps -= steps.mean()
    norm = float(np.sqrt(np.square(steps).sum()))
    return np.fft.rfft(steps / norm, _quick(len(steps) + MOST_LAG)) if norm > 0 else None


def _quick(n: int) -> int:
    """The least even number from n on without large prime factors: transforms of others take several times as long."""
    found = 2 << (n - 1).bit_length()
    for odd in (1, 3, 5, 9, 15, 25, 27, 45, 75, 81, 125):
        found = min(found, 2 * odd << max(0, -(-n // (2 * odd)) - 1).bit_length())
    return found


def forward_terms(
    lanes: Lanes, own: Ints, others: Mapping[int, Ints], n_total: int, copies: Mapping[int, tuple[int, Ints]] | None = None,
    effort: Effort = FULL, looks_far: bool = False,
) -> tuple[tuple[Term, ...], int]:
    """Terms and bias (units of 2^-16) of the prediction of a column from rows before it.

    own    : (n_rows,) the column      others : column -> (n_rows,) numeric columns that may tell, those that tell most first
    copies : column -> a lag at which it may tell, and its (n_rows,) values      looks_far : by rows a week before, too
    Least absolute deviations by reweighting; a term stays if it saves over all n_total rows what it takes in the plan.
    """
    seasons = seasons_of(own[lanes.sorted_rows], looks_far)
    names = [(f"lag{k}", -1) for k in OWN_LAGS] + [(kind, j) for j in list(others)[: effort.others] for kind in OTHER_KINDS]
    names += [(f"lag{k}", -1) for season in seasons for k in range(season - 1, season + 3)]
    copies = copies or {}
    names += [(kind_of(lag + k), j) for j, (lag, _) in copies.items() for k in range(2)]
    n_in_order = len(names)
    known = {**others, **{j: values for j, (_, values) in copies.items()}, -1: own}
    # levels and steps, not lags: what a walk does from row to row is small beside where it is, and a step is one term
    basis = _levels_and_steps(len(names), len(seasons), len(copies))
    if lanes.has_above:
        names += [(kind_beside(k), -1) for k in BESIDE] + [("above", j) for j in list(others)[: effort.others]]
        basis = _with_above(basis, names, n_in_order)
    units = np.eye(basis.shape[1])
    steps = [units[k] for k in (STEP, *(k for k, (kind, j) in enumerate(names) if kind == "lag1" and j >= 0))]
    terms, bias, _ = solved(lanes, names, basis, known, n_total, steps, effort.lag_rows)
    return terms, bias


def solved(
    lanes: Lanes, names: Sequence[tuple[str, int]], basis: Floats, known: Mapping[int, Ints], n_total: int, steps: Sequence[Floats] = (),
    n_rows: int = FULL.lag_rows,
) -> tuple[tuple[Term, ...], int, float]:
    """Terms and bias of the prediction of how far a column is from the row before, which is the first of the names, and about how many
    bits what it leaves takes a row.

    names : kind and column of what is read      basis : (n_names, k) what each variable of the fit is in these
    known : column -> (n_rows,) values, -1 the column itself      steps : (k,) weights that may be near what tells most rows
    n_rows : that are fitted to, at most
    """
    n = len(lanes.rows)
    picked = np.linspace(0, n - 1, min(n, n_rows)).astype(np.int64)
    columns = np.stack([known[j][_read(lanes, picked, kind)] for kind, j in names], axis=1)
    target = known[-1][lanes.rows_before(picked, 0)]
    center = np.median(columns, axis=0).astype(np.int64)
    with np.errstate(over="ignore"):
        design = ((columns - center) @ basis).astype(np.float64)
        step = (target - columns[:, 0]).astype(np.float64)
    design = np.concatenate([design, np.ones((len(target), 1))], axis=1)
    weights = fitted(design, step, n_total, steps)
    rounded = short(design, step, weights, 1 << SHIFT)
    weights[:-1] = rounded / (1 << SHIFT)
    units = basis @ rounded
    bias = float(weights[-1]) * (1 << SHIFT) - float(units @ center.astype(np.float64))
    units[0] += 1 << SHIFT
    sums: dict[tuple[str, int], int] = {}
    for name, w in zip(names, units, strict=True):  # a lag of a season or a copy may be one of the others
        sums[name] = sums.get(name, 0) + int(w)
    terms = tuple(Term(kind, j, w) for (kind, j), w in sums.items() if w)
    if (np.abs(units) >= 1 << 40).any() or not abs(bias) < 1 << 60:
        return (), 0, math.inf
    return terms, round(bias), logarithm(step - design @ weights)


def _levels_and_steps(n: int, n_seasons: int, n_copies: int) -> Floats:
    """(n, n) what each variable of a fit is in lags: of the column itself, then of each other, the first as it is, then the
    difference of each from the one before; of each season the first as a difference from the row before."""
    basis = np.eye(n)
    copied = n - 2 * n_copies
    last = copied - 4 * n_seasons
    firsts = {0, *range(len(OWN_LAGS), last, len(OTHER_KINDS)), *range(last, copied, 4), *range(copied, n, 2)}
    for k in range(n):
        if k not in firsts:
            basis[k - 1, k], basis[k, k] = 1.0, -1.0
    return np.delete(basis, np.arange(last, copied, 4), axis=1)


def _with_above(basis: Floats, names: Sequence[tuple[str, int]], n_in_order: int) -> Floats:
    """The same with variables of rows above, whose names are behind n_in_order others: how far the row above is from the row before, the
    rows beside it from one another, and of other columns how far the row is from the one above."""
    found = np.zeros((len(names), basis.shape[1] + len(names) - n_in_order))
    found[: basis.shape[0], : basis.shape[1]] = basis
    place = {name: k for k, name in enumerate(names)}
    nearer = {0: "lag1", -1: "above", 1: "above", 2: "above+1"}
    for k in range(n_in_order, len(names)):
        (kind, j), variable = names[k], basis.shape[1] + k - n_in_order
        of = (nearer[beside_of(kind) or 0], -1) if j < 0 else ("at", j)
        found[k, variable], found[place[of], variable] = 1.0, -1.0
    return found


def _read(lanes: Lanes, picked: Ints, kind: str) -> Ints:
    """(k,) numbers of the rows that a term reads, of rows that `picked` counts in coding order."""
    beside = beside_of(kind)
    return lanes.rows_before(picked, lag_of(kind) or 0) if beside is None else lanes.rows_above(picked, beside)


def seasons_of(values: Ints, looks_far: bool = False) -> list[int]:
    """Numbers of rows after which the steps of (n,) values recur: peaks of their autocorrelation, the highest, and where they recur
    twice as late the doubles of those. looks_far: and the sevenfold, where they recur more then than a day before, weeks of days, and a
    later peak that is higher than all of these."""
    steps = np.diff(values.astype(np.float64))
    if len(steps) < 4 * MOST_LAG:
        return []
    low, high = np.quantile(steps, [0.02, 0.98])
    steps = np.clip(steps, low, high)
    steps -= steps.mean()
    most = WEEK * MOST_LAG if looks_far and len(steps) >= 4 * WEEK * MOST_LAG else MOST_LAG
    power = np.square(np.abs(np.fft.rfft(steps, _quick(len(steps) + most))))  # what wraps around is of lags that nobody asks for
    found = np.fft.irfft(power)[: most - 1]
    found = found / max(float(found[0]), 1e-300)
    inner = found[1:-1]
    high = np.flatnonzero((inner > RECURRENT) & (inner >= found[:-2]) & (inner >= found[2:])) + 1
    peaks = {k for k in high.tolist() if k >= SHORTEST_SEASON}
    highest = sorted((k for k in sorted(peaks) if k < MOST_LAG - 2), key=lambda k: -found[k])[:SEASONS]
    weeks = [WEEK * k for k in highest if WEEK * k in peaks and found[WEEK * k] > found[(WEEK - 1) * k]]
    far = max((k for k in peaks if k >= MOST_LAG - 2), key=lambda k: float(found[k]), default=0)
    if far and all(found[far] > found[k] for k in highest):
        weeks.append(far)
    return list(dict.fromkeys([*highest, *(2 * k for k in highest if 2 * k in peaks and 2 * k < MOST_LAG - 2), *weeks]))
