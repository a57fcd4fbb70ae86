"""Previews by discrete latents: integers give what training chose, the bytes buy more than a KLT's, and hostile code books are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from vae_core.base import BaseColumn, BaseLayer, fit_base
from vae_core.base.codebook import CodeBook
from vae_core.base.codes import Shape, Windows, begin, pruned
from vae_core.base.posterior import Parts, Table, likeliest_codes, zigzag
from vae_core.base.quantised import evaluate
from vae_core.base.task import prepare
from vae_core.errors import CorruptArchive

N = 24_000
COLUMNS = (
    BaseColumn("place", "numeric", 0, 999),
    BaseColumn("size", "numeric", 0, 4095),
    BaseColumn("weight", "numeric", 0, 4095),
    BaseColumn("kind", "categorical", 0, 2, 3),
    BaseColumn("delay", "numeric", 0, 4095),
)


def telemetry(n: int = N) -> NDArray[np.int64]:
    """Long stays at places, each with sizes of its own kind, and now and then a delay."""
    rng = np.random.default_rng(0)
    place = np.repeat(rng.integers(0, 1000, n // 150 + 1), 150)[:n]
    kind = rng.choice(3, n, p=[0.8, 0.15, 0.05])
    size = np.array([100, 3000, 1500])[kind] + rng.integers(0, 90, n)
    weight = np.array([2000, 100, 3900])[kind] + rng.integers(0, 200, n)
    delay = np.where(rng.random(n) < 0.02, rng.integers(2000, 4096, n), rng.integers(0, 60, n))
    return np.stack((place, size, weight, kind, delay), axis=1).astype(np.int64)


@pytest.fixture(scope="module")
def layer() -> BaseLayer:
    fit = fit_base(COLUMNS, telemetry(), bits_per_row=1.0, n_rows_total=10 * N, windows=(1, 8, 16), kinds=("vae",))
    assert fit.layer is not None and fit.layer.encoder is not None and fit.layer.encoder.book is not None
    return fit.layer


def test_the_codes_are_what_the_integers_say_by_numpy_and_by_torch(layer: BaseLayer) -> None:
    codes = telemetry()
    z = layer.encode(codes, np.ones(codes.shape, bool))
    about, decoder, encoder = layer.to_parts()
    again = BaseLayer.from_parts(about, decoder, encoder)
    assert (again.encode(codes, np.ones(codes.shape, bool)) == z).all()
    decoded = layer.decode(z)
    assert (again.without_encoder().decode(z) == decoded).all()
    assert (layer.decode(z, evaluate=evaluate) == decoded).all()


def test_a_part_of_whole_windows_has_the_latents_of_the_whole(layer: BaseLayer) -> None:
    codes, w = telemetry(), layer.window
    there = np.ones(codes.shape, bool)
    whole, part = layer.decode(layer.encode(codes, there)), layer.decode(layer.encode(codes[: 10 * w], there[: 10 * w]))
    assert (whole[: 10 * w] == part).all()


def test_codes_tell_more_than_a_linear_map_for_the_same_bytes() -> None:
    fit = fit_base(COLUMNS, telemetry(), bits_per_row=1.5, n_rows_total=10 * N, windows=(1, 8, 16))
    assert fit.layer is not None and fit.layer.kind == "vae" and fit.error is not None
    linear = [row for row in fit.compared if row["kind"] == "klt"]
    errors = [(4 * row["mean_ratio"] + 1 - row["accuracy"]) / 5 for row in linear]
    assert errors and fit.error < 0.5 * min(errors)


def test_flags_that_are_hardly_ever_set_have_entries_of_their_own() -> None:
    rng, n = np.random.default_rng(3), 60_000
    flags = np.zeros((n, 14), np.int64)
    for k in range(14):  # 20 rows each: hardly a bit a thousand rows, and all there is to tell of a column
        flags[rng.choice(n, 20, replace=False), k] = 1
    columns = tuple(BaseColumn(f"flag{k}", "numeric", 0, 1) for k in range(14))
    fit = fit_base(columns, flags, bits_per_row=0.3, n_rows_total=n, windows=(1, 8, 16, 32), kinds=("vae",))
    assert fit.layer is not None
    told = fit.layer.decode(fit.layer.encode(flags, np.ones(flags.shape, bool)))
    assert sum(np.array_equal(told[:, k], flags[:, k]) for k in range(14)) >= 10


def test_entries_go_one_by_one_down_to_none() -> None:
    columns, codes = COLUMNS, telemetry(4096)
    task = prepare(columns, codes, None, 1.0, None, None)
    data, shape = Windows(columns, task.features, task.x.reshape(-1, 8, task.features.n_features)), Shape(8, 2, 4, (4,))
    state = begin(data, shape, np.random.default_rng(0))
    assert sum(len(t.entries) for t in state.tables) == 8
    assert [len(t.entries) for t in pruned(data, state, shape, 0.0, 4096).tables] == [1, 1]


def test_the_likeliest_codes_weigh_distance_against_price() -> None:
    entries = np.array([[0.0], [4.0]], np.float32)
    y = np.array([0.0, 1.9, 2.1, 4.0], np.float32).reshape(1, 4, 1)
    for price, expected in (([0, 0], [0, 0, 1, 1]), ([0, 9], [0, 0, 0, 1]), ([0, 17], [0, 0, 0, 0])):
        table = Table(True, entries, np.array(price, np.float32))
        assert likeliest_codes(y, Parts(np.zeros((0, 1), np.float32), (table,))).codes[0].tolist() == expected


def test_entries_are_stored_as_their_own_number() -> None:
    z = zigzag(np.arange(9))
    assert z.tolist() == [0, -1, 1, -2, 2, -3, 3, -4, 4]
    assert ((z << 1) ^ (z >> 15)).tolist() == list(range(9))


@pytest.mark.parametrize("form", [[0], [0, 0, 0], [0, 1 << 20], [-1, 0], [0, 0, 1 << 20, 1, 3], [0, 0, 0, 1, 1 << 30]])
def test_a_code_book_that_does_not_fit_its_decoder_is_refused(layer: BaseLayer, form: list[int]) -> None:
    assert layer.encoder is not None
    book = CodeBook(np.array(form, np.int32), np.zeros(3, np.int16))
    about, decoder, encoder = replace(layer, encoder=replace(layer.encoder, book=book)).to_parts()
    with pytest.raises(CorruptArchive, match="code book"):
        BaseLayer.from_parts(about, decoder, encoder)
