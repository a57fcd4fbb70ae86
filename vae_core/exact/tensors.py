"""Tensors in the exact layer: their cells as the rows of a table of planes, which the same code reads and writes.

The cells of a row of a tensor column, an image say, are a few planes (its colours) of so many places. Place after place, tensor after
tensor, they are a table of as many columns as there are planes, whose rows are coded one after another (`forward`): the cell above is
so many rows before. A block's tensors are coded in groups, each on its own, so that memory does not grow with the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy.rans import Channel
from vae_core.errors import CorruptArchive
from vae_core.exact.cells import code_column
from vae_core.exact.dense import Dense
from vae_core.exact.features import Decoded
from vae_core.exact.plans import ColumnCode, column_code_from_json

Ints = NDArray[np.int64]
States = NDArray[np.uint8]
GROUP_CELLS = 1 << 21
MOST_PLANES = 16


@dataclass(frozen=True, slots=True)
class Planes:
    """How the cells of a row are split: (before, count, after) with before * count * after cells; plane k is [:, k, :], flattened."""

    before: int
    count: int
    after: int

    @property
    def piece(self) -> int:
        """Cells of a plane of one row."""
        return self.before * self.after

    @property
    def width(self) -> int:
        """Cells of a row."""
        return self.piece * self.count

    def of(self, cells: NDArray[Any], k: int) -> NDArray[Any]:
        """(n_rows * piece,) cells of plane k of (n_rows * width,) cells."""
        return np.ascontiguousarray(cells.reshape(-1, self.before, self.count, self.after)[:, :, k, :]).ravel()

    def put(self, cells: NDArray[Any], k: int, plane: NDArray[Any]) -> None:
        """The inverse of `of`."""
        cells.reshape(-1, self.before, self.count, self.after)[:, :, k, :] = plane.reshape(-1, self.before, self.after)


@dataclass(frozen=True, slots=True)
class TensorCode:
    """How the tensors of one dataset column are coded.

    column : index into the model's columns      planes : what its rows are split into
    codes  : of the planes, in coding order; their `column` is the number of the plane
    """

    column: int
    planes: Planes
    codes: tuple[ColumnCode, ...]

    @property
    def dense(self) -> Dense | None:
        """Of vectors, the prediction of each element by all before it; JSON does not have it."""
        linear = self.codes[0].value.linear
        return None if linear is None else linear.dense

    def with_dense(self, dense: Dense) -> TensorCode:
        """The code of vectors with its prediction. Raises CorruptArchive where it has no place for it."""
        value = self.codes[0].value
        has_place = value.linear is not None and value.forward is not None and not value.linear.terms and value.linear.mixed is None
        if len(self.codes) != 1 or value.linear is None or not has_place or dense.n != self.planes.piece:
            raise CorruptArchive(f"model predicts column {self.column} as vectors of {dense.n} elements, which it does not hold")
        value = replace(value, linear=replace(value.linear, dense=dense))
        return replace(self, codes=(replace(self.codes[0], value=value),))

    @property
    def columns(self) -> set[int]:
        """Earlier columns this one is conditioned on: none."""
        return set()

    @property
    def fill(self) -> int:
        """What a cell holds that has no value."""
        return self.codes[0].fill

    def to_json(self) -> list[Any]:
        """Small JSON."""
        planes = self.planes
        codes = [code.to_json() for code in self.codes]
        return [self.column, [planes.before, planes.count, planes.after], codes, int(self.dense is not None)]

    def groups(self, n_rows: int) -> Iterator[slice]:
        """The rows of a block that are coded together."""
        step = max(1, GROUP_CELLS // self.planes.width)
        for start in range(0, n_rows, step):
            yield slice(start, min(n_rows, start + step))


def tensor_code_from_json(parts: Any, n_columns: int, weights: Callable[[int], bytes | None] = lambda column: None) -> TensorCode:
    """The inverse of TensorCode.to_json. Raises CorruptArchive when it could not be decoded.

    weights : of the vectors of a column, as Dense.to_bytes gives them
    """
    match parts:
        case [int(column), [int(before), int(count), int(after)], [*codes], (0 | 1) as is_dense] if (
            0 <= column < n_columns and min(before, after) > 0 and 0 < count <= MOST_PLANES and len(codes) == count
        ):
            found = tuple(column_code_from_json(code, count, of_tensor=True) for code in codes)
        case _:
            raise CorruptArchive(f"model holds a malformed code of tensors: {str(parts)[:60]}")
    seen: set[int] = set()
    for code in found:
        if code.column in seen or not code.columns <= seen or code.fill != found[0].fill:
            raise CorruptArchive(f"model codes plane {code.column} of column {column} twice, or before what it is conditioned on")
        if code.value.matches or code.value.forward not in (None, ()) or code.recall is not None:
            raise CorruptArchive(f"model codes plane {code.column} of column {column} in ways that are for columns alone")
        seen.add(code.column)
    tensor = TensorCode(column, Planes(before, count, after), found)
    if not is_dense:
        return tensor
    data = weights(column)
    if data is None:
        raise CorruptArchive(f"model holds no weights for the vectors of column {column}")
    return tensor.with_dense(Dense.from_bytes(data, tensor.planes.piece))


def code_tensors(channel: Channel, code: TensorCode, n_rows: int, values: Ints | None, state: States | None) -> tuple[Ints, States | None]:
    """Code the cells of n_rows tensors; returns (values, state) as given or as read.

    values : (n_rows * width,) int64 with code.fill where state != 0, None when reading
    state  : (n_rows * width,) uint8, None when every cell holds a value (or when reading)
    """
    width = code.planes.width
    found = np.empty(n_rows * width, np.int64) if values is None else values
    found_state = state
    for rows in code.groups(n_rows):
        cells = slice(rows.start * width, rows.stop * width)
        decoded = Decoded((rows.stop - rows.start) * code.planes.piece, piece=code.planes.piece)
        for one in code.codes:
            plane = None if values is None else code.planes.of(values[cells], one.column)
            special = None if state is None else code.planes.of(state[cells], one.column)
            plane, special = code_column(channel, one, decoded, plane, special)
            if values is None:
                code.planes.put(found[cells], one.column, plane)
                if special is not None:
                    found_state = np.zeros(n_rows * width, np.uint8) if found_state is None else found_state
                    code.planes.put(found_state[cells], one.column, special)
    return found, found_state
