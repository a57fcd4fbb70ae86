"""Amounts that are a number times what something costs: recalled by what costs it, at one of each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core.errors import CorruptArchive
from vae_core.exact.features import Decoded
from vae_core.exact.recall import Recalled
from vae_core.exact.units import MOST_NUMBER, NO_QUOTIENT, Unit, best_unit, unit_from_json, unit_of
from vae_core.sampling import sample_rows
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=100)
N = 12_000
ROWS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-40, 40), max_size=30)


def sold(n: int, seed: int = 0, n_goods: int = 400) -> pa.Table:
    rng = np.random.default_rng(seed)
    goods, number = rng.integers(0, n_goods, n), rng.integers(1, 40, n)
    amount = rng.integers(900, 90_000, n_goods)[goods] * number
    amount[rng.random(n) < 0.004] += 1
    numbers = pa.array(number * 1.0, mask=rng.random(n) < 0.01)
    return pa.table({"amount": amount / 100, "goods": goods, "number": numbers, "n": rng.integers(0, 3, n)})


@LAW
@given(ROWS, ROWS, st.integers(-5, 5), st.integers(1, 4), st.integers(-5, 5), st.integers(1, 4))
def test_what_is_a_multiple_comes_back_and_nothing_else_has_a_quotient(values, by, start, step, by_start, by_step):
    n = min(len(values), len(by))
    values, by = np.array(values[:n], np.int64), np.array(by[:n], np.int64)
    unit = Unit(0, start, step, by_start, by_step)
    found, fits = unit.quotients(values, by)
    assert ((found == NO_QUOTIENT) == ~fits).all()
    assert (unit.values(found, by)[fits] == values[fits]).all()
    small = (values > -(1 << 40)) & (values < 1 << 40) & (by > -(1 << 20)) & (by < 1 << 20)
    numbers, divisors = (start + step * values[small]).tolist(), (by_start + by_step * by[small]).tolist()
    assert fits[small].tolist() == [b != 0 and a % b == 0 for a, b in zip(numbers, divisors, strict=True)]


def test_the_column_is_found_that_divides_nearly_all_and_no_other_row():
    rng = np.random.default_rng(1)
    number, price, other = rng.integers(1, 60, N), rng.integers(100, 9_000, N), rng.integers(1, 60, N)
    lattices = {0: (0, 1), 1: (0, 1)}
    found = best_unit(number * price, (0, 1), {0: other, 1: number}, lattices)
    assert found is not None and found.column == 1
    assert best_unit(100 * price, (0, 1), {0: rng.choice([1, 2, 5, 10], N)}, lattices) is None  # which those of any row would divide
    assert best_unit(price, (0, 1), {0: other, 1: number}, lattices) is None
    assert best_unit(number * price, (0, 1), {0: np.full(N, 7), 1: np.zeros(N, np.int64)}, lattices) is None
    assert best_unit(number[:100] * price[:100], (0, 1), {1: number[:100]}, lattices) is None  # too few to tell
    assert unit_of(3, (1200, 100), (0, 50)) == Unit(3, 12, 1, 0, 1)


def test_flags_and_copies_are_of_quotients():
    goods, by = np.array([0, 1, 0, 1, 0, 0, 0]), np.array([2, 3, 5, 4, 0, 7, 3])
    values = np.array([20, 33, 50, 44, 9, 70, 31])
    recalled = Recalled(Decoded(7, {0: goods, 1: by}), (0,), None, Unit(1, 0, 1, 0, 1))
    same = recalled.same(values)
    assert same.tolist() == [0, 0, 1, 1, 0, 0, 0]  # not behind a row that is no multiple; 31 is none of 3
    kept = np.where(same == 1, -1, values)
    recalled.copy(kept, same)
    assert kept.tolist() == values.tolist()
    with pytest.raises(CorruptArchive, match="column 1"):
        Recalled(Decoded(7, {0: goods}), (0,), None, Unit(1, 0, 1, 0, 1))


@pytest.mark.parametrize(
    "parts", [[0, 0, 0, 0, 1], [5, 0, 1, 0, 1], [0, 0, 1, 0], [0, MOST_NUMBER, 1, 0, 1], [0, 0, 1, 0, -1], "x", [0, 0, 1.0, 0, 1]]
)
def test_units_that_no_plan_holds_are_corrupt(parts):
    with pytest.raises(CorruptArchive, match=r"unit|multiples"):
        unit_from_json(parts, 5)


def test_amounts_cost_the_first_sight_of_what_is_sold():
    table = sold(40_000)
    model = fitted(table, [], preview="off", seconds=30).model
    [code] = [code for code in model.codes if model.columns[code.column].name == "amount"]
    assert code.recall is not None and code.recall.unit is not None
    assert model.columns[code.recall.unit.column].name == "number" and [model.columns[j].name for j in code.recall.keys] == ["goods"]
    assert code.columns >= {code.recall.unit.column, *code.recall.keys}
    shard = encode_shard(model, table, preview=False)
    outcome = {o.name: o for o in shard.outcomes}
    assert outcome["amount"].n_bytes < 0.12 * outcome["amount"].conventional_bytes
    assert_kept(table, decoded(stored_again(model), shard))
    drawn = sample_rows(model, table.slice(0, 8_000), 2_000, seed=1).to_pandas().dropna()
    prices = (100 * drawn["amount"] / drawn["number"]).round(6)
    assert (prices == prices.round()).mean() > 0.9 and drawn.assign(price=prices).groupby("goods")["price"].nunique().median() <= 2
    assert_kept(sold(5_000, seed=9), decoded(model, encode_shard(model, sold(5_000, seed=9), preview=False)))  # other prices
