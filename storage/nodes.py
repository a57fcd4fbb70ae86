"""How a column of a nested type becomes flat columns, its leaves, or many columns one, and how these become what they were (FORMAT.md,
"Leaves")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core.arrays import from_numpy, scalar, to_numpy
from vae_core.errors import CorruptArchive

VALID, OTHERS = ":valid", ":others"

Shape = tuple[int, ...]
Bools = NDArray[np.bool_]
Cells = tuple[NDArray[Any], Bools | None]


@dataclass(frozen=True, slots=True)
class Whole:
    """A column that is its own leaf."""

    item: pa.Field

    @property
    def leaves(self) -> tuple[pa.Field, ...]:
        """Fields of the flat schema."""
        return (self.item,)

    @property
    def n_leaves(self) -> int:
        """How many that are."""
        return 1

    @property
    def n_columns(self) -> int:
        """Columns of the dataset that are this: of all but strips, one."""
        return 1

    def split(self, array: pa.Array) -> list[pa.Array]:
        """(n,) of the column -> (n,) of each leaf."""
        return [array]

    def join(self, leaves: Mapping[str, pa.Array], drawn: bool = False) -> pa.Array:
        """Leaves by name -> (n,) of the column."""
        return leaves[self.item.name]


@dataclass(frozen=True, slots=True)
class Members:
    """A struct: its members in order, and before them which rows are there, unless none may be null."""

    path: str
    kind: pa.DataType
    members: tuple[Divided, ...]
    has_valid: bool

    @property
    def leaves(self) -> tuple[pa.Field, ...]:
        """Fields of the flat schema."""
        valid = (pa.field(self.path + VALID, pa.bool_(), nullable=False),) if self.has_valid else ()
        return (*valid, *(leaf for member in self.members for leaf in member.leaves))

    @property
    def n_columns(self) -> int:
        """Columns of the dataset that are this."""
        return 1

    @property
    def n_leaves(self) -> int:
        """How many that are."""
        return self.has_valid + sum(member.n_leaves for member in self.members)

    def split(self, array: pa.Array) -> list[pa.Array]:
        """(n,) of the column -> (n,) of each leaf. What is inside a null is null, whatever the memory beneath holds."""
        inner = [leaf for member, part in zip(self.members, array.flatten(), strict=True) for leaf in member.split(part)]
        return [array.is_valid(), *inner] if self.has_valid else inner

    def join(self, leaves: Mapping[str, pa.Array], drawn: bool = False) -> pa.Array:
        """Leaves by name -> (n,) of the column; rows of which a preview does not know whether they are there, are. drawn : leaves are
        drawn each by itself, so that a struct without what it must have is none."""
        parts = [member.join(leaves, drawn) for member in self.members]
        fields = list(self.kind)
        if not self.has_valid:
            return pa.StructArray.from_arrays(parts, fields=fields)
        missing = pc.invert(leaves[self.path + VALID].fill_null(scalar(True, pa.bool_())))
        for part, member in zip(parts, fields, strict=True) if drawn else ():
            missing = missing if member.nullable else pc.or_(missing, part.is_null())
        if not missing.true_count:
            return pa.StructArray.from_arrays(parts, fields=fields)
        # what must not be null is not, beneath a null either: Parquet takes it by its word
        parts = [part if member.nullable else _filled(part) for part, member in zip(parts, fields, strict=True)]
        return pa.StructArray.from_arrays(parts, fields=fields, mask=missing)


@dataclass(frozen=True, slots=True)
class Vectors:
    """Lists of one length: a vector or tensor a row, null where the list is null or has another length; beside it those that have."""

    path: str
    kind: pa.DataType
    shape: Shape

    @property
    def leaves(self) -> tuple[pa.Field, ...]:
        """Fields of the flat schema."""
        return (pa.field(self.path, self._flat_type), pa.field(self.path + OTHERS, self.kind))

    @property
    def n_columns(self) -> int:
        """Columns of the dataset that are this."""
        return 1

    @property
    def n_leaves(self) -> int:
        """How many that are."""
        return 2

    @property
    def _flat_type(self) -> pa.DataType:
        value = _innermost(self.kind, len(self.shape))
        return pa.list_(value, self.shape[0]) if len(self.shape) == 1 else pa.fixed_shape_tensor(value, self.shape)

    def split(self, array: pa.Array) -> list[pa.Array]:
        """(n,) of the column -> (n,) of each leaf."""
        n, width, flat = len(array), math.prod(self.shape), self._flat_type
        fits, values = _of_shape(array, self.shape)
        if not fits.any():
            return [pa.nulls(n, flat), array]
        vectors = pa.FixedSizeListArray.from_arrays(values, width)
        if not fits.all():  # rows as a whole: places of each number are twice the numbers
            vectors = vectors.take(from_numpy(np.maximum(np.cumsum(fits) - 1, 0), mask=~fits))
        if len(self.shape) > 1:
            vectors = pa.ExtensionArray.from_storage(flat, vectors)
        return [vectors, _beside(array, fits)]

    def join(self, leaves: Mapping[str, pa.Array], drawn: bool = False) -> pa.Array:
        """Leaves by name -> (n,) of the column. Raises CorruptArchive where a row is in both, unless leaves are drawn each by itself."""
        vectors, others = leaves[self.path], leaves[self.path + OTHERS]
        vectors = vectors.storage if isinstance(vectors, pa.ExtensionArray) else vectors
        valid, is_other = _bools(vectors.is_valid()), _bools(others.is_valid())
        if drawn and (valid & is_other).any():
            valid &= ~is_other
            vectors = vectors.filter(from_numpy(valid))
        lists = _as_lists(self.kind, vectors.flatten(), self.shape, int(valid.sum()))
        return _with_others(self.path, lists, valid, others, is_other)


@dataclass(frozen=True, slots=True)
class Elements:
    """Vectors, or lists of one length, that are better columns: each element one; which rows have them, unless all do; lists of another
    length beside them."""

    path: str
    kind: pa.DataType
    n: int
    has_valid: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Of the elements."""
        return tuple(f"{self.path}[{k}]" for k in range(self.n))

    @property
    def leaves(self) -> tuple[pa.Field, ...]:
        """Fields of the flat schema."""
        valid = (pa.field(self.path + VALID, pa.bool_(), nullable=False),) if self.has_valid else ()
        others = (pa.field(self.path + OTHERS, self.kind),) if self._is_list else ()
        return (*valid, *(pa.field(name, self._storage.value_type) for name in self.names), *others)

    @property
    def n_columns(self) -> int:
        """Columns of the dataset that are this."""
        return 1

    @property
    def n_leaves(self) -> int:
        """How many that are."""
        return self.has_valid + self.n + self._is_list

    @property
    def _storage(self) -> pa.DataType:
        return vector_type(self.kind) or self.kind

    @property
    def _is_list(self) -> bool:
        return vector_type(self.kind) is None

    def split(self, array: pa.Array) -> list[pa.Array]:
        """(n,) of the column -> (n,) of each leaf."""
        array = array.storage if isinstance(array, pa.ExtensionArray) else array
        fits, values = _of_shape(array, (self.n,)) if self._is_list else (_bools(array.is_valid()), array.flatten())
        rows = np.where(fits, np.cumsum(fits) - 1, 0) * self.n
        found = [values.take(from_numpy(rows + k, mask=None if fits.all() else ~fits)) for k in range(self.n)]
        valid = [from_numpy(fits)] if self.has_valid else []
        return [*valid, *found, *([_beside(array, fits)] if self._is_list else [])]

    def join(self, leaves: Mapping[str, pa.Array], drawn: bool = False) -> pa.Array:
        """Leaves by name -> (n,) of the column. Raises CorruptArchive where a row is in both, unless leaves are drawn each by itself."""
        parts = [leaves[name] for name in self.names]
        n_rows = len(parts[0])
        told = leaves[self.path + VALID] if self.has_valid else None
        others = leaves[self.path + OTHERS] if self._is_list else None
        is_other = np.zeros(n_rows, np.bool_) if others is None else _bools(others.is_valid())
        # of rows that a preview says nothing of, those that are not lists of another length are there
        valid = np.ones(n_rows, np.bool_)
        if told is not None:
            valid = np.where(_bools(told.is_valid()), _bools(told.fill_null(scalar(False, pa.bool_()))), ~is_other)
        valid = valid & ~is_other if drawn else valid
        for part in parts if drawn and self.has_valid and not self._storage.value_field.nullable else ():
            valid = valid & _bools(part.is_valid())
        rows = np.flatnonzero(valid) if self._is_list else np.arange(n_rows)
        values = pa.concat_arrays(parts).take(from_numpy((np.arange(self.n) * n_rows + rows[:, None]).ravel()))
        if others is not None:
            return _with_others(self.path, _as_lists(self.kind, values, (self.n,), len(rows)), valid, others, is_other)
        bits = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        vectors = pa.Array.from_buffers(self._storage, n_rows, [bits], children=[values])
        return vectors if self._storage is self.kind else pa.ExtensionArray.from_storage(self.kind, vectors)


@dataclass(frozen=True, slots=True)
class Strip:
    """Columns of one type of numbers side by side: a vector a row. Nulls are nulls of its elements.

    path : of the leaf        columns : all it holds, in order        picked : the one that a read asks for, None for all
    """

    path: str
    columns: tuple[pa.Field, ...]
    picked: int | None = None

    @property
    def leaves(self) -> tuple[pa.Field, ...]:
        """Fields of the flat schema."""
        element = pa.field("item", self.columns[0].type, any(column.nullable for column in self.columns))
        return (pa.field(self.path, pa.list_(element, len(self.columns)), nullable=False),)

    @property
    def n_leaves(self) -> int:
        """How many that are."""
        return 1

    @property
    def n_columns(self) -> int:
        """Columns of the dataset that are this."""
        return len(self.items)

    @property
    def items(self) -> tuple[pa.Field, ...]:
        """The columns it stands for."""
        return self.columns if self.picked is None else (self.columns[self.picked],)

    def pick(self, k: int) -> Strip:
        """The same for one of the columns it stands for."""
        return Strip(self.path, self.columns, k if self.picked is None else self.picked)

    def split(self, arrays: Sequence[pa.Array]) -> list[pa.Array]:
        """(n,) of each column -> (n,) of the leaf."""
        n, width, item = len(arrays[0]), len(self.columns), self.leaves[0]
        cells = np.empty((n, width), to_numpy(arrays[0]).dtype)
        mask = np.zeros((n, width), np.bool_) if any(array.null_count for array in arrays) else None
        for k, array in enumerate(arrays):
            cells[:, k] = to_numpy(array)
            if mask is not None and array.null_count:
                mask[:, k] = ~_bools(array.is_valid())
        values = from_numpy(cells.ravel(), item.type.value_type, None if mask is None else mask.ravel())
        return [pa.Array.from_buffers(item.type, n, [None], children=[values])]

    def cells(self, vectors: pa.Array) -> Cells:
        """(n,) of the leaf -> (n, columns) numbers and where there is none, or None where all are; of a leaf that a preview does not know
        there are no numbers."""
        n, width = len(vectors), len(self.columns)
        if vectors.null_count:
            return np.zeros((n, width), self.columns[0].type.to_pandas_dtype()), np.ones((n, width), np.bool_)
        values = vectors.flatten()
        return to_numpy(values).reshape(n, width), ~_bools(values.is_valid()).reshape(n, width) if values.null_count else None

    def join(self, cells: Cells) -> list[pa.Array]:
        """(n,) of each column it stands for."""
        numbers, missing = cells
        places = range(len(self.columns)) if self.picked is None else (self.picked,)
        kind = self.columns[0].type
        return [from_numpy(numbers[:, k], kind, None if missing is None else missing[:, k]) for k in places]


Divided = Whole | Members | Vectors | Elements
Node = Divided | Strip


def share_of(count: int, k: int, n: int) -> int:
    """Of a count of what n columns of a strip are together, that of the k-th: even shares, which sum to it."""
    return count * (k + 1) // n - count * k // n


def is_number(kind: pa.DataType) -> bool:
    """Integers and floating point numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def vector_type(kind: pa.DataType) -> pa.DataType | None:
    """The fixed-size list that a vector, or a tensor of one axis, is; None of all else."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return kind.storage_type if len(kind.shape) == 1 else None
    return kind if pa.types.is_fixed_size_list(kind) else None


def _filled(array: pa.Array) -> pa.Array:
    """The same values, and one of the type's, of no meaning, for nulls."""
    if not array.null_count:
        return array
    places = np.where(_bools(array.is_valid()), np.arange(len(array)), len(array))
    return pa.concat_arrays([array, _any_value(array.type)]).take(from_numpy(places))


def _any_value(kind: pa.DataType) -> pa.Array:
    """(1,) of a type, not null."""
    t = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _any_value(kind.storage_type))
    if t.is_struct(kind):
        return pa.Array.from_buffers(kind, 1, [None], children=[_any_value(member.type) for member in kind])
    if t.is_fixed_size_list(kind):
        values = _any_value(kind.value_type).take(pa.array([0] * kind.list_size, pa.int64()))
        return pa.Array.from_buffers(kind, 1, [None], children=[values])
    if t.is_nested(kind):
        return pa.array([[]], kind)
    return pa.Array.from_buffers(kind, 1, [None, *pa.nulls(1, kind).buffers()[1:]])


def _beside(array: pa.Array, fits: Bools) -> pa.Array:
    """Lists, null where they are of the one shape."""
    return pa.nulls(len(array), array.type) if fits.all() else array.take(from_numpy(np.arange(len(array)), mask=fits))


def _with_others(path: str, lists: pa.Array, valid: Bools, others: pa.Array, is_other: Bools) -> pa.Array:
    """(n,) of the lists of one shape, which are of the rows that are valid, and of those of another. Raises CorruptArchive."""
    if (valid & is_other).any():
        raise CorruptArchive(f"column {path!r} has rows that are of its length and of another")
    if valid.all():
        return lists
    places = np.where(valid, np.cumsum(valid) - 1, len(lists) + np.arange(len(valid)))
    return pa.concat_arrays([lists, others]).take(from_numpy(places, mask=~(valid | is_other)))


def _innermost(kind: pa.DataType, depth: int) -> pa.DataType:
    for _ in range(depth):
        kind = kind.value_type
    return kind


def _of_shape(array: pa.Array, shape: Shape) -> tuple[Bools, pa.Array]:
    """Which of n lists are of a shape, and the numbers of those, one after another."""
    rows = np.arange(len(array))
    held, n_lists = array, 1
    for level, width in enumerate(shape):
        lengths = numbers(pc.list_value_length(held))
        fits = (lengths == width).reshape(-1, n_lists).all(1)
        rows = rows[fits]
        if not fits.all():
            held = array.take(from_numpy(rows))
            for _ in range(level):
                held = held.flatten()
        held, n_lists = held.flatten(), n_lists * width
    fits = np.zeros(len(array), np.bool_)
    fits[rows] = True
    return fits, held


def numbers(lengths: pa.Array) -> NDArray[np.int64]:
    """Lengths of lists, −1 of nulls."""
    return to_numpy(lengths.fill_null(scalar(-1, lengths.type))).astype(np.int64)


def _bools(array: pa.Array) -> Bools:
    found: Bools = to_numpy(array)
    return found


def _as_lists(kind: pa.DataType, values: pa.Array, shape: Shape, n: int) -> pa.Array:
    """n lists of a shape, none null, of the exact type."""
    kinds = [_innermost(kind, level) for level in range(len(shape))]
    for level in reversed(range(len(shape))):
        count = n * math.prod(shape[:level])
        width = np.int64 if pa.types.is_large_list(kinds[level]) else np.int32
        if count * shape[level] > np.iinfo(width).max:
            raise CorruptArchive(f"{count} lists of {shape[level]} values are more than {kinds[level]} holds")
        offsets = pa.py_buffer((np.arange(count + 1) * shape[level]).astype(width))
        values = pa.Array.from_buffers(kinds[level], count, [None, offsets], children=[values])
    return values
