"""What a snapshot lists: models, shards with what was proved of them, and source files.

FORMAT.md, section "Snapshots".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any

import pyarrow as pa

from storage.document import Fields, compress, decompress, file_name, from_base64, hex_id, pack, to_base64, typed, unpack
from storage.verity import ObjectRef
from vae_core.errors import CorruptArchive
from vae_core.schemas import schema_from_message, schema_to_message

RECORD_NAME = "shard.json.zst"
MAX_SCHEMA_BYTES = 64 << 20

_NUMBER = (int, float)


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

    def under(self, schema: pa.Schema) -> ModelRef:
        """The same with this schema unless one of its own was stated."""
        return self if self.schema is not None else replace(self, schema=schema)

    def to_json(self, known: pa.Schema | None = None) -> dict[str, Any]:
        """The model as a claim states it, or a snapshot, whose schema is `known`."""
        described = {"digest": self.digest, "objects": {name: ref.to_json() for name, ref in self.objects.items()}}
        if self.schema is None or (known is not None and self.schema.equals(known, check_metadata=True)):
            return described
        return described | {"schema": to_base64(schema_to_bytes(self.schema))}

    @classmethod
    def from_json(cls, value: Any, where: str, known: pa.Schema | None = None) -> ModelRef:
        """Undo `to_json`. Raises CorruptArchive."""
        fields = Fields.of(value, where)
        model = fields.hex_id("digest")
        objects = {
            name: ObjectRef.from_json(f"models/{model}/{file_name(name, where)}", described, where)
            for name, described in fields.object("objects").items()
        }
        schema = schema_from_bytes(from_base64(fields.text("schema"), where), where) if "schema" in fields.values else known
        return cls(model, objects, schema)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the full decode before the commit found of one shard.

    digest : hexadecimal SHA-256 of its decoded rows (vae_core.quality.digest)
    told   : the errors of its columns as they are stored, None where every column is exact; see `errors`
    """

    digest: str
    told: Any = None

    @classmethod
    def of(cls, digest: str, errors: Mapping[str, Sequence[float]], names: Sequence[str]) -> Proof:
        """From column -> (largest error, root mean square error, number of finite values), of columns that are not exact."""
        lists = [[errors[name][i] if name in errors else None for name in names] for i in range(3)]
        return cls(digest, pack(lists) if errors else None)

    def errors(self, names: Sequence[str], where: str) -> dict[str, list[float]]:
        """The errors `of` was given, for a shard of columns `names`. Raises CorruptArchive."""
        if self.told is None:
            return {}
        lists = Fields({"errors": unpack(self.told, where)}, where).list("errors")
        if len(lists) != 3 or any(not isinstance(one, list) or len(one) != len(names) for one in lists):
            raise CorruptArchive(f"{where}: the proved errors are not three lists of {len(names)} columns")
        lines = {name: list(line) for name, *line in zip(names, *lists, strict=True) if line[0] is not None}
        return {name: typed(line, (_NUMBER, _NUMBER, int), where, "proved error") for name, line in lines.items()}


@dataclass(frozen=True, slots=True)
class ShardRef:
    """A shard as the snapshot states it: its identifier, its rows, the model that decodes it and its record object.

    proof : None while it is only staged, and in archives whose writer proved nothing
    """

    id: str
    model: str
    n_rows: int
    record: ObjectRef
    proof: Proof | None = None

    def to_json(self, models: Sequence[str]) -> list[Any]:
        """[id, index into `models`, n_rows, record], then the digest and the errors of its proof where there are any."""
        proof = [] if self.proof is None else [self.proof.digest] if self.proof.told is None else [self.proof.digest, self.proof.told]
        return [self.id, models.index(self.model), self.n_rows, self.record.to_json(), *proof]

    @classmethod
    def from_json(cls, value: Any, models: Sequence[str], where: str) -> ShardRef:
        """Undo `to_json`. Raises CorruptArchive."""
        if not isinstance(value, list) or not 4 <= len(value) <= 6 or not all(isinstance(text, str) for text in (value[0], *value[4:5])):
            raise CorruptArchive(f"{where}: malformed shard")
        shard = hex_id(value[0], where)
        fields = Fields({"model": value[1], "n_rows": value[2]}, f"{where}: shard {shard}")
        model = models[fields.count("model", len(models) - 1)]
        record = ObjectRef.from_json("", value[3], where)
        record = replace(record, path=f"{shard_folder(shard, record)}/{RECORD_NAME}")
        return cls(shard, model, fields.count("n_rows"), record, Proof(*value[4:]) if value[4:] else None)


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


def schema_to_bytes(schema: pa.Schema) -> bytes:
    """A zstd frame of the schema (FORMAT.md, "Schemas")."""
    return compress(schema_to_message(schema))


def schema_from_bytes(data: bytes, where: str) -> pa.Schema:
    """Undo `schema_to_bytes`. Raises CorruptArchive."""
    data = decompress(data, where, MAX_SCHEMA_BYTES)
    try:
        return schema_from_message(data)
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError) as error:
        raise CorruptArchive(f"{where}: the schema is unreadable ({error})") from None


def shard_folder(shard_id: str, record: ObjectRef) -> str:
    """Where a shard lies: its id and half its record's digest, so that other bytes never land on a stored shard."""
    return f"shards/{shard_id}-{record.digests[:8].hex()}"
