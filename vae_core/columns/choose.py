"""Choosing every column's transform from the profile of all rows and a sample of them.

Floats, lossless: decimals on a lattice (tested by exact equality), few sorted levels, else ordered bits.
With a bound: a lattice grouped to the bound never has more codes than plain bins of width 2 * bound, so it goes first;
then few levels, bins, and the lossless transform when the bound is finer than the type.
A transform that misfits more than 2 % of the sample is out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from vae_core.columns.dictionaries import ValueDictionary, hashable, is_hashable
from vae_core.columns.floats import Bins, DecimalLattice, FloatLevels, OrderedBits
from vae_core.columns.integers import IntegerLattice, IntegerLevels
from vae_core.columns.physical import integer_range, integers_of, is_integral, raw_values, valid_of
from vae_core.columns.plan import ColumnPlan, FloatTransform, IntegerTransform, levels_of, storage_type
from vae_core.columns.profile import MOST_DISTINCT, ColumnProfile, TableProfile, as_type, elements_of, storage_of
from vae_core.columns.texts import body_of, is_text
from vae_core.columns.written import are_amounts, find_written
from vae_core.errors import BadInput
from vae_core.tolerance import LOSSLESS, Tolerance, resolve, usual_width

_MOST_MISFITS = 0.02
MOST_DISTINCT_SHARE = 0.4
_MOST_GRID_LEVELS = 1 << 20
_GRID_STEPS_PER_RMSE = 16
_SAMPLE_CELLS = 1 << 18
_PROBE_CELLS = 1 << 13
_MISFIT_BITS = 80.0
_DIGIT_BITS = 0.25
_MOST_OFF_LATTICE = 0.001
_SPARSE_LATTICE = 64  # points of a lattice for every value that occurs
_FEW_TEXTS = 32  # that say numbers: as good as categories


def plan_columns(schema: pa.Schema, profile: TableProfile, sample: pa.Table, tolerances: Mapping[str, Tolerance]) -> tuple[ColumnPlan, ...]:
    """One plan per column of the schema, in order.

    profile    : of the whole dataset, finished
    sample     : rows of it with the same schema, to try transforms on (may be empty)
    tolerances : by column name, any kind; absent means lossless. Resolved here by the profile.
    Raises BadInput when a column name occurs twice.
    """
    if len(set(schema.names)) != len(schema.names):
        raise BadInput("a column name occurs more than once in the schema: rename one of them")
    plans = []
    for index, item in enumerate(schema):
        column = profile.columns[item.name]
        tolerance = resolve(tolerances.get(item.name, LOSSLESS), column)
        plans.append(_plan(index, item, column, sample.column(index), tolerance))
    return tuple(plans)


def _plan(index: int, item: pa.Field, profile: ColumnProfile, sample: pa.ChunkedArray, tolerance: Tolerance) -> ColumnPlan:
    verbatim = ColumnPlan(item.name, index, item, "verbatim")
    storage = storage_type(item.type)
    if pa.types.is_dictionary(storage):
        return _categorical(verbatim, storage, profile, sample)
    kind, width, value_type = "numeric", 1, storage
    if pa.types.is_fixed_size_list(storage):
        kind, width, value_type = "tensor", storage.list_size, storage.value_type
        if width == 0 or profile.n_null > _MOST_MISFITS * profile.n_rows:
            return verbatim
    if is_integral(value_type):
        if profile.n_wide > _MOST_MISFITS * max(1, profile.n_values):
            return verbatim
        values = _sample_of(sample, value_type)
        transform: IntegerTransform | FloatTransform = _choose_integers(value_type, profile, values, tolerance)
    elif pa.types.is_floating(value_type):
        values = _sample_of(sample, value_type)
        transform = _choose_floats(profile, values, tolerance)
    elif kind == "numeric":
        return _categorical(verbatim, storage, profile, sample)
    else:
        return verbatim
    if isinstance(transform, IntegerLevels | FloatLevels | OrderedBits):
        lossless = True
    else:
        lossless = transform.bound == 0 and not tolerance.is_distortion
    codes, fits = transform.forward(values)
    if fits is not None:
        codes = codes[fits]
    # nothing is told by the bits of floats: their range, three numbers of twenty digits a column, would only lie in the plan
    lo, hi = (0, 0) if isinstance(transform, OrderedBits) else _code_range(transform, profile, value_type, codes)
    n_levels = levels_of(transform)
    fill = int(np.sort(codes)[len(codes) // 2]) if len(codes) else lo
    return ColumnPlan(
        item.name, index, item, kind, LOSSLESS if lossless else tolerance, transform, n_levels, lo, hi,
        min(max(fill, lo), hi), width,
        has_state=profile.has_state or fits is not None,
        opaque=isinstance(transform, OrderedBits),
    )  # fmt: skip


def without_levels(plan: ColumnPlan, sample: pa.ChunkedArray) -> ColumnPlan:
    """A lossless plan of the same column without its dictionary: the lattice or the bits of floats, the digits of texts, anything
    else verbatim."""
    if not isinstance(plan.transform, FloatLevels):
        return _counted_text(ColumnPlan(plan.name, plan.index, plan.field, "verbatim", plan.tolerance), plan.has_state, sample)
    values = _sample_of(sample, plan.value_type)
    lattice, rate = _decimals(values)
    opaque = lattice is None or rate > _MOST_OFF_LATTICE
    transform = OrderedBits(values.dtype.str, _is_single(values)) if lattice is None or opaque else lattice
    codes, fits = transform.forward(values)
    ends, _ = transform.forward(np.array([plan.transform.levels.min(), plan.transform.levels.max()]))
    lo, hi = min(int(ends.min()), int(codes.min(initial=ends[0]))), max(int(ends.max()), int(codes.max(initial=ends[0])))
    fill = int(np.sort(codes)[len(codes) // 2]) if len(codes) else lo
    if opaque:
        lo = hi = fill = 0
    return ColumnPlan(
        plan.name, plan.index, plan.field, plan.kind, LOSSLESS, transform, None, lo, hi, fill, plan.width,
        has_state=plan.has_state or fits is not None, opaque=opaque,
    )  # fmt: skip


def _code_range(transform: Any, profile: ColumnProfile, value_type: pa.DataType, codes: Any) -> tuple[int, int]:
    """Codes of the profile's extremes, and of the sample."""
    n_levels = levels_of(transform)
    if n_levels is not None:
        return 0, n_levels - 1
    ends = []
    if profile.minimum is not None and profile.maximum is not None:
        if is_integral(value_type):
            pair = np.array([(int(x) + 2**63) % 2**64 - 2**63 for x in (profile.minimum, profile.maximum)], np.int64)
        else:
            pair = np.array([profile.minimum, profile.maximum], f"f{value_type.bit_width // 8}")
        found, fits = transform.forward(pair)
        ends = [int(c) for c, good in zip(found, [True, True] if fits is None else fits, strict=True) if good]
    if len(codes):
        ends += [int(codes.min()), int(codes.max())]
    return (min(ends), max(ends)) if ends else (0, 0)


def _sample_of(sample: pa.ChunkedArray, value_type: pa.DataType) -> Any:
    """(n,) values of the sample that are neither null nor special: int64 for integral types, else floats."""
    pieces = []
    for piece in sample.chunks:
        chunk = storage_of(piece)
        if pa.types.is_fixed_size_list(chunk.type):
            chunk = chunk.flatten() if chunk.null_count else elements_of(chunk)
        valid = valid_of(chunk)
        if is_integral(value_type):
            x, fits = integers_of(chunk)
            if fits is not None:
                valid = fits if valid is None else valid & fits
        else:
            x = raw_values(chunk)
            good = np.isfinite(x) & ~((x == 0) & np.signbit(x))
            valid = good if valid is None else valid & good
        pieces.append(x if valid is None else x[valid])
    if not pieces:
        return np.zeros(0, np.int64 if is_integral(value_type) else f"f{value_type.bit_width // 8}")
    whole = np.concatenate(pieces)
    if len(whole) > _SAMPLE_CELLS:
        stride = len(whole) / _SAMPLE_CELLS
        whole = whole[(np.arange(_SAMPLE_CELLS) * stride).astype(np.int64)]
    return whole


def _categorical(verbatim: ColumnPlan, storage: pa.DataType, profile: ColumnProfile, sample: pa.ChunkedArray) -> ColumnPlan:
    """A dictionary when the values are few, or are one in the source already; else verbatim."""
    inner, index_type, ordered = storage, None, False
    kind, opaque = "categorical", False
    if pa.types.is_dictionary(storage):
        inner, index_type, ordered = storage.value_type, storage.index_type, storage.ordered
    theirs = profile.dictionary
    if not is_hashable(inner):
        return verbatim
    if theirs is not None:
        if len(theirs) == 0 or theirs.null_count or _has_twins(theirs):
            return verbatim
        values = theirs
        if len(values) > MOST_DISTINCT:
            kind, opaque = "numeric", True
    else:
        n_present = profile.n_rows - profile.n_null
        if profile.distinct is None or (len(profile.distinct) > MOST_DISTINCT_SHARE * n_present and n_present):
            return _counted_text(verbatim, profile.n_null > 0, sample)
        if len(profile.distinct) > _FEW_TEXTS:
            amounts = _counted_text(verbatim, profile.n_null > 0, sample, len(profile.distinct))
            if amounts.transform is not None:
                return amounts
        values = as_type(profile.distinct, inner) if len(profile.distinct) else _some_value(inner)
        if values is None:
            return verbatim
    transform = ValueDictionary(values, index_type, ordered)
    counts = np.zeros(len(values), np.int64)
    for piece in sample.chunks:
        codes = transform.encode(storage_of(piece), 0)
        seen = codes.values if codes.state is None else codes.values[codes.state == 0]
        counts += np.bincount(seen, minlength=len(values))
    fill = int(counts.argmax())
    n = len(values)
    return ColumnPlan(
        verbatim.name, verbatim.index, verbatim.field, kind, LOSSLESS, transform, n, 0, n - 1, fill,
        has_state=profile.n_null > 0, opaque=opaque,
    )  # fmt: skip


def _counted_text(verbatim: ColumnPlan, has_state: bool, sample: pa.ChunkedArray, n_words: int = 0) -> ColumnPlan:
    """The plan of texts of one pattern as numbers; verbatim for anything else. n_words: as many as there are where they recur, which have
    to be better numbers than words."""
    plain = [storage_of(piece) for piece in sample.chunks]
    if not plain or not is_text(plain[0].type) or (transform := find_written(body_of(pa.chunked_array(plain)))) is None:
        return verbatim
    codes = [transform.encode(piece, 0) for piece in plain]
    values = np.concatenate([c.values if c.state is None else c.values[c.state == 0] for c in codes])
    if n_words and not are_amounts(transform, values, n_words):
        return verbatim
    fill = int(np.sort(values)[len(values) // 2])
    return ColumnPlan(
        verbatim.name, verbatim.index, verbatim.field, "numeric", LOSSLESS, transform, None, int(values.min()), int(values.max()), fill,
        has_state=has_state or any(c.state is not None for c in codes),
    )  # fmt: skip


def _has_twins(values: pa.Array) -> bool:
    return len(hashable(values).unique()) != len(values)


def _some_value(value_type: pa.DataType) -> pa.Array | None:
    """One value of the type, so that the dictionary of an all-null column has a code."""
    t = pa.types
    if t.is_fixed_size_binary(value_type):
        return pa.array([bytes(value_type.byte_width)], value_type)
    if t.is_string(value_type) or t.is_large_string(value_type) or t.is_string_view(value_type):
        return pa.array([""], value_type)
    if t.is_binary(value_type) or t.is_large_binary(value_type) or t.is_binary_view(value_type):
        return pa.array([b""], value_type)
    if t.is_decimal(value_type):
        return pa.array([Decimal(0)], value_type)
    return pa.array([0], pa.int64()).cast(value_type, safe=False) if t.is_integer(value_type) else None


def _choose_integers(value_type: pa.DataType, profile: ColumnProfile, values: Any, tolerance: Tolerance) -> IntegerTransform:
    step = max(1, min(profile.step, 2**62))
    origin = profile.origin or 0
    minimum, maximum = int(profile.minimum or 0), int(profile.maximum or 0)
    offset = 2**63 if pa.types.is_uint64(value_type) and maximum >= 2**63 else 0
    if step > 1 and profile.step:
        offset = origin % step if not offset else offset + (origin - offset) % step
    elif profile.step == 0:
        step = 1
    exact = IntegerLattice(offset, step)
    unsigned = pa.types.is_uint64(value_type)
    unscale = 10**value_type.scale if pa.types.is_decimal(value_type) else 1
    if not tolerance.is_lossless:
        asked = Decimal(repr(tolerance.value)) * unscale
        if tolerance.is_distortion:
            group = int(min(asked / _GRID_STEPS_PER_RMSE / step, Decimal(2**62 // step)))
            coarse = ((maximum - minimum) // step) // _MOST_GRID_LEVELS + 1
            group = max(group, min(coarse, int(asked / step)), 1)
            return IntegerLattice(minimum, step, group, int(asked) if step > 2 * asked else None, unsigned)
        bound = int(min(asked, Decimal(2**62)))
        group = 2 * bound // step + 1
        if group > 1 and step * group < 2**63:
            low, high = integer_range(value_type)
            if high - low < 2**64 - 1 or maximum - minimum < 2**62:
                return IntegerLattice(minimum, step, group, bound, unsigned)
    n = profile.n_distinct
    if n is not None and 0 < n <= 256 and not pa.types.is_boolean(value_type):
        points = (maximum - minimum) // step + 1
        if points > max(1024, 4 * n) and profile.n_values >= 20 * n:
            assert profile.distinct is not None
            return IntegerLevels(np.asarray(profile.distinct).astype(np.int64))
    return exact


def _choose_floats(profile: ColumnProfile, values: Any, tolerance: Tolerance) -> FloatTransform:
    dtype = values.dtype
    levels = _levels(profile, dtype)
    exact = _exact_floats(profile, values, levels)
    if tolerance.is_lossless:
        return exact
    if tolerance.is_distortion:
        span = float(profile.value_range)
        fine, coarse = tolerance.value / _GRID_STEPS_PER_RMSE, min(span / _MOST_GRID_LEVELS, tolerance.value)
        width = max(fine, coarse)
        step = exact.step / 10.0**exact.digits if isinstance(exact, DecimalLattice) else 0.0
        if isinstance(exact, DecimalLattice) and step >= width:
            return DecimalLattice(exact.dtype, exact.digits, exact.offset, exact.step, 1, exact.single, tolerance.value)
        # where floats lie further apart than the target, or a bin ends beyond the last of them, its middle may miss the target
        return Bins(dtype.str, min(width, float(np.finfo(dtype).max) / 4), tolerance.value)
    bound = min(tolerance.value, float(np.finfo(dtype).max) / 4)
    if isinstance(exact, DecimalLattice):
        grouped = _grouped(exact, values, bound)
        if grouped is not None:
            n_groups = float(profile.value_range) * 10.0**exact.digits / (grouped.step * grouped.group) + 1
            return levels if levels is not None and grouped.group > 1 and len(levels.levels) <= n_groups else grouped
    with np.errstate(over="ignore"):  # beyond the last float there is none: an infinite gap, and no bins
        slack = float(np.spacing(dtype.type(np.quantile(np.abs(values), 0.99)))) if len(values) else 0.0
    if not bound > slack or not math.isfinite(2 * bound):
        return exact
    width = usual_width(bound - slack)
    bins = Bins(dtype.str, width, bound)
    if isinstance(exact, FloatLevels) and len(exact.levels) <= float(profile.value_range) / width + 1:
        return exact
    return bins if _misfit_rate(bins, values) <= _MOST_MISFITS else exact


def _levels(profile: ColumnProfile, dtype: Any) -> FloatLevels | None:
    n = profile.n_distinct
    if n is None or n == 0 or n > max(1, profile.n_values // 4):
        return None
    assert profile.distinct is not None
    return FloatLevels(np.asarray(profile.distinct).astype(dtype))


def _exact_floats(profile: ColumnProfile, values: Any, levels: FloatLevels | None) -> FloatTransform:
    decimal, rate = _decimals(values)
    if decimal is not None and decimal.step and levels is not None:
        ends = np.array([profile.minimum, profile.maximum], values.dtype)
        codes, _ = decimal.forward(ends)
        points = abs(int(codes[1]) - int(codes[0])) + 1
        few = len(levels.levels)
        if rate > _MOST_OFF_LATTICE or points > _SPARSE_LATTICE * few:
            return levels
    if decimal is not None:
        return decimal
    if levels is not None:
        return levels
    return OrderedBits(values.dtype.str, _is_single(values))


def _is_single(values: Any) -> bool:
    """Whether a float64 column holds nothing but float32 numbers."""
    if values.dtype.itemsize != 8 or len(values) == 0:
        return False
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float32) == values).all())


def _decimals(values: Any) -> tuple[DecimalLattice | None, float]:
    """The decimal lattice of the sample with the fewest bits to pay, and its share of misfits.

    Only lattices much coarser than the floats themselves count: any float32 is a decimal of nine digits.
    """
    if len(values) == 0:
        return DecimalLattice(values.dtype.str, 0, 0, 1), 0.0
    probe = values if len(values) <= _PROBE_CELLS else values[:: len(values) // _PROBE_CELLS]
    single = _is_single(values)
    native = np.dtype(np.float32) if single else values.dtype
    with np.errstate(over="ignore"):
        size = np.quantile(np.abs(probe), 0.9).astype(native)
    grain = 8 * float(np.spacing(size)) if size < np.finfo(native).max else math.inf
    best: tuple[float, int] | None = None
    for digits in range(16):
        if 10.0**-digits < grain and float(size) * 10.0**digits > 4096:
            break
        rate = _misfit_rate(DecimalLattice(values.dtype.str, digits, 0, 1, 1, single), probe)
        cost = rate * _MISFIT_BITS + digits * _DIGIT_BITS
        if rate <= _MOST_MISFITS and (best is None or cost < best[0]):
            best = (cost, digits)
        if rate == 0:
            break
    if best is None:
        return None, 1.0
    plain = DecimalLattice(values.dtype.str, best[1], 0, 1, 1, single)
    codes, fits = plain.forward(values)
    rate = 0.0 if fits is None else 1.0 - float(fits.mean())
    if rate > _MOST_MISFITS:
        return None, 1.0
    points = codes if fits is None else codes[fits]
    origin = int(points[0])
    step = int(np.gcd.reduce(points - origin))
    if step <= 1 or abs(origin) > 2**53:
        return plain, rate
    return DecimalLattice(plain.dtype, plain.digits, origin % step, step, 1, single), rate


def _grouped(exact: DecimalLattice, values: Any, bound: float) -> DecimalLattice | None:
    """The lattice in the widest groups that keep the bound on the sample; itself when the bound is finer."""
    step = exact.step / 10.0**exact.digits
    most = int(min(2 * bound / step, 2.0**52 / exact.step)) + 1
    for group in (most, most - 1):
        if group <= 1:
            return exact
        lattice = DecimalLattice(exact.dtype, exact.digits, exact.offset, exact.step, group, False, bound)
        if _misfit_rate(lattice, values) <= 0.0005:
            return lattice
    return None


def _misfit_rate(transform: FloatTransform, values: Any) -> float:
    if len(values) == 0:
        return 0.0
    _, fits = transform.forward(values)
    return 0.0 if fits is None else 1.0 - float(fits.mean())
