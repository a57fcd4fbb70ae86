"""Numbers side by side that recur together, as those of an address do: one place, of texts that are listed.

Apart they would be coded as if each said nothing of the others. Numbers are side by side if they are linked by the same byte, or by none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vae_core.coders.fields.places import TEXT, Place, Written
from vae_core.coders.fields.templates import Template, mixed
from vae_core.coders.fields.tokens import Ints, Tokens, slices
from vae_core.coders.narrow import pco_of

_RECURS, _LEAST = 2, 64  # times a chain's values are there, for it to be listed; chains
_LISTED = 1.1  # of the bytes of distinct values and places in their list: what one place is reckoned with


def listed(found: Sequence[Template], tokens: Tokens) -> list[Template]:
    """The templates with one place for numbers that take less together than apart."""
    alike: dict[tuple[object, ...], list[tuple[int, int, int]]] = defaultdict(list)
    for t, template in enumerate(found):
        seen: dict[object, int] = defaultdict(int)
        for start, stop in _chains(template.items):
            chain = template.items[start:stop]
            before = template.items[start - 1] if start else b""
            key = (before if isinstance(before, bytes) else None, *(c if isinstance(c, bytes) else c.written for c in chain))
            alike[*key, seen[key]].append((t, start, stop))
            seen[key] += 1
    joined: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for places in alike.values():
        if _recur(found, places):
            for t, start, stop in places:
                joined[t].append((start, stop))
    return [_with_one_place(template, joined[t], tokens) if t in joined else template for t, template in enumerate(found)]


def _chains(items: Sequence[bytes | Place]) -> list[tuple[int, int]]:
    """(first, behind the last item) of the longest chains of at least two numbers."""
    found: list[tuple[int, int]] = []
    start = 0
    while start < len(items):
        if not _is_number(items[start]):
            start += 1
            continue
        stop, link = start + 1, None
        while stop < len(items):
            gap = items[stop]
            step = 1 if _is_number(gap) else 2
            joint = b"" if step == 1 else gap
            follows = stop + step - 1 < len(items) and _is_number(items[stop + step - 1])
            if not follows or not isinstance(joint, bytes) or len(joint) > 1 or (joint and link not in (None, joint)):
                break
            link, stop = joint or link, stop + step
        if stop - start > 1:
            found.append((start, stop))
        start = stop
    return found


def _is_number(item: bytes | Place) -> bool:
    return isinstance(item, Place) and item.which is not None


def _recur(found: Sequence[Template], places: Sequence[tuple[int, int, int]]) -> bool:
    """Whether chains of the same form take less as a list and places in it."""
    first, start, stop = places[0]
    numbers = [i - start for i in range(start, stop) if _is_number(found[first].items[i])]
    columns: list[Ints] = []
    rows = np.concatenate([found[t].rows for t, _, _ in places])
    order = np.argsort(rows, kind="stable")
    for k in numbers:
        parts = [item.values for t, at, _ in places if isinstance(item := found[t].items[at + k], Place)]
        columns.append(np.concatenate(parts)[order])
    if len(rows) < _LEAST:
        return False
    hashes = np.sum([mixed((column << 6) ^ k) for k, column in enumerate(columns)], axis=0, dtype=np.uint64)
    _, heads, which, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    if len(heads) * _RECURS > len(rows):
        return False
    rank = np.empty(len(heads), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(heads))
    together = len(pco_of(rank[which])[1]) + sum(len(pco_of(column[heads])[1]) for column in columns)
    apart = 0
    for column in columns:
        apart += len(pco_of(column)[1])
        if _LISTED * together < apart:
            return True
    return False


def _with_one_place(template: Template, chains: Sequence[tuple[int, int]], tokens: Tokens) -> Template:
    """The template with a text in place of each chain."""
    items = list(template.items)
    for start, stop in sorted(chains, reverse=True):
        head, tail = items[start], items[stop - 1]
        assert isinstance(head, Place) and isinstance(tail, Place) and head.which is not None and tail.which is not None
        items[start:stop] = [Place(Written(TEXT), slices(tokens.data, tokens.start[head.which], tokens.end[tail.which]))]
    return replace(template, items=tuple(items))
