"""Integer tensors as compact bytes: what a model's weights cost is part of every archive.

Small tensors go through an adaptive binary range coder (no tables to send), large ones through zstd over byte planes;
the smaller one is kept per tensor. Everything is integers, every length is checked before memory is taken.

    bytes   = "LPW1" , varint n_tensors , tensor*
    tensor  = varint name_length , name (utf-8) , u8 dtype , u8 n_dims , varint dim* , u8 coding , varint n_bytes ,
    payload
    dtype   = 0 int8 · 1 uint8 · 2 int16 · 3 int32 · 4 int64        coding = 0 raw · 1 zstd · 2 adaptive
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from vae_core.entropy import serial
from vae_core.errors import CorruptArchive

MAGIC = b"LPW1"
_DTYPES: tuple[np.dtype[Any], ...] = tuple(np.dtype(t) for t in ("<i1", "<u1", "<i2", "<i4", "<i8"))
_RAW, _ZSTD, _ADAPTIVE = range(3)
_ADAPTIVE_LIMIT = 1 << 15
_MAX_TENSORS = 4096
_PROBABILITY_BITS = 15
_HALF = 1 << (_PROBABILITY_BITS - 1)


def pack_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Integer arrays (int8, uint8, int16, int32, int64, any shape) as bytes, in the order given."""
    out = bytearray(MAGIC + _varint(len(tensors)))
    for name, tensor in tensors.items():
        dtype = next((i for i, d in enumerate(_DTYPES) if d == tensor.dtype), None)
        if dtype is None:
            raise TypeError(f"tensor {name!r} is {tensor.dtype}; only integers are packed")
        key = name.encode()
        out += _varint(len(key)) + key + bytes((dtype, tensor.ndim))
        for dim in tensor.shape:
            out += _varint(dim)
        flat = np.ascontiguousarray(tensor).reshape(-1).astype(_DTYPES[dtype], copy=False)
        choices = [(_RAW, flat.tobytes()), (_ZSTD, zstandard.ZstdCompressor(level=19).compress(_planes(flat)))]
        if flat.size <= _ADAPTIVE_LIMIT:
            choices.append((_ADAPTIVE, _encode_adaptive(flat.tolist())))
        coding, payload = min(choices, key=lambda c: len(c[1]))
        out += bytes((coding,)) + _varint(len(payload)) + payload
    return bytes(out)


def unpack_tensors(data: bytes, *, max_bytes: int = 1 << 28) -> dict[str, NDArray[Any]]:
    """What `pack_tensors` was given. Raises CorruptArchive when lengths, types or totals (max_bytes in memory) do not
    hold."""
    reader = _Reader(data)
    if reader.take(4) != MAGIC:
        raise CorruptArchive("packed tensors: the magic 'LPW1' is missing")
    n_tensors = reader.varint()
    if n_tensors > _MAX_TENSORS:
        raise CorruptArchive(f"packed tensors: {n_tensors} tensors, at most {_MAX_TENSORS} are read")
    tensors: dict[str, NDArray[Any]] = {}
    total = 0
    for _ in range(n_tensors):
        try:
            name = reader.take(reader.varint()).decode()
        except UnicodeDecodeError as error:
            raise CorruptArchive("packed tensors: a name is not utf-8") from error
        dtype_code, n_dims = reader.take(2)
        if dtype_code >= len(_DTYPES) or n_dims > 4 or name in tensors:
            raise CorruptArchive(f"packed tensors: {name!r} has an unknown type, too many dimensions, or comes twice")
        dtype = _DTYPES[dtype_code]
        shape = tuple(reader.varint() for _ in range(n_dims))
        count = prod(shape)
        total += count * dtype.itemsize
        if total > max_bytes:
            raise CorruptArchive(f"packed tensors: {name!r} of shape {shape} takes the total beyond {max_bytes} bytes")
        coding = reader.take(1)[0]
        payload = reader.take(reader.varint())
        tensors[name] = _decode(name, coding, payload, dtype, count).reshape(shape)
    if reader.left:
        raise CorruptArchive(f"packed tensors: {reader.left} bytes follow the last tensor")
    return tensors


def _decode(name: str, coding: int, payload: bytes, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    n_bytes = count * dtype.itemsize
    if coding == _RAW:
        if len(payload) != n_bytes:
            raise CorruptArchive(f"packed tensors: {name!r} has {len(payload)} bytes, its shape needs {n_bytes}")
        return np.frombuffer(payload, dtype).copy()
    if coding == _ZSTD:
        try:
            frame = zstandard.get_frame_parameters(payload)
            if frame.content_size != n_bytes or frame.window_size > max(1 << 24, 2 * n_bytes):
                raise CorruptArchive(f"packed tensors: {name!r} claims {frame.content_size} bytes, its shape needs {n_bytes}")
            planes = zstandard.ZstdDecompressor().decompress(payload, max_output_size=n_bytes)
        except zstandard.ZstdError as error:
            raise CorruptArchive(f"packed tensors: {name!r} is not a zstd frame") from error
        if len(planes) != n_bytes:
            raise CorruptArchive(f"packed tensors: {name!r} gave {len(planes)} bytes, its shape needs {n_bytes}")
        return np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(dtype.itemsize, -1).T).reshape(-1).view(dtype)
    if coding == _ADAPTIVE and count <= _ADAPTIVE_LIMIT:
        c = serial.library()
        values = np.array(_decode_adaptive(payload, count) if c is None else serial.adaptive(c, payload, count), dtype=object)
        info = np.iinfo(dtype)
        if any(not info.min <= v <= info.max for v in values):
            raise CorruptArchive(f"packed tensors: {name!r} holds a value outside {dtype}")
        return values.astype(dtype)
    raise CorruptArchive(f"packed tensors: {name!r} has unknown coding {coding}")


def _planes(flat: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(flat.view(np.uint8).reshape(flat.size, flat.dtype.itemsize).T).tobytes()


class _Reader:
    """A cursor over bytes that refuses to read past the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, n: int) -> bytes:
        if n > self.left:
            raise CorruptArchive(f"packed tensors: {n} bytes wanted at {self._at}, {self.left} left")
        self._at += n
        return self._data[self._at - n : self._at]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise CorruptArchive("packed tensors: a length has more than 63 bits")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Bit:
    """An adaptive probability of a 1: learns fast at first, then slowly."""

    __slots__ = ("n", "p")

    def __init__(self) -> None:
        self.p, self.n = _HALF, 0

    def learn(self, bit: int) -> None:
        rate = self.n + 2 if self.n < 4 else 6
        self.p += ((1 << _PROBABILITY_BITS) - self.p >> rate) if bit else -(self.p >> rate)
        self.p = min(max(self.p, 32), (1 << _PROBABILITY_BITS) - 32)
        self.n += self.n < 4


class _Contexts:
    """Bits of one integer: its bit length in unary, its sign, the bit below the top one, the rest; each has its
    context."""

    def __init__(self) -> None:
        self.length = [_Bit() for _ in range(65)]
        self.sign = [_Bit() for _ in range(65)]
        self._below: dict[tuple[int, int], _Bit] = {}

    def below(self, n_bits: int, i: int) -> _Bit:
        context = self._below.get((n_bits, i))
        if context is None:
            context = self._below[n_bits, i] = _Bit()
        return context


class _Encoder:
    def __init__(self) -> None:
        self.low, self.span, self.out = 0, 0xFFFFFFFF, bytearray()

    def put(self, context: _Bit, bit: int) -> None:
        split = (self.span >> _PROBABILITY_BITS) * context.p
        if bit:
            self.span = split
        else:
            self.low += split
            self.span -= split
        context.learn(bit)
        while self.span < 1 << 24:
            self.span <<= 8
            self._shift()

    def _shift(self) -> None:
        # self.low is kept below 2^32; a carry ripples into the bytes already written
        if self.low >> 32:
            self.low &= 0xFFFFFFFF
            i = len(self.out) - 1
            while self.out[i] == 255:
                self.out[i] = 0
                i -= 1
            self.out[i] += 1
        self.out.append(self.low >> 24)
        self.low = (self.low << 8) & 0xFFFFFFFF

    def finish(self) -> bytes:
        for _ in range(4):
            self._shift()
        while self.out and self.out[-1] == 0:  # the reader supplies zeros past the end
            self.out.pop()
        return bytes(self.out)


def _encode_adaptive(values: list[int]) -> bytes:
    coder, contexts = _Encoder(), _Contexts()
    for value in values:
        magnitude = abs(value)
        n_bits = magnitude.bit_length()
        for i in range(n_bits):
            coder.put(contexts.length[i], 1)
        if n_bits < 64:
            coder.put(contexts.length[n_bits], 0)
        if n_bits:
            coder.put(contexts.sign[min(n_bits, 2)], int(value < 0))
        for i in range(n_bits - 2, -1, -1):
            coder.put(contexts.below(n_bits, i), magnitude >> i & 1)
    return coder.finish()


def _decode_adaptive(payload: bytes, count: int) -> list[int]:
    """The inverse of _encode_adaptive, as serial.c does it too. Every opening of an archive waits for it: a context is a list [p, n],
    see _Bit."""
    code, span, at = int.from_bytes(payload[:4].ljust(4, b"\0"), "big"), 0xFFFFFFFF, 4
    lengths, signs = [[_HALF, 0] for _ in range(65)], [[_HALF, 0] for _ in range(3)]
    below: dict[tuple[int, int], list[int]] = {}

    def get(context: list[int]) -> int:
        nonlocal code, span, at
        p, n = context
        split = (span >> _PROBABILITY_BITS) * p
        if code < split:
            bit, span, p = 1, split, p + ((1 << _PROBABILITY_BITS) - p >> (n + 2 if n < 4 else 6))
        else:
            bit, span, p = 0, span - split, p - (p >> (n + 2 if n < 4 else 6))
            code -= split
        context[0] = 32 if p < 32 else p if p < (1 << _PROBABILITY_BITS) - 32 else (1 << _PROBABILITY_BITS) - 32
        if n < 4:
            context[1] = n + 1
        while span < 1 << 24:
            span = (span << 8) & 0xFFFFFFFF
            code = (code << 8 | (payload[at] if at < len(payload) else 0)) & 0xFFFFFFFF
            at += 1
        return bit

    values = []
    for _ in range(count):
        n_bits = 0
        while n_bits < 64 and get(lengths[n_bits]):
            n_bits += 1
        negative = n_bits and get(signs[min(n_bits, 2)])
        magnitude = int(n_bits > 0)
        for i in range(n_bits - 2, -1, -1):
            magnitude = magnitude << 1 | get(below.setdefault((n_bits, i), [_HALF, 0]))
        values.append(-magnitude if negative else magnitude)
    return values
