"""Symbols read one by one are those that vectors of all lanes give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_entropy_rans import LAW, Step, read, steps, written

from vae_core.entropy import rans, singly
from vae_core.entropy.rans import Decoder, Encoder
from vae_core.errors import CorruptArchive


@contextmanager
def vectors_that_take(microseconds: float) -> Iterator[None]:
    """None at all: nothing is read one by one; very many: all that may be is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(singly, "VECTOR", microseconds)
        yield


@LAW
@given(st.lists(steps(), max_size=6))
def test_one_by_one_and_by_vectors_the_same_is_read(walk):
    stream = written(walk)
    for microseconds in (0.0, 1e9):
        with vectors_that_take(microseconds):
            for step, found in zip(walk, read(stream, walk), strict=True):
                assert np.array_equal(found, step.symbols)


@LAW
@given(st.lists(steps(), min_size=1, max_size=4), st.data())
def test_a_truncated_or_garbled_stream_is_refused_one_by_one_as_by_vectors(walk, data):
    stream = bytearray(written(walk))
    if data.draw(st.booleans()):
        stream[data.draw(st.integers(6, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        lanes, words = int.from_bytes(stream[:2], "little"), int.from_bytes(stream[2:6], "little")
        if not words or not lanes:
            return
        stream = stream[:2] + (words - 1).to_bytes(4, "little") + stream[6:-4]
    outcomes = []
    for microseconds in (0.0, 1e9):
        with vectors_that_take(microseconds):
            try:
                outcomes.append([found.tolist() for found in read(bytes(stream), walk)])
            except CorruptArchive as error:
                outcomes.append([str(error)])
    assert outcomes[0] == outcomes[1]


def step_of(share: float, n: int) -> Step:
    """n symbols of two, the first of which has that share of the slots; the second one is met as often as that says."""
    cumulative = np.array([[0, round(share * 1_000_000), 1_000_000]])
    symbols = np.zeros(n, np.int64)
    symbols[: round((1 - share) * n)] = 1
    return Step(cumulative, np.zeros(n, np.int64), symbols)


@pytest.mark.parametrize(("share", "n", "lanes", "singly_read"), [
    (0.9999, 5000, 4, True), (0.9999, 5000, 64, True), (0.9999, 5000, 128, False), (0.5, 5000, 4, True), (0.5, 5000, 64, False),
    (0.9999, 4, 4, False),
])  # fmt: skip
def test_what_is_likely_is_read_one_by_one_in_streams_of_few_lanes(share, n, lanes, singly_read):
    step = step_of(share, n)
    sums = step.cumulative[0]
    assert (singly.likely_symbols(sums, 2, step.table, lanes) is not None) == singly_read


def test_a_column_that_is_nearly_constant_takes_the_quick_way(monkeypatch):
    taken: list[int] = []
    one_by_one = rans.read_one_by_one
    monkeypatch.setattr(rans, "read_one_by_one", lambda *a: (taken.append(len(a[4])), one_by_one(*a))[1])
    encoder, step = Encoder(), step_of(0.9999, 20_000)
    encoder.code(step.cumulative, step.table, step.symbols)
    decoder = Decoder(encoder.finish())
    assert np.array_equal(decoder.code(step.cumulative, step.table, None), step.symbols) and taken == [20_000]
    decoder.finish()
