"""How a source is divided into parts, each the rows of one shard."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Slice = tuple[str, int, int | None]


@dataclass(frozen=True, slots=True)
class SourcePart:
    """Rows of a source, small enough to name and to pass between tasks.

    name   : deterministic, of letters, digits, '.', '_' and '-'
    slices : (path in the source, first row, row after the last or None for the end), in order
    source : URI of the source
    n_rows : None when only reading tells
    """

    name: str
    slices: tuple[Slice, ...]
    source: str
    n_rows: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "slices": [list(piece) for piece in self.slices],
            "source": self.source,
            "n_rows": self.n_rows,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SourcePart:
        slices = tuple((str(path), int(a), None if b is None else int(b)) for path, a, b in data["slices"])
        return cls(data["name"], slices, data["source"], data["n_rows"])


def divide(source: str, groups: Mapping[str, Sequence[int]], target_rows: int) -> list[SourcePart]:
    """Parts of about `target_rows` rows from the group lengths of every file (path -> rows of each group), in order."""
    if target_rows < 1:
        raise ValueError(f"target_rows is {target_rows}, must be at least 1")
    parts: list[SourcePart] = []
    joined: list[Slice] = []
    n_joined = 0
    for path, lengths in groups.items():
        n_rows = sum(lengths)
        if n_rows == 0:
            continue
        if joined and n_joined + n_rows > target_rows:
            parts.append(_part(source, joined))
            joined, n_joined = [], 0
        if n_rows <= target_rows:
            joined.append((path, 0, n_rows))
            n_joined += n_rows
        else:
            parts.extend(_part(source, [(path, a, b)]) for a, b in _cuts(lengths, target_rows))
    if joined:
        parts.append(_part(source, joined))
    return parts


def _cuts(lengths: Sequence[int], target_rows: int) -> Iterator[tuple[int, int]]:
    """Row ranges of one large file: whole groups together while they fit, a group that does not fit in equal pieces."""
    start = end = 0
    for length in lengths:
        if end > start and end + length - start > target_rows:
            yield start, end
            start = end
        if length > target_rows:
            n_pieces = -(-length // target_rows)
            for i in range(n_pieces):
                yield start + length * i // n_pieces, start + length * (i + 1) // n_pieces
            start = end = end + length
        else:
            end += length
    if end > start:
        yield start, end


def _part(source: str, slices: Sequence[Slice]) -> SourcePart:
    path, start, _ = slices[0]
    mark = hashlib.sha256(json.dumps([list(piece) for piece in slices]).encode()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path)[-80:].lstrip(".")
    more = f"-plus{len(slices) - 1}" if len(slices) > 1 else ""
    n_rows = sum(b - a for _, a, b in slices if b is not None)
    return SourcePart(f"{stem}-r{start}{more}-{mark}", tuple(slices), source, n_rows)
