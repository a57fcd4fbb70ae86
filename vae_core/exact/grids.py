"""Finding, on a sample, how the planes of tensors are told: by the cells before, above and around, and by planes coded before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.lags import seasons_of, solved
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import SHIFT, UNITS, Mixed, Simple, Term, kind_of
from vae_core.exact.tensors import MOST_PLANES, Planes

Ints = NDArray[np.int64]
MOST_WIDTHS = 2
LEAST_PIECE = 16
LONG_ROWS = 4  # times the number of rows
WORTH_READING_FAR = 0.05  # bits a cell
ALONG = (*range(2, 17), 20, 24, 32)  # cells before that tell of a series
POWER = 2
FINE = 12  # the unit of mixes where predictions are off by one or two


def planes_of(shape: Sequence[int]) -> tuple[Planes, tuple[int, ...]]:
    """How the cells of tensors of a shape are split into planes, and after how many cells of a plane the cell above comes: the
    length of a row, and of a matrix. A first or last axis of few is one of colours; of vectors the cell above is of the row before.
    """
    rest, (before, count, after) = tuple(shape), (1, 1, math.prod(shape))
    if len(shape) >= 2 and shape[-1] <= MOST_PLANES and math.prod(shape[:-1]) >= LEAST_PIECE:
        rest, before, count, after = tuple(shape[:-1]), math.prod(shape[:-1]), shape[-1], 1
    elif len(shape) >= 3 and shape[0] <= MOST_PLANES and math.prod(shape[1:]) >= LEAST_PIECE:
        rest, count, after = tuple(shape[1:]), shape[0], math.prod(shape[1:])
    strides = [math.prod(rest[k:]) for k in range(len(rest) - 1, -1, -1)]
    return Planes(before, count, after), tuple(dict.fromkeys(s for s in strides if s > 2))[:MOST_WIDTHS]


def splits_of(shape: Sequence[int]) -> list[tuple[Planes, tuple[int, ...]]]:
    """What `planes_of` says, and where a matrix has few, long rows, that these may be channels of a series."""
    found = [planes_of(shape)]
    if len(shape) == 2 and 1 < shape[0] <= MOST_PLANES and shape[1] >= max(LEAST_PIECE, LONG_ROWS * shape[0]):
        found.append((Planes(1, shape[0], shape[1]), (shape[1],)))
    return found


def terms_of_planes(
    lanes: Lanes, own: Ints, others: Mapping[int, Ints], n_total: int, widths: Sequence[int]
) -> tuple[tuple[Term, ...], int, float]:
    """Terms and bias of the prediction of a plane, (n_rows,) values, from cells around and from planes coded before, `others`, and the
    mean of log2(1 + |residual|), in bits.

    Variables are differences from the cell before, of the plane itself and of each other one: a picture is smooth. What is far is
    read where it tells much, for which lanes have to be long; and so are many cells before, as of a series.
    """
    near = _solved(lanes, own, others, n_total, widths[:1])
    along = _solved(lanes, own, others, n_total, widths[:1], seasons_of(own[lanes.sorted_rows]))
    far = _solved(lanes, own, others, n_total, widths) if len(widths) > 1 else near
    best = min(along, far, key=lambda found: found[2])
    return best if best[2] < near[2] - WORTH_READING_FAR else near


def mixed_of_planes(own: Ints, valid: Ints, others: Mapping[int, Ints], width: int, bits: float) -> Mixed:
    """What to mix the linear prediction of a plane with: few cells around, as they are or as far from planes coded before.

    own : (n_rows,) values        valid : rows that hold one        others : planes coded before        width : rows to the cell above
    bits : the mean of log2(1 + |residual|) of the linear prediction
    """
    # the first of them are what edges and slopes ask for: found one after another on photographs, each the one that then told most
    slope_down, slope = ((width, 6), (2 * width, -2)), ((1, 6), (2, -2))
    corner, beside = ((1, 4), (width - 1, 4), (width, -4)), ((1, 2), (width - 1, 2))
    unit = min(UNITS[1], FINE + max(0, round(bits) - 1))
    simple: tuple[Simple, ...]
    around = (1, 2, 3, *(max(1, width + k) for k in (-2, -1, 0, 1)), 2 * width)
    if not others:
        mean = tuple((lag, 1) for lag in (1, width - 1, width, width + 1))
        turn = ((1, 2), (width, 4), (width + 1, -2))
        simple = tuple(Simple(0, terms) for terms in (slope_down, corner, ((1, 8), (2, -4)), mean, turn))
        return Mixed((), simple, around, unit, POWER)
    told = (beside, ((1, 4), (width, 4), (width + 1, -4)), ((width, 4), (width - 1, 2), (2 * width - 1, -2)), ((1, 8), (2, -4)))
    alone = (slope_down, slope, beside, ((1, 2), (width, 2)), corner)
    simple = *(Simple(1, terms) for terms in told), *(Simple(0, terms) for terms in alone)
    return Mixed((_reference(own, valid, others),), simple, around, unit, POWER)


def _reference(own: Ints, valid: Ints, others: Mapping[int, Ints]) -> tuple[tuple[int, int], ...]:
    """The plane, or the mean of two, whose steps are most like those of (n_rows,) values."""
    steps = np.diff(own[valid].astype(np.float64))
    theirs = {j: np.diff(values[valid].astype(np.float64)) for j, values in others.items()}

    def apart(columns: Sequence[int]) -> float:
        return float(np.log2(1 + np.abs(steps - sum(theirs[j] for j in columns) / len(columns))).mean())

    first, *more = sorted(others, key=lambda j: apart([j]))
    if more and apart([first, more[0]]) < apart([first]):
        return (first, 1 << (SHIFT - 1)), (more[0], 1 << (SHIFT - 1))
    return ((first, 1 << SHIFT),)


def _solved(
    lanes: Lanes, own: Ints, others: Mapping[int, Ints], n_total: int, widths: Sequence[int], seasons: Sequence[int] | None = None
) -> tuple[tuple[Term, ...], int, float]:
    """As `terms_of_planes` says. seasons : of a series, cells after which it recurs: many cells before are read, and those around these"""
    names, columns = [("lag1", -1)], list[dict[int, float]]()

    def read(lag: int, j: int) -> int:
        name = kind_of(lag), j
        if name not in names:
            names.append(name)
        return names.index(name)

    before = [2, *(k for w in widths for k in (w - 1, w, w + 1, w + 2, 2 * w)), *(w - 2 for w in widths[:1] if w > 4)]
    if seasons is not None:
        columns += [{read(later, -1): 1.0, read(lag, -1): -1.0} for later, lag in itertools.pairwise(ALONG)]
        before += [season + k for season in seasons for k in (-1, 0, 1, 2)]
    for lag in before:
        columns.append({read(lag, -1): 1.0, 0: -1.0})
    for j in others:
        columns.append({read(0, j): 1.0, 0: -1.0})
        for lag in (0, *(k for w in widths for k in (w - 1, w, w + 1, -w)), -1, 2):
            columns.append({read(lag, j): 1.0, read(1, j): -1.0})
    basis = np.zeros((len(names), len(columns)))
    for k, column in enumerate(columns):
        for place, weight in column.items():
            basis[place, k] += weight
    return solved(lanes, names, basis, {**others, -1: own}, n_total)
