"""Fitting the exact layer's codes of tensor columns: images, grids, vectors, each column on its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from vae_core.coders import conventional
from vae_core.columns import ColumnPlan, encode_column, one_array
from vae_core.columns.floats import FloatLevels
from vae_core.columns.plan import storage_type
from vae_core.exact.costs import Each
from vae_core.exact.dense import Dense, fit_dense
from vae_core.exact.grids import planes_of, splits_of
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.pictures import hidden_shape
from vae_core.exact.tensor_search import search_tensor
from vae_core.exact.tensors import TensorCode
from vae_core.model import MOST_WEIGHTS, Sample
from vae_core.packing import zstd

CELLS = 800_000  # of a column that are looked at, in so many runs of rows
LEAST_CELLS, CELLS_A_SECOND = 100_000, 30_000  # fewer where the time budget is short: a search once begun is not cut
RUNS = 8
DENSE_CELLS = 16_000_000
PLAN_BYTES = 512  # a margin
OF_ITS_OWN = 0.98  # of the cells, whose level is mostly of their plane
WORTH_LEARNING = 0.98  # of the best conventional coding


def fit_tensors(
    plans: Sequence[ColumnPlan], sample: Sample, taken: set[int], n_total: int, each: Each, tick: Callable[[], bool],
    budget_s: float,
) -> tuple[tuple[TensorCode, ...], float]:
    """Codes of the tensor columns that are worth it, and their estimated bits a row; without time left no more are looked for.

    taken : columns that a layer codes, or that are known      n_total : rows of the dataset      budget_s : of the whole fit
    """
    n_cells = int(max(LEAST_CELLS, min(CELLS, budget_s * CELLS_A_SECOND)))
    found, rate = list[TensorCode](), 0.0
    for plan in plans:
        if plan.kind != "tensor" or plan.index in taken or not sample.table.num_rows or not tick():
            continue
        array = one_array(_thinned(sample.table.column(plan.index), n_cells // plan.width))
        codes, n_rows = encode_column(plan, array), len(array)
        held = codes.values if codes.state is None else codes.values[codes.state == 0]
        if not len(held):
            continue
        lo, hi = (0, plan.n_levels - 1) if plan.n_levels is not None else (min(plan.lo, int(held.min())), max(plan.hi, int(held.max())))
        cells = SampleColumn(plan.index, codes.values, codes.state, plan.fill, lo, hi, False)
        shapes = [_shape(plan.field.type)]
        if len(shapes[0]) == 1 and not plan.opaque:
            hidden = hidden_shape(codes.values.reshape(-1, plan.width))
            shapes += [] if hidden is None else [hidden]
        weights_left = MOST_WEIGHTS - n_weights(found)
        coded = []
        for planes, widths in (split for shape in shapes for split in splits_of(shape)):
            is_vector = widths == (plan.width,) and not plan.opaque and plan.width**2 <= weights_left
            dense = _dense(plan, sample.table.column(plan.index), n_cells * DENSE_CELLS // CELLS) if is_vector else None
            code, bits = search_tensor(plan.index, planes, widths, cells, n_total, each, tick, dense)
            coded.append((bits / 8 * n_total / n_rows + _model_bytes(code), bits, code))
        n_bytes, bits, code = min(coded, key=lambda one: one[0])
        theirs = conventional.rank(plan, array, codes)[0][1] * n_total / n_rows
        if n_bytes < WORTH_LEARNING * theirs:
            found.append(code)
            rate += bits / n_rows
    return tuple(found), rate


def levels_by_plane(plans: Sequence[ColumnPlan], table: pa.Table) -> tuple[ColumnPlan, ...]:
    """Plans in which levels that each plane of a tensor has for itself, as colours standardised one by one, stand plane after plane: in
    one ascending list the levels of one colour would have those of the others between them, more here and fewer there.

    table : (n_rows,) of the sample
    """
    return tuple(_by_plane(plan, table.column(plan.index)) if isinstance(plan.transform, FloatLevels) else plan for plan in plans)


def _by_plane(plan: ColumnPlan, column: pa.ChunkedArray) -> ColumnPlan:
    planes = planes_of(_shape(plan.field.type))[0] if plan.kind == "tensor" else None
    if planes is None or planes.count < 2 or not isinstance(plan.transform, FloatLevels) or not len(column):
        return plan
    codes = encode_column(plan, one_array(_thinned(column, max(1, CELLS // plan.width))))
    held, levels = np.ones(len(codes.values), np.bool_) if codes.state is None else codes.state == 0, plan.transform.levels
    counts = np.stack([np.bincount(planes.of(codes.values, k)[planes.of(held, k)], minlength=len(levels)) for k in range(planes.count)])
    if counts.max(axis=0).sum() < OF_ITS_OWN * counts.sum():
        return plan
    order = np.argsort(counts.argmax(axis=0), kind="stable")
    return replace(plan, transform=FloatLevels(levels[order]), fill=int(np.flatnonzero(order == plan.fill)[0]))


def _model_bytes(code: TensorCode) -> int:
    return PLAN_BYTES + len(zstd(json.dumps(code.to_json()).encode())) + (0 if code.dense is None else len(code.dense.to_bytes()))


def n_weights(codes: Iterable[TensorCode]) -> int:
    """Weights of vectors, of all codes: a model has room for MOST_WEIGHTS."""
    return sum(code.dense.n**2 for code in codes if code.dense is not None)


def _dense(plan: ColumnPlan, column: pa.ChunkedArray, n_cells: int) -> Dense | None:
    """The prediction of vectors from all elements before, of n_cells of those without nulls and specials."""
    codes = encode_column(plan, _thinned(column, n_cells // plan.width))
    vectors = codes.values.reshape(-1, plan.width)
    if codes.state is not None:
        vectors = vectors[(codes.state.reshape(-1, plan.width) == 0).all(axis=1)]
    return fit_dense(vectors)


def _shape(kind: pa.DataType) -> tuple[int, ...]:
    """Of one row, as it lies in memory."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape)
    return (storage_type(kind).list_size,)


def _thinned(column: pa.ChunkedArray, n_rows: int) -> pa.ChunkedArray:
    """At most about n_rows rows of a column, at least one, in runs spread evenly: tensors one after another may be alike."""
    total = len(column)
    if total <= n_rows:
        return column
    run = max(1, n_rows // RUNS)
    starts = np.linspace(0, total - run, max(1, min(RUNS, n_rows))).astype(np.int64)
    return pa.chunked_array([chunk for start in np.unique(starts) for chunk in column.slice(int(start), run).chunks], column.type)
