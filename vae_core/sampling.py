"""Rows that look like the data, drawn cell by cell from what the exact layer learns of rows that are known.

An archive stores no distributions: its tables are learned while they code. Here they learn from decoded rows, and every new
row is drawn as one of these would be coded: at a place among them, column after column in coding order, each cell under the
counts of its context: the cells drawn before it and, where a column looks at its neighbours, the known rows before and after
the place, or those before it in the order it is coded in. (Passes are for reading a column by vectors: here every row is told by
both its neighbours, as in the last pass.)
What the exact layer does not code is taken from the known row at that place, all such columns together; columns of a
distortion layer come from the prior of its latents. numpy alone, and never the C kernel: a seed gives the same rows anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.columns import STATE_MISFIT, STATE_VALUE, Codes, ColumnPlan, decode_column, encode_column, one_array
from vae_core.columns.joining import fitted
from vae_core.columns.rows import taken
from vae_core.entropy.passes import Contexts
from vae_core.errors import CorruptArchive, UsageError
from vae_core.exact.above import find_above, telling_of
from vae_core.exact.clock import from_minutes
from vae_core.exact.counts import AdaptiveCounts
from vae_core.exact.features import Decoded, Feature, Surroundings, step_class, steps_above
from vae_core.exact.forms import CLOCK, is_stepped, known_as
from vae_core.exact.forward import known_of_rows
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import SHIFT
from vae_core.exact.matches import Match, led
from vae_core.exact.matches import level as match_level
from vae_core.exact.plans import CellPlan, ColumnCode, Recall
from vae_core.exact.recall import Recalled, key_numbers
from vae_core.exact.schedule import STRIDE
from vae_core.model import Base, Model

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
DRAWN_AT_ONCE = 4096  # cells: each holds a row of frequencies meanwhile
GATHERED_WEIGHT = 16  # sixteenths of a count, of contexts whose counts no stream learns
TRIES = 8  # draws of a cell until it is in the range of the known ones


def sample_rows(model: Model, known: pa.Table, n_rows: int, seed: int) -> pa.Table:
    """n_rows drawn from what a model learns of `known`, rows of its dataset, with the exact schema, in the order of `known`.

    Every value is one the columns' plans can hold. Without known rows there is nothing to learn from: nulls.
    Raises UsageError for a negative number of rows, CorruptArchive for a model that no fit makes.
    """
    if n_rows < 0:
        raise UsageError(f"cannot draw {n_rows} rows")
    if not n_rows or not known.num_rows:
        return nulls(model.schema, n_rows)
    rng = np.random.default_rng(seed)
    scene = _Scene(known.num_rows, np.sort(rng.integers(0, known.num_rows, n_rows)))
    if any(code.reads_above for code in model.codes):
        telling = [encode_column(model.columns[j], known.column(j)).values for j in telling_of(model.codes)]
        scene.know_above(find_above(telling, known.num_rows))
    arrays: dict[int, pa.Array] = {}
    if model.distortion is not None:
        arrays |= _from_prior(model, model.distortion, known, scene, rng)
    for code in model.codes:
        plan, j = model.columns[code.column], code.column
        codes = encode_column(plan, known.column(j))
        if is_stepped(code.form) and j not in arrays:  # a count of steps is a value among the rows around it alone
            arrays[j] = taken(one_array(known.column(j)), scene.places)
        if j in arrays:
            scene.learn_column(code, codes, encode_column(plan, arrays[j]))
            continue
        arrays[j] = _decoded(plan, _draw_column(code, codes, scene, rng), codes, rng)
    for j in range(len(model.columns)):
        if j not in arrays:
            arrays[j] = taken(one_array(known.column(j)), scene.places)
    return pa.Table.from_arrays([fitted(arrays[j], item.type) for j, item in enumerate(model.schema)], schema=model.schema)


def nulls(schema: pa.Schema, n_rows: int) -> pa.Table:
    """A table of nulls."""
    return pa.Table.from_arrays([pa.nulls(n_rows, field.type) for field in schema], schema=schema)


class _Scene:
    """Known rows and, after them, new ones: all columns drawn so far.

    places        : (n_new,) the known row each new one is drawn as
    before, after : (n_known + n_new,) the known rows around each row
    decoded       : columns of n_known + n_new rows
    """

    def __init__(self, n_known: int, places: Ints) -> None:
        self.n_known, self.n_new, self.places = n_known, len(places), places
        self.decoded = Decoded(n_known + len(places))
        every = np.concatenate([np.arange(n_known), places])
        self.before, self.after = np.maximum(every - 1, 0), np.where(every + 1 < n_known, every + 1, every - 1)

    def know_above(self, above: Ints) -> None:
        """(n_known,) how many rows above each known row the one like it stands, which is above what is drawn there, too."""
        new = self.n_known + np.arange(self.n_new)
        self.decoded.above = np.concatenate([above, new - self.places + above[self.places]])

    def beside(self, rows: Ints, beside: int) -> Ints:
        """(n,) the known rows so many rows beside the rows above some rows."""
        found: Ints = np.minimum(rows - steps_above(self.decoded.told_above()[rows], rows, beside), self.n_known - 1)
        return found

    def learn_column(self, code: ColumnCode, known: Codes, new: Codes) -> None:
        """Make a column known that is not drawn here."""
        values = np.concatenate([known.values, new.values])
        self.add(code.column, known_as(code.form, values), _joined(known.state, new.state, self))

    def add(self, column: int, values: Ints, state: NDArray[np.uint8] | None) -> None:
        self.decoded.values[column], self.decoded.states[column] = values, state

    def levels(self, feature: Feature, rows: Ints, around: Surroundings) -> Ints | None:
        """(n,) levels of a feature at some rows, None for the digit before."""
        if feature.kind == "digit":
            return None
        if feature.column < 0:
            return around.levels(feature, len(rows))
        if feature.kind not in ("before", "step"):
            return self.decoded.feature(feature)[rows].astype(np.int64)
        values = self.decoded.values.get(feature.column)
        if values is None:
            raise CorruptArchive(f"model conditions a column on column {feature.column}, which is not decoded before it")
        before = values[self.before[rows]]
        return feature.levels(before) if feature.kind == "before" else step_class(values[rows], before)


def _joined(known: NDArray[np.uint8] | None, new: NDArray[np.uint8] | None, scene: _Scene) -> NDArray[np.uint8] | None:
    if known is None and new is None:
        return None
    parts = [(known, scene.n_known), (new, scene.n_new)]
    return np.concatenate([np.zeros(n, np.uint8) if state is None else state for state, n in parts])


@dataclass(frozen=True, slots=True)
class _Digit:
    """What was learned of one digit.

    counts : as the coder would have them after the known rows        likely : (n_symbols,) the symbols that may be drawn
    """

    counts: AdaptiveCounts
    likely: Bools

    def draw(self, contexts: Contexts, n: int, before: Ints | None, rng: np.random.Generator) -> Ints:
        """(n,) symbols under their contexts."""
        found = np.empty(n, np.int64)
        for start in range(0, n, DRAWN_AT_ONCE):
            rows = slice(start, min(n, start + DRAWN_AT_ONCE))
            numbers = contexts.numbers(rows, rows.stop - start, None if before is None else before[rows])
            cumulative, table = self.counts.cumulative(numbers)
            edges = np.cumsum(np.diff(cumulative, axis=1) * self.likely, axis=1).astype(np.int64)
            point = rng.integers(0, edges[table, -1])
            found[rows] = (edges[table] > point[:, None]).argmax(axis=1)
        return found


class _Course:
    """The order known rows of a column are coded in one after another, and where in it each new row would stand."""

    def __init__(self, plan: CellPlan, scene: _Scene, own: Ints, active: Ints) -> None:
        """own: (n_known + n_new,) values, the known ones filled in. active: (n,) known rows that hold one."""
        assert plan.linear is not None and plan.forward is not None
        self._linear, self._matches, self._leader, self._scene, keys = plan.linear, plan.matches, plan.leader, scene, plan.forward
        self._lanes = Lanes(scene.decoded, keys, active, self._linear, above=plan.reads_above, stretch=plan.chunks.stretch)
        self._known = np.zeros((4 + len(self._matches) + plan.reads_above, scene.n_known), np.int64)
        self._known[:, self._lanes.rows] = known_of_rows(self._lanes, self._linear, scene.decoded, own, self._matches, self._leader)
        numbers = key_numbers([scene.decoded.values[j] for j in keys]) if keys else np.zeros(scene.decoded.n_rows, np.int64)
        every = numbers * scene.n_known + np.concatenate([np.arange(scene.n_known), scene.places])
        self._places = np.searchsorted(every[self._lanes.sorted_rows], every)

    def around(self, own: Ints, rows: Ints) -> Surroundings:
        """What is known of some rows, all of them known ones or all new."""
        if len(rows) and rows[0] < self._scene.n_known:
            guess, fraction, noise, before, *levels = self._known[:, rows]
            return Surroundings(0, before, None, guess, fraction, noise, tuple(levels), **self._above(own, rows, rows))
        total = np.full(len(rows), self._linear.bias + (1 << (SHIFT - 1)), np.int64)
        with np.errstate(over="ignore"):
            for term in self._linear.terms:
                values = own if term.column < 0 else self._scene.decoded.values[term.column]
                if len(term.columns) > 1:
                    total += term.of_two(*(self._scene.decoded.values[j][rows] for j in term.columns))
                elif term.beside is not None:
                    total += np.int64(term.weight) * values[self._scene.beside(rows, term.beside)]
                else:
                    total += np.int64(term.weight) * (values[self._shifted(rows, term.lag)] if term.lag else values[rows])
        near, guess, fraction = self._shifted(rows, 1), total >> SHIFT, (total >> (SHIFT - 3)) & 7
        recalled = [self._recalled(match, own, rows) for match in self._matches]
        if self._leader is not None:
            guess, fraction = led(*recalled[self._leader], guess, fraction)
        matches = tuple(match_level(seen, values, guess) for seen, values in recalled)
        return Surroundings(0, own[near], None, guess, fraction, self._known[2, near], matches, **self._above(own, rows, near))

    def _above(self, own: Ints, rows: Ints, near: Ints) -> dict[str, Any]:
        """What is known of rows above some rows, near known ones."""
        if not self._lanes.has_above:
            return {}
        return {"above": lambda beside: own[self._scene.beside(rows, beside)], "off": self._known[-1, near]}

    def _recalled(self, match: Match, own: Ints, rows: Ints) -> tuple[Bools, Ints]:
        """(n,) whether a known row before each of some new ones has its key, and what the last of them holds."""
        order, others = self._lanes.sorted_rows, self._scene.decoded.values
        n, every = len(order), np.concatenate([order, rows])
        numbers = key_numbers([*(others[j][every] for j in match.others), *(own[self._shifted(every, lag)] for lag in match.lags)])
        known = np.sort(numbers[:n] * (n + 1) + np.arange(n))
        at = np.maximum(np.searchsorted(known, numbers[n:] * (n + 1) + self._places[rows]) - 1, 0)
        return known[at] // (n + 1) == numbers[n:], own[order[known[at] % (n + 1)]]

    def _shifted(self, rows: Ints, lag: int) -> Ints:
        """(n,) the known rows so many before some new ones, at the ends what is nearest."""
        order = self._lanes.sorted_rows
        found: Ints = order[np.clip(self._places[rows] - lag + (lag < 0), 0, len(order) - 1)]
        return found


class _Cells:
    """The tables of one plan, filled from known rows; then new rows are drawn from them."""

    def __init__(self, plan: CellPlan, scene: _Scene, own: Ints, active: Bools) -> None:
        """own: (n_known + n_new,) values, the known ones filled in. active: (n_known,) rows to learn from."""
        self._plan, self._scene = plan, scene
        counts = [
            AdaptiveCounts(n, [f.size for f in d.features], d.weights or (GATHERED_WEIGHT,) * (len(d.features) + 1))
            for n, d in zip(plan.scheme.sizes, plan.digits, strict=True)
        ]
        likely = [np.zeros(size, np.bool_) for size in plan.scheme.sizes]
        rows = np.flatnonzero(active)
        self._course = None if plan.forward is None or plan.linear is None else _Course(plan, scene, own, rows)
        self._low, self._high = int(own[: scene.n_known].min()), int(own[: scene.n_known].max())
        guess, contexts = self._conditions(own, rows)
        before: Ints | None = None
        for k, symbols in enumerate(plan.scheme.split(own[rows], guess)[0]):
            counts[k].update(contexts[k].numbers(slice(None), len(rows), before), symbols)
            likely[k][symbols] = True
            before = symbols
        likely[0][plan.scheme.escape] = False
        for symbols_seen in likely:
            if not symbols_seen.any():
                symbols_seen[:-1] = True
        self._digits = [_Digit(c, s) for c, s in zip(counts, likely, strict=True)]

    def draw(self, own: Ints, active: Bools, rng: np.random.Generator) -> None:
        """Fill the new rows of `own` that are active, (n_new,); where nothing in the range of the known ones comes, as at the place."""
        rows = self._scene.n_known + np.flatnonzero(active)
        for _ in range(TRIES):
            guess, contexts = self._conditions(own, rows)
            drawn: list[Ints] = []
            for digit, context in zip(self._digits, contexts, strict=True):
                drawn.append(digit.draw(context, len(rows), drawn[-1] if drawn else None, rng))
            raw = rng.integers(0, np.int64(1) << np.minimum(self._plan.scheme.n_raw(drawn), 62))
            found = self._plan.scheme.join(drawn, raw, guess)
            fits = (found >= self._low) & (found <= self._high)
            own[rows[fits]] = found[fits]
            rows = rows[~fits]
        own[rows] = own[self._scene.places[rows - self._scene.n_known]]

    def _conditions(self, own: Ints, rows: Ints) -> tuple[Ints | None, list[Contexts]]:
        """The linear prediction at some rows, and the contexts of each digit."""
        plan, scene = self._plan, self._scene
        if self._course is not None:
            around = self._course.around(own, rows)
            return around.guess, self._contexts(rows, around)
        alone = not plan.by_level or scene.n_known == 1
        left, right = (None, None) if alone else (scene.before[rows], scene.after[rows])
        guess, fraction = (None, None) if plan.linear is None else plan.linear.guess(scene.decoded, rows, own, left, right)
        step = 0 if not plan.by_level else STRIDE if alone else 1
        around = Surroundings(step, None if left is None else own[left], None if right is None else own[right], guess, fraction)
        return guess, self._contexts(rows, around)

    def _contexts(self, rows: Ints, around: Surroundings) -> list[Contexts]:
        return [
            Contexts.of([f.size for f in d.features], [self._scene.levels(f, rows, around) for f in d.features]) for d in self._plan.digits
        ]


def _draw_column(code: ColumnCode, known: Codes, scene: _Scene, rng: np.random.Generator) -> Codes:
    """Draw one column and add it to the scene; returns the codes of the new rows, without misfits."""
    old = scene.n_known
    state: NDArray[np.uint8] | None = None
    if known.state is not None:
        states = np.concatenate([known.state, np.zeros(scene.n_new, np.uint8)]).astype(np.int64)
        _Cells(code.state, scene, states, np.ones(old, np.bool_)).draw(states, np.ones(scene.n_new, np.bool_), rng)
        state = states.astype(np.uint8)
    active = np.ones(scene.decoded.n_rows, np.bool_) if state is None else state == STATE_VALUE
    own = np.concatenate([known.values, np.full(scene.n_new, code.fill, np.int64)])
    own = known_as(code.form, own)
    if code.recall is None:
        _Cells(code.value, scene, own, active[:old]).draw(own, active[old:], rng)
    else:
        _draw_recalled(code, code.recall, own, active, scene, rng)
    scene.add(code.column, own, state)
    return Codes(from_minutes(own[old:]) if code.form == CLOCK else own[old:], None if state is None else state[old:])


def _draw_recalled(code: ColumnCode, recall: Recall, own: Ints, active: Bools, scene: _Scene, rng: np.random.Generator) -> None:
    """Draw the new rows of `own`: which repeat what their key holds where it is nearest, the values of the others, the copies."""
    old = scene.n_known
    keys = [scene.decoded.values[j] for j in recall.keys]
    read = recall.keys if recall.unit is None else (*recall.keys, recall.unit.column)
    known = Decoded(old, {j: scene.decoded.values[j][:old] for j in read})
    recalled = Recalled(known, recall.keys, active[:old], recall.unit)
    same = np.concatenate([recalled.same(own[:old]), np.zeros(scene.n_new, np.int64)])
    source = _nearest(key_numbers(keys), active[:old], scene)
    _Cells(recall.same, scene, same, recalled.seen).draw(same, active[old:] & (source >= 0), rng)
    fresh, whole = same == 0, own[:old].copy()
    fill = np.array([code.fill], np.int64)
    own[:old][~fresh[:old]] = known_as(code.form, fill)[0]  # as it is when others are coded
    _Cells(code.value, scene, own, active[:old] & fresh[:old]).draw(own, active[old:] & fresh[old:], rng)
    own[:old] = whole
    copied = np.flatnonzero(~fresh[old:])
    own[old + copied] = whole[source[copied]]
    if recall.unit is not None:
        by = scene.decoded.values[recall.unit.column]
        quotients, fits = recall.unit.quotients(whole, by[:old])
        copied = copied[fits[source[copied]]]
        own[old + copied] = recall.unit.values(quotients[source[copied]], by[old + copied])


def _nearest(keys: Ints, active: Bools, scene: _Scene) -> Ints:
    """(n_new,) the active known row with the key of each new one: the last before its place, else the next; -1: there is none.

    keys : (n_known + n_new,) as key_numbers gives them
    """
    old, rows = scene.n_known, np.flatnonzero(active)
    if not len(rows):
        return np.full(scene.n_new, -1, np.int64)
    order = np.argsort(keys[rows], kind="stable")
    rows, sorted_keys = rows[order], keys[rows][order]
    at = np.searchsorted(sorted_keys * old + rows, keys[old:] * old + scene.places)
    found = np.full(scene.n_new, -1, np.int64)
    for candidate in (np.minimum(at, len(rows) - 1), np.maximum(at - 1, 0)):
        fits = sorted_keys[candidate] == keys[old:]
        found[fits] = rows[candidate[fits]]
    return found


def _decoded(plan: ColumnPlan, drawn: Codes, known: Codes, rng: np.random.Generator) -> pa.Array:
    """Drawn codes as an Arrow array; a misfit is one of those the known rows hold."""
    n_misfits = 0 if drawn.state is None else int((drawn.state == STATE_MISFIT).sum())
    if not n_misfits:
        return decode_column(plan, drawn, approximate=True)
    assert known.misfits is not None
    misfits = taken(known.misfits, rng.integers(0, len(known.misfits), n_misfits))
    return decode_column(plan, Codes(drawn.values, drawn.state, misfits), approximate=True)


def _from_prior(model: Model, base: Base, known: pa.Table, scene: _Scene, rng: np.random.Generator) -> dict[int, pa.Array]:
    """The columns of a base layer from latents of its prior; rows with nulls or other specials are those of the places."""
    drawn = base.layer.decode(base.layer.sample(scene.n_new, rng))
    found: dict[int, pa.Array] = {}
    first = 0
    for j in base.columns:
        plan, column = model.columns[j], one_array(known.column(j))
        values = np.ascontiguousarray(drawn[:, first : first + plan.width]).ravel()
        first += plan.width
        array = decode_column(plan, Codes(values), approximate=True)
        state = encode_column(plan, column).state
        if state is not None:
            special = (state.reshape(-1, plan.width) != STATE_VALUE).any(axis=1)[scene.places]
            source = np.where(special, scene.n_new + scene.places, np.arange(scene.n_new))
            array = taken(one_array(pa.chunked_array([array, column])), source)
        found[j] = array
    return found
