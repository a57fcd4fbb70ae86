"""Many small byte strings in one payload: the pool of a block (FORMAT.md, "Pool")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vae_core.errors import CorruptArchive


def pack(sections: Mapping[str, bytes], names: Sequence[str]) -> bytes:
    """The named sections, each behind its length (uint32, little endian), in the order of names; a missing one is empty."""
    return b"".join(len(data).to_bytes(4, "little") + data for data in (sections.get(name, b"") for name in names))


def unpack(pool: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """The inverse of pack. Raises CorruptArchive when lengths and pool disagree."""
    found: dict[str, bytes] = {}
    position = 0
    for name in names:
        length = int.from_bytes(pool[position : position + 4], "little")
        position += 4
        if position + length > len(pool):
            raise CorruptArchive(f"pool of {len(pool)} bytes ends inside section {name}")
        found[name] = pool[position : position + length]
        position += length
    if position != len(pool):
        raise CorruptArchive(f"pool of {len(pool)} bytes holds {len(pool) - position} bytes that belong to no section")
    return found
