"""Removing what no snapshot names: leftovers of runs that were killed or lost a race, and old snapshots on request.

Raw data is never touched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from storage.claims import GRACE_S, NOTICE_S, PENDING, folder_of, is_claim, is_young, notice_of_removal, read_claims
from storage.snapshots import check_format, load_newest, snapshot_path
from vae_core.errors import BadInput, UsageError

if TYPE_CHECKING:
    from storage.manifest import Manifest
    from storage.objects import ObjectInfo, ObjectStore

_FOLDER = re.compile(r"((?:shards/[0-9a-f]{16,64}-[0-9a-f]{16})|(?:models/[0-9a-f]{64}))/([a-z][a-z0-9_.-]{0,63})\Z")
_BESIDE = re.compile(r"(chapters/[0-9a-f]{32}\.json\.zst|schemas/[0-9a-f]{32}\.arrow\.zst)\Z")


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

    now  : seconds since the epoch that ages are reckoned from; as a rule the earlier of this machine's clock and the store's
    keep : of the snapshots only so many remain, the newest; what the others alone named goes with them, at once. They are removed
        one by one, oldest first, before anything they name, so that a kill leaves an archive whose every snapshot is whole.
    Only objects with names the writer gives are candidates; anything else in the folder is left alone. Raises UsageError for a
    `keep` below 1, CorruptArchive, removing nothing, when a snapshot that stays cannot be read (what it names is then unknown), and
    BadInput when a candidate leads outside the archive through a link.
    """
    if keep is not None and keep < 1:
        raise UsageError(f"keep is {keep}: at least the newest snapshot stays, give 1 or more")
    check_format(store)
    plan = _plan(store, keep, grace_s, time.time() if now is None else now)
    for info in plan.removable:
        _refuse_links(store, info.path)
    if plan.removable and not dry_run:
        with notice_of_removal(store, {folder_of(info.path) for info in plan.removable}) as notice:
            # what a run has claimed or committed before it could see the notice
            again = _plan(store, keep, grace_s, min(time.time(), notice.now()) if now is None else now)
            still = {info.path for info in again.removable}
            removable = tuple(info for info in plan.removable if info.path in still)
            plan = replace(again, removable=removable, snapshots=tuple(n for n in plan.snapshots if n in again.snapshots))
            for info in plan.removable:
                notice.keep_young()
                store.delete(info.path)
    return VacuumResult(
        tuple(info.path for info in plan.removable),
        sum(info.n_bytes for info in plan.removable),
        len(plan.pending),
        sum(info.n_bytes for info in plan.pending),
        plan.snapshots,
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a vacuum would remove, snapshots first, and what it would spare though no snapshot names it."""

    removable: tuple[ObjectInfo, ...]
    pending: tuple[ObjectInfo, ...]
    snapshots: tuple[int, ...]


def _plan(store: ObjectStore, keep: int | None, grace_s: float, now: float) -> _Plan:
    # in this order: what is listed was claimed before, and a claim goes when a snapshot has come that is read last. A young claim
    # stays also where snapshots name all it protects: another vacuum may let these go while a run is about to name them again
    listed = _candidates(store)
    claims = read_claims(store, grace_s, now)
    manifests, dropped = load_newest(store, keep)
    named = named_by(manifests)
    claimed = set().union(*claims.values())
    removable = [info for info in store.list("snapshots/") if info.path in {snapshot_path(number) for number in dropped}]
    pending: list[ObjectInfo] = []
    for info, thing in listed:
        if thing in named:
            continue
        if info.path.startswith(f"{PENDING}vacuum-") and is_young(info, now, NOTICE_S):
            continue  # a notice, of this vacuum or another
        spared = info.path in claims or thing in claimed
        (pending if spared else removable).append(info)
    return _Plan(tuple(removable), tuple(pending), tuple(dropped))


def unfinished(store: ObjectStore, named: set[str]) -> list[ObjectInfo]:
    """Objects of runs that have not come to a snapshot, or never will: claims, and what `named` does not name."""
    return [info for info, thing in _candidates(store) if thing not in named]


def held_by_older(store: ObjectStore, snapshots: Sequence[Manifest]) -> tuple[int, int]:
    """(bytes, of them models) of what would go with all of these snapshots but the newest, the last of them: they themselves, and what
    they alone name."""
    if len(snapshots) < 2:
        return 0, 0
    gone = named_by(snapshots[:-1]) - named_by(snapshots[-1:])
    going = [info for info, thing in _candidates(store) if thing in gone]
    paths = {snapshot_path(manifest.snapshot) for manifest in snapshots[:-1]}
    going += [info for info in store.list("snapshots/") if info.path in paths]
    return sum(info.n_bytes for info in going), sum(info.n_bytes for info in going if info.path.startswith("models/"))


def _candidates(store: ObjectStore) -> list[tuple[ObjectInfo, str]]:
    """Every object with a name the writer gives, and what a snapshot would name it by: its folder, or its path."""
    found = []
    for prefix in ("shards/", "models/", "chapters/", "schemas/", "pending/"):
        for info in store.list(prefix):
            folder = _FOLDER.match(info.path)
            if folder or _BESIDE.match(info.path) or is_claim(info.path):
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


def _refuse_links(store: ObjectStore, path: str) -> None:
    if not store.is_local:
        return
    root = os.path.realpath(store.root)
    if os.path.commonpath([root, os.path.realpath(store.full_path(path))]) != root:
        raise BadInput(f"{store.shown(path)}: leads outside the archive through a link; nothing was removed")
