"""Texts that no other engine filters on: end to end in bzip2 or xz, or mixed, or as fields, where that is well below any other way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa

from vae_core.coders import fields, texts
from vae_core.coders.mixed import Mixing
from vae_core.coders.parquet import chunk_bytes

WORTH_PACKING, LEAST_BYTES = 0.95, 4_096  # of what a column takes else; bytes
HEAD_ROWS, HEAD_SLACK = 16_384, 1.15  # rows that tell whether all are worth it; a head takes more a row than all of them


def packed(
    array: pa.Array, spans: Sequence[tuple[int, int]], most: float, encoding: str | None, mixing: Mixing | None = None
) -> tuple[str, list[bytes]] | None:
    """The coding and its payloads, block by block; None where they are no texts, or take more than WORTH_PACKING of `most` bytes.

    array    : (n,) as stored: no extension
    encoding : of Parquet, which the first rows are held against before all of them are packed; None: against their share of `most`
    mixing   : how texts may be mixed, None where they are to be read soon
    """
    if not texts.holds(array.type) or most <= LEAST_BYTES or not len(array):
        return None
    head = array.slice(0, HEAD_ROWS)
    limit = WORTH_PACKING * head_bytes(head, len(array), most, encoding)
    style, as_fields = fields.styled(head, limit)
    tried = {"fields": as_fields}
    if encoding is not None:
        tried["texts"] = len(texts.pack(head, mixing=mixing) or b"") or math.inf
    for coding in sorted(tried, key=lambda name: tried[name]):
        pack = partial(fields.pack, style=style) if coding == "fields" else partial(texts.pack, mixing=mixing)
        made = blocks_of(array, spans, pack, WORTH_PACKING * most) if tried[coding] <= limit else None
        if made is not None:
            return coding, made
    return None


def head_bytes(head: pa.Array, n: int, most: float, encoding: str | None) -> float:
    """What the first of n rows take otherwise: in Parquet by an encoding, or their share of `most` bytes."""
    return most * HEAD_SLACK * len(head) / n if encoding is None else chunk_bytes(head, encoding)


def blocks_of(
    array: pa.Array, spans: Sequence[tuple[int, int]], pack: Callable[[pa.Array], bytes | None], most: float
) -> list[bytes] | None:
    """The payloads of blocks, (first row, rows) each; None where one cannot be packed, or all take `most` bytes or more."""
    found: list[bytes] = []
    for start, n in spans:
        payload = pack(array.slice(start, n))
        if payload is None or sum(len(one) for one in found) + len(payload) >= most:
            return None
        found.append(payload)
    return found
