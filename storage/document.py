"""Small documents in and out: compact JSON, zstd and base64, bounded and typed on the way back in.

Everything here reads bytes somebody else may have written. A document that is too deep, too large, of the wrong type or
with a key twice is a CorruptArchive naming the object it came from, never a crash.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Never

from vae_core.errors import CorruptArchive
from vae_core.phrases import compressed, decompressed

MAX_DOCUMENT_BYTES = 256 << 20
MAX_COUNT = 1 << 53
PACK_ABOVE_CHARS = 300
MOST_OF_JSON, SPARE_BYTES = 100, 4 << 20  # what a frame may stand for: so many times its size, and some

_HEX_ID = re.compile(r"[0-9a-f]{16,64}\Z")
_FILE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}(\.[a-z0-9]{1,16}){1,2}\Z")


def to_json(value: Any) -> bytes:
    """Compact UTF-8 JSON. Raises ValueError for NaN and infinities, which JSON has no words for."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def from_json(data: bytes, where: str) -> Any:
    """Parse JSON that came from an archive. Raises CorruptArchive naming `where`."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise CorruptArchive(f"{where}: a document of {len(data)} bytes, this release reads up to {MAX_DOCUMENT_BYTES}")
    try:
        return json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise CorruptArchive(f"{where}: JSON is nested too deeply") from None
    except ValueError as error:
        raise CorruptArchive(f"{where}: not valid JSON ({error})") from None


def _refuse_constant(text: str) -> Never:
    raise ValueError(f"{text} is not a number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def compress(data: bytes, most: float = math.inf) -> bytes:
    """zstd, level 19, by the dictionary of phrases, with the content size in the frame header: the reader checks it before allocating.

    most : times its size the frame may stand for (and SPARE_BYTES), else a lower level makes a larger one
    """
    for level in (19, 3, 1, -10, -100, -1000, -10_000, -100_000):
        frame = compressed(data, level)
        if len(data) <= most * len(frame) + SPARE_BYTES:
            break
    return frame


def compress_json(value: Any) -> bytes:
    """A JSON document as a zstd frame that `decompress_json` takes."""
    return compress(to_json(value), MOST_OF_JSON)


def decompress_json(data: bytes, where: str, limit: int = MAX_DOCUMENT_BYTES) -> Any:
    """Undo `compress_json`. Raises CorruptArchive, also for a frame that stands for a document out of all proportion to its size:
    lists in JSON take seventy times their text in memory."""
    return from_json(decompress(data, where, min(limit, MOST_OF_JSON * len(data) + SPARE_BYTES)), where)


def decompress(data: bytes, where: str, limit: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Undo `compress`. Raises CorruptArchive when the frame is damaged or claims more than `limit` bytes."""
    return decompressed(data, limit, where)


def to_base64(data: bytes) -> str:
    """Standard base64 without padding."""
    return base64.b64encode(data).rstrip(b"=").decode()


def from_base64(text: str, where: str) -> bytes:
    """Undo `to_base64`. Raises CorruptArchive."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise CorruptArchive(f"{where}: not base64") from None


def pack(value: Any) -> Any:
    """A JSON value as itself, or as {"zstd": base64} where its text is long enough to gain (PACK_ABOVE_CHARS)."""
    text = to_json(value)
    if len(text) <= PACK_ABOVE_CHARS:
        return value
    packed = {"zstd": to_base64(compress_json(value))}
    return packed if len(to_json(packed)) < len(text) else value


def unpack(value: Any, where: str, *, bounded: bool = True) -> Any:
    """Undo `pack`. bounded: as `decompress_json` does; before format 1.5 a frame might stand for any document."""
    if isinstance(value, dict) and value.keys() == {"zstd"} and isinstance(value["zstd"], str):
        frame = from_base64(value["zstd"], where)
        return decompress_json(frame, where) if bounded else from_json(decompress(frame, where), where)
    return value


def to_varints(values: Sequence[int]) -> bytes:
    """Non-negative integers as LEB128: seven bits a byte, low bits first, the high bit set on all but the last."""
    out = bytearray()
    for value in values:
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def from_varints(data: bytes, n_values: int, where: str) -> tuple[tuple[int, ...], bytes]:
    """The first `n_values` integers of `data` and the bytes after them. Raises CorruptArchive."""
    if n_values > len(data):
        raise CorruptArchive(f"{where}: {n_values} integers claimed in {len(data)} bytes")
    values = []
    position = 0
    for _ in range(n_values):
        value = shift = 0
        while True:
            if position >= len(data) or shift > 49:
                raise CorruptArchive(f"{where}: damaged integer list")
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        values.append(value)
    return tuple(values), data[position:]


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object read field by field; every mismatch is a CorruptArchive that names the object and the field."""

    values: dict[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> Fields:
        """`value` as an object. Raises CorruptArchive when it is none."""
        if not isinstance(value, dict):
            raise CorruptArchive(f"{where}: expected a JSON object, found {type(value).__name__}")
        return cls(value, where)

    def fail(self, name: str, expected: str) -> Never:
        """Raise: field `name` is not what was expected."""
        raise CorruptArchive(f"{self.where}: field {name!r} is not {expected}")

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self.values.get(name, default)
        return value if isinstance(value, str) else self.fail(name, "a text")

    def hex_id(self, name: str) -> str:
        """16 to 64 lower-case hexadecimal digits: safe as a folder name."""
        return hex_id(self.text(name), f"{self.where}: field {name!r}")

    def count(self, name: str, limit: int = MAX_COUNT) -> int:
        """An integer from 0 to `limit`."""
        return _count(self.values.get(name), limit, self.where, name)

    def counts(self, name: str, limit: int = MAX_COUNT) -> tuple[int, ...]:
        """A list of integers from 0 to `limit`."""
        return tuple(_count(value, limit, self.where, name) for value in self.list(name))

    def list(self, name: str) -> list[Any]:
        """A list."""
        value = self.values.get(name)
        return value if isinstance(value, list) else self.fail(name, "a list")

    def object(self, name: str) -> dict[str, Any]:
        """An object, empty when it is missing."""
        value = unpack(self.values.get(name, {}), self.where)
        return value if isinstance(value, dict) else self.fail(name, "an object")


def _count(value: Any, limit: int, where: str, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise CorruptArchive(f"{where}: field {name!r} is not a count up to {limit}")
    return value


def typed(value: Any, kinds: Sequence[type | tuple[type, ...]], where: str, what: str) -> list[Any]:
    """`value` when it is a list whose items are of these kinds, one by one. Raises CorruptArchive naming `what`."""
    if not isinstance(value, list) or len(value) != len(kinds):
        raise CorruptArchive(f"{where}: malformed {what}")
    if all(isinstance(item, kind) and not isinstance(item, bool) for item, kind in zip(value, kinds, strict=True)):
        return value
    raise CorruptArchive(f"{where}: malformed {what}")


def hex_id(text: str, where: str) -> str:
    """`text` when it may name a shard or a model folder. Raises CorruptArchive."""
    if not _HEX_ID.match(text):
        raise CorruptArchive(f"{where}: {text[:80]!r} is no identifier of 16 to 64 hexadecimal digits")
    return text


def file_name(text: str, where: str) -> str:
    """`text` when it may name a file inside such a folder: no separators, no dots in front. Raises CorruptArchive."""
    if not _FILE_NAME.match(text):
        raise CorruptArchive(f"{where}: {text[:80]!r} may not name an object")
    return text
