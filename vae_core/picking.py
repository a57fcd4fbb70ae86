"""The columns of a sample that the exact layer may learn, as it sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from vae_core.coders import lattices
from vae_core.coders.narrow import pco_of
from vae_core.columns import ColumnPlan, encode_column
from vae_core.columns.codes import Codes
from vae_core.columns.floats import DecimalLattice
from vae_core.columns.integers import IntegerLattice
from vae_core.exact.above import MOST_COLUMNS, STRICT, above_of_runs, tells
from vae_core.exact.costs import root
from vae_core.exact.forms import PLAIN, counts_of, is_stepped, stepped
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.sampled import looks_like_clock
from vae_core.exact.units import MOST_NUMBER
from vae_core.layers import thinned
from vae_core.model import Sample
from vae_core.periods import periods_of

ABOVE_ROWS, ABOVE_RUN = 60_000, 16_384  # of a sample, and as many in a row: lines of a map are some hundred rows long
LEAST_SPAN, LEAST_AMOUNTS = 8, 2  # of columns that tell which rows are above others: one alone takes about as much as it saves
WORTH_COUNTING = 0.5  # bits of what makes codes of counts, of those that counts do not have


def amounts_of(picked: Sequence[SampleColumn]) -> list[SampleColumn]:
    """The columns by whose steps rows above may be found."""
    return [c for c in picked if not c.categorical and c.hi - c.lo >= LEAST_SPAN][:MOST_COLUMNS]


def has_above(plans: Sequence[ColumnPlan], sample: Sample, amounts: Sequence[SampleColumn], forms: Mapping[int, int]) -> bool:
    """Whether rows have rows above them that tell of amounts, on a sample of long runs of rows."""
    if len(amounts) < LEAST_AMOUNTS:
        return False
    table, runs = thinned(sample, ABOVE_ROWS, ABOVE_RUN)
    same = {**forms, **{c.column: c.form for c in amounts}}
    values = [c.values for c in picked_columns([plans[c.column] for c in amounts], table, set(), same)]
    return bool(values) and tells(values, above_of_runs(values, runs, STRICT))


def picked_columns(plans: Sequence[ColumnPlan], table: pa.Table, taken: set[int], forms: Mapping[int, int]) -> list[SampleColumn]:
    """The learnable columns of a table, but for those a layer has taken; forms: those in which columns are known to be coded."""
    found: list[SampleColumn] = []
    for plan in plans:
        if plan.kind not in ("categorical", "numeric") or plan.index in taken or (plan.opaque and plan.kind == "categorical"):
            continue
        codes = encode_column(plan, table.column(plan.index))
        form = forms[plan.index] if plan.index in forms else _form(plan, codes)
        if is_stepped(form):
            form = stepped(plan)  # which may be another plan than it was found for
            found.append(_counted(plan, codes, form))
        if plan.opaque or is_stepped(form):
            continue
        hi = plan.n_levels - 1 if plan.n_levels is not None else plan.hi
        lo = 0 if plan.n_levels is not None else plan.lo
        categorical = plan.kind == "categorical"
        column = SampleColumn(plan.index, codes.values, codes.state, plan.fill, lo, hi, categorical, periods=periods_of(plan))
        found.append(column if looks_like_clock(column) else replace(column, lattice=_lattice_of(plan)))
    return found


def _lattice_of(plan: ColumnPlan) -> tuple[int, int] | None:
    """Start and step of the whole numbers of a column's codes, where they are some."""
    transform = plan.transform
    if isinstance(transform, IntegerLattice | DecimalLattice) and transform.group == 1 and plan.is_lossless:
        return (transform.offset, transform.step) if abs(transform.offset) < MOST_NUMBER > transform.step else None
    return None


def _form(plan: ColumnPlan, codes: Codes) -> int:
    """The form of counts of hidden steps where these say much less than the sample's codes, whatever tells them; else PLAIN."""
    if not lattices.worth_trying(plan, codes):
        return PLAIN
    values = codes.values if codes.state is None else codes.values[codes.state == 0]
    made, _ = lattices.counted(values, lattices.floats_of(plan))
    saved = sum(s.n_rows * math.log2(max(1.0, abs(s.step) * 2.0**-s.shift)) for s in made.segments)
    return stepped(plan) if 8 * len(made.to_bytes()) < WORTH_COUNTING * saved else PLAIN


def _counted(plan: ColumnPlan, codes: Codes, form: int) -> SampleColumn:
    """A column of the sample as counts of its steps."""
    active = np.ones(len(codes.values), np.bool_) if codes.state is None else codes.state == 0
    counts = counts_of(form, codes.values[active])
    values = np.full(len(active), int(np.median(counts)) if len(counts) else 0, np.int64)
    values[active] = counts
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    beyond = (high - low) // 16  # of the rows that the sample has not: what is outside has 64 bits each
    low, high = max(low - beyond, -(2**63)), min(high + beyond, 2**63 - 1)
    return SampleColumn(plan.index, values, codes.state, plan.fill, low, high, False, form)


def plain_bits(column: SampleColumn) -> float:
    """Bits of a column on its own: no context, wide ones by uniform low digits."""
    span = column.hi - column.lo + 1
    shift = max(0, span.bit_length() - 12)
    with np.errstate(over="ignore"):
        high = np.clip((column.values - column.lo) >> shift, 0, span >> shift)
    return root(high, (span >> shift) + 1).bits + shift * len(high)


def packed_bits(column: SampleColumn) -> int:
    """Bits of its values as pcodec has them."""
    return 8 * len(pco_of(column.values if column.state is None else column.values[column.state == 0])[1])
