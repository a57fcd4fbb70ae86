"""A column's integers as digits of small alphabets, each digit a symbol for the coder.

`Direct`   value - lo is one symbol, or a high and a low digit when the range is wide.
`Residual` value - prediction is a sign-and-magnitude token (Elias-gamma classes with one mantissa bit), then its low bits.

Any int64 can be coded: what lies outside the alphabet takes the escape symbol and 64 raw bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive

Ints = NDArray[np.int64]
AnySymbols = NDArray[np.int64] | NDArray[np.uint16]
MAX_SYMBOLS = 256
LOW_BITS = 5


@dataclass(frozen=True, slots=True)
class Direct:
    """Symbols of value - lo in [0, span). sizes: alphabet of each digit; the first one holds the escape symbol, its last."""

    lo: int
    span: int
    shift: int

    @classmethod
    def over(cls, lo: int, hi: int) -> Direct:
        """The digits of integers lo..hi. Raises ValueError when they need more than two digits."""
        span = hi - lo + 1
        bits = max(0, span - 1).bit_length()
        shift = 0 if span < MAX_SYMBOLS else min(8, max(bits - 7, bits // 2))
        if bits > 16:
            raise ValueError(f"span {span} is too wide for two digits")
        return cls(lo, span, shift)

    @property
    def sizes(self) -> tuple[int, ...]:
        high = ((self.span - 1) >> self.shift) + 2
        return (high,) if self.shift == 0 else (high, 1 << self.shift)

    @property
    def escape(self) -> int:
        return self.sizes[0] - 1

    def split(self, values: Ints, prediction: Ints | None) -> tuple[list[Ints], Ints, Ints]:
        """Digits of (n,) values; then the number of raw bits and the raw value of each row."""
        offset = values - np.int64(self.lo)
        inside = (offset >= 0) & (offset < self.span) & (values >= self.lo)
        safe = np.where(inside, offset, 0)
        digits = [np.where(inside, safe >> self.shift, self.escape)]
        if self.shift:
            digits.append(safe & ((1 << self.shift) - 1))
        return digits, np.where(inside, 0, 64), values

    def n_raw(self, digits: Sequence[AnySymbols]) -> Ints:
        """Raw bits that follow the digits of each row."""
        return np.where(digits[0] == self.escape, 64, 0)

    def has_raw(self, digits: Sequence[AnySymbols]) -> bool:
        """Whether raw bits may follow those of any row."""
        return bool((digits[0] == self.escape).any())

    def join(self, digits: Sequence[AnySymbols], raw: Ints | None, prediction: Ints | None) -> Ints:
        """The inverse of split. raw : None where no row has raw bits"""
        found = digits[0].astype(np.int64)
        if self.shift:
            found <<= self.shift
            found |= digits[1]
        found += np.int64(self.lo)
        return found if raw is None else _with_escaped(found, digits[0] == self.escape, raw)

    def to_json(self) -> list[Any]:
        return ["direct", self.lo, self.span, self.shift]


def _bit_length(values: Ints) -> Ints:
    """Bits of non-negative int64, exactly."""
    length = values.astype(np.float64).view(np.int64)  # the exponent of the nearest double
    length >>= 52
    length -= 1022
    np.maximum(length, 0, out=length)
    if len(values) and values.max() >= 1 << 53:  # which may lie beyond the next power of two
        length -= values >> np.maximum(length - 1, 0) == 0
        np.maximum(length, 0, out=length)
    return length


def _with_escaped(found: Ints, escaped: NDArray[np.bool_], raw: Ints) -> Ints:
    """found, in place, with the raw values where the escape symbol stood."""
    if escaped.any():
        np.copyto(found, raw, where=escaped)
    return found


@dataclass(frozen=True, slots=True)
class Residual:
    """Tokens of value - prediction, magnitudes below 2**bits; the token alphabet ends with the escape symbol.

    Magnitudes below 4 are their own class; a larger one of b bits has class 4 + 2 * (b - 3) + (its second bit), with b - 2
    bits to follow, of which the top LOW_BITS are a digit and the rest are raw.
    """

    bits: int

    @property
    def n_classes(self) -> int:
        return 4 + 2 * max(0, self.bits - 2)

    @property
    def sizes(self) -> tuple[int, ...]:
        tokens = 2 * self.n_classes
        return (tokens,) if self.bits <= 2 else (tokens, 1 << min(LOW_BITS, self.bits - 2))

    @property
    def escape(self) -> int:
        return 2 * self.n_classes - 1

    def split(self, values: Ints, prediction: Ints | None) -> tuple[list[Ints], Ints, Ints]:
        assert prediction is not None
        with np.errstate(over="ignore"):
            residual = values - prediction
            magnitude = np.abs(residual)
        inside = (magnitude >= 0) & (magnitude < (1 << self.bits))
        magnitude = np.where(inside, magnitude, 0)
        extra = _bit_length(magnitude)
        extra -= 2
        np.maximum(extra, 0, out=extra)
        kind = np.where(extra == 0, magnitude, 2 * (extra + 1) + ((magnitude >> extra) & 1))
        token = np.where(inside, _signed(kind, residual < 0), self.escape)
        rest = magnitude & ((np.int64(1) << extra) - 1)
        low = np.maximum(extra - LOW_BITS, 0)
        digits = [token]
        if len(self.sizes) > 1:
            digits.append(np.where(inside, rest >> low, 0))
        raw = np.where(inside, rest & ((np.int64(1) << low) - 1), values)
        return digits, np.where(inside, low, 64), raw

    def n_raw(self, digits: Sequence[AnySymbols]) -> Ints:
        return _tokens(self.bits).n_raw.take(digits[0])

    def has_raw(self, digits: Sequence[AnySymbols]) -> bool:
        return bool(digits[0].max(initial=0) >= _tokens(self.bits).least_raw)

    def join(self, digits: Sequence[AnySymbols], raw: Ints | None, prediction: Ints | None) -> Ints:
        assert prediction is not None
        token, tokens = digits[0], _tokens(self.bits)
        found = tokens.signed.take(token if len(digits) < 2 else (token << LOW_BITS) + digits[1])
        if raw is not None and raw.any():
            minus = -(token & 1).astype(np.int64)  # odd tokens are negative: x ^ -1 - -1 is -x
            found += ((raw & tokens.mask.take(token)) ^ minus) - minus
        found += prediction
        return found if raw is None else _with_escaped(found, token == self.escape, raw)

    def to_json(self) -> list[Any]:
        return ["residual", self.bits]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Of every token which of the bits behind it are raw, and how many; of every token and digit behind it, that many times 2**LOW_BITS
    apart, the distance they stand for. The escape has none. Of tokens below `least_raw` none has raw bits."""

    signed: Ints
    mask: Ints
    n_raw: Ints
    least_raw: int


@lru_cache(maxsize=64)
def _tokens(bits: int) -> _Tokens:
    escape = Residual(bits).escape
    token = np.arange(escape + 1)
    kind = np.where(token == escape, 0, (token + 1) >> 1)
    extra = np.where(kind < 4, 0, ((kind - 4) >> 1) + 1)
    low = np.maximum(extra - LOW_BITS, 0)
    n_raw = low.copy()
    n_raw[escape] = 64
    size = np.where(kind < 4, kind, (2 + (kind & 1)) << extra)
    if escape >= 8:  # else there is no second digit
        size = (size[:, None] + (np.arange(1 << LOW_BITS) << low[:, None] & (np.int64(1) << extra[:, None]) - 1)).ravel()
        token = np.repeat(token, 1 << LOW_BITS)
    return _Tokens(np.where(token & 1, -size, size), (np.int64(1) << low) - 1, n_raw, int(np.flatnonzero(n_raw)[0]))


def _signed(kind: Ints, negative: NDArray[np.bool_]) -> Ints:
    """0, -1, +1, -2, +2 … -> 0, 1, 2, 3, 4 …"""
    return np.maximum(2 * kind - negative, 0)


Digits = Direct | Residual


def from_json(parts: list[Any]) -> Digits:
    """The inverse of to_json. Raises CorruptArchive when the numbers could not come from it."""
    match parts:
        case ["direct", int(lo), int(span), int(shift)] if 1 <= span <= 1 << 16 and 0 <= shift <= 8 and -(2**63) <= lo < 2**63:
            digits: Digits = Direct(lo, span, shift)
        case ["residual", int(bits)] if 0 <= bits <= 62:
            digits = Residual(bits)
        case _:
            raise CorruptArchive(f"model names an unknown digit scheme: {str(parts)[:60]}")
    if max(digits.sizes) > MAX_SYMBOLS + 1:
        raise CorruptArchive(f"digit scheme {parts} has an alphabet of {max(digits.sizes)} symbols, over {MAX_SYMBOLS + 1}")
    return digits
