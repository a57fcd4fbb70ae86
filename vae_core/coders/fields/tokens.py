"""Texts cut into numbers and what stands between them, all rows at a time.

A number is a run of decimal digits, with a point and more digits, with a sign; or a run of hexadecimal digits, where letters and digits
are so mixed that no words are meant. Long ones are cut into pieces. How texts are cut is the writer's choice alone: a reader is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.arrays import from_numpy, to_numpy

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DECIMAL, LOWER, UPPER = 0, 1, 2
MOST_DIGITS = 18
PIECE = {DECIMAL: 9, LOWER: 8, UPPER: 8}
"""Digits of the pieces of what is longer than a number: as many as 32 bits hold."""
_DIGIT, _LOW, _HIGH, _LETTER = 1, 2, 4, 8
_LEAST_HEX, _LEAST_CHAIN = 6, 8
_MIXED, _ALL_HEX, _OFTEN = 3, 0.99, 0.25


def _classes() -> Bytes:
    found = np.zeros(256, np.uint8)
    found[128:] = found[65:91] = found[97:123] = _LETTER
    found[48:58], found[97:103], found[65:71], found[95] = _DIGIT, _LOW, _HIGH, _LETTER
    return found


_CLASS = _classes()


@dataclass(frozen=True, slots=True)
class Tokens:
    """n texts as t numbers and n + t stretches between them, of which every text has one more than numbers.

    data     : (bytes,) uint8, the texts end to end
    first    : (n + 1,) the first number of each text
    start, end, kind, decimals : (t,) of each number: where it is in data, DECIMAL, LOWER or UPPER, digits behind a point
    between  : (n + t,) position in `literals` of each stretch, of text r from first[r] + r on
    literals : distinct stretches, large_binary
    """

    data: Bytes
    first: Ints
    start: Ints
    end: Ints
    kind: Bytes
    decimals: Ints
    between: Ints
    literals: pa.Array

    def whole(self, rows: Ints, offsets: Ints) -> pa.Array:
        """The texts of some rows as they are. offsets: (n + 1,) of the texts in data"""
        return binaries(self.data, offsets).take(from_numpy(rows))


def slices(data: Bytes, start: Ints, end: Ints) -> pa.Array:
    """(k,) large_binary: data[start[i] : end[i]] each."""
    lengths = end - start
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    places = np.repeat(start - offsets[:-1], lengths) + np.arange(offsets[-1])
    return binaries(data[places], offsets)


def binaries(data: Bytes, offsets: Ints) -> pa.Array:
    """large_binary of bytes end to end and (k + 1,) offsets."""
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def cut(data: Bytes, offsets: Ints) -> Tokens:
    """Texts as numbers and stretches. offsets: (n + 1,) int64 of the texts, from 0 to len(data)"""
    n = len(offsets) - 1
    classes = _CLASS[data]
    begins = np.zeros(len(data) + 1, np.bool_)
    begins[offsets] = True
    hexed, hex_parts = _hexadecimal(data, classes, begins)
    plain = (classes == _DIGIT) & ~hexed
    parts = [hex_parts, _decimal(data, plain, classes, begins)]
    start, end, kind, decimals = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(start, kind="stable")
    start, end, kind, decimals = start[order], end[order], kind[order].astype(np.uint8), decimals[order]
    rows = np.searchsorted(offsets, start, "right") - 1
    first = np.searchsorted(rows, np.arange(n + 1))
    # a stretch is from the text's start, or the end of a number, to the next number, or the text's end
    numbered = np.arange(len(start)) + rows
    lows, highs = np.empty(n + len(start), np.int64), np.empty(n + len(start), np.int64)
    lows[first[:-1] + np.arange(n)], lows[numbered + 1] = offsets[:-1], end
    highs[first[1:] + np.arange(n)], highs[numbered] = offsets[1:], start
    within = np.concatenate([np.zeros(1, np.int64), np.cumsum(highs - lows)])
    coded = binaries(data[~_covered(start, end, len(data))], within).dictionary_encode()
    return Tokens(data, first, start, end, kind, decimals, to_numpy(coded.indices).astype(np.int64), coded.dictionary)


def _covered(start: Ints, end: Ints, n: int) -> Bools:
    """(n,) whether a place is in one of the stretches, which do not overlap."""
    turns = np.zeros(n + 1, np.int8)
    turns[start] = 1
    turns[end] -= 1
    found: Bools = np.cumsum(turns[:-1], dtype=np.int8) != 0
    return found


def _runs(of: Bools, begins: Bools) -> tuple[Ints, Ints]:
    """(start, end) of the longest runs of True that no text's border cuts."""
    before = np.concatenate([np.zeros(1, np.bool_), of[:-1]])
    after = np.concatenate([of[1:], np.zeros(1, np.bool_)])
    return np.flatnonzero(of & (~before | begins[:-1])), np.flatnonzero(of & (~after | begins[1:])) + 1


def _hexadecimal(data: Bytes, classes: Bytes, begins: Bools) -> tuple[Bools, tuple[Ints, Ints, Ints, Ints]]:
    """Which bytes are of hexadecimal numbers, and these in pieces: start, end, kind, decimals.

    A word behind `0x` is a number, if it may be. Words of hexadecimal digits that `-` or `:` links make a chain, as in a UUID; a chain is
    numbers if a third of it is in words of both digits and letters. Where nearly all words of a column could be and many are so mixed,
    all are. The classes of `0x` become those of what is between words.
    """
    start, end = _runs(classes != 0, begins)
    if not len(start):
        none = np.zeros(0, np.int64)
        return np.zeros(len(data), np.bool_), (none, none, none, none)
    told = (end - start > 2) & (data[start] == ord("0")) & (data[np.minimum(start + 1, len(data) - 1)] | 32 == ord("x"))
    classes[start[told]] = classes[start[told] + 1] = 0
    start = start + 2 * told
    flags = np.bitwise_or.reduceat(classes, start)  # what is between words has none
    able = (flags < _LETTER) & (flags & (_LOW | _HIGH) != _LOW | _HIGH)
    length = end - start
    mixed = able & (flags & _DIGIT != 0) & (flags != _DIGIT)
    linked = able[1:] & able[:-1] & (start[1:] == end[:-1] + 1) & ~begins[end[:-1]] & ~begins[start[1:]]
    joint = data[end[:-1]]
    linked &= (joint == ord("-")) | (joint == ord(":"))
    heads = np.flatnonzero(np.concatenate([np.ones(1, np.bool_), ~linked]))
    together = np.bitwise_or.reduceat(flags, heads)
    total, in_mixed = np.add.reduceat(length, heads), np.add.reduceat(length * mixed, heads)
    words = np.diff(np.concatenate([heads, [len(start)]]))
    meant = (_MIXED * in_mixed >= total) & (total >= np.where(words > 1, _LEAST_CHAIN, _LEAST_HEX))
    meant |= (words >= 6) & (total == 2 * words) & (together & _DIGIT != 0)  # addresses of six bytes
    meant &= (together & (_LOW | _HIGH) != 0) & (together & (_LOW | _HIGH) != _LOW | _HIGH) & (together < _LETTER)
    upper = np.repeat(together & _HIGH != 0, words)
    chosen = (np.repeat(meant, words) | told) & able
    if able.sum() >= _ALL_HEX * len(able) and mixed.sum() >= _OFTEN * len(able):
        case = int((flags & _HIGH != 0).sum()) > int((flags & _LOW != 0).sum())
        chosen, upper = able & (flags & (_LOW if case else _HIGH) == 0), np.full(len(able), case)
    start, end = start[chosen], end[chosen]
    pieces = _pieces(start, end, PIECE[LOWER])
    kind = np.where(upper[chosen], UPPER, LOWER)[pieces[2]]
    return _covered(start, end, len(data)), (pieces[0], pieces[1], kind, np.zeros(len(kind), np.int64))


def _decimal(data: Bytes, plain: Bools, classes: Bytes, begins: Bools) -> tuple[Ints, Ints, Ints, Ints]:
    """Decimal numbers: start, end, kind, decimals. Two runs of digits with a point between make one, three are an address or a version;
    a minus that follows no letter or digit is a sign."""
    start, end = _runs(plain, begins)
    none = np.zeros(0, np.int64)
    if not len(start):
        return none, none, none, none
    length = end - start
    pointed = np.zeros(len(start) + 1, np.bool_)  # whether a point links a run to the one before
    pointed[1:-1] = (start[1:] == end[:-1] + 1) & (data[end[:-1]] == ord(".")) & ~begins[end[:-1]] & ~begins[start[1:]]
    joins = np.zeros(len(start), np.bool_)  # to the next
    joins[:-1] = pointed[1:-1] & ~pointed[:-2] & ~pointed[2:]
    significant = length - ((length == 1) & (data[start] == 48))
    joins[:-1] &= significant[:-1] + length[1:] <= MOST_DIGITS
    heads = np.flatnonzero(~np.concatenate([np.zeros(1, np.bool_), joins[:-1]]))
    joined = joins[heads]
    start, decimals = start[heads], np.where(joined, length[np.minimum(heads + 1, len(length) - 1)], 0)
    end = np.where(joined, end[np.minimum(heads + 1, len(end) - 1)], end[heads])
    long = (end - start > MOST_DIGITS) & ~joined
    cut_start, cut_end, _ = _pieces(start[long], end[long], PIECE[DECIMAL])
    start, end, decimals = start[~long], end[~long], decimals[~long]
    before = np.maximum(start - 1, 0)
    signed = ~begins[start] & (data[before] == ord("-")) & (begins[before] | (classes[np.maximum(start - 2, 0)] == 0))
    start = start - signed
    many = len(cut_start)
    return (
        np.concatenate([start, cut_start]), np.concatenate([end, cut_end]),
        np.full(len(start) + many, DECIMAL), np.concatenate([decimals, np.zeros(many, np.int64)]),
    )  # fmt: skip


def _pieces(start: Ints, end: Ints, most: int) -> tuple[Ints, Ints, Ints]:
    """Runs cut into pieces of `most` bytes and a shorter last one: start, end, number of the run."""
    n = -(-(end - start) // most)
    of = np.repeat(np.arange(len(start)), n)
    at = np.arange(len(of)) - np.repeat(np.cumsum(n) - n, n)
    low = start[of] + most * at
    return low, np.minimum(low + most, end[of]), of


def values_of(tokens: Tokens, which: NDArray[Any]) -> Ints:
    """(k,) int64: what some numbers are, their points and their signs' places apart; hexadecimal pieces are below 2^32."""
    start, end = tokens.start[which], tokens.end[which]
    kind, decimals = tokens.kind[which], tokens.decimals[which]
    found = np.zeros(len(start), np.int64)
    if not len(start):
        return found
    data, base = tokens.data, np.where(kind == DECIMAL, 10, 16)
    negative = data[start] == ord("-")
    low = start + negative
    length = end - low - (decimals > 0)
    point = np.where(decimals > 0, length - decimals, length)
    for k in range(int(length.max())):
        here = np.flatnonzero(length > k) if k else np.arange(len(start))
        byte = data[low[here] + k + (k >= point[here])].astype(np.int64)
        digit = np.where(byte < 58, byte - 48, (byte | 32) - 87)
        found[here] = found[here] * base[here] + digit
    return np.where(negative, -found, found)
