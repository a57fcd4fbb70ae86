"""Streams of several blocks read abreast: a step of all of them in the numpy calls of one. What is read is what each gives alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy.rans import SHIFT, SLOT_MASK, Decoder, Sums, Words, placed, tables_of
from vae_core.entropy.singly import likely_symbols
from vae_core.entropy.states import HALF, LOWER, SLOT_BITS, ended

Ints = NDArray[np.int64]
Some = slice | Ints


@dataclass(frozen=True, slots=True)
class _Tile:
    """Symbols of a step that go through one lane each.

    rows, lanes : where they are in the step, and their lanes in the states of all streams        ends : where those of each stream end
    """

    rows: Some
    lanes: Some
    ends: Ints


class Abreast:
    """Decoders, one of each block, while they are read together; `close` gives each its own back.

    counts : how many symbols of a step each of them has, those of the first one first
    """

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self._decoders = decoders
        self._open()

    def _open(self) -> None:
        self._state = np.concatenate([d.state for d in self._decoders])
        self._firsts = np.cumsum([0, *(d.lanes for d in self._decoders)]).tolist()
        self._folds = [d.next_fold for d in self._decoders]
        self._tiles: dict[tuple[int, ...], list[_Tile]] = {}

    def close(self) -> None:
        """Give the decoders their states."""
        for decoder, first in zip(self._decoders, self._firsts, strict=False):
            decoder.state = self._state[first : first + decoder.lanes].copy()

    def _begin(self, counts: tuple[int, ...]) -> list[_Tile]:
        """Begin a step of every stream that has symbols in it; what it is made of."""
        for decoder, n, fold in zip(self._decoders, counts, self._folds, strict=True):
            if n:
                if decoder.step == fold:
                    self.close()
                    decoder.fold()
                    self._open()
                decoder.step += 1
        if counts not in self._tiles:
            self._tiles[counts] = self._tiled(counts)
        return self._tiles[counts]

    def _tiled(self, counts: tuple[int, ...]) -> list[_Tile]:
        found: list[_Tile] = []
        starts = np.cumsum([0, *counts]).tolist()
        while True:
            k, rows, lanes = len(found), [], []
            for decoder, n, start, first in zip(self._decoders, counts, starts, self._firsts, strict=False):
                here = np.arange(k * decoder.lanes, max(k * decoder.lanes, min(n, (k + 1) * decoder.lanes)))
                rows.append(start + here)
                lanes.append(first + here - k * decoder.lanes)
            ends = np.cumsum([len(some) for some in rows])
            if not ends[-1]:
                return found
            found.append(_Tile(_slice_of(np.concatenate(rows)), _slice_of(np.concatenate(lanes)), ends[:-1]))

    def code_running(self, sums: Sums, n_symbols: int, table: Ints, counts: tuple[int, ...]) -> Ints:
        """As Decoder.code_running."""
        found, tiles = np.empty(len(table), np.int64), self._begin(counts)
        lanes = -(-len(table) // max(1, len(tiles)))
        if (likely := likely_symbols(sums, n_symbols, table, lanes)) is not None:
            starts = np.cumsum([0, *counts]).tolist()
            for decoder, first, rows in zip(self._decoders, self._firsts, map(slice, starts, starts[1:]), strict=False):
                found[rows] = decoder.one_by_one(self._state[first : first + decoder.lanes], sums, table[rows], likely.of(rows))
            return found
        tables = tables_of(sums, n_symbols)
        for tile in tiles:
            x = self._state[tile.lanes]
            found[tile.rows], width, above = placed(tables, table[tile.rows], (x & SLOT_MASK).view(np.int64))
            self._advance(tile, x, width, above)
        found -= table * n_symbols
        return found

    def raw(self, n_bits: Ints, counts: tuple[int, ...]) -> Ints:
        """As Decoder.raw."""
        found = np.empty(len(n_bits), np.int64)
        for tile in self._begin(counts):
            shift = SLOT_BITS - n_bits[tile.rows]
            x = self._state[tile.lanes]
            slot = (x & SLOT_MASK).view(np.int64)
            symbol = found[tile.rows] = slot >> shift
            self._advance(tile, x, np.int64(1) << shift, slot - (symbol << shift))
        return found

    def _advance(self, tile: _Tile, x: NDArray[np.uint64], width: Ints, above: Ints) -> None:
        """As Decoder._advance."""
        x >>= SHIFT
        x *= width.view(np.uint64)
        x += above.view(np.uint64)
        hungry = (x < LOWER).nonzero()[0]
        if len(hungry):
            x[hungry] = x.take(hungry) << HALF | self._fresh(hungry, tile.ends)
        if not isinstance(tile.lanes, slice):
            self._state[tile.lanes] = x

    def _fresh(self, hungry: Ints, ends: Ints) -> Words:
        """The words of hungry lanes."""
        found, first = [], 0
        for decoder, cut in zip(self._decoders, [*hungry.searchsorted(ends).tolist(), len(hungry)], strict=True):
            stop = decoder.position + cut - first
            if stop > len(decoder.words):
                raise ended()
            found.append(decoder.words[decoder.position : stop])
            decoder.position, first = stop, cut
        return np.concatenate(found)


def _slice_of(numbers: Ints) -> Some:
    """Numbers that follow one another as a slice."""
    first = int(numbers[0])
    return slice(first, first + len(numbers)) if int(numbers[-1]) - first == len(numbers) - 1 else numbers
