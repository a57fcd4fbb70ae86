"""Integers in the smallest type that holds them, and in pcodec: what several coders store."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

NARROW = ("u1", "i1", "u2", "i2", "u4", "i4", "i8")
"""The format's list of integer types; payloads hold a position in it."""
PCO = ChunkConfig(compression_level=12, enable_8_bit=True)


def narrowed(values: NDArray[np.int64]) -> tuple[NDArray[Any], int]:
    """Codes in the smallest integer type that holds them, and its position in NARROW."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    for tag, name in enumerate(NARROW):
        info = np.iinfo(name)
        if info.min <= low and high <= info.max:
            return values.astype(name), tag
    raise AssertionError("int64 does not fit int64")


def pco_of(values: NDArray[np.int64]) -> tuple[int, bytes]:
    """(n,) integers narrowed and coded by pcodec: the position in NARROW, and the stream."""
    narrow, tag = narrowed(values)
    return tag, bytes(standalone.simple_compress(narrow, PCO))
