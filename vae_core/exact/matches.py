"""What followed the same values last time: a memory of keys, of rows coded one after another (`forward`).

A *match* (the match model of PAQ, one deep) has a key: values of other columns at the row, and of the column itself in rows
before it. What the column was when the key was last seen, beside what the linear prediction says, is a context: patterns that
recur are told by it where lags of fixed length cannot, and where it is wrong it costs little. Where values mean nothing beside each
other, one match *leads*: what it recalls is the prediction. A memory is a table of 2^bits cells
told by a hash of the key, without chains: what a cell held is lost to the next key that falls on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive

if TYPE_CHECKING:
    from vae_core.exact.features import Decoded
    from vae_core.exact.lanes import Lanes

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
MAX_MATCHES = 4
MAX_TERMS = 8
MOST_LAG = 256
LEVELS = 40
NEAR, FAR = 15, 128  # distances from the prediction that have levels of their own; what is as far as any
FACTOR, FOLD = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
FEWEST_BITS, MOST_BITS = 8, 20


@dataclass(frozen=True, slots=True)
class Match:
    """The key of a memory.

    others : earlier columns, at the row        lags : rows before it, of the column itself, each 1..256
    """

    others: tuple[int, ...] = ()
    lags: tuple[int, ...] = ()

    @property
    def reach(self) -> int:
        """The first step that has all of the key: before it, nothing is kept or known."""
        return max(self.lags, default=0)

    def to_json(self) -> list[Any]:
        return [list(self.others), list(self.lags)]


def from_json(parts: Any, n_columns: int) -> tuple[Match, ...]:
    """Matches of a plan from lists of what Match.to_json gives. Raises CorruptArchive on anything else."""
    try:
        found = tuple(Match(tuple(int(j) for j in others), tuple(int(k) for k in lags)) for others, lags in parts)
    except (TypeError, ValueError, OverflowError) as error:
        raise CorruptArchive(f"model holds malformed matches: {str(parts)[:60]}") from error
    for match in found:
        known = all(0 <= j < n_columns for j in match.others) and all(1 <= k <= MOST_LAG for k in match.lags)
        if not known or not 1 <= len(match.others) + len(match.lags) <= MAX_TERMS:
            raise CorruptArchive(f"model holds a malformed match: {match}")
    if len(found) > MAX_MATCHES:
        raise CorruptArchive(f"model holds {len(found)} matches of one column")
    return found


def bits_for(n_rows: int) -> int:
    """Of the memory of so many coded rows."""
    return min(MOST_BITS, max(FEWEST_BITS, (2 * n_rows - 1).bit_length() if n_rows else 0))


def fixed_hashes(match: Match, lanes: Lanes, decoded: Decoded) -> Hashes:
    """(n,) the hash of what a key has of other columns, in coding order. Raises CorruptArchive when one is not decoded."""
    found = np.zeros(lanes.n, np.uint64)
    for j in match.others:
        if j not in decoded.values:
            raise CorruptArchive(f"model matches a column by column {j}, which is not decoded before it")
        found = mixed(found, lanes.of(decoded.values[j]))
    return found


def mixed(known: Hashes, values: Ints) -> Hashes:
    """(n,) hashes with one more value each."""
    with np.errstate(over="ignore"):
        found = (known ^ values.view(np.uint64)) * FACTOR
    found ^= found >> FOLD
    return found


def level(seen: Bools, recalled: Ints, guess: Ints) -> Ints:
    """(n,) levels below LEVELS: 0 where the key was not seen, else by how far what was recalled is from the prediction."""
    with np.errstate(over="ignore"):
        off = np.clip(recalled - guess, -FAR, FAR)
    size = np.abs(off)
    far = 32 + (size >= 32).astype(np.int64) + (size >= 64) + (size >= FAR)
    found: Ints = np.where(size <= NEAR, off + (NEAR + 1), np.where(off > 0, far, far + 4))
    return np.where(seen, found, 0)


def led(seen: Bools, recalled: Ints, guess: Ints, fraction: Ints) -> tuple[Ints, Ints]:
    """(n,) prediction and its fraction where a match leads."""
    return np.where(seen, recalled, guess), np.where(seen, 0, fraction)


class Memory:
    """The memory of one match, step by step."""

    def __init__(self, match: Match, fixed: Hashes, n_rows: int) -> None:
        """fixed: as fixed_hashes gives it."""
        bits = bits_for(n_rows)
        self._match, self._fixed, self._shift = match, fixed, np.uint64(64 - bits)
        self._keys, self._values = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.int64)
        self._now: Hashes = np.empty(0, np.uint64)

    def recall(self, step: int, rows: slice, past: Sequence[Ints] | Ints, lanes: slice | Ints) -> tuple[Bools, Ints]:
        """(n,) whether the key of each row of a step was seen, and what it holds; `rows` in coding order; past[s] are the values of
        step s, of all lanes, and `lanes` those of the rows."""
        n = rows.stop - rows.start
        if step < self._match.reach:
            return np.zeros(n, np.bool_), np.zeros(n, np.int64)
        found = self._fixed[rows]
        for lag in self._match.lags:
            found = mixed(found, past[step - lag][lanes])
        with np.errstate(over="ignore"):
            self._now = found * FACTOR | np.uint64(1)
        cells = self._now >> self._shift
        return self._keys[cells] == self._now, self._values[cells]

    def learn(self, step: int, values: Ints) -> None:
        """(n,) values of the rows of that step, now known; where several fall on a cell the last stays."""
        if step < self._match.reach:
            return
        cells = self._now >> self._shift
        self._keys[cells], self._values[cells] = self._now, values
