"""One-hot groups: columns of two values of which at most one is set in a row.

Each tells something of every other one: together, what a single column of categories would. No column has as many contexts as a
group has columns, so that one context counts how many of those decoded before are set (the feature `among`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.features import MOST_AMONG, MOST_AMONG_ALL, Feature
from vae_core.exact.ordering import SampleColumn

ROWS = 16_384  # that groups are looked for on
MOST_TRIED = 64  # groups that a column is held against
EXCEPTIONS = 0.05  # of the rows in which a column is set, those in which another one of its group may be
LEAST_SHARE = 0.2  # of rows, those in which a group has a column set: rare flags are hardly ever set together by chance
USES = 4  # of a feature by a column, at most: by its states, its values, and which of them repeat
LEAST_COLUMNS = 3  # two tell each other by their values


@dataclass(slots=True)
class _Group:
    """off : the code of its columns where they are not set      union : (n,) rows in which one is      members : the often set first"""

    off: int
    union: NDArray[np.bool_]
    members: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Flags:
    """Of a one-hot group.

    members : its columns, those that are set most often first      off : the code of a column that is not set
    most    : columns that are counted at most
    """

    members: tuple[int, ...]
    off: int
    most: int = MOST_AMONG

    def before(self, column: int, placed: Sequence[int]) -> Feature | None:
        """Whether a column of those placed earlier is set, the ones that are most often where that is too many; None where a value says it.

        placed : columns in coding order
        """
        known = set(placed)
        among = [j for j in self.members if j in known and j != column][: self.most]
        if len(among) < 2:
            return None
        last = max(among, key=placed.index)  # so that the one before it is counted already
        return Feature("among", last, self.off, 2, tuple(sorted(j for j in among if j != last)))


def one_hot_groups(columns: Sequence[SampleColumn]) -> Mapping[int, Flags]:
    """Column -> the group that it is of, on a sample. At most EXCEPTIONS of its rows break that.

    A column is set where it has the higher of its two codes; where that makes no group of it, where it has the lower one: codes of texts
    are in the order of these (`ja` comes before `nein`).
    """
    step = max(1, -(-len(columns[0].values) // ROWS)) if columns else 1
    flags: list[tuple[int, int, int, NDArray[np.bool_]]] = []
    for c in columns:
        values = c.values[::step]
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        is_high = values == high
        if high > low and (is_high | (values == low)).all():
            flags.append((c.column, low, high, is_high))
    most = min(MOST_AMONG, MOST_AMONG_ALL // (USES * max(1, len(flags))))
    found = _grouped([(column, low, is_high) for column, low, _, is_high in flags], most)
    return found | _grouped([(column, high, ~is_high) for column, _, high, is_high in flags if column not in found], most)


def _grouped(flags: Sequence[tuple[int, int, NDArray[np.bool_]]], most: int) -> dict[int, Flags]:
    """Column -> its group, of (column, the code where it is not set, (n,) where it is)."""
    groups = list[_Group]()
    for column, off, is_set in sorted(flags, key=lambda flag: -np.count_nonzero(flag[2])):
        often = np.count_nonzero(is_set)
        for group in groups[:MOST_TRIED]:
            if group.off == off and np.count_nonzero(group.union & is_set) <= EXCEPTIONS * often:
                break
        else:
            groups.append(group := _Group(off, np.zeros(len(is_set), np.bool_)))
        group.union |= is_set
        group.members.append(column)
    found = [g for g in groups if len(g.members) >= LEAST_COLUMNS and np.count_nonzero(g.union) >= LEAST_SHARE * len(g.union)]
    return {j: Flags(tuple(g.members), g.off, most) for g in found for j in g.members}
