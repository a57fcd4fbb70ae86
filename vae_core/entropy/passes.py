"""A pass over a column in one call of the C kernel: what kernel.c needs to hold for each digit, and where its results go.

The same walk in numpy is exact/cells.py, chunk by chunk, over exact/counts.py and rans.py: the specification, and what runs
where there is no kernel.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel

Ints = NDArray[np.int64]
S = TypeVar("S", bound=np.generic)
Words = NDArray[np.uint32]
Slots = tuple[Words, Words, Ints]  # low and width of each symbol, lengths of the steps they make
Digits = Sequence[tuple[int, Sequence[int], Sequence[int], Sequence[int]]]
MAX_DEPTH, MAX_DIGITS = 8, 2  # as in kernel.c
MAX_SYMBOLS = 512
RAW_BITS, N_RAW_STEPS = 16, 4  # of a slot, and slots of a row at most
SCALE = 1 << 20
WIDTH = 8  # rows of tables of more symbols are multiples of so many int32
LINE = 64  # bytes: pieces of memory begin at multiples of it


@dataclass(frozen=True, slots=True)
class Contexts:
    """Context numbers of all rows of a pass, but for what the digit before adds to them.

    bases   : for each level (n,) int64, int32 for the kernel, None where all are 0
    strides : for each level what one more in the digit before adds; 0 for a first digit
    """

    bases: tuple[NDArray[np.signedinteger[Any]] | None, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(
        cls, sizes: Sequence[int], levels: Sequence[NDArray[np.integer[Any]] | None], own: Collection[int] = (),
        kind: type[np.signedinteger[Any]] = np.int64,
    ) -> Contexts:
        """From (n,) levels of each feature, None for the digit before, and for those that something else adds: the `own` ones.
        kind: of `bases`"""
        bases: list[NDArray[np.signedinteger[Any]] | None] = [None]
        strides = [0]
        for place, (size, level) in enumerate(zip(sizes, levels, strict=True)):
            scaled = None if bases[-1] is None else bases[-1] * size
            if level is None:
                bases.append(scaled)
            else:
                bases.append(level.astype(kind, copy=False) if scaled is None else np.add(scaled, level, out=scaled))
            strides.append(strides[-1] * size + (level is None and place not in own))
        return cls(tuple(bases), tuple(strides))

    def numbers(self, rows: slice, n: int, before: Ints | None) -> list[Ints]:
        """(n,) context numbers of each level for n rows, given the digit before."""
        found: list[Ints] = []
        for base, stride in zip(self.bases, self.strides, strict=True):
            own = np.zeros(n, np.int64) if base is None else base[rows]
            found.append(own if not stride or before is None else own + before * stride)
        return found

    def at(self, level: int, n: int, before: NDArray[np.uint16] | None) -> NDArray[np.signedinteger[Any]]:
        """(n,) int32 context numbers of one level of all n rows, where `bases` are int32, given the digit before."""
        base, stride = self.bases[level], self.strides[level]
        if before is None or not stride:
            return np.zeros(n, np.int32) if base is None else base
        found = np.multiply(before, stride, dtype=np.int32)
        return found if base is None else np.add(found, base, out=found)


class _Digit(ctypes.Structure):
    """kernel.c: digit."""

    _fields_ = (
        ("n_symbols", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("seen", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("counted", ctypes.c_void_p),
        ("n_places", ctypes.c_void_p),
        ("contexts", ctypes.c_void_p),
        ("fresh", ctypes.c_void_p),
        ("chance", ctypes.c_void_p),
        ("cumulative", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
    )


def _counted(n_rows: int, n_symbols: int, contexts: Sequence[int]) -> list[int]:
    """Int32 of kernel.c: digit.seen, counts and counted, level after level. As many contexts are met as there are rows, at most."""
    places = [1 + min(n, n_rows) for n in contexts]
    return [length for n, some in zip(contexts, places, strict=True) for length in (2 * n, some * row_width(n_symbols), 2 * some)]


def _worked(most_rows: int, n_symbols: int, contexts: Sequence[int]) -> list[int]:
    """Bytes of kernel.c: digit.chance, cumulative, scale, rows and, of each level, fresh."""
    rows, width = [min(most_rows, n) for n in contexts], row_width(n_symbols)
    chance, cumulative = 8 * (1 + sum(rows[:-1])) * width, 4 * rows[-1] * (width + 1)
    return [chance, cumulative, 8 * rows[-1], 4 * most_rows, *(12 * (1 + n) for n in rows)]


def row_width(n_symbols: int) -> int:
    """Int32 from one row of a table to the next: where there are many symbols, no row ends within a vector of the processor."""
    return n_symbols if n_symbols < WIDTH else -(-n_symbols // WIDTH) * WIDTH


@dataclass(frozen=True, slots=True)
class Ground:
    """What tables are made of, one set after another.

    counted : int32, all of it 0 while nobody has it        worked : bytes of no matter
    """

    counted: NDArray[np.int32]
    worked: NDArray[np.uint8]

    @classmethod
    def of(cls, n_counted: int = 0, n_worked: int = 0, before: Ground | None = None) -> Ground:
        """As much as that at least: what was there before, where that will do."""
        counted = None if before is None or len(before.counted) < n_counted else before.counted
        worked = None if before is None or len(before.worked) < n_worked else before.worked
        return cls(
            np.zeros(n_counted, np.int32) if counted is None else counted, np.empty(n_worked, np.uint8) if worked is None else worked
        )


class OfThread(threading.local):
    """The ground that no tables of a thread have now."""

    def __init__(self) -> None:
        self.free = Ground.of()


GROUND = OfThread()


@contextmanager
def kept_tables(digits: Digits, raw_bits: Ints, most_rows: int, n_rows: int) -> Iterator[PassTables]:
    """PassTables in memory that the tables before had: to clear what was counted is less work than to clear all there is."""
    ground, GROUND.free = GROUND.free, Ground.of()
    tables = PassTables(digits, raw_bits, most_rows, n_rows, ground)
    yield tables  # after an error what is in them is nobody's: fresh ones next time
    tables.clear()
    GROUND.free = tables.ground


def _ends(lengths: Sequence[int], itemsize: int) -> list[int]:
    """Where pieces of so many elements begin, one behind another in lines of a cache, and where the last one ends."""
    line = LINE // itemsize
    return np.cumsum([0, *(-(-n // line) * line for n in lengths)]).tolist()  # type: ignore[no-any-return]


def _pieces(memory: NDArray[S], lengths: Sequence[int]) -> list[NDArray[S]]:
    return [memory[start : start + n] for start, n in zip(_ends(lengths, memory.itemsize), lengths, strict=False)]


class PassTables:
    """The tables of one plan, filled pass after pass.

    digits    : (n_symbols, n_contexts of each level, weights, strides) each
    raw_bits  : (n_symbols of the first digit,) bits that follow a row of that digit
    most_rows : of a chunk
    n_rows    : of all passes
    ground    : to count and work in; where it is too small, other memory
    """

    def __init__(self, digits: Digits, raw_bits: Ints, most_rows: int, n_rows: int, ground: Ground | None = None) -> None:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"the kernel has no room for {len(digits)} digits")
        self.n_digits = len(digits)
        self._raw_bits = raw_bits.astype(np.uint8)
        self._kept: list[Any] = []  # what the structures point to
        self._structures = (_Digit * len(digits))()
        counted = [_counted(n_rows, n_symbols, contexts) for n_symbols, contexts, *_ in digits]
        worked = [_worked(most_rows, n_symbols, contexts) for n_symbols, contexts, *_ in digits]
        self.ground = Ground.of(sum(_ends(some, 4)[-1] for some in counted), sum(_ends(some, 1)[-1] for some in worked), ground)
        parts = iter(_pieces(self.ground.counted, list(itertools.chain(*counted))))
        rooms = iter(_pieces(self.ground.worked, list(itertools.chain(*worked))))
        for structure, digit, some, more in zip(self._structures, digits, counted, worked, strict=True):
            own, room = [next(parts) for _ in some], [next(rooms) for _ in more]
            self._fill(structure, [own[k::3] for k in range(3)], room, *digit)

    def _fill(
        self,
        structure: _Digit,
        parts: Sequence[Sequence[NDArray[np.int32]]],
        room: Sequence[NDArray[np.uint8]],
        n_symbols: int,
        contexts: Sequence[int],
        weights: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        if not len(contexts) == len(weights) == len(strides) <= MAX_DEPTH or not 1 <= n_symbols <= MAX_SYMBOLS:
            raise ValueError(f"the kernel has no room for {n_symbols} symbols under {len(contexts)} levels of contexts")
        width = row_width(n_symbols)
        chance, cumulative, scale, found, *fresh = room
        none = chance[: 8 * width].view(np.float64)
        none[:n_symbols], none[n_symbols:] = weights[0] * (SCALE // n_symbols), 0
        numbers = [np.array(values, np.int64) for values in (weights, strides)]
        tables = [*map(kernel.pointers, parts), kernel.pointers(fresh)]
        n_places = np.zeros(len(contexts), np.int64)
        structure.n_symbols, structure.depth, structure.width = n_symbols, len(contexts) - 1, width
        structure.weights, structure.strides, structure.n_places = (kernel.address(a) for a in (*numbers, n_places))
        structure.seen, structure.counts, structure.counted, structure.fresh = (ctypes.addressof(table) for table in tables)
        structure.chance, structure.cumulative, structure.scale, structure.rows = map(kernel.address, (chance, cumulative, scale, found))
        self._kept += [numbers, tables, n_places]

    def clear(self) -> None:
        """Forget what was counted: all of `ground` is 0 again."""
        c = kernel.library()
        assert c is not None
        c.lp_clear(self._structures, kernel.size(self.n_digits))

    def raw_slots(self, first: NDArray[np.integer[Any]]) -> int:
        """Slots that raw bits take behind (n,) first digits, 16 bits each."""
        slots: Ints = -(-self._raw_bits.astype(np.int64) // RAW_BITS)
        return int(slots @ np.bincount(first, minlength=len(slots)))

    @property
    def digits(self) -> Any:
        """The structures of kernel.c, good while this object lives."""
        return self._structures

    def bind(self, contexts: Sequence[Contexts]) -> None:
        """Point the structures to the contexts of a pass, until the next one."""
        tables = []
        for structure, digit in zip(self._structures, contexts, strict=True):
            tables.append((ctypes.c_void_p * len(digit.bases))(*(None if a is None else kernel.address(a) for a in digit.bases)))
            structure.contexts = ctypes.addressof(tables[-1])
        self._bound = (tables, contexts)

    def arguments(self, contexts: Sequence[Contexts], ends: Ints) -> list[Any]:
        """The first arguments of lp_read and lp_write for a pass, good while this object lives and until the next pass.

        contexts : of each digit
        ends     : (n_chunks,) ends of the chunks, the last one n_rows
        """
        assert all(base is None or (base.dtype == np.int32 and len(base) == ends[-1]) for digit in contexts for base in digit.bases)
        self.bind(contexts)
        self._ends = ends  # alive until the next pass
        return [self._structures, kernel.size(self.n_digits), kernel.pointer(ends), kernel.size(len(ends)), self.raw_bits]

    @property
    def raw_bits(self) -> Any:
        """The address of the bits that follow each first digit."""
        return kernel.pointer(self._raw_bits)


class Room:
    """Where the kernel puts slots and the lengths of their steps."""

    def __init__(self, most: int, most_steps: int) -> None:
        self._low, self._width, self._lengths = np.empty(most, np.uint32), np.empty(most, np.uint32), np.empty(most_steps, np.int64)

    @property
    def pointers(self) -> list[Any]:
        """For the kernel."""
        return [kernel.pointer(array) for array in (self._low, self._width, self._lengths)]

    def slots(self, n_steps: int) -> Slots:
        """What it put there in so many steps."""
        lengths = self._lengths[:n_steps].copy()
        n = int(lengths.sum())
        return self._low[:n].copy(), self._width[:n].copy(), lengths
