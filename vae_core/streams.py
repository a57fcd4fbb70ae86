"""Learned columns of a shard as streams, block by block: those that take fewer bytes so than by anything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vae_core import choosing
from vae_core.entropy.rans import Encoder
from vae_core.exact.above import find_above, pack_above, telling_of, unpack_above
from vae_core.exact.cells import code_column
from vae_core.exact.clock import from_minutes, to_minutes
from vae_core.exact.features import Decoded
from vae_core.exact.forms import CLOCK, is_stepped, known_as
from vae_core.exact.price import price_of
from vae_core.exact.tensors import TensorCode, code_tensors
from vae_core.latents import ColumnState, pack_misfits, slice_codes
from vae_core.layout import uses_codes
from vae_core.model import Model
from vae_core.peers import Measure

A = TypeVar("A")
T = TypeVar("T")

THREADS = 2


@dataclass(frozen=True, slots=True)
class Stream:
    """A finished stream of one column of a block."""

    data: bytes

    @property
    def bits(self) -> float:
        """Of the stream."""
        return 8.0 * len(self.data)


Streamed = Encoder | Stream


def chosen(
    model: Model,
    columns: Sequence[ColumnState],
    spans: Sequence[tuple[int, int]],
    by_layer: set[int],
    measure: Measure = Measure.NOW,
    known: Mapping[str, int] | None = None,
) -> tuple[dict[int, list[Streamed]], list[bytes]]:
    """Column -> an encoder a block, for the columns the exact layer takes fewer bytes for than anything else does; and what each block
    tells of rows above, nothing where no column looks at them.

    What is told of rows above is of as many bytes as the columns that look at them save in all, or that there are none. But for that
    nothing is coded twice: a column that is dropped is known to readers all the same, so that the streams of others stay as they are.

    measure : as of `choosing.settle`, of columns whose savings are of no matter to others     known : by their names
    """
    excluded = by_layer | {j for j, column in enumerate(columns) if not column.holds}
    _exclude_unreadable(model, columns, excluded)
    above = _rows_above(model, columns, spans)
    learned, saved = _compared(model, columns, spans, excluded, above, measure, known or {})
    silent = [pack_above(np.zeros(n, np.int64)) for _, n in spans] if above else []
    while True:
        readers = [code.column for code in model.codes if code.reads_above and code.column in learned]
        if readers and above != silent and sum(max(0.0, saved[j]) for j in readers) <= sum(map(len, above)):
            learned, saved = _compared(model, columns, spans, excluded, above := silent, measure, known or {})
        gained = {j: saved[j] for j in learned}
        excluded |= {j for j in model.learned if gained.get(j, 0.0) <= 0} - _kept_for_counts(model, gained)
        _exclude_unreadable(model, columns, excluded)
        dropped = excluded & set(learned)
        if not dropped:
            return learned, above if readers else []
        if _tell_by_counts(model, dropped, set(learned) - dropped):
            learned, saved = _compared(model, columns, spans, excluded, above, measure, known or {})
            continue
        for j in dropped:
            del learned[j]
            if not columns[j].coding:  # once it has one, others may turn out to be unreadable
                choosing.settle(model, j, columns[j], spans=spans)


def _rows_above(model: Model, columns: Sequence[ColumnState], spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """What each block tells of rows above, by the columns that look at them; nothing where no column does."""
    if not any(code.reads_above for code in model.codes):
        return []
    known = [codes.values for j in telling_of(model.codes) if (codes := columns[j].codes) is not None]
    return each(lambda span: pack_above(find_above([values[span[0] : sum(span)] for values in known], span[1])), spans)


def _compared(
    model: Model,
    columns: Sequence[ColumnState],
    spans: Sequence[tuple[int, int]],
    excluded: set[int],
    above: Sequence[bytes],
    measure: Measure,
    known: Mapping[str, int],
) -> tuple[dict[int, list[Streamed]], dict[int, float]]:
    """Column -> an encoder a block for all that are not excluded; how many bytes each saves of its conventional coding."""
    learned = _learned_blocks(model, columns, spans, excluded, above)
    sizes = {j: sum(e.bits for e in found) / 8 + misfit_bytes(columns[j]) for j, found in learned.items()}
    unsettled = [j for j, column in enumerate(columns) if not column.coding]
    at_once = _weighed_together(model)

    def settle(j: int) -> None:
        when, told = Measure.NOW if j in at_once else measure, known.get(model.columns[j].name)
        choosing.settle(model, j, columns[j], sizes.get(j, math.inf), spans, when, told)

    each(settle, unsettled)
    return learned, {j: columns[j].conventional_bytes - size for j, size in sizes.items()}


def _weighed_together(model: Model) -> set[int]:
    """Columns of which it matters how much they save: what is told of rows above has to pay, and counts that others are told by."""
    counted = {code.column for code in model.codes if is_stepped(code.form)}
    return counted | {code.column for code in model.codes if code.reads_above or code.columns & counted}


def _kept_for_counts(model: Model, gained: Mapping[int, float]) -> set[int]:
    """Columns that save nothing and stay for the sake of what is told by their counts, and would have to do without; gained: by each
    that is learned. What a column saves counts once for all that tell it: they stay together, or none of them does."""
    groups: list[tuple[set[int], set[int]]] = []  # those that save nothing, and they with what they tell
    for j in (code.column for code in model.codes if is_stepped(code.form) and gained.get(code.column, 1.0) <= 0):
        losing, whole = {j}, {j} | {code.column for code in model.codes if j in code.columns and gained.get(code.column, 0.0) > 0}
        for group in [group for group in groups if group[1] & whole]:
            groups.remove(group)
            losing, whole = losing | group[0], whole | group[1]
        groups.append((losing, whole))
    return {j for losing, whole in groups if sum(gained[k] for k in whole) > 0 for j in losing}


def _tell_by_counts(model: Model, dropped: set[int], kept: set[int]) -> bool:
    """Whether what is kept is told by counts of steps that are dropped: readers know these of streams alone, so it is coded anew."""
    told = {j for code in model.codes if code.column in kept for j in code.columns}
    return any(is_stepped(code.form) and code.column in told & dropped for code in model.codes)


def _exclude_unreadable(model: Model, columns: Sequence[ColumnState], excluded: set[int]) -> None:
    """Add the learned columns that are conditioned on one no reader has the codes of.

    Of a column stored raw a reader makes codes again only where it is lossless (FORMAT.md, "Transforms").
    """
    raw = {j for j, c in enumerate(columns) if c.coding and not model.columns[j].is_lossless and not uses_codes(c.coding)}
    while more := {code.column for code in model.codes if code.columns & raw & excluded} - excluded:
        excluded |= more


def misfit_bytes(column: ColumnState) -> int:
    """Of a learned column: values that have no code."""
    misfits = None if column.codes is None else column.codes.misfits
    return 0 if misfits is None else len(pack_misfits(misfits))


def _learned_blocks(
    model: Model, columns: Sequence[ColumnState], spans: Sequence[tuple[int, int]], excluded: set[int], above: Sequence[bytes]
) -> dict[int, list[Streamed]]:
    """Column -> an encoder a block, for the columns the exact layer codes; the excluded ones still serve as context."""
    found: dict[int, list[Streamed]] = {j: [] for j in model.learned if j not in excluded}
    useful = _context_closure(model, set(found))
    for b, (start, n) in enumerate(spans):
        decoded = Decoded(n, above=unpack_above(above[b], n) if above else None)
        for code in model.codes:
            if code.column not in useful:
                continue
            codes = columns[code.column].codes
            assert codes is not None
            part = slice_codes(codes, start, n, 1)
            if code.column not in found:
                give(decoded, code.column, known_as(code.form, part.values), part.state)
                continue
            encoder = encoder_of(model)
            code_column(encoder, code, decoded, part.values, part.state)
            if code.form == CLOCK and not np.array_equal(from_minutes(to_minutes(part.values)), part.values):
                found.pop(code.column)  # integers no clock shows: leave them to a conventional coding
                continue
            found[code.column].append(encoder)
    for tensor in model.tensors:
        if tensor.column in found:
            found[tensor.column] = each(partial(_tensor_block, tensor, columns[tensor.column]), spans)
    return {j: encoders for j, encoders in found.items() if len(encoders) == len(spans)}


def _tensor_block(code: TensorCode, column: ColumnState, span: tuple[int, int]) -> Streamed:
    """The stream of a block of tensors."""
    assert column.codes is not None
    part, encoder = slice_codes(column.codes, *span, code.planes.width), Encoder()
    code_tensors(encoder, code, span[1], part.values, part.state)
    return Stream(encoder.finish())  # symbols are many times what they become


def encoder_of(model: Model) -> Encoder:
    """An encoder that takes as much time, and makes as many lanes, as what the model favours is worth."""
    price = price_of(model.favour, model.n_rows, any(code.reads_above for code in model.codes))
    return Encoder(packing=price.packing, lane_share=price.lanes)


def give(decoded: Decoded, column: int, values: NDArray[np.int64], state: NDArray[np.uint8] | None) -> None:
    """Make a column known that no stream codes."""
    decoded.values[column] = values
    decoded.states[column] = state


def _context_closure(model: Model, wanted: set[int]) -> set[int]:
    """The wanted columns and all that they are conditioned on."""
    found = set(wanted)
    for code in reversed(model.codes):
        if code.column in found:
            found |= code.columns
    return found


def each(work: Callable[[A], T], items: Iterable[A]) -> list[T]:
    """What `work` makes of each column or block, in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))
