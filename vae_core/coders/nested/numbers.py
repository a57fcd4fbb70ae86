"""Numbers of lists end to end: integers as they are or by their steps within a list, floats as decimals, as bits or by pcodec."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pcodec import standalone

from vae_core.coders.fields import columns
from vae_core.coders.fields.columns import EVERY_WAY, Ways
from vae_core.coders.narrow import PCO, pco_of
from vae_core.coders.varints import Reader, varints
from vae_core.columns.physical import Bools, Ints, floats_of_bits, ordered_bits
from vae_core.errors import CorruptArchive
from vae_core.packing import unpco

PLAIN, STEPS = range(2)
POINTS, BITS, DECIMALS = range(3)
MOST_DECIMALS = 15
HEAD = 1 << 14
"""Values that tell which form takes less."""
_MOST_ODD, _LARGEST = 0.05, 2**53  # share of values that are no decimals; the largest integer of all that floats hold
_QUICK = 0.98  # pcodec is taken where nothing else makes less than that of it


def sized(part: bytes) -> bytes:
    """Bytes behind their number."""
    return varints([len(part)]) + part


def taken(reader: Reader) -> bytes:
    """The inverse of `sized`. Raises CorruptArchive."""
    return reader.take(reader.varint(0))


def pack_flags(flags: Bools) -> bytes:
    """(n,) bool, a bit each."""
    return sized(columns.pack_bytes(np.packbits(flags).tobytes()))


def unpack_flags(reader: Reader, n: int) -> Bools:
    """The inverse of `pack_flags`. Raises CorruptArchive."""
    bits = np.frombuffer(columns.unpack_bytes(taken(reader), (n + 7) // 8), np.uint8)
    return np.unpackbits(bits, count=n).astype(np.bool_)


def pack_integers(values: Ints, lengths: Ints | None, ways: Ways = EVERY_WAY) -> bytes:
    """(n,) int64, by what takes less; by steps only where these take less for the first of them.

    lengths : of the lists they are in, end to end, where that is known        ways : of compressors of bytes, that there are
    """
    plain = bytes([PLAIN]) + sized(_packed(values, ways))
    if lengths is None or not len(values) or not _steps_take_less(values, lengths):
        return plain
    firsts, steps = _steps(values, lengths)
    return min(plain, bytes([STEPS]) + sized(_packed(firsts, ways)) + sized(_packed(steps, ways)), key=len)


def unpack_integers(reader: Reader, n: int, lengths: Ints | None) -> Ints:
    """The inverse of `pack_integers`. Raises CorruptArchive."""
    form = reader.take(1)[0]
    if form == PLAIN:
        return _column(reader, n)
    if form != STEPS or lengths is None:
        raise CorruptArchive(f"integers of nested values have form {form}, which this release does not know")
    some = lengths[lengths > 0]
    starts = np.cumsum(some) - some
    firsts, steps = _column(reader, len(some)), _column(reader, n - len(some))
    is_first = np.zeros(n, np.bool_)
    is_first[starts] = True
    values = np.empty(n, np.int64)
    values[starts], values[~is_first] = firsts, steps
    summed = np.cumsum(values)
    found: Ints = summed - np.repeat(summed[starts] - firsts, some)
    return found


def _packed(values: Ints, ways: Ways = EVERY_WAY) -> bytes:
    return columns.pack_integers(values, quick=True, ways=ways)


def _column(reader: Reader, n: int) -> Ints:
    return columns.unpack_integers(taken(reader), n, columns.Allowance(0, 3 * n))  # distinct ones and their places count, too


def _steps(values: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """The first value of each list that has one, and the steps to all others from the ones before them; they wrap."""
    some = lengths[lengths > 0]
    is_first = np.zeros(len(values), np.bool_)
    is_first[np.cumsum(some) - some] = True
    steps = np.diff(values, prepend=values[:1])
    return values[is_first], steps[~is_first]


def _steps_take_less(values: Ints, lengths: Ints) -> bool:
    some, head = _head(values, lengths)
    assert head is not None
    firsts, steps = _steps(some, head)
    if not len(steps):
        return False
    apart = len(pco_of(firsts)[1]) + len(pco_of(steps)[1])
    return apart < len(pco_of(some)[1]) and apart < len(columns.pack_integers(some))


def pack_floats(values: NDArray[Any], lengths: Ints | None, ways: Ways = EVERY_WAY) -> bytes:
    """(n,) floats of any width, by what takes least for the first of them. lengths, ways: as in `pack_integers`"""
    form, decimals = _form(*_head(values, lengths), ways)
    if form == DECIMALS:
        whole, odd = _as_decimals(values, decimals)
        rows = np.flatnonzero(odd)
        found = bytes([DECIMALS, decimals]) + varints([len(rows)])
        if len(rows):
            found += sized(_packed(rows, ways)) + sized(columns.pack_bytes(values[rows].tobytes()))
        return found + pack_integers(_without(whole, odd), lengths, ways)
    if form == BITS:
        return bytes([BITS]) + pack_integers(ordered_bits(values), lengths, ways)
    return bytes([POINTS]) + sized(_by_pcodec(values))


def unpack_floats(reader: Reader, dtype: np.dtype[Any], n: int, lengths: Ints | None) -> NDArray[Any]:
    """The inverse of `pack_floats`. Raises CorruptArchive."""
    form = reader.take(1)[0]
    if form == POINTS:
        return unpco(taken(reader), dtype, n)
    if form == BITS:
        return floats_of_bits(unpack_integers(reader, n, lengths), dtype)
    if form != DECIMALS:
        raise CorruptArchive(f"floats of nested values have form {form}, which this release does not know")
    decimals, n_odd = reader.take(1)[0], reader.varint(0, n)
    if decimals > MOST_DECIMALS:
        raise CorruptArchive(f"floats of nested values have {decimals} decimals, at most {MOST_DECIMALS} are read")
    rows, odd = np.zeros(0, np.int64), np.zeros(0, dtype)
    if n_odd:
        rows = _column(reader, n_odd)
        if int(rows.min()) < 0 or int(rows.max()) >= n:
            raise CorruptArchive(f"floats of nested values are odd beyond the {n} that there are")
        odd = np.frombuffer(columns.unpack_bytes(taken(reader), n_odd * dtype.itemsize), dtype)
    found = _from_decimals(unpack_integers(reader, n, lengths), decimals, dtype)
    found[rows] = odd
    return found


def _by_pcodec(values: NDArray[Any]) -> bytes:
    return bytes(standalone.simple_compress(np.ascontiguousarray(values), PCO))


def _head(values: NDArray[Any], lengths: Ints | None) -> tuple[NDArray[Any], Ints | None]:
    """The first values, of whole lists, and the lengths of these."""
    if lengths is None:
        return values[:HEAD], None
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), HEAD, "right")) or 1]
    return values[: int(lengths.sum())], lengths


def _form(values: NDArray[Any], lengths: Ints | None, ways: Ways) -> tuple[int, int]:
    """The form that takes least, and its decimals."""
    if not len(values):
        return POINTS, 0
    sizes = {(POINTS, 0): _QUICK * len(_by_pcodec(values)), (BITS, 0): len(pack_integers(ordered_bits(values), lengths, ways))}
    for decimals in range(MOST_DECIMALS + 1):
        whole, odd = _as_decimals(values, decimals)
        if odd.mean() <= _MOST_ODD:
            sizes[DECIMALS, decimals] = len(pack_integers(_without(whole, odd), lengths, ways)) + 2 * values.itemsize * int(odd.sum())
            break
    return min(sizes, key=lambda form: sizes[form])


def _without(whole: Ints, odd: Bools) -> Ints:
    """Values with the one before in place of those that do not count."""
    return whole[np.maximum.accumulate(np.where(odd, 0, np.arange(len(odd))))] if odd.any() else whole


def _as_decimals(values: NDArray[Any], decimals: int) -> tuple[Ints, Bools]:
    """Values by their last decimal, and which are none: those are 0."""
    with np.errstate(all="ignore"):
        scaled = np.rint(values.astype(np.float64) * 10.0**decimals)
    good = np.abs(scaled) < _LARGEST
    whole = np.where(good, scaled, 0.0).astype(np.int64)
    bits = f"i{values.itemsize}"
    good &= _from_decimals(whole, decimals, values.dtype).view(bits) == np.ascontiguousarray(values).view(bits)
    return np.where(good, whole, 0), ~good


def _from_decimals(whole: Ints, decimals: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        found: NDArray[Any] = (whole.astype(np.float64) / 10.0**decimals).astype(dtype)
    return found
