"""Texts of one pattern, literal bytes with digits between them: `17-011495` as the integer of its digits, `2026-11-24 18:50` as a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core.arrays import from_numpy, scalar, to_numpy
from vae_core.columns.calendar import CLOCK, CLOCK_LENGTHS, LENGTHS, ORDERS, Calendar
from vae_core.columns.codes import STATE_MISFIT, STATE_NULL, Codes
from vae_core.columns.physical import Bools, Ints, valid_of
from vae_core.errors import CorruptArchive

DIGIT = -1
MOST_DIGITS = 18
MOST_BYTES = 64
SPAN = 65_536  # texts at a time
MOST_STRANGERS = 0.02  # texts of a sample that may be of another pattern
ALL_BUT_A_FEW = 0.995  # of texts of the same look: those that are times of the day where any is
LIKELY_YEARS = 1800, 2200  # of digits that are taken for dates
LEAST_HOUR = 12  # that a sample has to come to where digits are taken for hours: numbers of an order begin with zeros


def is_text(value_type: pa.DataType) -> bool:
    """Strings and bytes of 32-bit or 64-bit offsets."""
    t = pa.types
    return bool(t.is_string(value_type) or t.is_large_string(value_type) or t.is_binary(value_type) or t.is_large_binary(value_type))


class TextPattern(ABC):
    """Texts that a number each tells: what patterns of any kind have in common."""

    __slots__ = ()

    @property
    def calendar(self) -> Calendar | None:
        """Of texts that are times."""
        return None

    def numbers(self, body: pa.Array) -> tuple[Ints, Bools]:
        """(n,) int64 numbers of (n,) large_binary without nulls, 0 where the text is of another pattern, and where it is of this one."""
        parts = [self._read(body.slice(start, SPAN)) for start in range(0, len(body), SPAN)]
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0, np.bool_)
        return np.concatenate([values for values, _ in parts]), np.concatenate([fits for _, fits in parts])

    def texts(self, values: Ints) -> pa.Array:
        """(n,) large_binary of (n,) int64 numbers. Raises CorruptArchive for one that no text of the pattern says."""
        parts = [self._write(values[start : start + SPAN]) for start in range(0, len(values), SPAN)]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.large_binary())

    @abstractmethod
    def _read(self, body: pa.Array) -> tuple[Ints, Bools]:
        """As `numbers`, of 1 to SPAN texts."""

    @abstractmethod
    def _write(self, values: Ints) -> pa.Array:
        """As `texts`, of 1 to SPAN numbers."""

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """Small JSON."""

    def _as_written(self, body: pa.Array, values: Ints, rows: Ints) -> tuple[Ints, Bools]:
        """What `_read` gives of texts of which some rows, (k,), seem to say (k,) values: those that are written like this again."""
        same = to_numpy(pc.equal(self.texts(values), body.take(from_numpy(rows)))).astype(np.bool_)
        found, fits = np.zeros(len(body), np.int64), np.zeros(len(body), np.bool_)
        found[rows[same]], fits[rows[same]] = values[same], True
        return found, fits

    def encode(self, array: pa.Array, fill: int) -> Codes:
        """(n,) array of a text type -> codes, with nulls and texts of another pattern beside them."""
        valid = valid_of(array)
        body = array.cast(pa.large_binary())
        values, fits = self.numbers(body if valid is None else body.fill_null(scalar(b"", body.type)))
        if valid is None and fits.all():
            return Codes(values)
        state = np.where(fits, np.uint8(0), np.uint8(STATE_MISFIT))
        if valid is not None:
            state[~valid] = STATE_NULL
        values[state != 0] = fill
        odd = np.flatnonzero(state == STATE_MISFIT)
        return Codes(values, state, array.take(from_numpy(odd)) if len(odd) else None)

    def decode(self, codes: Codes, value_type: pa.DataType) -> pa.Array:
        """The inverse of `encode`. Raises CorruptArchive for a code that no text of the pattern has, misfits that do not match, or bytes
        that are no text."""
        try:
            return self._decoded(codes).cast(value_type)
        except pa.ArrowInvalid as error:
            raise CorruptArchive(f"a column of {value_type} holds bytes that are no text: {str(error)[:80]}") from error

    def _decoded(self, codes: Codes) -> pa.Array:
        texts, n = self.texts(codes.values), len(codes.values)
        if codes.state is None:
            return texts
        odd = np.flatnonzero(codes.state == STATE_MISFIT)
        n_odd = 0 if codes.misfits is None else len(codes.misfits)
        n_null = 0 if codes.misfits is None else codes.misfits.null_count
        if len(odd) != n_odd or n_null or int(codes.state.max(initial=0)) > STATE_MISFIT:
            raise CorruptArchive(f"a column has {len(odd)} texts of another pattern and {n_odd} of them stored")
        indices = np.arange(n)
        if codes.misfits is not None and n_odd:
            texts = pa.concat_arrays([texts, codes.misfits.cast(pa.large_binary())])
            indices[odd] = n + np.arange(n_odd)
        return texts.take(from_numpy(indices, mask=codes.state == STATE_NULL))


@dataclass(frozen=True, slots=True)
class DigitText(TextPattern):
    """The code of a text is the number that its digits make, the first the highest, or the time that they are.

    pattern : a byte of the text each: its value, or DIGIT; at most MOST_BYTES, of which 1 to MOST_DIGITS digits, of times those of LENGTHS
    order   : of year, month and day where the digits are a time, one of ORDERS, or CLOCK; else empty
    """

    pattern: tuple[int, ...]
    order: str = ""

    @property
    def n_digits(self) -> int:
        """How many of the bytes are digits."""
        return sum(p == DIGIT for p in self.pattern)

    @property
    def calendar(self) -> Calendar | None:
        """Of digits that are a time."""
        return Calendar(self.order, self.n_digits) if self.order else None

    @property
    def _widths(self) -> tuple[int, ...]:
        """Of how many digits the numbers are that a text says."""
        calendar = self.calendar
        return (self.n_digits,) if calendar is None else calendar.widths

    def _read(self, body: pa.Array) -> tuple[Ints, Bools]:
        n, length = len(body), len(self.pattern)
        values, fits = np.zeros(n, np.int64), np.zeros(n, np.bool_)
        _, offsets = bytes_of(body)
        of_length = np.flatnonzero(np.diff(offsets) == length)
        if not len(of_length):
            return values, fits
        cells = rows_of(body, offsets[of_length], length)
        good = np.ones(len(cells), np.bool_)
        for k, literal in enumerate(self.pattern):
            if literal != DIGIT:
                good &= cells[:, k] == literal
        places, numbers = [k for k, literal in enumerate(self.pattern) if literal == DIGIT], list[Ints]()
        for width in self._widths:
            numbers.append(np.zeros(len(cells), np.int64))
            for k in places[:width]:
                digit = cells[:, k] - np.uint8(48)  # wraps: anything else is over 9
                good &= digit < 10
                numbers[-1] = numbers[-1] * 10 + digit
            places = places[width:]
        number, calendar = numbers[0], self.calendar
        if calendar is not None:
            number, is_time = calendar.ticks(numbers)
            good &= is_time
        values[of_length] = np.where(good, number, 0)
        fits[of_length] = good
        return values, fits

    def _write(self, values: Ints) -> pa.Array:
        n, calendar = len(values), self.calendar
        if calendar is None and (int(values.min()) < 0 or int(values.max()) >= 10**self.n_digits):
            raise CorruptArchive(f"a code is no number of {self.n_digits} digits")
        cells = np.empty((n, len(self.pattern)), np.uint8)
        cells[:] = np.array([max(0, literal) for literal in self.pattern], np.uint8)
        places = [k for k, literal in enumerate(self.pattern) if literal == DIGIT]
        for width, number in zip(self._widths, [values] if calendar is None else calendar.numbers(values), strict=True):
            rest = number
            for k in reversed(places[:width]):
                rest, digit = np.divmod(rest, 10)
                cells[:, k] = digit + 48
            places = places[width:]
        return joined(cells, np.full(n, len(self.pattern)))

    def to_json(self) -> dict[str, object]:
        """Small JSON; `pattern_from_json` is the inverse."""
        return {"t": "digits", "p": list(self.pattern), **({"c": self.order} if self.order else {})}


def rows_of(body: pa.Array, starts: Ints, length: int) -> NDArray[np.uint8]:
    """(len(starts), length) bytes of a large_binary array's data."""
    data = np.frombuffer(body.buffers()[2] or b"", np.uint8)
    found: NDArray[np.uint8] = data[starts[:, None] + np.arange(length)]
    return found


def pattern_from_json(pattern: object, order: object = "") -> DigitText:
    """The inverse of DigitText.to_json. Raises CorruptArchive."""
    if isinstance(pattern, list) and 0 < len(pattern) <= MOST_BYTES and all(type(p) is int and DIGIT <= p < 256 for p in pattern):
        found = DigitText(tuple(pattern))
        if order == "" and 1 <= found.n_digits <= MOST_DIGITS:
            return found
        if isinstance(order, str) and Calendar(order, found.n_digits).is_written:
            return DigitText(found.pattern, order)
    raise CorruptArchive(f"a pattern of digits is {str(pattern)[:60]}, {str(order)[:9]!r}")


def body_of(sample: pa.ChunkedArray) -> pa.Array:
    """The texts of a sample, (n,) of a text type, as large_binary without nulls."""
    chunks = [c.cast(pa.large_binary()).drop_null() for c in sample.chunks]
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.large_binary())


def bytes_of(body: pa.Array) -> tuple[NDArray[np.uint8], Ints]:
    """The bytes of (n,) large_binary end to end, at least one, and (n + 1,) where each begins."""
    offsets = np.frombuffer(body.buffers()[1], np.int64, len(body) + 1, 8 * body.offset)
    return np.frombuffer(body.buffers()[2] or b"\0", np.uint8), offsets


def joined(data: NDArray[np.uint8], lengths: Ints) -> pa.Array:
    """(n,) large_binary of bytes end to end and (n,) lengths."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))])


def find_pattern(body: pa.Array) -> DigitText | None:
    """The pattern of nearly all of a sample's texts, (n,) large_binary without nulls; None where they have none, or there are too few to
    tell."""
    if len(body) < 64:
        return None
    lengths = to_numpy(pc.binary_length(body)).astype(np.int64)
    length = int(np.bincount(np.minimum(lengths, MOST_BYTES + 1)).argmax())
    most = (1 - MOST_STRANGERS) * len(body)
    alike = np.flatnonzero(lengths == length)
    if not 0 < length <= MOST_BYTES or len(alike) < most:
        return None
    offsets = np.frombuffer(body.buffers()[1], np.int64, len(body) + 1, 8 * body.offset)
    cells = rows_of(body, offsets[alike], length)
    pattern, same = [], []
    for k in range(length):
        counts = np.bincount(cells[:, k], minlength=256)
        common = int(counts.argmax())
        if counts[48:58].sum() < most and counts[common] < most:
            return None
        pattern.append(DIGIT if counts[48:58].sum() >= most else common)
        if counts[common] == len(alike):
            same.append((k, common))
    if (times := _of_times(DigitText(tuple(pattern)), body, most)) is not None:
        return times
    for k, common in same:  # digits that never change are literals only where there are too many
        if pattern.count(DIGIT) > MOST_DIGITS:
            pattern[k] = common
    found = DigitText(tuple(pattern))
    if not 1 <= found.n_digits <= MOST_DIGITS:
        return None
    fits = found.encode(body, 0).state
    return found if fits is None or int((fits == 0).sum()) >= most else None


def _of_times(plain: DigitText, body: pa.Array, most: float) -> DigitText | None:
    """The same pattern where the digits of nearly all of (n,) texts are a date of a likely year, with or without a time, or a time alone.

    None where month and day may be either way round, or hours are none: days of later files, or numbers of an order, would be misfits.
    """
    if plain.n_digits in CLOCK_LENGTHS and _is_clock(plain.pattern):
        clock = DigitText(plain.pattern, CLOCK)
        n_clocks, n_alike = (int(one.numbers(body)[1].sum()) for one in (clock, plain))
        return clock if n_clocks >= max(most, ALL_BUT_A_FEW * n_alike) else None  # minutes and seconds that something took are none
    likely = list[DigitText]()
    for order in ORDERS if plain.n_digits in LENGTHS else ():
        found = DigitText(plain.pattern, order)
        codes, calendar = found.encode(body, 0), found.calendar
        assert calendar is not None
        times = codes.values if codes.state is None else codes.values[codes.state == 0]
        if len(times) < most:
            continue
        numbers = calendar.numbers(times)
        years = numbers[order.index("Y")]
        of_day = len(numbers) == 3 or int(numbers[3].max(initial=0)) >= LEAST_HOUR
        if of_day and ((years >= LIKELY_YEARS[0]) & (years <= LIKELY_YEARS[1])).sum() >= most:
            likely.append(found)
    return likely[0] if len(likely) == 1 else None


def _is_clock(pattern: Sequence[int]) -> bool:
    """Whether colons stand between hours, minutes and seconds, and digits at both ends."""
    places = [k for k, literal in enumerate(pattern) if literal == DIGIT]
    pairs = [places[k : k + 2] for k in range(0, min(6, len(places)), 2)]
    apart = all(pattern[before[1] + 1 : after[0]] == (ord(":"),) for before, after in pairwise(pairs))
    return apart and all(b == a + 1 for a, b in pairs)
