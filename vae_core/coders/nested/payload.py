"""A block of nested values as a payload, and back; what reads it checks all that it is told (FORMAT.md, "Nested")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from vae_core.arrays import from_numpy
from vae_core.coders import fields
from vae_core.coders.fields import columns
from vae_core.coders.nested import cells, members, numbers
from vae_core.coders.nested.cells import CELL, element_of, is_list, is_plain_text, is_wide
from vae_core.coders.nested.members import ABOVE, GROUPED, PLAIN, How
from vae_core.coders.varints import Reader
from vae_core.columns.physical import Bools, Ints, from_raw, raw_of_integers, storage_dtype
from vae_core.columns.rows import taken
from vae_core.errors import CorruptArchive

MOST = 1 << 28
"""What all cells of a payload may count together (`cells.weights_of`)."""
Known = list[pa.Array | None]


def pack(array: pa.Array) -> bytes | None:
    """(n,) nested values as a payload; None where the type is none that `holds`, or they are too many."""
    if not cells.holds(array.type) or int(cells.weights_of(array).sum()) > MOST:
        return None
    return cells.pack(array)


def unpack(data: bytes, kind: pa.DataType, n: int) -> pa.Array:
    """The inverse of `pack`: n values of a type. Raises CorruptArchive."""
    if not cells.holds(kind):
        raise CorruptArchive(f"nested values of type {kind}")
    unpacker = Unpacker(Reader(data, "nested values"), MOST)
    try:
        found = unpacker.cells(kind, n)
    except pa.ArrowException as error:
        raise CorruptArchive(f"nested values are no {kind}: {error}") from None
    if unpacker.reader.rest():
        raise CorruptArchive("a payload of nested values has a tail")
    return found


class Unpacker:
    """A payload, and what its cells may still count. Every method raises CorruptArchive."""

    def __init__(self, reader: Reader, left: int) -> None:
        self.reader, self.left = reader, left

    def take(self, count: int) -> None:
        """Count cells, before there is room made for them."""
        self.left -= count
        if self.left < 0:
            raise CorruptArchive("a payload of nested values stands for more than is read")

    def cells(self, kind: pa.DataType, n: int, lengths: Ints | None = None) -> pa.Array:
        """(n,) of any type. lengths: of the lists they are end to end of"""
        self.take(CELL * n)
        if not n or pa.types.is_null(kind):
            return pa.nulls(n, kind)
        at = self.reader.at
        if not self.reader.varint(0):
            return self.body(kind, n, lengths)
        self.reader.at = at
        valid = numbers.unpack_flags(self.reader, n)
        some = int(valid.sum())
        return spread(self.body(kind, some, None), valid) if some else pa.nulls(n, kind)

    def body(self, kind: pa.DataType, n: int, lengths: Ints | None) -> pa.Array:
        """(n,), n > 0, none null."""
        t = pa.types
        if is_list(kind):
            return self.lists(kind, n)
        if t.is_fixed_size_list(kind):
            values = self.cells(kind.value_type, n * kind.list_size, np.full(n, kind.list_size))
            return pa.Array.from_buffers(kind, n, [None], children=[values])
        if t.is_struct(kind):
            return self.structs(kind, n, lengths)
        if t.is_boolean(kind):
            return from_raw(kind, numbers.unpack_flags(self.reader, n), None)
        if t.is_floating(kind):
            return from_raw(kind, numbers.unpack_floats(self.reader, storage_dtype(kind), n, lengths), None)
        if is_plain_text(kind):
            return self.texts(kind, n)
        if is_wide(kind):
            width = kind.bit_width // 8
            self.take(width * n)
            form = self.reader.take(1)[0]
            if form == cells.RAW:
                raw = columns.unpack_bytes(numbers.taken(self.reader), width * n)
                return pa.Array.from_buffers(kind, n, [None, pa.py_buffer(raw)])
            if form != cells.WHOLE or t.is_fixed_size_binary(kind):
                raise CorruptArchive(f"{kind} of nested values has form {form}, which this release does not know")
        values = numbers.unpack_integers(self.reader, n, lengths)
        return from_raw(kind, raw_of_integers(kind, values, clip=False, where="nested"), None)

    def texts(self, kind: pa.DataType, n: int) -> pa.Array:
        """(n,) texts."""
        form, data = self.reader.take(1)[0], numbers.taken(self.reader)
        if form == cells.FIELDS:
            found = fields.unpack(data, pa.large_binary(), n, most=self.left)
        elif form == cells.COLUMN:
            found = columns.unpack_texts(data, n, columns.Allowance(self.left, 8 * n + 64), _unnested)
        else:
            raise CorruptArchive(f"texts of nested values have form {form}, which this release does not know")
        if found.null_count:
            raise CorruptArchive("texts of nested values have nulls of their own")
        self.take(int(cells.weights_of(found).sum()) - CELL * n)
        return found.cast(kind)

    def lists(self, kind: pa.DataType, n: int) -> pa.Array:
        """(n,) lists or maps."""
        if self.reader.data[self.reader.at : self.reader.at + 1] != bytes([cells.LISTED]):
            return self.plain_lists(kind, n)
        self.reader.take(1)
        n_listed = self.reader.varint(1, n)
        inner = Unpacker(self.reader, self.left)
        distinct = inner.plain_lists(kind, n_listed)
        places = numbers.unpack_integers(self.reader, n, None)
        if not 0 <= int(places.min()) <= int(places.max()) < n_listed:
            raise CorruptArchive("a place of nested values points outside its list")
        self.take(int(cells.weights_of(distinct)[places].sum()) - CELL * n)
        return taken(distinct, places)

    def plain_lists(self, kind: pa.DataType, n: int) -> pa.Array:
        """(n,) lists or maps that are not listed."""
        form, inner = self.reader.take(1)[0], element_of(kind)
        if form == cells.BY_MEMBER and pa.types.is_struct(inner):
            by = self.reader.varint(0, inner.num_fields - 1)
            keys = self.lists(pa.large_list(inner.field(by).type), n)
            lengths, given = cells.lengths_of(keys), cells.elements_of(keys)
            self.take(CELL * len(given))
            values = self.structs(inner, len(given), lengths, by, given) if len(given) else pa.nulls(0, inner)
            return _lists_of(kind, lengths, values)
        if form != cells.END_TO_END:
            raise CorruptArchive(f"lists of nested values have form {form}, which this release does not know")
        lengths = numbers.unpack_integers(self.reader, n, None)
        if int(lengths.min()) < 0 or int(lengths.max()) > self.left or int(lengths.sum()) > self.left:
            raise CorruptArchive("lists of nested values are longer than what is read")
        return _lists_of(kind, lengths, self.cells(inner, int(lengths.sum()), lengths))

    def structs(
        self, kind: pa.DataType, n: int, lengths: Ints | None, given: int | None = None, known: pa.Array | None = None
    ) -> pa.Array:
        """(n,) structs; given, known: a member that is not stored here, and its values."""
        kinds = [item.type for item in kind]
        hows = [How() if i == given else members.from_number(self.reader.varint(0), i, kinds) for i in range(len(kinds))]
        order = members.order(hows, given)
        if len(order) + (given is not None) < len(kinds):
            raise CorruptArchive("members of nested values tell each other")
        found: Known = [known if i == given else None for i in range(len(kinds))]
        for i in order:
            found[i] = self.member(kinds[i], n, hows[i], found, lengths)
        return pa.Array.from_buffers(kind, n, [None], children=found)

    def member(self, kind: pa.DataType, n: int, how: How, found: Sequence[pa.Array | None], lengths: Ints | None) -> pa.Array:
        """(n,) of a member; found: those that are read."""
        if how.kind == PLAIN:
            return self.cells(kind, n, lengths)
        if how.kind == ABOVE:
            return members.back_above(kind, self.cells(pa.int64(), n, lengths), found[how.by])
        by = members.labels_of(found[how.by])
        if how.kind == GROUPED:
            if (n_groups := len(np.unique(by))) > members.MOST_GROUPS:  # before there is an array of each
                raise CorruptArchive(f"a member of nested values is in {n_groups} groups, at most {members.MOST_GROUPS} are read")
            rows = members.groups_of(by)
            parts = pa.concat_arrays([self.cells(kind, len(some)) for some in rows])
            place = np.empty(n, np.int64)
            place[np.concatenate(rows)] = np.arange(n)
            return taken(parts, place)
        n_missed, places = members.unpack_hits(self.reader, by)
        missed = Unpacker(self.reader, self.left).cells(kind, n_missed)
        self.take(int(cells.weights_of(missed)[places].sum()))
        return taken(missed, places)


def _unnested(data: bytes, n: int, most: int) -> pa.Array:
    return fields.unpack(data, pa.large_binary(), n, nests=False, most=most)


def _lists_of(kind: pa.DataType, lengths: Ints, values: pa.Array) -> pa.Array:
    if pa.types.is_map(kind) and (values.null_count or values.field(0).null_count):
        raise CorruptArchive("a key of nested values is null")
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    narrow = offsets if pa.types.is_large_list(kind) else offsets.astype(np.int32)
    return pa.Array.from_buffers(kind, len(lengths), [None, pa.py_buffer(narrow)], children=[values])


def spread(array: pa.Array, valid: Bools) -> pa.Array:
    """(n,) with the cells of an array where valid, null elsewhere."""
    return array.take(from_numpy(np.cumsum(valid) - 1, mask=~valid))
