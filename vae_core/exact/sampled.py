"""A sample as the coder will see it when it comes to a column: what can be conditioned on, as levels of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.cells import ColumnCode, to_minutes
from vae_core.exact.costs import Each
from vae_core.exact.counts import MAX_CELLS
from vae_core.exact.digits import Digits
from vae_core.exact.features import FRACTIONS, MAX_LEVELS, N_STATES, STEP_CLASSES, Decoded, Feature, Surroundings
from vae_core.exact.linear import Linear
from vae_core.exact.ordering import SampleColumn, quantile_edges
from vae_core.exact.regress import Regression
from vae_core.exact.schedule import STEPS, STRIDE, neighbours, passes
from vae_core.exact.tally import Narrow, narrow

Ints = NDArray[np.int64]
RELATED = 30  # columns that features are made of
MAX_EXACT_LEVELS = MAX_LEVELS - 2


@dataclass(slots=True)
class Sampled:
    """The sample as the coder will see it when it comes to a column.

    decoded : all columns' integers (minutes of clocks)       placed  : those coded before this one
    gains   : as ordering.orders has them                     ordered : the placed ones that gain from their neighbouring rows
    searched, regressions, _edges, _levels : of columns, what other searches found that this one may ask for again
    """

    n_rows: int
    n_total: int
    decoded: Decoded
    placed: list[SampleColumn] = field(default_factory=list)
    ordered: set[int] = field(default_factory=set)
    gains: dict[int, dict[int, float]] = field(default_factory=dict)
    each: Each = map
    searched: dict[tuple[int, tuple[int, ...], frozenset[int]], tuple[ColumnCode, float]] = field(default_factory=dict)
    regressions: dict[int, Regression] = field(default_factory=dict)
    _edges: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    _levels: dict[Feature, Narrow] = field(default_factory=dict)

    def edges(self, column: int, n_bins: int) -> tuple[int, ...]:
        """Edges that split the values of a column evenly."""
        if (column, n_bins) not in self._edges:
            self._edges[column, n_bins] = quantile_edges(self.decoded.values[column], n_bins)
        return self._edges[column, n_bins]

    def levels(self, feature: Feature) -> Narrow:
        """(n_rows,) levels of a feature of another column."""
        if feature not in self._levels:
            self._levels[feature] = narrow(self.decoded.computed(feature), feature.size)
        return self._levels[feature]

    def related(self, column: int, n: int) -> list[SampleColumn]:
        """At most n columns placed earlier, those that tell most of a column first."""
        gains = self.gains.get(column, {})
        return sorted(self.placed, key=lambda c: -gains.get(c.column, 0.0))[:n]


def decoded_sample(columns: Sequence[SampleColumn]) -> Decoded:
    """All columns of a sample as a coder knows them once they are decoded."""
    found = Decoded(len(columns[0].values) if columns else 0)
    for c in columns:
        found.values[c.column] = to_minutes(c.values) if looks_like_clock(c) else c.values
        found.states[c.column] = c.state
    return found


def looks_like_clock(column: SampleColumn) -> bool:
    """HHMM integers: all in 0..2400 with minutes below 60, and enough of them to tell."""
    valid = column.values if column.state is None else column.values[column.state == 0]
    if len(valid) < 200 or column.lo < 0 or column.hi > 2400 or column.hi < 1000:
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


@dataclass(slots=True)
class Rows:
    """The active rows of a column of the sample, and what is known of them whatever the digits.

    own : (n_rows,) the column itself        active : (n_active,) rows        alone : without features of its own neighbouring rows
    """

    sampled: Sampled
    column: int
    own: Ints
    active: Ints
    alone: bool
    step_of: Ints = field(init=False)
    _around: tuple[Ints, Ints, Ints] = field(init=False)  # the active rows that have neighbours, these
    _levels: dict[Feature, Narrow] = field(default_factory=dict)
    _candidates: list[Feature] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.step_of, left_of, right_of = (g[self.active] for g in level_of_rows(self.sampled.n_rows))
        known = np.flatnonzero(self.step_of < STRIDE)
        self._around = known, self.own[left_of[known]], self.own[right_of[known]]

    def levels(self, feature: Feature) -> Narrow:
        """(n_active,) levels."""
        if feature not in self._levels:
            if feature.column < 0:
                found = narrow(self._own_levels(feature), feature.size)
            else:
                found = self.sampled.levels(feature)
                if len(self.active) < len(found):
                    found = found[self.active]
            self._levels[feature] = found
        return self._levels[feature]

    def _own_levels(self, feature: Feature) -> Ints:
        if feature.kind == "level":
            return np.searchsorted(-np.array(STEPS), -self.step_of) + 1
        known, left, right = self._around
        out = np.full(len(self.active), feature.size - 1, np.int64)
        out[known] = Surroundings(STEPS[-1], left, right, None).levels(feature, len(known))
        return out

    def candidates(self) -> list[Feature]:
        """Every feature there is, whatever the digits."""
        if self._candidates:
            return self._candidates
        found: list[Feature] = []
        for c in self.sampled.related(self.column, RELATED):
            values = self.sampled.decoded.values[c.column]
            low, high = int(values.min(initial=0)), int(values.max(initial=0))
            if high - low < MAX_EXACT_LEVELS:
                found.append(Feature("value", c.column, low, high - low + 2))
            if high - low > 20 and not c.categorical:
                for n_bins in (8, 32) if high - low < 200 else (8, 32, 128):
                    edges = self.sampled.edges(c.column, n_bins)
                    found.append(Feature("bins", c.column, 0, len(edges) + 1, edges))
            if c.state is not None:
                found.append(Feature("state", c.column, 0, N_STATES))
            if c.column in self.sampled.ordered:
                edges = self.sampled.edges(c.column, 16)
                found.append(Feature("before", c.column, 0, len(edges) + 1, edges))
                found.append(Feature("step", c.column, 0, STEP_CLASSES))
        own = self.own[self.active]
        fine, coarse = quantile_edges(own, 128), quantile_edges(own, 16)
        if len(fine) and not self.alone:
            found += [Feature(kind, -1, 0, len(fine) + 2, fine) for kind in ("left", "right")]
            found += [Feature(kind, -1, 0, len(coarse) + 2, coarse) for kind in ("left", "right", "between")]
            found += [Feature("spread", -1, 0, 65), Feature("level", -1, 0, len(STEPS) + 1)]
        self._candidates = found
        return found


@dataclass(slots=True)
class Bench:
    """One digit scheme on the sample: its digits, and the levels of any feature, for the active rows."""

    rows: Rows
    scheme: Digits
    linear: Linear | None
    digits: list[Narrow] = field(default_factory=list)
    raw_bits: float = 0.0
    guess: Ints | None = None
    _levels: dict[Feature, Narrow] = field(default_factory=dict)
    _candidates: list[Feature] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows, sampled = self.rows, self.rows.sampled
        if self.linear is not None:
            guess, fraction = np.zeros(sampled.n_rows, np.int64), np.zeros(sampled.n_rows, np.int64)
            step_of, left_of, right_of = level_of_rows(sampled.n_rows)
            anchor = step_of >= STRIDE if self.linear.by_level else np.zeros(len(step_of), bool)
            for picked, alone in ((np.flatnonzero(anchor), True), (np.flatnonzero(~anchor), not self.linear.by_level)):
                left, right = (None, None) if alone else (left_of[picked], right_of[picked])
                guess[picked], fraction[picked] = self.linear.guess(sampled.decoded, picked, rows.own, left, right)
            self.guess = guess[rows.active]
            for n_bins in (8, 32, 128):
                edges = quantile_edges(self.guess, n_bins)
                feature = Feature("guess", -1, 0, len(edges) + 1, edges)
                self._levels[feature] = narrow(feature.levels(self.guess), feature.size)
            self._levels[Feature("fraction", -1, 0, FRACTIONS)] = narrow(fraction[rows.active], FRACTIONS)
        self._candidates = [*rows.candidates(), *self._levels]
        digits, n_raw, _ = self.scheme.split(rows.own[rows.active], self.guess)
        self.digits = [narrow(digit, size) for digit, size in zip(digits, self.scheme.sizes, strict=True)]
        self.raw_bits = float(n_raw.sum())

    def candidates(self, n_symbols: int) -> list[Feature]:
        """Every feature that fits a table with n_symbols symbols."""
        return [f for f in self._candidates if f.size * n_symbols <= MAX_CELLS]

    def level(self, feature: Feature) -> tuple[Narrow, int]:
        """(n_active,) levels, and how many there are."""
        return self._levels[feature] if feature in self._levels else self.rows.levels(feature), feature.size
