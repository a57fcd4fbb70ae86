"""Removing what no snapshot names: leftovers of runs that were killed or lost a race, and old snapshots on request.

Raw data is never touched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.document import Fields, from_json
from storage.entries import ModelRef, ShardRef
from storage.snapshots import check_format, load_manifests, snapshot_path
from vae_core.errors import BadInput, CorruptArchive, UsageError

if TYPE_CHECKING:
    from storage.manifest import Manifest
    from storage.objects import ObjectInfo, ObjectStore

GRACE_S = 24 * 3600.0

_FOLDER = re.compile(r"((?:shards/[0-9a-f]{16,64}-[0-9a-f]{16})|(?:models/[0-9a-f]{64}))/([a-z][a-z0-9_.-]{0,63})\Z")
_BESIDE = re.compile(r"(chapters/[0-9a-f]{32}\.json\.zst|schemas/[0-9a-f]{32}\.arrow\.zst)\Z")
_CLAIM = re.compile(r"pending/[0-9a-f]{16,64}(-[0-9a-f]{16})?\.json\Z")


@dataclass(frozen=True, slots=True)
class VacuumResult:
    """What was removed, or with dry_run would be.

    paths     : objects removed, snapshots first
    n_bytes   : their sizes together
    n_pending : objects kept because a run younger than the grace period staged them;  pending_bytes : theirs
    snapshots : numbers of the snapshots removed
    """

    paths: tuple[str, ...]
    n_bytes: int
    n_pending: int = 0
    pending_bytes: int = 0
    snapshots: tuple[int, ...] = ()


def vacuum(
    store: ObjectStore,
    *,
    keep: int | None = None,
    dry_run: bool = False,
    grace_s: float = GRACE_S,
    now: float | None = None,
) -> VacuumResult:
    """Remove what no snapshot names and no run younger than `grace_s` seconds has staged; with `keep`, older snapshots first.

    keep : of the snapshots only so many remain, the newest; what the others alone named goes with them, at once. They are removed
        one by one, oldest first, before anything they name, so that a kill leaves an archive whose every snapshot is whole.
    Only objects with names the writer gives are candidates; anything else in the folder is left alone. Raises UsageError for a
    `keep` below 1, CorruptArchive, removing nothing, when a snapshot cannot be read (what it names is then unknown), and BadInput
    when a candidate leads outside the archive through a link.
    """
    if keep is not None and keep < 1:
        raise UsageError(f"keep is {keep}: at least the newest snapshot stays, give 1 or more")
    check_format(store)
    now = time.time() if now is None else now
    # in this order: what is listed was claimed before, and a claim goes when a snapshot has come that is read last
    listed = _candidates(store)
    claims = _claims(store, grace_s, now)
    manifests = load_manifests(store)
    n_dropped = 0 if keep is None else max(0, len(manifests) - keep)
    dropped, named = manifests[:n_dropped], named_by(manifests[n_dropped:])
    once = named_by(dropped)
    standing = {path: folders for path, folders in claims.items() if not folders <= named}
    claimed = set().union(*standing.values())
    numbers = {snapshot_path(manifest.snapshot): manifest.snapshot for manifest in dropped}
    removable = [info for info in store.list("snapshots/") if info.path in numbers]
    pending: list[ObjectInfo] = []
    for info, thing in listed:
        if thing in named:
            continue
        spared = info.path in standing or thing in claimed
        if _BESIDE.match(info.path):
            spared = info.path not in once and (info.mtime is None or now - info.mtime <= grace_s)
        (pending if spared else removable).append(info)
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
        tuple(numbers.values()),
    )


def unfinished(store: ObjectStore, named: set[str]) -> list[ObjectInfo]:
    """Objects of runs that have not come to a snapshot, or never will: claims, and what `named` does not name."""
    return [info for info, thing in _candidates(store) if thing not in named]


def _candidates(store: ObjectStore) -> list[tuple[ObjectInfo, str]]:
    """Every object with a name the writer gives, and what a snapshot would name it by: its folder, or its path."""
    found = []
    for prefix in ("shards/", "models/", "chapters/", "schemas/", "pending/"):
        for info in store.list(prefix):
            folder = _FOLDER.match(info.path)
            if folder or _BESIDE.match(info.path) or _CLAIM.match(info.path):
                found.append((info, folder[1] if folder else info.path))
    return found


def named_by(manifests: Iterable[Manifest]) -> set[str]:
    """Folders of every model and shard that these snapshots name, and paths of their chapters and schemas."""
    named: set[str] = set()
    for manifest in manifests:
        named.update(f"models/{model.digest}" for model in manifest.models)
        named.update(shard.record.path.rpartition("/")[0] for shard in manifest.shards)
        named.update(ref.path for ref in manifest.beside)
    return named


def _claims(store: ObjectStore, grace_s: float, now: float) -> dict[str, set[str]]:
    """Claim -> the folders it protects, of those that are young and readable."""
    found: dict[str, set[str]] = {}
    for info in store.list("pending/"):
        if not _CLAIM.match(info.path) or (info.mtime is not None and now - info.mtime > grace_s):
            continue
        try:
            fields = Fields.of(from_json(store.read(info.path), info.path), info.path)
            model = ModelRef.from_json(fields.object("model"), info.path)
            folders = {f"models/{model.digest}"}
            if "shard" in fields.values:
                shard = ShardRef.from_json(fields.list("shard"), [model.digest], info.path)
                folders.add(shard.record.path.rpartition("/")[0])
        except (CorruptArchive, FileNotFoundError):
            continue
        found[info.path] = folders
    return found


def _refuse_links(store: ObjectStore, path: str) -> None:
    if not store.is_local:
        return
    root = os.path.realpath(store.root)
    if os.path.commonpath([root, os.path.realpath(store.full_path(path))]) != root:
        raise BadInput(f"{store.shown(path)}: leads outside the archive through a link; nothing was removed")
