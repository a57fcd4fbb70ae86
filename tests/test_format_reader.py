"""A second reader of the exact layer, lattices, texts and nested values, in plain Python, written from storage/FORMAT.md alone: same data.

Slow and short on purpose. It imports nothing of the codec, so that what the page leaves out cannot be borrowed from the code.
"""

from __future__ import annotations

import base64
import bisect
import bz2
import datetime
import decimal
import itertools
import json
import lzma
import math
import re
import struct
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pcodec import standalone

GOLDEN = Path(__file__).parent / "golden"
PHRASES = Path(__file__).parent.parent / "vae_core" / "phrases.zdict"
FIXED = {"state": 7, "step": 21, "spread": 65, "level": 7, "fraction": 8, "noise": 48, "match": 40, "rough": 48, "apart": 48, "around": 48}
NEAR = {"left", "right", "between", "spread", "level"}


def wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def narrow(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def clipped(value: int, most: int) -> int:
    return max(-most, min(most, value))


def bits(difference: int) -> int:
    """Bits of |d|: 0 for |-2^63|."""
    return 0 if difference == -(2**63) else abs(difference).bit_length()


class Stream:
    """Entropy coding."""

    def __init__(self, data: bytes) -> None:
        lanes, n_words = struct.unpack_from("<HI", data)
        self.folds: list[int] = []
        self.step = 0
        self.records, gathers = b"", lanes >= 2**15 and bool(lanes & 2**14)
        if lanes < 2**15:
            self.states = list(struct.unpack_from(f"<{lanes}Q", data, 6))
            start = 6 + 8 * lanes
        else:
            lanes %= 2**14
            start = 7 + 4 * data[6]
            self.folds = list(struct.unpack_from(f"<{data[6]}I", data, 7))
            low = struct.unpack_from(f"<{lanes}I", data, start)
            codes, start = data[start + 4 * lanes :], start + 4 * lanes + -(-lanes // 4)
            self.states = []
            for i in range(lanes):
                n_bytes = 1 + (codes[i // 4] >> 2 * (i % 4)) % 4
                self.states.append(low[i] + (int.from_bytes(data[start : start + n_bytes], "little") << 32))
                start += n_bytes
        self.words = list(struct.unpack_from(f"<{n_words}I", data, start))
        self.records = data[start + 4 * n_words :]
        assert (len(self.records) > 0) == gathers

    def record(self, n: int, n_symbols: int) -> tuple[int, list[int]]:
        """Gathered symbols."""
        if self.records[0] == 255:
            symbol, self.records = int.from_bytes(self.records[1:3], "little"), self.records[3:]
            assert symbol < n_symbols
            return 0, [symbol] * n
        depth, n_bytes = struct.unpack_from("<BI", self.records)
        if depth >= 128:
            return depth - 128, self.brotli(n_bytes, n, n_symbols)
        packed, self.records = self.records[5 : 5 + n_bytes], self.records[5 + n_bytes :]
        assert zstandard.frame_content_size(packed) == (n if n_symbols <= 256 else 2 * n)
        found = zstandard.ZstdDecompressor().decompress(packed)
        symbols = list(found) if n_symbols <= 256 else [low + 256 * high for low, high in zip(found[:n], found[n:], strict=True)]
        assert all(symbol < n_symbols for symbol in symbols)
        return depth, symbols

    def brotli(self, n_bytes: int, n: int, n_symbols: int) -> list[int]:
        """What brotli or pcodec packed: a byte each or two, as many of `base` in a byte as it has room for, or runs of the commonest."""
        base, packed, self.records = self.records[5], self.records[6 : 6 + n_bytes], self.records[6 + n_bytes :]
        if base == 254:
            symbols = standalone.simple_decompress(packed)
            assert len(symbols) == n and symbols.dtype == ("u1" if n_symbols <= 256 else "u2") and symbols.max() < n_symbols
            return [int(symbol) for symbol in symbols]
        found = pa.CompressedInputStream(pa.BufferReader(packed), "brotli").read()
        if base == 255:
            common, n_others = struct.unpack_from("<BI", found)
            others, symbols = list(found[5 : 5 + n_others]), []
            for run in found[5 + n_others :]:
                symbols += [common] * run
                if run < 255:
                    symbols.append(others.pop(0) if others else -1)
            assert symbols.pop() == -1 and len(symbols) == n and not others and -1 not in symbols
            return symbols
        if base:
            assert 2 <= base <= 16
            sharing = max(k for k in range(1, 9) if base**k <= 256)
            assert len(found) == (n + sharing - 1) // sharing
            symbols = [byte // base**k % base for byte in found for k in range(sharing)][:n]
        else:
            assert len(found) == (n if n_symbols <= 256 else 2 * n)
            symbols = list(found) if n_symbols <= 256 else [low + 256 * high for low, high in zip(found[:n], found[n:], strict=True)]
        assert all(symbol < n_symbols for symbol in symbols)
        return symbols

    def _begin(self, n_symbols: int) -> None:
        while n_symbols and self.folds and self.folds[0] == self.step:
            self.folds.pop(0)
            half = len(self.states) // 2
            assert all(2**32 <= x < 2**33 for x in self.states[half:])
            self.words = [x - 2**32 for x in self.states[half:]] + self.words
            self.states = self.states[:half]
        self.step += n_symbols > 0

    def _move(self, i: int, low: int, high: int) -> None:
        lane = i % len(self.states)
        x = self.states[lane]
        x = (high - low) * (x >> 24) + x % 2**24 - low
        self.states[lane] = x if x >= 2**32 else (x << 32) + self.words.pop(0)

    def symbols(self, tables: list[list[int]]) -> list[int]:
        self._begin(len(tables))
        found = []
        for i, counts in enumerate(tables):
            slot = self.states[i % len(self.states)] % 2**24
            total = counts[-1]
            s = next(s for s in range(len(counts) - 1) if counts[s + 1] * 2**24 // total > slot)
            self._move(i, counts[s] * 2**24 // total, counts[s + 1] * 2**24 // total)
            found.append(s)
        return found

    def raw(self, widths: list[int]) -> list[int]:
        self._begin(len(widths))
        found = []
        for i, b in enumerate(widths):
            s = (self.states[i % len(self.states)] % 2**24) >> (24 - b)
            self._move(i, s << (24 - b), (s + 1) << (24 - b))
            found.append(s)
        return found

    def raw_bits(self, widths: list[int]) -> list[int]:
        found = [0] * len(widths)
        for shift in (0, 16, 32, 48):
            some = [p for p, b in enumerate(widths) if b > shift]
            for p, piece in zip(some, self.raw([min(16, widths[p] - shift) for p in some]), strict=True):
                found[p] |= piece << shift
        return found

    def ended(self) -> bool:
        return not self.words and not self.folds and set(self.states) == {2**32} and not self.records


class Digit:
    """Frequencies."""

    def __init__(self, n_symbols: int, weights: list[int]) -> None:
        self.n_symbols, self.weights = n_symbols, weights
        self.seen: dict[tuple[int, ...], list[int]] = defaultdict(lambda: [0] * n_symbols)

    def table(self, levels: tuple[int, ...]) -> list[int]:
        chance = [2**20 // self.n_symbols] * self.n_symbols
        for k, a in enumerate(self.weights):
            n = self.seen[levels[:k]]
            total = 16 * sum(n) + a
            chance = [(2**24 * c + a * p) // total for c, p in zip(n, chance, strict=True)]
        cumulative = [0]
        for p in chance:
            cumulative.append(cumulative[-1] + p + 1)
        return cumulative

    def learn(self, levels: tuple[int, ...], symbol: int) -> None:
        for k in range(len(self.weights)):
            self.seen[levels[:k]][symbol] += 1


def sizes_of(scheme: list[Any]) -> list[int]:
    if scheme[0] == "direct":
        _, _, span, shift = scheme
        return [((span - 1) >> shift) + 2, *([1 << shift] if shift else [])]
    b = scheme[1]
    return [2 * (4 + 2 * max(0, b - 2)), *([1 << min(5, b - 2)] if b > 2 else [])]


def raw_bits(scheme: list[Any], first: int) -> int:
    if first == sizes_of(scheme)[0] - 1:
        return 64
    return max(0, extra(first) - 5) if scheme[0] == "residual" else 0


def extra(first: int) -> int:
    """Bits of m that follow the two its class tells."""
    k = (first + 1) // 2
    return 0 if k < 4 else (k - 4) // 2 + 1


def integer(scheme: list[Any], digits: list[int], raw: int, guess: int) -> int:
    if digits[0] == sizes_of(scheme)[0] - 1:
        return wrap(raw)
    if scheme[0] == "direct":
        return scheme[1] + (digits[0] << scheme[3]) + (digits[1] if scheme[3] else 0)
    k, e = (digits[0] + 1) // 2, extra(digits[0])
    m = k if k < 4 else (2 + k % 2) << e
    low = max(0, e - 5)
    m += ((digits[1] << low) if len(digits) > 1 else 0) + raw
    return wrap(guess - m if digits[0] % 2 else guess + m)


class Lanes:
    """Rows of a forward plan."""

    def __init__(
        self, block: Block, prediction: list[Any], active: list[bool], above: bool, least: int, keys: list[int], matches: list[Any],
        leader: int | None,
    ) -> None:
        values = block.values
        self.values, self.matches, self.leader, self.active, self.dense = values, matches, leader, active, block.dense
        self.rows = sorted((i for i, a in enumerate(active) if a or block.piece), key=lambda i: tuple(values[j][i] for j in keys))
        n = len(self.rows)
        self.length = max(least, -(-n * least // 2**18))
        if block.piece:
            lags = [lag for mix in prediction[4:] for _, terms in mix[1] for lag, _ in terms]
            reach = max([0, *lags, *(int(kind[3:]) for kind, column, _ in prediction[0] if column < 0)])
            self.length = max(self.length, min(16 * reach, n // 16))
            if block.piece <= self.length:
                self.length = -(-self.length // block.piece) * block.piece
        if block.dense:
            self.length = block.piece
        self.above = block.above if above else []
        if above:
            self.length = max(self.length, min(64 * sorted(self.above)[len(self.above) // 2] if self.above else 0, -(-n // 4)))
        self.offs: dict[int, int] = {}
        self.place = {row: place for place, row in enumerate(self.rows)}
        self.steps = [self.rows[t :: self.length] for t in range(min(n, self.length))]
        self.noise: dict[int, int] = {}
        self.mix = prediction[4] if len(prediction) > 4 else None
        self.blends: dict[int, Any] = {}  # of a row U, R_j, d_k and d, and what its features are made of
        self.told: dict[int, tuple[list[int], list[int]]] = {}  # of a row P_j and e_k
        self.cell_bits = min(20, max(8, bits(2 * n - 1))) if n else 8
        self.memories: list[dict[int, tuple[int, int]]] = [{} for _ in matches]

    def key(self, match: list[Any], i: int, own: list[int]) -> int | None:
        others, lags = match
        if self.step(i) < max(lags, default=0):
            return None
        h = 0
        for v in [*(self.values[j][i] for j in others), *(self.own_before(i, lag, own) for lag in lags)]:
            h = (h ^ v % 2**64) * 0x9E3779B97F4A7C15 % 2**64
            h ^= h >> 29
        return h * 0x9E3779B97F4A7C15 % 2**64 | 1

    def recalled(self, number: int, i: int, own: list[int]) -> int | None:
        key = self.key(self.matches[number], i, own)
        held, value = (0, 0) if key is None else self.memories[number].get(key >> 64 - self.cell_bits, (0, 0))
        return value if held == key else None

    def level_of_match(self, number: int, i: int, own: list[int], guess: int) -> int:
        value = self.recalled(number, i, own)
        if value is None:
            return 0
        d = max(-128, min(128, wrap(value - guess)))
        return d + 16 if abs(d) <= 15 else 27 + bits(d) + (4 if d < 0 else 0)

    def step(self, i: int) -> int:
        return self.place[i] % self.length

    def own_before(self, i: int, lag: int, own: list[int]) -> int:
        """The column itself `lag` steps before row i, in its lane."""
        for back in range(min(lag, self.step(i)), self.step(i) + 1):
            row = self.rows[self.place[i] - back]
            if self.active[row]:
                return own[row]
        return 0

    def beside(self, i: int, k: int) -> int:
        """The row k beside the row above row i."""
        place, target = self.place[i], i - self.above[i]
        back = place - (bisect.bisect_right(self.rows, target) - 1) - k
        return self.rows[place - (back if target >= 0 and 0 < back <= self.step(i) else min(self.step(i), 1))]

    def level_off(self, i: int) -> int:
        if self.step(i) < 2:
            return 47
        noise = self.noise.get(self.place[i] // self.length, 0)
        return self.level_of_mean((noise + sum(self.offs[self.beside(i, k)] for k in (-1, 0, 1))) >> 2)

    def apart(self, i: int, one: int, other: int, own: list[int]) -> int:
        return min(2**40, abs(wrap(self.own_before(i, one, own) - self.own_before(i, other, own))))

    def total(self, prediction: list[Any], i: int, own: list[int]) -> int:
        led = None if self.leader is None else self.recalled(self.leader, i, own)
        if led is not None:
            return led << 16
        terms, bias, first_terms, first_bias, *_ = prediction
        if self.step(i) == 0:
            terms, bias = first_terms, first_bias
        found = bias + 2**15
        for kind, column, weight in terms:
            if kind.startswith("above"):
                found += weight * (own if column < 0 else self.values[column])[self.beside(i, int(kind[5:] or 0))]
                continue
            if ">" in kind:
                found += of_two(kind, weight, column, self.values, i)
                continue
            lag = 0 if kind == "at" else int(kind[3:]) if kind.startswith("lag") else -int(kind[4:])
            if column < 0:
                found += weight * self.own_before(i, lag, own)
            else:
                found += weight * self.values[column][self.rows[max(0, min(len(self.rows) - 1, self.place[i] - lag))]]
        if self.dense:
            s, biases, weights = self.dense
            p = self.step(i)
            found += biases[p] + 2 ** (16 - s) * sum(weights[p][q] * self.own_before(i, p - q, own) for q in range(p))
        return wrap(found) if self.mix is None else self.blended(self.mix, i, wrap(found))

    def told_before(self, i: int, lag: int) -> tuple[list[int], list[int]] | None:
        """What is told of the row `lag` steps before row i, in its lane."""
        for back in range(min(lag, self.step(i)), self.step(i) + 1):
            row = self.rows[self.place[i] - back]
            if self.active[row]:
                return self.told[row]
        return None

    def blended(self, mix: list[Any], i: int, total: int) -> int:
        references, others, around, unit, power = mix
        u = narrow(wrap(total - 2**15) >> unit)
        said = [0, *(narrow(wrap(sum(w * self.values[j][i] for j, w in pairs)) >> unit) for pairs in references)]
        if self.step(i) == 0:
            self.blends[i] = u, said, None, None
            return total
        d = [0]
        for j, terms in others:
            before = [(quarters, self.told_before(i, lag)) for lag, quarters in terms]
            found = 4 * narrow(said[j] - u) + sum(quarters * told[0][j] for quarters, told in before if told is not None)
            d.append(clipped(narrow(found) >> 2, 2**17))
        off = [0] * (len(d) + 1)
        for lag in around:
            told = self.told_before(i, lag)
            off = off if told is None else [a + b for a, b in zip(off, told[1], strict=True)]
        sizes = []
        for e in off[:-1]:
            b = (e + 4).bit_length() - 1
            sizes.append(8 * b + (8 * (e + 4) >> b))
        places = [min(127, power * (size - min(sizes))) for size in sizes]
        weights = [(256 - 16 * (p % 8)) >> p // 8 for p in places]
        mean = (sum(w * x for w, x in zip(weights, d, strict=True)) * (2**24 // sum(weights)) + 2**23) >> 24
        self.blends[i] = u, said, [*d, mean], {"apart": (max(d) - min(d)) << unit - 8, "around": off[-1] << unit - 10}
        return wrap(total + (mean << unit))

    def level_of_noise(self, i: int) -> int:
        return 47 if self.step(i) < 2 else self.level_of_mean(self.noise.get(self.place[i] // self.length, 0))

    @staticmethod
    def level_of_mean(m: int) -> int:
        b = max(2, m.bit_length())
        return max(0, min(46, 2 * (b - 4) + (m >> (b - 2)) % 2))

    def learn(self, rows: list[int], totals: dict[int, int], own: list[int]) -> None:
        for i in rows:
            lane, off = self.place[i] // self.length, wrap(own[i] - (totals[i] >> 16))
            s = self.offs[i] = 256 * min(2**40, abs(off))
            if self.step(i) == 1:
                self.noise[lane] = s
            else:  # after step 0, too, for lanes without a row in step 1
                self.noise[lane] = self.noise.get(lane, 0) + ((s - self.noise.get(lane, 0)) >> 3)
        for i in rows if self.mix is not None else []:
            u, said, d, _ = self.blends[i]
            x = narrow(wrap(own[i] << 16) >> self.mix[3])
            errors = [0] * (len(self.mix[1]) + 2) if d is None else [min(65535, abs(clipped(narrow(x - u), 2**18) - one)) for one in d]
            self.told[i] = [narrow(x - r) for r in said], errors
        for match, memory in zip(self.matches, self.memories, strict=True):
            for i in rows:
                key = self.key(match, i, own)
                if key is not None:
                    memory[key >> 64 - self.cell_bits] = key, own[i]


class Block:
    """The columns of a block as far as they are known: values (minutes, counts) and states; or the planes of tensors."""

    def __init__(self, n_rows: int, piece: int = 0, dense: Any = None, above: Sequence[int] = ()) -> None:
        self.n_rows, self.piece, self.dense, self.above = n_rows, piece, dense, list(above)
        self.values: dict[int, list[int]] = {}
        self.states: dict[int, list[int]] = {}
        self.counted: dict[int, bytes] = {}

    def level(
        self, feature: list[Any], i: int, near: tuple[int, int] | None, own: list[int], step: int, total: int | None, lanes: Lanes | None
    ) -> int:
        kind, column, lo, size, edges = feature

        def bins(value: int) -> int:
            return sum(e <= value for e in edges)

        if column >= 0:
            x = self.values[column]
            match kind:
                case "value":
                    return x[i] - lo if 0 <= x[i] - lo < size - 1 else size - 1
                case "bins":
                    return bins(x[i])
                case "state":
                    return self.states[column][i]
                case "before":
                    return bins(x[max(i - 1, 0)])
                case "phase":
                    return wrap(x[i] + edges[0]) % lo * size // lo
                case "among":
                    return min(size - 1, sum(self.values[j][i] != lo for j in (column, *edges)))
            d = wrap(x[i] - x[max(i - 1, 0)])
            return min(10, bits(d)) + (10 if d < 0 else 0)
        if kind == "place":
            return i % lo * size // lo
        if kind == "class":
            return edges[i % lo]
        if kind == "level":
            return 0 if step == 0 else 1 + (32, 16, 8, 4, 2, 1).index(step)
        if kind in ("guess", "fraction"):
            return 0 if total is None else bins(total >> 16) if kind == "guess" else (total >> 13) % 8
        if kind == "noise":
            return 0 if lanes is None else lanes.level_of_noise(i)
        if kind == "match":
            return 0 if lanes is None or total is None else lanes.level_of_match(lo, i, own, total >> 16)
        if kind in ("apart", "around"):
            assert lanes is not None
            found = lanes.blends[i][3]
            return 47 if found is None else lanes.level_of_mean(found[kind])
        if kind == "off":
            assert lanes is not None
            return lanes.level_off(i)
        if kind == "above":
            assert lanes is not None
            return bins(own[lanes.beside(i, lo)]) if lanes.step(i) else len(edges) + 1
        if kind in ("back", "rough") and (lanes is None or not lanes.step(i)):
            return 47 if kind == "rough" else len(edges) + 1
        if lanes is not None and kind == "rough":
            far = [(1, lo + 1), (lo, lo + 1), (lo, max(1, lo - 1))]
            return lanes.level_of_mean(64 * sum(lanes.apart(i, one, other, own) for one, other in far))
        if lanes is not None:
            assert kind in ("left", "back")
            return bins(lanes.own_before(i, lo or 1, own)) if lanes.step(i) else len(edges) + 1
        if near is None:
            return (FIXED.get(kind) or len(edges) + 2) - 1
        left, right = own[near[0]], own[near[1]]
        if kind == "spread":
            return min(63, bits(wrap(right - left)))
        return bins({"left": left, "right": right, "between": (left + right) >> 1}[kind])

    def total(
        self, prediction: list[Any], by_level: bool, i: int, near: tuple[int, int] | None, own: list[int], lanes: Lanes | None
    ) -> int:
        if lanes is not None:
            return lanes.total(prediction, i, own)
        terms, bias, anchor_terms, anchor_bias = prediction
        if near is None and any(kind in ("mean", "bend") for kind, _, _ in terms):
            terms, bias = anchor_terms, anchor_bias
        found = bias + 2**15
        for kind, column, weight in terms:
            if kind == "mean":
                assert near is not None
                found += weight * ((own[near[0]] + own[near[1]]) >> 1)
            elif ">" in kind:
                found += of_two(kind, weight, column, self.values, i)
            else:
                x = self.values[column]
                bend = 0
                if kind == "bend":
                    assert near is not None
                    bend = (x[near[0]] + x[near[1]]) >> 1
                found += weight * wrap(x[i] - bend)
        return wrap(found)

    def passes(self, by_level: bool) -> list[tuple[int, Any]]:
        if not by_level:
            return [(0, range(self.n_rows))]
        return [(32, range(0, self.n_rows, 32)), *((s, range(s, self.n_rows, 2 * s)) for s in (16, 8, 4, 2, 1))]

    def near(self, i: int, step: int) -> tuple[int, int] | None:
        return (i - step, i + step if i + step < self.n_rows else i - step) if 0 < step < 32 else None

    def gathered(self, stream: Stream, plan: list[Any], own: list[int], active: list[bool], by_level: bool) -> None:
        scheme, prediction, digit_plans, *_ = plan
        assert all(weights == [] for _, weights in digit_plans) and len(plan) == 4
        records = [stream.record(sum(active), n_symbols) for n_symbols in sizes_of(scheme)]
        assert all(depth <= len(features) for (depth, _), (features, _) in zip(records, digit_plans, strict=True))
        done = 0
        for step, all_rows in self.passes(by_level):
            rows = [i for i in all_rows if active[i]]
            totals = {i: None if prediction is None else self.total(prediction, by_level, i, self.near(i, step), own, None) for i in rows}
            digits: list[dict[int, int]] = []
            for (depth, symbols), (features, _) in zip(records, digit_plans, strict=True):
                levels = {
                    i: [digits[0][i] if f[0] == "digit" else self.level(f, i, self.near(i, step), own, step, totals[i], None)
                        for f in features[:depth]]
                    for i in rows
                }  # fmt: skip
                digits.append(dict(zip(sorted(rows, key=lambda i: levels[i]), symbols[done : done + len(rows)], strict=True)))
            raw = stream.raw_bits([raw_bits(scheme, digits[0][i]) for i in rows])
            for i, bits in zip(rows, raw, strict=True):
                own[i] = integer(scheme, [digit[i] for digit in digits], bits, 0 if totals[i] is None else totals[i] >> 16)
            done += len(rows)

    def read(self, stream: Stream, plan: list[Any], own: list[int], active: list[bool]) -> None:
        scheme, prediction, digit_plans, longest, *keys = plan
        n_symbols = sizes_of(scheme)
        features = [found for found, _ in digit_plans]
        above = any(f[0] in ("above", "off") for found in features for f in found)
        above |= prediction is not None and any(kind.startswith("above") for kind, _, _ in prediction[0])
        longest, part, *least = longest if isinstance(longest, list) else (longest, 2)
        beside = [*keys[1:], *[[], None][len(keys) - 1 :]]
        lanes = Lanes(self, prediction, active, above, *(least or [512]), keys[0], *beside) if keys else None
        by_level = any(f[0] in NEAR for found in features for f in found)
        by_level |= prediction is not None and any(kind != "at" for kind, _, _ in prediction[0])
        by_level &= lanes is None
        if longest is None:
            self.gathered(stream, plan, own, active, by_level)
            return
        digits = [Digit(n, weights) for n, (_, weights) in zip(n_symbols, digit_plans, strict=True)]
        done = 0
        passes = self.passes(by_level)
        if lanes is not None:
            passes = [(0, rows) for rows in lanes.steps]
        for step, all_rows in passes:
            rows = [i for i in all_rows if active[i]]
            start, before, known = 0, done if lanes is not None or part > 2 else 0, dict[int, Any]()
            done += len(rows)
            while start < len(rows):
                chunk = rows[start : start + min(longest, max(8 if part > 2 else 64, (before + start) // part))]
                start += len(chunk)
                near = {i: self.near(i, step) for i in chunk}
                totals = {i: None if prediction is None else self.total(prediction, by_level, i, near[i], own, lanes) for i in chunk}
                known |= totals
                got: list[list[int]] = []
                learned = []
                for k, digit in enumerate(digits):
                    contexts = []
                    for place, i in enumerate(chunk):
                        around = near[i], own, step, totals[i], lanes
                        contexts.append(tuple(got[0][place] if f[0] == "digit" else self.level(f, i, *around) for f in features[k]))
                    tables = {c: digit.table(c) for c in set(contexts)}
                    got.append(stream.symbols([tables[c] for c in contexts]))
                    learned.append(contexts)
                raw = stream.raw_bits([raw_bits(scheme, first) for first in got[0]])
                for place, i in enumerate(chunk):
                    own[i] = integer(scheme, [g[place] for g in got], raw[place], 0 if totals[i] is None else totals[i] >> 16)
                for digit, contexts, symbols in zip(digits, learned, got, strict=True):
                    for context, symbol in zip(contexts, symbols, strict=True):
                        digit.learn(context, symbol)
            if lanes is not None:
                lanes.learn(rows, known, own)

    def column(self, stream: Stream, code: list[Any]) -> None:
        column, fill, form, state_plan, value_plan, *recall = code
        states = [0] * self.n_rows
        if stream.raw([1])[0]:
            self.read(stream, state_plan, states, [True] * self.n_rows)
        active = [s == 0 for s in states]
        if form > 1:
            low, high = (stream.raw([16])[0] for _ in range(2))
            n_bytes = low + 2**16 * high
            assert n_bytes <= 4096 + 16 * sum(active)
            parts = [stream.raw([16] * (-(-n_bytes // 8))) for _ in range(4)]
            words = [sum(part[k] << 16 * p for p, part in enumerate(parts)) for k in range(len(parts[0]))]
            self.counted[column] = b"".join(struct.pack("<Q", word) for word in words)[:n_bytes]
            number = numbers_of(self.counted[column])
            if number() == 1:
                number()
            fill = number()
        own = [minutes(fill) if form == 1 else fill] * self.n_rows
        same, source, unit = [0] * self.n_rows, {}, []
        if recall:
            keys, flag_plan, *unit = recall[0]
            latest: dict[tuple[int, ...], int] = {}
            for i in range(self.n_rows):
                if active[i]:
                    key = tuple(self.values[j][i] for j in keys)
                    if key in latest:
                        source[i] = latest[key]
                    latest[key] = i
            self.read(stream, flag_plan, same, [i in source for i in range(self.n_rows)])
        self.read(stream, value_plan, own, [a and not s for a, s in zip(active, same, strict=True)])
        for i in range(self.n_rows):
            if same[i] and unit:
                by_column, start, step, by_start, by_step = unit[0]
                of_one, left = divmod(start + step * own[source[i]], by_start + by_step * self.values[by_column][source[i]])
                assert left == 0
                own[i] = (of_one * (by_start + by_step * self.values[by_column][i]) - start) // step
            elif same[i]:
                own[i] = own[source[i]]
        self.values[column], self.states[column] = own, states


def minutes(v: int) -> int:
    if v < 0:
        return v - 2**41
    if v >= 2**40:
        return v
    q, r = divmod(v, 100)
    return 60 * q + r if r < 60 else -(40 * q + r - 60) - 1


KEYS = {"lattice": "tosgb", "decimal": "tfkosgwb", "bits": "tfw", "bins": "tfwb", "digits": "tpc", "numbers": "twbac",
        "times": "tf"}  # fmt: skip


def bin_width(about: list[Any]) -> float:
    """The width of bins, `["bins", f, w, b]`: where that is 0 the greatest number of five decimal digits that is not above one of b."""
    if about[2]:
        return float(about[2])
    x = 2 * about[3] * (1 - 2.0**-24)
    found = float(decimal.Context(prec=5, rounding=decimal.ROUND_DOWN).create_decimal(repr(x)))
    return found if 0 < found <= x else x


def spelt_out(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan of version 2 or later in the words of version 1, as far as this reader needs it."""
    if plan["version"] == 1:
        return plan
    columns = [
        {"index": j, "range": span, "transform": dict(zip(KEYS[transform[0]], transform, strict=transform[0] != "numbers"))}
        for j, (_, transform, span, *_) in enumerate(plan["columns"])
    ]
    for column, (_, transform, *_) in zip(columns, plan["columns"], strict=True):
        if transform[0] == "bins":
            column["transform"]["w"] = bin_width(transform)
    tensors = [[j, planes, [code_in_full(c, columns, j) for c in codes], dense] for j, planes, codes, dense in plan.get("tensors", [])]
    return {"columns": columns, "codes": [code_in_full(code, columns) for code in plan["codes"]], "tensors": tensors}


def code_in_full(code: list[Any], columns: list[Any], of: int | None = None) -> list[Any]:
    column, form, states, value, *recall = code
    states = states or [["direct", 0, 7, 0], None, [[[], [16]]], 1024]
    recall = [[keys, plan_in_full(flags), *unit] for keys, flags, *unit in recall]
    return [column, columns[column if of is None else of]["range"][2], form, plan_in_full(states), plan_in_full(value), *recall]


def of_two(kind: str, weight: int, column: int, values: dict[int, list[int]], i: int) -> int:
    """What a product or a quotient adds to a prediction of row i."""
    other, shifted = kind.removeprefix("times").removeprefix("over").split(">")
    found, y = wrap(weight * values[column][i]), values[int(other)][i]
    if kind.startswith("over"):
        return (found // y if y >= 1 else 0) >> int(shifted)
    return wrap(found * y) >> int(shifted)


def plan_in_full(plan: list[Any]) -> list[Any]:
    scheme, prediction, digits, *rest = plan
    found = [[[feature_in_full(f) for f in features], weights] for features, weights in digits]
    if len(found) == 2:
        found[1][0].insert(0, ["digit", -1, 0, 0, []])
    return [scheme, prediction, found, *rest]


def feature_in_full(feature: list[Any]) -> list[Any]:
    kind, *rest = feature
    column = rest.pop(0) if kind in ("value", "bins", "state", "before", "step", "phase", "among") else -1
    if kind == "among":
        return [kind, column, *rest[:2], [sum(rest[2][: k + 1]) for k in range(len(rest[2]))]]
    if kind == "class":
        return [kind, column, len(rest[1]), *rest]
    if kind == "phase":
        return [kind, column, *rest[:2], rest[2:]]
    lo, size = rest if kind in ("value", "place") else (rest[0], 40) if kind in ("match", "back", "rough", "above") else (0, 0)
    edges = rest[-1] if rest and kind not in ("value", "place", "match", "rough") else []
    return [kind, column, lo, size, [sum(edges[: k + 1]) for k in range(len(edges))]]


def unzstd(data: bytes) -> bytes:
    phrases = zstandard.ZstdCompressionDict(PHRASES.read_bytes())
    return zstandard.ZstdDecompressor(dict_data=phrases).decompress(data)


def pool_of(payload: bytes, layout: dict[str, Any]) -> dict[str, bytes]:
    found, at = {}, 0
    names = [s if isinstance(s, str) else f"{s[0]}{s[1] + k}" for s in layout["sections"] for k in range(1 if isinstance(s, str) else s[2])]
    for name in [s for s in names if s not in layout["own"]]:
        if layout.get("lengths", "u32") == "u32":
            n, at = int.from_bytes(payload[at : at + 4], "little"), at + 4
        else:
            n = shift = 0
            while True:
                n, shift, at = n | (payload[at] & 127) << shift, shift + 7, at + 1
                if payload[at - 1] < 128:
                    break
        found[name], at = payload[at : at + n], at + n
    assert at == len(payload)
    return found


def golden(folder: Path) -> tuple[pa.Table, dict[str, Any], dict[str, Any], list[bytes]]:
    """A golden archive of one model and one shard: the rows it shall give, the plan spelt out, the record, the payloads."""
    with pa.ipc.open_file(folder / "expected.arrow") as reader:
        wanted = reader.read_all()
    [plan_file] = folder.glob("archive/models/*/plan.json.zst")
    unpacked = unzstd(plan_file.read_bytes())
    plan = spelt_out(json.loads(unpacked[4 + int.from_bytes(unpacked[:4], "little") :]))
    return wanted, plan, *shard_of(folder)


def shard_of(folder: Path) -> tuple[dict[str, Any], list[bytes]]:
    """The record and the payloads of a golden archive of one shard."""
    [record_file] = folder.glob("archive/shards/*/shard.json.zst")
    record = json.loads(unzstd(record_file.read_bytes()))
    payloads = pq.read_table(record_file.with_name("corrections.parquet")).column("payload").to_pylist()
    return record, payloads


def rows_above(data: bytes) -> list[int]:
    """Of each row of a block, how many rows above it one like it stands."""
    if not data:
        return []
    number = plain_numbers(data)
    n_runs = number()
    lengths, steps = Fields(set()).integers(number.take(number()), n_runs), Fields(set()).integers(data[number.at :], n_runs)
    return [above for length, above in zip(lengths, itertools.accumulate(steps), strict=True) for _ in range(length)]


EXACT = sorted(folder for case in ("contexts", "above", "gathered", "lanes", "units") for folder in GOLDEN.glob(f"1.*/{case}"))


@pytest.mark.parametrize("folder", EXACT, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_reader_written_from_the_format_document_sees_the_same_data(folder):
    wanted, plan, record, payloads = golden(folder)
    layout, n_blocks = record["layout"], len(record["block_rows"])
    assert len(payloads) == n_blocks * len(record["groups"]) and base64.b64decode(record["payload_lengths"] + "===")
    assert set(layout["codings"]) == {"learned"}
    first = 0
    for b, n_rows in enumerate(record["block_rows"]):
        groups = dict(zip(record["groups"], payloads[b * len(record["groups"]) : (b + 1) * len(record["groups"])], strict=True))
        sections = {**groups, **pool_of(groups.get("pool", b""), layout)}
        streams = {j: k for k, columns in enumerate(layout["streams"]) for j in columns}
        opened = {k: Stream(sections[f"s{k}"]) for k in set(streams.values())}
        block = Block(n_rows, above=rows_above(sections.get("a0", b"")))
        for code in plan["codes"]:
            block.column(opened[streams[code[0]]], code)
        assert all(stream.ended() for stream in opened.values())
        for column in plan["columns"]:
            transform, j = column["transform"], column["index"]
            assert transform["t"] == "lattice" and transform["b"] == 0
            clock = {code[0]: code[2] for code in plan["codes"]}[j] == 1
            cells = wanted.column(j).slice(first, n_rows).to_pylist()
            for state, code, cell in zip(block.states[j], block.values[j], cells, strict=True):
                assert state == (1 if cell is None else 0)
                if cell is not None:
                    x = (cell - transform["o"]) // (transform["s"] * transform["g"])
                    assert code == (minutes(x) if clock else x)
        first += n_rows
    assert first == wanted.num_rows


def weights_of(folder: Path, j: int) -> tuple[int, list[int], list[list[int]]]:
    """The shift, biases and weights of the vectors of a column."""
    [file] = folder.glob("archive/models/*/decoder.safetensors")
    data = file.read_bytes()
    n_head = int.from_bytes(data[:8], "little")
    start, stop = json.loads(data[8 : 8 + n_head])[f"dense.{j}"]["data_offsets"]
    raw = unzstd(data[8 + n_head + start : 8 + n_head + stop])
    n = next(n for n in range(1, 2049) if len(raw) == 1 + 8 * n + n * (n - 1))
    low, high = raw[1 + 8 * n :][: n * (n - 1) // 2], raw[1 + 8 * n :][n * (n - 1) // 2 :]
    every = iter([(a + 256 * b + 2**15) % 2**16 - 2**15 for a, b in zip(low, high, strict=True)])
    return raw[0], list(struct.unpack(f"<{n}q", raw[1 : 1 + 8 * n])), [[next(every) for _ in range(p)] for p in range(n)]


def cells_of(stream: Stream, code: list[Any], n_rows: int, dense: Any) -> tuple[list[int], list[int]]:
    """Codes and states of the cells of tensors."""
    _, (before, count, after), codes, _ = code
    width = before * count * after
    values, states = [0] * (n_rows * width), [0] * (n_rows * width)
    group = max(1, 2**21 // width)
    for first in range(0, n_rows, group):
        n = min(group, n_rows - first)
        block = Block(n * before * after, before * after, dense)
        for one in codes:
            block.column(stream, one)
            k = one[0]
            places = [(((first + r) * before + a) * count + k) * after + b for r in range(n) for a in range(before) for b in range(after)]
            for place, value, state in zip(places, block.values[k], block.states[k], strict=True):
                values[place], states[place] = value, state
    return values, states


def single(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


@pytest.mark.parametrize(
    ("folder", "wanted_kinds"),
    [(GOLDEN / "1.6" / "tensors", {(3, 0, False), (1, 0, True), (1, 1, False)}), (GOLDEN / "1.9" / "mixed", {(3, 0, False), (1, 0, True)})],
)
def test_tensors_read_from_the_format_document_are_the_same_values(folder, wanted_kinds):
    with pa.ipc.open_file(folder / "expected.arrow") as reader:
        wanted = reader.read_all()
    [plan_file] = folder.glob("archive/models/*/plan.json.zst")
    plan = spelt_out(json.loads(unzstd(plan_file.read_bytes())[4:]))
    record_file = max(folder.glob("archive/shards/*/shard.json.zst"))
    record = json.loads(unzstd(record_file.read_bytes()))
    payloads = pq.read_table(record_file.with_name("corrections.parquet")).column("payload").to_pylist()
    layout, [n_rows] = record["layout"], record["block_rows"]
    groups = dict(zip(record["groups"], payloads, strict=True))
    sections = {**groups, **pool_of(groups.get("pool", b""), layout)}
    streams = {j: k for k, columns in enumerate(layout["streams"]) for j in columns}
    seen = set()
    for code in plan["tensors"]:
        j, about = code[0], plan["columns"][code[0]]["transform"]
        assert layout["streams"][streams[j]] == [j]
        stream = Stream(sections[f"s{streams[j]}"])
        values, states = cells_of(stream, code, n_rows, weights_of(folder, j) if code[3] else None)
        assert stream.ended()
        seen |= {(code[1][1], code[3], any(states))}
        stored = wanted.column(j).slice(wanted.num_rows - n_rows).combine_chunks()
        rows = (stored.storage if isinstance(stored, pa.ExtensionArray) else stored).to_pylist()
        cells = [cell for row in rows for cell in (row or [None] * (len(values) // n_rows))]
        for value, state, cell in zip(values, states, cells, strict=True):
            assert (state == 0) == (cell is not None and cell == cell)
            if state == 0 and about["t"] == "bins":
                assert single(value * about["w"]) == cell
            elif state == 0 and about["t"] == "decimal":
                middle = (about["g"] - 1) * about["s"] / 2
                assert single((about["o"] + value * about["s"] * about["g"] + middle) / 10 ** about["k"]) == cell
            elif state == 0:
                assert value == (cell - about["o"]) // (about["s"] * about["g"])
    assert wanted_kinds <= seen


def test_bins_whose_widths_follow_from_their_bounds_decode_by_the_format_document():
    folder = GOLDEN / "1.21" / "wide"
    with pa.ipc.open_file(folder / "expected.arrow") as reader:
        wanted = reader.read_all()
    [plan_file] = folder.glob("archive/models/*/plan.json.zst")
    unpacked = unzstd(plan_file.read_bytes())
    told = json.loads(unpacked[4 + int.from_bytes(unpacked[:4], "little") :])["columns"]
    usual = {j: bin_width(about) for j, (_, about, *_) in enumerate(told) if about[0] == "bins" and about[2] == 0}
    assert len(usual) >= 30 and all(told[j][4] == 1 for j in usual)
    assert any(about[0] == "bins" and about[2] != 0 for _, about, *_ in told)
    for j, width in usual.items():
        cells = wanted.column(j).drop_null().to_numpy()
        codes = np.rint(cells / width)
        assert (cells == codes * width).all() and len(set(codes.tolist())) > 20


INTEGERS = ("B", "b", "H", "h", "I", "i", "q")


def integers(t: int, data: bytes, packed: bool) -> list[int]:
    """Integers of type t from a pcodec stream, or from their bytes in planes."""
    if packed:
        return [int(v) for v in standalone.simple_decompress(data)]
    width = struct.calcsize(INTEGERS[t])
    n = len(data) // width
    return [struct.unpack(f"<{INTEGERS[t]}", data[i::n])[0] for i in range(n)]


def bits_of(value: float, kind: str) -> int:
    """The code of a float under the transform `bits`."""
    n_bits = 8 * struct.calcsize(kind)
    [b] = struct.unpack("<" + {32: "i", 64: "q"}[n_bits], struct.pack("<" + kind, value))
    return b ^ (2 ** (n_bits - 1) - 1) if b < 0 else b


class numbers_of:  # a function with a place
    """The numbers of a payload, one a call."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at = body, 0

    def __call__(self) -> int:
        v = shift = 0
        while True:
            self.at += 1
            v |= (self.body[self.at - 1] & 127) << shift
            shift += 7
            if self.body[self.at - 1] < 128:
                return (v >> 1) ^ -(v & 1)


def point(k: int, digits: int, shift: int, step: int, base: int, phase: int) -> int:
    whole, fraction, half = step >> shift, step % 2**shift, 2**shift // 2
    a, b = wrap(k * whole + base), wrap(k * fraction + phase)
    p = wrap(a + (wrap(b + half) >> shift))
    if digits and abs(p) >= 10**digits and p != -(2**63):
        g = 10 ** (len(str(abs(p))) - digits)
        p = wrap(wrap(a + (b >> shift)) + g // 2) // g * g
    return p


def lattices(body: bytes, type_of_bits: str) -> list[int]:
    """Lattices."""
    number = numbers_of(body)
    scale = number() if number() == 1 else None
    segments = [[number() for _ in range(7)] for _ in range(number())]
    heads = [(number(), number()) for _ in range(number())]
    how = number()
    at = number.at
    streams = []
    for t, n_bytes in heads:
        streams.append(iter(integers(t, body[at : at + n_bytes], True)))
        at += n_bytes
    found = []
    for n_rows, stream, *lattice in segments:
        found += [point(next(streams[stream]), *lattice) for _ in range(n_rows)]
    assert all(next(stream, None) is None for stream in streams)
    return with_misses(found, scale, type_of_bits, how, body, at)


def counted(body: bytes, k: list[int], type_of_bits: str) -> list[int]:
    """Counted steps."""
    number = numbers_of(body)
    scale = number() if number() == 1 else None
    number()
    segments = [[number() for _ in range(6)] for _ in range(number())]
    how, counts = number(), iter(k)
    found = [point(next(counts), *lattice) for n_rows, *lattice in segments for _ in range(n_rows)]
    assert len(found) == len(k)
    return with_misses(found, scale, type_of_bits, how, body, number.at)


def with_misses(found: list[int], scale: int | None, type_of_bits: str, how: int, body: bytes, at: int) -> list[int]:
    if scale is not None:
        found = [bits_of(p * 2.0**-scale, type_of_bits) for p in found]
    if how == 1:
        found = [wrap(p + miss) for p, miss in zip(found, integers(body[at], body[at + 1 :], True), strict=True)]
    elif how == 2:
        frame, t = unzstd(body[at + 1 :]), body[at]
        n = len(frame) // (4 + struct.calcsize(INTEGERS[t]))
        row = -1
        for gap, miss in zip(integers(4, frame[: 4 * n], False), integers(t, frame[4 * n :], False), strict=True):
            row += gap
            found[row] = wrap(found[row] + miss)
    else:
        assert how == 0 and at == len(body)
    return found


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("1.*/lattices")), ids=lambda folder: folder.parent.name)
def test_lattices_read_from_the_format_document_are_the_same_values(folder):
    wanted, plan, record, payloads = golden(folder)
    layout, groups = record["layout"], record["groups"]
    assert set(layout["codings"]) == {"lattices"}
    first = 0
    for b, n_rows in enumerate(record["block_rows"]):
        parts = dict(zip(groups, payloads[b * len(groups) : (b + 1) * len(groups)], strict=True))
        parts |= pool_of(parts.get("pool", b""), layout)
        for column in plan["columns"]:
            form, payload = column["transform"], parts[f"c{column['index']}"]
            kind = {"<f4": "f", "<f8": "d"}.get(form.get("f", ""), "")
            codes = lattices(payload[5 + int.from_bytes(payload[1:5], "little") :], kind)
            cells = [v for v in wanted.column(column["index"]).slice(first, n_rows).to_pylist() if v is not None]
            assert_codes(form, codes, cells)
        first += n_rows
    assert first == wanted.num_rows


def assert_codes(form: dict[str, Any], codes: list[int], cells: list[Any]) -> None:
    if form["t"] == "bits":
        assert codes == [bits_of(cell, {"<f4": "f", "<f8": "d"}[form["f"]]) for cell in cells] and not form["w"]
        return
    assert form["g"] == 1 and form["b"] == 0
    assert [(c * form["s"] + form["o"]) / 10 ** form.get("k", 0) for c in codes] == cells


def test_counted_steps_read_from_the_format_document_are_the_same_values():
    wanted, plan, record, payloads = golden(GOLDEN / "1.8" / "counted")
    layout, groups = record["layout"], record["groups"]
    first, forms = 0, set()
    for b, n_rows in enumerate(record["block_rows"]):
        parts = dict(zip(groups, payloads[b * len(groups) : (b + 1) * len(groups)], strict=True))
        parts |= pool_of(parts.get("pool", b""), layout)
        streams = {j: k for k, columns in enumerate(layout["streams"]) for j in columns}
        opened = {k: Stream(parts[f"s{k}"]) for k in set(streams.values())}
        block = Block(n_rows)
        for code in plan["codes"]:
            j, form, transform = code[0], code[2], plan["columns"][code[0]]["transform"]
            block.column(opened[streams[j]], code)
            active = [value for value, state in zip(block.values[j], block.states[j], strict=True) if state == 0]
            codes = counted(block.counted[j], active, {2: "", 3: "f", 4: "d"}[form]) if form > 1 else active
            cells = [v for v in wanted.column(j).slice(first, n_rows).to_pylist() if v is not None]
            assert_codes(transform, codes, cells)
            forms.add(form)
        assert all(stream.ended() for stream in opened.values())
        first += n_rows
    assert first == wanted.num_rows and {2, 3, 4} <= forms


def test_texts_that_say_numbers_read_from_the_format_document_are_the_same_texts():
    wanted, plan, record, payloads = golden(GOLDEN / "1.18" / "numbers")
    layout, groups = record["layout"], record["groups"]
    first, seen = 0, set[Any]()
    for b, n_rows in enumerate(record["block_rows"]):
        parts = dict(zip(groups, payloads[b * len(groups) : (b + 1) * len(groups)], strict=True))
        parts |= pool_of(parts.get("pool", b""), layout)
        streams = {j: k for k, columns in enumerate(layout["streams"]) for j in columns}
        opened = {k: Stream(parts[f"s{k}"]) for k in set(streams.values())}
        block = Block(n_rows, above=rows_above(parts.get("a0", b"")))
        for code in plan["codes"]:
            j, form = code[0], plan["columns"][code[0]]["transform"]
            block.column(opened[streams[j]], code)
            cells = wanted.column(j).slice(first, n_rows).to_pylist()
            active = [value for value, state in zip(block.values[j], block.states[j], strict=True) if state == 0]
            codes = counted(block.counted[j], active, "") if code[2] > 1 else active
            texts = [said(form, minutes_back(value) if code[2] == 1 else value) for value in codes]
            assert texts == [cell for cell, state in zip(cells, block.states[j], strict=True) if state == 0]
            assert len(texts) > 0.7 * n_rows
            seen |= {form["t"], form["c"] if form["t"] == "digits" else None}
            seen |= {("how", "decimals", "width", "zeros")[k] for k, v in enumerate(form.get("w", [])) if v}
            seen |= {"signs"} if form["t"] == "numbers" and "c" in form else set()
        assert all(stream.ended() for stream in opened.values())
        first += n_rows
    assert first == wanted.num_rows and seen == {"digits", "numbers", "times", "T", None, "how", "decimals", "width", "zeros", "signs"}


def minutes_back(v: int) -> int:
    return v // 60 * 100 + v % 60


def said(form: dict[str, Any], code: int) -> str:
    if form["t"] == "numbers":
        how, decimals, width, zeros = form["w"]
        point, group, first = form.get("c", [46, 0, 0])
        number = Fields(set()).written(abs(code) * 10**zeros, how, decimals, width).decode()
        whole, *behind = number.split(".")
        if group:
            whole = f"{int(whole):,}".replace(",", chr(group))
        minus, before, number = "-" * (code < 0), bytes(form["b"]).decode(), chr(point).join([whole, *behind])
        return (minus + before if first else before + minus) + number + bytes(form["a"]).decode()
    if form["t"] == "times":
        return told(form["f"], code)
    n = form["p"].count(-1)
    sizes, parts = [24, 60, 60, 10 ** (n - 6)][: n // 2 if n < 7 else 4], list[str]()
    for size in reversed(sizes):
        code, part = divmod(code, size)
        parts.insert(0, f"{part:0{max(2, len(str(size - 1))) if size != 10 else 1}d}")
    digits = iter("".join(parts))
    assert code == 0
    return "".join(next(digits) if byte < 0 else chr(byte) for byte in form["p"])


def told(form: str, code: int) -> str:
    """A time as a format of times has it."""
    parts = re.findall(r"%(?:[-^]?[a-zA-Z]|[0-9]f|%)|[^%]", form)
    sizes = [size for names, size in ((("%H", "%-H", "%I", "%-I"), 24), (("%M",), 60), (("%S",), 60)) if set(names) & set(parts)]
    sizes += [10 ** int(part[1]) for part in parts if part.endswith("f") and len(part) == 3]
    of_day = list[int]()
    for size in reversed(sizes):
        code, part = divmod(code, size)
        of_day.insert(0, part)
    day, (hour, minute, second, fraction) = datetime.date(1970, 1, 1) + datetime.timedelta(days=code), [*of_day, 0, 0, 0, 0][:4]
    month, weekday = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * day.month - 3 :][:3], "MonTueWedThuFriSatSun"[3 * day.weekday() :][:3]
    half = "PM" if hour > 11 else "AM"
    names = {
        "%Y": f"{day.year:04d}", "%y": f"{day.year % 100:02d}", "%m": f"{day.month:02d}", "%-m": str(day.month), "%d": f"{day.day:02d}",
        "%-d": str(day.day), "%b": month, "%^b": month.upper(), "%a": weekday, "%H": f"{hour:02d}", "%-H": str(hour), "%M": f"{minute:02d}",
        "%I": f"{(hour + 11) % 12 + 1:02d}", "%-I": str((hour + 11) % 12 + 1), "%p": half, "%P": half.lower(), "%S": f"{second:02d}",
        "%%": "%",
    }  # fmt: skip
    return "".join(f"{fraction:0{part[1]}d}" if part[1:2].isdigit() else names.get(part, part) for part in parts)


def test_texts_read_from_the_format_document_are_the_same_values():
    folder = GOLDEN / "1.8" / "codings"
    record, payloads = shard_of(folder)
    with pa.ipc.open_file(folder / "expected.arrow") as reader:
        wanted = reader.read_all()
    layout, groups, first = record["layout"], record["groups"], 0
    j = layout["codings"].index("texts")
    for b, n_rows in enumerate(record["block_rows"]):
        parts = dict(zip(groups, payloads[b * len(groups) : (b + 1) * len(groups)], strict=True))
        data = (parts | pool_of(parts.get("pool", b""), layout))[f"c{j}"]
        n_bytes, n_valid = struct.unpack("<II", data[2:10])
        body = {1: bz2, 2: lzma}[data[0]].decompress(data[10 + n_valid :])
        assert len(body) == n_bytes
        valid = "".join(f"{byte:08b}" for byte in unzstd(data[10 : 10 + n_valid])) if n_valid else "1" * n_rows
        rows = [text.decode() if bit == "1" else None for text, bit in zip(body.split(data[1:2])[:-1], valid, strict=False)]
        assert rows == wanted.column(j).slice(first, n_rows).to_pylist()
        first += n_rows
    assert first == wanted.num_rows


class Fields:
    """Fields: a payload of n texts, and which ways it went to read them."""

    def __init__(self, seen: set[str]) -> None:
        self.seen = seen

    def texts_of(self, data: bytes, n: int, nested: bool = False) -> list[bytes | None]:
        number = plain_numbers(data)
        n_valid, n_bytes, n_told, n_kept = (number() for _ in range(4))
        valid = f"{int.from_bytes(unzstd(number.take(n_valid))):b}".zfill(-(-n // 8) * 8)[:n] if n_valid else "1" * n
        told = self.opened(number.take(n_kept))
        assert len(told) == n_told
        templates, formats = self.templates(told), dict[int, int]()
        for items in templates:
            formats |= {item[0]: item[1] for item in items if isinstance(item, tuple)}
        n_texts = valid.count("1")
        which = [0] * n_texts
        if len(templates) > 1:
            which = self.integers(number.take(number()), n_texts)
        columns = []
        for c in range(len(formats)):
            n_values = sum(isinstance(item, tuple) and item[0] == c for t in which for item in templates[t])
            read = self.integers if formats[c] else self.texts
            columns.append(iter(read(number.take(number()), n_values, *([nested] if not formats[c] else []))))
        assert number.at == len(data)
        found = [b"".join(self.filled(item, columns) for item in templates[t]) for t in which]
        assert sum(map(len, found)) == n_bytes and all(next(column, None) is None for column in columns)
        rows = iter(found)
        return [next(rows) if bit == "1" else None for bit in valid]

    def filled(self, item: Any, columns: list[Any]) -> bytes:
        return item if isinstance(item, bytes) else self.written(next(columns[item[0]]), *item[1:])

    @staticmethod
    def templates(told: bytes) -> list[list[Any]]:
        number, found = plain_numbers(told), []
        for _ in range(number()):
            items: list[Any] = []
            for _ in range(number()):
                v = number()
                items.append((v // 2, number(), number(), number()) if v % 2 else number.take(v // 2))
            found.append(items)
        return found

    def written(self, v: Any, how: int, decimals: int, width: int) -> bytes:
        self.seen.add(f"how {how}")
        if how == 0:
            return v
        if how > 3:
            return f"{v:0{width}{'xX'[how - 4]}}".encode()
        digits = str(abs(v)).zfill(max(width, decimals + 1))
        whole, point, behind = digits[: len(digits) - decimals], "." * (decimals > 0), digits[len(digits) - decimals :]
        if how > 1:
            behind = behind.rstrip("0") or "0" * (how == 3 and decimals > 0)
            point = "." * (behind != "")
        return ("-" * (v < 0) + whole + point + behind).encode()

    def opened(self, data: bytes) -> bytes:
        way = data[0] if data[0] < 8 else data[0] // 8
        self.seen.add(f"way {way}")
        return {1: unzstd, 2: lzma.decompress, 3: bz2.decompress, 4: bytes}[way](data[1:])

    def integers(self, data: bytes, n: int) -> list[int]:
        way, t = divmod(data[0], 8)
        if way == 5:
            self.seen.add("way 5")
            number = plain_numbers(data[1:])
            n_distinct = number()
            distinct = self.integers(number.take(number()), n_distinct)
            return [distinct[place] for place in self.integers(data[1 + number.at :], n)]
        if way == 0:
            self.seen.add("way 0")
            return [int(v) for v in standalone.simple_decompress(data[1:])]
        raw = self.opened(data)
        assert len(raw) == n * struct.calcsize(INTEGERS[t])
        return [v for [v] in struct.iter_unpack(f"<{INTEGERS[t]}", raw)]

    def texts(self, data: bytes, n: int, nested: bool = False) -> list[bytes]:
        form, number = data[0], plain_numbers(data[1:])
        self.seen.add(f"form {form}")
        if form == 0:
            assert struct.unpack("<II", data[3:11])[1] == 0
            return {1: bz2, 2: lzma}[data[1]].decompress(data[11:]).split(data[2:3])[:-1]
        if form == 1:
            n_bytes = number()
            lengths = self.integers(number.take(number()), n)
            whole = self.opened(data[1 + number.at :])
            assert len(whole) == n_bytes
            return [whole[sum(lengths[:k]) :][:length] for k, length in enumerate(lengths)]
        if form == 2:
            n_listed = number()
            listed = self.texts(number.take(number()), n_listed, nested)
            return [listed[place] for place in self.integers(data[1 + number.at :], n)]
        assert form == 3 and not nested
        return [text or b"" for text in self.texts_of(data[1:], n, True)]


class plain_numbers(numbers_of):
    """The same, with bytes between them."""

    def take(self, n_bytes: int) -> bytes:
        self.at += n_bytes
        assert self.at <= len(self.body)
        return self.body[self.at - n_bytes : self.at]


def blocks_of(folder: Path) -> tuple[pa.Table, dict[str, Any], list[tuple[int, dict[str, bytes]]]]:
    """A golden archive of one shard: the rows it shall give, the layout, and the rows and sections of each block."""
    with pa.ipc.open_file(folder / "expected.arrow") as reader:
        wanted = reader.read_all()
    record, payloads = shard_of(folder)
    groups, found = record["groups"], []
    for b, n_rows in enumerate(record["block_rows"]):
        parts = dict(zip(groups, payloads[b * len(groups) : (b + 1) * len(groups)], strict=True))
        found.append((n_rows, parts | pool_of(parts.get("pool", b""), record["layout"])))
    return wanted, record["layout"], found


def test_fields_read_from_the_format_document_are_the_same_values():
    folder = GOLDEN / "1.9" / "fields"
    wanted, layout, blocks = blocks_of(folder)
    first, seen = 0, set[str]()
    for n_rows, parts in blocks:
        for j in [j for j, coding in enumerate(layout["codings"]) if coding == "fields"]:
            rows = Fields(seen).texts_of(parts[f"c{j}"], n_rows)
            cells = wanted.column(j).slice(first, n_rows).to_pylist()
            assert rows == [cell.encode() if isinstance(cell, str) else cell for cell in cells]
        first += n_rows
    assert first == wanted.num_rows and layout["codings"].count("fields") == 5
    assert {f"way {k}" for k in range(6)} | {f"how {k}" for k in range(6)} | {f"form {k}" for k in range(4)} <= seen, sorted(seen)
    blob = only_blob(folder)  # of the dictionary of a column
    assert blob[:1] == b"T"
    values = Fields(seen).texts_of(blob[5:], int.from_bytes(blob[1:5], "little"))
    assert {text.decode() for text in values if text is not None} == set(wanted.column("key").to_pylist())


class Nested:
    """Nested: cells of any type as Python values, and which forms they were in. Integers, times and decimals are as they are stored."""

    def __init__(self, data: bytes, seen: set[str]) -> None:
        self.number, self.seen, self.fields = plain_numbers(data), seen, Fields(seen)

    def byte(self, of: str) -> int:
        [found] = self.number.take(1)
        self.seen.add(f"{of} {found}")
        return found

    def sized(self) -> bytes:
        return self.number.take(self.number())

    def bits(self, data: bytes, n: int) -> list[bool]:
        packed = self.fields.opened(data)
        assert len(packed) == -(-n // 8)
        return [bit == "1" for bit in "".join(f"{byte:08b}" for byte in packed)[:n]]

    def cells(self, kind: pa.DataType, n: int, lengths: list[int] | None = None) -> list[Any]:
        if not n or pa.types.is_null(kind):
            return [None] * n
        bits = self.sized()
        if not bits:
            return self.body(kind, n, lengths)
        valid = self.bits(bits, n)
        some = iter(self.body(kind, sum(valid), None) if any(valid) else [])
        return [next(some) if there else None for there in valid]

    def body(self, kind: pa.DataType, n: int, lengths: list[int] | None) -> list[Any]:
        t = pa.types
        if t.is_list(kind) or t.is_large_list(kind) or t.is_map(kind):
            return self.lists(kind.field(0).type, n)
        if t.is_fixed_size_list(kind):
            return cut(self.cells(kind.value_type, n * kind.list_size, [kind.list_size] * n), [kind.list_size] * n)
        if t.is_struct(kind):
            return self.structs(kind, n, lengths, {})
        if t.is_boolean(kind):
            return self.bits(self.sized(), n)
        if t.is_floating(kind):
            return self.floats({16: "e", 32: "f", 64: "d"}[kind.bit_width], n, lengths)
        if t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind) or t.is_large_binary(kind):
            form, data = self.byte("text"), self.sized()
            found = self.fields.texts_of(data, n) if form else self.fields.texts(data, n)
            return [text if t.is_binary(kind) or t.is_large_binary(kind) or text is None else text.decode() for text in found]
        if (t.is_fixed_size_binary(kind) or t.is_decimal(kind)) and self.byte("wide"):
            raw, width = self.fields.opened(self.sized()), kind.bit_width // 8
            parts = [raw[width * k : width * (k + 1)] for k in range(n)]
            return parts if t.is_fixed_size_binary(kind) else [int.from_bytes(part, "little", signed=True) for part in parts]
        found = self.integers(n, lengths)
        return [v % 2**64 for v in found] if t.is_uint64(kind) else found

    def integers(self, n: int, lengths: list[int] | None) -> list[int]:
        if not self.byte("integer"):
            return self.fields.integers(self.sized(), n)
        assert lengths is not None and sum(lengths) == n
        firsts, steps, found = self.fields.integers(self.sized(), sum(k > 0 for k in lengths)), self.sized(), list[int]()
        rest = iter(self.fields.integers(steps, n - len(firsts)))
        for first, length in zip(firsts, [k for k in lengths if k], strict=True):
            found.append(first)
            for _ in range(length - 1):
                found.append(wrap(found[-1] + next(rest)))
        return found

    def floats(self, code: str, n: int, lengths: list[int] | None) -> list[float]:
        form, width = self.byte("float"), struct.calcsize(code)
        if form == 0:
            return [float(v) for v in standalone.simple_decompress(self.sized())]
        if form == 1:
            low = [v & (1 << 8 * width) - 1 for v in self.integers(n, lengths)]
            low = [v ^ ((1 << 8 * width - 1) - 1) if v >> 8 * width - 1 else v for v in low]
            return [struct.unpack(f"<{code}", v.to_bytes(width, "little"))[0] for v in low]
        [decimals], n_odd = self.number.take(1), self.number()
        rows = self.fields.integers(self.sized(), n_odd) if n_odd else []
        odd = [v for [v] in struct.iter_unpack(f"<{code}", self.fields.opened(self.sized()))] if n_odd else []
        found = [struct.unpack(code, struct.pack(code, v / 10.0**decimals))[0] for v in self.integers(n, lengths)]
        for row, value in zip(rows, odd, strict=True):
            found[row] = value
        return found

    def lists(self, inner: pa.DataType, n: int) -> list[Any]:
        form = self.byte("list")
        if form == 1:
            n_listed = self.number()
            distinct = self.lists(inner, n_listed)
            return [distinct[place] for place in self.integers(n, None)]
        if form == 0:
            lengths = self.integers(n, None)
            return cut(self.cells(inner, sum(lengths), lengths), lengths)
        by = self.number()
        rows = self.lists(inner.field(by).type, n)
        lengths = [len(row) for row in rows]
        given = {by: [v for row in rows for v in row]}
        return cut(self.structs(inner, sum(lengths), lengths, given) if sum(lengths) else [], lengths)

    def structs(self, kind: pa.DataType, n: int, lengths: list[int], found: dict[int, list[Any]]) -> list[Any]:
        hows = {i: self.number() for i in range(kind.num_fields) if i not in found}
        while hows:
            i = next(i for i, how in hows.items() if not how or (how - 1) // 3 in found)
            how, inner = hows.pop(i), kind.field(i).type
            found[i] = self.member(inner, n, (how - 1) % 3 + 1 if how else 0, found.get((how - 1) // 3, []), lengths)
        return [{kind.field(i).name: found[i][k] for i in range(kind.num_fields)} for k in range(n)]

    def member(self, kind: pa.DataType, n: int, how: int, by: list[Any], lengths: list[int] | None) -> list[Any]:
        self.seen.add(f"member {how}")
        if how == 0:
            return self.cells(kind, n, lengths)
        if how == 3:
            wide = self.cells(pa.int64(), n, lengths)
            return [None if v is None else wrap(v + (other or 0)) for v, other in zip(wide, by, strict=True)]
        rows: dict[Any, list[int]] = {}
        for k, v in enumerate(by):
            rows.setdefault(v, []).append(k)
        if how == 2:
            found: list[Any] = [None] * n
            for some in rows.values():
                for k, v in zip(some, self.cells(kind, len(some)), strict=True):
                    found[k] = v
            return found
        again = iter(self.bits(self.sized(), n - len(rows)))
        firsts = {some[0] for some in rows.values()}
        is_new = [k in firsts or not next(again) for k in range(n)]
        new, last, found = iter(self.cells(kind, sum(is_new))), dict[Any, Any](), []
        for v, fresh in zip(by, is_new, strict=True):
            last[v] = next(new) if fresh else last[v]
            found.append(last[v])
        return found


def cut(values: list[Any], lengths: list[int]) -> list[list[Any]]:
    rest = iter(values)
    return [[next(rest) for _ in range(length)] for length in lengths]


def plain_of(kind: pa.DataType) -> pa.DataType:
    """A type with the integers that are stored for times and decimals."""
    t = pa.types
    if t.is_struct(kind):
        return pa.struct([item.with_type(plain_of(item.type)) for item in kind])
    if t.is_list(kind) or t.is_large_list(kind):
        return pa.list_(kind.value_field.with_type(plain_of(kind.value_type)))
    return pa.int64() if t.is_timestamp(kind) else kind


def as_stored(value: Any) -> Any:
    """Rows of Arrow as `Nested` has them."""
    if isinstance(value, dict):
        return {key: as_stored(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return {"key": as_stored(value[0]), "value": as_stored(value[1])}
    if isinstance(value, list):
        return [as_stored(one) for one in value]
    if isinstance(value, Decimal):
        return int(value.scaleb(2))
    return repr(value) if isinstance(value, float) else value


def test_nested_values_read_from_the_format_document_are_the_same_values():
    folder = GOLDEN / "1.10" / "lists"
    wanted, layout, blocks = blocks_of(folder)
    first, seen = 0, set[str]()
    for n_rows, parts in blocks:
        for j in [j for j, coding in enumerate(layout["codings"]) if coding == "nested"]:
            column = wanted.column(j).slice(first, n_rows)
            nested = Nested(parts[f"c{j}"], seen)
            rows = nested.cells(column.type, n_rows)
            assert nested.number.at == len(parts[f"c{j}"])
            assert as_stored(rows) == as_stored(column.combine_chunks().cast(plain_of(column.type)).to_pylist()), wanted.column_names[j]
        first += n_rows
    assert first == wanted.num_rows and layout["codings"].count("nested") == 7
    assert {f"list {k}" for k in range(3)} | {f"member {k}" for k in range(4)} | {f"float {k}" for k in range(3)} <= seen, sorted(seen)
    assert {f"{of} {k}" for of in ("integer", "wide", "text") for k in range(2)} <= seen, sorted(seen)
    blob = only_blob(folder)
    assert blob[:1] == b"N"
    values = Nested(blob[5:], seen).cells(wanted.schema.field("key").type, int.from_bytes(blob[1:5], "little"))
    assert sorted(values, key=repr) == sorted({repr(row): row for row in wanted.column("key").to_pylist()}.values(), key=repr)


def levels_of(blob: bytes, n: int) -> list[float]:
    """Levels of a blob that begins with Q, by the document alone."""
    assert blob[:1] == b"Q"
    length = int.from_bytes(blob[1:5], "little")
    part, rest = blob[5 : 5 + length], blob[5 + length :]
    how, count, end = part[0], int.from_bytes(part[1:3], "little"), 7 + int.from_bytes(part[3:7], "little")
    below, above = standalone.simple_decompress(part[7:end]), standalone.simple_decompress(part[end:])
    assert len(below) == len(above) == count
    found = []
    for p, q in zip(above.tolist(), below.tolist(), strict=True):
        if how == 128:
            found.append(float(Fraction(p, q)))
            continue
        scaled = Fraction(abs(p) * 10 ** (how % 64), q)
        size = float(Fraction(math.floor(scaled) if how >= 64 else round(scaled), 10 ** (how % 64)))
        found.append(-size if p < 0 and size else size)
    others = list[float]()
    if rest:
        others = standalone.simple_decompress(rest[1:]).tolist() if rest[:1] == b"P" else list(np.frombuffer(unzstd(rest[1:])))
    assert len(found) + len(others) == n
    return sorted([*found, *others])


def test_fractions_read_from_the_format_document_are_the_levels():
    folder = GOLDEN / "1.11" / "fractions"
    with pa.ipc.open_file(folder / "expected.arrow") as reader:
        levels = sorted(set(reader.read_all().column("share").to_pylist()))
    assert levels_of(only_blob(folder), len(levels)) == levels


def only_blob(folder: Path) -> bytes:
    """The blob of a model that has one."""
    [file] = folder.glob("archive/models/*/decoder.safetensors")
    data = file.read_bytes()
    n_head = int.from_bytes(data[:8], "little")
    [(name, tensor)] = json.loads(data[8 : 8 + n_head]).items()
    start, stop = tensor["data_offsets"]
    raw = data[8 + n_head + start : 8 + n_head + stop]
    return unzstd(raw) if name == "columns.zstd" else raw
