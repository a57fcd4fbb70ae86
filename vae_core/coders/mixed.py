"""Texts end to end by context mixing, as a payload: bytes of each lane's stream, then the streams (FORMAT.md, "Context mixing").

A fifth less than bzip2 or xz make of prose, and a tenth of their speed: so it is for what is not much, or where size is asked for.
"""

from __future__ import annotations

import bz2
from dataclasses import dataclass
from functools import lru_cache

from vae_core.coders.varints import Reader, varints
from vae_core.entropy import contextmix
from vae_core.errors import CorruptArchive

WORTH_MIXING, LEAST_BYTES = 0.97, 1_024  # of what is read sooner; of texts: tables take as long to make as these to read
MOST_ALONE = 1 << 16  # bytes of texts in one lane
_PART = 1 << 17  # bytes that tell whether all are worth it


@dataclass(frozen=True, slots=True)
class Mixing:
    """How texts may be mixed.

    most_bytes : of texts that are one payload
    steps      : bytes a lane, or more where there are `most_lanes`. Numpy takes a millisecond a step, the kernel does not care; texts in
                 few lanes see more of what is near
    """

    most_bytes: int
    steps: int
    most_lanes: int


BALANCED = Mixing(1 << 22, 1 << 12, 128)
FOR_SIZE = Mixing(contextmix.MOST_BYTES, 1 << 14, 64)


def smaller(data: bytes, between: int, mixing: Mixing, most: float) -> bytes | None:
    """The payload of texts that have `between` behind each, where it takes less than WORTH_MIXING of `most` bytes, else None.

    most : bytes that they take otherwise
    """
    if not LEAST_BYTES <= len(data) <= mixing.most_bytes:
        return None
    if len(data) > 2 * _PART:
        part = data[: data.rfind(between, 0, _PART) + 1]
        told = pack(part, between, mixing) if part else None
        if part and (told is None or len(told) >= len(bz2.compress(part))):
            return None
    found = pack(data, between, mixing)
    return found if found is not None and len(found) < WORTH_MIXING * most else None


@lru_cache(maxsize=16)
def pack(data: bytes, between: int, mixing: Mixing) -> bytes | None:
    """The payload of texts that have `between` behind each; None where they would not shrink."""
    n_rows = data.count(between)
    n_lanes = max(1, min(mixing.most_lanes, n_rows, len(data) // mixing.steps))
    streams = contextmix.mix(data, between, n_rows, n_lanes)
    if streams is None and n_lanes > 1 and len(data) <= MOST_ALONE:
        streams = contextmix.mix(data, between, n_rows, 1)  # one text may be longer than all others together
    return None if streams is None else varints([len(streams), *map(len, streams)]) + b"".join(streams)


def unpack(payload: bytes, between: int, n_rows: int, n_bytes: int) -> bytes:
    """The inverse of pack: n_rows texts that are n_bytes with what is between them. Raises CorruptArchive."""
    reader = Reader(payload, "mixed texts")
    lengths = [reader.varint(0, len(payload)) for _ in range(reader.varint(1, contextmix.MOST_LANES))]
    streams = [reader.take(length) for length in lengths]
    if reader.rest():
        raise CorruptArchive("mixed texts have a tail")
    return contextmix.unmix(streams, between, n_rows, n_bytes)
