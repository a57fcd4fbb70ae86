"""In which order the columns of a sample are coded: what determines comes before what it determines.

Any order could do if every conditional distribution could be had; with a few parents a column, some orders lose much. So the
order is searched for, on thinned rows, under a rough price of every column given what may stand before it:

- on its own: the entropy of its values, or of its bins and the bits within them where the values are wide;
- by its steps: the entropy of the size of the difference from the row before, and the bits that the size leaves open;
- by a table: that of its quantile bins given one or two other columns' bins, and the rest of the entropy as before;
- by recall (see `recall`): flags and first sights, given one or two other columns as the key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.costs import RANK_WEIGHTS, Each, extend, rank, root
from vae_core.exact.features import phase
from vae_core.exact.forms import PLAIN
from vae_core.exact.keys import numbered, recalled_share
from vae_core.exact.units import best_unit

Ints = NDArray[np.int64]
RECALL_ROWS = 24_000
PRICINGS = ((6_000, 24, 5), (15_000, 32, 8))  # rows, bins, best single parents whose pairs are priced
MOVABLE = 32  # columns, the dearest, whose places are searched for
SWEEPS = 4
FEW_KEYS = 24
MANY = 256  # values of a column that may be multiples of another one
WIDE = 128  # columns: of more, each is priced beside those that stand near it in the schema
CHEAP_BITS = 0.05  # a row: not worth pricing pairs for


@dataclass(frozen=True, slots=True)
class Period:
    """A day, a week … as a column tells it.

    length : in codes       start : how far into one the code 0 is, 0 <= start < length       parts : in how many it is divided
    """

    length: int
    start: int
    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SampleColumn:
    """One column of the sample as codes.

    column : its index in the model       values : (n,) int64, fill where state != 0       state : (n,) uint8 or None
    fill   : the code of such rows        lo, hi : of the values over the dataset's profile
    periods : of columns that tell time
    form   : STEPS … where values are counts of steps (`forms`), and hold one of them where state != 0
    lattice : start and step of the whole numbers that codes stand for, exactly; None where they do not
    """

    column: int
    values: Ints
    state: NDArray[np.uint8] | None
    fill: int
    lo: int
    hi: int
    categorical: bool
    form: int = PLAIN
    periods: tuple[Period, ...] = ()
    lattice: tuple[int, int] | None = None


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


def orders(
    columns: Sequence[SampleColumn], rng: np.random.Generator, each: Each = map, tick: Callable[[], bool] = lambda: True
) -> tuple[list[list[int]], dict[int, dict[int, float]]]:
    """Coding orders worth a search, as positions, the most likely first. With them, by column number: what each other column alone
    saves of a column, in bits a row.

    The second is that of the schema, which people made: what is measured tends to stand before what is derived of it, and thinned
    rows say nothing of rare events. Others ignore that a column may be told by its own rows before, and price by more rows.
    tick : tells whether there is time to price one more column beside others
    """
    if not columns:
        return [[]], {}
    found, gains = list[list[int]](), dict[int, dict[int, float]]()
    recalls = _Recalls([c.values[:RECALL_ROWS] for c in columns], [c.lattice for c in columns])
    for n_rows, n_bins, n_paired in PRICINGS if len(columns) <= WIDE else PRICINGS[:1]:
        thin = np.sort(rng.permutation(len(columns[0].values))[:n_rows])
        prices = _Prices(columns, thin, n_bins, n_paired, recalls, each)
        ties = [prices.of(i) if tick() else list[_Tie]() for i in range(len(columns))]
        gains = {
            c.column: {columns[t.given.bit_length() - 1].column: prices.full[i] - t.bits(prices.full[i]) for t in ties[i] if t.single}
            for i, c in enumerate(columns)
        }
        for alone in (np.minimum(prices.full, prices.steps), prices.full):
            listed = [sorted([_Price(t.bits(p), t.given) for t in own] + [_Price(p, 0)]) for own, p in zip(ties, alone, strict=True)]
            found.append(_improved(_greedy(listed), listed))
    found.insert(1, list(range(len(columns))))
    return [placed for k, placed in enumerate(found) if placed not in found[:k]], gains


def quantile_edges(values: Ints, n_bins: int) -> tuple[int, ...]:
    """At most n_bins - 1 distinct ascending edges that split the values evenly."""
    return edges_of(np.sort(values), n_bins)


def edges_of(ranked: Ints, n_bins: int) -> tuple[int, ...]:
    """The same of values that are sorted."""
    if not len(ranked):
        return ()
    cuts = ranked[(np.arange(1, n_bins) * len(ranked)) // n_bins]
    return tuple(int(c) for c in np.unique(cuts) if c > ranked[0])


def _binned(column: SampleColumn, rows: Ints, n_bins: int) -> tuple[Ints, int]:
    """(n,) bin of each row, the last for cells without a value, and the number of bins."""
    edges = quantile_edges(column.values[rows], n_bins)
    level = np.searchsorted(np.array(edges, np.int64), column.values[rows], side="right")
    if column.state is not None:
        level = np.where(column.state[rows] == 0, level, len(edges) + 1)
    return level.astype(np.int64), len(edges) + 2


def _phases(column: SampleColumn, rows: Ints) -> list[tuple[Ints, int]]:
    """(n,) part of each of a column's periods, the fewest there are, and the number of parts."""
    return [(phase(column.values[rows], p.length, p.start, p.parts[0]), p.parts[0]) for p in column.periods]


def _bits_within(column: SampleColumn, rows: Ints, n_bins: int) -> float | None:
    """Mean bits of a value within its bin, for a column of too wide a range to be coded by how often a value occurs; else None."""
    if column.hi - column.lo < 1 << 16 or not len(rows):
        return None
    ranked = np.sort(column.values[rows]).astype(np.float64)
    ends = ranked[np.linspace(0, len(ranked) - 1, n_bins + 1).astype(np.int64)]
    return float(np.log2(np.maximum(np.diff(ends), 1.0)).mean())


class _Recalls:
    """What recall would take of the first rows, for any of the columns by one or two others; what was asked is remembered.

    numbers : of each column, (n,) small integers that tell its values apart      distinct : how many
    """

    def __init__(self, values: Sequence[Ints], lattices: Sequence[tuple[int, int] | None]) -> None:
        """values: of each column, (n,) codes; lattices: what these stand for, where a column may be a multiple of another one"""
        self._values, self._lattices = values, lattices
        self.numbers, self.distinct = zip(*(numbered(v) for v in values), strict=True)
        self._known: dict[tuple[int, int], tuple[float, float]] = {}
        self._units: dict[int, tuple[int, Ints] | None] = {}

    def unit(self, i: int) -> tuple[int, Ints] | None:
        """A column that one of many values is a multiple of, and (n,) how many times; None where there is none."""
        own = self._lattices[i]
        if i not in self._units and own is not None and self.distinct[i] >= MANY and len(self._values) <= WIDE:
            fewer = {j: lattice for j, lattice in enumerate(self._lattices) if lattice is not None and self.distinct[j] < self.distinct[i]}
            found = best_unit(self._values[i], own, {j: self._values[j] for j in fewer}, fewer)
            by = None if found is None else self._values[found.column]
            self._units[i] = None if found is None or by is None else (found.column, found.quotients(self._values[i], by)[0])
        return self._units.get(i)

    def share(self, i: int, *keys: int) -> tuple[float, float]:
        """As keys.recalled_share, also of multiples of one of two keys by the other; infinite flags where a key of so few values is no
        more than a table."""
        given = sum(1 << j for j in keys)
        if (i, given) not in self._known:
            key, n_keys = self.numbers[keys[0]], self.distinct[keys[0]]
            for j in keys[1:]:
                key, n_keys = key * self.distinct[j] + self.numbers[j], n_keys * self.distinct[j]
            useful = self.distinct[i] > 1 and n_keys > FEW_KEYS
            found = recalled_share(key, self._values[i]) if useful else (float("inf"), 1.0)
            unit = self.unit(i) if len(keys) == 2 else None
            if unit is not None and unit[0] in keys:
                key_of = keys[1 - keys.index(unit[0])]
                if self.distinct[key_of] > FEW_KEYS:
                    found = min(found, recalled_share(self.numbers[key_of], unit[1]), key=lambda flags_missed: flags_missed[1])
            self._known[i, given] = found
        return self._known[i, given]


class _Prices:
    """full: bits a row of a column on its own, by its values; steps: by its differences from row to row."""

    def __init__(
        self, columns: Sequence[SampleColumn], rows: Ints, n_bins: int, n_paired: int, recalls: _Recalls, each: Each
    ) -> None:
        self._binned, self._n_paired, self._recalls, self._each = [_binned(c, rows, n_bins) for c in columns], n_paired, recalls, each
        self._views = [[binned, *_phases(c, rows)] for c, binned in zip(columns, self._binned, strict=True)]
        self._roots = [root(level, size) for level, size in self._binned]
        self._n_thin = max(1, len(rows))
        self._coarse = [r.bits / self._n_thin for r in self._roots]
        within = [_bits_within(c, rows, n_bins) for c in columns]
        self.full = np.array([
            max(coarse, _entropy(x)) if inner is None else inner + coarse
            for x, inner, coarse in zip(recalls.numbers, within, self._coarse, strict=True)
        ])  # fmt: skip
        self.steps = np.array([_steps(c.values[:RECALL_ROWS]) for c in columns])

    def of(self, i: int) -> list[_Tie]:
        """What the other columns, one or two at a time, tell of a column."""
        n, own = len(self._binned), self._binned[i]
        near_by = range(n) if n <= WIDE else range(max(0, i - WIDE // 2), min(n, i + WIDE // 2 + 1))
        views = [(j, view) for j in near_by if j != i for view in self._views[j]]
        found, best = dict[int, _Tie](), dict[int, tuple[Ints, int]]()
        for (j, view), b in zip(views, rank(self._roots[i], [view for _, view in views], *own, self._each), strict=True):
            tie = self._tie(i, b, j)
            if j not in found or tie.table < found[j].table:
                found[j], best[j] = tie, view
        full = float(self.full[i])
        if full <= CHEAP_BITS:
            return list(found.values())
        near = sorted(found, key=lambda j: (found[j].bits(full), j))[: self._n_paired]
        pairs = []
        for k, a in enumerate(near):
            chain = extend(self._roots[i], *best[a], *own, RANK_WEIGHTS)
            bits = rank(chain, [best[b] for b in near[k + 1 :]], *own)
            pairs += [self._tie(i, b, a, j) for j, b in zip(near[k + 1 :], bits, strict=True)]
        unit = self._recalls.unit(i)
        if unit is not None and unit[0] in found:
            by = found[unit[0]]
            for j, tie in found.items():
                if j != unit[0] and not (j in near and unit[0] in near):
                    pairs.append(_Tie(by.given | tie.given, min(by.table, tie.table), *self._recalls.share(i, unit[0], j)))
        return [*found.values(), *pairs]

    def _tie(self, i: int, bits: float, *given: int) -> _Tie:
        table = float(self.full[i]) - self._coarse[i] + bits / self._n_thin
        return _Tie(sum(1 << j for j in given), table, *self._recalls.share(i, *given))


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
    now = {i: _price(own, 0) for i, own in enumerate(prices)}
    told_by: dict[int, list[int]] = {i: [] for i in now}
    for i, own in enumerate(prices):
        every = 0
        for price in own:
            every |= price.given
        for j in _members(every):
            told_by[j].append(i)
    before, placed = 0, []
    while now:
        best = min(now, key=lambda i: (now[i], i))
        del now[best]
        placed.append(best)
        before |= 1 << best
        now |= {i: _price(prices[i], before) for i in told_by[best] if i in now}
    return placed


def _members(columns: int) -> list[int]:
    """The positions in a bit mask."""
    return [j for j in range(columns.bit_length()) if columns >> j & 1]


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
            costs = _with(i, rest, prices, first)
            k = next(k for k, cost in enumerate(costs) if cost < min(costs) + 1e-9)  # the first of equals
            if costs[k] < best - 1e-9:
                moved, best = [*rest[:k], i, *rest[k:]], costs[k]
        if best > before - 1e-3:
            break
    return [*cheap, *moved]


def _with(i: int, rest: Sequence[int], prices: Sequence[Sequence[_Price]], before: int) -> list[float]:
    """The price of the rest with one more column, in each place among them."""
    own, until, after = list[float](), [0.0], list[float]()
    for j in rest:
        own.append(_price(prices[i], before))
        until.append(until[-1] + _price(prices[j], before))
        after.append(_price(prices[j], before | 1 << i))
        before |= 1 << j
    own.append(_price(prices[i], before))
    found, left = [0.0] * len(own), 0.0
    for k in reversed(range(len(own))):
        found[k] = until[k] + own[k] + left
        left += after[k - 1] if k else 0.0
    return found


def _total(placed: Sequence[int], prices: Sequence[Sequence[_Price]], before: int) -> float:
    total = 0.0
    for i in placed:
        total += _price(prices[i], before)
        before |= 1 << i
    return total

