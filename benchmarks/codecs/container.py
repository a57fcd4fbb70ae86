"""Payloads are one byte string: parts behind their lengths, and plans as they are stored in an archive's model."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import pyarrow as pa

from vae_core.columns import ColumnPlan
from vae_core.packing import unzstd, zstd


def pack(parts: Sequence[bytes]) -> bytes:
    """Each part behind its length in seven-bit groups."""
    return b"".join(_varint(len(part)) + part for part in parts)


def unpack(data: bytes) -> list[bytes]:
    """The inverse of `pack`."""
    parts, at = [], 0
    while at < len(data):
        n_bytes, shift = 0, 0
        while True:
            n_bytes |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                break
        parts.append(data[at : at + n_bytes])
        at += n_bytes
    return parts


def pack_plans(schema: pa.Schema, plans: Sequence[ColumnPlan], n_rows: int, needed: Collection[int]) -> bytes:
    """Schema, plans and row count. Columns not in `needed` go without transform and dictionary: their coding has its own."""
    whole = [plan if plan.index in needed else ColumnPlan(plan.name, plan.index, plan.field, "verbatim") for plan in plans]
    text = json.dumps({"rows": n_rows, "plans": [plan.to_json() for plan in whole]}, separators=(",", ":"))
    blobs = {name: blob for plan in whole for name, blob in plan.blobs().items()}
    head = zstd(pack([schema.serialize().to_pybytes(), text.encode()]))
    return pack([head, *(part for name, blob in blobs.items() for part in (name.encode(), blob))])


def unpack_plans(data: bytes) -> tuple[pa.Schema, list[ColumnPlan], int]:
    """The inverse of `pack_plans`."""
    head, *named = unpack(data)
    serialized, text = unpack(unzstd(head))
    schema = pa.ipc.read_schema(pa.BufferReader(serialized))
    about = json.loads(text)
    blobs = {name.decode(): blob for name, blob in zip(named[::2], named[1::2], strict=True)}
    return schema, [ColumnPlan.from_json(plan, blobs, schema) for plan in about["plans"]], int(about["rows"])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
