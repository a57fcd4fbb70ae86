"""Tensors in the exact layer: planes, vectors, fits, and what a hostile model says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, fitted, profiled, resolved
from test_exact_cells import PLAIN_STATE, numpy_alone

from flows.encode import rows_a_block, rows_a_shard, tensor_cells
from flows.settings import EncodingSettings
from vae_core.entropy.rans import Decoder, Encoder
from vae_core.errors import CorruptArchive
from vae_core.exact import tensors as tensors_module
from vae_core.exact.dense import Dense, fit_dense
from vae_core.exact.digits import Direct, Residual
from vae_core.exact.features import NOISE_LEVELS, Decoded, Feature
from vae_core.exact.grids import planes_of, splits_of
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import Linear, Term
from vae_core.exact.plans import CellPlan, ColumnCode, DigitPlan
from vae_core.exact.schedule import Chunks
from vae_core.exact.tensor_search import search_tensor
from vae_core.exact.tensors import Planes, TensorCode, code_tensors, tensor_code_from_json
from vae_core.fitting import refresh
from vae_core.layout import LEARNED
from vae_core.model import FitConfig, Model, Sample
from vae_core.shard import decode_block, encode_shard
from vae_core.tensor_fitting import levels_by_plane, n_weights

LAW = settings(deadline=None, max_examples=40)


def smooth(n: int, *shape: int, seed: int = 1) -> np.ndarray:
    """(n, *shape) uint8, neighbours alike."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, *shape))
    for axis in range(1, 1 + min(2, len(shape))):
        x = np.cumsum(x, axis=axis) / 3
    return np.clip(np.rint(128 + 12 * x), 0, 255).astype(np.uint8)


def plan_of(width: int, dense: Dense | None, terms: tuple[Term, ...], scheme: Any) -> CellPlan:
    back, rough = Feature("back", -1, width, 5, (-3, 0, 40)), Feature("rough", -1, width, NOISE_LEVELS)
    first = DigitPlan((rough, Feature("place", -1, 7, 3)), (16, 4, 4))
    second = (Feature("digit", -1, 0, scheme.sizes[0]), back, Feature("class", -1, 3, 2, (1, 0, 1)))
    digits = (first, DigitPlan(second, (8, 2, 2, 1)))[: len(scheme.sizes)]
    return CellPlan(scheme, Linear(terms, 1 << 15, (), 7, dense), digits, Chunks(64), ())


@LAW
@given(st.data(), st.sampled_from([(1, 1, 5), (4, 3, 1), (1, 2, 6), (6, 1, 1)]), st.integers(0, 40), st.booleans(), st.booleans())
def test_tensors_read_are_the_tensors_written_by_kernel_and_numpy(data, shape, n_rows, stateful, vectors):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    planes = Planes(*shape)
    scheme = data.draw(st.sampled_from([Residual(8), Direct.over(-90, 90)]))
    dense = None
    if vectors and planes.count == 1:
        wild = data.draw(st.booleans())
        most = 1 << 15 if wild else 40
        weights = np.tril(rng.integers(-most, most, (planes.piece, planes.piece)), -1)
        bias = rng.integers(-(1 << 62), 1 << 62, planes.piece) if wild else np.arange(planes.piece) << 14
        dense = Dense(weights.astype(np.int16), bias, data.draw(st.integers(0, 16)))
    codes = []
    for k in range(planes.count):
        own = () if dense is not None else (Term("lag1", -1, 40_000), Term("lag3", -1, 20_000), Term("lag300", -1, 999))
        others = tuple(Term(kind, k - 1, 5_000) for kind in ("at", "lead2", "lag4")) if k else ()
        codes.append(ColumnCode(k, -5, 0, PLAIN_STATE, plan_of(3, dense, (*own, *others), scheme)))
    code = TensorCode(0, planes, tuple(codes))
    values = rng.integers(-60, 60, n_rows * planes.width).cumsum() % 150 - 70
    values[rng.random(len(values)) < 0.02] = 2**62
    state = (rng.random(len(values)) < 0.2).astype(np.uint8) if stateful else None
    if state is not None:
        values[state != 0] = -5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors_module, "GROUP_CELLS", data.draw(st.sampled_from([1, 50, 1 << 21])))
        encoder = Encoder()
        code_tensors(encoder, code, n_rows, values, state)
        stream = encoder.finish()
        for slow in (False, True):
            with numpy_alone() if slow else pytest.MonkeyPatch.context():
                found, found_state = code_tensors(Decoder(stream), code, n_rows, None, None)
                again = Encoder()
                code_tensors(again, code, n_rows, values, state)
            assert np.array_equal(found, values) and again.finish() == stream
            assert (np.zeros(len(values)) if found_state is None else found_state).tolist() == (
                np.zeros(len(values)) if state is None else state
            ).tolist()


def test_a_tensor_code_comes_back_from_its_json_with_its_weights():
    dense = Dense(np.tril(np.arange(36).reshape(6, 6) - 18, -1).astype(np.int16), np.arange(6) << 40, 9)
    code = TensorCode(2, Planes(1, 1, 6), (ColumnCode(0, 3, 0, PLAIN_STATE, plan_of(3, dense, (), Residual(9))),))
    text = json.loads(json.dumps(code.to_json()))
    again = tensor_code_from_json(text, 3, {2: dense.to_bytes()}.get)
    assert again.codes == code.codes and again.planes == code.planes and again.dense is not None
    assert np.array_equal(again.dense.weights, dense.weights) and np.array_equal(again.dense.bias, dense.bias) and again.dense.shift == 9
    with pytest.raises(CorruptArchive, match="no weights for the vectors of column 2"):
        tensor_code_from_json(text, 3)
    smaller, coarser = Dense(dense.weights[:5, :5], dense.bias[:5], 9), replace(dense, shift=17)
    for damaged in (dense.to_bytes()[:-3], b"", smaller.to_bytes(), coarser.to_bytes()):
        with pytest.raises(CorruptArchive):
            tensor_code_from_json(text, 3, {2: damaged}.get)


def hostile() -> list[Any]:
    plain = ColumnCode(0, 0, 0, PLAIN_STATE, plan_of(3, None, (Term("lag1", -1, 9),), Residual(9))).to_json()
    other = ColumnCode(1, 0, 0, PLAIN_STATE, plan_of(3, None, (Term("at", 0, 9),), Residual(9))).to_json()
    return [
        None, [], [0, [1, 1, 4], [plain]], [0, [1, 1, 4], [plain], 2], [3, [1, 1, 4], [plain], 0], [0, [1, 2, 4], [plain], 0],
        [0, [1, 0, 4], [], 0], [0, [0, 1, 4], [plain], 0], [0, [1, 17, 4], [plain] * 17, 0], [0, [1, 2, 4], [plain, plain], 0],
        [0, [1, 2, 4], [other, plain], 0], [0, [1, 1, -4], [plain], 0], [0, [1, 1, 4], [plain], 1], [0, [True, 1, 4], [plain], None],
    ]  # fmt: skip


@pytest.mark.parametrize("parts", hostile())
def test_a_code_of_tensors_that_nothing_writes_is_refused(parts):
    with pytest.raises(CorruptArchive):
        tensor_code_from_json(parts, 3, {0: Dense(np.zeros((4, 4), np.int16), np.zeros(4, np.int64), 7).to_bytes()}.get)


@pytest.mark.parametrize(
    ("shape", "planes", "widths"),
    [
        ((64, 64, 3), Planes(4096, 3, 1), (64, 4096)),
        ((3, 32, 40), Planes(1, 3, 1280), (40, 1280)),
        ((28, 28), Planes(1, 1, 784), (28, 784)),
        ((384,), Planes(1, 1, 384), (384,)),
        ((12, 90, 180), Planes(1, 12, 16200), (180, 16200)),
        ((20, 90, 180), Planes(1, 1, 324000), (180, 16200)),
        ((3,), Planes(1, 1, 3), (3,)),
        ((1,), Planes(1, 1, 1), ()),
        ((2, 2), Planes(1, 1, 4), (4,)),
    ],
)
def test_planes_are_the_colours_and_widths_the_rows_of_a_shape(shape, planes, widths):
    assert planes_of(shape) == (planes, widths)
    cells = np.arange(2 * planes.width)
    again = np.empty_like(cells)
    for k in range(planes.count):
        planes.put(again, k, planes.of(cells, k))
    assert np.array_equal(cells, again)


def test_vectors_of_elements_that_tell_each_other_leave_what_a_klt_would():
    rng = np.random.default_rng(3)
    mixed = np.rint(200 * rng.normal(size=(3000, 5)) @ rng.normal(size=(5, 24)) + 4 * rng.normal(size=(3000, 24))).astype(np.int64)
    dense = fit_dense(mixed)
    assert dense is not None
    guess = np.stack([dense.total(p, mixed[:, :p].T) for p in range(24)], axis=1) + (1 << 15) >> 16
    spectrum = np.linalg.eigvalsh(np.cov(mixed.T) + np.eye(24) / 12)
    left = np.log2((mixed - guess).astype(float).var(axis=0) + 1 / 12).mean()
    assert left < np.log2(spectrum).mean() + 0.1 < np.log2(mixed.astype(float).var(axis=0)).mean() - 8
    assert fit_dense(mixed[:200]) is None and fit_dense(mixed + (1 << 50)) is None


def table_of(array: pa.Array) -> pa.Table:
    return pa.table({"x": array, "k": pa.array(np.arange(len(array)) % 3)})


def lists(values: np.ndarray, mask: np.ndarray | None = None) -> pa.Array:
    flat = values.reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1], mask=None if mask is None else pa.array(mask))


def kept_and_learned(table: pa.Table, tolerances: tuple[str, ...], smaller: float) -> Model:
    """Every value comes back, by kernel and numpy, from the model's files alone; x is learned and so much smaller."""
    model = fitted(table, tolerances, preview="off", seconds=20).model
    model = Model.from_files(model.to_files())
    shard = encode_shard(model, table, block_rows=max(1, len(table) // 2))
    outcome = shard.outcomes[0]
    assert outcome.coding == LEARNED and outcome.n_bytes < smaller * outcome.conventional_bytes, outcome
    for slow in (False, True):
        with numpy_alone() if slow else pytest.MonkeyPatch.context():
            blocks = [decode_block(model, shard.layout, b.n_rows, b.natives, b.payloads) for b in shard.blocks]
        assert_kept(table, pa.concat_tables(blocks), resolved(table, tolerances))
    return model


def test_pictures_in_colours_take_less_than_any_conventional_coding():
    colours = smooth(60, 24, 20, 1) // 2 + smooth(60, 24, 20, 3, seed=2) // 8
    kept_and_learned(table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(colours)), (), 0.85)


def test_colours_standardised_one_by_one_take_what_they_took_before():
    colours = smooth(120, 24, 20, 1) // 2 + smooth(120, 24, 20, 3, seed=2) // 8
    scaled = ((colours / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)
    n_bytes = []
    for cells in (colours, scaled, np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))):
        table = table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(cells))
        model = kept_and_learned(table, (), 0.95)
        n_bytes.append(encode_shard(model, table).outcomes[0].n_bytes)
        levels = getattr(model.columns[0].transform, "levels", None)
        assert levels is None or (np.flatnonzero(np.diff(levels) < 0) + 1).tolist() == np.cumsum(
            [len(np.unique(scaled[..., k])) for k in range(2)]
        ).tolist(), "three lists, one behind another"
    assert max(n_bytes) < 1.02 * n_bytes[0], n_bytes
    both = table_of(pa.FixedShapeTensorArray.from_numpy_ndarray((colours / 255).astype(np.float32)))
    (plan,) = [p for p in levels_by_plane(fitted(both, (), preview="off", seconds=1).model.columns, both) if p.name == "x"]
    assert (np.diff(plan.transform.levels) > 0).all(), "one list of what colours have in common"


def test_planes_before_rows_and_plain_lists_are_learned_too():
    images = smooth(90, 30, 20).reshape(30, 3, 30, 20)
    kept_and_learned(table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(images)), (), 0.9)
    rng = np.random.default_rng(8)
    sound = np.rint(900 * np.sin(np.arange(64) / 3 + 6 * rng.random((600, 1))) + 9 * rng.normal(size=(600, 64)))
    kept_and_learned(table_of(lists(sound.astype(np.int32))), (), 0.9)


def waves(n: int, length: int, channels: int = 1) -> np.ndarray:
    """(n, length, channels) of a few notes each, and some noise."""
    rng = np.random.default_rng(length)
    pitch, phase, loud = rng.uniform(0.02, 0.4, (n, 1, 6)), rng.uniform(0, 7, (n, 1, 6)), rng.uniform(100, 900, (n, 1, 6))
    notes = loud * np.sin(pitch * np.arange(length)[:, None] + phase)
    return np.rint(notes @ rng.normal(size=(6, channels)) + rng.normal(0, 6, (n, length, channels))).astype(np.int32)


def test_series_are_told_by_many_cells_before():
    model = kept_and_learned(table_of(lists(waves(30, 2100))), (), 0.93)
    (plan,) = model.tensors[0].codes
    assert plan.value.linear.reach >= 8 and len(plan.value.linear.terms) > 4


def test_channels_of_series_are_told_by_each_other_whichever_axis_they_are():
    for axes, smaller in (((0, 1, 2), 0.63), ((0, 2, 1), 0.96)):
        cells = np.ascontiguousarray(waves(200, 96, 4).transpose(axes))
        kept_and_learned(table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(cells)), (), smaller)
    assert [planes.count for planes, _ in splits_of((4, 96))] == [1, 4]
    for shape in ((17, 96), (8, 8), (1, 96), (96,), (4, 96, 3), (3, 4, 96)):
        assert splits_of(shape) == [planes_of(shape)], "pictures, or told by their shape"


def test_grids_with_holes_and_null_rows_come_back_within_their_bound():
    rng = np.random.default_rng(4)
    grid = smooth(300, 20, 24).astype(np.float32) + rng.normal(size=(300, 20, 24)).astype(np.float32) / 4
    grid[:, 5:15, 3:9] = np.where(rng.random((300, 10, 6)) < 0.9, np.nan, grid[:, 5:15, 3:9])  # as land in a map of the sea
    grid[3, 4, :3] = -0.0, np.inf, -np.inf
    model = kept_and_learned(table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(grid)), ("x=0.5",), 0.9)
    assert model.tensors[0].codes[0].value.linear.reach >= 24
    kept_and_learned(table_of(lists(grid, np.arange(300) == 7)), ("x=0.5",), 1.0)


def test_vectors_are_told_by_all_elements_before():
    rng = np.random.default_rng(5)
    vectors = (rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 32)) + rng.normal(size=(4000, 32)) / 9).astype(np.float32)
    model = kept_and_learned(table_of(lists(vectors)), ("x=0.01",), 0.7)
    assert model.tensors[0].dense is not None


def test_noise_is_not_learned():
    noise = np.random.default_rng(6).integers(0, 256, (200, 8, 8)).astype(np.uint8)
    assert fitted(table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(noise)), (), preview="off", seconds=5).model.tensors == ()


def test_a_model_whose_tensors_are_of_another_width_is_refused():
    table = table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(smooth(60, 24, 20)))
    model = fitted(table, (), preview="off", seconds=5).model
    (code,) = model.tensors
    for wrong in (replace(code, planes=Planes(1, 1, 479)), replace(code, column=1)):
        with pytest.raises(CorruptArchive, match="as tensors that it does not hold"):
            Model.from_files(replace(model, tensors=(wrong,)).to_files())
    with pytest.raises(CorruptArchive, match="as tensors that it does not hold"):
        Model.from_files(replace(model, tensors=(code, code)).to_files())


def test_blocks_hold_so_many_cells_of_tensors_and_so_many_rows_of_others():
    schema = pa.schema({"a": pa.list_(pa.uint8(), 1000), "b": pa.fixed_shape_tensor(pa.float32(), (24, 1)), "c": pa.int64()})
    asked = EncodingSettings()
    assert tensor_cells(schema) == 1024 and tensor_cells(schema.remove(0).remove(0)) == 0
    assert rows_a_block(asked, 1104.0, 1024) == 4096 and rows_a_block(asked, 1e9, 1 << 23) == 1
    assert rows_a_block(asked, 100.0) == rows_a_block(asked, 100.0, 0) > 100_000
    assert rows_a_block(EncodingSettings(block_rows=2000), 1104.0, 1024) == 2000
    assert rows_a_shard(asked, 1104.0, 1024) % 4096 == 0


def test_a_refresh_finds_new_codes_for_tensors_of_another_kind_and_old_rows_stay_readable():
    old = table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(smooth(60, 24, 20)))
    steps = np.random.default_rng(9).integers(-3, 4, (60, 24, 20))
    upright = (np.cumsum(steps, axis=1) + 128).clip(0, 255).astype(np.uint8)
    new = table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(upright))
    model = fitted(old, (), preview="off", seconds=20).model
    again = refresh(model, Sample(new, (new.num_rows,)), profiled(new), FitConfig(time_budget_s=60, preview="off")).model
    (before,), (after,) = model.tensors, again.tensors
    assert before.codes != after.codes
    sizes = []
    for one in (model, again):
        shard = encode_shard(Model.from_files(one.to_files()), new)
        assert_kept(new, pa.concat_tables([decode_block(one, shard.layout, b.n_rows, b.natives, b.payloads) for b in shard.blocks]))
        sizes.append(shard.outcomes[0].n_bytes)
    assert sizes[1] < 0.95 * sizes[0]
    hasty = refresh(model, Sample(new, (new.num_rows,)), profiled(new), FitConfig(time_budget_s=0.0, preview="off")).model
    assert [code.column for code in hasty.tensors] == [0]


def test_weights_beyond_all_reason_are_refused_before_they_are_unpacked(monkeypatch):
    rng = np.random.default_rng(5)
    vectors = (rng.normal(size=(2000, 6)) @ rng.normal(size=(6, 32)) + rng.normal(size=(2000, 32)) / 9).astype(np.float32)
    model = fitted(table_of(lists(vectors)), ("x=0.01",), preview="off", seconds=5).model
    files = model.to_files()
    assert model.tensors[0].dense is not None and Model.from_files(files).tensors
    monkeypatch.setattr("vae_core.model.MOST_WEIGHTS", 32**2 - 1)
    with pytest.raises(CorruptArchive, match="weights of vectors beyond"):
        Model.from_files(files)


def test_a_refresh_keeps_no_more_old_weights_than_a_model_has_room_for(monkeypatch):
    rng = np.random.default_rng(5)
    vectors = (rng.normal(size=(2000, 6)) @ rng.normal(size=(6, 32)) + rng.normal(size=(2000, 32)) / 9).astype(np.float32)
    table = pa.table({"x": lists(vectors), "y": lists(vectors[:, ::-1].copy())})
    model = fitted(table, ("*=0.01",), preview="off", seconds=20).model
    assert n_weights(model.tensors) == 2 * 32**2
    kept = {}
    for room in (2 * 32**2, 2 * 32**2 - 1):
        monkeypatch.setattr("vae_core.fitting.MOST_WEIGHTS", room)
        monkeypatch.setattr("vae_core.model.MOST_WEIGHTS", room)
        again = refresh(model, Sample(table, (2000,)), profiled(table), FitConfig(time_budget_s=0.0, preview="off")).model
        kept[room] = len(Model.from_files(again.to_files()).tensors)
    assert list(kept.values()) == [2, 1]


def test_a_short_budget_looks_at_fewer_cells_of_tensors(monkeypatch):
    seen = []
    monkeypatch.setattr("vae_core.tensor_fitting.search_tensor", lambda *a: seen.append(len(a[3].values)) or search_tensor(*a))
    table = table_of(pa.FixedShapeTensorArray.from_numpy_ndarray(smooth(1000, 24, 20)))
    for seconds in (2, 60):
        fitted(table, (), preview="off", seconds=seconds)
    assert seen == [100_000 // 480 // 8 * 8 * 480, 480_000]


def test_lanes_of_tensors_longer_than_they_need_be_are_parts_of_them():
    terms = (Term("lag1", -1, 1), Term("lag40", -1, 1))
    assert Lanes(Decoded(60_000, piece=60_000), (), np.arange(60_000), Linear(terms, 0)).n_lanes == 94
    assert Lanes(Decoded(60_000, piece=600), (), np.arange(60_000), Linear(terms, 0)).n_steps == 1200
