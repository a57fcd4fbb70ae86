"""Drift: what of new data is looked at, and what of a model is fitted anew when it no longer fits."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from telemetry import assert_kept, decoded, fitted, profiled, resolved, stored_again
from test_base_fit import curved
from test_flows_pipeline import place, request, stored, table  # noqa: F401
from test_flows_pipeline import raw as raw_of

from flows import train
from flows.launch import run_pipeline
from flows.settings import RunRequest
from storage import open_archive
from vae_core import fitting, layers
from vae_core.columns import one_array
from vae_core.entropy import kernel
from vae_core.exact.arrange import Arrangement
from vae_core.fitting import fit, refresh
from vae_core.layers import still_fits
from vae_core.model import FitConfig, Model, Sample
from vae_core.shard import encode_shard
from vae_core.tables import rmse_of

N = 6000
SENSORS = tuple(f"s{k}" for k in range(6))


def waves(seed: int, n_rows: int = N, *, scale: float = 1.0, mixed: int = 9, digits: int | None = None) -> pa.Table:
    """Six sensors of two waves each, a little noise on them; `mixed` decides how, `scale` and an offset how large they are."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_rows) + 1000 * seed
    x = np.stack([np.sin(t / 37), np.cos(t / 11)], 1) @ np.random.default_rng(mixed).normal(size=(2, len(SENSORS)))
    x = scale * (x + 0.02 * rng.normal(size=x.shape)) + (0 if scale == 1 else 100)
    return pa.table({name: x[:, k] if digits is None else np.round(x[:, k], digits) for k, name in enumerate(SENSORS)})


def refreshed(model: Model, new: pa.Table, **options) -> Model:
    return refresh(model, Sample(new, (new.num_rows,)), profiled(new), FitConfig(time_budget_s=10, preview=0.1), **options).model


@pytest.mark.parametrize("first", [True, False], ids=["undrifted first", "undrifted last"])
def test_drift_is_seen_wherever_in_the_new_files_it_is(place, monkeypatch, first):  # noqa: F811
    monkeypatch.setattr(train, "PROBE_ROWS", 8192)
    run_pipeline(request(place))
    strange = [table(seed, 9000).set_column(2, "temp", pa.array(90 * np.random.default_rng(seed).normal(size=9000))) for seed in (4, 5)]
    for day, new in zip((3, 4, 5), [table(3, 9000), *strange] if first else [*strange, table(3, 9000)], strict=True):
        pq.write_table(new, place / "raw" / f"day-{day}.parquet")
    report = run_pipeline(request(place))
    assert report.drift.ratio is not None and report.drift.ratio > 1.1 and report.drift.refreshed
    assert stored(place).equals(raw_of(place))


def test_a_sample_of_some_files_has_rows_of_those_alone_and_of_each(tmp_path):
    from storage.sources import open_source

    for k in range(5):
        pq.write_table(pa.table({"x": np.full(1000, k)}), tmp_path / f"{k}.parquet", row_group_size=300)
    with open_source(str(tmp_path)) as source:
        some = ["1.parquet", "3.parquet", "4.parquet"]
        every, drawn = source.sample(5000, 0, only=some), source.sample(600, 0, run_rows=50, only=some)
    assert every.table.num_rows == 3000 == sum(every.runs)
    assert drawn.table.num_rows == 600 == sum(drawn.runs)
    assert set(drawn.table["x"].to_pylist()) == set(every.table["x"].to_pylist()) == {1, 3, 4}


@pytest.fixture(scope="module")
def sketched() -> Model:
    raw = waves(1, digits=3)
    model = fit(Sample(raw, (N,)), profiled(raw), raw.schema, {}, FitConfig(time_budget_s=5, preview=0.1)).model
    assert model.preview is not None and model.preview.error is not None
    return model


def test_a_preview_stays_at_a_refresh_where_it_tells_as_much_as_it_did(sketched):
    again = refreshed(sketched, waves(2, digits=3))
    assert again.preview is sketched.preview
    assert Model.from_files(again.to_files()).preview.error == pytest.approx(sketched.preview.error, abs=1e-3)


@pytest.mark.parametrize("drifted", [{"scale": -3.0}, {"mixed": 10}], ids=str)
def test_a_preview_that_tells_little_of_new_rows_is_fitted_anew_and_old_shards_stay_readable(sketched, drifted):
    old, new = waves(1, digits=3), waves(2, digits=3, **drifted)
    before = encode_shard(sketched, old, preview=None)
    model = refreshed(sketched, new)
    assert model.preview is not None and model.preview is not sketched.preview
    shard = encode_shard(model, new, preview=True)  # as for a share that was asked for
    assert before.layout["preview"] and shard.layout["preview"]
    told = decoded(stored_again(model), shard, preview=True)
    errors = [rmse_of(one_array(new[s]), one_array(told[s])) / np.std(new[s]) for s in SENSORS]
    assert np.mean(errors) < 1.2 * model.preview.error + 0.05 < 0.8
    assert_kept(new, decoded(stored_again(model), shard))
    assert_kept(old, decoded(stored_again(sketched), before))


def test_a_refresh_tries_memories_of_the_columns_that_have_some(monkeypatch):
    follows = np.random.default_rng(0).permutation(4000)

    def rows(seed: int) -> pa.Table:
        rng, now, found = np.random.default_rng(seed), 0, np.empty(20_000, np.int64)
        for k in range(len(found)):
            found[k] = now = int(rng.integers(4000)) if rng.random() < 0.02 else int(follows[now])
        still = (np.arange(len(found)) % 5000 == 7).astype(np.int64)
        return pa.table({"walk": 1000 * found, "free": rng.integers(0, 50, len(found)).cumsum(), "still": still})

    raw, tried = rows(1), dict[str, bool]()
    model = fit(Sample(raw, (len(raw),)), profiled(raw), raw.schema, {}, FitConfig(time_budget_s=20, preview="off")).model
    remembering = {"walk"} if kernel.available() else set()  # without the kernel there is no time to try memories
    assert {model.columns[code.column].name for code in model.codes if code.value.matches} == remembering
    search = Arrangement._search

    def spy(self, column, *more, **options):
        if not options:  # in no hurry
            tried[model.columns[column].name] = self._sampled.remembers
        return search(self, column, *more, **options)

    monkeypatch.setattr(Arrangement, "_search", spy)
    monkeypatch.setattr(fitting, "has_above", lambda *_: pytest.fail("rows above are looked for by a first fit alone"))
    new = rows(2)
    again = refreshed(model, new)
    assert "still" in {model.columns[code.column].name for code in model.codes}  # which takes no bits to speak of
    wanted = {"walk": bool(remembering), "free": False}
    assert tried == wanted if remembering else tried.items() <= wanted.items()  # by numpy alone the time may be out before
    assert {again.columns[code.column].name for code in again.codes if code.value.matches} == remembering
    assert_kept(new, decoded(stored_again(again), encode_shard(again, new, preview=False)))


def test_a_preview_fitted_anew_is_no_worse_than_a_linear_map_where_rows_have_become_linear(monkeypatch):
    hasty, fit_base = list[bool](), layers.fit_base
    monkeypatch.setattr(layers, "fit_base", lambda *a, **k: hasty.append(k.get("hasty", False)) or fit_base(*a, **k))
    rng, config = np.random.default_rng(1), FitConfig(time_budget_s=12, preview=0.1)
    lines = np.rint(200 * rng.normal(size=(N, 1)) @ rng.normal(size=(1, 6)) + 2 * rng.normal(size=(N, 6))).astype(np.int64)
    first, later = (pa.table({name: x[:, k] for k, name in enumerate(SENSORS)}) for x in (curved(N, None)[1], lines))
    model, alone = (fit(Sample(rows, (N,)), profiled(rows), rows.schema, {}, config).model for rows in (first, later))
    again = refresh(model, Sample(later, (N,)), profiled(later), config).model
    assert model.preview is not None and model.preview.layer.kind == "vae"
    assert alone.preview is not None and again.preview is not None and alone.preview.layer.kind == "klt"
    assert again.preview.error < 1.1 * alone.preview.error + 0.02
    assert hasty == [False, False, True]


def test_a_plan_fits_no_rows_beyond_the_range_layers_and_contexts_know(sketched):
    within, beyond = waves(2, digits=3), waves(2, digits=3, scale=-3.0)
    for rows, fits in ((within, True), (beyond, False)):
        assert all(still_fits(plan, Sample(rows, (N,))) is fits for plan in sketched.columns)


def test_a_distortion_layer_beyond_the_threshold_is_fitted_anew_to_the_same_errors():
    old, new = waves(1), waves(2, mixed=10)
    asked = [f"{name}=rmse:5%" for name in SENSORS]
    model, targets = fitted(old, asked).model, {name: t.value for name, t in resolved(old, asked).items()}
    assert model.distortion is not None
    again = refreshed(model, new, targets=targets)
    assert again.distortion is not None and again.distortion is not model.distortion
    assert refreshed(model, new).distortion is model.distortion
    found, kept = (encode_shard(m, new, preview=False, targets=targets) for m in (again, model))
    assert {o.coding for o in found.outcomes} == {"latent"}
    assert sum(found.bits_per_value.values()) < 0.8 * sum(
        kept.bits_per_value.get(o.name, 8 * o.conventional_bytes / N) for o in kept.outcomes
    )
    assert_kept(new, decoded(stored_again(again), found), resolved(old, asked))


def test_drift_is_measured_and_mended_in_distortion_mode(place):  # noqa: F811
    def run() -> dict:
        asked = {"source": str(place / "waves"), "archive": str(place / "archive"), "tolerances": ["*=rmse:5%"]}
        return json.loads(run_pipeline(RunRequest(**asked, time_budget_s=3)).model_dump_json())

    (place / "waves").mkdir()
    pq.write_table(waves(1), place / "waves" / "1.parquet")
    targets = {c["name"]: c["tolerance"] for c in run()["columns"]}
    pq.write_table(waves(2), place / "waves" / "2.parquet")
    same = run()["drift"]
    assert same["ratio"] == pytest.approx(1.0, abs=0.1) and not same["refreshed"]
    pq.write_table(waves(3, mixed=10), place / "waves" / "3.parquet")
    report = run()
    assert report["drift"]["ratio"] > 1.1 and report["drift"]["refreshed"]
    assert {c["name"]: c["tolerance"] for c in report["columns"]} == targets
    assert all(c["coding"] == "latent" and c["rmse"] <= c["tolerance"] for c in report["columns"])
    assert len(open_archive(str(place / "archive")).manifest.models) == 2
    assert stored(place, snapshot=2).num_rows == 2 * N
