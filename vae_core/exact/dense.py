"""Vectors, an element told by all elements before it: what a Karhunen-Loeve transform takes out of embeddings, without a loss.

    x_p ≈ bias_p + sum_{q < p} w_pq x_q        w from the Cholesky factor of the covariance; Gaussian vectors are then independent

so that the residuals' bits add up to those of a KLT's coefficients, whatever the order of the elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive
from vae_core.packing import unzstd, zstd

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SHIFT = 16  # of biases, as of any prediction
WEIGHT_SHIFTS = range(4, 15)  # of weights, coarse ones first: bytes of the model
WORTH_FINER = 0.005  # bits an element
MOST_ELEMENTS = 2_048
ROWS_AN_ELEMENT = 10  # that the fit takes at least
ROUNDING = 1.0 / 12  # variance of what codes leave out


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """Weights of the elements before, (n, n) int16 in 2**-shift, zero from the diagonal on; biases, (n,) int64 in 2**-16."""

    weights: NDArray[np.int16]
    bias: Ints
    shift: int

    @property
    def n(self) -> int:
        """Elements of a vector."""
        return len(self.bias)

    def total(self, p: int, past: Ints) -> Ints:
        """(n_vectors,) what element p adds to a prediction's sum, of (p, n_vectors) elements before; wraps."""
        with np.errstate(over="ignore"):
            found: Ints = self.bias[p] + ((self.weights[p, :p].astype(np.int64) @ past) << (SHIFT - self.shift))
        return found

    def to_bytes(self) -> bytes:
        """zstd of the shift, a byte, the biases as little-endian int64, and the weights row after row, all their low bytes before all
        their high bytes."""
        below = self.weights[np.tril_indices(self.n, -1)].astype("<i2").view(np.uint8).reshape(-1, 2)
        return zstd(bytes([self.shift]) + self.bias.astype("<i8").tobytes() + below[:, 0].tobytes() + below[:, 1].tobytes())

    @classmethod
    def from_bytes(cls, data: bytes, n: int) -> Dense:
        """The inverse of to_bytes for vectors of n elements. Raises CorruptArchive on anything else."""
        if not 1 <= n <= MOST_ELEMENTS:
            raise CorruptArchive(f"model predicts vectors of {n} elements, this release reads up to {MOST_ELEMENTS}")
        n_below = n * (n - 1) // 2
        raw = unzstd(data, 1 + 8 * n + 2 * n_below)
        if len(raw) != 1 + 8 * n + 2 * n_below or raw[0] > SHIFT:
            raise CorruptArchive(f"model holds {len(raw)} bytes of weights for vectors of {n} elements")
        bias = np.frombuffer(raw, "<i8", n, 1).astype(np.int64)
        below = np.frombuffer(raw, np.uint8, 2 * n_below, 1 + 8 * n).reshape(2, n_below)
        weights = np.zeros((n, n), np.int16)
        weights[np.tril_indices(n, -1)] = np.ascontiguousarray(below.T).view("<i2").ravel()
        return cls(weights, bias, raw[0])


def fit_dense(vectors: Ints) -> Dense | None:
    """The prediction of (n_rows, n) codes, None where rows are too few to tell, or codes too large."""
    n_rows, n = vectors.shape
    if n > MOST_ELEMENTS or n < 2 or n_rows < ROWS_AN_ELEMENT * n or np.abs(vectors).max() >= 1 << 44:
        return None
    x = vectors.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    covariance = x.T @ x / n_rows
    covariance[np.diag_indices(n)] += ROUNDING
    try:
        factor = np.linalg.cholesky(covariance)
        whole = np.eye(n) - np.diag(factor)[:, None] * np.linalg.inv(factor)
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(whole).all():
        return None
    tried = [_rounded(np.tril(whole, -1), shift) for shift in WEIGHT_SHIFTS]
    left = [_bits(weights / (1 << shift), covariance) for weights, shift in zip(tried, WEIGHT_SHIFTS, strict=True)]
    k = next(k for k, bits in enumerate(left) if bits < min(left) + WORTH_FINER)
    bias = (mean - (tried[k] / (1 << WEIGHT_SHIFTS[k])) @ mean) * (1 << SHIFT)
    if np.abs(bias).max() >= 1 << 61:
        return None
    return Dense(tried[k].astype(np.int16), np.rint(bias).astype(np.int64), WEIGHT_SHIFTS[k])


def _rounded(weights: Floats, shift: int) -> Floats:
    found: Floats = np.clip(np.rint(weights * (1 << shift)), -(1 << 15), (1 << 15) - 1)
    return found


def _bits(weights: Floats, covariance: Floats) -> float:
    """What the elements of Gaussian vectors take on the average, but for a constant, when predicted so."""
    rest = np.eye(len(weights)) - weights
    return float(0.5 * np.log2(np.maximum(np.einsum("ij,ij->i", rest @ covariance, rest), ROUNDING)).mean())
