"""Schemas as bytes: exact whatever they hold, short where fields are alike, refused where they are something else."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.entries import schema_from_bytes, schema_to_bytes
from storage.leaves import Leaves, Recipe
from vae_core import schemas
from vae_core.errors import CorruptArchive
from vae_core.phrases import compressed
from vae_core.schemas import schema_from_message, schema_to_message

KINDS = st.sampled_from([
    pa.int64(), pa.float32(), pa.string(), pa.decimal128(9, 2), pa.timestamp("us", "Europe/Paris"), pa.list_(pa.float64(), 3),
    pa.list_(pa.field("item", pa.int8(), nullable=False)), pa.list_(pa.field("item", pa.int8(), metadata={"a": "b"})), pa.list_(pa.int8()),
    pa.struct([pa.field("a", pa.int8(), metadata={"k": "v"}), ("b", pa.string())]), pa.map_(pa.string(), pa.int32()),
    pa.dictionary(pa.int8(), pa.string()), pa.fixed_shape_tensor(pa.int16(), (2, 3)), pa.uuid(),
])  # fmt: skip
METADATA = st.sampled_from([None, {"unit": "V"}, {b"\xff\n": b"[\x00"}])
FIELDS = st.builds(pa.field, st.text(st.characters(exclude_categories=["Cs"]), max_size=4), KINDS, st.booleans(), METADATA)


@given(st.lists(FIELDS, max_size=12).flatmap(lambda fields: st.builds(pa.schema, st.just(fields * 3), METADATA)))
def test_any_schema_comes_back_with_its_metadata(schema):
    told = pa.ipc.read_schema(schema.serialize())  # which says what it knows of maps
    for back in (schema_from_message(schema_to_message(schema)), schema_from_message(schemas._short(schema))):
        assert back.equals(told, check_metadata=True)
        assert all(a.type.equals(b.type) and str(a.type) == str(b.type) for a, b in zip(back, told, strict=True))
    assert schema_from_bytes(schema_to_bytes(schema), "here").equals(told, check_metadata=True)
    assert schema_from_message(schema.serialize().to_pybytes()).equals(told, check_metadata=True)


def test_fields_alike_take_little_more_than_their_names():
    schema = pa.schema([(f"sensor_{k}", pa.float64()) for k in range(2000)])
    names = len(compressed(json.dumps(schema.names, separators=(",", ":")).encode()))
    assert len(schema_to_bytes(schema)) < names + 150
    assert len(schema_to_bytes(schema)) < 0.2 * len(compressed(schema.serialize().to_pybytes()))


def test_the_schema_that_leaves_are_of_is_short_too():
    outer = pa.schema([(f"pixel{k}", pa.uint8()) for k in range(784)])
    leaves = Leaves.of(outer, Recipe(strips={"pixel0": 784}))
    assert len(leaves.schema) == 1 and len(schema_to_bytes(leaves.schema)) < 1500
    assert Leaves.read(schema_from_bytes(schema_to_bytes(leaves.schema), "here")).outer.equals(outer, check_metadata=True)


MESSAGE = pa.schema([("", pa.int8())]).serialize().to_pybytes()


@pytest.mark.parametrize(
    "head",
    [
        b"[", b"[]", b"[[]]", b"[1,2]", b'[["a"],[]]', b'[["a"],[0]]', b'[["a"],[1,1]]', b'[["a"],[0,2]]', b'[["a"],[-1,1]]',
        b"[[1],[0,1]]", b'[["a"],[0,1,0]]', b'[["a"],[0.0,1]]', b'[["a"],[true,1]]', b'[["a"],[0,9999999999999]]', b'{"a":1}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_schema_is_a_corrupt_archive(head):
    with pytest.raises(CorruptArchive, match=r"^here: the schema"):
        schema_from_bytes(compressed(head + b"\n" + MESSAGE), "here")
    with pytest.raises(CorruptArchive, match=r"^here: the schema"):
        schema_from_bytes(compressed(head), "here")


@given(st.binary(max_size=300), st.integers(0, 400))
def test_damaged_schemas_are_corrupt_archives_or_schemas(data, at):
    message = bytearray(schemas._short(pa.schema([("a", pa.int8()), ("b", pa.string()), ("c", pa.int8())])))
    message[at : at + len(data)] = data
    try:
        assert isinstance(schema_from_bytes(compressed(bytes(message)), "here"), pa.Schema)
    except CorruptArchive as error:
        assert "here" in str(error)


def test_names_of_more_bytes_than_are_read_stay_a_message(monkeypatch):
    schema = pa.schema([(f"sensor_{k}", pa.float64()) for k in range(200)])
    assert schema_to_message(schema).startswith(b"[")
    monkeypatch.setattr(schemas, "MOST_HEAD", 1000)
    message = schema_to_message(schema)
    assert not message.startswith(b"[") and schema_from_message(message).equals(schema)


def test_names_without_end_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(schemas, "MOST_HEAD", 40)
    with pytest.raises(CorruptArchive, match="more than 40 bytes"):
        schema_from_bytes(compressed(b'[["' + b"a" * 60 + b'"],[0,1]]\n' + MESSAGE), "here")
