"""Hypothesis strategies: tables over all Arrow types, nulls and specials, and tolerances that fit a schema."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from vae_core.tolerance import Tolerance

_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
_FLOATS = [pa.float16(), pa.float32(), pa.float64()]
_TEMPORAL = [
    pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.timestamp("us", "America/New_York"), pa.timestamp("ns"),
    pa.timestamp("ns", "+05:30"), pa.duration("s"), pa.duration("ns"),
]  # fmt: skip
_DECIMALS = [
    pa.decimal32(7, 2), pa.decimal64(15, 3), pa.decimal128(5, 2), pa.decimal128(18, 0), pa.decimal128(30, 4),
    pa.decimal256(17, 5), pa.decimal256(60, 10),
]  # fmt: skip
_BYTES = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3),
]  # fmt: skip
_PLAIN = [pa.bool_(), *_INTEGERS, *_FLOATS, *_TEMPORAL, *_DECIMALS, *_BYTES]
_SPECIALS = [float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 5e-324, -5e-324]


def _epoch(kind: pa.DataType, ticks: int) -> Any:
    return pa.scalar(ticks, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)


def float_values(kind: pa.DataType) -> st.SearchStrategy[float]:
    """Specials, decimals of few digits, few values, and any float of the width."""
    width = kind.bit_width
    decimals = st.builds(lambda i, k: i / 10**k, st.integers(-99999, 99999), st.integers(0, 3))
    return st.one_of(
        decimals.map(lambda v: float(np.float16(v % 1000)) if width == 16 else float(np.float32(v)) if width == 32 else v),
        st.sampled_from(_SPECIALS if width == 64 else _SPECIALS[:5]),
        st.floats(width=width),
        st.sampled_from([0.5, 1.25, -3.0]),
    )


def integer_values(low: int, high: int) -> st.SearchStrategy[int]:
    """The ends of a range, small numbers, multiples of a step, anything between."""
    near = st.integers(max(low, -20), min(high, 20))
    steps = st.integers(0, 50).map(lambda i: max(low, min(high, i * 25)))
    return st.one_of(near, steps, st.sampled_from([low, high, low + 1, high - 1]), st.integers(low, high))


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Python values (or int ticks) that `column_of` turns into an array of the type."""
    t = pa.types
    if t.is_boolean(kind):
        return st.booleans()
    if t.is_floating(kind):
        return float_values(kind)
    if t.is_decimal(kind):
        top = 10**kind.precision - 1
        return integer_values(-top, top).map(lambda i: Decimal(i).scaleb(-kind.scale, _wide_context()))
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return st.one_of(st.sampled_from(["a", "b", "", "ab", "abc"]), st.text(max_size=6))
    if t.is_fixed_size_binary(kind):
        return st.one_of(st.sampled_from([b"abc", b"abd"]), st.binary(min_size=kind.byte_width, max_size=kind.byte_width))
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind):
        return st.one_of(st.sampled_from([b"x", b""]), st.binary(max_size=6))
    if t.is_integer(kind):
        bits = kind.bit_width
        low, high = (0, 2**bits - 1) if t.is_unsigned_integer(kind) else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return integer_values(low, high)
    if t.is_time(kind):
        per_day = {"s": 86400, "ms": 86400 * 10**3, "us": 86400 * 10**6, "ns": 86400 * 10**9}[kind.unit]
        return integer_values(0, per_day - 1)
    return integer_values(-(2**31), 2**31 - 1) if kind.bit_width == 32 else integer_values(-(2**63), 2**63 - 1)


def _wide_context() -> Any:
    import decimal

    return decimal.Context(prec=80)


def column_of(kind: pa.DataType, items: list[Any]) -> pa.Array:
    """Items of `values(kind)`, None for nulls, as an array."""
    t = pa.types
    if t.is_temporal(kind):
        plain = pa.array(items, pa.int32() if kind.bit_width == 32 else pa.int64())
        return plain.view(kind)
    if t.is_string_view(kind) or t.is_binary_view(kind):
        return pa.array(items, pa.string() if t.is_string_view(kind) else pa.binary()).cast(kind)
    return pa.array(items, kind)


@st.composite
def plain_columns(draw: st.DrawFn, n: int, kinds: list[pa.DataType] | None = None) -> pa.Array:
    """(n,) of one flat type, with nulls or without, constant or not, sometimes a slice of something longer."""
    kind = draw(st.sampled_from(kinds or _PLAIN))
    cell = values(kind)
    if draw(st.booleans()):
        cell = st.one_of(cell, st.none())
    style = draw(st.sampled_from(["any", "few", "constant", "null"]))
    if style == "constant":
        items = [draw(cell)] * n
    elif style == "null":
        items = [None] * n
    elif style == "few":
        pool = draw(st.lists(cell, min_size=1, max_size=3))
        items = draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n))
    else:
        items = draw(st.lists(cell, min_size=n, max_size=n))
    before = draw(st.integers(0, 3))
    return column_of(kind, [*([None] * before), *items]).slice(before)


@st.composite
def dictionary_columns(draw: st.DrawFn, n: int) -> pa.Array:
    """(n,) dictionary array, ordered or not, of strings, integers or floats; unused, null and doubled values happen."""
    kind = draw(st.sampled_from([pa.string(), pa.int64(), pa.float64(), pa.timestamp("us", "UTC")]))
    pool = draw(st.lists(st.one_of(values(kind), st.none()) if draw(st.booleans()) else values(kind), min_size=1, max_size=6))
    index = st.integers(0, len(pool) - 1)
    items = draw(st.lists(st.one_of(index, st.none()), min_size=n, max_size=n))
    index_type = draw(st.sampled_from([pa.int8(), pa.int32(), pa.uint16()]))
    return pa.DictionaryArray.from_arrays(pa.array(items, index_type), column_of(kind, pool), ordered=draw(st.booleans()))


@st.composite
def tensor_columns(draw: st.DrawFn, n: int) -> pa.Array:
    """(n,) fixed-size lists of a primitive type, plain or as the canonical tensor extension, null rows and elements."""
    kind = draw(st.sampled_from([pa.float32(), pa.float64(), pa.uint8(), pa.int32(), pa.bool_(), pa.float16()]))
    width = draw(st.sampled_from([1, 2, 4]))
    cell = values(kind)
    if draw(st.integers(0, 3)) == 0:
        cell = st.one_of(cell, st.none())
    flat = column_of(kind, draw(st.lists(cell, min_size=n * width, max_size=n * width)))
    if width == 4 and flat.null_count == 0 and not pa.types.is_boolean(kind) and draw(st.booleans()):
        tensor = pa.fixed_shape_tensor(kind, (2, 2))
        return pa.ExtensionArray.from_storage(tensor, pa.FixedSizeListArray.from_arrays(flat, width))
    mask = None
    if draw(st.integers(0, 3)) == 0:
        mask = pa.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), pa.bool_())
    return pa.FixedSizeListArray.from_arrays(flat, width, mask=mask)


@st.composite
def nested_columns(draw: st.DrawFn, n: int) -> pa.Array:
    """(n,) of types never learned: lists, structs, maps, null, intervals, run ends, unions, extensions."""
    numbers = st.one_of(st.none(), st.floats(), st.integers(-3, 3).map(float))
    texts = st.one_of(st.none(), st.text(max_size=3))
    choice = draw(st.sampled_from(["list", "struct", "map", "null", "interval", "ree", "union", "uuid", "deep"]))
    cell: st.SearchStrategy[Any]
    if choice == "null":
        return pa.nulls(n)
    if choice == "list":
        kind: pa.DataType = pa.list_(pa.field("item", pa.float64()))
        cell = st.one_of(st.none(), st.lists(numbers, max_size=3))
    elif choice == "struct":
        kind = pa.struct([("x", pa.float64()), ("s", pa.large_string())])
        cell = st.one_of(st.none(), st.fixed_dictionaries({"x": numbers, "s": texts}))
    elif choice == "map":
        kind = pa.map_(pa.string(), pa.int64())
        cell = st.one_of(st.none(), st.lists(st.tuples(st.text(max_size=2), st.integers(-5, 5)), max_size=3))
    elif choice == "interval":
        kind = pa.month_day_nano_interval()
        cell = st.one_of(st.none(), st.tuples(*[st.integers(-50, 50)] * 3).map(pa.MonthDayNano))
    elif choice == "ree":
        flat = pa.array(draw(st.lists(st.one_of(st.none(), st.integers(0, 2)), min_size=n, max_size=n)), pa.int64())
        import pyarrow.compute as pc

        return pc.run_end_encode(flat)
    elif choice == "union":
        tags = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
        return pa.UnionArray.from_sparse(pa.array(tags, pa.int8()), [pa.array(range(n), pa.int64()), pa.array([str(i) for i in range(n)])])
    elif choice == "uuid":
        flat = pa.array(draw(st.lists(st.binary(min_size=16, max_size=16), min_size=n, max_size=n)), pa.binary(16))
        return pa.ExtensionArray.from_storage(pa.uuid(), flat)
    else:
        kind = pa.list_(pa.struct([("d", pa.list_(pa.date32()))]))
        day = st.one_of(st.none(), st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1)))
        cell = st.lists(st.fixed_dictionaries({"d": st.one_of(st.none(), st.lists(day, max_size=2))}), max_size=2)
    return pa.array(draw(st.lists(cell, min_size=n, max_size=n)), kind)


def columns(n: int) -> st.SearchStrategy[pa.Array]:
    """(n,) of any Arrow type."""
    return st.one_of(plain_columns(n), plain_columns(n), dictionary_columns(n), tensor_columns(n), nested_columns(n))


_NAMES = ["a", "A", " a", "a ", "\u00e4", "a\u0308", "x.y", "=", "\u540d\u524d", ""]


@st.composite
def tables(draw: st.DrawFn, *, max_rows: int = 24, max_columns: int = 4) -> pa.Table:
    """Tables of 0..max_rows rows over all types, with odd names and schema metadata, in one chunk or more."""
    n = draw(st.one_of(st.sampled_from([0, 1, 2]), st.integers(3, max_rows)))
    arrays = draw(st.lists(columns(n), min_size=1, max_size=max_columns))
    names = draw(st.permutations(_NAMES))[: len(arrays)]
    metadata = draw(st.sampled_from([None, {b"k": b"v"}]))
    fields = [pa.field(name, a.type, metadata=metadata) for name, a in zip(names, arrays, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))
    if n > 3 and draw(st.booleans()):
        cut = draw(st.integers(1, n - 1))
        table = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    return table


@st.composite
def tolerances_for(draw: st.DrawFn, schema: pa.Schema, *, distortion: bool = False) -> dict[str, Tolerance]:
    """A tolerance for some of the columns that may have one."""
    from vae_core.tolerance import value_type_of

    kinds = ["lossless", "absolute", "relative", *(["rmse", "rmse_relative", "psnr"] if distortion else [])]
    found = {}
    for field in schema:
        value_type = value_type_of(field.type)
        t = pa.types
        numeric = t.is_floating(value_type) or t.is_integer(value_type) or t.is_decimal(value_type)
        if not numeric and not (t.is_temporal(value_type) and not t.is_interval(value_type)):
            continue
        kind = draw(st.sampled_from(kinds))
        if kind == "lossless":
            continue
        value = draw(st.sampled_from([0.01, 0.001, 0.5]) if "relative" in kind else st.sampled_from([0.05, 0.5, 1, 3.7, 1e-9, 1e6, 1e300]))
        found[field.name] = Tolerance(kind, 30.0 if kind == "psnr" else float(value))
    return found
