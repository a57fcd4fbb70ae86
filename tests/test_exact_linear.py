from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exact_digits import INT64

from vae_core.errors import CorruptArchive
from vae_core.exact import linear as linear_module
from vae_core.exact.features import MOST_BESIDE, Decoded, middle
from vae_core.exact.forward import fixed_totals
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import MOST_SHIFTED, Linear, Term, kind_beside, kind_of, kind_of_two, two_of
from vae_core.exact.matches import Match
from vae_core.exact.schedule import STRIDE, neighbours, passes

LAW = settings(deadline=None, max_examples=40)
N_COLUMNS = 3
WEIGHTS = st.one_of(st.integers(-(2**17), 2**17), st.integers(-(2**40) + 1, 2**40 - 1))
BIASES = st.integers(-(2**62) + 1, 2**62 - 1)
KINDS_OF_TWO = st.builds(kind_of_two, st.booleans(), st.integers(0, N_COLUMNS - 1), st.sampled_from([0, 1, 16, 40, MOST_SHIFTED]))
OF_TWO = st.builds(Term, KINDS_OF_TWO, st.integers(0, N_COLUMNS - 1), WEIGHTS)


@st.composite
def linears(draw: st.DrawFn) -> Linear:
    at = st.builds(Term, st.just("at"), st.integers(0, N_COLUMNS - 1), WEIGHTS)
    bend = st.builds(Term, st.just("bend"), st.integers(0, N_COLUMNS - 1), WEIGHTS)
    at = st.one_of(at, OF_TWO)
    around = st.one_of(at, bend, st.builds(Term, st.just("mean"), st.just(-1), WEIGHTS))
    terms = tuple(draw(st.lists(around, max_size=3)))
    return Linear(terms, draw(BIASES), tuple(draw(st.lists(at, max_size=2))), draw(BIASES))


@st.composite
def forward_linears(draw: st.DrawFn, above: bool = False) -> Linear:
    """Predictions of rows one after another; above: and of rows above."""
    lags = [*range(-20, 21), -256, 1000, 1 << 20]
    kinds = st.sampled_from([kind_of(lag) for lag in lags])
    other = st.one_of(st.builds(Term, kinds, st.integers(0, N_COLUMNS - 1), WEIGHTS), OF_TWO)
    own = st.builds(Term, st.sampled_from([kind_of(lag) for lag in lags if lag > 0]), st.just(-1), WEIGHTS)
    beside = [kind_beside(k) for k in range(-MOST_BESIDE, MOST_BESIDE + 1)] if above else []
    more = [st.builds(Term, st.sampled_from(beside), st.integers(-1, N_COLUMNS - 1), WEIGHTS)] if beside else []
    terms = tuple(draw(st.lists(st.one_of(other, own, *more), max_size=4)))
    return Linear(terms, draw(BIASES), tuple(draw(st.lists(other, max_size=2))), draw(BIASES))


@st.composite
def matches_of(draw: st.DrawFn, n: int) -> tuple[Match, ...]:
    """n keys of memories."""
    others, lags = st.lists(st.integers(0, N_COLUMNS - 1), max_size=3), st.lists(st.integers(1, 9), max_size=4)
    keys = st.tuples(others, lags).filter(any)
    return tuple(Match(tuple(j), tuple(k)) for j, k in draw(st.lists(keys, min_size=n, max_size=n)))


def wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def of_two(weight: int, x: int, y: int, is_quotient: bool, _: int, shifted: int) -> int:
    """What a product or a quotient adds, as FORMAT.md has it."""
    found = wrapped(weight * x)
    return (found // y if y > 0 else 0) >> shifted if is_quotient else wrapped(found * y) >> shifted


def half(a: int, b: int) -> int:
    return (a + b) >> 1


def any_int64s(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,) of every magnitude, with the extremes among them."""
    values = rng.integers(-(2**63), 2**63 - 1, n, endpoint=True) >> rng.integers(0, 64, n)
    return np.where(rng.random(n) < 0.05, rng.choice([-(2**63), 2**63 - 1], n), values)


@LAW
@given(linears(), st.integers(1, 70), st.integers(0, 2**32))
def test_a_guess_and_its_fraction_are_the_formula_modulo_two_to_the_64(linear, n, seed):
    rng = np.random.default_rng(seed)
    columns = {c: any_int64s(rng, n) for c in range(N_COLUMNS)}
    own = any_int64s(rng, n)
    decoded = Decoded(n, dict(columns), dict.fromkeys(columns))
    for step, rows in passes(n, linear.by_level):
        left, right = neighbours(step, rows, n) if linear.by_level and step < STRIDE else (None, None)
        anchor = linear.by_level and step >= STRIDE
        guess, fraction = linear.guess(decoded, rows, own, left, right)
        assert guess.dtype == fraction.dtype == np.int64
        for i in range(0, len(rows), 5):
            r, lo, hi = int(rows[i]), *(0 if side is None else int(side[i]) for side in (left, right))
            terms, bias = (linear.anchor_terms, linear.anchor_bias) if anchor else (linear.terms, linear.bias)
            total = bias + (1 << 15)
            for t in terms:
                if (two := two_of(t.kind)) is not None:
                    total += of_two(t.weight, int(columns[t.column][r]), int(columns[two[1]][r]), *two)
                    continue
                match t.kind:
                    case "at":
                        total += t.weight * int(columns[t.column][r])
                    case "mean":
                        total += t.weight * half(int(own[lo]), int(own[hi]))
                    case _:
                        c = columns[t.column]
                        total += t.weight * wrapped(int(c[r]) - half(int(c[lo]), int(c[hi])))
            assert int(guess[i]) == wrapped(total) >> 16 and int(fraction[i]) == (wrapped(total) >> 13) & 7


@given(INT64, INT64)
def test_the_middle_of_two_int64_is_the_floor_of_their_mean(a, b):
    assert int(middle(np.array([a]), np.array([b]))[0]) == (a + b) >> 1


@LAW
@given(st.one_of(linears(), forward_linears(), forward_linears(above=True)))
def test_a_prediction_comes_back_from_its_json(linear):
    assert linear_module.from_json(json.loads(json.dumps(linear.to_json())), N_COLUMNS) == linear


def test_columns_and_neighbours_are_told():
    linear = Linear((Term("at", 2, 1), Term("bend", 1, 1)), 0, (Term("at", 0, 1),), 0)
    assert linear.columns == {0, 1, 2} and linear.by_level
    assert not Linear((Term("at", 2, 1),), 0).by_level


@pytest.mark.parametrize(
    "parts",
    [
        None, [], [[], 0, []], [[["at", 0]], 0, [], 0], [[["at", N_COLUMNS, 1]], 0, [], 0], [[["at", -2, 1]], 0, [], 0],
        [[["at", 0, 1 << 40]], 0, [], 0], [[["sin", 0, 1]], 0, [], 0], [[], 1 << 62, [], 0], [[], 0, [["mean", -1, 1]], 0],
        [[], 0, [["bend", 0, 1]], 0], [[], "x", [], 0], [[["at", None, 1]], 0, [], 0], 7,
        [[], float("inf"), [], 0], [[["at", 0, float("nan")]], 0, [], 0], [[["bend", -1, 5]], 0, [], 0], [[["at", -1, 5]], 0, [], 0],
        [[["lag0", -1, 5]], 0, [], 0], [[["lag16777217", -1, 5]], 0, [], 0], [[["lead1", -1, 5]], 0, [], 0], [[], 0, [["lag1", -1, 5]], 0],
        [[["lag1", N_COLUMNS, 5]], 0, [], 0], [[["lag1", -1, 5], ["mean", -1, 1]], 0, [], 0],
        [[["above+4", -1, 5]], 0, [], 0], [[["above0", -1, 5]], 0, [], 0], [[["above", -2, 5]], 0, [], 0], [[], 0, [["above", 0, 5]], 0],
        [[["above", 0, 5], ["mean", -1, 1]], 0, [], 0], [[["times0>63", 0, 5]], 0, [], 0], [[["times0", 0, 5]], 0, [], 0],
        [[["times00>1", 0, 5]], 0, [], 0], [[["times-1>1", 0, 5]], 0, [], 0], [[["over0>01", 0, 5]], 0, [], 0],
        [[["over0>1", -1, 5]], 0, [], 0], [[[f"over{N_COLUMNS}>1", 0, 5]], 0, [], 0], [[["times9999999>1", 0, 5]], 0, [], 0],
        [[], 0, [["times1>1", N_COLUMNS, 5]], 0],
    ],
)  # fmt: skip
def test_a_prediction_that_nothing_writes_is_refused(parts):
    with pytest.raises(CorruptArchive):
        linear_module.from_json(parts, N_COLUMNS)


def test_a_prediction_from_a_column_not_yet_decoded_is_refused():
    with pytest.raises(CorruptArchive, match="not decoded before"):
        Linear((Term("at", 1, 5),), 0).guess(Decoded(2), np.arange(2), np.zeros(2, np.int64), None, None)


@pytest.mark.parametrize("kind", ["times1>3", "over1>3"])
def test_products_and_quotients_of_a_column_not_yet_decoded_are_refused(kind):
    decoded = Decoded(2, {0: np.zeros(2, np.int64)})
    linear = Linear((Term(kind, 0, 5),), 0)
    assert linear.columns == {0, 1}
    with pytest.raises(CorruptArchive, match="column 1, which is not decoded before"):
        linear.guess(decoded, np.arange(2), np.zeros(2, np.int64), None, None)
    with pytest.raises(CorruptArchive, match="column 1, which is not decoded before"):
        fixed_totals(Lanes(decoded, (), np.arange(2)), linear, decoded)
    with pytest.raises(CorruptArchive, match="column 1, which is not decoded before"):
        fixed_totals(Lanes(decoded, (), np.arange(2)), Linear((), 0, linear.terms), decoded)


@LAW
@given(OF_TWO, OF_TWO, st.sampled_from([1, 600, 1700]), st.integers(0, 2**32))
def test_rows_one_after_another_add_of_two_columns_what_others_do(term, first, n, seed):
    rng = np.random.default_rng(seed)
    columns = {c: any_int64s(rng, n) for c in range(N_COLUMNS)}
    decoded, lanes = Decoded(n, dict(columns), dict.fromkeys(columns)), Lanes(Decoded(n), (), np.arange(n))
    found = fixed_totals(lanes, Linear((term,), 7, (first,), 9), decoded)
    for place, row in enumerate(lanes.rows.tolist()):
        used, bias = (first, 9) if place < lanes.edges[1] else (term, 7)
        two = two_of(used.kind)
        assert two is not None
        added = of_two(used.weight, int(columns[used.column][row]), int(columns[two[1]][row]), *two)
        assert int(found[place]) == wrapped(bias + (1 << 15) + added)
