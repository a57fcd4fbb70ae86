"""Thrift's compact protocol, in which Parquet writes its headers and footers: read with care, and copied in part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MAX_DEPTH = 8
_MAX_ITEMS = 1000
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12


class Compact:
    """A cursor over Thrift's compact protocol; raises ValueError or IndexError on anything malformed."""

    def __init__(self, data: memoryview, position: int) -> None:
        self.data = data
        self.position = position

    def byte(self) -> int:
        value = self.data[self.position]
        self.position += 1
        return value

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("an integer is too long")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def skip(self, n_bytes: int) -> None:
        if not 0 <= n_bytes <= len(self.data) - self.position:
            raise ValueError("a field ends outside the file")
        self.position += n_bytes

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Field id -> integer, truth or struct; other types are skipped."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        identifier = 0
        while head := self.byte():
            identifier = identifier + (head >> 4) if head >> 4 else self.zigzag()
            if len(fields) > _MAX_ITEMS:
                raise ValueError("too many fields")
            fields[identifier] = self.value(head & 0x0F, depth)
        return fields

    def value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in (_I16, _I32, _I64):
            return self.zigzag()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self.byte()
            n_items = self.varint() if head >> 4 == 15 else head >> 4
            if n_items > _MAX_ITEMS or depth > _MAX_DEPTH:
                raise ValueError("a list is too long")
            for _ in range(n_items):
                if head & 0x0F in (_TRUE, _FALSE):
                    self.byte()
                else:
                    self.value(head & 0x0F, depth + 1)
        elif kind == _BINARY:
            self.skip(self.varint())
        elif kind in (_BYTE, _DOUBLE):
            self.skip(1 if kind == _BYTE else 8)
        else:
            raise ValueError(f"no Thrift type {kind}")
        return None


@dataclass(frozen=True, slots=True)
class Without:
    """Which fields of a struct a copy leaves out, and what it leaves out of the structs (or lists of them) within."""

    fields: frozenset[int] = frozenset()
    within: Mapping[int, Without] = field(default_factory=dict)


def copy_without(cursor: Compact, without: Without) -> bytes:
    """The struct at the cursor, less what it is to do without; the cursor is behind it then."""
    out = bytearray()
    identifier = written = 0
    while head := cursor.byte():
        kind = head & 0x0F
        identifier = identifier + (head >> 4) if head >> 4 else cursor.zigzag()
        body = _body(cursor, kind, without.within.get(identifier))
        if identifier in without.fields:
            continue
        if not 0 < identifier - written < 16:
            raise ValueError(f"field {identifier} after {written}")
        out.append((identifier - written) << 4 | kind)
        out += body
        written = identifier
    return bytes(out) + b"\0"


def _body(cursor: Compact, kind: int, without: Without | None) -> bytes:
    start = cursor.position
    if without is None:
        cursor.value(kind, 0)
        return bytes(cursor.data[start : cursor.position])
    if kind == _STRUCT:
        return copy_without(cursor, without)
    head = cursor.byte()
    n_items = cursor.varint() if head >> 4 == 15 else head >> 4
    if kind != _LIST or head & 0x0F != _STRUCT:
        raise ValueError("expected structs")
    intro = bytes(cursor.data[start : cursor.position])
    return intro + b"".join(copy_without(cursor, without) for _ in range(n_items))
