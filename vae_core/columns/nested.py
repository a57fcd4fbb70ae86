"""Rows of lists and structs as byte strings that are equal exactly where the rows are, so that Arrow can hash them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrays import from_numpy, scalar, to_numpy
from vae_core.columns.physical import valid_of

_NOTHING = scalar(b"", pa.large_binary())


def has_row_keys(value_type: pa.DataType, is_leaf: bool = False) -> bool:
    """Lists and structs, to any depth, of plain numbers, times, decimals, booleans, strings and bytes."""
    t = pa.types
    if t.is_struct(value_type):
        return all(has_row_keys(value_type.field(i).type, True) for i in range(value_type.num_fields))
    if t.is_list(value_type) or t.is_large_list(value_type) or t.is_fixed_size_list(value_type):
        return has_row_keys(value_type.value_type, True)
    return is_leaf and (t.is_boolean(value_type) or _is_text(value_type) or _is_fixed(value_type))


def row_keys(array: pa.Array) -> pa.Array:
    """(n,) large_binary, null where a row is null; the values inside nulls, whatever they are, do not count."""
    keys = _bytes_of(array)
    valid = valid_of(array)
    return keys if valid is None else pc.if_else(from_numpy(valid), keys, scalar(None, pa.large_binary()))


def _is_text(value_type: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_string(value_type) or t.is_large_string(value_type) or t.is_binary(value_type) or t.is_large_binary(value_type))


def _is_fixed(value_type: pa.DataType) -> bool:
    t = pa.types
    numbers = t.is_integer(value_type) or t.is_floating(value_type) or t.is_temporal(value_type) or t.is_decimal(value_type)
    return bool((numbers and not t.is_interval(value_type)) or t.is_fixed_size_binary(value_type))


def _bytes_of(array: pa.Array) -> pa.Array:
    """(n,) large_binary without nulls: each row's validity, then a length or count where it has one, then what it holds.

    That is a prefix code, so that rows put end to end (a list) are told apart as well.
    """
    t, kind, n = pa.types, array.type, len(array)
    valid = valid_of(array)
    flags = np.ones(n, np.uint8) if valid is None else valid.astype(np.uint8)
    if t.is_struct(kind):
        return pc.binary_join_element_wise(_fixed(flags.reshape(n, 1)), *map(_bytes_of, array.flatten()), _NOTHING)
    if t.is_boolean(kind):
        return _fixed(np.stack([flags, flags & to_numpy(array.cast(pa.uint8()).fill_null(scalar(0, pa.uint8())))], 1))
    if _is_fixed(kind):
        width = kind.bit_width // 8
        raw = np.frombuffer(array.buffers()[1] or b"", np.uint8)[array.offset * width : (array.offset + n) * width]
        return _fixed(np.concatenate([flags.reshape(n, 1), raw.reshape(n, width) * flags.reshape(n, 1)], 1))
    if _is_text(kind):
        body = array.cast(pa.large_binary()).fill_null(_NOTHING)
        counts = to_numpy(pc.binary_length(body)).astype(np.int64)
    else:
        lengths = pc.list_value_length(array)
        counts = to_numpy(lengths.fill_null(scalar(0, lengths.type)) if lengths.null_count else lengths).astype(np.int64)
        inner = _bytes_of(array.flatten())
        starts = np.frombuffer(inner.buffers()[1], np.int64, len(inner) + 1) if len(inner) else np.zeros(1, np.int64)
        offsets = starts[np.concatenate([[0], np.cumsum(counts)])]
        body = pa.Array.from_buffers(pa.large_binary(), n, [None, pa.py_buffer(offsets), inner.buffers()[2]])
    heads = np.concatenate([flags.reshape(n, 1), counts.view(np.uint8).reshape(n, 8)], 1)
    return pc.binary_join_element_wise(_fixed(heads), body, _NOTHING)


def _fixed(rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> pa.Array:
    """(n, width) bytes as n byte strings."""
    n, width = rows.shape
    data = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.Array.from_buffers(pa.large_binary(), n, [None, pa.py_buffer(np.arange(n + 1, dtype=np.int64) * width), data])
