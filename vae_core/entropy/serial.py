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
Bools = NDArray[np.bool_]
SOURCE = Path(__file__).with_name("serial.c")
MOST_ROWS = 1 << 28
ADAPTIVE = [0, 1, -1, 5, -300, 7, 7, 7, -2, 0, 0, 123456789, -(2**62), 2**63 - 1, 3, -4, 0, 1, *[1 - 2**64] * 6]
CODED = bytes.fromhex("a6208e5f3eed5fcd4476beacb2ebcf8000000000000d05f97ffffffffff0e4000000022fd7ae00000000000000004f330040bd")


@cache
def library() -> Any | None:
    """The loaded functions, None when there are none to be had."""
    return kernel.load(SOURCE, ("lp_links", "lp_order", "lp_spread"), agrees)


def links(c: Any, columns: Sequence[Ints], active: Bools | None) -> Ints | None:
    """(n,) the last active row before each active one that holds the same in all columns, (n,) each, -1 for none and where a row is
    not active; None where sorting is quicker."""
    n = len(columns[0])
    if n > MOST_ROWS:
        return None
    columns = [np.ascontiguousarray(values, np.int64) for values in columns]
    bits, found = max(4, (2 * n).bit_length()), np.empty(n, np.int64)
    cells = np.zeros(1 << bits, np.int32)
    active = None if active is None else np.ascontiguousarray(active)
    done = c.lp_links(
        kernel.pointers(columns), kernel.size(len(columns)), None if active is None else kernel.pointer(active), kernel.size(n),
        kernel.size(bits), kernel.pointer(cells), kernel.pointer(found),
    )  # fmt: skip
    return found if done else None


def copy(c: Any, values: Ints, same: Ints, previous: Ints) -> None:
    """Give rows whose (n,) flag is set the value of the row they are linked to, in place, first rows first."""
    same = np.ascontiguousarray(same, np.int64)
    c.lp_copy(kernel.pointer(values), kernel.pointer(same), kernel.pointer(previous), kernel.size(len(values)))


def order(c: Any, numbers: Ints, before: Ints | None, n_numbers: int) -> Ints | None:
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


def spread(c: Any, numbers: Ints, values: Ints, n_numbers: int) -> Ints | None:
    """As exact.sorting.spread; None as of `order`."""
    if len(numbers) > MOST_ROWS or len(values) != len(numbers):
        return None
    numbers, values = np.ascontiguousarray(numbers, np.int64), np.ascontiguousarray(values, np.int64)
    starts, found = np.zeros(n_numbers, np.int32), np.empty(len(numbers), np.int64)
    done = c.lp_spread(
        kernel.pointer(numbers), kernel.size(len(numbers)), kernel.size(n_numbers), kernel.pointer(starts), kernel.pointer(values),
        kernel.pointer(found),
    )  # fmt: skip
    return found if done else None


def adaptive(c: Any, payload: bytes, count: int) -> list[int]:
    """As weights._decode_adaptive."""
    sizes, negative = np.empty(count, np.uint64), np.empty(count, np.uint8)
    data = np.frombuffer(payload, np.uint8)
    c.lp_adaptive(kernel.pointer(data), kernel.size(len(data)), kernel.size(count), kernel.pointer(sizes), kernel.pointer(negative))
    return [-size if minus else size for size, minus in zip(sizes.tolist(), negative.tolist(), strict=True)]


def agrees(c: Any) -> bool:
    """Whether the functions do what they should."""
    rng = np.random.default_rng(3)
    columns = [rng.integers(-2, 2, 200), rng.integers(-12, 12, 200) << 58]
    active = rng.random(200) < 0.8
    last: dict[tuple[int, ...], int] = {}
    wanted, values, same = [], rng.integers(-9, 9, 200), rng.integers(0, 2, 200)
    copied = values.tolist()
    for i, (key, counts) in enumerate(zip(zip(*(v.tolist() for v in columns), strict=True), active.tolist(), strict=True)):
        wanted.append(last.get(key, -1) if counts else -1)
        if counts:
            last[key] = i
        if same[i] and wanted[i] >= 0:
            copied[i] = copied[wanted[i]]
    found = links(c, columns, active)
    if found is None or found.tolist() != wanted:
        return False
    first = order(c, columns[0] + 2, None, 4)
    if first is None or not np.array_equal(first, np.argsort(columns[0], kind="stable")) or order(c, columns[0], None, 4) is not None:
        return False
    if (spread_out := spread(c, columns[0] + 2, first, 4)) is None or spread_out.tolist() != list(range(200)):
        return False
    then, other = order(c, same, first, 2), first.take(np.argsort(same.take(first), kind="stable"))
    if then is None or not np.array_equal(then, other):
        return False
    copy(c, values, same, found)
    return values.tolist() == copied and adaptive(c, CODED, len(ADAPTIVE)) == ADAPTIVE
