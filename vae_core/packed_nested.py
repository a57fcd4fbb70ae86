"""Nested values that no other engine filters on: taken apart into columns, where that is well below any other way."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from vae_core.coders import nested
from vae_core.packed_texts import HEAD_ROWS, LEAST_BYTES, WORTH_PACKING, blocks_of, head_bytes


def packed(array: pa.Array, spans: Sequence[tuple[int, int]], most: float, encoding: str | None) -> tuple[str, list[bytes]] | None:
    """The coding and its payloads, block by block; None where they are nothing it holds, or take more than WORTH_PACKING of `most` bytes.

    array    : (n,) as stored: no extension
    encoding : of Parquet, which the first rows are held against before all of them are packed; None: against their share of `most`
    """
    if not nested.holds(array.type) or most <= LEAST_BYTES or not len(array):
        return None
    head = array.slice(0, HEAD_ROWS)
    if len(array) > 2 * HEAD_ROWS and len(nested.pack(head) or b"") > WORTH_PACKING * head_bytes(head, len(array), most, encoding):
        return None
    made = blocks_of(array, spans, nested.pack, WORTH_PACKING * most)
    return None if made is None else ("nested", made)
