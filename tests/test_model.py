from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from telemetry import SENSORS, decoded, fitted, telemetry
from test_coders_texts import prose
from test_exact_cells import HOSTILE, changed, leaves

from vae_core.columns import ColumnPlan, blobs, decode_column, encode_column
from vae_core.columns.dictionaries import Unread, ValueDictionary
from vae_core.errors import CorruptArchive
from vae_core.model import COLUMNS, COLUMNS_PACKED, DECODER, ENCODER, PLAN, Model
from vae_core.packing import unzstd, zstd
from vae_core.phrases import decompressed
from vae_core.quality import digest
from vae_core.shard import encode_shard, sample_rows
from vae_core.shorthand import shorten, spell_out

TOLERANCES = ("temp=0.05", *(f"{name}=rmse:3%" for name in SENSORS))


@pytest.fixture(scope="module")
def raw() -> pa.Table:
    return telemetry(1200, 4)


@pytest.fixture(scope="module")
def model(raw) -> Model:
    found = fitted(raw, TOLERANCES, preview=0.8).model
    assert found.preview is not None and found.distortion is not None and found.uniform and found.codes
    return found


class Files:
    """The files of a model, with the plan open; a plain class, whose short repr hypothesis may print."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        unpacked = decompressed(files[PLAN], 1 << 24, "a plan")
        cut = 4 + int.from_bytes(unpacked[:4], "little")
        self.schema, self.plan = unpacked[4:cut], json.loads(unpacked[cut:])

    def with_plan(self, plan: Any, schema: bytes | None = None) -> dict[str, bytes]:
        """The files with another plan."""
        schema = self.schema if schema is None else schema
        body = len(schema).to_bytes(4, "little") + schema + json.dumps(plan).encode()
        return {**self.files, PLAN: zstandard.ZstdCompressor().compress(body)}


@pytest.fixture(scope="module")
def files(model) -> Files:
    return Files(model.to_files())


def test_a_model_comes_back_from_its_files_and_gives_them_again(model):
    files = model.to_files()
    assert set(files) == {PLAN, DECODER, ENCODER}
    again = Model.from_files(files)
    assert again.to_files() == files
    assert again.schema.equals(model.schema, check_metadata=True)
    assert again.codes == model.codes and again.learned.keys() == model.learned.keys()


def test_a_model_without_its_encoder_decodes_the_same_and_cannot_encode_its_base_layers(model, raw):
    reader = Model.from_files({name: data for name, data in model.to_files().items() if name != ENCODER})
    shard = encode_shard(model, raw)
    assert digest(decoded(reader, shard).to_batches()) == digest(decoded(model, shard).to_batches())
    assert digest(sample_rows(reader, raw, 50, 1).to_batches()) == digest(sample_rows(model, raw, 50, 1).to_batches())
    with pytest.raises(ValueError, match="without its encoder"):
        encode_shard(reader, raw)


def test_a_model_without_its_schema_is_read_by_who_knows_it(model):
    files = model.to_files(with_schema=False)
    again = Model.from_files(files, model.schema)
    assert again.to_files() == model.to_files() and len(files[PLAN]) < len(model.to_files()[PLAN])
    with pytest.raises(CorruptArchive):
        Model.from_files(files)
    with pytest.raises(CorruptArchive):
        Model.from_files(files, model.schema.remove(0))


def test_a_model_of_no_rows_and_of_one_comes_back(raw):
    for n in (0, 1):
        model = fitted(raw.slice(0, n)).model
        assert Model.from_files(model.to_files()).to_files() == model.to_files()


def joined(files: Mapping[str, bytes]) -> bytes:
    tensors = load(files[DECODER])
    return unzstd(tensors[COLUMNS_PACKED].tobytes()) if COLUMNS_PACKED in tensors else tensors[COLUMNS].tobytes()


def test_dictionaries_alike_are_stored_about_once():
    words = pa.array([f"a word of some length {k % 7}" for k in range(400)])
    one, many = (fitted(pa.table({f"c{k}": words for k in range(n)})).model.to_files() for n in (1, 60))
    assert len(many[DECODER]) < 1.3 * len(one[DECODER])
    assert Model.from_files(many).to_files() == many


def test_packed_blobs_are_no_larger_than_the_plans_say(files):
    tensors = load(files.files[DECODER])
    tensors.pop(COLUMNS, None)
    bomb = np.frombuffer(zstd(bytes(50_000_000)), np.uint8)
    with pytest.raises(CorruptArchive, match="claims 50000000 bytes"):
        Model.from_files({**files.files, DECODER: save({**tensors, COLUMNS_PACKED: bomb})})


def test_a_plan_in_short_says_the_same(model, files):
    plan = json.loads(json.dumps(files.plan))
    blob = joined(files.files)
    spelt, blobs = spell_out(plan, model.schema.names, blob)
    assert spelt["columns"] == [column.to_json() for column in model.columns] and [c.to_json() for c in model.codes] == spelt["codes"]
    assert spelt["uniform"] == [column.to_json() for column in model.uniform.values()] != []
    own = {name: data for column in model.columns for name, data in column.blobs().items()}
    assert blobs == own | {f"uniform.{name}": data for c in model.uniform.values() for name, data in c.blobs().items()}
    assert shorten(spelt, blobs) == (plan, blob)
    assert len(json.dumps(plan)) < 0.7 * len(json.dumps(spelt))


@pytest.mark.parametrize("blob", [b"", b"Z", bytes(100_000)])
def test_blobs_that_do_not_tile_their_tensor_are_a_corrupt_archive(model, files, blob):
    with pytest.raises(CorruptArchive, match="bytes"):
        spell_out(files.plan, model.schema.names, blob)


@pytest.mark.parametrize("bound", [None, 0.0, -1.0, 1, "1", float("inf"), float("nan"), 1e308, [1.0]])
def test_bins_and_tolerances_that_would_follow_from_no_bound_are_refused(bound):
    table = pa.table({"x": np.random.default_rng(0).normal(0, 1, 500)})
    model = fitted(table, ["x=1%"]).model
    files = Files(model.to_files())
    [[kind, about, *rest, tolerance]] = files.plan["columns"]
    assert (about[0], about[2], tolerance) == ("bins", 0, 1)
    for width in (0, 0.5):
        changed = [kind, ["bins", "<f8", width, bound], *rest, tolerance]
        with pytest.raises(CorruptArchive, match="model"):
            Model.from_files(files.with_plan({**files.plan, "columns": [changed]}))


def test_edges_that_would_grow_without_end_are_refused(files, model):
    code = [0, 0, 0, [["direct", 0, 2, 0], None, [[[["bins", 0, ["x" * 1000] * 1000]], [1, 1]]], 1024]]
    with pytest.raises(CorruptArchive, match="no integers"):
        spell_out({**files.plan, "codes": [code]}, model.schema.names, joined(files.files))


def test_another_version_is_refused_by_name(files):
    with pytest.raises(CorruptArchive, match=r"version 99.*reads"):
        Model.from_files(files.with_plan({**files.plan, "version": 99}))


def test_what_a_plan_favours_is_read_as_older_formats_said_it_and_is_no_matter_where_it_is_nothing(files):
    assert "favour" not in files.plan and Model.from_files(files.files).favour == "balance"
    assert Model.from_files(files.with_plan({**files.plan, "version": 14})).favour == "size"
    assert Model.from_files(files.with_plan({**files.plan, "for_reading": True})).favour == "reading"
    assert Model.from_files(files.with_plan({**files.plan, "favour": "size"})).favour == "size"
    for wrong in ("beauty", 1, None, ["size"]):
        assert Model.from_files(files.with_plan({**files.plan, "favour": wrong})).favour == "balance"


@pytest.mark.parametrize("name", [PLAN, DECODER, ENCODER])
@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: d[::-1], lambda d: bytes(len(d)), lambda d: d[:7]])
def test_damaged_files_are_a_corrupt_archive(files, name, damage: Callable[[bytes], bytes]):
    with pytest.raises(CorruptArchive):
        Model.from_files({**files.files, name: damage(files.files[name])})


@pytest.mark.parametrize("name", [PLAN, DECODER])
def test_missing_files_are_a_corrupt_archive(files, name):
    with pytest.raises(CorruptArchive):
        Model.from_files({k: v for k, v in files.files.items() if k != name})


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_hostile_plan_is_a_corrupt_archive_or_a_model(files, data):
    path = data.draw(st.sampled_from(paths_of(files.plan)))
    plan = changed(files.plan, path, data.draw(st.sampled_from(HOSTILE)))
    try:
        found = Model.from_files(files.with_plan(plan))
    except CorruptArchive:
        return
    found.to_files()


def paths_of(plan: Any) -> list[tuple[Any, ...]]:
    """Nodes of a plan, the shallow ones as often as the deep ones."""
    found = leaves(plan)
    depth = max(len(path) for path in found)
    return [path for k in range(1, depth + 1) for path in [p for p in found if len(p) == k][:40]]


@pytest.mark.parametrize("plan", [None, [], 3, "x", {}, {"version": 2}])
def test_a_plan_that_is_none_is_a_corrupt_archive(files, plan):
    with pytest.raises(CorruptArchive):
        Model.from_files(files.with_plan(plan))


def test_a_plan_as_deep_as_a_well_is_a_corrupt_archive(files):
    deep = b'{"version":2,"columns":' + b"[" * 200_000
    body = len(files.schema).to_bytes(4, "little") + files.schema + deep
    with pytest.raises(CorruptArchive):
        Model.from_files({**files.files, PLAN: zstandard.ZstdCompressor().compress(body)})


def test_a_plan_for_another_schema_is_a_corrupt_archive(files, raw):
    for schema in (raw.schema.remove(0), pa.schema([*raw.schema][::-1]), raw.schema.append(pa.field("more", pa.int8()))):
        with pytest.raises(CorruptArchive):
            Model.from_files(files.with_plan(files.plan, schema.serialize().to_pybytes()))
    with pytest.raises(CorruptArchive):
        Model.from_files(files.with_plan(files.plan, b"no schema"))


def test_a_column_is_coded_once_and_after_what_it_is_conditioned_on(model):
    twice = replace(model, codes=(*model.codes, model.codes[0]))
    backwards = replace(model, codes=model.codes[::-1])
    assert any(code.columns for code in model.codes)
    for wrong in (twice, backwards):
        with pytest.raises(CorruptArchive, match="twice, or before"):
            wrong.check()
    other_fill = replace(model, codes=(replace(model.codes[0], fill=model.codes[0].fill + 1), *model.codes[1:]))
    with pytest.raises(CorruptArchive, match="two different codes"):
        other_fill.check()


def test_verbatim_columns_cannot_be_coded(model):
    verbatim = next(plan.index for plan in model.columns if plan.kind == "verbatim")
    wrong = replace(model, codes=(replace(model.codes[0], column=verbatim),))
    with pytest.raises(CorruptArchive):
        Model.from_files(wrong.to_files())


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_hostile_tensors_are_a_corrupt_archive_or_a_model(files, data):
    tensors = load(files.files[DECODER])
    name = data.draw(st.sampled_from(sorted(tensors)))
    flat = bytearray(tensors[name].tobytes())
    how = data.draw(st.sampled_from(["flip", "cut", "drop", "type", "shape"]))
    if how == "drop":
        del tensors[name]
    elif how == "type":
        tensors[name] = np.frombuffer(bytes(flat[: len(flat) // 4 * 4]), np.float32)
    elif how == "shape":
        tensors[name] = tensors[name].reshape(1, -1)
    elif how == "cut":
        tensors[name] = np.frombuffer(bytes(flat[: data.draw(st.integers(0, len(flat)))]), np.uint8)
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            flat[data.draw(st.integers(0, len(flat) - 1))] ^= data.draw(st.integers(1, 255))
        tensors[name] = np.frombuffer(bytes(flat), np.uint8)
    try:
        found = Model.from_files({**files.files, DECODER: save(tensors)})
        for base in (found.preview, found.distortion):
            if base is not None:
                base.layer.decode(base.layer.sample(20, np.random.default_rng(0)))
    except CorruptArchive:
        return


def test_a_plan_states_what_the_sample_cost(model, raw):
    learned_bits = 8 * sum(o.n_bytes for o in encode_shard(model, raw).outcomes if o.coding == "learned")
    assert model.rate_bits_per_row > 0 and learned_bits / raw.num_rows < 2 * model.rate_bits_per_row


def test_a_mixed_dictionary_is_read_when_its_column_is_and_its_claim_is_checked_before():
    titles = sorted({row.rpartition(" ")[0] for row in prose(110)})[:90]
    rng = np.random.default_rng(2)
    table = pa.table({"title": pa.array(rng.choice(titles, 3000)), "n": rng.integers(0, 5, 3000)})
    model = fitted(table, preview="off").model
    read = Model.from_files(model.to_files())
    title, n = read.columns
    assert isinstance(title.transform, ValueDictionary) and isinstance(title.transform.held, Unread)
    with mock.patch.object(blobs.mixed, "unpack", side_effect=AssertionError("read though nobody asked")):
        assert decode_column(n, encode_column(n, table["n"])).equals(table["n"].combine_chunks())
        assert len(title.transform) == title.n_levels == 90
    assert decode_column(title, encode_column(title, table["title"])).equals(table["title"].combine_chunks())
    [(name, blob)] = model.columns[0].blobs(mixing=model.mixing).items()
    assert blob[:1] == b"M"
    for lie in (91, 1 << 31):
        other = {name: blob[:2] + lie.to_bytes(4, "little") + blob[6:]}
        for n_values in (90, lie):
            told = {**title.to_json(), "transform": {"t": "dictionary", "n": n_values}}
            with pytest.raises(CorruptArchive, match=r"claims|mixed texts"):
                plan = ColumnPlan.from_json(told, other, table.schema)
                decode_column(plan, encode_column(plan, table["title"]))
