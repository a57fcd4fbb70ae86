"""Arrow buffers as numpy arrays and back, without copies where the layout allows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.arrays import pack_bits, unpack_bits
from vae_core.errors import CorruptArchive

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_UNITS_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def is_integral(value_type: pa.DataType) -> bool:
    """Types whose values are int64 up to wrap-around: bool, integers, dates, times, durations, short decimals."""
    t = pa.types
    if t.is_decimal(value_type):
        return bool(value_type.precision <= 18)
    return bool(t.is_boolean(value_type) or t.is_integer(value_type) or (t.is_temporal(value_type) and not t.is_interval(value_type)))


def storage_dtype(value_type: pa.DataType) -> np.dtype[Any]:
    """The numpy dtype of one value in the data buffer; decimals of 128 and 256 bits are records of int64 words."""
    t = pa.types
    if t.is_boolean(value_type):
        return np.dtype(np.uint8)
    if t.is_floating(value_type):
        return np.dtype(f"f{value_type.bit_width // 8}")
    if t.is_unsigned_integer(value_type):
        return np.dtype(f"u{value_type.bit_width // 8}")
    if value_type.bit_width > 64:
        return np.dtype((np.int64, value_type.bit_width // 64))
    return np.dtype(f"i{value_type.bit_width // 8}")


def integer_range(value_type: pa.DataType) -> tuple[int, int]:
    """Smallest and largest value the type may hold, as stored integers (ticks, scaled decimals)."""
    t = pa.types
    if t.is_boolean(value_type):
        return 0, 1
    if t.is_decimal(value_type):
        top = 10**value_type.precision - 1
        return -top, top
    if t.is_time(value_type):
        return 0, _UNITS_PER_DAY[value_type.unit] - 1
    bits = value_type.bit_width
    if t.is_unsigned_integer(value_type):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def valid_of(array: pa.Array) -> Bools | None:
    """(n,) bool, False at nulls; None when nothing is null."""
    if array.null_count == 0:
        return None
    bitmap = array.buffers()[0]
    if bitmap is None:
        return np.zeros(len(array), np.bool_)
    return unpack_bits(bitmap, array.offset, len(array))


def raw_values(array: pa.Array) -> NDArray[Any]:
    """The data buffer of a fixed-width array in `storage_dtype`, zero-copy but for bool. Nulls hold anything."""
    n = len(array)
    buffer = array.buffers()[1]
    dtype = storage_dtype(array.type)
    if n == 0 or buffer is None:
        return np.zeros((n, *dtype.shape), dtype.base)
    if pa.types.is_boolean(array.type):
        return unpack_bits(buffer, array.offset, n).view(np.uint8)
    words = dtype.itemsize // dtype.base.itemsize
    flat = np.frombuffer(buffer, dtype.base, count=n * words, offset=array.offset * dtype.itemsize)
    return flat.reshape(n, *dtype.shape)


def from_raw(value_type: pa.DataType, raw: NDArray[Any], valid: Bools | None) -> pa.Array:
    """The inverse of `raw_values`: an Arrow array over the memory of `raw`."""
    n = len(raw)
    bitmap = None if valid is None else pack_bits(valid)
    packed = pa.types.is_boolean(value_type)
    data = pack_bits(raw.astype(np.bool_, copy=False)) if packed else pa.py_buffer(np.ascontiguousarray(raw))
    return pa.Array.from_buffers(value_type, n, [bitmap, data], null_count=-1 if valid is not None else 0)


def integers_of(array: pa.Array) -> tuple[Ints, Bools | None]:
    """Values as int64 (uint64 wraps) and where they fit (None: all; only decimals may not). Zero-copy at 64 bits."""
    raw = raw_values(array)
    if raw.ndim == 2:
        low = np.ascontiguousarray(raw[:, 0])
        sign = low >> 63
        fits = np.logical_and.reduce([raw[:, j] == sign for j in range(1, raw.shape[1])])
        return low, None if bool(fits.all()) else fits
    if raw.dtype == np.uint64:
        return raw.view(np.int64), None
    return raw.astype(np.int64, copy=False), None


def raw_of_integers(value_type: pa.DataType, values: Ints, *, clip: bool, where: str) -> NDArray[Any]:
    """int64 (wrapped for uint64) as the type's stored values.

    clip: values beyond the type's range are drawn to its ends; else CorruptArchive, `where` naming the column.
    """
    dtype = storage_dtype(value_type)
    if clip and (value_type.bit_width != 64 or not (pa.types.is_integer(value_type) or pa.types.is_timestamp(value_type))):
        values = np.clip(values, *integer_range(value_type))
    if dtype.shape:
        raw = np.empty((len(values), *dtype.shape), np.int64)
        raw[:, 0] = values
        raw[:, 1:] = (values >> 63)[:, None]
        return raw
    if dtype.itemsize == 8:
        return values.view(dtype)
    info = np.iinfo(dtype)
    low, high = (0, 1) if pa.types.is_boolean(value_type) else (int(info.min), int(info.max))
    if len(values) and (int(values.min()) < low or int(values.max()) > high):
        raise CorruptArchive(f"column {where!r}: a decoded value is outside {low}..{high}, the range of {value_type}")
    return values.astype(dtype)


def ordered_bits(values: NDArray[Any]) -> Ints:
    """Floats as integers of the same order (f2, f4, f8 -> int64); +0.0 is 0."""
    width = values.dtype.itemsize
    bits = np.ascontiguousarray(values).view(f"i{width}")
    mask = np.array(np.iinfo(bits.dtype).max, bits.dtype)
    ordered: Ints = (bits ^ ((bits >> (8 * width - 1)) & mask)).astype(np.int64, copy=False)
    return ordered


def floats_of_bits(bits: Ints, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The inverse of `ordered_bits`; integers beyond the width of the dtype wrap round."""
    width = dtype.itemsize
    narrow = bits.astype(f"i{width}", copy=False)
    mask = np.array(np.iinfo(narrow.dtype).max, narrow.dtype)
    floats: NDArray[Any] = (narrow ^ ((narrow >> (8 * width - 1)) & mask)).view(dtype)
    return floats
