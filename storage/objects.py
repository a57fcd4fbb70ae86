"""Named byte objects under one root: a local folder, an S3 bucket, memory, anything fsspec reaches.

What an archive needs from storage and no more: whole reads, range reads, replacing writes that are never seen half
done, and an exclusive create, which is how one of two concurrent runs wins. Every byte that moves is metered.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from storage.durable import create_durably, is_leftover, remove_dead_leftovers, replace_durably
from storage.errors import BadInput, Conflict, Unreachable, UsageError
from storage.metering import Meter, Moved
from storage.transient import ATTEMPTS, FIRST_ATTEMPTS, persist, shown

__all__ = ["Meter", "Moved", "ObjectInfo", "ObjectStore", "check_path", "side_by_side"]

_MEMORY_LOCK = threading.Lock()
A = TypeVar("A")
T = TypeVar("T")
READERS = 16
S3_PATIENCE: Mapping[str, Any] = {"connect_timeout": 5, "retries": {"total_max_attempts": 2, "mode": "standard"}}


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing shows it.

    path   : relative to the root of its store, "/" between parts
    n_bytes: size as stored
    etag   : what the server calls this version, None where there is none
    mtime  : seconds since 1970, None where unknown
    """

    path: str
    n_bytes: int
    etag: str | None
    mtime: float | None


def check_path(path: str) -> str:
    """`path` itself when it stays under its root; BadInput for absolute paths, '..', backslashes and empty parts."""
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or ":" in parts[0] or any(p in {"", ".", ".."} for p in parts):
        raise BadInput(f"object path {path!r} is not a plain relative path")
    return path


class ObjectStore:
    """Objects under one root URI. Build it with `ObjectStore.open`.

    Paths are relative; see `check_path`. A missing object is FileNotFoundError, refused access BadInput, a store that
    does not answer Unreachable after a few patient attempts, anything else an OSError.
    """

    def __init__(self, uri: str, fs: Any, root: str, meter: Meter, storage_options: Mapping[str, Any] | None) -> None:
        self.uri = uri
        self.fs = fs
        self.root = root
        self.meter = meter
        self.is_local = isinstance(fs, LocalFileSystem)
        self._storage_options = dict(storage_options or {})
        self._swept_folders: set[str] = set()
        self._has_answered = self.is_local

    @classmethod
    def open(
        cls, uri: str, storage_options: Mapping[str, Any] | None = None, meter: Meter | None = None
    ) -> ObjectStore:
        """The store at `uri`; nothing is created or contacted yet. Raises BadInput for a scheme nobody here speaks."""
        fs, root = resolve(uri, storage_options)
        return cls(uri, fs, root.rstrip("/"), meter or Meter(), storage_options)

    def __repr__(self) -> str:
        return f"ObjectStore({shown(self.uri)!r})"

    def full_path(self, path: str) -> str:
        """`path` as the underlying filesystem spells it."""
        return f"{self.root}/{check_path(path)}"

    def shown(self, path: str) -> str:
        """`path` as messages spell it: under the root, without credentials."""
        return f"{shown(self.uri).rstrip('/')}/{path}"

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        """All bytes of an object."""
        full = self.full_path(path)
        data: bytes = self._persist(lambda: self.fs.cat_file(full), path)
        self.meter.record_read(len(data))
        return data

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only where the object ends."""
        if offset < 0 or length < 0:
            raise ValueError(f"range {offset}+{length} is negative")
        if length == 0:
            return b""
        full = self.full_path(path)
        data: bytes = self._persist(lambda: self.fs.cat_file(full, start=offset, end=offset + length), path)
        self.meter.record_read(len(data))
        return data if len(data) <= length else data[offset : offset + length]  # a plain http server may know no ranges

    def download(self, path: str, local_path: str) -> int:
        """The object as the local file `local_path`; returns its size in bytes."""
        full = self.full_path(path)
        self._persist(lambda: self.fs.get_file(full, local_path), path)
        with open(local_path, "rb") as file:
            n_bytes = file.seek(0, 2)
        self.meter.record_read(n_bytes)
        return n_bytes

    def exists(self, path: str) -> bool:
        """Whether an object (not a folder) is there now."""
        try:
            self.info(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return False
        return True

    def size(self, path: str) -> int:
        """Size in bytes. Raises FileNotFoundError."""
        return self.info(path).n_bytes

    def info(self, path: str) -> ObjectInfo:
        """Size, ETag and time of one object, as they are now. Raises FileNotFoundError."""
        full = self.full_path(path)
        self._forget_listings(full)
        detail = self._persist(lambda: self.fs.info(full), path)
        self.meter.record_request()
        if detail.get("type") == "directory":
            raise FileNotFoundError(f"{self.shown(path)}: is a folder")
        return self._object_info(detail, path)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Every object whose path starts with `prefix`, sorted by path; empty when there is nothing or no root."""
        folder = prefix.rpartition("/")[0]
        full = f"{self.root}/{check_path(folder)}" if folder else self.root
        self._forget_listings(full)
        found = self._persist(lambda: self._find(full), prefix)
        self.meter.record_request()
        files = {self._relative(name): detail for name, detail in found.items() if detail.get("type") != "directory"}
        # an empty object named like a folder is how object stores' consoles make one
        wanted = sorted(p for p in files if p and not p.endswith("/") and p.startswith(prefix) and not is_leftover(p))
        # plain http lists names alone
        unsized = [p for p in wanted if files[p].get("size") is None]
        files |= zip(unsized, side_by_side(lambda p: self._persist(lambda: self.fs.info(self.full_path(p)), p), unsized), strict=True)
        return [self._object_info(files[p], p) for p in wanted]

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        """Put `data` at `path`, replacing what was there; readers see the old bytes or the new, never a mixture."""
        full = self._ready_to_write(path)
        if self.is_local:
            self._persist(lambda: replace_durably(full, data), path)
        else:
            self._persist(lambda: self.fs.pipe_file(full, data), path)
        self.meter.record_write(len(data))

    def put_file(self, path: str, local_path: str) -> None:
        """Put the bytes of a local file at `path`, replacing what was there, without holding them in memory."""
        full = self._ready_to_write(path)
        if self.is_local:
            n_bytes = self._persist(lambda: replace_durably(full, _opened(local_path)), path)
        else:
            self._persist(lambda: self.fs.put_file(local_path, full), path)
            with open(local_path, "rb") as file:
                n_bytes = file.seek(0, 2)
        self.meter.record_write(n_bytes)

    def create(self, path: str, data: bytes) -> None:
        """Put `data` at `path` only if nothing is there, atomically. Raises Conflict if something is.

        Local: a finished, synced file is linked to its name. S3: If-None-Match. Memory: a lock. A kill at any instant
        leaves the whole object or none.
        """
        full = self._ready_to_write(path)
        try:
            if self.is_local:
                create_durably(full, data)
            elif isinstance(self.fs, MemoryFileSystem):
                with _MEMORY_LOCK:
                    if self.fs.exists(full):
                        raise FileExistsError(full)
                    self.fs.pipe_file(full, data)
            else:
                self._create_remotely(path, full, data)
        except FileExistsError as error:
            raise Conflict(f"{self.shown(path)}: exists already; another run was first") from error
        self.meter.record_write(len(data))

    def delete(self, path: str) -> None:
        """Remove an object; no error when it is gone already."""
        full = self.full_path(path)
        try:
            self._persist(lambda: self.fs.rm_file(full), path)
        except FileNotFoundError:
            return
        finally:
            self.meter.record_request()
            self._forget_listings(full)

    def check_folder(self) -> None:
        """Raise UsageError when the root is a local file."""
        if self.is_local and os.path.exists(self.root) and not os.path.isdir(self.root):
            raise UsageError(f"{shown(self.uri)}: is a file, and an archive is a folder")

    def check_writable(self) -> None:
        """Raise BadInput when nothing can be written under a local root; says nothing elsewhere."""
        if not self.is_local:
            return
        folder = self.root
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise BadInput(f"{shown(self.uri)}: cannot be written ({error.strerror} in {folder})") from error

    def check_bucket(self) -> None:
        """Raise BadInput when a first object could not be written because there is no such bucket; says nothing elsewhere."""
        if "s3" not in _protocols(self.fs):
            return
        bucket = self.root.partition("/")[0]
        try:
            self._persist(lambda: self.fs.call_s3("head_bucket", Bucket=bucket), "")
        except FileNotFoundError as error:
            raise BadInput(f"{shown(self.uri)}: there is no bucket {bucket!r}; create it, or check the name") from error
        except (OSError, BadInput) as error:  # who may write need not be allowed to ask
            if isinstance(error, Unreachable):
                raise

    def sweep(self) -> int:
        """Remove the unfinished temporaries of dead writers anywhere under the root; returns how many."""
        return remove_dead_leftovers(self.root) if self.is_local else 0

    # -- inside -------------------------------------------------------------------------------------------------------

    def _persist(self, action: Callable[[], T], path: str) -> T:
        """`action()` with patience, but with little for a store that has not answered yet."""
        try:
            found = persist(action, self.shown(path), attempts=ATTEMPTS if self._has_answered else FIRST_ATTEMPTS)
        except FileNotFoundError:
            self._has_answered = True
            raise
        self._has_answered = True
        return found

    def _create_remotely(self, path: str, full: str, data: bytes) -> None:
        """Exclusive create on a server. Raises FileExistsError.

        A lost answer must not look like a lost race: with the client's own retries off, a failure that is not a plain
        refusal is settled by looking at what the server holds.
        """
        if self.exists(path):  # also for servers that ignore If-None-Match
            raise FileExistsError(full)
        fs = self._single_attempt_filesystem()
        doubtful = False

        def attempt() -> None:
            nonlocal doubtful
            try:
                fs.pipe_file(full, data, mode="create")
            except Exception as error:
                self._forget_listings(full)
                if not self.exists(path):
                    doubtful = True
                    raise
                # a plain refusal: seaweed OSError 22, moto FileExistsError, AWS either (412)
                refused = isinstance(error, FileExistsError) or getattr(error, "errno", None) == errno.EINVAL
                if (refused and not doubtful) or self.read(path) != data:
                    raise FileExistsError(full) from error

        self._persist(attempt, path)
        self._forget_listings(full)

    def _single_attempt_filesystem(self) -> Any:
        """The same filesystem with the client's own retries off, where the client is s3fs."""
        if "s3" not in _protocols(self.fs):
            return self.fs
        options = _patient(self._storage_options)
        options["config_kwargs"]["retries"] = {"total_max_attempts": 1}
        fs = fsspec.filesystem("s3", **options)
        fs.retries = 1
        return fs

    def _ready_to_write(self, path: str) -> str:
        full = self.full_path(path)
        folder = os.path.dirname(full)
        if self.is_local and folder not in self._swept_folders:
            self._swept_folders.add(folder)
            remove_dead_leftovers(folder, deep=False)
        return full

    def _find(self, full: str) -> dict[str, dict[str, Any]]:
        try:
            found: dict[str, dict[str, Any]] = self.fs.find(full, detail=True)
        except FileNotFoundError:
            return {}
        return found

    def _forget_listings(self, full: str) -> None:
        if not self.is_local:
            self.fs.invalidate_cache(full)

    def _relative(self, full: str) -> str:
        return full.removeprefix(self.root).lstrip("/")

    def _of_target(self, path: str) -> os.stat_result:
        try:
            return os.stat(self.full_path(path))
        except OSError as error:
            raise BadInput(f"{self.shown(path)}: a link to nothing that can be read: {error.strerror}") from error

    def _object_info(self, detail: Mapping[str, Any], path: str) -> ObjectInfo:
        n_bytes = detail.get("size")
        if n_bytes is None:
            raise BadInput(f"{self.shown(path)}: the server does not state a size")
        etag = detail.get("ETag") or detail.get("etag")
        if detail.get("islink"):
            detail = {**detail, "mtime": self._of_target(path).st_mtime}  # the listing has the link's own
        when = detail.get("mtime") or detail.get("LastModified") or detail.get("updated") or detail.get("created")
        mtime = when.timestamp() if isinstance(when, datetime) else when if isinstance(when, int | float) else None
        return ObjectInfo(path, int(n_bytes), str(etag).strip('"') if etag else None, mtime)


def side_by_side(work: Callable[[A], T], items: Iterable[A]) -> list[T]:
    """`work` of each item, in order, several at a time: a bucket answers for each small object after tens of milliseconds."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(work, items))


def resolve(uri: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec filesystem of `uri` and the path on it. Raises BadInput for an unknown or not installed scheme."""
    options = dict(storage_options or {})
    if uri.startswith(("s3://", "s3a://")):
        options = _patient(options)
    try:
        fs, path = url_to_fs(uri, **options)
    except (ValueError, ImportError) as error:
        raise BadInput(f"{shown(uri)}: no filesystem for this scheme ({str(error).splitlines()[0]})") from error
    except OSError as error:  # some, as that of FTP, connect at once
        raise Unreachable(f"{shown(uri)}: the storage does not answer ({error.strerror or error})") from error
    return fs, path


def _patient(storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of s3fs with bounds on how long a dead address is tried: what is tried again beyond that, `persist` does."""
    options = dict(storage_options)
    options["config_kwargs"] = {**S3_PATIENCE, **(options.get("config_kwargs") or {})}
    return options


def _protocols(fs: Any) -> tuple[str, ...]:
    protocol = fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _opened(local_path: str) -> Any:
    return open(local_path, "rb")
