"""Previews by discrete latents among the candidates of a fit: which windows and codes, and at what price, by bytes as stored."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from vae_core.base.codes import GROWTH, PATH_ROWS, START, Point, Shape, State, Windows, again, at_budget, path, pruned
from vae_core.base.export import code_layer
from vae_core.base.measuring import Measured, measure
from vae_core.base.task import FitProgress, Task
from vae_core.integer import MAX_WIDTH

log = logging.getLogger(__name__)

LEAST_WINDOW, MOST_WINDOWS = 8, 3
N_LINEAR, N_BY_WINDOW, N_BY_ROW = 6, 64, 16
LEAST_STEPS, CELL_S = 4, 1.5e-7  # of a path, and seconds of a step a row and feature: hardly less
COARSE, MANY = 2.0, 5.0  # growth of the price on some of the rows; bytes over the budget where the way on all of them begins
FINALISTS, FINE, CLOSE = 2, 6, 0.96
MOST_PRUNED, LEAST_USED = 4, 0.9


def shapes(windows: Sequence[int], n_features: int) -> list[Shape]:
    """What is tried: rows one by one where they are in no order; else wide windows first, for they cost least. Nothing that no reader
    takes: a network says so many numbers at most."""
    wide = sorted((w for w in windows if LEAST_WINDOW <= w <= MAX_WIDTH // n_features), reverse=True)[:MOST_WINDOWS]
    if not wide:
        return [Shape(1, N_LINEAR, 0, (N_BY_ROW, N_BY_ROW)), Shape(1, 0, 0, (4 * N_BY_ROW,))]
    twice, both = (0, (N_BY_ROW, N_BY_ROW)), (N_BY_WINDOW, (N_BY_ROW,))
    return [Shape(w, N_LINEAR, by_window, by_row) for w in wide for by_window, by_row in (twice, both)]


class Search:
    """The shapes of one task, first on some of its rows, then the best of them on all."""

    def __init__(
        self, task: Task, seed: int, deadline: float, progress: Callable[[FitProgress], None] | None, hasty: bool = False
    ) -> None:
        assert task.budget is not None
        self.finalists, self._enough = (1, FINE // 2) if hasty else (FINALISTS, FINE)
        self.task, self.seed, self.deadline, self._progress = task, seed, deadline, progress
        self.budget, self.n_total = task.budget, task.n_rows_total
        self.curve = list[FitProgress]()
        self._began = time.monotonic()

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.deadline

    def tell(self, n_bytes: float) -> None:
        """One more point of the curve."""
        bits = 8 * n_bytes / self.n_total
        self.curve.append(FitProgress(len(self.curve) + 1, time.monotonic() - self._began, bits, bits, "vae"))
        if self._progress is not None:
            self._progress(self.curve[-1])

    def windows(self, shape: Shape) -> Windows:
        """What a shape is trained on."""
        rows = self.task.split(shape.window).train
        x = self.task.windows(rows, shape.window).reshape(-1, shape.window, self.task.features.n_features)
        return Windows(self.task.columns, self.task.features, x)

    def path(self, data: Windows, shape: Shape, price: float = START, growth: float = GROWTH) -> list[Point]:
        """From many bits to the budget."""
        points = list[Point]()
        for point in path(data, shape, self.budget, self.n_total, np.random.default_rng(self.seed), price, growth):
            points.append(point)
            self.tell(point.n_bytes)
            if self.is_late:
                break
        log.info("%s, %d rows: score %.4f at %d bytes", shape, data.x.shape[0] * shape.window, at_budget(points, self.budget), self.budget)
        return points

    def settled(self, data: Windows, shape: Shape, points: Sequence[Point]) -> list[Measured]:
        """Layers within the budget, on rows held out and as stored: from the last state above it by higher prices and, where bytes fall
        at once between two of them, by fewer entries; from the first below it at lower prices."""
        above, found = [p.state for p in points if p.n_bytes > self.budget], list[Measured]()
        if above:
            state, few, wanted = above[-1], data.some(PATH_ROWS), self.budget
            found += self.bisected(data, shape, state, state.price, state.price * GROWTH**6, True)
            for _ in range(MOST_PRUNED):
                state = pruned(few, state, shape, wanted, self.n_total)
                found += self.bisected(data, shape, state, state.price / GROWTH**4, state.price, False)
                if self.is_late or (found and found[-1].n_bytes > LEAST_USED * self.budget):
                    break
                wanted *= LEAST_USED
        if len(above) < len(points):
            state = points[-1].state
            found += self.bisected(data, shape, state, state.price / GROWTH**4, state.price * GROWTH, False)
        return found

    def bisected(self, data: Windows, shape: Shape, start: State, low: float, high: float, from_above: bool) -> list[Measured]:
        """The best layer at prices from low to high, if any, each state reached from the last one on the same side of the budget; from
        below the highest price is the first."""
        held, best, sizes = self.task.split(shape.window).held, list[Measured](), dict[tuple[int, ...], int]()
        for step in range(FINE):
            if best and step >= self._enough:
                break
            price = high if step == 0 and not from_above else float(np.sqrt(low * high))
            state = again(data, start, price, shape, self.n_total)
            layer, form = code_layer(data, state), (len(state.linear), *(len(t.entries) for t in state.tables))
            if form not in sizes:
                sizes[form] = layer.n_bytes
            found = measure(self.task, layer, held, sizes[form])
            self.tell(found.n_bytes)
            fits = found.n_bytes <= self.budget
            low, high = (low, price) if fits else (price, high)
            start = state if fits is not from_above else start
            if fits and (not best or found.score < best[0].score):
                best = [found]
            if self.is_late or (fits and found.n_bytes > CLOSE * self.budget) or (step == 0 and not from_above and not fits):
                break
        return best


def code_candidates(
    task: Task, windows: Sequence[int], seed: int, deadline: float, progress: Callable[[FitProgress], None] | None,
    hasty: bool = False,
) -> tuple[list[Measured], tuple[FitProgress, ...]]:
    """The layer of the shape that comes out best, if any is within the budget, and the curve: bits are those of all rows and the model.
    None where the deadline comes before a first one is, or would surely."""
    search, tried = Search(task, seed, deadline, progress, hasty), list[tuple[float, Shape, float]]()
    if task.features.n_features > MAX_WIDTH:
        return [], ()
    if LEAST_STEPS * CELL_S * min(PATH_ROWS, len(task.values)) * task.features.n_features > deadline - time.monotonic():
        return [], ()
    for shape in shapes(windows, task.features.n_features):
        if len(task.split(shape.window).train) and not (tried and search.is_late):
            points = search.path(search.windows(shape).some(PATH_ROWS), shape, growth=COARSE)
            if search.is_late and not tried and points[-1].n_bytes > search.budget:
                return [], tuple(search.curve)
            price = next(p.state.price for p in points if p.n_bytes < MANY * search.budget or p is points[-1])
            tried.append((at_budget(points, search.budget), shape, price))
    best: tuple[float, Shape, Windows, list[Point]] | None = None
    for _, shape, price in sorted(tried, key=lambda t: t[0])[: search.finalists]:
        if best is None or not search.is_late:
            data = search.windows(shape)
            points = search.path(data, shape, price)
            score = at_budget(points, search.budget)
            best = (score, shape, data, points) if best is None or score < best[0] else best
    if best is None:
        return [], ()
    _, shape, data, points = best
    found = search.settled(data, shape, points)
    for one in found:
        log.info("%s: score %.4f, %s", shape, one.score, one.row())
    return sorted(found, key=lambda m: m.score)[:1], tuple(search.curve)
