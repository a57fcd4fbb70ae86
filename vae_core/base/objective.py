"""-ELBO in bits: the rate of the latents plus the Gaussian code length of what they leave (up to a constant).

Distortion measured in units of sigma is a code length: -log2 N(x; x_hat, sigma^2) = (x - x_hat)^2 / (2 ln2 sigma^2) +
const,
so the weight of each feature's squared error is its `precision` 1 / (2 ln2 sigma^2), bits per squared unit.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

_LOG2 = log(2.0)


def gaussian_rate(mean: Tensor, log_var: Tensor, prior_log_scale: Tensor) -> Tensor:
    """KL(N(mean, var) || N(0, scale^2)) in bits: mean, log_var (B, L); prior_log_scale (L,); (B,) out."""
    ratio = (log_var - 2 * prior_log_scale).exp()
    kl = 0.5 * (ratio + mean**2 * (-2 * prior_log_scale).exp() - 1.0 - log_var + 2 * prior_log_scale)
    bits: Tensor = kl.sum(-1) / _LOG2
    return bits


def rounded_rate(noisy: Tensor, prior_log_scale: Tensor) -> Tensor:
    """KL(uniform of width 1 around mean || N(0, scale^2) on the grid), one draw, in bits: noisy (B, L) = mean +
    U(-1/2, 1/2)."""
    inverse = (-prior_log_scale).exp()
    z = noisy.abs()
    mass = torch.special.ndtr((0.5 - z) * inverse) - torch.special.ndtr((-0.5 - z) * inverse)
    bits: Tensor = -(mass.clamp_min(1e-9).log2()).sum(-1)
    return bits


def distortion(x: Tensor, x_hat: Tensor, mask: Tensor, precision: Tensor) -> Tensor:
    """Bits of the squared error: x, x_hat, mask (B, N); precision (N,) bits per squared unit; (B,) out."""
    bits: Tensor = ((x - x_hat) ** 2 * mask * precision).sum(-1)
    return bits
