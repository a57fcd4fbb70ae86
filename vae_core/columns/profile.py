"""What one streaming pass learns of every column: counts, ranges, distinct values. Bounded memory; profiles merge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core.arrays import from_numpy
from vae_core.columns.dictionaries import hashable, is_hashable
from vae_core.columns.nested import row_keys
from vae_core.columns.physical import integers_of, is_integral, ordered_bits, raw_values, valid_of
from vae_core.columns.rows import dense, present, taken
from vae_core.errors import BadInput
from vae_core.tolerance import value_type_of

MOST_DISTINCT = 65_536
_MOST_DISTINCT_BYTES = 16 << 20
_GCD_SLICE = 4096
_UNIQUE_SLICE = 1 << 17


@dataclass(slots=True, eq=False)
class ColumnProfile:
    """One column over all rows seen.

    n_rows, n_null    : rows, null rows
    n_cells           : values: n_rows * width
    n_cell_null       : nulls among the elements of fixed-size lists (outside null rows)
    minimum, maximum  : of the finite values; int in stored units (ticks, scaled decimals) or float; None without any
    n_nan ... n_neg_zero : counts over cells of floats
    n_wide            : decimals that do not fit an int64
    origin, step      : some value, and the greatest common divisor of differences from it (0: constant, integers only)
    distinct          : distinct finite values in a hashable type (nested ones in their own), sorted by `finish`; None beyond MOST_DISTINCT
    dictionary        : the dictionary of a dictionary column, later ones appended; None when it grows too large
    """

    name: str
    value_type: pa.DataType
    width: int = 1
    n_rows: int = 0
    n_null: int = 0
    n_cells: int = 0
    n_cell_null: int = 0
    minimum: int | float | None = None
    maximum: int | float | None = None
    n_nan: int = 0
    n_pos_inf: int = 0
    n_neg_inf: int = 0
    n_neg_zero: int = 0
    n_wide: int = 0
    origin: int | None = None
    step: int = 0
    distinct: pa.Array | None = None
    dictionary: pa.Array | None = None
    _saw_dictionary: bool = field(default=False, repr=False)
    _n_unsettled: int = field(default=0, repr=False)
    _pieces: list[pa.Array] = field(default_factory=list, repr=False)

    @property
    def value_range(self) -> int | float:
        """Largest minus smallest finite value in the column's own units; 0 for nothing or a constant."""
        if self.minimum is None or self.maximum is None:
            return 0
        span = self.maximum - self.minimum
        if isinstance(span, int):
            return span / 10**self.value_type.scale if pa.types.is_decimal(self.value_type) else span
        return span if math.isfinite(span) else float(np.finfo(np.float64).max)

    @property
    def n_special(self) -> int:
        """Cells that are NaN, infinite or -0.0."""
        return self.n_nan + self.n_pos_inf + self.n_neg_inf + self.n_neg_zero

    @property
    def has_state(self) -> bool:
        """Whether any cell is null, special or beyond int64."""
        return bool(self.n_null or self.n_cell_null or self.n_special or self.n_wide)

    @property
    def n_values(self) -> int:
        """Cells that are neither null nor special."""
        return max(0, self.n_cells - self.n_null * self.width - self.n_cell_null - self.n_special)

    @property
    def n_distinct(self) -> int | None:
        """How many distinct finite values; None when more than MOST_DISTINCT."""
        return None if self.distinct is None else len(self.distinct)

    def update(self, array: pa.Array) -> None:
        """Take in one batch of the column."""
        self.n_rows += len(array)
        self.n_null += array.null_count
        array = storage_of(array)
        if isinstance(array, pa.DictionaryArray):
            self._see_dictionary(array.dictionary)
            if array.dictionary.null_count:
                self.n_null += dense(array).null_count - array.null_count
            self.n_cells += len(array)
            used = pc.unique(array.indices).drop_null()
            seen = taken(array.dictionary, used.to_numpy().astype(np.int64))
            self._add_distinct(present(seen if pa.types.is_nested(seen.type) else hashable(seen)))
            return
        is_tensor = pa.types.is_fixed_size_list(array.type)
        if is_tensor:
            n_outer = array.null_count
            array = array.flatten() if n_outer else elements_of(array)
            self.n_cells += n_outer * self.width
            self.n_cell_null += array.null_count
        self.n_cells += len(array)
        if is_integral(array.type):
            self._update_integers(array)
        elif pa.types.is_floating(array.type):
            self._update_floats(array)
        elif is_tensor and pa.types.is_nested(array.type):
            self.distinct = None  # lists of lists are kept as they are
        elif is_hashable(array.type):
            plain = array if pa.types.is_nested(array.type) else hashable(array)
            self._add_distinct(plain.drop_null() if plain.null_count else plain)

    def _update_integers(self, array: pa.Array) -> None:
        valid = valid_of(array)
        x, fits = integers_of(array)
        if fits is not None:
            keep = fits if valid is None else fits & valid
            self.n_wide += int((~fits if valid is None else ~fits & valid).sum())
            x = x[keep]
        elif valid is not None:
            x = x[valid]
        if len(x) == 0:
            return
        unsigned = x.view(np.uint64) if pa.types.is_uint64(array.type) else x
        self._widen(int(unsigned.min()), int(unsigned.max()))
        if self.origin is None:
            self.origin = int(unsigned[0])
        if self.step != 1:
            self._divide(x)
        self._add_distinct(from_numpy(x))

    def _divide(self, x: NDArray[np.int64]) -> None:
        assert self.origin is not None
        away = x - np.int64((self.origin + 2**63) % 2**64 - 2**63)
        if self.minimum is not None and self.maximum is not None and int(self.maximum) - int(self.minimum) >= 2**62:
            self.step = 1
            return
        while True:
            off = away % np.int64(self.step) if self.step else away
            left = np.flatnonzero(off)
            if len(left) == 0:
                return
            self.step = math.gcd(self.step, int(np.gcd.reduce(np.abs(away[left[:_GCD_SLICE]]))))
            if self.step == 1:
                return

    def _update_floats(self, array: pa.Array) -> None:
        valid = valid_of(array)
        v = raw_values(array)
        if valid is not None:
            v = v[valid]
        finite = np.isfinite(v)
        if not finite.all():
            self.n_nan += int(np.isnan(v).sum())
            self.n_pos_inf += int((v == np.inf).sum())
            self.n_neg_inf += int((v == -np.inf).sum())
            v = v[finite]
        bits = np.ascontiguousarray(v).view(f"i{v.dtype.itemsize}")
        n_neg_zero = int(np.count_nonzero(bits == np.iinfo(bits.dtype).min))
        if n_neg_zero:
            self.n_neg_zero += n_neg_zero
            v = v[bits != np.iinfo(bits.dtype).min]
        if len(v):
            self._widen(float(v.min()), float(v.max()))
            self._add_distinct(hashable(from_numpy(v)))

    def _widen(self, low: int | float, high: int | float) -> None:
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def _see_dictionary(self, values: pa.Array) -> None:
        if not self._saw_dictionary:
            self.dictionary, self._saw_dictionary = values, True
        elif self.dictionary is not None and not values.equals(self.dictionary):
            present = hashable(values).drop_null().unique()
            fresh = present.filter(pc.invert(pc.is_in(present, value_set=hashable(self.dictionary))))
            if len(self.dictionary) + len(fresh) > MOST_DISTINCT:
                self.dictionary = None
            elif len(fresh):
                known = hashable(self.dictionary)
                self.dictionary = as_type(pa.concat_arrays([known, fresh]), self.dictionary.type)

    def _add_distinct(self, values: pa.Array) -> None:
        for start in range(0, len(values), _UNIQUE_SLICE):
            if self.distinct is None:
                return
            fresh = _unique(values.slice(start, _UNIQUE_SLICE))
            self._pieces.append(fresh)
            self._n_unsettled += len(fresh)
            if self._n_unsettled > MOST_DISTINCT:
                self._settle()

    def _settle(self) -> None:
        if self.distinct is None or not self._pieces:
            return
        merged = _unique(pa.concat_arrays([self.distinct, *self._pieces]))
        self._pieces, self._n_unsettled = [], 0
        wide = not (pa.types.is_integer(merged.type)) and merged.nbytes > _MOST_DISTINCT_BYTES
        self.distinct = None if len(merged) > MOST_DISTINCT or wide else merged

    def merge(self, other: ColumnProfile) -> None:
        """Take in what another profile of the same column saw."""
        for name in (
            "n_rows",
            "n_null",
            "n_cells",
            "n_cell_null",
            "n_nan",
            "n_pos_inf",
            "n_neg_inf",
            "n_neg_zero",
            "n_wide",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.minimum is not None and other.maximum is not None:
            self._widen(other.minimum, other.maximum)
        if other.origin is not None:
            if self.origin is None:
                self.origin, self.step = other.origin, other.step
            else:
                self.step = math.gcd(self.step, other.step, abs(other.origin - self.origin))
        if other.dictionary is not None:
            self._see_dictionary(other.dictionary)
        elif other._saw_dictionary:
            self.dictionary, self._saw_dictionary = None, True
        other._settle()
        if other.distinct is None:
            self.distinct, self._pieces, self._n_unsettled = None, [], 0
        elif self.distinct is not None:
            self._pieces.append(other.distinct)
            self._settle()

    def finish(self) -> None:
        """Settle and sort `distinct`: integers and floats by value, strings and bytes bytewise."""
        self._settle()
        if self.distinct is None or len(self.distinct) == 0:
            return
        if pa.types.is_floating(self.value_type) and not self._saw_dictionary:
            dtype = np.dtype(f"f{self.value_type.bit_width // 8}")
            v = np.asarray(self.distinct).view(dtype)
            self.distinct = from_numpy(v[np.argsort(ordered_bits(v))])
        else:
            self.distinct = self.distinct.take(pc.array_sort_indices(hashable(self.distinct)))


def as_type(values: pa.Array, value_type: pa.DataType) -> pa.Array:
    """From the type of `hashable` back to the column's."""
    if values.type == value_type:
        return values
    t = pa.types
    return values.view(value_type) if t.is_floating(value_type) or t.is_decimal(value_type) else values.cast(value_type)


def _unique(values: pa.Array) -> pa.Array:
    """Distinct values, in any order; integers of a small span by counting, the rest by hashing."""
    if pa.types.is_nested(values.type):
        _, first = np.unique(np.asarray(row_keys(values).dictionary_encode().indices), return_index=True)
        return values.take(from_numpy(first))
    if pa.types.is_int64(values.type) and len(values):
        x = np.asarray(values)
        low, high = int(x.min()), int(x.max())
        if high - low < len(x):
            return from_numpy(np.flatnonzero(np.bincount(x - np.int64(low))) + np.int64(low))
    return pc.unique(values)


def elements_of(array: pa.Array) -> pa.Array:
    """All elements of a fixed-size list array, those under null rows included, respecting its offset."""
    width = array.type.list_size
    return array.values.slice(array.offset * width, len(array) * width)


def storage_of(array: pa.Array) -> pa.Array:
    """The storage of an extension array, else the array."""
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array


class TableProfile:
    """Profiles of every column of a schema. update(batch) for every batch, finish() once, then read `columns`.

    Raises BadInput when a column name occurs twice.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.n_rows = 0
        self.columns: dict[str, ColumnProfile] = {}
        for item in schema:
            if item.name in self.columns:
                raise BadInput(f"column name {item.name!r} occurs more than once: rename one of them")
            self.columns[item.name] = _blank(item)

    def update(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Take in a batch with the schema's columns, in order."""
        self.n_rows += batch.num_rows
        for item, column in zip(self.schema, batch.columns, strict=True):
            chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
            for chunk in chunks:
                self.columns[item.name].update(chunk)

    def merge(self, other: TableProfile) -> None:
        """Take in what another profile of the same schema saw."""
        self.n_rows += other.n_rows
        for name, column in other.columns.items():
            self.columns[name].merge(column)

    def finish(self) -> TableProfile:
        """Settle everything; returns self."""
        for column in self.columns.values():
            column.finish()
        return self

    def spanning(self, names: Sequence[str]) -> ColumnProfile:
        """Columns of one type as one, as far as its type and range go."""
        parts = [self.columns[name] for name in names]
        ends = [end for part in parts for end in (part.minimum, part.maximum) if end is not None]
        return ColumnProfile(parts[0].name, parts[0].value_type, minimum=min(ends, default=None), maximum=max(ends, default=None))

    def ranges(self) -> dict[str, dict[str, Any]]:
        """JSON-able counts and ranges by column, for reports and for passing between tasks."""
        keys = ("n_rows", "n_null", "n_nan", "n_pos_inf", "n_neg_inf", "n_neg_zero", "minimum", "maximum", "n_distinct")
        return {name: {key: getattr(c, key) for key in keys} for name, c in self.columns.items()}


def _blank(item: pa.Field) -> ColumnProfile:
    storage = item.type
    while isinstance(storage, pa.BaseExtensionType):
        storage = storage.storage_type
    width = storage.list_size if pa.types.is_fixed_size_list(storage) else 1
    value_type = value_type_of(item.type)
    inner = value_type.value_type if pa.types.is_dictionary(value_type) else value_type
    distinct = None
    if is_hashable(inner):
        if is_integral(inner) and not pa.types.is_dictionary(value_type):
            distinct = pa.array([], pa.int64())
        else:
            distinct = pa.array([], inner) if pa.types.is_nested(inner) else hashable(pa.array([], inner))
    return ColumnProfile(item.name, value_type, width, distinct=distinct)
