"""Whether a compiled kernel gives the bits of the specification: one small pass of either kind by it, and by the formulas of
FORMAT.md in Python."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.lanes import KernelAbove, KernelMatch, KernelMix, KernelWalk, OwnFeature
from vae_core.entropy.passes import N_RAW_STEPS, Contexts, Digits, PassTables

Ints = NDArray[np.int64]
N_ROWS = 160
ENDS = np.array([40, 64, 120, N_ROWS], np.int64)
# weights of one sixteenth and of thousands, so that the smoothing of every level shows
FIRST, SECOND = ((1, 4, 12), (37, 5, 900), (0, 0, 0)), ((1, 9, 63), (3, 1, 40_000), (0, 1, 7))
N_FIRST, N_SECOND = 9, (5, 70)  # symbols: less than a vector, some, more than are looked through at once
RAW_BITS = np.array([0, 0, 1, 16, 17, 33, 0, 0, 64], np.int64)
LANES, MOST_LANES = 4, 16
LOWER = 1 << 32


def agrees(c: Any) -> bool:
    """Whether the kernel does what it should."""
    return all(_agrees_in_passes(c, n) for n in N_SECOND) and _agrees_forward(c)


def _agrees_in_passes(c: Any, n_second: int) -> bool:
    """Of lp_write, lp_encode and lp_read, with so many symbols of the second digit."""
    rng, digits = np.random.default_rng(7), ((N_FIRST, *FIRST), (n_second, *SECOND))
    symbols = [np.minimum(rng.geometric(0.3, N_ROWS) - 1, size - 1) for size in (N_FIRST, n_second)]
    symbols[1][::3] = rng.integers(0, n_second, len(symbols[1][::3]))
    written = [digit.astype(np.uint16) for digit in symbols]
    raw = rng.integers(-(1 << 63), (1 << 63) - 1, N_ROWS)
    free = 64 - np.maximum(RAW_BITS[symbols[0]], 1)
    raw = np.where(RAW_BITS[symbols[0]] == 0, 0, (raw.view(np.uint64) << free.astype(np.uint64) >> free.astype(np.uint64)).view(np.int64))
    first, last = rng.integers(0, 4, N_ROWS), rng.integers(0, 7, N_ROWS)
    contexts = [[None, first, first * 3 + rng.integers(0, 3, N_ROWS)], [None, None, last]]
    narrow = [
        Contexts(tuple(None if level is None else level.astype(np.int32) for level in levels), digit[3])
        for levels, digit in zip(contexts, digits, strict=True)
    ]
    most = N_ROWS * (len(symbols) + N_RAW_STEPS)
    low, width, lengths = np.empty(most, np.uint32), np.empty(most, np.uint32), np.empty(most, np.int64)
    fresh = PassTables(digits, RAW_BITS, N_ROWS, N_ROWS)
    n_steps = c.lp_write(
        *fresh.arguments(narrow, ENDS), kernel.pointers(written), kernel.pointer(raw), kernel.pointer(low),
        kernel.pointer(width), kernel.pointer(lengths),
    )  # fmt: skip
    steps = _slots(digits, contexts, symbols, raw)
    lengths = lengths[:n_steps].copy()
    n = int(lengths.sum())
    if [k for k in lengths.tolist() if k] != [len(step) for step in steps if step]:
        return False
    if list(zip(low[:n].tolist(), width[:n].tolist(), strict=True)) != [slot for step in steps for slot in step]:
        return False
    state, words = np.full(MOST_LANES, LOWER, np.uint64), np.empty(n, np.uint32)
    folds, at = np.empty(8, np.int64), np.array([n, LANES, sum(map(bool, steps)), 0], np.int64)
    c.lp_encode(
        kernel.pointer(low), kernel.pointer(width), kernel.pointer(lengths), kernel.size(n_steps), kernel.pointer(state),
        kernel.size(MOST_LANES), kernel.pointer(words), kernel.size(n), kernel.pointer(folds), kernel.pointer(at),
    )  # fmt: skip
    folds = folds[: at[3]][::-1].copy()
    if at[1] != MOST_LANES or not _read_by_formula(steps, state.tolist(), words[at[0] :].tolist(), folds.tolist()):
        return False
    got, rest = [np.empty(N_ROWS, np.uint16) for _ in symbols], np.empty(N_ROWS, np.int64)
    at[2:] = 0
    fresh = PassTables(digits, RAW_BITS, N_ROWS, N_ROWS)
    outcome = c.lp_read(
        *fresh.arguments(narrow, ENDS), kernel.pointer(state), kernel.pointer(words), kernel.size(n), kernel.pointer(folds),
        kernel.size(len(folds)), kernel.pointer(at), kernel.pointers(got), kernel.pointer(rest),
    )  # fmt: skip
    same = np.array_equal(rest, raw) and all(np.array_equal(a, b) for a, b in zip(got, symbols, strict=True))
    return same and bool(outcome == 0 and at[0] == n and at[1] == LANES and (state[:LANES] == LOWER).all())


def _agrees_forward(c: Any) -> bool:
    """Of lp_walk, by which lp_read_forward goes, too: five lanes of twelve rows, the last of nine, under each of the own features."""
    return _agrees_on_lags(c) and _agrees_on_matches(c) and _agrees_on_rows_above(c) and _agrees_on_mixes(c)


def _agrees_on_mixes(c: Any) -> bool:
    """Four predictions and two references, of values near one another and of any."""
    rng = np.random.default_rng(10)
    n_lanes, length, unit, power = 7, 30, 12, 2
    edges, n = np.arange(0, n_lanes * length + 1, n_lanes), n_lanes * length
    values, fixed = rng.integers(-40, 40, n), rng.integers(-(1 << 22), 1 << 22, n)
    values[::23] = rng.integers(-(1 << 62), 1 << 62, len(values[::23]))
    told = rng.integers(-(1 << 31), 1 << 31, (2, n)).astype(np.int32)
    told[0] = rng.integers(-640, 640, n)
    others = [(0, [(1, 4)]), (1, [(5, 4)]), (0, [(5, 6), (10, -2)]), (2, [(1, 4), (4, 63)])]
    around = (1, 1, 4, 5)
    inverses = np.array([0, *((1 << 24) // k for k in range(1, 256 * 5 + 1))], np.int32)
    walk = KernelWalk(edges, n_lanes, [(1, 30_000)], fixed, mix=KernelMix(others, told, around, unit, power, inverses))
    c.lp_walk(walk.pointer, None, kernel.size(0), kernel.pointer(values))

    def wrapped(x: int, n_bits: int = 32) -> int:
        return (x + (1 << n_bits - 1)) % (1 << n_bits) - (1 << n_bits - 1)

    def level(x: int) -> int:
        size = max(2, x.bit_length())
        return min(46, max(0, 2 * (size - 4) + (x >> (size - 2)) % 2))

    for lane in range(n_lanes):
        past: list[list[int]] = []  # of each step, to no reference and to each
        errors: list[list[int]] = [[0] * 6]
        for step in range(length):
            i = step * n_lanes + lane
            total = wrapped(int(fixed[i]) + (30_000 * int(values[i - n_lanes]) if step else 0), 64)
            off, levels = [0] * 6, [47, 47]
            whole = wrapped(wrapped(total - (1 << 15), 64) >> unit)
            if step:
                for k, (reference, terms) in enumerate(others):
                    near = wrapped((int(told[reference - 1, i]) if reference else 0) - whole)
                    sums = 4 * near + sum(quarters * past[max(0, step - lag)][reference] for lag, quarters in terms)
                    off[1 + k] = min(1 << 17, max(-(1 << 17), wrapped(sums) >> 2))
                seen = [sum(errors[max(0, step - lag)][k] for lag in around) for k in range(6)]
                sizes = [8 * ((e + 4).bit_length() - 1) + ((e + 4 << 8) >> (e + 4).bit_length() + 4) % 8 for e in seen[:5]]
                places = [min(127, power * (size - min(sizes))) for size in sizes]
                weights = [(256 - 16 * (p % 8)) >> (p // 8) for p in places]
                middle = sum(w * d for w, d in zip(weights, off[:5], strict=True)) * ((1 << 24) // sum(weights)) + (1 << 23) >> 24
                levels = [level(max(off[:5]) - min(off[:5]) << unit - 8), level(seen[5] << unit - 10)]
                off[5] = middle
                total = wrapped(total + (middle << unit), 64)
            if [walk.guess[i], walk.fraction[i], walk.apart[i], walk.around[i]] != [total >> 16, (total >> 13) % 8, *levels]:
                return False
            exact = wrapped(wrapped(int(values[i]) << 16, 64) >> unit)
            past.append([exact, *(wrapped(exact - int(told[k, i])) for k in range(2))])
            truth = min(1 << 18, max(-(1 << 18), wrapped(exact - whole)))
            if step:
                errors.append([min(65535, abs(truth - d)) for d in off])
    return True


def _agrees_on_matches(c: Any) -> bool:
    """Values that recur, under keys of lags, of another column, and of both."""
    rng = np.random.default_rng(9)
    n_lanes, length, bits = 6, 40, 8
    edges, n = np.arange(0, n_lanes * length + 1, n_lanes), n_lanes * length
    values, other = rng.choice([3, 9, 40, -70, 1 << 62, -(1 << 63)], n), rng.integers(0, 3, n).astype(np.uint64)
    fixed = rng.integers(-(1 << 22), 1 << 22, n)
    matches = [KernelMatch(lags, hashes, bits) for lags, hashes in (((1,), other), ((2, 1), np.zeros(n, np.uint64)), ((), other))]
    walk = KernelWalk(edges, n_lanes, [(1, 65536)], fixed, matches=matches, leader=1)
    c.lp_walk(walk.pointer, None, kernel.size(0), kernel.pointer(values))
    for number, match in enumerate(matches):
        memory: dict[int, tuple[int, int]] = {}
        for step in range(length):
            kept = []
            for i in range(step * n_lanes, (step + 1) * n_lanes):
                key, wanted = int(match.fixed[i]), 0
                if step < max(match.lags.tolist(), default=0):
                    continue
                for lag in match.lags.tolist():
                    key = (key ^ int(values[i - lag * n_lanes]) % (1 << 64)) * 0x9E3779B97F4A7C15 % (1 << 64)
                    key ^= key >> 29
                key = key * 0x9E3779B97F4A7C15 % (1 << 64) | 1
                held, value = memory.get(key >> 64 - bits, (0, 0))
                if held == key and number == 1 and (walk.guess[i], walk.fraction[i]) != (value, 0):
                    return False
                if held == key:
                    off = (value - int(walk.guess[i]) + (1 << 63)) % (1 << 64) - (1 << 63)
                    octave = min(8, abs(off).bit_length()) - 5
                    wanted = off + 16 if abs(off) <= 15 else 32 + octave + 4 * (off < 0)
                if int(match.level[i]) != wanted:
                    return False
                kept.append((key, int(values[i])))
            memory |= {key >> 64 - bits: (key, value) for key, value in kept}
    return True


def _agrees_on_lags(c: Any) -> bool:
    """Predictions, noise, and what they add to contexts."""
    rng = np.random.default_rng(8)
    n_lanes, length = 5, 12
    edges = np.cumsum([0] + [n_lanes] * 9 + [n_lanes - 1] * 3)
    n = int(edges[-1])
    values, fixed = rng.integers(-900, 900, n), rng.integers(-(1 << 26), 1 << 26, n)
    values[::17] = -(1 << 63)
    terms = [(1, 40_000), (3, -9_000), (7, 30_001)]
    kinds, bins, sizes = ("noise", "left", "guess", "fraction"), (-300, 0, 250), (48, 5, 4, 8)
    own = []
    for place, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        strides = [math.prod(sizes[place + 1 : at]) if at > place else 0 for at in range(5)]
        own.append(OwnFeature(0, kind, () if size in (48, 8) else bins, tuple(strides)))
    known: list[tuple[int, list[int]]] = []  # guess, levels of the features
    past: list[list[int]] = [[] for _ in range(n_lanes)]
    noise = [0] * n_lanes
    for step in range(length):
        for lane in range(int(edges[step + 1] - edges[step])):
            i, mine = int(edges[step]) + lane, past[lane]
            total = int(fixed[i]) + (sum(w * mine[max(0, step - lag)] for lag, w in terms) if step else 0)
            total = (total + (1 << 63)) % (1 << 64) - (1 << 63)
            size = max(2, noise[lane].bit_length())
            level = 47 if step < 2 else min(46, max(0, 2 * (size - 4) + (noise[lane] >> (size - 2)) % 2))
            binned = [sum(e <= x for e in bins) for x in (mine[-1] if step else 0, total >> 16)]
            known.append((total >> 16, [level, binned[0] if step else 4, binned[1], (total >> 13) % 8]))
            off = (int(values[i]) - (total >> 16) + (1 << 63)) % (1 << 64) - (1 << 63)
            surprise = min(1 << 40, abs(off)) << 8
            noise[lane] = surprise if step == 1 else noise[lane] + ((surprise - noise[lane]) >> 3)
            mine.append(int(values[i]))
    tables = PassTables([(9, [math.prod(sizes[:k]) for k in range(5)], [16] * 5, [0] * 5)], RAW_BITS, 64, n)
    contexts = Contexts.of(sizes, [np.zeros(n, np.int32) for _ in sizes], kind=np.int32)
    tables.bind([contexts])
    walk = KernelWalk(edges, n_lanes, terms, fixed, own)
    c.lp_walk(walk.pointer, tables.digits, kernel.size(1), kernel.pointer(values))
    for k in range(1, 5):
        base, wanted = contexts.bases[k], [sum(level * own[f].strides[k] for f, level in enumerate(levels)) for _, levels in known]
        if base is None or base.tolist() != wanted:
            return False
    return walk.guess.tolist() == [guess for guess, _ in known]


def _agrees_on_rows_above(c: Any) -> bool:
    """Predictions by rows above, how far off they were there, and what both add to contexts."""
    rng = np.random.default_rng(10)
    n_lanes, length, bins = 3, 14, (-300, 0, 250)
    edges, n = np.arange(0, n_lanes * length + 1, n_lanes), n_lanes * length
    values, fixed = rng.integers(-900, 900, n), rng.integers(-(1 << 24), 1 << 24, n)
    values[::17] = -(1 << 63)
    rows, terms = np.where(rng.random(n) < 0.8, 5, rng.integers(0, length + 4, n)), [(0, 40_000), (-1, -9_000), (2, 12_000)]
    own = [OwnFeature(0, "off", (), (0, 5, 5)), OwnFeature(0, "above", bins, (0, 0, 1), 1)]
    offs, noise, wanted = np.zeros((length, n_lanes), np.int64), [0] * n_lanes, list[tuple[int, int, int]]()
    grid = values.reshape(length, n_lanes).tolist()
    for step in range(length):
        for lane in range(n_lanes):
            i = step * n_lanes + lane

            def at(beside: int, step: int = step, i: int = i) -> int:
                back = int(rows[i]) - beside
                return step - (back if 0 < back <= step else 1)

            total = int(fixed[i]) + (sum(w * grid[at(k)][lane] for k, w in terms) if step else 0)
            total = (total + (1 << 63)) % (1 << 64) - (1 << 63)
            mean = noise[lane] + sum(int(offs[at(k), lane]) for k in (-1, 0, 1)) >> 2 if step else 0
            size = max(2, mean.bit_length())
            level = 47 if step < 2 else min(46, max(0, 2 * (size - 4) + (mean >> (size - 2)) % 2))
            bin_above = sum(e <= grid[at(1)][lane] for e in bins) if step else 4
            wanted.append((total >> 16, level, 5 * level + bin_above))
            off = (int(values[i]) - (total >> 16) + (1 << 63)) % (1 << 64) - (1 << 63)
            offs[step, lane] = surprise = min(1 << 40, abs(off)) << 8
            noise[lane] = surprise if step == 1 else noise[lane] + ((surprise - noise[lane]) >> 3)
    tables = PassTables([(9, [1, 48, 240], [16] * 3, [0] * 3)], RAW_BITS, 64, n)
    contexts = Contexts.of([48, 5], [np.zeros(n, np.int32) for _ in range(2)], kind=np.int32)
    tables.bind([contexts])
    walk = KernelWalk(edges, n_lanes, [], fixed, own, above=KernelAbove(rows, terms))
    c.lp_walk(walk.pointer, tables.digits, kernel.size(1), kernel.pointer(values))
    base = contexts.bases[2]
    found = zip(walk.guess.tolist(), walk.off.tolist(), [] if base is None else base.tolist(), strict=True)
    return list(found) == wanted


def _slots(
    digits: Digits, contexts: list[list[Ints | None]], symbols: list[Ints], raw: Ints
) -> list[list[tuple[int, int]]]:
    """(low, width) of every symbol of every step."""
    seen: dict[tuple[int, ...], list[int]] = {}
    steps: list[list[tuple[int, int]]] = []
    start = 0
    for stop in ENDS.tolist():
        for k, (size, _, weights, strides) in enumerate(digits):
            step, met = [], []
            for i in range(start, stop):
                chance = [(1 << 20) // size] * size
                for level, (weight, stride) in enumerate(zip(weights, strides, strict=True)):
                    base = contexts[k][level]
                    number = (0 if base is None else int(base[i])) + (stride * int(symbols[k - 1][i]) if k else 0)
                    counts = seen.setdefault((k, level, number), [0] * size)
                    total = 16 * sum(counts) + weight
                    chance = [((n << 24) + weight * p) // total for n, p in zip(counts, chance, strict=True)]
                    met.append((counts, int(symbols[k][i])))
                edges = [0, *accumulate(p + 1 for p in chance)]
                low, high = ((edges[symbols[k][i] + end] << 24) // edges[-1] for end in (0, 1))
                step.append((low, high - low))
            for counts, symbol in met:
                counts[symbol] += 1
            steps.append(step)
        for done in range(0, 64, 16):
            widths = [(i, min(16, int(RAW_BITS[symbols[0][i]]) - done)) for i in range(start, stop)]
            steps.append([((int(raw[i]) >> done) % (1 << b) << 24 - b, 1 << 24 - b) for i, b in widths if b > 0])
        start = stop
    return steps


def _read_by_formula(steps: list[list[tuple[int, int]]], state: list[int], words: list[int], folds: list[int]) -> bool:
    """Whether states and words are those of a stream of these slots."""
    for number, step in enumerate(step for step in steps if step):
        while folds and folds[0] == number:
            folds = folds[1:]
            state, ended = state[: len(state) // 2], state[len(state) // 2 :]
            if any(x >> 32 != 1 for x in ended):
                return False
            words = [x - LOWER for x in ended] + words
        for i, (low, width) in enumerate(step):
            x = state[i % len(state)]
            slot = x % (1 << 24)
            if not low <= slot < low + width:
                return False
            x = width * (x >> 24) + slot - low
            if x < LOWER:
                if not words:
                    return False
                x, words = (x << 32) + words[0], words[1:]
            state[i % len(state)] = x
    return not words and not folds and set(state) == {LOWER}
