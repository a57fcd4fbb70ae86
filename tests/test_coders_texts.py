"""Texts in bzip2 or xz: what is packed comes back, and what is garbled is an error."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core.coders import texts
from vae_core.errors import CorruptArchive
from vae_core.shard import encode_shard

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


def test_texts_of_every_byte_have_no_payload():
    assert texts.pack(pa.array([bytes(range(256))])) is None


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_garbled_payload_gives_other_texts_or_a_corrupt_archive(data):
    packed = bytearray(texts.pack(pa.array([*prose(50), None]), data.draw(st.sampled_from([1, 2]))) or b"")
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
