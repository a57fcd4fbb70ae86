"""Recall: a cell is what it was when its key was last seen, or it is coded as any other.

The key is the tuple of one or more earlier columns at the same row. Which rows have seen their key before follows from the
key columns alone, so a column is coded in three sweeps over whole vectors: a flag for every row whose key was seen ("the
same as then"), the values of all other rows, and the copying. What is the
same may be what a value is of one unit (`units`). A functional dependency costs the first sight of every key,
however many values there are: no table of contexts by symbols is needed (compare the indirect contexts of PAQ, Mahoney 2005).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import serial
from vae_core.errors import CorruptArchive
from vae_core.exact.features import Decoded
from vae_core.exact.sorting import by_number
from vae_core.exact.units import Unit

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
MAX_KEYS = 3
SPARSE = 64  # numbers a row: integers that lie farther apart are made dense
MOST_NUMBERS = 1 << 48


def key_numbers(columns: Sequence[Ints]) -> Ints:
    """(n,) key of every row, as small integers: equal exactly where all the columns, (n,) int64 each, are equal."""
    found = np.zeros(len(columns[0]), np.int64)
    for values in columns:
        distinct, number = np.unique(values, return_inverse=True)
        found = found * len(distinct) + number  # below n ** 2: found is made dense before the next column
        found = np.unique(found, return_inverse=True)[1].astype(np.int64) if len(columns) > 1 else found
    return found


def _loose_numbers(columns: Sequence[Ints]) -> Ints:
    """As key_numbers, but some integers may stand for no row: then nothing need be sorted."""
    found, size = np.zeros(len(columns[0]), np.int64), 1
    for values in columns if len(found) else ():
        low = int(values.min())
        number, n_numbers = values, int(values.max()) - low + 1
        if n_numbers > SPARSE * len(values):
            distinct, number = np.unique(values, return_inverse=True)
            low, n_numbers = 0, len(distinct)
        if size * n_numbers > MOST_NUMBERS:
            distinct, found = np.unique(found, return_inverse=True)
            size = len(distinct)
        found = found * n_numbers + (number - low)
        size *= n_numbers
    return found


class Recalled:
    """Rows of a block grouped by key.

    seen : (n_rows,) bool, active rows whose key an active row before them has
    """

    def __init__(self, decoded: Decoded, keys: Sequence[int], active: Bools | None, unit: Unit | None = None) -> None:
        """keys: earlier columns. active: (n_rows,) the rows that take part, None for all. unit: what values are multiples of, where these
        recur instead. Raises CorruptArchive."""
        missing = [j for j in (*keys, *([] if unit is None else [unit.column])) if j not in decoded.values]
        if missing:
            raise CorruptArchive(f"model recalls a column by column {missing[0]}, which is not decoded before it")
        self._unit, self._by = unit, None if unit is None else decoded.values[unit.column]
        self._library = serial.library()
        linked = None if self._library is None else serial.links(self._library, [decoded.values[j] for j in keys], active)
        self._previous: NDArray[np.int32] | None = None
        if linked is not None:
            self._previous, self.seen = linked
            return
        rows = None if active is None else np.flatnonzero(active)
        numbers = _loose_numbers([decoded.values[j] if rows is None else decoded.values[j].take(rows) for j in keys])
        by_key = by_number(numbers)
        self._rows: Ints = by_key if rows is None else rows.take(by_key)
        numbers = numbers.take(by_key)
        self._again = np.concatenate([np.zeros(min(1, len(by_key)), np.bool_), numbers[1:] == numbers[:-1]])
        self.seen = np.zeros(decoded.n_rows, np.bool_)
        self.seen[self._rows[self._again]] = True

    def same(self, values: Ints) -> Ints:
        """(n_rows,) 1 where a seen key's row holds what the row before it with that key holds, else 0."""
        if self._unit is not None and self._by is not None:
            quotients, fits = self._unit.quotients(values, self._by)
            return self._same(quotients) * fits
        return self._same(values)

    def _same(self, values: Ints) -> Ints:
        if self._previous is not None:
            flags: Ints = (self.seen & (values == values.take(self._previous, mode="wrap"))).astype(np.int64)
            return flags
        found = np.zeros(len(self.seen), np.int64)
        ordered = values.take(self._rows)
        found[self._rows[1:]] = self._again[1:] & (ordered[1:] == ordered[:-1])
        return found

    def copy(self, values: Ints, same: Ints) -> None:
        """Fill the rows flagged `same`, (n_rows,), from the last row of their key that is not."""
        if self._unit is None or self._by is None:
            self._copy(values, same)
            return
        quotients, _ = self._unit.quotients(values, self._by)
        self._copy(quotients, same)
        copied = same != 0
        values[copied] = self._unit.values(quotients, self._by)[copied]

    def _copy(self, values: Ints, same: Ints) -> None:
        if self._previous is not None:
            serial.copy(self._library, values, same, self._previous)
            return
        hit = np.flatnonzero(same.take(self._rows))
        place = np.arange(len(self._rows))
        place[hit] = 0
        np.maximum.accumulate(place, out=place)
        values[self._rows.take(hit)] = values.take(self._rows.take(place.take(hit)))
