"""Texts by context mixing: each bit is told by what followed seven contexts before, and by the longest text alike.

Every context has a row of adaptive probabilities in a hashed table; how far a probability of so many sights is to be trusted is learned,
two sets of weights mix them in the logistic domain, the mean of both is refined by the last byte, and a binary arithmetic coder takes
what comes of it (Mahoney, "Adaptive weighing of context models for lossless data compression", 2005). All of it in integers.

Texts are coded side by side in lanes, all of which learn from each other after every bit: a lane that has come to the end of a text goes
on with the next one that nobody has, so that what is near has been seen. contextmix.c does the same in one call, for one lane after
another within a bit; where it cannot be compiled this module does it, some fifteen times as slowly. FORMAT.md, "Context mixing".
"""

from __future__ import annotations

import ctypes
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.errors import CorruptArchive

Ints = NDArray[np.int64]
SOURCE = Path(__file__).with_name("contextmix.c")
MOST_BYTES, MOST_LANES, MOST_TIMES = 1 << 24, 256, 1 << 19  # numpy takes a millisecond a time
ORDERS, INPUTS, SETS = 7, 8, 768 + 2048
RATE, SLOWNESS, FINE_SLOWNESS, SHARED = 12, 7, 6, 8
MOST_WEIGHT, FIRST_WEIGHT = 1 << 23, 19_660
FULL, BROKEN = -1, -2
_FEWEST_BITS, _MOST_BITS = 10, 19  # of a table's size
_MASKS = [np.uint64((1 << 8 * k) - 1) for k in range(1, 6)]
_RECENT, _SPREAD = np.uint64((1 << 48) - 1), np.uint64(0x9E3779B97F4A7C15)
_A, _B, _C, _D, _E, _F = (np.uint32(k) for k in (0x9E3779B1, 0x2545F491, 0x85EBCA6B, 0x3D4D51CB, 0x85EBCA77, 0x2F0B4C47))
_RATES = np.array([2048, 1365, 910, 682, 546, 455, 390, 341, 303, 273, 248, 227, 210, 195, 182, 170], np.uint16)
_NUMBERS = ("n_bytes", "n_rows", "n_lanes", "bits", "between", "most_stream", "most_history")
_ARRAYS = (
    "data", "stream", "stream_lane", "stream_at", "stream_end", "history", "row_at", "cells", "matches", "refined", "weights", "reliable",
    "lengths", "stretch", "squash", "rates",
)  # fmt: skip
_SAMPLE = b"the gate closed\nthe gate opened late\n\nGates: 12, closed by 9\nthe gate closed\nagain closed\n"
_DIGEST = "caf952e2cef77274f084559b6c8e73320d967baf38115dabad7550e429605971"


@cache
def library() -> Any | None:
    """The loaded function, None when there is none to be had."""
    return kernel.load(SOURCE, ("lp_mix",), agrees)


def agrees(c: Any) -> bool:
    """Whether it makes of a sample what this module does, and takes it back. Raises nothing."""
    n = _SAMPLE.count(b"\n")
    streams = _mixed(c, _SAMPLE, 10, n, 3)
    if streams is None or hashlib.sha256(b"|".join(streams)).hexdigest() != _DIGEST:
        return False
    return _unmixed(c, streams, 10, n, len(_SAMPLE)) == _SAMPLE


def mix(data: bytes, between: int, n_rows: int, n_lanes: int) -> list[bytes] | None:
    """Texts, each with the byte `between` behind it that no text holds, as a stream for each lane; None where that is no use: they
    would take more than twice as much, texts of very different lengths leave most lanes idle, or one is too long.

    data : at most MOST_BYTES        n_lanes : 1 .. MOST_LANES
    """
    return _mixed(library(), data, between, n_rows, n_lanes)


def unmix(streams: list[bytes], between: int, n_rows: int, n_bytes: int) -> bytes:
    """The inverse of mix: n_rows texts that are n_bytes, with what is between them. Raises CorruptArchive."""
    if n_bytes > MOST_BYTES or not 1 <= len(streams) <= MOST_LANES or n_rows > n_bytes:
        raise CorruptArchive(f"{n_rows} mixed texts claim {n_bytes} bytes in {len(streams)} lanes")
    return _unmixed(library(), streams, between, n_rows, n_bytes)


def _mixed(c: Any | None, data: bytes, between: int, n_rows: int, n_lanes: int) -> list[bytes] | None:
    if len(data) > MOST_BYTES:
        return None
    work = _Work(len(data), n_rows, n_lanes, between)
    work.data[:] = np.frombuffer(data, np.uint8)
    work.stream, work.stream_lane = np.zeros(work.most_stream, np.uint8), np.zeros(work.most_stream, np.uint8)
    n = work.by_kernel(c, writes=True) if c is not None else _Mixer(work, writes=True).run()
    if n < 0:
        return None
    lane, found = work.stream_lane[:n], work.stream[:n]
    order = np.argsort(lane, kind="stable")
    ends = np.cumsum(np.bincount(lane, minlength=n_lanes))
    return [part.tobytes().rstrip(b"\0") for part in np.split(found[order], ends[:-1])]


def _unmixed(c: Any | None, streams: list[bytes], between: int, n_rows: int, n_bytes: int) -> bytes:
    work = _Work(n_bytes, n_rows, len(streams), between)
    lengths = np.array([len(stream) for stream in streams], np.int64)
    work.stream = np.frombuffer(b"".join(streams) + b"\0", np.uint8)
    work.stream_end = np.cumsum(lengths)
    work.stream_at = work.stream_end - lengths
    n = work.by_kernel(c, writes=False) if c is not None else _Mixer(work, writes=False).run()
    if n < 0:
        raise CorruptArchive(f"{n_rows} mixed texts are not {n_bytes} bytes")
    return work.data.tobytes()


@cache
def squash() -> NDArray[np.uint16]:
    """(4095,) 12-bit probabilities of -2047 .. 2047, about 256 times the logarithm of what is for a bit over what is against it."""
    against = [1 << 40]
    for _ in range(2047):
        against.append(against[-1] - (against[-1] >> 8))
    above = [min(4095, (1 << 52) // ((1 << 40) + a)) for a in against]
    return np.array([4096 - p for p in reversed(above[1:])] + above, np.uint16)


@cache
def stretch() -> NDArray[np.int16]:
    """(4096,) the inverse: the least number of which squash makes so much."""
    return np.minimum(np.searchsorted(squash(), np.arange(4096)) - 2047, 2047).astype(np.int16)


class _Struct(ctypes.Structure):
    """As in contextmix.c."""

    _fields_ = [*((name, ctypes.c_int64) for name in _NUMBERS), *((name, ctypes.c_void_p) for name in _ARRAYS)]


class _Work:
    """What one run of the model needs.

    data        : (n_bytes,) the texts                    history : of each time a byte of each lane; row_at: where in it each row begins
    stream      : writing, bytes in the order of time, of lanes `stream_lane`; reading, lane after lane from `stream_at` to `stream_end`
    cells       : (ORDERS, 2**bits, 16) a check, then probabilities (12 bits) and sights (4) of the nodes of half a byte
    matches     : (2**bits,) places in the history that follow six bytes
    reliable    : (ORDERS, 16, 128) 32-bit probabilities by sights and what they say; lengths: (64,) of matches
    weights     : (SETS, INPUTS) 16 bits behind the point        refined : (65536, 33) 16-bit probabilities
    """

    def __init__(self, n_bytes: int, n_rows: int, n_lanes: int, between: int) -> None:
        self.n_bytes, self.n_rows, self.n_lanes, self.between = n_bytes, n_rows, n_lanes, between
        self.bits = min(_MOST_BITS, max(_FEWEST_BITS, n_bytes.bit_length() - 2))
        self.most_stream, self.most_history = 2 * n_bytes + 64 * n_lanes, 4 * n_bytes + (1 << 16)
        nothing = np.zeros(1, np.int64)
        self.data, self.history = np.zeros(n_bytes, np.uint8), np.zeros(self.most_history, np.uint8)
        self.row_at = np.zeros(n_rows, np.int64)
        self.stream, self.stream_lane, self.stream_at, self.stream_end = nothing.view(np.uint8), nothing.view(np.uint8), nothing, nothing
        self.cells = np.zeros((ORDERS, 1 << self.bits, 16), np.uint16)
        self.matches = np.full(1 << self.bits, -1, np.int32)
        self.reliable = np.tile(((np.arange(2048) & 127) * 32 + 16).astype(np.uint32) << 20, ORDERS)
        self.lengths = ((4095 << 20) - (1 << 32) // (2 * np.arange(64) + 3)).astype(np.uint32)
        self.weights = np.full((SETS, INPUTS), FIRST_WEIGHT, np.int32)
        places = np.clip(128 * np.arange(33) - 1, 0, 4094)
        self.refined = np.tile(squash()[places] << 4, 1 << 16)
        self.stretch, self.squash, self.rates = stretch(), squash(), _RATES

    def by_kernel(self, c: Any, *, writes: bool) -> int:
        """The result of lp_mix: bytes written or read, or what went wrong."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        struct = _Struct(**numbers, **{name: kernel.address(getattr(self, name)) for name in _ARRAYS})
        return int(c.lp_mix(ctypes.byref(struct), kernel.size(writes)))


class _Mixer:
    """lp_mix in numpy: arrays are of the lanes that have a text, in the order of lanes, unless it says otherwise."""

    def __init__(self, work: _Work, *, writes: bool) -> None:
        self.w, self.writes, n = work, writes, work.n_lanes
        self.past, self.low = np.zeros(n, np.uint64), np.zeros(n, np.int64)
        self.word, self.before = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
        self.high, self.code, self.at = np.full(n, 0xFFFFFFFF), np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.match, self.length, self.row = np.full(n, -1), np.zeros(n, np.int64), np.full(n, -1)
        self.starts = np.zeros(0, np.int64)
        self.next_row = self.n_out = self.n_read = 0
        if writes:
            ends = np.flatnonzero(work.data == work.between) + 1
            self.starts = np.concatenate([np.zeros(1, np.int64), ends])
        for _ in range(0 if writes else 4):
            self.code = self.code << 8 | self._next_bytes(np.arange(n))

    def run(self) -> int:
        """As lp_mix."""
        w, lanes, t = self.w, np.arange(self.w.n_lanes), 0
        if self.writes and (len(self.starts) <= w.n_rows or self.starts[w.n_rows] != w.n_bytes):
            return BROKEN
        while True:
            lanes = self._with_texts(lanes, t)
            if not len(lanes):
                break
            if (t + 1) * w.n_lanes > w.most_history or t == MOST_TIMES:
                return FULL
            self.n_read += len(lanes)
            if self.n_read > w.n_bytes:
                return BROKEN
            bytes_of = self._byte(lanes)
            if bytes_of is None:
                return FULL
            self._remember(lanes, bytes_of, t)
            t += 1
        return self._flushed() if self.writes else self._taken()

    def _with_texts(self, lanes: Ints, t: int) -> Ints:
        """Give lanes without a text the next ones; those that have one then."""
        free = lanes[self.row[lanes] < 0]
        given = free[: self.w.n_rows - self.next_row]
        rows = self.next_row + np.arange(len(given))
        self.row[given], self.w.row_at[rows] = rows, t * self.w.n_lanes + given
        self.next_row += len(given)
        self.past[given], self.word[given], self.before[given], self.match[given], self.length[given] = 0, 0, 0, -1, 0
        if self.writes:
            self.at[given] = self.starts[rows]
        return lanes[self.row[lanes] >= 0]

    def _byte(self, lanes: Ints) -> Ints | None:
        """Code the next byte of each lane; None where the stream is full."""
        w, past, n = self.w, self.past[lanes], len(lanes)
        last, word, before = (past & _MASKS[0]).astype(np.int64), self.word[lanes], self.before[lanes]
        contexts = np.empty((n, ORDERS), np.uint32)
        for i, mask in enumerate(_MASKS):
            contexts[:, i] = (((past & mask) * _SPREAD) >> np.uint64(32)).astype(np.uint32) + np.uint32(i + 1)
        contexts[:, 5] = word * _B + last.astype(np.uint32) * _A + np.uint32(6)
        contexts[:, 6] = (word * _B + before * _C) * _A + np.uint32(7)
        node0, match, length = np.ones(n, np.int64), self.match[lanes], self.length[lanes]
        truth = w.data[self.at[lanes]].astype(np.int64) if self.writes else None
        tables = (np.arange(ORDERS) << w.bits)[None, :]
        cells = w.cells.reshape(-1)
        for b in range(8):
            if b in (0, 4):
                rows = 16 * self._rows(contexts + (node0.astype(np.uint32) * _D)[:, None] if b else contexts, tables)
            within = (1 << (b & 3)) - 1
            at = rows + ((node0 & within) | (within + 1))[:, None]
            cell = cells[at].astype(np.int64)
            sights, told = cell & 15, cell >> 4
            state = (np.arange(ORDERS) << 11)[None, :] | sights << 7 | told >> 5
            reliable = w.reliable[state].astype(np.int64)
            inputs = np.zeros((n, INPUTS), np.int64)
            inputs[:, :ORDERS] = np.where(sights > 0, w.stretch[reliable >> 20], 0)
            # what followed the longest text alike
            copied = w.history[np.maximum(match, 0)].astype(np.int64) | 256
            fits = (match >= 0) & (copied >> (8 - b) == node0)
            match, length = np.where(fits, match, -1), np.where(fits, length, 0)
            said = copied >> (7 - b) & 1
            level = np.where(length < 32, length, np.where(length < 288, 32 + (length - 32 >> 3), 63))
            longer = w.lengths[level].astype(np.int64)
            strength = w.stretch[longer >> 20].astype(np.int64)
            inputs[:, ORDERS] = np.where(fits, np.where(said == 1, strength, -strength), 0)
            # mixed by two sets of weights, refined by the last byte
            sets = np.stack([node0 + 256 * np.where(fits, np.where(length < 16, 1, 2), 0), 768 + last * 8 + b], axis=1)
            mixed = np.clip((w.weights[sets].astype(np.int64) * inputs[:, None, :]).sum(axis=2) >> 16, -2047, 2047)
            d = mixed.sum(axis=1) >> 1
            place = (d + 2048) * 32
            part, fine = place & 4095, (last << 8 | node0) * 33 + (place >> 12)
            refined = w.refined[fine].astype(np.int64) * (4096 - part) + w.refined[fine + 1].astype(np.int64) * part >> 16
            p = np.clip(w.squash[d + 2047].astype(np.int64) + refined + 1 >> 1, 1, 4095)
            bit = self._bit(lanes, p, None if truth is None else truth >> (7 - b) & 1)
            if bit is None:
                return None
            self._weigh(sets, inputs, (bit[:, None] << 12) - w.squash[mixed + 2047].astype(np.int64))
            one = bit[:, None] == 1
            w.reliable[state] = _learned(reliable, one, (1 << 32) - 1, SLOWNESS)
            told += (np.where(one, 4095, 0) - told) * w.rates[sights].astype(np.int64) + 2048 >> 12
            cells[at] = np.clip(told, 1, 4094) << 4 | np.minimum(sights + 1, 15)
            w.lengths[level[fits]] = _learned(longer, said == bit, (1 << 32) - 1, SLOWNESS)[fits]
            fine += part >= 2048
            w.refined[fine] = _learned(w.refined[fine].astype(np.int64), bit == 1, (1 << 16) - 1, FINE_SLOWNESS)
            node0 = node0 << 1 | bit
        self.match[lanes], self.length[lanes] = match, length
        return node0 & 255

    def _rows(self, keys: NDArray[np.uint32], tables: Ints) -> Ints:
        """(n, ORDERS) rows of half a byte, made anew where another context had them."""
        keys = keys * _A
        keys ^= keys >> np.uint32(15)
        keys *= _E
        rows = tables + (keys >> np.uint32(32 - self.w.bits)).astype(np.int64)
        check, cells = (keys | np.uint32(1)).astype(np.uint16), self.w.cells.reshape(-1, 16)
        stale = cells[rows, 0] != check
        cells[rows[stale], 0] = check[stale]
        cells[rows[stale], 1:] = 2048 << 4
        return rows

    def _weigh(self, sets: Ints, inputs: Ints, error: Ints) -> None:
        """Weights that several lanes have learn what these would teach them, of SHARED of them at most."""
        change = inputs[:, None, :] * (error * RATE)[:, :, None] + (1 << 13) >> 14
        found, which, count = np.unique(sets, return_inverse=True, return_counts=True)
        total = np.zeros((len(found), INPUTS), np.int64)
        np.add.at(total, which.reshape(-1), change.reshape(-1, INPUTS))
        count = count[:, None]
        total = np.where(count > SHARED, total * SHARED // count, total)
        self.w.weights[found] = np.clip(self.w.weights[found] + total, -MOST_WEIGHT, MOST_WEIGHT)

    def _bit(self, lanes: Ints, p: Ints, bit: Ints | None) -> Ints | None:
        """Code a bit of each lane whose probability to be set is p / 4096; None where the stream is full."""
        w, low, high = self.w, self.low[lanes], self.high[lanes]
        middle = low + ((high - low) * p >> 12)
        bit = (self.code[lanes] <= middle).astype(np.int64) if bit is None else bit
        self.low[lanes], self.high[lanes] = np.where(bit == 1, low, middle + 1), np.where(bit == 1, middle, high)
        while len(lanes):
            lanes = lanes[(self.low[lanes] ^ self.high[lanes]) >> 24 == 0]
            if self.writes:
                if self.n_out + len(lanes) > w.most_stream:
                    return None
                self._put(lanes, self.high[lanes] >> 24)
            else:
                self.code[lanes] = (self.code[lanes] << 8 | self._next_bytes(lanes)) & 0xFFFFFFFF
            self.low[lanes] = self.low[lanes] << 8 & 0xFFFFFFFF
            self.high[lanes] = self.high[lanes] << 8 & 0xFFFFFFFF | 255
        return bit

    def _put(self, lanes: Ints, found: Ints) -> None:
        out = slice(self.n_out, self.n_out + len(lanes))
        self.w.stream[out], self.w.stream_lane[out] = found, lanes
        self.n_out = out.stop

    def _next_bytes(self, lanes: Ints) -> Ints:
        at = self.w.stream_at[lanes]
        more = at < self.w.stream_end[lanes]
        self.w.stream_at[lanes] += more
        return np.where(more, self.w.stream[np.minimum(at, len(self.w.stream) - 1)], 0).astype(np.int64)

    def _remember(self, lanes: Ints, found: Ints, t: int) -> None:
        """What every lane knows of the byte it has now."""
        w = self.w
        w.history[t * w.n_lanes + lanes] = found
        self.at[lanes] += 1
        self.row[lanes[found == w.between]] = -1
        lanes, found = lanes[found != w.between], found[found != w.between]
        self.past[lanes] = self.past[lanes] << np.uint64(8) | found.astype(np.uint64)
        upper = (found >= 65) & (found <= 90)
        spells = upper | ((found >= 97) & (found <= 122)) | ((found >= 48) & (found <= 57)) | (found >= 128)
        word = self.word[lanes]
        ended = ~spells & (word != 0)
        self.before[lanes[ended]] = word[ended]
        self.word[lanes] = np.where(spells, (word + (found + 32 * upper + 1).astype(np.uint32)) * _F, np.uint32(0))
        follows = self.match[lanes] >= 0
        self.match[lanes] += np.where(follows, w.n_lanes, 0)
        self.length[lanes] += follows
        place = ((self.past[lanes] & _RECENT) * _SPREAD >> np.uint64(64 - w.bits)).astype(np.int64)
        known = w.matches[place].astype(np.int64)
        starts = ~follows & (known >= 0)
        self.match[lanes[starts]], self.length[lanes[starts]] = known[starts], 1
        w.matches[place] = (t + 1) * w.n_lanes + lanes

    def _flushed(self) -> int:
        """What each lane needs to be told from others."""
        for lane, (low, high) in enumerate(zip(self.low.tolist(), self.high.tolist(), strict=True)):
            k, end = 0, 0
            while not low <= end <= high:
                k += 1
                end = -(-low >> 32 - 8 * k) << 32 - 8 * k
            if self.n_out + k > self.w.most_stream:
                return FULL
            self._put(np.full(k, lane), np.array([end >> 24 - 8 * i & 255 for i in range(k)], np.int64))
        return self.n_out

    def _taken(self) -> int:
        """The texts out of the history."""
        w = self.w
        if self.n_read != w.n_bytes:
            return BROKEN
        found = []
        for start in w.row_at.tolist():
            lane = w.history[start :: w.n_lanes]
            found.append(lane[: int((lane == w.between).argmax()) + 1])
        w.data[:] = np.concatenate(found) if found else 0
        return w.n_bytes


def _learned(p: Ints, towards: NDArray[np.bool_], one: int, slowness: int) -> Ints:
    """Probabilities, a part of the way towards `one` or 0."""
    found: Ints = np.where(towards, p + (one - p >> slowness), p - (p >> slowness))
    return found
