"""The likeliest codes of windows under a decoder that adds what each says: exact posteriors of one given the others, no network.

A window of W rows has latents of two kinds. Linear ones, a few a window, add a multiple of one row of features to every row. Codes,
one a window or one a row, add an entry of a table. All is in weighted features, where a squared unit is a bit, so that the posterior
of a code has the mode of least `price` plus squared distance: rate plus distortion, the negative ELBO at temperature zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.base.klt import DEADZONE

SWEEPS = 2

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What a code adds: by_row, to its own row, or else to all rows of its window.

    entries : (K, F) float32, of weighted features      price : (K,) float32 bits of each
    """

    by_row: bool
    entries: NDArray[np.float32]
    price: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """linear (n, F) float32: what a step of each linear latent adds to every row; and the tables of codes."""

    linear: NDArray[np.float32]
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """linear (m, n) int64 steps; codes of each table: (m,) or (m * W,) int64 entries."""

    linear: NDArray[np.int64]
    codes: tuple[NDArray[np.int64], ...]


def likeliest_codes(y: NDArray[np.float32], parts: Parts, n_sweeps: int = SWEEPS) -> Chosen:
    """Codes of weighted windows y (m, W, F), each in turn given the others, a few times over."""
    m, w, n_features = y.shape
    rows, mean = y.reshape(-1, n_features), y.mean(axis=1)
    solve = np.linalg.pinv(parts.linear.astype(np.float64)).astype(np.float32) if len(parts.linear) else None
    linear = np.zeros((m, len(parts.linear)), np.int64)
    codes = [np.zeros(len(rows) if t.by_row else m, np.int64) for t in parts.tables]
    by_row = [i for i, t in enumerate(parts.tables) if t.by_row]
    own = {i: rows @ parts.tables[i].entries.T for i in by_row}
    size = [(t.entries * t.entries).sum(axis=1) for t in parts.tables]

    def of_rows() -> Floats:
        """(m, F): the mean over each window of what codes of rows add."""
        found = np.zeros((m, n_features), np.float32)
        for i in by_row:
            found += usage(codes[i], m, w, len(parts.tables[i].entries)) @ parts.tables[i].entries
        return found

    slow = np.zeros((m, n_features), np.float32)
    for _ in range(n_sweeps):
        rest = mean - of_rows()
        by_window = [np.zeros((m, n_features), np.float32) if t.by_row else t.entries[codes[i]] for i, t in enumerate(parts.tables)]
        line = np.zeros((m, n_features), np.float32)
        if solve is not None:
            wanted = (rest - sum(by_window, line)) @ solve
            linear = (np.sign(wanted) * np.floor(np.abs(wanted) + (0.5 - DEADZONE / 512))).clip(-8191, 8191).astype(np.int64)
            line = linear.astype(np.float32) @ parts.linear
        for i, table in enumerate(parts.tables):
            if not table.by_row:
                others = sum((by_window[k] for k in range(len(codes)) if k != i), line)
                cost = w * (size[i] - 2 * (rest - others) @ table.entries.T) + table.price
                codes[i] = cost.argmin(axis=1)
                by_window[i] = table.entries[codes[i]]
        slow = np.asarray(sum(by_window, line))
        for i in by_row:
            table = parts.tables[i]
            shift = np.repeat(slow @ table.entries.T, w, axis=0)
            for k in by_row:
                if k != i:
                    shift += (parts.tables[k].entries @ table.entries.T)[codes[k]]
            codes[i] = (size[i] + table.price - 2 * (own[i] - shift)).argmin(axis=1)
    return Chosen(linear, tuple(codes))


def regrets(y: NDArray[np.float32], parts: Parts, chosen: Chosen) -> list[NDArray[np.float64]]:
    """Of each table (K,): bits by which windows y (m, W, F) would come out worse without an entry, those that have it at their second
    choice."""
    m, w, n_features = y.shape
    adds = [t.entries[z] if t.by_row else np.repeat(t.entries[z], w, axis=0) for t, z in zip(parts.tables, chosen.codes, strict=True)]
    rest = y.reshape(-1, n_features) - np.repeat(chosen.linear.astype(np.float32) @ parts.linear, w, axis=0)
    rest -= sum(adds)
    found = []
    for table, z, add in zip(parts.tables, chosen.codes, adds, strict=True):
        own = rest + add if table.by_row else (rest + add).reshape(m, w, n_features).mean(axis=1)
        cost = (1 if table.by_row else w) * ((table.entries * table.entries).sum(axis=1) - 2 * own @ table.entries.T) + table.price
        now = np.take_along_axis(cost, z[:, None], axis=1)[:, 0]
        np.put_along_axis(cost, z[:, None], np.inf, axis=1)
        lost = np.where(len(table.entries) > 1, cost.min(axis=1) - now, 0.0)
        found.append(np.asarray(np.bincount(z, np.maximum(lost, 0), len(table.entries)), np.float64))
    return found


def usage(codes: NDArray[np.int64], m: int, w: int, n_entries: int) -> NDArray[np.float32]:
    """(m, K) share of each entry among the codes of each window's rows."""
    window = np.repeat(np.arange(m) * n_entries, w)
    return (np.bincount(window + codes, minlength=m * n_entries).reshape(m, n_entries) / w).astype(np.float32)


def zigzag(codes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Entries 0, 1, 2, 3, 4 as latents 0, -1, 1, -2, 2, which are stored as 0, 1, 2, 3, 4 again."""
    codes = np.asarray(codes, np.int64)
    return (codes >> 1) ^ -(codes & 1)
