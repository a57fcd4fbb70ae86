"""Rows one after another in one call of the C kernel: what kernel.c needs to know of lanes, prediction and own features.

The same walk in numpy is exact/forward.py, step by step: the specification, and what runs where there is no kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.passes import MAX_DEPTH, MAX_DIGITS

Ints = NDArray[np.int64]
KINDS = ("left", "guess", "fraction", "noise", "match", "back", "rough", "apart", "around", "above", "off")  # as in kernel.c
MAX_MATCHES = 64  # likewise
ROOMS = 8  # likewise
MOST_TABLED = 4096  # values between the first edge and the last of a feature whose levels are looked up


@dataclass(frozen=True, slots=True)
class OwnFeature:
    """A feature of the column itself.

    digit : whose context it enters      kind : one of KINDS      edges : of its bins
    strides : for each level of the digit what one more of it adds to the context number        which : number of a match, rows before
    """

    digit: int
    kind: str
    edges: tuple[int, ...]
    strides: tuple[int, ...]
    which: int = 0

    @property
    def reach(self) -> int:
        """The farthest row before that it reads."""
        return self.which + 1 if self.kind in ("back", "rough") else 1

    def table(self) -> NDArray[np.uint16]:
        """Levels of the values from the first edge to the last, none where these are far apart."""
        if not self.edges or self.edges[-1] - self.edges[0] >= MOST_TABLED:
            return np.empty(0, np.uint16)
        edges = np.array(self.edges, np.int64) - self.edges[0]
        return edges.searchsorted(np.arange(edges[-1] + 1), side="right").astype(np.uint16)


class _OwnFeature(ctypes.Structure):
    """kernel.c: own_feature."""

    _fields_ = (
        ("digit", ctypes.c_int64),
        ("kind", ctypes.c_int64),
        ("which", ctypes.c_int64),
        ("n_edges", ctypes.c_int64),
        ("n_table", ctypes.c_int64),
        ("edges", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
    )


class _Match(ctypes.Structure):
    """kernel.c: match."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_lags", "reach", "bits")),
        *((name, ctypes.c_void_p) for name in ("lags", "fixed", "keys", "values", "now", "level")),
    )


class KernelMatch:
    """The memory of one match (exact/matches.py).

    level : (n,) uint8 in coding order, once walked
    """

    def __init__(self, lags: Sequence[int], fixed: NDArray[np.uint64], bits: int) -> None:
        """fixed: (n,) hashes of what the key has of other columns, in coding order."""
        self.lags, self.fixed, self.bits = np.array(lags, np.int64), np.ascontiguousarray(fixed), bits
        self.keys, self.values = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.int64)
        self.level = np.empty(len(fixed), np.uint8)

    def fill(self, structure: _Match, n_lanes: int) -> None:
        """Point a structure to it, good while this object lives."""
        self._now = np.zeros(max(1, n_lanes), np.uint64)
        structure.n_lags, structure.reach, structure.bits = len(self.lags), max(self.lags.tolist(), default=0), self.bits
        addresses = [kernel.address(a) for a in (self.lags, self.fixed, self.keys, self.values, self._now, self.level)]
        structure.lags, structure.fixed, structure.keys, structure.values, structure.now, structure.level = addresses


class _Mix(ctypes.Structure):
    """kernel.c: mix."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_references", "n_others", "n_around", "n_kept", "unit", "power")),
        *((name, ctypes.c_void_p) for name in ("reference", "ends", "lags", "quarters", "told", "around", "inverses")),
        *((name, ctypes.c_void_p) for name in ("past", "errors", "room", "apart", "around_level")),
    )


@dataclass(frozen=True, slots=True)
class KernelMix:
    """Predictions mixed with the linear one (exact/mixing.py).

    others : of each what it refers to, 0 for nothing, and (rows before, quarters) of its terms
    told   : (n_references, n) int32, what references say of each row, in coding order, in units of the mix
    around : steps before, whose errors tell            unit, power : as linear.Mixed has them
    inverses : int32, of sums of weights
    """

    others: Sequence[tuple[int, Sequence[tuple[int, int]]]]
    told: NDArray[np.int32]
    around: Sequence[int]
    unit: int
    power: int
    inverses: NDArray[np.int32]

    def structure(self, n_steps: int, n_lanes: int, levels: Sequence[NDArray[np.uint8]]) -> tuple[_Mix, list[NDArray[Any]]]:
        """What the kernel reads, and the arrays it points to."""
        terms = [term for _, own in self.others for term in own]
        n_others, n_told, n_lanes = len(self.others), len(self.told), max(1, n_lanes)
        n_kept = min(max(*self.around, *(lag for lag, _ in terms)) + 1, max(1, n_steps))
        reference = np.array([number for number, _ in self.others], np.int64)
        ends = np.cumsum([len(own) for _, own in self.others], dtype=np.int64)
        lags, quarters = (np.array([term[k] for term in terms], np.int64) for k in (0, 1))
        past, errors = np.zeros((n_kept, n_told + 1, n_lanes), np.int32), np.zeros((n_kept, n_others + 2, n_lanes), np.uint16)
        room = np.zeros((2 * n_others + n_told + 9, n_lanes), np.int32)
        told, around = np.ascontiguousarray(self.told), np.array(self.around, np.int64)
        arrays: list[NDArray[Any]] = [reference, ends, lags, quarters, told, around, self.inverses, past, errors, room, *levels]
        return _Mix(n_told, n_others, len(self.around), n_kept, self.unit, self.power, *map(kernel.address, arrays)), arrays


@dataclass(frozen=True, slots=True)
class KernelAbove:
    """The rows above (exact/above.py).

    rows : (n,) of each row in coding order, how many steps above it the one like it stands
    terms : rows beside that, and weights, of the terms of the column itself
    """

    rows: Ints
    terms: Sequence[tuple[int, int]]


class _Walk(ctypes.Structure):
    """kernel.c: walk."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_steps", "n_lanes", "n_past", "n_terms", "n_own", "n_matches", "leader")),
        *((name, ctypes.c_int64) for name in ("first_chunk", "last_chunk", "part", "n_dense", "dense_shift", "keeps")),
        *((name, ctypes.c_void_p) for name in ("edges", "lags", "weights", "fixed", "own", "matches", "dense", "bias", "lanes")),
        *((name, ctypes.c_void_p) for name in ("past", "noise", "sums", "guess", "fraction", "level", "room", "levels")),
        *((name, ctypes.c_int64) for name in ("is_residual", "lo", "shift", "escape", "limit")),
        ("mixed", ctypes.c_void_p),
        ("n_above", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("above", "beside", "beside_weights", "offs", "off")),
    )


class KernelWalk:
    """The walk of one plan over one block.

    guess           : (n,) int64 in coding order, once walked, where they are kept
    fraction, level : (n,) uint8 likewise, of the prediction and of the noise
    matches         : the memories, each with its levels
    apart, around   : (n,) uint8 likewise, of a mix; else empty
    off             : (n,) uint8 likewise, of how far off predictions were above; else empty
    """

    def __init__(
        self,
        edges: Ints,
        n_lanes: int,
        terms: Sequence[tuple[int, int]],
        fixed: Ints,
        own: Sequence[OwnFeature] = (),
        chunks: tuple[int, int, int] = (1, 1, 1),
        scheme: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0),
        matches: Sequence[KernelMatch] = (),
        leader: int = -1,
        dense: tuple[NDArray[np.int16], Ints, int] | None = None,
        lanes: Ints | None = None,
        keeps: bool = True,
        mix: KernelMix | None = None,
        above: KernelAbove | None = None,
    ) -> None:
        """edges: (n_steps + 1,) where steps begin. terms: (lag, weight) of the column itself. fixed: (n,) sums of all other terms.
        chunks: how many rows one has at least and at most, and what part it is of the rows before.
        scheme: whether it is a residual's; lo and shift of a direct one; the escape symbol; the span, or the magnitude that escapes.
        leader: the number of the match that is the prediction, -1 for none.
        dense: (n, n) weights, (n,) biases and the shift of vectors (exact/dense.py).
        lanes: (n,) the lane of each row, None: the first ones of each step.
        keeps: whether predictions are kept, else those of a step at a time.
        mix: predictions mixed with that of the terms.
        above: the rows above, where they are told."""
        n_steps, n = len(edges) - 1, len(fixed) if keeps else max(1, n_lanes)
        self.guess = np.empty(n, np.int64)
        self.fraction, self.level = np.empty(n, np.uint8), np.empty(n, np.uint8)
        self.apart, self.around = (np.empty(n if mix is not None else 0, np.uint8) for _ in range(2))
        room, levels = np.empty((ROOMS, n_lanes), np.int64), np.empty((1 + MAX_DIGITS * MAX_DEPTH, n_lanes), np.int32)
        lags, weights = (np.array([term[k] for term in terms], np.int64) for k in (0, 1))
        reach = max([1, *(lag for lag, _ in terms), *(f.reach for f in own), *(lag for match in matches for lag in match.lags.tolist())])
        n_past = max(1, n_steps if dense or above else min(n_steps, reach + 1))
        past, noise = np.zeros(max(1, n_past * n_lanes), np.int64), np.zeros(max(1, n_lanes), np.int64)
        *vectors, shift = (np.zeros((0, 0), np.int16), np.zeros(0, np.int64), 0) if dense is None else dense
        sums, weighed, bias = np.zeros(max(1, n_lanes), np.int64), *(np.ascontiguousarray(a) for a in vectors)
        structures = (_OwnFeature * len(own))()
        kept: list[NDArray[Any]] = [np.ascontiguousarray(edges, np.int64), lags, weights, np.ascontiguousarray(fixed), past, noise]
        kept += [sums, weighed, bias, *([] if lanes is None else [lanes := np.ascontiguousarray(lanes, np.int64)])]
        for structure, feature in zip(structures, own, strict=True):
            bins, strides, table = np.array(feature.edges, np.int64), np.array(feature.strides, np.int64), feature.table()
            structure.digit, structure.kind, structure.n_edges = feature.digit, KINDS.index(feature.kind), len(bins)
            structure.which = feature.which
            structure.edges, structure.strides = kernel.address(bins), kernel.address(strides)
            structure.n_table, structure.table = len(table), kernel.address(table)
            kept += [bins, strides, table]
        if len(matches) > MAX_MATCHES:
            raise ValueError(f"the kernel has no room for {len(matches)} matches")
        self.matches, memories = matches, (_Match * len(matches))()
        for memory, match in zip(memories, matches, strict=True):
            match.fill(memory, n_lanes)
        if dense is not None and len(bias) < n_steps:
            raise ValueError(f"vectors of {len(bias)} elements have no {n_steps} steps")
        kept += [room, levels]
        mixed, mixed_arrays = (None, []) if mix is None else mix.structure(n_steps, n_lanes, (self.apart, self.around))
        kept += mixed_arrays
        self.off = np.empty(n if above is not None else 0, np.uint8)
        told: list[NDArray[Any]] = []
        if above is not None:
            if len(above.rows) != len(fixed) or (len(fixed) and not 0 <= int(above.rows.min()) <= int(above.rows.max()) < 1 << 31):
                raise ValueError(f"rows above are told of {len(above.rows)} rows, not of the {len(fixed)} there are")
            beside, beside_weights = (np.array([term[k] for term in above.terms], np.int64) for k in (0, 1))
            told = [above.rows.astype(np.int32), beside, beside_weights, np.zeros(max(1, n_steps * n_lanes), np.int64), self.off]
        elif any(feature.kind in ("above", "off") for feature in own):
            raise ValueError("features of rows above, and none are told")
        kept += told
        addresses = [
            kernel.address(array) for array in (*kept[:4], past, noise, sums, self.guess, self.fraction, self.level, room, levels)
        ]
        self.structure = _Walk(
            n_steps, n_lanes, n_past, len(terms), len(own), len(matches), leader, *chunks, len(bias), shift, keeps, *addresses[:4],
            ctypes.addressof(structures), ctypes.addressof(memories), *map(kernel.address, (weighed, bias)),
            None if lanes is None else kernel.address(lanes), *addresses[4:], *scheme,
            None if mixed is None else ctypes.addressof(mixed), 0 if above is None else len(above.terms),
            *(map(kernel.address, told) if told else [None] * 5),
        )  # fmt: skip
        self._kept = (kept, structures, memories, mixed)  # what the structure points to

    @property
    def pointer(self) -> Any:
        """Its address for the kernel, good while this object lives."""
        return ctypes.byref(self.structure)

    def over(self, values: Ints) -> None:
        """Walk over (n,) known values in coding order."""
        library = kernel.library()
        assert library is not None
        library.lp_walk(self.pointer, None, kernel.size(0), kernel.pointer(np.ascontiguousarray(values, np.int64)))
