"""Raw against decoded: exactness bit for bit, bounds without slack, distortion; and a digest of what was decoded.

NaN equals NaN whatever its payload, -0.0 differs from 0.0, a dictionary column is its values.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrays import pack_bits
from vae_core.columns.joining import alike, one_array
from vae_core.columns.physical import Bools, integers_of, is_integral, raw_values, valid_of
from vae_core.columns.profile import elements_of, storage_of
from vae_core.columns.rows import dense, kept
from vae_core.errors import BadInput
from vae_core.tolerance import LOSSLESS, Tolerance, value_type_of

_DIGEST_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class ColumnQuality:
    """One column, raw against decoded.

    n_rows, n_null      : rows, null rows of the raw data
    max_abs_error, rmse : over the n_finite cells finite in both, in the column's units; of numbers that must be exact, too
    violations          : cells beyond an absolute tolerance, or whose null, NaN, infinity or -0.0 was not kept
    first_violation_row : row of the first violation or mismatch
    mismatches          : rows that differ in a column that must be exact
    """

    name: str
    n_rows: int
    n_null: int
    max_abs_error: float = 0.0
    rmse: float = 0.0
    violations: int = 0
    first_violation_row: int | None = None
    mismatches: int = 0
    n_finite: int = 0

    def keeps(self, tolerance: Tolerance) -> bool:
        """Whether the column, taken whole, is what its resolved tolerance promises."""
        if self.violations or self.mismatches:
            return False
        return not tolerance.is_distortion or self.rmse <= tolerance.value


def compare(raw: pa.Table, decoded: pa.Table, tolerances: Mapping[str, Tolerance], *, first_row: int = 0) -> list[ColumnQuality]:
    """Compare two tables of the same rows, column by column of `raw`.

    tolerances : resolved (absolute, rmse, lossless) by column name; absent means lossless
    first_row  : added to first_violation_row, for tables compared piece by piece
    Raises BadInput when rows or column types differ.
    """
    if raw.num_rows != decoded.num_rows or raw.schema.names != decoded.schema.names:
        raise BadInput(f"{raw.num_rows} raw rows of {raw.schema.names} against {decoded.num_rows} of {decoded.schema.names}")
    found = []
    for item in raw.schema:
        a, b = (one_array(t.column(t.schema.get_field_index(item.name))) for t in (raw, decoded))
        found.append(compare_column(item.name, a, b, tolerances.get(item.name, LOSSLESS), first_row=first_row))
    return found


def compare_column(name: str, raw: pa.Array, decoded: pa.Array, tolerance: Tolerance, *, first_row: int = 0) -> ColumnQuality:
    """One column of `compare`."""
    if not alike(raw.type, decoded.type):
        raise BadInput(f"column {name!r} is {raw.type}, decoded as {decoded.type}")
    blank = ColumnQuality(name, len(raw), raw.null_count)
    value_type = value_type_of(raw.type)
    numeric = not pa.types.is_dictionary(value_type) and (pa.types.is_floating(value_type) or is_integral(value_type))
    if tolerance.is_lossless or not numeric:
        differs = differences(raw, decoded)
        n = int(differs.sum())
        first = first_row + int(differs.argmax()) if n else None
        worst, rmse = _exact_errors(raw, decoded) if n and _is_number(value_type) else (0.0, 0.0)
        n_finite = len(raw) - raw.null_count
        return replace(blank, max_abs_error=worst, rmse=rmse, mismatches=n, first_violation_row=first, n_finite=n_finite)
    a, b, width = storage_of(raw), storage_of(decoded), 1
    outer = np.zeros(len(a), np.bool_)
    if pa.types.is_fixed_size_list(a.type):
        width = a.type.list_size
        outer = _validity(a) != _validity(b)
        alive = np.repeat(_validity(a) & _validity(b), width)
        a, b = (kept(elements_of(x), alive) for x in (a, b))
        rows = np.flatnonzero(np.repeat(_validity(storage_of(raw)) & ~outer, width)) // max(width, 1)
    else:
        rows = np.arange(len(a))
    wrong, error = _cell_errors(a, b, tolerance)
    both = ~np.isnan(error)
    finite = error[both]
    row = rows[int(wrong.argmax())] if wrong.any() else None
    if outer.any():
        row = int(outer.argmax()) if row is None else min(int(row), int(outer.argmax()))
    return replace(
        blank,
        max_abs_error=float(finite.max()) if len(finite) else 0.0,
        rmse=_rms(finite),
        violations=int(wrong.sum()) + int(outer.sum()),
        first_violation_row=None if row is None else first_row + int(row),
        n_finite=len(finite),
    )


def _is_number(value_type: pa.DataType) -> bool:
    if pa.types.is_boolean(value_type) or pa.types.is_dictionary(value_type):
        return False
    return bool(pa.types.is_floating(value_type) or pa.types.is_decimal(value_type) or is_integral(value_type))


def _exact_errors(raw: pa.Array, decoded: pa.Array) -> tuple[float, float]:
    """(worst, root mean square) error of numbers that should have been exact."""
    a, b = storage_of(raw), storage_of(decoded)
    while pa.types.is_fixed_size_list(a.type):
        alive = np.repeat(_validity(a) & _validity(b), a.type.list_size)
        a, b = (kept(elements_of(x), alive) for x in (a, b))
    if pa.types.is_decimal(a.type) and not is_integral(a.type):
        a, b = (pc.cast(x, pa.float64()) for x in (a, b))  # more digits than 64 bits hold
    _, error = _cell_errors(a, b, Tolerance("rmse", 1.0))
    finite = error[~np.isnan(error)]
    return (float(finite.max()) if len(finite) else 0.0), _rms(finite)


def combine(first: ColumnQuality, second: ColumnQuality) -> ColumnQuality:
    """The quality of both pieces of one column together; `first` holds the earlier rows."""
    n = first.n_finite + second.n_finite
    row = first.first_violation_row if first.first_violation_row is not None else second.first_violation_row
    return ColumnQuality(
        first.name,
        first.n_rows + second.n_rows,
        first.n_null + second.n_null,
        max(first.max_abs_error, second.max_abs_error),
        pooled([(first.rmse, first.n_finite), (second.rmse, second.n_finite)]),
        first.violations + second.violations,
        row,
        first.mismatches + second.mismatches,
        n,
    )


def pooled(parts: Sequence[tuple[float, int]]) -> float:
    """The root mean square of pieces, (root mean square, values) each: by shares of the largest, whose square may be no float."""
    n = sum(count for _, count in parts)
    most = max((rmse for rmse, count in parts if count), default=0.0)
    if not n or not 0.0 < most < math.inf:
        return most
    return most * math.sqrt(sum((rmse / most) ** 2 * count for rmse, count in parts) / n)


def differences(a: pa.Array, b: pa.Array) -> Bools:
    """(n,) bool: where two arrays of one type and length differ, nested values included."""
    a, b = storage_of(a), storage_of(b)
    kind, t = a.type, pa.types
    if t.is_null(kind) or len(a) == 0:
        return np.zeros(len(a), np.bool_)
    if t.is_dictionary(kind):
        return differences(dense(a), dense(b))
    if t.is_run_end_encoded(kind):
        return differences(dense(a), dense(b))
    va, vb = _validity(a), _validity(b)
    return cast(Bools, (va != vb) | (va & vb & _value_differences(a, b, va & vb)))


def _value_differences(a: pa.Array, b: pa.Array, both: Bools) -> Bools:
    """Differences where both are valid; anything elsewhere."""
    kind, t = a.type, pa.types
    if t.is_floating(kind):
        x, y = raw_values(a), raw_values(b)
        bits = f"i{x.dtype.itemsize}"
        return cast(Bools, (x.view(bits) != y.view(bits)) & ~(np.isnan(x) & np.isnan(y)))
    if is_integral(kind) or t.is_decimal(kind):
        x, y = raw_values(a), raw_values(b)
        return cast(Bools, (x != y).any(axis=1) if x.ndim == 2 else x != y)
    if t.is_string_view(kind) or t.is_binary_view(kind):
        plain = pa.large_string() if t.is_string_view(kind) else pa.large_binary()
        return _value_differences(a.cast(plain), b.cast(plain), both)
    if t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind):
        return np.asarray(pc.fill_null(pc.not_equal(a, b), False), np.bool_)
    if t.is_struct(kind):
        parts = [differences(a.field(i), b.field(i)) for i in range(kind.num_fields)]
        return np.logical_or.reduce(parts) if parts else np.zeros(len(a), np.bool_)
    if t.is_list(kind) or t.is_large_list(kind) or t.is_map(kind) or t.is_fixed_size_list(kind):
        return _list_differences(a, b, both)
    if a.equals(b):
        return np.zeros(len(a), np.bool_)
    return np.array([not _same(x.as_py(), y.as_py()) for x, y in zip(a, b, strict=True)], np.bool_)


def _list_differences(a: pa.Array, b: pa.Array, both: Bools) -> Bools:
    lengths = [_lengths(x) for x in (a, b)]
    comparable = both & (lengths[0] == lengths[1])
    result: Bools = ~comparable
    elements = differences(*(_elements(kept(x, comparable)) for x in (a, b)))
    if elements.any():
        ends = np.cumsum(lengths[0][comparable])
        counts = np.concatenate([[0], np.cumsum(elements)])
        result[np.flatnonzero(comparable)] = counts[ends] != counts[ends - lengths[0][comparable]]
    return result


def _lengths(array: pa.Array) -> Any:
    """(n,) int64 list lengths, 0 where null."""
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size, np.int64)
    if pa.types.is_map(array.type):
        return np.where(_validity(array), np.diff(np.asarray(array.offsets)), 0).astype(np.int64)
    return np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)


def _elements(array: pa.Array) -> pa.Array:
    """Elements of the lists of an array, end to end; those under null lists left out."""
    if not pa.types.is_map(array.type):
        return array.flatten()
    offsets = np.asarray(array.offsets)
    if array.null_count:
        array = kept(array, _validity(array))
        offsets = np.asarray(array.offsets)
    start, stop = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    parts = [array.keys, array.items]
    if len(array.keys) != stop - start:
        parts = [p.slice(start, stop - start) for p in parts]
    return pa.StructArray.from_arrays(parts, names=["key", "value"])


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, float) and isinstance(y, float):
        return (x == y and math.copysign(1, x) == math.copysign(1, y)) or (math.isnan(x) and math.isnan(y))
    if isinstance(x, dict) and isinstance(y, dict):
        return list(x) == list(y) and all(_same(x[k], y[k]) for k in x)
    if isinstance(x, list | tuple) and isinstance(y, list | tuple):
        return len(x) == len(y) and all(_same(u, v) for u, v in zip(x, y, strict=True))
    return bool(x == y)


def _validity(array: pa.Array) -> Bools:
    if array.null_count == 0:
        return np.ones(len(array), np.bool_)
    return np.asarray(array.is_valid(), np.bool_)


def _cell_errors(a: pa.Array, b: pa.Array, tolerance: Tolerance) -> tuple[Bools, Any]:
    """(wrong, error) by cell: beyond the bound or state not kept; float64 |a - b|, NaN where not finite in both."""
    va, vb = _validity(a), _validity(b)
    if pa.types.is_floating(a.type):
        return _float_errors(raw_values(a), raw_values(b), va, vb, tolerance)
    x, fits_x = integers_of(a)
    y, fits_y = integers_of(b)
    wrong = va != vb
    scale = 10**a.type.scale if pa.types.is_decimal(a.type) else 1
    bigger = x.view(np.uint64) > y.view(np.uint64) if pa.types.is_uint64(a.type) else x > y
    gap = np.where(bigger, x - y, y - x).view(np.uint64)
    if not tolerance.is_distortion:
        bound = int(min(Decimal(repr(tolerance.value)) * scale, Decimal(2**64 - 1)))
        wrong |= va & vb & (gap > np.uint64(bound))
    if fits_x is not None or fits_y is not None:
        wide = ~(np.ones(len(x), np.bool_) if fits_x is None else fits_x) | ~(np.ones(len(x), np.bool_) if fits_y is None else fits_y)
        odd = wide & va & vb
        wrong = np.where(odd, differences(a, b), wrong)
        gap = np.where(odd, np.uint64(0), gap)
    error = gap.astype(np.float64) / scale
    error[~(va & vb)] = np.nan
    return wrong, error


def _float_errors(x: Any, y: Any, va: Bools, vb: Bools, tolerance: Tolerance) -> tuple[Bools, Any]:
    finite = np.isfinite(x) & va & np.isfinite(y) & vb
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.minimum(np.abs(x.astype(np.float64) - y.astype(np.float64)), sys.float_info.max)  # JSON knows no infinity
    same_special = (np.isnan(x) & np.isnan(y)) | (x == y)
    wrong = (va != vb) | (va & vb & ~finite & ~same_special)
    minus = finite & (x == 0) & np.signbit(x)
    wrong |= minus & ~((y == 0) & np.signbit(y))
    if not tolerance.is_distortion:
        near = np.flatnonzero(finite & (error >= tolerance.value))
        exact = np.abs(x[near].astype(np.longdouble) - y[near].astype(np.longdouble))
        wrong[near] |= exact > np.longdouble(tolerance.value)
    error[~finite] = np.nan
    return wrong, error


def _rms(error: Any) -> float:
    if len(error) == 0:
        return 0.0
    most = float(error.max())
    if most == 0 or not math.isfinite(most):
        return most
    return most * math.sqrt(float(np.mean(np.square(error / most))))


def digest(batches: Iterable[pa.RecordBatch | pa.Table], schema: pa.Schema | None = None) -> str:
    """sha256 of names, types and values of all rows; the same however they are batched, chunked or dictionary-coded.

    schema : needed only when there may be no batch at all
    """
    hashes = [] if schema is None else _fresh(schema)
    waiting: list[pa.Table] = []
    n_waiting = 0
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        hashes = hashes or _fresh(table.schema)
        waiting.append(table)
        n_waiting += table.num_rows
        if n_waiting >= _DIGEST_ROWS:
            whole = pa.concat_tables(waiting)
            n_full = n_waiting // _DIGEST_ROWS * _DIGEST_ROWS
            for start in range(0, n_full, _DIGEST_ROWS):
                _digest_chunk(hashes, whole.slice(start, _DIGEST_ROWS))
            waiting, n_waiting = [whole.slice(n_full)], n_waiting - n_full
    if n_waiting:
        _digest_chunk(hashes, pa.concat_tables(waiting))
    return hashlib.sha256(b"".join(h.digest() for h in hashes)).hexdigest()


def _fresh(schema: pa.Schema) -> list[Any]:
    return [hashlib.sha256(f"{f.name}\0{f.type}".encode()) for f in schema]


def _digest_chunk(hashes: list[Any], table: pa.Table) -> None:
    for h, column in zip(hashes, table.columns, strict=True):
        _feed(h, one_array(column))


def _feed(h: Any, array: pa.Array) -> None:
    """Validity, then values with nothing under nulls, children after their parents."""
    array = storage_of(array)
    kind, t = array.type, pa.types
    h.update(len(array).to_bytes(8, "little"))
    if t.is_null(kind) or len(array) == 0:
        return
    if t.is_dictionary(kind):
        return _feed(h, dense(array))
    if t.is_run_end_encoded(kind):
        return _feed(h, dense(array))
    valid = valid_of(array) if not t.is_union(kind) else None
    if valid is not None:
        h.update(memoryview(pack_bits(valid)))
    if t.is_floating(kind) or is_integral(kind) or t.is_decimal(kind):
        raw = raw_values(array)
        if t.is_floating(kind):
            odd = np.isnan(raw)
            if odd.any():
                raw = np.where(odd, raw.dtype.type(np.nan), raw)
        if valid is not None:
            raw = raw[valid]
        h.update(np.ascontiguousarray(raw).view(np.uint8).data if len(raw) else b"")
    elif t.is_struct(kind):
        alive = array if valid is None else kept(array, valid)
        for i in range(kind.num_fields):
            _feed(h, alive.field(i))
    elif t.is_list(kind) or t.is_large_list(kind) or t.is_map(kind) or t.is_fixed_size_list(kind):
        h.update(_lengths(array).tobytes())
        _feed(h, _elements(array))
    elif t.is_fixed_size_binary(kind) or t.is_string(kind) or t.is_large_string(kind) or _is_bytes(kind):
        plain = array.cast(pa.large_binary()).drop_null()  # views first: Arrow drops no rows of them
        n = len(plain)
        offsets = np.frombuffer(plain.buffers()[1], np.int64, n + 1, plain.offset * 8) if n else np.zeros(1, np.int64)
        h.update(np.diff(offsets).tobytes())
        data = plain.buffers()[2]
        if data is not None and len(offsets) > 1:
            h.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])
    else:
        h.update(repr(array.to_pylist()).encode())


def _is_bytes(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_binary(kind) or t.is_large_binary(kind) or t.is_string_view(kind) or t.is_binary_view(kind))
