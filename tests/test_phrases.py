"""Small documents in zstd frames by a dictionary."""

from __future__ import annotations

import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vae_core.errors import CorruptArchive
from vae_core.phrases import compressed, decompressed

RECORD = {"format": "1.7", "block_rows": [500], "layout": {"codings": ["learned", "pco"], "streams": [[0]], "preview": True}}


@given(st.binary(max_size=4000))
def test_any_bytes_come_back(data):
    assert decompressed(compressed(data), len(data), "here") == data


def test_what_every_archive_says_takes_half():
    text = json.dumps(RECORD, separators=(",", ":")).encode()
    assert len(compressed(text)) < 0.6 * len(zstandard.ZstdCompressor(level=19).compress(text))


@given(st.binary(max_size=4000))
def test_frames_without_a_dictionary_are_read_too(data):
    assert decompressed(zstandard.ZstdCompressor(level=19).compress(data), len(data), "here") == data


@given(st.binary(min_size=1, max_size=400), st.data())
def test_a_damaged_frame_is_a_corrupt_archive_or_the_same_size(data, draw):
    frame = bytearray(compressed(data))
    frame[draw.draw(st.integers(0, len(frame) - 1))] ^= draw.draw(st.integers(1, 255))
    try:
        found = decompressed(bytes(frame), len(data), "here")
    except CorruptArchive:
        return
    assert len(found) <= len(data)


def test_a_frame_that_claims_too_much_or_nothing_or_has_a_tail_is_refused():
    frame = compressed(b"x" * 1000)
    with pytest.raises(CorruptArchive, match="here: compressed data claims 1000 bytes, at most 999"):
        decompressed(frame, 999, "here")
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000)
    for wrong in (frame + b"tail", frame[:-3], b"", unsized):
        with pytest.raises(CorruptArchive, match="here: "):
            decompressed(wrong, 1000, "here")
