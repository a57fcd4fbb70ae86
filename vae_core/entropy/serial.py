"""Loops that go on from what they found one step before, in compiled code: serial.c, loaded as kernel.py loads the coder's.

exact/recall.py, exact/sorting.py and weights.py are the specification, and what runs without it: the same results, slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel

Ints = NDArray[np.int64]
Symbols = NDArray[np.uint16]
Bools = NDArray[np.bool_]
SOURCE = Path(__file__).with_name("serial.c")
MOST_ROWS = 1 << 28
ADAPTIVE = [0, 1, -1, 5, -300, 7, 7, 7, -2, 0, 0, 123456789, -(2**62), 2**63 - 1, 3, -4, 0, 1, *[1 - 2**64] * 6]
_ALIKE = [np.array(values, np.uint64).view(np.int64) for values in ([1, 2**63, 1], [0, 0x1E3779B98EF1B1DE, 0])]
CODED = bytes.fromhex("a6208e5f3eed5fcd4476beacb2ebcf8000000000000d05f97ffffffffff0e4000000022fd7ae00000000000000004f330040bd")


@cache
def library() -> Any | None:
    """The loaded functions, None when there are none to be had."""
    return kernel.load(SOURCE, ("lp_links", "lp_order", "lp_move"), agrees)


def links(c: Any, columns: Sequence[Ints], active: Bools | None) -> tuple[NDArray[np.int32], Bools] | None:
    """(n,) the last active row before each active one that holds the same in all columns, (n,) each, -1 for none and where a row is
    not active; (n,) whether there is one; None where sorting is quicker."""
    n = len(columns[0])
    if n > MOST_ROWS:
        return None
    columns = [np.ascontiguousarray(values, np.int64) for values in columns]
    bits, found, seen = max(4, (2 * n).bit_length()), np.empty(n, np.int32), np.empty(n, np.bool_)
    cells, keys = np.zeros(1 << bits, np.int32), np.empty(n, np.uint64)
    active = None if active is None else np.ascontiguousarray(active)
    done = c.lp_links(
        kernel.pointers(columns), kernel.size(len(columns)), None if active is None else kernel.pointer(active), kernel.size(n),
        kernel.size(bits), kernel.pointer(cells), kernel.pointer(keys), kernel.pointer(found), kernel.pointer(seen),
    )  # fmt: skip
    return (found, seen) if done else None


def copy(c: Any, values: Ints, same: Ints, previous: NDArray[np.int32]) -> None:
    """Give rows whose (n,) flag is set the value of the row they are linked to, in place, first rows first."""
    same = np.ascontiguousarray(same, np.int64)
    c.lp_copy(kernel.pointer(values), kernel.pointer(same), kernel.pointer(previous), kernel.size(len(values)))


def order(c: Any, numbers: NDArray[np.signedinteger[Any]], before: Ints | None, n_numbers: int) -> Ints | None:
    """As exact.sorting.by_number; None where there is a number beyond 0 .. n_numbers - 1, or too many rows."""
    if len(numbers) > MOST_ROWS or (before is not None and len(before) != len(numbers)):
        return None
    numbers, found = np.ascontiguousarray(numbers, np.int64), np.empty(len(numbers), np.int64)
    before = None if before is None else np.ascontiguousarray(before, np.int64)
    starts = np.zeros(n_numbers, np.int32)
    done = c.lp_order(
        kernel.pointer(numbers), None if before is None else kernel.pointer(before), kernel.size(len(numbers)), kernel.size(n_numbers),
        kernel.pointer(starts), kernel.pointer(found),
    )  # fmt: skip
    return found if done else None


def moved(c: Any, numbers: NDArray[np.signedinteger[Any]], values: Symbols, n_numbers: int, to_rows: bool) -> Symbols | None:
    """As exact.sorting.spread, to rows, or as gather; None as of `order`, and of numbers that are not int32."""
    if len(numbers) > MOST_ROWS or len(values) != len(numbers) or numbers.dtype != np.int32:
        return None
    numbers, values = np.ascontiguousarray(numbers), np.ascontiguousarray(values, np.uint16)
    starts, found = np.zeros(n_numbers, np.int32), np.empty(len(numbers), np.uint16)
    done = c.lp_move(
        kernel.pointer(numbers), kernel.size(len(numbers)), kernel.size(n_numbers), kernel.pointer(starts), kernel.pointer(values),
        kernel.pointer(found), kernel.size(to_rows),
    )  # fmt: skip
    return found if done else None


def adaptive(c: Any, payload: bytes, count: int) -> list[int]:
    """As weights._decode_adaptive."""
    sizes, negative = np.empty(count, np.uint64), np.empty(count, np.uint8)
    data = np.frombuffer(payload, np.uint8)
    c.lp_adaptive(kernel.pointer(data), kernel.size(len(data)), kernel.size(count), kernel.pointer(sizes), kernel.pointer(negative))
    return [-size if minus else size for size, minus in zip(sizes.tolist(), negative.tolist(), strict=True)]


def _linked(columns: Sequence[Ints], active: Bools) -> list[int]:
    """As links."""
    found, last = list[int](), dict[tuple[int, ...], int]()
    for i, (key, counts) in enumerate(zip(zip(*(v.tolist() for v in columns), strict=True), active.tolist(), strict=True)):
        found.append(last.get(key, -1) if counts else -1)
        if counts:
            last[key] = i
    return found


def agrees(c: Any) -> bool:
    """Whether the functions do what they should."""
    rng = np.random.default_rng(3)
    columns = [rng.integers(-2, 2, 200), rng.integers(-12, 12, 200)]
    active, wanted = rng.random(200) < 0.8, list[int]()
    wide = [columns[0] << 20, columns[1] << 20, rng.integers(0, 8, 200) << 10]
    # keys of more than 64 bits that are told apart by their columns alone, others, few of them, and those that 64 bits tell apart
    for some in (_ALIKE, [columns[0], columns[1] << 60], columns, wide):
        wanted, found = _linked(some, active[: len(some[0])]), links(c, some, active[: len(some[0])])
        if found is None or found[0].tolist() != wanted or found[1].tolist() != [row >= 0 for row in wanted]:
            return False
    values, same = rng.integers(-9, 9, 200), rng.integers(0, 2, 200)
    copied = values.tolist()
    for i, row in enumerate(wanted):
        if same[i] and row >= 0:
            copied[i] = copied[row]
    copy(c, values, same, np.array(wanted, np.int32))
    if values.tolist() != copied:
        return False
    first = order(c, columns[0] + 2, None, 4)
    if first is None or not np.array_equal(first, np.argsort(columns[0], kind="stable")) or order(c, columns[0], None, 4) is not None:
        return False
    numbers, there, rows = (columns[0] + 2).astype(np.int32), first.astype(np.uint16), np.arange(200, dtype=np.uint16)
    back, forth = moved(c, numbers, there, 4, to_rows=True), moved(c, numbers, rows, 4, to_rows=False)
    if back is None or forth is None or not (np.array_equal(back, rows) and np.array_equal(forth, there)):
        return False
    then, other = order(c, same, first, 2), first.take(np.argsort(same.take(first), kind="stable"))
    return then is not None and np.array_equal(then, other) and adaptive(c, CODED, len(ADAPTIVE)) == ADAPTIVE
