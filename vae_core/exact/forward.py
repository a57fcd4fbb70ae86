"""Rows coded one after another, in lanes: what a column was in the rows before tells what it is, however they are sorted.

Where rows are in order (telemetry), or are once they are sorted by columns decoded before (devices whose rows are mixed, stations
that report at the same hours), a prediction from many rows before is worth more than one from two rows around it. To decode
without a loop over rows, the rows in their order are cut into *lanes* of equal length, and one row of every lane is coded at a
step: its predictions read the rows before it in its lane, and columns decoded earlier at any row. Where rows above are told (`above`)
lanes are longer, so that most of them are in the lane.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.lanes import KernelAbove, KernelMatch, KernelMix, KernelWalk, OwnFeature
from vae_core.errors import CorruptArchive
from vae_core.exact.features import NOISE_LEVELS, Decoded, Surroundings, noise_level
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import SHIFT, Linear
from vae_core.exact.matches import Match, Memory, bits_for, fixed_hashes, led, level
from vae_core.exact.mixing import INVERSES, Mixer
from vae_core.exact.schedule import USUAL_CHUNKS, Chunks

Ints = NDArray[np.int64]
MOST_SURPRISE = np.uint64(1 << 40)
ROUND = 1 << (SHIFT - 1)
SPAN = 1 << 14  # places summed at once


class Walk:
    """The prediction of a column step by step: what it knows of each lane."""

    def __init__(
        self, lanes: Lanes, linear: Linear, decoded: Decoded, matches: Sequence[Match] = (), leader: int | None = None,
        totals: Ints | None = None,
    ) -> None:
        """totals: what fixed_totals gives. Raises CorruptArchive when the prediction or a match reads a column that is not decoded."""
        self._lanes = lanes
        own, self._dense = [term for term in linear.terms if term.column < 0 and term.beside is None], linear.dense
        self._above = [(term.beside, term.weight) for term in linear.terms if term.column < 0 and term.beside is not None]
        self._lags = np.array([term.lag for term in own], np.int64)
        self._weights = np.array([[term.weight] for term in own], np.int64)
        self._totals = fixed_totals(lanes, linear, decoded) if totals is None else totals
        self._past = np.zeros((lanes.n_steps, lanes.n_lanes), np.int64)
        self._noise = np.zeros(lanes.n_lanes, np.int64)
        self._off = np.zeros((lanes.n_steps, lanes.n_lanes) if lanes.has_above else (0, 0), np.int64)
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
            for beside, weight in self._above:
                with np.errstate(over="ignore"):
                    total = total + np.int64(weight) * self._beside(self._past, step, beside)
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
        above = off = None
        if self._lanes.has_above and step:
            above = partial(self._beside, self._past, step)
            if step > 1:
                off = noise_level((self._noise[lanes] + sum(self._beside(self._off, step, beside) for beside in (-1, 0, 1))) >> 2)
        return Surroundings(0, left, None, self._guess, fraction, noise, matches, back, apart, around, above, off)

    def _beside(self, known: Ints, step: int, beside: int) -> Ints:
        """(n,) what is known of the rows of a step, (n_steps, n_lanes), beside their rows above."""
        start, stop = self._lanes.edges[step : step + 2]
        lanes = np.arange(self._lanes.n_lanes)[self._lanes.of_step(step)]
        return known[step - self._lanes.steps_above(beside)[start:stop], lanes]

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
        if self._lanes.has_above:
            self._off[step, lanes] = surprise
        if step != 1:
            noise = self._noise[lanes]
            surprise -= noise
            surprise >>= 3
            surprise += noise
        self._noise[lanes] = surprise


def fixed_totals(lanes: Lanes, linear: Linear, decoded: Decoded) -> Ints:
    """(n,) what a prediction sums of other columns, in coding order. Raises CorruptArchive when one of them is not decoded."""
    terms = [t for t in linear.terms if t.column >= 0]
    read = {j for t in (*terms, *linear.anchor_terms) for j in t.columns}
    missing = sorted(j for j in read if j not in decoded.values)
    if missing:
        raise CorruptArchive(f"model predicts a column from column {missing[0]}, which is not decoded before it")
    known = {j: lanes.sorted(decoded.values[j]) for j in read}
    in_order = [
        (known[t.column], t.lag, t.weight) if len(t.columns) == 1 else (t.of_two(*(known[j] for j in t.columns)), 0, 1)
        for t in terms if t.beside is None
    ]  # fmt: skip
    found = lanes.in_steps(_totals(in_order, linear.bias, lanes.n_places)) if terms else np.full(lanes.n, linear.bias + ROUND, np.int64)
    for t in terms:
        if t.beside is not None:
            with np.errstate(over="ignore"):
                found += np.int64(t.weight) * lanes.above(known[t.column], t.beside)
    if lanes.n:
        first = np.full(int(lanes.edges[1]), linear.anchor_bias + ROUND, np.int64)
        with np.errstate(over="ignore"):
            for t in linear.anchor_terms:
                heads = [known[j][lanes.firsts(t.lag)] for j in t.columns]
                first += np.int64(t.weight) * heads[0] if len(heads) == 1 else t.of_two(*heads)
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
    lanes: Lanes, linear: Linear, decoded: Decoded, own: Sequence[OwnFeature] = (), chunks: Chunks = USUAL_CHUNKS,
    scheme: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0), matches: Sequence[Match] = (), leader: int | None = None, keeps: bool = True,
    totals: Ints | None = None,
) -> KernelWalk:
    """The same walk by the kernel. totals: what fixed_totals gives."""
    terms = [(term.lag, term.weight) for term in linear.terms if term.column < 0 and term.beside is None]
    beside = [(term.beside, term.weight) for term in linear.terms if term.column < 0 and term.beside is not None]
    above = KernelAbove(lanes.to_above, beside) if lanes.has_above else None
    bits = bits_for(lanes.n)
    memories = [KernelMatch(match.lags, fixed_hashes(match, lanes, decoded), bits) for match in matches]
    fixed = fixed_totals(lanes, linear, decoded) if totals is None else totals
    lead = -1 if leader is None else leader
    dense = None if linear.dense is None else (linear.dense.weights, linear.dense.bias, linear.dense.shift)
    mix = None
    if (mixed := linear.mixed) is not None:
        others = [(one.reference, one.terms) for one in mixed.others]
        mix = KernelMix(others, references_of(lanes, linear, decoded), mixed.around, mixed.unit, mixed.power, INVERSES)
    return KernelWalk(
        lanes.edges, lanes.n_lanes, terms, fixed, own, (chunks.first, chunks.last, chunks.part), scheme, memories, lead, dense, lanes.lanes,
        keeps, mix, above
    )


def known_of_rows(
    lanes: Lanes, linear: Linear, decoded: Decoded, own: Ints, matches: Sequence[Match] = (), leader: int | None = None,
    totals: Ints | None = None,
) -> Ints:
    """(4 + n_matches + 2 if mixed + 1 with rows above, n) prediction, its fraction, the level of the noise, the value before, the levels of
    matches, of how far apart mixed predictions are and how far off around, and of how far off above, for each row in coding order, of a
    column, (n_rows,) values, that is known. The first row of a lane stands for the one before it. totals: what fixed_totals gives."""
    truth = lanes.of(own)
    found = np.empty((4 + len(matches) + 2 * (linear.mixed is not None) + lanes.has_above, len(truth)), np.int64)
    if kernel.available() and len(truth):
        walk = kernel_walk(lanes, linear, decoded, matches=matches, leader=leader, totals=totals)
        walk.over(truth)
        found[:3] = walk.guess, walk.fraction, walk.level
        for k, memory in enumerate(walk.matches):
            found[4 + k] = memory.level
        if linear.mixed is not None:
            found[-2:] = walk.apart, walk.around
        if lanes.has_above:
            found[-1] = walk.off
    else:
        slow = Walk(lanes, linear, decoded, matches, leader, totals)
        for step, (start, stop) in enumerate(itertools.pairwise(lanes.edges.tolist())):
            around = slow.around(step)
            assert around.guess is not None and around.fraction is not None and around.noise is not None
            found[:3, start:stop] = around.guess, around.fraction, around.noise
            for k, levels in enumerate(around.matches):
                found[4 + k, start:stop] = levels
            if around.apart is not None and around.off_around is not None:
                found[-2:, start:stop] = around.apart, around.off_around
            if lanes.has_above:
                found[-1, start:stop] = NOISE_LEVELS - 1 if around.off is None else around.off
            slow.learn(step, truth[start:stop])
    found[3] = lanes.back(truth, 1)
    return found

