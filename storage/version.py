"""The version of the format: what this release writes, what it reads, and how another one is refused.

FORMAT.md, first section.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from vae_core.errors import CorruptArchive

MAGIC = "latentpack"
FORMAT_VERSION = (1, 22)
FORMAT_OBJECT = "FORMAT"


def check_version(text: str, where: str) -> tuple[int, int]:
    """(major, minor) of a format version this release can read. Raises CorruptArchive stating both sides."""
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", text)
    if match is None:
        raise CorruptArchive(f"{where}: {text[:40]!r} is no format version")
    version = int(match[1]), int(match[2])
    if version[0] != FORMAT_VERSION[0]:
        ours = "{}.{}".format(*FORMAT_VERSION)
        raise CorruptArchive(f"{where}: archive has format {text}, this release reads up to {ours}")
    return version


@contextmanager
def read_as(version: tuple[int, int], where: str) -> Iterator[None]:
    """What a newer minor version says in ways this release does not know is refused by its number."""
    try:
        yield
    except CorruptArchive as error:
        if version <= FORMAT_VERSION:
            raise
        theirs, ours = ("{}.{}".format(*one) for one in (version, FORMAT_VERSION))
        raise CorruptArchive(f"{where}: is of format {theirs}, this release reads up to {ours}: {error}") from error


def format_line(version: tuple[int, int] = FORMAT_VERSION) -> bytes:
    """The content of the FORMAT object."""
    return f"{MAGIC} {version[0]}.{version[1]}\n".encode()
