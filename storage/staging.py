"""Files of a source as local files with their digests: read in place if local, fetched once if not."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import weakref

from storage.errors import BadInput
from storage.objects import ObjectInfo, ObjectStore

_CHUNK_BYTES = 1 << 20


class Staging:
    """Local copies of remote objects, each fetched and digested once.

    Without a `directory` a temporary one is made when first needed and removed by `close` (or when the object is gone).
    A given directory is kept: other processes find the copies there, and whoever gave it removes it.
    """

    def __init__(self, store: ObjectStore, directory: str | None = None) -> None:
        self._store = store
        self._directory = directory
        self._removal: weakref.finalize[..., Staging] | None = None
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def local_path(self, info: ObjectInfo) -> str:
        """Where the object is as a local file. Fetches it first if need be. Raises BadInput if it changed meanwhile."""
        if self._store.is_local:
            self._refuse_change(info)
            return self._store.full_path(info.path)
        return self._fetched(info)

    def digest(self, info: ObjectInfo) -> tuple[str, str | None]:
        """(sha256 of the object's bytes, hexadecimal; its stamp); reads a local file once through. BadInput if it changed meanwhile."""
        if not self._store.is_local:
            with open(self._fetched(info) + ".sha256") as file:
                return file.read(), None
        stamp = self.stamp(info)
        digest = _sha256(self._store.full_path(info.path))
        self._store.meter.record_read(info.n_bytes)
        if self.stamp(info) != stamp:
            raise changed(self._store.shown(info.path))
        return digest, stamp

    def stamp(self, info: ObjectInfo) -> str | None:
        """What tells a local file from any that stood in its place, its time of modification faked or not: which file of the disk it is,
        and when that was last written or moved, which nobody can set. None for a remote one. BadInput if it changed meanwhile."""
        if not self._store.is_local:
            return None
        status = self._refuse_change(info)
        return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_ctime_ns}"

    def close(self) -> None:
        """Remove what this object fetched into a directory of its own."""
        if self._removal is not None:
            self._removal()
            self._removal, self._directory = None, None

    def _fetched(self, info: ObjectInfo) -> str:
        name = hashlib.sha256(repr((self._store.uri, info)).encode()).hexdigest()[:32]
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            path = os.path.join(self._folder(), name)
            if not os.path.exists(path):
                self._fetch(info, path)
        return path

    def _fetch(self, info: ObjectInfo, path: str) -> None:
        """Download beside `path`, digest, then give both files their names: the data last, for it says all is there."""
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
            copy = os.path.join(folder, "data")
            n_bytes = self._store.download(info.path, copy)
            if n_bytes != info.n_bytes:
                raise BadInput(
                    f"{self._store.shown(info.path)}: changed while it was read ({info.n_bytes} bytes, then {n_bytes})"
                )
            self._refuse_other_version(info)
            with open(copy + ".sha256", "w") as file:
                file.write(_sha256(copy))
            os.replace(copy + ".sha256", path + ".sha256")
            os.replace(copy, path)

    def _folder(self) -> str:
        with self._guard:
            if self._directory is None:
                self._directory = tempfile.mkdtemp(prefix="latentpack-")
                self._removal = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
            os.makedirs(self._directory, exist_ok=True)
            return self._directory

    def _refuse_other_version(self, info: ObjectInfo) -> None:
        """Raise BadInput if an object that was just fetched is not the one listed: the time a bucket states is when it was put."""
        if info.mtime is None:
            return
        try:
            now = self._store.info(info.path)
        except FileNotFoundError:
            raise changed(self._store.shown(info.path)) from None
        # some buckets list times to the millisecond and tell them of one object to the second
        if now.etag != info.etag or now.mtime is None or abs(now.mtime - info.mtime) >= 1.0:
            raise changed(self._store.shown(info.path))

    def _refuse_change(self, info: ObjectInfo) -> os.stat_result:
        where = self._store.shown(info.path)
        try:
            status = os.stat(self._store.full_path(info.path))
        except OSError as error:
            raise BadInput(f"{where}: disappeared or became unreadable while the source was read") from error
        if status.st_size != info.n_bytes or (info.mtime is not None and status.st_mtime != info.mtime):
            raise changed(where)
        return status


def changed(where: str) -> BadInput:
    """What is said of a file that is not what it was."""
    return BadInput(f"{where}: changed while the source was read; run again when it is at rest")


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
