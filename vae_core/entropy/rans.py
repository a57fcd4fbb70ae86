"""Interleaved rANS (Duda 2013; Giesen 2014): L lanes of 64-bit states, 32-bit words, probabilities as intervals of 2**24.

A *step* codes a vector of symbols at once; symbol i of a step goes through lane i mod L, tile after tile of L symbols.
Frequencies need not sum to a power of two: a symbol with cumulative counts [c, c') of a total T owns the slots
[c * 2**24 // T, c' * 2**24 // T), so encoder and decoder agree by integer arithmetic alone (FORMAT.md, "Entropy coding").

The encoder, the decoder and the cost meter share one shape, `Channel`: the model walks a block once, hands every step its
tables, and gets the symbols back. What the walk is for (writing, reading, counting bits) is the channel's business, so the
two directions cannot drift apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.errors import CorruptArchive

SLOT_BITS = 24
SLOTS = 1 << SLOT_BITS
LOWER = np.uint64(1 << 32)
MAX_LANES = 4096
MAX_RAW_BITS = 16

Ints = NDArray[np.int64]


class Channel(ABC):
    """Where the symbols of a walk come from or go to.

    cumulative : (n_tables, n_symbols + 1) int64, rows start at 0, strictly increasing, last entry <= 2**24
    table      : (n,) int64 in [0, n_tables), the row each symbol is coded under
    symbols    : (n,) int64, what to write; None when reading
    """

    writes: bool

    @abstractmethod
    def code(self, cumulative: Ints, table: Ints, symbols: Ints | None) -> Ints:
        """Code n symbols, symbol i under cumulative[table[i]]; returns them, (n,) int64."""

    @abstractmethod
    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        """Code n integers below 2**n_bits[i] (each 0..16) as equally likely; returns them, (n,) int64."""


class Encoder(Channel):
    """Collects the slots of every symbol; `finish` runs the coder backwards over them."""

    writes = True

    def __init__(self) -> None:
        self._steps: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]] = []

    def code(self, cumulative: Ints, table: Ints, symbols: Ints | None) -> Ints:
        assert symbols is not None
        c = kernel.library()
        if c is not None:
            low, width = np.empty(len(table), np.uint32), np.empty(len(table), np.uint32)
            cumulative, table, symbols = (np.ascontiguousarray(a, np.int64) for a in (cumulative, table, symbols))
            c.lp_slots(
                kernel.pointer(cumulative), kernel.size(cumulative.shape[1] - 1), kernel.pointer(table),
                kernel.pointer(symbols), kernel.size(len(table)), kernel.pointer(low), kernel.pointer(width),
            )  # fmt: skip
            self._steps.append((low, width))
            return symbols
        total = cumulative[table, -1]
        first = (cumulative[table, symbols] << SLOT_BITS) // total
        last = (cumulative[table, symbols + 1] << SLOT_BITS) // total
        self._steps.append((first.astype(np.uint32), (last - first).astype(np.uint32)))
        return symbols

    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        assert symbols is not None
        shift = SLOT_BITS - n_bits
        self._steps.append(((symbols << shift).astype(np.uint32), (np.int64(1) << shift).astype(np.uint32)))
        return symbols

    def absorb(self, other: Encoder) -> None:
        """Append what another encoder collected."""
        self._steps.extend(other._steps)

    @property
    def bits(self) -> float:
        """The information content of what was collected, in bits."""
        return float(sum(SLOT_BITS * len(width) - np.log2(width).sum() for _, width in self._steps))

    def finish(self) -> bytes:
        """The stream: lane count (uint16), word count (uint32), L states (uint64), words (uint32), little endian."""
        lanes = lanes_for(self.bits / 8)
        words, state = _encode_kernel(self._steps, lanes) if kernel.available() else _encode_numpy(self._steps, lanes)
        head = np.array([lanes], "<u2").tobytes() + np.array([len(words)], "<u4").tobytes()
        return head + state.astype("<u8").tobytes() + words.astype("<u4").tobytes()


def _encode_numpy(
    steps: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]], lanes: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    state = np.full(lanes, LOWER, np.uint64)
    pieces: list[NDArray[np.uint32]] = []
    for low_all, width_all in reversed(steps):
        low_all, width_all = low_all.astype(np.uint64), width_all.astype(np.uint64)
        n = len(low_all)
        for start in range((n - 1) // lanes * lanes, -1, -lanes) if n else ():
            low, width = low_all[start : start + lanes], width_all[start : start + lanes]
            x = state[: len(low)]
            full = (x >> np.uint64(40)) >= width
            if full.any():
                pieces.append(x[full].astype(np.uint32))
                x = np.where(full, x >> np.uint64(32), x)
            quotient, remainder = np.divmod(x, width)
            state[: len(low)] = (quotient << np.uint64(SLOT_BITS)) + remainder + low
    words = np.concatenate(pieces[::-1]) if pieces else np.empty(0, np.uint32)
    return words, state


def _encode_kernel(
    steps: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]], lanes: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    c = kernel.library()
    assert c is not None
    state = np.full(lanes, LOWER, np.uint64)
    words = np.empty(sum(len(low) for low, _ in steps), np.uint32)  # a symbol emits one word at most
    position = len(words)
    for low, width in reversed(steps):
        position = c.lp_encode(
            kernel.pointer(low), kernel.pointer(width), kernel.size(len(low)), kernel.pointer(state), kernel.size(lanes),
            kernel.pointer(words), kernel.size(position),
        )  # fmt: skip
    return words[position:], state


def lanes_for(n_bytes: float) -> int:
    """The lane count for a stream of about n_bytes: a lane costs 4 bytes, which shall stay near 0.4 % of the stream."""
    lanes = 4
    while lanes < 512 and lanes * 2 * 4 <= 0.004 * n_bytes:
        lanes *= 2
    return lanes


class Decoder(Channel):
    """Reads a stream of `Encoder.finish`. Raises CorruptArchive when the stream cannot be what an encoder wrote."""

    writes = False

    def __init__(self, stream: bytes) -> None:
        if len(stream) < 6:
            raise CorruptArchive(f"rANS stream has {len(stream)} bytes, fewer than its 6-byte head")
        self.lanes = int(np.frombuffer(stream, "<u2", 1)[0])
        n_words = int(np.frombuffer(stream, "<u4", 1, 2)[0])
        if not 1 <= self.lanes <= MAX_LANES or len(stream) != 6 + 8 * self.lanes + 4 * n_words:
            raise CorruptArchive(f"rANS stream of {len(stream)} bytes claims {self.lanes} lanes and {n_words} words")
        self.state = np.frombuffer(stream, "<u8", self.lanes, 6).astype(np.uint64)
        self.words = np.frombuffer(stream, "<u4", n_words, 6 + 8 * self.lanes).astype(np.uint32)
        self.position = 0

    def code(self, cumulative: Ints, table: Ints, symbols: Ints | None) -> Ints:
        out = np.empty(len(table), np.int64)
        c = kernel.library()
        if c is not None:
            cumulative, table = np.ascontiguousarray(cumulative, np.int64), np.ascontiguousarray(table, np.int64)
            self._moved(c.lp_decode(
                kernel.pointer(cumulative), kernel.size(cumulative.shape[1] - 1), kernel.pointer(table), kernel.size(len(table)),
                kernel.pointer(self.state), kernel.size(self.lanes), kernel.pointer(self.words), kernel.size(len(self.words)),
                kernel.size(self.position), kernel.pointer(out),
            ))  # fmt: skip
            return out
        return self._code_numpy(cumulative, table, out)

    def _code_numpy(self, cumulative: Ints, table: Ints, out: Ints) -> Ints:
        width, total_all = cumulative.shape[1], cumulative[:, -1]
        scaled = (cumulative << SLOT_BITS) // total_all[:, None]
        flat = scaled.ravel()
        for start in range(0, len(table), self.lanes):
            tile = table[start : start + self.lanes]
            x = self.state[: len(tile)]
            slot = (x & np.uint64(SLOTS - 1)).astype(np.int64)
            symbol = (scaled[tile] <= slot[:, None]).sum(1) - 1  # the last edge is 2**24, above every slot
            out[start : start + len(tile)] = symbol
            base = tile * width + symbol
            low = flat[base]
            self._advance(x, slot, low, flat[base + 1] - low)
        return out

    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        out = np.empty(len(n_bits), np.int64)
        c = kernel.library()
        if c is not None:
            n_bits = np.ascontiguousarray(n_bits, np.int64)
            self._moved(c.lp_decode_raw(
                kernel.pointer(n_bits), kernel.size(len(n_bits)), kernel.pointer(self.state), kernel.size(self.lanes),
                kernel.pointer(self.words), kernel.size(len(self.words)), kernel.size(self.position), kernel.pointer(out),
            ))  # fmt: skip
            return out
        for start in range(0, len(n_bits), self.lanes):
            shift = SLOT_BITS - n_bits[start : start + self.lanes]
            x = self.state[: len(shift)]
            slot = (x & np.uint64(SLOTS - 1)).astype(np.int64)
            symbol = slot >> shift
            out[start : start + len(shift)] = symbol
            self._advance(x, slot, symbol << shift, np.int64(1) << shift)
        return out

    def _moved(self, position: int) -> None:
        if position < 0:
            raise CorruptArchive("rANS stream ends before its last symbol")
        self.position = position

    def _advance(self, x: NDArray[np.uint64], slot: Ints, low: Ints, width: Ints) -> None:
        """x <- width * (x >> 24) + slot - low for the first len(x) lanes, one word refilled where that fell below 2**32."""
        moved = width.astype(np.uint64) * (x >> np.uint64(SLOT_BITS)) + (slot - low).astype(np.uint64)
        hungry = (moved < LOWER).nonzero()[0]
        if len(hungry):
            stop = self.position + len(hungry)
            if stop > len(self.words):
                raise CorruptArchive("rANS stream ends before its last symbol")
            fresh = self.words[self.position : stop].astype(np.uint64)
            moved[hungry] = (moved[hungry] << np.uint64(32)) | fresh
            self.position = stop
        self.state[: len(x)] = moved

    def finish(self) -> None:
        """Raise CorruptArchive unless every word was used and every lane is back at its start."""
        if self.position != len(self.words) or (self.state != LOWER).any():
            raise CorruptArchive("rANS stream does not end where its encoder began")


class Meter(Channel):
    """Counts the bits a walk would write, per step label, and writes nothing."""

    writes = True

    def __init__(self) -> None:
        self.bits = 0.0

    def code(self, cumulative: Ints, table: Ints, symbols: Ints | None) -> Ints:
        assert symbols is not None
        width = cumulative[table, symbols + 1] - cumulative[table, symbols]
        self.bits += float(np.log2(cumulative[table, -1]).sum() - np.log2(width).sum())
        return symbols

    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        assert symbols is not None
        self.bits += float(n_bits.sum())
        return symbols
