"""Vectors element by element: about what columns of their own would take conventionally (FORMAT.md, "Nested").

Everywhere else the numbers of a vector are on one lattice and in one stream; elements of different kinds, as columns that became a strip
may turn out to be, have little in common that a stream could use.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vae_core.arrays import from_numpy, to_numpy
from vae_core.coders.fields.columns import EVERY_WAY, ZSTD, Ways
from vae_core.coders.nested import numbers
from vae_core.coders.nested.cells import CELL
from vae_core.coders.nested.numbers import sized
from vae_core.coders.nested.payload import MOST, Unpacker, spread
from vae_core.coders.varints import Reader, varints
from vae_core.columns.physical import integers_of, raw_values, storage_dtype, valid_of
from vae_core.columns.rows import kept
from vae_core.errors import CorruptArchive

MOST_CELLS = MOST // CELL
"""Of all elements of a payload together."""
LOOKED_AT = 64
"""Elements that tell what all take: of kinds of their own, few say too little."""


def holds(kind: pa.DataType) -> bool:
    """Whether a type, as stored, is of vectors of numbers."""
    if not pa.types.is_fixed_size_list(kind) or kind.list_size < 2:
        return False
    return bool(pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


def pack(array: pa.Array) -> bytes | None:
    """(n,) vectors: which are null, then each element as a sized column of cells. None of what is no vectors of numbers, or too many."""
    if not holds(array.type) or len(array) * array.type.list_size > MOST_CELLS:
        return None
    valid = valid_of(array)
    head = varints([0]) if valid is None else numbers.pack_flags(valid)
    rows = array if valid is None else kept(array, valid)
    return b"".join([head, *(_packed(rows, k, EVERY_WAY) for k in range(array.type.list_size))]) if len(rows) else head


def bytes_of_some(array: pa.Array, most: int = LOOKED_AT) -> float:
    """About what (n,) vectors take, rather too much: by some of their elements, without the slower compressors."""
    n: int = array.type.list_size
    some = np.random.default_rng(n).permutation(n)[:most]  # not at even distances: every second one may be of another kind
    rows = array.drop_null()
    told: int = sum(len(_packed(rows, int(k), (ZSTD,))) for k in some)
    return told * n / len(some)


def _packed(rows: pa.Array, k: int, ways: Ways) -> bytes:
    """(n,) vectors none of which is null -> their k-th element as sized cells."""
    cells = rows.flatten().take(from_numpy(np.arange(len(rows)) * rows.type.list_size + k))
    valid = valid_of(cells)
    some = cells if valid is None else kept(cells, valid)
    packed = varints([0]) if valid is None else numbers.pack_flags(valid)
    if len(some) and pa.types.is_floating(cells.type):
        packed += numbers.pack_floats(raw_values(some), None, ways)
    elif len(some):
        packed += numbers.pack_integers(integers_of(some)[0], None, ways)
    return sized(packed)


def unpack(data: bytes, kind: pa.DataType, n: int) -> pa.Array:
    """The inverse of `pack`: n vectors of a type. Raises CorruptArchive."""
    if not holds(kind):
        raise CorruptArchive(f"elements of {kind}, which is no vector of numbers")
    if n * kind.list_size > MOST_CELLS:
        raise CorruptArchive(f"elements of {n:,} vectors stand for more than is read")
    reader = Reader(data, "elements of vectors")
    valid = None
    if reader.varint(0):
        reader.at = 0
        valid = numbers.unpack_flags(reader, n)
    n_valid = n if valid is None else int(valid.sum())
    if not n_valid:
        _ended(reader)
        return pa.nulls(n, kind)
    cells = np.empty((n_valid, kind.list_size), storage_dtype(kind.value_type))
    missing = np.zeros(cells.shape, np.bool_)
    for k in range(kind.list_size):
        column = _column(numbers.taken(reader), kind.value_type, n_valid)
        cells[:, k] = raw_values(column)
        if column.null_count:
            missing[:, k] = ~to_numpy(column.is_valid())
    _ended(reader)
    values = from_numpy(cells.ravel(), kind.value_type, missing.ravel() if missing.any() else None)
    vectors = pa.Array.from_buffers(kind, n_valid, [None], children=[values])
    return vectors if valid is None else spread(vectors, valid)


def _ended(reader: Reader) -> None:
    if reader.rest():
        raise CorruptArchive("elements of vectors are followed by something else")


def _column(data: bytes, kind: pa.DataType, n: int) -> pa.Array:
    unpacker = Unpacker(Reader(data, "elements of vectors"), MOST)
    try:
        found = unpacker.cells(kind, n)
    except pa.ArrowException as error:
        raise CorruptArchive(f"an element of vectors is no {kind}: {error}") from None
    _ended(unpacker.reader)
    return found
