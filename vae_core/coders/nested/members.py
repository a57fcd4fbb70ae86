"""Members of structs: what a member is may be told by another one, as a price is by the article; or differ by it, as values do by their key.

A member is plain, or what it was when another member was last the same, as long as that holds (told), or in as many columns as
another one has values (grouped). Those others are plain themselves, so that they can be read first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vae_core.coders import texts
from vae_core.coders.nested.numbers import pack_flags, unpack_flags
from vae_core.coders.varints import Reader
from vae_core.columns.physical import Bools, Ints, is_integral, raw_values, valid_of
from vae_core.errors import CorruptArchive

PLAIN, TOLD, GROUPED = range(3)
FEW_GROUPS, MOST_GROUPS, MOST_MEMBERS = 1 << 6, 1 << 8, 1 << 4
LEAST_HITS, LEAST_OF_GROUP = 0.5, 32  # share of cells that are told; cells of a group, on the average


@dataclass(frozen=True, slots=True)
class How:
    """How a member is coded. by: the member that tells it"""

    kind: int = PLAIN
    by: int = 0


def tells(kind: pa.DataType) -> bool:
    """Whether members of a type may tell others."""
    return texts.holds(kind) or (is_integral(kind) and kind.bit_width <= 64)


def labels_of(array: pa.Array) -> Ints:
    """(n,) int64, the same where two cells are, bit for bit; nulls are the same."""
    valid = valid_of(array)
    if pa.types.is_floating(array.type):
        raw = raw_values(array)
        array = pa.array(np.ascontiguousarray(raw).view(f"i{raw.itemsize}"), mask=None if valid is None else ~valid)
    elif not texts.holds(array.type):
        array = pa.array(raw_values(array), mask=None if valid is None else ~valid)
    codes = array.dictionary_encode().indices
    return np.asarray(codes.fill_null(-1) if codes.null_count else codes).astype(np.int64)


def groups_of(labels: Ints) -> list[Ints]:
    """Rows of each label, labels in order of their first row."""
    order = np.argsort(labels, kind="stable")
    if not len(order):
        return []
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted(parts, key=lambda part: int(part[0]))


def hits_of(by: Ints, labels: Ints) -> Bools:
    """(n,) whether a cell is what it was when the other member was last the same."""
    order = np.argsort(by, kind="stable")
    hits = np.zeros(len(by), np.bool_)
    hits[order[1:]] = (by[order[1:]] == by[order[:-1]]) & (labels[order[1:]] == labels[order[:-1]])
    return hits


def firsts_of(by: Ints) -> Bools:
    """(n,) whether another member is what it was never before."""
    found = np.zeros(len(by), np.bool_)
    found[np.unique(by, return_index=True)[1]] = True
    return found


def pack_hits(hits: Bools, by: Ints) -> bytes:
    """Which cells are told, of those that can be."""
    return pack_flags(hits[~firsts_of(by)])


def unpack_hits(reader: Reader, by: Ints) -> tuple[int, Ints]:
    """The inverse of `pack_hits`: how many cells are not told, and for each cell which of these it is like. Raises CorruptArchive."""
    missed = firsts_of(by)
    can_be = np.flatnonzero(~missed)
    missed[can_be] = ~unpack_flags(reader, len(can_be))
    order = np.argsort(by, kind="stable")
    last = np.maximum.accumulate(np.where(missed[order], np.arange(len(order)), 0))
    place = np.empty(len(order), np.int64)
    place[order] = (np.cumsum(missed) - 1)[order[last]]
    return int(missed.sum()), place


def candidates(members: Sequence[pa.Array], given: int | None) -> dict[tuple[int, How], Bools | None]:
    """(member, how it might be coded) -> its hits where it is told. given: the member that is known already"""
    if not 1 < len(members) <= MOST_MEMBERS:
        return {}
    n = len(members[0])
    able = {i: labels_of(member) for i, member in enumerate(members) if tells(member.type) or pa.types.is_floating(member.type)}
    found: dict[tuple[int, How], Bools | None] = {}
    for j, by in able.items():
        if not tells(members[j].type):
            continue
        n_groups = len(np.unique(by))
        for i in range(len(members)):
            if i in (j, given) or n_groups < 2:
                continue
            if n_groups <= min(FEW_GROUPS, n // LEAST_OF_GROUP):
                found[i, How(GROUPED, j)] = None
            if i in able and n_groups <= (1 - LEAST_HITS) * n:
                hits = hits_of(by, able[i])
                if hits.mean() >= LEAST_HITS:
                    found[i, How(TOLD, j)] = hits
    return found


def order(hows: Sequence[How], given: int | None) -> list[int]:
    """Members in the order they are stored: those that tell first."""
    rest = [i for i in range(len(hows)) if i != given]
    return [i for i in rest if hows[i].kind == PLAIN] + [i for i in rest if hows[i].kind != PLAIN]


def to_number(how: How) -> int:
    """As it is stored."""
    return 0 if how.kind == PLAIN else 2 * how.by + how.kind


def from_number(number: int, member: int, kinds: Sequence[pa.DataType]) -> How:
    """The inverse. Raises CorruptArchive for what a member cannot be told by."""
    if not number:
        return How()
    how = How(GROUPED if number % 2 == 0 else TOLD, (number - 1) // 2)
    if how.by >= len(kinds) or how.by == member or not tells(kinds[how.by]):
        raise CorruptArchive(f"member {member} of nested values is told by {how.by}, which cannot be")
    return how
