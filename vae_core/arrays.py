"""Numbers and bytes as Arrow arrays, from their buffers: `pa.array` and `pa.scalar` import pandas first, if it is there, a third of a
second of every process that reads a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def from_numpy(values: NDArray[Any], kind: pa.DataType | None = None, mask: NDArray[np.bool_] | None = None) -> pa.Array:
    """(n,) booleans, integers or floating point numbers as they are, not copied where they lie one behind another.

    kind : a type of the same layout, the one of numpy without        mask : (n,) true where there is a null
    Raises ValueError on any other values.
    """
    values = np.ascontiguousarray(values)
    if values.ndim != 1 or values.dtype.kind not in "biuf" or not values.dtype.isnative:
        raise ValueError(f"{values.ndim}-dimensional {values.dtype} are no numbers in a row, as this machine has them")
    kind = pa.from_numpy_dtype(values.dtype) if kind is None else kind
    if mask is not None and mask.shape != values.shape:
        raise ValueError(f"a mask of {mask.shape} for values of {values.shape}")
    if kind.bit_width != (1 if values.dtype == np.bool_ else 8 * values.itemsize):
        raise ValueError(f"{values.dtype} has not the layout of {kind}")
    valid = None if mask is None or not mask.any() else pack_bits(~mask)
    return pa.Array.from_buffers(kind, len(values), [valid, pack_bits(values) if values.dtype == np.bool_ else pa.py_buffer(values)])


def pack_bits(bits: NDArray[np.bool_]) -> pa.Buffer:
    """(n,) bool as an Arrow bitmap."""
    return pa.py_buffer(np.packbits(bits, bitorder="little"))


def unpack_bits(bitmap: pa.Buffer, offset: int, n: int) -> NDArray[np.bool_]:
    """Bits offset .. offset+n of an Arrow bitmap as (n,) bool."""
    first = offset // 8
    packed = np.frombuffer(bitmap, np.uint8)[first : (offset + n + 7) // 8]
    skip = offset - 8 * first
    return np.unpackbits(packed, count=skip + n, bitorder="little")[skip:].view(np.bool_)


def to_numpy(array: pa.Array) -> NDArray[Any]:
    """(n,) booleans, integers or floating point numbers; what is null is anything. `np.asarray` imports pandas, too. Raises ValueError on
    any other type."""
    n, data, kind = len(array), array.buffers()[1], np.dtype(array.type.to_pandas_dtype())
    if kind.kind not in "biuf" or array.type.bit_width != (1 if kind == np.bool_ else 8 * kind.itemsize):
        raise ValueError(f"{array.type} is no number")
    if not n or data is None:
        return np.zeros(n, kind)
    return unpack_bits(data, array.offset, n) if kind == np.bool_ else np.frombuffer(data, kind, n, array.offset * kind.itemsize)


def scalar(value: float | bytes | None, kind: pa.DataType) -> pa.Scalar:
    """A boolean, an integer, a floating point number or a large_binary."""
    if value is None:
        return pa.nulls(1, kind)[0]
    return (byte_strings([value]) if isinstance(value, bytes) else from_numpy(np.array([value], kind.to_pandas_dtype()), kind))[0]


def byte_strings(texts: Sequence[bytes]) -> pa.Array:
    """(n,) large_binary."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))])
    return pa.Array.from_buffers(pa.large_binary(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])
