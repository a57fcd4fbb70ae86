"""The walk over one column of a block: the same code writes and reads, depending on the channel it is given."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.lanes import OwnFeature
from vae_core.entropy.passes import Contexts, PassTables, kept_tables
from vae_core.entropy.rans import Channel
from vae_core.errors import CorruptArchive
from vae_core.exact.counts import AdaptiveCounts, n_contexts
from vae_core.exact.digits import Direct
from vae_core.exact.features import N_STATES, Decoded, Feature, Surroundings
from vae_core.exact.forms import Shown
from vae_core.exact.forward import Walk, kernel_walk
from vae_core.exact.lanes import Lanes
from vae_core.exact.plans import CellPlan, ColumnCode, DigitPlan, Recall
from vae_core.exact.raw import code_raw
from vae_core.exact.recall import Recalled
from vae_core.exact.schedule import STRIDE, every, neighbours, passes, taken
from vae_core.exact.sorting import gather, spread

Ints = NDArray[np.int64]
Symbols = NDArray[np.uint16]
_NO_SYMBOLS = np.empty(0, np.uint16)
_NONE = np.empty(0, np.int64)


def code_cells(
    channel: Channel, plan: CellPlan, decoded: Decoded, own: Ints, active: NDArray[np.bool_] | None
) -> None:
    """Code the active rows of one column; `own` (n_rows,) int64 holds the truth when writing and is filled when reading.

    Rows that are not active keep what `own` holds, and must hold the same on both sides.
    """
    if plan.forward is not None:
        _code_forward(channel, plan, decoded, own, active)
        return
    if plan.gathered:
        (_write_gathered if channel.writes else _read_gathered)(channel, plan, decoded, own, active)
        return
    with _kernel_tables(plan, decoded.n_rows, decoded.n_rows) if kernel.available() else nullcontext(_numpy_tables(plan)) as tables:
        before = 0
        for step, all_rows in passes(decoded.n_rows, plan.by_level):
            found = pass_of(plan, step, all_rows, decoded, own, active, np.int32 if isinstance(tables, PassTables) else np.int64)
            if found is None:
                continue
            known = raw = None
            if channel.writes:
                known, _, raw = plan.scheme.split(taken(own, found.rows), found.guess)
            ends = plan.chunks.ends(found.n, plan.chunks.counted(before))
            before += found.n
            got, raw = _coded(channel, plan, tables, found.contexts, ends, known, raw)
            if not channel.writes:
                own[found.rows] = plan.scheme.join(got, raw, found.guess)


@dataclass(frozen=True, slots=True)
class Pass:
    """What is known of the rows of a pass before it is coded.

    rows, n : which, and how many        guess : (n,) predictions, None without one        contexts : of each digit
    """

    rows: Ints | slice
    n: int
    guess: Ints | None
    contexts: list[Contexts]


def pass_of(
    plan: CellPlan, step: int, all_rows: Ints, decoded: Decoded, own: Ints, active: NDArray[np.bool_] | None,
    kind: type[np.signedinteger[Any]] = np.int64,
) -> Pass | None:
    """The pass over the active ones of some rows, None where there are none. What it is conditioned on was decoded in passes before
    it, but for the digit before."""
    rows = all_rows if active is None else np.flatnonzero(active) if step == 0 else all_rows[active[every(step)]]
    if not len(rows):
        return None
    left = right = None
    if plan.by_level and step < STRIDE:
        left, right = neighbours(step, rows, decoded.n_rows)
    picked = rows if active is not None else every(step)
    guess, fraction = (None, None) if plan.linear is None else plan.linear.guess(decoded, picked, own, left, right)
    around = Surroundings(step, None if left is None else own.take(left), None if right is None else own.take(right), guess, fraction)
    return Pass(picked, len(rows), guess, [_contexts(digit, decoded, picked, len(rows), around, kind) for digit in plan.digits])


def _write_gathered(channel: Channel, plan: CellPlan, decoded: Decoded, own: Ints, active: NDArray[np.bool_] | None) -> None:
    """As code_cells, of symbols gathered by context: pass by pass, then of each digit those of all passes."""
    orders: list[list[list[Symbols]]] = [[[_NO_SYMBOLS] for _ in range(len(digit.features) + 1)] for digit in plan.digits]
    for step, all_rows in passes(decoded.n_rows, plan.by_level):
        found = pass_of(plan, step, all_rows, decoded, own, active, np.int32)
        if found is None:
            continue
        digits, _, raw = plan.scheme.split(taken(own, found.rows), found.guess)
        before = None
        for contexts, digit, depths in zip(found.contexts, digits, orders, strict=True):
            symbols = digit.astype(np.uint16)
            for depth, parts in enumerate(depths):
                parts.append(gather(contexts.at(depth, found.n, before), symbols) if depth else symbols)
            before = symbols
        code_raw(channel, plan.scheme.n_raw(digits), raw)
    for size, depths in zip(plan.scheme.sizes, orders, strict=True):
        joined = [parts[-1] if len(parts) == 2 else np.concatenate(parts) for parts in depths]
        channel.code_gathered(len(joined[0]), size, joined)


def _read_gathered(channel: Channel, plan: CellPlan, decoded: Decoded, own: Ints, active: NDArray[np.bool_] | None) -> None:
    """The inverse of _write_gathered: of the features, those are looked at that the encoder sorted by."""
    n_rows = decoded.n_rows if active is None else int(np.count_nonzero(active))
    records = [channel.code_gathered(n_rows, size, None) for size in plan.scheme.sizes]
    if any(depth > len(digit.features) for (depth, _), digit in zip(records, plan.digits, strict=True)):
        raise CorruptArchive("stream gathers symbols by more features than their plan has")
    digits_used = [replace(digit, features=digit.features[:depth]) for digit, (depth, _) in zip(plan.digits, records, strict=True)]
    used, start = replace(plan, digits=tuple(digits_used)), 0
    for step, all_rows in passes(decoded.n_rows, plan.by_level):
        found = pass_of(used, step, all_rows, decoded, own, active, np.int32)
        if found is None:
            continue
        digits = list[Symbols]()
        for contexts, (depth, symbols) in zip(found.contexts, records, strict=True):
            gathered = symbols[start : start + found.n]
            digits.append(spread(contexts.at(-1, found.n, digits[-1] if digits else None), gathered) if depth else gathered)
        raw = code_raw(channel, plan.scheme.n_raw(digits), None) if plan.scheme.has_raw(digits) else None
        own[found.rows] = plan.scheme.join(digits, raw, found.guess)
        start += found.n


def lanes_of(plan: CellPlan, decoded: Decoded, active: NDArray[np.bool_] | None) -> Lanes:
    """The lanes that rows of a forward plan are coded in. active: rows that hold a value, None for all."""
    assert plan.forward is not None
    rows = None if active is None else np.flatnonzero(active)
    return Lanes(decoded, plan.forward, rows, plan.linear, above=plan.reads_above, stretch=plan.chunks.stretch)


def _code_forward(channel: Channel, plan: CellPlan, decoded: Decoded, own: Ints, active: NDArray[np.bool_] | None) -> None:
    """As code_cells, for rows one after another: a step is a pass of a row of every lane."""
    assert plan.forward is not None and plan.linear is not None
    lanes = lanes_of(plan, decoded, active)
    if kernel.available() and lanes.n:
        _code_forward_by_kernel(channel, plan, decoded, own, lanes)
        return
    tables, walk = _numpy_tables(plan), Walk(lanes, plan.linear, decoded, plan.matches, plan.leader)
    fixed = {f: lanes.of(decoded.feature(f)).astype(np.int64) for d in plan.digits for f in d.features if f.is_given}
    truth = lanes.of(own) if channel.writes else None
    for step in range(lanes.n_steps):
        here = slice(int(lanes.edges[step]), int(lanes.edges[step + 1]))
        n, around = here.stop - here.start, walk.around(step)
        if not n:  # of tensors: no cell of the step has a value
            walk.learn(step, _NONE)
            continue
        contexts = []
        for digit in plan.digits:
            levels = [
                None if f.kind == "digit" else fixed[f][here] if f.is_given else around.levels(f, n) for f in digit.features
            ]
            contexts.append(Contexts.of([f.size for f in digit.features], levels))
        known = raw = values = None
        if truth is not None:
            values = truth[here]
            known, _, raw = plan.scheme.split(values, around.guess)
        got, raw = _code_pass(channel, plan, tables, contexts, list(plan.chunks.slices(n, here.start)), known, raw)
        if values is None:
            values = plan.scheme.join(got, raw, around.guess)
            own[lanes.rows[here]] = values
        walk.learn(step, values)


def _code_forward_by_kernel(channel: Channel, plan: CellPlan, decoded: Decoded, known: Ints, lanes: Lanes) -> None:
    """As _code_forward, in one call."""
    assert plan.linear is not None
    contexts, features = [], []
    for k, digit in enumerate(plan.digits):
        given, own = forward_contexts(digit, lanes, decoded)
        contexts.append(given)
        features += [OwnFeature(k, f.kind, f.edges, strides, f.lo) for f, strides in own]  # the kernel adds what it finds
    walk = kernel_walk(lanes, plan.linear, decoded, features, plan.chunks, _numbers(plan), plan.matches, plan.leader, keeps=False)
    with _kernel_tables(plan, lanes.n_lanes, lanes.n) as tables:
        found = channel.code_forward(tables, contexts, walk, lanes.n, lanes.of(known) if channel.writes else None)
    if not channel.writes:
        lanes.put(known, found)


def forward_contexts(digit: DigitPlan, lanes: Lanes, decoded: Decoded) -> tuple[Contexts, list[tuple[Feature, tuple[int, ...]]]]:
    """Context numbers of rows in coding order by what is given of all of them, and the features of the column itself: what one more of
    each adds to those of each level."""
    sizes, features = [f.size for f in digit.features], []
    own = [place for place, f in enumerate(digit.features) if f.kind != "digit" and not f.is_given]
    levels = [lanes.of(decoded.feature(f)) if f.is_given else None for f in digit.features]
    for place in own:
        strides = [0] * (place + 1) + [n_contexts(sizes[place + 1 : at]) for at in range(place + 1, len(sizes) + 1)]
        features.append((digit.features[place], tuple(strides)))
    return Contexts.of(sizes, levels, own, np.int32), features


def _numbers(plan: CellPlan) -> tuple[int, int, int, int, int]:
    """The scheme, as the kernel knows it."""
    scheme = plan.scheme
    if isinstance(scheme, Direct):
        return 0, scheme.lo, scheme.shift, scheme.escape, scheme.span
    return 1, 0, 0, scheme.escape, 1 << scheme.bits


def _coded(
    channel: Channel,
    plan: CellPlan,
    tables: PassTables | list[AdaptiveCounts],
    contexts: list[Contexts],
    ends: Ints,
    known: list[Ints] | None,
    raw: Ints | None,
) -> tuple[Sequence[Ints | Symbols], Ints]:
    """Symbols of each digit and raw bits of a pass in chunks that end there, by the kernel where there is one."""
    if isinstance(tables, PassTables):
        return channel.code_pass(tables, contexts, ends, known, raw)
    chunks = [slice(start, stop) for start, stop in itertools.pairwise([0, *ends.tolist()])]
    return _code_pass(channel, plan, tables, contexts, chunks, known, raw)


def _numpy_tables(plan: CellPlan) -> list[AdaptiveCounts]:
    return [
        AdaptiveCounts(size, [f.size for f in d.features], d.weights)
        for size, d in zip(plan.scheme.sizes, plan.digits, strict=True)
    ]


def _kernel_tables(plan: CellPlan, most_rows: int, n_rows: int) -> AbstractContextManager[PassTables]:
    digits = []
    for size, digit in zip(plan.scheme.sizes, plan.digits, strict=True):
        sizes = [f.size for f in digit.features]
        levels = Contexts.of(sizes, [None if f.kind == "digit" else _NONE for f in digit.features])
        digits.append((size, [n_contexts(sizes[:k]) for k in range(len(sizes) + 1)], digit.weights, levels.strides))
    first = np.arange(plan.scheme.sizes[0], dtype=np.int64)
    return kept_tables(digits, plan.scheme.n_raw([first]), min(plan.chunks.last, most_rows), n_rows)


def _contexts(
    digit: DigitPlan, decoded: Decoded, rows: Ints | slice, n_rows: int, around: Surroundings, kind: type[np.signedinteger[Any]]
) -> Contexts:
    levels = [
        None if f.kind == "digit" else taken(decoded.feature(f), rows) if f.is_given else around.levels(f, n_rows)
        for f in digit.features
    ]
    return Contexts.of([f.size for f in digit.features], levels, kind=kind)


def _code_pass(
    channel: Channel,
    plan: CellPlan,
    tables: list[AdaptiveCounts],
    contexts: list[Contexts],
    parts: list[slice],
    known: list[Ints] | None,
    raw: Ints | None,
) -> tuple[list[Ints], Ints]:
    """Symbols of each digit and raw bits of a pass: what kernel.c does in one call."""
    got = [np.empty(parts[-1].stop, np.int64) for _ in tables]
    rest = np.empty(parts[-1].stop, np.int64)
    for chunk in parts:
        n, before = chunk.stop - chunk.start, None
        for k, counts in enumerate(tables):
            numbers = contexts[k].numbers(chunk, n, before)
            sums, table = counts.running(numbers)
            before = got[k][chunk] = channel.code_running(sums, counts.n_symbols, table, None if known is None else known[k][chunk])
            counts.update(numbers, before)
        n_raw = plan.scheme.n_raw([digit[chunk] for digit in got])
        rest[chunk] = code_raw(channel, n_raw, None if raw is None else raw[chunk])
    return got, rest


def code_column(
    channel: Channel, code: ColumnCode, decoded: Decoded, values: Ints | None, state: NDArray[np.uint8] | None
) -> tuple[Ints, NDArray[np.uint8] | None]:
    """Code one column of a block and add it to `decoded`; returns (values, state) as given or as read.

    values : (n_rows,) int64 with code.fill where state != 0, None when reading
    state  : (n_rows,) uint8, None when every row holds a value (or when reading)
    """
    for cells in column_cells(channel, code, decoded, values, state):
        code_cells(channel, cells.plan, decoded, cells.values, cells.active)
    return decoded_column(code, decoded)


def decoded_column(code: ColumnCode, decoded: Decoded) -> tuple[Ints, NDArray[np.uint8] | None]:
    """What code_column returns, of a column that is decoded."""
    return decoded.codes.pop(code.column), decoded.states[code.column]


@dataclass(frozen=True, slots=True)
class Cells:
    """What is to be coded of a column next: the arguments of code_cells.

    rank : 0 for its states, 1 for flags of a recall, 2 for values
    """

    rank: int
    plan: CellPlan
    values: Ints
    active: NDArray[np.bool_] | None


def column_cells(
    channel: Channel, code: ColumnCode, decoded: Decoded, values: Ints | None, state: NDArray[np.uint8] | None
) -> Iterator[Cells]:
    """The cells of code_column one after another, each to be coded before the next is asked for; with the last one the column is known
    in `decoded`."""
    n = decoded.n_rows
    flag = channel.raw(np.ones(1, np.int64), np.array([state is not None], np.int64) if channel.writes else None)
    found_state: NDArray[np.uint8] | None = None
    if flag[0]:
        own_state = state.astype(np.int64) if state is not None else np.zeros(n, np.int64)
        yield Cells(0, code.state, own_state, None)
        if ((own_state < 0) | (own_state >= N_STATES)).any():
            raise CorruptArchive("a decoded cell state is not one of the seven there are")
        found_state = own_state.astype(np.uint8)
    active = None if found_state is None else found_state == 0
    shown = Shown(channel, code.form, n, values, active, code.fill)
    own = shown.own
    if code.recall is None:
        yield Cells(2, code.value, own, active)
    else:
        yield from _recalled_cells(channel, code.recall, code.value, decoded, shown, active)
    decoded.values[code.column] = own
    decoded.states[code.column] = found_state
    decoded.codes[code.column] = shown.codes


def _recalled_cells(
    channel: Channel, recall: Recall, value: CellPlan, decoded: Decoded, shown: Shown, active: NDArray[np.bool_] | None
) -> Iterator[Cells]:
    """The active rows of a column in three sweeps: which repeat their key's last value, the values of the others, the copies."""
    rows, own = Recalled(decoded, recall.keys, active, recall.unit), shown.own
    same = rows.same(own) if channel.writes else np.zeros(decoded.n_rows, np.int64)
    yield Cells(1, recall.same, same, rows.seen)
    if (same.view(np.uint64) > 1).any():
        raise CorruptArchive("a decoded flag of a recall is neither 0 nor 1")
    fresh = same == 0
    if channel.writes:  # rows to be copied hold the fill meanwhile, as they do when read: a plan may look at them as neighbours
        np.copyto(own, shown.fill, where=~fresh)
    yield Cells(2, value, own, fresh if active is None else fresh & active)
    rows.copy(own, same)
