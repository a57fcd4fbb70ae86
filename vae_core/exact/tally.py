"""What the search counts, in compiled code: tally.c, loaded as entropy/kernel.py loads the coder's, and like it optional.

costs.py and keys.py are the specification in numpy; sums of logarithms are the same up to their rounding.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel

Ints = NDArray[np.int64]
Narrow = NDArray[np.int32]
Floats = NDArray[np.float64]
SOURCE = Path(__file__).with_name("tally.c")
MOST_ROWS = 1 << 24
_own = threading.local()


@cache
def library() -> Any | None:
    """The loaded functions, None when there are none to be had."""
    return kernel.load(SOURCE, ("lp_workspace", "lp_extend", "lp_number"), agrees)


def above(
    c: Any, scaled: NDArray[np.uint8], lags: tuple[int, int], far: int, jump: int, likely: Narrow, began: Narrow
) -> None:
    """As above.follow, for lags from the first to the last."""
    (n_columns, n), n_lags, size = scaled.shape, lags[1] - lags[0] + 1, kernel.size
    costs, best, since = np.empty(n_lags, np.uint8), np.zeros(n_lags, np.uint32), np.zeros(n_lags, np.int32)
    c.lp_above(
        kernel.pointer(np.ascontiguousarray(scaled)), size(n_columns), size(n), size(lags[0]), size(lags[1]), size(far), size(jump),
        *(kernel.pointer(a) for a in (costs, best, since, likely, began)),
    )  # fmt: skip


def narrow(values: NDArray[Any], size: int) -> Narrow:
    """(n,) integers in [0, size), half as wide. Raises ValueError where they are not."""
    if values.dtype == np.int32:
        return values
    if len(values) and not 0 <= values.min() <= values.max() < size:
        raise ValueError(f"levels {values.min()}..{values.max()} where there are {size}")
    return values.astype(np.int32)


def rising(weight: int, n: int) -> Floats:
    """log(Gamma(a + k) / Gamma(a)) for k = 0..n at least, a = weight / 16."""
    return _rising(weight, 1 << n.bit_length())


@cache
def _rising(weight: int, n: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.log(weight / 16 + np.arange(n)))])


def rank(
    c: Any, symbols: Narrow, n_symbols: int, context: Narrow, n_contexts: int, chance: Floats,
    levels: Sequence[Narrow], sizes: Sequence[int], weights: Sequence[int],
) -> list[float]:  # fmt: skip
    """Bits of the deepest level of a chain with one more feature, by the best of the weights, for each of several (see costs.Chain)."""
    n, bits, symbols = len(symbols), np.empty(len(levels)), np.ascontiguousarray(symbols)
    strides, of_each = np.array([level.strides[0] // level.itemsize for level in levels], np.int64), np.array(sizes, np.int64)
    addresses = np.array([level.ctypes.data for level in levels], np.uintp)
    size, tables, tried = kernel.size, [rising(w, n) for w in weights], np.array(weights, np.int64)
    c.lp_rank(
        size(n), size(n_contexts), size(n_symbols), kernel.pointer(context), kernel.pointer(symbols), kernel.pointer(chance),
        size(len(levels)), kernel.pointer(addresses), kernel.pointer(strides), kernel.pointer(of_each), size(len(weights)),
        kernel.pointer(tried), kernel.pointers(tables), kernel.pointer(_workspace(c, n)), kernel.pointer(bits),
    )  # fmt: skip
    return [float(b) for b in bits]


def extend(
    c: Any, symbols: Narrow, n_symbols: int, context: Narrow, n_contexts: int, chance: Floats,
    level: Narrow, n_levels: int, weights: Sequence[int],
) -> tuple[Narrow, int, Floats, int, float, float]:  # fmt: skip
    """The deepest level of a chain with one more feature: contexts, how many, chances, weight, bits, bits by the chances."""
    n, bits, size = len(symbols), np.empty(3), kernel.size
    found, likely, symbols = np.empty(n, np.int32), np.empty(n), np.ascontiguousarray(symbols)
    tables, tried = [rising(w, n) for w in weights], np.array(weights, np.int64)
    n_found = c.lp_extend(
        size(n), size(n_contexts), size(n_symbols), kernel.pointer(context), kernel.pointer(symbols), kernel.pointer(chance),
        level.ctypes.data_as(kernel.ADDRESS), size(level.strides[0] // level.itemsize), size(n_levels), size(len(weights)),
        kernel.pointer(tried), kernel.pointers(tables), kernel.pointer(_workspace(c, n)), kernel.pointer(bits),
        kernel.pointer(found), kernel.pointer(likely),
    )  # fmt: skip
    return found, int(n_found), likely, weights[int(bits[2])], float(bits[0]), float(bits[1])


def recalled(c: Any, key: Ints, n_keys: int, values: Ints) -> tuple[int, int]:
    """How many rows have a row before them with their key, in [0, n_keys), and how many the same value as the last of these."""
    found = np.zeros(2, np.int64)
    c.lp_recalled(
        kernel.size(len(key)), kernel.pointer(key), kernel.size(n_keys), kernel.pointer(values), kernel.pointer(_workspace(c, len(key))),
        kernel.pointer(found),
    )  # fmt: skip
    return int(found[0]), int(found[1])


def number(c: Any, key: Ints, n_keys: int) -> tuple[Ints, int]:
    """(n,) keys, in [0, n_keys), as numbers in the order of their first sight, and how many there are."""
    found = np.empty(len(key), np.int64)
    n_found = c.lp_number(
        kernel.size(len(key)), kernel.pointer(key), kernel.size(n_keys), kernel.pointer(_workspace(c, len(key))), kernel.pointer(found)
    )
    return found, int(n_found)


def _workspace(c: Any, n: int) -> NDArray[np.uint64]:
    """Room for n rows, one for each thread."""
    wanted = c.lp_workspace(kernel.size(n))
    room: NDArray[np.uint64] | None = getattr(_own, "room", None)
    if room is None or len(room) < wanted:
        room = _own.room = np.empty(wanted, np.uint64)
    return room


def agrees(c: Any) -> bool:
    """Whether the functions give what their formulas say, where keys are few and where they are hashed."""
    from vae_core.exact.above import follow  # made of this module's pieces

    rng = np.random.default_rng(5)
    scaled = np.cumsum(rng.integers(-2, 3, (3, 300)), axis=1).astype(np.uint8)
    lags, began, known, started = (np.empty(300, np.int32) for _ in range(4))
    above(c, scaled, (8, 120), 25, 30, lags, began)
    follow(scaled, 120, 30, known, started)
    if not (np.array_equal(lags, known) and np.array_equal(began, started)):
        return False
    n, n_symbols, weights = 700, 9, (2, 16, 900)
    symbols = np.minimum(rng.geometric(0.3, n) - 1, n_symbols - 1).astype(np.int32)
    context, chance = rng.integers(0, 3, n).astype(np.int32), 0.05 + 0.1 * symbols.astype(np.float64)
    for size in (4, 1 << 20):
        level = rng.integers(0, size, n).astype(np.int32)
        level[::2] = symbols[::2] // 3
        bits = [_bits_by_formula(symbols, chance, list(zip(context.tolist(), level.tolist(), strict=True)), w / 16) for w in weights]
        found, n_found, likely, weight, best, plug_in = extend(c, symbols, n_symbols, context, 3, chance, level, size, weights)
        ranked = rank(c, symbols, n_symbols, context, 3, chance, [level, np.repeat(level, 2)[::2]], [size, size], weights[1:])
        totals, pairs = Counter(found.tolist()), Counter(zip(found.tolist(), symbols.tolist(), strict=True))
        a = weight / 16
        expected = [
            (pairs[k, s] + a * p) / (totals[k] + a) for k, s, p in zip(found.tolist(), symbols.tolist(), chance.tolist(), strict=True)
        ]
        same = len(set(zip(found.tolist(), context.tolist(), level.tolist(), strict=True))) == len(totals) == n_found
        wanted = [min(bits), -np.log2(expected).sum(), min(bits[1:]), min(bits[1:])]
        close = np.allclose([best, plug_in, *ranked], wanted, rtol=1e-9, atol=1e-6)
        if not (same and close and weights[bits.index(min(bits))] == weight and np.allclose(likely, expected, rtol=1e-12)):
            return False
        key, last, seen_same = level.astype(np.int64), dict[int, int](), [0, 0]
        for k, value in zip(key.tolist(), symbols.tolist(), strict=True):
            seen_same = [seen_same[0] + (k in last), seen_same[1] + (last.get(k) == value)]
            last[k] = value
        numbers, n_numbers = number(c, key, size)
        if list(recalled(c, key, size, symbols.astype(np.int64))) != seen_same or n_numbers != len(last):
            return False
        if numbers.tolist() != [list(last).index(k) for k in key.tolist()]:
            return False
    return True


def _bits_by_formula(symbols: Narrow, chance: Floats, contexts: list[tuple[int, int]], a: float) -> float:
    totals, priors = Counter(contexts), dict(zip(zip(contexts, symbols.tolist(), strict=True), chance.tolist(), strict=True))
    pairs = Counter(zip(contexts, symbols.tolist(), strict=True))
    above = sum(math.lgamma(a + n) - math.lgamma(a) for n in totals.values())
    return (above - sum(math.lgamma(a * priors[k] + n) - math.lgamma(a * priors[k]) for k, n in pairs.items())) / math.log(2)
