"""Choosing, on a sample, how a column is coded: its digits, prediction, contexts, and whether it is recalled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.exact import regress
from vae_core.exact.cells import FLAGS, CellPlan, ColumnCode, DigitPlan, Recall, to_minutes
from vae_core.exact.digits import Digits, Direct, Residual
from vae_core.exact.features import N_STATES
from vae_core.exact.keys import best_keys
from vae_core.exact.linear import Linear, term_values
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.parents import MIN_GAIN_BITS, quick_bits, search_digits
from vae_core.exact.recall import Recalled
from vae_core.exact.regress import Regression
from vae_core.exact.sampled import RELATED, Bench, Rows, Sampled, level_of_rows, looks_like_clock
from vae_core.exact.schedule import STRIDE

Ints = NDArray[np.int64]
KEYED = 12  # columns that may be keys
KEY_ROWS = 30_000
WORTH_RECALLING = 16_000.0  # bits of a column over the dataset


def search_column(sampled: Sampled, column: SampleColumn, tick: Callable[[], bool]) -> tuple[ColumnCode, float]:
    """The code of one column given those placed before it, and its estimated bits over the sample.

    `tick` tells whether time is left; without it the search keeps what it has.
    """
    # all that the search looks at: what else is placed makes no difference
    related = tuple(c.column for c in sampled.related(column.column, max(RELATED, regress.MAX_PAIRED)))
    situation = column.column, related, frozenset(sampled.ordered.intersection(related[:RELATED]))
    if situation not in sampled.searched:
        found = _search_column(sampled, column, tick)
        if not tick():
            return found
        sampled.searched[situation] = found
    return sampled.searched[situation]


def _search_column(sampled: Sampled, column: SampleColumn, tick: Callable[[], bool]) -> tuple[ColumnCode, float]:
    clock = looks_like_clock(column)
    values = sampled.decoded.values[column.column]
    state_plan, state_bits = CellPlan(Direct.over(0, N_STATES - 1), None, (DigitPlan((), (16,)),)), 0.0
    active: NDArray[np.bool_] | None = None
    if column.state is not None:
        state_plan, state_bits = _search_cells(
            sampled, column.column, column.state.astype(np.int64), None, [(Direct.over(0, N_STATES - 1), None)], tick
        )
        active = column.state == 0
    options = _options(sampled, values, active, column, clock)
    value_plan, bits = _search_cells(sampled, column.column, values, active, options, tick)
    recall, value_plan, bits = _search_recall(sampled, column, values, active, (value_plan, bits), clock, tick)
    return ColumnCode(column.column, column.fill, clock, state_plan, value_plan, recall), bits + state_bits


def _search_recall(
    sampled: Sampled,
    column: SampleColumn,
    values: Ints,
    active: NDArray[np.bool_] | None,
    plain: tuple[CellPlan, float],
    clock: bool,
    tick: Callable[[], bool],
) -> tuple[Recall | None, CellPlan, float]:
    """The plan as it is, or a recall and the plan of the rows it leaves, whichever takes fewer bits over the sample."""
    scale = sampled.n_total / max(1, sampled.n_rows)
    if plain[1] * scale < WORTH_RECALLING or not tick():
        return None, *plain
    rows = np.arange(len(values)) if active is None else np.flatnonzero(active)
    some = rows[:KEY_ROWS]
    near = {c.column: sampled.decoded.values[c.column][some] for c in sampled.related(column.column, KEYED)}
    keys, _ = best_keys(near, values[some], plain[1] * len(some) / max(1, len(rows)))
    if not keys:
        return None, *plain
    recalled = Recalled(sampled.decoded, keys, active)
    same = recalled.same(values)
    flags, flag_bits = _search_cells(sampled, column.column, same, recalled.seen, [(FLAGS, None)], tick)
    rest = same == 0 if active is None else (same == 0) & active
    options = _options(sampled, values, rest, column, clock, alone=True)
    value, bits = _search_cells(sampled, column.column, values, rest, options, tick, alone=True)
    if bits + flag_bits > plain[1] - MIN_GAIN_BITS / scale:
        return None, *plain
    return Recall(keys, flags), value, bits + flag_bits


def _options(
    sampled: Sampled, values: Ints, active: NDArray[np.bool_] | None, column: SampleColumn, clock: bool, alone: bool = False
) -> list[tuple[Digits, Linear | None]]:
    """The digit schemes worth a look: the value itself, and its distance from one or two predictions; `alone`: none of its
    own neighbouring rows."""
    lo, hi = (int(to_minutes(np.array([v], np.int64))[0]) for v in (column.lo, column.hi)) if clock else (column.lo, column.hi)
    found: list[tuple[Digits, Linear | None]] = []
    if hi - lo < 1 << 16:
        found.append((Direct.over(lo, hi), None))
    valid = np.arange(len(values)) if active is None else np.flatnonzero(active)
    if hi - lo >= 8 and not (column.categorical and hi - lo < 1 << 16):
        for linear in _predictions(sampled, column.column, values, valid, hi - lo, alone):
            spread = min(62, max(2, (hi - lo).bit_length()))
            found.append((Residual(spread), linear))
            if hi - lo < 1 << 8:
                found.append((Direct.over(lo, hi), linear))
    return found or [(Residual(62), Linear((), lo << 16 if abs(lo) < 1 << 45 else 0))]


def _predictions(sampled: Sampled, column: int, values: Ints, valid: Ints, span: int, alone: bool) -> list[Linear]:
    """Linear predictions from earlier columns alone, and with neighbouring rows; `alone`: the column's rest after recall."""
    rng = np.random.default_rng(column)  # the same rows whenever the column is searched for
    step_of, left_of, right_of = level_of_rows(sampled.n_rows)
    inner = valid[step_of[valid] < STRIDE]
    rows = np.sort(rng.permutation(inner)[:8000])
    if len(rows) < 64 or span >= 1 << 52:
        return [Linear((), _bias(values[valid]))]
    near = sampled.related(column, regress.MAX_PAIRED)
    numeric = [c.column for c in near if not c.categorical and 2 < c.hi - c.lo < 1 << 44]
    regression = Regression(values[rows].astype(np.float64))
    if not alone:
        regression = sampled.regressions.setdefault(column, regression)

    def variable(kind: str, column: int) -> regress.Variable:
        found = term_values(kind, column, sampled.decoded, rows, values, left_of[rows], right_of[rows])
        return regress.Variable(kind, column, found.astype(np.float64))

    at = [variable("at", c) for c in numeric]
    plain = regression.fit(at)
    if alone:
        return [Linear(plain.terms, plain.bias)]
    around = regression.fit([variable("mean", -1), *(variable("bend", c) for c in numeric), *at])
    found = [Linear(plain.terms, plain.bias)]
    if around.terms and any(t.kind != "at" for t in around.terms) and around.score < plain.score - 0.05:
        found.append(regress.linear(around, plain))
    return found


def _bias(values: Ints) -> int:
    middle = int(np.median(values)) if len(values) else 0
    return middle << 16 if abs(middle) < 1 << 45 else 0


def _search_cells(
    sampled: Sampled,
    column: int,
    own: Ints,
    active: NDArray[np.bool_] | None,
    options: Sequence[tuple[Digits, Linear | None]],
    tick: Callable[[], bool],
    alone: bool = False,
) -> tuple[CellPlan, float]:
    rows = Rows(sampled, column, own, np.arange(len(own)) if active is None else np.flatnonzero(active), alone)
    benches = [Bench(rows, scheme, linear) for scheme, linear in options]
    trials = sorted(((quick_bits(bench), bench) for bench in benches), key=lambda t: t[0])
    best: tuple[CellPlan, float] | None = None
    for quick, bench in trials[:2]:
        if best is not None and (quick > 1.15 * trials[0][0] or not tick()):
            break
        found = search_digits(bench, tick)
        if best is None or found[1] < best[1]:
            best = found
    assert best is not None
    return best
