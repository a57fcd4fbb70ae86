"""Which rows of which source files the shards of a snapshot hold: every row of every file, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.entries import SourceRecord
    from storage.shards import ShardEntry


def miscounted(entries: Sequence[ShardEntry], sources: Iterable[SourceRecord]) -> str | None:
    """What is wrong where shards do not hold each row of each file exactly once, None where they do, or do not say what they hold.

    Two files of the same bytes are two files: a shard of one must never stand for the other.
    """
    if any(not entry.sources and entry.n_rows for entry in entries):
        return None
    spans: dict[str, list[tuple[int, int]]] = {}
    for entry in entries:
        told = sum(piece.stop - piece.start for piece in entry.sources if piece.stop is not None)
        for piece in entry.sources:
            stop = piece.start + entry.n_rows - told if piece.stop is None else piece.stop  # to the end: at most one, the last
            spans.setdefault(piece.path, []).append((piece.start, stop))
    listed = {source.path: source.n_rows for source in sources}
    for path, n_rows in listed.items():
        at = 0
        for start, stop in sorted(spans.pop(path, [])):
            if start != at:
                first, last = sorted((start, at))
                return f"rows {first:,} to {last:,} of {path} are in {'no shard' if start > at else 'two shards'}"
            at = stop
        if n_rows is not None and at != n_rows:
            return f"{path} has {n_rows:,} rows, and shards hold {at:,} of it"
    return f"shards hold rows of {min(spans)}, which is no file of this snapshot" if spans else None
