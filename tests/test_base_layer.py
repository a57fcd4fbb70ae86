"""A base layer: latents laid out and taken up, decoding exact in integers, hostile decoders refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_core.base import BaseColumn, BaseLayer
from vae_core.base.assembly import NetworkPart, assemble_decoder
from vae_core.base.columns import fit_features
from vae_core.base.encoder import Encoder
from vae_core.base.layer import Decoder, lay_out, take_up
from vae_core.base.quantised import QuantisedNetwork, evaluate
from vae_core.errors import CorruptArchive
from vae_core.weights import pack_tensors, unpack_tensors

COLUMNS = (
    BaseColumn("a", "numeric", -(2**63), 2**63 - 1),
    BaseColumn("b", "numeric", 0, 1000),
    BaseColumn("c", "categorical", 0, 6, 7),
    BaseColumn("d", "numeric", 5, 5),
)


def table(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    t = rng.normal(size=n)
    a = np.clip(t * 2.0**60, -(2**62), 2**62).astype(np.int64)
    b = np.clip(500 + 150 * t + rng.normal(0, 10, n), 0, 1000).astype(np.int64)
    c = np.clip(np.rint(t + 3), 0, 6).astype(np.int64)
    values = np.stack((a, b, c, np.full(n, 5)), axis=1)
    return values, rng.random(values.shape) < 0.95


def layer(window: int = 4, n_latents: int = 6, networked: bool = True) -> BaseLayer:
    values, present = table()
    features = fit_features(COLUMNS, values, present)
    rng = np.random.default_rng(1)
    n = window * features.n_features
    part = None
    if networked:
        network = QuantisedNetwork((n_latents, 20, 20, n), torch.Generator().manual_seed(0))
        with torch.no_grad():
            network.weights[2].copy_(torch.randn(n, 20, generator=torch.Generator().manual_seed(1)) * 0.3)
        part = NetworkPart(network.to_integer(), np.full(n_latents, 900, np.int32), np.full(features.n_features, 2.0**-14))
    latents = rng.integers(-9, 9, (500, n_latents))
    decoder = assemble_decoder(COLUMNS, features, window, rng.normal(0, 0.1, (n, n_latents)), latents, part)
    return BaseLayer(
        "vae" if networked else "klt",
        decoder,
        Encoder(np.zeros(features.n_features, np.int16), np.full(n_latents, 1024, np.int16), 64),
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 70), st.integers(1, 17), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_latents_of_whole_windows_come_back_from_their_layout(n_rows: int, window: int, n_latents: int, seed: int) -> None:
    latents = np.random.default_rng(seed).integers(-16383, 16384, (-(-n_rows // window), n_latents)).astype(np.int16)
    z = lay_out(latents, n_rows, window)
    assert z.shape == (n_rows, -(-n_latents // window))
    assert z.size == 0 or z.min() >= 0
    again = take_up(z, n_latents, window)
    n_whole = n_rows // window
    assert (again[:n_whole] == latents[:n_whole]).all()
    if n_rows % window:
        kept = min(n_latents, (n_rows % window) * z.shape[1])
        assert (again[-1, :kept] == latents[-1, :kept]).all()
        assert not again[-1, kept:].any()


def test_small_latents_are_int8_and_large_ones_int16() -> None:
    assert lay_out(np.full((3, 2), -64, np.int16), 3, 1).dtype == np.int8
    assert lay_out(np.full((3, 2), 64, np.int16), 3, 1).dtype == np.int16


@pytest.mark.parametrize("window", [1, 4])
def test_decoding_gives_codes_inside_every_columns_range(window: int) -> None:
    made = layer(window)
    z = np.random.default_rng(0).integers(0, 32767, (101, made.n_columns_stored)).astype(np.int16)
    for gain in (1, 16, 37, 1 << 14):
        codes = made.decode(z, gain)
        assert codes.shape == (101, 4)
        assert (codes[:, 1] >= 0).all() and (codes[:, 1] <= 1000).all()
        assert np.isin(codes[:, 2], np.arange(7)).all()
        assert (codes[:, 3] == 5).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_layer_decodes_to_the_same_bits_in_torch_and_numpy_whatever_the_batch(threads: int) -> None:
    made = layer(1)
    z = np.random.default_rng(0).integers(0, 100, (2000, made.n_columns_stored)).astype(np.int8)
    expected = made.decode(z)
    assert len(np.unique(expected[:, 1])) > 50
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for batch in (1, 777, 2000):
            for first in range(0, 60 if batch == 1 else 2000, batch):
                part = slice(first, first + batch)
                assert (made.decode(z[part]) == expected[part]).all()
                assert (made.decode(z[part], evaluate=evaluate) == expected[part]).all()
                assert (made.decode(z[part], evaluate=lambda n, a: evaluate(n, a, torch.float64)) == expected[part]).all()
    finally:
        torch.set_num_threads(before)


def by_python(decoder: Decoder, latents: list[int], gain: int) -> list[int]:
    """The format's arithmetic with unbounded integers, one window."""
    bound = decoder.network.input_bound if decoder.network else 0
    net = [0] * len(decoder.linear)
    if decoder.network is not None and decoder.reach is not None:
        inputs = [min(max(z * int(r) // gain, -bound), bound) for z, r in zip(latents, decoder.reach, strict=True)]
        net = decoder.network(np.array([inputs]))[0].tolist()
    out = []
    for i, row in enumerate(decoder.linear.tolist()):
        f = i % decoder.n_features
        lin = sum(w * z for w, z in zip(row, latents, strict=True))
        extra = net[i] * int(decoder.net_multiply[f]) if decoder.net_multiply is not None else 0
        out.append(lin * int(decoder.multiply[f]) * 16 // gain + extra + int(decoder.bias[f]))
    return out


@pytest.mark.parametrize("networked", [False, True])
def test_the_arithmetic_is_that_of_unbounded_integers(networked: bool) -> None:
    decoder = layer(2, 5, networked).decoder
    latents = np.random.default_rng(4).integers(-16383, 16384, (40, 5))
    latents[:20] //= 500
    for gain in (1, 16, 21, 1 << 14):
        assert decoder.values(latents, gain).tolist() == [by_python(decoder, row, gain) for row in latents.tolist()]


def test_the_extremes_of_int64_are_reached_without_overflow() -> None:
    decoder = layer(1, 3, False).decoder
    far = np.full((1, decoder.n_features), 1 << 60, np.int64)
    assert decoder.codes(-far)[0, 0] == -(2**63)
    top = int(decoder.codes(far)[0, 0])
    assert 2**63 - 1 - 2**41 < top <= 2**63 - 1


def test_a_layer_survives_its_parts_and_reads_without_its_encoder() -> None:
    values, present = table()
    for networked in (False, True):
        made = layer(4, 6, networked)
        about, decoder, encoder = made.to_parts()
        again = BaseLayer.from_parts(about, decoder, encoder)
        z = made.encode(values, present)
        assert (again.encode(values, present) == z).all()
        reader = BaseLayer.from_parts(about, decoder, None)
        assert (reader.decode(z) == made.decode(z)).all()
        assert (reader.sample(50, np.random.default_rng(3)) == made.sample(50, np.random.default_rng(3))).all()
        with pytest.raises(ValueError, match="without its encoder"):
            reader.encode(values, present)


def test_a_finer_gain_gives_larger_latents_and_the_same_rows() -> None:
    values, present = table()
    made = layer(1, 3, False)
    assert np.abs(made.encode(values, present, 64).astype(int)).sum() > 2 * made.encode(values, present, 16).astype(int).sum()


@pytest.mark.parametrize("n_rows", [0, 1, 3, 4, 5])
def test_a_few_rows_are_encoded_and_decoded(n_rows: int) -> None:
    values, present = table()
    made = layer(4, 6)
    z = made.encode(values[:n_rows], present[:n_rows])
    assert z.shape == (n_rows, 2)
    assert made.decode(z).shape == (n_rows, 4)
    assert made.sample(n_rows, np.random.default_rng(0)).shape == (n_rows, 2)


def test_sparsity_is_the_share_of_zeros() -> None:
    made = layer(1, 6)
    z = np.zeros((10, 6), np.int8)
    z[:5, 0] = 1
    assert made.sparsity(z) == pytest.approx(55 / 60)


def test_latents_of_another_shape_and_an_absurd_gain_are_refused() -> None:
    made = layer(4, 6)
    with pytest.raises(CorruptArchive, match="latents are"):
        made.decode(np.zeros((5, 3), np.int8))
    for gain in (0, -1, 1 << 30):
        with pytest.raises(CorruptArchive, match="gain"):
            made.decode(np.zeros((5, 2), np.int8), gain)


def hostile(name: str, value: np.ndarray | None) -> dict[str, np.ndarray]:
    _, parts, _ = layer(4, 6).to_parts()
    tensors = unpack_tensors(parts["base"].tobytes())
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    return {"base": np.frombuffer(pack_tensors(tensors), np.uint8)}


N_FEATURES = 10
HOSTILE = {
    "a version from the future": ("form", np.array([9, 4], np.int32)),
    "a window of no rows": ("form", np.array([1, 0], np.int32)),
    "an absurd window": ("form", np.array([1, 10**6], np.int32)),
    "a negative window": ("form", np.array([1, -4], np.int32)),
    "a missing form": ("form", None),
    "no latents": ("linear", np.zeros((40, 0), np.int16)),
    "too many latents": ("linear", np.zeros((40, 5000), np.int16)),
    "a linear map of the wrong height": ("linear", np.zeros((39, 6), np.int16)),
    "a flat linear map": ("linear", np.zeros(240, np.int16)),
    "a linear map in another type": ("linear", np.zeros((40, 6), np.int32)),
    "too many columns": ("lo", np.zeros(10_000, np.int64)),
    "an empty range": ("lo", np.full(4, 2**63 - 1, np.int64)),
    "a shift out of range": ("shift", np.full(4, 63, np.uint8)),
    "a unit out of range": ("up", np.full(4, 64, np.uint8)),
    "a range its unit does not fit": ("up", np.zeros(4, np.uint8)),
    "sums beyond 62 bits": ("bias", np.full(N_FEATURES, 2**62, np.int64)),
    "multipliers of the wrong shape": ("multiply", np.ones(3, np.int32)),
    "negative level counts": ("counts", np.full(4, -1, np.int16)),
    "level counts that do not add up": ("counts", np.full(4, 900, np.int16)),
    "missing levels": ("levels", np.zeros(1, np.int64)),
    "a prior of the wrong shape": ("scales", np.zeros(7, np.int32)),
    "a negative prior": ("scales", np.full(6, -1, np.int32)),
    "network inputs of the wrong shape": ("reach", np.zeros(7, np.int32)),
    "network outputs without scale": ("net_multiply", None),
    "a network with a huge bias": ("n_b2", np.full(40, 2**24, np.int32)),
    "a network of other inputs": ("n_w0", np.zeros((20, 7), np.int8)),
    "a network of other outputs": ("n_w2", np.zeros((39, 20), np.int8)),
    "a network shift out of range": ("n_form", np.array([99, 0, 1, 0, 0, 1, 0, 0, 1, 9], np.int32)),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_decoder_is_refused(name: str) -> None:
    with pytest.raises(CorruptArchive):
        BaseLayer.from_parts({"kind": "vae"}, hostile(*HOSTILE[name]), None)


def test_a_decoder_without_its_packed_tensor_or_kind_is_refused() -> None:
    _, parts, _ = layer().to_parts()
    for about, decoder in (({"kind": "vae"}, {}), ({"kind": "vae"}, {"base": np.zeros(9)}), ({}, parts)):
        with pytest.raises(CorruptArchive):
            BaseLayer.from_parts(about, decoder, None)


def test_a_hostile_encoder_is_refused() -> None:
    made = layer(4, 6)
    about, decoder, _ = made.to_parts()
    assert made.encoder is not None
    tensors = made.encoder.to_tensors()
    for broken in (
        {k: v for k, v in tensors.items() if k != "metric"},
        tensors | {"metric": np.zeros(3, np.int16)},
        tensors | {"w0": np.zeros((2, 2), np.int8)},
    ):
        with pytest.raises(CorruptArchive):
            BaseLayer.from_parts(about, decoder, {"base": np.frombuffer(pack_tensors(broken), np.uint8)})


def test_a_decoder_cannot_be_made_with_fields_that_disagree() -> None:
    decoder = layer(4, 6).decoder
    assert "bias" in {f.name for f in fields(decoder)}
    with pytest.raises(CorruptArchive):
        replace(decoder, bias=decoder.bias[:-1])


def test_decoding_imports_no_torch() -> None:
    code = "import sys, vae_core.base; sys.exit(any(m in sys.modules for m in ('torch', 'prefect', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
