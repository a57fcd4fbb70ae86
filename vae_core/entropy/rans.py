"""Interleaved rANS (Duda 2013; Giesen 2014): L lanes of 64-bit states, 32-bit words, probabilities as intervals of 2**24.

A *step* codes a vector of symbols at once; symbol i of a step goes through lane i mod L, tile after tile of L symbols.
Frequencies need not sum to a power of two: a symbol with cumulative counts [c, c') of a total T owns the slots
[c * 2**24 // T, c' * 2**24 // T), so encoder and decoder agree by integer arithmetic alone (FORMAT.md, "Entropy coding").

Encoder and decoder share one shape, `Channel`: the model walks a block once, hands every step its tables, and gets the symbols
back. What the walk is for, writing or reading, is the channel's business, so the two directions cannot drift apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import gathered, kernel
from vae_core.entropy.gathered import Records
from vae_core.entropy.lanes import KernelWalk
from vae_core.entropy.passes import N_RAW_STEPS, RAW_BITS, Contexts, PassTables, Room, Slots
from vae_core.entropy.singly import Likely, likely_symbols, read_one_by_one
from vae_core.entropy.states import HALF, LOWER, SLOT_BITS, ended, pack_states, unpack_states
from vae_core.entropy.work import FOLD, LANE_SHARE, MAX_FOLDS, Work, lanes_for
from vae_core.errors import CorruptArchive

SLOTS = 1 << SLOT_BITS
SLOT_MASK = np.uint64(SLOTS - 1)
SHIFT = np.uint64(SLOT_BITS)
# A product with an inverse this much too large is never below the true quotient, and with quotients and divisors up to 2**24
# never reaches the next integer: truncated, it is the floor of the quotient.
UP = 1.0 + 2.0**-50
MAX_LANES = 4096
FEW_ROWS = 200  # that are searched for among all tables at once; more, each in its own
FOLDED, GATHERED = 1 << 15, 1 << 14  # beside the lane count
MAX_RAW_BITS = RAW_BITS

Ints = NDArray[np.int64]
Symbols = NDArray[np.uint16]
Words = NDArray[np.uint32]
Table = NDArray[np.int64] | NDArray[np.float64]
Sums = NDArray[np.int32] | NDArray[np.int64]


class Channel(ABC):
    """Where the symbols of a walk come from or go to.

    cumulative : (n_tables, n_symbols + 1) integers (int64 or float64), rows start at 0, strictly increasing, last entry <= 2**24
    table      : (n,) int64 in [0, n_tables), the row each symbol is coded under
    symbols    : (n,) int64, what to write; None when reading
    """

    writes: bool

    def code(self, cumulative: Table, table: Ints, symbols: Ints | None) -> Ints:
        """Code n symbols, symbol i under cumulative[table[i]]; returns them, (n,) int64."""
        n_tables, n_symbols = len(cumulative), cumulative.shape[1] - 1
        sums = np.zeros(n_tables * n_symbols + 1, np.int64)
        np.diff(cumulative, axis=1).astype(np.int64).ravel().cumsum(out=sums[1:])
        return self.code_running(sums, n_symbols, table, symbols)

    @abstractmethod
    def code_running(self, sums: Sums, n_symbols: int, table: Ints, symbols: Ints | None) -> Ints:
        """The same of tables behind one another, whose sums go on from each to the next: sums[t * n_symbols + s] is what stands before
        symbol s of table t, in all of them; the last one the sum of all."""

    @abstractmethod
    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        """Code n integers below 2**n_bits[i] (each 0..16) as equally likely; returns them, (n,) int64."""

    @abstractmethod
    def code_pass(
        self, tables: PassTables, contexts: Sequence[Contexts], ends: Ints, symbols: Sequence[Ints] | None, raw: Ints | None
    ) -> tuple[list[Symbols], Ints]:
        """Code all rows of a pass by the kernel (PassTables.arguments); returns (n,) symbols of each digit and raw bits."""

    @abstractmethod
    def code_forward(self, tables: PassTables, contexts: Sequence[Contexts], walk: KernelWalk, n: int, values: Ints | None) -> Ints:
        """Code n values of rows one after another by the kernel, (n,) in coding order; returns them. Contexts: what is known of all
        rows before."""

    @abstractmethod
    def code_gathered(self, n: int, n_symbols: int, orders: Sequence[Symbols] | None) -> tuple[int, Symbols]:
        """Code n symbols gathered by context: of those in the order of contexts of each depth, `orders`, None when reading, the ones
        that take the fewest bytes. Returns the depth and, when reading, these."""


class Encoder(Channel):
    """Collects the slots of every symbol; `finish` runs the coder backwards over them."""

    writes = True

    def __init__(self, quickly: bool = False, packing: float = 0.0, lane_share: float = LANE_SHARE) -> None:
        """quickly: what symbols take that are gathered is estimated, for `bits`; there is no stream then. packing: bits that a microsecond
        of packing these is worth; what it takes, about, is `packing_us`. lane_share: of the stream's bytes, for its lanes: numpy reads
        a symbol of each in one call"""
        self._slots: list[Slots] = []
        self._quickly = quickly
        self._bits, self._n_counted = 0.0, 0
        self._gathered: list[bytes] = []
        self._packing, self.packing_us = packing, 0.0
        self._lane_share = lane_share

    def code_running(self, sums: Sums, n_symbols: int, table: Ints, symbols: Ints | None) -> Ints:
        assert symbols is not None
        starts = sums[::n_symbols]
        before, scale = starts.take(table), ((SLOTS * UP) / np.diff(starts)).take(table)
        at = table * n_symbols + symbols
        low = ((sums.take(at) - before) * scale).astype(np.uint32)
        self._append(low, ((sums.take(at + 1) - before) * scale).astype(np.uint32) - low)
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
    ) -> tuple[list[Symbols], Ints]:
        assert symbols is not None and raw is not None
        narrow, raw = [np.ascontiguousarray(digit, np.uint16) for digit in symbols], np.ascontiguousarray(raw, np.int64)
        room = Room(int(ends[-1]) * tables.n_digits + tables.raw_slots(narrow[0]), len(ends) * (tables.n_digits + N_RAW_STEPS))
        c = kernel.library()
        assert c is not None
        n_steps = c.lp_write(
            *tables.arguments(contexts, ends), kernel.pointers(narrow), kernel.pointer(raw), *room.pointers,
        )  # fmt: skip
        self._slots.append(room.slots(n_steps))
        return narrow, raw

    def code_forward(self, tables: PassTables, contexts: Sequence[Contexts], walk: KernelWalk, n: int, values: Ints | None) -> Ints:
        assert values is not None
        values = np.ascontiguousarray(values, np.int64)
        # chunks of a row at least; pages of memory that are not written to are never there
        room = Room(n * (tables.n_digits + N_RAW_STEPS), n * (tables.n_digits + N_RAW_STEPS))
        c = kernel.library()
        assert c is not None
        tables.bind(contexts)
        n_steps = c.lp_write_forward(
            tables.digits, kernel.size(tables.n_digits), walk.pointer, tables.raw_bits, kernel.pointer(values), *room.pointers,
        )  # fmt: skip
        self._slots.append(room.slots(n_steps))
        return values

    def code_gathered(self, n: int, n_symbols: int, orders: Sequence[Symbols] | None) -> tuple[int, Symbols]:
        assert orders is not None
        found = (gathered.estimated if self._quickly else gathered.packed)(orders, n_symbols, self._packing)
        if self._quickly:
            self._bits += 8 * found.n_bytes
        else:
            self._gathered.append(found.record)
        self.packing_us += found.us
        return found.depth, np.empty(0, np.uint16)

    def absorb(self, other: Encoder) -> None:
        """Append what another encoder collected."""
        self._slots.extend(other._slots)
        self._gathered.extend(other._gathered)

    @property
    def bits(self) -> float:
        """The information content of what was collected, in bits."""
        for _, width, _ in self._slots[self._n_counted :]:
            self._bits += SLOT_BITS * len(width) - float(np.log2(width).sum())
        self._n_counted = len(self._slots)
        return self._bits + 8 * sum(map(len, self._gathered))

    def finish(self) -> bytes:
        """The stream, folded (FORMAT.md, "Entropy coding")."""
        most = lanes_for(self.bits / 8, self._lane_share)
        work = Work(self._slots, max(1, most // FOLD), most)
        (work.encode if kernel.library() is None else work.encode_by_kernel)()
        folds = np.array(work.folds[::-1], "<u4")
        flags = FOLDED | GATHERED if self._gathered else FOLDED
        head = np.array([flags | work.lanes], "<u2").tobytes() + np.array([len(work.words) - work.position], "<u4").tobytes()
        states, records = pack_states(work.state[: work.lanes]), b"".join(self._gathered)
        return head + bytes([len(folds)]) + folds.tobytes() + states + work.words[work.position :].astype("<u4").tobytes() + records


class Decoder(Channel):
    """Reads a stream of `Encoder.finish`. Raises CorruptArchive when the stream cannot be what an encoder wrote."""

    writes = False

    def __init__(self, stream: bytes) -> None:
        if len(stream) < 6:
            raise CorruptArchive(f"rANS stream has {len(stream)} bytes, fewer than its 6-byte head")
        first = int(np.frombuffer(stream, "<u2", 1)[0])
        n_words = int(np.frombuffer(stream, "<u4", 1, 2)[0])
        self.lanes, self._folds = first & (GATHERED - 1), np.empty(0, np.int64)
        start = 6 + 8 * self.lanes
        if first & GATHERED and not first & FOLDED:
            raise CorruptArchive("rANS stream has gathered symbols behind lanes that are not folded, which no encoder writes")
        if first & FOLDED:
            n_folds = stream[6] if len(stream) > 6 else 0
            start = 7 + 4 * n_folds
            if n_folds > MAX_FOLDS or self.lanes % (1 << n_folds) or len(stream) < start:
                raise CorruptArchive(f"rANS stream of {len(stream)} bytes folds {self.lanes} lanes {n_folds} times")
            self._folds = np.frombuffer(stream, "<u4", n_folds, 7).astype(np.int64)
        if not 1 <= self.lanes <= MAX_LANES or len(stream) < start:
            raise CorruptArchive(f"rANS stream of {len(stream)} bytes claims {self.lanes} lanes and {n_words} words")
        if first & FOLDED:
            self.state, taken = unpack_states(stream[start : start + 9 * self.lanes], self.lanes)
            start += taken
        else:
            self.state = np.frombuffer(stream, "<u8", self.lanes, 6).astype(np.uint64)
        stop = start + 4 * n_words
        if len(stream) < stop or (len(stream) > stop) != bool(first & GATHERED):
            raise CorruptArchive(f"rANS stream of {len(stream)} bytes claims {self.lanes} lanes and {n_words} words")
        self._records = Records(stream[stop:])
        # folded lanes bring words that are read next: there is room for all of them before those of the stream
        self.position = self.lanes
        self.words = np.concatenate([np.zeros(self.lanes, np.uint32), np.frombuffer(stream, "<u4", n_words, start)])
        self.step = self._fold = 0

    @property
    def next_fold(self) -> int:
        """The step before which lanes end next, -1 for none."""
        return int(self._folds[self._fold]) if self._fold < len(self._folds) else -1

    def fold(self) -> None:
        """Fold the lanes that end before this step."""
        while self.next_fold == self.step:
            self.lanes //= 2
            folded = self.state[self.lanes :]
            self.position -= self.lanes
            if self.position < 0 or (folded >> HALF != 1).any():
                raise _misfolded()
            self.words[self.position : self.position + self.lanes] = folded.astype(np.uint32)
            self.state = self.state[: self.lanes]
            self._fold += 1

    def _begin(self) -> None:
        """Begin a step."""
        if self._fold < len(self._folds):
            self.fold()
        self.step += 1

    def code_running(self, sums: Sums, n_symbols: int, table: Ints, symbols: Ints | None) -> Ints:
        if len(table):
            self._begin()
        if (likely := likely_symbols(sums, n_symbols, table, self.lanes)) is not None:
            return self.one_by_one(self.state, sums, table, likely)
        tables, found = tables_of(sums, n_symbols), np.empty(len(table), np.int64)
        for start in range(0, len(table), self.lanes):
            tile = slice(start, start + self.lanes)
            x = self.state[: len(table[tile])]
            found[tile], width, above = placed(tables, table[tile], (x & SLOT_MASK).view(np.int64))
            self._advance(x, width, above)
        found -= table * n_symbols
        return found

    def one_by_one(self, state: NDArray[np.uint64], sums: Sums, table: Ints, likely: Likely) -> Ints:
        """As code_running, for a step that has begun, symbol after symbol; state: (lanes,) that of this stream, changed in place."""
        found, self.position = read_one_by_one(state, self.words, self.position, sums, table, likely)
        return found

    def raw(self, n_bits: Ints, symbols: Ints | None) -> Ints:
        if len(n_bits):
            self._begin()
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
    ) -> tuple[list[Symbols], Ints]:
        found, rest = [np.empty(ends[-1], np.uint16) for _ in range(tables.n_digits)], np.empty(ends[-1], np.int64)
        c = kernel.library()
        assert c is not None
        at = np.array([self.position, self.lanes, self.step, self._fold], np.int64)
        outcome = c.lp_read(
            *tables.arguments(contexts, ends), kernel.pointer(self.state), kernel.pointer(self.words), kernel.size(len(self.words)),
            kernel.pointer(self._folds), kernel.size(len(self._folds)), kernel.pointer(at), kernel.pointers(found), kernel.pointer(rest),
        )  # fmt: skip
        self._moved(at, outcome)
        return found, rest

    def code_forward(self, tables: PassTables, contexts: Sequence[Contexts], walk: KernelWalk, n: int, values: Ints | None) -> Ints:
        values = np.empty(n, np.int64)
        c = kernel.library()
        assert c is not None
        tables.bind(contexts)
        at = np.array([self.position, self.lanes, self.step, self._fold], np.int64)
        outcome = c.lp_read_forward(
            tables.digits, kernel.size(tables.n_digits), walk.pointer, tables.raw_bits, kernel.pointer(self.state),
            kernel.pointer(self.words), kernel.size(len(self.words)), kernel.pointer(self._folds), kernel.size(len(self._folds)),
            kernel.pointer(at), kernel.pointer(values),
        )  # fmt: skip
        self._moved(at, outcome)
        return values

    def code_gathered(self, n: int, n_symbols: int, orders: Sequence[Symbols] | None) -> tuple[int, Symbols]:
        return self._records.next(n, n_symbols)

    def _moved(self, at: Ints, outcome: int) -> None:
        """Where the kernel left the stream. Raises CorruptArchive where it says so."""
        if outcome:
            raise ended() if outcome == kernel.ENDED else _misfolded()
        self.position, self.lanes, self.step, self._fold = at.tolist()
        self.state = self.state[: self.lanes]

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
                raise ended()
            x[hungry] = x.take(hungry) << HALF | fresh
            self.position = stop

    def finish(self) -> None:
        """Raise CorruptArchive unless every word was used and every lane is back at its start."""
        if self.position != len(self.words) or (self.state != LOWER).any() or self._fold != len(self._folds):
            raise CorruptArchive("rANS stream does not end where its encoder began")
        self._records.finish()


Tables = tuple[Sums, Sums, Ints, NDArray[np.float64], int]


def tables_of(sums: Sums, n_symbols: int) -> Tables:
    """What `placed` needs of tables: running sums (Channel.code_running), those each begins with, totals, slots of one of each total, and
    how many symbols they have."""
    starts = sums[::n_symbols]
    total = starts[1:] - starts[:-1]
    return sums, starts, total.astype(np.int64), (SLOTS * UP) / total, n_symbols


def placed(tables: Tables, table: Ints, slot: Ints) -> tuple[Ints, Ints, Ints]:
    """(n,) where slots fall to under their tables: the symbol, counted through all tables, how many slots it has, and the place in them."""
    sums, starts, total, scale, n_symbols = tables
    # the last symbol whose first slot, floor(2**24 sum / total), is not above this one
    target = slot + 1
    target *= total.take(table)
    target -= 1
    target >>= SLOT_BITS
    before = starts.take(table)
    target += before
    wanted: Sums = target.astype(np.int32) if sums.dtype == np.int32 else target
    is_long = len(table) > FEW_ROWS
    at: Ints = _last_within(sums, n_symbols, table * n_symbols, wanted) if is_long else sums.searchsorted(wanted, "right") - 1
    factor = scale.take(table)
    width = ((sums.take(at + 1) - before) * factor).astype(np.int64)
    low = ((sums.take(at) - before) * factor).astype(np.int64)
    width -= low
    return at, width, slot - low


def _last_within(sums: Sums, n_symbols: int, at: Ints, target: Sums) -> Ints:
    """(n,) of the sums from `at` on, those of a table each, the last one that is not above its target.

    As a search of all sums finds it, one row after another, which goes through the tables first.
    """
    step = 1 << (n_symbols - 1).bit_length() >> 1
    while step:
        at = at + step * (sums.take(at + step, mode="clip") <= target)
        step >>= 1
    return at


def _misfolded() -> CorruptArchive:
    return CorruptArchive("rANS stream folds lanes that hold more than a word each")
