"""The Karhunen-Loève transform (a linear sibling): eigenvectors of the weighted covariance, one uniform step for
all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEADZONE = 64
"""|mu| is rounded up from 1/2 + DEADZONE/512: zeros are cheap to store and dear to leave (rate-distortion, Sullivan
1996)."""


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """A linear map and its inverse.

    decode (N, L): features per latent step     encode  (L, N): latent means from features
    weight (N,)  : 1 / (step in features)       stretch (L,)  : encode is stretch times the pseudo-inverse of decode
    bound        : the largest integer weight a decoder of it is stored with: coarser ones are fewer bytes and more error
    """

    decode: NDArray[np.float64]
    encode: NDArray[np.float64]
    weight: NDArray[np.float64]
    stretch: NDArray[np.float64]
    bound: int = 127

    @property
    def n_latents(self) -> int:
        """L."""
        return int(self.decode.shape[1])

    def keep(self, kept: NDArray[np.intp] | slice) -> Basis:
        """The same basis with only some latents."""
        return Basis(self.decode[:, kept], self.encode[kept], self.weight, self.stretch[kept], self.bound)


def covariance(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, N) float64 second moments of features x (n, N), whose means are 0."""
    total = np.zeros((x.shape[1], x.shape[1]))
    for first in range(0, len(x), 16384):
        part = x[first : first + 16384].astype(np.float64)
        total += part.T @ part
    return total / max(1, len(x))


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """Eigenvectors (N, N) of weighted second moments, largest first, their standard deviations (N,) and the weights (N,)."""

    vectors: NDArray[np.float64]
    deviation: NDArray[np.float64]
    weight: NDArray[np.float64]

    def scaled(self, factor: float) -> Axes:
        """The axes under weights so many times as large: the vectors are the same."""
        return Axes(self.vectors, self.deviation * factor, self.weight * factor)


def principal_axes(moments: NDArray[np.float64], weight: NDArray[np.float64]) -> Axes:
    """Axes of second moments (N, N) when feature i is stored to steps of 1 / weight[i]."""
    size, vectors = np.linalg.eigh(moments * weight[:, None] * weight[None, :])
    order = np.argsort(-size)
    return Axes(vectors[:, order], np.sqrt(np.maximum(size[order], 0.0)), weight)


def basis_of(axes: Axes, n_latents: int, least: float = 0.25) -> Basis:
    """Basis of at most n_latents of the axes.

    Latents whose standard deviation is below `least` steps would round to zero nearly always and are left out.
    """
    n_kept = max(1, int((axes.deviation[:n_latents] >= least).sum()))
    v, weight = axes.vectors[:, :n_kept], axes.weight
    v = v * np.where(v[np.abs(v).argmax(axis=0), np.arange(v.shape[1])] < 0, -1.0, 1.0)  # one sign, whatever LAPACK gives
    safe = np.where(weight > 0, weight, 1.0)
    decode = np.where(weight[:, None] > 0, v / safe[:, None], 0.0)
    return Basis(decode, (v * weight[:, None]).T, weight, np.ones(n_kept))


def fit_klt(moments: NDArray[np.float64], weight: NDArray[np.float64], n_latents: int, least: float = 0.25) -> Basis:
    """`basis_of` the principal axes of second moments (N, N) under weights (N,)."""
    return basis_of(principal_axes(moments, weight), n_latents, least)


def centred(basis: Basis, x: NDArray[np.float32]) -> Basis:
    """The basis with each latent's decoding moved to the mean of what rounds to it, on features x (n, N)."""
    mean = x @ basis.encode.T.astype(np.float32)
    z = round_latents(mean).astype(np.float64)
    stretch = np.clip((z * mean).sum(axis=0) / np.maximum((z * z).sum(axis=0), 1e-9), 0.5, 1.5)
    return Basis(basis.decode * stretch, basis.encode, basis.weight, stretch)


def round_latents(mean: NDArray[np.floating], deadzone: int = DEADZONE) -> NDArray[np.int16]:
    """Means (n, L) to integers with a dead zone; the encoder's own rounding."""
    rounded = np.sign(mean) * np.floor(np.abs(mean) + (0.5 - deadzone / 512))
    return np.asarray(rounded.clip(-16383, 16383), np.int16)
