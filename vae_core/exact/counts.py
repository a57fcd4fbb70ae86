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

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy.passes import Contexts
from vae_core.entropy.rans import UP

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SCALE_BITS = 20
COUNT = float(1 << (SCALE_BITS + 4))
ONE = np.int32(1)  # of the tables' own type, else np.add.at takes its slow path
FEW_CELLS = 2048
SMALL_TABLE = 16384  # cells
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
    """

    def __init__(self, n_symbols: int, sizes: Sequence[int], weights: Sequence[int]) -> None:
        self.n_symbols = n_symbols
        self.sizes = tuple(sizes)
        self.weights = tuple(weights)
        n_levels = [n_contexts(self.sizes[:k]) for k in range(len(self.sizes) + 1)]
        self._counts = [np.zeros((n, n_symbols), np.int32) for n in n_levels]
        self._uniform: Floats = np.full((1, n_symbols), float((1 << SCALE_BITS) // n_symbols))
        self._totals = [np.zeros(n, np.int64) for n in n_levels]
        self._places = [np.empty(n, np.int64) for n in n_levels]  # scratch: where a context was met last in this chunk

    def contexts(self, levels: Sequence[Ints], n: int) -> list[Ints]:
        """(n,) context numbers for every table level."""
        return Contexts.of(self.sizes, levels).numbers(slice(None), n, None)

    def cumulative(self, contexts: Sequence[Ints]) -> tuple[Floats, Ints]:
        """((n_distinct, n_symbols + 1) cumulative frequencies, (n,) row of each symbol) for one chunk.

        The frequencies are integers held in float64, where every step of their computation is exact.
        """
        if len(self._places[-1]) * self.n_symbols <= SMALL_TABLE:
            return self._edges(self._all()), contexts[-1]
        depth = len(self.sizes)
        some, table = _distinct(contexts[depth], self._places[depth])
        wanted: list[tuple[Ints, Ints | None]] = [(contexts[depth].take(some), None)]
        for k in range(depth - 1, -1, -1):
            link: Ints | None = None
            if len(some) * self.n_symbols > FEW_CELLS or not k:  # else a copy of the level above for each costs less than to share
                fewer, link = _distinct(contexts[k].take(some), self._places[k])
                some = some.take(fewer)
            wanted.append((contexts[k].take(some), link))
        chance = self._uniform
        above: Ints | None = None
        for k, (rows, link) in enumerate(reversed(wanted)):
            chance = self._smooth(k, rows, chance, above)
            above = link
        return self._edges(chance), table

    def _edges(self, chance: Floats) -> Floats:
        """Cumulative frequencies from the chances of the deepest level."""
        cumulative = np.zeros((len(chance), self.n_symbols + 1))
        chance += 1
        np.cumsum(chance, axis=1, out=cumulative[:, 1:])
        return cumulative

    def _all(self) -> Floats:
        """The chances of every context of the deepest level: for a small table that is less work than to pick some."""
        chance = self._uniform
        for counts, totals, weight in zip(self._counts, self._totals, self.weights, strict=True):
            found = np.multiply(counts, COUNT, dtype=np.float64)
            found.reshape(len(chance), -1, self.n_symbols)[:] += (chance * float(weight))[:, None]
            found *= (UP / (16 * totals + weight))[:, None]
            chance = np.floor(found, out=found)
        return chance

    def _smooth(self, k: int, rows: Ints, above: Floats, link: Ints | None) -> Floats:
        """(len(rows), n_symbols) chances of contexts of level k from those of the level above, row link[i] for each."""
        found: Floats = np.multiply(self._counts[k].take(rows, axis=0), COUNT, dtype=np.float64)
        above = above * float(self.weights[k])
        found += above if link is None or len(above) == 1 else above.take(link, axis=0)
        found *= (UP / (16 * self._totals[k].take(rows) + self.weights[k]))[:, None]
        np.floor(found, out=found)
        return found

    def update(self, contexts: Sequence[Ints], symbols: Ints) -> None:
        """Count n symbols under their contexts."""
        self._totals[0] += len(symbols)
        self._counts[0] += np.bincount(symbols, minlength=self.n_symbols).astype(np.int32)
        for counts, totals, context in zip(self._counts[1:], self._totals[1:], contexts[1:], strict=True):
            np.add.at(totals, context, 1)
            cell, flat = context * self.n_symbols + symbols, counts.reshape(-1)
            if len(flat) <= 4 * len(cell):
                flat += np.bincount(cell, minlength=len(flat)).astype(np.int32)
            else:
                np.add.at(flat, cell, ONE)


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
