"""Finding, on a sample, how the planes of tensors are told: by the cells before, above and around, and by planes coded before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.forward import Lanes
from vae_core.exact.lags import solved
from vae_core.exact.linear import Term, kind_of
from vae_core.exact.tensors import MOST_PLANES, Planes

Ints = NDArray[np.int64]
MOST_WIDTHS = 2
LEAST_PIECE = 16
WORTH_READING_FAR = 0.05  # bits a cell


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


def terms_of_planes(
    lanes: Lanes, own: Ints, others: Mapping[int, Ints], n_total: int, widths: Sequence[int]
) -> tuple[tuple[Term, ...], int]:
    """Terms and bias of the prediction of a plane, (n_rows,) values, from cells around and from planes coded before, `others`.

    Variables are differences from the cell before, of the plane itself and of each other one: a picture is smooth. What is far is
    read where it tells much: lanes have to be long for that.
    """
    near = _solved(lanes, own, others, n_total, widths[:1])
    far = _solved(lanes, own, others, n_total, widths) if len(widths) > 1 else near
    terms, bias, _ = far if far[2] < near[2] - WORTH_READING_FAR else near
    return terms, bias


def _solved(
    lanes: Lanes, own: Ints, others: Mapping[int, Ints], n_total: int, widths: Sequence[int]
) -> tuple[tuple[Term, ...], int, float]:
    names, columns = [("lag1", -1)], list[dict[int, float]]()

    def read(lag: int, j: int) -> int:
        name = kind_of(lag), j
        if name not in names:
            names.append(name)
        return names.index(name)

    before = [2, *(k for w in widths for k in (w - 1, w, w + 1, w + 2, 2 * w)), *(w - 2 for w in widths[:1] if w > 4)]
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
