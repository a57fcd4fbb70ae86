"""Texts as templates and fields: what is packed comes back byte for byte, and what is garbled is an error."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_core.coders import fields
from vae_core.coders.fields import payload
from vae_core.coders.fields.places import FIXED, HEX_LOWER, HEX_UPPER, KEPT_ONE, STRIPPED, Written
from vae_core.coders.fields.templates import found_in
from vae_core.coders.fields.tokens import cut

KINDS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
PIECES = st.one_of(
    st.sampled_from(["-", ".", ":", "/", " ", "", "x", "0", "00", "-0", "a", "F", "e5", "12ab", "9" * 19, "é", "0.50", "-.5", "1.2.3"]),
    st.integers(-(10**20), 10**20).map(str),
    st.integers(0, 2**140).map(lambda v: f"{v:x}"),
    st.integers(0, 2**70).map(lambda v: f"{v:X}"),
    st.floats().map(repr),
    st.uuids().map(str),
)
STYLES = st.sampled_from(payload.STYLES)
TEXTS = st.lists(PIECES, max_size=6).map("".join)


def same(array: pa.Array, style: payload.Style | None) -> None:
    packed = fields.pack(array, style)
    if packed is None:
        return
    found = fields.unpack(packed, array.type, len(array))
    found.validate(full=True)
    assert found.equals(array)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.none() | TEXTS | st.text(max_size=9), max_size=40), st.sampled_from(KINDS), STYLES, st.integers(1, 40))
def test_any_texts_come_back(rows, kind, style, times):
    values = [row.encode() if row is not None and pa.types.is_binary(kind) else row for row in rows * times]
    same(pa.array(values, kind).slice(min(3, len(values))), style)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=12) | TEXTS.map(str.encode), min_size=1, max_size=40), STYLES)
def test_any_bytes_come_back(rows, style):
    same(pa.array(rows * 20, pa.binary()), style)


def of(rows: list[str]) -> list[tuple[object, ...]]:
    """Templates with their places as how they are written."""
    array = pa.array(rows, pa.large_binary())
    data = np.frombuffer(array.buffers()[2], np.uint8)
    offsets = np.frombuffer(array.buffers()[1], np.int64)
    found = found_in(cut(data, offsets), offsets, 16, True)
    return [tuple(item if isinstance(item, bytes) else told(item.written) for item in template.items) for template in found]


def told(written: Written) -> object:
    return (written.how, written.width) if written.width else written.how


def test_numbers_are_found_as_they_are_written():
    rng = np.random.default_rng(0)
    n = 300
    assert of([str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n)])[0][1] == b"-"
    assert of([f"{v:.2f}" for v in rng.normal(0, 9, n)])[0] == (FIXED,)
    assert of([repr(round(float(v), 3)) for v in [1.0, *rng.normal(0, 9, n)]])[0] == (KEPT_ONE,)
    assert of([f"{round(float(v), 2):.6g}" for v in rng.normal(0, 9, n)])[0] == (STRIPPED,)
    assert of([f"{v:06d}ms" for v in rng.integers(0, 10**6, n)])[0] == ((FIXED, 6), b"ms")
    assert of([f"id={v:010X};" for v in rng.integers(0, 2**40, n)])[0] == (b"id=", (HEX_UPPER, 8), (HEX_UPPER, 2), b";")
    assert of([f"10.0.{a}.{b}" for a, b in rng.integers(0, 256, (n, 2))])[0] == (b"10.0.", FIXED, b".", FIXED)
    assert of([f"{a:02x}:{b:02x}" for a, b in rng.integers(0, 256, (n, 2))])[0] == ((HEX_LOWER, 2), b":", (HEX_LOWER, 2))
