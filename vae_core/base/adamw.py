"""AdamW (Loshchilov and Hutter 2019). torch's own optimisers import its compiler first, which takes seconds."""

from __future__ import annotations

import torch
from torch import Tensor


class AdamW:
    """Steps for parameters given as (tensor, share of the learning rate, weight decay)."""

    def __init__(self, parameters: list[tuple[Tensor, float, float]], betas: tuple[float, float] = (0.9, 0.99)) -> None:
        self._parameters = parameters
        self._first = [torch.zeros_like(p) for p, _, _ in parameters]
        self._second = [torch.zeros_like(p) for p, _, _ in parameters]
        self._betas = betas
        self._n_steps = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient, then forget the gradients."""
        self._n_steps += 1
        b1, b2 = self._betas
        size = (1 - b2**self._n_steps) ** 0.5 / (1 - b1**self._n_steps)
        for (p, share, decay), first, second in zip(self._parameters, self._first, self._second, strict=True):
            if p.grad is None:
                continue
            first.lerp_(p.grad, 1 - b1)
            second.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            p.mul_(1 - rate * share * decay).addcdiv_(first, second.sqrt().add_(1e-8), value=-rate * share * size)
            p.grad = None
