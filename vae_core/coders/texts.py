"""Texts end to end with a byte between them that none holds, in bzip2 or xz, or mixed: what Parquet's pages and zstd make of prose is a
tenth to a third more than the former, and these a fifth more than the latter. No other engine filters on them, so they have to save
that much (FORMAT.md, "Texts").
"""

from __future__ import annotations

import bz2
import lzma
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrays import scalar, to_numpy
from vae_core.coders import mixed
from vae_core.coders.mixed import Mixing
from vae_core.errors import CorruptArchive
from vae_core.packing import unzstd, zstd

MOST_BYTES = 1 << 28
_HEAD = 10  # bytes: how, the byte between texts, u32 bytes of texts, u32 bytes of validity
_GLIMPSE = 1 << 18
BZIP2, XZ, MIXED = 1, 2, 3
PRESET = 6
_MEMORY = 1 << 27


def holds(kind: pa.DataType) -> bool:
    """Whether a type is of texts."""
    t = pa.types
    views = t.is_string_view(kind) or t.is_binary_view(kind)
    return bool(views or t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind) or t.is_large_binary(kind))


def pack(array: pa.Array, how: int = 0, mixing: Mixing | None = None) -> bytes | None:
    """(n,) texts, in bzip2 or xz by which is better on the first of them, or as `how` says; None where every byte occurs in them.

    mixing : how they may be mixed, where that is worth it
    """
    texts = array.cast(pa.large_binary())
    plain = pc.fill_null(texts, scalar(b"", pa.large_binary())) if texts.null_count else texts
    raw = np.frombuffer(_end_to_end(plain), np.uint8)
    free = np.flatnonzero(np.bincount(raw, minlength=256)[1:] == 0) + 1
    if not len(free) or len(raw) + len(texts) > MOST_BYTES:
        return None
    between = 10 if 10 in free else int(free[0])
    data = _end_to_end(pc.binary_join_element_wise(plain, *(scalar(piece, pa.large_binary()) for piece in (bytes([between]), b""))))
    if not how:
        how = min((BZIP2, XZ), key=lambda one: len(_compressed(data[:_GLIMPSE], one)))
    body = _compressed(data, how)
    fewer = None if mixing is None else mixed.smaller(data, between, mixing, len(body))
    if fewer is not None:
        how, body = MIXED, fewer
    valid = zstd(np.packbits(to_numpy(texts.is_valid())).tobytes()) if texts.null_count else b""
    head = bytes([how, between]) + len(data).to_bytes(4, "little") + len(valid).to_bytes(4, "little")
    return head + valid + body


def claimed(data: bytes) -> int:
    """Bytes that a payload says its texts take, each with the byte behind it."""
    return int.from_bytes(data[2:6], "little")


def unpack(data: bytes, kind: pa.DataType, n: int) -> pa.Array:
    """The inverse of `pack`: n texts of a type. Raises CorruptArchive."""
    if len(data) < _HEAD or not holds(kind):
        raise CorruptArchive(f"texts of type {kind} are cut short")
    how, between = data[0], data[1]
    n_bytes, n_valid = (int.from_bytes(data[at : at + 4], "little") for at in (2, 6))
    body = _HEAD + n_valid
    if n_bytes > MOST_BYTES or body > len(data):
        raise CorruptArchive(f"texts claim {n_bytes} bytes, at most {MOST_BYTES} are read")
    packed = data[body:]
    whole = mixed.unpack(packed, between, n, n_bytes) if how == MIXED else decompressed(packed, how, n_bytes)
    n_found = whole.count(data[1:2])
    if n_found != n or whole[-1:] != (data[1:2] if n else b""):
        raise CorruptArchive(f"{n_found} texts are stored, expected {n}")
    raw = np.frombuffer(whole, np.uint8)
    ends = np.flatnonzero(raw == between)
    offsets = np.concatenate([np.zeros(1, np.int64), ends - np.arange(n)])
    valid = None
    if n_valid:
        bits = np.frombuffer(unzstd(data[_HEAD:body], (n + 7) // 8), np.uint8)
        if len(bits) != (n + 7) // 8:
            raise CorruptArchive(f"validity of {n} texts is {len(bits)} bytes long")
        valid = pa.py_buffer(np.packbits(np.unpackbits(bits), bitorder="little").tobytes())
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(raw[raw != between].tobytes())]
    try:
        return pa.Array.from_buffers(pa.large_binary(), n, buffers).cast(kind)
    except pa.ArrowException as error:
        raise CorruptArchive(f"texts are no {kind}: {error}") from None


def _end_to_end(texts: pa.Array) -> bytes:
    """The bytes of (n,) large binaries without nulls."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return b""
    ends = np.frombuffer(offsets, np.int64)[[texts.offset, texts.offset + len(texts)]]
    return bytes(memoryview(data)[int(ends[0]) : int(ends[1])])


def xz(data: bytes) -> bytes:
    """Bytes in xz, without a window larger than they are: making room for one takes longer than to compress some kilobytes."""
    window = 1 << min(23, max(12, len(data).bit_length()))
    return lzma.compress(data, check=lzma.CHECK_NONE, filters=[{"id": lzma.FILTER_LZMA2, "preset": PRESET, "dict_size": window}])


def _compressed(data: bytes, how: int) -> bytes:
    return bz2.compress(data) if how == BZIP2 else xz(data)


def decompressed(data: bytes, how: int, n_bytes: int) -> bytes:
    """Exactly n_bytes, from a stream of one way. Raises CorruptArchive."""
    if how not in (BZIP2, XZ):
        raise CorruptArchive(f"texts are compressed in way {how}, which this release does not know")
    opened: Any = bz2.BZ2Decompressor() if how == BZIP2 else lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY)
    try:
        found: bytes = opened.decompress(data, n_bytes + 1)
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise CorruptArchive(f"texts cannot be read: {error}") from None
    if not opened.eof or opened.unused_data or len(found) != n_bytes:
        raise CorruptArchive(f"texts are cut short, have a tail, or are not {n_bytes} bytes")
    return found
