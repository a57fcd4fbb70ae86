"""The variational autoencoder of the base layer: encoder, decoder and prior, in torch.

Linear skips on both sides start at the KLT, the nonlinear parts at zero: they only have to earn their keep.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vae_core.base.klt import Basis
from vae_core.base.quantised import ACTIVATION_BITS, QuantisedNetwork


class Autoencoder(nn.Module):
    """q(z|x) = N(mean, var), p(z) = N(0, scale^2) per latent, and the decoder's mean x_hat. N features a window, L
    latents.

    Latents are in units of the step they are stored with.
    """

    reach: Tensor
    error: Tensor

    def __init__(
        self,
        basis: Basis,
        spread: NDArray[np.float64],
        error: NDArray[np.float64],
        width: int,
        generator: torch.Generator,
    ) -> None:
        """basis: the start; spread (L,): std of each latent in steps; error (N,): size of the network's output
        units."""
        super().__init__()
        n, n_latents = basis.decode.shape
        self.register_buffer("reach", torch.tensor(np.clip(np.rint(16 * 2**ACTIVATION_BITS / np.maximum(spread, 0.5)), 1, 1 << 16)))
        self.register_buffer("error", torch.tensor(error, dtype=torch.float32))
        self.decode_linear = nn.Parameter(torch.tensor(basis.decode, dtype=torch.float32))  # (N, L)
        self.decode_network = QuantisedNetwork((n_latents, width, width, n), generator)
        self.direct = nn.Parameter(torch.tensor(basis.encode, dtype=torch.float32))  # (L, N)
        # wide rows: the encoder may be broader than the decoder, it need not be stored
        encoder_width = 256 if n > 400 else width
        self.hidden = nn.Linear(n, encoder_width)
        self.deep = nn.Linear(encoder_width, encoder_width)
        self.out = nn.Linear(encoder_width, n_latents)
        self.log_var = nn.Linear(encoder_width, n_latents)
        self.prior_log_scale = nn.Parameter(torch.tensor(np.log(np.maximum(spread, 0.2)), dtype=torch.float32))
        with torch.no_grad():
            for layer in (self.hidden, self.deep):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.weight.shape[1] ** 0.5)
                layer.bias.zero_()
            for layer in (self.out, self.log_var):
                layer.weight.zero_()
                layer.bias.zero_()
            self.log_var.bias.fill_(-2.4849)  # log 1/12: the variance of rounding to whole steps

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, N) to mean and log variance, (B, L) each."""
        h = torch.relu(self.deep(torch.relu(self.hidden(x))))
        return x @ self.direct.T + self.out(h), self.log_var(h)

    def decode(self, z: Tensor) -> Tensor:
        """z (B, L) in steps to x_hat (B, N)."""
        inputs = z * (self.reach.float() * 2.0 ** -(ACTIVATION_BITS + 4))
        x_hat: Tensor = z @ self.decode_linear.T + self.decode_network(inputs) * self.error
        return x_hat

    @torch.no_grad()
    def restep(self, step: Tensor) -> None:
        """Change the unit of the latents: a new unit is step (L,) old ones, the maps stay as they are."""
        for scaled in (self.direct, self.out.weight):
            scaled.div_(step[:, None])
        self.out.bias.div_(step)
        self.decode_linear.mul_(step)
        self.reach.copy_((self.reach * step).round().clamp(1, 1 << 16))
        self.prior_log_scale.sub_(step.log())
        self.log_var.bias.sub_(2 * step.log())
