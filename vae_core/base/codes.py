"""An autoencoder with discrete latents for previews, trained on its ELBO in bits by coordinate ascent; no gradients.

Previews have under a bit a row. Where rows are in order most of it is best spent once a window, on what changes slowly, and the rest
on the few rows that are far from the others: a code of few values a row, whose commonest says nothing. What a value stands for is a
table's entry: any vector of features, so that categories, flags and heavy tails take one symbol where a linear map takes many steps.
q(z|x) is exact, one latent given the others (`posterior.py`); entries, prices and the linear map have closed forms. Training goes from
many bits to few: the price of a bit grows, entries that do not earn theirs go, and the weight of each column follows its error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.base.columns import NUMERIC, BaseColumn, Features
from vae_core.base.cost import entropy_bits, measured
from vae_core.base.layer import lay_out
from vae_core.base.posterior import Chosen, Parts, Table, likeliest_codes, regrets, zigzag

STEP = float(np.sqrt(6 / np.log(2)))
"""Of a linear latent of one row, in weighted features: at high rates its distortion then falls by a bit for a bit."""
LEAST_DEVIATION = 0.5
LEAST_ERROR = 0.03
"""Relative errors below this weigh no more."""
ENTRY_BYTES, LINEAR_BYTES, FEATURE_BYTES, MEETING_BYTES = 0.8, 1.1, 18.0, 1.5
MOST_SAVED = 64.0
"""Bits that a use of an entry saves, where it tells of a row that lies far from all others: flags that are hardly ever set."""
START, GROWTH, MOST_STEPS, STEADY = 0.01, 1.5, 24, 2
PATH_ROWS = 1 << 14
SEED_ROWS, TRIED = 1 << 13, 12


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows a window, linear latents a window, entries of a code a window (0: none), entries of each code a row."""

    window: int
    n_linear: int
    by_window: int
    by_row: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Standardised tables (K, F) and prices, the linear map (n, F), errors of columns (D,), the price of a bit in what a preview
    minimises; weighed: errors (D,) to go on weighing columns by."""

    linear: NDArray[np.float32]
    tables: tuple[Table, ...]
    error: NDArray[np.float64]
    price: float
    weighed: NDArray[np.float64] | None = None

    @property
    def weighs(self) -> NDArray[np.float64]:
        """The errors that columns are weighed by: their own, or those that were kept."""
        return self.error if self.weighed is None else self.weighed


class Windows:
    """Standardised windows x (m, W, F) of a table, and the score a preview is judged by as weights of squared errors."""

    def __init__(self, columns: tuple[BaseColumn, ...], features: Features, x: NDArray[np.float32]) -> None:
        self.columns, self.features, self.x = columns, features, x
        self.numeric = np.array([c.kind == NUMERIC for c in columns])
        n_categorical = int((~self.numeric).sum())
        self.n_scored = int(self.numeric.sum()) + (n_categorical > 0)
        self.n_categorical = max(1, n_categorical)

    def some(self, n_rows: int) -> Windows:
        """About so many rows, from all over."""
        every = -(-self.x.shape[0] * self.x.shape[1] // n_rows)
        return self if every <= 1 else Windows(self.columns, self.features, np.ascontiguousarray(self.x[::every]))

    def weights(self, error: NDArray[np.float64]) -> NDArray[np.float64]:
        """(F,): what a squared standardised unit of each feature adds to the score, for columns with these errors.

        Roots of squares: the slope at the error. Categories: distance of shares, the Brier score.
        """
        column = self.features.column
        slope = 1 / (2 * np.maximum(error, LEAST_ERROR))
        return np.where(self.numeric[column], slope[column], self.features.scale**2 / self.n_categorical) / self.n_scored

    def errors(self, guess: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """(D,) relative RMSE of numeric columns, shares of wrong categories of others, for guesses (m * W, F)."""
        f, rows = self.features, self.x.reshape(-1, self.features.n_features)
        found = np.zeros(len(self.columns))
        for d, (start, count) in enumerate(zip(f.start.tolist(), f.counts.tolist(), strict=True)):
            part = slice(start, start + count)
            if self.numeric[d]:
                found[d] = np.sqrt(np.mean(np.square(guess[:, start] - rows[:, start]), dtype=np.float64))
            else:
                best = (guess[:, part] * f.scale[part] + f.center[part]).argmax(axis=1)
                seen = np.take_along_axis(rows[:, part], best[:, None], axis=1)[:, 0]
                found[d] = 1 - float(np.mean(seen * f.scale[part][best] + f.center[part][best] > 0.5))
        return found

    def score(self, error: NDArray[np.float64]) -> float:
        """What a preview minimises, of errors of columns (measuring.Measured.score)."""
        wrong = [float(error[~self.numeric].mean())] if not self.numeric.all() else []
        return float(np.mean([*error[self.numeric], *wrong]))


def weighted(data: Windows, state: State) -> tuple[NDArray[np.float32], NDArray[np.float32], Parts]:
    """Roots of the weights (F,) at which a squared unit is a bit, the windows and the state's parts under them."""
    root = np.sqrt(data.weights(state.weighs) / state.price).astype(np.float32)
    tables = tuple(replace(t, entries=t.entries * root) for t in state.tables)
    return root, data.x * root, Parts(state.linear * root, tables)


def begin(data: Windows, shape: Shape, rng: np.random.Generator, price: float = START) -> State:
    """Linear latents of what windows share, then entries picked from what is left, far from each other."""
    n_features = data.features.n_features
    state = State(np.zeros((0, n_features), np.float32), (), np.ones(len(data.columns)), price)
    root, y, _ = weighted(data, state)
    mean = y.mean(axis=1)
    linear, z = axes(mean, shape)
    rest = y - (z @ linear)[:, None]
    tables = []
    for by_row, n_entries in ((False, shape.by_window), *((True, n) for n in shape.by_row)):
        if n_entries > 1:
            entries = seeds(rest.reshape(-1, n_features) if by_row else rest.mean(axis=1), n_entries, rng)
            table = Table(by_row, entries, np.full(len(entries), np.log2(len(entries)), np.float32))
            picked = likeliest_codes(rest, Parts(np.zeros((0, n_features), np.float32), (table,)), 1).codes[0]
            rest = rest - (entries[picked].reshape(rest.shape) if by_row else entries[picked][:, None])
            tables.append(replace(table, entries=entries / root))
    return replace(state, linear=linear / root, tables=tuple(tables))


def axes(mean: NDArray[np.float32], shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Principal axes (n, F) of weighted means of windows (m, F), a step each, and their rounded steps (m, n)."""
    if not shape.n_linear:
        return np.zeros((0, mean.shape[1]), np.float32), np.zeros((len(mean), 0), np.float32)
    size, vectors = np.linalg.eigh(mean.T.astype(np.float64) @ mean / len(mean))
    step = STEP / np.sqrt(shape.window)
    kept = [k for k in np.argsort(-size)[: shape.n_linear] if np.sqrt(max(size[k], 0.0)) > LEAST_DEVIATION * step]
    v = vectors[:, kept].astype(np.float32)
    z = np.rint(mean @ v / np.float32(step))
    return np.asarray(v.T * np.float32(step)), z


def seeds(rest: NDArray[np.float32], n_entries: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Nothing, and n_entries - 1 rows that lie where the most distance is (k-means++, the best of a few draws each time)."""
    some = rest[rng.permutation(len(rest))[:SEED_ROWS]]
    size = (some * some).sum(axis=1)
    nearest, found = size.copy(), [np.zeros(some.shape[1], np.float32)]
    while len(found) < n_entries and (total := float(nearest.sum(dtype=np.float64))) > 0:
        tried = some[rng.choice(len(some), TRIED, p=nearest.astype(np.float64) / nearest.sum(dtype=np.float64))]
        distance = np.maximum(size[:, None] - 2 * some @ tried.T + (tried * tried).sum(axis=1), 0)
        best = int(np.minimum(distance, nearest[:, None]).sum(axis=0).argmin())
        nearest = np.minimum(nearest, distance[:, best])
        found.append(tried[best])
        if not total > 1e-6 * len(some):
            break
    return np.stack(found)


def ascend(data: Windows, state: State, price: float, shape: Shape, n_total: int) -> tuple[State, Chosen]:
    """One step: the likeliest codes, then the entries, prices and linear map they call for, and the errors of that."""
    state = replace(state, price=price)
    root, y, parts = weighted(data, state)
    chosen = likeliest_codes(y, parts)
    m, w, n_features = y.shape
    codes, tables = list(chosen.codes), list(parts.tables)
    adds = [t.entries[z] if t.by_row else np.repeat(t.entries[z], w, axis=0) for t, z in zip(tables, codes, strict=True)]
    rows = y.reshape(-1, n_features)
    total = np.repeat(chosen.linear.astype(np.float32) @ parts.linear, w, axis=0)
    total = np.asarray(sum(adds, total))
    # what an entry costs in the model it has to save: of all rows, so many bits each time where it stands for what is rare
    least = max(1.0, 8 * ENTRY_BYTES / MOST_SAVED * n_features * m * w / n_total)
    for i, table in enumerate(tables):
        total -= adds[i]
        rest = rows - total
        if not table.by_row:
            rest = rest.reshape(m, w, n_features).mean(axis=1)
        tables[i], codes[i] = refitted(table, codes[i], rest, least / (1 if table.by_row else w))
        new = tables[i].entries[codes[i]]
        adds[i] = new if table.by_row else np.repeat(new, w, axis=0)
        total += adds[i]
    linear, z = parts.linear, chosen.linear
    if shape.n_linear:
        total = np.asarray(sum(adds, np.zeros_like(rows)))
        mean = (rows - total).reshape(m, w, n_features).mean(axis=1)
        linear, _ = axes(mean, shape)
        z = likeliest_codes(mean[:, None], Parts(linear, ()), 1).linear
        if len(linear):
            linear = np.linalg.lstsq(z.astype(np.float32), mean, rcond=None)[0]
        total += np.repeat(z.astype(np.float32) @ linear, w, axis=0)
    tables = [replace(t, entries=t.entries / root) for t in tables]
    return State(linear / root, tuple(tables), data.errors(total / root), price, state.weighed), Chosen(z, tuple(codes))


def refitted(table: Table, codes: NDArray[np.int64], rest: NDArray[np.float32], least: float) -> tuple[Table, NDArray[np.int64]]:
    """The table with the means of what has each code, the commonest first, without those that fewer than `least` have."""
    count = np.bincount(codes, minlength=len(table.entries))
    kept = np.argsort(-count, kind="stable")
    kept = kept[: max(1, int((count >= least).sum()))]
    place = np.zeros(len(count), np.int64)  # what has a code that goes has the commonest until the next step
    place[kept] = np.arange(len(kept))
    codes = place[codes]
    which = (codes[:, None] == np.arange(len(kept))).astype(np.float32)
    n = which.sum(axis=0)
    price = -np.log2((n + 0.5) / (len(codes) + 0.5 * len(kept)))
    return Table(table.by_row, (which.T @ rest) / np.maximum(n, 1)[:, None], price.astype(np.float32)), codes


def latents_of(state: State, chosen: Chosen, window: int) -> NDArray[np.int16]:
    """Latents (m, L) of windows: codes of rows, W each, then what there is one of a window, padded to whole columns."""
    m = len(chosen.linear)
    by_row = [zigzag(z).reshape(m, window) for t, z in zip(state.tables, chosen.codes, strict=True) if t.by_row and len(t.entries) > 1]
    single = [zigzag(z)[:, None] for t, z in zip(state.tables, chosen.codes, strict=True) if not t.by_row and len(t.entries) > 1]
    single += [chosen.linear] if chosen.linear.shape[1] else []
    if single:
        n = sum(part.shape[1] for part in single)
        single.append(np.zeros((m, -n % window), np.int64))
    return np.concatenate([*by_row, *single], axis=1).astype(np.int16) if by_row or single else np.zeros((m, 1), np.int16)


def model_bytes(state: State, window: int, n_features: int) -> float:
    """About what the state takes as an integer network: rows of a window are alike, but for where codes of rows and of windows meet."""
    entries, kinds = sum(len(t.entries) - 1 for t in state.tables), {t.by_row for t in state.tables if len(t.entries) > 1}
    each = ENTRY_BYTES * entries + LINEAR_BYTES * len(state.linear) + FEATURE_BYTES + (MEETING_BYTES * window if len(kinds) > 1 else 0)
    return n_features * each + 250


def rough_bytes(state: State, chosen: Chosen, window: int, n_features: int, n_total: int) -> float:
    """Bytes of all rows and the model, by the entropy of codes of rows, and of the rest as stored."""
    m = len(chosen.linear)
    rows = [z for t, z in zip(state.tables, chosen.codes, strict=True) if t.by_row and len(t.entries) > 1]
    bits = sum(entropy_bits(z[:, None]) for z in rows) * n_total
    slow = replace(state, tables=tuple(t for t in state.tables if not t.by_row))
    codes = tuple(z for t, z in zip(state.tables, chosen.codes, strict=True) if not t.by_row)
    z = lay_out(latents_of(slow, Chosen(chosen.linear, codes), 1), m, 1)
    nothing = measured(np.zeros(m, np.int8), "dictionary")
    stored = sum(measured(z[:, c], "dictionary") - nothing for c in range(z.shape[1]))
    return 1.05 * bits / 8 + stored * n_total / (m * window) + model_bytes(state, window, n_features)


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One step of training: the state, the bytes of all rows and the model under it, and the score of its errors."""

    state: State
    n_bytes: float
    score: float


def path(
    data: Windows, shape: Shape, budget: float, n_total: int, rng: np.random.Generator, price: float = START, growth: float = GROWTH
) -> Iterator[Point]:
    """Steps from many bits, at this price of one, to as few as the budget has."""
    state = begin(data, shape, rng, price)
    for _ in range(MOST_STEPS):
        state, _ = ascend(data, state, price, shape, n_total)
        state, chosen = ascend(data, state, price, shape, n_total)
        point = Point(state, rough_bytes(state, chosen, shape.window, data.features.n_features, n_total), data.score(state.error))
        yield point
        if point.n_bytes <= budget:
            return
        price *= growth


def again(data: Windows, state: State, price: float, shape: Shape, n_total: int) -> State:
    """The state moved to another price, on all of the rows, under the weights it has: were they to follow the errors, columns that
    lose a little would lose all, and bytes would fall far below what there is."""
    state = replace(state, weighed=state.weighs)
    for _ in range(STEADY):
        state, _ = ascend(data, state, price, shape, n_total)
    return state


def pruned(data: Windows, state: State, shape: Shape, budget: float, n_total: int) -> State:
    """The state without the entries that are missed least, one by one until the rest is within the budget. A higher price alone may
    leave all or none: what is used less costs more."""
    state = replace(state, weighed=state.weighs)
    while any(len(t.entries) > 1 for t in state.tables):
        _, y, parts = weighted(data, state)
        missed = [np.append(np.inf, lost[1:]) for lost in regrets(y, parts, likeliest_codes(y, parts))]
        table = min(range(len(missed)), key=lambda i: float(missed[i].min()))
        kept = np.arange(len(missed[table])) != int(missed[table].argmin())
        tables = list(state.tables)
        tables[table] = replace(tables[table], entries=tables[table].entries[kept], price=tables[table].price[kept])
        state, chosen = ascend(data, replace(state, tables=tuple(tables)), state.price, shape, n_total)
        if rough_bytes(state, chosen, shape.window, data.features.n_features, n_total) <= budget:
            break
    return state


def at_budget(points: list[Point], budget: float) -> float:
    """The score at the budget, between the points around it on the logarithm of bytes."""
    logs = np.log([max(1.0, p.n_bytes) for p in reversed(points)])
    order = np.argsort(logs, kind="stable")
    return float(np.interp(np.log(budget), logs[order], np.array([p.score for p in reversed(points)])[order]))
