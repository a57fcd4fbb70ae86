"""encode_column and decode_column: an Arrow column to int64 codes and back, by its plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.arrays import from_numpy, pack_bits, to_numpy
from vae_core.columns.codes import (
    STATE_MISFIT,
    STATE_NAN,
    STATE_NEG_INF,
    STATE_NEG_ZERO,
    STATE_NULL,
    STATE_POS_INF,
    Codes,
)
from vae_core.columns.dictionaries import ValueDictionary
from vae_core.columns.integers import IntegerLattice, IntegerLevels
from vae_core.columns.joining import alike, one_array, wrapped
from vae_core.columns.physical import (
    Bools,
    from_raw,
    integers_of,
    raw_of_integers,
    raw_values,
    valid_of,
)
from vae_core.columns.plan import ColumnPlan, FloatTransform, IntegerTransform, storage_type
from vae_core.columns.profile import elements_of, storage_of
from vae_core.columns.texts import TextPattern
from vae_core.errors import BadInput, CorruptArchive


def encode_column(plan: ColumnPlan, array: pa.Array | pa.ChunkedArray) -> Codes:
    """(n_rows,) Arrow column -> codes, verified: every cell whose state is a value decodes within the plan's tolerance.

    Values may share the memory of the array. Raises ValueError for a verbatim plan, BadInput for another type.
    """
    if plan.transform is None:
        raise ValueError(f"column {plan.name!r} is verbatim: it has no codes")
    flat = one_array(array)
    if not alike(flat.type, plan.field.type):
        raise BadInput(f"column {plan.name!r} is {flat.type}, the plan was made for {plan.field.type}")
    flat = storage_of(flat)
    if isinstance(plan.transform, ValueDictionary | TextPattern):
        return plan.transform.encode(flat, plan.fill)
    if plan.kind != "tensor":
        return _encode_flat(plan, flat)
    outer = valid_of(flat)
    codes = _encode_flat(plan, elements_of(flat))
    return codes if outer is None else _mark_null_rows(plan, codes, outer, flat)


def decode_column(plan: ColumnPlan, codes: Codes, *, approximate: bool = False) -> pa.Array:
    """Codes -> (n_rows,) Arrow array of plan.field.type, or `alike` where values are too many for the indices of a dictionary.

    approximate : codes are predictions (previews): those beyond the plan are drawn to its ends instead of refused.
    Raises CorruptArchive on codes, states or misfits that no encoder writes; ValueError for a verbatim plan.
    """
    if plan.transform is None:
        raise ValueError(f"column {plan.name!r} is verbatim: it has no codes")
    n_cells = len(codes.values)
    if n_cells % plan.width or (codes.state is not None and len(codes.state) != n_cells):
        raise CorruptArchive(f"column {plan.name!r}: {n_cells} codes do not make rows of {plan.width}")
    if codes.misfits is not None and codes.misfits.type != plan.value_type:
        raise CorruptArchive(f"column {plan.name!r}: values of {codes.misfits.type} among {plan.value_type}")
    if approximate:
        low, high = (0, plan.n_levels - 1) if plan.n_levels is not None else (plan.lo, plan.hi)
        codes = Codes(np.clip(codes.values, low, high), codes.state, codes.misfits)
    if isinstance(plan.transform, ValueDictionary):
        return _extended(plan, plan.transform.decode(codes))
    if isinstance(plan.transform, TextPattern):
        return _extended(plan, plan.transform.decode(codes, plan.value_type))
    if isinstance(plan.transform, IntegerLattice | IntegerLevels):
        loose = approximate or (isinstance(plan.transform, IntegerLattice) and plan.transform.bound != 0)
        raw = raw_of_integers(plan.value_type, plan.transform.inverse(codes.values), clip=loose, where=plan.name)
    else:
        raw = plan.transform.inverse(codes.values)
    if codes.state is not None and np.shares_memory(raw, codes.values):
        raw = raw.copy()
    return finish_column(plan, raw, codes.state, codes.misfits)


def finish_column(plan: ColumnPlan, raw: Any, state: Any, misfits: pa.Array | None) -> pa.Array:
    """Stored values of every cell, (n_rows * width,) in `storage_dtype`, with states and misfits laid over them.

    Writes into `raw` when there are states. Returns the Arrow array of exactly plan.field.type. Raises CorruptArchive.
    """
    array = _overlaid(plan, raw, state, misfits)
    if plan.kind == "tensor":
        array = _rows_of(plan, array, state, misfits)
    return _extended(plan, array)


def with_worst_kept(plan: ColumnPlan, array: pa.Array, codes: Codes, rmse: float) -> Codes:
    """The codes of an array with more misfits: as few cells, the worst, as bring the root mean square error within `rmse` > 0.

    codes : of `array` by `plan`, of a numeric or tensor column that may have a tolerance
    Errors are float64: where these are too coarse, at the ends of int64, or infinite, the result may miss the target.
    """
    flat = storage_of(array)
    size = np.abs(_errors(plan, flat, codes)) / rmse
    away = 0 if codes.state is None else int((codes.state != 0).sum() - np.isin(codes.state, (STATE_NEG_ZERO, STATE_MISFIT)).sum())
    n_finite = len(size) - away - (0 if codes.misfits is None else codes.misfits.null_count)
    order = np.argsort(size, kind="stable")
    with np.errstate(over="ignore"):
        held = np.cumsum(np.square(size[order])) <= n_finite * (1 - 1e-9)
    worst = order[int(held.sum()) :]
    state = np.zeros(len(size), np.uint8) if codes.state is None else codes.state.copy()
    state[worst] = STATE_MISFIT
    values = codes.values.copy()
    values[worst] = plan.fill
    return Codes(values, state, _misfits(plan, state, flat))


def _errors(plan: ColumnPlan, array: pa.Array, codes: Codes) -> NDArray[np.float64]:
    """(n_cells,) decoded less raw in the column's units, 0 in cells that hold no code."""
    decoded, raw = (elements_of(a) if plan.kind == "tensor" else a for a in (storage_of(decode_column(plan, codes)), array))
    with np.errstate(over="ignore", invalid="ignore"):
        if pa.types.is_floating(plan.value_type):
            found = raw_values(decoded).astype(np.float64) - raw_values(raw).astype(np.float64)
        else:  # differences of integers wrap round to the right ones
            found = (integers_of(decoded)[0] - integers_of(raw)[0]).astype(np.float64)
            found /= 10.0**plan.value_type.scale if pa.types.is_decimal(plan.value_type) else 1.0
    if codes.state is not None:
        found[codes.state != 0] = 0.0
    return found


def _misfits(plan: ColumnPlan, state: NDArray[np.uint8], array: pa.Array) -> pa.Array | None:
    """Raw values of the misfit cells of a column in its storage type, None where there are none."""
    odd = np.flatnonzero(state == STATE_MISFIT)
    if not len(odd):
        return None
    if plan.kind != "tensor":
        return array.take(from_numpy(odd))
    outer = valid_of(array)
    null_row = None if outer is None else np.repeat(~outer, plan.width)[odd]
    return elements_of(array).take(from_numpy(odd, mask=null_row))


def _encode_flat(plan: ColumnPlan, array: pa.Array) -> Codes:
    if isinstance(plan.transform, IntegerLattice | IntegerLevels):
        return _encode_integers(plan, plan.transform, array)
    assert plan.transform is not None and not isinstance(plan.transform, ValueDictionary | TextPattern)
    return _encode_floats(plan, plan.transform, array)


def _encode_integers(plan: ColumnPlan, transform: IntegerTransform, array: pa.Array) -> Codes:
    x, narrow = integers_of(array)
    valid = valid_of(array)
    values, fits = transform.forward(x)
    if narrow is not None:
        fits = narrow if fits is None else fits & narrow
    if valid is None and fits is None:
        return Codes(values)
    state = np.zeros(len(values), np.uint8)
    if fits is not None:
        state[~fits] = STATE_MISFIT
    if valid is not None:
        state[~valid] = STATE_NULL
    return _filled(plan, values, state, array, shared=values is x)


def _encode_floats(plan: ColumnPlan, transform: FloatTransform, array: pa.Array) -> Codes:
    v = raw_values(array)
    valid = valid_of(array)
    state = _specials(v)
    if valid is not None:
        if state is None:
            state = np.zeros(len(v), np.uint8)
        state[~valid] = STATE_NULL
    if state is not None:
        v = np.where(state != 0, v.dtype.type(0), v)
    values, fits = transform.forward(v)
    if fits is not None:
        if state is None:
            state = np.zeros(len(v), np.uint8)
        state[~fits & (state == 0)] = STATE_MISFIT
    if state is None:
        return Codes(values)
    return _filled(plan, values, state, array, shared=False)


def _specials(v: Any) -> Any:
    """(n,) uint8 states of NaN, infinities and -0.0, or None when there are none."""
    bits = v.view(f"i{v.dtype.itemsize}")
    lowest = np.iinfo(bits.dtype).min
    zero = bits == lowest
    finite = np.isfinite(v)
    if finite.all() and not zero.any():
        return None
    state = np.zeros(len(v), np.uint8)
    state[zero] = STATE_NEG_ZERO
    state[~finite] = STATE_NAN
    state[v == np.inf] = STATE_POS_INF
    state[v == -np.inf] = STATE_NEG_INF
    return state


def _filled(plan: ColumnPlan, values: Any, state: Any, array: pa.Array, *, shared: bool) -> Codes:
    odd = np.flatnonzero(state == STATE_MISFIT)
    misfits = array.take(from_numpy(odd)) if len(odd) else None
    holes = state != 0
    if not holes.any():
        return Codes(values)
    if shared:
        values = np.where(holes, np.int64(plan.fill), values)
    else:
        values[holes] = plan.fill
    return Codes(values, state, misfits)


def _mark_null_rows(plan: ColumnPlan, codes: Codes, outer: Bools, array: pa.Array) -> Codes:
    """A null row is a null misfit in its first cell, nulls in the others: a row of null elements has no misfit."""
    state = np.zeros(len(codes.values), np.uint8) if codes.state is None else codes.state
    rows = state.reshape(-1, plan.width)
    rows[~outer] = STATE_NULL
    rows[~outer, 0] = STATE_MISFIT
    values = codes.values.reshape(-1, plan.width).copy()
    values[~outer] = plan.fill
    return Codes(values.ravel(), state, _misfits(plan, state, array))


def _overlaid(plan: ColumnPlan, raw: Any, state: Any, misfits: pa.Array | None) -> pa.Array:
    value_type = plan.value_type
    is_float = pa.types.is_floating(value_type)
    n_misfits = 0 if misfits is None else len(misfits)
    if state is None:
        if n_misfits:
            raise CorruptArchive(f"column {plan.name!r} has misfits and no states")
        return from_raw(value_type, raw, None)
    bad = (state > (STATE_NEG_ZERO if is_float else STATE_NULL)) & (state != STATE_MISFIT)
    if bad.any():
        raise CorruptArchive(f"column {plan.name!r} has state {int(state[bad][0])}, unknown for {value_type}")
    if is_float:
        for which, special in (
            (STATE_NAN, np.nan),
            (STATE_POS_INF, np.inf),
            (STATE_NEG_INF, -np.inf),
            (STATE_NEG_ZERO, -0.0),
        ):
            raw[state == which] = special
    valid = state != STATE_NULL
    odd = np.flatnonzero(state == STATE_MISFIT)
    if len(odd) != n_misfits:
        raise CorruptArchive(f"column {plan.name!r} has {len(odd)} misfit cells and {n_misfits} misfit values")
    if misfits is not None and n_misfits:
        raw[odd] = raw_values(misfits)
        good = valid_of(misfits)
        if good is not None:
            valid[odd] = good
    return from_raw(value_type, raw, None if valid.all() else valid)


def _rows_of(plan: ColumnPlan, elements: pa.Array, state: Any, misfits: pa.Array | None) -> pa.Array:
    """Elements -> fixed-size list rows; null rows are those whose first cell is a null misfit."""
    n_rows = len(elements) // plan.width
    bitmap = None
    if misfits is not None and misfits.null_count:
        cells = np.flatnonzero(state == STATE_MISFIT)[to_numpy(misfits.is_null())]
        if (cells % plan.width).any():
            raise CorruptArchive(f"column {plan.name!r} has a null misfit inside a row")
        outer = np.ones(n_rows, np.bool_)
        outer[cells // plan.width] = False
        bitmap = pack_bits(outer)
    return pa.Array.from_buffers(storage_type(plan.field.type), n_rows, [bitmap], children=[elements])


def _extended(plan: ColumnPlan, array: pa.Array) -> pa.Array:
    array = wrapped(plan.field.type, array)
    if not alike(array.type, plan.field.type):
        raise CorruptArchive(f"column {plan.name!r} decodes to {array.type}, its field is {plan.field.type}")
    return array
