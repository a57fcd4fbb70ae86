"""A snapshot of an archive: what it holds, as one immutable JSON object under snapshots/.

FORMAT.md, section "Snapshots".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.document import (
    Fields,
    compress,
    decompress,
    file_name,
    from_base64,
    from_json,
    hex_id,
    pack,
    to_base64,
    to_json,
    typed,
    unpack,
)
from storage.verity import ObjectRef
from vae_core.errors import BadInput, CorruptArchive, UsageError

if TYPE_CHECKING:
    from storage.objects import ObjectStore

MAGIC = "latentpack"
FORMAT_VERSION = (1, 4)
FORMAT_OBJECT = "FORMAT"
WRITER = "latentpack"
MAX_SNAPSHOT_BYTES = 256 << 20
MAX_FORMAT_BYTES = 64
MAX_SCHEMA_BYTES = 64 << 20
RECORD_NAME = "shard.json.zst"

_FORMAT_LINE = re.compile(rb"latentpack (\d{1,4})\.(\d{1,4})\n\Z")
_SNAPSHOT_PATH = re.compile(r"snapshots/(\d{10})\.json\Z")
_SEAL = b',"sha256":"'
_SEAL_BYTES = len(_SEAL) + 64 + 2


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A stored model: `digest` names its folder, `objects` maps file name to what its bytes must be.

    schema : the schema of its columns, for models whose files do not state it; None where nobody said
    """

    digest: str
    objects: dict[str, ObjectRef]
    schema: pa.Schema | None = field(default=None, compare=False)

    @property
    def n_bytes(self) -> int:
        """Bytes of all its files, the encoder included."""
        return sum(ref.n_bytes for ref in self.objects.values())

    def to_json(self, known: pa.Schema | None = None) -> dict[str, Any]:
        """The model as a claim states it, or a snapshot, whose schema is `known`."""
        described = {"digest": self.digest, "objects": {name: ref.to_json() for name, ref in self.objects.items()}}
        if self.schema is None or (known is not None and self.schema.equals(known, check_metadata=True)):
            return described
        return described | {"schema": _schema_to_text(self.schema)}

    @classmethod
    def from_json(cls, value: Any, where: str, known: pa.Schema | None = None) -> ModelRef:
        """Undo `to_json`. Raises CorruptArchive."""
        fields = Fields.of(value, where)
        model = fields.hex_id("digest")
        objects = {
            name: ObjectRef.from_json(f"models/{model}/{file_name(name, where)}", described, where)
            for name, described in fields.object("objects").items()
        }
        schema = _read_schema(fields.text("schema"), where) if "schema" in fields.values else known
        return cls(model, objects, schema)


@dataclass(frozen=True, slots=True)
class ShardRef:
    """A shard as the snapshot states it: its identifier, its rows, the model that decodes it and its record object."""

    id: str
    model: str
    n_rows: int
    record: ObjectRef

    def to_json(self, models: list[str]) -> list[Any]:
        """[id, index into the snapshot's models, n_rows, record]."""
        return [self.id, models.index(self.model), self.n_rows, self.record.to_json()]

    @classmethod
    def from_json(cls, value: Any, models: list[str], where: str) -> ShardRef:
        """Undo `to_json`. Raises CorruptArchive."""
        if not isinstance(value, list) or len(value) != 4 or not isinstance(value[0], str):
            raise CorruptArchive(f"{where}: malformed shard")
        shard = hex_id(value[0], where)
        fields = Fields({"model": value[1], "n_rows": value[2]}, f"{where}: shard {shard}")
        model = models[fields.count("model", len(models) - 1)]
        record = ObjectRef.from_json("", value[3], where)
        record = replace(record, path=f"{shard_folder(shard, record)}/{RECORD_NAME}")
        return cls(shard, model, fields.count("n_rows"), record)


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One source file as it was read: size, sha256 `digest`, ETag and mtime where the store has them."""

    path: str
    n_bytes: int
    digest: str | None = None
    etag: str | None = None
    mtime: float | None = None
    n_rows: int | None = None

    def to_json(self) -> list[Any]:
        """[path, n_bytes, digest, etag, mtime, n_rows]."""
        return [self.path, self.n_bytes, self.digest, self.etag, self.mtime, self.n_rows]

    @classmethod
    def from_json(cls, value: Any, where: str) -> SourceRecord:
        """Undo `to_json`. Raises CorruptArchive."""
        text, number = (str, NoneType), (int, float, NoneType)
        return cls(*typed(value, (str, int, text, text, number, (int, NoneType)), where, "source file"))


@dataclass(frozen=True, slots=True)
class Manifest:
    """One snapshot. Immutable; the next one names this one as its parent.

    snapshot     : 0 until it is committed, then its number from 1
    parent       : number of the snapshot it was built on, 0 for the first
    created_at   : ISO 8601, UTC
    schema       : the exact Arrow schema, metadata included
    tolerances   : per column, what was asked for (Tolerance.to_json)
    shards       : in row order
    sources      : the files it was read from
    ledger       : costs that the shards' records do not tell
    verification : what the full decode before the commit found
    extra        : anything else the pipeline remembers between runs (drift baselines, settings); small
    created_with : what the FORMAT object says, None where that is format_version or, under 1.0, unknown
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

    @property
    def n_rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.n_rows for shard in self.shards)

    def model(self, digest: str) -> ModelRef:
        """The model with this digest. Raises CorruptArchive when the snapshot does not hold it."""
        for model in self.models:
            if model.digest == digest:
                return model
        raise CorruptArchive(f"{snapshot_path(self.snapshot)}: names no model {digest}")

    def to_bytes(self) -> bytes:
        """The snapshot object: compact JSON sealed by its own SHA-256."""
        digests = [model.digest for model in self.models]
        document = {
            "format": "{}.{}".format(*self.format_version),
            "snapshot": self.snapshot,
            "parent": self.parent,
            "created_at": self.created_at,
            "writer": self.writer,
            "run": self.run,
            "source": self.source,
            "n_rows": self.n_rows,
            "schema": _schema_to_text(self.schema),
            "models": [model.to_json(self.schema) for model in self.models],
            "shards": [shard.to_json(digests) for shard in self.shards],
        }
        optional = {
            "tolerances": _runs(self.tolerances, self.schema),
            "sources": [source.to_json() for source in self.sources],
            "ledger": dict(self.ledger),
            "verification": dict(self.verification),
            "extra": dict(self.extra),
        }
        if self.created_with not in (None, self.format_version):
            document["created_with"] = "{}.{}".format(*self.created_with)
        body = to_json(document | {key: pack(value) for key, value in optional.items() if value})[:-1]
        return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}'

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Undo `to_bytes`: the seal is checked first, then the version, then every field. Raises CorruptArchive."""
        body, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
        if seal != _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}':
            raise CorruptArchive(f"{where}: the bytes do not match the digest they end with")
        fields = Fields.of(from_json(body + b"}", where), where)
        version = check_version(fields.text("format"), where)
        with read_as(version, where):
            return cls._from_fields(fields, version, where)

    @classmethod
    def _from_fields(cls, fields: Fields, version: tuple[int, int], where: str) -> Manifest:
        schema = _read_schema(fields.text("schema"), where)
        models = tuple(ModelRef.from_json(model, where, schema) for model in fields.list("models"))
        digests = [model.digest for model in models]
        sources = Fields({"sources": unpack(fields.values.get("sources", []), where)}, where).list("sources")
        manifest = cls(
            schema=schema,
            models=models,
            shards=tuple(ShardRef.from_json(shard, digests, where) for shard in fields.list("shards")),
            parent=fields.count("parent"),
            snapshot=fields.count("snapshot"),
            created_at=fields.text("created_at"),
            run=fields.text("run", ""),
            source=fields.text("source", ""),
            tolerances=_tolerances(unpack(fields.values.get("tolerances", []), where), schema, where),
            sources=tuple(SourceRecord.from_json(source, where) for source in sources),
            ledger=fields.object("ledger"),
            verification=fields.object("verification"),
            extra=fields.object("extra"),
            writer=fields.text("writer", ""),
            format_version=version,
            created_with=check_version(fields.text("created_with"), where) if "created_with" in fields.values else None,
        )
        if fields.count("n_rows") != manifest.n_rows:
            raise CorruptArchive(f"{where}: claims {fields.count('n_rows')} rows, its shards hold {manifest.n_rows}")
        return manifest


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


def _schema_to_text(schema: pa.Schema) -> str:
    return to_base64(compress(schema.serialize().to_pybytes()))


def _read_schema(text: str, where: str) -> pa.Schema:
    data = decompress(from_base64(text, where), where, MAX_SCHEMA_BYTES)
    try:
        return pa.ipc.read_schema(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise CorruptArchive(f"{where}: the schema is unreadable ({error})") from None


def shard_folder(shard_id: str, record: ObjectRef) -> str:
    """Where a shard lies: its id and half its record's digest, so that other bytes never land on a stored shard."""
    return f"shards/{shard_id}-{record.digests[:8].hex()}"


def snapshot_path(number: int) -> str:
    """snapshots/0000000001.json"""
    return f"snapshots/{number:010d}.json"


def check_version(text: str, where: str) -> tuple[int, int]:
    """(major, minor) of a format version this release can read. Raises CorruptArchive stating both sides."""
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", text)
    if match is None:
        raise CorruptArchive(f"{where}: {text[:40]!r} is no format version")
    version = int(match[1]), int(match[2])
    if version[0] != FORMAT_VERSION[0]:
        ours = "{}.{}".format(*FORMAT_VERSION)
        raise CorruptArchive(f"{where}: archive has format {text}, this release reads up to {ours}")
    return version


@contextmanager
def read_as(version: tuple[int, int], where: str) -> Iterator[None]:
    """What a newer minor version says in ways this release does not know is refused by its number."""
    try:
        yield
    except CorruptArchive as error:
        if version <= FORMAT_VERSION:
            raise
        theirs, ours = ("{}.{}".format(*one) for one in (version, FORMAT_VERSION))
        raise CorruptArchive(f"{where}: is of format {theirs}, this release reads up to {ours}: {error}") from error


def format_line(version: tuple[int, int] = FORMAT_VERSION) -> bytes:
    """The content of the FORMAT object."""
    return f"{MAGIC} {version[0]}.{version[1]}\n".encode()


def check_format(store: ObjectStore) -> tuple[int, int]:
    """Version the archive was created with. Raises BadInput when there is none, CorruptArchive for another format."""
    try:
        line = store.read_range(FORMAT_OBJECT, 0, MAX_FORMAT_BYTES)
    except FileNotFoundError:
        if list_snapshots(store):
            raise CorruptArchive(f"{FORMAT_OBJECT}: missing from an archive that has snapshots") from None
        raise BadInput(f"{store.uri}: no archive here (there is no {FORMAT_OBJECT} object)") from None
    except OSError:
        if store.size(FORMAT_OBJECT):
            raise
        line = b""  # an object store refuses any range of an empty object
    match = _FORMAT_LINE.match(line)
    if match is None:
        raise CorruptArchive(f"{FORMAT_OBJECT}: this is not a latentpack archive, or its first line is damaged")
    return check_version(f"{int(match[1])}.{int(match[2])}", FORMAT_OBJECT)


def list_snapshots(store: ObjectStore) -> dict[int, int]:
    """Number -> size in bytes of every snapshot, ascending; empty where nothing was ever committed."""
    found = ((_SNAPSHOT_PATH.match(info.path), info.n_bytes) for info in store.list("snapshots/"))
    return dict(sorted((int(match[1]), n_bytes) for match, n_bytes in found if match and int(match[1])))


def load_manifest(store: ObjectStore, snapshot: int | None = None) -> Manifest:
    """A snapshot by number, the newest without one.

    Raises BadInput when there is no archive or no snapshot yet, UsageError for a number it lacks, CorruptArchive.
    """
    created = check_format(store)
    sizes = list_snapshots(store)
    if not sizes:
        raise BadInput(f"{store.uri}: the archive has no snapshot yet; its first run did not finish, run it again")
    number = max(sizes) if snapshot is None else snapshot
    if number not in sizes:
        shown = ", ".join(map(str, list(sizes)[-10:]))
        dots = "... " if len(sizes) > 10 else ""
        raise UsageError(f"{store.uri}: there is no snapshot {number}; it has {dots}{shown}")
    where = snapshot_path(number)
    if sizes[number] > MAX_SNAPSHOT_BYTES:
        raise CorruptArchive(f"{where}: {sizes[number]} bytes, this release reads snapshots up to {MAX_SNAPSHOT_BYTES}")
    manifest = Manifest.from_bytes(store.read_range(where, 0, sizes[number]), where)
    if manifest.snapshot != number:
        raise CorruptArchive(f"{where}: holds snapshot {manifest.snapshot}")
    stated = manifest.created_with or (manifest.format_version if manifest.format_version > (1, 0) else None)
    if stated not in (None, created):
        found, wanted = ("{}.{}".format(*version) for version in (created, stated))
        raise CorruptArchive(f"{FORMAT_OBJECT}: says {found}, {where} says the archive was created with format {wanted}")
    if manifest.format_version < created:
        older, newer = ("{}.{}".format(*version) for version in (manifest.format_version, created))
        raise CorruptArchive(f"{where}: has format {older}, the archive was created with format {newer}")
    return manifest


def newest_manifest(store: ObjectStore) -> Manifest | None:
    """The newest snapshot, None where nothing was committed yet. Raises CorruptArchive."""
    if not store.exists(FORMAT_OBJECT) or not list_snapshots(store):
        return None
    return load_manifest(store)
