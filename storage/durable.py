"""Local files that are never seen half written, whatever instant the machine or the process dies at.

Bytes go to a temporary file beside their destination, are synced, and only then get their name: by rename when they
may replace, by hard link when they must be new. A temporary carries host and process in its name, so that the next
writer can tell the leftovers of the dead from the work of the living.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
import uuid
from typing import IO

_PREFIX = ".tmp-"
_FOREIGN_AGE_S = 24 * 3600.0


def replace_durably(path: str, content: bytes | IO[bytes]) -> int:
    """Put `content` at `path`, whatever was there; returns its bytes. A file object is read to its end, closed."""
    temporary = _written_temporary(path, content)
    try:
        n_bytes = os.path.getsize(temporary)
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise
    _sync_folder(path)
    return n_bytes


def create_durably(path: str, content: bytes) -> None:
    """Put `content` at `path`; raises FileExistsError, and changes nothing, if something is there."""
    if os.path.lexists(path):
        raise FileExistsError(path)
    temporary = _written_temporary(path, content)
    try:
        _link_exclusively(temporary, path)
    finally:
        _remove(temporary)
    _sync_folder(path)


def is_leftover(path: str) -> bool:
    """Whether the last part of `path` is the name of a temporary."""
    return path.rpartition("/")[2].startswith(_PREFIX)


def remove_dead_leftovers(root: str, *, deep: bool = True) -> int:
    """Remove temporaries in `root` (and below, if `deep`) whose process is gone; another host's after a day.

    Returns how many were removed.
    """
    n_removed = 0
    for folder, folders, names in os.walk(root):
        if not deep:
            folders.clear()
        for name in names:
            if name.startswith(_PREFIX) and _is_dead(os.path.join(folder, name)):
                _remove(os.path.join(folder, name))
                n_removed += 1
    return n_removed


def _written_temporary(path: str, content: bytes | IO[bytes]) -> str:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{_PREFIX}{_host()}-{os.getpid()}-{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            if isinstance(content, bytes | bytearray | memoryview):
                file.write(content)
            else:
                with content:
                    shutil.copyfileobj(content, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        _remove(temporary)
        raise
    return temporary


def _link_exclusively(temporary: str, path: str) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a filesystem without hard links: claim the name first, then fill it
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.close(descriptor)
        os.replace(temporary, path)


def _sync_folder(path: str) -> None:
    with contextlib.suppress(OSError):  # some network filesystems refuse to sync a folder
        descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_dead(path: str) -> bool:
    host, _, rest = os.path.basename(path).removeprefix(_PREFIX).partition("-")
    pid = rest.partition("-")[0]
    try:
        if host != _host() or not pid.isdigit():
            return time.time() - os.path.getmtime(path) > _FOREIGN_AGE_S
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (FileNotFoundError, PermissionError):
        return False
    return False


def _host() -> str:
    return "".join(c if c.isalnum() else "_" for c in socket.gethostname()) or "host"


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
