"""Nested values as columns: what is packed comes back cell for cell, and what is garbled is an error."""

from __future__ import annotations

import datetime as dt
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import plain_columns
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core import fitting, packed_nested
from vae_core.coders import nested
from vae_core.coders.fields import columns
from vae_core.coders.nested import cells, members, numbers, payload
from vae_core.coders.varints import Reader, varints
from vae_core.columns.blobs import pack_values, unpack_values
from vae_core.errors import CorruptArchive
from vae_core.quality import differences, digest
from vae_core.shard import encode_shard


@st.composite
def arrays(draw: st.DrawFn, n: int, depth: int = 3, is_leaf: bool = True) -> pa.Array:
    """(n,) of a type, nested to some depth, nulls at every level, often what is null holds something, often a slice."""
    kind = draw(st.sampled_from(["list", "large_list", "fixed", "map", "struct", *(["leaf"] * 3 if is_leaf else [])])) if depth else "leaf"
    if kind == "leaf":
        if draw(st.integers(0, 9)) == 0:
            return pa.nulls(n)
        array = draw(plain_columns(n))
        views = {pa.string_view(): pa.string(), pa.binary_view(): pa.large_binary()}
        return array.cast(views[array.type]) if array.type in views else array
    before = draw(st.integers(0, 2))
    n += before
    valid = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_) if draw(st.booleans()) else None
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    if kind == "struct":
        parts = [draw(arrays(n, depth - 1)) for _ in range(draw(st.integers(0, 3)))]
        whole = pa.Array.from_buffers(pa.struct([(f"m{i}", part.type) for i, part in enumerate(parts)]), n, [bits], children=parts)
        return whole.slice(before)
    if kind == "fixed":
        size = draw(st.integers(0, 3))
        values = draw(arrays(size * n, depth - 1))
        return pa.Array.from_buffers(pa.list_(values.type, size), n, [bits], children=[values]).slice(before)
    lengths = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    skipped = draw(st.integers(0, 2))
    offsets = skipped + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if kind == "map":
        keys = pa.array(draw(st.lists(st.sampled_from(["a", "b", "", "c"]), min_size=int(offsets[-1]), max_size=int(offsets[-1]))), pa.string())
        items = draw(arrays(int(offsets[-1]), depth - 1))
        of = pa.map_(pa.string(), items.type)
        values = pa.StructArray.from_arrays([keys, items], fields=list(of.field(0).type))
    else:
        values = draw(arrays(int(offsets[-1]), depth - 1))
        of = pa.list_(values.type) if kind == "list" else pa.large_list(values.type)
    offsets = offsets.astype(np.int64 if kind == "large_list" else np.int32)
    return pa.Array.from_buffers(of, n, [bits, pa.py_buffer(offsets)], children=[values]).slice(before)


def is_sound(array: pa.Array) -> bool:
    """Dates, times and decimals may hold what Arrow itself let in."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def same(array: pa.Array) -> bytes:
    packed = nested.pack(array)
    assert packed is not None
    found = nested.unpack(packed, array.type, len(array))
    found.validate(full=is_sound(array))
    assert found.type == array.type and len(found) == len(array) and not differences(array, found).any()
    one, other = (pa.table({"x": a}) for a in (array, found))
    assert digest([one]) == digest([other])
    return packed


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_any_nested_values_come_back(data):
    array = data.draw(arrays(data.draw(st.integers(0, 12)), is_leaf=False))
    array.validate()
    many = pa.concat_arrays([array] * data.draw(st.sampled_from([1, 1, 40])))
    with mock.patch.multiple(members, LEAST_OF_GROUP=1, LEAST_HITS=0.1), mock.patch.multiple(cells, _LEAST_GAIN=9.0):
        same(array)
        same(many.slice(min(3, len(many))))
    same(array)
