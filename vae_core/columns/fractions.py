"""Sorted levels that are fractions of small whole numbers: shares, rates, means of a few (FORMAT.md, "Transforms").

A mean of ten hours is 0.3, of 66 of them 0.01515152 once it is rounded: eight digits that two small numbers say.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

from vae_core.errors import CorruptArchive
from vae_core.packing import unpco

Floats = NDArray[np.float64]

MOST_LEVELS = 1 << 13
_MOST_DIGITS, _DOWN, _EXACT = 17, 64, 128  # decimals; and 64 where they are cut off; the float that is nearest to the fraction
_MOST_WHOLE = 1 << 31
_LARGEST = 2.0**31
_TRIED, _SMALL = 24, 1 << 12  # levels looked at first, and denominators most of them have to be below
_CONFIG = ChunkConfig(compression_level=12)


def pack_fractions(levels: Floats) -> tuple[bytes, Floats] | None:
    """Most of (n,) distinct float64 as fractions, by whichever way these were made floats, and the levels that are none; None where most
    are none, or there are too many."""
    if not 0 < len(levels) <= MOST_LEVELS or levels.dtype != np.float64 or not np.isfinite(levels).all():
        return None
    size = np.abs(levels)
    if np.signbit(levels[size == 0]).any() or size.max() > _LARGEST or size[size > 0].min(initial=1) < 1 / _LARGEST:
        return None
    values = levels.tolist()
    digits = max(-int(Decimal(repr(v)).as_tuple().exponent) for v in values)
    ways = [_EXACT, *((digits, digits | _DOWN) if 0 < digits <= _MOST_DIGITS else ())]
    found = [packed for how in ways if (packed := _packed(values, how)) is not None]
    return min(found, key=lambda packed: len(packed[0]) + 8 * len(packed[1]), default=None)


def _packed(values: list[float], how: int) -> tuple[bytes, Floats] | None:
    few = [_fraction(v, how) for v in values[:: -(-len(values) // _TRIED)]]
    if sum(q < _SMALL for _, q in few) <= len(few) // 2:
        return None
    small, others = list[tuple[int, int]](), list[float]()
    for value in values:
        p, q = _fraction(value, how)
        if q < _SMALL and abs(p) < _MOST_WHOLE and _value(p, q, how) == value:
            small.append((q, p))
        else:
            others.append(value)
    below, above = (np.array([part[k] for part in sorted(small)], np.int32) for k in range(2))
    first, second = (bytes(standalone.simple_compress(part, _CONFIG)) for part in (below, above))
    head = bytes([how]) + len(small).to_bytes(2, "little") + len(first).to_bytes(4, "little")
    return head + first + second, np.array(others, np.float64)


def unpack_fractions(data: bytes, most: int) -> Floats:
    """The fractions that `pack_fractions` found, at most so many, as floats. Raises CorruptArchive."""
    how, n, end = data[0] if data else 255, int.from_bytes(data[1:3], "little"), 7 + int.from_bytes(data[3:7], "little")
    if not (how == _EXACT or how & ~_DOWN <= _MOST_DIGITS) or not 0 < n <= min(most, MOST_LEVELS) or end > len(data):
        raise CorruptArchive(f"{len(data)} bytes hold no fractions for {most} levels")
    below, above = (unpco(part, np.dtype(np.int32), n) for part in (data[7:end], data[end:]))
    if int(below.min()) < 1:
        raise CorruptArchive("a level is a fraction of nothing")
    return np.array([_value(p, q, how) for p, q in zip(above.tolist(), below.tolist(), strict=True)], np.float64)


def _value(p: int, q: int, how: int) -> float:
    """The float nearest to p / q, or to its decimals: rounded, half to even, or cut off."""
    if how == _EXACT:
        return p / q
    unit = 10 ** (how & ~_DOWN)
    whole, rest = divmod(abs(p) * unit, q)
    if how < _DOWN:
        whole += 2 * rest > q or (2 * rest == q and whole % 2 == 1)
    found: float = (whole if p >= 0 else -whole) / unit
    return found


def _fraction(value: float, how: int) -> tuple[int, int]:
    """(p, q) of the fraction of least denominator that becomes the value, or nearly so: what `pack_fractions` makes sure of."""
    if how == _EXACT:
        p, q = abs(value).as_integer_ratio()
        spacing = float(np.spacing(abs(value))).as_integer_ratio()
        unit = 2 * q * spacing[1]
        low, high = 2 * p * spacing[1] - q * spacing[0], 2 * p * spacing[1] + q * spacing[0]
    else:
        unit = 10 ** (how & ~_DOWN) << 10
        whole = int(Decimal(repr(abs(value))).scaleb(how & ~_DOWN)) << 10
        low, high = (whole - 1, whole + (1 << 10)) if how & _DOWN else (whole - (1 << 9), whole + (1 << 9))
    p, q = _simplest((max(low, -1), unit), (high, unit))
    return (p if value >= 0 else -p), q


def _simplest(low: tuple[int, int], high: tuple[int, int]) -> tuple[int, int]:
    """The fraction of least denominator strictly between two, by their continued fractions."""
    (a, b), (c, d) = low, high
    terms = list[int]()
    while True:
        floor = a // b
        if (floor + 1) * d < c:  # a whole number is strictly between
            terms.append(floor + 1)
            break
        terms.append(floor)
        a, b, c, d = d, c - floor * d, b, a - floor * b
        if d == 0:  # low was whole: anything above it
            terms.append(a // b + 1)
            break
    p, q = terms[-1], 1
    for term in reversed(terms[:-1]):
        p, q = term * p + q, p
    return p, q
