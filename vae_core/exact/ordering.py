"""In which order the columns of a sample are coded: what determines comes before what it determines.

Any order could do if every conditional distribution could be had; with a few parents a column, some orders lose much. So the
order is searched for, on thinned rows, under a rough price of every column given what may stand before it:

- on its own: the entropy of its values, or of its bins and the bits within them where the values are wide;
- by its steps: the entropy of the size of the difference from the row before, and the bits that the size leaves open;
- by a table: that of its 24-quantile bins given one or two other columns' bins, and the rest of the entropy as before;
- by recall (see `recall`): flags and first sights, given one or two other columns as the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.costs import RANK_WEIGHT, extend, rank, root
from vae_core.exact.keys import numbered, recalled_share

Ints = NDArray[np.int64]
PRESCREEN_ROWS = 6_000
RECALL_ROWS = 24_000
N_BINS = 24
PAIRED = 5  # best single parents whose pairs are priced
MOVABLE = 32  # columns, the dearest, whose places are searched for
SWEEPS = 4
CHEAP_BITS = 0.05  # a row: not worth pricing pairs for


@dataclass(frozen=True, slots=True)
class SampleColumn:
    """One column of the sample as codes.

    column : its index in the model       values : (n,) int64, fill where state != 0       state : (n,) uint8 or None
    fill   : what values holds there      span   : (lo, hi) of the codes over the dataset's profile
    """

    column: int
    values: Ints
    state: NDArray[np.uint8] | None
    fill: int
    lo: int
    hi: int
    categorical: bool


@dataclass(frozen=True, slots=True, order=True)
class _Price:
    """Bits a row of one column given a set of others, as a bit mask of positions."""

    bits: float
    given: int


@dataclass(frozen=True, slots=True)
class _Tie:
    """What a set of columns (a bit mask of positions) tells of one: bits a row by a table; by recall, flags and the share missed."""

    given: int
    table: float
    flags: float
    missed: float

    @property
    def single(self) -> bool:
        """Whether the set is of one column."""
        return self.given.bit_count() == 1

    def bits(self, alone: float) -> float:
        """Bits a row where a cell that is not recalled costs `alone`."""
        return min(self.table, self.flags + self.missed * alone)


def orders(columns: Sequence[SampleColumn], rng: np.random.Generator) -> tuple[list[list[int]], dict[int, dict[int, float]]]:
    """Coding orders worth a search, as positions, one to three. With them, by column number: what each other column alone saves
    of a column, in bits a row.

    The second is that of the schema, which people made: what is measured tends to stand before what is derived of it, and thinned
    rows say nothing of rare events. The third ignores that a column may be told by its own rows before.
    """
    if not columns:
        return [[]], {}
    total = len(columns[0].values)
    thin = np.sort(rng.permutation(total)[:PRESCREEN_ROWS])
    prices = _Prices(
        [_binned(c, thin) for c in columns], [c.values[:RECALL_ROWS] for c in columns], [_bits_within(c, thin) for c in columns]
    )
    ties = [prices.of(i) for i in range(len(columns))]
    gains = {
        c.column: {columns[t.given.bit_length() - 1].column: prices.full[i] - t.bits(prices.full[i]) for t in ties[i] if t.single}
        for i, c in enumerate(columns)
    }
    found = []
    for alone in (np.minimum(prices.full, prices.steps), prices.full):
        listed = [sorted([_Price(t.bits(p), t.given) for t in own] + [_Price(p, 0)]) for own, p in zip(ties, alone, strict=True)]
        found.append(_improved(_greedy(listed), listed))
    found.insert(1, list(range(len(columns))))
    return [placed for k, placed in enumerate(found) if placed not in found[:k]], gains


def quantile_edges(values: Ints, n_bins: int) -> tuple[int, ...]:
    """At most n_bins - 1 distinct ascending edges that split the values evenly."""
    if not len(values):
        return ()
    ranked = np.sort(values)
    cuts = ranked[(np.arange(1, n_bins) * len(ranked)) // n_bins]
    return tuple(int(c) for c in np.unique(cuts) if c > ranked[0])


def _binned(column: SampleColumn, rows: Ints) -> tuple[Ints, int]:
    """(n,) bin of each row, the last for cells without a value, and the number of bins."""
    edges = quantile_edges(column.values[rows], N_BINS)
    level = np.searchsorted(np.array(edges, np.int64), column.values[rows], side="right")
    if column.state is not None:
        level = np.where(column.state[rows] == 0, level, len(edges) + 1)
    return level.astype(np.int64), len(edges) + 2


def _bits_within(column: SampleColumn, rows: Ints) -> float | None:
    """Mean bits of a value within its bin, for a column of too wide a range to be coded by how often a value occurs; else None."""
    if column.hi - column.lo < 1 << 16 or not len(rows):
        return None
    ranked = np.sort(column.values[rows]).astype(np.float64)
    ends = ranked[np.linspace(0, len(ranked) - 1, N_BINS + 1).astype(np.int64)]
    return float(np.log2(np.maximum(np.diff(ends), 1.0)).mean())


class _Prices:
    """full: bits a row of a column on its own, by its values; steps: by its differences from row to row."""

    def __init__(self, binned: list[tuple[Ints, int]], values: list[Ints], within: list[float | None]) -> None:
        self._binned, self._values = binned, values
        self._roots = [root(level, size) for level, size in binned]
        self._numbers, self._distinct = zip(*(numbered(v) for v in values), strict=True)
        self._n_thin, self._n = max(1, len(binned[0][0])), max(1, len(values[0]))
        self._coarse = [r.bits / self._n_thin for r in self._roots]
        self.full = np.array([
            max(coarse, _entropy(x)) if inner is None else inner + coarse
            for x, inner, coarse in zip(self._numbers, within, self._coarse, strict=True)
        ])  # fmt: skip
        self.steps = np.array([_steps(v) for v in values])

    def of(self, i: int) -> list[_Tie]:
        """What the other columns, one or two at a time, tell of a column."""
        others = [j for j in range(len(self._binned)) if j != i]
        found = {}
        for j, bits in zip(others, rank(self._roots[i], [self._binned[j] for j in others], *self._binned[i]), strict=True):
            # a key of fewer values than there are bins is no more than a table
            keyed = self._distinct[i] > 1 and self._distinct[j] > N_BINS
            found[j] = self._tie(i, 1 << j, bits, self._numbers[j] if keyed else None)
        full = float(self.full[i])
        if full <= CHEAP_BITS:
            return list(found.values())
        near = sorted(found, key=lambda j: (found[j].bits(full), j))[:PAIRED]
        pairs = []
        for k, a in enumerate(near):
            chain = extend(self._roots[i], *self._binned[a], *self._binned[i], (RANK_WEIGHT,))
            for b, bits in zip(near[k + 1 :], rank(chain, [self._binned[b] for b in near[k + 1 :]], *self._binned[i]), strict=True):
                keyed = self._distinct[a] * self._distinct[b] > N_BINS
                key = self._numbers[a] * self._distinct[b] + self._numbers[b] if keyed else None
                pairs.append(self._tie(i, 1 << a | 1 << b, bits, key))
        return [*found.values(), *pairs]

    def _tie(self, i: int, given: int, bits: float, key: Ints | None) -> _Tie:
        table = float(self.full[i]) - self._coarse[i] + bits / self._n_thin
        flags, missed = (float("inf"), 1.0) if key is None else recalled_share(key, self._values[i])
        return _Tie(given, table, flags, missed)


def _steps(values: Ints) -> float:
    """Bits a row of the difference from the row before: sign and size class by their entropy, the rest in full."""
    if len(values) < 2:
        return float("inf")
    with np.errstate(over="ignore"):
        change = np.diff(values)
    size = np.ceil(np.log2(np.abs(change.astype(np.float64)) + 1)).astype(np.int64)
    return _entropy(np.where(change < 0, 64 + size, size)) + float(np.maximum(size - 1, 0).mean())


def _entropy(numbers: Ints) -> float:
    """Of small non-negative integers, in bits a row."""
    share = np.bincount(numbers) / max(1, len(numbers))
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def _price(prices: Sequence[_Price], before: int) -> float:
    """The cheapest of a column's prices whose columns are all among those before it."""
    return next(p.bits for p in prices if not p.given & ~before)


def _greedy(prices: Sequence[Sequence[_Price]]) -> list[int]:
    """Next comes the column that is cheapest then."""
    left, before, placed = set(range(len(prices))), 0, []
    while left:
        best = min(left, key=lambda i: (_price(prices[i], before), i))
        left.remove(best)
        placed.append(best)
        before |= 1 << best
    return placed


def _improved(placed: list[int], prices: Sequence[Sequence[_Price]]) -> list[int]:
    """The order after single columns have moved to where the whole is cheapest, the dearest columns first."""
    dear = sorted(placed, key=lambda i: (-_price(prices[i], 0), i))[:MOVABLE]
    cheap = [i for i in placed if i not in dear]
    first = sum(1 << i for i in cheap)
    moved = [i for i in placed if i in dear]
    best = _total(moved, prices, first)
    for _ in range(SWEEPS):
        before = best
        for i in dear:
            rest = [j for j in moved if j != i]
            trials = [[*rest[:k], i, *rest[k:]] for k in range(len(moved))]
            costs = [_total(trial, prices, first) for trial in trials]
            k = int(np.argmin(costs))
            if costs[k] < best - 1e-9:
                moved, best = trials[k], costs[k]
        if best > before - 1e-3:
            break
    return [*cheap, *moved]


def _total(placed: Sequence[int], prices: Sequence[Sequence[_Price]], before: int) -> float:
    total = 0.0
    for i in placed:
        total += _price(prices[i], before)
        before |= 1 << i
    return total

