"""Columns that are the product or the quotient of two others: found, told exactly, and stored as terms that a plan may hold."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, resolved
from test_exact_linear import any_int64s

from vae_core.exact.features import Decoded
from vae_core.exact.linear import Linear, from_json, two_of
from vae_core.exact.products import Products
from vae_core.exact.regress import Fitted, Regression, Variable
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=60)
N = 8_000
Ints = np.ndarray


def found_of(target: Ints, *columns: Ints) -> tuple[Fitted | None, Fitted]:
    """The prediction by two of some columns on the first half of the rows, and that by sums."""
    half = len(target) // 2
    variables = [Variable("at", j, c[:half].astype(np.float64)) for j, c in enumerate(columns)]
    sums = Regression(target[:half].astype(np.float64)).fit(variables)
    return Products(target[:half].astype(np.float64)).best(variables, sums), sums


def off(found: Fitted | None, target: Ints, *columns: Ints) -> Ints:
    """How far predictions are off, on all rows."""
    assert found is not None
    linear = from_json(Linear(found.terms, found.bias).to_json(), len(columns))
    decoded = Decoded(len(target), dict(enumerate(columns)), dict.fromkeys(range(len(columns))))
    return target - linear.guess(decoded, slice(None), target, None, None)[0]


def rounded(values: np.ndarray) -> Ints:
    return np.round(values).astype(np.int64)


CENTS = rounded(100 * np.random.default_rng(1).lognormal(3, 1, 2 * N))
NUMBER = np.random.default_rng(2).geometric(0.3, 2 * N)
SEEN = np.random.default_rng(3).integers(900, 90_000, 2 * N)
CLICKED = rounded(SEEN * np.random.default_rng(4).beta(2, 8, 2 * N))
STEPS = np.random.default_rng(5).integers(0, 5, 2 * N)
METRES, SECONDS = np.random.default_rng(6).integers(100, 90_000, 2 * N), np.random.default_rng(7).integers(60, 9_000, 2 * N)
EXACT = {
    "price and number": (CENTS * NUMBER, (CENTS, NUMBER)),
    "hundredths": (rounded(CENTS * NUMBER / 100), (CENTS, NUMBER)),
    "a discount in steps of 5 %": (rounded(CENTS * (1 - 0.05 * STEPS)), (STEPS, CENTS)),
    "a share of four digits": (rounded(10_000 * CLICKED / SEEN), (CLICKED, SEEN)),
    "a loss in tenths of a per cent": (rounded(1000 * (CLICKED - SEEN) / SEEN), (CLICKED, SEEN)),
    "a speed": (rounded(36 * METRES / SECONDS), (SECONDS, METRES)),
    "what is left of a share": (rounded(100 * (SEEN - CLICKED) / SEEN), (SEEN, CLICKED)),
    "an area": (METRES * METRES, (METRES, SECONDS)),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_is_made_of_two_columns_is_told_exactly_where_no_fit_was(name):
    target, columns = EXACT[name]
    found, sums = found_of(target, *columns)
    far = off(found, target, *columns)
    assert (far == 0).mean() > 0.975 and np.abs(far).max() <= 1  # halves are rounded to even by those who write them
    assert sums.score > 1
    assert any(two_of(term.kind) is not None for term in found.terms)  # type: ignore[union-attr]


def test_among_other_columns_and_rows_that_break_it_the_product_is_found():
    rng = np.random.default_rng(8)
    target = np.where(rng.random(2 * N) < 0.05, rng.integers(0, 10**6, 2 * N), CENTS * NUMBER)
    columns = (SEEN, CENTS, SECONDS, STEPS, NUMBER, METRES)
    found, _ = found_of(target, *columns)
    assert (off(found, target, *columns) == 0).mean() > 0.94


def test_a_prediction_that_is_nearly_a_product_is_taken_as_near_as_it_is():
    rng = np.random.default_rng(9)
    noise = rng.normal(0, 30, 2 * N)
    target = rounded(CENTS * NUMBER + noise)
    found, sums = found_of(target, CENTS, NUMBER)
    assert found is not None and found.score < sums.score - 2
    assert np.abs(off(found, target, CENTS, NUMBER) - noise).mean() < 1


def test_sums_and_what_has_nothing_to_do_with_others_are_no_products():
    rng = np.random.default_rng(10)
    for target in (CENTS + 3 * SEEN - 17, rng.integers(0, 10**6, 2 * N), np.zeros(2 * N, np.int64), 7 * CENTS):
        assert found_of(target, CENTS, SEEN, NUMBER)[0] is None
    assert found_of(CENTS)[0] is None


@LAW
@given(st.integers(0, 2**32), st.sampled_from([64, 300, 1000]), st.integers(1, 4))
def test_whatever_is_found_of_any_columns_a_plan_may_hold(seed, n, n_columns):
    rng = np.random.default_rng(seed)
    columns = [any_int64s(rng, n) >> int(rng.integers(0, 62)) for _ in range(n_columns)]
    with np.errstate(over="ignore"):
        target = columns[0] * columns[-1] if rng.random() < 0.5 else columns[0] // np.maximum(columns[-1], 1)
    found, _ = found_of(target, *columns)
    if found is not None:
        assert np.isfinite(found.score)
        off(found, target, *columns)


@pytest.mark.parametrize("compiled", [True, False])
def test_an_order_takes_no_bytes_for_what_follows_from_its_prices(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setenv("LATENTPACK_KERNEL", "off")
    n = 2_000
    table = pa.table({
        "price": CENTS[:n] / 100, "number": NUMBER[:n], "amount": np.round(CENTS[:n] * NUMBER[:n] / 100, 2),
        "seen": SEEN[:n], "clicked": CLICKED[:n], "share": np.round(CLICKED[:n] / SEEN[:n], 4),
    })  # fmt: skip
    for asked in ([], ["*=1%"]) if compiled else ([],):
        model = fitted(table, asked, preview="off", seconds=10).model
        shard = encode_shard(model, table)
        taken = {o.name: o.n_bytes for o in shard.outcomes}
        if not asked:  # one of three that belong together follows from the others, whichever came last
            assert min(taken[name] for name in ("price", "number", "amount")) < 100, taken
            assert min(taken[name] for name in ("seen", "clicked", "share")) < 300, taken
        back = decoded(model, shard)
        assert_kept(table, back, resolved(table, asked))
        for name in table.column_names:  # with the columns that tell it, and no others
            assert decoded(model, shard, [name]).equals(back.select([name]))
