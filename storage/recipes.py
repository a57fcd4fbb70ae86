"""Which nested columns are divided into leaves, and which columns are one: found by a look at the first rows, and said in the stored
schema."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.nodes import Divided, Elements, Members, Node, Shape, Strip, Vectors, Whole, is_number, numbers, vector_type
from vae_core.arrays import from_numpy
from vae_core.columns.joining import has_dictionary
from vae_core.strips import pays, pays_apart

MOST_DEPTH = 4  # of lists in lists
NEARLY_ALL = 0.9  # of the first rows that are of one length
FEW_ELEMENTS, MOST_ELEMENTS = 32, 2_048  # of vectors that become columns: always, and where they are of kinds of their own
MOST_GOING_ON = 256  # the same where rows go on from one to the next
MOST_LEAVES = 4_096  # of a column, and elements of all
LEAST_STRIP, MOST_STRIP = 32, 1 << 16  # columns of one type side by side that may be one
MOST_OTHERS = 0.125  # columns of others a column of a strip
STRIP_CELLS = 1 << 19  # that are looked at
_NUMBERS = re.compile(r"\d+")
GOES_ON, LEAST_ROWS = 0.5, 64  # of the distance from the middle, that a row is from the one before; and rows that say so


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which columns are divided. structs : paths of those that are their members; shapes : path of a list -> its one length, and of
    the lists in it; elements : paths of the vectors among them, and of fixed-size lists, that are their elements; strips : the name of
    the first of some columns side by side -> how many they are that are one vector a row."""

    structs: frozenset[str] = frozenset()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    elements: frozenset[str] = frozenset()
    strips: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        shapes = {path: list(shape) for path, shape in self.shapes.items()}
        strips = {"strips": dict(self.strips)} if self.strips else {}
        return {"structs": sorted(self.structs), "shapes": shapes, "elements": sorted(self.elements), **strips}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_json`."""
        shapes = {str(path): tuple(int(n) for n in shape) for path, shape in data["shapes"].items()}
        structs, elements = (frozenset(str(path) for path in data[key]) for key in ("structs", "elements"))
        strips = {str(name): n for name, n in data.get("strips", {}).items()}
        if not all(isinstance(n, int) for n in strips.values()):
            raise TypeError("a strip is of so many columns")
        return cls(structs, shapes, elements, strips)


WHOLE = Recipe()


def find_recipe(outer: pa.Schema, peek: Callable[[], pa.RecordBatch | None], bounded: Collection[str] = ()) -> Recipe:
    """How a table is best divided.

    peek    : its first rows, asked for where there are lists of numbers, vectors of many, or many columns of one type of numbers
    bounded : columns that have a tolerance, "*" for all floats: each its own, so that they are in no strip; and what vectors take without
              it says nothing of whether they are better columns
    """
    likely, places = list(_alike(outer, bounded)), _Places.of(outer)
    is_asked = places.lists or likely or any(n > FEW_ELEMENTS for n in places.vectors.values())
    batch = peek() if is_asked else None
    shapes, apart = dict[str, Shape](), dict[str, pa.Array]()
    elements = {path: n for path, n in places.vectors.items() if n <= FEW_ELEMENTS}
    for leaf, array, shape in _shaped(outer, batch, places) if batch is not None else ():
        n = shape[0] if len(shape) == 1 else 0
        if leaf.name in places.lists:
            shapes[leaf.name] = shape
        if 0 < n <= FEW_ELEMENTS or (0 < n <= MOST_GOING_ON and _goes_on(array, n)):
            elements[leaf.name] = n
        elif 0 < n <= MOST_ELEMENTS and not _is_bounded(leaf.name, leaf.type, bounded):
            apart[leaf.name] = _vectors(array, n)
    elements |= {path: array.type.list_size for path, array in apart.items() if pays_apart(array, 1 / len(apart))}
    strips = {} if batch is None else {outer.field(start).name: n for start, n in likely if _is_strip(batch, start, n)}
    return _without_clashes(outer, Recipe(places.structs, shapes, _fitting(elements), strips))


@dataclass(frozen=True, slots=True)
class _Places:
    """What of a schema may be divided, by paths that are there once: structs, lists of numbers, and vectors, of how many elements."""

    structs: frozenset[str]
    lists: frozenset[str]
    vectors: Mapping[str, int]

    @classmethod
    def of(cls, outer: pa.Schema) -> _Places:
        """Those of a table."""
        found = [place for item in outer for place in _places(item.type, item.name)]
        n_of = Counter(path for path, _ in found)
        once = [(path, kind) for path, kind in found if n_of[path] == 1]
        return cls(
            frozenset(path for path, kind in once if _is_divisible(kind)),
            frozenset(path for path, kind in once if 0 < _depth(kind) <= MOST_DEPTH),
            {path: n for path, kind in once if 0 < (n := _elements(kind)) <= MOST_ELEMENTS},
        )


def _shaped(outer: pa.Schema, batch: pa.RecordBatch, places: _Places) -> Iterator[tuple[pa.Field, pa.Array, Shape]]:
    """The lists that nearly all have one shape, and the vectors, of a table divided by its structs alone, and that shape."""
    for item, column in zip(outer, batch.columns, strict=True):
        node = divided(item, item.name, Recipe(places.structs), False)
        for leaf, array in zip(node.leaves, node.split(column), strict=True):
            shape = _shape(array) if leaf.name in places.lists else (places.vectors.get(leaf.name, 0),)
            if shape and shape[0]:
                yield leaf, array, shape


def _fitting(elements: Mapping[str, int]) -> frozenset[str]:
    """The vectors, of so many elements each, that together are not too many columns: the short ones first."""
    left, found = MOST_LEAVES, set[str]()
    for n, path in sorted((n, path) for path, n in elements.items()):
        left -= n
        if left >= 0:
            found.add(path)
    return frozenset(found)


def _alike(outer: pa.Schema, bounded: Collection[str]) -> Iterator[tuple[int, int]]:
    """First column and number of those side by side that are many, of one type of numbers and one name but for its numbers (`pixel1` …,
    `1x1` …), and that nothing bounds: where they are nearly the whole table. What other columns tell would be lost to them."""
    for start, n in _runs([_kind_alone(outer, j, bounded) for j in range(len(outer))]):
        path = strip_of([outer.field(start), outer.field(start + n - 1)]).path
        if LEAST_STRIP <= n <= MOST_STRIP and len(outer) - n <= MOST_OTHERS * n and path not in bounded:
            yield start, n


def _runs(keys: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """First place and length of stretches of one key, but for None."""
    at = 0
    for key, some in itertools.groupby(keys):
        n = len(list(some))
        if key is not None:
            yield at, n
        at += n


def _kind_alone(outer: pa.Schema, j: int, bounded: Collection[str]) -> tuple[pa.DataType, str] | None:
    """The type of numbers of a column without a tolerance, and its name without numbers; None of all else."""
    item = outer.field(j)
    asked = item.name in bounded or ("*" in bounded and pa.types.is_floating(item.type))
    return (item.type, _NUMBERS.sub("#", item.name)) if is_number(item.type) and not asked else None


def _is_strip(batch: pa.RecordBatch, start: int, n: int) -> bool:
    """Whether columns are better stored as one, by the first rows of a table, of which the middle of many columns is looked at."""
    n_rows = min(batch.num_rows, STRIP_CELLS // LEAST_STRIP)
    width = min(n, max(LEAST_STRIP, STRIP_CELLS // max(1, n_rows)))
    first = start + (n - width) // 2
    columns = batch.slice(0, n_rows).columns[first : first + width]
    return pays(columns, strip_of([batch.schema.field(first + k) for k in range(width)]).split(columns)[0])


def strip_of(columns: Sequence[pa.Field]) -> Strip:
    """The strip of some columns."""
    return Strip(f"{columns[0].name}:{columns[-1].name}", tuple(columns))


def nodes_of(outer: pa.Schema, recipe: Recipe) -> Iterator[Node]:
    """What the columns of a schema are by a recipe, in order; a strip is one of some of them."""
    alike = {k: start + n for start, n in _runs(outer.types) for k in range(start, start + n)} if recipe.strips else {}
    at = 0
    while at < len(outer):
        item, n = outer.field(at), recipe.strips.get(outer.field(at).name, 0)
        if 1 < n <= MOST_STRIP and is_number(item.type) and at + n <= alike[at]:
            yield strip_of([outer.field(k) for k in range(at, at + n)])
            at += n
        else:
            yield divided(item, item.name, recipe, False)
            at += 1


def _without_clashes(outer: pa.Schema, recipe: Recipe) -> Recipe:
    """The recipe without the columns whose leaves would be named as another one is, or that would be too many leaves."""
    taken = {path for item in outer for path, _ in _places(item.type, item.name)}
    taken |= {leaf.name for item in outer for leaf in divided(item, item.name, recipe, False).leaves}
    found = [node for node in nodes_of(outer, recipe) if isinstance(node, Strip) and node.path not in taken]
    strips = {strip.columns[0].name: strip.n_columns for strip in found}
    recipe = replace(recipe, strips=strips)
    left = {item.name for item in outer}
    while True:
        nodes = {item.name: divided(item, item.name, recipe, False) for item in outer if item.name in left}
        names = Counter(leaf.name for item in outer for leaf in (nodes[item.name].leaves if item.name in left else (item,)))
        many = {name for name, node in nodes.items() if node.n_leaves > MOST_LEAVES}
        inside = {name: node.leaves for name, node in nodes.items() if not isinstance(node, Whole)}
        clashing = many | {name for name, leaves in inside.items() if any(names[leaf.name] > 1 for leaf in leaves)}
        if not clashing:
            break
        left -= clashing
    gone = {path for item in outer if item.name not in left for path, _ in _places(item.type, item.name)}
    shapes = {path: shape for path, shape in recipe.shapes.items() if path not in gone}
    return Recipe(recipe.structs - gone, shapes, recipe.elements - gone, strips)


def _places(kind: pa.DataType, path: str) -> list[tuple[str, pa.DataType]]:
    """Path and type of a column, and of all that is in its structs."""
    found = [(path, kind)]
    if _is_divisible(kind):
        found += [place for member in kind for place in _places(member.type, f"{path}.{member.name}")]
    return found


def divided(item: pa.Field, path: str, recipe: Recipe, above: bool) -> Divided:
    """What the column at a path is by a recipe; whole where that does not fit it. above : whether a struct around may be null."""
    nullable = item.nullable or above
    if path in recipe.structs and _is_divisible(item.type):
        members = tuple(divided(member, f"{path}.{member.name}", recipe, nullable) for member in item.type)
        return Members(path, item.type, members, nullable)
    shape = recipe.shapes.get(path)
    n = shape[0] if shape and len(shape) == 1 == _depth(item.type) else _elements(item.type)
    if path in recipe.elements and 0 < n <= MOST_ELEMENTS:
        return Elements(path, item.type, n, nullable or _depth(item.type) > 0)
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
    return depth if is_number(kind) else 0


def _elements(kind: pa.DataType) -> int:
    """How many numbers a vector has; 0 for all else."""
    vector = vector_type(kind)
    return vector.list_size if vector is not None and is_number(vector.value_type) else 0


def _shape(array: pa.Array) -> Shape:
    """The shape that nearly all lists in lists have, where there is one and it is not of single numbers; else ()."""
    shape: list[int] = []
    array = array.drop_null()
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = numbers(pc.list_value_length(array))
        length = int(np.bincount(lengths + 1).argmax()) - 1 if len(lengths) else 0
        fits = lengths == length
        if length < 1 or fits.mean() < NEARLY_ALL:
            return ()
        shape.append(length)
        array = array.filter(from_numpy(fits)).flatten()
    return tuple(shape) if math.prod(shape) > 1 else ()


def _is_bounded(path: str, kind: pa.DataType, bounded: Collection[str]) -> bool:
    """Whether a tolerance is for the numbers at a path: its own, that of a struct around, or that of all floats."""
    while pa.types.is_nested(kind) or isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.value_type
    asked = any(path == name or path.startswith(f"{name}.") for name in bounded)
    return asked or ("*" in bounded and bool(pa.types.is_floating(kind)))


def _vectors(array: pa.Array, n: int) -> pa.Array:
    """Those of vectors, or of lists nearly all of which have n elements, that are there and have these, as fixed-size lists."""
    valid = (array.storage if isinstance(array, pa.ExtensionArray) else array).drop_null()
    if not _depth(array.type):
        return valid
    return pa.FixedSizeListArray.from_arrays(valid.filter(from_numpy(numbers(pc.list_value_length(valid)) == n)).flatten(), n)


def _goes_on(array: pa.Array, n: int) -> bool:
    """Whether most elements of vectors, or lists of one length, are nearer to the row before than to their middle."""
    valid = _vectors(array, n)
    rows = np.asarray(valid.flatten().cast(pa.float64(), safe=False).fill_null(0.0)).reshape(-1, n)
    rows = np.where(np.isfinite(rows), rows, 0.0)
    if len(rows) < LEAST_ROWS:
        return False
    steps, off = np.abs(np.diff(rows, axis=0)).mean(axis=0), np.abs(rows - np.median(rows, axis=0)).mean(axis=0)
    varies = off > 0
    return bool(varies.any() and (steps[varies] < GOES_ON * off[varies]).mean() > 0.5)
