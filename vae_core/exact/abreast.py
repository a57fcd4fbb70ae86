"""The same column of several blocks read abreast by numpy: a chunk of each at a time, in the calls that one would take.

Blocks know nothing of each other: tables, lanes and streams stand beside one another, and the number of the block is a context above
all others. What is read is what `cells.code_cells` reads of each block alone; that is where the kernel, which loses nothing by small
steps, and everything that writes goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy.abreast import Abreast
from vae_core.entropy.passes import Contexts
from vae_core.entropy.rans import MAX_RAW_BITS, Decoder
from vae_core.exact.cells import Cells, Pass, code_cells, column_cells, decoded_column, forward_contexts, lanes_of, pass_of
from vae_core.exact.counts import AdaptiveCounts, n_contexts
from vae_core.exact.features import Decoded, Feature, Surroundings
from vae_core.exact.forward import Walk, fixed_totals
from vae_core.exact.lanes import Lanes
from vae_core.exact.plans import CellPlan, ColumnCode
from vae_core.exact.schedule import passes

Ints = NDArray[np.int64]
Counts = tuple[int, ...]
Some = slice | Ints


def read_columns(
    decoders: Sequence[Decoder], code: ColumnCode, decoded: Sequence[Decoded]
) -> list[tuple[Ints, NDArray[np.uint8] | None]]:
    """As cells.code_column of every block: one column, read and added to `decoded`."""
    walks = [column_cells(decoder, code, block, None, None) for decoder, block in zip(decoders, decoded, strict=True)]
    waiting = {b: cells for b, walk in enumerate(walks) if (cells := next(walk, None)) is not None}
    while waiting:
        # a block whose cells all hold values has no states to read: it waits until the others have read theirs
        now = min(cells.rank for cells in waiting.values())
        together = [b for b, cells in waiting.items() if cells.rank == now]
        _read_cells([decoders[b] for b in together], [decoded[b] for b in together], [waiting.pop(b) for b in together])
        waiting |= {b: cells for b in together if (cells := next(walks[b], None)) is not None}
    return [decoded_column(code, block) for block in decoded]


def _read_cells(decoders: Sequence[Decoder], decoded: Sequence[Decoded], cells: Sequence[Cells]) -> None:
    plan = cells[0].plan
    if len(cells) == 1 or plan.gathered or plan.matches or plan.reads_above or (plan.linear is not None and plan.linear.dense is not None):
        for decoder, block, own in zip(decoders, decoded, cells, strict=True):
            code_cells(decoder, own.plan, block, own.values, own.active)
    elif plan.forward is not None:
        _read_forward(decoders, plan, decoded, cells)
    else:
        tables = _Tables(plan, len(cells))
        rows = [dict(passes(block.n_rows, plan.by_level)) for block in decoded]
        before = [0] * len(cells)
        for step in sorted({step for some in rows for step in some}, reverse=True):
            found = {
                b: one for b, (block, own) in enumerate(zip(decoded, cells, strict=True))
                if step in rows[b] and (one := pass_of(plan, step, rows[b][step], block, own.values, own.active)) is not None
            }  # fmt: skip
            if found:
                _read_passes(decoders, plan, tables, cells, found, before)
                before = [n + (found[b].n if b in found else 0) for b, n in enumerate(before)]


def _read_passes(
    decoders: Sequence[Decoder], plan: CellPlan, tables: _Tables, cells: Sequence[Cells], found: dict[int, Pass], before: Sequence[int]
) -> None:
    """Read one pass of the blocks that have rows in it; before: how many each had in those before."""
    n_rows = [found[b].n if b in found else 0 for b in range(len(cells))]
    chunks = [np.diff(plan.chunks.ends(n, plan.chunks.counted(past)), prepend=0) for n, past in zip(n_rows, before, strict=True)]
    order, counts = _in_turns(chunks)
    contexts = [tables.beside(k, [found[b].contexts[k] if b in found else None for b in range(len(cells))], n_rows, order)
                for k in range(len(plan.digits))]  # fmt: skip
    got, rest = [np.empty(len(order), np.int64) for _ in plan.digits], np.empty(len(order), np.int64)
    streams, start = Abreast(decoders), 0
    for some in counts:
        here = slice(start, start := start + sum(some))
        symbols, raw = tables.read(streams, [[level[here] for level in digit] for digit in contexts], some)
        for k, digit in enumerate(symbols):
            got[k][here] = digit
        rest[here] = raw
    streams.close()
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    first = 0
    for b, n in enumerate(n_rows):
        if b in found:
            mine = back[first : first + n]
            cells[b].values[found[b].rows] = plan.scheme.join([digit[mine] for digit in got], rest[mine], found[b].guess)
        first += n


def _in_turns(chunks: Sequence[Ints]) -> tuple[Ints, list[Counts]]:
    """Rows of blocks behind one another, cut into chunks of so many: in the order of chunks, a chunk of every block in turn; how many
    each block has in every turn."""
    turn = np.concatenate([np.repeat(np.arange(len(lengths)), lengths) for lengths in chunks])
    lengths = np.zeros((max(map(len, chunks)), len(chunks)), np.int64)
    for b, some in enumerate(chunks):
        lengths[: len(some), b] = some
    return turn.argsort(kind="stable"), list(map(tuple, lengths.tolist()))


class _Tables:
    """The tables of one plan for so many blocks."""

    def __init__(self, plan: CellPlan, n_blocks: int) -> None:
        self._plan = plan
        self._counts = [
            AdaptiveCounts(size, [f.size for f in digit.features], digit.weights, n_blocks)
            for size, digit in zip(plan.scheme.sizes, plan.digits, strict=True)
        ]
        places = [[n_contexts(counts.sizes[:k]) for k in range(len(counts.sizes) + 1)] for counts in self._counts]
        self._n_contexts = places
        self._strides = [
            Contexts.of(counts.sizes, [None if f.kind == "digit" else np.empty(0, np.int64) for f in digit.features]).strides
            for counts, digit in zip(self._counts, plan.digits, strict=True)
        ]

    def beside(self, k: int, contexts: Sequence[Contexts | None], n_rows: Sequence[int], order: Ints) -> list[Ints]:
        """Of each level of digit k the context numbers of all blocks, (n,) in the given order, without the digit before."""
        found = []
        for level, n_own in enumerate(self._n_contexts[k]):
            parts = []
            for b, (one, n) in enumerate(zip(contexts, n_rows, strict=True)):
                base = None if one is None else one.bases[level]
                parts.append(np.full(n, b * n_own) if base is None else base + b * n_own)
            found.append(np.concatenate(parts).take(order))
        return found

    def read(self, streams: Abreast, contexts: Sequence[Sequence[Ints]], counts: Counts) -> tuple[list[Ints], Ints]:
        """Symbols of each digit and raw bits of a chunk of every block: as cells._code_pass."""
        symbols: list[Ints] = []
        for k, table in enumerate(self._counts):
            numbers = contexts[k]
            if symbols:
                before = symbols[-1]
                numbers = [own + before * stride if stride else own for own, stride in zip(numbers, self._strides[k], strict=True)]
            sums, rows = table.running(numbers)
            symbols.append(streams.code_running(sums, table.n_symbols, rows, counts))
            table.update(numbers, symbols[-1])
        return symbols, _read_raw(streams, self._plan.scheme.n_raw(symbols), counts)


def _read_raw(streams: Abreast, n_bits: Ints, counts: Counts) -> Ints:
    """As cells.code_raw."""
    value = np.zeros(len(n_bits), np.int64)
    for shift in range(0, 64, MAX_RAW_BITS):
        where = (n_bits > shift).nonzero()[0]
        if not len(where):
            break
        ends = where.searchsorted(np.cumsum(counts))
        width = np.minimum(n_bits.take(where) - shift, MAX_RAW_BITS)
        value[where] |= streams.raw(width, tuple(np.diff(ends, prepend=0).tolist())) << shift
    return value


class AbreastLanes(Lanes):
    """The lanes of several blocks: those of a step are those of each block that has rows in it."""

    def __init__(self, blocks: Sequence[Lanes]) -> None:
        self.lanes = None
        self.n, self.n_lanes = sum(block.n for block in blocks), sum(block.n_lanes for block in blocks)
        self.n_steps = max(block.n_steps for block in blocks)
        lengths = np.zeros((self.n_steps, len(blocks)), np.int64)
        for b, block in enumerate(blocks):
            lengths[: block.n_steps, b] = np.diff(block.edges)
        self._above = None  # rows above are read block by block
        self.counts: list[Counts] = list(map(tuple, lengths.tolist()))
        self.before: list[Counts] = list(map(tuple, (lengths.cumsum(axis=0) - lengths).tolist()))
        self.edges: Ints = np.concatenate([[0], lengths.sum(axis=1).cumsum()])
        self._firsts = np.cumsum([0, *(block.n_lanes for block in blocks)]).tolist()
        self._of: dict[Counts, Some] = {}

    def of_step(self, step: int) -> Some:
        """As Lanes.of_step."""
        counts = self.counts[step]
        if counts not in self._of:
            found = np.concatenate([np.arange(first, first + n) for first, n in zip(self._firsts, counts, strict=False)])
            self._of[counts] = slice(0, self.n_lanes) if len(found) == self.n_lanes else found
        return self._of[counts]


def _read_forward(decoders: Sequence[Decoder], plan: CellPlan, decoded: Sequence[Decoded], cells: Sequence[Cells]) -> None:
    """As cells._code_forward of every block."""
    assert plan.forward is not None and plan.linear is not None
    blocks = [lanes_of(plan, block, own.active) for block, own in zip(decoded, cells, strict=True)]
    lanes, tables = AbreastLanes(blocks), _Tables(plan, len(blocks))
    order, _ = _in_turns([np.diff(block.edges) for block in blocks])
    totals = np.concatenate([fixed_totals(one, plan.linear, block) for one, block in zip(blocks, decoded, strict=True)]).take(order)
    walk = Walk(lanes, plan.linear, decoded[0], totals=totals)
    contexts, features = [], []
    for k, digit in enumerate(plan.digits):
        each = [forward_contexts(digit, one, block) for one, block in zip(blocks, decoded, strict=True)]
        contexts.append(tables.beside(k, [one for one, _ in each], [one.n for one in blocks], order))
        features.append(each[0][1])
    values, streams = np.empty(lanes.n, np.int64), Abreast(decoders)
    for step, (start, stop) in enumerate(itertools.pairwise(lanes.edges.tolist())):
        around, counts = walk.around(step), lanes.counts[step]
        here = [_with_own([level[start:stop] for level in contexts[k]], own, around, stop - start) for k, own in enumerate(features)]
        chunks = [
            np.array([part.stop - part.start for part in plan.chunks.slices(n, before)], np.int64)
            for n, before in zip(counts, lanes.before[step], strict=True)
        ]
        if max(map(len, chunks)) == 1:
            got, rest = tables.read(streams, here, counts)
        else:
            turns, sizes = _in_turns(chunks)
            got, rest = [np.empty(stop - start, np.int64) for _ in plan.digits], np.empty(stop - start, np.int64)
            first = 0
            for some in sizes:
                rows = turns[first : first + sum(some)]
                symbols, rest[rows] = tables.read(streams, [[level[rows] for level in digit] for digit in here], some)
                for whole, part in zip(got, symbols, strict=True):
                    whole[rows] = part
                first += len(rows)
        values[start:stop] = found = plan.scheme.join(got, rest, around.guess)
        walk.learn(step, found)
    streams.close()
    apart, first = np.empty(lanes.n, np.int64), 0
    apart[order] = values
    for one, own in zip(blocks, cells, strict=True):
        one.put(own.values, apart[first : first + one.n])
        first += one.n


def _with_own(contexts: list[Ints], own: Sequence[tuple[Feature, Sequence[int]]], around: Surroundings, n: int) -> list[Ints]:
    """Context numbers of each level of a digit with those of the column's own features."""
    for feature, strides in own:
        level = around.levels(feature, n)
        contexts = [
            found + level if stride == 1 else found + level * stride if stride else found
            for found, stride in zip(contexts, strides, strict=True)
        ]
    return contexts
