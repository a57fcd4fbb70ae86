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
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.passes import N_RAW_STEPS, Contexts, PassTables
from vae_core.errors import CorruptArchive

SLOT_BITS = 24
SLOTS = 1 << SLOT_BITS
SLOTS_64, SLOT_MASK = np.uint64(SLOTS), np.uint64(SLOTS - 1)
SHIFT, HALF, FULL = np.uint64(SLOT_BITS), np.uint64(32), np.uint64(40)
LOWER = np.uint64(1 << 32)
# A product with an inverse this much too large is never below the true quotient, and with quotients and divisors up to 2**24
# never reaches the next integer: truncated, it is the floor of the quotient.
UP = 1.0 + 2.0**-50
MAX_LANES = 4096
MAX_RAW_BITS = 16

Ints = NDArray[np.int64]
Words = NDArray[np.uint32]
Table = NDArray[np.int64] | NDArray[np.float64]
Slots = tuple[Words, Words, Ints]  # low and width of each symbol, lengths of the steps they make


class Channel(ABC):
    """Where the symbols of a walk come from or go to.

    cumulative : (n_tables, n_symbols + 1) integers (int64 or float64), rows start at 0, strictly increasing, last entry <= 2**24
    table      : (n,) int64 in [0, n_tables), the row each symbol is coded under
    symbols    : (n,) int64, what to write; None when reading
    """

    writes: bool
    takes_passes = False  # whether it has code_pass, for where the C kernel is there

    @abstractmethod
    def code(self, cumulative: Table, table: Ints, symbols: Ints | None) -> Ints:
        """Code n symbols, symbol i under cumulative[table[i]]; returns them, (n,) int64."""

    @abstractmethod
    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        """Code n integers below 2**n_bits[i] (each 0..16) as equally likely; returns them, (n,) int64."""

    def code_pass(
        self, tables: PassTables, contexts: Sequence[Contexts], ends: Ints, symbols: Sequence[Ints] | None, raw: Ints | None
    ) -> tuple[list[Ints], Ints]:
        """Code all rows of a pass by the kernel (PassTables.arguments); returns (n,) int64 symbols of each digit and raw bits."""
        raise NotImplementedError


class Encoder(Channel):
    """Collects the slots of every symbol; `finish` runs the coder backwards over them."""

    writes = True
    takes_passes = True

    def __init__(self) -> None:
        self._slots: list[Slots] = []
        self._bits, self._n_counted = 0.0, 0

    def code(self, cumulative: Table, table: Ints, symbols: Ints | None) -> Ints:
        assert symbols is not None
        scale = (SLOTS * UP) / cumulative[table, -1]
        low = (cumulative[table, symbols] * scale).astype(np.uint32)
        self._append(low, (cumulative[table, symbols + 1] * scale).astype(np.uint32) - low)
        return symbols

    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        assert symbols is not None
        shift = SLOT_BITS - n_bits
        self._append((symbols << shift).astype(np.uint32), (np.int64(1) << shift).astype(np.uint32))
        return symbols

    def _append(self, low: Words, width: Words) -> None:
        self._slots.append((low, width, np.array([len(low)], np.int64)))

    def code_pass(
        self, tables: PassTables, contexts: Sequence[Contexts], ends: Ints, symbols: Sequence[Ints] | None, raw: Ints | None
    ) -> tuple[list[Ints], Ints]:
        assert symbols is not None and raw is not None
        symbols, raw = [np.ascontiguousarray(s, np.int64) for s in symbols], np.ascontiguousarray(raw, np.int64)
        most = int(ends[-1]) * (tables.n_digits + N_RAW_STEPS)
        low, width = np.empty(most, np.uint32), np.empty(most, np.uint32)
        lengths = np.empty(len(ends) * (tables.n_digits + N_RAW_STEPS), np.int64)
        c = kernel.library()
        assert c is not None
        n_steps = c.lp_write(
            *tables.arguments(contexts, ends), kernel.pointers(symbols), kernel.pointer(raw), kernel.pointer(low), kernel.pointer(width),
            kernel.pointer(lengths),
        )  # fmt: skip
        lengths = lengths[:n_steps].copy()
        n_slots = int(lengths.sum())
        self._slots.append((low[:n_slots].copy(), width[:n_slots].copy(), lengths))
        return symbols, raw

    def absorb(self, other: Encoder) -> None:
        """Append what another encoder collected."""
        self._slots.extend(other._slots)

    @property
    def bits(self) -> float:
        """The information content of what was collected, in bits."""
        for _, width, _ in self._slots[self._n_counted :]:
            self._bits += SLOT_BITS * len(width) - float(np.log2(width).sum())
        self._n_counted = len(self._slots)
        return self._bits

    def finish(self) -> bytes:
        """The stream: lane count (uint16), word count (uint32), L states (uint64), words (uint32), little endian."""
        lanes = lanes_for(self.bits / 8)
        words, state = _encode_kernel(self._slots, lanes) if kernel.available() else _encode_numpy(self._slots, lanes)
        head = np.array([lanes], "<u2").tobytes() + np.array([len(words)], "<u4").tobytes()
        return head + state.astype("<u8").tobytes() + words.astype("<u4").tobytes()


def _encode_numpy(slots: list[Slots], lanes: int) -> tuple[Words, NDArray[np.uint64]]:
    state = np.full(lanes, LOWER, np.uint64)
    pieces: list[Words] = []
    for low_all, width_all, lengths in reversed(slots):
        low_all, width_all = low_all.astype(np.uint64), width_all.astype(np.uint64)
        end = len(low_all)
        for n in lengths[::-1].tolist():
            end -= n
            for start in range((n - 1) // lanes * lanes, -1, -lanes) if n else ():
                tile = slice(end + start, end + min(n, start + lanes))
                width = width_all[tile]
                x = state[: len(width)]
                full = (x >> FULL >= width).nonzero()[0]
                if len(full):
                    high = x.take(full)
                    pieces.append(high.astype(np.uint32))
                    x[full] = high >> HALF
                quotient = x // width
                x += quotient * (SLOTS_64 - width)  # quotient * 2^24 + remainder
                x += low_all[tile]
    words = np.concatenate(pieces[::-1]) if pieces else np.empty(0, np.uint32)
    return words, state


def _encode_kernel(slots: list[Slots], lanes: int) -> tuple[Words, NDArray[np.uint64]]:
    c = kernel.library()
    assert c is not None
    state = np.full(lanes, LOWER, np.uint64)
    words = np.empty(sum(len(low) for low, _, _ in slots), np.uint32)  # a symbol emits one word at most
    position = len(words)
    for low, width, lengths in reversed(slots):
        position = c.lp_encode(
            kernel.pointer(low), kernel.pointer(width), kernel.pointer(lengths), kernel.size(len(lengths)), kernel.pointer(state),
            kernel.size(lanes), kernel.pointer(words), kernel.size(position),
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
    takes_passes = True

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

    def code(self, cumulative: Table, table: Ints, symbols: Ints | None) -> Ints:
        n_tables, n_symbols = len(cumulative), cumulative.shape[1] - 1
        # all edges of all tables in one ascending row, table t from t * 2**24: then the place of a slot is symbol and table in one
        edges = np.zeros(n_tables * n_symbols + 1, np.int64)
        upper = edges[1:]
        rows = upper.reshape(n_tables, n_symbols)
        rows[:] = cumulative[:, 1:] * ((SLOTS * UP) / cumulative[:, -1:])
        rows += (np.arange(n_tables, dtype=np.int64) << SLOT_BITS)[:, None]
        base = table << SLOT_BITS
        found = np.empty(len(table), np.int64)
        for start in range(0, len(table), self.lanes):
            tile = slice(start, start + self.lanes)
            slot = base[tile]
            x = self.state[: len(slot)]
            slot = (x & SLOT_MASK).view(np.int64) + slot
            at = upper.searchsorted(slot, "right")
            found[tile] = at
            low = edges.take(at)
            self._advance(x, upper.take(at) - low, slot - low)
        found -= table * n_symbols
        return found

    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        out = np.empty(len(n_bits), np.int64)
        for start in range(0, len(n_bits), self.lanes):
            shift = SLOT_BITS - n_bits[start : start + self.lanes]
            x = self.state[: len(shift)]
            slot = (x & SLOT_MASK).view(np.int64)
            symbol = slot >> shift
            out[start : start + len(shift)] = symbol
            self._advance(x, np.int64(1) << shift, slot - (symbol << shift))
        return out

    def code_pass(
        self, tables: PassTables, contexts: Sequence[Contexts], ends: Ints, symbols: Sequence[Ints] | None, raw: Ints | None
    ) -> tuple[list[Ints], Ints]:
        found, rest = [np.empty(ends[-1], np.int64) for _ in range(tables.n_digits)], np.empty(ends[-1], np.int64)
        c = kernel.library()
        assert c is not None
        position = c.lp_read(
            *tables.arguments(contexts, ends), kernel.pointer(self.state), kernel.size(self.lanes), kernel.pointer(self.words),
            kernel.size(len(self.words)), kernel.size(self.position), kernel.pointers(found), kernel.pointer(rest),
        )  # fmt: skip
        if position < 0:
            raise _ended()
        self.position = position
        return found, rest

    def _advance(self, x: NDArray[np.uint64], width: Ints, above: Ints) -> None:
        """x <- width * (x >> 24) + above for the first len(x) lanes, in place, one word refilled where that fell below 2**32."""
        x >>= SHIFT
        x *= width.view(np.uint64)
        x += above.view(np.uint64)
        hungry = (x < LOWER).nonzero()[0]
        if len(hungry):
            stop = self.position + len(hungry)
            fresh = self.words[self.position : stop]
            if len(fresh) < len(hungry):
                raise _ended()
            x[hungry] = x.take(hungry) << HALF | fresh
            self.position = stop

    def finish(self) -> None:
        """Raise CorruptArchive unless every word was used and every lane is back at its start."""
        if self.position != len(self.words) or (self.state != LOWER).any():
            raise CorruptArchive("rANS stream does not end where its encoder began")


def _ended() -> CorruptArchive:
    return CorruptArchive("rANS stream ends before its last symbol")


class Meter(Channel):
    """Counts the bits a walk would write, per step label, and writes nothing."""

    writes = True

    def __init__(self) -> None:
        self.bits = 0.0

    def code(self, cumulative: Table, table: Ints, symbols: Ints | None) -> Ints:
        assert symbols is not None
        width = cumulative[table, symbols + 1] - cumulative[table, symbols]
        self.bits += float(np.log2(cumulative[table, -1]).sum() - np.log2(width).sum())
        return symbols

    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        assert symbols is not None
        self.bits += float(n_bits.sum())
        return symbols
