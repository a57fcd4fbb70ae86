"""Columns of nested types as the flat ones an archive stores, their leaves, and back (FORMAT.md, "Leaves").

A struct is its members, each a column `struct.member`, and which of its rows are there. A list whose rows have one length is a vector
(a tensor where lists hold lists), and the rows that have another, as they are, in a column beside it. Vectors of few elements, or of
elements of kinds of their own, are a column for each. So what is inside is learned, bounded and told by the other columns, and by rows
before, as if the table had been flat.
Other nested types (maps, lists of any length, what holds a dictionary) are leaves themselves.

The other way round, many columns of one type side by side (a pixel each, a reading each of a curve) are one vector a row where that takes
less: a strip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from storage.nodes import Cells, Elements, Members, Node, Strip, Vectors, Whole
from storage.recipes import WHOLE, Recipe, find_recipe, nodes_of
from vae_core.columns.joining import one_array
from vae_core.errors import CorruptArchive
from vae_core.schemas import schema_from_message, schema_to_message
from vae_core.tolerance import value_type_of

__all__ = ["KEY", "WHOLE", "Leaves", "Recipe", "find_recipe"]

KEY = b"latentpack.leaves"  # in the metadata of a schema of leaves


def _are_themselves(outer: pa.Schema, nodes: Sequence[Node]) -> bool:
    """Whether the leaves of a table are its columns, so that nothing has to be said of them."""
    return all(isinstance(node, Whole) for node in nodes) and KEY not in (outer.metadata or {})


@dataclass(frozen=True)
class Leaves:
    """The leaves of a table.

    outer  : the table's exact schema, metadata included       nodes : how its fields are divided, a strip for some of them
    schema : of the leaves, which is stored: it holds `outer` in its metadata unless it is the same
    """

    outer: pa.Schema
    nodes: tuple[Node, ...]
    schema: pa.Schema

    @classmethod
    def of(cls, outer: pa.Schema, recipe: Recipe) -> Leaves:
        """The leaves by a recipe, what it does not fit being left whole."""
        nodes = tuple(nodes_of(outer, recipe))
        if _are_themselves(outer, nodes):
            return cls(outer, nodes, outer)
        about = json.dumps(recipe.to_json(), separators=(",", ":")).encode()
        metadata = {KEY: about + b"\n" + schema_to_message(outer)}
        return cls(outer, nodes, pa.schema([leaf for node in nodes for leaf in node.leaves], metadata=metadata))

    @classmethod
    def read(cls, stored: pa.Schema) -> Leaves:
        """The leaves whose schema an archive states. Raises CorruptArchive."""
        told = (stored.metadata or {}).get(KEY)
        if told is None:
            return cls(stored, tuple(map(Whole, stored)), stored)
        try:
            about, _, outer = told.partition(b"\n")
            schema, recipe = schema_from_message(outer), Recipe.from_json(json.loads(about))
            nodes = tuple(nodes_of(schema, recipe))
            if sum(node.n_leaves for node in nodes) != len(stored):
                raise ValueError(f"they are not {len(stored)}")
            if len(set(schema.names)) < len(schema):
                raise ValueError("two have one name")
            found = schema if _are_themselves(schema, nodes) else pa.schema([leaf for node in nodes for leaf in node.leaves])
        except (pa.ArrowException, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, OSError) as error:
            raise CorruptArchive(f"the schema's nested columns cannot be read: {str(error)[:120]}") from error
        if not found.equals(stored, check_metadata=False) or len(set(stored.names)) < len(stored):
            raise CorruptArchive("the schema's nested columns are not those it has the leaves of")
        return cls(schema, nodes, schema if found is schema else stored)

    @property
    def recipe(self) -> Recipe:
        """What they were divided by."""
        told = (self.schema.metadata or {}).get(KEY)
        return WHOLE if told is None or self.is_flat else Recipe.from_json(json.loads(told.partition(b"\n")[0]))

    @property
    def is_flat(self) -> bool:
        """Whether every column is its own leaf, under the same schema."""
        return self.schema is self.outer

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """What is no leaf by its own name -> the leaves that a tolerance of it is for: elements of a vector, floats of a struct, the strip
        that a column is in."""
        return dict(_groups(self.nodes))

    @property
    def shown(self) -> list[tuple[str, pa.DataType, tuple[str, ...]]]:
        """Name, type and leaves of what is one to people: members of structs, vectors with all that is theirs."""
        return list(_shown(self.nodes))

    def together(self, leaf: str) -> tuple[str, ...]:
        """The leaves of one type whose range is one: elements of a vector, else the leaf alone."""
        return self._vectors.get(leaf, (leaf,))

    @property
    def names(self) -> tuple[str, ...]:
        """What a read may ask for: columns, what is in structs by its path, leaves."""
        return tuple(dict.fromkeys([*self.outer.names, *self._inner, *self.schema.names]))

    @cached_property
    def of_columns(self) -> tuple[tuple[Node, int], ...]:
        """Of each column of the table what it is, and which of the columns of that."""
        return tuple((node, k) for node in self.nodes for k in range(node.n_columns))

    @cached_property
    def _inner(self) -> dict[str, Members | Vectors | Elements]:
        return dict(_inner(self.nodes))

    @cached_property
    def _vectors(self) -> dict[str, tuple[str, ...]]:
        return {name: vector.names for vector in _vectors(self.nodes) for name in vector.names}

    def project(self, names: Sequence[str]) -> Leaves:
        """The named columns, or leaves as columns of their own, in the order named. Raises KeyError."""
        nodes: list[Node] = []
        fields: list[pa.Field] = []
        for name in names:
            position = self.outer.get_field_index(name)
            inner = self._inner.get(name)
            if position >= 0:
                node, k = self.of_columns[position]
                nodes.append(node.pick(k) if isinstance(node, Strip) else node)
                fields.append(self.outer.field(position))
            elif inner is not None:
                nodes.append(inner)
                fields.append(pa.field(name, inner.kind))
            else:
                fields.append(self.schema.field(name))
                nodes.append(Whole(fields[-1]))
        outer = pa.schema(fields, metadata=self.outer.metadata)
        if all(isinstance(node, Whole) for node in nodes):
            return Leaves(outer, tuple(nodes), outer)
        leaves = dict[str, pa.Field]()
        for node in nodes:
            if not (isinstance(node, Strip) and node.path in leaves):  # one for all of its columns
                leaves |= {leaf.name: leaf for leaf in node.leaves}
        return Leaves(outer, tuple(nodes), pa.schema(list(leaves.values())))

    def split(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """(n, columns) under `outer` -> (n, leaves) under `schema`."""
        if self.is_flat:
            return batch
        arrays, columns = list[pa.Array](), iter(batch.columns)
        for node in self.nodes:
            arrays += node.split([next(columns) for _ in node.items] if isinstance(node, Strip) else next(columns))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def join(self, table: pa.Table, *, drawn: bool = False) -> pa.Table:
        """(n, leaves) under `schema` -> (n, columns) under `outer`. drawn : leaves are drawn each by itself and need not agree.

        Raises CorruptArchive.
        """
        if self.is_flat:
            return table
        columns: list[pa.Array | pa.ChunkedArray] = []
        strips = dict[str, Cells]()
        for node in self.nodes:
            if isinstance(node, Whole):
                columns.append(table.column(node.item.name))
            elif isinstance(node, Strip):
                if node.path not in strips:  # which a read by names has a node for each column of
                    strips[node.path] = node.cells(one_array(table.column(node.path)))
                columns += node.join(strips[node.path])
            else:
                columns.append(node.join({leaf.name: one_array(table.column(leaf.name)) for leaf in node.leaves}, drawn))
        return pa.Table.from_arrays(columns, schema=self.outer)


def _groups(nodes: Sequence[Node]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for node in nodes:
        if isinstance(node, Elements):
            yield node.path, node.names
        elif isinstance(node, Members):
            yield node.path, tuple(leaf.name for leaf in node.leaves if pa.types.is_floating(value_type_of(leaf.type)))
            yield from _groups(node.members)
        elif isinstance(node, Strip):
            yield from ((item.name, (node.path,)) for item in node.items)


def _vectors(nodes: Sequence[Node]) -> Iterator[Elements]:
    for node in nodes:
        if isinstance(node, Elements):
            yield node
        elif isinstance(node, Members):
            yield from _vectors(node.members)


def _inner(nodes: Sequence[Node]) -> Iterator[tuple[str, Members | Vectors | Elements]]:
    """Path and node of what is divided inside structs."""
    for node in nodes:
        for member in node.members if isinstance(node, Members) else ():
            if not isinstance(member, Whole):
                yield member.path, member
                yield from _inner([member])


def _shown(nodes: Sequence[Node]) -> Iterator[tuple[str, pa.DataType, tuple[str, ...]]]:
    for node in nodes:
        names = tuple(leaf.name for leaf in node.leaves)
        if isinstance(node, Whole):
            yield node.item.name, node.item.type, names
        elif isinstance(node, Strip):
            yield node.path, node.leaves[0].type, names
        elif not isinstance(node, Members):
            yield node.path, node.kind, names
        else:
            if node.has_valid:
                yield node.path, pa.bool_(), names[:1]
            yield from _shown(node.members)
