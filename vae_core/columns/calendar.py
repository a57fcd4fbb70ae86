"""Dates with times of the day, written in digits, as time since 1970, and times of the day alone, as time since midnight: the
proleptic Gregorian calendar, days of 86,400 seconds.

FORMAT.md, Transforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vae_core.columns.physical import Bools, Ints
from vae_core.errors import CorruptArchive

ORDERS = {"YMD": (4, 2, 2), "MDY": (2, 2, 4), "DMY": (2, 2, 4)}  # how many digits year, month and day have
CLOCK = "T"  # no date
OF_THE_DAY = (24, 60, 60)  # hours, minutes, seconds, of two digits each
MOST_FRACTION = 9  # digits of a second
LENGTHS = (8, 10, 12, 14, *range(15, 15 + MOST_FRACTION))  # digits in all
CLOCK_LENGTHS = (4, 6, *range(7, 7 + MOST_FRACTION))
FIRST_DAY, LAST_DAY = -719_528, 2_932_896  # of the years 0 and 9999, since 1970


@dataclass(frozen=True, slots=True)
class Calendar:
    """order : in which year, month and day are written, or CLOCK
    n_digits : one of LENGTHS, or CLOCK_LENGTHS, which says what of the day follows"""

    order: str
    n_digits: int

    @property
    def is_written(self) -> bool:
        """Whether there is such an order, with so many digits."""
        return self.n_digits in (CLOCK_LENGTHS if self.order == CLOCK else LENGTHS if self.order in ORDERS else ())

    @property
    def _of_date(self) -> tuple[int, ...]:
        return ORDERS.get(self.order, ())

    @property
    def widths(self) -> tuple[int, ...]:
        """Digits of each number."""
        left = self.n_digits - sum(self._of_date)
        n_parts = min(3, left // 2)
        fraction = left - 2 * n_parts
        return (*self._of_date, *(2,) * n_parts, *((fraction,) if fraction else ()))

    @property
    def _sizes(self) -> tuple[int, ...]:
        """How many of each there are in the one before, from hours on."""
        parts = self.widths[len(self._of_date) :]
        return tuple(OF_THE_DAY[k] if k < 3 else 10**width for k, width in enumerate(parts))

    @property
    def ticks_of_day(self) -> int:
        """Units of codes in a day."""
        found = 1
        for size in self._sizes:
            found *= size
        return found

    def ticks(self, numbers: Sequence[Ints]) -> tuple[Ints, Bools]:
        """(n,) time since 1970 or midnight of (n,) numbers each, 0 where they are no date or no time of 64 bits, and where they are one."""
        if not self._of_date:
            return self._in_day(np.zeros(len(numbers[0]), np.int64), numbers, np.ones(len(numbers[0]), np.bool_))
        year, month, day = (numbers[self.order.index(part)] for part in "YMD")
        good = (month >= 1) & (month <= 12) & (day >= 1)
        months = np.where(good, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
        days = months.astype("datetime64[D]").astype(np.int64) + day - 1
        good &= days.astype("datetime64[D]").astype("datetime64[M]") == months
        good &= np.abs(days) < (2**63 - 1) // self.ticks_of_day - 1
        return self._in_day(np.where(good, days, 0), numbers[3:], good)

    def _in_day(self, days: Ints, numbers: Sequence[Ints], good: Bools) -> tuple[Ints, Bools]:
        found = days
        for number, size in zip(numbers, self._sizes, strict=True):
            good &= number < size
            found = found * size + number
        return np.where(good, found, 0), good

    def numbers(self, ticks: Ints) -> list[Ints]:
        """The inverse of `ticks`. Raises CorruptArchive beyond the years 0 to 9999, or the day."""
        rest, parts = ticks, list[Ints]()
        for size in reversed(self._sizes):
            rest, part = np.divmod(rest, size)
            parts.append(part)
        if not self._of_date:
            if rest.any():
                raise CorruptArchive("a code is no time of the day")
            return parts[::-1]
        if len(rest) and not (int(rest.min()) >= FIRST_DAY and int(rest.max()) <= LAST_DAY):
            raise CorruptArchive("a code is no date of a year of four digits")
        months = rest.astype("datetime64[D]").astype("datetime64[M]")
        since = months.astype(np.int64)
        known = {"Y": 1970 + since // 12, "M": since % 12 + 1, "D": rest - months.astype("datetime64[D]").astype(np.int64) + 1}
        return [*(known[part] for part in self.order), *reversed(parts)]
