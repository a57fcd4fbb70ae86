"""Texts in bzip2 or xz, or mixed: what is packed comes back, and what is garbled is an error."""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core.coders import mixed, texts
from vae_core.columns.blobs import pack_values, unpack_values
from vae_core.errors import CorruptArchive
from vae_core.shard import encode_shard

UNMIXED = mixed.unpack
KINDS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view(), pa.binary_view())


def prose(n: int, seed: int = 0) -> list[str]:
    """Rows of words, no two alike."""
    rng = np.random.default_rng(seed)
    words = ["gate", "closed", "delayed", "by", "fog", "über", "the", "inbound", "crew", "arrives", "late", "again"]
    return [f"{' '.join(rng.choice(words, rng.integers(2, 30)))} {k}" for k in range(n)]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.none() | st.text(max_size=40), max_size=60), st.sampled_from(KINDS), st.sampled_from([0, 1, 2]), st.integers(0, 3))
def test_any_texts_come_back(rows, kind, how, start):
    values = [row.encode() if row is not None and kind in (pa.binary(), pa.large_binary(), pa.binary_view()) else row for row in rows]
    array = pa.array(values, kind).slice(min(start, len(values)))
    packed = texts.pack(array, how)
    assert packed is not None
    found = texts.unpack(packed, kind, len(array))
    found.validate(full=True)
    assert found.equals(array)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.none() | st.text(max_size=40), max_size=60), st.sampled_from(KINDS), st.integers(0, 3))
def test_any_texts_come_back_mixed(rows, kind, start):
    values = [row.encode() if row is not None and kind in (pa.binary(), pa.large_binary(), pa.binary_view()) else row for row in rows]
    array = pa.array(values, kind).slice(min(start, len(values)))
    with mock.patch.multiple(mixed, WORTH_MIXING=100.0, LEAST_BYTES=0):
        packed = texts.pack(array, mixing=mixed.BALANCED)
    assert packed is not None and packed[0] == texts.MIXED
    found = texts.unpack(packed, kind, len(array))
    found.validate(full=True)
    assert found.equals(array)


def test_prose_is_mixed_where_that_is_worth_it():
    array = pa.array([*prose(900), None])
    sooner, fewer = texts.pack(array) or b"", texts.pack(array, mixing=mixed.BALANCED) or b""
    assert fewer[0] == texts.MIXED and len(fewer) < 0.9 * len(sooner)
    assert texts.unpack(fewer, pa.string(), 901).equals(array)
    assert texts.pack(array[:9], mixing=mixed.BALANCED) == texts.pack(array[:9])
    noise = pa.array(np.random.default_rng(3).integers(11, 256, (300, 40), np.uint8).tobytes().hex(" ", 20).split(" "))
    assert (texts.pack(noise, mixing=mixed.BALANCED) or b"")[0] != texts.MIXED


def test_a_dictionary_of_prose_is_mixed_and_comes_back_or_is_corrupt():
    values = pa.array(sorted(set(prose(700))))
    packed = pack_values(values, mixing=mixed.FOR_SIZE)
    assert packed[:1] == b"M" and len(packed) < 0.95 * len(pack_values(values))
    assert unpack_values(packed, pa.string()).equals(values)
    assert unpack_values(packed, pa.large_string()).equals(values.cast(pa.large_string()))
    rng = np.random.default_rng(0)
    for _ in range(60):
        garbled = bytearray(packed)
        garbled[rng.integers(0, len(packed) if rng.random() < 0.5 else 12)] ^= rng.integers(1, 256)
        try:
            assert len(unpack_values(bytes(garbled[: rng.integers(1, len(packed) + 1)]), pa.string())) >= 0
        except CorruptArchive:
            continue


def test_texts_of_every_byte_have_no_payload():
    assert texts.pack(pa.array([bytes(range(256))])) is None


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_garbled_payload_gives_other_texts_or_a_corrupt_archive(data):
    mixing = data.draw(st.sampled_from([None, mixed.BALANCED]))
    packed = bytearray(texts.pack(pa.array([*prose(50), None]), data.draw(st.sampled_from([1, 2])), mixing) or b"")
    assert (packed[0] == texts.MIXED) == (mixing is not None)
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = texts.unpack(bytes(packed[: data.draw(st.integers(0, len(packed)))]), pa.string(), 51)
    except CorruptArchive:
        return
    found.validate(full=True)
    assert len(found) == 51


def test_a_payload_that_lies_about_its_size_is_refused_before_it_is_opened():
    packed = texts.pack(pa.array(["a", "b"])) or b""
    lie = packed[:2] + (1 << 30).to_bytes(4, "little") + packed[6:]
    with pytest.raises(CorruptArchive, match="claim 1073741824 bytes"):
        texts.unpack(lie, pa.string(), 2)
    with pytest.raises(CorruptArchive, match="expected 3"):
        texts.unpack(packed, pa.string(), 3)


@pytest.mark.parametrize(
    ("favour", "n_rows", "wanted"),
    [("balance", 200_000, mixed.BALANCED), ("balance", 200_001, None), ("size", 1 << 30, mixed.FOR_SIZE), ("reading", 10, None)],
)
def test_texts_are_mixed_by_what_a_model_favours(favour, n_rows, wanted):
    table = pa.table({"note": [row.rpartition(" ")[0] for row in prose(2000)], "n": np.arange(2000) % 7})
    model = dataclasses.replace(fitted(table, preview="off").model, favour=favour, n_rows=n_rows)
    assert model.mixing is wanted
    seen = []
    with mock.patch.object(mixed, "unpack", lambda *arguments: (seen.append(arguments), UNMIXED(*arguments))[1]):
        assert_kept(table, decoded(stored_again(model), encode_shard(model, table, block_rows=1000)))
    assert bool(seen) == (wanted is not None)


def test_a_column_of_prose_is_packed_and_one_of_noise_stays_native():
    rng = np.random.default_rng(1)
    noise = pa.array(["".join(map(chr, rng.integers(97, 113, 24))) for _ in range(3000)])
    table = pa.table({"note": pa.array([None, *(row.rpartition(" ")[0] for row in prose(2999))]), "key": noise, "n": np.arange(3000) % 7})
    model = fitted(table, preview="off").model
    shard = encode_shard(model, table, block_rows=1000)
    coded = {outcome.name: outcome for outcome in shard.outcomes}
    assert coded["note"].coding == "texts" and coded["note"].n_bytes < 0.95 * coded["note"].conventional_bytes
    assert coded["key"].coding.startswith("parquet-")
    assert_kept(table, decoded(stored_again(model), shard))
