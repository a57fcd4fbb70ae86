"""Distortion targets in files the model never saw, and what a layer has to be worth to be chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import float_values, tables, tolerances_for
from telemetry import SENSORS, assert_kept, decoded, fitted, resolved, stored_again, telemetry
from test_cli_pipeline import latentpack

from vae_core import choosing, fitting, latents, layers
from vae_core.base import GAIN_UNIT, BaseColumn, fit_base
from vae_core.base.cost import stored_bytes
from vae_core.columns import STATE_MISFIT, decode_column, encode_column, one_array
from vae_core.columns.recode import with_worst_kept
from vae_core.latents import COARSEST_GAIN, base_input, beside, distortion_latents, slice_codes, targets_met
from vae_core.layout import uses_codes
from vae_core.model import FitResult, Model
from vae_core.shard import encode_shard
from vae_core.tables import flat_floats, rmse_of
from vae_core.tolerance import Tolerance

KINDS = [pa.float64(), pa.float32(), pa.int32(), pa.uint64(), pa.decimal128(10, 2), pa.list_(pa.float32(), 2)]
TARGET = 20.0


def bumpy(n_rows: int, seed: int) -> np.ndarray:
    """Values every bin of which is wide for a target of 20: between 0 and 3000 with noise."""
    rng = np.random.default_rng(seed)
    return np.abs(10 * rng.integers(0, 300, n_rows) + 10 * rng.normal(size=n_rows))


def column_of(kind: pa.DataType, x: np.ndarray) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(x, kind.list_size), kind.value_type), kind.list_size)
    if pa.types.is_integer(kind):
        return pa.array(np.round(x).astype(np.int64)).cast(kind)
    return pa.array(np.round(x, 2)).cast(kind, safe=False)


def table_of(kind: pa.DataType, x: np.ndarray) -> pa.Table:
    """The column, and one that follows it and tells little of it."""
    return pa.table({"x": column_of(kind, x), "y": pa.array((x // 100).astype(np.int64) * 7919 % 13)})


@pytest.fixture
def without_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No distortion layer, and columns coded in the order of the schema."""
    monkeypatch.setattr(fitting, "fit_distortion", lambda *_: (None, []))
    orders = fitting.orders

    def in_schema_order(columns: list, rng: np.random.Generator, *_: object) -> tuple[list[list[int]], Any]:
        found, gains = orders(columns, rng)
        return [sorted(found[0])], gains

    monkeypatch.setattr(fitting, "orders", in_schema_order)


def worst_first(model: Model, x: np.ndarray, kind: pa.DataType) -> np.ndarray:
    """The values, those with the largest errors under the model's bins first."""
    array = column_of(kind, x)
    seen = decode_column(model.columns[0], encode_column(model.columns[0], array))
    error = (flat_floats(seen) - flat_floats(array)).reshape(len(x), -1)[:, 0]
    return x[np.argsort(-np.abs(error), kind="stable")]


def test_a_later_file_that_breaks_the_target_under_the_plan_it_inherits_is_coded_finer(without_a_layer, tmp_path):
    source, archive, report = tmp_path / "source", tmp_path / "archive", tmp_path / "r.json"
    source.mkdir()
    kinds = {"x": pa.float64(), "n": pa.int32(), "wide": pa.list_(pa.float32(), 2)}
    raw = {name: bumpy(4000, k) for k, name in enumerate(kinds)}

    def run(name: str) -> dict:
        pq.write_table(pa.table({c: column_of(kind, raw[c]) for c, kind in kinds.items()}), source / name)
        asked = [word for c in kinds for word in ("--tolerance", f"{c}=rmse:{TARGET:g}")]
        latentpack("run", source, archive, *asked, "--time-budget", 3, "--quiet", "--json", report)
        return json.loads(report.read_text())

    first = run("1.parquet")
    assert [c["tolerance_kind"] for c in first["columns"]] == ["rmse"] * 3 and all(c["coding"] != "latent" for c in first["columns"])
    latentpack("read", archive, tmp_path / "back.parquet")
    back = pq.read_table(tmp_path / "back.parquet")
    for name, kind in kinds.items():  # what came back worst, ten times over: a mean error as large as the largest was
        ours, theirs = flat_floats(one_array(back[name])), flat_floats(column_of(kind, raw[name]))
        error = np.abs(ours - theirs).reshape(4000, -1)[:, 0]
        raw[name] = raw[name][np.argsort(-error)[np.arange(4000) // 10]]
        assert np.sqrt(np.mean(np.sort(error)[-400:] ** 2)) > TARGET
    second = run("2.parquet")
    assert second["snapshot"] == 2 and second["n_new_rows"] == 4000
    assert all(c["violations"] == 0 and c["rmse"] <= TARGET for c in second["columns"])
    latentpack("verify", archive, "--source", source)
    latentpack("read", archive, tmp_path / "back.parquet", "--rows", "4000:")
    back, new = pq.read_table(tmp_path / "back.parquet"), pq.read_table(source / "2.parquet")
    assert all(rmse_of(one_array(new[name]), one_array(back[name])) <= TARGET for name in kinds)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_rows_that_miss_their_target_cost_a_few_values_kept_and_not_the_column(kind, without_a_layer, monkeypatch):
    """And what follows the column is still learned from it; without them all of its values are kept, and nothing is."""
    values = bumpy(6000, 0)
    model = fitted(table_of(kind, values), [f"x=rmse:{TARGET}"]).model
    assert model.distortion is None and not model.uniform and model.columns[0].tolerance.value > TARGET
    assert kind == KINDS[-1] or 0 in model.learned[1].columns  # tensors are no context
    ordered = worst_first(model, values, kind)
    rng = np.random.default_rng(3)
    new = table_of(kind, rng.permutation(ordered[:4200]))  # the worst seven tenths
    promised = resolved(new, [f"x=rmse:{TARGET}"])
    bare = encode_shard(model, new)
    assert rmse_of(one_array(new["x"]), one_array(decoded(stored_again(model), bare)["x"])) > TARGET
    assert encode_shard(model, table_of(kind, values), targets={"x": TARGET}) == encode_shard(model, table_of(kind, values))
    shard = encode_shard(model, new, block_rows=1500, targets={"x": TARGET})
    assert_kept(new, decoded(stored_again(model), shard), promised)
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "with_worst_kept", lambda plan, array, codes, rmse: codes)
        raw = encode_shard(model, new, block_rows=1500, targets={"x": TARGET})
    assert_kept(new, decoded(stored_again(model), raw), promised)
    for kept, found in ((True, shard), (False, raw)):
        x, y = found.outcomes
        assert (x.coding == "learned" or uses_codes(x.coding)) is kept
        assert (y.coding == "learned") is kept or kind == KINDS[-1]
    assert shard.outcomes[0].n_bytes < 0.65 * raw.outcomes[0].conventional_bytes


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_misfits_bring_the_error_within_a_target_and_one_fewer_would_not(kind, without_a_layer):
    values = bumpy(3000, 1)
    plan = fitted(table_of(kind, values), [f"x=rmse:{TARGET}"]).model.columns[0]
    array = column_of(kind, values)
    codes = encode_column(plan, array)
    error = rmse_of(array, decode_column(plan, codes))
    for target in (0.9 * error, 0.3 * error, 1e-3 * error):
        closer = with_worst_kept(plan, array, codes, target)
        found = decode_column(plan, closer)
        assert rmse_of(array, found) <= target and closer.state is not None and closer.misfits is not None
        kept = np.flatnonzero(closer.state == STATE_MISFIT)
        left = np.abs(flat_floats(found) - flat_floats(array))
        assert len(kept) == len(closer.misfits) and (closer.values[kept] == plan.fill).all()
        before = np.abs(flat_floats(decode_column(plan, codes)) - flat_floats(array))
        assert before[kept].min() >= left.max() * (1 - 1e-12)
        one_fewer = np.sum(left**2) + before[kept].min() ** 2
        assert one_fewer > target**2 * len(left) * (1 - 1e-6)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_values_are_kept_beside_nulls_and_specials_of_every_kind(data):
    n = data.draw(st.integers(1, 12))
    cell = st.one_of(st.none(), float_values(pa.float32()), st.floats(-1000, 1000, width=32))
    if data.draw(st.booleans()):
        row = st.one_of(st.none(), st.lists(cell, min_size=2, max_size=2))
        array = pa.array(data.draw(st.lists(row, min_size=n, max_size=n)), pa.list_(pa.float32(), 2))
    else:
        array = pa.array(data.draw(st.lists(cell, min_size=n, max_size=n)), pa.float32())
    plan = fitted(pa.table({"x": array}), {"x": Tolerance("absolute", 30.0)}).model.columns[0]
    target = data.draw(st.sampled_from([1e-6, 0.1, 3.0, 29.0]))
    if plan.kind == "verbatim":
        return
    found = decode_column(plan, with_worst_kept(plan, array, encode_column(plan, array), target))
    assert_kept(pa.table({"x": array}), pa.table({"x": found}), {"x": Tolerance("absolute", 30.0)})
    assert rmse_of(array, found) <= target


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_rows_of_a_schema_keep_targets_that_were_set_for_others(data):
    table = data.draw(tables(max_rows=40))
    seen = table.slice(0, data.draw(st.integers(0, table.num_rows)))
    promised = resolved(seen, data.draw(tolerances_for(table.schema, distortion=True)))
    model = fitted(seen, {name: t for name, t in promised.items() if not t.is_lossless}).model
    targets = {name: t.value for name, t in promised.items() if t.is_distortion}
    assert_kept(table, decoded(stored_again(model), encode_shard(model, table, block_rows=16, targets=targets)), promised)


@pytest.fixture(scope="module")
def waves() -> tuple[Model, pa.Table]:
    raw = telemetry(2000, 0)
    return fitted(raw, [f"{name}=rmse:3%" for name in SENSORS]).model, raw


def test_states_and_misfits_beside_latents_weigh_against_uniform_quantisation(waves, monkeypatch):
    """Latents a byte below uniform quantisation lose by the states of a column with nulls."""
    model, raw = waves
    assert model.distortion is not None
    taken = encode_shard(model, raw)
    assert {o.coding for o in taken.outcomes if o.name in SENSORS} == {"latent"}
    theirs = sum(round(o.conventional_bytes) for o in taken.outcomes if o.name in SENSORS)
    monkeypatch.setattr(latents, "stored_bytes", lambda z: theirs - 40)
    lost = encode_shard(model, raw)
    assert all(o.coding.startswith("uniform/") for o in lost.outcomes if o.name in SENSORS)
    monkeypatch.setattr(latents, "stored_bytes", lambda z: theirs - 4000)
    assert {o.coding for o in encode_shard(model, raw).outcomes if o.name in SENSORS} == {"latent"}


def test_rows_that_miss_their_target_under_uniform_steps_keep_their_worst_values(waves):
    """Rows of the larger three quarters of each column's errors, each column in an order of its own, which no layer can use."""
    model, raw = waves
    rng = np.random.default_rng(0)
    new = raw.slice(0, 1500)
    for name in SENSORS:
        j = raw.schema.get_field_index(name)
        back = decode_column(model.uniform[j], encode_column(model.uniform[j], raw.column(name)))
        error = np.nan_to_num(np.abs(flat_floats(back) - flat_floats(one_array(raw.column(name)))))
        new = new.set_column(j, new.schema.field(j), raw.column(name).take(pa.array(rng.permutation(np.argsort(-error)[:1500]))))
    promised = resolved(raw, [f"{name}=rmse:3%" for name in SENSORS])
    found = encode_shard(model, new, block_rows=300)
    assert_kept(new, decoded(stored_again(model), found), promised)
    for outcome in found.outcomes:
        if outcome.name in SENSORS:
            plan = model.uniform[raw.schema.get_field_index(outcome.name)]
            values = one_array(new[outcome.name])
            assert rmse_of(values, decode_column(plan, encode_column(plan, values))) > promised[outcome.name].value
            assert outcome.coding.startswith("uniform/") and outcome.conventional_bytes < 0.7 * values.nbytes


def test_what_is_weighed_beside_latents_is_what_is_stored(waves):
    model, raw = waves
    odd = raw.set_column(
        raw.schema.get_field_index("s0"), "s0", pa.array(np.where(np.arange(2000) % 40 == 3, np.float32(1e30), raw["s0"].to_numpy()))
    )
    shard = encode_shard(model, odd, block_rows=700)
    assert model.distortion is not None
    weighed, first = 0, 0
    for block in shard.blocks:
        for j in model.distortion.columns:
            codes = encode_column(model.columns[j], odd.column(j))
            weighed += sum(len(part) for part in beside(slice_codes(codes, first, block.n_rows, 1)).values())
        first += block.n_rows
    stored = sum(round(o.n_bytes) for o in shard.outcomes if o.coding == "latent")
    assert weighed and stored == weighed


def test_latents_are_no_finer_than_their_targets_need(waves):
    """Of the gain below they are missed."""
    model, raw = waves
    layer = model.distortion
    assert layer is not None
    met = []
    for target in (0.7, 1.0, 1.3):
        plans = [*model.columns]
        for j in layer.columns:
            plans[j] = replace(plans[j], tolerance=Tolerance("rmse", target * plans[j].tolerance.value))
        asked = replace(model, columns=tuple(plans))
        columns = [choosing.prepare(asked, p.index, raw.column(p.index), None) for p in plans]
        found, gain = distortion_latents(asked, columns, [(0, raw.num_rows)])
        assert found is not None and targets_met(asked, layer, columns, [(0, raw.num_rows)], found, gain)
        coarser = [layer.layer.encode(*base_input(asked, layer, columns, 0, raw.num_rows), gain - 1)]
        assert not targets_met(asked, layer, columns, [(0, raw.num_rows)], coarser, gain - 1)
        met.append(gain)
    assert met[0] > GAIN_UNIT >= met[1] > met[2] >= COARSEST_GAIN


def images(n_rows: int) -> np.ndarray:
    """(n_rows, 144) uint8: three soft spots on a field of 12 x 12."""
    rng = np.random.default_rng(0)
    at = np.arange(12)
    x = np.zeros((n_rows, 12, 12))
    for _ in range(3):
        centre, size = rng.uniform(0, 12, (n_rows, 2)), rng.uniform(1, 3, n_rows)
        squared = (at[None, :, None] - centre[:, 0, None, None]) ** 2 + (at[None, None, :] - centre[:, 1, None, None]) ** 2
        x += 120 * np.exp(-squared / size[:, None, None] ** 2)
    return x.clip(0, 255).astype(np.uint8).reshape(n_rows, -1)


def test_a_model_for_few_rows_has_coarser_weights_than_one_for_many():
    x = images(600).astype(np.int64)
    columns = tuple(BaseColumn("x", "numeric", 0, 255, None, 20.0) for _ in range(x.shape[1]))
    few, many = (fit_base(columns, x, n_rows_total=n, windows=(1,), kinds=("klt",)) for n in (600, 10**7))
    assert few.layer is not None and many.layer is not None
    assert np.abs(few.layer.decoder.linear).max() <= 31 < np.abs(many.layer.decoder.linear).max() <= 127
    assert few.layer.n_bytes < 0.75 * many.layer.n_bytes
    every = np.ones(x.shape, bool)
    total = [stored_bytes(f.layer.encode(x, every)) + f.layer.n_bytes for f in (few, many)]
    assert total[0] < total[1]
    for layer in (few.layer, many.layer):
        assert np.sqrt(((layer.decode(layer.encode(x, every)) - x) ** 2).mean()) <= 20.0 * 1.03


def test_a_layer_that_exceeds_uniform_quantisation_by_the_states_beside_its_latents_is_not_chosen(monkeypatch):
    x = images(500)
    x[::100] = 0
    rows = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 144, mask=pa.array(np.arange(500) % 100 == 0))
    table, columns = pa.table({"x": rows}), [BaseColumn("x", "numeric", 0, 255, None, 20.0)] * 144
    offered = fit_base(columns, x.astype(np.int64), kinds=("klt",), windows=(1,))
    assert offered.layer is not None

    def fitted_where_the_layer_takes(n_bytes: int) -> FitResult:
        compared = ({**offered.compared[0], "n_bytes": n_bytes},)
        monkeypatch.setattr(layers, "fit_base", lambda *_, **__: replace(offered, compared=compared))
        return fitted(table, ["x=rmse:20"])

    ours, uniform = fitted_where_the_layer_takes(0).summary["distortion_compared"]
    assert 0 < ours["n_bytes"] < uniform["n_bytes"]  # what the states take
    assert fitted_where_the_layer_takes(uniform["n_bytes"] - ours["n_bytes"] - 1).model.distortion is not None
    assert fitted_where_the_layer_takes(uniform["n_bytes"] - ours["n_bytes"]).model.distortion is None


@settings(deadline=None, max_examples=60)
@given(tables(max_rows=3))
def test_no_chunks_are_an_empty_array_of_any_type(table):
    for field in table.schema:
        empty = one_array(pa.chunked_array([], field.type))
        empty.validate(full=True)
        assert isinstance(empty, pa.Array) and len(empty) == 0 and empty.type.equals(field.type)


@pytest.mark.parametrize("spec", ["*=1%", "*=rmse:3%", "*=psnr:40"])
def test_floats_whose_squares_are_no_floats_are_reported_all_the_same(spec, tmp_path):
    rng = np.random.default_rng(3)
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table({"far": rng.normal(size=3000) * 1e200, "near": rng.normal(size=3000)}), tmp_path / "raw" / "a.parquet")
    latentpack("run", tmp_path / "raw", tmp_path / "a", "--tolerance", spec, "--time-budget", "4", "--json", tmp_path / "j")
    found = json.loads((tmp_path / "j").read_text())
    assert [column["violations"] for column in found["columns"]] == [0, 0]


def test_a_target_far_below_any_step_keeps_every_value(tmp_path):
    rng = np.random.default_rng(4)
    x = rng.normal(size=1500)
    x[:3] = np.nan, np.inf, -np.inf
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table({"x": pa.array(x, mask=np.arange(1500) % 9 == 0)}), tmp_path / "raw" / "a.parquet")
    latentpack("run", tmp_path / "raw", tmp_path / "a", "--tolerance", "x=psnr:1000", "--time-budget", "4")


@pytest.mark.parametrize("spec", ["x=psnr:150", "x=rmse:1e-12%"])
@pytest.mark.parametrize("largest", [np.finfo(np.float64).max, 1e308])
def test_targets_of_the_largest_floats_are_met_without_a_layer(spec, largest, tmp_path):
    rng = np.random.default_rng(0)
    table = pa.table({"x": rng.choice([0.0, largest], 2000), "y": rng.normal(size=2000)})
    pq.write_table(table, tmp_path / "in.parquet")
    done = latentpack("run", tmp_path / "in.parquet", tmp_path / "ar", "--tolerance", spec, "--tolerance", "y=1%", "--time-budget", 1)
    assert "Warning" not in done.stderr
    latentpack("read", tmp_path / "ar", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column("x").equals(table.column("x"))


def test_an_archive_inside_its_source_is_refused_before_anything_is_written(tmp_path):
    pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "a.parquet")
    refused = latentpack("run", tmp_path, tmp_path / "archive", code=2)
    assert "inside the source" in refused.stderr and not (tmp_path / "archive").exists()


def test_a_preview_that_tells_less_than_the_means_is_left_out():
    rng = np.random.default_rng(6)
    n = 4000
    model = fitted(pa.table({"a": np.arange(n), "b": np.arange(n) * 2 + rng.integers(0, 9, n)}), (), preview=0.5).model
    assert model.preview is not None
    for first, kept in ((0, True), (10**6, False)):  # rows as they were, and rows far from all the layer has seen
        a = np.arange(first, first + n)
        rows = pa.table({"a": a, "b": a * 2 + rng.integers(0, 9, n)})
        columns = [choosing.prepare(model, j, rows.column(j), None) for j in range(2)]
        assert latents.preview_tells(model, columns, n) == kept
