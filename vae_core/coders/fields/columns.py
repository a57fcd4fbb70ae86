"""Columns of what stands in places: integers and texts, each by the best of what libraries have for it (FORMAT.md, "Fields")."""

from __future__ import annotations

import bz2
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrays import from_numpy, to_numpy
from vae_core.coders import texts
from vae_core.coders.fields.tokens import Ints, binaries
from vae_core.coders.narrow import NARROW, narrowed, pco_of
from vae_core.coders.varints import Reader, varints
from vae_core.errors import CorruptArchive
from vae_core.packing import unpco, unzstd, zstd

MOST_VALUES = 1 << 25
"""Of all columns of a payload."""
PCO, ZSTD, XZ, BZIP2, RAW, DISTINCT = range(6)
Ways = tuple[int, ...]
EVERY_WAY: Ways = (ZSTD, XZ, BZIP2)
END_TO_END, COUNTED, LISTED, FIELDS = range(4)
Nest = Callable[[pa.Array], bytes | None]
Unnest = Callable[[bytes, int, int], pa.Array]
_FIRST_LOOK, _HOPEFUL, _NOISE = 3, 1.25, 0.97  # a zstd level; of pcodec's bytes and of all: what it may make for others to be tried
_LONG = 1 << 16  # bytes of integers
_COMPRESS: dict[int, Callable[[bytes], bytes]] = {ZSTD: zstd, XZ: texts.xz, BZIP2: bz2.compress}
_FEW, _RECURS, _LEAST_LISTED = 0.5, 4, 256  # of the texts: so many distinct ones are worth a list; the same of integers


class Allowance:
    """What is left of the bytes and values that a payload may stand for."""

    def __init__(self, n_bytes: int, n_values: int = MOST_VALUES) -> None:
        self.n_bytes, self.n_values = n_bytes, n_values

    def take(self, n_bytes: int = 0, n_values: int = 0) -> None:
        """Raises CorruptArchive when there is less."""
        self.n_bytes, self.n_values = self.n_bytes - n_bytes, self.n_values - n_values
        if self.n_bytes < 0 or self.n_values < 0:
            raise CorruptArchive("a payload of fields stands for more than it says, or than is read")


def pack_integers(values: Ints, listed: bool = True, quick: bool = False, ways: Ways = EVERY_WAY) -> bytes:
    """(k,) integers, as they are or by their steps: pcodec, or where they recur in runs zstd, xz or bzip2; or as a list of the distinct
    ones, the commonest first, and places in it.

    quick : of these three, to try on all values only what is best for some        ways : which of the three there are
    """
    narrow, tag = narrowed(values)
    raw = narrow.tobytes()
    _, packed = pco_of(values)
    found = [bytes([PCO << 3 | tag]) + packed, bytes([RAW << 3 | tag]) + raw]
    look = len(zstd(raw, _FIRST_LOOK))
    if look < min(_HOPEFUL * len(packed) + 64, _NOISE * len(raw)):
        tried = [_best_way(raw, ways)] if quick and len(raw) > _LONG else ways
        found += [bytes([way << 3 | tag]) + _COMPRESS[way](raw) for way in tried]
    if listed and len(values) >= _LEAST_LISTED:
        distinct, which, counts = np.unique(values, return_inverse=True, return_counts=True)
        if len(distinct) * _RECURS <= len(values):
            order = np.argsort(-counts, kind="stable")
            place = np.empty(len(order), np.int64)
            place[order] = np.arange(len(order))
            head = pack_integers(distinct[order], False, quick, ways)
            found.append(bytes([DISTINCT << 3]) + varints([len(order), len(head)]) + head + pack_integers(place[which], False, quick, ways))
    return shortest(found)


def _best_way(raw: bytes, ways: Ways) -> int:
    """Of zstd, xz and bzip2, by a piece in the middle."""
    middle = len(raw) // 2 // 8 * 8
    some = raw[middle - _LONG // 2 : middle + _LONG // 2]
    return ways[0] if len(ways) == 1 else min(ways, key=lambda way: len(_COMPRESS[way](some)))


def unpack_integers(data: bytes, n: int, allowed: Allowance, listed: bool = True) -> Ints:
    """The inverse of `pack_integers`: (n,) int64. Raises CorruptArchive."""
    allowed.take(n_values=n)
    way, tag = (data[0] >> 3, data[0] & 7) if data else (DISTINCT + 1, 0)
    if way > DISTINCT or tag >= len(NARROW) or (way == DISTINCT and not listed):
        raise CorruptArchive("integers of fields are coded in a way this release does not know")
    if way == DISTINCT:
        reader = Reader(data[1:], "fields")
        n_distinct = reader.varint(1, max(1, n))
        distinct = unpack_integers(reader.take(reader.varint(0)), n_distinct, allowed, False)
        return distinct[_places(unpack_integers(reader.rest(), n, allowed, False), n_distinct)]
    dtype = np.dtype(NARROW[tag])
    if way == PCO:
        return unpco(data[1:], dtype, n).astype(np.int64)
    return np.frombuffer(_opened(data[1:], way, n * dtype.itemsize), dtype).astype(np.int64)


def _places(places: Ints, n_listed: int) -> Ints:
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < n_listed:
        raise CorruptArchive("a place of fields points outside its list")
    return places


def pack_texts(array: pa.Array, nest: Nest | None, listed: bool = True) -> bytes:
    """(k,) large_binary without nulls, by what is smallest: end to end; with their lengths; as a list of the distinct ones, the
    commonest first, and places in it; as fields.

    nest : what makes fields of the texts of a list, None where that is not to be        listed : whether it may be a list
    """
    found = []
    whole = texts.pack(array)
    if whole is None:
        offsets = np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, 8 * array.offset)
        lengths = pack_integers(np.diff(offsets))
        data = b"" if array.buffers()[2] is None else array.buffers()[2].to_pybytes()[int(offsets[0]) : int(offsets[-1])]
        found.append(bytes([COUNTED]) + varints([len(data), len(lengths)]) + lengths + pack_bytes(data))
    else:
        found.append(bytes([END_TO_END]) + whole)
    if not listed:
        nested = None if nest is None else nest(array)
        return shortest([*found, *([] if nested is None else [bytes([FIELDS]) + nested])])
    coded = array.dictionary_encode()
    if len(coded.dictionary) <= _FEW * len(array):
        found.append(_pack_listed(coded, nest))
    return shortest(found)


def pack_recurring(array: pa.Array, nest: Nest | None, most: float) -> bytes | None:
    """(k,) large_binary without nulls as a list of the distinct ones and places, quickly; None where these are more than that share."""
    coded = array.dictionary_encode()
    return _pack_listed(coded, nest, quick=True) if len(coded.dictionary) <= most * len(array) else None


def _pack_listed(coded: pa.DictionaryArray, nest: Nest | None, quick: bool = False) -> bytes:
    which = to_numpy(coded.indices)
    rank = to_numpy(pc.rank(coded.dictionary)).astype(np.int64)
    order = np.lexsort([rank, -np.bincount(which, minlength=len(rank))])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    packed = pack_texts(coded.dictionary.take(from_numpy(order)), nest, False)
    return bytes([LISTED]) + varints([len(order), len(packed)]) + packed + pack_integers(place[which], quick=quick)


def unpack_texts(data: bytes, n: int, allowed: Allowance, unnest: Unnest | None, listed: bool = True) -> pa.Array:
    """The inverse of `pack_texts`: (n,) large_binary without nulls. Raises CorruptArchive.

    unnest : reads so many texts from fields, of so many bytes at most; None where there are to be none
    """
    allowed.take(n_values=n)
    way, reader = data[0] if data else FIELDS + 1, Reader(data[1:], "fields")
    if way == END_TO_END:
        allowed.take(max(0, texts.claimed(data[1:]) - n))
        found = texts.unpack(data[1:], pa.large_binary(), n)
    elif way == COUNTED:
        n_bytes = reader.varint(0, allowed.n_bytes)
        allowed.take(n_bytes)
        lengths = unpack_integers(reader.take(reader.varint(0)), n, allowed)
        if (n and (int(lengths.min()) < 0 or int(lengths.max()) > n_bytes)) or int(lengths.sum()) != n_bytes:
            raise CorruptArchive(f"texts of fields are not of {n_bytes} bytes together")
        whole = np.frombuffer(unpack_bytes(reader.rest(), n_bytes), np.uint8)
        return binaries(whole, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
    elif way == LISTED and listed:
        n_listed = reader.varint(0, n)
        inner = Allowance(allowed.n_bytes, allowed.n_values)
        few = unpack_texts(reader.take(reader.varint(0)), n_listed, inner, unnest, False)
        places = _places(unpack_integers(reader.rest(), n, allowed), n_listed)
        allowed.take(int(to_numpy(pc.binary_length(few)).astype(np.int64)[places].sum()))
        return few.take(from_numpy(places))
    elif way == FIELDS and not listed and unnest is not None:
        found = unnest(data[1:], n, allowed.n_bytes)
    else:
        raise CorruptArchive("texts of fields are coded in a way this release does not know")
    if found.null_count:
        raise CorruptArchive("a place of fields has nulls")
    return found


def pack_bytes(data: bytes) -> bytes:
    """Bytes by the best of zstd, xz and bzip2, or as they are."""
    found = (RAW, data), (ZSTD, zstd(data)), (XZ, texts.xz(data)), (BZIP2, bz2.compress(data))
    return shortest([bytes([way]) + body for way, body in found])


def unpack_bytes(data: bytes, n_bytes: int) -> bytes:
    """The inverse of `pack_bytes`: exactly n_bytes. Raises CorruptArchive."""
    return _opened(data[1:], data[0] if data else PCO, n_bytes)


def shortest(found: Sequence[bytes]) -> bytes:
    """The first of the shortest."""
    return min(found, key=len)


def _opened(data: bytes, way: int, n_bytes: int) -> bytes:
    if way in (XZ, BZIP2):
        return texts.decompressed(data, texts.XZ if way == XZ else texts.BZIP2, n_bytes)
    if way not in (ZSTD, RAW):
        raise CorruptArchive(f"bytes of fields are compressed in way {way}, which this release does not know")
    found = unzstd(data, n_bytes) if way == ZSTD else data
    if len(found) != n_bytes:
        raise CorruptArchive(f"fields hold {len(found)} bytes where {n_bytes} are expected")
    return found
