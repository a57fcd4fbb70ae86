"""Choosing, on a sample, the features that the digits of a scheme are conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vae_core.exact.bench import Bench
from vae_core.exact.costs import ALL_WEIGHTS, RANK_WEIGHTS, Chain, extend, rank, root
from vae_core.exact.counts import MAX_CELLS
from vae_core.exact.features import Feature
from vae_core.exact.matches import Match
from vae_core.exact.plans import MAX_FEATURES, CellPlan, DigitPlan
from vae_core.exact.schedule import DEFAULT_CHUNK, LONG_CHUNK, Chunks
from vae_core.exact.tally import Narrow

SINGLE_ROWS, FINAL_ROWS = 18_000, 15_000
FINALISTS = 5
MAX_PARENTS = MAX_FEATURES
SWEEPS = 3  # over the features of a digit, for others in their places
DEAR_BITS = 0.3  # a cell above which a column learns in short chunks
EDGE_BITS = 7.0  # that the plan takes for an edge of bins
MIN_GAIN_BITS = 150.0  # what naming one more feature costs in the stored plan, with a margin


def quick_bits(bench: Bench) -> float:
    """Bits of the first digit under the single feature that seems best, the others given the digit before."""
    scheme, bits = bench.scheme, bench.raw_bits
    for k, symbols in enumerate(bench.digits):
        size = scheme.sizes[k]
        chain = root(symbols, size)
        if k:
            bits += extend(chain, bench.digits[k - 1], scheme.sizes[k - 1], symbols, size).bits
        elif best := _best_alone(bench, symbols, size):
            bits += min(chain.bits, *rank(chain, [bench.level(best)], symbols, size))
        else:
            bits += chain.bits
    return bits


def _best_alone(bench: Bench, symbols: Narrow, n_symbols: int) -> Feature | None:
    """The feature that saves most on every so many rows."""
    stride, candidates = max(1, len(symbols) // SINGLE_ROWS), bench.candidates(n_symbols)
    thin = np.ascontiguousarray(symbols[::stride])
    levels = [(level[::stride], size) for level, size in map(bench.level, candidates)]
    bits = rank(root(thin, n_symbols), levels, thin, n_symbols, bench.rows.sampled.each)
    return _cheapest(candidates, bits)[0] if candidates else None


def search_digits(bench: Bench, tick: Callable[[], bool]) -> tuple[CellPlan, float]:
    """A plan for the digits of a scheme, and its estimated bits."""
    plans, total = [], bench.raw_bits
    for k, symbols in enumerate(bench.digits):
        features = _Parents(bench, k).found(tick)
        chain = _refine(bench, k, features, symbols, bench.scheme.sizes[k])
        plans.append(DigitPlan(tuple(features), chain.weights))
        total += chain.bits
    dear = total > DEAR_BITS * max(1, len(bench.rows.active))
    chunks = replace(Chunks.over(DEFAULT_CHUNK if dear else LONG_CHUNK, bench.rows.sampled.n_total), stretch=bench.option.stretch)
    leader = None if bench.option.leader is None else 0
    digits, matches = _numbered(plans, bench.matches, leader)
    return CellPlan(bench.scheme, bench.option.linear, digits, chunks, bench.option.forward, matches, leader), total


def _numbered(plans: Sequence[DigitPlan], matches: Sequence[Match], leader: int | None) -> tuple[tuple[DigitPlan, ...], tuple[Match, ...]]:
    """Digits, and the matches that they are conditioned on or led by, numbered anew."""
    used = sorted({f.lo for plan in plans for f in plan.features if f.kind == "match"} | ({leader} if leader is not None else set()))
    digits = [
        replace(plan, features=tuple(replace(f, lo=used.index(f.lo)) if f.kind == "match" else f for f in plan.features)) for plan in plans
    ]
    return tuple(digits), tuple(matches[k] for k in used)


@dataclass(frozen=True, slots=True)
class _Set:
    """Features in the order of a chain; the chain over all rows, and over every so many: enough to tell which of many features
    are worth a look at all of them."""

    features: tuple[Feature, ...]
    chain: Chain
    thin: Chain


class _Parents:
    """The search for the features of one digit."""

    def __init__(self, bench: Bench, k: int) -> None:
        self._bench, self._k = bench, k
        self._symbols, self._n_symbols, self._each = bench.digits[k], bench.scheme.sizes[k], bench.rows.sampled.each
        self._stride = max(1, len(self._symbols) // FINAL_ROWS)
        self._thin = np.ascontiguousarray(self._symbols[:: self._stride])
        self._scale = bench.rows.sampled.n_rows / max(1, bench.rows.sampled.n_total)
        self._worth = MIN_GAIN_BITS * self._scale

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
            if more is None or self._cost(best) - self._cost(more) < self._worth:
                break
            best = more
        # a feature may have lost its use to later ones; the last one was the best of all
        for _ in range(SWEEPS):
            for i in range(n_fixed, len(best.features) - 1):
                if not tick():
                    break
                trial = self._added(self._of([*best.features[:i], *best.features[i + 1 :]]))
                if trial is not None and self._cost(best) - self._cost(trial) >= self._worth:
                    best = trial
                    break
            else:
                break
        return best.features

    def _cost(self, known: _Set) -> float:
        """Bits of a set over the sample, with those that naming it takes in the plan."""
        return known.chain.bits + sum(map(self._price, known.features))

    def _price(self, feature: Feature) -> float:
        if feature.kind == "among":
            return 0.0  # such a list repeats another one but for a column
        return EDGE_BITS * self._scale * len(feature.edges)

    def _of(self, features: Sequence[Feature]) -> _Set:
        found = _Set((), root(self._symbols, self._n_symbols), root(self._thin, self._n_symbols))
        for f in features:
            found = self._with(found, f)
        return found

    def _level(self, feature: Feature) -> tuple[Narrow, int]:
        return (self._bench.digits[self._k - 1], feature.size) if feature.kind == "digit" else self._bench.level(feature)

    def _with(self, known: _Set, feature: Feature) -> _Set:
        level, size = self._level(feature)
        thin = extend(known.thin, level[:: self._stride], size, self._thin, self._n_symbols, RANK_WEIGHTS)
        return _Set((*known.features, feature), extend(known.chain, level, size, self._symbols, self._n_symbols), thin)

    def _added(self, known: _Set) -> _Set | None:
        """The set with the feature that saves most."""
        room = MAX_CELLS // (known.chain.n_possible * self._n_symbols)
        usable = [f for f in self._bench.candidates(self._n_symbols) if f.size <= room and f not in known.features]
        if not usable:
            return None
        levels = [(level[:: self._stride], size) for level, size in map(self._level, usable)]
        thin = rank(known.thin, levels, self._thin, self._n_symbols, self._each)
        usable = _cheapest(usable, [b + self._price(f) / self._stride for f, b in zip(usable, thin, strict=True)])[:FINALISTS]
        bits = rank(known.chain, [self._level(f) for f in usable], self._symbols, self._n_symbols, self._each)
        return self._with(known, _cheapest(usable, [b + self._price(f) for f, b in zip(usable, bits, strict=True)])[0])


def _cheapest(features: Sequence[Feature], bits: Sequence[float]) -> list[Feature]:
    """The features by their bits."""
    return [features[k] for k in sorted(range(len(features)), key=lambda k: bits[k])]


def _refine(bench: Bench, k: int, features: Sequence[Feature], symbols: Narrow, n_symbols: int) -> Chain:
    """The chain again, its smoothing weights chosen from the full grid."""
    chain = root(symbols, n_symbols)
    for f in features:
        level = (bench.digits[k - 1], f.size) if f.kind == "digit" else bench.level(f)
        chain = extend(chain, *level, symbols, n_symbols, ALL_WEIGHTS)
    return chain
