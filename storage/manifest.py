"""A snapshot of an archive: what it holds, as one immutable JSON object under snapshots/.

FORMAT.md, section "Snapshots".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa

from storage.chapters import Chapter, Fetch, arrange, read_chapters
from storage.document import Fields, from_base64, from_json, pack, to_base64, to_json, typed, unpack
from storage.entries import ModelRef, Proof, ShardRef, SourceRecord, schema_from_bytes, schema_to_bytes
from storage.verity import ObjectRef
from storage.version import FORMAT_VERSION, check_version, read_as
from vae_core.errors import CorruptArchive

WRITER = "latentpack"
INLINE_SCHEMA_CHARS = 200

PROOFS_BEFORE = ("shards", "columns", "errors_of", "errors")

_SEAL = b',"sha256":"'
_SEAL_BYTES = len(_SEAL) + 64 + 2


class Written(NamedTuple):
    """A snapshot as objects: its own bytes, those of the objects beside it by path, and the paths of those that are stored."""

    data: bytes
    objects: dict[str, bytes]
    again: tuple[str, ...]


def _nothing_apart(ref: ObjectRef) -> bytes:
    raise CorruptArchive(f"{ref.path}: is not at hand")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One snapshot. Immutable; the next one names this one as its parent.

    snapshot     : 0 until it is committed, then its number from 1
    parent       : number of the snapshot it was built on, 0 for the first
    created_at   : ISO 8601, UTC
    schema       : the exact Arrow schema, metadata included
    tolerances   : per column, what was asked for (Tolerance.to_json)
    shards       : in row order, with what the full decode before the commit found of each
    sources      : the files it was read from
    ledger       : costs that the shards' records do not tell
    verification : what that decode found in all, and how many rows its run decoded
    extra        : anything else the pipeline remembers between runs (drift baselines, settings); small
    created_with : what the FORMAT object says, None where that is format_version or, under 1.0, unknown
    chapters     : those it was read from, or of the snapshot it follows, whose lists need not be stored again
    beside       : the objects it was read from beside its own: chapters, schema
    """

    schema: pa.Schema
    models: tuple[ModelRef, ...] = ()
    shards: tuple[ShardRef, ...] = ()
    parent: int = 0
    snapshot: int = 0
    created_at: str = ""
    run: str = ""
    source: str = ""
    tolerances: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[SourceRecord, ...] = ()
    ledger: Mapping[str, Any] = field(default_factory=dict)
    verification: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    writer: str = WRITER
    format_version: tuple[int, int] = FORMAT_VERSION
    created_with: tuple[int, int] | None = None
    chapters: tuple[Chapter, ...] = field(default=(), compare=False, repr=False)
    beside: tuple[ObjectRef, ...] = field(default=(), compare=False, repr=False)

    @property
    def n_rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.n_rows for shard in self.shards)

    def model(self, digest: str) -> ModelRef:
        """The model with this digest. Raises CorruptArchive when the snapshot does not hold it."""
        for model in self.models:
            if model.digest == digest:
                return model
        raise CorruptArchive(f"snapshots/{self.snapshot:010d}.json: names no model {digest}")

    def to_objects(self) -> Written:
        """The snapshot object, compact JSON sealed by its own SHA-256, and what it needs beside it.

        What `chapters` list already is listed by them, unless something changed.
        """
        known = {model.digest: model for model in self.models}
        items, objects = arrange(known, self.schema, self.shards, self.sources, self.chapters)
        chapters = [item for item in items if isinstance(item, Chapter)]
        singles = [item for item in items if isinstance(item, ShardRef)]
        held = {source for chapter in chapters for source in chapter.sources}
        apart = {model.digest for chapter in chapters for model in chapter.models} - {shard.model for shard in singles}
        models = [model for model in self.models if model is self.models[-1] or model.digest not in apart]
        digests = [model.digest for model in models]
        schema, described = _schema_to_json(self.schema)
        document = {
            "format": "{}.{}".format(*self.format_version),
            "snapshot": self.snapshot,
            "parent": self.parent,
            "created_at": self.created_at,
            "writer": self.writer,
            "run": self.run,
            "source": self.source,
            "n_rows": self.n_rows,
            "schema": schema,
            "models": [model.to_json(self.schema) for model in models],
            "shards": [item.ref.to_json() if isinstance(item, Chapter) else item.to_json(digests) for item in items],
        }
        optional = {
            "tolerances": _runs(self.tolerances, self.schema),
            "sources": [source.to_json() for source in self.sources if source not in held],
            "ledger": dict(self.ledger),
            "verification": dict(self.verification),
            "extra": dict(self.extra),
        }
        if self.created_with not in (None, self.format_version):
            document["created_with"] = "{}.{}".format(*self.created_with)
        body = to_json(document | {key: pack(value) for key, value in optional.items() if value})[:-1]
        again = tuple(chapter.ref.path for chapter in chapters if chapter.ref.path not in objects)
        return Written(body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}', objects | described, again)

    @classmethod
    def from_bytes(cls, data: bytes, where: str, fetch: Fetch = _nothing_apart, known: dict[str, Chapter] | None = None) -> Manifest:
        """Undo `to_objects`: the seal is checked first, then the version, then every field. Raises CorruptArchive.

        fetch : the checked bytes of an object        known : chapters read before, by path; more are added
        """
        body, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
        if seal != _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}':
            raise CorruptArchive(f"{where}: the bytes do not match the digest they end with")
        fields = Fields.of(from_json(body + b"}", where), where)
        version = check_version(fields.text("format"), where)
        if version < (1, 5):
            fields = Fields({key: unpack(value, where, bounded=False) for key, value in fields.values.items()}, where)
        with read_as(version, where):
            return cls._from_fields(fields, version, where, fetch, {} if known is None else known)

    @classmethod
    def _from_fields(cls, fields: Fields, version: tuple[int, int], where: str, fetch: Fetch, known: dict[str, Chapter]) -> Manifest:
        schema, beside = _schema_from_json(fields.values.get("schema"), where, fetch)
        own = [ModelRef.from_json(model, where, schema) for model in fields.list("models")]
        digests = [model.digest for model in own]
        told = fields.list("shards")
        chapters = read_chapters([item for item in told if _is_chapter(item)], where, fetch, known)
        models = {model.digest: model.under(schema) for chapter in chapters for model in chapter.models if model.digest not in digests}
        shards: list[ShardRef] = []
        following = iter(chapters)
        for item in told:
            shards.extend(next(following).shards if _is_chapter(item) else [ShardRef.from_json(item, digests, where)])
        sources = Fields({"sources": unpack(fields.values.get("sources", []), where)}, where).list("sources")
        listed = [SourceRecord.from_json(source, where) for source in sources]
        apart = [source for chapter in chapters for source in chapter.sources]
        verification = fields.object("verification")
        manifest = cls(
            schema=schema,
            models=(*models.values(), *own),
            shards=tuple(_with_proofs(shards, verification, schema.names)),
            parent=fields.count("parent"),
            snapshot=fields.count("snapshot"),
            created_at=fields.text("created_at"),
            run=fields.text("run", ""),
            source=fields.text("source", ""),
            tolerances=_tolerances(unpack(fields.values.get("tolerances", []), where), schema, where),
            sources=tuple(sorted(listed + apart, key=lambda source: source.path) if apart else listed),
            ledger=fields.object("ledger"),
            verification={key: value for key, value in verification.items() if key not in PROOFS_BEFORE},
            extra=fields.object("extra"),
            writer=fields.text("writer", ""),
            format_version=version,
            created_with=check_version(fields.text("created_with"), where) if "created_with" in fields.values else None,
            chapters=tuple(chapters),
            beside=tuple([chapter.ref for chapter in chapters] + beside),
        )
        if fields.count("n_rows") != manifest.n_rows:
            raise CorruptArchive(f"{where}: claims {fields.count('n_rows')} rows, its shards hold {manifest.n_rows}")
        return manifest


def _is_chapter(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2


def _schema_to_json(schema: pa.Schema) -> tuple[Any, dict[str, bytes]]:
    """A short one as text, another as the description of its object."""
    data = schema_to_bytes(schema)
    text = to_base64(data)
    if len(text) <= INLINE_SCHEMA_CHARS:
        return text, {}
    ref = _schema_at(ObjectRef.of("", data))
    return ref.to_json(), {ref.path: data}


def _schema_from_json(told: Any, where: str, fetch: Fetch) -> tuple[pa.Schema, list[ObjectRef]]:
    if isinstance(told, str):
        return schema_from_bytes(from_base64(told, where), where), []
    ref = _schema_at(ObjectRef.from_json("", told, where))
    return schema_from_bytes(fetch(ref), ref.path), [ref]


def _schema_at(ref: ObjectRef) -> ObjectRef:
    return replace(ref, path=f"schemas/{ref.digests[:16].hex()}.arrow.zst")


def _with_proofs(shards: Sequence[ShardRef], verification: Mapping[str, Any], names: Sequence[str]) -> list[ShardRef]:
    """Before format 1.5 what was proved of the shards was told apart from them: their digests in order (1.0: by shard), the errors
    as lists of the shards numbered in `errors_of` (before 1.4: by shard and column)."""
    digests, columns = verification.get("shards"), verification.get("columns", {})
    if not isinstance(digests, list | dict):
        return list(shards)
    ordered = digests if isinstance(digests, list) else [digests.get(shard.id) for shard in shards]
    lists = dict(zip(verification.get("errors_of", []), verification.get("errors", []), strict=False))
    found = []
    for number, (shard, digest) in enumerate(zip(shards, ordered, strict=False)):
        if isinstance(digest, str):
            proof = Proof(digest, lists[number]) if number in lists else Proof.of(digest, columns.get(shard.id, {}), names)
            shard = replace(shard, proof=proof)
        found.append(shard)
    return found + list(shards[len(found) :])


def _runs(tolerances: Mapping[str, Any], schema: pa.Schema) -> list[Any]:
    """[tolerance, first column, number of columns] for each stretch of columns with the same one."""
    found: list[Any] = []
    for j, name in enumerate(schema.names):
        if name not in tolerances:
            continue
        if found and found[-1][0] == tolerances[name] and found[-1][1] + found[-1][2] == j:
            found[-1][2] += 1
        else:
            found.append([tolerances[name], j, 1])
    return found


def _tolerances(told: Any, schema: pa.Schema, where: str) -> Mapping[str, Any]:
    """The inverse; before format 1.4 an object, column -> tolerance."""
    if isinstance(told, dict):
        return told
    found: dict[str, Any] = {}
    for run in told if isinstance(told, list) else [told]:
        tolerance, first, n = typed(run, (dict, int, int), where, "tolerance")
        if not 0 <= first <= first + n <= len(schema):
            raise CorruptArchive(f"{where}: has a tolerance for columns {first} to {first + n} of {len(schema)}")
        found |= dict.fromkeys(schema.names[first : first + n], tolerance)
    return found
