"""The Karhunen-Loève transform (PCA) with quantised latents, and what it leaves over, entropy-coded.

The numbers of a row, standardised, are projected on the first axes of their correlation, the projections rounded; the residual
is the exact integer less the rounded prediction. How many axes and how fine: by the entropies on a sample. Text and
categories are conventional.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.codecs.container import pack, unpack
from benchmarks.codecs.grid import Column, frame_of, matrix, to_grid
from benchmarks.codecs.integers import Reader, Writer, code_residuals
from benchmarks.codecs.shape import Bounds, Effort
from vae_core.columns import ColumnPlan

Ints = NDArray[np.int64]

MOST_FEATURES = 1024
SAMPLE_ROWS = 16_384
CHUNK_ROWS = 8_192
AXES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 384, 512)
STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625)


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """mean, scale (D,) float32 in codes · axes (D, L) float32, standardised units a latent step."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    axes: NDArray[np.float32]

    def latents(self, values: Ints) -> Ints:
        """(n, D) codes to (n, L) whole latents; the axes are orthogonal, so the projection is the pseudo-inverse."""
        x = (values - self.mean.astype(np.float64)) / self.scale
        length = (self.axes.astype(np.float64) ** 2).sum(0)
        return np.rint(x @ self.axes / length).astype(np.int64)

    def predictions(self, latents: Ints) -> Ints:
        """(n, L) latents to (n, D) codes."""
        x = latents @ self.axes.T.astype(np.float64)
        return np.rint(x * self.scale + self.mean).astype(np.int64)

    def to_bytes(self) -> bytes:
        """What the decoder needs."""
        return pack([self.mean.tobytes(), self.scale.tobytes(), self.axes.tobytes()])

    @classmethod
    def from_bytes(cls, data: bytes) -> Map:
        """The inverse of `to_bytes`."""
        mean, scale, axes = (np.frombuffer(part, np.float32) for part in unpack(data))
        return cls(mean, scale, axes.reshape(len(mean), -1))


def encode(table: pa.Table, bounds: Bounds, effort: Effort) -> bytes:
    """The map, a stream a latent and a stream a number."""
    room = MOST_FEATURES

    def learnable(plan: ColumnPlan) -> bool:
        nonlocal room
        fits = plan.kind in ("numeric", "tensor") and plan.width <= room
        room -= plan.width if fits else 0
        return fits

    grid = to_grid(table, bounds, learnable, keep_sorted=False)
    if not grid.columns:
        return pack([grid.frame])
    values = matrix(grid.columns, [column.values for column in grid.columns])
    with effort.training():
        rows = np.linspace(0, len(values) - 1, min(len(values), SAMPLE_ROWS)).astype(np.int64)
        chosen = _fit(values[rows], grid.n_rows)
    latents = np.concatenate([chosen.latents(values[rows]) for rows in _chunks(len(values))])
    streams = []
    for latent in latents.T:
        coder = Writer()
        code_residuals(coder, len(latent), [], [], np.ascontiguousarray(latent))
        streams.append(coder.finish())
    for d, left in enumerate(_residuals(chosen, latents, values).T):
        coder, kept = Writer(), _kept(grid.columns, d)
        code_residuals(coder, int(kept.sum()), [], [], np.ascontiguousarray(left[kept]))
        streams.append(coder.finish())
    return pack([grid.frame, chosen.to_bytes(), *streams])


def decode(data: bytes) -> pa.Table:
    """The inverse of `encode`."""
    frame, *parts = unpack(data)
    grid, finish = frame_of(frame)
    if not parts:
        return finish([])
    chosen, streams = Map.from_bytes(parts[0]), parts[1:]
    n_latents = chosen.axes.shape[1]
    latents = np.empty((grid.n_rows, n_latents), np.int64)
    for k, stream in enumerate(streams[:n_latents]):
        latents[:, k] = code_residuals(Reader(stream), grid.n_rows, [], [], None)
    values = matrix(grid.columns, [column.values for column in grid.columns])
    guesses = np.concatenate([chosen.predictions(latents[rows]) for rows in _chunks(grid.n_rows)])
    for d, stream in enumerate(streams[n_latents:]):
        kept = _kept(grid.columns, d)
        values[kept, d] = code_residuals(Reader(stream), int(kept.sum()), [], [], None) + guesses[kept, d]
    ends = np.cumsum([column.plan.width for column in grid.columns])
    return finish([np.ascontiguousarray(piece).reshape(-1) for piece in np.split(values, ends[:-1], axis=1)])


def _kept(columns: Sequence[Column], d: int) -> NDArray[np.bool_]:
    """(n_rows,) where element d of the matrix has a value."""
    for column in columns:
        if d < column.plan.width:
            n_rows = len(column.values) // column.plan.width
            return np.ones(n_rows, np.bool_) if column.kept is None else column.kept.reshape(n_rows, -1)[:, d]
        d -= column.plan.width
    raise IndexError(d)


def _residuals(chosen: Map, latents: Ints, values: Ints) -> Ints:
    return np.concatenate([values[rows] - chosen.predictions(latents[rows]) for rows in _chunks(len(values))])


def _chunks(n: int) -> Iterator[slice]:
    """The same pieces in both directions: what floats give may depend on their shape."""
    return (slice(start, min(n, start + CHUNK_ROWS)) for start in range(0, n, CHUNK_ROWS))


def _fit(values: Ints, n_rows: int) -> Map:
    """The map with the fewest bytes over n_rows, judged on a sample (n, D): entropies of latents and residuals, and the map."""
    mean, scale = values.mean(0), values.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    x = (values - mean) / scale
    size, vectors = np.linalg.eigh(x.T @ x / len(x))
    order = np.argsort(-size)
    deviation, vectors = np.sqrt(np.maximum(size[order], 0)), vectors[:, order]
    judged = values[: 4 * CHUNK_ROWS // max(4, len(mean) // 8) + 512]
    best: tuple[float, Map] | None = None
    for n_axes in (n for n in AXES if n <= len(mean)):
        for step in STEPS:
            axes = vectors[:, :n_axes] * np.maximum(step * deviation[0], 1e-9)
            candidate = Map(mean.astype(np.float32), scale.astype(np.float32), axes.astype(np.float32))
            latents = candidate.latents(judged)
            bits = _entropy(latents) + _entropy(judged - candidate.predictions(latents))
            n_bytes = bits / 8 * n_rows / len(judged) + len(candidate.to_bytes())
            if best is None or n_bytes < best[0]:
                best = n_bytes, candidate
    assert best is not None
    return best[1]


def _entropy(integers: Ints) -> float:
    """Bits of the columns of (n, K) under the density of their own logarithmic sizes: small samples of wide values count too."""
    total = 0.0
    for column in integers.T:
        octave = np.frexp(np.abs(column).astype(np.float64))[1]
        token = np.where(np.abs(column) <= 16, column, np.sign(column) * (100 + octave))
        _, times = np.unique(token, return_counts=True)
        total += float((times * np.log2(len(column) / times)).sum() + np.maximum(octave - 1, 0)[np.abs(column) > 16].sum())
    return total
