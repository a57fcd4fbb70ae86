"""Texts as templates and fields: what is packed comes back byte for byte, and what is garbled is an error."""

from __future__ import annotations

import uuid
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core import packed_texts, streams
from vae_core.coders import fields
from vae_core.coders.fields import chains, columns, payload, templates
from vae_core.coders.fields.places import FIXED, HEX_LOWER, HEX_UPPER, KEPT_ONE, STRIPPED, Written
from vae_core.coders.fields.templates import found_in
from vae_core.coders.fields.tokens import cut
from vae_core.coders.parquet import chunk_bytes
from vae_core.coders.varints import varints
from vae_core.columns.blobs import pack_values, unpack_values
from vae_core.errors import CorruptArchive
from vae_core.shard import encode_shard

KINDS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view(), pa.binary_view())
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


def same(array: pa.Array, style: int | None) -> None:
    packed = fields.pack(array, style)
    if packed is None:
        return
    found = fields.unpack(packed, array.type, len(array))
    found.validate(full=True)
    assert found.equals(array)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.none() | TEXTS | st.text(max_size=9), max_size=40), st.sampled_from(KINDS), STYLES, st.integers(1, 40))
def test_any_texts_come_back(rows, kind, style, times):
    of_bytes = kind in (pa.binary(), pa.large_binary(), pa.binary_view())
    values = [row.encode() if row is not None and of_bytes else row for row in rows * times]
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
    found = found_in(cut(data, offsets), offsets, 16)
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


def events(n: int = 400, seed: int = 3) -> list[str | None]:
    """Log lines of a few kinds, with what every way of coding a column is for."""
    rng = np.random.default_rng(seed)
    addresses = [".".join(map(str, rng.integers(1, 255, 4))) for _ in range(9)]
    found: list[str | None] = []
    for k, kind in enumerate(rng.integers(0, 6, n)):
        lines = [
            f"{k:06d} GET /item/{rng.integers(0, 10**6)} from {addresses[rng.integers(0, 9)]} took {rng.normal(9, 2):.2f}ms",
            f"{k:06d} trace {rng.bytes(16).hex()} of {uuid.UUID(bytes=rng.bytes(16), version=4)}",
            f"{k:06d} balance -{rng.integers(1, 999)}.5 {float(rng.integers(1, 99)) / 8!r} {rng.integers(0, 2**40):X}",
            f"{k:06d} user {rng.choice(['ann', 'bob', 'eve'])}{rng.integers(0, 99)} {'very ' * rng.integers(0, 9)}tired at -0",
            "no number at all",
        ]
        found.append(None if kind == 5 else lines[kind])
    return found


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_garbled_payload_gives_other_texts_or_a_corrupt_archive(data):
    packed = bytearray(fields.pack(pa.array(events()), data.draw(STYLES)) or b"")
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    whole = bytes(packed[: data.draw(st.integers(0, len(packed)))]) if data.draw(st.booleans()) else bytes(packed)
    try:
        found = fields.unpack(whole, pa.large_binary(), 400)
    except CorruptArchive:
        return
    found.validate(full=True)
    assert len(found) == 400


LIST_OF_LISTS = bytes([columns.DISTINCT << 3]) + varints([1, 1]) + bytes([columns.DISTINCT << 3])


def made(told: bytes, *stored: bytes, n_bytes: int = 100) -> bytes:
    """A payload of templates and columns."""
    head = varints([0, n_bytes, len(told), len(told) + 1])
    return head + bytes([columns.RAW]) + told + b"".join(varints([len(column)]) + column for column in stored)


def test_a_payload_is_as_the_format_says():
    told = varints([1, 3, 4]) + b"x=" + varints([1, FIXED, 1, 3, 2]) + b"!"
    packed = made(told, columns.pack_integers(np.array([5, -123, 4567])), n_bytes=3 * 3 + 4 + 5 + 5)
    assert fields.unpack(packed, pa.string(), 3).to_pylist() == ["x=00.5!", "x=-12.3!", "x=456.7!"]


@pytest.mark.parametrize(
    ("told", "stored", "n", "says"),
    [
        (varints([1, 1, 2 << 40]), (), 1, "cut short"),
        (varints([1, 1, 400]) + bytes(200), (), 1 << 22, "stands for more"),
        (varints([1 << 20]), (), 1, "1048576 where 0 to"),
        (varints([1, 1 << 20]), (), 1, "1048576 where 0 to"),
        (varints([1, 1, 1, 6, 0, 0]), (b"\0",), 1, "written in way 6"),
        (varints([1, 1, 1, FIXED, 19, 0]), (b"\0",), 1, "written in way 1, 19"),
        (varints([1, 1, 1, HEX_LOWER, 0, 9]), (b"\0",), 1, "written in way 4, 0, 9"),
        (varints([1, 1, 3, FIXED, 0, 0]), (b"\0",), 1, "columns that are not there"),
        (varints([1, 2, 1, FIXED, 0, 0, 1, 0, 0, 0]), (b"\0",), 1, "of texts and of integers"),
        (varints([1, 1, 1, HEX_LOWER, 0, 0]), (columns.pack_integers(np.array([-1])),), 1, "holds -1 to -1"),
        (varints([1, 1, 1, HEX_LOWER, 0, 0]), (columns.pack_integers(np.array([1 << 32])),), 1, "holds 4294967296"),
        (varints([1, 1, 1, FIXED, 0, 0]), (columns.pack_integers(np.array([10**18])),), 1, "holds 1000000000000000000"),
        (varints([1, 1, 1, FIXED, 0, 0]), (columns.pack_integers(np.array([-(2**63)])),), 1, "holds -9223372036854775808"),
        (varints([1, 1, 1, FIXED, 0, 0]), (columns.pack_integers(np.array([7])),), 1, "99 bytes shorter"),
        (varints([1, 1, 1, FIXED, 0, 0]), (columns.pack_integers(np.arange(101)),), 101, "stands for more"),
        (varints([2, 0, 0]), (columns.pack_integers(np.array([2])),), 1, "has template 2 of 2"),
        (varints([0]), (), 1, "have no template"),
        (varints([0, 0]), (), 0, "have a tail"),
        (varints([1, 0]), (b"",), 1, "has a tail"),
        (varints([1, 1, 1, 0, 0, 0]), (bytes([columns.LISTED]) + varints([1, 3]) + bytes([columns.LISTED, 0, 0, 0]),), 1, "does not know"),
        (varints([1, 1, 1, 0, 0, 0]), (bytes([columns.FIELDS]) + made(b""),), 1, "does not know"),
        (varints([1, 1, 1, FIXED, 0, 0]), (LIST_OF_LISTS,), 1, "does not know"),
    ],
)
def test_a_payload_that_cannot_be_is_refused_before_memory_is_taken_for_it(told, stored, n, says):
    with pytest.raises(CorruptArchive, match=says):
        fields.unpack(made(told, *stored), pa.binary(), n)


def test_a_payload_that_claims_more_than_is_read_is_refused():
    with pytest.raises(CorruptArchive, match="268435457"):
        fields.unpack(made(b"", n_bytes=(1 << 28) + 1), pa.string(), 1)
    with pytest.raises(CorruptArchive, match="fields of type int64"):
        fields.unpack(made(b""), pa.int64(), 1)
    with pytest.raises(CorruptArchive, match="are no string"):
        fields.unpack(fields.pack(pa.array([b"\xff%d" % k for k in range(40)])), pa.string(), 40)


@pytest.mark.parametrize("style", payload.STYLES)
def test_hashes_that_meet_by_chance_cost_bytes_alone(style, monkeypatch):
    array = pa.array(events())
    few = len(fields.pack(array, style) or b"")
    for module in (templates, chains):
        monkeypatch.setattr(module, "mixed", lambda numbers: np.zeros(len(numbers), np.uint64))
    same(array, style)
    assert len(fields.pack(array, style) or b"") >= few


def test_texts_of_numbers_are_fields_in_every_block_and_what_is_reported_stays_parquet():
    rng = np.random.default_rng(5)
    n = 6000
    table = pa.table({
        "id": [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n)],
        "where": pa.array([f"{a:.5f},{b:.5f}" for a, b in rng.normal(48, 0.1, (n, 2))], mask=rng.random(n) < 0.1),
        "path": [f"/v{a % 2}/items/{a}?page={b}" for a, b in zip(rng.zipf(1.1, n) % 10**6, rng.geometric(0.4, n), strict=True)],
        "sha": [rng.bytes(20).hex() for _ in range(n)],
        "n": np.arange(n) % 7,
    })  # fmt: skip
    model = fitted(table, preview="off").model
    shard = encode_shard(model, table, block_rows=2000)
    coded = {outcome.name: outcome for outcome in shard.outcomes}
    assert [coded[name].coding for name in ("id", "where", "path")] == ["fields"] * 3
    assert coded["id"].n_bytes < 15.4 * n and coded["where"].n_bytes < 4.1 * n
    assert coded["sha"].coding.startswith("parquet-")  # 3 % less is too little
    for name in ("id", "where"):
        plain = min(chunk_bytes(table[name].combine_chunks(), encoding) for encoding in ("plain", "dictionary", "delta"))
        assert coded[name].conventional_bytes == plain > 1.2 * coded[name].n_bytes
    assert_kept(table, decoded(stored_again(model), shard))


def test_a_column_told_by_one_that_is_fields_is_read():
    rng = np.random.default_rng(6)
    n = 5000
    key = rng.integers(0, 400, n)
    ids = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(400)]
    table = pa.table({"id": [ids[k] for k in key], "of": key % 17, "at": [f"{k:07d}.{k % 97:02d}" for k in rng.integers(0, 10**7, n)]})
    model = fitted(table, preview="off").model
    assert {code.column: code.columns for code in model.codes}[1] == {0}
    dear = mock.patch.object(streams, "misfit_bytes", lambda column: 10**9 * (column.array.type == pa.string()))
    with dear, mock.patch.object(packed_texts, "WORTH_PACKING", 9.0):
        shard = encode_shard(model, table)
    coded = {outcome.name: outcome.coding for outcome in shard.outcomes}
    assert coded["id"] == "fields" and coded["of"] == "learned"
    assert_kept(table, decoded(stored_again(model), shard))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_garbled_dictionary_of_fields_gives_other_values_or_a_corrupt_archive(data):
    values = pa.array([f"{k * 7919 % 10007:05d}-{k:x}" for k in range(500)])
    blob = bytearray(pack_values(values))
    assert blob[:1] == b"T" and unpack_values(bytes(blob), pa.string()).equals(values)
    assert len(blob) < len(pack_values(values, as_fields=False))
    blob[data.draw(st.integers(1, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack_values(bytes(blob), pa.string())
    except CorruptArchive:
        return
    found.validate(full=True)
    assert not found.null_count


def test_texts_too_long_for_fields_are_packed_end_to_end(monkeypatch):
    array = pa.array([f"{row} and so on" for row in events(3000) if row])
    spans, plain = [(0, len(array) // 2), (len(array) // 2, len(array) - len(array) // 2)], chunk_bytes(array, "plain")
    coding, parts = packed_texts.packed(array, spans, plain, "plain") or ("", [])
    assert coding == "fields"
    found = [fields.unpack(part, array.type, n) for part, (_, n) in zip(parts, spans, strict=True)]
    assert pa.concat_arrays(found).equals(array)
    monkeypatch.setattr(payload, "MOST_PACKED", 1000)
    assert (packed_texts.packed(array, spans, plain, "plain") or ("", []))[0] == "texts"
    assert packed_texts.packed(array, spans, sum(map(len, parts)), None) is None
