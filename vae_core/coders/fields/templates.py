"""Templates: texts with the same stretches between numbers of the same kinds, and what differs from row to row as places.

The stretches of texts that are too rare to have a template of their own become places, too, the most varied first; what fits none is
one place from end to end. All of it is the writer's choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.coders.fields.places import TEXT, Place, Written, place_of, shapes_of
from vae_core.coders.fields.tokens import Ints, Tokens

MOST_NUMBERS, MOST_GENERAL = 1024, 64  # of a text that is cut at all; of one whose stretches may be places
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """m rows, ascending, of the same items: literal bytes and places."""

    rows: Ints
    items: tuple[bytes | Place, ...]


def found_in(tokens: Tokens, offsets: Ints, least: int) -> list[Template]:
    """Templates that hold every text between them once. least: rows that are worth a template"""
    n, counts = len(offsets) - 1, np.diff(tokens.first)
    kinds, stretches = _hashes(tokens)
    whole: list[Ints] = [np.flatnonzero(counts > MOST_NUMBERS)]
    rows = np.flatnonzero(counts <= MOST_NUMBERS)
    found: list[Template] = []
    rare: list[Ints] = []
    for group in _groups((kinds + stretches)[rows], rows):
        if len(group) < least or not counts[group[0]]:
            rare.append(group)
        else:
            whole += _fitted(tokens, group, least, found)
    left = np.sort(np.concatenate(rare)) if rare else np.zeros(0, np.int64)
    for group in _groups(kinds[left], left):
        k = int(counts[group[0]])
        if len(group) < least or not 0 < k <= MOST_GENERAL:
            whole.append(group)
            continue
        for part in _groups(_alike_but_varied(tokens, group, k, least), group):
            if len(part) < least:
                whole.append(part)
            else:
                whole += _fitted(tokens, part, least, found)
    rest = np.sort(np.concatenate(whole))
    if len(rest):
        found.append(Template(rest, (Place(Written(TEXT), tokens.whole(rest, offsets)),)))
    assert sum(len(template.rows) for template in found) == n
    return found


def mixed(numbers: Ints) -> Hashes:
    """Hashes of integers (the finaliser of splitmix64)."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _hashes(tokens: Tokens) -> tuple[Hashes, Hashes]:
    """(n,) hashes of the kinds of each text's numbers, and of its stretches."""
    n = len(tokens.first) - 1
    heads = tokens.first[:-1] + np.arange(n)
    if not n:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    at = np.arange(len(tokens.between)) - np.repeat(heads, np.diff(tokens.first) + 1)
    stretches = np.add.reduceat(mixed((tokens.between << 12) + at), heads)
    kinds = np.zeros(len(at), np.int64)  # of the number before a stretch; the first has none
    kinds[at > 0] = 1 + tokens.kind
    return np.add.reduceat(mixed((kinds << 12) + at + (1 << 50)), heads), stretches


def _groups(hashes: Hashes, rows: Ints) -> Iterator[Ints]:
    """Rows of the same hash, ascending, in order of their first row."""
    if not len(rows):
        return
    order = np.argsort(hashes, kind="stable")
    edges = np.flatnonzero(np.diff(hashes[order])) + 1
    parts = np.split(rows[order], edges)
    yield from sorted(parts, key=lambda part: int(part[0]))


def _alike_but_varied(tokens: Tokens, rows: Ints, k: int, least: int) -> Hashes:
    """Hashes of the stretches of rows with k numbers, without the most varied, so that those left are alike in many rows."""
    base = tokens.first[rows] + rows
    parts = [mixed((tokens.between[base + j] << 12) + j) for j in range(k + 1)]
    distinct = [len(np.unique(part)) for part in parts]
    same: Hashes = np.sum(parts, axis=0, dtype=np.uint64)
    for j in sorted(range(k + 1), key=lambda j: -distinct[j]):
        if distinct[j] == 1 or len(np.unique(same)) * least <= len(rows):
            break
        same = same - parts[j]
    return same


def _fitted(tokens: Tokens, rows: Ints, least: int, found: list[Template]) -> list[Ints]:
    """Add the template of rows with as many numbers, of the same kinds, or one for each shape of these; returns the rows that are left
    over. Stretches that are not the same in all rows are places."""
    counts = tokens.first[rows + 1] - tokens.first[rows]
    k = int(counts[0])
    if (counts != k).any() or any((tokens.kind[tokens.first[rows] + j] != tokens.kind[tokens.first[rows[0]] + j]).any() for j in range(k)):
        return [rows]  # hashes that met by chance
    places: list[Place | None] = [place_of(tokens, tokens.first[rows] + j) for j in range(k)]
    odd = [j for j, place in enumerate(places) if place is None]
    if odd:
        shapes = np.stack([shapes_of(tokens, tokens.first[rows] + j) for j in odd])
        hashes: Hashes = np.sum([mixed((shape << 12) + j) for j, shape in enumerate(shapes)], axis=0, dtype=np.uint64)
        bad = (shapes < 0).any(axis=0)
        left = [rows[bad]]
        for part in _groups(hashes[~bad], rows[~bad]):
            if len(part) < least:
                left.append(part)
            else:
                left += _fitted(tokens, part, least, found)
        return left
    base = tokens.first[rows] + rows
    items: list[bytes | Place] = []
    for j in range(k + 1):
        which = tokens.between[base + j]
        if (which != which[0]).any():
            items.append(Place(Written(TEXT), tokens.literals.take(which)))
        else:
            _add(items, tokens.literals[int(which[0])].as_py())
        if j < k:
            place, token = places[j], tokens.first[rows[0]] + j
            assert place is not None and isinstance(place.values, np.ndarray)
            if (place.values == place.values[0]).all():
                _add(items, tokens.data[tokens.start[token] : tokens.end[token]].tobytes())
            else:
                items.append(place)
    found.append(Template(rows, tuple(items)))
    return []


def _add(items: list[bytes | Place], literal: bytes) -> None:
    """A literal behind the items, in one with what is there."""
    if literal and items and isinstance(items[-1], bytes):
        items[-1] += literal
    elif literal:
        items.append(literal)
