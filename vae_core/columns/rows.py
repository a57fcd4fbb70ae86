"""Rows picked from Arrow arrays of any type.

Arrow's own kernels leave out views, run ends and whatever holds them, and which those are differs between its releases and cannot be
asked: so a kernel that is not implemented is the question, and joining slices of the array, which Arrow does for every type, the
answer. It is slower, and the same rows (tests/test_every_type.py).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrays import from_numpy, to_numpy
from vae_core.columns.physical import Bools, Ints


def taken(array: pa.Array, rows: Ints) -> pa.Array:
    """array.take(rows): rows (n,) int64, none of them null."""
    array = _aligned(array)
    try:
        return array.take(from_numpy(rows))
    except pa.ArrowNotImplementedError:
        picked = [array.slice(row, 1) for row in rows.tolist()]
        return pa.concat_arrays(picked) if picked else array.slice(0, 0)


def kept(array: pa.Array, rows: Bools) -> pa.Array:
    """array.filter(rows): rows (len(array),) bool."""
    array = _aligned(array)
    try:
        return array.filter(from_numpy(rows))
    except pa.ArrowNotImplementedError:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], rows, [False]]).astype(np.int8)))
        runs = [array.slice(start, stop - start) for start, stop in edges.reshape(-1, 2).tolist()]
        return pa.concat_arrays(runs) if runs else array.slice(0, 0)


def present(array: pa.Array) -> pa.Array:
    """array.drop_null()."""
    return kept(array, to_numpy(array.is_valid())) if array.null_count else array


def dense(array: pa.Array) -> pa.Array:
    """(n,) the values of a dictionary or run-end array, one a row; views come as large strings or bytes, of which Arrow takes rows."""
    runs = pa.types.is_run_end_encoded(array.type)
    held = array.values if runs else array.dictionary
    values = _plain(held)
    try:
        if runs:
            whole = array if values is held else pa.RunEndEncodedArray.from_arrays(array.run_ends, values).slice(array.offset, len(array))
            return pc.run_end_decode(whole)
        return (array if values is held else pa.DictionaryArray.from_arrays(array.indices, values)).dictionary_decode()
    except pa.ArrowNotImplementedError:  # nested values with views in them
        ends = to_numpy(array.run_ends) if runs else None
        rows = array.indices.to_pylist() if ends is None else np.searchsorted(ends, array.offset + np.arange(len(array)), "right").tolist()
        parts = [pa.nulls(1, values.type) if row is None else values.slice(row, 1) for row in rows]
        return pa.concat_arrays(parts) if parts else values.slice(0, 0)


def _aligned(array: pa.Array) -> pa.Array:
    """The array, as a copy where Arrow's kernels take other rows: they forget where a slice of lists of one size in such lists begins."""
    return pa.concat_arrays([array]) if len(array) and _has_sizes(array.type) else array


def _has_sizes(kind: pa.DataType, within: bool = False) -> bool:
    """Whether lists of one size are in such lists."""
    if pa.types.is_fixed_size_list(kind):
        return within or _has_sizes(kind.value_type, True)
    return bool(pa.types.is_nested(kind)) and any(_has_sizes(kind.field(i).type) for i in range(kind.num_fields))


def _plain(array: pa.Array) -> pa.Array:
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    return array.cast(pa.large_binary()) if pa.types.is_binary_view(array.type) else array
