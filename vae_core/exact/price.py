"""What the time of reading is worth when a column's code is chosen: bits that what takes it has to save.

The kernel reads rows one after another as fast as any others but for what is done once a step; numpy takes some 0.3 microseconds a row
for that, less in short lanes, and for a symbol that is looked up in counts 0.05 to 0.3, most of it where the table of its chunk is
made. Symbols gathered by context take next to nothing by either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy.work import LANE_SHARE
from vae_core.exact.cells import pass_of
from vae_core.exact.counts import SMALL_TABLE, n_contexts
from vae_core.exact.features import Decoded
from vae_core.exact.plans import CellPlan, ColumnCode
from vae_core.exact.schedule import FEW_ROWS, SHORT_STRETCHES, STRETCH, passes, taken

Ints = NDArray[np.int64]
TYPICAL_STEP = 600  # rows
# that numpy takes a row: for a symbol, each level of its contexts, a cell of a table made for it, a row of lanes
SYMBOL_US, LEVEL_US, CELL_US, STEP_US = 0.03, 0.04, 0.009, 0.9
CHUNK_US = 60.0  # a chunk, beside that
MORE_LANES = 0.02  # where numpy is to read many rows soon: it reads one of each lane in some 40 calls, however few lanes there are
MOST_SHARE = 0.5  # of a table's bits, that numpy's time for it is worth at most
WORTH_SHORT_LANES = 0.5  # of what a microsecond is worth


@dataclass(frozen=True, slots=True)
class Price:
    """What reading sooner is worth.

    steps  : bits a row that rows coded one after another have to save        mixed : that a mix of their predictions has to, beside that
    numpy  : bits that a microsecond is worth of those numpy takes      packing : of those that packing gathered symbols takes
    lanes : of a stream's bytes, for its lanes
    is_high : no look at what numpy takes long for: rows one after another, short chunks
    """

    steps: float = 0.04
    mixed: float = 0.02
    numpy: float = 0.0
    packing: float = 0.0
    lanes: float = LANE_SHARE
    is_high: bool = False

    def for_table(self, bits: float, us: float) -> Price:
        """The price for a table that takes so many bits by codes that numpy reads in so many microseconds: of columns that take few bits
        reading would be worth more than they are."""
        share = MOST_SHARE * bits / (self.numpy * us) if self.numpy * us else 1.0
        return self if share >= 1 else replace(self, numpy=share * self.numpy, packing=share * self.packing)

    def of_short(self, plan: CellPlan, n_cells: Sequence[float]) -> float:
        """The same of lanes that are as short as they are likely to become (`tuning.in_short_lanes`)."""
        is_long = plan.forward is not None and plan.chunks.stretch == STRETCH and not plan.reads_above
        return self.of(plan.stretched(SHORT_STRETCHES[0]) if is_long and self.numpy >= WORTH_SHORT_LANES else plan, n_cells)

    def of(self, plan: CellPlan, n_cells: Sequence[float]) -> float:
        """Bits a row that a plan has to save whose counts are learned. n_cells: as cells_made gives them."""
        found = self.numpy * (CELL_US * sum(n_cells) + least_us(plan, len(n_cells)))
        if plan.forward is not None:
            found += self.steps
            if plan.linear is not None and plan.linear.mixed is not None:
                found += self.mixed
        return found


def least_us(plan: CellPlan, n_digits: int) -> float:
    """Microseconds that numpy takes a row for so many digits of a plan, but for the cells of tables."""
    found = sum(SYMBOL_US + LEVEL_US * (1 + len(digit.features)) for digit in plan.digits[:n_digits])
    return found + (n_digits * CHUNK_US / plan.chunks.last if plan.forward is None else STEP_US * plan.chunks.stretch / STRETCH)


FAVOURS = SIZE, BALANCE, READING = "size", "balance", "reading"
USUAL = BALANCE
FREE = Price()
OF_MANY_ROWS = {SIZE: Price(numpy=0.01), BALANCE: Price(numpy=0.8, packing=0.2, lanes=MORE_LANES)}
FOR_READING = Price(numpy=1.4, lanes=MORE_LANES, is_high=True)


def price_of(favour: str, n_rows: int, has_above: bool = False) -> Price:
    """What is asked of a table of so many rows. favour: one of FAVOURS; has_above: rows above may tell its columns, which numpy reads
    slowly whatever else it is spared, so that nothing is paid for a balance"""
    if favour == READING:
        return FOR_READING
    return OF_MANY_ROWS[SIZE if favour == BALANCE and has_above else favour] if n_rows > FEW_ROWS else FREE


def cells_made(decoded: Decoded, plan: CellPlan, own: Ints, active: NDArray[np.bool_] | None) -> list[float]:
    """Cells of tables that numpy makes a row to read each digit: of all contexts, or where there are many, of those in a chunk.

    decoded, own : columns of a sample, and the one that the plan is of        active : its rows that hold a value, None for all
    """
    if plan.forward is not None:  # a table a step: of all contexts, or of at most one a row
        tables = [n_contexts([f.size for f in digit.features]) for digit in plan.digits]
        return [size * min(n / TYPICAL_STEP, 1.0) for n, size in zip(tables, plan.scheme.sizes, strict=True)]
    step, rows = passes(decoded.n_rows, plan.by_level)[-1]
    found = pass_of(plan, step, rows, decoded, own, active)
    if found is None:
        return []
    typical = min(plan.chunks.last, max(plan.chunks.first, found.n // 2 // plan.chunks.part))
    chunk = slice(found.n // 2, min(found.n, found.n // 2 + typical))
    n, before, made = chunk.stop - chunk.start, None, list[float]()
    digits, _, _ = plan.scheme.split(taken(own, found.rows)[chunk], None if found.guess is None else found.guess[chunk])
    for size, digit, contexts, symbols in zip(plan.scheme.sizes, plan.digits, found.contexts, digits, strict=True):
        n_cells = n_contexts([f.size for f in digit.features]) * size
        if n_cells > SMALL_TABLE:
            n_cells = len(np.unique(contexts.numbers(chunk, n, before)[-1])) * size
        made.append(n_cells / max(1, n))
        before = symbols
    return made


def column_price(price: Price, decoded: Decoded, code: ColumnCode, counted: bool = False) -> float:
    """Bits that a column's code has to save over a sample. decoded: the sample, this column too; counted: as if no symbols were gathered"""
    if not price.numpy:
        return 0.0
    own, state, found = decoded.values[code.column], decoded.states[code.column], 0.0
    n_values = decoded.n_rows if state is None else int(np.count_nonzero(state == 0))
    plans = [(code.value, own, n_values), *([] if code.recall is None else [(code.recall.same, np.zeros_like(own), n_values)])]
    for plan, values, n in plans if state is None else [*plans, (code.state, state.astype(np.int64), decoded.n_rows)]:
        if counted or not plan.gathered:
            found += n * price.of(plan, cells_made(decoded, plan, values, None))
    return found
