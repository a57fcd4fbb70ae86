"""The order rows are coded in one after another: cut into lanes of equal length, one row of every lane a step (`forward`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive
from vae_core.exact.features import MOST_BESIDE, Decoded, steps_above
from vae_core.exact.linear import Linear
from vae_core.exact.schedule import STRETCH
from vae_core.exact.sorting import by_columns

Ints = NDArray[np.int64]
S = TypeVar("S", bound=np.generic)
TILE = 64  # steps transposed at once
APART = 8  # places between lanes that are: at distances of powers of two they would fall on the same places of a cache
REACHES, LEAST_LANES = 16, 16  # of lanes of tensors: lengths of what a prediction looks back, and how many for that at least
REACHES_ABOVE, LEAST_ABOVE = 64, 4  # likewise, of lanes with rows above: lengths of what is usual


class Lanes:
    """The active rows of a block in coding order.

    n           : how many they are
    n_places    : those that have places in lanes
    edges       : (n_steps + 1,) where each step begins
    lanes       : None where the rows of a step are those of the first lanes, one each; else (n,) the lane of each row. Of tensors, cells
                  that are not active have places all the same: what is above stays above
    """

    def __init__(
        self, decoded: Decoded, keys: Sequence[int], active: Ints | None, linear: Linear | None = None, *, above: bool = False,
        stretch: int = STRETCH,
    ) -> None:
        """active: (n,) row numbers, ascending, None for all. keys: earlier columns the rows are sorted by, the first one above all; ties
        keep their order. linear: the prediction, which lanes of tensors are made for. above: they are made for rows above.
        stretch: places of a lane at least. Raises CorruptArchive when a key is not decoded, or nothing is told of rows above."""
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
        length = max(stretch, -(-n * stretch // STRETCH**2))
        if decoded.piece and linear is not None:
            # long enough for rows above, and whole tensors where these are shorter; of vectors one each
            length = max(length, min(REACHES * linear.reach, n // LEAST_LANES))
            if linear.dense is not None:
                length = decoded.piece
            elif decoded.piece <= length:
                length = -(-length // decoded.piece) * decoded.piece
        self._above = decoded.told_above() if above else None
        if self._above is not None:
            usual = int(np.partition(self._above, len(self._above) // 2)[len(self._above) // 2]) if len(self._above) else 0
            length = max(length, min(REACHES_ABOVE * usual, -(-n // LEAST_ABOVE)))
        self._steps_above: dict[int, Ints] = {}
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

    def rows_above(self, picked: Ints, beside: int) -> Ints:
        """(k,) numbers of the rows so many rows beside those above the rows that `picked` counts in coding order."""
        places = self._coded[picked] - self.steps_above(beside)[picked]
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

    @property
    def has_above(self) -> bool:
        """Whether rows above are told."""
        return self._above is not None

    @cached_property
    def to_above(self) -> Ints:
        """(n,) how many of the sorted rows above each row the one like it stands, or where it is not among these the last before that;
        more than there are where there is none."""
        assert self._above is not None
        rows = self.sorted_rows
        above = self._above if self._sorted is None else self._above.take(rows)
        found = above if self._sorted is None else np.arange(1, self.n_places + 1) - np.searchsorted(rows, rows - above, side="right")
        return self.in_steps(np.where(above > rows, self.n_places + MOST_BESIDE + 1, found))

    def steps_above(self, beside: int) -> Ints:
        """(n,) how many steps before each row the one stands that is so many rows beside the row above; 1 where that is none of the lane
        before, 0 in the first step."""
        if beside not in self._steps_above:
            steps = np.repeat(np.arange(self.n_steps), np.diff(self.edges))
            self._steps_above[beside] = steps_above(self.to_above, steps, beside)
        return self._steps_above[beside]

    def above(self, values: Ints, beside: int) -> Ints:
        """(n,) what the sorted rows' values are beside the row above each row, in coding order."""
        return values.take(self._coded - self.steps_above(beside))

    def of_step(self, step: int) -> slice | Ints:
        """The lanes of the rows of a step."""
        start, stop = self.edges[step : step + 2]
        return slice(0, int(stop - start)) if self.lanes is None else self.lanes[start:stop]
