"""A pass over a column in one call of the C kernel: what kernel.c needs to hold for each digit, and where its results go.

The same walk in numpy is exact/cells.py, chunk by chunk, over exact/counts.py and rans.py: the specification, and what runs
where there is no kernel.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel

Ints = NDArray[np.int64]
Words = NDArray[np.uint32]
Slots = tuple[Words, Words, Ints]  # low and width of each symbol, lengths of the steps they make
Digits = Sequence[tuple[int, Sequence[int], Sequence[int], Sequence[int]]]
MAX_DEPTH, MAX_DIGITS = 8, 2  # as in kernel.c
MAX_SYMBOLS = 512
RAW_BITS, N_RAW_STEPS = 16, 4  # of a slot, and slots of a row at most
SCALE = 1 << 20
WIDTH = 8  # rows of tables of more symbols are multiples of so many int32
APART = 16  # tables begin at multiples of so many int32: lines of a cache


@dataclass(frozen=True, slots=True)
class Contexts:
    """Context numbers of all rows of a pass, but for what the digit before adds to them.

    bases   : for each level (n,) int64, int32 for the kernel, None where all are 0
    strides : for each level what one more in the digit before adds; 0 for a first digit
    """

    bases: tuple[NDArray[np.signedinteger[Any]] | None, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, sizes: Sequence[int], levels: Sequence[NDArray[np.signedinteger[Any]] | None], own: Collection[int] = ()) -> Contexts:
        """From (n,) levels of each feature, None for the digit before, and for those that something else adds: the `own` ones."""
        bases: list[NDArray[np.signedinteger[Any]] | None] = [None]
        strides = [0]
        for place, (size, level) in enumerate(zip(sizes, levels, strict=True)):
            scaled = None if bases[-1] is None else bases[-1] * size
            bases.append(scaled if level is None else level if scaled is None else np.add(scaled, level, out=scaled))
            strides.append(strides[-1] * size + (level is None and place not in own))
        return cls(tuple(bases), tuple(strides))

    def numbers(self, rows: slice, n: int, before: Ints | None) -> list[Ints]:
        """(n,) context numbers of each level for n rows, given the digit before."""
        found: list[Ints] = []
        for base, stride in zip(self.bases, self.strides, strict=True):
            own = np.zeros(n, np.int64) if base is None else base[rows]
            found.append(own if not stride or before is None else own + before * stride)
        return found


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


def row_width(n_symbols: int) -> int:
    """Int32 from one row of a table to the next: where there are many symbols, no row ends within a vector of the processor."""
    return n_symbols if n_symbols < WIDTH else -(-n_symbols // WIDTH) * WIDTH


class Ground(threading.local):
    """What the tables of a thread are made of, one set after another; all of it is 0 while nobody has it."""

    def __init__(self) -> None:
        self.free = np.zeros(0, np.int32)


GROUND = Ground()


@contextmanager
def kept_tables(digits: Digits, raw_bits: Ints, most_rows: int, n_rows: int) -> Iterator[PassTables]:
    """PassTables in memory that the tables before had: to clear what was counted is less work than to clear all there is."""
    ground, GROUND.free = GROUND.free, np.zeros(0, np.int32)
    tables = PassTables(digits, raw_bits, most_rows, n_rows, ground)
    yield tables  # after an error what is in them is nobody's: fresh ones next time
    tables.clear()
    GROUND.free = tables.ground


class PassTables:
    """The tables of one plan, filled pass after pass.

    digits    : (n_symbols, n_contexts of each level, weights, strides) each
    raw_bits  : (n_symbols of the first digit,) bits that follow a row of that digit
    most_rows : of a chunk
    n_rows    : of all passes
    ground    : int32, all 0, to be counted in; where it is too small, other memory
    """

    def __init__(
        self, digits: Digits, raw_bits: Ints, most_rows: int, n_rows: int, ground: NDArray[np.int32] | None = None
    ) -> None:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"the kernel has no room for {len(digits)} digits")
        self.n_digits = len(digits)
        self._raw_bits = raw_bits.astype(np.uint8)
        self._kept: list[Any] = []  # what the structures point to
        self._structures = (_Digit * len(digits))()
        # of each level: of each context where its counts are, and for as many of them as there are rows, and one more, counts and totals
        lengths = [
            length for n_symbols, contexts, *_ in digits for n in contexts
            for length in (2 * n, (1 + min(n, n_rows)) * row_width(n_symbols), 2 * (1 + min(n, n_rows)))
        ]  # fmt: skip
        ends = np.cumsum([-(-length // APART) * APART for length in lengths]).tolist()
        self.ground = ground if ground is not None and len(ground) >= ends[-1] else np.zeros(ends[-1], np.int32)
        parts = [self.ground[start : start + length] for start, length in zip([0, *ends], lengths, strict=False)]
        for structure, digit in zip(self._structures, digits, strict=True):
            own, parts = parts[: 3 * len(digit[1])], parts[3 * len(digit[1]) :]
            self._fill(structure, most_rows, [own[k::3] for k in range(3)], *digit)

    def _fill(
        self,
        structure: _Digit,
        most_rows: int,
        parts: Sequence[Sequence[NDArray[np.int32]]],
        n_symbols: int,
        contexts: Sequence[int],
        weights: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        if not len(contexts) == len(weights) == len(strides) <= MAX_DEPTH or not 1 <= n_symbols <= MAX_SYMBOLS:
            raise ValueError(f"the kernel has no room for {n_symbols} symbols under {len(contexts)} levels of contexts")
        rows = [min(most_rows, n) for n in contexts]
        width = row_width(n_symbols)
        chance = np.empty((1 + sum(rows[:-1]), width), np.float64)
        fresh = [np.empty((1 + n, 3), np.int32) for n in rows]
        chance[0, :n_symbols], chance[0, n_symbols:] = weights[0] * (SCALE // n_symbols), 0
        cumulative, scale = np.empty((rows[-1], width + 1), np.uint32), np.empty(rows[-1], np.float64)
        numbers = [np.array(values, np.int64) for values in (weights, strides)]
        tables = [kernel.pointers(arrays) for arrays in (*parts, fresh)]
        n_places = np.zeros(len(contexts), np.int64)
        structure.n_symbols, structure.depth, structure.width = n_symbols, len(contexts) - 1, width
        structure.weights, structure.strides = (a.ctypes.data for a in numbers)
        structure.n_places = n_places.ctypes.data
        structure.seen, structure.counts, structure.counted, structure.fresh = (ctypes.addressof(table) for table in tables)
        structure.chance, structure.cumulative, structure.scale = chance.ctypes.data, cumulative.ctypes.data, scale.ctypes.data
        found = np.empty(max(1, most_rows), np.int32)
        structure.rows = found.ctypes.data
        self._kept += [chance, cumulative, scale, numbers, tables, n_places, fresh, found]

    def clear(self) -> None:
        """Forget what was counted: all of `ground` is 0 again."""
        c = kernel.library()
        assert c is not None
        c.lp_clear(self._structures, kernel.size(self.n_digits))

    def raw_slots(self, first: Ints) -> int:
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
