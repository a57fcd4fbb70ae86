"""Places of a template: what stands there is an integer, told how it is written, or a text (FORMAT.md, "Fields")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vae_core.coders.fields.tokens import DECIMAL, LOWER, MOST_DIGITS, Bools, Bytes, Ints, Tokens, values_of
from vae_core.errors import CorruptArchive

TEXT, FIXED, STRIPPED, KEPT_ONE, HEX_LOWER, HEX_UPPER = range(6)
MOST_CHARACTERS = MOST_DIGITS + 3
"""Of a number: as many digits, a 0 before the point, the point, the sign."""
_MOST = {FIXED: 10**MOST_DIGITS, STRIPPED: 10**MOST_DIGITS, KEPT_ONE: 10**MOST_DIGITS, HEX_LOWER: 1 << 32, HEX_UPPER: 1 << 32}
_TENS = np.array([10**k for k in range(MOST_DIGITS + 1)], np.int64)
_SMALL, _LARGE = np.frombuffer(b"0123456789abcdef", np.uint8), np.frombuffer(b"0123456789ABCDEF", np.uint8)


@dataclass(frozen=True, slots=True)
class Written:
    """How a place is written.

    how      : TEXT; FIXED, with all its decimals, STRIPPED of zeros at the end and of a point there, KEPT_ONE, the same but for the
               first decimal; HEX_LOWER or HEX_UPPER
    decimals : 0 .. 18, digits behind the point        width : digits at least, in zeros, 0 .. 18, of hexadecimals 0 .. 8
    """

    how: int
    decimals: int = 0
    width: int = 0

    def check(self) -> None:
        """Raise CorruptArchive when no place is written so."""
        most = 8 if self.how >= HEX_LOWER else MOST_DIGITS
        good = TEXT <= self.how <= HEX_UPPER and 0 <= self.width <= most and 0 <= self.decimals <= MOST_DIGITS
        if not good or (self.decimals and not FIXED <= self.how <= KEPT_ONE) or (self.how == TEXT and self.width):
            raise CorruptArchive(f"a place of fields is written in way {self.how}, {self.decimals}, {self.width}")


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """What stands in a place of m rows.

    values : (m,) integers, or (m,) large_binary where it is written as TEXT        which : (m,) the numbers they are, None for texts
    """

    written: Written
    values: Ints | pa.Array
    which: Ints | None = None


def place_of(tokens: Tokens, which: Ints) -> Place | None:
    """Some numbers of one kind as one place; None where no way of writing gives them all."""
    kind = int(tokens.kind[which[0]])
    values = values_of(tokens, which)
    digits, zeros, decimals = _shape(tokens, which)
    if kind != DECIMAL:
        width = int(digits[0])
        if zeros.any() and not (digits == width).all():
            return None
        return Place(Written(HEX_LOWER if kind == LOWER else HEX_UPPER, 0, width if zeros.any() else 0), values, which)
    if minus_zero(tokens, which, values).any():
        return None
    most = int(decimals.max())
    if (decimals == most).all():
        if not zeros.any():
            return Place(Written(FIXED, most), values, which)
        return Place(Written(FIXED, most, int(digits[0])), values, which) if (digits == digits[0]).all() else None
    if zeros.any() or (np.abs(values) >= _TENS[MOST_DIGITS - most + decimals]).any():
        return None
    ends_in_zero = tokens.data[tokens.end[which] - 1] == ord("0")
    scaled = values * _TENS[most - decimals]
    if not (ends_in_zero & (decimals > 0)).any():
        return Place(Written(STRIPPED, most), scaled, which)
    return Place(Written(KEPT_ONE, most), scaled, which) if (decimals > 0).all() and not (ends_in_zero & (decimals > 1)).any() else None


def shapes_of(tokens: Tokens, which: Ints) -> Ints:
    """(m,) int64: numbers of the same shape are one place, but those of -1, which are none."""
    digits, zeros, decimals = _shape(tokens, which)
    return np.where(minus_zero(tokens, which, values_of(tokens, which)), -1, (decimals << 8) + np.where(zeros, digits, 0))


def minus_zero(tokens: Tokens, which: Ints, values: Ints) -> Bools:
    """(m,) whether a number has a sign that its value does not tell."""
    found: Bools = (tokens.data[tokens.start[which]] == ord("-")) & (values == 0)
    return found


def _shape(tokens: Tokens, which: Ints) -> tuple[Ints, Bools, Ints]:
    """Of (m,) numbers: digits, whether the first of several before the point is 0, decimals."""
    start, decimals = tokens.start[which], tokens.decimals[which]
    low = start + (tokens.data[start] == ord("-"))
    digits = tokens.end[which] - low - (decimals > 0)
    return digits, (digits - decimals > 1) & (tokens.data[low] == 48), decimals


def lengths_of(written: Written, values: Ints) -> Ints:
    """(m,) bytes of each number as it is written. Raises CorruptArchive for what cannot stand there."""
    size = np.abs(values)
    most = _MOST[written.how]
    if len(values) and (int(values.min()) <= -most or int(size.max()) >= most or (written.how >= HEX_LOWER and int(values.min()) < 0)):
        raise CorruptArchive(f"a place of fields holds {int(values.min())} to {int(values.max())}")
    base = 16 if written.how >= HEX_LOWER else 10
    least = max(written.width, written.decimals + 1)
    powers = np.array([base**k for k in range(least, MOST_DIGITS + 1) if base**k <= 10**MOST_DIGITS], np.int64)
    found = least + np.searchsorted(powers, size, "right")
    return found + _ends(written, size)[1] + (values < 0)


def _ends(written: Written, size: Ints) -> tuple[Ints, Ints]:
    """(decimals that are left, what the point adds and zeros at the end take) of (m,) numbers without their signs."""
    left = np.full(len(size), written.decimals)
    if written.how in (STRIPPED, KEPT_ONE):
        least = written.how == KEPT_ONE
        rest, going = size, np.ones(len(size), np.bool_)
        for k in range(written.decimals - least):
            rest, digit = np.divmod(rest, 10)
            going &= digit == 0
            if not going.any():
                break
            left[going] = written.decimals - 1 - k
    return left, left - written.decimals + (left > 0)


def write(written: Written, values: Ints, lengths: Ints) -> tuple[Bytes, Bools]:
    """(m, longest) characters and which of them count, right-aligned. lengths: of `lengths_of`"""
    longest = int(lengths.max(initial=0))
    cells = np.zeros((len(values), longest), np.uint8)
    base = 16 if written.how >= HEX_LOWER else 10
    alphabet = _LARGE if written.how == HEX_UPPER else _SMALL
    rest = np.abs(values)
    left, _ = _ends(written, rest)
    varied = written.how in (STRIPPED, KEPT_ONE)
    if varied:
        rest = rest // _TENS[written.decimals - left]
    if rest.size and int(rest.max()) < 1 << 31:
        rest = rest.astype(np.uint32)  # divides in half the time
    for k in range(longest):
        column = cells[:, longest - 1 - k]
        if not varied and k == written.decimals > 0:
            column[:] = ord(".")
            continue
        quotient, digit = np.divmod(rest, rest.dtype.type(base))
        column[:] = alphabet[digit]
        if varied and (at_point := (left == k) & (left > 0)).any():
            column[at_point], rest = ord("."), np.where(at_point, rest, quotient)
        else:
            rest = quotient
    counted = np.arange(longest) >= (longest - lengths)[:, None]
    negative = np.flatnonzero(values < 0)
    cells[negative, longest - lengths[negative]] = ord("-")
    return cells, counted

