"""Finding, on a sample, how a column is told by the rows before it: the order they are in, and the lags that predict it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.forward import Lanes
from vae_core.exact.linear import LAGS, SHIFT, Term

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
OWN_LAGS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
OTHER_KINDS = ("at", "lag1", "lag2", "lead1")
MOST_OTHERS = 10  # columns that may tell
FIT_ROWS = 8_000
MOST_TERMS = 20
TERM_BITS = 40.0  # what a term takes in the stored plan, with a margin
WORTH_SORTING = 0.15  # bits a row
UNRELATED = 0.35  # bits by which steps may be dearer than values: those of independent normal values are dearer by a half
MOST_ORDERS = 2


def sort_orders(known: Mapping[int, Ints], own: Ints, active: Ints) -> list[tuple[int, ...]]:
    """Keys of orders of the rows in which steps tell much of a column, the best first; () is the rows as they are.

    known : column -> (n_rows,) of columns that may be sorted by      own : (n_rows,) the column      active : (n,) rows that count
    """
    if len(active) < 64:
        return []
    values = own[active]
    plain = _size(values - float(np.median(values)))
    found = [(_size(np.diff(values.astype(np.float64))), ())]
    for j, other in known.items():
        key = other[active]
        if (np.diff(key) >= 0).all():
            continue
        steps = np.diff(values[np.argsort(key, kind="stable")].astype(np.float64))
        found.append((_size(steps) + WORTH_SORTING, (j,)))
    found.sort(key=lambda f: (f[0], len(f[1])))
    return [keys for size, keys in found[:MOST_ORDERS] if size < plain + UNRELATED]


def _size(x: Floats) -> float:
    return float(np.log2(1 + np.abs(x)).mean())


def forward_terms(lanes: Lanes, own: Ints, others: Mapping[int, Ints], n_total: int) -> tuple[tuple[Term, ...], int]:
    """Terms and bias (units of 2^-16) of the prediction of a column from rows before it.

    own    : (n_rows,) the column      others : column -> (n_rows,) numeric columns that may tell, those that tell most first
    Least absolute deviations by reweighting; a term stays if it saves over all n_total rows what it takes in the plan.
    """
    candidates = [(f"lag{k}", -1) for k in OWN_LAGS]
    candidates += [(kind, j) for j in list(others)[:MOST_OTHERS] for kind in OTHER_KINDS]
    n = len(lanes.rows)
    picked = np.linspace(0, n - 1, min(n, FIT_ROWS)).astype(np.int64)
    columns = [lanes.shifted(own if j < 0 else others[j], LAGS[kind])[picked].astype(np.float64) for kind, j in candidates]
    target = own[lanes.rows][picked].astype(np.float64)
    center = np.array([float(np.median(x)) for x in columns])
    design = np.stack([*columns, np.ones(len(target))], axis=1)
    design[:, :-1] -= center
    middle = float(np.median(target))
    weights = _fitted(design, target - middle, n_total)
    kept = [(kind, j, round(float(w) * (1 << SHIFT))) for (kind, j), w in zip(candidates, weights, strict=False)]
    bias = middle + float(weights[-1]) - sum(w / (1 << SHIFT) * c for (_, _, w), c in zip(kept, center, strict=True))
    terms = tuple(Term(kind, j, w) for kind, j, w in kept if w)
    if any(abs(t.weight) >= 1 << 40 for t in terms) or not abs(bias) < 1 << 44:
        return (), round(middle) << SHIFT if abs(middle) < 1 << 44 else 0
    return terms, round(bias * (1 << SHIFT))


def _fitted(design: Floats, target: Floats, n_total: int) -> Floats:
    """(k,) weights of (n, k) columns, the last one the bias; 0 for those that do not pay."""
    size = np.abs(design).max(axis=0)
    used = size > 0
    scaled = design / np.where(used, size, 1.0)
    weights = np.zeros(design.shape[1])
    absolute = np.ones(len(target))
    for _ in range(3):
        for _ in range(4):
            part = scaled[:, used]
            gram = (part * absolute[:, None]).T @ part
            gram[np.diag_indices_from(gram)] += 1e-9 * absolute.sum()
            found = np.linalg.solve(gram, (part * absolute[:, None]).T @ target)
            absolute = 1 / np.maximum(np.abs(target - part @ found), 0.5)
        squares = float((absolute * np.square(target - part @ found)).sum()) + 1e-12
        kept = _paying(gram, found, squares, len(target), n_total)
        weights[:] = 0
        weights[used] = found
        if kept.all():
            break
        used[np.flatnonzero(used)[~kept]] = False
    weights[~used] = 0
    return weights / np.where(size > 0, size, 1.0)


def _paying(gram: Floats, weights: Floats, squares: float, n: int, n_total: int) -> NDArray[np.bool_]:
    """Which of the terms, the bias (last) always, are worth their place: backward elimination on the normal equations."""
    kept = np.ones(len(weights), bool)
    inverse, w = np.linalg.inv(gram), weights.copy()
    while kept[:-1].any():
        # by what leaving one out adds to the squares
        rise = np.where(kept, np.square(w) / np.maximum(np.diag(inverse), 1e-300), np.inf)
        rise[-1] = np.inf
        least = int(rise.argmin())
        bits = 0.5 * n_total * np.log2(1 + rise[least] / squares)
        if bits > TERM_BITS and int(kept.sum()) - 1 <= MOST_TERMS:
            break
        column = inverse[:, least].copy()
        w = w - column * (w[least] / column[least])
        inverse = inverse - np.outer(column, column) / column[least]
        inverse[least, least] = 1.0
        kept[least] = False
        w[least] = 0.0
        squares += float(rise[least])
    return kept

