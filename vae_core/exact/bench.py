"""A way to write a column tried on the sample: its digits, and the levels of every feature it may be conditioned on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.counts import MAX_CELLS
from vae_core.exact.digits import Digits
from vae_core.exact.features import (
    FRACTIONS,
    MAX_LEVELS,
    N_STATES,
    NOISE_LEVELS,
    STEP_CLASSES,
    Feature,
    Surroundings,
    roughness,
)
from vae_core.exact.forward import fixed_totals, known_of_rows
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import Linear
from vae_core.exact.matches import LEVELS as MATCH_LEVELS
from vae_core.exact.matches import Match
from vae_core.exact.options import Option
from vae_core.exact.ordering import edges_of
from vae_core.exact.recurring import MOST_BESIDE, best_beside, keys_to_try
from vae_core.exact.sampled import Sampled, level_of_rows
from vae_core.exact.schedule import STEPS, STRIDE
from vae_core.exact.tally import Narrow, narrow

Ints = NDArray[np.int64]
MAX_EXACT_LEVELS = MAX_LEVELS - 2
PLACES = (32, 1024)  # parts that pieces are cut into
CLASSED = 4_096  # places of a piece that are: the plan lists them
FINEST_CLASS = 1 / 16  # codes, that places of less are off alike
AT_ONCE = 4  # memories: each may take 16 MiB, a thread


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
    memories: dict[tuple[int, ...], Sequence[Match]] = field(default_factory=dict)  # by keys of lanes: those worth a try once more
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
            if not feature.is_given:
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
        for c in self.sampled.related(self.column, self.sampled.effort.related):
            values = self.sampled.decoded.values[c.column]
            low, high = int(values.min(initial=0)), int(values.max(initial=0))
            if high - low < MAX_EXACT_LEVELS:
                found.append(Feature("value", c.column, low, high - low + 2))
            if high - low > 20 and not c.categorical:
                for n_bins in (8, 32) if high - low < 200 else (8, 32, 128):
                    edges = self.sampled.edges(c.column, n_bins)
                    found.append(Feature("bins", c.column, 0, len(edges) + 1, edges))
            for p in c.periods:
                found += [Feature("phase", c.column, p.length, n, (p.start,)) for n in p.parts]
            if c.state is not None:
                found.append(Feature("state", c.column, 0, N_STATES))
            if c.column in self.sampled.ordered:
                edges = self.sampled.edges(c.column, 16)
                found.append(Feature("before", c.column, 0, len(edges) + 1, edges))
                found.append(Feature("step", c.column, 0, STEP_CLASSES))
        if set_before := self.sampled.set_before(self.column):
            found.append(set_before)
        piece = self.sampled.decoded.piece
        for period in (piece, *(w for w in self.sampled.widths if w < piece)) if piece else ():
            found += [Feature("place", -1, period, size) for size in dict.fromkeys(min(period, n) for n in PLACES)]
        own = np.sort(self.own[self.active])
        fine, coarse = edges_of(own, 128), edges_of(own, 16)
        if len(fine) and not self.alone and not self.sampled.widths:
            found += [Feature(kind, -1, 0, len(fine) + 2, fine) for kind in ("left", "right")]
            found += [Feature(kind, -1, 0, len(coarse) + 2, coarse) for kind in ("left", "right", "between")]
            found += [Feature("spread", -1, 0, 65), Feature("level", -1, 0, len(STEPS) + 1)]
        self._candidates = found
        return found


@dataclass(slots=True)
class Bench:
    """One digit scheme on the sample: its digits, and the levels of any feature, for the active rows."""

    rows: Rows
    option: Option
    digits: list[Narrow] = field(default_factory=list)
    raw_bits: float = 0.0
    guess: Ints | None = None
    _levels: dict[Feature, Narrow] = field(default_factory=dict)
    _candidates: list[Feature] = field(default_factory=list)
    matches: tuple[Match, ...] = ()

    @property
    def scheme(self) -> Digits:
        """How values are written as digits."""
        return self.option.scheme

    @property
    def is_mixed(self) -> bool:
        """Whether several predictions are mixed."""
        return self.option.linear is not None and self.option.linear.mixed is not None

    def __post_init__(self) -> None:
        rows, others, recalled = self.rows, self.rows.candidates(), dict[Match, Narrow]()
        if self.option.forward is not None:
            recalled = self._walk(self.option.forward)
            others = [f for f in others if f.is_given]
        elif self.option.linear is not None:
            self._predict(self.option.linear)
        digits, n_raw, _ = self.scheme.split(rows.own[rows.active], self.guess)
        self.digits = [narrow(digit, size) for digit, size in zip(digits, self.scheme.sizes, strict=True)]
        self.raw_bits = float(n_raw.sum())
        if recalled:
            self._remember(recalled)
        self._candidates = [*others, *self._levels]

    def _predict(self, linear: Linear) -> None:
        """What a prediction from other columns or rows around tells."""
        rows, sampled = self.rows, self.rows.sampled
        guess, fraction = np.zeros(sampled.n_rows, np.int64), np.zeros(sampled.n_rows, np.int64)
        step_of, left_of, right_of = level_of_rows(sampled.n_rows)
        anchor = step_of >= STRIDE if linear.by_level else np.zeros(len(step_of), bool)
        for picked, alone in ((np.flatnonzero(anchor), True), (np.flatnonzero(~anchor), not linear.by_level)):
            left, right = (None, None) if alone else (left_of[picked], right_of[picked])
            guess[picked], fraction[picked] = linear.guess(sampled.decoded, picked, rows.own, left, right)
        self._know_guess(guess[rows.active], fraction[rows.active])

    def _walk(self, keys: tuple[int, ...]) -> dict[Match, Narrow]:
        """What is known of each row when rows are coded one after another; returns the levels of the matches tried, the leader first."""
        rows, sampled = self.rows, self.rows.sampled
        linear = self.option.linear
        assert linear is not None
        above = sampled.decoded.above is not None and not keys and not self.is_mixed and not sampled.widths
        lanes = Lanes(sampled.decoded, keys, rows.active, linear, above=above, stretch=self.option.stretch)
        lead = self.option.leader
        likely = rows.memories[keys] if keys in rows.memories else keys_to_try(sampled, rows.column)
        tried = (*([] if lead is None else [lead]), *(m for m in likely if m != lead))
        totals = fixed_totals(lanes, linear, sampled.decoded)
        found, mixed = np.zeros((4 + len(tried), sampled.n_rows), np.int64), np.zeros((2 * self.is_mixed, sampled.n_rows), np.int64)
        off = np.zeros(sampled.n_rows, np.int64)
        leader, first = (None, ()) if lead is None else (0, (lead,))
        starts = range(0, max(1, len(tried)), AT_ONCE)

        def known_by(start: int) -> Ints:
            return known_of_rows(lanes, linear, sampled.decoded, rows.own, (*first, *tried[start : start + AT_ONCE]), leader, totals)

        for start, known in zip(starts, sampled.each(known_by, starts), strict=True):
            group = tried[start : start + AT_ONCE]
            found[:4, lanes.rows] = known[:4]
            found[4 + start : 4 + start + len(group), lanes.rows] = known[4 + len(first) :][: len(group)]
            if self.is_mixed:
                mixed[:, lanes.rows] = known[-2:]
            if above:
                off[lanes.rows] = known[-1]
        guess, fraction, noise, before, *levels = found[:, rows.active]
        ranked = np.sort(before)
        for n_bins in (128, 16):
            edges = edges_of(ranked, n_bins)
            feature = Feature("left", -1, 0, len(edges) + 2, edges)
            self._levels[feature] = narrow(feature.levels(before), feature.size)
        self._levels[Feature("noise", -1, 0, NOISE_LEVELS)] = narrow(noise, NOISE_LEVELS)
        for kind, level in zip(("apart", "around"), mixed[:, rows.active], strict=False):
            self._levels[Feature(kind, -1, 0, NOISE_LEVELS)] = narrow(level, NOISE_LEVELS)
        if above:
            self._levels[Feature("off", -1, 0, NOISE_LEVELS)] = narrow(off[rows.active], NOISE_LEVELS)
            self._look_above(lanes)
        self._look_back(lanes)
        if 1 < sampled.decoded.piece <= CLASSED:
            classes = _classes(rows.own[rows.active] - guess, rows.active % sampled.decoded.piece, sampled.decoded.piece)
            self._levels[classes] = narrow(sampled.decoded.computed(classes)[rows.active], classes.size)
        self._know_guess(guess, fraction)
        return {match: narrow(level, MATCH_LEVELS) for match, level in zip(tried, levels, strict=True)}

    def _look_above(self, lanes: Lanes) -> None:
        """Know what stands in the rows above, and beside them."""
        rows, found = self.rows, np.empty(self.rows.sampled.n_rows, np.int64)
        for beside in (0, -1, 1):
            values = lanes.above(lanes.sorted(rows.own), beside)
            ranked = np.sort(values)
            for n_bins in (128, 16):
                edges = edges_of(ranked, n_bins)
                feature = Feature("above", -1, beside, len(edges) + 2, edges)
                found[lanes.rows] = feature.levels(values)
                found[lanes.rows[: int(lanes.edges[1])]] = feature.size - 1  # in the first step nothing is known
                self._levels[feature] = narrow(found[rows.active], feature.size)

    def _look_back(self, lanes: Lanes) -> None:
        """Know what stands above the cells of tensors, and beside that."""
        rows, widths = self.rows, self.rows.sampled.widths
        truth, back = rows.own[lanes.rows], np.empty(rows.sampled.n_rows, np.int64)

        def told(feature: Feature, levels: Ints) -> None:
            levels[: int(lanes.edges[1])] = feature.size - 1  # in the first step nothing is known
            back[lanes.rows] = levels
            self._levels[feature] = narrow(back[rows.active], feature.size)

        for lag in dict.fromkeys(lag for w in widths for lag in (w, w + 1, w - 1)):
            values = lanes.back(truth, lag)
            ranked = np.sort(values)
            for n_bins in (128, 16):
                edges = edges_of(ranked, n_bins)
                feature = Feature("back", -1, lag, len(edges) + 2, edges)
                told(feature, feature.levels(values))
        for width in widths:
            told(Feature("rough", -1, width, NOISE_LEVELS), roughness(partial(lanes.back, truth), width))

    def _remember(self, recalled: Mapping[Match, Narrow]) -> None:
        """Know the leader, if there is one, and the memories that tell most of the first digit."""
        tried, levels, first = list(recalled), list(recalled.values()), int(self.option.leader is not None)
        noise = self._levels[Feature("noise", -1, 0, NOISE_LEVELS)]
        beside, ranking = best_beside(self.digits[0], self.scheme.sizes[0], noise, levels[first:], self.rows.sampled)
        for number, k in enumerate([*range(first), *(first + k for k in beside)]):
            self._levels[Feature("match", -1, number, MATCH_LEVELS)] = levels[k]
            self.matches = (*self.matches, tried[k])
        keys, linear = self.option.forward, self.option.linear
        if keys is not None and linear is not None and linear.terms and not first:  # beside a constant other memories tell most
            self.rows.memories.setdefault(keys, [tried[k] for k in ranking[:MOST_BESIDE]])

    def _know_guess(self, guess: Ints, fraction: Ints) -> None:
        self.guess, ranked = guess, np.sort(guess)
        for n_bins in (8, 32, 128):
            edges = edges_of(ranked, n_bins)
            feature = Feature("guess", -1, 0, len(edges) + 1, edges)
            self._levels[feature] = narrow(feature.levels(guess), feature.size)
        self._levels[Feature("fraction", -1, 0, FRACTIONS)] = narrow(fraction, FRACTIONS)

    def candidates(self, n_symbols: int) -> list[Feature]:
        """Every feature that fits a table with n_symbols symbols."""
        return [f for f in self._candidates if f.size * n_symbols <= MAX_CELLS]

    def level(self, feature: Feature) -> tuple[Narrow, int]:
        """(n_active,) levels, and how many there are."""
        return self._levels[feature] if feature in self._levels else self.rows.levels(feature), feature.size


def _classes(off: Ints, place: Ints, piece: int) -> Feature:
    """Classes of the places of a piece by how far (n,) values at them are off: two an octave."""
    n = np.maximum(np.bincount(place, minlength=piece), 1)
    mean = np.bincount(place, np.abs(off.astype(np.float64)), piece) / n
    level = np.rint(2 * np.log2(mean + FINEST_CLASS)).astype(np.int64)
    level -= level.min()
    return Feature("class", -1, piece, int(level.max()) + 1, tuple(level.tolist()))
