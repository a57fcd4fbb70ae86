"""Raw bits of rows in a stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy.rans import MAX_RAW_BITS, Channel

Ints = NDArray[np.int64]


def code_raw(channel: Channel, n_bits: Ints, raw: Ints | None) -> Ints:
    """Code the (n,) raw bits of rows, n_bits 0..64 each, 16 at a time from the low end; returns them, (n,) int64."""
    value = np.zeros(len(n_bits), np.int64)
    for shift in range(0, 64, MAX_RAW_BITS):
        where = np.flatnonzero(n_bits > shift)
        if not len(where):
            break
        width = np.minimum(n_bits[where] - shift, MAX_RAW_BITS)
        piece = None if raw is None else (raw[where] >> shift) & ((np.int64(1) << width) - 1)
        value[where] |= channel.raw(width, piece) << shift
    return value
