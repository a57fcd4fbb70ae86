"""Fitting a base layer: targets are met, budgets kept, the same seed gives the same layer, and nothing is stored that
does not pay."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vae_core.base import BaseColumn, BaseLayer, discrete, fit_base, search
from vae_core.base.columns import fit_features, units
from vae_core.base.cost import entropy_bits, stored_bytes
from vae_core.base.measuring import settle
from vae_core.base.objective import gaussian_rate, rounded_rate
from vae_core.base.task import prepare
from vae_core.base.windows import split_windows
from vae_core.integer import MAX_WIDTH


def curved(n: int = 6000, rmse: float | None = 12.0) -> tuple[tuple[BaseColumn, ...], np.ndarray]:
    """Six columns on a curve of one parameter, which a linear map needs two latents for."""
    rng = np.random.default_rng(0)
    t = rng.uniform(-1, 1, n)
    x = np.stack((t, t**2, t**3, np.abs(t), np.sin(3 * t), np.cos(3 * t)), axis=1)
    codes = np.rint(500 * (x - x.min(axis=0)) + rng.normal(0, 3, x.shape)).clip(0, None).astype(np.int64)
    return tuple(BaseColumn(f"c{i}", "numeric", 0, int(codes[:, i].max()), None, rmse) for i in range(6)), codes


def smooth(n: int = 4000) -> tuple[tuple[BaseColumn, ...], np.ndarray]:
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(size=(n, 3)), axis=0)
    codes = np.rint(40 * (walk - walk.min(axis=0))).astype(np.int64)
    return tuple(BaseColumn(f"w{i}", "numeric", 0, int(codes[:, i].max()), None, 60.0) for i in range(3)), codes


def rmse(layer, codes: np.ndarray, gain: int = 16) -> np.ndarray:  # type: ignore[no-untyped-def]
    z = layer.encode(codes, np.ones(codes.shape, bool), gain)
    return np.sqrt(((layer.decode(z, gain) - codes).astype(float) ** 2).mean(axis=0))


@pytest.fixture(autouse=True)
def one_thread():  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def patience(monkeypatch):  # type: ignore[no-untyped-def]
    """No clock decides, however busy the machine."""
    monkeypatch.setattr(search, "GRACE_S", 1000.0)


def test_a_budget_that_runs_out_leaves_the_first_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "GRACE_S", 0.0)
    columns, codes = smooth()
    fit = fit_base(columns, codes, time_budget_s=1e-6)
    assert fit.layer is not None and {(row["kind"], row["window"]) for row in fit.compared} == {("klt", 1)}
    assert fit.curve == () and (rmse(fit.layer, codes) <= 60.0 * 1.05).all()


@pytest.mark.parametrize("bits_per_row", [None, 3.0])
def test_no_further_step_is_tried_after_the_deadline(bits_per_row: float | None) -> None:
    columns, codes = smooth()
    task = prepare(columns, codes, None, None, None, None)
    made = search.klt_candidate(task, 1, math.inf)
    assert made is not None
    other = prepare(tuple(replace(c, rmse=20.0) for c in columns), codes, None, bits_per_row, None, None)
    split = task.split(1)
    export = search.linear_layer("klt", columns, task.features, 1, made[1], task.windows(split.train, 1))
    tried: list[float] = []

    def counted(step: float) -> BaseLayer:
        tried.append(step)
        return export(step)

    settle(other, counted, split.held, 0.0)
    assert len(tried) == 1
    settle(other, counted, split.held, math.inf)
    assert len(tried) > 3


def test_every_column_meets_its_target_with_latents_alone() -> None:
    columns, codes = smooth()
    fit = fit_base(columns, codes, kinds=("klt",))
    assert fit.layer is not None
    assert (rmse(fit.layer, codes) <= 60.0 * 1.03).all()
    assert (rmse(fit.layer, codes, 24) <= 60.0).all()


def test_ordered_rows_are_stored_by_windows_and_cost_less_so() -> None:
    columns, codes = smooth()
    present = np.ones(codes.shape, bool)
    by_window, by_row = fit_base(columns, codes, kinds=("klt",)), fit_base(columns, codes, kinds=("klt",), windows=(1,))
    assert by_window.layer is not None and by_row.layer is not None
    assert by_window.layer.window > 1
    a, b = (stored_bytes(f.layer.encode(codes, present)) + f.layer.n_bytes for f in (by_window, by_row))  # type: ignore[union-attr]
    assert a < 0.7 * b


def test_an_autoencoder_beats_its_linear_sibling_where_rows_lie_on_a_curve() -> None:
    columns, codes = curved()
    points = []
    fit = fit_base(columns, codes, n_rows_total=10**6, windows=(1,), time_budget_s=5, progress=points.append)
    assert fit.layer is not None and fit.layer.kind == "vae"
    best = {row["kind"]: row["n_bytes"] for row in reversed(fit.compared)}
    assert best["vae"] < 0.95 * best["klt"]
    assert (rmse(fit.layer, codes) <= 12.0 * 1.03).all()
    assert points and points[-1].held_out_bits_per_row > 0 and points == list(fit.curve)


def test_siblings_of_the_same_shape_meet_the_targets_too() -> None:
    columns, codes = curved(2000)
    fit = fit_base(columns, codes, windows=(1,), time_budget_s=2, kinds=("ae", "ista"))
    assert {"klt", "ae", "ista"} <= {row["kind"] for row in fit.compared}
    assert fit.layer is not None and fit.layer.kind in ("ae", "ista")
    assert (rmse(fit.layer, codes) <= 12.0 * 1.05).all()
    about, decoder, encoder = fit.layer.to_parts()
    again = BaseLayer.from_parts(about, decoder, encoder)
    assert (again.encode(codes, np.ones(codes.shape, bool)) == fit.layer.encode(codes, np.ones(codes.shape, bool))).all()


def test_the_same_seed_gives_the_same_layer() -> None:
    columns, codes = curved(2000)
    made = [fit_base(columns, codes, n_rows_total=10**6, windows=(1,), time_budget_s=1.5, seed=7).layer for _ in range(2)]
    parts = [layer.to_parts() for layer in made if layer is not None]
    assert len(parts) == 2
    assert (parts[0][1]["base"] == parts[1][1]["base"]).all()


def test_a_preview_keeps_its_budget_model_included() -> None:
    columns, codes = curved(6000, None)
    fit = fit_base(columns, codes, bits_per_row=4.0, windows=(1,), kinds=("klt",))
    assert fit.layer is not None
    z = fit.layer.encode(codes, np.ones(codes.shape, bool))
    assert stored_bytes(z) + fit.layer.n_bytes <= 1.03 * 4.0 * 6000 / 8
    assert (rmse(fit.layer, codes) / codes.std(axis=0)).mean() < 0.6


def test_a_preview_of_so_many_features_that_no_layer_is_ready_in_time_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "GRACE_S", 0.0)
    begun: list[str] = []
    monkeypatch.setattr(search, "klt_candidate", lambda *_: begun.append("klt"))
    monkeypatch.setattr(discrete.Search, "path", lambda *_, **__: begun.append("path"))
    columns, codes = curved(600, None)
    codes = np.tile(codes, 70)
    columns = tuple(replace(columns[j % 6], name=str(j)) for j in range(420))
    assert fit_base(columns, codes, bits_per_row=100.0, time_budget_s=0.1).layer is None and not begun


def test_a_path_of_codes_ends_when_its_time_does() -> None:
    columns, codes = curved(2000, None)
    task = prepare(columns, codes, None, 4.0, None, None)
    for deadline, late in ((0.0, True), (math.inf, False)):
        one = discrete.Search(task, 0, deadline, None)
        points = one.path(one.windows(shape := discrete.shapes((1,), 3)[0]), shape)
        assert (len(points) == 1) is late
    assert points[-1].n_bytes <= one.budget
    assert discrete.code_candidates(task, (1,), 0, 0.0, None) == ([], ())


def test_a_hasty_fit_trains_one_shape_on_all_rows_and_tries_half_the_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, codes = curved(6000, None)
    paths, prices = list[int](), list[float]()
    path, again = discrete.Search.path, discrete.again
    monkeypatch.setattr(discrete, "PATH_ROWS", 2000)
    monkeypatch.setattr(discrete.Search, "path", lambda self, data, *a, **k: paths.append(len(data.x)) or path(self, data, *a, **k))
    monkeypatch.setattr(discrete, "again", lambda data, start, price, *a: prices.append(price) or again(data, start, price, *a))
    counts = list[tuple[int, int]]()
    for hasty in (False, True):
        paths.clear(), prices.clear()
        found = fit_base(columns, codes, bits_per_row=4.0, windows=(1,), kinds=("vae",), hasty=hasty)
        assert found.layer is not None and found.layer.kind == "vae"
        counts.append((sum(n > 2000 for n in paths), len(prices)))
    assert counts[0][0] == 2 and counts[1][0] == 1 and counts[1][1] < counts[0][1]


def test_no_layer_is_given_where_a_preview_cannot_pay() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1000, (500, 4))
    columns = tuple(BaseColumn(str(i), "numeric", 0, 999) for i in range(4))
    assert fit_base(columns, codes, bits_per_row=0.5, kinds=("klt",)).layer is None
    assert fit_base(columns, codes[:3], bits_per_row=100.0).layer is None
    assert fit_base((), codes[:, :0], bits_per_row=100.0).layer is None


def test_absent_values_do_not_count() -> None:
    columns, codes = smooth()
    present = np.random.default_rng(0).random(codes.shape) < 0.9
    wild = np.where(present, codes, 0)
    fit = fit_base(columns, wild, present, kinds=("klt",))
    assert fit.layer is not None
    decoded = fit.layer.decode(fit.layer.encode(wild, present))
    error = np.sqrt((np.where(present, decoded - wild, 0).astype(float) ** 2).sum(axis=0) / present.sum(axis=0))
    assert (error <= 60.0 * 1.05).all()


def test_elements_of_a_tensor_share_one_target() -> None:
    _, codes = curved()
    columns = tuple(BaseColumn("image", "numeric", 0, int(codes.max()), None, 12.0) for _ in range(6))
    fit = fit_base(columns, codes, windows=(1,), kinds=("klt",))
    assert fit.layer is not None
    assert np.sqrt((rmse(fit.layer, codes) ** 2).mean()) <= 12.0 * 1.02


def test_categorical_columns_are_previewed_better_than_by_their_mode() -> None:
    rng = np.random.default_rng(0)
    level = rng.choice(3, 5000, p=[0.5, 0.3, 0.2])
    codes = np.stack((level, level * 100 + rng.integers(0, 9, 5000), 7 - level), axis=1).astype(np.int64)
    columns = (
        BaseColumn("k", "categorical", 0, 2, 3),
        BaseColumn("x", "numeric", 0, 300),
        BaseColumn("y", "numeric", 0, 9),
    )
    fit = fit_base(columns, codes, bits_per_row=6.0, windows=(1,), kinds=("klt",))
    assert fit.layer is not None
    decoded = fit.layer.decode(fit.layer.encode(codes, np.ones(codes.shape, bool)))
    assert (decoded[:, 0] == codes[:, 0]).mean() > 0.75


def test_rows_drawn_from_the_prior_look_like_the_table() -> None:
    columns, codes = curved()
    fit = fit_base(columns, codes, windows=(1,), kinds=("klt",))
    assert fit.layer is not None
    drawn = fit.layer.decode(fit.layer.sample(2000, np.random.default_rng(0)))
    assert (np.abs(drawn.mean(axis=0) - codes.mean(axis=0)) < 0.3 * codes.std(axis=0)).all()
    assert (drawn.std(axis=0) > 0.4 * codes.std(axis=0)).all()


def test_windows_never_cross_runs_and_hold_out_rows_apart() -> None:
    split = split_windows(1000, (403, 597), 4)
    rows = np.concatenate((split.train, split.held)).reshape(-1, 4)
    assert (np.diff(rows, axis=1) == 1).all()
    assert not ((rows[:, 0] < 403) & (rows[:, -1] >= 403)).any()
    assert not set(split.train) & set(split.held)
    assert len(rows) == 403 // 4 + 597 // 4


def test_the_rate_of_rounding_matches_the_gaussian_code_length() -> None:
    torch.manual_seed(0)
    z = torch.randn(200_000, 1) * 8.0
    noisy = z + torch.rand(z.shape) - 0.5
    scale = torch.full((1,), 8.0).log()
    entropy = entropy_bits(z.round().numpy().astype(np.int64))
    assert float(rounded_rate(noisy, scale).mean()) == pytest.approx(entropy, abs=0.03)
    # a Gaussian posterior as wide as rounding noise costs about as much: log2(8 sqrt(12)) bits
    log_var = torch.full((200_000, 1), -2.4849)
    assert float(gaussian_rate(z, log_var, scale).mean()) == pytest.approx(np.log2(8 * 12**0.5), abs=0.03)


def test_wide_code_ranges_keep_their_order_as_features() -> None:
    columns = (BaseColumn("a", "numeric", -(2**63), 2**63 - 1),)
    values = np.array([[-(2**63)], [-1], [0], [2**63 - 1]])
    present = np.ones(values.shape, bool)
    raw = units(fit_features(columns, values, present), values)[:, 0]
    assert (np.diff(raw) >= 0).all() and raw[0] == 0 and raw[-1] < 2**24


def test_a_missing_target_is_named() -> None:
    with pytest.raises(ValueError, match="rmse target"):
        fit_base((BaseColumn("a", "numeric", 0, 9),), np.zeros((50, 1), np.int64))
    with pytest.raises(ValueError, match="codes are"):
        fit_base((BaseColumn("a", "numeric", 0, 9, None, 1.0),), np.zeros((50, 2), np.int64))


def test_nothing_is_tried_that_says_more_numbers_a_window_than_a_reader_takes() -> None:
    windows = (8, 16, 32, 64)
    for n_features in (1, 1000, 1024, 1025, 5000, 10_000, MAX_WIDTH):
        assert all(shape.window * n_features <= MAX_WIDTH for shape in discrete.shapes(windows, n_features))
    assert max(shape.window for shape in discrete.shapes(windows, 1025)) == 32  # 64 of so many are just too many
    assert discrete.shapes(windows, 10_000) == discrete.shapes((1,), 3)


def test_more_columns_than_a_reader_takes_have_no_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, codes = curved(600, None)
    assert fit_base(columns, codes, bits_per_row=8.0, windows=(1,)).layer is not None
    monkeypatch.setattr(search, "MAX_COLUMNS", 5)
    assert fit_base(columns, codes, bits_per_row=8.0, windows=(1,)).layer is None
