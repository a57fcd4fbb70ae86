"""Dates with times of the day, written in digits, as time since 1970: the proleptic Gregorian calendar, days of 86,400 seconds.

FORMAT.md, Transforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vae_core.columns.physical import Bools, Ints
from vae_core.errors import CorruptArchive

ORDERS = {"YMD": (4, 2, 2), "MDY": (2, 2, 4), "DMY": (2, 2, 4)}  # how many digits year, month and day have
OF_THE_DAY = (24, 60, 60)  # hours, minutes, seconds, of two digits each
MOST_FRACTION = 9  # digits of a second
LENGTHS = (8, 10, 12, 14, *range(15, 15 + MOST_FRACTION))  # digits in all
FIRST_DAY, LAST_DAY = -719_528, 2_932_896  # of the years 0 and 9999, since 1970


@dataclass(frozen=True, slots=True)
class Calendar:
    """order : in which year, month and day are written      n_digits : one of LENGTHS, which says what of the day follows"""

    order: str
    n_digits: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Digits of each number."""
        n_parts = min(3, (self.n_digits - 8) // 2)
        fraction = self.n_digits - 8 - 2 * n_parts
        return (*ORDERS[self.order], *(2,) * n_parts, *((fraction,) if fraction else ()))

    @property
    def _sizes(self) -> tuple[int, ...]:
        """How many of each there are in the one before, from hours on."""
        parts = self.widths[3:]
        return tuple(OF_THE_DAY[k] if k < 3 else 10**width for k, width in enumerate(parts))

    @property
    def ticks_of_day(self) -> int:
        """Units of codes in a day."""
        found = 1
        for size in self._sizes:
            found *= size
        return found

    def ticks(self, numbers: Sequence[Ints]) -> tuple[Ints, Bools]:
        """(n,) time since 1970 of (n,) numbers each, 0 where they are no date or no time of 64 bits, and where they are one."""
        year, month, day = (numbers[self.order.index(part)] for part in "YMD")
        good = (month >= 1) & (month <= 12) & (day >= 1)
        months = np.where(good, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
        days = months.astype("datetime64[D]").astype(np.int64) + day - 1
        good &= days.astype("datetime64[D]").astype("datetime64[M]") == months
        good &= np.abs(days) < (2**63 - 1) // self.ticks_of_day - 1
        found = np.where(good, days, 0)
        for number, size in zip(numbers[3:], self._sizes, strict=True):
            good &= number < size
            found = found * size + number
        return np.where(good, found, 0), good

    def numbers(self, ticks: Ints) -> list[Ints]:
        """The inverse of `ticks`. Raises CorruptArchive beyond the years 0 to 9999."""
        rest, parts = ticks, list[Ints]()
        for size in reversed(self._sizes):
            rest, part = np.divmod(rest, size)
            parts.append(part)
        if len(rest) and not (int(rest.min()) >= FIRST_DAY and int(rest.max()) <= LAST_DAY):
            raise CorruptArchive("a code is no date of a year of four digits")
        months = rest.astype("datetime64[D]").astype("datetime64[M]")
        since = months.astype(np.int64)
        known = {"Y": 1970 + since // 12, "M": since % 12 + 1, "D": rest - months.astype("datetime64[D]").astype(np.int64) + 1}
        return [*(known[part] for part in self.order), *reversed(parts)]
