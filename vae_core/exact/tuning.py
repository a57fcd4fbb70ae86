"""The smoothing weights of found contexts, tried by coding the sample: what the estimates of a search leave (costs.py).

An estimate looks at one level of a chain at a time, all rows counted. A coder learns as it goes, and what it knows under few
features need only be right where the levels below know nothing yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.rans import Encoder
from vae_core.exact.cells import code_cells
from vae_core.exact.features import Decoded
from vae_core.exact.plans import CellPlan, ColumnCode
from vae_core.exact.price import FREE, Price, cells_made
from vae_core.exact.recall import Recalled
from vae_core.exact.schedule import LONG_STRETCHES, OLD_PART, SHORT_STRETCHES, STRETCH

Ints = NDArray[np.int64]
TUNED_ROWS, TUNED_RUN = 65_536, 16_384
MOST_WEIGHT = 1 << 15
WORTH_LONG_CHUNKS, LONGER_CHUNKS = 0.5, (1024, 4096, 16384)  # of what a microsecond is worth; rows
MOST_TUNED = 0.97  # of the bits of a plan, what is left at least where its weights are tuned, nearly always
WORTH_LONGER = 0.005  # of the bits: what lanes twice as long have to save
WORTH_A_WEIGHT = 5e-5  # of the bits: what one more trial has to save

Cost = Callable[[CellPlan], float]


def tuned(decoded: Decoded, code: ColumnCode, tick: Callable[[], bool], price: Price = FREE) -> tuple[ColumnCode, float]:
    """The code with the weights by which it takes the fewest bits, as far as there is time, or gathered where that takes fewer still,
    and what share of the bits that is.

    decoded : all columns of a sample as the coder knows them, this one, too
    """
    own, state = decoded.values[code.column], decoded.states[code.column]
    active = None if state is None else state == 0
    before = after = 0.0
    if state is not None and price.numpy:  # rows that hold values are states, too, mostly told whole
        plan, first, bits = _cheapest(decoded, code.state, state.astype(np.int64), None, tick, price)
        before, after, code = before + first, after + bits, replace(code, state=plan)
    if code.recall is not None:
        recalled = Recalled(decoded, code.recall.keys, active, code.recall.unit)
        same = recalled.same(own)
        plan, first, bits = _cheapest(decoded, code.recall.same, same, recalled.seen, tick, price)
        before, after = before + first, after + bits
        code = replace(code, recall=replace(code.recall, same=plan))
        fresh = same == 0
        own, active = np.where(fresh, own, code.fill), fresh if active is None else fresh & active
    plan, first, bits = _cheapest(decoded, code.value, own, active, tick, price)
    before, after = before + first, after + bits
    return replace(code, value=plan), after / max(1.0, before)


def _cheapest(
    decoded: Decoded, plan: CellPlan, own: Ints, active: NDArray[np.bool_] | None, tick: Callable[[], bool], price: Price
) -> tuple[CellPlan, float, float]:
    """The plan tuned or gathered; its bits before and after."""
    cost, n = _coded(decoded, own, active), len(own) if active is None else int(np.count_nonzero(active))
    gathered, packed, priced = plan.as_gathered() if plan.forward is None else plan, math.inf, math.inf

    def worth(one: CellPlan) -> float:
        return n * price.of(one, cells_made(decoded, one, own, active)) if price.numpy else 0.0

    if plan.forward is None and not plan.gathered and tick():
        encoder = coded(decoded, gathered, own, active, packing=price.packing)
        packed, priced = encoder.bits, encoder.bits + price.packing * encoder.packing_us
        if price.numpy >= WORTH_LONG_CHUNKS and priced < MOST_TUNED * (first := cost(plan)) + worth(plan):
            return gathered, first, packed  # whatever tuning saves, which takes most of the time
    found, first, bits = _descended(cost, plan, tick)
    found, bits = in_short_lanes(cost, found, bits, n, price, tick)
    if not decoded.piece and kernel.available():
        found, bits = in_long_lanes(cost, found, bits, n, price, tick)
    found, bits = in_long_chunks(decoded, found, own, active, bits, price, tick)
    return (gathered, first, packed) if priced < bits + worth(found) else (found, first, bits)


def in_short_lanes(
    cost: Cost, plan: CellPlan, bits: float, n_rows: int, price: Price, tick: Callable[[], bool] = lambda: True
) -> tuple[CellPlan, float]:
    """A forward plan in shorter lanes where what their first rows take is less than what reading them sooner is worth, and its bits."""
    if plan.forward is None or plan.reads_above or plan.chunks.part == OLD_PART or not price.numpy:
        return plan, bits
    for places in [places for places in (*reversed(LONG_STRETCHES), STRETCH, *SHORT_STRETCHES) if places < plan.chunks.stretch]:
        shorter = plan.stretched(places)
        if not tick() or (more := cost(shorter)) + n_rows * price.of(shorter, []) >= bits + n_rows * price.of(plan, []):
            break
        plan, bits = shorter, more
    return plan, bits


def in_long_lanes(
    cost: Cost, plan: CellPlan, bits: float, n_rows: int, price: Price, tick: Callable[[], bool] = lambda: True
) -> tuple[CellPlan, float]:
    """A forward plan in longer lanes, of which there are fewer to begin, where that saves a part of its bits, and its bits."""
    if plan.forward is None or plan.reads_above or plan.chunks.part == OLD_PART or price.is_high:
        return plan, bits
    for places in [places for places in LONG_STRETCHES if places > plan.chunks.stretch]:
        longer = plan.stretched(places)
        if n_rows < places or not tick():
            break
        more = cost(longer)
        if more > (1 - WORTH_LONGER) * bits or more + n_rows * price.of(longer, []) >= bits + n_rows * price.of(plan, []):
            break
        plan, bits = longer, more
    return plan, bits


def in_long_chunks(
    decoded: Decoded, plan: CellPlan, own: Ints, active: NDArray[np.bool_] | None, bits: float, price: Price,
    tick: Callable[[], bool] = lambda: True,
) -> tuple[CellPlan, float]:
    """A plan whose counts are learned after more rows where that takes less than what reading it sooner is worth, and its bits."""
    if plan.forward is not None or plan.gathered or price.numpy < WORTH_LONG_CHUNKS:
        return plan, bits
    n_rows = len(own) if active is None else int(np.count_nonzero(active))
    best = bits + n_rows * price.of(plan, cells_made(decoded, plan, own, active))
    for last in LONGER_CHUNKS:
        longer = replace(plan, chunks=replace(plan.chunks, last=last))
        if last <= plan.chunks.last or not tick():
            continue
        priced = (more := coded(decoded, longer, own, active).bits) + n_rows * price.of(longer, cells_made(decoded, longer, own, active))
        if priced >= best:
            break
        plan, bits, best = longer, more, priced
    return plan, bits


def _coded(decoded: Decoded, own: NDArray[np.int64], active: NDArray[np.bool_] | None) -> Cost:
    """What a plan takes of cells, by coding them."""

    return lambda plan: coded(decoded, plan, own, active).bits


def coded(
    decoded: Decoded, plan: CellPlan, own: Ints, active: NDArray[np.bool_] | None, *, quickly: bool = False, packing: float = 0.0
) -> Encoder:
    """Cells coded by a plan; quickly, packing: as of Encoder."""
    encoder = Encoder(quickly, packing)
    code_cells(encoder, plan, decoded, own.copy(), active)
    return encoder


def _descended(cost: Cost, plan: CellPlan, tick: Callable[[], bool]) -> tuple[CellPlan, float, float]:
    """The plan after one weight after another was doubled or halved as long as that saves; its bits before and after."""
    best = first = cost(plan)
    for k in range(len(plan.digits)):
        for i in range(len(plan.digits[k].weights)):
            for up in (True, False):
                known = best
                while tick() and (trial := _weighed(plan, k, i, up)) is not None:
                    bits = cost(trial)
                    if bits > best * (1 - WORTH_A_WEIGHT):
                        break
                    plan, best = trial, bits
                if best < known:
                    break
    return plan, first, best


def _weighed(plan: CellPlan, k: int, i: int, up: bool) -> CellPlan | None:
    """The plan with weight i of digit k twice what it is, or half; None where that is beyond what weights may be."""
    weights = list(plan.digits[k].weights)
    weights[i] = weights[i] * 2 if up else weights[i] // 2
    if not 1 <= weights[i] <= MOST_WEIGHT:
        return None
    digits = list(plan.digits)
    digits[k] = replace(digits[k], weights=tuple(weights))
    return replace(plan, digits=tuple(digits))
