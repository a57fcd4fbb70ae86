"""Columns of integers through adaptive counts and rANS: the entropy coder under the learned peers.

The coder and the counts are the product's, so that peers differ by how they predict, not by how they write. A column is one
stream; a wide value is digits (the leading one under the contexts given, the next under the leading one), a residual is a
token for its size and raw bits for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy.rans import Channel, Decoder, Encoder
from vae_core.exact.costs import ALL_WEIGHTS, extend, root
from vae_core.exact.counts import AdaptiveCounts
from vae_core.exact.raw import code_raw

Ints = NDArray[np.int64]

MOST_SYMBOLS = 512
FIRST_CHUNK, LAST_CHUNK = 64, 4096
JUDGED_ROWS = 49_152
DIGIT_BITS = 8
RAW_BITS = 16
EXACT = 96
"""Residuals up to this size have a token of their own; beyond, one for each quarter of an octave and sign."""


class Writer:
    """Codes integers known; `finish` gives the stream."""

    def __init__(self) -> None:
        self.channel: Channel = Encoder()

    def finish(self) -> bytes:
        """The bytes of what was coded."""
        assert isinstance(self.channel, Encoder)
        return self.channel.finish()


class Reader:
    """Gives the integers of a stream back, asked in the order they were written."""

    def __init__(self, data: bytes) -> None:
        self.channel: Channel = Decoder(data)


def code_values(
    coder: Writer | Reader, n: int, span: int, contexts: Sequence[Ints], sizes: Sequence[int], values: Ints | None
) -> Ints:
    """n integers in [0, span): values when writing, None when reading; contexts[k] (n,) in [0, sizes[k])."""
    shift = max(0, (span - 1).bit_length() - (MOST_SYMBOLS.bit_length() - 1))
    top = code_symbols(coder, n, ((span - 1) >> shift) + 1, contexts, sizes, None if values is None else values >> shift)
    out = top << shift
    above, n_above = top, ((span - 1) >> shift) + 1
    under, under_sizes = [above, *contexts[:1]], [n_above, *sizes[:1]]
    while shift:
        bits = min(DIGIT_BITS, shift)
        shift -= bits
        digit = None if values is None else (values >> shift) & ((1 << bits) - 1)
        cells = int(np.prod(under_sizes, dtype=np.float64)) << bits
        if cells > 1 << 22:
            under, under_sizes = under[:1], under_sizes[:1]
        got = code_symbols(coder, n, 1 << bits, under, under_sizes, digit)
        out |= got << shift
        under, under_sizes = [], []
    return out


def code_residuals(
    coder: Writer | Reader, n: int, contexts: Sequence[Ints], sizes: Sequence[int], residuals: Ints | None
) -> Ints:
    """n signed integers, small ones cheap; as `code_values`."""
    if residuals is None:
        n_symbols = int(coder.channel.raw(np.array([RAW_BITS]), None)[0])
        token = code_symbols(coder, n, n_symbols, contexts, sizes, None)
        n_bits = _token_bits(token)
        return _from_tokens(token, n_bits, code_raw(coder.channel, n_bits, None))
    token, raw = _to_tokens(residuals)
    n_symbols = int(token.max(initial=0)) + 1
    coder.channel.raw(np.array([RAW_BITS]), np.array([n_symbols]))
    code_symbols(coder, n, n_symbols, contexts, sizes, token)
    code_raw(coder.channel, _token_bits(token), raw)
    return residuals


def code_symbols(
    coder: Writer | Reader, n: int, n_symbols: int, contexts: Sequence[Ints], sizes: Sequence[int], symbols: Ints | None
) -> Ints:
    """n symbols in [0, n_symbols) under adaptive counts; as `code_values`."""
    if n_symbols <= 1:
        return np.zeros(n, np.int64)
    weights = _code_weights(coder, None if symbols is None else _weights(n_symbols, contexts, sizes, symbols))
    contexts, sizes = contexts[: len(weights) - 1], sizes[: len(weights) - 1]
    counts = AdaptiveCounts(n_symbols, sizes, weights)
    out, order = np.empty(n, np.int64), _shuffled(n)
    for chunk in _chunks(n):
        rows = order[chunk]
        found = counts.contexts([level[rows] for level in contexts], len(rows))
        cumulative, table = counts.cumulative(found)
        got = coder.channel.code(cumulative, table, None if symbols is None else symbols[rows])
        counts.update(found, got)
        out[rows] = got
    return out


def _weights(n_symbols: int, contexts: Sequence[Ints], sizes: Sequence[int], symbols: Ints) -> tuple[int, ...]:
    """How much each level of the counts trusts the one above, judged on a sample; contexts that do not help are cut off."""
    rows = slice(None, None, max(1, len(symbols) // JUDGED_ROWS))
    known = symbols[rows]
    found = [root(known, n_symbols)]
    for level, size in zip(contexts, sizes, strict=True):
        found.append(extend(found[-1], np.ascontiguousarray(level[rows]), size, known, n_symbols, ALL_WEIGHTS))
    return min(found, key=lambda chain: chain.bits).weights


def _code_weights(coder: Writer | Reader, weights: tuple[int, ...] | None) -> tuple[int, ...]:
    n_levels = coder.channel.raw(np.array([2]), None if weights is None else np.array([len(weights)]))[0]
    known = None if weights is None else np.array(weights, np.int64)
    return tuple(coder.channel.raw(np.full(n_levels, RAW_BITS), known).tolist())


def levels_of(values: Ints, most: int) -> tuple[Ints, int]:
    """Values decoded already as a context of at most so many levels, of about equal frequency: ((n,) levels, their number)."""
    seen, place, times = np.unique(values, return_inverse=True, return_counts=True)
    if len(seen) <= most:
        return place.astype(np.int64), max(1, len(seen))
    middle = np.cumsum(times) - times / 2
    level = np.minimum((middle * most / len(values)).astype(np.int64), most - 1)
    return level[place], most


@cache
def _shuffled(n: int) -> Ints:
    """The order in which n rows are coded. Counts know what came chunks ago, not a row ago: in sorted data that would be nothing."""
    return np.random.default_rng(n).permutation(n)


def token_cost(residuals: Ints, level: Ints, n_levels: int) -> float:
    """Bits that `code_residuals` would take under one context, estimated."""
    token, _ = _to_tokens(residuals)
    chain = root(token, int(token.max(initial=0)) + 1)
    bits = min(chain.bits, extend(chain, level, n_levels, token, int(token.max(initial=0)) + 1).bits)
    return bits + float(_token_bits(token).sum())


def _chunks(n: int) -> Iterator[slice]:
    start = 0
    while start < n:
        length = min(LAST_CHUNK, max(FIRST_CHUNK, start // 4))
        yield slice(start, min(n, start + length))
        start += length


def _to_tokens(residuals: Ints) -> tuple[Ints, Ints]:
    """(tokens, the raw bits that go with them)."""
    size, negative = np.abs(residuals), (residuals < 0).astype(np.int64)
    small = np.where(residuals == 0, 0, 2 * size - 1 + negative)
    beyond = np.maximum(size - EXACT + 63, 64)
    octave = np.floor(np.log2(beyond.astype(np.float64))).astype(np.int64)
    octave -= (np.int64(1) << octave) > beyond  # log2 rounds up just below powers of two beyond 2^53
    quarter = (beyond >> (octave - 2)) & 3
    large = 2 * EXACT + 1 + 2 * (4 * (octave - 6) + quarter) + negative
    token = np.where(size <= EXACT, small, large)
    raw = np.where(size <= EXACT, 0, beyond & ((np.int64(1) << (octave - 2)) - 1))
    return token, raw


def _token_bits(token: Ints) -> Ints:
    """How many raw bits follow each token."""
    octave = (token - 2 * EXACT - 1) // 8 + 6
    return np.where(token <= 2 * EXACT, 0, octave - 2)


def _from_tokens(token: Ints, n_bits: Ints, raw: Ints) -> Ints:
    small = np.where(token & 1, (token + 1) >> 1, -(token >> 1))
    step = np.maximum(token - 2 * EXACT - 1, 0)
    beyond = ((4 + ((step >> 1) & 3)) << n_bits) | raw
    size = beyond + EXACT - 63
    return np.where(token <= 2 * EXACT, small, np.where(step & 1, -size, size))
