"""A trained autoencoder or a KLT basis as a BaseLayer of integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vae_core.base.assembly import NetworkPart, assemble_decoder
from vae_core.base.codes import State, Windows
from vae_core.base.columns import BaseColumn, Features
from vae_core.base.encoder import Encoder
from vae_core.base.klt import DEADZONE, Basis, round_latents
from vae_core.base.layer import BaseLayer
from vae_core.base.thermometers import laid_out
from vae_core.integer import IntegerNetwork

if TYPE_CHECKING:
    from vae_core.base.network import Autoencoder

Export = Callable[[float], BaseLayer]
"""step -> layer: the same map stored to steps this much coarser."""


def linear_layer(
    kind: str,
    columns: tuple[BaseColumn, ...],
    features: Features,
    window: int,
    basis: Basis,
    x: NDArray[np.float32],
    threshold: int = 0,
) -> Export:
    """Layers of a linear basis; x (m, W*F) are windows its prior is taken from; threshold as in Encoder."""

    def export(step: float) -> BaseLayer:
        blank = round_latents(x @ basis.encode.T.astype(np.float32) / np.float32(step))
        decoder = assemble_decoder(columns, features, window, basis.decode * step, blank, weight_bound=basis.bound)
        ratio = decoder.features().scale / features.scale
        # least squares in the metric the basis was fitted in, which is the same for every row of the window
        weight = basis.weight.reshape(window, -1)[0] * ratio
        metric = np.rint(16 * np.log2(np.maximum(weight, 1e-30))).clip(-2000, 2000).astype(np.int16)
        encoder = Encoder(metric, np.rint(basis.stretch * 1024).astype(np.int16), DEADZONE, threshold)
        latents = encoder.latents((x / np.tile(ratio, window)).astype(np.float32), 1.0, decoder)
        decoder = assemble_decoder(columns, features, window, basis.decode * step, latents, weight_bound=basis.bound)
        return BaseLayer(kind, decoder, encoder)

    return export


def network_layer(
    columns: tuple[BaseColumn, ...],
    features: Features,
    window: int,
    model: Autoencoder,
    x: NDArray[np.float32],
    precision: NDArray[np.float64],
    amortised: bool,
    kind: str = "vae",
    weight_bound: int = 127,
) -> Export:
    """Layers of a trained autoencoder; x (m, W*F) are windows its prior is taken from.

    precision : (W*F,) bits per squared standardised unit      amortised : keep the trained encoder, which costs
    bytes; else
    latents are found by descent on the decoder
    """

    def array(tensor: object) -> NDArray[np.float64]:
        return np.asarray(tensor.detach().numpy(), np.float64)  # type: ignore[attr-defined]

    trained = model.decode_network.to_integer()
    first = trained.layers[0]
    unit = array(model.error).reshape(window, -1)[0] * model.decode_network.output_unit
    linear, direct, reach = array(model.decode_linear), array(model.direct), array(model.reach)
    hidden, deep, out = array(model.hidden.weight), array(model.deep.weight), array(model.out.weight)
    biases = [array(m.bias) for m in (model.hidden, model.deep, model.out)]

    # latents that never leave zero are dropped: a zero adds nothing to any sum
    means = encode_mean(x, direct, hidden, deep, out, biases)
    alive = np.flatnonzero(np.abs(means).max(axis=0) >= 0.5)
    alive = alive if len(alive) else np.arange(1)
    seen = round_latents(means[:, alive])
    linear, direct, reach, out, biases[2] = linear[:, alive], direct[alive], reach[alive], out[alive], biases[2][alive]
    network = IntegerNetwork(
        (replace(first, weight=np.ascontiguousarray(first.weight[:, alive])), *trained.layers[1:]), trained.input_bound
    )

    def export(step: float) -> BaseLayer:
        part = NetworkPart(network, np.rint(reach * step).clip(1, 1 << 20).astype(np.int32), unit)
        blank = seen if amortised else np.rint(seen / step).astype(np.int16)
        decoder = assemble_decoder(columns, features, window, linear * step, blank, part, weight_bound)
        ratio = np.tile(decoder.features().scale / features.scale, window)
        metric = np.rint(8 * np.log2(np.maximum(precision.reshape(window, -1)[0] * ratio[: features.n_features] ** 2 / step**2, 1e-30)))
        plain = np.full(decoder.n_latents, 1024, np.int16)
        encoder = Encoder(metric.clip(-1000, 1000).astype(np.int16), plain, DEADZONE)
        if amortised:
            weights, scales = zip(*(int8_rows(w) for w in (direct / step * ratio, hidden * ratio, deep, out / step)), strict=True)
            shifts = (biases[0], biases[1], biases[2] / step)
            encoder = replace(
                encoder,
                metric=np.zeros_like(encoder.metric),
                weights=weights,
                scales=scales,
                biases=tuple(b.astype(np.float32) for b in shifts),
            )
        latents = encoder.latents((x / ratio).astype(np.float32), 1.0, decoder)
        return BaseLayer(kind, assemble_decoder(columns, features, window, linear * step, latents, part, weight_bound), encoder)

    return export


def code_layer(data: Windows, state: State, kind: str = "vae") -> BaseLayer:
    """The layer of a trained state with discrete latents; data are windows its prior is taken from."""
    window, features = data.x.shape[1], data.features
    placed = laid_out(state.tables, state.linear, window)
    features = replace(features, center=features.center + features.scale * placed.offset)
    blank = np.zeros((1, placed.linear.shape[1]), np.int16)
    decoder = assemble_decoder(data.columns, features, window, placed.linear, blank, placed.part)
    theirs = decoder.features()
    metric = 8 * np.log2(data.weights(state.weighs) / state.price * (theirs.scale / features.scale) ** 2)
    stretch = np.full(decoder.n_latents, 1024, np.int16)
    encoder = Encoder(np.rint(metric).clip(-2000, 2000).astype(np.int16), stretch, DEADZONE, book=placed.book)
    x = (data.x - placed.offset.astype(np.float32)) * (features.scale / theirs.scale).astype(np.float32)
    latents = encoder.latents(x.reshape(len(x), -1), 1.0, decoder)
    return BaseLayer(kind, assemble_decoder(data.columns, features, window, placed.linear, latents, placed.part), encoder)


def encode_mean(
    x: NDArray[np.float32], direct: NDArray[np.float64], hidden: NDArray[np.float64], deep: NDArray[np.float64],
    out: NDArray[np.float64], biases: list[NDArray[np.float64]],
) -> NDArray[np.float64]:  # fmt: skip
    """Latent means (m, L) of the trained encoder on standardised windows x (m, N)."""
    h = np.maximum(x @ hidden.T + biases[0], 0.0)
    h = np.maximum(h @ deep.T + biases[1], 0.0)
    return np.asarray(x @ direct.T + h @ out.T + biases[2], np.float64)


def int8_rows(weight: NDArray[np.float64]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix as int8 with one float32 unit a row."""
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-30) / 127
    return np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float32)
