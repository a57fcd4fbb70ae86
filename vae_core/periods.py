"""Days, weeks and years of columns that tell time, in units of their codes."""

from __future__ import annotations

import pyarrow as pa

from vae_core.columns import ColumnPlan
from vae_core.columns.floats import DecimalLattice
from vae_core.columns.integers import IntegerLattice
from vae_core.columns.numerals import NumberText
from vae_core.columns.texts import TextPattern
from vae_core.exact.features import MOST_PERIOD
from vae_core.exact.ordering import Period

HOUR, DAY, WEEK, YEAR = 3_600, 86_400, 604_800, 31_556_952  # seconds; a year is the mean one of the calendar
PARTS = {HOUR: (12, 60), DAY: (24, 144, 1440), WEEK: (7, 168), YEAR: (12, 52)}
FIRST_DAY = 3 * DAY  # how far into a week 1970 began, a Thursday
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
EPOCH = 500_000_000, 4_300_000_000  # seconds, between which numbers are taken for times: 1985 to 2106
LEAST_TIMES = 2  # a period is there
MOST_DRIFT = 24  # of a period: so small a part of it may be lost from the first to the last


def periods_of(plan: ColumnPlan) -> tuple[Period, ...]:
    """The periods that are told apart by the codes of a column, and there at least twice; none where it tells no time."""
    grid, kind, decimals = plan.transform, plan.value_type, 0
    calendar = grid.calendar if isinstance(grid, TextPattern) else None
    if isinstance(grid, DecimalLattice) and grid.group == 1:
        kind, decimals = pa.int64(), grid.digits
        grid = IntegerLattice(grid.offset, grid.step)
    elif isinstance(grid, NumberText):
        kind, decimals = pa.int64(), grid.decimals
        grid = IntegerLattice(0, 1)
    elif calendar is not None:
        grid = IntegerLattice(0, 1)
    if not isinstance(grid, IntegerLattice) or grid.unsigned:
        return ()
    low, high = (grid.offset + code * grid.width for code in (plan.lo, plan.hi))
    ticks = _ticks_of(kind, low, high, decimals) if calendar is None else calendar.ticks_of_day / DAY
    found = list[Period]()
    for seconds, parts in PARTS.items() if ticks else ():
        n_ticks = round(seconds * ticks)
        length = (2 * n_ticks + grid.width) // (2 * grid.width)
        n_off = abs(length * grid.width - n_ticks)  # codes may be no part of a period: days of a year, times in steps of 61 seconds
        drifts = n_off * (high - low) * MOST_DRIFT > n_ticks * n_ticks
        if not 2 <= length <= MOST_PERIOD or drifts or high - low < LEAST_TIMES * n_ticks:
            continue
        first = int(FIRST_DAY * ticks) if seconds == WEEK else 0
        found.append(Period(length, (grid.offset + first) // grid.width % length, tuple(dict.fromkeys(min(n, length) for n in parts))))
    return tuple(found)


def _ticks_of(kind: pa.DataType, low: int, high: int, decimals: int) -> float:
    """Stored units a second of a type, or of integers that may be times since 1970, seconds where these have decimals; 0 of others."""
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return TICKS[kind.unit]
    if pa.types.is_date32(kind):
        return 1 / DAY
    if pa.types.is_date64(kind):
        return TICKS["ms"]
    if pa.types.is_integer(kind):
        units = (10**decimals,) if decimals else TICKS.values()
        return next((n for n in units if n * EPOCH[0] <= low and high < n * EPOCH[1]), 0)
    return 0
