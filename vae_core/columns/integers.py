"""Integers, bools, dates, times and short decimals as integer codes: a lattice, or a sorted list of levels.

All arithmetic is int64 modulo 2^64, so that every int64 and uint64 has a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core.arrays import from_numpy, scalar, to_numpy
from vae_core.columns.physical import Bools, Ints
from vae_core.errors import CorruptArchive

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class IntegerLattice:
    """x = offset + step * i; a code is a group of `group` neighbouring points and decodes to the middle one.

    bound    : largest |decoded - x| allowed, in stored units; None when only wrapping is checked (distortion kinds)
    unsigned : x are uint64 seen as int64
    """

    offset: int
    step: int
    group: int = 1
    bound: int | None = 0
    unsigned: bool = False

    @property
    def width(self) -> int:
        """Stored units a code covers."""
        return self.step * self.group

    def forward(self, x: Ints) -> tuple[Ints, Bools | None]:
        """(n,) int64 -> (n,) codes and where they decode within the bound (None: everywhere)."""
        if self.width == 1:
            return (x if self.offset == 0 else x - _wrapped(self.offset)), None
        d = x if self.offset == 0 else x - _wrapped(self.offset)
        codes = d // np.int64(self.width)
        if self.bound == 0:
            fits = codes * np.int64(self.width) == d
        else:
            decoded = self.inverse(codes)
            error = decoded - x
            above = decoded.view(np.uint64) >= x.view(np.uint64) if self.unsigned else decoded >= x
            fits = above == (error >= 0)  # else the middle of the code lies beyond the type and wraps round
            if self.bound is not None:
                fits &= (np.abs(error) <= np.int64(min(self.bound, 2**63 - 1))) & (error != np.iinfo(np.int64).min)
        return codes, None if bool(fits.all()) else fits

    def inverse(self, codes: Ints) -> Ints:
        """(n,) codes -> (n,) int64 (wrapped); total on int64."""
        base = self.offset + ((self.group - 1) * self.step) // 2
        if self.width == 1:
            return codes if base == 0 else codes + _wrapped(base)
        return codes * np.int64(self.width) + _wrapped(base)

    def to_json(self) -> dict[str, object]:
        """Small JSON; `transform_from_json` is the inverse."""
        data: dict[str, object] = {"t": "lattice", "o": self.offset, "s": self.step, "g": self.group, "b": self.bound}
        return {**data, "u": True} if self.unsigned else data


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLevels:
    """Few integers over a wide range: the code is the rank in `levels`, (n_levels,) int64 strictly increasing."""

    levels: NDArray[np.int64]

    def forward(self, x: Ints) -> tuple[Ints, Bools | None]:
        """(n,) int64 -> (n,) codes and where x is one of the levels (None: everywhere)."""
        return rank_in(x, self.levels)

    def inverse(self, codes: Ints) -> Ints:
        """(n,) codes -> (n,) int64; raises CorruptArchive beyond the levels."""
        return level_of(codes, self.levels)

    def to_json(self) -> dict[str, object]:
        """Small JSON; the levels travel as a blob."""
        return {"t": "ilevels", "n": len(self.levels)}


def _wrapped(value: int) -> np.int64:
    return np.int64((value + 2**63) % 2**64 - 2**63)


def rank_in(values: NDArray[np.signedinteger], levels: NDArray[np.signedinteger]) -> tuple[Ints, Bools | None]:
    """(n,) integers -> (n,) int64 position in levels (-1 where absent) and where present (None: everywhere)."""
    found = pc.index_in(from_numpy(values), value_set=from_numpy(levels))
    if found.null_count == 0:
        return to_numpy(found).astype(np.int64), None
    fits = to_numpy(found.is_valid())
    codes = to_numpy(pc.fill_null(found, scalar(-1, found.type))).astype(np.int64)
    return codes, fits


def level_of(codes: Ints, levels: NDArray[T]) -> NDArray[T]:
    """(n,) codes -> (n,) levels; raises CorruptArchive for a code that is no position in levels."""
    check_codes(codes, len(levels))
    return levels[codes]


def check_codes(codes: Ints, n_levels: int) -> None:
    """Raise CorruptArchive unless 0 <= code < n_levels everywhere."""
    if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= n_levels):
        raise CorruptArchive(f"a code is outside its dictionary of {n_levels} values")
