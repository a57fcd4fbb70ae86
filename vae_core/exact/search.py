"""Choosing, on a sample, how each column is coded: its place in the order, digits, prediction and contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.rans import Encoder
from vae_core.exact import regress
from vae_core.exact.cells import FLAGS, CellPlan, ColumnCode, DigitPlan, Recall, code_cells, to_minutes
from vae_core.exact.costs import ALL_WEIGHTS, RANK_WEIGHTS, Chain, extend, root
from vae_core.exact.counts import MAX_CELLS
from vae_core.exact.digits import Digits, Direct, Residual
from vae_core.exact.features import FRACTIONS, MAX_LEVELS, N_STATES, NOISE_LEVELS, STEP_CLASSES, Decoded, Feature, Surroundings
from vae_core.exact.forward import Lanes, known_of_rows
from vae_core.exact.keys import best_keys
from vae_core.exact.lags import forward_terms, sort_orders
from vae_core.exact.linear import Linear, term_values
from vae_core.exact.ordering import PRESCREEN_ROWS, SampleColumn, quantile_edges
from vae_core.exact.recall import Recalled
from vae_core.exact.schedule import DEFAULT_CHUNK, LONG_CHUNK, STEPS, STRIDE, neighbours, passes

Ints = NDArray[np.int64]
SHORTLIST = 10
RELATED = 12
KEY_ROWS = 30_000
FINALISTS = 3
FORWARD_BITS = 0.02  # a row that steps have to save: they take their time
MOST_TRIALS = 3  # schemes that are searched for contexts
FINAL_ROWS = 15_000
DEAR_BITS = 0.3  # a cell above which a column learns in short chunks
MAX_PARENTS = 3
WORTH_RECALLING = 16_000.0  # bits of a column over the dataset
SHORTER_CHUNKS, WORTH_SHORTER = (256, 64), 0.006  # of a column's bits
MAX_EXACT_LEVELS = MAX_LEVELS - 2
MIN_GAIN_BITS = 500.0  # what naming one more feature costs in the stored plan, with a margin


@dataclass(frozen=True, slots=True)
class Option:
    """A way to write a column worth a look. forward: as in CellPlan."""

    scheme: Digits
    linear: Linear | None = None
    forward: tuple[int, ...] | None = None


@dataclass(slots=True)
class Sampled:
    """The sample as the coder will see it when it comes to a column.

    decoded : all columns' integers (minutes of clocks)       placed  : those coded before this one
    gains   : as ordering.orders has them                     ordered : the placed ones that gain from their neighbouring rows
    """

    n_rows: int
    n_total: int
    decoded: Decoded
    placed: list[SampleColumn] = field(default_factory=list)
    ordered: set[int] = field(default_factory=set)
    gains: dict[int, dict[int, float]] = field(default_factory=dict)

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
    clock = looks_like_clock(column)
    values = sampled.decoded.values[column.column]
    state_plan, state_bits = CellPlan(Direct.over(0, N_STATES - 1), None, (DigitPlan((), (16,)),)), 0.0
    active: NDArray[np.bool_] | None = None
    if column.state is not None:
        state_plan, state_bits = _search_cells(
            sampled, column.column, column.state.astype(np.int64), None, [Option(Direct.over(0, N_STATES - 1))], tick
        )
        active = column.state == 0
    options = _options(sampled, values, active, column, clock)
    value_plan, bits = _search_cells(sampled, column.column, values, active, options, tick)
    recall, value_plan, bits = _search_recall(sampled, column, values, active, (value_plan, bits), clock, tick)
    if recall is None:
        value_plan = _in_chunks(sampled, value_plan, values, active)
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
    near = {c.column: sampled.decoded.values[c.column][some] for c in sampled.related(column.column, RELATED)}
    keys, _ = best_keys(near, values[some], plain[1] * len(some) / max(1, len(rows)))
    if not keys:
        return None, *plain
    recalled = Recalled(sampled.decoded, keys, active)
    same = recalled.same(values)
    flags, flag_bits = _search_cells(sampled, column.column, same, recalled.seen, [Option(FLAGS)], tick)
    rest = same == 0 if active is None else (same == 0) & active
    options = _options(sampled, values, rest, column, clock, alone=True)
    value, bits = _search_cells(sampled, column.column, values, rest, options, tick, alone=True)
    if bits + flag_bits > plain[1] - MIN_GAIN_BITS / scale:
        return None, *plain
    flags, value = _in_chunks(sampled, flags, same, recalled.seen), _in_chunks(sampled, value, values, rest)
    return Recall(keys, flags), value, bits + flag_bits


def _in_chunks(sampled: Sampled, plan: CellPlan, own: Ints, active: NDArray[np.bool_] | None) -> CellPlan:
    """The plan, its counts learned in shorter chunks where that saves what the time of decoding them is worth.

    No estimate shows it: the sample is coded. Without a kernel that takes long, and counts stay as they are.
    """
    if plan.forward is not None or plan.last_chunk != DEFAULT_CHUNK or not kernel.available():
        return plan
    best = _coded_bits(sampled, plan, own, active)
    for last in SHORTER_CHUNKS:
        shorter = replace(plan, last_chunk=last)
        bits = _coded_bits(sampled, shorter, own, active)
        if bits > (1 - WORTH_SHORTER) * best:
            break
        plan, best = shorter, bits
    return plan


def _coded_bits(sampled: Sampled, plan: CellPlan, own: Ints, active: NDArray[np.bool_] | None) -> float:
    encoder = Encoder()
    code_cells(encoder, plan, sampled.decoded, own.copy(), active)
    return encoder.bits


def _options(
    sampled: Sampled, values: Ints, active: NDArray[np.bool_] | None, column: SampleColumn, clock: bool, alone: bool = False
) -> list[Option]:
    """The digit schemes worth a look: the value itself, and its distance from predictions; `alone`: none of its own neighbouring
    rows."""
    lo, hi = (int(to_minutes(np.array([v], np.int64))[0]) for v in (column.lo, column.hi)) if clock else (column.lo, column.hi)
    found: list[Option] = []
    if hi - lo < 1 << 16:
        found.append(Option(Direct.over(lo, hi)))
    valid = np.arange(len(values)) if active is None else np.flatnonzero(active)
    if hi - lo >= 8 and not (column.categorical and hi - lo < 1 << 16):
        predicted = _predictions(sampled, column.column, values, valid, hi - lo)
        forward = [] if alone or hi - lo >= 1 << 44 else _forward(sampled, column.column, values, valid, predicted[0])
        for linear, keys in [*((linear, None) for linear in predicted[: 1 if alone else 2]), *forward]:
            spread = min(62, max(2, (hi - lo).bit_length()))
            found.append(Option(Residual(spread), linear, keys))
            if hi - lo < 1 << 8:
                found.append(Option(Direct.over(lo, hi), linear, keys))
    return found or [Option(Residual(62), Linear((), lo << 16 if abs(lo) < 1 << 45 else 0))]


def _forward(
    sampled: Sampled, column: int, values: Ints, valid: Ints, alone: Linear
) -> list[tuple[Linear, tuple[int, ...]]]:
    """Predictions of rows one after another, and the keys of the order they are in; `alone` is that of the first row of a lane."""
    near = sampled.related(column, regress.MAX_PAIRED)
    known = {c.column: sampled.decoded.values[c.column] for c in sampled.placed}
    numeric = {c.column: known[c.column] for c in near if not c.categorical and 2 < c.hi - c.lo < 1 << 44}
    found = []
    for keys in sort_orders(known, values, valid):
        lanes = Lanes(sampled.decoded, keys, valid)
        terms, bias = forward_terms(lanes, values, numeric, sampled.n_total)
        if any(term.column < 0 for term in terms):
            found.append((Linear(terms, bias, alone.terms, alone.bias), keys))
    return found


def _level_of_rows(n_rows: int) -> tuple[Ints, Ints, Ints]:
    """(step, left, right) of every row under the by-level schedule; neighbours are -1 on anchors."""
    step_of, left_of, right_of = (np.zeros(n_rows, np.int64) for _ in range(3))
    for step, rows in passes(n_rows, True):
        left, right = neighbours(step, rows, n_rows)
        step_of[rows], left_of[rows], right_of[rows] = step, left, right
    return step_of, left_of, right_of


def _predictions(sampled: Sampled, column: int, values: Ints, valid: Ints, span: int) -> list[Linear]:
    """Linear predictions from earlier columns alone, and with neighbouring rows."""
    rng = np.random.default_rng(len(sampled.placed))
    step_of, left_of, right_of = _level_of_rows(sampled.n_rows)
    inner = valid[step_of[valid] < STRIDE]
    rows = np.sort(rng.permutation(inner)[:8000])
    if len(rows) < 64 or span >= 1 << 52:
        return [Linear((), _bias(values[valid]))]
    near = sampled.related(column, regress.MAX_PAIRED)
    numeric = [c.column for c in near if not c.categorical and 2 < c.hi - c.lo < 1 << 44]
    target = values[rows].astype(np.float64)

    def variable(kind: str, column: int) -> regress.Variable:
        found = term_values(kind, column, sampled.decoded, rows, values, left_of[rows], right_of[rows])
        return regress.Variable(kind, column, found.astype(np.float64))

    at = [variable("at", c) for c in numeric]
    alone = regress.fit(target, at)
    around = regress.fit(target, [variable("mean", -1), *(variable("bend", c) for c in numeric), *at])
    found = [Linear(alone.terms, alone.bias)]
    if around.terms and any(t.kind != "at" for t in around.terms) and around.score < alone.score - 0.05:
        found.append(regress.linear(around, alone))
    return found


def _bias(values: Ints) -> int:
    middle = int(np.median(values)) if len(values) else 0
    return middle << 16 if abs(middle) < 1 << 45 else 0


@dataclass(slots=True)
class _Bench:
    """One digit scheme on the sample: its digits, and the levels of any feature, for the active rows."""

    sampled: Sampled
    column: int
    own: Ints
    active: Ints
    option: Option
    alone: bool = False  # without features of the column's own neighbouring rows
    digits: list[Ints] = field(default_factory=list)
    raw_bits: float = 0.0
    guess: Ints | None = None
    fraction: Ints | None = None
    noise: Ints | None = None
    before: Ints | None = None
    geometry: tuple[Ints, Ints, Ints] | None = None
    cache: dict[Feature, Ints] = field(default_factory=dict)
    shortlists: dict[int, list[Feature]] = field(default_factory=dict)

    @property
    def scheme(self) -> Digits:
        """How values are written as digits."""
        return self.option.scheme

    @property
    def linear(self) -> Linear | None:
        """The prediction."""
        return self.option.linear

    def __post_init__(self) -> None:
        self.geometry = _level_of_rows(self.sampled.n_rows)
        if self.option.forward is not None:
            self._walk(self.option.forward)
        elif self.linear is not None:
            guess, fraction = np.zeros(self.sampled.n_rows, np.int64), np.zeros(self.sampled.n_rows, np.int64)
            step_of, left_of, right_of = self.geometry
            anchor = step_of >= STRIDE if self.linear.by_level else np.zeros(len(step_of), bool)
            for rows, alone in ((np.flatnonzero(anchor), True), (np.flatnonzero(~anchor), not self.linear.by_level)):
                left, right = (None, None) if alone else (left_of[rows], right_of[rows])
                guess[rows], fraction[rows] = self.linear.guess(self.sampled.decoded, rows, self.own, left, right)
            self.guess, self.fraction = guess[self.active], fraction[self.active]
        self.digits, n_raw, _ = self.scheme.split(self.own[self.active], self.guess)
        self.raw_bits = float(n_raw.sum())

    def _walk(self, keys: tuple[int, ...]) -> None:
        """What is known of each row when rows are coded one after another."""
        assert self.linear is not None
        lanes = Lanes(self.sampled.decoded, keys, self.active)
        found = np.zeros((4, self.sampled.n_rows), np.int64)
        found[:, lanes.rows] = known_of_rows(lanes, self.linear, self.sampled.decoded, self.own)
        self.guess, self.fraction, self.noise, self.before = found[:, self.active]

    def levels(self, feature: Feature) -> Ints:
        """(n_active,) levels."""
        if feature not in self.cache:
            if feature.column >= 0:
                self.cache[feature] = self.sampled.decoded.feature(feature)[self.active]
            else:
                self.cache[feature] = self._own_levels(feature)
        return self.cache[feature]

    def _own_levels(self, feature: Feature) -> Ints:
        assert self.geometry is not None
        step_of, left_of, right_of = (g[self.active] for g in self.geometry)
        out = np.zeros(len(self.active), np.int64)
        if feature.kind in ("guess", "fraction", "noise") or self.option.forward is not None:
            return Surroundings(0, self.before, None, self.guess, self.fraction, self.noise).levels(feature, len(out))
        for step in STEPS:
            here = np.flatnonzero(step_of == step)
            known = step < STRIDE
            left, right = (self.own[left_of[here]], self.own[right_of[here]]) if known else (None, None)
            out[here] = Surroundings(step, left, right, None).levels(feature, len(here))
        return out


def _search_cells(
    sampled: Sampled,
    column: int,
    own: Ints,
    active: NDArray[np.bool_] | None,
    options: Sequence[Option],
    tick: Callable[[], bool],
    alone: bool = False,
) -> tuple[CellPlan, float]:
    rows = np.arange(len(own)) if active is None else np.flatnonzero(active)
    trials = []
    for option in options:
        bench = _Bench(sampled, column, own, rows, option, alone)
        trials.append((_quick_bits(bench), bench))
    trials.sort(key=lambda t: t[0])
    best: tuple[CellPlan, float] | None = None
    for quick, bench in trials[:MOST_TRIALS]:
        if best is not None and (quick > 1.15 * trials[0][0] or not tick()):
            break
        plan, bits = _search_digits(bench, tick)
        if best is None or _priced(plan, bits, len(rows)) < _priced(*best, len(rows)):
            best = plan, bits
    assert best is not None
    return best


def _priced(plan: CellPlan, bits: float, n_rows: int) -> float:
    """Bits, and what decoding step by step is taken to cost."""
    return bits + (FORWARD_BITS * n_rows if plan.forward is not None else 0.0)


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
        bits += min([chain.bits, *(extend(chain, bench.levels(f), f.size, symbols, size, RANK_WEIGHTS).bits for f in short)])
    return bits


def _candidates(bench: _Bench, n_symbols: int) -> list[Feature]:
    """Every feature that fits a table with n_symbols symbols."""
    found: list[Feature] = []
    for c in bench.sampled.related(bench.column, RELATED):
        values = bench.sampled.decoded.values[c.column]
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        if high - low < MAX_EXACT_LEVELS:
            found.append(Feature("value", c.column, low, high - low + 2))
        if high - low > 20 and not c.categorical:
            for n_bins in (8, 32) if high - low < 200 else (8, 32, 128):
                edges = quantile_edges(values, n_bins)
                found.append(Feature("bins", c.column, 0, len(edges) + 1, edges))
        if c.state is not None:
            found.append(Feature("state", c.column, 0, N_STATES))
        if c.column in bench.sampled.ordered:
            edges = quantile_edges(values, 16)
            found.append(Feature("before", c.column, 0, len(edges) + 1, edges))
            found.append(Feature("step", c.column, 0, STEP_CLASSES))
    own = bench.own[bench.active]
    fine, coarse = quantile_edges(own, 128), quantile_edges(own, 16)
    if bench.option.forward is not None:
        found += [Feature("left", -1, 0, len(edges) + 2, edges) for edges in (fine, coarse) if edges]
        found.append(Feature("noise", -1, 0, NOISE_LEVELS))
    elif len(fine) and not bench.alone:
        found += [Feature(kind, -1, 0, len(fine) + 2, fine) for kind in ("left", "right")]
        found += [Feature(kind, -1, 0, len(coarse) + 2, coarse) for kind in ("left", "right", "between")]
        found += [Feature("spread", -1, 0, 65), Feature("level", -1, 0, len(STEPS) + 1)]
    if bench.guess is not None:
        for n_bins in (8, 32, 128):
            edges = quantile_edges(bench.guess, n_bins)
            found.append(Feature("guess", -1, 0, len(edges) + 1, edges))
        found.append(Feature("fraction", -1, 0, FRACTIONS))
    return [f for f in found if f.size * n_symbols <= MAX_CELLS]


def _shortlist(bench: _Bench, digit: int, symbols: Ints, n_symbols: int) -> list[Feature]:
    """The candidates that gain most alone, on a thinned sample, best first."""
    if digit not in bench.shortlists:
        stride = max(1, len(symbols) // PRESCREEN_ROWS)
        thin = symbols[::stride]
        base = root(thin, n_symbols)
        scored = [
            (extend(base, bench.levels(f)[::stride], f.size, thin, n_symbols, RANK_WEIGHTS).bits, k, f)
            for k, f in enumerate(_candidates(bench, n_symbols))
        ]
        scored.sort(key=lambda s: (s[0], s[1]))
        bench.shortlists[digit] = [f for bits, _, f in scored if bits < base.bits * 1.02 + 50][:SHORTLIST]
    return bench.shortlists[digit]


def _search_digits(bench: _Bench, tick: Callable[[], bool]) -> tuple[CellPlan, float]:
    plans, total = [], bench.raw_bits
    scale = bench.sampled.n_total / max(1, bench.sampled.n_rows)
    for k, symbols in enumerate(bench.digits):
        n_symbols = bench.scheme.sizes[k]
        features: list[Feature] = []
        chain = root(symbols, n_symbols)
        if k:
            features.append(Feature("digit", -1, 0, bench.scheme.sizes[k - 1]))
            chain = extend(chain, bench.digits[k - 1], features[0].size, symbols, n_symbols)
        thinly = _Thinned(symbols, n_symbols)
        if k:
            thinly.chain = thinly.given(bench.digits[k - 1], features[0].size)
        short = _shortlist(bench, k, symbols, n_symbols) if chain.bits * scale > MIN_GAIN_BITS else []
        if k and short:
            short = short[:5]
        while len(features) < MAX_PARENTS and chain.bits * scale > MIN_GAIN_BITS:
            usable = [f for f in short if f not in features and chain.n_contexts * f.size * n_symbols <= MAX_CELLS]
            if not usable or (features and not tick()):
                break
            if len(usable) > FINALISTS:
                usable = sorted(usable, key=lambda f: thinly.given(bench.levels(f), f.size).bits)[:FINALISTS]
            best = min(usable, key=lambda f: extend(chain, bench.levels(f), f.size, symbols, n_symbols, RANK_WEIGHTS).bits)
            deeper = extend(chain, bench.levels(best), best.size, symbols, n_symbols)
            if (chain.bits - deeper.bits) * scale < MIN_GAIN_BITS:
                break
            features.append(best)
            chain = deeper
            thinly.chain = thinly.given(bench.levels(best), best.size)
        chain = _refine(bench, k, features, symbols, n_symbols)
        plans.append(DigitPlan(tuple(features), chain.weights))
        total += chain.bits
    dear = total > DEAR_BITS * max(1, len(bench.active))
    plan = CellPlan(bench.scheme, bench.linear, tuple(plans), DEFAULT_CHUNK if dear else LONG_CHUNK, bench.option.forward)
    return plan, total


class _Thinned:
    """A context chain over every so many rows: enough to tell which of many features are worth a look at all of them."""

    def __init__(self, symbols: Ints, n_symbols: int) -> None:
        self._stride = max(1, len(symbols) // FINAL_ROWS)
        self._symbols, self._n_symbols = symbols[:: self._stride], n_symbols
        self.chain = root(self._symbols, n_symbols)

    def given(self, level: Ints, size: int) -> Chain:
        """The chain with one more feature, (n,) levels of all rows."""
        return extend(self.chain, level[:: self._stride], size, self._symbols, self._n_symbols, RANK_WEIGHTS)


def _refine(bench: _Bench, k: int, features: Sequence[Feature], symbols: Ints, n_symbols: int) -> Chain:
    """The chain again, its smoothing weights chosen from the full grid."""
    chain = root(symbols, n_symbols)
    for f in features:
        level = bench.digits[k - 1] if f.kind == "digit" else bench.levels(f)
        chain = extend(chain, level, f.size, symbols, n_symbols, ALL_WEIGHTS)
    return chain
