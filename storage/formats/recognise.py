"""Which format a file is in: by its name, and where the name says nothing, by its first bytes."""

from __future__ import annotations

from storage.errors import BadInput
from storage.formats.contract import Format
from storage.formats.delimited import Delimited
from storage.formats.ipc import ArrowIPC
from storage.formats.jsonlines import JSONLines
from storage.formats.npy import NPY
from storage.formats.parquet import Parquet

FORMATS: dict[str, Format] = {f.name: f for f in (Parquet(), Delimited(), JSONLines(), ArrowIPC(), NPY())}

_SUFFIXES = {
    "parquet": "parquet", "parq": "parquet", "pq": "parquet",
    "csv": "csv", "tsv": "csv", "tab": "csv",
    "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl",
    "arrow": "arrow", "arrows": "arrow", "ipc": "arrow", "feather": "arrow",
    "npy": "npy",
}  # fmt: skip
_COMPRESSED = {"gz", "zst", "bz2", "lz4"}
_MAGIC = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"\x93NUMPY", "npy"), (b"\xff\xff\xff\xff", "arrow"))
N_MAGIC_BYTES = 8


def format_by_name(path: str) -> str | None:
    """The format the name of a file claims, None when it claims none. Text formats may be compressed: `.csv.gz`."""
    *stem, last = path.rpartition("/")[2].lower().split(".")
    if not stem:
        return None
    if last in _COMPRESSED and len(stem) > 1:
        inner = _SUFFIXES.get(stem[-1])
        return inner if inner in {"csv", "jsonl"} else None
    return _SUFFIXES.get(last)


def format_of(path: str, head: bytes, where: str) -> str:
    """The format of a file from its name, else from its first bytes `head`. Raises BadInput."""
    by_name = format_by_name(path)
    if by_name is not None:
        return by_name
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    raise BadInput(
        f"{where}: neither Parquet, CSV, JSON lines, Arrow IPC nor NPY by its name or first bytes; "
        "move it away or name the files by a glob such as 'folder/*.parquet'"
    )
