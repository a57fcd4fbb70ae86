"""What a digit would cost under a set of contexts, estimated from a sample without coding it.

The code length of adaptive counts is the marginal likelihood of a Dirichlet-multinomial; a longer context is charged its own
marginal with the shorter one's (plug-in) distribution as the base measure, less what the plug-in already explains, so a
context of singletons gains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
LOG_2 = float(np.log(2))
RANK_WEIGHTS = (16,)
SEARCH_WEIGHTS = (2, 16, 128)
ALL_WEIGHTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Chain:
    """A context chain over a sample of n symbols.

    context : (n,) int64 context numbers         n_contexts : their range       chance : (n,) plug-in probability of each symbol
    bits    : estimated code length              weights    : a_0..a_k chosen   plug_in_bits : -sum(log2 chance)
    """

    context: Ints
    n_contexts: int
    chance: Floats
    bits: float
    weights: tuple[int, ...]
    plug_in_bits: float


def _log_gamma(x: Floats) -> Floats:
    """log Gamma of positive x, to about 1e-9: Stirling's series seven steps up, brought back by the product."""
    product = x.copy()
    for k in range(1, 7):
        product *= x + k
    z = x + 7
    series: Floats = (z - 0.5) * np.log(z) - z + 0.9189385332046727 + (1 / 12 - 1 / (360 * z * z)) / z - np.log(product)
    return series


def _rising(base: Floats, counts: Ints, singles: NDArray[np.bool_], more: Ints) -> float:
    """Sum of log(Gamma(base + count) / Gamma(base)); `singles` marks counts of one, `more` indexes the others."""
    total = float(np.log(base[singles]).sum())
    if len(more):
        start = base[more]
        total += float((_log_gamma(start + counts[more]) - _log_gamma(start)).sum())
    return total


def root(symbols: Ints, n_symbols: int) -> Chain:
    """The chain without any context."""
    empty = Chain(np.zeros(len(symbols), np.int64), 1, np.full(len(symbols), 1 / n_symbols), 0.0, (), 0.0)
    uniform_bits = len(symbols) * np.log2(n_symbols)
    empty = Chain(empty.context, 1, empty.chance, uniform_bits, (), uniform_bits)
    return _deepen(empty, empty.context, 1, symbols, n_symbols, SEARCH_WEIGHTS)


def extend(
    chain: Chain, level: Ints, size: int, symbols: Ints, n_symbols: int, weights: tuple[int, ...] = SEARCH_WEIGHTS
) -> Chain:
    """The chain with one more feature of `size` levels."""
    return _deepen(chain, chain.context * size + level, chain.n_contexts * size, symbols, n_symbols, weights)


def _deepen(
    base: Chain, context: Ints, n_contexts: int, symbols: Ints, n_symbols: int, weights: tuple[int, ...]
) -> Chain:
    n = len(symbols)
    if n == 0:
        return Chain(context, n_contexts, base.chance, 0.0, (*base.weights, weights[0]), 0.0)
    key = context * n_symbols + symbols
    if n_contexts * n_symbols <= 4 * n + 4096:
        dense = np.bincount(key, minlength=n_contexts * n_symbols)
        pairs = np.flatnonzero(dense)
        pair_counts = dense[pairs]
        position = np.zeros(len(dense), np.int64)
        position[pairs] = np.arange(len(pairs))
        inverse = position[key]
    else:
        pairs, inverse, pair_counts = np.unique(key, return_inverse=True, return_counts=True)
    first = np.empty(len(pairs), np.int64)
    first[inverse] = np.arange(n)
    owner_of_pair = pairs // n_symbols
    starts = np.flatnonzero(np.concatenate([[True], owner_of_pair[1:] != owner_of_pair[:-1]]))
    total_counts = np.add.reduceat(pair_counts, starts)
    totals = total_counts.astype(np.float64)
    single, alone = pair_counts == 1, total_counts == 1
    several, crowded = np.flatnonzero(~single), np.flatnonzero(~alone)
    owner = np.cumsum(np.concatenate([[False], owner_of_pair[1:] != owner_of_pair[:-1]]))
    prior = base.chance[first]
    best: tuple[float, int] | None = None
    for weight in weights:
        a = weight / 16
        bits = (_rising(np.full(len(totals), a), total_counts, alone, crowded) - _rising(a * prior, pair_counts, single, several)) / LOG_2
        if best is None or bits < best[0]:
            best = bits, weight
    assert best is not None
    a = best[1] / 16
    pair_chance = (pair_counts + a * prior) / (totals[owner] + a)
    chance = pair_chance[inverse]
    return Chain(
        context,
        n_contexts,
        chance,
        base.bits - base.plug_in_bits + best[0],
        (*base.weights, best[1]),
        float(-np.log2(chance).sum()),
    )
