"""Chunks of a column as one array, and one array as chunks again.

Chunks of one dictionary type have dictionaries of their own, which together may be longer than the type's indices reach: eight bits
tell 128 values apart, files of one dataset may have more. Such chunks are joined over 32-bit indices, a type that is only held in
memory: `one_array` makes it, `alike` accepts it, `fitted` gives chunks of the column's own type again.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrays import from_numpy, scalar, to_numpy
from vae_core.columns.physical import valid_of
from vae_core.columns.plan import storage_type
from vae_core.columns.profile import storage_of
from vae_core.columns.rows import dense, taken
from vae_core.errors import BadInput

_NARROW_BITS = 16  # of indices that a dictionary in memory may be too long for


def one_array(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A chunked array as one array; an array as it is. `alike` in type: dictionaries too long together have wider indices.

    Raises BadInput where Arrow has no way to widen them, deep in nested types.
    """
    if not isinstance(array, pa.ChunkedArray):
        return array
    if array.num_chunks == 1:
        return array.chunk(0)
    if array.num_chunks == 0:  # pa.array([], …) knows neither unions nor nested extensions; nulls alone leaves run ends a bitmap
        return pa.concat_arrays([pa.nulls(0, array.type)])
    if pa.types.is_dictionary(storage_type(array.type)):
        try:
            array = array.unify_dictionaries()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            # pyarrow unifies neither too many values nor dictionaries with nulls among their values nor those of null type, and
            # has no way to ask
            return wrapped(array.type, _redictionaried([storage_of(chunk) for chunk in array.chunks]))
    try:
        combined = array.combine_chunks()
    except pa.ArrowInvalid:
        if not has_narrow_dictionary(array.type):
            raise
        combined = _widened(array)
    return combined if not isinstance(combined, pa.ChunkedArray) else combined.chunk(0)


def has_dictionary(kind: pa.DataType, most_bits: int = 64) -> bool:
    """Whether a type is a dictionary with indices of so many bits at most, or holds one in lists and structs."""
    kind = storage_type(kind)
    if pa.types.is_dictionary(kind):
        return bool(kind.index_type.bit_width <= most_bits)
    return any(has_dictionary(kind.field(i).type, most_bits) for i in range(kind.num_fields)) if _is_rebuilt(kind) else False


def has_narrow_dictionary(kind: pa.DataType) -> bool:
    """Whether a type is, or holds, a dictionary that few values are too many for."""
    return has_dictionary(kind, _NARROW_BITS)


def wide_type(kind: pa.DataType) -> pa.DataType:
    """The type with 32-bit indices for narrower ones, in lists and structs as well; of an extension that has any, the storage."""
    if not has_narrow_dictionary(kind):
        return kind
    kind, t = storage_type(kind), pa.types
    if t.is_dictionary(kind):
        return pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    if t.is_struct(kind):
        return pa.struct([item.with_type(wide_type(item.type)) for item in kind])
    item = kind.value_field.with_type(wide_type(kind.value_type))
    if t.is_fixed_size_list(kind):
        return pa.list_(item, kind.list_size)
    return pa.large_list(item) if t.is_large_list(kind) else pa.list_(item)


def alike(kind: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types are the same but for how wide the indices of their dictionaries are in memory."""
    return bool(kind == other or wide_type(kind) == wide_type(other))


def wrapped(kind: pa.DataType, array: pa.Array) -> pa.Array:
    """A storage array as the extension type, through nested extensions; as it is where its indices are wider, or for any other type."""
    if not isinstance(kind, pa.BaseExtensionType) or array.type != storage_type(kind):
        return array
    return pa.ExtensionArray.from_storage(kind, wrapped(kind.storage_type, array))


def fitted(array: pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
    """An array `alike` kind as chunks of exactly that type, one where its values fit.

    Raises BadInput when one row holds more values than the indices reach.
    """
    if array.type == kind:
        return pa.chunked_array([array], kind)
    chunks: list[pa.Array] = []
    waiting = [(0, len(array))]
    while waiting:
        start, stop = waiting.pop()
        piece = _narrowed(taken(array, np.arange(start, stop)), storage_type(kind))
        if piece is not None:
            chunks.append(wrapped(kind, piece))
        elif stop - start < 2:
            raise BadInput(f"a row has more distinct values than {kind} can hold")
        else:
            middle = (start + stop) // 2
            waiting += [(middle, stop), (start, middle)]
    return pa.chunked_array(chunks, kind)


def narrowest(indices: pa.Array, n_values: int, index_type: pa.DataType) -> pa.Array:
    """Indices of n_values values in the type asked for, in 32 bits where that cannot tell so many apart."""
    reaches = n_values - 1 <= np.iinfo(index_type.to_pandas_dtype()).max
    return indices.cast(index_type if reaches else pa.int32())


def _is_rebuilt(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_struct(kind) or t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind))


def _widened(array: pa.ChunkedArray) -> pa.Array:
    kind = wide_type(array.type)
    try:
        return pa.concat_arrays([storage_of(chunk).cast(kind) for chunk in array.chunks])
    except pa.ArrowException as error:
        raise BadInput(f"chunks of {array.type} have more values than one dictionary holds, and cannot be joined: {error}") from error


def _narrowed(array: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """An array, taken from another and so without offset, with the narrower indices of `kind`; None where its values are too many."""
    t = pa.types
    if array.type == kind:
        return array
    if isinstance(kind, pa.BaseExtensionType):
        piece = _narrowed(array, kind.storage_type)
        return None if piece is None else pa.ExtensionArray.from_storage(kind, piece)
    if t.is_dictionary(kind):
        valid = valid_of(array.indices)
        raw = to_numpy(array.indices.fill_null(scalar(0, array.indices.type))).astype(np.int64)
        used = np.unique(raw if valid is None else raw[valid])
        if len(used) - 1 > np.iinfo(kind.index_type.to_pandas_dtype()).max:
            return None
        index = np.searchsorted(used, raw) if valid is None else np.where(valid, np.searchsorted(used, raw), 0)
        indices = from_numpy(index, pa.int64(), mask=None if valid is None else ~valid).cast(kind.index_type)
        return pa.DictionaryArray.from_arrays(indices, taken(array.dictionary, used), ordered=kind.ordered)
    if t.is_struct(kind):
        fields = [_narrowed(array.field(i), kind.field(i).type) for i in range(kind.num_fields)]
        if any(item is None for item in fields):
            return None
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null() if array.null_count else None)
    values = _narrowed(array.values, kind.value_type)
    n_buffers = 1 if t.is_fixed_size_list(kind) else 2
    return None if values is None else pa.Array.from_buffers(kind, len(array), array.buffers()[:n_buffers], children=[values])


def _redictionaried(chunks: list[pa.DictionaryArray]) -> pa.DictionaryArray:
    """Chunks of a dictionary column over one dictionary without nulls."""
    kind = chunks[0].type
    if pa.types.is_nested(kind.value_type):  # which Arrow does not encode either
        return _end_to_end(chunks)
    whole = one_array(pa.chunked_array([dense(chunk) for chunk in chunks])).dictionary_encode()
    indices = narrowest(whole.indices, len(whole.dictionary), kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, whole.dictionary.cast(kind.value_type), ordered=kind.ordered)


def _end_to_end(chunks: list[pa.DictionaryArray]) -> pa.DictionaryArray:
    """Chunks over their dictionaries end to end, those that are the same once."""
    dictionaries: list[pa.Array] = []
    indices = []
    for chunk in chunks:
        k = next((k for k, known in enumerate(dictionaries) if known.equals(chunk.dictionary)), len(dictionaries))
        dictionaries += [chunk.dictionary] if k == len(dictionaries) else []
        offset = sum(len(known) for known in dictionaries[:k])
        indices.append(pc.add(chunk.indices.cast(pa.int64()), offset))
    whole, kind = pa.concat_arrays(dictionaries), chunks[0].type
    return pa.DictionaryArray.from_arrays(narrowest(pa.concat_arrays(indices), len(whole), kind.index_type), whole, ordered=kind.ordered)
