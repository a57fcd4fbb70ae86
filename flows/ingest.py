"""Ingest: look at the source, compare it with what the archive holds, decide what there is to do.

The decision is a `Plan`, a small JSON document in the run's folder. Nothing is written to the archive here.
"""

import logging
import os
import re
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from flows import server
from flows.credentials import storage_options
from flows.settings import DROP_MISSING, RETRAIN, ArchiveSettings, RunRequest, SourceSettings
from storage.agreement import WIDEN
from storage.entries import SourceRecord
from storage.leaves import WHOLE, Leaves, Recipe, find_recipe
from storage.manifest import Manifest
from storage.metering import Meter
from storage.objects import ObjectStore
from storage.shards import load_records
from storage.snapshots import newest_manifest
from storage.sources import Source, SourceFile, open_source
from vae_core.errors import BadInput, UsageError
from vae_core.tolerance import Tolerance, parse_tolerances

log = logging.getLogger(__name__)

RUN_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")  # as new_run gives them
PLAN_FILE = "plan.json"
UNORDERED = "unordered"  # in a snapshot's `extra`: files of other shards fall between those of one that was left as it is
SHARES = ("relative", "rmse_relative", "psnr")  # tolerances that are of the range of values
NOTHING, FIRST, APPEND, REPLACE, GENERATION = "nothing-to-do", "first", "append", "replace", "new-generation"


class Plan(BaseModel):
    """What a run will do, decided before it touches the archive.

    decision   : "nothing-to-do" | "first" | "append" | "replace" | "new-generation"
    parent     : the snapshot it starts from, None for the first
    new, changed, missing, encode : paths of source files; `encode` holds all that are (re-)encoded, in source order
    kept_shards, dropped_shards   : paths of the records of the parent's shards
    tolerances : column -> the Tolerance as asked for, relative ones not yet resolved
    leaves     : how nested columns are divided, a Recipe as JSON
    seen       : path -> [bytes, ETag, time of modification] of each file, where a tolerance is of the range of their values
    statement  : the decision in words
    """

    model_config = ConfigDict(frozen=True)

    run: str
    created_at: str
    decision: str
    parent: int | None = None
    new: list[str] = []
    changed: list[str] = []
    missing: list[str] = []
    encode: list[str] = []
    kept_shards: list[str] = []
    dropped_shards: list[str] = []
    tolerances: dict[str, dict[str, Any]] = {}
    leaves: dict[str, Any] = WHOLE.to_json()
    seen: dict[str, tuple[int, str | None, float | None]] = {}
    n_files: int = 0
    raw_bytes: int = 0
    statement: str = ""

    def save(self) -> None:
        """Write the plan into its run's folder."""
        run_folder(self.run).joinpath(PLAN_FILE).write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def load(cls, run: str) -> "Plan":
        """The plan of a run."""
        return cls.model_validate_json(run_folder(run).joinpath(PLAN_FILE).read_text(encoding="utf-8"))


def new_run(now: datetime | None = None) -> str:
    """A name for a run: sorts by time, is a file name everywhere."""
    return f"{(now or datetime.now(UTC)):%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}"


def timestamp(now: datetime) -> str:
    """A moment as manifests and reports write it, to the second, UTC."""
    return f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def run_folder(run: str) -> Path:
    """The local scratch folder of a run; tasks of one machine hand each other files through it."""
    folder = server.home() / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def discard_run_folder(run: str) -> None:
    """Remove a run's scratch folder."""
    shutil.rmtree(server.home() / "runs" / run, ignore_errors=True)


def source_of(
    settings: SourceSettings, run: str | None = None, meter: Meter | None = None, *, recipe: Recipe | None = None
) -> Source:
    """The source of a request, opened; use it as a context. Tasks of one run share their local copies of remote files, and its plan's
    way to divide nested columns.

    Raises BadInput.
    """
    staging = None
    if run is not None:
        staging = str(run_folder(run) / "staging")
        os.makedirs(staging, exist_ok=True)
        if recipe is None and (run_folder(run) / PLAN_FILE).exists():
            recipe = Recipe.from_json(Plan.load(run).leaves)
    return open_source(
        settings.uri,
        widen=settings.widen,
        storage_options=storage_options(settings.credentials),
        meter=meter,
        staging_dir=staging,
        recipe=recipe,
    )


def store_of(settings: ArchiveSettings, meter: Meter | None = None) -> ObjectStore:
    """The object store of an archive."""
    return ObjectStore.open(settings.uri, storage_options=storage_options(settings.credentials), meter=meter)


def latest_manifest(settings: ArchiveSettings) -> Manifest | None:
    """The manifest of the latest snapshot, None when there is no archive yet. Raises CorruptArchive."""
    return newest_manifest(store_of(settings))


def survey(request: RunRequest, run: str | None, created_at: str) -> Plan:
    """Compare source and archive and decide. Writes nothing to the archive; without a run nothing on disk either.

    Raises BadInput, UsageError, CorruptArchive.
    """
    try:
        source = source_of(request.source, run, recipe=WHOLE)  # `decide` looks at rows if it has to
    except BadInput as error:
        if WIDEN in str(error) and latest_manifest(request.archive) is not None:
            raise BadInput(f"{error}, and the archive, which has the narrower one, needs {RETRAIN} with it") from error
        raise
    with source:
        for note in source.notes:  # here, for every task of a run opens the source again
            log.warning("%s", note)
        return decide(request, source, run, created_at)


def decide(request: RunRequest, source: Source, run: str | None, created_at: str) -> Plan:
    """The plan of a run on an opened source."""
    store_of(request.archive).check_folder()
    manifest = latest_manifest(request.archive)
    if manifest is None:
        store_of(request.archive).check_bucket()  # before hours of training, not after
    if manifest is None or request.update.retrain:
        source.divide(WHOLE)
        bounded = {given for name in request.tolerance.columns for given in (name, name.strip())}
        source.divide(find_recipe(source.schema, source.peek, bounded))
    else:
        source.divide(Leaves.read(manifest.schema).recipe)
    asked = parse_tolerances([f"{name}={spec}" for name, spec in request.tolerance.columns.items()], source.schema, source.leaves.groups)
    common: dict[str, Any] = {
        "run": run or "",
        "created_at": created_at,
        "n_files": len(source.files),
        "raw_bytes": source.raw_bytes,
        "tolerances": {name: tolerance.to_json() for name, tolerance in asked.items()},
        "leaves": source.leaves.recipe.to_json(),
        "seen": versions(source) if any(tolerance.kind in SHARES for tolerance in asked.values()) else {},
    }
    every = [file.path for file in source.files]
    if manifest is None:
        return Plan(decision=FIRST, new=every, encode=every, statement=f"first run: {_files(every)}", **common)
    if request.update.retrain:
        missing = sorted({record.path for record in manifest.sources}.difference(every))
        if missing and not request.update.drop_missing:
            raise BadInput(
                f"{missing[0]} vanished from the source, and a new generation would leave its rows out: bring it back, or let its rows"
                f" go by {DROP_MISSING}"
            )
        return new_generation(Plan(decision=REPLACE, **common), manifest, every)
    check_same_tolerances(asked, {name: Tolerance.from_json(value) for name, value in manifest.tolerances.items()})
    check_same_schema(source, manifest)
    return compare(source, store_of(request.archive), manifest, drop_missing=request.update.drop_missing, common=common)


def new_generation(plan: Plan, manifest: Manifest, every: Sequence[str], why: str = "") -> Plan:
    """A plan made into one that encodes every file of the source, by a model trained from scratch."""
    return plan.model_copy(update={
        "decision": GENERATION, "parent": manifest.snapshot, "new": list(every), "changed": [], "encode": list(every), "kept_shards": [],
        "dropped_shards": [shard.record.path for shard in manifest.shards],
        "statement": f"new generation: {why or f'{_files(every)} encoded again by a model trained from scratch'}",
    })  # fmt: skip


def versions(source: Source) -> dict[str, tuple[int, str | None, float | None]]:
    """Path -> what is known of each file unread."""
    return {file.path: (file.n_bytes, file.etag, file.mtime) for file in source.files}


def refuse_other_ranges(plan: Plan, source: Source) -> None:
    """Raise BadInput where a file to encode is no longer the one of whose range a bound is a share."""
    now = versions(source)
    for path in plan.encode:
        if path in plan.seen and now.get(path) != plan.seen[path]:
            raise BadInput(f"{path}: changed after the range of its values was measured; run again when it is at rest")


def asked_for(plan: Plan) -> dict[str, Tolerance]:
    """The tolerances of a plan by column, relative ones not yet resolved."""
    return {name: Tolerance.from_json(value) for name, value in plan.tolerances.items()}


def compare(source: Source, store: ObjectStore, manifest: Manifest, *, drop_missing: bool, common: Mapping[str, Any]) -> Plan:
    """The decision for an archive that has a snapshot already."""
    held = {file.path: file for file in manifest.sources}
    present = {file.path for file in source.files}
    new = [file.path for file in source.files if file.path not in held]
    changed = [file.path for file in source.files if file.path in held and not unchanged(source, file, held[file.path])]
    missing = sorted(path for path in held if path not in present)
    replaced = {*changed, *(missing if drop_missing else [])}
    order = {file.path: place for place, file in enumerate(source.files)}
    between = bool(new) and min(order[path] for path in new) < max((order[path] for path in held if path in order), default=-1)
    between = between or bool(manifest.extra.get(UNORDERED))
    shards = shard_paths(store, manifest) if replaced or between else {}
    parted = parted_by(new, order, shards) if between else set()
    replaced |= parted
    touched, dropped = closure(replaced, shards) if replaced else (set(), set())
    lost = sorted(touched - present - replaced)
    if lost:
        raise BadInput(
            f"{lost[0]} vanished from the source but shares a shard with {min(replaced)}, which has to be replaced: "
            f"bring it back, or let its rows go by {DROP_MISSING}"
        )
    encode = [path for path in (file.path for file in source.files) if path in touched or path in set(new)]
    kept = [shard.record.path for shard in manifest.shards if shard.record.path not in dropped]
    details: dict[str, Any] = {
        "parent": manifest.snapshot,
        "new": new,
        "changed": changed,
        "missing": missing,
        "encode": encode,
        "kept_shards": kept,
        "dropped_shards": [shard.record.path for shard in manifest.shards if shard.record.path in dropped],
    }
    statement = "; ".join(
        filter(
            None,
            [
                f"{_files(new)} new" if new else "",
                f"{_files(changed)} changed, replaced in the new snapshot" if changed else "",
                f"{_files(missing)} vanished, {'rows dropped' if drop_missing else 'rows kept'}" if missing else "",
                f"{_files(sorted(parted))} encoded again, for new ones come between them" if parted else "",
            ],
        )
    )
    if not encode and not dropped:
        kept_note = f"; {_files(missing)} vanished, rows kept" if missing else ""
        return Plan(
            decision=NOTHING,
            statement=f"nothing to do: snapshot {manifest.snapshot} holds this source{kept_note}",
            **details,
            **common,
        )
    return Plan(decision=REPLACE if dropped else APPEND, statement=statement, **details, **common)


def parted_by(new: Sequence[str], order: Mapping[str, int], shards: Mapping[str, Collection[str]]) -> set[str]:
    """Files of shards within which a new file, or one of another shard, falls in the source's order: rows come back in that order only
    from other shards.

    A shard that cannot be made again, for a file of it has vanished, stays as it is until the file is back (UNORDERED).
    """
    found: set[str] = set()
    for paths in divided(list(shards.values()), order, new):
        touched, _ = closure(paths, shards)
        found |= set(paths) if touched <= order.keys() else set()
    return found


def divided(shards: Sequence[Collection[str]], order: Mapping[str, int], new: Collection[str] = ()) -> list[Collection[str]]:
    """Of the files of each shard, those between which one of another shard, or a new one, falls in the source's order."""
    places = sorted({order[path] for paths in (*shards, new) for path in paths if path in order})
    found = []
    for paths in shards:
        own = {order[path] for path in paths if path in order}
        if own and bisect_right(places, max(own)) - bisect_left(places, min(own)) > len(own):
            found.append(paths)
    return found


def shard_paths(store: ObjectStore, manifest: Manifest) -> dict[str, set[str]]:
    """Path of a shard's record -> paths of the source files it holds rows of. Reads the record of every shard."""
    return {entry.record.path: {piece.path for piece in entry.sources} for entry in load_records(store, manifest.shards)}


def closure(paths: Collection[str], shards: Mapping[str, Collection[str]]) -> tuple[set[str], set[str]]:
    """(every file that has to be encoded again, every shard that goes) when the rows of `paths` are replaced.

    shards : path of a shard's record -> paths it holds rows of
    A shard may hold the end of one file and the start of the next: replacing it means encoding both again, and so on.
    """
    touched, dropped = set(paths), set[str]()
    while True:
        hit = {shard for shard, held in shards.items() if shard not in dropped and not touched.isdisjoint(held)}
        if not hit:
            return touched, dropped
        dropped |= hit
        for shard in hit:
            touched.update(shards[shard])


def unchanged(source: Source, now: SourceFile, then: SourceRecord) -> bool:
    """Same size and same ETag or modification time; failing that, the same bytes by digest."""
    if now.n_bytes != then.n_bytes:
        return False
    if now.etag is not None and now.etag == then.etag:
        return True
    if now.etag is None and now.mtime is not None and now.mtime == then.mtime:
        return True
    return then.digest is not None and source.fingerprints([now.path])[0].digest == then.digest


def check_same_tolerances(asked: Mapping[str, Tolerance], stored: Mapping[str, Tolerance]) -> None:
    """Raise UsageError, naming a column, when a run asks for other tolerances than the archive was made with."""
    ours = {name: value for name, value in asked.items() if not value.is_lossless}
    theirs = {name: value for name, value in stored.items() if not value.is_lossless}
    for name in sorted(ours.keys() | theirs.keys()):
        now, then = ours.get(name), theirs.get(name)
        if now != then:
            raise UsageError(
                f"column {name!r}: this run asks for {now or 'lossless'}, "
                f"the archive was made with {then or 'lossless'}; ask for the same, use another archive, or add {RETRAIN}"
            )


def check_same_schema(source: Source, manifest: Manifest) -> None:
    """Raise BadInput, naming the field, when new files have another schema than the archive."""
    leaves = Leaves.read(manifest.schema)
    for stored, schema in ((leaves.outer, source.leaves.outer), (manifest.schema, source.schema)):
        _check_same(source, stored, schema)


def _check_same(source: Source, stored: pa.Schema, schema: pa.Schema) -> None:
    if schema.equals(stored, check_metadata=False):
        return
    for name in [*stored.names, *schema.names]:
        ours = stored.field(name) if name in stored.names else None
        theirs = schema.field(name) if name in schema.names else None
        if ours is None or theirs is None or not ours.equals(theirs):
            raise BadInput(
                f"{source.uri}: field {name!r} is {_type(theirs)} in the source and {_type(ours)} in the archive; "
                f"use another archive, or add {RETRAIN}"
            )
    raise BadInput(f"{source.uri}: its columns are in another order than in the archive")


def _type(field: Any) -> str:
    return "missing" if field is None else f"{field.type}{'' if field.nullable else ' not null'}"


def _files(paths: Sequence[str]) -> str:
    return f"{len(paths)} file{'' if len(paths) == 1 else 's'}"
