"""Rows coded one after another, in lanes: what a column was in the rows before tells what it is, however they are sorted.

Where rows are in order (telemetry), or are once they are sorted by columns decoded before (devices whose rows are mixed, stations
that report at the same hours), a prediction from many rows before is worth more than one from two rows around it. To decode
without a loop over rows, the rows in their order are cut into *lanes* of equal length, and one row of every lane is coded at a
step: its predictions read the rows before it in its lane, and columns decoded earlier at any row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.lanes import KernelMatch, KernelMix, KernelWalk, OwnFeature
from vae_core.errors import CorruptArchive
from vae_core.exact.features import NOISE_LEVELS, Decoded, Surroundings, noise_level
from vae_core.exact.linear import SHIFT, Linear
from vae_core.exact.matches import Match, Memory, bits_for, fixed_hashes, led, level
from vae_core.exact.mixing import INVERSES, Mixer
from vae_core.exact.sorting import by_columns

Ints = NDArray[np.int64]
S = TypeVar("S", bound=np.generic)
STEPS = 512  # rows of a lane, unless there are more rows than MOST_LANES of them
MOST_LANES = 512
MOST_SURPRISE = np.uint64(1 << 40)
ROUND = 1 << (SHIFT - 1)
TILE = 64  # steps transposed at once
APART = 8  # places between lanes that are: at distances of powers of two they would fall on the same places of a cache
SPAN = 1 << 14  # places summed at once
REACHES, LEAST_LANES = 16, 16  # of lanes of tensors: lengths of what a prediction looks back, and how many for that at least


class Lanes:
    """The active rows of a block in coding order.

    n           : how many they are
    n_places    : those that have places in lanes
    edges       : (n_steps + 1,) where each step begins
    lanes       : None where the rows of a step are those of the first lanes, one each; else (n,) the lane of each row. Of tensors, cells
                  that are not active have places all the same: what is above stays above
    """

    def __init__(self, decoded: Decoded, keys: Sequence[int], active: Ints | None, linear: Linear | None = None) -> None:
        """active: (n,) row numbers, ascending, None for all. keys: earlier columns the rows are sorted by, the first one above all; ties
        keep their order. linear: the prediction, which lanes of tensors are made for. Raises CorruptArchive when a key is not decoded."""
        missing = [j for j in keys if j not in decoded.values]
        if missing:
            raise CorruptArchive(f"model sorts a column by column {missing[0]}, which is not decoded before it")
        self._sorted: Ints | None = None  # as they are
        if active is not None and len(active) < decoded.n_rows and not decoded.piece:
            self._sorted = active
        if keys and not decoded.piece:
            order = by_columns([decoded.values[j] if self._sorted is None else decoded.values[j].take(self._sorted) for j in keys])
            self._sorted = order if self._sorted is None else self._sorted.take(order)
        self.n_places = n = decoded.n_rows if self._sorted is None else len(self._sorted)
        length = max(STEPS, -(-n // MOST_LANES))
        if decoded.piece and linear is not None:
            # long enough for rows above, and whole tensors where these are shorter; of vectors one each
            length = max(length, min(REACHES * linear.reach, n // LEAST_LANES))
            if linear.dense is not None:
                length = decoded.piece
            elif decoded.piece <= length:
                length = -(-length // decoded.piece) * decoded.piece
        self.n_lanes = -(-n // length)
        self.n_steps = min(n, length)
        self._length = length
        self._last = n - length * (self.n_lanes - 1)  # places of the last lane
        self.lanes: Ints | None = None
        if active is not None and len(active) < n:
            held = np.zeros(self.n_lanes * length, np.bool_)
            held[active] = True
            steps, self.lanes = np.nonzero(held.reshape(self.n_lanes, length).T)
            self._places = length * self.lanes + steps  # of the coded rows in the sorted ones
            self.edges = np.searchsorted(steps, np.arange(self.n_steps + 1))
        else:
            steps = np.arange(self.n_steps + 1)
            self.edges = steps * self.n_lanes - np.maximum(steps - self._last, 0)
        self.n = int(self.edges[-1])

    @cached_property
    def sorted_rows(self) -> Ints:
        """Row numbers in their order, lane after lane."""
        return np.arange(self.n_places) if self._sorted is None else self._sorted

    @cached_property
    def rows(self) -> Ints:
        """(n,) row numbers, step after step; within a step lane after lane."""
        return self.in_steps(self.sorted_rows)

    def in_steps(self, values: NDArray[S]) -> NDArray[S]:
        """(n,) values of the sorted rows in coding order: of whole lanes a transposition, several times as fast as look-ups."""
        if self.lanes is not None or not self.n:
            found: NDArray[S] = values.take(self._places) if self.n else values[:0]
            return found
        found, padded = np.empty(self.n, values.dtype), np.empty((self.n_lanes, TILE + APART), values.dtype)
        for grid, steps in self._grids(values, found):
            for start in range(0, len(steps), TILE):
                tile = padded[: len(grid), : len(steps[start : start + TILE])]
                tile[:] = grid[:, start : start + TILE]
                steps[start : start + TILE] = tile.T
        return found

    def put(self, own: Ints, values: Ints) -> None:
        """Give the coded rows of a column, (n_rows,), their (n,) values in coding order."""
        if self.lanes is not None or self._sorted is not None:
            own[self.rows] = values
            return
        padded = np.empty((self.n_lanes, TILE + APART), values.dtype)
        for grid, steps in self._grids(own, values):
            for start in range(0, len(steps), TILE):
                tile = padded[: len(grid), : len(steps[start : start + TILE])]
                tile.T[:] = steps[start : start + TILE]
                grid[:, start : start + TILE] = tile

    def _grids(self, places: NDArray[S], coded: NDArray[S]) -> list[tuple[NDArray[S], NDArray[S]]]:
        """Values of all places and the same in coding order, each as matrices of one another's transposes: of the lanes but the last,
        and of that one; of the steps that have it, and of those that have not."""
        whole, rest = self.n_lanes - 1, self._last
        lanes, between = places[: whole * self._length].reshape(whole, self._length), rest * self.n_lanes
        head, tail = coded[:between].reshape(rest, self.n_lanes), coded[between:].reshape(self.n_steps - rest, whole)
        last = places[whole * self._length :].reshape(1, rest)
        return [(lanes[:, :rest], head[:, :whole]), (last, head[:, whole:]), (lanes[:, rest : self.n_steps], tail)]

    def of(self, values: NDArray[S]) -> NDArray[S]:
        """(n,) what a column, (n_rows,) values, holds in each row, in coding order."""
        return self.in_steps(values) if self._sorted is None else values.take(self.rows)

    def sorted(self, values: Ints) -> Ints:
        """What a column, (n_rows,) values, holds in each of the sorted rows."""
        return values if self._sorted is None else values.take(self._sorted)

    @cached_property
    def _coded(self) -> Ints:
        """(n,) places of the coded rows in the sorted ones, in coding order."""
        return self.in_steps(np.arange(self.n_places))

    def rows_before(self, picked: Ints, lag: int) -> Ints:
        """(k,) numbers of the rows `lag` before those that `picked` counts in coding order; at the ends what is nearest."""
        places = np.clip(self._coded[picked] - lag, 0, self.n_places - 1)
        return places if self._sorted is None else self._sorted[places]

    def firsts(self, lag: int) -> Ints:
        """Of the rows of the first step, the place in the sorted rows that is `lag` before; at the ends what is nearest."""
        first = slice(0, int(self.edges[1]) if self.n else 0)
        places = self._length * np.arange(self.n_lanes) if self.lanes is None else self._places[first]
        return np.clip(places - lag, 0, self.n_places - 1)

    def back(self, truth: Ints, lag: int) -> Ints:
        """(n,) what is known of (n,) values in coding order so many steps before each, in its lane; of the first steps what is first."""
        steps = np.repeat(np.arange(self.n_steps), np.diff(self.edges))
        before = np.maximum(steps - lag, 0)
        if self.lanes is None:
            found: Ints = truth[self.edges[before] + np.arange(len(truth)) - self.edges[steps]]
            return found
        past, last = np.zeros((self.n_steps, self.n_lanes), np.int64), np.zeros((self.n_steps, self.n_lanes), np.int64)
        past[steps, self.lanes], last[steps, self.lanes] = truth, steps
        found = past[np.maximum.accumulate(last, axis=0)[before, self.lanes], self.lanes]
        return found

    def of_step(self, step: int) -> slice | Ints:
        """The lanes of the rows of a step."""
        start, stop = self.edges[step : step + 2]
        return slice(0, int(stop - start)) if self.lanes is None else self.lanes[start:stop]


class Walk:
    """The prediction of a column step by step: what it knows of each lane."""

    def __init__(
        self, lanes: Lanes, linear: Linear, decoded: Decoded, matches: Sequence[Match] = (), leader: int | None = None,
        totals: Ints | None = None,
    ) -> None:
        """totals: what fixed_totals gives. Raises CorruptArchive when the prediction or a match reads a column that is not decoded."""
        self._lanes = lanes
        own, self._dense = [term for term in linear.terms if term.column < 0], linear.dense
        self._lags = np.array([term.lag for term in own], np.int64)
        self._weights = np.array([[term.weight] for term in own], np.int64)
        self._totals = fixed_totals(lanes, linear, decoded) if totals is None else totals
        self._past = np.zeros((lanes.n_steps, lanes.n_lanes), np.int64)
        self._noise = np.zeros(lanes.n_lanes, np.int64)
        self._guess: Ints = np.empty(0, np.int64)
        self._leader = leader
        self._mixer: Mixer | None = None
        if linear.mixed is not None:
            self._mixer = Mixer(linear.mixed, lanes.n_steps, lanes.n_lanes, references_of(lanes, linear, decoded))
        self._memories = [Memory(match, fixed_hashes(match, lanes, decoded), lanes.n) for match in matches]

    def around(self, step: int) -> Surroundings:
        """What is known of the rows of a step."""
        start, stop = self._lanes.edges[step : step + 2]
        total, n, lanes = self._totals[start:stop], stop - start, self._lanes.of_step(step)
        if self._dense is not None:
            with np.errstate(over="ignore"):
                total = total + self._dense.total(step, self._past[:step, lanes])
        if step == 0:
            left, noise = None, np.full(n, NOISE_LEVELS - 1, np.int64)
        else:
            if len(self._lags):
                past = self._past.take(np.maximum(step - self._lags, 0), axis=0)[:, lanes]
                past *= self._weights
                total = total + np.add.reduce(past, axis=0)
            left = self._past[step - 1, lanes]
            noise = noise_level(self._noise[lanes]) if step > 1 else np.full(n, NOISE_LEVELS - 1, np.int64)
        apart = around = None
        if self._mixer is not None:
            total, apart, around = self._mixer.mix(step, slice(int(start), int(stop)), total, lanes)
        self._guess, fraction = total >> SHIFT, (total >> (SHIFT - 3)) & 7
        recalled = [memory.recall(step, slice(int(start), int(stop)), self._past, lanes) for memory in self._memories]
        if self._leader is not None:
            self._guess, fraction = led(*recalled[self._leader], self._guess, fraction)
        matches = tuple(level(seen, values, self._guess) for seen, values in recalled)
        back = None if step == 0 else lambda lag: self._past[max(step - lag, 0), lanes]
        return Surroundings(0, left, None, self._guess, fraction, noise, matches, back, apart, around)

    def learn(self, step: int, values: Ints) -> None:
        """(n,) values of the rows of a step, now known."""
        lanes = self._lanes.of_step(step)
        if step and self._lanes.lanes is not None:
            self._past[step] = self._past[step - 1]  # cells without a value stand for those before them
        self._past[step, lanes] = values
        if self._mixer is not None:
            self._mixer.learn(step, values, lanes)
        for memory in self._memories:
            memory.learn(step, values)
        surprise = np.minimum(np.abs(values - self._guess).view(np.uint64), MOST_SURPRISE).view(np.int64)  # -2**63 is far, too
        surprise <<= 8
        if step != 1:
            noise = self._noise[lanes]
            surprise -= noise
            surprise >>= 3
            surprise += noise
        self._noise[lanes] = surprise


def fixed_totals(lanes: Lanes, linear: Linear, decoded: Decoded) -> Ints:
    """(n,) what a prediction sums of other columns, in coding order. Raises CorruptArchive when one of them is not decoded."""
    terms = [t for t in linear.terms if t.column >= 0]
    missing = [t.column for t in (*terms, *linear.anchor_terms) if t.column not in decoded.values]
    if missing:
        raise CorruptArchive(f"model predicts a column from column {missing[0]}, which is not decoded before it")
    known = {j: lanes.sorted(decoded.values[j]) for j in {t.column for t in (*terms, *linear.anchor_terms)}}
    if terms:
        found = lanes.in_steps(_totals([(known[t.column], t.lag, t.weight) for t in terms], linear.bias, lanes.n_places))
    else:
        found = np.full(lanes.n, linear.bias + ROUND, np.int64)
    if lanes.n:
        first = np.full(int(lanes.edges[1]), linear.anchor_bias + ROUND, np.int64)
        with np.errstate(over="ignore"):
            for t in linear.anchor_terms:
                first += np.int64(t.weight) * known[t.column][lanes.firsts(t.lag)]
        found[: len(first)] = first
    return found


def references_of(lanes: Lanes, linear: Linear, decoded: Decoded) -> NDArray[np.int32]:
    """(n_references, n) what the references of a mix say of each row, in coding order, in its units. Raises CorruptArchive when one reads a
    column that is not decoded."""
    if (mixed := linear.mixed) is None:
        return np.empty((0, lanes.n), np.int32)
    if missing := [j for j in sorted(mixed.columns) if j not in decoded.values]:
        raise CorruptArchive(f"model predicts a column from column {missing[0]}, which is not decoded before it")
    found = np.empty((len(mixed.references), lanes.n), np.int32)
    for k, reference in enumerate(mixed.references):
        total = _totals([(lanes.sorted(decoded.values[j]), 0, weight) for j, weight in reference], -ROUND, lanes.n_places)
        found[k] = lanes.in_steps((total >> mixed.unit).astype(np.int32))
    return found


def _totals(terms: Sequence[tuple[Ints, int, int]], bias: int, n: int) -> Ints:
    """(n,) sums over (values, lag, weight) of weight times what values, (n,), are `lag` places before, and what rounds them."""
    total = np.full(n, bias + ROUND, np.int64)
    room = np.empty(min(n, SPAN), np.int64)
    for start in range(0, n, SPAN):  # what is summed stays in the cache
        stop = min(n, start + SPAN)
        for values, lag, weight in terms:
            low, high = max(start, min(stop, lag)), min(stop, max(start, n + lag))
            with np.errstate(over="ignore"):
                total[start:low] += values[0] * np.int64(weight)
                total[high:stop] += values[-1] * np.int64(weight)
                if low < high:
                    total[low:high] += np.multiply(values[low - lag : high - lag], np.int64(weight), out=room[: high - low])
    return total


def kernel_walk(
    lanes: Lanes, linear: Linear, decoded: Decoded, own: Sequence[OwnFeature] = (), last_chunk: int = 0,
    scheme: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0), matches: Sequence[Match] = (), leader: int | None = None, keeps: bool = True,
) -> KernelWalk:
    """The same walk by the kernel."""
    terms = [(term.lag, term.weight) for term in linear.terms if term.column < 0]
    bits = bits_for(lanes.n)
    memories = [KernelMatch(match.lags, fixed_hashes(match, lanes, decoded), bits) for match in matches]
    fixed = fixed_totals(lanes, linear, decoded)
    lead = -1 if leader is None else leader
    dense = None if linear.dense is None else (linear.dense.weights, linear.dense.bias, linear.dense.shift)
    mix = None
    if (mixed := linear.mixed) is not None:
        others = [(one.reference, one.terms) for one in mixed.others]
        mix = KernelMix(others, references_of(lanes, linear, decoded), mixed.around, mixed.unit, mixed.power, INVERSES)
    return KernelWalk(lanes.edges, lanes.n_lanes, terms, fixed, own, last_chunk, scheme, memories, lead, dense, lanes.lanes, keeps, mix)


def known_of_rows(
    lanes: Lanes, linear: Linear, decoded: Decoded, own: Ints, matches: Sequence[Match] = (), leader: int | None = None
) -> Ints:
    """(4 + n_matches + 2 if mixed, n) prediction, its fraction, the level of the noise, the value before, the levels of matches, and of how
    far apart mixed predictions are and how far off around, for each row in coding order, of a column, (n_rows,) values, that is known.
    The first row of a lane stands for the one before it."""
    truth = lanes.of(own)
    found = np.empty((4 + len(matches) + 2 * (linear.mixed is not None), len(truth)), np.int64)
    if kernel.available() and len(truth):
        walk = kernel_walk(lanes, linear, decoded, matches=matches, leader=leader)
        walk.over(truth)
        found[:3] = walk.guess, walk.fraction, walk.level
        for k, memory in enumerate(walk.matches):
            found[4 + k] = memory.level
        if linear.mixed is not None:
            found[-2:] = walk.apart, walk.around
    else:
        slow = Walk(lanes, linear, decoded, matches, leader)
        for step, (start, stop) in enumerate(itertools.pairwise(lanes.edges.tolist())):
            around = slow.around(step)
            assert around.guess is not None and around.fraction is not None and around.noise is not None
            found[:3, start:stop] = around.guess, around.fraction, around.noise
            for k, levels in enumerate(around.matches):
                found[4 + k, start:stop] = levels
            if around.apart is not None and around.off_around is not None:
                found[-2:, start:stop] = around.apart, around.off_around
            slow.learn(step, truth[start:stop])
    found[3] = lanes.back(truth, 1)
    return found

