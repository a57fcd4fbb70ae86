"""Claims and notices under pending/: how runs and a vacuum stay out of each other's way without a lock.

A run claims what it stages before it writes it, and what it commits before it names it. A vacuum gives notice of what it is about to
remove before it reads the claims and the snapshots a last time. Whichever comes first, one sees the other: a commit that looks for
notices after its claim finds the notice and gives up, or the vacuum that reads claims after its notice finds the claim and lets
things be. FORMAT.md, section "Writing".
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from storage.document import Fields, from_json, to_json
from storage.entries import ModelRef, ShardRef
from vae_core.errors import Conflict, CorruptArchive

if TYPE_CHECKING:
    from storage.objects import ObjectInfo, ObjectStore

GRACE_S = 24 * 3600.0
NOTICE_S, RENEWED_S = 3600.0, 300.0  # a notice counts for so long, and is renewed so often while its vacuum is at work

PENDING = "pending/"
_CLAIM = re.compile(r"pending/(?:[0-9a-f]{16,64}(?:-[0-9a-f]{16})?|commit-[0-9a-f]{16}|vacuum-[0-9a-f]{16})\.json\Z")


def is_claim(path: str) -> bool:
    """Whether an object has a name that claims and notices have."""
    return _CLAIM.match(path) is not None


def is_young(info: ObjectInfo, now: float, grace_s: float = GRACE_S) -> bool:
    """Whether it was written within the grace period, or nobody knows when."""
    return info.mtime is None or now - info.mtime <= grace_s


def model_claim(ref: ModelRef) -> str:
    """Where a model is claimed."""
    return f"{PENDING}{ref.digest}.json"


def shard_claim(ref: ShardRef) -> str:
    """Where a shard is claimed."""
    return f"{PENDING}{ref.record.path.split('/')[1]}.json"


def folder_of(path: str) -> str:
    """What an object is named by: the folder of a shard or a model, else its path."""
    return path.rpartition("/")[0] if path.startswith(("shards/", "models/")) else path


class Standing:
    """A claim or a notice while it stands: `renew` writes it anew."""

    def __init__(self, store: ObjectStore, kind: str, things: Iterable[str]) -> None:
        self.path, self._store = f"{PENDING}{kind}-{uuid.uuid4().hex[:16]}.json", store
        self._data, self._renewed = to_json({"paths": sorted(things)}), 0.0
        self.renew()

    def renew(self) -> None:
        """Make it young again."""
        self._renewed = time.time()
        self._store.write(self.path, self._data)

    def keep_young(self) -> None:
        """To be called before each step of long work: renew it now and then. Raises Conflict where it has been left to age."""
        age = time.time() - self._renewed
        if age > NOTICE_S / 2:
            raise Conflict(f"{self.path}: nothing was done for {age:.0f} s, and others may rely on that; what is left stays, run again")
        if age > RENEWED_S:
            self.renew()

    def now(self) -> float:
        """The time by the clock of the store, which is the one that its other objects are dated by."""
        return self._store.info(self.path).mtime or time.time()


@contextmanager
def claimed_for_commit(store: ObjectStore, things: Iterable[str]) -> Iterator[Standing]:
    """Claim folders and paths while a commit names them. The claim of a run that is killed meanwhile ages as any other."""
    with _standing(store, "commit", things) as claim:
        yield claim


@contextmanager
def notice_of_removal(store: ObjectStore, things: Iterable[str]) -> Iterator[Standing]:
    """Give notice that a vacuum removes these folders and paths, until it has."""
    with _standing(store, "vacuum", things) as notice:
        yield notice


@contextmanager
def _standing(store: ObjectStore, kind: str, things: Iterable[str]) -> Iterator[Standing]:
    found = Standing(store, kind, things)
    try:
        yield found
    finally:
        store.delete(found.path)


def refuse_removed(store: ObjectStore, things: Iterable[str], now: float) -> None:
    """Raise Conflict when a vacuum has given notice that it removes one of these folders and paths."""
    wanted = set(things)
    for info, found in _documents(store, now, NOTICE_S, "vacuum-"):
        if both := sorted(wanted.intersection(_paths(found, info.path))):
            raise Conflict(
                f"{both[0]}: a vacuum is removing it, or was killed within the hour ({info.path}); nothing was committed, run again when"
                " it has ended, or after that hour"
            )


def read_claims(store: ObjectStore, grace_s: float, now: float) -> dict[str, set[str]]:
    """Claim -> the folders and paths it protects, of those that are young and readable."""
    return {info.path: protected for info, found in _documents(store, now, grace_s) if (protected := _protected(found, info.path))}


def _documents(store: ObjectStore, now: float, grace_s: float, start: str = "") -> Iterator[tuple[ObjectInfo, Mapping[str, Any]]]:
    for info in store.list(PENDING + start):
        if is_claim(info.path) and is_young(info, now, grace_s):
            try:
                yield info, Fields.of(from_json(store.read(info.path), info.path), info.path).values
            except (CorruptArchive, FileNotFoundError):
                continue


def _protected(found: Mapping[str, Any], where: str) -> set[str]:
    if where.startswith(f"{PENDING}vacuum-"):
        return set()
    if where.startswith(f"{PENDING}commit-"):
        return _paths(found, where)
    try:
        fields = Fields(dict(found), where)
        model = ModelRef.from_json(fields.object("model"), where)
        folders = {f"models/{model.digest}"}
        if "shard" in found:
            shard = ShardRef.from_json(fields.list("shard"), [model.digest], where)
            folders.add(folder_of(shard.record.path))
    except CorruptArchive:
        return set()
    return folders


def _paths(found: Mapping[str, Any], where: str) -> set[str]:
    paths = found.get("paths")
    return {path for path in paths if isinstance(path, str)} if isinstance(paths, list) else set()
