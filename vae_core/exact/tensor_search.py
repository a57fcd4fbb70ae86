"""Choosing, on a sample, how tensors are coded: plane after plane, each by those before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vae_core.exact.costs import Each
from vae_core.exact.dense import Dense
from vae_core.exact.features import Decoded
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.sampled import Sampled
from vae_core.exact.search import search_column
from vae_core.exact.tensors import Planes, TensorCode


def search_tensor(
    column: int, planes: Planes, widths: tuple[int, ...], cells: SampleColumn, n_total: int, each: Each, tick: Callable[[], bool],
    dense: Dense | None = None,
) -> tuple[TensorCode, float]:
    """The code of a tensor column, and its estimated bits over the sample.

    widths  : as planes_of has them      cells   : (n_rows * width,) of the sample
    n_total : rows of the dataset
    dense   : of vectors, a prediction worth a look
    """
    columns = [
        replace(
            cells, column=k, values=planes.of(cells.values, k), state=None if cells.state is None else planes.of(cells.state, k),
        )
        for k in range(planes.count)
    ]  # fmt: skip
    n_cells = len(columns[0].values)
    decoded = Decoded(n_cells, {c.column: c.values for c in columns}, {c.column: c.state for c in columns}, piece=planes.piece)
    amounts = frozenset(c.column for c in columns if not c.categorical)
    sampled = Sampled(n_cells, n_total * planes.piece, decoded, numeric=amounts, each=each, widths=widths, dense=dense)
    codes, bits = [], 0.0
    for k, one in enumerate(columns):
        code, own = search_column(replace(sampled, placed=columns[:k]), one, tick)
        codes.append(code)
        bits += own
    return TensorCode(column, planes, tuple(codes)), bits
