"""Which files a source URI means: one file, every data file of a folder, or the matches of a glob, in order of path."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from storage.errors import BadInput
from storage.formats.recognise import format_by_name
from storage.metering import Meter
from storage.objects import ObjectInfo, ObjectStore, resolve
from storage.transient import FIRST_ATTEMPTS, persist, shown

log = logging.getLogger(__name__)

_COMPANIONS = {"md", "rst", "html", "pdf", "crc", "sha256", "md5", "sha1", "asc", "sig", "lock"}
_COMPANION_NAMES = {"readme", "license", "licence", "copying", "notice", "checksums", "sha256sums", "md5sums"}


def list_source(
    uri: str, storage_options: Mapping[str, Any] | None = None, meter: Meter | None = None
) -> tuple[ObjectStore, tuple[ObjectInfo, ...]]:
    """The store under the files that `uri` means, and those files. Raises BadInput when there are none."""
    fs, path = resolve(uri, storage_options)
    meter = meter or Meter()
    path = path.rstrip("/") or path
    where = shown(uri)

    def store_at(root: str) -> ObjectStore:
        return ObjectStore(uri if root == path else _parent(uri, path, root), fs, root, meter, storage_options)

    fs.invalidate_cache()
    kind = _kind(fs, path, where)
    meter.record_request()
    if kind == "file":
        folder, _, name = path.rpartition("/")
        store = store_at(folder)
        return store, (store.info(name),)
    if kind == "directory":
        store = store_at(path)
        return store, _data_files(store, store.list(), where)
    if any(c in path for c in "*?["):
        root = _fixed_part(path)
        store = store_at(root)
        try:
            matches = persist(lambda: fs.glob(path, detail=True), where)
        except FileNotFoundError:  # not even the bucket
            matches = {}
        meter.record_request()
        infos = [
            store.info(name.removeprefix(root).lstrip("/"))
            for name, detail in sorted(matches.items())
            if detail.get("type") != "directory"
        ]
        if not infos:
            raise BadInput(f"{where}: no file matches")
        return store, _data_files(store, infos, where)
    raise BadInput(f"{where}: no such file or folder")


def _kind(fs: Any, path: str, where: str) -> str | None:
    try:
        return str(persist(lambda: fs.info(path)["type"], where, attempts=FIRST_ATTEMPTS))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _fixed_part(path: str) -> str:
    """The deepest folder of a glob that holds no pattern."""
    parts = path.split("/")
    n_fixed = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
    return "/".join(parts[:n_fixed])


def _parent(uri: str, path: str, root: str) -> str:
    """The URI of the folder `root` that holds `path`."""
    tail = path.removeprefix(root)
    trimmed = uri.rstrip("/")
    return trimmed.removesuffix(tail) if tail and trimmed.endswith(tail) else root


def _data_files(store: ObjectStore, infos: list[ObjectInfo], where: str) -> tuple[ObjectInfo, ...]:
    kept = tuple(i for i in infos if not _is_hidden(i.path) and not _is_companion(i.path))
    if not kept:
        raise BadInput(f"{where}: holds no data files (Parquet, CSV, JSON lines, Arrow IPC or NPY)")
    for info in kept:
        if store.is_local and os.path.isdir(store.full_path(info.path)):
            told = "links to folders are not followed; move the link away, or name that folder as the source"
            raise BadInput(f"{store.shown(info.path)}: {told}")
    if len(kept) < len(infos):
        log.info("%s: %d files beside the data are left out", where, len(infos) - len(kept))
    return kept


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _is_companion(path: str) -> bool:
    """Files that lie beside data and are not data."""
    if format_by_name(path) is not None:
        return False
    stem, _, suffix = path.rpartition("/")[2].lower().rpartition(".")
    return suffix in _COMPANIONS or (stem or suffix) in _COMPANION_NAMES
