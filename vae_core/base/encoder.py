"""The encoder: features of a window to integer latents, in floating point (nothing a reader needs passes through
it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vae_core.base.codebook import CodeBook
from vae_core.errors import CorruptArchive

if TYPE_CHECKING:
    from vae_core.base.layer import Decoder


_STEPS = 12
_PULL = 0.15
"""Share of the rate the descent sees: more would shrink latents towards zero, where the decoder does not expect
them."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """q(z|x)'s mean, in steps of the stored latents. W*F features (the decoder's own units), L latents, H hidden units.

    metric   : (F,) int16, weight of each feature's squared error (bits per squared unit), log2 in 1/8 octaves
    stretch  : (L,) int16 in 1/1024: the means are so much times the pseudo-inverse (what rounds to n has mean n *
    stretch)
    deadzone : 0..255; |mu| is rounded to floor(|mu| + 1/2 - deadzone/512), so zero is favoured
    threshold: 0..255 in 1/64 steps; above 0 latents of a linear decoder are found by ISTA with this L1 penalty
    weights  : () for an encoder that costs no bytes: the weighted pseudo-inverse of the decoder's linear map, and
    where the
               decoder has a network, steps from there to the likeliest latents (of least rate plus distortion) under
               it;
               else int8 matrices direct (L, W*F), hidden (H, W*F), deep (H, H), out (L, H)
    scales   : one float32 array per matrix, the size of its unit row by row
    biases   : float32 hidden (H,), deep (H,), out (L,)
    book     : of a decoder with codes, which are found by search and mean nothing at another gain than 1
    """

    metric: NDArray[np.int16]
    stretch: NDArray[np.int16]
    deadzone: int
    threshold: int = 0
    weights: tuple[NDArray[np.int8], ...] = ()
    scales: tuple[NDArray[np.float32], ...] = ()
    biases: tuple[NDArray[np.float32], ...] = ()
    book: CodeBook | None = None

    def latents(self, x: NDArray[np.float32], gain: float, decoder: Decoder) -> NDArray[np.int16]:
        """Features of windows (m, W*F) as integer latents (m, L) at a gain (1.0 = the fitted step)."""
        if self.book is not None:
            return self.book.latents(x, decoder, self.metric)
        mean = self.mean(x, decoder) * np.float32(gain)
        rounded = np.sign(mean) * np.floor(np.abs(mean) + np.float32(0.5 - self.deadzone / 512))
        return np.asarray(rounded.clip(-16383, 16383), np.int16)

    def mean(self, x: NDArray[np.float32], decoder: Decoder) -> NDArray[np.float32]:
        """mu (m, L) float32, in fitted steps."""
        if not self.weights:
            start = np.asarray(x @ projection(decoder, self.metric).T, np.float32)
            if decoder.network is None and self.threshold:
                return sparsest(x, start, decoder, self.metric, self.threshold / 64)
            if decoder.network is None:
                return start * (self.stretch / 1024.0).astype(np.float32)
            return likeliest(x, start, decoder, self.metric)
        direct, hidden, deep, out = (w.astype(np.float32) * s[:, None] for w, s in zip(self.weights, self.scales, strict=True))
        h = np.maximum(x @ hidden.T + self.biases[0], 0.0)
        h = np.maximum(h @ deep.T + self.biases[1], 0.0)
        return np.asarray(x @ direct.T + h @ out.T + self.biases[2], np.float32)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Integer tensors; floats as the bits of float32."""
        tensors: dict[str, NDArray[Any]] = {
            "metric": self.metric,
            "stretch": self.stretch,
            "deadzone": np.array([self.deadzone, self.threshold], np.uint8),
        }
        for i, (weight, scale) in enumerate(zip(self.weights, self.scales, strict=True)):
            tensors |= {f"w{i}": weight, f"s{i}": scale.view(np.int32)}
        for i, bias in enumerate(self.biases):
            tensors[f"b{i}"] = bias.view(np.int32)
        if self.book is not None:
            tensors |= {"form": self.book.form, "prices": self.book.prices}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], decoder: Decoder) -> Encoder:
        """Rebuild what `to_tensors` gave for this decoder. Raises CorruptArchive on shapes that do not fit."""
        n_in, n_latents = decoder.window * decoder.n_features, decoder.n_latents
        try:
            metric, stretch, deadzone = tensors["metric"], tensors["stretch"], int(tensors["deadzone"][0])
            threshold = int(tensors["deadzone"][1])
            n = 4 if "w0" in tensors else 0
            weights = tuple(tensors[f"w{i}"] for i in range(n))
            scales = tuple(tensors[f"s{i}"].view(np.float32) for i in range(n))
            biases = tuple(tensors[f"b{i}"].view(np.float32) for i in range(3 if n else 0))
            book = CodeBook(tensors["form"], tensors["prices"]) if "form" in tensors else None
        except (KeyError, IndexError, ValueError) as error:
            raise CorruptArchive(f"base layer: the encoder lacks {error}") from error
        if n:
            h = weights[1].shape[0]
            shapes = ((n_latents, n_in), (h, n_in), (h, h), (n_latents, h))
            if tuple(w.shape for w in weights) != shapes or any(w.dtype != np.int8 for w in weights):
                raise CorruptArchive("base layer: the encoder's matrices do not fit its decoder")
            if tuple(s.shape for s in scales) != tuple((s[0],) for s in shapes) or tuple(b.shape for b in biases) != (
                (h,),
                (h,),
                (n_latents,),
            ):
                raise CorruptArchive("base layer: the encoder's scales and biases do not fit its matrices")
        if metric.shape != (decoder.n_features,) or metric.dtype != np.int16 or not 0 <= deadzone <= 255:
            raise CorruptArchive("base layer: the encoder's metric does not fit its decoder")
        if stretch.shape != (n_latents,) or stretch.dtype != np.int16:
            raise CorruptArchive("base layer: the encoder's stretch does not fit its decoder")
        if book is not None:
            book.check(n_latents, decoder.window)
        return cls(metric, stretch, deadzone, threshold, weights, scales, biases, book)


def projection(decoder: Decoder, metric: NDArray[np.int16]) -> NDArray[np.float32]:
    """(L, W*F): latents of least weighted squared error under the decoder's linear map, from features in its units."""
    weight = np.tile(2.0 ** (metric.astype(np.float64) / 16), decoder.window)  # square root of the metric
    a = decoder.linear.astype(np.float64) / 128.0 * weight[:, None]
    gram = a.T @ a
    gram += np.eye(len(gram)) * (np.trace(gram) / len(gram) * 1e-9 + 1e-30)
    return np.asarray(np.linalg.solve(gram, a.T) * weight, np.float32)


def likeliest(x: NDArray[np.float32], z: NDArray[np.float32], decoder: Decoder, metric: NDArray[np.int16]) -> NDArray[np.float32]:
    """Latents (m, L) that minimise rate + distortion in bits under the decoder, by preconditioned gradient steps from
    z."""
    assert decoder.network is not None and decoder.reach is not None and decoder.net_multiply is not None
    a = (decoder.linear / 128.0).astype(np.float32)  # (N, L)
    precision = np.tile(2.0 ** (metric / 8.0), decoder.window).astype(np.float32)
    variance = (decoder.scales / 16.0) ** 2 * (1 - decoder.zeros / 255.0) + 1 / 12
    prior = (_PULL / (2 * np.log(2.0) * variance)).astype(np.float32)
    curvature = 2 * (a.T * precision) @ a + np.diag(2 * prior)
    inverse = np.linalg.inv(curvature.astype(np.float64)).astype(np.float32)
    unit = np.tile(decoder.net_multiply / (128.0 * np.maximum(decoder.multiply, 1)), decoder.window).astype(np.float32)
    layers = [(w.weight.astype(np.float32), w.bias.astype(np.float32), np.float32(2.0**-w.shift), w.high) for w in decoder.network.layers]
    reach = (decoder.reach / 16.0).astype(np.float32)
    best, best_cost = z, np.full(len(z), np.inf, np.float32)
    for step in range(_STEPS + 1):
        h = np.clip(z * reach, -decoder.network.input_bound, decoder.network.input_bound)
        open_: list[NDArray[np.bool_]] = []
        for weight, bias, shift, high in layers[:-1]:
            h = (h @ weight.T + bias) * shift
            open_.append((h > 0) & (h < high))
            h = np.clip(h, 0, high)
        weight, bias, shift, _ = layers[-1]
        error = z @ a.T + ((h @ weight.T + bias) * shift) * unit - x
        weighted = error * precision
        cost = (error * weighted).sum(axis=1) + (z * z) @ prior
        better = cost < best_cost
        best, best_cost = np.where(better[:, None], z, best), np.where(better, cost, best_cost)
        if step == _STEPS:
            break
        back = (weighted * unit) @ weight * shift
        for (weight, _, shift, _), passed in zip(reversed(layers[:-1]), reversed(open_), strict=True):
            back = (back * passed) @ weight * shift
        z = z - np.float32(0.7) * ((2 * (weighted @ a + back * reach) + 2 * z * prior) @ inverse)
    return np.asarray(best, np.float32)


def sparsest(
    x: NDArray[np.float32], z: NDArray[np.float32], decoder: Decoder, metric: NDArray[np.int16], penalty: float
) -> NDArray[np.float32]:
    """Latents (m, L) of least squared error plus an L1 penalty under a linear decoder (FISTA, Beck and Teboulle
    2009)."""
    a = (decoder.linear / 128.0).astype(np.float32)
    weighted = a * np.tile(2.0 ** (metric / 8.0), decoder.window).astype(np.float32)[:, None]
    gram, target = weighted.T @ a, x @ weighted
    largest = float(np.linalg.eigvalsh(gram.astype(np.float64))[-1])
    shrink = np.float32(penalty * float(np.diag(gram).mean()) / largest)
    ahead, momentum = z, 1.0
    for _ in range(4 * _STEPS):
        step = ahead - (ahead @ gram - target) / np.float32(largest)
        new = np.sign(step) * np.maximum(np.abs(step) - shrink, 0)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + np.float32((momentum - 1) / following) * (new - z)
        z, momentum = new, following
    return np.asarray(z, np.float32)
