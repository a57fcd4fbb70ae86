"""What a cell may be conditioned on, each as a small integer per row computed from data decoded before it.

    value  i      the code of earlier column i, exact                    bins  i   the same, by quantile bins
    state  i      null / NaN / … state of column i                       before i  column i one row earlier, bins
    phase  i      where in a period of lo codes column i is, in equal parts: the hour of a day
    among  i      how many of column i and the columns edges are not lo: whether a flag of a one-hot group is set already
    step   i      sign and size class of column i minus its row before
    left, right   this column's decoded neighbours, bins                 between   their mean, bins
    spread        size class of their difference                         level     the pass (distance to the neighbours)
    guess         the linear prediction, bins                            digit     the digit coded just before (added by the coder)
    fraction      what the prediction lost to rounding, in eighths       noise     how far predictions were off in the rows before
    match  lo     what followed a key last time, beside the prediction (`matches`), of the plan's match number lo
    back   lo     this column lo rows before, bins
    rough  lo     how far apart the cells before, above (lo rows before) and beside that are: a quarter of three distances
    apart         how far apart the predictions are that are mixed (`mixing`), and around: how far off what they made was around a cell

    above  lo     this column in the row above, or lo rows beside that, bins
    off           how far predictions were off in the row above, on both sides of that, and in the rows before

    place  lo     where in a piece of lo rows a row is, in equal parts: the height in an image
    class  lo     of the place of a row in its piece of lo rows: the margin of images, elements of a vector that vary alike

Of rows coded one after another (`forward`) left is the row before, and noise, match, back and rough are known, above and off where
rows above are (`above`); right, between, spread and level are not.

Binned features search `edges` (FORMAT.md, "Exact layer"); an exact one clips to [lo, lo + size - 2] with one level for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive
from vae_core.exact.digits import _bit_length
from vae_core.exact.matches import LEVELS as MATCH_LEVELS
from vae_core.exact.matches import MAX_MATCHES
from vae_core.exact.schedule import STEPS

Ints = NDArray[np.int64]
Levels = NDArray[np.unsignedinteger[Any]]
S = TypeVar("S", bound=np.integer[Any])

COLUMN_KINDS = ("value", "bins", "state", "before", "step", "phase", "among")
OWN_KINDS = (
    "left", "right", "between", "spread", "level", "guess", "fraction", "noise", "match", "back", "rough", "place", "class", "apart",
    "around", "above", "off",
)  # fmt: skip
NEIGHBOUR_KINDS = ("left", "right", "between", "spread", "level")
AROUND_KINDS = ("right", "between", "spread", "level")  # that rows coded one after another do not have
MIXED_KINDS = ("apart", "around")  # that mixes of predictions have
ABOVE_KINDS = ("above", "off")  # that columns have whose rows above are decoded before
MOST_BACK = 1 << 24
MOST_BESIDE = 3  # rows from the row above
MOST_APART = 1 << 40
MOST_CLASSED = 1 << 16  # rows of a piece
MOST_PERIOD, MOST_PARTS = 1 << 50, 1 << 12  # codes; of a period
MOST_AMONG, MOST_COUNTED = 255, 8  # columns; sets of them whose counts are kept
MOST_AMONG_ALL = 1 << 20  # columns, in all features of a model: to count one takes as long as to look up another feature
MAX_LEVELS = 1 << 16
N_STATES = 7
STEP_CLASSES = 21
FRACTIONS = 8
NOISE_LEVELS = 48
FIXED_SIZES = {
    "state": N_STATES, "step": STEP_CLASSES, "spread": 65, "level": len(STEPS) + 1, "fraction": FRACTIONS, "noise": NOISE_LEVELS,
    "match": MATCH_LEVELS, "rough": NOISE_LEVELS, "apart": NOISE_LEVELS, "around": NOISE_LEVELS, "off": NOISE_LEVELS,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Feature:
    """One conditioning variable.

    kind   : see the module text
    column : the earlier column it reads, -1 for the column's own neighbours
    lo     : lowest code of an exact feature, number of a match, of what is counted among columns the code that does not count
    size   : number of levels, 1..65536
    edges  : ascending bin edges, level = number of edges <= value; of classes the level of each place; of a phase how far into a period
             the code 0 is; of what is counted among columns the others, ascending
    """

    kind: str
    column: int = -1
    lo: int = 0
    size: int = 1
    edges: tuple[int, ...] = ()

    def to_json(self) -> list[Any]:
        return [self.kind, self.column, self.lo, self.size, list(self.edges)]

    @property
    def is_given(self) -> bool:
        """Whether it is known of all rows before the column is: it reads another one, or where the row is."""
        return self.column >= 0 or self.kind in ("place", "class")

    @property
    def columns(self) -> tuple[int, ...]:
        """The earlier columns it reads."""
        return (self.column, *self.edges) if self.kind == "among" else (self.column,) if self.column >= 0 else ()

    @property
    def by_level(self) -> bool:
        """Whether it reads the column's own neighbouring rows."""
        return self.kind in NEIGHBOUR_KINDS

    def levels(self, values: Ints) -> Ints:
        """(n,) codes to (n,) levels in [0, size)."""
        return self.levels_as(np.int64, values)

    def levels_as(self, kind: type[S], values: Ints) -> NDArray[S]:
        """The same as integers of a kind that has room for them."""
        if self.kind == "value":
            with np.errstate(over="ignore"):
                offset = (values - np.int64(self.lo)).view(np.uint64)  # what is below is far above
            found = np.minimum(offset, np.uint64(self.size - 1), out=offset).view(np.int64)
            return found.astype(kind, copy=False)
        edges: Ints = np.array(self.edges, np.int64)
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        if high - low < len(values):  # a search for every value there may be, then one look-up a row
            known = edges.searchsorted(low + np.arange(high - low + 1), side="right").astype(kind, copy=False)
            return known.take(values if low == 0 else values - low)
        return edges.searchsorted(values, side="right").astype(kind, copy=False)


def from_json(parts: Any, n_columns: int) -> Feature:
    """The inverse of to_json. Raises CorruptArchive on anything else."""
    match parts:
        case [str(kind), int(column), int(lo), int(size), list(edges)] if (
            (kind in COLUMN_KINDS and 0 <= column < n_columns) or (kind in OWN_KINDS and column == -1)
        ) and 1 <= size <= MAX_LEVELS and all(isinstance(e, int) and -(2**63) <= e < 2**63 for e in edges):
            feature = Feature(kind, column, lo, size, tuple(edges))
        case _:
            raise CorruptArchive(f"model names an unknown feature: {str(parts)[:60]}")
    expected = FIXED_SIZES.get(kind)
    if kind in ("bins", "before", "left", "right", "between", "guess", "back", "above"):
        expected = len(edges) + 1 + (kind in ("left", "right", "between", "back", "above"))
    if kind == "phase":
        misfit = not (2 <= size <= min(lo, MOST_PARTS) and lo <= MOST_PERIOD and len(edges) == 1 and 0 <= edges[0] < lo)
    elif kind == "among":
        misfit = not 2 <= size <= len(edges) + 2 <= MOST_AMONG + 1 or column in edges or not all(0 <= j < n_columns for j in edges)
        misfit = misfit or list(edges) != sorted(set(edges)) or not _fits(kind, lo)
    elif kind == "class":
        misfit = not 1 <= lo == len(edges) <= MOST_CLASSED or not all(0 <= level < size for level in edges)
    else:
        misfit = (expected is not None and size != expected) or list(edges) != sorted(edges) or not _fits(kind, lo)
    if misfit:
        raise CorruptArchive(f"model describes feature {kind} of column {column} with {size} levels")
    return feature


def _fits(kind: str, lo: int) -> bool:
    if kind in ("back", "rough", "place"):
        return 1 <= lo <= MOST_BACK
    if kind == "above":
        return abs(lo) <= MOST_BESIDE
    return 0 <= lo < MAX_MATCHES if kind == "match" else -(2**63) <= lo < 2**63


@dataclass(slots=True)
class Decoded:
    """The columns of a block that are decoded so far.

    values : column -> (n_rows,) int64        states : column -> (n_rows,) uint8 or None when every row holds a value
    piece  : rows that belong together, as the cells of a tensor do; 0 where no row is nearer to another than the next
    codes  : column -> (n_rows,) int64 codes of one just decoded, whose values are in another form
    above  : (n_rows,) how many rows above each row the one like it stands, None where nobody said
    """

    n_rows: int
    values: dict[int, Ints] = field(default_factory=dict)
    states: dict[int, NDArray[np.uint8] | None] = field(default_factory=dict)
    piece: int = 0
    codes: dict[int, Ints] = field(default_factory=dict)
    above: Ints | None = None
    _cache: dict[Feature, Levels] = field(default_factory=dict)
    _counted: dict[tuple[int, frozenset[int]], NDArray[np.uint8]] = field(default_factory=dict)

    def feature(self, feature: Feature) -> Levels:
        """(n_rows,) levels of a feature of an earlier column, cached for the block."""
        if feature not in self._cache:
            kind: type[np.unsignedinteger[Any]] = np.uint8 if feature.size <= 1 << 8 else np.uint16
            values = self.values.get(feature.column) if feature.kind in ("value", "bins") else None
            self._cache[feature] = self.computed(feature).astype(kind) if values is None else feature.levels_as(kind, values)
        return self._cache[feature]

    def computed(self, feature: Feature) -> Ints:
        """The same as int64, not cached."""
        column = feature.column
        if feature.kind == "place":
            return np.arange(self.n_rows) % feature.lo * feature.size // feature.lo
        if feature.kind == "class":
            return np.array(feature.edges, np.int64)[np.arange(self.n_rows) % feature.lo]
        for j in feature.columns:
            if j not in self.values:
                raise CorruptArchive(f"model conditions a column on column {j}, which is not decoded before it")
        values = self.values[column]
        match feature.kind:
            case "state":
                state = self.states[column]
                return np.zeros(self.n_rows, np.int64) if state is None else state.astype(np.int64)
            case "before":
                return feature.levels(_shifted(values))
            case "step":
                return step_class(values, _shifted(values))
            case "phase":
                return phase(values, feature.lo, feature.edges[0], feature.size)
            case "among":
                return np.minimum(self._among(feature), feature.size - 1).astype(np.int64)
            case _:
                return feature.levels(values)

    def _among(self, feature: Feature) -> NDArray[np.uint8]:
        """(n_rows,) how many columns of some are not `lo`; of those that were counted together before, others alone are counted."""
        wanted = frozenset(feature.columns)
        known = max((k for k in self._counted if k[0] == feature.lo and k[1] <= wanted), key=lambda k: len(k[1]), default=None)
        found = np.zeros(self.n_rows, np.uint8) if known is None else self._counted.pop(known)
        for j in wanted if known is None else wanted - known[1]:
            found += self.values[j] != feature.lo
        self._counted[feature.lo, wanted] = found
        if len(self._counted) > MOST_COUNTED:
            del self._counted[next(iter(self._counted))]
        return found

    def told_above(self) -> Ints:
        """(n_rows,) how many rows above each row the one like it stands. Raises CorruptArchive where nobody said."""
        if self.above is None:
            raise CorruptArchive("model tells a column by rows above, of which the block says nothing")
        return self.above


def steps_above(above: Ints, places: Ints, beside: int) -> Ints:
    """(n,) how many rows before each row the one stands that is `beside` from the row above; 1 where that is none of those before, 0 of
    the first row of all.

    above : (n,) rows to the row above        places : (n,) of each row the rows that are before it
    """
    found = above - beside
    return np.where((found > 0) & (found <= places), found, np.minimum(places, 1))


def _shifted(values: Ints) -> Ints:
    return np.concatenate([values[:1], values[:-1]])


def phase(values: Ints, length: int, start: int, parts: int) -> Ints:
    """(n,) which of so many equal parts of a period each is in, below `parts`; start: how far into a period 0 is."""
    with np.errstate(over="ignore"):
        found: Ints = np.mod(values + np.int64(start), length) * parts // length
    return found


def step_class(values: Ints, before: Ints) -> Ints:
    """Sign and clipped bit length of values - before as one of STEP_CLASSES levels; 0 when equal."""
    with np.errstate(over="ignore"):
        change = values - before
        size = np.minimum(_bit_length(np.maximum(np.abs(change), 0)), 10)
    return np.where(change < 0, 10 + size, size)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a column knows of itself when a pass is coded: neighbour values (n,) each, the pass, the prediction, its fraction,
    the level of its noise, those of its matches, what it was so many rows before, of a mix how far apart and how far off around, what
    it is beside the row above, and how far off there."""

    step: int
    left: Ints | None
    right: Ints | None
    guess: Ints | None
    fraction: Ints | None = None
    noise: Ints | None = None
    matches: tuple[Ints, ...] = ()
    back: Callable[[int], Ints] | None = None
    apart: Ints | None = None
    off_around: Ints | None = None
    above: Callable[[int], Ints] | None = None
    off: Ints | None = None

    def levels(self, feature: Feature, n: int) -> Ints:
        """(n,) levels of one of the column's own features; a neighbour that does not exist is the last level."""
        if feature.kind == "level":
            return np.full(n, 0 if self.step == 0 else 1 + STEPS.index(self.step), np.int64)
        if feature.kind == "fraction":
            return self.fraction if self.fraction is not None else np.zeros(n, np.int64)
        if feature.kind == "noise":
            return self.noise if self.noise is not None else np.zeros(n, np.int64)
        if feature.kind in MIXED_KINDS:
            found = self.apart if feature.kind == "apart" else self.off_around
            return found if found is not None else np.zeros(n, np.int64)
        if feature.kind == "match":
            return self.matches[feature.lo] if feature.lo < len(self.matches) else np.zeros(n, np.int64)
        if feature.kind == "off":
            return self.off if self.off is not None else np.full(n, NOISE_LEVELS - 1, np.int64)
        if feature.kind == "above":
            return np.full(n, feature.size - 1, np.int64) if self.above is None else feature.levels(self.above(feature.lo))
        if feature.kind in ("back", "rough"):
            if self.back is None:
                return np.full(n, feature.size - 1, np.int64)
            return feature.levels(self.back(feature.lo)) if feature.kind == "back" else roughness(self.back, feature.lo)
        if feature.kind == "guess":
            return feature.levels(self.guess) if self.guess is not None else np.zeros(n, np.int64)
        if feature.kind == "left" and self.left is not None:
            return feature.levels(self.left)
        if self.left is None or self.right is None:
            return np.full(n, feature.size - 1, np.int64)
        with np.errstate(over="ignore"):
            match feature.kind:
                case "right":
                    return feature.levels(self.right)
                case "between":
                    return feature.levels(middle(self.left, self.right))
                case _:
                    spread: Ints = np.minimum(_bit_length(np.maximum(np.abs(self.right - self.left), 0)), 63)
                    return spread


def noise_level(noise: Ints) -> Ints:
    """(n,) mean distances from the prediction, in 256ths, as two levels an octave from 1/16 on; the last level is of no knowledge."""
    level = noise.astype(np.float64).view(np.int64)  # below 2**53: the exponent, and the bit after the first
    level >>= 51
    level -= 2 * (1023 + 3)
    np.maximum(level, 0, out=level)
    np.minimum(level, NOISE_LEVELS - 2, out=level)
    return level


def roughness(back: Callable[[int], Ints], width: int) -> Ints:
    """(n,) levels, as of noise, of how far apart the cells around one are: before, above, and on both sides of that.

    back : what the column was so many rows before, (n,)        width : rows from a cell to the one above
    """
    before, above, beyond = back(1), back(width), back(width + 1)
    total = np.zeros(len(before), np.int64)
    with np.errstate(over="ignore"):
        for a, b in ((before, beyond), (above, beyond), (above, back(max(1, width - 1)))):
            apart = np.abs(a - b)
            total += np.where(apart < 0, MOST_APART, np.minimum(apart, MOST_APART))
    return noise_level(total << 6)


def middle(left: Ints, right: Ints) -> Ints:
    """floor((left + right) / 2) without overflow."""
    found: Ints = (left >> 1) + (right >> 1) + (left & right & 1)
    return found
