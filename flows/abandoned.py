"""Scratch folders of runs that were killed: whoever is killed removes nothing, so a later run does.

A run holds a lock in its folder, flock(2), as long as it works; a folder goes when nobody holds its lock and nothing in
it has changed for a week. The week is for runs of releases that had no lock.
"""

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from flows import ingest, server

ABANDONED_S = 7 * 24 * 3600.0
LOCK = "lock"

log = logging.getLogger(__name__)


@contextlib.contextmanager
def at_work(run: str) -> Iterator[None]:
    """Hold the lock of a run's folder."""
    with open(ingest.run_folder(run) / LOCK, "ab") as file:
        with contextlib.suppress(OSError):  # a file system without locks: age has to do
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def remove_abandoned(now: datetime) -> list[str]:
    """Remove the folders of dead runs that are old; returns their names."""
    removed = []
    folder = server.home() / "runs"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if ingest.RUN_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # its run removes it at this moment, or it is not ours to remove
                if now.timestamp() - _last_change(path) > ABANDONED_S and not _is_locked(path / LOCK):
                    shutil.rmtree(path)
                    removed.append(path.name)
                    log.info("removed the scratch folder of run %s, which was killed", path.name)
    return removed


def _last_change(path: Path) -> float:
    return max(item.lstat().st_mtime for item in (path, *path.rglob("*")))


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
