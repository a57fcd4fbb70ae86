"""Members of structs: what a member is may be told by another one, as a price is by the article; or differ by it, as values do by key.

A member is plain, or what it was when another member was last the same, as long as that holds (told), or in as many columns as
another one has values (grouped), or an integer by what it is above another one (above).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vae_core.arrays import from_numpy, scalar, to_numpy
from vae_core.coders import texts
from vae_core.coders.nested.numbers import pack_flags, unpack_flags
from vae_core.coders.varints import Reader
from vae_core.columns.nested import has_row_keys, row_keys
from vae_core.columns.physical import Bools, Ints, from_raw, integers_of, is_integral, raw_of_integers, raw_values, valid_of
from vae_core.errors import CorruptArchive

PLAIN, TOLD, GROUPED, ABOVE = range(4)
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


def _has_labels(kind: pa.DataType) -> bool:
    return tells(kind) or bool(pa.types.is_floating(kind)) or has_row_keys(kind)


def counts(kind: pa.DataType) -> bool:
    """Whether members of a type may be told by how far above another one they are."""
    t = pa.types
    return bool(is_integral(kind) and not t.is_boolean(kind) and not t.is_decimal(kind))


def above(array: pa.Array, other: pa.Array) -> pa.Array:
    """(n,) int64, what one member is above another one; null where it is, and what it is where the other one is null."""
    valid = valid_of(array)
    found = integers_of(array)[0] - _filled(other)
    return from_numpy(found, mask=None if valid is None else ~valid)


def back_above(kind: pa.DataType, array: pa.Array, other: pa.Array) -> pa.Array:
    """The inverse of `above`. Raises CorruptArchive for what is outside the type."""
    valid = valid_of(array)
    found = _filled(array) + _filled(other)
    if valid is not None:
        found[~valid] = 0
    return from_raw(kind, raw_of_integers(kind, found, clip=False, where="nested"), valid)


def _filled(array: pa.Array) -> Ints:
    valid, found = valid_of(array), integers_of(array)[0]
    return found if valid is None else np.where(valid, found, 0)


def labels_of(array: pa.Array) -> Ints:
    """(n,) int64, the same where two cells are, bit for bit; nulls are the same."""
    valid = valid_of(array)
    if has_row_keys(array.type):
        array = row_keys(array)
    elif pa.types.is_floating(array.type):
        raw = raw_values(array)
        array = from_numpy(np.ascontiguousarray(raw).view(f"i{raw.itemsize}"), mask=None if valid is None else ~valid)
    elif not texts.holds(array.type):
        array = from_numpy(raw_values(array), mask=None if valid is None else ~valid)
    codes = array.dictionary_encode().indices
    return to_numpy(codes.fill_null(scalar(-1, codes.type)) if codes.null_count else codes).astype(np.int64)


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


def candidates(members: Sequence[pa.Array], given: int | None) -> list[tuple[int, How]]:
    """Members, and how they might be coded. given: the member that is known already"""
    if not 1 < len(members) <= MOST_MEMBERS:
        return []
    n = len(members[0])
    able = {i: labels_of(member) for i, member in enumerate(members) if _has_labels(member.type)}
    found: list[tuple[int, How]] = []
    for j, by in able.items():
        if not tells(members[j].type):
            continue
        n_groups = len(np.unique(by))
        for i in range(len(members)):
            if i in (j, given) or n_groups < 2:
                continue
            if members[i].type == members[j].type and counts(members[i].type):
                found.append((i, How(ABOVE, j)))
            if n_groups <= min(FEW_GROUPS, n // LEAST_OF_GROUP):
                found.append((i, How(GROUPED, j)))
            if i in able and n_groups <= (1 - LEAST_HITS) * n and hits_of(by, able[i]).mean() >= LEAST_HITS:
                found.append((i, How(TOLD, j)))
    return found


def order(hows: Sequence[How], given: int | None) -> list[int]:
    """Members in the order they are stored, each behind the one that tells it; fewer than there are where some tell each other."""
    found: list[int] = []
    waiting = [i for i in range(len(hows)) if i != given]
    while ready := [i for i in waiting if hows[i].kind == PLAIN or hows[i].by == given or hows[i].by in found]:
        found.append(ready[0])
        waiting.remove(ready[0])
    return found


def to_number(how: How) -> int:
    """As it is stored."""
    return 0 if how.kind == PLAIN else ABOVE * how.by + how.kind


def from_number(number: int, member: int, kinds: Sequence[pa.DataType]) -> How:
    """The inverse. Raises CorruptArchive for what a member cannot be told by."""
    if not number:
        return How()
    how = How((number - 1) % ABOVE + 1, (number - 1) // ABOVE)
    if how.by >= len(kinds) or how.by == member or not tells(kinds[how.by]):
        raise CorruptArchive(f"member {member} of nested values is told by {how.by}, which cannot be")
    if how.kind == ABOVE and not (counts(kinds[member]) and kinds[member] == kinds[how.by]):
        raise CorruptArchive(f"member {member} of nested values is above {how.by}, which is of another type")
    return how
