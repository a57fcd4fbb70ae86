"""Several predictions of a cell mixed: each weighs by how far off it was in the cells around (before, above, and beside that).

One linear prediction bends to no edge. Beside it stand simple ones, from two or three cells each and from what a plane decoded before
does there, and which of them tell a cell is told by the cells around it. JPEG XL's self-correcting predictor is of this kind.

    d_k  how far prediction k is from the linear one (d_0 = 0), in units of 2^(unit - 16) of a code       e_k  how far off it was, likewise
    E_k  4 + the sum of e_k over the cells around         s_k  8 floor(log2 E_k) and the three bits of E_k after its first, as a number
    w_k  floor(16 (16 - p mod 8) / 2^floor(p / 8)) of p = min(127, power (s_k - least s))                 mixed  sum(w_k d_k) / sum(w_k)

All are integers between bounds: what is far off is clipped or wraps, alike on both sides. kernel.c gives the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.features import NOISE_LEVELS, noise_level
from vae_core.exact.linear import MOST_MIXED, SHIFT, Mixed

Ints = NDArray[np.int64]
ROUND = 1 << (SHIFT - 1)
MOST_APART = 1 << 17
MOST_OFF = (1 << 16) - 1
FULL = 256
INVERSE_BITS = 24
SOFTENED = 4  # added to sums of errors: none weighs all
# of each eighth of an octave: a straight line between halves; the last ones are 0
WEIGHTS: NDArray[np.int64] = np.array([(FULL - FULL // 16 * (place & 7)) >> (place >> 3) for place in range(128)])
INVERSES: NDArray[np.int32] = np.array([0, *((1 << INVERSE_BITS) // n for n in range(1, FULL * (MOST_MIXED + 1) + 1))], np.int32)


class Mixer:
    """The mix step by step: what it knows of each lane, as far back as it looks."""

    def __init__(self, mixed: Mixed, n_steps: int, n_lanes: int, references: NDArray[np.int32]) -> None:
        """references: (n_references, n) what they say of each row, in coding order, in units of the mix."""
        self._mixed, self._references = mixed, references
        self._lags = [np.array([lag for lag, _ in one.terms]) for one in mixed.others]
        self._quarters = [np.array([[quarters] for _, quarters in one.terms]) for one in mixed.others]
        self._n_kept = min(max(mixed.reach, *mixed.around) + 1, max(1, n_steps))
        # of steps: how the references were wrong, the first of which is nothing; and how the linear prediction was, the others, all mixed
        self._past = np.zeros((self._n_kept, len(references) + 1, n_lanes), np.int32)
        self._errors = np.zeros((self._n_kept, len(mixed.others) + 2, n_lanes), np.int32)
        self._rows, self._whole = slice(0, 0), np.zeros(0, np.int64)
        self._off = np.zeros((len(mixed.others) + 2, 0), np.int64)

    def mix(self, step: int, rows: slice, base: Ints, lanes: slice | Ints) -> tuple[Ints, Ints, Ints]:
        """(n,) sums of the mixed prediction of a step's rows from (n,) ones of the linear, and levels of how far apart the predictions are
        and of how far off the mixed one was around. rows: of the step, in coding order."""
        mixed, n = self._mixed, len(base)
        self._rows, self._off = rows, np.zeros((len(mixed.others) + 2, n), np.int64)
        with np.errstate(over="ignore"):
            self._whole = whole = _wrapped((base - ROUND) >> mixed.unit)
        if step == 0:
            nothing = np.full(n, NOISE_LEVELS - 1, np.int64)
            return base, nothing, nothing
        apart = self._off[:-1]
        for k, one in enumerate(mixed.others):
            kept = np.maximum(step - self._lags[k], 0) % self._n_kept
            total = (self._past[kept, one.reference][:, lanes] * self._quarters[k]).sum(axis=0)
            start = -whole if one.reference == 0 else self._references[one.reference - 1, rows] - whole
            apart[1 + k] = _wrapped(total + 4 * _wrapped(start)) >> 2
        np.clip(apart, -MOST_APART, MOST_APART, out=apart)
        kept = [max(step - lag, 0) % self._n_kept for lag in mixed.around]
        around = self._errors.take(kept, axis=0)[:, :, lanes].sum(axis=0, dtype=np.int64)
        size = (around[:-1] + SOFTENED).astype(np.float64).view(np.int64) >> 49  # the exponent, and three bits after the first
        weights = WEIGHTS.take(np.minimum((size - size.min(axis=0)) * mixed.power, len(WEIGHTS) - 1))
        middle = ((weights * apart).sum(axis=0) * INVERSES.take(weights.sum(axis=0)) + (1 << (INVERSE_BITS - 1))) >> INVERSE_BITS
        self._off[-1] = middle
        spread = apart.max(axis=0) - apart.min(axis=0)
        with np.errstate(over="ignore"):
            return base + (middle << mixed.unit), noise_level(spread << (mixed.unit - 8)), noise_level(around[-1] << (mixed.unit - 10))

    def learn(self, step: int, values: Ints, lanes: slice | Ints) -> None:
        """(n,) values of the rows of a step, now known."""
        kept, unit = step % self._n_kept, self._mixed.unit
        if step and not isinstance(lanes, slice):  # as the values of cells that have none
            before = (step - 1) % self._n_kept
            self._past[kept], self._errors[kept] = self._past[before], self._errors[before]
        with np.errstate(over="ignore"):
            exact = _wrapped((values << SHIFT) >> unit)
        self._past[kept, 0, lanes] = exact
        for k, reference in enumerate(self._references):
            self._past[kept, 1 + k, lanes] = _wrapped(exact - reference[self._rows])
        if step:
            truth = np.clip(_wrapped(exact - self._whole), -2 * MOST_APART, 2 * MOST_APART)
            self._errors[kept][:, lanes] = np.minimum(np.abs(truth - self._off), MOST_OFF)


def _wrapped(x: Ints) -> Ints:
    """(n,) int64 as int32 that wrap, as int64."""
    return x.astype(np.int32).astype(np.int64)
