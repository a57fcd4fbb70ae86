"""Choosing, on a sample, how each column is coded: its place in the order, digits, prediction and contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vae_core.exact import regress
from vae_core.exact.cells import FLAGS, CellPlan, ColumnCode, DigitPlan, Recall, to_minutes
from vae_core.exact.costs import ALL_WEIGHTS, RANK_WEIGHT, Chain, Each, extend, rank, root
from vae_core.exact.counts import MAX_CELLS
from vae_core.exact.digits import Digits, Direct, Residual
from vae_core.exact.features import FRACTIONS, MAX_LEVELS, N_STATES, STEP_CLASSES, Decoded, Feature, Surroundings
from vae_core.exact.keys import best_keys
from vae_core.exact.linear import Linear, term_values
from vae_core.exact.ordering import SampleColumn, quantile_edges
from vae_core.exact.recall import Recalled
from vae_core.exact.regress import Regression
from vae_core.exact.schedule import LAST_CHUNKS, STEPS, STRIDE, neighbours, passes
from vae_core.exact.tally import Narrow, narrow

Ints = NDArray[np.int64]
SHORTLIST = 10
PRESCREEN_ROWS = 18_000
SWEEPS = 3  # over the features of a digit, for others in their places
RELATED = 30
KEYED = 12
KEY_ROWS = 30_000
FINALISTS = 5
FINAL_ROWS = 15_000
DEAR_BITS = 0.3  # a cell above which a column learns in short chunks
MAX_PARENTS = 4
WORTH_RECALLING = 16_000.0  # bits of a column over the dataset
MAX_EXACT_LEVELS = MAX_LEVELS - 2
MIN_GAIN_BITS = 500.0  # what naming one more feature costs in the stored plan, with a margin


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


def search_column(sampled: Sampled, column: SampleColumn, tick: Callable[[], bool]) -> tuple[ColumnCode, float]:
    """The code of one column given those placed before it, and its estimated bits over the sample.

    `tick` tells whether time is left; without it the search keeps what it has.
    """
    # all that the search looks at: what else is placed makes no difference
    related = tuple(c.column for c in sampled.related(column.column, max(RELATED, regress.MAX_PAIRED)))
    situation = column.column, related, frozenset(sampled.ordered.intersection(related[:RELATED]))
    if situation not in sampled.searched:
        found = _search_column(sampled, column, tick)
        if not tick():
            return found
        sampled.searched[situation] = found
    return sampled.searched[situation]


def _search_column(sampled: Sampled, column: SampleColumn, tick: Callable[[], bool]) -> tuple[ColumnCode, float]:
    clock = looks_like_clock(column)
    values = sampled.decoded.values[column.column]
    state_plan, state_bits = CellPlan(Direct.over(0, N_STATES - 1), None, (DigitPlan((), (16,)),)), 0.0
    active: NDArray[np.bool_] | None = None
    if column.state is not None:
        state_plan, state_bits = _search_cells(
            sampled, column.column, column.state.astype(np.int64), None, [(Direct.over(0, N_STATES - 1), None)], tick
        )
        active = column.state == 0
    options = _options(sampled, values, active, column, clock)
    value_plan, bits = _search_cells(sampled, column.column, values, active, options, tick)
    recall, value_plan, bits = _search_recall(sampled, column, values, active, (value_plan, bits), clock, tick)
    return ColumnCode(column.column, column.fill, clock, state_plan, value_plan, recall), bits + state_bits


def _search_recall(
    sampled: Sampled,
    column: SampleColumn,
    values: Ints,
    active: NDArray[np.bool_] | None,
    plain: tuple[CellPlan, float],
    clock: bool,
    tick: Callable[[], bool],
) -> tuple[Recall | None, CellPlan, float]:
    """The plan as it is, or a recall and the plan of the rows it leaves, whichever takes fewer bits over the sample."""
    scale = sampled.n_total / max(1, sampled.n_rows)
    if plain[1] * scale < WORTH_RECALLING or not tick():
        return None, *plain
    rows = np.arange(len(values)) if active is None else np.flatnonzero(active)
    some = rows[:KEY_ROWS]
    near = {c.column: sampled.decoded.values[c.column][some] for c in sampled.related(column.column, KEYED)}
    keys, _ = best_keys(near, values[some], plain[1] * len(some) / max(1, len(rows)))
    if not keys:
        return None, *plain
    recalled = Recalled(sampled.decoded, keys, active)
    same = recalled.same(values)
    flags, flag_bits = _search_cells(sampled, column.column, same, recalled.seen, [(FLAGS, None)], tick)
    rest = same == 0 if active is None else (same == 0) & active
    options = _options(sampled, values, rest, column, clock, alone=True)
    value, bits = _search_cells(sampled, column.column, values, rest, options, tick, alone=True)
    if bits + flag_bits > plain[1] - MIN_GAIN_BITS / scale:
        return None, *plain
    return Recall(keys, flags), value, bits + flag_bits


def _options(
    sampled: Sampled, values: Ints, active: NDArray[np.bool_] | None, column: SampleColumn, clock: bool, alone: bool = False
) -> list[tuple[Digits, Linear | None]]:
    """The digit schemes worth a look: the value itself, and its distance from one or two predictions; `alone`: none of its
    own neighbouring rows."""
    lo, hi = (int(to_minutes(np.array([v], np.int64))[0]) for v in (column.lo, column.hi)) if clock else (column.lo, column.hi)
    found: list[tuple[Digits, Linear | None]] = []
    if hi - lo < 1 << 16:
        found.append((Direct.over(lo, hi), None))
    valid = np.arange(len(values)) if active is None else np.flatnonzero(active)
    if hi - lo >= 8 and not (column.categorical and hi - lo < 1 << 16):
        for linear in _predictions(sampled, column.column, values, valid, hi - lo, alone):
            spread = min(62, max(2, (hi - lo).bit_length()))
            found.append((Residual(spread), linear))
            if hi - lo < 1 << 8:
                found.append((Direct.over(lo, hi), linear))
    return found or [(Residual(62), Linear((), lo << 16 if abs(lo) < 1 << 45 else 0))]


@lru_cache(4)
def _level_of_rows(n_rows: int) -> tuple[Ints, Ints, Ints]:
    """(step, left, right) of every row under the by-level schedule; neighbours are -1 on anchors."""
    step_of, left_of, right_of = (np.zeros(n_rows, np.int64) for _ in range(3))
    for step, rows in passes(n_rows, True):
        left, right = neighbours(step, rows, n_rows)
        step_of[rows], left_of[rows], right_of[rows] = step, left, right
    return step_of, left_of, right_of


def _predictions(sampled: Sampled, column: int, values: Ints, valid: Ints, span: int, alone: bool) -> list[Linear]:
    """Linear predictions from earlier columns alone, and with neighbouring rows; `alone`: the column's rest after recall."""
    rng = np.random.default_rng(column)  # the same rows whenever the column is searched for
    step_of, left_of, right_of = _level_of_rows(sampled.n_rows)
    inner = valid[step_of[valid] < STRIDE]
    rows = np.sort(rng.permutation(inner)[:8000])
    if len(rows) < 64 or span >= 1 << 52:
        return [Linear((), _bias(values[valid]))]
    near = sampled.related(column, regress.MAX_PAIRED)
    numeric = [c.column for c in near if not c.categorical and 2 < c.hi - c.lo < 1 << 44]
    regression = Regression(values[rows].astype(np.float64))
    if not alone:
        regression = sampled.regressions.setdefault(column, regression)

    def variable(kind: str, column: int) -> regress.Variable:
        found = term_values(kind, column, sampled.decoded, rows, values, left_of[rows], right_of[rows])
        return regress.Variable(kind, column, found.astype(np.float64))

    at = [variable("at", c) for c in numeric]
    plain = regression.fit(at)
    if alone:
        return [Linear(plain.terms, plain.bias)]
    around = regression.fit([variable("mean", -1), *(variable("bend", c) for c in numeric), *at])
    found = [Linear(plain.terms, plain.bias)]
    if around.terms and any(t.kind != "at" for t in around.terms) and around.score < plain.score - 0.05:
        found.append(regress.linear(around, plain))
    return found


def _bias(values: Ints) -> int:
    middle = int(np.median(values)) if len(values) else 0
    return middle << 16 if abs(middle) < 1 << 45 else 0


@dataclass(slots=True)
class _Rows:
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
        self.step_of, left_of, right_of = (g[self.active] for g in _level_of_rows(self.sampled.n_rows))
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
class _Bench:
    """One digit scheme on the sample: its digits, and the levels of any feature, for the active rows."""

    rows: _Rows
    scheme: Digits
    linear: Linear | None
    digits: list[Narrow] = field(default_factory=list)
    raw_bits: float = 0.0
    guess: Ints | None = None
    _levels: dict[Feature, Narrow] = field(default_factory=dict)
    _candidates: list[Feature] = field(default_factory=list)
    shortlists: dict[int, list[Feature]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, sampled = self.rows, self.rows.sampled
        if self.linear is not None:
            guess, fraction = np.zeros(sampled.n_rows, np.int64), np.zeros(sampled.n_rows, np.int64)
            step_of, left_of, right_of = _level_of_rows(sampled.n_rows)
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


def _search_cells(
    sampled: Sampled,
    column: int,
    own: Ints,
    active: NDArray[np.bool_] | None,
    options: Sequence[tuple[Digits, Linear | None]],
    tick: Callable[[], bool],
    alone: bool = False,
) -> tuple[CellPlan, float]:
    rows = _Rows(sampled, column, own, np.arange(len(own)) if active is None else np.flatnonzero(active), alone)
    benches = [_Bench(rows, scheme, linear) for scheme, linear in options]
    trials = sorted(((_quick_bits(bench), bench) for bench in benches), key=lambda t: t[0])
    best: tuple[CellPlan, float] | None = None
    for quick, bench in trials[:2]:
        if best is not None and (quick > 1.15 * trials[0][0] or not tick()):
            break
        found = _search_digits(bench, tick)
        if best is None or found[1] < best[1]:
            best = found
    assert best is not None
    return best


def _quick_bits(bench: _Bench) -> float:
    """Bits of the first digit under its best single feature, the others given the digit before."""
    scheme, bits = bench.scheme, bench.raw_bits
    for k, symbols in enumerate(bench.digits):
        size = scheme.sizes[k]
        chain = root(symbols, size)
        if k:
            bits += extend(chain, bench.digits[k - 1], scheme.sizes[k - 1], symbols, size).bits
            continue
        short = _shortlist(bench, 0, symbols, size)[:1]
        bits += min([chain.bits, *rank(chain, [bench.level(f) for f in short], symbols, size)])
    return bits


def _shortlist(bench: _Bench, digit: int, symbols: Narrow, n_symbols: int) -> list[Feature]:
    """The candidates that gain most alone, on a thinned sample, best first."""
    if digit not in bench.shortlists:
        stride = max(1, len(symbols) // PRESCREEN_ROWS)
        thin = np.ascontiguousarray(symbols[::stride])
        base, candidates = root(thin, n_symbols), bench.candidates(n_symbols)
        levels = [(level[::stride], size) for level, size in map(bench.level, candidates)]
        prices = rank(base, levels, thin, n_symbols, bench.rows.sampled.each)
        scored = sorted((bits, k) for k, bits in enumerate(prices) if bits < base.bits * 1.02 + 50)
        bench.shortlists[digit] = [candidates[k] for _, k in scored[:SHORTLIST]]
    return bench.shortlists[digit]


def _search_digits(bench: _Bench, tick: Callable[[], bool]) -> tuple[CellPlan, float]:
    plans, total = [], bench.raw_bits
    for k, symbols in enumerate(bench.digits):
        features = _Parents(bench, k).found(tick)
        chain = _refine(bench, k, features, symbols, bench.scheme.sizes[k])
        plans.append(DigitPlan(tuple(features), chain.weights))
        total += chain.bits
    dear = total > DEAR_BITS * max(1, len(bench.rows.active))
    return CellPlan(bench.scheme, bench.linear, tuple(plans), LAST_CHUNKS[0] if dear else LAST_CHUNKS[1]), total


@dataclass(frozen=True, slots=True)
class _Set:
    """Features in the order of a chain; the chain over all rows, and over every so many: enough to tell which of many features
    are worth a look at all of them."""

    features: tuple[Feature, ...]
    chain: Chain
    thin: Chain


class _Parents:
    """The search for the features of one digit."""

    def __init__(self, bench: _Bench, k: int) -> None:
        self._bench, self._k = bench, k
        self._symbols, self._n_symbols, self._each = bench.digits[k], bench.scheme.sizes[k], bench.rows.sampled.each
        self._stride = max(1, len(self._symbols) // FINAL_ROWS)
        self._thin = np.ascontiguousarray(self._symbols[:: self._stride])
        self._worth = MIN_GAIN_BITS * bench.rows.sampled.n_rows / max(1, bench.rows.sampled.n_total)

    def found(self, tick: Callable[[], bool]) -> tuple[Feature, ...]:
        """Added one at a time, then each tried without, as long as that saves and there is time."""
        best = _Set((), root(self._symbols, self._n_symbols), root(self._thin, self._n_symbols))
        if self._k:
            best = self._with(best, Feature("digit", -1, 0, self._bench.scheme.sizes[self._k - 1]))
        if best.chain.bits <= self._worth:
            return best.features
        n_fixed = len(best.features)
        while len(best.features) < MAX_PARENTS and (not best.features[n_fixed:] or tick()):
            more = self._added(best)
            if more is None or best.chain.bits - more.chain.bits < self._worth:
                break
            best = more
        # a feature may have lost its use to later ones; the last one was the best of all
        for _ in range(SWEEPS):
            for i in range(n_fixed, len(best.features) - 1):
                if not tick():
                    break
                trial = self._added(self._of([*best.features[:i], *best.features[i + 1 :]]))
                if trial is not None and best.chain.bits - trial.chain.bits >= self._worth:
                    best = trial
                    break
            else:
                break
        return best.features

    def _of(self, features: Sequence[Feature]) -> _Set:
        found = _Set((), root(self._symbols, self._n_symbols), root(self._thin, self._n_symbols))
        for f in features:
            found = self._with(found, f)
        return found

    def _level(self, feature: Feature) -> tuple[Narrow, int]:
        return (self._bench.digits[self._k - 1], feature.size) if feature.kind == "digit" else self._bench.level(feature)

    def _with(self, known: _Set, feature: Feature) -> _Set:
        level, size = self._level(feature)
        thin = extend(known.thin, level[:: self._stride], size, self._thin, self._n_symbols, (RANK_WEIGHT,))
        return _Set((*known.features, feature), extend(known.chain, level, size, self._symbols, self._n_symbols), thin)

    def _added(self, known: _Set) -> _Set | None:
        """The set with the feature that saves most."""
        room = MAX_CELLS // (known.chain.n_possible * self._n_symbols)
        usable = [f for f in self._bench.candidates(self._n_symbols) if f.size <= room and f not in known.features]
        if not usable:
            return None
        levels = [(level[:: self._stride], size) for level, size in map(self._level, usable)]
        usable = _cheapest(usable, rank(known.thin, levels, self._thin, self._n_symbols, self._each))[:FINALISTS]
        bits = rank(known.chain, [self._level(f) for f in usable], self._symbols, self._n_symbols, self._each)
        return self._with(known, _cheapest(usable, bits)[0])


def _cheapest(features: Sequence[Feature], bits: Sequence[float]) -> list[Feature]:
    """The features by their bits."""
    return [features[k] for k in sorted(range(len(features)), key=lambda k: bits[k])]


def _refine(bench: _Bench, k: int, features: Sequence[Feature], symbols: Narrow, n_symbols: int) -> Chain:
    """The chain again, its smoothing weights chosen from the full grid."""
    chain = root(symbols, n_symbols)
    for f in features:
        level = (bench.digits[k - 1], f.size) if f.kind == "digit" else bench.level(f)
        chain = extend(chain, *level, symbols, n_symbols, ALL_WEIGHTS)
    return chain
