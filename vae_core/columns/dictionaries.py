"""Values of any hashable Arrow type as positions in a dictionary kept by the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrays import from_numpy, scalar, to_numpy
from vae_core.columns.codes import STATE_MISFIT, STATE_NULL, Codes
from vae_core.columns.integers import check_codes
from vae_core.columns.nested import has_row_keys, row_keys
from vae_core.columns.physical import Bools, Ints, valid_of
from vae_core.columns.rows import dense
from vae_core.errors import CorruptArchive


def hashable(array: pa.Array) -> pa.Array:
    """The same values in a type Arrow hashes bit for bit: floats and short decimals as integers, views unrolled, nested rows as bytes."""
    t = pa.types
    kind = array.type
    if t.is_nested(kind):
        return row_keys(array)
    if t.is_string_view(kind):
        return array.cast(pa.large_string())
    if t.is_binary_view(kind):
        return array.cast(pa.large_binary())
    if t.is_floating(kind) or t.is_decimal32(kind) or t.is_decimal64(kind):
        return array.view({16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width])
    return array


def is_hashable(value_type: pa.DataType) -> bool:
    """Types `hashable` takes: everything flat but intervals and nulls, lists and structs of these."""
    t = pa.types
    if t.is_nested(value_type):
        return has_row_keys(value_type)
    return not (
        t.is_interval(value_type)
        or t.is_null(value_type)
        or t.is_dictionary(value_type)
        or t.is_run_end_encoded(value_type)
        or isinstance(value_type, pa.BaseExtensionType)
    )


class Unread:
    """n values that take long to unpack, and are when they are first asked for: who reads another column never does."""

    def __init__(self, n: int, unpack: Callable[[], pa.Array]) -> None:
        """unpack : gives the values; raises CorruptArchive"""
        self.n, self._unpack, self._values = n, unpack, None

    def __len__(self) -> int:
        return self.n

    def values(self) -> pa.Array:
        """(n,) of them. Raises CorruptArchive."""
        if self._values is None:
            self._values = self._unpack()
        return self._values


@dataclass(frozen=True, slots=True, eq=False)
class ValueDictionary:
    """The code is the position in `values`: distinct, no nulls, in the column's value type.

    held                : the values, or what unpacks them
    index_type, ordered : of the Arrow dictionary type the column comes back as; None for a plain column
    """

    held: pa.Array | Unread
    index_type: pa.DataType | None = None
    ordered: bool = False

    @property
    def values(self) -> pa.Array:
        """(n,) the values. Raises CorruptArchive where they cannot be unpacked."""
        return self.held.values() if isinstance(self.held, Unread) else self.held

    def __len__(self) -> int:
        return len(self.held)

    def encode(self, array: pa.Array, fill: int) -> Codes:
        """(n,) array of the value type, or a dictionary of it -> codes with nulls and misfits beside them."""
        if isinstance(array, pa.DictionaryArray):
            codes, valid = self._of_dictionary(array)
        else:
            codes = _positions(array, self.values)
            valid = valid_of(array)
        bad = codes < 0
        if valid is None and not bad.any():
            return Codes(codes)
        state = np.zeros(len(codes), np.uint8)
        state[bad] = STATE_MISFIT
        if valid is not None:
            state[~valid] = STATE_NULL
        codes[state != 0] = fill
        odd = np.flatnonzero(state == STATE_MISFIT)
        misfits = None
        if len(odd):
            misfits = (_plain(array) if _is_view(array.type) else array).take(from_numpy(odd))
            misfits = misfits.cast(self.values.type) if _is_view(array.type) else misfits
            if isinstance(misfits, pa.DictionaryArray):
                misfits = dense(misfits)
        return Codes(codes, state if state.any() else None, misfits)

    def _of_dictionary(self, array: pa.DictionaryArray) -> tuple[Ints, Bools | None]:
        indices = array.indices
        valid = valid_of(indices)
        raw = to_numpy(indices.fill_null(scalar(0, indices.type)) if valid is not None else indices).astype(np.int64)
        theirs = array.dictionary
        if theirs.equals(self.values):
            return raw, valid
        if len(theirs) == 0:
            return np.full(len(raw), -1, np.int64), valid
        table = _positions(theirs, self.values)
        if theirs.null_count:
            alive = to_numpy(theirs.is_valid())[raw]
            valid = alive if valid is None else valid & alive
        return table[raw], valid

    def decode(self, codes: Codes) -> pa.Array:
        """The inverse of `encode`, over 32-bit indices where the values are too many for the type's; raises CorruptArchive for a code
        outside the dictionary, and for a null among the values beside it."""
        check_codes(codes.values, len(self.values))
        indices, state, mask, values = codes.values, codes.state, None, self.values
        if state is not None:
            mask = state == STATE_NULL
            odd = np.flatnonzero(state == STATE_MISFIT)
            n_odd = 0 if codes.misfits is None else len(codes.misfits)
            if len(odd) != n_odd or int(state.max(initial=0)) > STATE_MISFIT:
                raise CorruptArchive(f"a column has {len(odd)} values outside its dictionary and {n_odd} of them stored")
            if codes.misfits is not None and codes.misfits.null_count:
                raise CorruptArchive("a value outside its dictionary is null")
            if codes.misfits is not None and n_odd:
                extra, index = _distinct(codes.misfits)
                values = pa.concat_arrays([_plain(values), _plain(extra)])
                indices = indices.copy()
                indices[odd] = len(self.values) + index
        if self.index_type is None:
            picked = _plain(values).take(from_numpy(indices, mask=mask))
            return picked.cast(self.values.type)
        return self._as_dictionary(values.cast(self.values.type), indices, mask)

    def _as_dictionary(self, values: pa.Array, indices: Ints, mask: Bools | None) -> pa.Array:
        assert self.index_type is not None
        kind, dtype = self.index_type, np.dtype(self.index_type.to_pandas_dtype())
        if len(values) - 1 > np.iinfo(dtype).max:
            used, indices = np.unique(indices, return_inverse=True)
            values = _plain(values).take(from_numpy(used)).cast(values.type)
            if len(used) - 1 > np.iinfo(dtype).max:  # see vae_core.columns.joining
                kind, dtype = pa.int32(), np.dtype(np.int32)
        index = from_numpy(indices.astype(dtype), kind, mask=mask)
        return pa.DictionaryArray.from_arrays(index, values, ordered=self.ordered)

    def to_json(self) -> dict[str, object]:
        """Small JSON; the values travel as a blob."""
        return {"t": "dictionary", "n": len(self)}


def _is_view(value_type: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(value_type) or pa.types.is_binary_view(value_type))


def _plain(array: pa.Array) -> pa.Array:
    return hashable(array) if _is_view(array.type) else array


def _positions(array: pa.Array, values: pa.Array) -> Ints:
    """(n,) int64 position of every element in values, -1 where absent or null."""
    found = pc.index_in(hashable(array), value_set=hashable(values))
    if found.null_count:
        found = pc.fill_null(found, scalar(-1, found.type))
    return to_numpy(found).astype(np.int64)


def _distinct(array: pa.Array) -> tuple[pa.Array, Ints]:
    """Distinct elements in order of first appearance, and (n,) int64 index of every element among them."""
    encoded = hashable(array).dictionary_encode()
    index = to_numpy(encoded.indices).astype(np.int64)
    _, first = np.unique(index, return_index=True)
    plain = _plain(array)
    return plain.take(from_numpy(first)), index
