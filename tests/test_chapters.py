"""Snapshots list what they share with others in chapters: the same lists come back, and the bytes of many runs stay few."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.chapters import INLINE_BYTES, Chapter, read_chapters
from storage.document import compress, compress_json, decompress_json, pack, to_base64, to_json, unpack
from storage.entries import ModelRef, Proof, ShardRef, SourceRecord, shard_folder
from storage.manifest import Manifest
from storage.verity import ObjectRef, digest
from vae_core.errors import CorruptArchive

SCHEMA = pa.schema([(f"column number {k}", pa.float64()) for k in range(40)])
MODELS = {name * 64: ModelRef(name * 64, {"plan.json.zst": ObjectRef.of(f"models/{name * 64}/plan.json.zst", b"x")}) for name in "abc"}


def shard(number: int) -> ShardRef:
    identifier = digest(b"shard" + number.to_bytes(8, "little")).hex()
    record = ObjectRef.of("", number.to_bytes(8, "little"))
    record = replace(record, path=f"{shard_folder(identifier, record)}/shard.json.zst")
    proof = Proof(digest(b"rows" + number.to_bytes(8, "little")).hex() * 2)
    return ShardRef(identifier, list(MODELS)[number % 7 % 3], 1000 + number, record, proof)


def source(number: int) -> SourceRecord:
    return SourceRecord(f"day={number:05}.parquet", 10**6 + number, f"{number:064x}", None, 1.5e9 + number, 1000)


class Place:
    """Snapshots as they are written one after another, and every object there is."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.snapshots: list[bytes] = []

    def write(self, numbers: list[int]) -> Manifest:
        shards = tuple(map(shard, numbers))
        manifest = Manifest(
            schema=SCHEMA, models=tuple(MODELS.values()), shards=shards, sources=tuple(map(source, sorted(set(numbers)))),
            parent=len(self.snapshots), snapshot=len(self.snapshots) + 1, chapters=self.read().chapters if self.snapshots else (),
        )  # fmt: skip
        data, objects, _ = manifest.to_objects()
        self.objects |= objects
        self.snapshots.append(data)
        back = self.read()
        assert back.models[-1] == manifest.models[-1] and {m.digest for m in back.models} == set(MODELS)
        assert replace(back, models=manifest.models) == manifest
        return back

    def read(self) -> Manifest:
        return Manifest.from_bytes(self.snapshots[-1], "here", lambda ref: self.objects[ref.path])

    @property
    def n_bytes(self) -> int:
        return sum(map(len, self.snapshots)) + sum(map(len, self.objects.values()))


@st.composite
def histories(draw: Any) -> list[list[int]]:
    """Lists of shards, each made of the one before by adding at the end or anywhere, and taking away."""
    held: list[int] = []
    found = []
    fresh = 0
    for _ in range(draw(st.integers(1, 12))):
        for _ in range(draw(st.integers(0, 3))):
            if held:
                del held[draw(st.integers(0, len(held) - 1))]
        for _ in range(draw(st.integers(0, 9))):
            place = draw(st.sampled_from([len(held), len(held), draw(st.integers(0, len(held)))]))
            held.insert(place, fresh)
            fresh += 1
        found.append(list(held))
    return found


@given(histories())
@settings(deadline=None, max_examples=60)
def test_whatever_changes_the_lists_come_back(history: list[list[int]]) -> None:
    place = Place()
    for numbers in history:
        manifest = place.write(numbers)
        assert place.read().shards == manifest.shards and place.read().sources == manifest.sources
        inline = [item for item in place.read().shards if not any(item in chapter.shards for chapter in place.read().chapters)]
        assert len(to_json([one.to_json(list(MODELS)) for one in inline])) <= INLINE_BYTES


def test_two_hundred_nightly_runs_cost_about_a_kilobyte_each_and_a_few_requests() -> None:
    place = Place()
    sizes = []
    for night in range(200):
        place.write(list(range(night + 1)))
        sizes.append(len(place.snapshots[-1]))
        assert len(place.read().chapters) <= 8
    assert max(sizes) < 3500
    assert place.n_bytes / 200 < 3500
    listed_again = sum(150 * night for night in range(200))
    assert place.n_bytes < listed_again / 4


def test_a_first_run_of_many_shards_lists_them_once() -> None:
    place = Place()
    place.write(list(range(500)))
    assert len(place.snapshots[0]) < 1500 and [path.partition("/")[0] for path in place.objects] == ["chapters"]  # its schema is in itself
    later = place.write(list(range(501)))
    assert len(place.objects) == 1 and len(later.chapters) == 1


def test_a_file_in_the_middle_leaves_the_other_chapters_alone() -> None:
    place = Place()
    place.write([*range(0, 400, 2)])
    place.write([*range(0, 400, 2), *range(400, 440)])
    before = {chapter.ref.path for chapter in place.read().chapters}
    place.write([*range(0, 400, 2), *range(400, 420), 999, *range(420, 440)])
    after = {chapter.ref.path for chapter in place.read().chapters}
    assert len(before & after) == len(before) - 1 == 1


def test_a_schema_is_stored_once() -> None:
    place = Place()
    place.write([1])
    place.write([1, 2])
    assert [path for path in place.objects if path.startswith("schemas/")] == list(place.objects)
    short = Manifest(schema=pa.schema([("a", pa.int8())]))
    assert short.to_objects()[1] == {}


def chapter() -> tuple[Chapter, bytes]:
    return Chapter.of(MODELS, SCHEMA, [shard(1), shard(2)], [source(1)])


def test_a_chapter_is_named_once_in_a_snapshot() -> None:
    held, data = chapter()
    told = [held.ref.to_json()]
    assert read_chapters(told, "here", lambda _: data, {}) == [held]
    with pytest.raises(CorruptArchive, match="twice"):
        read_chapters(told * 2, "here", lambda _: data, {})


def test_chapters_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    held, data = chapter()
    monkeypatch.setattr("storage.chapters.MAX_DOCUMENT_BYTES", held.n_bytes - 1)
    with pytest.raises(CorruptArchive, match="at most"):
        read_chapters([held.ref.to_json()], "here", lambda _: data, {})
    with pytest.raises(CorruptArchive, match="larger"):
        read_chapters([held.ref.to_json()], "here", lambda _: data, {held.ref.path: held})


def test_a_frame_of_json_out_of_all_proportion_is_refused_before_it_is_read() -> None:
    held, _ = chapter()
    document = {"format": "1.5", "models": [[]] * 20_000_000, "shards": [], "sources": []}
    bomb = compress(to_json(document))
    assert len(bomb) < 20_000
    with pytest.raises(CorruptArchive, match="claims 60000052 bytes, at most"):
        Chapter.from_bytes(bomb, held.ref)
    packed = {"zstd": to_base64(bomb)}
    with pytest.raises(CorruptArchive, match="claims 60000052 bytes, at most"):
        unpack(packed, "here")


@given(st.lists(st.sampled_from(["learned", "pco", ""]), max_size=50), st.integers(0, 9_000))
@settings(deadline=None, max_examples=20)
def test_what_a_writer_packs_a_reader_takes_however_alike(words: list[str], n: int) -> None:
    value = words * n
    assert decompress_json(compress_json(value), "here") == value
    assert unpack(pack(value), "here") == value


@pytest.mark.parametrize("change", [
    {"format": "2.0"}, {"models": []}, {"shards": [["x", 0, 1, [1, "eA"]]]}, {"shards": 3}, {"sources": [["a", 1]]},
    {"models": [{"digest": "../x"}]},
])  # fmt: skip
def test_a_chapter_that_no_writer_writes_is_corrupt(change: dict[str, Any]) -> None:
    held, _ = chapter()
    document = {
        "format": "1.5", "models": [MODELS["a" * 64].to_json()], "shards": [shard(7).to_json(["a" * 64])], "sources": [source(1).to_json()]
    } | change  # fmt: skip
    with pytest.raises(CorruptArchive, match="chapters/"):
        Chapter.from_bytes(compress(to_json(document)), held.ref)
