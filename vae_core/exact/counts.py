"""Adaptive context tables: a symbol's distribution from counts under longer and longer contexts, in integers.

Level 0 has no context, level k the first k features. Each level smooths towards the one above it,

    P_k(s | c) = (16 n_k(c, s) 2**20 + a_k P_{k-1}(s | c')) // (16 n_k(c) + a_k)         a_k in sixteenths of a count

(a Pitman-Yor-like chain without discount; Teh 2006, and the KT estimator for k = 0), and the coder's frequencies are P_K + 1.
Nothing is stored for a table: encoder and decoder both learn it, chunk after chunk.

The divisions are products with an inverse that is a little too large (rans.UP): exact for as many rows as a block may have,
where numerators stay below 2**47, divisors below 2**27 and quotients at 2**20 or less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy.passes import Contexts
from vae_core.entropy.rans import UP

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
SCALE_BITS = 20
COUNT = float(1 << (SCALE_BITS + 4))
FEW_CELLS = 2048
SMALL_TABLE = 16384  # cells
WIDE_TABLE = 1 << 20  # cells; larger ones are held in less memory
MANY_ROWS = 1 << 10  # running sums over so many are beyond int32
MAX_CELLS = 1 << 23


def n_contexts(sizes: Sequence[int]) -> int:
    """Product of the feature sizes."""
    product = 1
    for size in sizes:
        product *= size
    return product


class AdaptiveCounts:
    """Counts of one digit.

    sizes   : levels of each feature, outermost context first
    weights : a_0..a_K, sixteenths of a count, K + 1 of them
    n_blocks : blocks that learn each on its own: context numbers of level k are counted through all of them, n_contexts(sizes[:k]) of each
    """

    def __init__(self, n_symbols: int, sizes: Sequence[int], weights: Sequence[int], n_blocks: int = 1) -> None:
        self.n_symbols = n_symbols
        self.n_blocks = n_blocks
        self.sizes = tuple(sizes)
        self.weights = tuple(weights)
        n_levels = [n_blocks * n_contexts(self.sizes[:k]) for k in range(len(self.sizes) + 1)]
        # 16 n_k 2**20 in floating point: counts below 2**24 are exact in either type, and no conversion stands between them and a quotient
        self._counts: list[Floats] = [
            np.zeros((n, n_symbols), np.dtype(np.float64 if n * n_symbols <= WIDE_TABLE else np.float32)) for n in n_levels
        ]
        self._divisors = [np.full(n, float(weight)) for n, weight in zip(n_levels, self.weights, strict=True)]  # 16 n_k + a_k
        # of each level as rows under those of the level above
        self._under = [
            (counts.reshape(before, -1, n_symbols), divisors.reshape(before, -1, 1), float(weight))
            for counts, divisors, weight, before in zip(self._counts, self._divisors, self.weights, [n_blocks, *n_levels], strict=False)
        ]
        self._uniform: Floats = np.full((1, n_symbols), float((1 << SCALE_BITS) // n_symbols))
        self._places = [np.empty(n, np.int64) for n in n_levels]  # scratch: where a context was met last in this chunk

    def contexts(self, levels: Sequence[Ints], n: int) -> list[Ints]:
        """(n,) context numbers for every table level."""
        return Contexts.of(self.sizes, levels).numbers(slice(None), n, None)

    def running(self, contexts: Sequence[Ints]) -> tuple[Ints, Ints]:
        """(running sums of the frequencies of all rows (`rans.Channel.code_running`), (n,) row of each symbol) for one chunk."""
        depth = len(self.sizes)
        if len(self._places[-1]) * self.n_symbols <= SMALL_TABLE * self.n_blocks:
            return self._sums(self._all()), contexts[-1]
        some, table = _distinct(contexts[depth], self._places[depth])
        wanted: list[tuple[Ints, Ints | None]] = [(contexts[depth].take(some), None)]
        for k in range(depth - 1, 0, -1):
            link: Ints | None = None
            if len(some) * self.n_symbols > FEW_CELLS:  # else a copy of the level above for each costs less than to share
                fewer, link = _distinct(contexts[k].take(some), self._places[k])
                some = some.take(fewer)
            wanted.append((contexts[k].take(some), link))
        chance = self._smooth(0, self._counts[0], self._divisors[0], self._uniform)
        link = None if self.n_blocks == 1 else contexts[0].take(some)
        for k, (rows, below) in enumerate(reversed(wanted), 1):
            above = np.floor(chance, out=chance) if link is None else np.floor(chance).take(link, axis=0)
            chance = self._smooth(k, self._counts[k].take(rows, axis=0), self._divisors[k].take(rows), above)
            link = below
        return self._sums(chance), table

    def cumulative(self, contexts: Sequence[Ints]) -> tuple[Ints, Ints]:
        """((n_distinct, n_symbols + 1) cumulative frequencies, (n,) row of each symbol) for one chunk."""
        sums, table = self.running(contexts)
        starts = sums[:-1 : self.n_symbols]
        return sums[np.arange(len(starts))[:, None] * self.n_symbols + np.arange(self.n_symbols + 1)] - starts[:, None], table

    def _all(self) -> Floats:
        """The chances of every context of the deepest level: for a small table that is less work than to pick some."""
        chance = self._uniform
        for k, (counts, divisors, weight) in enumerate(self._under):
            if k:
                np.floor(chance, out=chance)
            chance = _chances(counts, divisors, chance.reshape(-1, 1, self.n_symbols), weight)
        return chance

    def _smooth(self, k: int, counts: Floats, divisors: Floats, above: Floats) -> Floats:
        """Chances of contexts of level k, to be rounded down, from those of the level above."""
        return _chances(counts, divisors[:, None], above, float(self.weights[k]))

    def _sums(self, chance: Floats) -> Ints:
        """Running sums of the frequencies, from the chances of the deepest level that are not rounded yet."""
        frequency: Ints = chance.reshape(-1).astype(np.int32 if chance.size < MANY_ROWS * self.n_symbols else np.int64)
        frequency += 1
        sums = np.empty(len(frequency) + 1, frequency.dtype)
        sums[0] = 0
        np.add.accumulate(frequency, 0, None, sums[1:])
        return sums

    def update(self, contexts: Sequence[Ints], symbols: Ints) -> None:
        """Count n symbols under their contexts."""
        alone = int(self.n_blocks == 1)
        if alone:
            self._divisors[0] += 16 * len(symbols)
            np.add.at(self._counts[0].reshape(-1), symbols, COUNT)
        for counts, divisors, context in zip(self._counts[alone:], self._divisors[alone:], contexts[alone:], strict=True):
            np.add.at(divisors, context, 16.0)
            cell = context * self.n_symbols
            cell += symbols
            np.add.at(counts.reshape(-1), cell, counts.dtype.type(COUNT))  # of the table's own type, else np.add.at takes its slow path


def _chances(counts: Floats, divisors: Floats, above: Floats, weight: float) -> Floats:
    """The formula above, not rounded down yet."""
    found: NDArray[np.float64] = counts + above * weight
    found *= UP / divisors
    return found


def _distinct(numbers: Ints, place: Ints) -> tuple[Ints, Ints]:
    """Where each of (n,) numbers is met for the last time, and for each of them which of those is its own.

    place : scratch with room for every number; what it holds is of no matter
    """
    here = np.arange(len(numbers))
    place[numbers] = here
    last = place.take(numbers)
    first = last == here
    rank = first.cumsum()
    rank -= 1
    return first.nonzero()[0], rank.take(last)
