"""States of rANS lanes, as a stream begins with them (FORMAT.md, "Entropy coding")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive

SLOT_BITS = 24  # a state's lowest bits are its slot
HALF, FULL = np.uint64(32), np.uint64(40)
LOWER = np.uint64(1 << 32)


def pack_states(state: NDArray[np.uint64]) -> bytes:
    """Low halves, 2 bits for the bytes of each high half, high halves."""
    high = (state >> HALF).astype("<u4")
    n_bytes = 1 + (high >= 1 << 8) + (high >= 1 << 16) + (high >= 1 << 24)
    codes = np.zeros(-len(state) // 4 * -4, np.uint8)
    codes[: len(state)] = n_bytes - 1
    lengths = codes[0::4] | codes[1::4] << 2 | codes[2::4] << 4 | codes[3::4] << 6
    taken = high.view(np.uint8).reshape(-1, 4)[np.arange(4) < n_bytes[:, None]]
    return state.astype("<u4").tobytes() + lengths.tobytes() + taken.tobytes()


def unpack_states(data: bytes, lanes: int) -> tuple[NDArray[np.uint64], int]:
    """The inverse of pack_states on the head of data, and the bytes it took. Raises CorruptArchive."""
    n_codes = (lanes + 3) // 4
    packed = np.frombuffer(data[4 * lanes : 4 * lanes + n_codes], np.uint8)
    n_bytes = (packed[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).ravel()[:lanes] + np.uint8(1)
    stop = 4 * lanes + n_codes + int(n_bytes.sum())
    if len(packed) < n_codes or len(data) < stop:
        raise CorruptArchive(f"rANS stream ends within the states of its {lanes} lanes")
    high = np.zeros((lanes, 4), np.uint8)
    high[np.arange(4) < n_bytes[:, None]] = np.frombuffer(data[4 * lanes + n_codes : stop], np.uint8)
    state = np.frombuffer(data, "<u4", lanes).astype(np.uint64) | high.view("<u4").ravel().astype(np.uint64) << HALF
    if pack_states(state) != data[:stop] or (state < LOWER).any():
        raise CorruptArchive("rANS stream begins with states that no encoder ends with")
    return state, stop


def ended() -> CorruptArchive:
    """The error of a stream that has too few words."""
    return CorruptArchive("rANS stream ends before its last symbol")
