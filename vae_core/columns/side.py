"""States and misfits of one block as a small byte string, for any coder that keeps the codes elsewhere.

byte 0        how states are written: 1 a byte a cell, 2 a bit a cell and bytes of the set ones, 3 gaps between them
u32           bytes of the states' zstd frame, then the frame
byte          how the misfits are written: 0 none, 1 raw fixed-width values, 2 an Arrow stream; then their zstd frame
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.columns.codes import STATE_MISFIT
from vae_core.columns.physical import from_raw, is_integral, raw_values, storage_dtype
from vae_core.errors import CorruptArchive
from vae_core.packing import from_ipc, to_ipc, unzstd, zstd

REMEMBERED = 1 << 20  # states of a column: longer ones are not kept to be seen again
FAST, FAST_SHRINKS = 3, 0.62  # a first look's zstd level, and what 19 makes of its bytes at the least


def pack_side(state: NDArray[np.uint8] | None, misfits: pa.Array | None) -> bytes:
    """(n,) states and their misfits -> bytes; b"" when every state is a value."""
    if state is None or not state.any():
        return b""
    head = _packed_again(state.tobytes()) if state.nbytes <= REMEMBERED else _packed(state)
    if misfits is None or len(misfits) == 0:
        return head + b"\0"
    if _is_fixed(misfits.type) and misfits.null_count == 0:
        return head + b"\1" + zstd(np.ascontiguousarray(raw_values(misfits)).tobytes())
    return head + b"\2" + zstd(to_ipc(misfits))


@lru_cache(maxsize=8)
def _packed_again(state: bytes) -> bytes:
    """As _packed: columns of one source are often without values in the same rows."""
    return _packed(np.frombuffer(state, np.uint8))


def _packed(state: NDArray[np.uint8]) -> bytes:
    """(n,) states, not all of them values."""
    set_at = np.flatnonzero(state)
    kinds = state[set_at].tobytes()
    gaps = np.diff(set_at, prepend=-1).astype(np.uint32)
    how, frame = _smallest(
        (
            (1, state.tobytes()),
            (2, np.packbits(state != 0).tobytes() + kinds),
            (3, gaps.view(np.uint8).reshape(-1, 4).T.tobytes() + kinds),
        )
    )
    return bytes([how]) + len(frame).to_bytes(4, "little") + frame


def _smallest(ways: Iterable[tuple[int, bytes]]) -> tuple[int, bytes]:
    """(how, zstd frame) of the way that takes the fewest bytes; by a first look, what is far from that is not tried in earnest."""
    best: tuple[int, bytes] | None = None
    for first, how, data in sorted((len(zstd(data, FAST)), how, data) for how, data in ways):
        if best is None or FAST_SHRINKS * first <= len(best[1]):
            frame = zstd(data)
            best = (how, frame) if best is None or len(frame) < len(best[1]) else best
    assert best is not None
    return best


def unpack_side(data: bytes, n: int, value_type: pa.DataType) -> tuple[NDArray[np.uint8] | None, pa.Array | None]:
    """The inverse of `pack_side` for n cells; raises CorruptArchive."""
    if not data:
        return None, None
    size = int.from_bytes(data[1:5], "little")
    body = unzstd(data[5 : 5 + size], 5 * n + 8)
    state = np.zeros(n, np.uint8)
    if data[0] == 1:
        if len(body) != n:
            raise CorruptArchive(f"states of {len(body)} cells, expected {n}")
        state = np.frombuffer(body, np.uint8)
    elif data[0] == 2:
        n_bits = (n + 7) // 8
        if len(body) < n_bits:
            raise CorruptArchive(f"states of {8 * len(body)} cells, expected {n}")
        set_bits = np.unpackbits(np.frombuffer(body[:n_bits], np.uint8), count=n).astype(np.bool_)
        kinds = np.frombuffer(body[n_bits:], np.uint8)
        if int(set_bits.sum()) != len(kinds):
            raise CorruptArchive("states and their positions disagree")
        state[set_bits] = kinds
    elif data[0] == 3 and len(body) % 5 == 0:
        m = len(body) // 5
        gaps = np.frombuffer(body, np.uint8, 4 * m).reshape(4, m).T.copy().view(np.uint32).ravel()
        at = np.cumsum(gaps.astype(np.int64)) - 1
        if m and (int(gaps.min()) < 1 or int(at[-1]) >= n):
            raise CorruptArchive("a state lies outside its block")
        state[at] = np.frombuffer(body, np.uint8, m, 4 * m)
    else:
        raise CorruptArchive("states begin with an unknown byte")
    return state, _unpack_misfits(data[5 + size :], int((state == STATE_MISFIT).sum()), value_type)


def _unpack_misfits(data: bytes, n: int, value_type: pa.DataType) -> pa.Array | None:
    how = data[:1]
    if how == b"\0" and n == 0:
        return None
    if how == b"\1" and _is_fixed(value_type) and not pa.types.is_boolean(value_type):
        dtype = storage_dtype(value_type)
        body = unzstd(data[1:], n * dtype.itemsize)
        if len(body) == n * dtype.itemsize:
            return from_raw(value_type, np.frombuffer(body, dtype.base).reshape(n, *dtype.shape), None)
    if how == b"\2":
        misfits = from_ipc(unzstd(data[1:]), value_type)
        if len(misfits) == n:
            return misfits
    raise CorruptArchive(f"misfits of a block cannot be read: {n} values of {value_type} expected")


def _is_fixed(value_type: pa.DataType) -> bool:
    return (is_integral(value_type) or pa.types.is_floating(value_type)) and not pa.types.is_boolean(value_type)
