"""The snapshots of an archive: which there are, and reading them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from storage.chapters import Chapter
from storage.manifest import Manifest
from storage.objects import side_by_side
from storage.verity import read_verified
from storage.version import FORMAT_OBJECT, check_version
from vae_core.errors import BadInput, CorruptArchive, UsageError

if TYPE_CHECKING:
    from storage.objects import ObjectStore

MAX_SNAPSHOT_BYTES = 256 << 20
MAX_FORMAT_BYTES = 64
ATTEMPTS = 4

T = TypeVar("T")

_FORMAT_LINE = re.compile(rb"latentpack (\d{1,4})\.(\d{1,4})\n\Z")
_SNAPSHOT_PATH = re.compile(r"snapshots/(\d{10})\.json\Z")


def snapshot_path(number: int) -> str:
    """snapshots/0000000001.json"""
    return f"snapshots/{number:010d}.json"


def check_format(store: ObjectStore) -> tuple[int, int]:
    """Version the archive was created with. Raises BadInput when there is none (UsageError: a file), CorruptArchive for another format."""
    try:
        line = store.read_range(FORMAT_OBJECT, 0, MAX_FORMAT_BYTES)
    except FileNotFoundError:
        if list_snapshots(store):
            raise CorruptArchive(f"{FORMAT_OBJECT}: missing from an archive that has snapshots") from None
        raise BadInput(f"{store.uri}: no archive here (there is no {FORMAT_OBJECT} object)") from None
    except NotADirectoryError:
        store.check_folder()
        raise
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
    """A snapshot by number, the newest without one, and the chapters it names.

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
    return _load(store, number, sizes[number], created, {})


def load_manifests(store: ObjectStore) -> list[Manifest]:
    """Every snapshot, oldest first; each chapter is read once. Raises as `load_manifest`, but for an archive without any.

    One that somebody lets go meanwhile is left out.
    """
    return load_newest(store)[0]


def load_newest(store: ObjectStore, n: int | None = None) -> tuple[list[Manifest], list[int]]:
    """The newest n snapshots, oldest first, and the numbers of the others, which are not read. Raises as `load_manifests`."""
    sizes = list_snapshots(store)
    wanted = list(sizes)[-n:] if n else list(sizes)
    found, damaged = _load_each(store, {number: sizes[number] for number in wanted})
    for error in damaged.values():
        raise error
    return found, [number for number in sizes if number not in wanted]


def load_readable(store: ObjectStore) -> tuple[list[Manifest], dict[int, CorruptArchive]]:
    """As `load_manifests`, and what is wrong with the snapshots that are damaged, by number, ascending."""
    return _load_each(store, list_snapshots(store))


def _load_each(store: ObjectStore, sizes: Mapping[int, int]) -> tuple[list[Manifest], dict[int, CorruptArchive]]:
    created = check_format(store)
    known: dict[str, Chapter] = {}

    def load(number: int) -> Manifest | CorruptArchive | None:
        try:
            return _load(store, number, sizes[number], created, known)
        except (CorruptArchive, FileNotFoundError) as error:
            if not store.exists(snapshot_path(number)):
                return None  # let go meanwhile
            if isinstance(error, CorruptArchive):
                return error
            raise

    found = dict(zip(sizes, side_by_side(load, sizes), strict=True))
    manifests = [one for one in found.values() if isinstance(one, Manifest)]
    return manifests, {number: one for number, one in found.items() if isinstance(one, CorruptArchive)}


def undisturbed(store: ObjectStore, look: Callable[[], T]) -> T:
    """What `look` finds; when it fails and a snapshot has come or gone meanwhile, it looks again: a vacuum may be at work."""
    for _ in range(ATTEMPTS):
        before = list(list_snapshots(store))
        try:
            return look()
        except (CorruptArchive, FileNotFoundError):
            if list(list_snapshots(store)) == before:
                raise
    return look()


def _load(store: ObjectStore, number: int, n_bytes: int, created: tuple[int, int], known: dict[str, Chapter]) -> Manifest:
    where = snapshot_path(number)
    if n_bytes > MAX_SNAPSHOT_BYTES:
        raise CorruptArchive(f"{where}: {n_bytes} bytes, this release reads snapshots up to {MAX_SNAPSHOT_BYTES}")
    manifest = Manifest.from_bytes(store.read_range(where, 0, n_bytes), where, partial(read_verified, store), known)
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
