"""The optional C kernel for the two inner loops of the coder; numpy in rans.py is the specification and always there.

The kernel is compiled on first use with the system's C compiler into the user's cache and is used only after a
self-test gave the specification's bits. Set LATENTPACK_KERNEL=off to do without.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def available() -> bool:
    """Whether the compiled kernel is loaded."""
    return False


def encode(
    steps: Sequence[tuple[NDArray[np.uint32], NDArray[np.uint32]]], lanes: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """As rans._encode_numpy."""
    raise RuntimeError("kernel not available")


def decode(
    cumulative: NDArray[np.int64],
    table: NDArray[np.int64],
    state: NDArray[np.uint64],
    words: NDArray[np.uint32],
    position: int,
    out: NDArray[np.int64],
) -> int:
    """As rans.Decoder.code; returns the new word position, -1 when the words ran out."""
    raise RuntimeError("kernel not available")
