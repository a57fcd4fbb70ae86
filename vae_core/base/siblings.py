"""Siblings of the autoencoder with the same shape: sparse dictionaries whose codes are found by ISTA."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vae_core.base.klt import Basis

THRESHOLD = 12
"""L1 penalty of the stored encoder, in 1/64 steps."""
_ROUNDS = 8
_ROWS = 8192


def fit_dictionary(x: NDArray[np.float32], start: Basis, n_extra: int, seed: int) -> Basis:
    """A dictionary of the basis's latents and n_extra atoms more, for features x (n, N), by alternating sparse codes
    and
    least squares (method of optimal directions, Engan et al. 1999).

    New atoms start as what the basis leaves over of random rows. The weights of the basis stay the metric.
    """
    rng = np.random.default_rng(seed)
    rows = x[rng.permutation(len(x))[:_ROWS]].astype(np.float64) * start.weight
    atoms: NDArray[np.float64] = start.decode * start.weight[:, None]  # (N, K), unit steps in weighted features
    codes = rows @ (start.encode / np.maximum(start.weight, 1e-12)).T
    rest = rows - np.rint(codes) @ atoms.T
    size = np.linalg.norm(rest, axis=1)
    chosen = rng.permutation(np.argsort(-size)[: 8 * n_extra])[:n_extra]
    atoms = np.concatenate((atoms, (rest[chosen] / np.maximum(size[chosen], 1e-9)[:, None]).T), axis=1)
    for _ in range(_ROUNDS):
        codes = shrunk(rows, atoms, THRESHOLD / 64)
        used = codes.T @ codes + 1e-3 * len(rows) * np.eye(atoms.shape[1])
        atoms = np.asarray(np.linalg.solve(used, codes.T @ rows + 1e-3 * len(rows) * atoms.T).T, np.float64)
        atoms = np.asarray(atoms / np.maximum(np.linalg.norm(atoms, axis=0), 1e-9), np.float64)
    safe = np.where(start.weight > 0, start.weight, 1.0)
    decode = np.where(start.weight[:, None] > 0, atoms / safe[:, None], 0.0)
    return Basis(decode, np.linalg.pinv(atoms) * start.weight, start.weight, np.ones(atoms.shape[1]))


def shrunk(rows: NDArray[np.float64], atoms: NDArray[np.float64], penalty: float, n_steps: int = 30) -> NDArray[np.float64]:
    """Sparse codes (n, K) of rows (n, N) over atoms (N, K) by ISTA (Daubechies et al. 2004)."""
    gram, target = atoms.T @ atoms, rows @ atoms
    largest = float(np.linalg.eigvalsh(gram)[-1])
    z = target / largest
    for _ in range(n_steps):
        step = z - (z @ gram - target) / largest
        z = np.sign(step) * np.maximum(np.abs(step) - penalty / largest, 0.0)
    return z
