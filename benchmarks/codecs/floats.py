"""Error-bounded coders of floating-point arrays: SZ3 and zfp on float columns and tensors, everything else conventional.

What they cannot hold (nulls, NaN, infinities, -0.0) is kept beside them; a column on which they break the bound, which happens
where it nears the precision of the type, is conventional too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.codecs.container import pack, pack_plans, unpack, unpack_plans
from benchmarks.codecs.conventional import decode_columns, encode_columns, plans_of, rest_of
from benchmarks.codecs.shape import Bounds, Effort
from vae_core.columns import ColumnPlan, encode_column, one_array, pack_side, unpack_side, without_levels
from vae_core.columns.physical import raw_values
from vae_core.columns.profile import elements_of, storage_of
from vae_core.columns.recode import finish_column

Compress = Callable[[Any, float], bytes | None]
Expand = Callable[[bytes, tuple[int, ...], Any], Any]


def encoder(compress: Compress, expand: Expand) -> Callable[[pa.Table, Bounds, Effort], bytes]:
    """Encode with compress(array, bound), bound 0 meaning lossless; None when it cannot."""

    def encode(table: pa.Table, bounds: Bounds, _: Effort) -> bytes:
        plans = list(plans_of(table, bounds))
        taken, bodies = [], []
        for plan in plans:
            if plan.kind not in ("numeric", "tensor") or plan.value_type not in (pa.float32(), pa.float64()):
                continue
            asked = bounds.get(plan.name)
            bound = asked.value if asked is not None and asked.kind == "absolute" else 0.0
            body = _column(plan, table.column(plan.index), bound, compress, expand)
            if body is not None:
                taken.append(plan.index)
                bodies.append(body)
                plans[plan.index] = _bare(plan, table.column(plan.index))
        rest, needed = encode_columns(table, rest_of(plans, taken))
        head = pack_plans(table.schema, plans, table.num_rows, needed | set(taken))
        return pack([head, rest, json.dumps(taken).encode(), *(part for body in bodies for part in body)])

    return encode


def decoder(expand: Expand) -> Callable[[bytes], pa.Table]:
    """The inverse of `encoder`."""

    def decode(data: bytes) -> pa.Table:
        head, rest, taken, *parts = unpack(data)
        schema, plans, n_rows = unpack_plans(head)
        arrays = decode_columns(rest, {plan.index: plan for plan in plans}, n_rows)
        for index, body, side in zip(json.loads(taken), parts[::2], parts[1::2], strict=True):
            plan = plans[index]
            raw = expand(body, _shape(plan, n_rows), _dtype(plan)).reshape(-1).copy()
            arrays[index] = finish_column(plan, raw, *unpack_side(side, n_rows * plan.width, plan.value_type))
        return pa.Table.from_arrays([arrays[i] for i in range(len(schema))], schema=schema)

    return decode


def _column(
    plan: ColumnPlan, column: pa.ChunkedArray, bound: float, compress: Compress, expand: Expand
) -> tuple[bytes, bytes] | None:
    """(the coder's bytes, states and misfits), or None when the coder is not for this column or breaks its bound."""
    bare = _bare(plan, column)
    codes = encode_column(bare, column)
    storage = storage_of(one_array(column))
    raw = raw_values(elements_of(storage) if plan.kind == "tensor" else storage)
    if codes.state is not None:
        # a hole holds its last value: a jump to zero would cost the coder more than the hole itself
        good = codes.state == 0
        if not good.any():
            return None
        before = np.maximum.accumulate(np.where(good, np.arange(len(raw)), good.argmax()))
        raw = raw[before]
    else:
        good = np.ones(len(raw), np.bool_)
    if not len(raw):
        return None
    body = compress(np.ascontiguousarray(raw.reshape(_shape(plan, len(raw) // plan.width))), bound)
    if body is None:
        return None
    back = expand(body, _shape(plan, len(raw) // plan.width), raw.dtype).reshape(-1)
    wrong = raw != back if bound == 0 else np.abs(raw.astype(np.float64) - back.astype(np.float64)) > bound
    return None if (wrong & good).any() else (body, pack_side(codes.state, codes.misfits))


def _bare(plan: ColumnPlan, column: pa.ChunkedArray) -> ColumnPlan:
    """A lossless plan without a list of levels: only its states and misfits are used."""
    from vae_core.columns.floats import OrderedBits

    levelled = dataclasses.replace(plan, transform=OrderedBits(_dtype(plan).str, False))
    bare = without_levels(plan, column) if plan.n_levels is not None else levelled
    return dataclasses.replace(bare, tolerance=type(plan.tolerance)("lossless"), n_levels=None)


def _shape(plan: ColumnPlan, n_rows: int) -> tuple[int, ...]:
    return (n_rows, plan.width) if plan.kind == "tensor" else (n_rows,)


def _dtype(plan: ColumnPlan) -> np.dtype[Any]:
    return np.dtype(np.float32 if plan.value_type == pa.float32() else np.float64)


def zfp_compress(values: Any, bound: float) -> bytes:
    """zfp in fixed-accuracy mode; reversible for bound 0."""
    import zfpy

    return bytes(zfpy.compress_numpy(values, tolerance=bound) if bound else zfpy.compress_numpy(values))


def zfp_expand(data: bytes, shape: tuple[int, ...], dtype: Any) -> Any:
    """The inverse of `zfp_compress`."""
    import zfpy

    return zfpy.decompress_numpy(data)


def sz3_compress(values: Any, bound: float) -> bytes | None:
    """SZ3 with an absolute bound, less one rounding of the type; None for bound 0."""
    from pysz import sz, szConfig, szErrorBoundMode

    bound -= float(np.spacing(np.abs(values).max())) if bound else 0.0
    if bound <= 0:
        return None
    config = szConfig()
    config.errorBoundMode = szErrorBoundMode.ABS
    config.absErrorBound = bound
    compressed, _ = sz.compress(values, config)
    return bytes(compressed)


def sz3_expand(data: bytes, shape: tuple[int, ...], dtype: Any) -> Any:
    """The inverse of `sz3_compress`."""
    from pysz import sz

    values, _ = sz.decompress(np.frombuffer(data, np.uint8), dtype, shape)
    return values
