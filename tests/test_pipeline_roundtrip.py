"""Tables of every type through the whole of it, into an archive and out again, with the promises of DESIGN checked on the way."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import tables, tolerances_for
from telemetry import SENSORS, assert_kept, fitted, resolved, telemetry, without_rows

from flows import cli
from storage import open_archive
from storage.ledger import bytes_by_part
from storage.manifest import Manifest
from storage.objects import ObjectStore
from storage.snapshots import load_manifest
from storage.writer import commit, stage_model, stage_shard
from vae_core.shard import encode_shard
from vae_core.tolerance import Tolerance

FIXED_BYTES = 16 * 1024


def stored(
    table: pa.Table, asked: Mapping[str, Tolerance], uri: str, shard_rows: int, block_rows: int, preview: str | float = "off"
) -> int:
    """Write a table as an archive with plain functions; its conventional bytes."""
    store = ObjectStore.open(uri)
    model = fitted(table, asked, preview=preview).model
    ref = stage_model(store, model.to_files())
    shards, conventional = [], 0
    for number, start in enumerate(range(0, table.num_rows, shard_rows)):
        encoded = encode_shard(model, table.slice(start, shard_rows), block_rows=block_rows)
        conventional += sum(outcome.conventional_bytes for outcome in encoded.outcomes)
        shards.append(stage_shard(store, ref, f"{number:032x}", encoded).ref)
    commit(store, Manifest(schema=table.schema, models=(ref,), shards=tuple(shards)))
    return conventional


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_any_table_within_any_tolerances_comes_back_from_an_archive(data):
    table = data.draw(tables())
    asked = data.draw(tolerances_for(table.schema))
    uri = f"memory://codec/{uuid.uuid4().hex}"
    conventional = stored(table, asked, uri, data.draw(st.sampled_from([9, 1000])), data.draw(st.sampled_from([4, 1000])))
    archive = open_archive(uri)
    if table.num_rows:
        assert_kept(table, archive.to_table(), resolved(table, asked))
        start = data.draw(st.integers(0, table.num_rows - 1))
        stop = data.draw(st.integers(start + 1, table.num_rows))
        names = data.draw(st.lists(st.sampled_from(table.schema.names), min_size=1, unique=True))
        assert_kept(table.select(names).slice(start, stop - start), archive.to_table(names, (start, stop)), resolved(table, asked))
    assert archive.schema.equals(table.schema, check_metadata=True) and archive.num_rows == table.num_rows
    store = ObjectStore.open(uri)
    assert sum(bytes_by_part(store, load_manifest(store)).values()) <= 1.005 * conventional + FIXED_BYTES


@settings(deadline=None, max_examples=4)
@given(st.data())
def test_any_distortion_target_is_met_by_what_an_archive_gives_back(data):
    table = data.draw(tables(max_rows=60))
    asked = data.draw(tolerances_for(table.schema, distortion=True))
    uri = f"memory://codec/{uuid.uuid4().hex}"
    stored(table, asked, uri, 1000, 25)
    if table.num_rows:
        assert_kept(table, open_archive(uri).to_table(), resolved(table, asked))


@pytest.mark.parametrize("seed", [1])
def test_a_table_of_telemetry_is_smaller_than_its_conventional_archive_and_keeps_every_promise(tmp_path, seed):
    table = telemetry(6000, seed)
    asked = {name: Tolerance("absolute", 0.05) for name in ("temp", "load")} | {name: Tolerance("rmse_relative", 0.03) for name in SENSORS}
    conventional = stored(table, asked, str(tmp_path / "archive"), 4000, 1500, preview=0.1)
    archive = open_archive(str(tmp_path / "archive"))
    assert_kept(table.slice(0, 4000), archive.to_table(rows=(0, 4000)), resolved(table, asked))
    assert_kept(table.drop_columns([*SENSORS]), archive.to_table(table.drop_columns([*SENSORS]).schema.names), resolved(table, asked))
    parts = bytes_by_part(archive.store, archive.manifest)
    on_disk = sum(f.stat().st_size for f in (tmp_path / "archive").rglob("*") if f.is_file())
    assert sum(parts.values()) == on_disk <= 1.005 * conventional + FIXED_BYTES
    assert archive.plan_read(preview=True) < archive.plan_read()



def holds_what_its_types_allow(table: pa.Table) -> bool:
    """A source is refused otherwise: parts of days in date64, say."""
    try:
        table.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


@settings(deadline=None, max_examples=3, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_any_table_within_any_tolerances_survives_the_command_line(tmp_path_factory, data):
    table = data.draw(tables().filter(holds_what_its_types_allow))
    asked = {name: tolerance for name, tolerance in data.draw(tolerances_for(table.schema)).items() if name.strip()}
    place = tmp_path_factory.mktemp("pipeline")
    with pa.ipc.new_file(place / "raw.arrow", table.schema) as writer:
        writer.write_table(table)
    wanted = [argument for name, tolerance in asked.items() for argument in ("--tolerance", f"{name}={tolerance}")]
    paths = [str(place / "raw.arrow"), str(place / "archive")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTPACK_SERVER", "off")
        patch.setenv("LATENTPACK_HOME", str(place / "home"))
        code = cli.main(["run", *paths, *wanted, "--time-budget", "2", "--preview", "off", "--json", str(place / "report.json")])
    assert code == 0
    archive = open_archive(str(place / "archive"))
    back = archive.to_table() if table.num_rows else without_rows(archive.schema)
    assert_kept(table, back, resolved(table, {name: Tolerance.parse(str(tolerance)) for name, tolerance in asked.items()}))
    report = json.loads((place / "report.json").read_text())
    assert report["archive_bytes"] <= 1.005 * report["conventional_bytes"] + FIXED_BYTES
    assert all(column["violations"] == 0 for column in report["columns"])


def noise(n_rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table({"bits": rng.integers(-(2**63), 2**63 - 1, n_rows), "text": [rng.bytes(9).hex() for _ in range(n_rows)]})


def walks(n_rows: int) -> pa.Table:
    """As many columns as a sensor archive has, of floats without a lattice, few rows: what a column takes beside its values counts."""
    rng = np.random.default_rng(1)
    return pa.table({f"c{k}": rng.normal(size=n_rows).cumsum() for k in range(600)})


def ranks(n_rows: int) -> pa.Table:
    """Features that share eight factors."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=(n_rows, 8)) @ rng.normal(size=(8, 400)) + 0.01 * rng.normal(size=(n_rows, 400))
    return pa.table({f"f{k}": values[:, k] for k in range(400)})


@pytest.mark.parametrize(("name", "table", "asked"), [
    ("ranks", ranks(300), "1%"),
    ("flags", pa.table({f"flag_{k}": np.random.default_rng(k).integers(0, 2, 200).astype(bool) for k in range(1000)}), ""),
])  # fmt: skip
def test_a_run_over_hundreds_of_columns_and_few_rows_costs_no_more_than_its_fixed_metadata(name, table, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    pq.write_table(table, tmp_path / f"{name}.parquet")
    paths = [str(tmp_path / f"{name}.parquet"), str(tmp_path / "archive")]
    tolerances = ["--tolerance", f"*={asked}"] if asked else []
    assert cli.main(["run", *paths, *tolerances, "--time-budget", "2", "--json", str(tmp_path / "report.json"), "--quiet"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["archive_bytes"] <= 1.005 * report["conventional_bytes"] + FIXED_BYTES
    assert all(c["max_abs_error"] <= c["tolerance"] and c["violations"] == 0 for c in report["columns"])


@pytest.mark.parametrize("table", [noise(5000), walks(300)], ids=["noise", "walks"])
def test_a_dataset_of_nothing_to_learn_costs_no_more_than_its_fixed_metadata(table, tmp_path):
    conventional = stored(table, {}, str(tmp_path / "archive"), table.num_rows, table.num_rows)
    parts = bytes_by_part(ObjectStore.open(str(tmp_path / "archive")), load_manifest(ObjectStore.open(str(tmp_path / "archive"))))
    assert sum(parts.values()) <= 1.005 * conventional + FIXED_BYTES
    assert_kept(table, open_archive(str(tmp_path / "archive")).to_table())
