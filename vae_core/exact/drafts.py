"""A quick code of every column: what a fit has whenever its time is out, and how long all searches would take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vae_core.exact.arrange import Arrangement
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.sampled import Sampled

COLUMN_S, ROW_S = 0.3, 1.2e-5  # of a whole search, a column and one of its rows: twice what they take, so that no draft is made in vain
QUICK_S = 0.04  # of a quick search, before any is timed
WHOLE, WHOLE_ROWS = 3.0, 8_600  # quick searches that a whole one takes as long as, and one more for so many rows
SURE = 48  # columns that have a quick search whether or not there is time
OWN_SHARE = 0.1  # of what a column takes on its own, beside what one other saves of it: what it may gain


def is_ample(n_columns: int, n_rows: int, seconds: float) -> bool:
    """Whether whole searches of all columns surely take no longer."""
    return n_columns * (COLUMN_S + ROW_S * n_rows) < seconds


def whole_search(quick_s: float, n_rows: int) -> float:
    """Seconds a whole search of a column takes, of those that a quick one took."""
    return quick_s * (WHOLE + n_rows / WHOLE_ROWS)


def rows_for(seconds: float, quick_s: float) -> int:
    """About how many rows a whole search of a column can be of to take so long."""
    return int(max(0.0, min(1e9, seconds / max(quick_s, 1e-9)) - WHOLE) * WHOLE_ROWS)


def drafted(
    sampled: Sampled, columns: Sequence[SampleColumn], alone: Mapping[int, float], tick: Callable[[], bool], now: Callable[[], float],
    until: float, report: Callable[[Arrangement], None],
) -> tuple[Arrangement, float]:
    """Columns with quick codes, and the seconds one took: all of them, in the order given, where there is time for that until then; else
    those that may gain most first, as many at a time as there is time for, each of these sets in the order given.

    alone : bits of each column over the sample without any context
    """
    found, pace, began = Arrangement(sampled, columns, tick, now), QUICK_S, now()
    left = list(columns)
    gains = {c.column: max(sampled.gains.get(c.column, {}).values(), default=0.0) * sampled.n_rows for c in columns}
    while left:
        n = max(int((until - now()) / pace), SURE - len(found.order))
        likely = sorted(left, key=lambda c: -gains[c.column] - OWN_SHARE * alone[c.column])[: max(1, n)]
        chosen = {c.column for c in likely}
        for column in [c for c in left if c.column in chosen]:
            if len(found.order) >= SURE and now() >= until:
                return found, pace
            found.add(column.column, hurry=True)
            report(found)
        pace = max(1e-6, (now() - began) / len(found.order))
        left = [c for c in left if c.column not in chosen]
    return found, pace
