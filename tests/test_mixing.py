"""Predictions mixed: kernel and numpy alike on any integers, tensors read as written, hostile mixes, and where a fit mixes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import fitted
from test_exact_cells import PLAIN_STATE, numpy_alone
from test_exact_linear import N_COLUMNS, any_int64s, forward_linears

from vae_core import model as model_module
from vae_core.entropy import kernel
from vae_core.entropy.rans import Decoder, Encoder
from vae_core.errors import CorruptArchive
from vae_core.exact.digits import Direct, Residual
from vae_core.exact.features import MIXED_KINDS, NOISE_LEVELS, Decoded, Feature
from vae_core.exact.forward import known_of_rows
from vae_core.exact.grids import mixed_of_planes
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import MOST_AROUND, MOST_MIXED, MOST_POWER, MOST_QUARTERS, MOST_REFERENCES, UNITS, Linear, Mixed, Simple, Term
from vae_core.exact.linear import from_json as linear_from_json
from vae_core.exact.plans import CellPlan, ColumnCode, DigitPlan, column_code_from_json
from vae_core.exact.schedule import Chunks
from vae_core.exact.tensors import Planes, TensorCode, code_tensors, tensor_code_from_json
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=60)
LAGS = st.sampled_from([1, 2, 3, 9, 10, 11, 20, 700, 1 << 24])


@st.composite
def mixes(draw: st.DrawFn, n_columns: int = N_COLUMNS) -> Mixed:
    weights = st.sampled_from([1 << 16, 1 << 15, -(1 << 40) + 1, 3])
    references = draw(st.lists(st.lists(st.tuples(st.integers(0, n_columns - 1), weights), min_size=1, max_size=2).map(tuple),
                               max_size=MOST_REFERENCES if n_columns else 0))  # fmt: skip
    terms = st.lists(st.tuples(LAGS, st.integers(-MOST_QUARTERS, MOST_QUARTERS)), min_size=1, max_size=4).map(tuple)
    others = draw(st.lists(st.builds(Simple, st.integers(0, len(references)), terms), min_size=1, max_size=MOST_MIXED))
    around = draw(st.lists(LAGS, min_size=1, max_size=MOST_AROUND))
    return Mixed(tuple(references), tuple(others), tuple(around), draw(st.integers(*UNITS)), draw(st.integers(1, MOST_POWER)))


@LAW
@given(forward_linears(), mixes(), st.sampled_from([0, 1, 500, 1700]), st.sampled_from([0, 30]), st.booleans(), st.booleans(), st.data())
def test_the_kernel_mixes_as_numpy_does_whatever_the_values(linear, mixed, n, piece, holes, near, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = {j: any_int64s(rng, n) if j else rng.integers(0, 99, n) for j in range(N_COLUMNS)}
    own = rng.integers(0, 99, n) if near else any_int64s(rng, n)
    decoded, linear = Decoded(n, values, dict.fromkeys(values), piece), replace(linear, mixed=mixed)
    lanes = Lanes(decoded, (), np.flatnonzero(rng.random(n) < 0.8) if holes else None, linear)
    found = known_of_rows(lanes, linear, decoded, own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "library", lambda: None)
        assert np.array_equal(known_of_rows(lanes, linear, decoded, own), found)
    assert ((found[-2:] >= 0) & (found[-2:] < NOISE_LEVELS)).all()


def plan_of(mixed: Mixed, linear: Linear, scheme: Any) -> CellPlan:
    first = DigitPlan((Feature("apart", -1, 0, NOISE_LEVELS), Feature("around", -1, 0, NOISE_LEVELS)), (16, 4, 4))
    second = DigitPlan((Feature("digit", -1, 0, scheme.sizes[0]), Feature("around", -1, 0, NOISE_LEVELS)), (8, 2, 2))
    return CellPlan(scheme, replace(linear, mixed=mixed), (first, second)[: len(scheme.sizes)], Chunks(64), ())


def code_of(mixed: Mixed) -> TensorCode:
    """Two planes: the second one refers to the first."""
    first = plan_of(replace(mixed, references=(), others=tuple(replace(o, reference=0) for o in mixed.others)), Linear((), 0), Residual(8))
    second = plan_of(mixed, Linear((Term("lag1", -1, 40_000), Term("at", 0, 9_000)), 1 << 15), Direct.over(-90, 90))
    codes = [ColumnCode(k, -5, 0, PLAIN_STATE, plan) for k, plan in enumerate((first, second))]
    return TensorCode(0, Planes(12, 2, 1), tuple(codes))


@LAW
@given(mixes(1), st.integers(0, 60), st.booleans(), st.integers(0, 2**32))
def test_tensors_of_mixed_predictions_are_read_as_written_by_kernel_and_numpy(mixed, n_rows, stateful, seed):
    rng, code = np.random.default_rng(seed), code_of(mixed)
    code = tensor_code_from_json(json.loads(json.dumps(code.to_json())), 1)
    values = rng.integers(-60, 60, n_rows * 24).cumsum() % 150 - 70
    values[rng.random(len(values)) < 0.02] = -(2**63)
    state = (rng.random(len(values)) < 0.2).astype(np.uint8) if stateful else None
    if state is not None:
        values[state != 0] = -5
    encoder = Encoder()
    code_tensors(encoder, code, n_rows, values, state)
    stream = encoder.finish()
    for slow in (False, True):
        with numpy_alone() if slow else pytest.MonkeyPatch.context():
            found, _ = code_tensors(Decoder(stream), code, n_rows, None, None)
            again = Encoder()
            code_tensors(again, code, n_rows, values, state)
        assert np.array_equal(found, values) and again.finish() == stream


@LAW
@given(forward_linears(), mixes())
def test_a_mix_comes_back_from_its_json_and_a_prediction_alone_is_written_as_ever(linear, mixed):
    assert len(linear.to_json()) == 4
    linear = replace(linear, mixed=mixed)
    assert linear_from_json(json.loads(json.dumps(linear.to_json())), N_COLUMNS) == linear


PLAIN: list[Any] = [[[[0, 65536]]], [[1, [[1, 4], [2, -4]]], [0, [[1, 4]]]], [1, 2], 12, 2]


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ([0], [[[0, 1]]] * (MOST_REFERENCES + 1)), ([0, 0], []), ([0, 0, 0], [3, 1]), ([0, 0, 0], [-1, 1]), ([0, 0, 0], [0, 1 << 40]),
        ([0], None),
        ([0, 0, 0], [0]), ([1], []), ([1], PLAIN[1] * 8), ([1, 0, 0], 2), ([1, 0, 0], -1), ([1, 0, 1], []), ([1, 0, 1, 0], [0, 4]),
        ([1, 0, 1, 0], [(1 << 24) + 1, 4]), ([1, 0, 1, 0], [1, MOST_QUARTERS + 1]), ([1, 0, 1, 0], [1.5, 4]), ([1, 0, 1, 0], ["1", 4]),
        ([1, 0, 1], [[1, 4]] * (MOST_AROUND + 1)), ([2], []), ([2], [0]), ([2], [1] * (MOST_AROUND + 1)), ([2], [1 << 60]), ([2], [None]),
        ([3], UNITS[0] - 1), ([3], UNITS[1] + 1), ([3], None), ([4], 0), ([4], MOST_POWER + 1), ([4], 2.0), ([], [PLAIN]),
        ([], []), ([], 7),
    ],
)  # fmt: skip
def test_a_mix_that_nothing_writes_is_refused(place, wrong):
    assert linear_from_json([[], 0, [], 0, PLAIN], 3).mixed is not None
    parts: list[Any] = [[], 0, [], 0, copy.deepcopy(PLAIN)]
    *way, last = [4, *place]
    at = parts
    for k in way:
        at = at[k]
    at[last] = wrong
    with pytest.raises(CorruptArchive):
        linear_from_json(parts, 3)


def test_only_tensors_are_told_by_mixes_and_only_mixes_have_their_features():
    mixed = Mixed((), (Simple(0, ((1, 4),)),), (1,), 12, 2)
    code = ColumnCode(0, 0, 0, PLAIN_STATE, plan_of(mixed, Linear((), 0), Residual(8))).to_json()
    assert column_code_from_json(code, 1, of_tensor=True).value.linear.mixed == mixed
    with pytest.raises(CorruptArchive, match="no tensor"):
        column_code_from_json(code, 1)
    code[4][1] = code[4][1][:4]
    with pytest.raises(CorruptArchive, match="does not describe"):
        column_code_from_json(code, 1, of_tensor=True)
    unordered = CellPlan(Residual(8), Linear((), 0, mixed=mixed), (DigitPlan((), (16,)), DigitPlan((Feature("digit", -1, 0, 32),), (8, 2))))
    with pytest.raises(CorruptArchive, match="in no order"):
        column_code_from_json(ColumnCode(0, 0, 0, PLAIN_STATE, unordered).to_json(), 1, of_tensor=True)
    later = Mixed((((0, 1 << 16),),), (Simple(1, ((1, 4),)),), (1,), 12, 2)
    codes = [ColumnCode(0, -5, 0, PLAIN_STATE, plan_of(later, Linear((), 0), Residual(8)))]
    with pytest.raises(CorruptArchive, match="before what it is conditioned on"):
        tensor_code_from_json([0, [1, 1, 12], [one.to_json() for one in codes], 0], 1)


def pictures(n: int, seed: int = 3) -> np.ndarray:
    """(n, 32, 32, 3) uint8: shapes that rise each in a way of its own, alike in all colours, some of them striped."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:32]
    found = np.zeros((n, 32, 32, 3))
    for k in range(n):
        for _ in range(6):
            (a, b, c, right, down), stripes = rng.normal(size=5), rng.integers(0, 3) * 20
            rising = 5 * right * (x - 16) + 5 * down * (y - 16) + stripes * np.sin(x * a * 2 + y * b * 2)
            found[k] = np.where((a * (x - 16) + b * (y - 16) + 9 * c > 0)[..., None], rising[..., None] + rng.uniform(60, 190, 3), found[k])
    return np.clip(np.rint(found + rng.normal(size=(n, 32, 32, 1)) / 2), 0, 255).astype(np.uint8)


def test_pictures_are_told_by_several_predictions_and_come_back(monkeypatch):
    table = pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(pictures(70))})
    model = fitted(table, (), seconds=60).model
    [code] = model.tensors
    assert any(one.value.linear is not None and one.value.linear.mixed is not None for one in code.codes)
    assert {f.kind for one in code.codes for d in one.value.digits for f in d.features} & set(MIXED_KINDS)
    shard = encode_shard(model, table, preview=False)
    assert shard.outcomes[0].coding == "learned"
    again = model_module.Model.from_files(model.to_files())
    assert again.tensors == model.tensors
    monkeypatch.setattr("vae_core.exact.options.mixed_of_planes", lambda *_: Mixed((), (Simple(0, ((1, 0),)),), (1,), 12, 8))
    alone = encode_shard(fitted(table, (), seconds=60).model, table, preview=False)
    assert shard.outcomes[0].n_bytes < 0.98 * alone.outcomes[0].n_bytes


def test_a_reference_is_the_plane_whose_steps_are_most_like_or_the_mean_of_two():
    rng = np.random.default_rng(4)
    a, b, c = (rng.integers(-50, 50, 4000).cumsum() for _ in range(3))
    every = np.arange(4000)
    assert mixed_of_planes(a + rng.integers(0, 3, 4000), every, {0: b, 4: a, 7: c}, 40, 1.0).references == (((4, 1 << 16),),)
    assert {j for j, _ in mixed_of_planes((a + b) // 2, every, {0: b, 4: a, 7: c}, 40, 1.0).references[0]} == {0, 4}
    assert mixed_of_planes(a, every, {}, 3, 60.0).unit == UNITS[1] and mixed_of_planes(a, every, {}, 3, 0.0).references == ()
