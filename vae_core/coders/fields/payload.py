"""A block of texts as a payload of templates and columns, and back (FORMAT.md, "Fields")."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrays import from_numpy, scalar, to_numpy
from vae_core.coders import texts
from vae_core.coders.fields import columns, templates
from vae_core.coders.fields.chains import listed
from vae_core.coders.fields.places import HEX_LOWER, HEX_UPPER, TEXT, Place, Written, lengths_of, write
from vae_core.coders.fields.templates import Template
from vae_core.coders.fields.tokens import Bools, Bytes, Ints, binaries, cut
from vae_core.coders.narrow import pco_of
from vae_core.coders.varints import Reader, varints
from vae_core.errors import CorruptArchive
from vae_core.packing import unzstd, zstd

MOST_TEMPLATES, MOST_ITEMS = 1 << 14, 1 << 17
MOST_PACKED = 1 << 26  # bytes: packing takes some ten times as much memory
STYLES = 1 << 6, 1 << 11
"""The so-manieth part of the rows is worth a template: few ones or many."""
_FEWER = 0.01  # more bytes for fewer templates, which are read in less time
_FAR_ABOVE = 1.15  # what no other style makes good
_LEAST = 16  # rows worth a template, however few there are
_HEAD_ROWS = 16_384
_CELLS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place of a stored template: how it is written, and the column its values are in."""

    written: Written
    column: int


class _Texts:
    """(n,) texts cut into tokens, to be packed. tokens: None where there are too many bytes or numbers, or none at all"""

    def __init__(self, array: pa.Array) -> None:
        plain = array.cast(pa.large_binary())
        self.valid = to_numpy(plain.is_valid()) if plain.null_count else None
        plain = plain.drop_null() if self.valid is not None else plain
        self.n, self.tokens = len(plain), None
        offsets = np.frombuffer(plain.buffers()[1], np.int64, self.n + 1, 8 * plain.offset) if self.n else np.zeros(1, np.int64)
        self.offsets = offsets - offsets[0]
        self.n_bytes = int(self.offsets[-1])
        if 0 < self.n_bytes <= MOST_PACKED and len(array) <= columns.MOST_VALUES:
            tokens = cut(np.frombuffer(plain.buffers()[2], np.uint8)[int(offsets[0]) : int(offsets[-1])], self.offsets)
            self.tokens = tokens if 0 < len(tokens.start) <= columns.MOST_VALUES // 2 else None

    def packed(self, style: int, nests: bool) -> bytes | None:
        if self.tokens is None:
            return None
        found = listed(templates.found_in(self.tokens, self.offsets, max(_LEAST, self.n // style)), self.tokens)
        if len(found) > MOST_TEMPLATES or sum(len(template.items) for template in found) > MOST_ITEMS:
            return None
        return _packed(found, self.n, self.n_bytes, self.valid, nests)

    def by_style(self, nests: bool, hopeless: float = math.inf) -> tuple[int, bytes | None]:
        """The style that takes least, or nearly, and what it makes; the first one where that takes more than so many bytes."""
        style = STYLES[0]
        payload = self.packed(style, nests)
        for other in STYLES[1:] if payload is not None and len(payload) <= hopeless else ():
            tried = self.packed(other, nests)
            if tried is not None and payload is not None and len(tried) < (1 - _FEWER) * len(payload):
                style, payload = other, tried
        return style, payload


def styled(array: pa.Array, most: float = math.inf) -> tuple[int, float]:
    """The style that (n,) texts take least by, or nearly, and their bytes; infinity where they are no fields.

    most : bytes that are asked for; where the first style takes far more, no other is tried
    """
    style, payload = _Texts(array).by_style(True, _FAR_ABOVE * most)
    return style, len(payload or b"") or math.inf


def pack(array: pa.Array, style: int | None = None, nests: bool = True) -> bytes | None:
    """(n,) texts as a payload; None where there are too many bytes or numbers, or none at all.

    style : None for that of the first of them        nests : whether lists of texts in it may be fields themselves
    """
    if style is None and len(array) <= _HEAD_ROWS:
        return _Texts(array).by_style(nests)[1]
    return _Texts(array).packed(style or styled(array.slice(0, _HEAD_ROWS))[0], nests)


def unpack(data: bytes, kind: pa.DataType, n: int, nests: bool = True, most: int = texts.MOST_BYTES) -> pa.Array:
    """The inverse of `pack`: n texts of a type. Raises CorruptArchive, also where they are more than `most` bytes."""
    if not texts.holds(kind) or n > columns.MOST_VALUES:
        raise CorruptArchive(f"{n} fields of type {kind}")
    reader = Reader(data, "fields")
    n_valid, n_bytes = reader.varint(0), reader.varint(0, most)
    n_told, n_kept = reader.varint(0, texts.MOST_BYTES), reader.varint(0)
    valid = _validity(reader.take(n_valid), n) if n_valid else None
    stored = _templates(columns.unpack_bytes(reader.take(n_kept), n_told))
    n_texts = n if valid is None else int(valid.sum())
    allowed = columns.Allowance(n_bytes)
    rows = _rows(reader, n_texts, len(stored), allowed)
    values = _values(reader, stored, rows, allowed, _unnested if nests else None)
    if reader.rest():
        raise CorruptArchive("a payload of fields has a tail")
    parts = [part for t, template in enumerate(stored) for part in _written(template, len(rows[t]), values[t], allowed)]
    if allowed.n_bytes:
        raise CorruptArchive(f"texts of fields are {allowed.n_bytes} bytes shorter than they say")
    whole = pa.concat_arrays(parts) if parts else pa.array([], pa.large_binary())
    if len(stored) > 1:
        place = np.empty(n_texts, np.int64)
        place[np.concatenate(rows)] = np.arange(n_texts)
        whole = whole.take(from_numpy(place))
    if valid is not None:
        where = np.cumsum(valid) - 1
        whole = whole.take(from_numpy(where, mask=~valid)) if n_texts else pa.nulls(n, pa.large_binary())
    try:
        return whole.cast(kind)
    except pa.ArrowException as error:
        raise CorruptArchive(f"texts of fields are no {kind}: {error}") from None


def _nested(array: pa.Array) -> bytes | None:
    return pack(array, STYLES[0], nests=False)


def _unnested(data: bytes, n: int, most: int) -> pa.Array:
    return unpack(data, pa.large_binary(), n, nests=False, most=most)


def _packed(found: Sequence[Template], n: int, n_bytes: int, valid: Bools | None, nests: bool) -> bytes:
    """A payload of templates that hold n texts."""
    assigned, stored = _assigned(found, _nested if nests else None)
    parts: list[bytes] = []

    def number(*values: int) -> None:
        parts.append(varints(values))

    number(len(found))
    for t, template in enumerate(found):
        number(len(template.items))
        for i, item in enumerate(template.items):
            if isinstance(item, bytes):
                number(2 * len(item))
                parts.append(item)
            else:
                number(2 * assigned[t, i] + 1, item.written.how, item.written.decimals, item.written.width)
    told_bytes = b"".join(parts)
    kept = columns.pack_bytes(told_bytes)
    bits = b"" if valid is None else zstd(np.packbits(valid).tobytes())
    body = [varints([len(bits), n_bytes, len(told_bytes), len(kept)]), bits, kept]
    if len(found) > 1:
        index = np.empty(n, np.int64)
        for t, template in enumerate(found):
            index[template.rows] = t
        stored = [columns.pack_integers(index), *stored]
    for column in stored:
        body += [varints([len(column)]), column]
    return b"".join(body)


def _assigned(found: Sequence[Template], nest: columns.Nest | None) -> tuple[dict[tuple[int, int], int], list[bytes]]:
    """(template, item) -> column of every place, and the columns: what stands behind the same bytes in several templates is one, if
    that takes less."""
    alike: dict[tuple[object, ...], list[tuple[int, int]]] = defaultdict(list)
    for t, template in enumerate(found):
        seen: dict[tuple[object, ...], int] = defaultdict(int)
        before: bytes | None = b""
        for i, item in enumerate(template.items):
            if isinstance(item, Place):
                how = item.written.how
                form = how if how in (TEXT, HEX_LOWER, HEX_UPPER) else -1
                alike[form, before, seen[form, before]].append((t, i))
                seen[form, before] += 1
            before = item if isinstance(item, bytes) else None
    assigned: dict[tuple[int, int], int] = {}
    stored: list[bytes] = []
    for key, places in alike.items():
        together = _joined(found, places)
        if len(places) > 1 and key[0] != TEXT:
            apart = sum(len(pco_of(_joined(found, [place]))[1]) for place in places)
            if apart < len(pco_of(together)[1]):
                for place in places:
                    assigned[place] = len(stored)
                    stored.append(columns.pack_integers(_joined(found, [place])))
                continue
        assigned |= dict.fromkeys(places, len(stored))
        stored.append(columns.pack_texts(together, nest) if key[0] == TEXT else columns.pack_integers(together))
    return assigned, stored


def _joined(found: Sequence[Template], places: Sequence[tuple[int, int]]) -> Ints | pa.Array:
    """The values of places in order of their rows, in a row of the places."""
    values = [found[t].items[i].values for t, i in places]  # type: ignore[union-attr]
    if len(places) == 1:
        return values[0]
    order = np.argsort(np.concatenate([found[t].rows for t, _ in places]), kind="stable")
    if isinstance(values[0], pa.Array):
        return pa.concat_arrays(values).take(from_numpy(order))
    joined: Ints = np.concatenate(values)[order]
    return joined


def _validity(packed: bytes, n: int) -> Bools:
    bits = np.frombuffer(unzstd(packed, (n + 7) // 8), np.uint8)
    if len(bits) != (n + 7) // 8:
        raise CorruptArchive(f"validity of {n} texts is {len(bits)} bytes long")
    return np.unpackbits(bits)[:n].astype(np.bool_)


def _templates(told: bytes) -> list[tuple[bytes | _Slot, ...]]:
    """Stored templates. Raises CorruptArchive."""
    reader = Reader(told, "fields")
    found, n_items = [], 0
    for _ in range(reader.varint(0, MOST_TEMPLATES)):
        items: list[bytes | _Slot] = []
        for _ in range(reader.varint(0, MOST_ITEMS - n_items)):
            item = reader.varint(0)
            if item % 2 == 0:
                items.append(reader.take(item // 2))
                continue
            written = Written(*(reader.varint(0, 255) for _ in range(3)))
            written.check()
            items.append(_Slot(written, item // 2))
        n_items += len(items)
        found.append(tuple(items))
    if reader.rest():
        raise CorruptArchive("templates of fields have a tail")
    return found


def _rows(reader: Reader, n: int, n_templates: int, allowed: columns.Allowance) -> list[Ints]:
    """The rows of each template."""
    if n_templates < 2:
        if n and not n_templates:
            raise CorruptArchive(f"{n} texts of fields have no template")
        return [np.arange(n)] * n_templates
    index = columns.unpack_integers(reader.take(reader.varint(0)), n, allowed)
    if n and not 0 <= int(index.min()) <= int(index.max()) < n_templates:
        raise CorruptArchive(f"a text of fields has template {int(index.max())} of {n_templates}")
    order = np.argsort(index, kind="stable")
    return np.split(order, np.cumsum(np.bincount(index, minlength=n_templates))[:-1])


def _values(
    reader: Reader, stored: Sequence[tuple[bytes | _Slot, ...]], rows: Sequence[Ints], allowed: columns.Allowance,
    unnest: columns.Unnest | None,
) -> list[dict[int, Ints | pa.Array]]:
    """Item -> its values, of each template. Raises CorruptArchive."""
    places: dict[int, list[tuple[int, int, Written]]] = defaultdict(list)
    for t, items in enumerate(stored):
        for i, item in enumerate(items):
            if isinstance(item, _Slot):
                places[item.column].append((t, i, item.written))
    if sorted(places) != list(range(len(places))):
        raise CorruptArchive("places of fields are in columns that are not there")
    found: list[dict[int, Ints | pa.Array]] = [{} for _ in stored]
    for c in range(len(places)):
        data = reader.take(reader.varint(0))
        n = sum(len(rows[t]) for t, _, _ in places[c])
        of_texts = {written.how == TEXT for _, _, written in places[c]}
        if len(of_texts) > 1:
            raise CorruptArchive("a column of fields is of texts and of integers")
        texts_here = of_texts.pop()
        values = columns.unpack_texts(data, n, allowed, unnest) if texts_here else columns.unpack_integers(data, n, allowed)
        if len(places[c]) == 1:
            [(t, i, _)] = places[c]
            found[t][i] = values
            continue
        order = np.argsort(np.concatenate([rows[t] for t, _, _ in places[c]]), kind="stable")
        back = np.empty(n, np.int64)
        back[order] = np.arange(n)
        first = 0
        for t, i, _ in places[c]:
            where = back[first : first + len(rows[t])]
            found[t][i] = values.take(from_numpy(where)) if isinstance(values, pa.Array) else values[where]
            first += len(rows[t])
    return found


def _written(
    items: Sequence[bytes | _Slot], n: int, values: dict[int, Ints | pa.Array], allowed: columns.Allowance
) -> Iterator[pa.Array]:
    """The texts of a template's n rows, some at a time; allowed: bytes but those of texts. Raises CorruptArchive."""
    if not n:
        return
    lengths: dict[int, Ints] = {}
    n_cells = 1
    for i, item in enumerate(items):
        if isinstance(item, bytes):
            allowed.take(n * len(item))
            n_cells += len(item)
        elif item.written.how != TEXT:
            lengths[i] = lengths_of(item.written, values[i])
            allowed.take(int(lengths[i].sum()))
            n_cells += int(lengths[i].max())
    step = max(1, _CELLS_AT_ONCE // n_cells)
    for start in range(0, n, step):
        some = slice(start, min(n, start + step))
        pieces: list[pa.Array] = []
        cells: list[tuple[Bytes, Bools | None]] = []
        for i, item in enumerate(items):
            if isinstance(item, bytes):
                cells.append((np.broadcast_to(np.frombuffer(item, np.uint8), (some.stop - start, len(item))), None))
            elif item.written.how == TEXT:
                pieces += [*_together(cells, some.stop - start), values[i][start : some.stop]]
                cells = []
            else:
                cells.append(write(item.written, values[i][some], lengths[i][some]))
        pieces += _together(cells, some.stop - start)
        if not pieces:
            yield binaries(np.zeros(0, np.uint8), np.zeros(some.stop - start + 1, np.int64))
        else:
            yield pieces[0] if len(pieces) == 1 else pc.binary_join_element_wise(*pieces, scalar(b"", pa.large_binary()))


def _together(cells: Sequence[tuple[Bytes, Bools | None]], n: int) -> list[pa.Array]:
    """Literals and numbers side by side as one array of n texts, nothing where there are none."""
    if not cells:
        return []
    whole = np.concatenate([part for part, _ in cells], axis=1)
    if all(counted is None or counted.all() for _, counted in cells):
        return [binaries(whole.reshape(-1), np.arange(n + 1) * whole.shape[1])]
    counts = np.concatenate([np.ones(part.shape, np.bool_) if c is None else c for part, c in cells], axis=1)
    return [binaries(whole[counts], np.concatenate([np.zeros(1, np.int64), np.cumsum(counts.sum(axis=1))]))]
