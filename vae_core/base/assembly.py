"""From a fitted map in floating point to the integers a decoder is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.base.columns import CATEGORICAL, BaseColumn, Features
from vae_core.base.layer import Decoder
from vae_core.integer import IntegerNetwork

_MULTIPLY_BITS = 14
_MAX_SHIFT = 30


@dataclass(frozen=True, slots=True, eq=False)
class NetworkPart:
    """The nonlinear part in integers: reach (L,) multiplies latents into its inputs (at unit gain, over 1), unit (F,)
    is the
    size of one of its outputs in standardised units."""

    network: IntegerNetwork
    reach: NDArray[np.int32]
    unit: NDArray[np.float64]


def assemble_decoder(
    columns: tuple[BaseColumn, ...],
    features: Features,
    window: int,
    linear: NDArray[np.floating],
    latents: NDArray[np.integer],
    part: NetworkPart | None = None,
    weight_bound: int = 127,
) -> Decoder:
    """A decoder from `linear` (W*F, L), standardised units per latent step, and latents (m, L) seen in fitting (for
    the prior).

    weight_bound : the largest integer weight; each feature has its own unit, so 127 costs at most 0.4 % of its
    largest weight.
    """
    n_features = features.n_features
    a = np.asarray(linear, np.float64).reshape(window, n_features, -1) * features.scale[:, None]
    size = np.abs(a).max(axis=(0, 2))
    if part is not None:
        size = np.maximum(size, part.unit * features.scale)
    size = np.where(size > 0, size, 1.0)
    wanted = np.clip(_MULTIPLY_BITS - np.floor(np.log2(size / weight_bound)), 0, _MAX_SHIFT).astype(np.int64)
    shift = np.minimum.reduceat(wanted, features.start)
    unit = 2.0 ** shift[features.column]
    multiply = np.maximum(np.rint(size / weight_bound * unit), 1).astype(np.int64)
    whole = np.rint(a * (unit / multiply)[:, None]).clip(-32767, 32767).astype(np.int16)
    categorical = np.array([c.kind == CATEGORICAL for c in columns])
    scales = np.sqrt((latents.astype(np.float64) ** 2).sum(axis=0) / np.maximum((latents != 0).sum(axis=0), 1))
    zeros = (latents == 0).mean(axis=0) if len(latents) else np.ones(latents.shape[1])
    return Decoder(
        window=window,
        lo=features.lo,
        hi=features.hi,
        up=features.up.astype(np.uint8),
        shift=shift.astype(np.uint8),
        counts=np.where(categorical, features.counts, 0).astype(np.int16),
        levels=features.levels[np.repeat(categorical, features.counts)],
        linear=whole.reshape(window * n_features, -1),
        multiply=multiply.astype(np.int32),
        bias=np.rint(features.center * unit).astype(np.int64),
        scales=np.rint(scales * 16).clip(0, 1 << 19).astype(np.int32),
        zeros=np.rint(zeros * 255).astype(np.uint8),
        network=None if part is None else part.network,
        reach=None if part is None else part.reach,
        net_multiply=None if part is None else np.rint(part.unit * features.scale * unit).astype(np.int32),
    )
