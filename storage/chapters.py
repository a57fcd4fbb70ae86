"""Chapters: what many snapshots list alike, stored once. A snapshot names them instead of listing it all again.

A nightly run adds a few shards to hundreds. Were each snapshot to list all of them, n runs would take bytes in the order of n²; with
chapters that grow like the levels of a log-structured merge tree it is n log n, and a reader fetches a handful of objects. FORMAT.md,
section "Chapters".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import zstandard

from storage.document import MAX_DOCUMENT_BYTES, Fields, compress_json, decompress_json, to_json
from storage.entries import ModelRef, ShardRef, SourceRecord
from storage.verity import ObjectRef
from storage.version import FORMAT_VERSION, check_version, read_as
from vae_core.errors import CorruptArchive

INLINE_BYTES = 1000
ABSORBED_SIZE = 2

Fetch = Callable[[ObjectRef], bytes]


@dataclass(frozen=True, slots=True)
class Chapter:
    """Consecutive shards of a dataset, their models, and some of its source files.

    models  : under a schema of None where theirs is that of the snapshot
    n_bytes : of its JSON
    """

    ref: ObjectRef
    models: tuple[ModelRef, ...]
    shards: tuple[ShardRef, ...]
    sources: tuple[SourceRecord, ...]
    n_bytes: int

    @classmethod
    def of(
        cls, models: Mapping[str, ModelRef], schema: pa.Schema, shards: Sequence[ShardRef], sources: Sequence[SourceRecord]
    ) -> tuple[Chapter, bytes]:
        """A chapter and the bytes of its object. models : by digest, those of the shards at least; schema : the snapshot's."""
        digests = list(dict.fromkeys(shard.model for shard in shards))
        document = {
            "format": "{}.{}".format(*FORMAT_VERSION),
            "models": [models[digest].to_json(schema) for digest in digests],
            "shards": [shard.to_json(digests) for shard in shards],
            "sources": [source.to_json() for source in sources],
        }
        data = compress_json(document)
        ref = located(ObjectRef.of("", data))
        n_bytes = zstandard.frame_content_size(data)
        chapter = cls(ref, tuple(models[digest] for digest in digests), tuple(shards), tuple(sources), n_bytes)
        return chapter, data

    @classmethod
    def from_bytes(cls, data: bytes, ref: ObjectRef, limit: int = MAX_DOCUMENT_BYTES) -> Chapter:
        """Undo `of`. Raises CorruptArchive, also beyond `limit` bytes of JSON."""
        fields = Fields.of(decompress_json(data, ref.path, limit), ref.path)
        with read_as(check_version(fields.text("format"), ref.path), ref.path):
            models = tuple(ModelRef.from_json(model, ref.path) for model in fields.list("models"))
            digests = [model.digest for model in models]
            shards = tuple(ShardRef.from_json(shard, digests, ref.path) for shard in fields.list("shards"))
            sources = tuple(SourceRecord.from_json(source, ref.path) for source in fields.list("sources"))
        return cls(ref, models, shards, sources, zstandard.frame_content_size(data))


def located(ref: ObjectRef) -> ObjectRef:
    """A chapter lies where its description says it does: its name is made of its digests."""
    return replace(ref, path=f"chapters/{ref.digests[:16].hex()}.json.zst")


def read_chapters(told: Sequence[Any], where: str, fetch: Fetch, known: dict[str, Chapter]) -> list[Chapter]:
    """The chapters a snapshot describes, each at most once. Raises CorruptArchive.

    known : path -> chapter, those read before; what is read is added
    """
    left = MAX_DOCUMENT_BYTES
    found: dict[str, Chapter] = {}
    for description in told:
        ref = located(ObjectRef.from_json("", description, where))
        if ref.path in found:
            raise CorruptArchive(f"{where}: names {ref.path} twice")
        if ref.path not in known:
            known[ref.path] = Chapter.from_bytes(fetch(ref), ref, left)
        found[ref.path] = known[ref.path]
        left -= found[ref.path].n_bytes
        if left < 0:
            raise CorruptArchive(f"{where}: its chapters are larger than {MAX_DOCUMENT_BYTES} bytes together")
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Some of what a snapshot lists, in row order: a stored chapter, or what no stored one has."""

    shards: tuple[ShardRef, ...]
    sources: tuple[SourceRecord, ...] = ()
    stored: Chapter | None = None

    @property
    def size(self) -> int:
        return len(self.shards) + len(self.sources)


def arrange(
    models: Mapping[str, ModelRef],
    schema: pa.Schema,
    shards: Sequence[ShardRef],
    sources: Sequence[SourceRecord],
    stored: Sequence[Chapter],
) -> tuple[list[Chapter | ShardRef], dict[str, bytes]]:
    """How a snapshot lists these: chapters and single shards, in row order; and the new ones' objects, path -> bytes.

    models : by digest, those of the shards at least        stored : chapters of its parent; a changed one is not used again
    Sources that no chapter has are listed by the snapshot itself. Beyond INLINE_BYTES of its own a new chapter takes them, and
    its neighbours unless they are over ABSORBED_SIZE times as large.
    """
    stretches = _recognised(shards, frozenset(sources), stored)
    held = {source for stretch in stretches for source in stretch.sources}
    own = tuple(source for source in sources if source not in held)
    singles = [shard for stretch in stretches if not stretch.stored for shard in stretch.shards]
    told = [*(shard.to_json(list(models)) for shard in singles), *(source.to_json() for source in own)]
    if len(to_json(told)) <= INLINE_BYTES:
        return [item for stretch in stretches for item in ([stretch.stored] if stretch.stored else stretch.shards)], {}
    last = max((k for k, stretch in enumerate(stretches) if not stretch.stored), default=None)
    if last is None:
        stretches.append(_Stretch((), own))
    else:
        stretches[last] = replace(stretches[last], sources=own)
    items: list[Chapter | ShardRef] = []
    objects: dict[str, bytes] = {}
    for stretch in _merged(stretches):
        chapter = stretch.stored
        if chapter is None:
            chapter, data = Chapter.of(models, schema, stretch.shards, stretch.sources)
            objects[chapter.ref.path] = data
        items.append(chapter)
    return items, objects


def _recognised(shards: Sequence[ShardRef], sources: frozenset[SourceRecord], stored: Sequence[Chapter]) -> list[_Stretch]:
    """The shards in order, cut where chapters can be used again."""
    usable = [chapter for chapter in stored if sources.issuperset(chapter.sources)]
    starts = {chapter.shards[0].id: chapter for chapter in usable if chapter.shards}
    found: list[_Stretch] = []
    singles: list[ShardRef] = []
    position = 0
    while position < len(shards):
        chapter = starts.get(shards[position].id)
        if chapter is None or tuple(shards[position : position + len(chapter.shards)]) != chapter.shards:
            singles.append(shards[position])
            position += 1
            continue
        if singles:
            found.append(_Stretch(tuple(singles)))
            singles = []
        found.append(_Stretch(chapter.shards, chapter.sources, starts.pop(shards[position].id)))
        position += len(chapter.shards)
    if singles:
        found.append(_Stretch(tuple(singles)))
    return found + [_Stretch((), chapter.sources, chapter) for chapter in usable if not chapter.shards]


def _merged(stretches: Sequence[_Stretch]) -> list[_Stretch]:
    """New stretches take in their neighbours, from the left to the right."""
    found: list[_Stretch] = []
    for stretch in stretches:
        found.append(stretch)
        while len(found) > 1:
            left, right = found[-2:]
            new, old = (right, left) if right.stored is None else (left, right)
            if new.stored is not None or (old.stored is not None and old.size > ABSORBED_SIZE * new.size):
                break
            found[-2:] = [_Stretch(left.shards + right.shards, left.sources + right.sources)]
    return found
