"""NPY: one NumPy array; the first axis is the rows.

A 1-D array becomes the column `value`; an N-D array the column `value` of fixed-shape tensors. The schema's metadata
remembers dtype, trailing shape and memory order, so that `to_numpy` undoes `to_arrow`. Headers are parsed by NumPy's
own literal parser; object arrays, which are pickles, are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.errors import BadInput
from storage.formats.contract import Format, Outline, unreadable

COLUMN = "value"
METADATA_KEY = b"latentpack.npy"
_TIME_UNITS = {"M": ("D", "s", "ms", "us", "ns"), "m": ("s", "ms", "us", "ns")}  # by kind of dtype: datetimes, timedeltas
_DATES = 1 << 31  # days before and after 1970 that a date of Arrow reaches
_MAX_BATCH_BYTES = 64 << 20


class NPY(Format):
    """NumPy .npy files of booleans, integers, floats up to 64 bits, datetimes (by day or finer) and timedeltas (by second or finer)."""

    name = "npy"

    def outline(self, file: BinaryIO, n_bytes: int, where: str) -> Outline:
        shape, fortran_order, dtype, offset = _header(file, where)
        n_values = 1
        for length in shape:
            n_values *= length
        if offset + n_values * dtype.itemsize != n_bytes:
            raise BadInput(
                f"{where}: the header promises {offset + n_values * dtype.itemsize} bytes, the file has {n_bytes}"
            )
        return Outline(_schema(shape[1:], dtype, fortran_order), (shape[0],))

    def batches(
        self, path: str, schema: pa.Schema, start: int, stop: int | None, batch_rows: int, where: str
    ) -> Iterator[pa.RecordBatch]:
        """Memory-mapped; at most 64 MiB of values a batch, whatever `batch_rows` says."""
        try:
            with open(path, "rb") as file:
                shape, fortran_order, dtype, offset = _header(file, where)
            own_schema = _schema(shape[1:], dtype, fortran_order)
            stop = shape[0] if stop is None else min(stop, shape[0])
            if start >= stop:
                return
            order: Literal["F", "C"] = "F" if fortran_order else "C"
            array: NDArray[Any] = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)
            n_row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            step = max(1, min(batch_rows, _MAX_BATCH_BYTES // n_row_bytes))
            for low in range(start, stop, step):
                column = _column(np.asarray(array[low : min(low + step, stop)]), own_schema.field(0).type, where)
                yield pa.RecordBatch.from_arrays([column], schema=own_schema)
        except (OSError, ValueError) as error:
            raise unreadable(where, "NPY", error) from error


def to_arrow(array: NDArray[Any]) -> pa.Table:
    """An array of one or more axes as the table its .npy file is read as. Raises BadInput for dtypes without one."""
    shape = array.shape
    _check(shape, array.dtype, "array")
    fortran_order = bool(array.flags.f_contiguous and not array.flags.c_contiguous)
    schema = _schema(shape[1:], array.dtype, fortran_order)
    return pa.Table.from_arrays([_column(array, schema.field(0).type, "array")], schema=schema)


def to_numpy(table: pa.Table) -> NDArray[Any]:
    """The array of a one-column table: with dtype, shape and memory order as stored where the metadata tells.

    Without metadata a primitive or fixed-size column still becomes an array. Raises BadInput for tables with several
    columns, types NumPy has no dtype for, and nulls (which become NaT in datetimes).
    """
    if table.num_columns != 1:
        raise BadInput(f"an .npy file holds one column, this table has {table.num_columns}; choose one by --columns")
    field, column = table.schema.field(0), table.column(0)
    stored = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    values, row_shape = _flat(field, column)
    if values.null_count and not pa.types.is_temporal(values.type):
        raise BadInput(f"column {field.name!r} has {values.null_count} nulls, which an .npy file cannot hold")
    try:
        flat = values.to_numpy(zero_copy_only=False)
    except (pa.ArrowException, NotImplementedError) as error:
        raise BadInput(f"column {field.name!r} of type {field.type} has no NumPy dtype") from error
    if flat.dtype == object:
        raise BadInput(f"column {field.name!r} of type {field.type} has no NumPy dtype")
    array = flat.reshape((table.num_rows, *row_shape))
    if "dtype" in stored:
        array = array.astype(np.dtype(stored["dtype"]), copy=False)
    return np.asfortranarray(array) if stored.get("fortran_order") else array


def _flat(field: pa.Field, column: pa.ChunkedArray) -> tuple[pa.Array, tuple[int, ...]]:
    """The values of all rows in one array, and the shape of one row."""
    kind = field.type
    chunks = column.combine_chunks()
    if isinstance(chunks, pa.ChunkedArray):
        chunks = chunks.chunk(0) if chunks.num_chunks else pa.array([], kind)
    row_shape: tuple[int, ...] = ()
    if isinstance(kind, pa.FixedShapeTensorType):
        row_shape = tuple(kind.shape)
        chunks, kind = chunks.storage, kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        if chunks.null_count:
            raise BadInput(f"column {field.name!r} has {chunks.null_count} null rows, which an .npy file cannot hold")
        row_shape = row_shape or (kind.list_size,)
        chunks = chunks.flatten()
    return chunks, row_shape


def _header(file: BinaryIO, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """(shape, Fortran order, dtype, offset of the values); nothing is executed, nothing large allocated."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        elif version in {(2, 0), (3, 0)}:
            # 3.0 differs from 2.0 only by UTF-8 field names, and arrays with fields are refused below
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version[0]}.{version[1]} is not known")
    except Exception as error:  # a hostile header makes NumPy's tokenizer and parser fail in many ways
        raise unreadable(where, "NPY", error) from error
    _check(shape, dtype, where)
    return shape, fortran_order, dtype, file.tell()


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
    if dtype.hasobject:
        raise BadInput(f"{where}: an object array is a pickle and is not opened; save it with a numeric dtype")
    units = _TIME_UNITS.get(dtype.kind, ())
    if units and (np.datetime_data(dtype)[0] not in units or np.datetime_data(dtype)[1] != 1):
        raise BadInput(f"{where}: dtype {dtype} has no Arrow type; save it in one of the units {', '.join(units)}")
    numeric = dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8)
    if not (numeric or units):
        raise BadInput(f"{where}: dtype {dtype} has no Arrow type here; save it as a number or use Parquet")
    if not shape:
        raise BadInput(f"{where}: a 0-d array has no rows; reshape it to one axis or more")
    if any(length < 0 for length in shape):
        raise BadInput(f"{where}: shape {shape} has a negative length")
    if 0 in shape[1:]:
        raise BadInput(f"{where}: rows of shape {shape[1:]} hold no values")


def _schema(row_shape: tuple[int, ...], dtype: np.dtype[Any], fortran_order: bool) -> pa.Schema:
    value_type = pa.from_numpy_dtype(dtype.newbyteorder("="))
    kind = pa.fixed_shape_tensor(value_type, list(row_shape)) if row_shape else value_type
    stored = {"dtype": dtype.str, "shape": list(row_shape), "fortran_order": fortran_order}
    return pa.schema([pa.field(COLUMN, kind)], metadata={METADATA_KEY: json.dumps(stored).encode()})


def _column(array: NDArray[Any], kind: pa.DataType, where: str) -> pa.Array:
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if native.dtype == "M8[D]":  # Arrow would wrap round what a date does not reach
        days = native.view(np.int64)[~np.isnat(native)]
        if days.size and not -_DATES <= days.min() <= days.max() < _DATES:
            raise BadInput(f"{where}: holds days more than 5.8 million years away, which no Arrow type holds by the day; save it in s")
    values = pa.array(native.reshape(-1))
    if array.ndim == 1:
        return values.cast(kind)
    row = int(np.prod(array.shape[1:], dtype=np.int64))
    storage = pa.FixedSizeListArray.from_arrays(values, type=kind.storage_type) if row else values
    return pa.ExtensionArray.from_storage(kind, storage)
