"""Many small byte strings in one payload: the pool of a block (FORMAT.md, "Pool")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vae_core.errors import CorruptArchive

_MOST_LENGTH_BYTES = 5


def pack(sections: Mapping[str, bytes], names: Sequence[str]) -> bytes:
    """The named sections, each behind its length (LEB128), in the order of names; a missing one is empty."""
    return b"".join(_leb128(len(data)) + data for data in (sections.get(name, b"") for name in names))


def unpack(pool: bytes, names: Sequence[str], *, fixed: bool = False) -> dict[str, bytes]:
    """The inverse of pack. Raises CorruptArchive when lengths and pool disagree.

    fixed : lengths are uint32, as they were before format 1.4
    """
    found: dict[str, bytes] = {}
    position = 0
    for name in names:
        if fixed:
            length, position = int.from_bytes(pool[position : position + 4], "little"), position + 4
        else:
            length, position = _length_at(pool, position)
        if position + length > len(pool):
            raise CorruptArchive(f"pool of {len(pool)} bytes ends inside section {name}")
        found[name] = pool[position : position + length]
        position += length
    if position != len(pool):
        raise CorruptArchive(f"pool of {len(pool)} bytes holds {len(pool) - position} bytes that belong to no section")
    return found


def _leb128(length: int) -> bytes:
    found = bytearray()
    while length > 0x7F:
        found.append(0x80 | (length & 0x7F))
        length >>= 7
    found.append(length)
    return bytes(found)


def _length_at(pool: bytes, position: int) -> tuple[int, int]:
    """(length, where what it counts begins)."""
    length = 0
    for k in range(_MOST_LENGTH_BYTES):
        if position + k >= len(pool):
            break
        byte = pool[position + k]
        length |= (byte & 0x7F) << 7 * k
        if byte < 0x80:
            return length, position + k + 1
    raise CorruptArchive(f"pool of {len(pool)} bytes has no length at byte {position}")
