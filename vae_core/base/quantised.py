"""Quantisation-aware training of integer networks, and their evaluation in torch: the same bits as numpy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vae_core.integer import SUM_BOUND, IntegerLayer, IntegerNetwork

ACTIVATION_BITS = 8
"""Activations are integers in units of 2^-8."""
WEIGHT_BITS = 6
"""Weights are int8 in units of 2^-6, so within +-1.98."""
HIGH = 1023
"""Hidden activations are clamped to 0..1023 (0..4 in real units)."""
MAX_HIDDEN = 120
_MAX_BIAS = 8.0


def evaluate(network: IntegerNetwork, inputs: NDArray[np.integer[Any]], dtype: torch.dtype = torch.float32) -> NDArray[np.int32]:
    """What network(inputs) gives, by torch: inputs (n, n_in) integers, (n, n_out) int32 out; the same bits as numpy."""
    bound = network.input_bound
    a = torch.from_numpy(np.clip(inputs, -bound, bound).astype(np.int64)).to(dtype)
    for layer in network.layers:
        sums = a @ torch.from_numpy(layer.weight).to(dtype).T + torch.from_numpy(layer.bias).to(dtype)
        a = torch.floor(sums * 2.0**-layer.shift).clamp(layer.low, layer.high)
    return a.to(torch.int32).numpy()


def straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """The value of `exact` with the gradient of `smooth`."""
    return smooth + (exact - smooth).detach()


def fake_weight(weight: Tensor, bits: int = WEIGHT_BITS) -> Tensor:
    """A weight as its int8 in units of 2^-bits, gradient straight through."""
    unit = 2.0**-bits
    return straight_through((weight / unit).round().clamp(-127, 127) * unit, weight)


def fake_activation(a: Tensor) -> Tensor:
    """A hidden activation as its integer 0..1023 in units of 2^-8, gradient straight through inside the clamp."""
    unit = 2.0**-ACTIVATION_BITS
    smooth = a.clamp(0.0, HIGH * unit)
    return straight_through((smooth / unit).floor() * unit, smooth)


class QuantisedNetwork(nn.Module):
    """A dense network trained as the integers it becomes. sizes = (n_in, hidden..., n_out); the last layer starts at
    zero."""

    def __init__(self, sizes: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        if any(n > MAX_HIDDEN for n in sizes[1:-1]):
            raise ValueError(f"hidden layers {sizes[1:-1]} are wider than {MAX_HIDDEN}, where sums could pass 2^24")
        self.sizes = sizes
        self.input_bound = min(2047, (SUM_BOUND - 1 - (1 << 18)) // (127 * sizes[0]))
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            last = i == len(sizes) - 2
            weight = torch.zeros(n_out, n_in) if last else torch.randn(n_out, n_in, generator=generator) * (1.4 / n_in**0.5)
            bias = torch.zeros(n_out) if last else torch.rand(n_out, generator=generator) * 0.5
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(self, a: Tensor) -> Tensor:
        """Inputs (B, n_in) in real units (integers over 2^8) to (B, n_out), as the integer network would give them."""
        limit = self.input_bound * 2.0**-ACTIVATION_BITS
        a = a.clamp(-limit, limit)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            a = nn.functional.linear(a, fake_weight(weight), bias.clamp(-_MAX_BIAS, _MAX_BIAS))
            if i < last:
                a = fake_activation(a)
        return a

    def to_integer(self) -> IntegerNetwork:
        """The integer network; its outputs are in units of 2^-(WEIGHT_BITS + ACTIVATION_BITS)."""
        layers = []
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            w = (weight.detach() * 2.0**WEIGHT_BITS).round().clamp(-127, 127).to(torch.int8).numpy()
            unit = 2.0 ** (WEIGHT_BITS + ACTIVATION_BITS)
            b = (bias.detach().clamp(-_MAX_BIAS, _MAX_BIAS) * unit).round().to(torch.int32).numpy()
            shift, low, high = (0, -SUM_BOUND, SUM_BOUND) if i == last else (WEIGHT_BITS, 0, HIGH)
            layers.append(IntegerLayer(w, b, shift, low, high))
        return IntegerNetwork(tuple(layers), self.input_bound)

    @property
    def output_unit(self) -> float:
        """The size of one unit of the integer network's outputs."""
        return float(2.0 ** -(WEIGHT_BITS + ACTIVATION_BITS))
