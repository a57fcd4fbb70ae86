"""A stream in the making: the slots of all symbols, taken from the last to the first, as words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.passes import Slots
from vae_core.entropy.states import FULL, HALF, LOWER, SLOT_BITS

SLOTS_64 = np.uint64(1 << SLOT_BITS)
MAX_FOLDS = 12
MOST_LANES = 512  # twice as many where they may take more than LANE_SHARE
LANE_SHARE = 0.004  # of a stream's bytes, for its lanes
FOLD = 16  # lanes at the start of a stream for each at its end, as this release writes them


class Work:
    """A stream in the making: states, words from `position` on, and where lanes doubled (the last doubling first in the stream)."""

    def __init__(self, slots: Sequence[Slots], lanes: int, most: int) -> None:
        self.slots, self.lanes, self.most = slots, lanes, most
        self.state = np.full(most, LOWER, np.uint64)
        self.words = np.empty(sum(len(low) for low, _, _ in slots), np.uint32)  # a symbol emits one word at most
        self.position = len(self.words)
        self.n_steps = sum(int(np.count_nonzero(lengths)) for _, _, lengths in slots)
        self.folds: list[int] = []

    def encode(self) -> None:
        step = self.n_steps
        for low, width, lengths in reversed(self.slots):
            low_64, width_64 = low.astype(np.uint64), width.astype(np.uint64)
            end = len(low)
            for n in lengths[lengths > 0][::-1].tolist():
                end -= n
                for start in range((n - 1) // self.lanes * self.lanes, -1, -self.lanes):
                    tile = slice(end + start, end + min(n, start + self.lanes))
                    self._tile(low_64[tile], width_64[tile])
                step -= 1
                while step and self.lanes < self.most and len(self.words) - self.position >= self.lanes:
                    payload = self.words[self.position : self.position + self.lanes]
                    self.state[self.lanes : 2 * self.lanes] = payload.astype(np.uint64) + LOWER
                    self.position += self.lanes
                    self.lanes *= 2
                    self.folds.append(step)

    def _tile(self, low: NDArray[np.uint64], width: NDArray[np.uint64]) -> None:
        x = self.state[: len(width)]
        full = (x >> FULL >= width).nonzero()[0]
        if len(full):
            high = x.take(full)
            self.position -= len(full)
            self.words[self.position : self.position + len(full)] = high.astype(np.uint32)
            x[full] = high >> HALF
        quotient = x // width
        x += quotient * (SLOTS_64 - width)  # quotient * 2^24 + remainder
        x += low

    def encode_by_kernel(self) -> None:
        c = kernel.library()
        assert c is not None
        folds, at = np.empty(MAX_FOLDS, np.int64), np.array([self.position, self.lanes, self.n_steps, 0], np.int64)
        for low, width, lengths in reversed(self.slots):
            c.lp_encode(
                kernel.pointer(low), kernel.pointer(width), kernel.pointer(lengths), kernel.size(len(lengths)),
                kernel.pointer(self.state), kernel.size(self.most), kernel.pointer(self.words), kernel.size(len(self.words)),
                kernel.pointer(folds), kernel.pointer(at),
            )  # fmt: skip
        self.position, self.lanes = int(at[0]), int(at[1])
        self.folds = folds[: at[3]].tolist()


def lanes_for(n_bytes: float, share: float = LANE_SHARE) -> int:
    """The lane count for a stream of about n_bytes: a lane costs near 3/4 of a byte, those not folded 4 more; together that shall
    stay near a share of the stream."""
    lanes, most = 4, MOST_LANES if share <= LANE_SHARE else 2 * MOST_LANES
    while lanes < most and lanes * 2 * (0.75 + 4 / FOLD) <= share * n_bytes:
        lanes *= 2
    return lanes
