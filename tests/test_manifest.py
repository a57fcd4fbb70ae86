"""A snapshot is the same after a trip through its bytes, and small."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.document import from_varints, pack, to_json, to_varints, unpack
from storage.entries import ModelRef, ShardRef, SourceRecord, shard_folder
from storage.manifest import Manifest
from storage.verity import ObjectRef
from storage.version import check_version
from vae_core.errors import CorruptArchive

SCHEMA = pa.schema(
    [
        pa.field("when", pa.timestamp("us", "Europe/Paris"), nullable=False, metadata={"unit": "s", b"\xff": b"\x00"}),
        pa.field("a b", pa.dictionary(pa.int16(), pa.string(), ordered=True)),
        pa.field("A B", pa.list_(pa.struct([("x", pa.decimal128(20, 3))]))),
        pa.field("größe", pa.map_(pa.string(), pa.int8())),
        pa.field("t", pa.fixed_shape_tensor(pa.float32(), (2, 3))),
    ],
    metadata={"pandas": "{}", b"raw": b"\x00\xff"},
)


def read_back(manifest: Manifest) -> Manifest:
    data, objects, _ = manifest.to_objects()
    return Manifest.from_bytes(data, "here", lambda ref: objects[ref.path])


def shard(number: int, model: str, n_rows: int) -> ShardRef:
    identifier = f"{number:032x}"
    record = ObjectRef.of("", number.to_bytes(8, "little"))
    record = ObjectRef(
        f"{shard_folder(identifier, record)}/shard.json.zst", record.n_bytes, record.ends, record.digests
    )
    return ShardRef(identifier, model, n_rows, record)


@given(
    rows=st.lists(st.integers(0, 10**12), max_size=20),
    text=st.text(max_size=30),
    extra=st.dictionaries(
        st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=400), max_size=5
    ),
)
@settings(deadline=None, max_examples=50)
def test_a_snapshot_survives_its_bytes(rows: list[int], text: str, extra: dict[str, object]) -> None:
    models = [
        ModelRef(name * 64, {"plan.json.zst": ObjectRef.of(f"models/{name * 64}/plan.json.zst", name.encode())})
        for name in "ab"
    ]
    manifest = Manifest(
        schema=SCHEMA,
        models=tuple(models),
        shards=tuple(shard(i, models[i % 2].digest, n) for i, n in enumerate(rows)),
        parent=3,
        snapshot=4,
        created_at="2026-01-02T03:04:05Z",
        run=text.encode("utf-8", "replace").decode(),
        tolerances={"a b": {"kind": "absolute", "value": 0.1}},
        sources=tuple(SourceRecord(f"{i:02}.csv", n, None, "etag", i / 7, None) for i, n in enumerate(rows)),
        ledger={"latents": 5},
        verification={"violations": 0},
        extra={key.encode("utf-8", "replace").decode(): value for key, value in extra.items()},
    )
    back = read_back(manifest)
    assert back == manifest
    assert back.schema.equals(SCHEMA, check_metadata=True)
    assert back.n_rows == sum(rows)


def test_tolerances_of_many_columns_are_told_once_and_come_back() -> None:
    schema = pa.schema([(f"c{k}", pa.float64()) for k in range(600)])
    loose, tight = {"kind": "relative", "value": 0.01}, {"kind": "absolute", "value": 0.5}
    asked = {name: tight if name == "c77" else loose for name in schema.names if name != "c5"}
    told = Manifest(schema=schema, tolerances=asked).to_objects()[0]
    assert read_back(Manifest(schema=schema, tolerances=asked)).tolerances == asked
    assert len(told) < len(Manifest(schema=schema).to_objects()[0]) + 300


@pytest.mark.parametrize("told", [[[{}, 0, 6]], [[{}, -1, 1]], [[{}, 1]], [{}], "text", 7])
def test_tolerances_that_no_writer_tells_are_corrupt(told: object) -> None:
    manifest = Manifest(schema=SCHEMA, tolerances={SCHEMA.names[0]: {"kind": "absolute", "value": 0.5}})
    data, objects, _ = manifest.to_objects()
    body = json.loads(data)
    del body["sha256"]
    sealed = to_json(body | {"tolerances": told})[:-1]
    with pytest.raises(CorruptArchive, match="here"):
        seal = b',"sha256":"' + hashlib.sha256(sealed).hexdigest().encode() + b'"}'
        Manifest.from_bytes(sealed + seal, "here", lambda ref: objects[ref.path])


def test_a_shard_costs_a_snapshot_about_a_hundred_bytes() -> None:
    model = ModelRef("a" * 64, {})
    sizes = []
    for n in (0, 100):
        shards = tuple(shard(i, model.digest, 10**6) for i in range(n))
        data, objects, _ = Manifest(schema=SCHEMA, models=(model,), shards=shards).to_objects()
        sizes.append(len(data) + sum(map(len, objects.values())))
    assert (sizes[1] - sizes[0]) / 100 < 100


@given(st.lists(st.integers(0, 2**53), max_size=50), st.binary(max_size=5))
def test_varints_come_back_with_the_bytes_after_them(values: list[int], rest: bytes) -> None:
    assert from_varints(to_varints(values) + rest, len(values), "here") == (tuple(values), rest)


@pytest.mark.parametrize(("data", "n_values"), [(b"", 1), (b"\x80", 1), (b"\xff" * 20, 1), (b"\x01", 10**12)])
def test_damaged_varints_are_refused(data: bytes, n_values: int) -> None:
    with pytest.raises(CorruptArchive, match="here"):
        from_varints(data, n_values, "here")


@settings(deadline=None, max_examples=25)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=50), lambda inner: st.lists(inner, max_size=30), max_leaves=60
    )
)
def test_packed_values_come_back_and_are_never_longer(value: object) -> None:
    packed = pack(value)
    assert unpack(packed, "here") == value
    assert len(to_json(packed)) <= len(to_json(value))


@pytest.mark.parametrize(
    ("text", "says"),
    [("2.0", "archive has format 2.0, this release reads up to 1.22"), ("x", "no format version"), ("1", "no format")],
)
def test_versions_are_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(CorruptArchive, match=says):
        check_version(text, "FORMAT")
