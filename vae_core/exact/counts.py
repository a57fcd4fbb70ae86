"""Adaptive context tables: a symbol's distribution from counts under longer and longer contexts, in integers.

Level 0 has no context, level k the first k features. Each level smooths towards the one above it,

    P_k(s | c) = (16 n_k(c, s) 2**20 + a_k P_{k-1}(s | c')) // (16 n_k(c) + a_k)         a_k in sixteenths of a count

(a Pitman-Yor-like chain without discount; Teh 2006, and the KT estimator for k = 0), and the coder's frequencies are P_K + 1.
Nothing is stored for a table: encoder and decoder both learn it, chunk after chunk.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel

Ints = NDArray[np.int64]
SCALE_BITS = 20
MAX_CELLS = 1 << 23


def n_contexts(sizes: Sequence[int]) -> int:
    """Product of the feature sizes."""
    product = 1
    for size in sizes:
        product *= size
    return product


def _quotient(numerator: Ints, denominator: Ints) -> Ints:
    """Floor division of non-negative integers below 2**52: exact in float64, and vectorised where int64 division is not."""
    return (numerator / denominator).astype(np.int64)


class AdaptiveCounts:
    """Counts of one digit.

    sizes   : levels of each feature, outermost context first
    weights : a_0..a_K, sixteenths of a count, K + 1 of them
    """

    def __init__(self, n_symbols: int, sizes: Sequence[int], weights: Sequence[int]) -> None:
        self.n_symbols = n_symbols
        self.sizes = tuple(sizes)
        self.weights = tuple(weights)
        self._counts = [np.zeros((n_contexts(self.sizes[:k]), n_symbols), np.int32) for k in range(len(self.sizes) + 1)]
        c = kernel.library()
        self._scratch = None if c is None else _Scratch(c, self._counts, self.weights)

    def contexts(self, levels: Sequence[Ints], n: int) -> list[Ints]:
        """(n,) context numbers for every table level."""
        found = [np.zeros(n, np.int64)]
        for size, level in zip(self.sizes, levels, strict=True):
            found.append(found[-1] * size + level)
        return found

    def cumulative(self, contexts: Sequence[Ints]) -> tuple[Ints, Ints]:
        """((n_distinct, n_symbols + 1) cumulative frequencies, (n,) row of each symbol) for one chunk."""
        if self._scratch is not None:
            return self._scratch.cumulative(self, contexts)
        deepest = contexts[-1]
        seen = np.zeros(len(self._counts[-1]), bool)
        seen[deepest] = True
        wanted = [np.flatnonzero(seen)]
        row_of = np.zeros(len(seen), np.int64)
        row_of[wanted[0]] = np.arange(len(wanted[0]))
        table = row_of[deepest]
        links: list[Ints] = []
        for size in reversed(self.sizes):
            parents, link = np.unique(wanted[-1] // size, return_inverse=True)
            wanted.append(parents)
            links.append(link)
        wanted.reverse()
        links.reverse()
        chance = np.full((1, self.n_symbols), (1 << SCALE_BITS) // self.n_symbols, np.int64)
        for k, rows in enumerate(wanted):
            prior = chance if k == 0 else chance[links[k - 1]]
            counts = self._counts[k][rows].astype(np.int64)
            numerator = (counts << (SCALE_BITS + 4)) + self.weights[k] * prior
            chance = _quotient(numerator, (counts.sum(1, keepdims=True) << 4) + self.weights[k])
        cumulative = np.zeros((len(chance), self.n_symbols + 1), np.int64)
        np.cumsum(chance + 1, axis=1, out=cumulative[:, 1:])
        return cumulative, table

    def update(self, contexts: Sequence[Ints], symbols: Ints) -> None:
        """Count n symbols under their contexts."""
        if self._scratch is not None:
            self._scratch.count(self, contexts, symbols)
            return
        for counts, context in zip(self._counts, contexts, strict=True):
            cell, flat = context * self.n_symbols + symbols, counts.reshape(-1)
            if len(flat) <= 4 * len(cell):
                flat += np.bincount(cell, minlength=len(flat)).astype(np.int32)
            else:
                np.add.at(flat, cell, 1)


class _Scratch:
    """The same by the C kernel: its buffers, and the addresses of the tables."""

    def __init__(self, c: Any, counts: Sequence[NDArray[np.int32]], weights: Sequence[int]) -> None:
        self.c = c
        self.tables = kernel.pointers(counts)
        self.weights = np.array(weights, np.int64)
        self.row_of = np.full(len(counts[-1]), -1, np.int64)
        self.chance = np.empty(2 * counts[0].shape[1], np.int64)

    def cumulative(self, counts: AdaptiveCounts, contexts: Sequence[Ints]) -> tuple[Ints, Ints]:
        """See AdaptiveCounts.cumulative; the rows come in order of appearance."""
        n = len(contexts[-1])
        table = np.empty(n, np.int64)
        out = np.empty((min(n, len(self.row_of)), counts.n_symbols + 1), np.int64)
        found = self.c.lp_chain(
            kernel.size(len(contexts) - 1), self.tables, kernel.pointers(contexts), kernel.pointer(self.weights),
            kernel.size(counts.n_symbols), kernel.size(n), kernel.pointer(self.row_of), kernel.pointer(self.chance),
            kernel.pointer(out), kernel.pointer(table),
        )  # fmt: skip
        return out[:found], table

    def count(self, counts: AdaptiveCounts, contexts: Sequence[Ints], symbols: Ints) -> None:
        """See AdaptiveCounts.update."""
        symbols = np.ascontiguousarray(symbols, np.int64)
        for table, context in zip(self.tables, contexts, strict=True):
            self.c.lp_count(
                ctypes.c_void_p(table), kernel.size(counts.n_symbols), kernel.pointer(context), kernel.pointer(symbols),
                kernel.size(len(symbols)),
            )  # fmt: skip
