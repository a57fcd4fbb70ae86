"""A step read symbol after symbol, where vectors would be of few lanes.

A column that is nearly always what is most likely makes a stream of a few bytes, which has no lanes to speak of: a call of numpy for
every four symbols takes longer than to look at each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy.states import LOWER, SLOT_BITS, ended

Ints = NDArray[np.int64]
FEW_LANES = 64  # more are always read as vectors
ONE, LOOKED_UP, VECTOR = 0.35, 3.0, 30.0  # microseconds: of a likely symbol, of another one, of a vector of all lanes


class Likely(NamedTuple):
    """The most likely symbols of a step of n.

    symbols, low, width : (n,) which, their first slots, how many they have
    starts, total       : what the running sums of each table begin with, and what they come to
    """

    symbols: Ints
    low: Ints
    width: Ints
    starts: Ints
    total: Ints

    def of(self, rows: slice) -> Likely:
        """Those of some of them."""
        return self._replace(symbols=self.symbols[rows], low=self.low[rows], width=self.width[rows])


def likely_symbols(sums: NDArray[np.signedinteger[Any]], n_symbols: int, table: Ints, lanes: int) -> Likely | None:
    """What `read_one_by_one` needs, where that is quicker than vectors of so many lanes; else None.

    sums : running sums of the tables, table : (n,) which each symbol is under, as in rans.Channel.code_running
    """
    n = len(table)
    if lanes > FEW_LANES or n <= lanes or ONE * n > VECTOR * -(-n // lanes):
        return None
    starts = sums[::n_symbols].astype(np.int64)
    total = np.diff(starts)
    likely: Ints = np.diff(sums).reshape(-1, n_symbols).argmax(axis=1)
    first = np.arange(len(likely)) * n_symbols + likely
    low, up = (((sums.take(first + k) - starts[:-1]) << SLOT_BITS) // total for k in (0, 1))
    width = (up - low).take(table)
    unlikely = n - float(width.sum()) / (1 << SLOT_BITS)
    if ONE * n + LOOKED_UP * unlikely > VECTOR * -(-n // lanes):
        return None
    return Likely(likely.take(table), low.take(table), width, starts, total)


def read_one_by_one(
    state: NDArray[np.uint64], words: NDArray[np.uint32], position: int, sums: NDArray[np.signedinteger[Any]], table: Ints, likely: Likely
) -> tuple[Ints, int]:
    """What rans.Decoder.code_running reads of a step: (n,) symbols, and where the words that are left begin.

    state : (lanes,) of the stream, changed in place        words, position : of the stream, where its next one is
    Raises CorruptArchive when the words run out.
    """
    found, states, widths = likely.symbols, state.tolist(), likely.width.tolist()
    lane, lanes, mask, lower = 0, len(states), (1 << SLOT_BITS) - 1, int(LOWER)
    for i, low in enumerate(likely.low.tolist()):
        x = states[lane]
        slot, width = x & mask, widths[i]
        if not low <= slot < low + width:
            found[i], low, width = _looked_up(sums, likely, int(table[i]), slot)
        x = width * (x >> SLOT_BITS) + slot - low
        if x < lower:
            if position == len(words):
                raise ended()
            x = x << 32 | int(words[position])
            position += 1
        states[lane] = x
        lane = lane + 1 if lane + 1 < lanes else 0
    state[:] = np.array(states, np.uint64)
    return found, position


def _looked_up(sums: NDArray[np.signedinteger[Any]], likely: Likely, table: int, slot: int) -> tuple[int, int, int]:
    """The symbol that owns a slot, its first one, and how many it has."""
    n_symbols = (len(sums) - 1) // len(likely.total)
    start, total, own = int(likely.starts[table]), int(likely.total[table]), sums[table * n_symbols : (table + 1) * n_symbols + 1]
    symbol = int(own.searchsorted(start + (((slot + 1) * total - 1) >> SLOT_BITS), "right")) - 1
    low, up = (((int(own[symbol + k]) - start) << SLOT_BITS) // total for k in (0, 1))
    return symbol, low, up - low
