"""Training of the autoencoder peers: a fixed budget of seconds, code lengths as the loss, rounding trained for or not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import cos, log, pi
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vae_core.base.adamw import AdamW
from vae_core.base.objective import rounded_rate

if TYPE_CHECKING:
    from benchmarks.codecs.autoencoder import Layout, Network
    from benchmarks.codecs.grid import Column

Ints = NDArray[np.int64]

BATCH = 512
LEAST_STEPS, MOST_EPOCHS = 800, 150
PEAK = 4e-3
WIDTHS = ((300_000, 16), (2_000_000, 32), (1 << 62, 64))
"""Hidden units by values of the table: weights are paid for."""
SIGMOID_LEVELS = 255
"""The plain autoencoder's latents are a sigmoid's, stored to a byte, as DeepSqueeze stores them."""
MOST_LATENT = 1 << 13
ROUNDING_FROM = 0.6
"""From this share of the steps on the variational decoder sees what will be stored, not noise of the same size."""


def fit(layout: Layout, columns: Sequence[Column], n_rows: int, budget_s: float, *, variational: bool) -> tuple[Network, Ints]:
    """(the decoder as stored, (n_rows, L) latents as stored).

    The variational one has latents to spare, the rate switches off those that do not pay. The plain one cannot, so a fifth of
    the budget goes into short trials of how many it should have.
    """
    data = _Data(layout, columns, n_rows)
    most = max(1, min(64, data.n_columns // 2))
    if variational:
        return _trained(data, min(most, 16 if data.n_columns < 64 else 64), budget_s, variational=True).result(data)
    sizes = [n for n in (1, 2, 4, 8, 32) if n <= max(1, most)][-4:]
    trials = [_trained(data, n, 0.05 * budget_s, variational=False) for n in sizes]
    best = min(trials, key=lambda trial: trial.held_bits(data)).n_latents
    return _trained(data, best, 0.8 * budget_s, variational=False).result(data)


class _Data:
    """Batches of standardised inputs from the columns' integers."""

    def __init__(self, layout: Layout, columns: Sequence[Column], n_rows: int) -> None:
        self.layout, self.n_rows, self.n_columns = layout, n_rows, len(layout.numbers) + len(layout.categories)
        cells = [columns[i].values.reshape(n_rows, -1)[:, e] for i, e in layout.numbers]
        numbers = [((cell - m) / s).astype(np.float32) for cell, m, s in zip(cells, layout.mean, layout.scale, strict=True)]
        self.numbers = torch.from_numpy(np.stack(numbers, 1) if numbers else np.zeros((n_rows, 0), np.float32))
        # a cell without a value counts as some value: its loss is noise, its bits are never stored
        picked = [np.clip(columns[i].values - columns[i].low, 0, levels - 1) for i, levels in layout.categories]
        sizes = np.array([levels for _, levels in layout.categories], np.int64)
        first = torch.from_numpy(np.cumsum(sizes) - sizes)
        self.places = torch.from_numpy(np.stack(picked, 1) if picked else np.zeros((n_rows, 0), np.int64)) + first
        self.owner = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))  # the category of each logit
        self.unit = torch.from_numpy(1.0 / layout.scale)  # a code in standardised units

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """(B, n_inputs): numbers, and a one in the place of each category's level."""
        numbers, places = self.numbers[rows], self.places[rows]
        return torch.cat([numbers, torch.zeros(len(numbers), len(self.owner)).scatter_(1, places, 1.0)], 1)

    def bits(self, out: Tensor, rows: Tensor | slice) -> Tensor:
        """(B,) code length of the rows under the decoder's outputs: Laplace for numbers, softmax for categories."""
        d = len(self.layout.numbers)
        scale = out[:, d : 2 * d].clamp(-12, 6).exp() + 0.3 * self.unit
        total = (((self.numbers[rows] - out[:, :d]).abs() / scale + (2 * scale / self.unit).log()) / log(2)).sum(1)
        logits, places = out[:, 2 * d :].clamp(-30, 30), self.places[rows]
        mass = torch.zeros(len(logits), places.shape[1]).index_add(1, self.owner, logits.exp())
        return total + (mass.log() - logits.gather(1, places)).sum(1) / log(2)


class _Autoencoder(nn.Module):
    """Two hidden layers on either side."""

    def __init__(self, n_inputs: int, n_outputs: int, n_latents: int, width: int, *, variational: bool) -> None:
        super().__init__()
        self.n_latents, self.variational = n_latents, variational
        wide = 2 * width  # the encoder is not stored
        self.encoder = nn.Sequential(
            nn.Linear(n_inputs, wide), nn.LeakyReLU(0.1), nn.Linear(wide, wide), nn.LeakyReLU(0.1), nn.Linear(wide, n_latents)
        )
        self.decoder = nn.Sequential(
            nn.Linear(n_latents, width), nn.LeakyReLU(0.1), nn.Linear(width, width), nn.LeakyReLU(0.1), nn.Linear(width, n_outputs)
        )
        self.prior_log_scale = nn.Parameter(torch.full((n_latents,), 1.0))
        self.gain = 4.0 if variational else 1.0

    def latents(self, x: Tensor) -> Tensor:
        """(B, L), in the units they are rounded in."""
        z = self.encoder(x)
        return (self.gain * z).clamp(-MOST_LATENT, MOST_LATENT) if self.variational else SIGMOID_LEVELS * torch.sigmoid(z)

    def decode(self, z: Tensor) -> Tensor:
        """(B, n_outputs) of latents in those units."""
        return self.decoder(z / self.gain if self.variational else z / SIGMOID_LEVELS - 0.5)

    @torch.no_grad()
    def whole_latents(self, data: _Data, rows: slice) -> Tensor:
        """As stored."""
        pieces = range(rows.start, rows.stop, 8192)
        return torch.cat([self.latents(data.inputs(slice(a, min(rows.stop, a + 8192)))).round() for a in pieces])

    @torch.no_grad()
    def held_bits(self, data: _Data) -> float:
        """Bits a row of the first rows, latents by their entropies."""
        rows = slice(0, min(data.n_rows, 8192))
        z = self.whole_latents(data, rows)
        total = float(data.bits(self.decode(z), rows).mean())
        for column in z.numpy().T:
            _, times = np.unique(column, return_counts=True)
            total += float((times * np.log2(len(column) / times)).sum()) / len(column)
        return total

    def result(self, data: _Data) -> tuple[Network, Ints]:
        """The decoder in float16 over whole latents, and the latents of all rows."""
        from benchmarks.codecs.autoencoder import Network

        latents = self.whole_latents(data, slice(0, data.n_rows)).numpy().astype(np.int64)
        layers: list[Any] = [self.decoder[0], self.decoder[2], self.decoder[4]]
        weights = [p.detach().numpy().astype(np.float64) for layer in layers for p in (layer.weight, layer.bias)]
        if self.variational:
            weights[0] /= self.gain
        else:
            weights[1] -= 0.5 * weights[0].sum(1)
            weights[0] /= SIGMOID_LEVELS
        return Network(tuple(w.astype(np.float16) for w in weights)), latents


def _trained(data: _Data, n_latents: int, budget_s: float, *, variational: bool) -> _Autoencoder:
    """One network, trained until the budget or the most epochs are over; the cosine follows whichever comes first.

    Seconds are of this process's own time on one core: a busy machine does not make a worse peer.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    width = next(width for cells, width in WIDTHS if data.n_rows * data.n_columns < cells)
    model = _Autoencoder(data.layout.n_inputs, data.layout.n_outputs, n_latents, width, variational=variational)
    optimiser = AdamW([(p, 1.0, 1e-4) for p in model.parameters()])
    n_steps = max(LEAST_STEPS, MOST_EPOCHS * data.n_rows // BATCH)
    began = time.process_time()
    step = 0
    while (done := max(step / n_steps, (time.process_time() - began) / budget_s)) < 1:
        rows = torch.randint(data.n_rows, (min(BATCH, data.n_rows),), generator=generator)
        z = model.latents(data.inputs(rows))
        rate = torch.zeros(1)
        if variational:
            rate = rounded_rate(z + torch.rand(z.shape, generator=generator) - 0.5, model.prior_log_scale)
            noise = torch.rand(z.shape, generator=generator) - 0.5
            z = z + (z.round() - z).detach() if done > ROUNDING_FROM else z + noise
        loss = (rate + data.bits(model.decode(z), rows)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 20.0)
        if not torch.isfinite(norm):  # one wild row shall not end the training
            model.zero_grad()
        optimiser.step(PEAK * (min(1.0, (step + 1) / 50) * 0.5 * (1 + cos(pi * done)) + 1e-3))
        step += 1
    return model
