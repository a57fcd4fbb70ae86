"""OpenZL (Meta, 2025): quantised columns as typed numeric streams, each through the best of a few of its graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.codecs.container import pack, unpack
from benchmarks.codecs.grid import frame_of, placed, shown, to_grid
from benchmarks.codecs.shape import Bounds, Effort

LEVEL = 9
SAMPLE = 1 << 17


def encode(table: pa.Table, bounds: Bounds, _: Effort) -> bytes:
    """One frame a column; what has no integers (free text, nested values) is conventional."""
    grid = to_grid(table, bounds, lambda plan: True)
    frames = []
    for column in grid.columns:
        above = shown(column, column.values) - column.low
        narrow = above.astype(np.min_scalar_type(column.span - 1))
        frames.append(_compress(narrow) if len(narrow) else b"")
    return pack([grid.frame, *frames])


def decode(data: bytes) -> pa.Table:
    """The inverse of `encode`."""
    import openzl.ext as zl

    frame, *frames = unpack(data)
    grid, finish = frame_of(frame)
    values = []
    for column, compressed in zip(grid.columns, frames, strict=True):
        narrow: Any = np.empty(0, np.int64)
        if compressed:
            (output,) = zl.DCtx().decompress(compressed)
            narrow = output.content.as_nparray()
        values.append(placed(column, narrow.astype(np.int64) + column.low))
    return finish(values)


def _compress(values: Any) -> bytes:
    """The smallest frame over the graphs: judged on the first values, the winner on all."""
    head = np.ascontiguousarray(values[:SAMPLE])
    sizes = [(len(_frame(head, number)), number) for number in range(len(_GRAPHS))]
    return _frame(values, min(sizes)[1])


def _frame(values: Any, number: int) -> bytes:
    import openzl.ext as zl

    compressor = zl.Compressor()
    compressor.select_starting_graph(_GRAPHS[number](zl, compressor))
    context = zl.CCtx()
    context.ref_compressor(compressor)
    context.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
    context.set_parameter(zl.CParam.CompressionLevel, LEVEL)
    return bytes(context.compress([zl.Input(zl.Type.Numeric, values)]))


def _generic(zl: Any, compressor: Any) -> Any:
    return zl.graphs.Compress()(compressor)


def _field_lz(zl: Any, compressor: Any) -> Any:
    return zl.graphs.FieldLz()(compressor)


def _delta(zl: Any, compressor: Any) -> Any:
    return zl.nodes.DeltaInt()(compressor, zl.graphs.FieldLz()(compressor))


def _tokens(zl: Any, compressor: Any) -> Any:
    lz = zl.graphs.FieldLz()(compressor)
    return zl.nodes.TokenizeNumeric(sort=True)(compressor, zl.nodes.DeltaInt()(compressor, lz), lz)


_GRAPHS = (_generic, _field_lz, _delta, _tokens)
