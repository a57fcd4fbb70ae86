"""Drawn rows look like the data they were learned from, can all be decoded, and are the same for the same seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import tables
from telemetry import SENSORS, fitted, profiled, stored_again, telemetry, without_rows

from storage import open_archive
from vae_core.columns import plan_columns
from vae_core.errors import UsageError
from vae_core.model import Model
from vae_core.quality import digest
from vae_core.shard import sample_rows

N_ROWS = 6000


def orders(n_rows: int, seed: int) -> pa.Table:
    """Rows in no order: shops in unequal shares that determine a city, prices that follow sizes, notes of their own, nulls."""
    rng = np.random.default_rng(seed)
    shop = rng.choice(40, n_rows, p=(weights := 1.0 / np.arange(1, 41)) / weights.sum())
    size = rng.integers(1, 50, n_rows)
    price = np.round(3 * size + rng.normal(0, 4, n_rows), 1)
    return pa.table(
        {
            "shop": pa.array([f"shop-{s}" for s in shop]),
            "city": pa.array([f"city-{s * 7 % 11}" for s in shop]),
            "size": pa.array(size),
            "price": pa.array(price, mask=rng.random(n_rows) < 0.2),
            "note": pa.array([None if k % 3 else f"{k * 7919 % 10007} {'x' * (k % 11)}" for k in range(n_rows)]),
            "at": pa.array(60 * np.arange(n_rows) + rng.integers(0, 9, n_rows)),
        },
        metadata={"made": "by a test"},
    )


def shares(column: pa.ChunkedArray) -> dict[object, float]:
    return {entry["values"]: entry["counts"] / len(column) for entry in pc.value_counts(column).to_pylist()}


def total_variation(a: pa.ChunkedArray, b: pa.ChunkedArray) -> float:
    p, q = shares(a), shares(b)
    return sum(abs(p.get(value, 0) - q.get(value, 0)) for value in {*p, *q}) / 2


@pytest.fixture(scope="module")
def raw() -> pa.Table:
    return orders(N_ROWS, 0)


@pytest.fixture(scope="module")
def model(raw) -> Model:
    return stored_again(fitted(raw).model)


@pytest.fixture(scope="module")
def drawn(model, raw) -> pa.Table:
    return sample_rows(model, raw, 4000, 3)


def test_drawn_rows_have_the_schema_and_hold_values_of_the_data(model, raw, drawn):
    assert drawn.schema.equals(raw.schema, check_metadata=True) and drawn.num_rows == 4000
    drawn.validate(full=True)
    for name in ("shop", "city", "note"):
        assert set(drawn.column(name).to_pylist()) <= set(raw.column(name).to_pylist())
    for name in ("size", "price", "at"):
        seen, ends = pc.min_max(drawn.column(name)).as_py(), pc.min_max(raw.column(name)).as_py()
        assert ends["min"] <= seen["min"] <= seen["max"] <= ends["max"]


def test_categories_come_in_their_shares_and_nulls_at_their_rate(raw, drawn):
    assert total_variation(raw.column("shop"), drawn.column("shop")) < 0.06
    assert total_variation(raw.column("city"), drawn.column("city")) < 0.06
    for name in ("price", "note"):
        assert drawn.column(name).null_count / 4000 == pytest.approx(raw.column(name).null_count / N_ROWS, abs=0.03)


def test_what_depends_on_another_column_still_does(raw, drawn):
    city_of = dict(zip(raw.column("shop").to_pylist(), raw.column("city").to_pylist(), strict=True))
    kept = [city_of[s] == c for s, c in zip(drawn.column("shop").to_pylist(), drawn.column("city").to_pylist(), strict=True)]
    assert np.mean(kept) > 0.98
    size, price = (drawn.filter(pc.is_valid(drawn.column("price"))).column(name).to_numpy() for name in ("size", "price"))
    assert np.corrcoef(size, price)[0, 1] > 0.95
    assert np.std(price - 3 * size) < 12


def test_rows_are_new_and_follow_the_order_of_the_data(raw, drawn):
    whole = {tuple(row.values()) for row in raw.drop_columns("note").to_pylist()}
    new = sum(tuple(row.values()) not in whole for row in drawn.drop_columns("note").to_pylist())
    assert new > 2000
    at = drawn.column("at").to_numpy()
    assert np.corrcoef(at, np.sort(at))[0, 1] > 0.99


def test_the_seed_decides_the_rows_with_and_without_the_kernel(model, raw, drawn):
    assert digest(sample_rows(model, raw, 4000, 3).to_batches()) == digest(drawn.to_batches())
    assert digest(sample_rows(model, raw, 4000, 4).to_batches()) != digest(drawn.to_batches())
    script = (
        "from test_sampling import *; raw = orders(N_ROWS, 0);"
        "print(digest(sample_rows(Model.from_files(eval(sys.stdin.read())), raw, 4000, 3).to_batches()))"
    )
    again = subprocess.run(
        [sys.executable, "-c", script],
        input=repr(model.to_files()),
        env={**os.environ, "LATENTPACK_KERNEL": "off", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.strip() == str(digest(drawn.to_batches()))


def test_clocks_ties_specials_and_a_distortion_layer_are_drawn_too():
    raw = telemetry(3000, 1)
    model = stored_again(fitted(raw, ("temp=0.05", *(f"{name}=rmse:3%" for name in SENSORS))).model)
    assert model.distortion is not None
    drawn = sample_rows(model, raw, 1500, 0)
    assert drawn.schema.equals(raw.schema, check_metadata=True)
    drawn.validate(full=True)
    valid = drawn.filter(pc.is_valid(drawn.column("minutes")))
    start, end = (valid.column(name).to_numpy() for name in ("departs", "arrives"))
    assert (start % 100 < 60).all() and (end % 100 < 60).all()
    lasts = (end // 100 - start // 100) * 60 + end % 100 - start % 100
    assert np.mean(lasts == valid.column("minutes").to_numpy()) > 0.8
    assert np.isnan(drawn.column("noise").to_numpy()).mean() == pytest.approx(0.02, abs=0.015)
    assert drawn.column("void").null_count == 1500 and set(drawn.column("constant").to_pylist()) == {7}
    for name in SENSORS:
        assert len(pc.unique(drawn.column(name))) > 50
        assert drawn.column(name).null_count <= 100
    linked = np.corrcoef(np.stack([drawn.column(name).to_numpy()[:1000] for name in SENSORS[:5]]))
    assert np.abs(linked - np.corrcoef(np.stack([raw.column(name).to_numpy() for name in SENSORS[:5]]))).max() < 0.3


@pytest.mark.parametrize("n_known", [1, 2, 3, 33])
def test_few_known_rows_are_enough(model, raw, n_known):
    drawn = sample_rows(model, raw.slice(5, n_known), 50, 0)
    drawn.validate(full=True)
    for name in ("size", "at"):
        assert set(drawn.column(name).to_pylist()) <= set(range(pc.min(raw.column(name)).as_py(), pc.max(raw.column(name)).as_py() + 1))


def test_without_known_rows_there_are_nulls_and_none_is_none(model, raw):
    blank = sample_rows(model, without_rows(raw.schema), 3, 0)
    assert blank.schema.equals(raw.schema, check_metadata=True) and all(c.null_count == 3 for c in blank.columns)
    assert sample_rows(model, raw, 0, 0).equals(without_rows(raw.schema))
    with pytest.raises(UsageError, match="-1 rows"):
        sample_rows(model, raw, -1, 0)


@settings(max_examples=60)
@given(tables(max_rows=12), st.integers(0, 20))
def test_columns_of_every_type_that_nothing_codes_are_rows_of_the_data(table, n_rows):
    model = Model(table.schema, plan_columns(table.schema, profiled(table), table, {}), ())
    drawn = sample_rows(model, table, n_rows, 1)
    assert drawn.schema.equals(table.schema, check_metadata=True) and drawn.num_rows == n_rows
    drawn.validate(full=not any(pa.types.is_date64(field.type) for field in table.schema))  # parts of days are stored as any other
    if table.num_rows:
        rows = {digest(table.slice(k, 1).to_batches()) for k in range(table.num_rows)}
        assert {digest(drawn.slice(k, 1).to_batches()) for k in range(n_rows)} <= rows


def test_rows_are_drawn_where_symbols_are_gathered():
    archive = open_archive(str(Path(__file__).parent / "golden" / "1.14" / "gathered" / "archive"))
    model, table = archive.model(archive.entries()[0].model), archive.to_table()
    assert all(code.value.gathered and code.state.gathered for code in model.codes)
    drawn = sample_rows(model, table, 500, seed=3)
    assert drawn.num_rows == 500 and drawn.schema.equals(table.schema)
    assert pc.unique(drawn["same"]).to_pylist() == [3]
    assert total_variation(drawn["kind"], table["kind"]) < 0.1
