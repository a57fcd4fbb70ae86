"""The benchmark is fair: peers give back what they stored, within the bound, and the README's table is drawn from the CSV."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name: str):
    """A module of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


peers = load("peers")
readme = load("readme")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "x": pa.array(np.cumsum(rng.normal(size=500)), mask=rng.random(500) < 0.1),
            "n": rng.integers(0, 50, 500),
            "word": rng.choice(["alpha", "beta", "gamma"], 500),
            "dense": rng.normal(size=500).astype("float32"),
        }
    )
    path = tmp_path_factory.mktemp("peers") / "t.parquet"
    pq.write_table(table, path)
    return str(path)


@pytest.mark.parametrize("bound", ["lossless", "1%"])
@pytest.mark.parametrize("name", [peer.name for peer in peers.PEERS if peer.available])
def test_every_peer_gives_the_table_back_within_the_bound(name, bound, source):
    peer = next(p for p in peers.PEERS if p.name == name)
    found = peers.measure(peer, source, bound)
    assert found["violations"] == 0
    assert found["worst_error_share"] <= 1.0
    assert found["bytes"] > 500


def test_the_best_of_all_is_no_larger_than_any_of_them(source):
    sizes = {p.name: peers.measure(p, source, "1%")["bytes"] for p in peers.PEERS if p.available and p.uses_bound}
    assert min(sizes.values()) >= 0.99 * sizes["best-conventional"]


def test_a_peer_that_breaks_its_bound_is_found_out():
    raw = pa.table({"x": [0.0, 1.0, 2.0]})
    from vae_core.tolerance import Tolerance

    share, violations = peers.compare(raw, pa.table({"x": [0.0, 1.5, 2.0]}), {"x": Tolerance("absolute", 0.1)})
    assert violations == 1 and share == pytest.approx(5.0)


def test_the_readme_table_states_the_bound_the_machine_and_the_commit(tmp_path):
    fields = dict(
        dataset="d", bytes="1000", encode_mb_s="1", decode_mb_s="40.2", worst_error_share="0.98",
        commit="abc1234", date="2026-01-01", cpu="a cpu", cores="2",
    )  # fmt: skip
    rows = [
        fields | {"bound": "1%", "codec": "best-conventional", "bytes": "1500", "ratio_vs_conventional": "1"},
        fields | {"bound": "1%", "codec": "latentpack", "ratio_vs_conventional": "1.5"},
    ]
    with (tmp_path / "r.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    page = tmp_path / "README.md"
    with pytest.raises(SystemExit, match="no markers like <!-- results"):
        page.write_text("before\nold\nafter\n")
        readme.update(page, tmp_path / "r.csv")
    begin, end = readme.markers("results")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    readme.update(page, tmp_path / "r.csv")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| d | ±1 % | – | – | – | 1,500 | **1,000** | 1.50 | 98.0 % of bound | 1.0 | 40 | – |" in text
    assert "`abc1234`" in text and "a cpu" in text and "2026-01-01" in text


def test_a_reading_by_numpy_that_was_not_waited_for_is_a_dash_and_said_to_be_one():
    tables = load("tables")
    row = {
        "dataset": "t", "bound": "lossless", "codec": "latentpack", "decode_mb_s": "12.3", "decode_mb_s_without_kernel": "4.5",
        **{f"{part}_read_{unit}": "10" for part in ("full", "one_column", "thousand_rows") for unit in ("bytes", "s")},
    }  # fmt: skip
    known = tables.read_table([row])
    assert "| 12.3 | 4.5 |" in known and "–" not in known
    missing = tables.read_table([row | {"decode_mb_s_without_kernel": ""}])
    assert "| 12.3 | – |" in missing and "not done after 10 minutes" in missing
