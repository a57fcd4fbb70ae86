"""The integer decoder of discrete latents: a network of thermometers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.base.assembly import NetworkPart
from vae_core.base.codebook import PRICE_UNIT, UNIT_GAIN, CodeBook
from vae_core.base.posterior import Table, zigzag
from vae_core.integer import SUM_BOUND, IntegerLayer, IntegerNetwork

_INPUT_BOUND = 1 << 14
WEIGHT_BOUND = 31
"""A table's entries in so many steps of their largest difference: what is left weighs nothing beside what a bit a row leaves."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Latents of a window: the codes of rows, W each, then one of each code a window, then linear ones, padded to whole columns.

    book   : which they are              part   : the network behind the codes
    linear : (W*F, L) what a step adds   offset : (F,) what the first entries of all tables add
    """

    book: CodeBook
    part: NetworkPart | None
    linear: NDArray[np.float64]
    offset: NDArray[np.float64]


def laid_out(tables: tuple[Table, ...], linear: NDArray[np.floating[Any]], window: int) -> Layout:
    """The latents and the network of standardised tables and steps (n, F)."""
    n_features = linear.shape[1]
    offset = np.zeros(n_features)
    for table in tables:
        offset += table.entries[0]
    used = sorted((replace(t, entries=t.entries - t.entries[0]) for t in tables if len(t.entries) > 1), key=lambda t: not t.by_row)
    groups, at = [], 0
    for table in used:
        groups.append((at, table.by_row, len(table.entries)))
        at += window if table.by_row else 1
    first = at
    at += len(linear)
    n_latents = max(1, -(-at // window)) * window
    spread = np.zeros((window, n_features, n_latents))
    spread[:, :, first : first + len(linear)] = linear.T
    form = np.array([first, len(linear), *(int(v) for group in groups for v in group)], np.int32)
    prices = np.concatenate([np.zeros(0), *(t.price for t in used)])
    book = CodeBook(form, np.rint(prices * PRICE_UNIT).clip(0, 32767).astype(np.int16))
    part = thermometers(used, groups, window, n_latents) if used else None
    return Layout(book, part, spread.reshape(window * n_features, n_latents), offset)


def thermometers(tables: list[Table], groups: list[tuple[int, bool, int]], window: int, n_latents: int) -> NetworkPart:
    """One hidden layer: a unit is 1 where its latent is at least j, or at most -j, and adds the difference of two entries."""
    n_features = tables[0].entries.shape[1]
    before = [np.maximum(np.arange(len(t.entries)) - 2, 0) for t in tables]  # the entry one step nearer to zero
    differences = [np.abs(t.entries - t.entries[b]).max(axis=0) for t, b in zip(tables, before, strict=True)]
    unit = np.max(differences, axis=0).astype(np.float64) / WEIGHT_BOUND
    unit = np.where(unit > 0, unit, 1.0)
    hidden, bias, out = list[NDArray[np.int8]](), list[int](), list[NDArray[np.int8]]()
    whole = [np.rint(t.entries / unit).astype(np.int64) for t in tables]
    steps = [(v - v[b]).clip(-127, 127).astype(np.int8) for v, b in zip(whole, before, strict=True)]
    # row by row, each moved by as much as the last: to zstd that is the first row once more
    turns = [(row, i) for row in range(window) for i, (_, by_row, _) in enumerate(groups) if by_row]
    turns += [(0, i) for i, (_, by_row, _) in enumerate(groups) if not by_row]
    for row, i in turns:
        first, by_row, n_entries = groups[i]
        for entry in range(1, n_entries):
            value = int(zigzag(np.array(entry)))
            weight = np.zeros(n_latents, np.int8)
            weight[first + row] = 1 if value > 0 else -1
            added = np.zeros((window, n_features), np.int8)
            added[slice(row, row + 1) if by_row else slice(None)] = steps[i][entry]
            hidden.append(weight)
            bias.append(1 - abs(value))
            out.append(added.reshape(-1))
    layers = (
        IntegerLayer(np.stack(hidden), np.array(bias, np.int32), 0, 0, 1),
        IntegerLayer(np.ascontiguousarray(np.stack(out, axis=1)), np.zeros(window * n_features, np.int32), 0, -SUM_BOUND, SUM_BOUND),
    )
    return NetworkPart(IntegerNetwork(layers, _INPUT_BOUND), np.full(n_latents, UNIT_GAIN, np.int32), unit)
