"""Arrays of any type as cells: which are null, then what the others hold, level by level (FORMAT.md, "Nested")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrays import to_numpy
from vae_core.coders import fields, texts
from vae_core.coders.fields import columns
from vae_core.coders.fields.payload import STYLES
from vae_core.coders.nested import members, numbers
from vae_core.coders.nested.members import ABOVE, GROUPED, PLAIN, TOLD, How
from vae_core.coders.nested.numbers import sized
from vae_core.coders.varints import varints
from vae_core.columns.nested import has_row_keys, row_keys
from vae_core.columns.physical import Ints, integers_of, is_integral, raw_values, valid_of
from vae_core.columns.rows import kept, taken

CELL = 8
"""What a cell of any level counts; texts count their bytes, too."""
END_TO_END, LISTED, BY_MEMBER = range(3)
WHOLE, RAW = range(2)
COLUMN, FIELDS = range(2)
_RECURS = 0.5  # of the rows: so many distinct ones are worth a list
_RECUR_MUCH, _RECUR_OFTEN = 0.25, 0.05  # so few distinct rows, or texts, need nothing else to be tried
_HEAD = 1 << 13  # texts that tell how they are coded
_TRIAL, _LEAST_TRIED, _MOST_TRIED = 0.125, 1 << 12, 1 << 13  # share of cells that tells how members are coded; cells
_LEAST_GAIN = 0.98  # of a member's bytes: what telling it has to make


def holds(kind: pa.DataType) -> bool:
    """Whether nested values of a type can be cells: lists, large lists, lists of one size, maps and structs of plain types."""
    t = pa.types
    return bool(is_list(kind) or t.is_fixed_size_list(kind) or t.is_struct(kind)) and _is_able(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is of lists of many lengths; a map is a list of structs."""
    t = pa.types
    return bool(t.is_list(kind) or t.is_large_list(kind) or t.is_map(kind))


def element_of(kind: pa.DataType) -> pa.DataType:
    """The type of a list's elements; of a map's a struct of key and value."""
    return kind.field(0).type if pa.types.is_map(kind) else kind.value_type


def is_plain_text(kind: pa.DataType) -> bool:
    """Whether a type is of texts, or bytes of any length, but no views."""
    t = pa.types
    return texts.holds(kind) and not (t.is_string_view(kind) or t.is_binary_view(kind))


def is_wide(kind: pa.DataType) -> bool:
    """Whether values of a type are told by bytes: of one size, or decimals beyond 64 bits."""
    return bool(pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal(kind))


def _is_able(kind: pa.DataType) -> bool:
    t = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return False
    if t.is_struct(kind):
        return all(_is_able(item.type) for item in kind)
    if is_list(kind) or t.is_fixed_size_list(kind):
        return _is_able(element_of(kind))
    return bool(t.is_null(kind) or is_integral(kind) or t.is_floating(kind) or is_wide(kind) or is_plain_text(kind))


def pack(array: pa.Array, lengths: Ints | None = None) -> bytes:
    """(n,) of any type that `holds` allows in it. lengths: of the lists they are end to end of, where that is known"""
    if not len(array) or pa.types.is_null(array.type):
        return b""
    valid = valid_of(array)
    if valid is None:
        return varints([0]) + _body(array, lengths)
    return numbers.pack_flags(valid) + (_body(kept(array, valid), None) if valid.any() else b"")


def _body(array: pa.Array, lengths: Ints | None) -> bytes:
    """(m,), m > 0, none null."""
    t, kind = pa.types, array.type
    if is_list(kind):
        return _lists(array)
    if t.is_fixed_size_list(kind):
        return pack(array.flatten(), np.full(len(array), kind.list_size))
    if t.is_struct(kind):
        return _structs([array.field(i) for i in range(kind.num_fields)], lengths)
    if t.is_boolean(kind):
        return numbers.pack_flags(raw_values(array).astype(np.bool_))
    if t.is_floating(kind):
        return numbers.pack_floats(raw_values(array), lengths)
    if is_plain_text(kind):
        return _texts(array.cast(pa.large_binary()))
    if is_wide(kind):
        values, fits = (None, None) if t.is_fixed_size_binary(kind) else integers_of(array)
        if values is None or fits is not None:
            return bytes([RAW]) + sized(columns.pack_bytes(_raw_bytes(array)))
        return bytes([WHOLE]) + numbers.pack_integers(values, lengths)
    return numbers.pack_integers(integers_of(array)[0], lengths)


def _raw_bytes(array: pa.Array) -> bytes:
    width = array.type.bit_width // 8
    return bytes(memoryview(array.buffers()[1] or b"")[array.offset * width : (array.offset + len(array)) * width])


def _lists(array: pa.Array) -> bytes:
    """(m,) lists: as the distinct ones and places among them, where that takes less."""
    by = _shaped_by(array)
    coded = row_keys(array).dictionary_encode() if has_row_keys(array.type) else None
    n_listed = len(array) if coded is None else len(coded.dictionary)
    if n_listed > _RECUR_MUCH * len(array):
        best = _end_to_end(array) if by is None else _by_member(array, by)
    if coded is None or n_listed > _RECURS * len(array):
        return best
    which = to_numpy(coded.indices).astype(np.int64)
    order = np.argsort(-np.bincount(which, minlength=n_listed), kind="stable")
    place = np.empty(n_listed, np.int64)
    place[order] = np.arange(n_listed)
    distinct = taken(array, np.unique(which, return_index=True)[1][order])
    listed = _end_to_end(distinct) if by is None else _by_member(distinct, by)
    whole = bytes([LISTED]) + varints([n_listed]) + listed + numbers.pack_integers(place[which], None)
    return whole if n_listed <= _RECUR_MUCH * len(array) else min(best, whole, key=len)


def _end_to_end(array: pa.Array) -> bytes:
    lengths = lengths_of(array)
    return bytes([END_TO_END]) + numbers.pack_integers(lengths, None) + pack(elements_of(array), lengths)


def _by_member(array: pa.Array, by: int) -> bytes:
    """Lists of structs as lists of one of their members, which are likely to recur, and then what the others are."""
    lengths, inner = lengths_of(array), elements_of(array)
    parts = [inner.field(i) for i in range(inner.type.num_fields)]
    rest = _structs(parts, lengths, by) if len(inner) else b""
    return bytes([BY_MEMBER]) + varints([by]) + _lists(_list_of(parts[by], lengths)) + rest


def _list_of(values: pa.Array, lengths: Ints) -> pa.Array:
    offsets = pa.py_buffer(np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
    return pa.Array.from_buffers(pa.large_list(values.type), len(lengths), [None, offsets], children=[values])


def _shaped_by(array: pa.Array) -> int | None:
    """The member by which lists of structs are told, None where they are none, or take less end to end: maps by their keys, others
    by a member of which most rows have what others have."""
    if pa.types.is_map(array.type):
        return 0
    inner = elements_of(array)
    if not pa.types.is_struct(inner.type) or inner.null_count or not len(inner):
        return None
    lengths, most, by = lengths_of(array), 0, None
    for i in range(inner.type.num_fields if inner.type.num_fields <= members.MOST_MEMBERS else 0):
        part = inner.field(i)
        if members.tells(part.type) and not part.null_count and has_row_keys(pa.large_list(part.type)):
            n_shapes = len(row_keys(_list_of(part, lengths)).unique())
            if most < n_shapes <= _RECURS * len(array):
                most, by = n_shapes, i  # the one that says most
    if by is None:
        return None
    part = inner.field(by)
    return by if len(_lists(_list_of(part, lengths))) < len(numbers.pack_integers(lengths, None)) + len(pack(part, lengths)) else None


def _texts(array: pa.Array) -> bytes:
    """(m,) large_binary without nulls."""
    recurring = columns.pack_recurring(array, _nested, _RECUR_OFTEN)
    if recurring is not None:
        return bytes([COLUMN]) + sized(recurring)
    head = array.slice(0, _HEAD)
    column = columns.pack_texts(head, _nested)
    style, n_bytes = fields.styled(head, len(column))
    packed = fields.pack(array, style) if n_bytes < len(column) else None
    if packed is not None:
        return bytes([FIELDS]) + sized(packed)
    return bytes([COLUMN]) + sized(column if len(head) == len(array) else columns.pack_texts(array, _nested))


def _structs(parts: Sequence[pa.Array], lengths: Ints | None, given: int | None = None) -> bytes:
    """(m,) structs by their members. given: the one that is known already, and not stored"""
    hows = _hows(parts, lengths, given)
    found = [varints([members.to_number(how) for i, how in enumerate(hows) if i != given])]
    found += [_member(parts, i, hows[i], lengths) for i in members.order(hows, given)]
    return b"".join(found)


def _member(parts: Sequence[pa.Array], i: int, how: How, lengths: Ints | None) -> bytes:
    if how.kind == PLAIN:
        return pack(parts[i], lengths)
    if how.kind == ABOVE:
        return pack(members.above(parts[i], parts[how.by]), lengths)
    by = members.labels_of(parts[how.by])
    if how.kind == TOLD:
        hits = members.hits_of(by, members.labels_of(parts[i]))
        return members.pack_hits(hits, by) + pack(kept(parts[i], ~hits))
    return b"".join(pack(taken(parts[i], rows)) for rows in members.groups_of(by))


def _hows(parts: Sequence[pa.Array], lengths: Ints | None, given: int | None) -> list[How]:
    """How each member is coded, by what the first cells take."""
    hows = [How()] * len(parts)
    tried = members.candidates(parts, given)
    if given is not None and len(parts) == 2 and is_plain_text(parts[1 - given].type):  # keys and values, which differ by key
        hows[1 - given] = next((how for _, how in tried if how.kind == GROUPED), How())
        return hows
    if not tried:
        return hows
    n, n_lists = _head(len(parts[0]), lengths)
    few = None if lengths is None else lengths[:n_lists]
    head = [part.slice(0, n) for part in parts]
    plain = {i: len(_member(head, i, How(), few)) for i in {i for i, _ in tried}}
    gains = {(i, how): plain[i] - len(_member(head, i, how, few)) for i, how in tried}
    for i, how in sorted(gains, key=lambda one: -gains[one]):
        if hows[i].kind == PLAIN and gains[i, how] > (1 - _LEAST_GAIN) * plain[i]:
            with_it = [how if k == i else other for k, other in enumerate(hows)]
            hows = with_it if len(members.order(with_it, given)) + (given is not None) == len(parts) else hows
    return hows


def _nested(array: pa.Array) -> bytes | None:
    return fields.pack(array, STYLES[0], nests=False)


def _head(n: int, lengths: Ints | None) -> tuple[int, int]:
    """How many cells are tried, and of how many lists."""
    some = min(_MOST_TRIED, max(_LEAST_TRIED, int(_TRIAL * n)))
    if lengths is None or n <= some:
        return min(n, some), 0 if lengths is None else len(lengths)
    n_lists = int(np.searchsorted(np.cumsum(lengths), some, "right")) or 1
    return int(lengths[:n_lists].sum()), n_lists


def weights_of(array: pa.Array) -> Ints:
    """(n,) what each cell counts of what a payload may stand for: 8, the bytes of a text or of what is wider, and all that is in it."""
    t, kind, n = pa.types, array.type, len(array)
    valid = valid_of(array)
    found = np.full(n, CELL, np.int64)
    if t.is_null(kind) or not n:
        return found
    some = array if valid is None else kept(array, valid)
    more = np.zeros(len(some), np.int64)
    if is_list(kind) or t.is_fixed_size_list(kind):
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(weights_of(elements_of(some)))])
        at = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_of(some))])
        more = np.diff(ends[at])
    elif t.is_struct(kind):
        for i in range(kind.num_fields):
            more += weights_of(some.field(i))
    elif is_plain_text(kind):
        more = to_numpy(pc.binary_length(some)).astype(np.int64)
    elif is_wide(kind):
        more += kind.bit_width // 8
    found[slice(None) if valid is None else valid] += more
    return found


def lengths_of(array: pa.Array) -> Ints:
    """(n,) int64 lengths of lists without nulls."""
    if pa.types.is_map(array.type):
        return np.diff(to_numpy(array.offsets)).astype(np.int64)
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size, np.int64)
    return to_numpy(pc.list_value_length(array)).astype(np.int64)


def elements_of(array: pa.Array) -> pa.Array:
    """Elements of lists without nulls, end to end; of maps structs of key and value."""
    if not pa.types.is_map(array.type):
        return array.flatten()
    offsets = to_numpy(array.offsets)
    start, stop = int(offsets[0]), int(offsets[-1])
    parts = [array.keys, array.items]
    if len(parts[0]) != stop - start:
        parts = [part.slice(start, stop - start) for part in parts]
    return pa.StructArray.from_arrays(parts, fields=list(element_of(array.type)))
