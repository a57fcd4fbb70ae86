"""Columns of nested types as the flat ones an archive stores, their leaves, and back (FORMAT.md, "Leaves").

A struct is its members, each a column `struct.member`, and which of its rows are there. A list whose rows have one length is a vector
(a tensor where lists hold lists), and the rows that have another, as they are, in a column beside it. So what is inside is learned,
bounded and told by the other columns as if the table had been flat. Other nested types (maps, lists of any length, what holds a
dictionary) are leaves themselves.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core.columns.joining import has_dictionary, one_array
from vae_core.errors import CorruptArchive

KEY = b"latentpack.leaves"  # in the metadata of a schema of leaves
VALID, OTHERS = ":valid", ":others"
MOST_DEPTH = 4  # of lists in lists
NEARLY_ALL = 0.9  # of the first rows that are of one length

Shape = tuple[int, ...]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which columns are divided. structs : paths of those that are their members; shapes : path of a list -> its one length, and of
    the lists in it."""

    structs: frozenset[str] = frozenset()
    shapes: Mapping[str, Shape] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {"structs": sorted(self.structs), "shapes": {path: list(shape) for path, shape in self.shapes.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_json`."""
        shapes = {str(path): tuple(int(n) for n in shape) for path, shape in data["shapes"].items()}
        return cls(frozenset(str(path) for path in data["structs"]), shapes)


WHOLE = Recipe()


@dataclass(frozen=True, slots=True)
class Whole:
    """A column that is its own leaf."""

    item: pa.Field

    @property
    def leaves(self) -> tuple[pa.Field, ...]:
        """Fields of the flat schema."""
        return (self.item,)

    def split(self, array: pa.Array) -> list[pa.Array]:
        """(n,) of the column -> (n,) of each leaf."""
        return [array]

    def join(self, leaves: Mapping[str, pa.Array]) -> pa.Array:
        """Leaves by name -> (n,) of the column."""
        return leaves[self.item.name]


@dataclass(frozen=True, slots=True)
class Members:
    """A struct: its members in order, and before them which rows are there, unless none may be null."""

    path: str
    kind: pa.DataType
    members: tuple[Node, ...]
    has_valid: bool

    @property
    def leaves(self) -> tuple[pa.Field, ...]:
        """Fields of the flat schema."""
        valid = (pa.field(self.path + VALID, pa.bool_(), nullable=False),) if self.has_valid else ()
        return (*valid, *(leaf for member in self.members for leaf in member.leaves))

    def split(self, array: pa.Array) -> list[pa.Array]:
        """(n,) of the column -> (n,) of each leaf. What is inside a null is null, whatever the memory beneath holds."""
        inner = [leaf for member, part in zip(self.members, array.flatten(), strict=True) for leaf in member.split(part)]
        return [array.is_valid(), *inner] if self.has_valid else inner

    def join(self, leaves: Mapping[str, pa.Array]) -> pa.Array:
        """Leaves by name -> (n,) of the column; rows of which a preview does not know whether they are there, are."""
        parts = [member.join(leaves) for member in self.members]
        valid = leaves[self.path + VALID] if self.has_valid else None
        missing = None if valid is None else pc.invert(valid.fill_null(True))
        if missing is not None and not missing.true_count:
            missing = None
        return pa.StructArray.from_arrays(parts, fields=list(self.kind), mask=missing)


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
    def _flat_type(self) -> pa.DataType:
        value = _innermost(self.kind, len(self.shape))
        return pa.list_(value, self.shape[0]) if len(self.shape) == 1 else pa.fixed_shape_tensor(value, self.shape)

    def split(self, array: pa.Array) -> list[pa.Array]:
        """(n,) of the column -> (n,) of each leaf."""
        n, width, flat = len(array), math.prod(self.shape), self._flat_type
        fits, values = _of_shape(array, self.shape)
        if not fits.any():
            return [pa.nulls(n, flat), array]
        if not fits.all():
            places = np.where(fits, np.cumsum(fits) - 1, 0)[:, None] * width + np.arange(width)
            values = values.take(pa.array(places.ravel()))
        vectors = pa.FixedSizeListArray.from_arrays(values, width, mask=None if fits.all() else pa.array(~fits))
        if len(self.shape) > 1:
            vectors = pa.ExtensionArray.from_storage(flat, vectors)
        others = pa.nulls(n, self.kind) if fits.all() else array.take(pa.array(np.arange(n), mask=fits))
        return [vectors, others]

    def join(self, leaves: Mapping[str, pa.Array]) -> pa.Array:
        """Leaves by name -> (n,) of the column. Raises CorruptArchive where a row is in both."""
        vectors, others = leaves[self.path], leaves[self.path + OTHERS]
        vectors = vectors.storage if isinstance(vectors, pa.ExtensionArray) else vectors
        valid, is_other = _bools(vectors.is_valid()), _bools(others.is_valid())
        if (valid & is_other).any():
            raise CorruptArchive(f"column {self.path!r} has rows that are of its length and of another")
        lists = _as_lists(self.kind, vectors.flatten(), self.shape, int(valid.sum()))
        if valid.all():
            return lists
        places = np.where(valid, np.cumsum(valid) - 1, len(lists) + np.arange(len(valid)))
        return pa.concat_arrays([lists, others]).take(pa.array(places, mask=~(valid | is_other)))


Node = Whole | Members | Vectors


@dataclass(frozen=True, slots=True)
class Leaves:
    """The leaves of a table.

    outer  : the table's exact schema, metadata included       nodes : how each of its fields is divided
    schema : of the leaves, which is stored: it holds `outer` in its metadata unless it is the same
    """

    outer: pa.Schema
    nodes: tuple[Node, ...]
    schema: pa.Schema

    @classmethod
    def of(cls, outer: pa.Schema, recipe: Recipe) -> Leaves:
        """The leaves by a recipe, what it does not fit being left whole, as are columns whose leaves would be named as another one."""
        nodes = tuple(_node(item, item.name, recipe, False) for item in outer)
        while repeated := {name for name, n in Counter(leaf.name for node in nodes for leaf in node.leaves).items() if n > 1}:
            named = [not isinstance(node, Whole) and not repeated.isdisjoint(leaf.name for leaf in node.leaves) for node in nodes]
            if not any(named):
                break  # columns of one name are refused elsewhere
            nodes = tuple(Whole(item) if is_named else node for item, node, is_named in zip(outer, nodes, named, strict=True))
        if all(isinstance(node, Whole) for node in nodes) and KEY not in (outer.metadata or {}):
            return cls(outer, nodes, outer)
        about = json.dumps(recipe.to_json(), separators=(",", ":")).encode()
        metadata = {KEY: about + b"\n" + outer.serialize().to_pybytes()}
        return cls(outer, nodes, pa.schema([leaf for node in nodes for leaf in node.leaves], metadata=metadata))

    @classmethod
    def read(cls, stored: pa.Schema) -> Leaves:
        """The leaves whose schema an archive states. Raises CorruptArchive."""
        told = (stored.metadata or {}).get(KEY)
        if told is None:
            return cls(stored, tuple(map(Whole, stored)), stored)
        try:
            about, _, outer = told.partition(b"\n")
            found = cls.of(pa.ipc.read_schema(pa.BufferReader(outer)), Recipe.from_json(json.loads(about)))
        except (pa.ArrowException, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, OSError) as error:
            raise CorruptArchive(f"the schema's nested columns cannot be read: {str(error)[:120]}") from error
        if not found.schema.equals(stored, check_metadata=False):
            raise CorruptArchive("the schema's nested columns are not those it has the leaves of")
        return found

    @property
    def recipe(self) -> Recipe:
        """What they were divided by."""
        told = (self.schema.metadata or {}).get(KEY)
        return WHOLE if told is None or self.is_flat else Recipe.from_json(json.loads(told.partition(b"\n")[0]))

    @property
    def is_flat(self) -> bool:
        """Whether every column is its own leaf, under the same schema."""
        return self.schema is self.outer

    def of_column(self, name: str) -> tuple[str, ...]:
        """Names of the leaves of a column; of a leaf, its own. Raises KeyError."""
        position = self.outer.get_field_index(name)
        if position >= 0:
            return tuple(leaf.name for leaf in self.nodes[position].leaves)
        if self.schema.get_field_index(name) < 0:
            raise KeyError(name)
        return (name,)

    def project(self, names: Sequence[str]) -> Leaves:
        """The named columns, or leaves as columns of their own, in the order named. Raises KeyError."""
        nodes: list[Node] = []
        fields: list[pa.Field] = []
        for name in names:
            position = self.outer.get_field_index(name)
            fields.append(self.outer.field(position) if position >= 0 else self.schema.field(name))
            nodes.append(self.nodes[position] if position >= 0 else Whole(fields[-1]))
        outer = pa.schema(fields, metadata=self.outer.metadata)
        if all(isinstance(node, Whole) for node in nodes):
            return Leaves(outer, tuple(nodes), outer)
        leaves = {leaf.name: leaf for node in nodes for leaf in node.leaves}
        return Leaves(outer, tuple(nodes), pa.schema(list(leaves.values())))

    def split(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """(n, columns) under `outer` -> (n, leaves) under `schema`."""
        if self.is_flat:
            return batch
        arrays = [leaf for node, column in zip(self.nodes, batch.columns, strict=True) for leaf in node.split(column)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def join(self, table: pa.Table) -> pa.Table:
        """(n, leaves) under `schema` -> (n, columns) under `outer`. Raises CorruptArchive."""
        if self.is_flat:
            return table
        columns: list[pa.Array | pa.ChunkedArray] = []
        for node in self.nodes:
            if isinstance(node, Whole):
                columns.append(table.column(node.item.name))
            else:
                columns.append(node.join({leaf.name: one_array(table.column(leaf.name)) for leaf in node.leaves}))
        return pa.Table.from_arrays(columns, schema=self.outer)


def find_recipe(outer: pa.Schema, peek: Callable[[], pa.RecordBatch | None]) -> Recipe:
    """How a table is best divided. peek : its first rows, asked for where there are lists of numbers."""
    found = [place for item in outer for place in _places(item.type, item.name)]
    once = {path for path, n in Counter(path for path, _ in found).items() if n == 1}
    structs = frozenset(path for path, kind in found if path in once and _is_divisible(kind))
    lists = {path for path, kind in found if path in once and 0 < _depth(kind) <= MOST_DEPTH}
    batch = peek() if lists else None
    if batch is None:
        return Recipe(structs)
    leaves = Leaves.of(outer, Recipe(structs))
    shapes = {name: _shape(array) for name, array in zip(leaves.schema.names, leaves.split(batch).columns, strict=True) if name in lists}
    return Recipe(structs, {path: shape for path, shape in shapes.items() if shape})


def _places(kind: pa.DataType, path: str) -> list[tuple[str, pa.DataType]]:
    """Path and type of a column, and of all that is in its structs."""
    found = [(path, kind)]
    if _is_divisible(kind):
        found += [place for member in kind for place in _places(member.type, f"{path}.{member.name}")]
    return found


def _node(item: pa.Field, path: str, recipe: Recipe, above: bool) -> Node:
    """above : whether a struct around may be null."""
    nullable = item.nullable or above
    if path in recipe.structs and _is_divisible(item.type):
        members = tuple(_node(member, f"{path}.{member.name}", recipe, nullable) for member in item.type)
        return Members(path, item.type, members, nullable)
    shape = recipe.shapes.get(path)
    if shape and len(shape) == _depth(item.type) and min(shape) > 0:
        return Vectors(path, item.type, tuple(shape))
    is_top = path == item.name and not above
    return Whole(item if is_top else pa.field(path, item.type, nullable, item.metadata))


def _is_divisible(kind: pa.DataType) -> bool:
    """Structs of members with names that differ, without a dictionary inside: its chunks have values of their own."""
    if not pa.types.is_struct(kind) or not kind.num_fields or has_dictionary(kind):
        return False
    names = [member.name for member in kind]
    return len(set(names)) == len(names)


def _depth(kind: pa.DataType) -> int:
    """How many lists of any length numbers are in; 0 for all else."""
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth if pa.types.is_integer(kind) or pa.types.is_floating(kind) else 0


def _innermost(kind: pa.DataType, depth: int) -> pa.DataType:
    for _ in range(depth):
        kind = kind.value_type
    return kind


def _shape(array: pa.Array) -> Shape:
    """The shape that nearly all lists in lists have, where there is one and it is not of single numbers; else ()."""
    shape: list[int] = []
    array = array.drop_null()
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = _numbers(pc.list_value_length(array))
        length = int(np.bincount(lengths + 1).argmax()) - 1 if len(lengths) else 0
        fits = lengths == length
        if length < 1 or fits.mean() < NEARLY_ALL:
            return ()
        shape.append(length)
        array = array.filter(pa.array(fits)).flatten()
    return tuple(shape) if math.prod(shape) > 1 else ()


def _of_shape(array: pa.Array, shape: Shape) -> tuple[Bools, pa.Array]:
    """Which of n lists are of a shape, and the numbers of those, one after another."""
    rows = np.arange(len(array))
    held, n_lists = array, 1
    for level, width in enumerate(shape):
        lengths = _numbers(pc.list_value_length(held))
        fits = (lengths == width).reshape(-1, n_lists).all(1)
        rows = rows[fits]
        if not fits.all():
            held = array.take(pa.array(rows))
            for _ in range(level):
                held = held.flatten()
        held, n_lists = held.flatten(), n_lists * width
    fits = np.zeros(len(array), np.bool_)
    fits[rows] = True
    return fits, held


def _numbers(lengths: pa.Array) -> NDArray[np.int64]:
    """Lengths of lists, −1 of nulls."""
    return np.asarray(lengths.fill_null(-1)).astype(np.int64)


def _bools(array: pa.Array) -> Bools:
    return np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)


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
