"""How much of the columns before it a search for the code of a column looks at."""

from __future__ import annotations

from dataclasses import dataclass

RELATED = 30
MAX_PAIRED = 24
MOST_WIDE = 96


@dataclass(frozen=True, slots=True)
class Effort:
    """related : columns that features are made of                       paired    : columns that predictions and orders are of
    wide    : columns that one prediction may be of all at once       others    : columns whose rows before a prediction may read
    fit_rows, lag_rows : that predictions are fitted to, those of rows one after another the second         orders : that are tried
    is_quick : no neighbours on either side, no copies at a lag, no shorter chunks
    """

    related: int = RELATED
    paired: int = MAX_PAIRED
    wide: int = MOST_WIDE
    others: int = 10
    fit_rows: int = 8_000
    lag_rows: int = 5_000
    orders: int = 2
    is_quick: bool = False

    @property
    def most(self) -> int:
        """Columns that are looked at for anything."""
        return max(self.related, self.paired, self.wide)


FULL = Effort()
QUICK = Effort(related=10, paired=10, wide=32, others=3, fit_rows=2_000, lag_rows=2_000, orders=1, is_quick=True)
