"""Texts of one pattern, literal bytes with digits between them (`17-011495`, `2026-11-24 18:50`), as the integer of their digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core.arrays import from_numpy, scalar, to_numpy
from vae_core.columns.codes import STATE_MISFIT, STATE_NULL, Codes
from vae_core.columns.physical import Bools, Ints, valid_of
from vae_core.errors import CorruptArchive

DIGIT = -1
MOST_DIGITS = 18
MOST_BYTES = 64
MOST_STRANGERS = 0.02  # texts of a sample that may be of another pattern


def is_text(value_type: pa.DataType) -> bool:
    """Strings and bytes of 32-bit or 64-bit offsets."""
    t = pa.types
    return bool(t.is_string(value_type) or t.is_large_string(value_type) or t.is_binary(value_type) or t.is_large_binary(value_type))


@dataclass(frozen=True, slots=True)
class DigitText:
    """The code of a text is the number that its digits make, the first the highest.

    pattern : a byte of the text each: its value, or DIGIT; at most MOST_BYTES, of which 1 to MOST_DIGITS digits
    """

    pattern: tuple[int, ...]

    @property
    def n_digits(self) -> int:
        """How many of the bytes are digits."""
        return sum(p == DIGIT for p in self.pattern)

    def encode(self, array: pa.Array, fill: int) -> Codes:
        """(n,) array of a text type -> codes, with nulls and texts of another pattern beside them."""
        valid = valid_of(array)
        body = array.cast(pa.large_binary())
        values, fits = self._numbers(body if valid is None else body.fill_null(scalar(b"", body.type)))
        if valid is None and fits.all():
            return Codes(values)
        state = np.where(fits, np.uint8(0), np.uint8(STATE_MISFIT))
        if valid is not None:
            state[~valid] = STATE_NULL
        values[state != 0] = fill
        odd = np.flatnonzero(state == STATE_MISFIT)
        return Codes(values, state, array.take(from_numpy(odd)) if len(odd) else None)

    def _numbers(self, body: pa.Array) -> tuple[Ints, Bools]:
        """(n,) numbers of (n,) large_binary without nulls, 0 where the text is of another pattern, and where it is of this one."""
        n, length = len(body), len(self.pattern)
        values, fits = np.zeros(n, np.int64), np.zeros(n, np.bool_)
        if not n:
            return values, fits
        offsets = np.frombuffer(body.buffers()[1], np.int64, n + 1, 8 * body.offset)
        of_length = np.flatnonzero(np.diff(offsets) == length)
        if not len(of_length):
            return values, fits
        cells = rows_of(body, offsets[of_length], length)
        good = np.ones(len(cells), np.bool_)
        number = np.zeros(len(cells), np.int64)
        for k, literal in enumerate(self.pattern):
            if literal == DIGIT:
                digit = cells[:, k] - np.uint8(48)  # wraps: anything else is over 9
                good &= digit < 10
                number = number * 10 + digit
            else:
                good &= cells[:, k] == literal
        values[of_length] = np.where(good, number, 0)
        fits[of_length] = good
        return values, fits

    def decode(self, codes: Codes, value_type: pa.DataType) -> pa.Array:
        """The inverse of `encode`. Raises CorruptArchive for a code that no text of the pattern has, or misfits that do not match."""
        values, n = codes.values, len(codes.values)
        if n and (int(values.min()) < 0 or int(values.max()) >= 10**self.n_digits):
            raise CorruptArchive(f"a code is no number of {self.n_digits} digits")
        cells = np.empty((n, len(self.pattern)), np.uint8)
        rest = values
        for k in range(len(self.pattern) - 1, -1, -1):
            if self.pattern[k] == DIGIT:
                rest, digit = np.divmod(rest, 10)
                cells[:, k] = digit + 48
            else:
                cells[:, k] = self.pattern[k]
        starts = pa.py_buffer(np.arange(n + 1, dtype=np.int64) * len(self.pattern))
        texts = pa.Array.from_buffers(pa.large_binary(), n, [None, starts, pa.py_buffer(cells)])
        if codes.state is None:
            return texts.cast(value_type)
        odd = np.flatnonzero(codes.state == STATE_MISFIT)
        n_odd = 0 if codes.misfits is None else len(codes.misfits)
        if len(odd) != n_odd or int(codes.state.max(initial=0)) > STATE_MISFIT:
            raise CorruptArchive(f"a column has {len(odd)} texts of another pattern and {n_odd} of them stored")
        indices = np.arange(n)
        if codes.misfits is not None and n_odd:
            texts = pa.concat_arrays([texts, codes.misfits.cast(pa.large_binary())])
            indices[odd] = n + np.arange(n_odd)
        return texts.take(from_numpy(indices, mask=codes.state == STATE_NULL)).cast(value_type)

    def to_json(self) -> dict[str, object]:
        """Small JSON; `pattern_from_json` is the inverse."""
        return {"t": "digits", "p": list(self.pattern)}


def rows_of(body: pa.Array, starts: Ints, length: int) -> NDArray[np.uint8]:
    """(len(starts), length) bytes of a large_binary array's data."""
    data = np.frombuffer(body.buffers()[2] or b"", np.uint8)
    found: NDArray[np.uint8] = data[starts[:, None] + np.arange(length)]
    return found


def pattern_from_json(pattern: object) -> DigitText:
    """The inverse of DigitText.to_json. Raises CorruptArchive."""
    if isinstance(pattern, list) and 0 < len(pattern) <= MOST_BYTES and all(type(p) is int and DIGIT <= p < 256 for p in pattern):
        found = DigitText(tuple(pattern))
        if 1 <= found.n_digits <= MOST_DIGITS:
            return found
    raise CorruptArchive(f"a pattern of digits is {str(pattern)[:60]}")


def find_pattern(sample: pa.ChunkedArray) -> DigitText | None:
    """The pattern of nearly all of a sample's texts, (n,) of a text type; None where they have none, or there are too few to tell."""
    chunks = [c.cast(pa.large_binary()).drop_null() for c in sample.chunks]
    body = pa.concat_arrays(chunks) if chunks else pa.array([], pa.large_binary())
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
    for k, common in same:  # digits that never change are literals only where there are too many
        if pattern.count(DIGIT) > MOST_DIGITS:
            pattern[k] = common
    found = DigitText(tuple(pattern))
    if not 1 <= found.n_digits <= MOST_DIGITS:
        return None
    fits = found.encode(body, 0).state
    return found if fits is None or int((fits == 0).sum()) >= most else None
