"""What an encoder keeps of an autoencoder with discrete latents: which latents are codes, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vae_core.base.posterior import Parts, Table, likeliest_codes, zigzag
from vae_core.errors import CorruptArchive

if TYPE_CHECKING:
    from vae_core.base.layer import Decoder

PRICE_UNIT = 16
UNIT_GAIN = 16


@dataclass(frozen=True, slots=True, eq=False)
class CodeBook:
    """Which latents are codes.

    form   : (2 + 3 G,) int32: first linear latent, how many; then of each table its first latent, whether it has one a row
             (as many latents as the window has rows) and how many entries
    prices : (sum of entries,) int16, bits in 1/16
    """

    form: NDArray[np.int32]
    prices: NDArray[np.int16]

    @property
    def groups(self) -> list[tuple[int, bool, int]]:
        """(first latent, by row, entries) of each table."""
        return [(int(a), bool(b), int(k)) for a, b, k in self.form[2:].reshape(-1, 3)]

    def latents(self, x: NDArray[np.float32], decoder: Decoder, metric: NDArray[np.int16]) -> NDArray[np.int16]:
        """Features of windows (m, W*F), in the decoder's units, as integer latents (m, L)."""
        root, parts = parts_of(self, decoder, metric.tobytes())
        w = decoder.window
        chosen = likeliest_codes(x.reshape(len(x), w, -1) * root, parts)
        out = np.zeros((len(x), decoder.n_latents), np.int16)
        first, n = int(self.form[0]), int(self.form[1])
        out[:, first : first + n] = chosen.linear
        for (start, by_row, _), codes in zip(self.groups, chosen.codes, strict=True):
            out[:, start : start + (w if by_row else 1)] = zigzag(codes).reshape(len(x), -1)
        return out

    def check(self, n_latents: int, window: int) -> None:
        """Raise CorruptArchive unless it speaks of a decoder's latents."""
        if self.form.dtype != np.int32 or self.form.ndim != 1 or len(self.form) < 2 or len(self.form) % 3 != 2:
            raise CorruptArchive("base layer: the encoder's code book is malformed")
        ends = [int(self.form[0]) + int(self.form[1]), *(a + (window if by_row else 1) for a, by_row, _ in self.groups)]
        total = sum(k for _, _, k in self.groups)
        if (self.form < 0).any() or max(ends) > n_latents or self.prices.dtype != np.int16 or self.prices.shape != (total,):
            raise CorruptArchive("base layer: the encoder's code book does not fit its decoder")


@lru_cache(maxsize=2)
def parts_of(book: CodeBook, decoder: Decoder, metric: bytes) -> tuple[NDArray[np.float32], Parts]:
    """Roots of the metric, and what each code and step adds to the first row of its own, as the integers have it."""
    features = decoder.features()
    root = 2.0 ** (np.frombuffer(metric, np.int16) / 16.0)
    unit = root * 2.0 ** -decoder.shift[features.column].astype(np.float64) / features.scale
    nothing = decoder.values(np.zeros((1, decoder.n_latents), np.int64), UNIT_GAIN)

    def added(first: int, values: NDArray[np.int64]) -> NDArray[np.float32]:
        latents = np.zeros((len(values), decoder.n_latents), np.int64)
        latents[:, first] = values
        return np.asarray((decoder.values(latents, UNIT_GAIN) - nothing)[:, : decoder.n_features] * unit, np.float32)

    tables, start = [], 0
    for first, by_row, k in book.groups:
        price = np.asarray(book.prices[start : start + k] / PRICE_UNIT, np.float32)
        tables.append(Table(by_row, added(first, zigzag(np.arange(k))), price))
        start += k
    first, n = int(book.form[0]), int(book.form[1])
    steps = [added(first + i, np.ones(1, np.int64)) for i in range(n)]
    linear = np.concatenate(steps) if steps else np.zeros((0, decoder.n_features), np.float32)
    return root.astype(np.float32), Parts(linear, tuple(tables))
