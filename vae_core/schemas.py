"""Schemas as bytes: an Arrow IPC message, or the names of all fields before a message of those that differ by more than that.

A message says where each field's parts lie, so that a field takes five bytes and more beside its name, compressed. FORMAT.md, "Schemas".
"""

from __future__ import annotations

import itertools
import json

import pyarrow as pa

from vae_core.phrases import compressed

MOST_HEAD = 4 << 20  # bytes of names: as lists they take much more


def schema_to_message(schema: pa.Schema) -> bytes:
    """The exact schema, metadata included, as `schema_from_message` takes it: in the form that is shorter once it is compressed."""
    message: bytes = schema.serialize().to_pybytes()
    short = _short(schema)
    if short.index(b"\n") > MOST_HEAD or len(compressed(short)) >= len(compressed(message)):
        return message
    return short if schema_from_message(short).equals(schema_from_message(message), check_metadata=True) else message


def schema_from_message(data: bytes) -> pa.Schema:
    """The inverse of `schema_to_message`. Raises ValueError, of which ArrowInvalid is one, another ArrowException or OSError."""
    if not data.startswith(b"["):
        return pa.ipc.read_schema(pa.BufferReader(data))
    head = data[: MOST_HEAD + 1].partition(b"\n")[0]
    if len(head) > MOST_HEAD:
        raise ValueError(f"the names of a schema take more than {MOST_HEAD} bytes")
    told = json.loads(head)
    if len(told) != 2 or not all(isinstance(part, list) for part in told):
        raise ValueError("it is no list of names and one of kinds")
    names, runs = told
    if not all(isinstance(name, str) for name in names) or not all(type(n) is int and n >= 0 for n in runs) or len(runs) % 2:
        raise ValueError("names are no texts, or kinds no numbers")
    kinds = pa.ipc.read_schema(pa.BufferReader(data[len(head) + 1 :]))
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    if sum(n for _, n in pairs) != len(names) or any(kind >= len(kinds) for kind, _ in pairs):
        raise ValueError(f"{len(names)} names are not of the kinds they are said to be of")
    of_each = itertools.chain.from_iterable(itertools.repeat(kinds.field(kind), n) for kind, n in pairs)
    return pa.schema([field.with_name(name) for field, name in zip(of_each, names, strict=True)], metadata=kinds.metadata)


def _short(schema: pa.Schema) -> bytes:
    """Names, how many fields in a row are of which kind, and a message of the kinds, without names."""
    kinds, of_each = dict[bytes, tuple[int, pa.Field]](), list[int]()
    for field in schema:
        bare = field.with_name("")
        exact = pa.schema([bare]).serialize().to_pybytes()  # types are equal whatever the metadata of what is nested in them
        of_each.append(kinds.setdefault(exact, (len(kinds), bare))[0])
    runs = [n for kind, some in itertools.groupby(of_each) for n in (kind, len(list(some)))]
    head = json.dumps([schema.names, runs], separators=(",", ":"), ensure_ascii=False).encode()
    message: bytes = pa.schema([field for _, field in kinds.values()], metadata=schema.metadata).serialize().to_pybytes()
    return head + b"\n" + message
