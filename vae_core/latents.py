"""The base layers' part in a shard: latents that meet their targets, and whether they earn their place in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.base import GAIN_UNIT
from vae_core.base.cost import stored_bytes
from vae_core.base.layer import MAX_GAIN
from vae_core.columns import STATE_MISFIT, Codes, decode_column
from vae_core.model import Base, Model
from vae_core.tables import rmse_of

ALLOWANCE = 1.004  # of the conventional coding: what an exact shard may take, its preview included
AMPLE = 0.05  # so much saved pays for any preview of the default share


@dataclass(slots=True)
class ColumnState:
    """One column of the table while its shard is made: the array, its codes, the best conventional coding and its bytes.

    conventional_bytes : what it costs in this shard     reported_bytes : with this shard's share of a dictionary it needs
    """

    array: pa.Array
    codes: Codes | None
    coding: str
    conventional_bytes: int
    reported_bytes: int
    n_bytes: float = 0.0


def slice_codes(codes: Codes, start: int, n_rows: int, width: int) -> Codes:
    """Rows start .. start + n_rows of a column's codes."""
    cells = slice(start * width, (start + n_rows) * width)
    state = None if codes.state is None else codes.state[cells]
    misfits = codes.misfits
    if codes.state is not None and misfits is not None:
        before = int((codes.state[: cells.start] == STATE_MISFIT).sum())
        misfits = misfits.slice(before, int((codes.state[cells] == STATE_MISFIT).sum()))
    if state is not None and not state.any():
        state, misfits = None, None
    return Codes(codes.values[cells], state, misfits if misfits is not None and len(misfits) else None)


def distortion_latents(
    model: Model, columns: Sequence[ColumnState], spans: Sequence[tuple[int, int]]
) -> tuple[list[NDArray[np.integer[Any]]] | None, int]:
    """Latents of every block at the coarsest gain that meets every target; None when there is no layer or none does."""
    base = model.distortion
    if base is None:
        return None, GAIN_UNIT
    gain = GAIN_UNIT
    while gain <= MAX_GAIN:
        latents: list[NDArray[np.integer[Any]]] = [
            base.layer.encode(*base_input(model, base, columns, start, n), gain) for start, n in spans
        ]
        if targets_met(model, base, columns, spans, latents, gain):
            return latents, gain
        gain += max(1, gain // 8)
        if gain > 64 * GAIN_UNIT:
            break
    return None, GAIN_UNIT


def preview_paid(
    model: Model,
    columns: Sequence[ColumnState],
    spans: Sequence[tuple[int, int]],
    exact: Mapping[int, float],
) -> bool:
    """Whether a shard with the preview's latents is within ALLOWANCE of its conventional coding; exact: bytes of learned columns."""
    if model.preview is None:
        return True
    reported = sum(c.reported_bytes for c in columns)
    spare = ALLOWANCE * reported - sum(exact.get(j, c.conventional_bytes) for j, c in enumerate(columns))
    if spare > AMPLE * reported:
        return True
    layer = model.preview.layer
    return sum(stored_bytes(layer.encode(*base_input(model, model.preview, columns, *span))) for span in spans) <= spare


def latents_pay(model: Model, columns: Sequence[ColumnState], latents: Sequence[NDArray[np.integer[Any]]]) -> bool:
    """Whether the layer's latents, as they are stored, take fewer bytes than uniform quantisation of the same columns.

    The fit has only estimates of both, and of other rows than these. Misfits and states cost the same either way, nearly.
    """
    assert model.distortion is not None
    ours = sum(stored_bytes(z) for z in latents)
    return ours < sum(columns[j].conventional_bytes for j in model.distortion.columns)


def base_input(
    model: Model, base: Base, columns: Sequence[ColumnState], start: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n, D) codes and (n, D) presence of the columns of a base layer; a tensor column has an element each."""
    values, present = [], []
    for j in base.columns:
        codes, width = columns[j].codes, model.columns[j].width
        assert codes is not None
        part = slice_codes(codes, start, n, width)
        values.append(part.values.reshape(n, width))
        present.append(np.ones((n, width), bool) if part.state is None else (part.state == 0).reshape(n, width))
    return np.concatenate(values, 1), np.concatenate(present, 1)


def targets_met(
    model: Model,
    base: Base,
    columns: Sequence[ColumnState],
    spans: Sequence[tuple[int, int]],
    latents: Sequence[NDArray[np.integer[Any]]],
    gain: int,
) -> bool:
    first = 0
    predicted = [base.layer.decode(z, gain) for z in latents]
    for j in base.columns:
        plan, codes = model.columns[j], columns[j].codes
        assert codes is not None
        values = np.concatenate([p[:, first : first + plan.width] for p in predicted]).ravel() if predicted else codes.values
        first += plan.width
        decoded = decode_column(plan, Codes(values, codes.state, codes.misfits), approximate=True)
        if rmse_of(columns[j].array, decoded) > plan.tolerance.value:
            return False
    return True
