"""Autoencoders with stored latents and a residual: DeepSqueeze's design (Ilkhechi et al., SIGMOD 2020), plain and variational.

A row is squeezed into a few whole latents; the decoder gives each number a mean and a scale, each category a ranking. Stored
are the latents, the decoder's weights, what the means leave over and the true category's rank, all entropy-coded under the
confidence the decoder claims. No column sees another but through the latents. The decoder is in floating point, so such a
payload is safe only on the machine that wrote it; verification by decoding stands for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.codecs.container import pack, unpack
from benchmarks.codecs.grid import FEW_VALUES, Column, frame_of, placed, shown, to_grid
from benchmarks.codecs.integers import Reader, Writer, code_residuals, code_symbols
from benchmarks.codecs.shape import Bounds, Effort
from vae_core.columns import ColumnPlan

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

MOST_LEVELS, MOST_FEATURES = 256, 1200
CHUNK_ROWS = 4_096
SCALES, CONFIDENCES = 24, 16


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the columns lie among inputs and outputs: numbers one by one (tensors an element each), then categories.

    numbers    : (column, element)           mean, scale (numbers,) float32 in codes
    categories : (column, levels)
    """

    numbers: tuple[tuple[int, int], ...]
    categories: tuple[tuple[int, int], ...]
    mean: Floats
    scale: Floats

    @property
    def n_inputs(self) -> int:
        """Numbers, then one place a level."""
        return len(self.numbers) + sum(levels for _, levels in self.categories)

    @property
    def n_outputs(self) -> int:
        """Means, logarithms of scales, then logits."""
        return self.n_inputs + len(self.numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A decoder as it is stored: weights in float16, latents L, two hidden layers."""

    weights: tuple[NDArray[np.float16], ...]

    def hidden(self, latents: Ints) -> Floats:
        """(n, L) to the last hidden layer (n, H) float32, in the same pieces whoever asks: what floats give may depend on it."""
        return np.concatenate([self._hidden(latents[a : a + CHUNK_ROWS]) for a in range(0, max(1, len(latents)), CHUNK_ROWS)])

    def _hidden(self, latents: Ints) -> Floats:
        h = latents.astype(np.float32)
        for number in range(0, len(self.weights) - 2, 2):
            h = h @ self.weights[number].astype(np.float32).T + self.weights[number + 1].astype(np.float32)
            h = np.maximum(h, 0.1 * h)
        return h

    def outputs(self, hidden: Floats, which: slice) -> Floats:
        """(n, H) to some of the outputs."""
        weight, bias = self.weights[-2][which].astype(np.float32), self.weights[-1][which].astype(np.float32)
        return np.concatenate([hidden[a : a + CHUNK_ROWS] @ weight.T + bias for a in range(0, max(1, len(hidden)), CHUNK_ROWS)])

    def to_bytes(self) -> bytes:
        """Shapes and weights."""
        return pack([part for w in self.weights for part in (np.array(w.shape, np.int32).tobytes(), w.tobytes())])

    @classmethod
    def from_bytes(cls, data: bytes) -> Network:
        """The inverse of `to_bytes`."""
        parts = unpack(data)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return cls(tuple(np.frombuffer(w, np.float16).reshape(np.frombuffer(shape, np.int32)) for shape, w in pairs))


def encoder(*, variational: bool) -> Callable[[pa.Table, Bounds, Effort], bytes]:
    """The plain autoencoder, or the variational one whose latents are trained for being rounded and paid by the bit."""

    def encode(table: pa.Table, bounds: Bounds, effort: Effort) -> bytes:
        from benchmarks.codecs.autoencoder_training import fit

        room = MOST_FEATURES

        def learnable(plan: ColumnPlan) -> bool:
            nonlocal room
            span = plan.hi - plan.lo + 1
            listed = plan.kind == "categorical"
            size = span if listed or (plan.width == 1 and span <= FEW_VALUES) else plan.width
            fits = size <= min(room, MOST_LEVELS if listed else room)
            room -= size if fits else 0
            return fits

        grid = to_grid(table, bounds, learnable, keep_sorted=False)
        if not grid.columns:
            return pack([grid.frame])
        layout = _layout(grid.columns)
        with effort.training():
            network, latents = fit(layout, grid.columns, grid.n_rows, effort.budget_s, variational=variational)
        streams = []
        for latent in latents.T:
            coder = Writer()
            code_residuals(coder, len(latent), [], [], np.ascontiguousarray(latent))
            streams.append(coder.finish())
        values = [column.values.reshape(grid.n_rows, -1) for column in grid.columns]
        streams += _coded(layout, grid.columns, network, latents, values)[1]
        return pack([grid.frame, pack([layout.mean.tobytes(), layout.scale.tobytes()]), network.to_bytes(), *streams])

    return encode


def decode(data: bytes) -> pa.Table:
    """The inverse of both encoders."""
    frame, *parts = unpack(data)
    grid, finish = frame_of(frame)
    if not parts:
        return finish([])
    mean, scale = (np.frombuffer(part, np.float32) for part in unpack(parts[0]))
    layout, network, streams = _layout(grid.columns, mean, scale), Network.from_bytes(parts[1]), parts[2:]
    n_latents = network.weights[0].shape[1]
    latents = np.empty((grid.n_rows, n_latents), np.int64)
    for k, stream in enumerate(streams[:n_latents]):
        latents[:, k] = code_residuals(Reader(stream), grid.n_rows, [], [], None)
    values = [column.values.reshape(grid.n_rows, -1).copy() for column in grid.columns]
    values, _ = _coded(layout, grid.columns, network, latents, values, streams[n_latents:])
    return finish([v.reshape(-1) for v in values])


def _layout(columns: Sequence[Column], mean: Floats | None = None, scale: Floats | None = None) -> Layout:
    numbers = tuple((i, e) for i, c in enumerate(columns) if c.n_levels is None for e in range(c.plan.width))
    categories = tuple((i, c.n_levels) for i, c in enumerate(columns) if c.n_levels is not None)
    if mean is None or scale is None:
        cells = [columns[i].values.reshape(-1, columns[i].plan.width)[:, e] for i, e in numbers]
        mean = np.array([cell.mean() for cell in cells], np.float32)
        scale = np.array([cell.std() or 1.0 for cell in cells], np.float32)
    return Layout(numbers, categories, mean, scale)


def _coded(
    layout: Layout, columns: Sequence[Column], network: Network, latents: Ints, values: list[Ints], streams: Sequence[bytes] | None = None
) -> tuple[list[Ints], list[bytes]]:
    """Write the values, (n_rows, width) each, as streams; or read them from streams. One walk for both directions."""
    found: list[bytes] = []
    n_numbers, hidden = len(layout.numbers), network.hidden(latents)
    for number, (i, element) in enumerate(layout.numbers):
        mean, log_scale = np.nan_to_num(network.outputs(hidden, slice(number, n_numbers + number + 1, n_numbers)).T)
        guess = np.rint(mean.astype(np.float64) * layout.scale[number] + layout.mean[number])
        guess = np.clip(guess, columns[i].low, columns[i].low + columns[i].span - 1).astype(np.int64)
        level = _scale_level(log_scale + np.log(layout.scale[number]))
        kept = columns[i].kept
        rows = np.arange(len(guess)) if kept is None else np.flatnonzero(kept.reshape(len(guess), -1)[:, element])
        if streams is None:
            coder = Writer()
            code_residuals(coder, len(rows), [level[rows]], [SCALES], values[i][rows, element] - guess[rows])
            found.append(coder.finish())
        else:
            left = code_residuals(Reader(streams[number]), len(rows), [level[rows]], [SCALES], None)
            values[i][rows, element] = guess[rows] + left
    start = 2 * n_numbers
    for number, (i, n_levels) in enumerate(layout.categories, n_numbers):
        logits = np.nan_to_num(network.outputs(hidden, slice(start, start + n_levels)))
        start += n_levels
        order = np.argsort(-logits, axis=1, kind="stable")
        level = _confidence_level(logits)
        here = shown(columns[i], np.arange(len(order)))
        if streams is None:
            truth, coder = values[i][here, 0] - columns[i].low, Writer()
            rank = np.argmax(order[here] == truth[:, None], axis=1)
            code_symbols(coder, len(here), n_levels, [level[here]], [CONFIDENCES], rank)
            found.append(coder.finish())
        else:
            rank = code_symbols(Reader(streams[number]), len(here), n_levels, [level[here]], [CONFIDENCES], None)
            values[i] = placed(columns[i], order[here, rank] + columns[i].low).reshape(-1, 1)
    return values, found


def _scale_level(log_scale: Floats) -> Ints:
    """The decoder's scale, in codes, to half octaves."""
    return np.clip(np.floor(2 * log_scale / np.log(2)) + 6, 0, SCALES - 1).astype(np.int64)


def _confidence_level(logits: Floats) -> Ints:
    """How sure the decoder is of its first choice, by octaves of what is left for the others."""
    above = logits - logits.max(1, keepdims=True)
    others = 1 - 1 / np.exp(above).sum(1)
    return np.clip(np.floor(-1.5 * np.log2(np.maximum(others, 1e-9))), 0, CONFIDENCES - 1).astype(np.int64)
