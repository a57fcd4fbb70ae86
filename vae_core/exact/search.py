"""Choosing, on a sample, how each column is coded: digits, prediction and contexts, given the columns coded before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.exact.bench import Bench, Rows
from vae_core.exact.digits import Direct
from vae_core.exact.features import N_STATES
from vae_core.exact.forms import CLOCK
from vae_core.exact.keys import best_keys
from vae_core.exact.options import Option
from vae_core.exact.options import options as options_of
from vae_core.exact.ordering import WIDE, SampleColumn
from vae_core.exact.parents import MIN_GAIN_BITS, quick_bits, search_digits
from vae_core.exact.plans import FLAGS, CellPlan, ColumnCode, DigitPlan, Recall
from vae_core.exact.price import cells_made
from vae_core.exact.recall import Recalled
from vae_core.exact.sampled import Sampled, looks_like_clock
from vae_core.exact.schedule import DEFAULT_CHUNK, LONG_CHUNK, OLD_PART, Chunks
from vae_core.exact.tuning import coded, in_long_chunks, in_short_lanes

Ints = NDArray[np.int64]
KEYED, KEY_ROWS = 12, 30_000  # columns that keys are made of, and rows they are looked for on
MOST_QUICK = 0.75  # of the bits that symbols gathered are estimated to take, what they take at least, nearly always
TUNED_SHARE = 0.98  # of the bits by counts whose weights are not tuned yet, those by counts whose weights are
MOST_TRIALS = 4  # schemes that are searched for contexts
STATELESS = CellPlan(Direct.over(0, N_STATES - 1), None, (DigitPlan((), (16,)),), Chunks(part=OLD_PART))  # FORMAT.md: a plan of 0
SHORTER_CHUNKS, WORTH_SHORTER = (256, 64), 0.006  # of a column's bits
WORTH_UNITS = 0.9  # of the bits by keys alone, those of multiples by keys
WORTH_RECALLING = 16_000.0  # bits of a column over the dataset


def search_column(sampled: Sampled, column: SampleColumn, tick: Callable[[], bool]) -> tuple[ColumnCode, float]:
    """The code of one column given those placed before it, and its estimated bits over the sample.

    `tick` tells whether time is left; without it the search keeps what it has.
    """
    # all that the search looks at: what else is placed makes no difference
    effort = sampled.effort
    looked_at = sampled.related(column.column, effort.most)
    near = max(effort.related, effort.paired)
    related = tuple(c.column for k, c in enumerate(looked_at) if k < near or not c.categorical)
    ordered = frozenset(sampled.ordered.intersection(related[: effort.related]))
    situation = column.column, related, ordered, frozenset(sampled.copies(column.column)), sampled.set_before(column.column)
    if situation not in sampled.searched:
        found = _search_column(sampled, column, tick)
        if not tick():
            return found
        sampled.searched[situation] = found
    return sampled.searched[situation]


def _search_column(sampled: Sampled, column: SampleColumn, tick: Callable[[], bool]) -> tuple[ColumnCode, float]:
    clock = looks_like_clock(column) and not sampled.widths
    values = sampled.decoded.values[column.column]
    state_plan, state_bits = STATELESS, 0.0
    active: NDArray[np.bool_] | None = None
    if column.state is not None:
        state_plan, state_bits = _search_cells(
            sampled, column.column, column.state.astype(np.int64), None, [Option(Direct.over(0, N_STATES - 1))], tick
        )
        active = column.state == 0
    tried = options_of(sampled, values, active, column, clock, hurried=not tick() and not sampled.effort.is_quick)
    value_plan, bits = _search_cells(sampled, column.column, values, active, tried, tick)
    recall, value_plan, bits = _search_recall(sampled, column, values, active, (value_plan, bits), clock, tick)
    if recall is None:
        value_plan = _in_chunks(sampled, value_plan, values, active)
    return ColumnCode(column.column, column.fill, CLOCK if clock else column.form, state_plan, value_plan, recall), bits + state_bits


def _search_recall(
    sampled: Sampled,
    column: SampleColumn,
    values: Ints,
    active: NDArray[np.bool_] | None,
    plain: tuple[CellPlan, float],
    clock: bool,
    tick: Callable[[], bool],
) -> tuple[Recall | None, CellPlan, float]:
    """The plan as it is, or a recall and the plan of the rows it leaves, whichever takes fewer bits over the sample."""
    scale = sampled.n_total / max(1, sampled.n_rows)
    if sampled.widths or plain[1] * scale < WORTH_RECALLING or not tick():
        return None, *plain
    rows = np.arange(len(values)) if active is None else np.flatnonzero(active)
    some = rows[:KEY_ROWS]
    near = {c.column: sampled.decoded.values[c.column][some] for c in sampled.related(column.column, KEYED)}
    keys, about = best_keys(near, values[some], plain[1] * len(some) / max(1, len(rows)))
    unit = None if clock else sampled.unit_of(column, some)
    if unit is not None:
        others = sampled.placed if len(sampled.placed) <= WIDE else []
        near |= {c.column: sampled.decoded.values[c.column][some] for c in others if c.column not in near}
        of_one = unit.quotients(values[some], sampled.decoded.values[unit.column][some])[0]
        shared, bits = best_keys(near, of_one, plain[1] * len(some) / max(1, len(rows)))
        keys, unit = (shared, unit) if shared and bits < WORTH_UNITS * about else (keys, None)
    if not keys:
        return None, *plain
    recalled = Recalled(sampled.decoded, keys, active, unit)
    same = recalled.same(values)
    flags, flag_bits = _search_cells(sampled, column.column, same, recalled.seen, [Option(FLAGS)], tick)
    rest = same == 0 if active is None else (same == 0) & active
    tried = options_of(sampled, values, rest, column, clock, alone=True)
    value, bits = _search_cells(sampled, column.column, values, rest, tried, tick, alone=True)
    if bits + flag_bits > plain[1] - MIN_GAIN_BITS / scale:
        return None, *plain
    flags, value = _in_chunks(sampled, flags, same, recalled.seen), _in_chunks(sampled, value, values, rest)
    return Recall(keys, flags, unit), value, bits + flag_bits


def _in_chunks(sampled: Sampled, plan: CellPlan, own: Ints, active: NDArray[np.bool_] | None) -> CellPlan:
    """The plan, its counts learned in shorter chunks where that saves what the time of decoding them is worth.

    No estimate shows it: the sample is coded. Without a kernel that takes long, and counts stay as they are.
    """
    if plan.forward is not None or plan.gathered or plan.chunks.last != DEFAULT_CHUNK or sampled.effort.is_quick:
        return plan
    if sampled.price.is_high or not kernel.available():
        return plan
    best = _coded_bits(sampled, plan, own, active)
    for last in SHORTER_CHUNKS:
        shorter = replace(plan, chunks=replace(plan.chunks, last=last))
        bits = _coded_bits(sampled, shorter, own, active)
        if bits > (1 - WORTH_SHORTER) * best:
            break
        plan, best = shorter, bits
    return plan


def _coded_bits(sampled: Sampled, plan: CellPlan, own: Ints, active: NDArray[np.bool_] | None, quickly: bool = False) -> float:
    return coded(sampled.decoded, plan, own, active, quickly=quickly).bits


def _search_cells(
    sampled: Sampled,
    column: int,
    own: Ints,
    active: NDArray[np.bool_] | None,
    options: Sequence[Option],
    tick: Callable[[], bool],
    alone: bool = False,
) -> tuple[CellPlan, float]:
    rows = Rows(sampled, column, own, np.arange(len(own)) if active is None else np.flatnonzero(active), alone)
    benches = [Bench(rows, option) for option in options]
    trials = sorted(((quick_bits(bench), bench) for bench in benches), key=lambda t: t[0])
    plain, mixed = [trial for trial in trials if not trial[1].is_mixed], [trial for trial in trials if trial[1].is_mixed]
    best: tuple[CellPlan, float, float] | None = None
    for quick, bench in [*plain[:MOST_TRIALS], *mixed]:
        if best is not None and (quick > 1.15 * plain[0][0] or not tick()):
            continue
        plan, bits = search_digits(bench, tick)
        if sampled.price.is_high:
            plan = replace(plan, chunks=Chunks(LONG_CHUNK, 8))
        worth = sampled.price.of_short
        if (sampled.remembers or sampled.price.is_high) and kernel.available():
            worth = sampled.price.of
            bits = _coded_bits(sampled, plan, own, active)  # at last: estimates are off by more than near choices are apart
            if not sampled.widths:
                plan, bits = in_short_lanes(lambda one: _coded_bits(sampled, one, own, active), plan, bits, len(rows.active), sampled.price)
                plan, bits = in_long_chunks(sampled.decoded, plan, own, active, bits, sampled.price)
        made = cells_made(sampled.decoded, plan, own, active) if sampled.price.numpy else []
        priced = bits + len(rows.active) * worth(plan, made)
        if plan.forward is None and (sampled.remembers or sampled.price.is_high):
            gathered = plan.as_gathered()
            most, packing = priced if sampled.price.is_high else TUNED_SHARE * priced, sampled.price.packing
            for quickly in (True, False):
                encoder = coded(sampled.decoded, gathered, own, active, quickly=quickly, packing=packing)
                gathered_priced = encoder.bits + packing * encoder.packing_us
                if (MOST_QUICK if quickly else 1) * gathered_priced >= most:
                    break
            else:
                plan, bits, priced = gathered, encoder.bits, gathered_priced
        if best is None or priced < best[2]:
            best = plan, bits, priced
    assert best is not None
    # where time has a high price, orders are chosen by it, too
    is_priced = sampled.price.is_high or (sampled.price.numpy and sampled.remembers and kernel.available())
    return best[0], best[2] if is_priced else best[1]
