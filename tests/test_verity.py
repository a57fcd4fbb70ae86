"""Segments, digests and the file object that serves only checked bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.objects import ObjectStore
from storage.verity import AIMED_SEGMENT_BYTES, MAX_SEGMENT_BYTES, ObjectRef, VerifiedFile, read_verified, segment_ends
from vae_core.errors import CorruptArchive

STORE = ObjectStore.open("memory://verity-test")


@given(
    st.integers(0, 3_000_000),
    st.lists(st.integers(0, 3_000_000), max_size=40),
    st.lists(st.integers(0, 3_000_000), max_size=5),
)
@settings(deadline=None, max_examples=50)
def test_segments_tile_the_object_and_cut_where_they_must(
    n_bytes: int, boundaries: list[int], required: list[int]
) -> None:
    ends = segment_ends(n_bytes, boundaries, required)
    assert ends[-1] == n_bytes
    assert all(low < high for low, high in zip((0, *ends), ends, strict=False)) or n_bytes == 0
    assert max(high - low for low, high in zip((0, *ends), ends, strict=False)) <= 2 * MAX_SEGMENT_BYTES
    assert {offset for offset in required if 0 < offset < n_bytes} <= set(ends)
    assert len(ends) <= 3 * 128 + len(required) + 2 * n_bytes // AIMED_SEGMENT_BYTES + 2


def test_what_is_read_whole_is_one_segment_and_what_is_read_apart_is_not_joined_to_it() -> None:
    assert segment_ends(300_000, [200_000], [299_700]) == (200_000, 299_700, 300_000)
    assert segment_ends(300_000, [3000, 4000, 200_000]) == (4000, 200_000, 300_000)
    assert segment_ends(90_000, range(1000, 90_000, 1000)) == tuple(range(9000, 90_001, 9000))
    assert len(segment_ends(3 << 20, [])) == 2


def test_small_things_join_each_other_and_never_a_large_one() -> None:
    assert segment_ends(400_300, [200_000, 200_100, 200_300]) == (200_000, 200_300, 400_300)
    assert segment_ends(60_000, [20_000, 20_300]) == (20_000, 20_300, 60_000)
    assert segment_ends(60_000, [30_000, 30_300]) == (30_000, 60_000)  # 30 kB more are cheaper than one digest more


@given(st.binary(max_size=5000), st.sets(st.integers(1, 4999), max_size=8))
@settings(deadline=None, max_examples=50)
def test_a_description_survives_json(data: bytes, cuts: set[int]) -> None:
    ref = ObjectRef.of("x", data, sorted({cut for cut in cuts if cut < len(data)} | {len(data)}))
    assert ObjectRef.from_json("x", ref.to_json(), "here") == ref
    STORE.write("x", data)
    assert read_verified(STORE, ref) == data


@given(st.binary(min_size=1, max_size=3000), st.sets(st.integers(1, 2999), max_size=8), st.data())
@settings(deadline=None, max_examples=50)
def test_ranges_are_what_slicing_gives(data: bytes, cuts: set[int], draw: st.DataObject) -> None:
    ref = ObjectRef.of("y", data, sorted({cut for cut in cuts if cut < len(data)} | {len(data)}))
    STORE.write("y", data)
    file = VerifiedFile(STORE, ref)
    for _ in range(3):
        start = draw.draw(st.integers(0, len(data)))
        stop = draw.draw(st.integers(start, len(data)))
        file.prefetch([(start, stop)])
        assert file.read_range(start, stop) == data[start:stop]
        file.seek(start)
        assert file.read(stop - start) == data[start:stop]
        assert file.tell() == stop
    file.seek(-1, 2)
    assert file.readall() == data[-1:]


def test_only_the_segments_asked_for_move() -> None:
    data = bytes(range(256)) * 400
    ref = ObjectRef.of("z", data, range(1024, len(data) + 1, 1024))
    STORE.write("z", data)
    file = VerifiedFile(STORE, ref)
    before = STORE.meter.snapshot()
    file.prefetch([(50_000, 50_010)])
    assert STORE.meter.minus(before).bytes_read == 1024
    file.prefetch([(50_000, 50_010), (90_000, 91_000)])
    assert STORE.meter.minus(before).bytes_read == 3 * 1024
    assert file.planned([[(50_000, 50_010)], [(50_000, 50_010), (90_000, 91_000)]]) == 3 * 1024


def test_neighbouring_ranges_are_one_request() -> None:
    data = bytes(100_000)
    ref = ObjectRef.of("w", data, range(1000, 100_001, 1000))
    STORE.write("w", data)
    before = STORE.meter.snapshot()
    VerifiedFile(STORE, ref).prefetch([(0, 10), (1500, 1600), (9000, 12_000), (60_000, 60_001)])
    assert STORE.meter.minus(before).n_requests == 2


def test_damage_outside_the_segments_read_goes_unseen_and_inside_is_named() -> None:
    data = bytes(10_000)
    ref = ObjectRef.of("folder/object", data, range(1000, 10_001, 1000))
    STORE.write("folder/object", data[:5500] + b"x" + data[5501:])
    file = VerifiedFile(STORE, ref)
    assert file.read_range(0, 5000) == data[:5000]
    with pytest.raises(CorruptArchive, match=r"folder/object: bytes 5000 to 6000"):
        file.read_range(4990, 5010)


@pytest.mark.parametrize(
    "value", [None, [], [1], ["1", ""], [1, 5], [1, "!"], [1, "AA"], [-1, ""], [1 << 60, "AAAA"], [0, ""]]
)
def test_a_malformed_description_is_refused(value: object) -> None:
    with pytest.raises(CorruptArchive, match="here"):
        ObjectRef.from_json("x", value, "here")


def test_a_range_outside_the_object_is_refused() -> None:
    ref = ObjectRef.of("x", b"abc")
    with pytest.raises(CorruptArchive, match="asked of an object of 3"):
        VerifiedFile(STORE, ref).read_range(0, 4)
    with pytest.raises(CorruptArchive, match="asked of an object of 3"):
        VerifiedFile(STORE, ref).prefetch([(0, 4)])
