"""Texts by context mixing: compiled code and numpy write the same bits, what is written comes back, what is garbled does no harm."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_coders_texts import prose

from vae_core.coders import mixed
from vae_core.coders.mixed import BALANCED, FOR_SIZE, Mixing
from vae_core.entropy import contextmix, kernel
from vae_core.errors import CorruptArchive

HAS_COMPILER = any(kernel.compilers())
TEXTS = st.lists(st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"")), min_size=1, max_size=30)


def joined(texts: list[bytes]) -> bytes:
    return b"".join(text + b"\n" for text in texts)


def by_numpy(work, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contextmix, "library", lambda: None)
        return work(*arguments)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.integers(1, 9))
def test_any_texts_come_back_and_compiled_code_writes_what_numpy_does(texts, n_lanes):
    data = joined(texts)
    streams = contextmix.mix(data, 10, len(texts), n_lanes)
    assert streams == by_numpy(contextmix.mix, data, 10, len(texts), n_lanes)
    if streams is not None:
        assert len(streams) == n_lanes
        assert contextmix.unmix(streams, 10, len(texts), len(data)) == data
        assert by_numpy(contextmix.unmix, streams, 10, len(texts), len(data)) == data


@pytest.mark.parametrize("n_lanes", [1, 3, 40, 256])
def test_lanes_that_end_one_after_another_come_back(n_lanes):
    texts = [row.encode() for row in prose(150 if n_lanes > 3 else 12, seed=n_lanes)]
    data = joined(texts)
    streams = contextmix.mix(data, 10, len(texts), n_lanes)
    assert streams is not None and streams == by_numpy(contextmix.mix, data, 10, len(texts), n_lanes)
    assert contextmix.unmix(streams, 10, len(texts), len(data)) == by_numpy(contextmix.unmix, streams, 10, len(texts), len(data)) == data


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_garbled_streams_give_the_same_other_texts_or_the_same_error_by_both(data):
    texts = [row.encode() for row in prose(16)]
    whole = joined(texts)
    streams = contextmix.mix(whole, 10, len(texts), 4) or []
    which = data.draw(st.integers(0, 3))
    stream = bytearray(streams[which])
    stream[data.draw(st.integers(0, min(40, len(stream) - 1)))] ^= data.draw(st.integers(1, 255))
    streams[which] = bytes(stream[: data.draw(st.integers(0, len(stream)))])
    found = []
    for read in (contextmix.unmix, lambda *arguments: by_numpy(contextmix.unmix, *arguments)):
        try:
            found.append(read(streams, 10, len(texts), len(whole)))
        except CorruptArchive as error:
            found.append(str(error).encode())
    assert found[0] == found[1]
    assert found[0].count(b"\n") == len(texts) or b"are not" in found[0]


def test_streams_of_nothing_and_of_noise_end_within_the_bytes_they_claim():
    rng = np.random.default_rng(8)
    for streams in ([b""], [b""] * 256, [rng.bytes(3000)], [rng.bytes(90) for _ in range(200)]):
        with pytest.raises(CorruptArchive, match="are not 5000 bytes"):
            contextmix.unmix(streams, 10, 30, 5000)


@pytest.mark.parametrize(
    ("n_lanes", "n_rows", "n_bytes"), [(0, 1, 9), (257, 1, 9), (1, 10, 9), (1, 1, contextmix.MOST_BYTES + 1), (1, 1, 1 << 40)]
)
def test_claims_beyond_the_bounds_are_refused_before_anything_is_made(n_lanes, n_rows, n_bytes):
    with pytest.raises(CorruptArchive, match="claim"):
        contextmix.unmix([b""] * n_lanes, 10, n_rows, n_bytes)


def test_one_text_longer_than_all_others_is_mixed_in_one_lane():
    texts = [b"ab cd " * 8_000, *[b"x"] * 400]
    data = joined(texts)
    assert contextmix.mix(data, 10, len(texts), 200) is None  # its lane alone would go on for most of the time
    payload = mixed.pack(data, 10, Mixing(1 << 20, 64, 200))
    assert payload is not None and len(payload) < len(data) / 20
    assert mixed.unpack(payload, 10, len(texts), len(data)) == data
    assert mixed.pack(b"ab cd " * 12_000 + data, 10, Mixing(1 << 20, 64, 200)) is None  # too long for those who have no compiler


def test_texts_that_take_too_many_times_are_neither_written_nor_read(monkeypatch):
    data = joined([b"ab cd " * 100, b"x"])
    streams = contextmix.mix(data, 10, 2, 1)
    assert streams is not None
    monkeypatch.setattr(contextmix, "MOST_TIMES", 500)
    assert by_numpy(contextmix.mix, data, 10, 2, 1) is None
    with pytest.raises(CorruptArchive, match="are not"):
        by_numpy(contextmix.unmix, streams, 10, 2, len(data))
    text = b"a" * ((1 << 19) - 1)
    assert contextmix.mix(text + b"\n", 10, 1, 1) is not None or not HAS_COMPILER
    assert not HAS_COMPILER or contextmix.mix(text + b"a\n", 10, 1, 1) is None


def test_what_does_not_shrink_is_not_mixed():
    noise = np.random.default_rng(1).integers(11, 256, 20_000, np.uint8).tobytes() + b"\n"
    assert mixed.smaller(noise, 10, BALANCED, len(noise)) is None
    assert mixed.smaller(b"a" * (BALANCED.most_bytes + 1) + b"\n", 10, BALANCED, 1e9) is None


def test_a_payload_with_a_tail_or_cut_lengths_is_corrupt():
    data = joined([row.encode() for row in prose(30)])
    payload = mixed.pack(data, 10, FOR_SIZE) or b""
    for other, why in ((payload + b"\0", "tail"), (payload[:1], "cut short"), (payload[:-1] + b"", "cut short"), (b"", "cut short")):
        with pytest.raises(CorruptArchive, match=why):
            mixed.unpack(other, 10, 30, len(data))


def test_squash_and_stretch_are_inverse_and_monotonous():
    d = np.arange(-2047, 2048)
    p = contextmix.squash().astype(int)
    assert len(p) == 4095 and (np.diff(p) >= 0).all() and p[2047] == 2048 and (p + p[::-1])[d != 0].tolist() == [4096] * 4094
    assert p.min() == 2 and p.max() == 4094
    back = contextmix.stretch()[p]
    assert (contextmix.squash()[back + 2047] == p).all()


def test_the_self_test_is_what_numpy_writes_and_compiled_code_is_there_where_a_compiler_is():
    streams = by_numpy(contextmix.mix, contextmix._SAMPLE, 10, contextmix._SAMPLE.count(b"\n"), 3)
    assert hashlib.sha256(b"|".join(streams)).hexdigest() == contextmix._DIGEST
    assert (contextmix.library() is not None) == HAS_COMPILER
