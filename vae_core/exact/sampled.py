"""The sample a search looks at, as the coder will see it when it comes to a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.exact.clock import to_minutes
from vae_core.exact.costs import Each
from vae_core.exact.dense import Dense
from vae_core.exact.effort import FULL, Effort
from vae_core.exact.features import Decoded, Feature
from vae_core.exact.groups import Flags
from vae_core.exact.lags import Spectrum, lagged_copies, spectrum
from vae_core.exact.ordering import WIDE, SampleColumn, edges_of
from vae_core.exact.plans import ColumnCode
from vae_core.exact.price import FREE, OF_MANY_ROWS, SIZE, Price
from vae_core.exact.products import Products
from vae_core.exact.regress import Regression
from vae_core.exact.schedule import neighbours, passes
from vae_core.exact.tally import Narrow, narrow
from vae_core.exact.units import Unit, best_unit

Ints = NDArray[np.int64]
Situation = tuple[int, tuple[int, ...], frozenset[int], frozenset[int], Feature | None]  # what the search of a column looks at


@dataclass(slots=True)
class Sampled:
    """The sample as the coder will see it when it comes to a column.

    decoded : all columns' integers (minutes of clocks)       placed  : those coded before this one
    gains   : as ordering.orders has them                     ordered : the placed ones that gain from their neighbouring rows
    numeric : the columns that are amounts                    each    : how work on each of many features is done
    remembers : whether matches are looked for             effort : how much a search looks at
    price   : what a code that is read sooner is worth   groups : column -> the one-hot group it is of
    widths  : rows are cells of tensors, with the cell above so many before (grids.planes_of)      dense : of vectors, their prediction
    searched, regressions, products, _edges, _levels, _copies, _spectra, _sorted : of columns, what other searches found that this may
              ask for again
    """

    n_rows: int
    n_total: int
    decoded: Decoded
    placed: list[SampleColumn] = field(default_factory=list)
    ordered: set[int] = field(default_factory=set)
    gains: dict[int, dict[int, float]] = field(default_factory=dict)
    numeric: frozenset[int] = frozenset()
    each: Each = map
    remembers: bool = False
    widths: tuple[int, ...] = ()
    effort: Effort = FULL
    price: Price = FREE
    dense: Dense | None = None
    groups: Mapping[int, Flags] = field(default_factory=dict)
    searched: dict[Situation, tuple[ColumnCode, float]] = field(default_factory=dict)
    regressions: dict[int, Regression] = field(default_factory=dict)
    products: dict[int, Products] = field(default_factory=dict)
    _edges: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    _levels: dict[Feature, Narrow] = field(default_factory=dict)
    _copies: dict[int, dict[int, int]] = field(default_factory=dict)
    _spectra: dict[int, Spectrum | None] = field(default_factory=dict)
    _sorted: dict[int, NDArray[np.int32]] = field(default_factory=dict)

    def edges(self, column: int, n_bins: int) -> tuple[int, ...]:
        """Edges that split the values of a column evenly."""
        if (column, n_bins) not in self._edges:
            self._edges[column, n_bins] = edges_of(self.decoded.values[column][self.sorted_by(column)], n_bins)
        return self._edges[column, n_bins]

    def levels(self, feature: Feature) -> Narrow:
        """(n_rows,) levels of a feature of another column."""
        if feature not in self._levels:
            self._levels[feature] = narrow(self.decoded.computed(feature), feature.size)
        return self._levels[feature]

    def copies(self, column: int) -> dict[int, int]:
        """Columns placed earlier -> the lag at which they are much like a column, if any."""
        if column not in self._copies:
            looked_for = column in self.numeric and len(self.numeric) <= WIDE and not self.effort.is_quick
            others = {j: self._spectrum(j) for j in self.decoded.values if j != column and j in self.numeric} if looked_for else {}
            self._copies[column] = lagged_copies(others, self._spectrum(column)) if looked_for else {}
        placed = {c.column for c in self.placed}
        return {j: lag for j, lag in self._copies[column].items() if j in placed}

    def _spectrum(self, column: int) -> Spectrum | None:
        if column not in self._spectra:
            self._spectra[column] = spectrum(self.decoded.values[column])
        return self._spectra[column]

    def sorted_by(self, column: int) -> NDArray[np.int32]:
        """(n_rows,) rows sorted by a column, ties as they are."""
        if column not in self._sorted:
            self._sorted[column] = np.argsort(self.decoded.values[column], kind="stable").astype(np.int32)
        return self._sorted[column]

    def unit_of(self, column: SampleColumn, rows: Ints) -> Unit | None:
        """What a column's values are multiples of in these rows, of the columns placed earlier."""
        if column.lattice is None:
            return None
        others = self.placed if len(self.placed) <= WIDE else self.related(column.column, self.effort.related)
        known = {c.column: c.lattice for c in others if c.lattice is not None}
        values = {j: self.decoded.values[j][rows] for j in known}
        return best_unit(self.decoded.values[column.column][rows], column.lattice, values, known)

    def set_before(self, column: int) -> Feature | None:
        """Whether another column of its one-hot group is set, of those placed earlier; None where it has none or only one."""
        flags = self.groups.get(column)
        return None if flags is None else flags.before(column, [c.column for c in self.placed])

    @property
    def looks_far(self) -> bool:
        """Whether rows are told by those a week before, in long lanes, which numpy reads slowly."""
        return self.price.numpy <= OF_MANY_ROWS[SIZE].numpy and not self.price.is_high and kernel.available()

    def related(self, column: int, n: int) -> list[SampleColumn]:
        """At most n columns placed earlier, those that tell most of a column first."""
        gains = self.gains.get(column, {})
        return sorted(self.placed, key=lambda c: -gains.get(c.column, 0.0))[:n]


def decoded_sample(columns: Sequence[SampleColumn], above: Ints | None = None) -> Decoded:
    """All columns of a sample as a coder knows them once they are decoded, and its rows above."""
    found = Decoded(len(columns[0].values) if columns else 0, above=above)
    for c in columns:
        found.values[c.column] = to_minutes(c.values) if looks_like_clock(c) else c.values
        found.states[c.column] = c.state
    return found


def looks_like_clock(column: SampleColumn) -> bool:
    """HHMM integers: all in 0..2400 with minutes below 60, and enough of them to tell."""
    valid = column.values if column.state is None else column.values[column.state == 0]
    if column.form or len(valid) < 200 or column.lo < 0 or column.hi > 2400 or column.hi < 1000:
        return False
    return bool((valid % 100 < 60).all()) and len(np.unique(valid)) > 48


@lru_cache(4)
def level_of_rows(n_rows: int) -> tuple[Ints, Ints, Ints]:
    """(step, left, right) of every row under the by-level schedule; neighbours are -1 on anchors."""
    step_of, left_of, right_of = (np.zeros(n_rows, np.int64) for _ in range(3))
    for step, rows in passes(n_rows, True):
        left, right = neighbours(step, rows, n_rows)
        step_of[rows], left_of[rows], right_of[rows] = step, left, right
    return step_of, left_of, right_of
