"""Dictionaries as small byte strings: sorted strings front-coded or as fields, sorted numbers in pcodec or zstd.

First byte: I Arrow IPC stream in zstd; F front-coded strings in zstd; B strings in bzip2; M mixed strings; T strings as fields; N nested
values; Z numbers in zstd; P numbers in pcodec; Q fractions.
"""

from __future__ import annotations

import bz2
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

from vae_core.arrays import byte_strings
from vae_core.coders import fields, mixed, nested
from vae_core.coders.mixed import Mixing
from vae_core.columns.fractions import pack_fractions, unpack_fractions
from vae_core.columns.texts import is_text
from vae_core.errors import CorruptArchive
from vae_core.packing import from_ipc, to_ipc, unpco, unzstd, zstd

_MOST_BYTES = 1 << 28


def pack_values(values: pa.Array, *, as_fields: bool = True, mixing: Mixing | None = None) -> bytes:
    """A dictionary of any type, without nulls.

    as_fields : whether texts may be, and nested values columns        mixing : how texts may be mixed, None where not
    """
    best = b"I" + zstd(to_ipc(values))
    if is_text(values.type):
        texts: list[bytes] = values.cast(pa.large_binary()).to_pylist()
        best = min(best, b"F" + zstd(_front(texts)), *_joined(texts), key=len)
        packed = fields.pack(values) if as_fields else None
        if packed is not None and len(packed) + 5 < len(best):
            best = b"T" + len(values).to_bytes(4, "little") + packed
        best = _mixed(texts, mixing, len(best)) or best
    elif as_fields and nested.holds(values.type):
        packed = nested.pack(values)
        if packed is not None and len(packed) + 5 < len(best):
            best = b"N" + len(values).to_bytes(4, "little") + packed
    return best


def claimed(data: bytes) -> int | None:
    """How many values a dictionary says it holds that takes long to unpack, which is better left until they are needed; else None."""
    return int.from_bytes(data[2:6], "little") if data[:1] == b"M" else None


def unpack_values(data: bytes, value_type: pa.DataType) -> pa.Array:
    """The inverse of `pack_values`; raises CorruptArchive."""
    if data[:1] == b"B" and is_text(value_type):
        return _texts(_split(data), value_type)
    if data[:1] == b"M" and is_text(value_type):
        n_values, n_bytes = (int.from_bytes(data[at : at + 4], "little") for at in (2, 6))
        return _texts(mixed.unpack(data[10:], data[1], n_values, n_bytes).split(data[1:2])[:-1], value_type)
    if data[:1] == b"T" and is_text(value_type):
        found = fields.unpack(data[5:], value_type, int.from_bytes(data[1:5], "little"))
        if found.null_count:
            raise CorruptArchive("a dictionary of texts has nulls")
        return found
    if data[:1] == b"N":
        found = nested.unpack(data[5:], value_type, int.from_bytes(data[1:5], "little"))
        if found.null_count:
            raise CorruptArchive("a dictionary of nested values has nulls")
        return found
    body = unzstd(data[1:])
    if data[:1] == b"I":
        return from_ipc(body, value_type)
    if data[:1] == b"F" and is_text(value_type):
        return _unfront(body, value_type)
    raise CorruptArchive(f"a dictionary of {value_type} begins with an unknown byte")


def pack_numbers(values: NDArray[Any], *, as_fractions: bool = True) -> bytes:
    """(n,) numbers of 2, 4 or 8 bytes. as_fractions: whether they may be, if they are sorted"""
    best = b"Z" + zstd(values.tobytes())
    packed = b"P" + bytes(standalone.simple_compress(np.ascontiguousarray(values), ChunkConfig(compression_level=12)))
    best = min(best, packed, key=len)
    if as_fractions and bool((values[1:] > values[:-1]).all()) and (found := pack_fractions(values)) is not None:
        fractions, others = found
        rest = pack_numbers(others, as_fractions=False) if len(others) else b""
        best = min(best, b"Q" + len(fractions).to_bytes(4, "little") + fractions + rest, key=len)
    return best


def unpack_numbers(data: bytes, dtype: np.dtype[Any], n: int) -> NDArray[Any]:
    """The inverse of `pack_numbers`: exactly n numbers; raises CorruptArchive."""
    if data[:1] == b"Z":
        body = unzstd(data[1:])
        if len(body) != n * dtype.itemsize:
            raise CorruptArchive(f"a dictionary holds {len(body)} bytes, expected {n} numbers of {dtype.itemsize}")
        return np.frombuffer(body, dtype)
    if data[:1] == b"P":
        return unpco(data[1:], dtype, n)
    if data[:1] == b"Q" and dtype == np.float64:
        end = 5 + int.from_bytes(data[1:5], "little")
        fractions = unpack_fractions(data[5:end], n)
        if data[end : end + 1] == b"Q" or (len(fractions) == n) != (len(data) == end):
            raise CorruptArchive(f"{len(fractions)} of {n} levels are fractions, and {len(data) - end} bytes hold the others")
        others = unpack_numbers(data[end:], dtype, n - len(fractions)) if len(fractions) < n else fractions[:0]
        return np.sort(np.concatenate([fractions, others]))
    raise CorruptArchive("a dictionary of numbers begins with an unknown byte")


def _free(texts: list[bytes]) -> bytes | None:
    """A byte that no text holds, None where every one occurs."""
    whole = b"".join(texts)
    return next((byte for byte in (b"\n", b"\0", *(bytes([k]) for k in range(1, 256))) if byte not in whole), None)


def _joined(texts: list[bytes]) -> list[bytes]:
    """B, a byte that no text holds, and in bzip2 each text with that byte behind it; nothing where every byte occurs. Prose in no order
    takes a seventh less so than by zstd."""
    free = _free(texts)
    return [] if free is None else [b"B" + free + bz2.compress(b"".join(text + free for text in texts))]


def _mixed(texts: list[bytes], mixing: Mixing | None, most: int) -> bytes | None:
    """M, a byte that no text holds, how many texts and bytes, and mixed each text with that byte behind it, where that takes less than
    `most`, by what it is worth."""
    free = None if mixing is None or not texts else _free(texts)
    if free is None or mixing is None:
        return None
    data = b"".join(text + free for text in texts)
    found = mixed.smaller(data, free[0], mixing, most - 10)
    return None if found is None else b"M" + free + len(texts).to_bytes(4, "little") + len(data).to_bytes(4, "little") + found


def _split(data: bytes) -> list[bytes]:
    """The inverse of `_joined`."""
    opened = bz2.BZ2Decompressor()
    try:
        whole = opened.decompress(data[2:], _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise CorruptArchive(f"a dictionary in bzip2 cannot be read: {error}") from None
    if not opened.eof or opened.unused_data or (whole and whole[-1:] != data[1:2]):
        raise CorruptArchive(f"a dictionary in bzip2 is cut short, has a tail, or is larger than {_MOST_BYTES} bytes")
    return whole.split(data[1:2])[:-1]


def _front(texts: list[bytes]) -> bytes:
    """n u32, shared-prefix lengths u32, suffix lengths u32 (both as byte planes), suffixes end to end."""
    shared = np.zeros(len(texts), np.uint32)
    suffixes = []
    before = b""
    for i, text in enumerate(texts):
        most = min(len(before), len(text))
        if before[:most] != text[:most]:
            both = np.frombuffer(before, np.uint8, most) == np.frombuffer(text, np.uint8, most)
            most = int(both.argmin())
        shared[i] = most
        suffixes.append(text[most:])
        before = text
    lengths = np.array([len(s) for s in suffixes], np.uint32)
    planes = [x.view(np.uint8).reshape(-1, 4).T.tobytes() for x in (shared, lengths)]
    return np.uint32(len(texts)).tobytes() + b"".join(planes) + b"".join(suffixes)


def _unfront(data: bytes, value_type: pa.DataType) -> pa.Array:
    n = int.from_bytes(data[:4], "little")
    if len(data) < 4 + 8 * n:
        raise CorruptArchive("a front-coded dictionary is cut short")
    shared, lengths = (
        np.frombuffer(data, np.uint8, 4 * n, 4 + 4 * n * j).reshape(4, n).T.copy().view(np.uint32).ravel().tolist() for j in (0, 1)
    )
    texts: list[bytes] = []
    at, before, total = 4 + 8 * n, b"", 0
    for keep, length in zip(shared, lengths, strict=True):
        if keep > len(before) or at + length > len(data):
            raise CorruptArchive("a front-coded dictionary points outside itself")
        before = before[:keep] + data[at : at + length]
        at += length
        total += len(before)
        if total > _MOST_BYTES:
            raise CorruptArchive(f"a front-coded dictionary is larger than {_MOST_BYTES} bytes")
        texts.append(before)
    return _texts(texts, value_type)


def _texts(texts: list[bytes], value_type: pa.DataType) -> pa.Array:
    try:
        return byte_strings(texts).cast(value_type)
    except pa.ArrowException as error:
        raise CorruptArchive(f"a dictionary of texts is no {value_type}: {error}") from None
