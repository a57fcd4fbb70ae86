"""Pictures stored as vectors are seen as pictures, and coded as such; what is no picture stays a vector."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from storage import open_archive
from vae_core.exact.pictures import hidden_shape


def pictures(n: int, height: int, width: int, colours: int, seed: int = 0) -> np.ndarray:
    """(n, height, width, colours) smooth scenes with edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    angle, place = rng.random((2, n, 1, 1)) * 6
    light = 120 + 60 * np.sin(x / 7 + angle) * np.cos(y / 5 + place) + 40 * (x * np.cos(angle) + y * np.sin(angle) > 5 * place)
    tint = light[..., None] * np.linspace(1, 0.7, colours) + rng.normal(size=(n, height, width, 1)) * 3
    return np.clip(np.rint(tint + rng.normal(size=(n, height, width, colours))), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (24, 40), (40, 24), (64, 64)])
def test_the_shape_of_flat_pictures_is_found_in_every_layout(height, width):
    grey = pictures(40, height, width, 1).astype(np.int64)
    assert hidden_shape(grey.reshape(40, -1)) == (height, width)
    colours = pictures(40, height, width, 3).astype(np.int64)
    assert hidden_shape(colours.reshape(40, -1)) == (height, width, 3)
    assert hidden_shape(np.moveaxis(colours, 3, 1).reshape(40, -1)) == (3, height, width)


def test_what_is_no_picture_has_no_shape():
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(300, 20)) @ rng.normal(size=(20, 384)) * 50
    walks = np.cumsum(rng.normal(size=(100, 1024)), axis=1) * 20
    for vectors in (rng.integers(0, 99, (200, 784)), factors, walks, np.zeros((50, 784)), rng.normal(size=(9, 49)), np.zeros((0, 784))):
        assert hidden_shape(vectors.astype(np.int64)) is None


def test_flat_pictures_take_hardly_more_than_pictures_with_a_shape(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    shaped = pictures(150, 32, 32, 3)
    taken = {}
    for name, array in (("shaped", shaped), ("flat", shaped.reshape(150, -1)), ("planes", np.moveaxis(shaped, 3, 1).reshape(150, -1))):
        source, archive, report = tmp_path / f"{name}.npy", tmp_path / name, tmp_path / f"{name}.json"
        np.save(source, array)
        assert main(["run", str(source), str(archive), "--time-budget", "5", "--json", str(report), "--quiet"]) == 0
        taken[name] = json.loads(report.read_text())["archive_bytes"]
        assert main(["read", str(archive), str(tmp_path / "back.npy")]) == 0
        assert np.array_equal(np.load(tmp_path / "back.npy"), array) and open_archive(str(archive)).num_rows == 150
    assert max(taken["flat"], taken["planes"]) < 1.03 * taken["shaped"], taken


def test_flat_pictures_in_a_table_are_lists_of_one_length(tmp_path, monkeypatch):
    import pyarrow as pa

    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    flat = pictures(120, 32, 32, 3).reshape(120, -1)
    table = pa.table({"label": pa.array(np.arange(120) % 10), "pixels": pa.array(list(map(list, flat.tolist())), pa.list_(pa.uint8()))})
    pq.write_table(table, tmp_path / "t.parquet")
    assert main(["run", str(tmp_path / "t.parquet"), str(tmp_path / "a"), "--time-budget", "5", "--quiet"]) == 0
    assert open_archive(str(tmp_path / "a")).to_table().equals(pq.read_table(tmp_path / "t.parquet"))
