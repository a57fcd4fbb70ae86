"""The base layers' part in a shard: latents that meet their targets, and whether they earn their place in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from numpy.typing import NDArray

from vae_core.base import GAIN_UNIT
from vae_core.base.cost import stored_bytes
from vae_core.coders.conventional import Stored
from vae_core.columns import STATE_MISFIT, Codes, ColumnPlan, decode_column
from vae_core.model import Base, Model
from vae_core.tables import rmse_of

ALLOWANCE = 1.004  # of the conventional coding: what an exact shard may take, its preview included
COARSEST_GAIN, FINEST_GAIN = GAIN_UNIT // 2, 64 * GAIN_UNIT
WINDOWS, WINDOW_ROWS = 8, 1024
DOUBTED = 0.5  # of what a column takes that was not measured
AMPLE = 0.05  # so much saved pays for any preview of the default share


@dataclass(frozen=True, slots=True)
class Way:
    """One way to hold a column conventionally.

    codes : of the plan, None for verbatim    prefix : of its codings' names    raw : only codings of raw values will do
    """

    plan: ColumnPlan
    codes: Codes | None
    prefix: str = ""
    raw: bool = False


@dataclass(slots=True)
class ColumnState:
    """One column of the table while its shard is made: the array, its codes, the best conventional coding and its bytes.

    codes  : what the exact layer and the base layers see, None for verbatim
    ways   : how it may be held conventionally
    holds  : the codes keep the column's target, so that a stream of them will do
    coding : the best conventional one, "" as long as that is open; stored : what it stores where it stores codes: of the uniform plan, say
    conventional_bytes : what it costs in this shard     reported_bytes : with this shard's share of a dictionary it needs
    packed : (first row, rows) -> that block of the column by its coding, where that took long to find
    rival  : what is to be reported, measured or (True) told by a part of the rows, where that was not needed to know that it is more
             than the column's stream takes
    """

    array: pa.Array
    codes: Codes | None
    ways: tuple[Way, ...]
    holds: bool = True
    coding: str = ""
    stored: Codes | None = None
    packed: Mapping[tuple[int, int], Stored] = field(default_factory=dict)
    conventional_bytes: int = 0
    reported_bytes: int = 0
    rival: Callable[[bool], int] | None = None
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
    """Latents of every block at the coarsest gain that meets every target; None when there is no layer or none does.

    The layer was fitted to meet them at the unit gain on rows it had not seen, so that is where the search begins: up in
    strides, then down in steps of one.
    """
    base = model.distortion
    if base is None:
        return None, GAIN_UNIT

    def at(gain: int) -> list[NDArray[np.integer[Any]]] | None:
        found: list[NDArray[np.integer[Any]]] = [base.layer.encode(*base_input(model, base, columns, start, n), gain) for start, n in spans]
        return found if targets_met(model, base, columns, spans, found, gain) else None

    gain, missed = GAIN_UNIT, COARSEST_GAIN - 1
    while (latents := at(gain)) is None:
        gain, missed = gain + max(1, gain // 8), gain
        if gain > FINEST_GAIN:
            return None, GAIN_UNIT
    while gain - 1 > missed and (coarser := at(gain - 1)) is not None:
        latents, gain = coarser, gain - 1
    return latents, gain


def _known(n_bytes: int, by_part: bool) -> int:
    """What was measured, however it is asked for."""
    return n_bytes


class PreviewLatents:
    """The latents of a shard's preview by block, each found once: whether they are paid for, and what is stored, are of the same."""

    def __init__(self, model: Model, columns: Sequence[ColumnState]) -> None:
        self._model, self._columns = model, columns
        self._found: dict[tuple[int, int], NDArray[np.integer[Any]]] = {}

    def of(self, span: tuple[int, int]) -> NDArray[np.integer[Any]]:
        """(n_rows, n_columns_stored) int8 or int16 of the block of (first row, rows)."""
        base = self._model.preview
        assert base is not None
        if span not in self._found:
            self._found[span] = base.layer.encode(*base_input(self._model, base, self._columns, *span))
        return self._found[span]


def preview_paid(
    latents: PreviewLatents,
    columns: Sequence[ColumnState],
    spans: Sequence[tuple[int, int]],
    exact: Mapping[int, float],
) -> bool:
    """Whether a shard with the preview's latents is within ALLOWANCE of its conventional coding; exact: bytes of learned columns."""
    held = sum(exact.get(j, c.conventional_bytes) for j, c in enumerate(columns))
    reported = sum(c.reported_bytes * (DOUBTED if c.rival is not None else 1.0) for c in columns)
    if ALLOWANCE * reported - held > AMPLE * reported:
        return True
    n_bytes = sum(stored_bytes(latents.of(span)) for span in spans)
    if n_bytes > ALLOWANCE * reported - held:
        for column in columns:
            if column.rival is not None:
                column.reported_bytes = column.rival(False)
                column.rival = partial(_known, column.reported_bytes)
    return n_bytes <= ALLOWANCE * sum(c.reported_bytes for c in columns) - held


def preview_tells(model: Model, columns: Sequence[ColumnState], n_rows: int) -> bool:
    """Whether the preview of these rows is worth more than the mean of every column: a fit may not know rows like them.

    Judged by windows of rows from all over the shard, in codes: numbers by their mean squared error over their variance,
    categories by how often they are right over how often the commonest would be.
    """
    base = model.preview
    if base is None or not n_rows:
        return True
    starts = sorted({int(k * max(0, n_rows - WINDOW_ROWS) / (WINDOWS - 1)) for k in range(WINDOWS)})
    seen = [base_input(model, base, columns, start, min(WINDOW_ROWS, n_rows - start)) for start in starts]
    guessed = np.concatenate([base.layer.decode(base.layer.encode(*part)) for part in seen])
    values, present = np.concatenate([v for v, _ in seen]), np.concatenate([p for _, p in seen])
    told = []
    for k, j in enumerate(base.columns):
        held = present[:, k]
        x, y = values[held, k], guessed[held, k]
        if not len(x) or (x == x[0]).all():
            continue
        if model.columns[j].kind == "categorical":
            told.append(float((x == y).mean()) - float(np.unique(x, return_counts=True)[1].max()) / len(x))
        else:
            centred = x.astype(np.float64)
            told.append(1.0 - float(np.mean(np.square(y - centred))) / float(np.var(centred)))
    return not told or float(np.mean(np.maximum(told, -1.0))) > 0.0


def latents_that_pay(model: Model, columns: Sequence[ColumnState], latents: Sequence[NDArray[np.integer[Any]]]) -> int | None:
    """Bytes of the layer's latents as they are stored, with the states and misfits beside them; None where uniform
    quantisation of the same columns takes no more. The fit has only estimates of both, and of other rows than these."""
    assert model.distortion is not None
    ours = sum(stored_bytes(z) for z in latents)
    theirs = sum(columns[j].conventional_bytes for j in model.distortion.columns)
    start = 0
    for z in latents:
        for j in model.distortion.columns:
            codes = columns[j].codes
            assert codes is not None
            ours += sum(len(part) for part in beside(slice_codes(codes, start, len(z), model.columns[j].width)).values())
        start += len(z)
    return ours if ours < theirs else None


def beside(codes: Codes, *, with_states: bool = True) -> dict[str, bytes]:
    """What a block stores beside one column's latents: "m" misfits, "n" states (FORMAT.md, "Layout"), where it has any.

    with_states : False beside a stream, which has states of its own
    """
    found = {} if codes.misfits is None else {"m": pack_misfits(codes.misfits)}
    if with_states and codes.state is not None:
        found["n"] = zstandard.ZstdCompressor(level=19).compress(codes.state.tobytes())
    return found


def pack_misfits(values: pa.Array) -> bytes:
    """An Arrow IPC stream of one column, zstd."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([values], names=["m"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return zstandard.ZstdCompressor(level=19).compress(sink.getvalue().to_pybytes())


def base_input(model: Model, base: Base, columns: Sequence[ColumnState], start: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
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
