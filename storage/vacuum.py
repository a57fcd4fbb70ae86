"""Removing what no snapshot names: leftovers of runs that were killed or lost a race. Raw data is never touched."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.document import Fields, from_json
from storage.manifest import ModelRef, ShardRef, check_format, list_snapshots, load_manifest
from vae_core.errors import BadInput, CorruptArchive

if TYPE_CHECKING:
    from storage.objects import ObjectInfo, ObjectStore

GRACE_S = 24 * 3600.0

_FOLDER = re.compile(r"((?:shards/[0-9a-f]{16,64}-[0-9a-f]{16})|(?:models/[0-9a-f]{64}))/([a-z][a-z0-9_.-]{0,63})\Z")
_CLAIM = re.compile(r"pending/[0-9a-f]{16,64}(-[0-9a-f]{16})?\.json\Z")


@dataclass(frozen=True, slots=True)
class VacuumResult:
    """What was removed, or with dry_run would be.

    paths     : objects removed
    n_bytes   : their sizes together
    n_pending : objects kept because a run younger than the grace period staged them;  pending_bytes : theirs
    """

    paths: tuple[str, ...]
    n_bytes: int
    n_pending: int = 0
    pending_bytes: int = 0


def vacuum(
    store: ObjectStore, *, dry_run: bool = False, grace_s: float = GRACE_S, now: float | None = None
) -> VacuumResult:
    """Remove the models and shards that no snapshot names and no claim younger than `grace_s` seconds protects.

    Only objects with names the writer gives are candidates; anything else in the folder is left alone. Raises
    CorruptArchive, removing nothing, when a snapshot cannot be read (what it names is then unknown), and BadInput when
    a candidate leads outside the archive through a link.
    """
    check_format(store)
    named = named_folders(store)
    claimed, claims = _claims(store, named, grace_s, time.time() if now is None else now)
    removable: list[ObjectInfo] = []
    pending: list[ObjectInfo] = []
    for info in unfinished(store, named):
        kept = info.path in claims or info.path.rpartition("/")[0] in claimed
        (pending if kept else removable).append(info)
    for info in removable:
        _refuse_links(store, info.path)
    if not dry_run:
        for info in removable:
            store.delete(info.path)
    return VacuumResult(
        tuple(info.path for info in removable),
        sum(info.n_bytes for info in removable),
        len(pending),
        sum(info.n_bytes for info in pending),
    )


def unfinished(store: ObjectStore, named: set[str]) -> list[ObjectInfo]:
    """Objects of runs that have not come to a snapshot, or never will: claims, and what lies in folders not in `named`."""
    found = []
    for prefix in ("shards/", "models/", "pending/"):
        for info in store.list(prefix):
            folder = _FOLDER.match(info.path)
            if (folder is not None and folder[1] not in named) or _CLAIM.match(info.path):
                found.append(info)
    return found


def named_folders(store: ObjectStore) -> set[str]:
    """Folders of every model and shard that any snapshot names. Raises CorruptArchive."""
    named: set[str] = set()
    for number in list_snapshots(store):
        manifest = load_manifest(store, number)
        named.update(f"models/{model.digest}" for model in manifest.models)
        named.update(shard.record.path.rpartition("/")[0] for shard in manifest.shards)
    return named


def _claims(store: ObjectStore, named: set[str], grace_s: float, now: float) -> tuple[set[str], set[str]]:
    """(folders protected by claims, the claims that stand): young, readable and not yet committed."""
    folders: set[str] = set()
    standing: set[str] = set()
    for info in store.list("pending/"):
        if not _CLAIM.match(info.path) or (info.mtime is not None and now - info.mtime > grace_s):
            continue
        try:
            fields = Fields.of(from_json(store.read(info.path), info.path), info.path)
            model = ModelRef.from_json(fields.object("model"), info.path)
            needed = {f"models/{model.digest}"}
            if "shard" in fields.values:
                shard = ShardRef.from_json(fields.list("shard"), [model.digest], info.path)
                needed.add(shard.record.path.rpartition("/")[0])
        except (CorruptArchive, FileNotFoundError):
            continue
        if not needed <= named:
            folders |= needed
            standing.add(info.path)
    return folders, standing


def _refuse_links(store: ObjectStore, path: str) -> None:
    if not store.is_local:
        return
    root = os.path.realpath(store.root)
    if os.path.commonpath([root, os.path.realpath(store.full_path(path))]) != root:
        raise BadInput(f"{store.shown(path)}: leads outside the archive through a link; nothing was removed")
