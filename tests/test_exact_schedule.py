from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_core.errors import CorruptArchive
from vae_core.exact.schedule import (
    LAST_CHUNKS,
    LONG_STRETCHES,
    OLD_PART,
    PARTS,
    SHORT_STRETCHES,
    STRETCH,
    STRIDE,
    Chunks,
    every,
    neighbours,
    passes,
)

SIZES = st.one_of(st.integers(0, 200), st.sampled_from([31, 32, 33, 63, 64, 65, 4096, 100_003]))


@given(SIZES, st.booleans())
def test_the_rows_of_all_passes_are_every_row_once(n_rows, by_level):
    rows = [found for _, found in passes(n_rows, by_level)]
    together = np.concatenate(rows) if rows else np.empty(0, np.int64)
    assert np.array_equal(np.sort(together), np.arange(n_rows))
    assert all((np.diff(found) > 0).all() for found in rows)


@given(SIZES)
def test_the_neighbours_of_a_row_are_decoded_before_it_and_as_near_as_its_pass_says(n_rows):
    known = np.zeros(n_rows, bool)
    for step, rows in passes(n_rows, True):
        left, right = neighbours(step, rows, n_rows)
        if step >= STRIDE:
            assert (left == -1).all() and (right == -1).all()
        else:
            assert known[left].all() and known[right].all()
            assert (left == rows - step).all() and ((right == rows + step) | ((right == left) & (rows + step >= n_rows))).all()
        known[rows] = True
    assert known.all()


@given(SIZES, st.builds(Chunks, st.sampled_from(LAST_CHUNKS), st.sampled_from(PARTS)), st.sampled_from([0, 7, 5000]))
def test_chunks_tile_a_pass_and_grow_no_faster_than_what_was_learned(n_rows, chunks, before):
    stop, found = 0, list(chunks.slices(n_rows, before))
    for chunk in found:
        assert chunk.start == stop and chunk.stop > chunk.start
        assert chunk.stop - chunk.start <= min(chunks.last, max(64 if chunks.part == 2 else 8, (before + chunk.start) // chunks.part))
        stop = chunk.stop
    assert stop == n_rows
    assert chunks.ends(n_rows, before).tolist() == [chunk.stop for chunk in found]


def test_chunks_are_what_their_plan_says_and_what_older_plans_said_is_half_of_the_pass():
    assert [Chunks.from_json(said) for said in (1024, [256, 16])] == [Chunks(1024, 2), Chunks(256, 16)]
    assert [Chunks(1024, 2).counted(500), Chunks(256, 16).counted(500)] == [0, 500]


def test_counts_of_large_tables_are_learned_less_often():
    assert [Chunks.over(256, n) for n in (0, 200_000, 200_001)] == [Chunks(256, 32), Chunks(256, 32), Chunks(256, 8)]


STRETCHES = st.sampled_from((STRETCH, *SHORT_STRETCHES, *LONG_STRETCHES))


@given(st.builds(Chunks, st.sampled_from(LAST_CHUNKS), st.sampled_from(PARTS)), STRETCHES)
def test_chunks_come_back_from_json(chunks, stretch):
    assert Chunks.from_json(chunks.to_json()) == chunks
    if chunks.part != OLD_PART:
        assert Chunks.from_json(replace(chunks, stretch=stretch).to_json()) == replace(chunks, stretch=stretch)


@pytest.mark.parametrize("stretch", [512, 32, 100, 0, -64, 8192, 1 << 40, True, "64", None])
def test_lanes_of_other_lengths_are_refused(stretch):
    with pytest.raises(CorruptArchive, match="cuts rows into lanes of"):
        Chunks.from_json([1024, 8, stretch])


WRONG = [0, 65, -64, 1024.0, "1024", None, True, [], [64], [64, 0], [64, 2], [64, 3], [64, 16, 64, 1], [9, 16], [64, "4"], [64.0, 4], {}]


@pytest.mark.parametrize("said", WRONG)
def test_other_chunks_are_refused(said):
    with pytest.raises(CorruptArchive, match="chunks of"):
        Chunks.from_json(said)


@pytest.mark.parametrize("n_rows", [1, 5, 131_072])
def test_a_column_without_neighbours_is_one_pass_in_row_order(n_rows):
    [(step, rows)] = passes(n_rows, False)
    assert step == 0 and np.array_equal(rows, np.arange(n_rows))


@pytest.mark.parametrize("n_rows", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("by_level", [False, True])
def test_the_slice_of_a_pass_takes_the_rows_of_the_pass(n_rows, by_level):
    for step, rows in passes(n_rows, by_level):
        assert np.array_equal(np.arange(n_rows)[every(step)], rows)
