"""A Bayes net: every column under at most two earlier ones (Squish, Gao and Parameswaran 2016, and kin).

A column is coded by adaptive counts under the levels of its parents, or, as Squish does for numbers, as what a linear map of
them leaves over, or as the step from the row before where the table is sorted by it. No table is stored, only who is whose
parent and how: encoder and decoder learn the counts as they go. The structure is greedy, by code lengths on a sample.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.codecs.container import pack, unpack
from benchmarks.codecs.grid import Column, frame_of, placed, shown, to_grid
from benchmarks.codecs.integers import MOST_SYMBOLS, Reader, Writer, code_residuals, code_values, levels_of, token_cost
from benchmarks.codecs.shape import Bounds, Effort
from vae_core.exact.costs import Chain, extend, root

Ints = NDArray[np.int64]

GAIN_ROWS, SAMPLE_ROWS = 16_384, 49_152
RESOLUTIONS = ((1024, 16), (512, 32), (128, 128), (32, 512))
"""Most levels of the first and the second parent that are tried together."""
LINEAR_LEVELS = 32
MOST_CELLS = 1 << 22
LIKELY = 5
_FORM = struct.Struct("<hhhhhddd")


@dataclass(frozen=True, slots=True)
class Node:
    """A column and how it hangs on its parents: (column, most levels of it) each.

    linear : weight of each parent and a constant; empty for plain counts; a constant without parents is the step from the
             row before
    """

    child: int
    parents: tuple[tuple[int, int], ...] = ()
    linear: tuple[float, ...] = ()

    def to_bytes(self) -> bytes:
        """Fixed width; compressed with its siblings' it is nearly nothing."""
        flat = [x for parent in (*self.parents, (-1, 0), (-1, 0))[:2] for x in parent]
        weights = (*self.linear[:-1], 0.0, 0.0)[:2] if self.linear else (0.0, 0.0)
        return _FORM.pack(self.child, *flat, *weights, self.linear[-1] if self.linear else float("nan"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Node:
        """The inverse of `to_bytes`."""
        child, a, most_a, b, most_b, *weights = _FORM.unpack(data)
        parents = tuple((p, most) for p, most in ((a, most_a), (b, most_b)) if p >= 0)
        return cls(child, parents, () if weights[2] != weights[2] else (*weights[: len(parents)], weights[2]))

    def guess(self, parents: Sequence[Ints]) -> Ints:
        """The linear map of the parents' values; element by element, so the same wherever it is computed."""
        total = np.full(len(parents[0]), self.linear[-1])
        for weight, values in zip(self.linear, parents, strict=False):
            total = total + weight * values
        return np.rint(total).astype(np.int64)


def encode(table: pa.Table, bounds: Bounds, effort: Effort) -> bytes:
    """Structure, then one stream a column in the order of the structure."""
    grid = to_grid(table, bounds, lambda plan: plan.width == 1)
    with effort.training():
        nodes = _structure(grid.columns, grid.n_rows)
    streams = []
    for node in nodes:
        column, coder = grid.columns[node.child], Writer()
        _code(coder, column, node, [grid.columns[p].values for p, _ in node.parents], shown(column, column.values))
        streams.append(coder.finish())
    return pack([grid.frame, b"".join(node.to_bytes() for node in nodes), *streams])


def decode(data: bytes) -> pa.Table:
    """The inverse of `encode`."""
    frame, packed, *streams = unpack(data)
    grid, finish = frame_of(frame)
    values: dict[int, Ints] = {}
    for number, stream in enumerate(streams):
        node = Node.from_bytes(packed[number * _FORM.size : (number + 1) * _FORM.size])
        column = grid.columns[node.child]
        values[node.child] = placed(column, _code(Reader(stream), column, node, [values[p] for p, _ in node.parents], None))
    return finish([values[i] for i in range(len(grid.columns))])


def _code(coder: Writer | Reader, column: Column, node: Node, parents: Sequence[Ints], values: Ints | None) -> Ints:
    levels = [levels_of(parent, most) for parent, (_, most) in zip(parents, node.parents, strict=True)]
    contexts, sizes = [shown(column, level) for level, _ in levels], [size for _, size in levels]
    n = len(column.values) if column.kept is None else int(column.kept.sum())
    if not node.linear:
        return code_values(coder, n, column.span, contexts, sizes, None if values is None else values - column.low) + column.low
    if not parents:
        steps = None if values is None else np.diff(values, prepend=np.int64(column.low))
        return np.cumsum(code_residuals(coder, n, [], [], steps)) + column.low
    guess = shown(column, node.guess(parents))
    return code_residuals(coder, n, contexts[:1], sizes[:1], None if values is None else values - guess) + guess


def _structure(columns: Sequence[Column], n_rows: int) -> list[Node]:
    """The nodes in coding order: of two orders, that of the table and that of the greatest gains, the cheaper."""
    rows = np.linspace(0, max(0, n_rows - 1), min(n_rows, SAMPLE_ROWS)).astype(np.int64)
    sample = _Sample([column.values[rows] for column in columns], [_top(c, c.values[rows]) for c in columns], columns)
    thin = slice(None, None, max(1, len(rows) // GAIN_ROWS))
    gains = sample.gains(thin)
    sorted_ = [child for child in range(len(columns)) if sample.stepped(child)[0] < 0.7 * sample.counted(child, ())[0]]
    orders = [[*sorted_, *(c for c in order if c not in sorted_)] for order in (range(len(columns)), _by_gain(gains))]
    return min((_nodes(sample, order, gains) for order in orders), key=lambda pair: pair[0])[1]


def _by_gain(gains: NDArray[np.float64]) -> list[int]:
    """First the column the others gain most from; then whichever gains most from one already there."""
    left, order = set(range(len(gains))), list[int]()
    while left:
        score = {c: max((gains[c, p] for p in order), default=gains[:, c].sum()) for c in sorted(left)}
        order.append(max(score, key=lambda c: score[c]))
        left.remove(order[-1])
    return order


def _nodes(sample: _Sample, order: Sequence[int], gains: NDArray[np.float64]) -> tuple[float, list[Node]]:
    total, nodes = 0.0, []
    for place, child in enumerate(order):
        likely = sorted((p for p in order[:place] if gains[child, p] > 0), key=lambda p: -gains[child, p])[:LIKELY]
        bits, node = min(sample.counted(child, likely), sample.regressed(child, likely), sample.stepped(child), key=lambda pair: pair[0])
        total += bits
        nodes.append(node)
    return total, nodes


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """values, and leading digits with their number of symbols, of the sampled rows by column."""

    values: list[Ints]
    tops: list[tuple[Ints, int]]
    columns: Sequence[Column]

    def gains(self, rows: slice) -> NDArray[np.float64]:
        """(child, parent) bits the parent alone saves the child."""
        found = np.zeros((len(self.values), len(self.values)))
        levels = [levels_of(values[rows], 64) for values in self.values]
        for child, (top, size) in enumerate(self.tops):
            alone = root(top[rows], size)
            for parent, (level, n_levels) in enumerate(levels):
                if parent != child and n_levels * size <= MOST_CELLS:
                    found[child, parent] = alone.bits - extend(alone, level, n_levels, top[rows], size).bits
        return found

    def counted(self, child: int, likely: Sequence[int]) -> tuple[float, Node]:
        """The best counts under at most two of the likely parents."""
        top, size = self.tops[child]
        base = root(top, size)
        best = base.bits, Node(child)
        for first in likely[:3]:
            for most_first, most_second in RESOLUTIONS:
                level, n_levels = levels_of(self.values[first], most_first)
                if n_levels * size > MOST_CELLS or (most_first > 2 * n_levels and most_first > RESOLUTIONS[-1][0]):
                    continue
                single = extend(base, level, n_levels, top, size)
                best = min(best, (single.bits, Node(child, ((first, most_first),))), key=lambda pair: pair[0])
                for second in likely:
                    found = self._paired(single, n_levels, second, most_second, child)
                    if second != first and found is not None and found.bits < best[0]:
                        best = found.bits, Node(child, ((first, most_first), (second, most_second)))
        # digits below the leading one: what they cost on their own, so that a residual is compared with the whole value
        span = self.columns[child].span
        return best[0] + len(top) * max(0.0, np.log2(span / size)), best[1]

    def _paired(self, single: Chain, n_levels: int, second: int, most: int, child: int) -> Chain | None:
        (top, size), (level, n_second) = self.tops[child], levels_of(self.values[second], most)
        return extend(single, level, n_second, top, size) if n_levels * n_second * size <= MOST_CELLS else None

    def stepped(self, child: int) -> tuple[float, Node]:
        """The step from the row before, over all rows, brought down to those sampled."""
        column = self.columns[child]
        if column.plan.kind != "numeric":
            return np.inf, Node(child)
        steps = np.diff(shown(column, column.values), prepend=np.int64(column.low))
        share = len(self.values[child]) / max(1, len(steps))
        return token_cost(steps, np.zeros(len(steps), np.int64), 1) * share, Node(child, (), (0.0,))

    def regressed(self, child: int, likely: Sequence[int]) -> tuple[float, Node]:
        """The best linear map of one or two likely parents that are numbers themselves."""
        best = np.inf, Node(child)
        if self.columns[child].plan.kind != "numeric":
            return best
        numbers = [p for p in likely if self.columns[p].plan.kind == "numeric" and self.columns[p].span > 8]
        y = self.values[child].astype(np.float64)
        for pair in [(p,) for p in numbers] + [(a, b) for a in numbers for b in numbers if a != b]:
            design = np.stack([*(self.values[p].astype(np.float64) for p in pair), np.ones(len(y))], axis=1)
            keep = np.ones(len(y), np.bool_)
            for _ in range(2):  # once more without outliers: a few wild rows would tilt the map
                weights = np.linalg.lstsq(design[keep], y[keep], rcond=None)[0]
                error = np.abs(y - design @ weights)
                keep = error <= 4 * np.quantile(error, 0.75) + 1
            node = Node(child, tuple((p, LINEAR_LEVELS) for p in pair), tuple(weights.tolist()))
            parents = [self.values[p] for p in pair]
            level, n_levels = levels_of(parents[0], LINEAR_LEVELS)
            bits = token_cost(self.values[child] - node.guess(parents), level, n_levels)
            best = min(best, (bits, node), key=lambda found: found[0])
        return best


def _top(column: Column, values: Ints) -> tuple[Ints, int]:
    """The leading digit of a column and its number of symbols: what the structure is learned of."""
    shift = max(0, (column.span - 1).bit_length() - (MOST_SYMBOLS.bit_length() - 1))
    size = ((column.span - 1) >> shift) + 1
    return np.clip((values - column.low) >> shift, 0, size - 1), size
