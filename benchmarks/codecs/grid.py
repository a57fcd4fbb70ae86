"""A table as columns of integers for the learned peers: what is learned, what is left to conventional codings, the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.codecs.container import pack, pack_plans, unpack, unpack_plans
from benchmarks.codecs.conventional import decode_columns, encode_columns, plans_of, rest_of
from benchmarks.codecs.integers import token_cost
from benchmarks.codecs.shape import Bounds
from vae_core.columns import Codes, ColumnPlan, decode_column, encode_column, pack_side, unpack_side

Ints = NDArray[np.int64]

MOST_SPAN = 1 << 48
FEW_VALUES = 24
SORTED_SHARE = 0.35
"""A table is sorted by a column whose steps from row to row take less than this share of its values' own bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One learned column.

    plan   : the product's
    values : (n_rows * width,) int64, fill where there is none; `low` the smallest, `span` how many from it on
    kept   : (n_rows * width,) bool, where there is a value; None when everywhere
    """

    plan: ColumnPlan
    low: int
    span: int
    values: Ints
    kept: NDArray[np.bool_] | None

    @property
    def n_levels(self) -> int | None:
        """How many values there are from `low` on, where they are few enough to be told apart one by one; else None."""
        few = self.plan.kind == "categorical" or (self.plan.width == 1 and self.span <= FEW_VALUES)
        return self.span if few else None


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The learned columns of a table, and the bytes of everything else: schema, plans, states, conventional columns."""

    n_rows: int
    columns: tuple[Column, ...]
    frame: bytes


def to_grid(table: pa.Table, bounds: Bounds, learnable: Callable[[ColumnPlan], bool], *, keep_sorted: bool = True) -> Grid:
    """Quantise a table by the product's plans; `learnable` says which of its integer columns are learned.

    keep_sorted : False leaves columns the table is sorted by to conventional codings, which see the rows before: for peers
                  that do not.
    """
    plans = plans_of(table, bounds)
    columns, sides = [], []
    for plan in plans:
        if plan.kind == "verbatim" or plan.opaque or not learnable(plan) or table.num_rows == 0:
            continue
        codes = encode_column(plan, table.column(plan.index))
        kept = None if codes.state is None else codes.state == 0
        seen = codes.values if kept is None else codes.values[kept]
        low, high = (int(seen.min()), int(seen.max())) if len(seen) else (plan.fill, plan.fill)
        if high - low >= MOST_SPAN or (not keep_sorted and plan.kind == "numeric" and _is_sorted(seen)):
            continue
        columns.append(Column(plan, low, high - low + 1, codes.values, kept))
        sides.append(pack_side(codes.state, codes.misfits))
    taken = {column.plan.index for column in columns}
    body, needed = encode_columns(table, rest_of(plans, taken))
    head = pack_plans(table.schema, plans, table.num_rows, needed | taken)
    spans = np.array([[c.plan.index, c.low, c.span] for c in columns], np.int64).reshape(-1, 3)
    return Grid(table.num_rows, tuple(columns), pack([head, body, spans.tobytes(), *sides]))


def _is_sorted(values: Ints) -> bool:
    if len(values) < 2:
        return False
    none = np.zeros(len(values), np.int64)
    return token_cost(np.diff(values, prepend=values[:1]), none, 1) < SORTED_SHARE * token_cost(values - int(np.median(values)), none, 1)


def frame_of(frame: bytes) -> tuple[Grid, Callable[[Sequence[Ints]], pa.Table]]:
    """(the grid without its values: zeros, fill where there is none; what makes the table of the values decoded)."""
    head, body, spans, *sides = unpack(frame)
    schema, plans, n_rows = unpack_plans(head)
    columns, codes = [], []
    for (index, low, span), side in zip(np.frombuffer(spans, np.int64).reshape(-1, 3).tolist(), sides, strict=True):
        plan = plans[index]
        n = n_rows * plan.width
        state, misfits = unpack_side(side, n, plan.value_type)
        kept = None if state is None else state == 0
        columns.append(Column(plan, low, span, np.full(n, plan.fill, np.int64), kept))
        codes.append((state, misfits))

    def finish(values: Sequence[Ints]) -> pa.Table:
        arrays = decode_columns(body, {plan.index: plan for plan in plans}, n_rows)
        for column, (state, misfits), found in zip(columns, codes, values, strict=True):
            arrays[column.plan.index] = decode_column(column.plan, Codes(found, state, misfits))
        return pa.Table.from_arrays([arrays[i] for i in range(len(schema))], schema=schema)

    return Grid(n_rows, tuple(columns), frame), finish


def shown(column: Column, values: Ints) -> Ints:
    """The values of the cells that have one."""
    return values if column.kept is None else values[column.kept]


def placed(column: Column, found: Ints) -> Ints:
    """The inverse of `shown`: fill in the cells that have none."""
    if column.kept is None:
        return found
    values = np.full(len(column.kept), column.plan.fill, np.int64)
    values[column.kept] = found
    return values


def matrix(columns: Sequence[Column], values: Sequence[Ints]) -> Ints:
    """(n_rows, width of all) int64: the columns side by side, tensors an element each."""
    return np.concatenate([v.reshape(-1, c.plan.width) for c, v in zip(columns, values, strict=True)], axis=1)
