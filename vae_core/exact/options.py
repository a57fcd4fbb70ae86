"""The ways to write a column worth a look: digit schemes, predictions, and the order its rows are coded in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vae_core.exact import regress
from vae_core.exact.clock import to_minutes
from vae_core.exact.digits import Digits, Direct, Residual
from vae_core.exact.grids import mixed_of_planes, terms_of_planes
from vae_core.exact.lags import forward_terms, sort_orders
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import Linear, Term, term_values
from vae_core.exact.matches import Match
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.products import MOST_FACTORS, Products
from vae_core.exact.recurring import best_leader, keys_to_try
from vae_core.exact.regress import Regression
from vae_core.exact.sampled import Sampled, level_of_rows
from vae_core.exact.schedule import LONG_STRETCHES, STRETCH, STRIDE

Ints = NDArray[np.int64]
MOST_COPIES = 4
REACHES = 4  # of a lane, lengths of what a prediction looks back
FEW_FACTORS = 4  # of products that a quick search tries
UNCHANGED = (Term("lag1", -1, 1 << 16),)


@dataclass(frozen=True, slots=True)
class Option:
    """A way to write a column. forward: as in CellPlan. leader: the match that is the prediction. stretch: places of lanes."""

    scheme: Digits
    linear: Linear | None = None
    forward: tuple[int, ...] | None = None
    leader: Match | None = None
    stretch: int = STRETCH


def options(
    sampled: Sampled, values: Ints, active: NDArray[np.bool_] | None, column: SampleColumn, clock: bool, alone: bool = False,
    hurried: bool = False,
) -> list[Option]:
    """The digit schemes worth a look: the value itself, and its distance from predictions; `alone`: none of its own neighbouring
    rows; `hurried`: no prediction of many columns."""
    if sampled.widths:
        return _of_tensors(sampled, values, active, column)
    lo, hi = (int(to_minutes(np.array([v], np.int64))[0]) for v in (column.lo, column.hi)) if clock else (column.lo, column.hi)
    found: list[Option] = []
    forward: list[tuple[Linear, tuple[int, ...]]] = []
    valid = np.arange(len(values)) if active is None else np.flatnonzero(active)
    if hi - lo < 1 << 16:
        found.append(Option(Direct.over(lo, hi)))
        if sampled.decoded.above is not None and not alone and not sampled.price.is_high and len(valid):
            found.append(Option(Direct.over(lo, hi), Linear((), _bias(values[valid])), ()))
    if hi - lo >= 8 and not (column.categorical and hi - lo < 1 << 16):
        predicted = _predictions(sampled, column.column, values, valid, hi - lo, alone, hurried)
        in_order = not (alone or sampled.price.is_high) and hi - lo < 1 << 44
        forward = _forward(sampled, column.column, values, valid, predicted[0]) if in_order else []
        spread = min(62, max(2, (hi - lo).bit_length()))
        for linear, keys in [*((linear, None) for linear in predicted), *forward]:
            stretch = STRETCH if keys is None else stretch_for(sampled, linear, keys)
            found.append(Option(Residual(spread), linear, keys, stretch=stretch))
            if hi - lo < 1 << 8:
                found.append(Option(Direct.over(lo, hi), linear, keys, stretch=stretch))
    if not alone and not sampled.price.is_high and 8 <= hi - lo < 1 << 44 and len(valid) and sampled.remembers:
        bare = Linear((), _bias(values[valid]))
        likely: dict[tuple[int, ...], Sequence[Match]] = {}
        for linear, keys in forward or [(bare, ())]:
            stretch = stretch_for(sampled, linear, keys)
            lanes = Lanes(sampled.decoded, keys, valid, above=linear.reads_above, stretch=stretch)
            tried = likely[keys] if keys in likely else keys_to_try(sampled, column.column)
            leader, likely[keys] = best_leader(sampled, values, lanes, linear, tried)
            if leader is not None:
                found.append(Option(Residual(min(62, (hi - lo).bit_length())), linear, keys, leader, stretch))
    return found or [Option(Residual(62), Linear((), lo << 16 if abs(lo) < 1 << 45 else 0))]


def stretch_for(sampled: Sampled, linear: Linear, keys: tuple[int, ...]) -> int:
    """Places of the lanes in which a prediction is to be read: some times what it looks back, which is told of the later ones alone."""
    if not sampled.looks_far or (sampled.decoded.above is not None and not keys):
        return STRETCH
    return next((places for places in (STRETCH, *LONG_STRETCHES) if places >= REACHES * linear.reach), LONG_STRETCHES[-1])


def _of_tensors(sampled: Sampled, values: Ints, active: NDArray[np.bool_] | None, column: SampleColumn) -> list[Option]:
    """Of the cells of tensors: the value and its distance from a prediction, cells one after another, and the value by itself."""
    span, valid = column.hi - column.lo, np.arange(len(values)) if active is None else np.flatnonzero(active)
    direct: list[Digits] = [Direct.over(column.lo, column.hi)] if span < 1 << 16 else []
    found = [Option(scheme, Linear((), _bias(values[valid])), ()) for scheme in direct]
    if 8 <= span < 1 << 44 and len(valid) > 64:
        schemes: list[Digits] = [Residual(min(62, max(2, span.bit_length()))), *direct]
        if sampled.dense is not None:
            vectors = Linear((), 0, dense=sampled.dense)
            found += [Option(scheme, vectors, ()) for scheme in schemes]
        others = {c.column: sampled.decoded.values[c.column] for c in sampled.placed}
        lanes = Lanes(sampled.decoded, (), valid)
        terms, bias, bits = terms_of_planes(lanes, values, others, sampled.n_total, sampled.widths)
        first = _predictions(sampled, column.column, values, valid, span, True, True)[0]
        linear = Linear(terms, bias, first.terms, first.bias)
        if terms:
            mixed = replace(linear, mixed=mixed_of_planes(values, valid, others, sampled.widths[0], bits))
            # of values as they are a mix is a context that the sample thinks more of than a block: there cells around tell more, in time
            found += [*(Option(scheme, linear, ()) for scheme in schemes), Option(schemes[0], mixed, ())]
    return found or [Option(Residual(62), Linear((), _bias(values[valid])))]


def _forward(sampled: Sampled, column: int, values: Ints, valid: Ints, alone: Linear) -> list[tuple[Linear, tuple[int, ...]]]:
    """Predictions of rows one after another, and the keys of the order they are in; `alone` is that of the first row of a lane."""
    near = sampled.related(column, sampled.effort.paired)
    known = {c.column: sampled.decoded.values[c.column] for c in near}
    numeric = {c.column: known[c.column] for c in near if not c.categorical and 2 < c.hi - c.lo < 1 << 44}
    found = []
    effort = sampled.effort
    copies = {j: (lag, sampled.decoded.values[j]) for j, lag in list(sampled.copies(column).items())[:MOST_COPIES]}
    orders = sort_orders(known, values, valid, sampled.sorted_by, sampled.looks_far)[: effort.orders]
    for keys in orders if () in orders or not copies else [(), *orders]:
        lanes = Lanes(sampled.decoded, keys, valid, above=sampled.decoded.above is not None and not keys)
        terms, bias = forward_terms(lanes, values, numeric, sampled.n_total, {} if keys else copies, effort, sampled.looks_far)
        if any(term.column < 0 or term.beside is not None for term in terms):
            found.append((Linear(terms, bias, alone.terms, alone.bias), keys))
    if found and found[0][0].terms != UNCHANGED:  # prices by ticks, counters: steps recur as they are, and any other term blurs them
        found.append((Linear(UNCHANGED, 0, alone.terms, alone.bias), found[0][1]))
    return found


def _predictions(sampled: Sampled, column: int, values: Ints, valid: Ints, span: int, alone: bool, hurried: bool) -> list[Linear]:
    """Linear predictions from earlier columns alone, and with neighbouring rows; `alone`, `hurried`: as in options."""
    rng = np.random.default_rng(column)  # the same rows whenever the column is searched for
    step_of, left_of, right_of = level_of_rows(sampled.n_rows)
    inner = valid[step_of[valid] < STRIDE]
    rows = np.sort(rng.permutation(inner)[: sampled.effort.fit_rows])
    if len(rows) < 64 or span >= 1 << 52:
        return [Linear((), _bias(values[valid]))]
    near = sampled.related(column, sampled.effort.paired)
    numeric = [c.column for c in near if not c.categorical and 2 < c.hi - c.lo < 1 << 44]
    regression = Regression(values[rows].astype(np.float64))
    if not alone:
        regression = sampled.regressions.setdefault(column, regression)

    def variable(kind: str, column: int) -> regress.Variable:
        found = term_values(kind, column, sampled.decoded, rows, values, left_of[rows], right_of[rows])
        return regress.Variable(kind, column, found.astype(np.float64))

    at = [variable("at", c) for c in numeric]
    plain = regression.fit(at)
    if not hurried:
        more = [c.column for c in sampled.related(column, sampled.effort.wide) if not c.categorical and 2 < c.hi - c.lo < 1 << 44]
        plain = regression.fit_wide([variable("at", c) for c in more], sampled.n_total, plain)
    found = [Linear(plain.terms, plain.bias)]
    product = None
    if not sampled.widths:
        products = Products(values[rows].astype(np.float64))
        if not alone:
            products = sampled.products.setdefault(column, products)
        product = products.best(at, plain, FEW_FACTORS if sampled.effort.is_quick else MOST_FACTORS)
    if product is not None:
        found = [Linear(product.terms, product.bias)]
    if alone or sampled.effort.is_quick:
        return found
    around = regression.fit([variable("mean", -1), *(variable("bend", c) for c in numeric), *at])
    if around.terms and any(t.kind != "at" for t in around.terms) and around.score < plain.score - 0.05:
        found.append(regress.linear(around, plain))
    return found


def _bias(values: Ints) -> int:
    middle = int(np.median(values)) if len(values) else 0
    return middle << 16 if abs(middle) < 1 << 45 else 0
