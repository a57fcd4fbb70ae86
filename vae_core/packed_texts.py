"""Texts that no other engine filters on: end to end in bzip2 or xz, or as fields, where that is well below any other way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa

from vae_core.coders import fields, texts
from vae_core.coders.parquet import chunk_bytes

WORTH_PACKING, LEAST_BYTES = 0.95, 4_096  # of what a column takes else; bytes
HEAD_ROWS, HEAD_SLACK = 16_384, 1.15  # rows that tell whether all are worth it; a head takes more a row than all of them


def packed(array: pa.Array, spans: Sequence[tuple[int, int]], most: float, encoding: str | None) -> tuple[str, list[bytes]] | None:
    """The coding and its payloads, block by block; None where they are no texts, or take more than WORTH_PACKING of `most` bytes.

    array    : (n,) as stored: no extension
    encoding : of Parquet, which the first rows are held against before all of them are packed; None: against their share of `most`
    """
    if not texts.holds(array.type) or most <= LEAST_BYTES or not len(array):
        return None
    head = array.slice(0, HEAD_ROWS)
    limit = WORTH_PACKING * (most * HEAD_SLACK * len(head) / len(array) if encoding is None else chunk_bytes(head, encoding))
    style, as_fields = fields.styled(head, limit)
    tried = {"fields": as_fields}
    if encoding is not None:
        tried["texts"] = len(texts.pack(head) or b"") or math.inf
    for coding in sorted(tried, key=lambda name: tried[name]):
        made = _blocks(array, spans, coding, style, WORTH_PACKING * most) if tried[coding] <= limit else None
        if made is not None:
            return coding, made
    return None


def _blocks(array: pa.Array, spans: Sequence[tuple[int, int]], coding: str, style: int, most: float) -> list[bytes] | None:
    """The payloads of a coding; None where it cannot hold a block, or takes `most` bytes or more."""
    found: list[bytes] = []
    for start, n in spans:
        part = array.slice(start, n)
        payload = fields.pack(part, style) if coding == "fields" else texts.pack(part)
        if payload is None or sum(len(one) for one in found) + len(payload) >= most:
            return None
        found.append(payload)
    return found
