"""Fitting the autoencoder: AdamW, cosine steps, clipped gradients, weights of the error steered to the aim."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, log2, pi

import numpy as np
import torch
from numpy.typing import NDArray

from vae_core.base.adamw import AdamW
from vae_core.base.cost import entropy_bits
from vae_core.base.klt import DEADZONE, Basis, round_latents
from vae_core.base.network import Autoencoder
from vae_core.base.objective import distortion, gaussian_rate, rounded_rate
from vae_core.base.task import FitProgress

log_ = logging.getLogger(__name__)

ProgressCallback = Callable[[FitProgress], None]


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """What the fit steers to, per window of N features.

    rmse  : (G,) target of each group in its features' units (distortion mode), or None
    bits  : bits a window the latents may cost (preview), or None
    group : (N,) int64, the group of each feature; groups are columns, or tensor columns
    unit  : (N,) what the errors of each feature are counted in, in standardised units
    """

    rmse: NDArray[np.float64] | None
    bits: float | None
    group: NDArray[np.int64]
    unit: NDArray[np.float64]

    def errors(self, squared: NDArray[np.float64], mask: NDArray[np.float64]) -> NDArray[np.float64]:
        """(G,) RMSE of each group from summed squared errors and counts (N,) each."""
        n = np.bincount(self.group, mask)
        return np.asarray(np.sqrt(np.bincount(self.group, squared / self.unit**2) / np.maximum(n, 1.0)), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """The best network met, the precision (N,) it was trained under, its held-out bits a window, RMSE (G,), and the
    curve."""

    network: Autoencoder
    precision: NDArray[np.float64]
    bits: float
    rmse: NDArray[np.float64]
    curve: tuple[FitProgress, ...]


def planned_steps(n_features: int, n_latents: int, width: int, batch: int, budget_s: float) -> int:
    """Steps that fit a time budget on one ordinary core: by arithmetic, not by the clock, so that a seed repeats
    itself."""
    multiplies = batch * (2 * n_features * (n_latents + 2 * width) + 3 * width * width + 4 * width * n_latents)
    seconds = 3.0 * multiplies / 1e10 + 2.5e-3 + batch * (6 * n_features + 40 * n_latents) / 1e9
    return int(min(20_000, max(50, budget_s / seconds)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Steps are small: two threads are no faster than one, and wait for each other at every product where a core is taken."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def fit_network(
    x: NDArray[np.float32],
    mask: NDArray[np.float32],
    held: NDArray[np.float32],
    held_mask: NDArray[np.float32],
    basis: Basis,
    aim: Aim,
    precision: NDArray[np.float64],
    *,
    width: int,
    window: int,
    seed: int,
    time_budget_s: float,
    variational: bool = True,
    progress: ProgressCallback | None = None,
) -> Trained:
    """Train on windows x, mask (n, N) from a KLT start; precision (N,) bits per squared unit is where the steering
    starts.

    variational=False trains the plain autoencoder: no noise, no rate, rounding only when it is measured.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    began = time.monotonic()
    start = round_latents(x[:20_000] @ basis.encode.T.astype(np.float32))
    spread = np.sqrt((start.astype(np.float64) ** 2).mean(axis=0))
    model = Autoencoder(basis, spread, 1.0 / np.maximum(basis.weight, 1e-9), width, generator)
    peak = 3e-3
    # the linear maps start good: they move relative to their own size, slowly
    share = {
        "prior_log_scale": 3.0,
        "direct": 0.3 * float(model.direct.detach().abs().mean()),
        "decode_linear": 0.3 * float(model.decode_linear.detach().abs().mean()),
    }
    optimiser = AdamW([(p, share.get(name, 1.0), 0.0 if name in share else 1e-4) for name, p in model.named_parameters()])
    x_all, mask_all = torch.from_numpy(x), torch.from_numpy(mask)
    batch = min(256 if len(x) < 20_000 or x.shape[1] > 400 else 512, len(x))
    n_steps = planned_steps(x.shape[1], basis.n_latents, width, batch, time_budget_s)
    n_gaussian = n_steps // 5 if variational else 0
    every = max(20, n_steps // 40)
    weight = precision.copy()
    weight_now = torch.from_numpy(weight).float()
    best: tuple[float, dict[str, torch.Tensor], float, NDArray[np.float64], NDArray[np.float64]] | None = None
    curve: list[FitProgress] = []
    running = 0.0
    stale = 0
    for step in range(n_steps):
        overdue = time.monotonic() - began > 1.5 * time_budget_s + 1  # a machine far slower than planned for: stop where it is
        rate_now = peak * (min(1.0, (step + 1) / 50) * 0.5 * (1 + cos(pi * step / n_steps)) + 1e-3)
        rows = torch.randint(len(x), (batch,), generator=generator)
        xb, mb = x_all[rows], mask_all[rows]
        mean, log_var = model.encode(xb)
        if not variational:
            z, rate = mean, 0 * rounded_rate(mean, model.prior_log_scale)
        elif step < n_gaussian:
            z = mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=generator)
            rate = gaussian_rate(mean, log_var, model.prior_log_scale)
        else:
            z = mean + torch.rand(mean.shape, generator=generator) - 0.5
            rate = rounded_rate(z, model.prior_log_scale)
            if step > 0.6 * n_steps:  # the distortion now sees what will be stored
                whole = mean.sign() * (mean.abs() + (0.5 - DEADZONE / 512)).floor()
                z = mean + (whole - mean).detach()
        loss = (rate + distortion(xb, model.decode(z), mb, weight_now)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 50.0 * max(1.0, float(basis.n_latents) ** 0.5))
        optimiser.step(rate_now)
        running = 0.98 * running + 0.02 * float(rate.detach().mean()) if step else float(rate.detach().mean())
        if step + 1 == n_gaussian:
            with torch.no_grad():
                _, spreads = model.encode(x_all[:4096])
                model.restep((12**0.5 * (0.5 * spreads).exp()).mean(0).clamp(0.25, 4.0))
        if ((step + 1) % every == 0 and step + 1 >= n_gaussian) or step + 1 == n_steps or overdue:
            bits, rmse = assess(model, held, held_mask, aim)
            used = weight
            weight = weight * steer(aim, bits, rmse, weight, late=step > 0.75 * n_steps)
            weight_now = torch.from_numpy(weight).float()
            score = judged(aim, bits, rmse, basis.n_latents)
            point = FitProgress(step + 1, time.monotonic() - began, running / window, bits / window, "vae" if variational else "ae")
            curve.append(point)
            if progress is not None:
                progress(point)
            stale += 1
            if best is None or score < best[0]:
                best, stale = (score, copy.deepcopy(model.state_dict()), bits, rmse, used), 0
            if (stale >= 12 and step > 0.7 * n_steps) or overdue:
                break
    if best is not None:
        model.load_state_dict(best[1])
        return Trained(model, best[4], best[2], best[3], tuple(curve))
    raise RuntimeError("training made no step")


@torch.no_grad()
def assess(model: Autoencoder, x: NDArray[np.float32], mask: NDArray[np.float32], aim: Aim) -> tuple[float, NDArray[np.float64]]:
    """Held-out entropy of the rounded latents, bits a window, and RMSE of each group (G,)."""
    squared, seen, latents = np.zeros(x.shape[1]), np.zeros(x.shape[1]), []
    for first in range(0, len(x), 4096):
        xb, mb = torch.from_numpy(x[first : first + 4096]), torch.from_numpy(mask[first : first + 4096])
        mean, _ = model.encode(xb)
        z = round_latents(mean.numpy())
        error = (model.decode(torch.from_numpy(z.astype(np.float32))) - xb) * mb
        squared += (error**2).sum(0).double().numpy()
        seen += mb.sum(0).double().numpy()
        latents.append(z)
    return entropy_bits(np.concatenate(latents)), aim.errors(squared, seen)


def steer(aim: Aim, bits: float, rmse: NDArray[np.float64], weight: NDArray[np.float64], late: bool) -> NDArray[np.float64]:
    """(N,) factors for the weights of the squared error that move a fit towards its aim."""
    speed = 0.5 if late else 1.0
    if aim.rmse is not None:
        factor = np.clip(rmse / aim.rmse, 0.7, 1.4) ** (1.5 * speed)
        return np.asarray(factor[aim.group], np.float64)
    assert aim.bits is not None
    return np.full(len(weight), min(1.5, max(0.67, (aim.bits / max(bits, 1e-9)) ** speed)))


def judged(aim: Aim, bits: float, rmse: NDArray[np.float64], n_latents: int) -> float:
    """One figure to keep the best of: bits a window at the target (6.02 dB a bit for each latent), or RMSE at the
    budget."""
    if aim.rmse is not None:
        return bits + 0.7 * n_latents * log2(max(float((rmse / aim.rmse).max()), 0.5))
    assert aim.bits is not None
    return float(rmse.mean() * np.exp2((bits - aim.bits) / max(1, n_latents) * (1.5 if bits > aim.bits else 0.5)))
