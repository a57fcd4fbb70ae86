"""What a digit would cost under a set of contexts, estimated from a sample without coding it.

The code length of adaptive counts is the marginal likelihood of a Dirichlet-multinomial; a longer context is charged its own
marginal with the shorter one's (plug-in) distribution as the base measure, less what the plug-in already explains, so a
context of singletons gains nothing.

The counting is done by tally.c where there is a compiler; what is here of it is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vae_core.exact import tally
from vae_core.exact.tally import Narrow, narrow, rising

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
LOG_2 = float(np.log(2))
RANK_WEIGHTS = (16, 512)  # those that fine contexts, of which each is seen a few times, had better be smoothed by, too
SEARCH_WEIGHTS = (2, 16, 128, 1024)
ALL_WEIGHTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
WORTH_A_CALL = 200_000  # cells to be counted: what a thread wakes up for
A = TypeVar("A")
B = TypeVar("B")


class Each(Protocol):
    """How work on each of several things is done: in their order one by one, or by threads."""

    def __call__(self, work: Callable[[A], B], things: Iterable[A], /) -> Iterable[B]: ...


@dataclass(frozen=True, slots=True)
class Chain:
    """A context chain over a sample of n symbols.

    context : (n,) int32 numbers of the contexts met   n_contexts : how many these are    n_possible : how many a table has room for
    chance  : (n,) plug-in probability of each symbol  plug_in_bits : -sum(log2 chance)
    bits    : estimated code length                    weights    : a_0..a_k chosen
    """

    context: Narrow
    n_contexts: int
    n_possible: int
    chance: Floats
    bits: float
    weights: tuple[int, ...]
    plug_in_bits: float


def root(symbols: NDArray[Any], n_symbols: int) -> Chain:
    """The chain without any context."""
    n = len(symbols)
    nothing, uniform_bits = np.zeros(n, np.int32), n * float(np.log2(n_symbols))
    empty = Chain(nothing, 1, 1, np.full(n, 1 / n_symbols), uniform_bits, (), uniform_bits)
    return extend(empty, nothing, 1, symbols, n_symbols)


def extend(
    chain: Chain, level: NDArray[Any], size: int, symbols: NDArray[Any], n_symbols: int, weights: tuple[int, ...] = SEARCH_WEIGHTS
) -> Chain:
    """The chain with one more feature of `size` levels."""
    level, symbols = narrow(level, size), narrow(symbols, n_symbols)
    n_possible = chain.n_possible * size
    if not len(symbols):
        return Chain(chain.context, 0, n_possible, chain.chance, 0.0, (*chain.weights, weights[0]), 0.0)
    c = tally.library()
    if c is None:
        pairs = _Pairs(chain, level, size, symbols, n_symbols)
        bits, weight = pairs.best(weights)
        context, n_contexts, chance, plug_in_bits = pairs.context, pairs.n_contexts, *pairs.chances(weight)
    else:
        context, n_contexts, chance, weight, bits, plug_in_bits = tally.extend(
            c, symbols, n_symbols, chain.context, chain.n_contexts, chain.chance, level, size, weights
        )
    bits += chain.bits - chain.plug_in_bits
    return Chain(context, n_contexts, n_possible, chance, bits, (*chain.weights, weight), plug_in_bits)


def rank(
    chain: Chain, features: Sequence[tuple[NDArray[Any], int]], symbols: NDArray[Any], n_symbols: int, each: Each = map
) -> list[float]:
    """Bits of the chain with one more feature, for each of several, (n,) levels and their number; by the best of two weights.

    each : map, or the map of a pool of threads
    """
    if not len(symbols) or not features:
        return [0.0] * len(features)
    symbols = narrow(symbols, n_symbols)

    def ranked(part: Sequence[tuple[NDArray[Any], int]]) -> list[float]:
        levels, sizes = [narrow(level, size) for level, size in part], [size for _, size in part]
        c = tally.library()
        if c is None:
            return [_Pairs(chain, level, size, symbols, n_symbols).best(RANK_WEIGHTS)[0] for level, size in zip(levels, sizes, strict=True)]
        return tally.rank(c, symbols, n_symbols, chain.context, chain.n_contexts, chain.chance, levels, sizes, RANK_WEIGHTS)

    n_features = max(1, WORTH_A_CALL // len(symbols))
    parts = [features[k : k + n_features] for k in range(0, len(features), n_features)]
    return [chain.bits - chain.plug_in_bits + bits for found in each(ranked, parts) for bits in found]


class _Pairs:
    """The pairs of symbol and context, one level deeper than a chain, that a sample has.

    context : (n,) int32 contexts, renumbered       n_contexts : how many
    """

    def __init__(self, chain: Chain, level: Narrow, size: int, symbols: Narrow, n_symbols: int) -> None:
        n, n_keys = len(symbols), chain.n_contexts * size * n_symbols
        key = (chain.context.astype(np.int64) * size + level) * n_symbols + symbols
        if n_keys <= 4 * n + 4096:
            dense = np.bincount(key, minlength=n_keys)
            pairs = np.flatnonzero(dense)
            self._counts = dense[pairs]
            position = np.zeros(len(dense), np.int64)
            position[pairs] = np.arange(len(pairs))
            self._pair = position[key]
        else:
            pairs, self._pair, self._counts = np.unique(key, return_inverse=True, return_counts=True)
        first = np.empty(len(pairs), np.int64)
        first[self._pair] = np.arange(n)
        self._prior = chain.chance[first]
        owner = pairs // n_symbols
        fresh = np.concatenate([[True], owner[1:] != owner[:-1]])
        self._totals = np.add.reduceat(self._counts, np.flatnonzero(fresh))
        self._owner = np.cumsum(fresh) - 1
        self._single = self._counts == 1
        self._several = np.flatnonzero(~self._single)
        self.n_contexts = len(self._totals)

    def bits(self, weight: int) -> float:
        """What the symbols take under a smoothing weight."""
        base = weight / 16 * self._prior
        total = float(rising(weight, len(self._pair))[self._totals].sum()) - float(np.log(base[self._single]).sum())
        start = base[self._several]
        return (total - float((_log_gamma(start + self._counts[self._several]) - _log_gamma(start)).sum())) / LOG_2

    def best(self, weights: Sequence[int]) -> tuple[float, int]:
        """The least that the symbols take under one of the weights, the first of equals, and that weight."""
        return min(((self.bits(w), w) for w in weights), key=lambda found: found[0])

    @property
    def context(self) -> Narrow:
        """(n,) context of each row."""
        found: Narrow = self._owner.astype(np.int32)[self._pair]
        return found

    def chances(self, weight: int) -> tuple[Floats, float]:
        """(n,) plug-in probability of each symbol, and the bits by these."""
        a = weight / 16
        chance = ((self._counts + a * self._prior) / (self._totals[self._owner] + a))[self._pair]
        return chance, float(-np.log2(chance).sum())


def _log_gamma(x: Floats) -> Floats:
    """log Gamma of positive x, to about 1e-9: Stirling's series seven steps up, brought back by the product."""
    product = x.copy()
    for k in range(1, 7):
        product *= x + k
    z = x + 7
    series: Floats = (z - 0.5) * np.log(z) - z + 0.9189385332046727 + (1 / 12 - 1 / (360 * z * z)) / z - np.log(product)
    return series
