"""Floats as integer codes: decimals on a lattice, bins, sorted levels, or their bits in order.

A transform sees finite values that are not -0.0 (the rest is state). `forward` says where decoding gives the value back
(lossless), or one within the bound, judged in the column's own arithmetic and in float64 (float32, float16) or exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.columns.integers import level_of, rank_in
from vae_core.columns.physical import Bools, Ints, floats_of_bits, ordered_bits

Floats = NDArray[np.floating[Any]]

_FAR = 2.0**62
_TILE = 1 << 15


def within(decoded: Floats, values: Floats, bound: float) -> Bools:
    """(n,) bool: |decoded - value| <= bound in the dtype's own arithmetic and in exact arithmetic. Finite inputs."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(decoded - values)
        if values.dtype.itemsize < 8:
            wide = np.abs(decoded.astype(np.float64) - values.astype(np.float64))
            fits: Bools = (error.astype(np.float64) <= bound) & (wide < bound)
        else:
            fits = error < bound
        edge = np.flatnonzero(error.astype(np.float64) == bound)
        if len(edge):
            exact = np.abs(decoded[edge].astype(np.longdouble) - values[edge].astype(np.longdouble))
            fits[edge] = exact <= np.longdouble(bound)
    return fits


@dataclass(frozen=True, slots=True)
class DecimalLattice:
    """v = (offset + step * i) / 10^digits, correctly rounded; a code is `group` neighbouring points.

    single : the values are float32 numbers kept in a float64 column
    bound  : 0 lossless, None unchecked, else the largest error in the column's units
    """

    dtype: str
    digits: int
    offset: int
    step: int
    group: int = 1
    single: bool = False
    bound: float | None = 0.0

    def forward(self, v: Floats) -> tuple[Ints, Bools | None]:
        """(n,) finite floats -> (n,) codes and where they fit (None: everywhere)."""
        return _tiled(self._forward, v)

    def _forward(self, v: Floats) -> tuple[Ints, Bools | None]:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = v.astype(np.float64, copy=False)
            if self.digits:
                scaled = scaled * np.float64(10.0**self.digits)
            scaled = np.rint(scaled)
            far = np.abs(scaled) >= _FAR
            any_far = bool(far.any())
            if any_far:
                scaled = np.where(far, 0.0, scaled)
            codes = scaled.astype(np.int64)
            if self.offset:
                codes -= np.int64(self.offset)
            if self.step * self.group != 1:
                codes //= np.int64(self.step * self.group)
            if self.bound is None:
                return codes, ~far if any_far else None
            decoded = self.inverse(codes)
            fits = decoded == v if self.bound == 0 else within(decoded, v, self.bound)
            if any_far:
                fits &= ~far
        return codes, None if bool(fits.all()) else fits

    def inverse(self, codes: Ints) -> Floats:
        """(n,) codes -> (n,) floats of the dtype; total on int64."""
        width = self.step * self.group
        middle = (self.group - 1) * self.step
        halves = 1 if middle % 2 == 0 else 2
        points = codes
        if halves * width != 1:
            points = points * np.int64(halves * width)
        base = halves * self.offset + (middle * halves) // 2
        if base:
            points = points + np.int64(base)
        wide = points.astype(np.float64)
        divisor = np.float64(halves) * np.float64(10.0**self.digits)
        if divisor != 1:
            wide /= divisor
        if self.single:
            wide = wide.astype(np.float32)
        with np.errstate(over="ignore"):
            return wide.astype(self.dtype, copy=False)

    def to_json(self) -> dict[str, object]:
        """Small JSON; `transform_from_json` is the inverse."""
        return {
            "t": "decimal", "f": self.dtype, "k": self.digits, "o": self.offset, "s": self.step, "g": self.group,
            "w": self.single, "b": self.bound,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of `width` centred on its multiples: code = rint(v / width), decoded = code * width.

    bound : the largest error in the column's units, None when nothing is checked (distortion kinds)
    """

    dtype: str
    width: float
    bound: float | None

    def forward(self, v: Floats) -> tuple[Ints, Bools | None]:
        """(n,) finite floats -> (n,) codes and where they fit (None: everywhere)."""
        return _tiled(self._forward, v)

    def _forward(self, v: Floats) -> tuple[Ints, Bools | None]:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.rint(v.astype(np.float64, copy=False) / np.float64(self.width))
            far = ~(np.abs(scaled) < _FAR)
            any_far = bool(far.any())
            if any_far:
                scaled = np.where(far, 0.0, scaled)
            codes = scaled.astype(np.int64)
            if self.bound is None:
                return codes, ~far if any_far else None
            fits = within(self.inverse(codes), v, self.bound)
            if any_far:
                fits &= ~far
        return codes, None if bool(fits.all()) else fits

    def inverse(self, codes: Ints) -> Floats:
        """(n,) codes -> (n,) floats of the dtype; total on int64."""
        with np.errstate(over="ignore"):
            return (codes * np.float64(self.width)).astype(self.dtype, copy=False)

    def to_json(self) -> dict[str, object]:
        """Small JSON; `transform_from_json` is the inverse."""
        return {"t": "bins", "f": self.dtype, "w": self.width, "b": self.bound}


@dataclass(frozen=True, slots=True, eq=False)
class FloatLevels:
    """Few distinct floats: the code is the place in `levels`, (n_levels,) finite floats that all differ; ascending, but for tensors whose
    planes have levels of their own (`tensor_fitting.levels_by_plane`)."""

    levels: Floats

    def forward(self, v: Floats) -> tuple[Ints, Bools | None]:
        """(n,) finite floats -> (n,) codes and where v is one of the levels (None: everywhere)."""
        bits = f"i{self.levels.dtype.itemsize}"
        return rank_in(np.ascontiguousarray(v).view(bits), self.levels.view(bits))

    def inverse(self, codes: Ints) -> Floats:
        """(n,) codes -> (n,) floats; raises CorruptArchive beyond the levels."""
        return level_of(codes, self.levels)

    def to_json(self) -> dict[str, object]:
        """Small JSON; the levels travel as a blob."""
        return {"t": "flevels", "f": self.levels.dtype.str, "n": len(self.levels)}


@dataclass(frozen=True, slots=True)
class OrderedBits:
    """The bits of a float as an integer of the same order: lossless for everything, a poor thing to regress on.

    single : the values are float32 numbers kept in a float64 column, coded by their 32 bits
    """

    dtype: str
    single: bool = False

    def forward(self, v: Floats) -> tuple[Ints, Bools | None]:
        """(n,) floats -> (n,) codes and where they fit (None: everywhere)."""
        if not self.single:
            return ordered_bits(v), None
        with np.errstate(over="ignore"):
            narrow = v.astype(np.float32)
        fits = narrow == v
        return ordered_bits(narrow), None if bool(fits.all()) else fits

    def inverse(self, codes: Ints) -> Floats:
        """(n,) codes -> (n,) floats; total on int64 (higher bits are dropped)."""
        return floats_of_bits(codes, np.dtype(np.float32 if self.single else self.dtype)).astype(self.dtype, copy=False)

    def to_json(self) -> dict[str, object]:
        """Small JSON; `transform_from_json` is the inverse."""
        return {"t": "bits", "f": self.dtype, "w": self.single}


def _tiled(forward: Any, v: Floats) -> tuple[Ints, Bools | None]:
    """Run `forward` over tiles that stay in the cache."""
    n = len(v)
    if n <= 2 * _TILE:
        result: tuple[Ints, Bools | None] = forward(v)
        return result
    codes = np.empty(n, np.int64)
    fits: Bools | None = None
    for start in range(0, n, _TILE):
        stop = min(n, start + _TILE)
        codes[start:stop], tile_fits = forward(v[start:stop])
        if tile_fits is not None:
            if fits is None:
                fits = np.ones(n, np.bool_)
            fits[start:stop] = tile_fits
    return codes, fits
