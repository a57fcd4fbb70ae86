"""Writing an archive: stage models and shards in any order, from any process, then commit one snapshot that names them.

Nothing staged is visible. What is staged is claimed first, under pending/, so that a later run finds it again and
`vacuum` leaves it alone for a while. The exclusive create of the snapshot object is the commit: a snapshot that is
absent did not happen. FORMAT.md, section "Writing".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from storage.claims import PENDING, claimed_for_commit, folder_of, is_claim, model_claim, refuse_removed, shard_claim
from storage.codec import Codec, LearnedCodec
from storage.document import Fields, file_name, from_json, hex_id, to_json
from storage.entries import ModelRef, ShardRef
from storage.manifest import Manifest
from storage.shards import ShardEntry, SourceSlice, encode_files, load_record, load_records
from storage.snapshots import check_format, list_snapshots, load_manifest, snapshot_path
from storage.vacuum import VacuumResult, vacuum
from storage.verity import ObjectRef, read_verified
from storage.version import FORMAT_OBJECT, FORMAT_VERSION, format_line
from vae_core.errors import BadInput, Conflict, CorruptArchive, LatentpackError

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.objects import ObjectStore
    from vae_core.shard import EncodedShard

__all__ = [
    "VacuumResult",
    "check_writable",
    "commit",
    "find_pending",
    "load_model",
    "prepare",
    "shard_id",
    "stage_model",
    "stage_shard",
    "vacuum",
]

ENCODER_PREFIX = "encoder"


def prepare(store: ObjectStore) -> None:
    """Make the place an archive, or check that it is one this release can add to.

    Raises BadInput when other things lie there, CorruptArchive for another format.
    """
    if store.exists(FORMAT_OBJECT):
        check_format(store)
        return
    # a claim alone is what a run leaves that was killed as it tried the place
    strangers = [info.path for info in store.list("") if not info.path.startswith("reports/") and not is_claim(info.path)]
    if strangers and strangers != [FORMAT_OBJECT]:
        raise BadInput(f"{store.uri}: holds {strangers[0]!r} and is no archive; choose an empty place")
    try:
        store.create(FORMAT_OBJECT, format_line())
    except Conflict:
        check_format(store)


def check_writable(store: ObjectStore) -> None:
    """Find out whether an archive can be written here, before hours of training: a claim of nothing, and away with it.

    Raises BadInput where it cannot, Unreachable.
    """
    store.check_writable()
    if not store.is_local:
        with claimed_for_commit(store, ()):
            pass


def shard_id(part_fingerprint: str, model_digest: str, format_version: tuple[int, int] = FORMAT_VERSION) -> str:
    """32 hexadecimal digits that name one piece of work: these rows, by this model, in this format."""
    text = to_json([part_fingerprint, model_digest, *format_version])
    return hashlib.sha256(text).hexdigest()[:32]


def stage_model(store: ObjectStore, files: Mapping[str, bytes], schema: pa.Schema | None = None) -> ModelRef:
    """Store a model under the digest of its files. Storing the same model twice is harmless.

    schema : of files that do not state it; the reference carries it, and so will the snapshot
    """
    prepare(store)
    hasher = hashlib.sha256()
    for name in sorted(files):
        hasher.update(to_json([file_name(name, "model"), len(files[name])]))
        hasher.update(files[name])
    folder = hasher.hexdigest()
    objects = {name: ObjectRef.of(f"models/{folder}/{name}", data) for name, data in files.items()}
    ref = ModelRef(folder, objects, schema)
    store.write(model_claim(ref), to_json({"model": ref.to_json()}))
    for name, data in files.items():
        store.write(objects[name].path, data)
    return ref


def load_model(store: ObjectStore, ref: ModelRef, *, with_encoder: bool = True, codec: Codec | None = None) -> Any:
    """The model, every file checked against its digest. Without the encoder it decodes but cannot encode.

    Raises CorruptArchive naming the object.
    """
    files = {
        name: read_verified(store, described)
        for name, described in ref.objects.items()
        if with_encoder or not name.startswith(ENCODER_PREFIX)
    }
    try:
        return (codec or LearnedCodec()).load(files, ref.schema)
    except LatentpackError as error:
        raise CorruptArchive(f"models/{ref.digest}: {error}") from error
    except (ValueError, LookupError, TypeError, ArithmeticError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CorruptArchive(f"models/{ref.digest}: not a model this release reads ({reason})") from error


def stage_shard(
    store: ObjectStore,
    model: ModelRef,
    shard_id: str,
    shard: EncodedShard,
    slices: Sequence[SourceSlice | tuple[str, int, int | None]] = (),
) -> ShardEntry:
    """Store an encoded shard; the returned entry's `ref` is what a manifest names.

    slices : rows of source files it was made from; (path, first row, end row or None)
    """
    sources = [part if isinstance(part, SourceSlice) else SourceSlice(*part) for part in slices]
    entry, files = encode_files(shard_id, model.digest, shard, sources)
    store.write(shard_claim(entry.ref), to_json({"shard": entry.ref.to_json([model.digest]), "model": model.to_json()}))
    for path, data in files.items():
        store.write(path, data)
    return entry


def find_pending(store: ObjectStore, shard_id: str) -> ShardEntry | None:
    """A shard staged by an earlier run, whole and undamaged, or None. Every byte of it is read and checked, its claim renewed."""
    for info in store.list(f"pending/{hex_id(shard_id, 'shard')}-"):
        try:
            data = store.read(info.path)
            fields = Fields.of(from_json(data, info.path), info.path)
            model = ModelRef.from_json(fields.object("model"), info.path)
            entry = load_record(store, ShardRef.from_json(fields.list("shard"), [model.digest], info.path))
            for ref in entry.objects.values():
                read_verified(store, ref)
        except (CorruptArchive, FileNotFoundError):
            continue
        if entry.id == shard_id:
            store.write(info.path, data)  # as young as what this run stages
            return entry
    return None


def commit(store: ObjectStore, manifest: Manifest) -> int:
    """Make `manifest` the next snapshot after `manifest.parent` and return its number.

    Raises Conflict, leaving the archive as it was, when another run has committed since, or when something that the
    manifest names is no longer there.
    """
    prepare(store)
    newest = max(list_snapshots(store), default=0)
    if newest != manifest.parent:
        raise _lost(store, newest, manifest.parent)
    number = manifest.parent + 1
    created = check_format(store)
    stated = None if created == manifest.format_version else created
    written = replace(manifest, snapshot=number, created_with=stated).to_objects()
    named = [*written.objects, *written.again, *(shard.record.path for shard in manifest.shards)]
    named += [ref.path for model in manifest.models for ref in model.objects.values()]
    things = {folder_of(path) for path in named}
    # the parent names those, and has shown that they are whole
    kept = {shard.record.path for chapter in manifest.chapters if chapter.ref.path in written.again for shard in chapter.shards}
    with claimed_for_commit(store, things - set(map(folder_of, kept))) as claim:
        for path, content in written.objects.items():
            store.write(path, content)
        refuse_removed(store, things, claim.now())
        _check_staged(store, manifest, named, [shard for shard in manifest.shards if shard.record.path not in kept])
        try:
            store.create(snapshot_path(number), written.data)
        except Conflict:
            raise _lost(store, number, manifest.parent) from None
    claims = {*map(shard_claim, manifest.shards), *map(model_claim, manifest.models)}
    for info in store.list(PENDING):
        if info.path in claims:
            store.delete(info.path)
    return number


def _check_staged(store: ObjectStore, manifest: Manifest, named: Sequence[str], new: Sequence[ShardRef]) -> None:
    """A vacuum by somebody in a hurry may have taken what was staged, or a killed one some of it: look before naming it."""
    models = {model.digest for model in manifest.models}
    there = {info.path for prefix in ("shards/", "models/", "chapters/", "schemas/") for info in store.list(prefix)}
    records = load_records(store, [shard for shard in new if shard.record.path in there])
    for path in (*named, *(ref.path for entry in records for ref in entry.objects.values())):
        if path not in there:
            raise Conflict(f"{path}: was there and is gone (a vacuum?); nothing was committed, run again")
    for shard in manifest.shards:
        if shard.model not in models:
            raise ValueError(f"shard {shard.id} needs model {shard.model}, which the manifest does not hold")


def _lost(store: ObjectStore, winner: int, parent: int) -> Conflict:
    """The one line that says who was first."""
    by = ""
    try:
        won = load_manifest(store, winner)
        by = f" by run {won.run or 'unnamed'} at {won.created_at}"
    except (LatentpackError, OSError):
        pass
    return Conflict(
        f"{store.uri}: snapshot {winner} was committed{by} while this run built on snapshot {parent}; nothing was committed here, run again"
    )
