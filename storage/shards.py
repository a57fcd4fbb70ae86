"""A shard on disk: latents.parquet, corrections.parquet and the record that says what their bytes are and mean.

FORMAT.md, section "Shards".
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any

from storage.document import (
    Fields,
    compress_json,
    decompress_json,
    from_base64,
    from_varints,
    hex_id,
    to_base64,
    to_varints,
    typed,
)
from storage.entries import RECORD_NAME, ShardRef, shard_folder
from storage.objects import side_by_side
from storage.parquet import (
    ENCODINGS,
    MAX_BLOCK_ROWS,
    ROLES,
    column_chunks,
    footer_start,
    write_corrections,
    write_latents,
)
from storage.verity import ObjectRef, read_verified, segment_ends
from storage.version import FORMAT_VERSION, check_version, read_as
from vae_core.errors import CorruptArchive
from vae_core.layout import LEARNED
from vae_core.shard import ColumnOutcome, EncodedShard, NativeColumn

if TYPE_CHECKING:
    from storage.objects import ObjectStore

LATENTS = "latents.parquet"
CORRECTIONS = "corrections.parquet"
PARTS = ("latents", "corrections", "verbatim", "metadata")

MAX_BLOCKS = 1 << 15


@dataclass(frozen=True, slots=True)
class SourceSlice:
    """Rows `start` to `stop` (None: to its end) of one source file."""

    path: str
    start: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """Everything a snapshot knows about one shard.

    id              : what was encoded by what (see writer.shard_id)
    model           : digest of the model that decodes it
    block_rows      : rows of each block, in order
    layout          : what decode_block needs beyond the model
    natives         : columns of latents.parquet, in order
    groups          : payload names, in order
    objects         : file name -> what its bytes must be
    payload_start   : offset in corrections.parquet of the first payload's length prefix
    payload_lengths : (n_blocks * n_groups,) bytes of each payload, block after block
    outcomes        : per dataset column; n_bytes counts payloads and native columns
    bits_per_value  : the drift measure, per dataset column
    parts           : bytes by ledger part (latents, corrections, verbatim, metadata); sums to all its objects
    sources         : the rows of source files it was made from, in order
    record          : the object this entry was read from or written to
    """

    id: str
    model: str
    block_rows: tuple[int, ...]
    layout: Mapping[str, Any]
    natives: tuple[NativeColumn, ...]
    groups: tuple[str, ...]
    objects: Mapping[str, ObjectRef]
    payload_start: int
    payload_lengths: tuple[int, ...]
    outcomes: tuple[ColumnOutcome, ...]
    bits_per_value: Mapping[str, float]
    parts: Mapping[str, int]
    sources: tuple[SourceSlice, ...]
    record: ObjectRef

    @property
    def n_rows(self) -> int:
        """Rows of all blocks."""
        return sum(self.block_rows)

    @property
    def n_bytes(self) -> int:
        """Bytes of all its objects, the record included."""
        return sum(ref.n_bytes for ref in self.objects.values()) + self.record.n_bytes

    @property
    def ref(self) -> ShardRef:
        """How a snapshot names this shard."""
        return ShardRef(self.id, self.model, self.n_rows, self.record)

    def to_bytes(self) -> bytes:
        """The record object: JSON, zstd."""
        parts = {name: n_bytes for name, n_bytes in self.parts.items() if name != "metadata"}
        document = {
            "format": "{}.{}".format(*FORMAT_VERSION),
            "id": self.id,
            "model": self.model,
            "block_rows": list(self.block_rows),
            "layout": dict(self.layout),
            "natives": [[native.name, native.role, native.encoding, native.column] for native in self.natives],
            "groups": list(self.groups),
            "objects": {name: ref.to_json() for name, ref in self.objects.items()},
            "payload_start": self.payload_start,
            "payload_lengths": to_base64(to_varints(self.payload_lengths)),
            "columns": [list(values) for values in zip(*map(self._column, self.outcomes), strict=True)],
            "parts": parts,
            "sources": [[part.path, part.start, part.stop] for part in self.sources],
        }
        return compress_json(document)

    def _column(self, outcome: ColumnOutcome) -> list[Any]:
        bits = _short(self.bits_per_value.get(outcome.name))
        if bits == _bits_of(outcome, self.n_rows):
            bits = None  # as FORMAT.md says: what the sizes tell is not said again
        return [outcome.coding, outcome.n_bytes, outcome.conventional_bytes, _finite(outcome.max_abs_error), bits]

    @classmethod
    def from_bytes(cls, data: bytes, record: ObjectRef, names: Sequence[str] = ()) -> ShardEntry:
        """Undo `to_bytes`, every field checked. Raises CorruptArchive naming the record.

        names : of the dataset's columns, which a record does not say again; without them columns are called by their numbers
        """
        where = record.path
        fields = Fields.of(decompress_json(data, where), where)
        version = check_version(fields.text("format"), where)
        with read_as(version, where):
            return cls._from_fields(fields, version, record, names)

    @classmethod
    def _from_fields(cls, fields: Fields, version: tuple[int, int], record: ObjectRef, names: Sequence[str]) -> ShardEntry:
        where = record.path
        shard = hex_id(fields.text("id"), where)
        folder = shard_folder(shard, record)
        if where != f"{folder}/{RECORD_NAME}":
            raise CorruptArchive(f"{where}: is the record of shard {shard}")
        block_rows = fields.counts("block_rows", MAX_BLOCK_ROWS)
        natives = tuple(_native(value, where) for value in fields.list("natives"))
        groups = tuple(_text(value, where, "groups") for value in fields.list("groups"))
        for called in (groups, [native.name for native in natives]):
            if len(set(called)) != len(called):
                raise CorruptArchive(f"{where}: two natives or two groups share a name")
        objects = {}
        for name, described in fields.object("objects").items():
            if name not in (LATENTS, CORRECTIONS):
                raise CorruptArchive(f"{where}: {name[:80]!r} may not name an object of a shard")
            objects[name] = ObjectRef.from_json(f"{folder}/{name}", described, where)
        n_payloads = len(block_rows) * len(groups)
        lengths, rest = from_varints(from_base64(fields.text("payload_lengths"), where), n_payloads, where)
        start = fields.count("payload_start")
        room = objects[CORRECTIONS].n_bytes if CORRECTIONS in objects else 0
        room -= start + sum(lengths) + 4 * n_payloads
        if rest or (n_payloads and room < 0) or (natives and LATENTS not in objects):
            raise CorruptArchive(f"{where}: payloads or native columns do not fit the objects listed")
        told_columns = fields.list("columns")
        columns = [_outcome(value, where) for value in (told_columns if version < (1, 4) else _lines(told_columns, names, where))]
        n_rows = sum(block_rows)
        told = [(outcome, _bits_of(outcome, n_rows) if bits is None else bits) for outcome, bits in columns]
        parts = {name: Fields.of(fields.object("parts"), where).count(name) for name in PARTS if name != "metadata"}
        total = sum(ref.n_bytes for ref in objects.values()) + record.n_bytes
        if sum(parts.values()) > total:
            raise CorruptArchive(f"{where}: its parts are larger than its objects")
        return cls(
            id=shard,
            model=fields.hex_id("model"),
            block_rows=block_rows,
            layout=fields.object("layout"),
            natives=natives,
            groups=groups,
            objects=objects,
            payload_start=start,
            payload_lengths=lengths,
            outcomes=tuple(outcome for outcome, _ in columns),
            bits_per_value={outcome.name: bits for outcome, bits in told if bits is not None},
            parts={**parts, "metadata": total - sum(parts.values())},
            sources=tuple(_slice(value, where) for value in fields.list("sources")),
            record=record,
        )


def _bits_of(outcome: ColumnOutcome, n_rows: int) -> float | None:
    """Bits per value of a learned column, None for others: no other coding is a measure of drift."""
    return _short(8 * outcome.n_bytes / n_rows) if n_rows and outcome.coding == LEARNED else None


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _short(value: float | None) -> float | None:
    return None if value is None or _finite(value) is None else float(f"{value:.5g}")


def _text(value: Any, where: str, name: str) -> str:
    return Fields({name: value}, where).text(name)


def _native(value: Any, where: str) -> NativeColumn:
    native = NativeColumn(*typed(value, (str, str, str, (str, NoneType)), where, "native column"))
    if native.role not in ROLES or native.encoding not in ENCODINGS:
        raise CorruptArchive(f"{where}: native column {native.name[:80]!r} has an unknown role or encoding")
    return native


def _lines(lists: list[Any], names: Sequence[str], where: str) -> list[list[Any]]:
    """[name, coding, n_bytes, conventional_bytes, max_abs_error, bits] a column, from a list of each; numbers for names not given."""
    if not lists:
        return []
    if len(lists) != 5 or not all(isinstance(values, list) and len(values) == len(lists[0]) for values in lists):
        raise CorruptArchive(f"{where}: malformed columns")
    if names and len(names) != len(lists[0]):
        raise CorruptArchive(f"{where}: tells of {len(lists[0])} columns, the dataset has {len(names)}")
    return [[name, *line] for name, *line in zip(names or map(str, range(len(lists[0]))), *lists, strict=True)]


def _outcome(value: Any, where: str) -> tuple[ColumnOutcome, float | None]:
    number = (int, float, NoneType)
    name, coding, n_bytes, conventional, error, bits = typed(value, (str, str, int, int, number, number), where, "column")
    return ColumnOutcome(name, coding, n_bytes, conventional, float("inf") if error is None else float(error)), bits


def _slice(value: Any, where: str) -> SourceSlice:
    return SourceSlice(*typed(value, (str, int, (int, NoneType)), where, "source slice"))


def load_record(store: ObjectStore, ref: ShardRef, names: Sequence[str] = ()) -> ShardEntry:
    """The entry of a shard that a snapshot names. Raises CorruptArchive when the two disagree.

    names : of the snapshot's columns, where it matters what they are called
    """
    entry = ShardEntry.from_bytes(read_verified(store, ref.record), ref.record, names)
    if (entry.id, entry.model, entry.n_rows) != (ref.id, ref.model, ref.n_rows):
        raise CorruptArchive(f"{ref.record.path}: is not the shard the snapshot describes")
    return entry


def load_records(store: ObjectStore, refs: Sequence[ShardRef], names: Sequence[str] = ()) -> list[ShardEntry]:
    """As `load_record`, of many shards, fetched side by side."""
    return side_by_side(lambda ref: load_record(store, ref, names), refs)


def encode_files(shard_id: str, model: str, shard: EncodedShard, sources: Sequence[SourceSlice]) -> tuple[ShardEntry, dict[str, bytes]]:
    """The entry of an encoded shard and its objects, path -> bytes, the record last."""
    hex_id(shard_id, "shard")
    parts = dict.fromkeys(PARTS, 0)
    native_bytes: dict[str | None, int] = {}
    objects: dict[str, ObjectRef] = {}
    files: dict[str, bytes] = {}
    if shard.natives:
        files[LATENTS] = data = write_latents(shard)
        cuts: list[int] = []
        required = [footer_start(data)]
        was_latent: bool | None = None
        for native, start, n_bytes in column_chunks(data, shard.natives):
            is_latent = native.role == "latent"
            if was_latent is not None:  # what lies before the first is no segment of its own: nobody reads it
                (cuts if is_latent == was_latent else required).append(start)
            was_latent = is_latent
            parts["latents" if is_latent else "verbatim"] += n_bytes
            native_bytes[native.column] = native_bytes.get(native.column, 0) + n_bytes
        objects[LATENTS] = ObjectRef.of(LATENTS, data, segment_ends(len(data), cuts, required))
    payload_start = 0
    lengths: list[int] = []
    if shard.groups:
        lengths = [len(block.payloads.get(group, b"")) for block in shard.blocks for group in shard.groups]
        files[CORRECTIONS], payload_start = write_corrections(shard, lengths)
        data = files[CORRECTIONS]
        ends = list(itertools.accumulate((4 + length for length in lengths), initial=payload_start))
        cuts = [end for end, length in zip(ends[1:], lengths, strict=True) if length]  # an empty one goes with what follows
        objects[CORRECTIONS] = ObjectRef.of(CORRECTIONS, data, segment_ends(len(data), cuts, [ends[-1]]))
        parts["corrections"] = sum(lengths)
    entry = ShardEntry(
        id=shard_id,
        model=model,
        block_rows=tuple(block.n_rows for block in shard.blocks),
        layout=shard.layout,
        natives=shard.natives,
        groups=shard.groups,
        objects=objects,
        payload_start=payload_start,
        payload_lengths=tuple(lengths),
        outcomes=tuple(replace(o, n_bytes=o.n_bytes + native_bytes.get(o.name, 0)) for o in shard.outcomes),
        bits_per_value=dict(shard.bits_per_value),
        parts=parts,
        sources=tuple(sources),
        record=ObjectRef("", 0, (), b""),
    )
    files[RECORD_NAME] = entry.to_bytes()
    record = ObjectRef.of("", files[RECORD_NAME])
    folder = shard_folder(shard_id, record)
    names = [outcome.name for outcome in shard.outcomes]
    entry = ShardEntry.from_bytes(files[RECORD_NAME], replace(record, path=f"{folder}/{RECORD_NAME}"), names)
    return entry, {f"{folder}/{name}": data for name, data in files.items()}
