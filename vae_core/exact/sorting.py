"""Stable orders of rows: numpy sorts by counting where integers have 16 bits, which beats any comparison; compiled code wherever numbers
are not many more than rows (entropy/serial.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import serial

Ints = NDArray[np.int64]
Symbols = NDArray[np.uint16]
MOST_PASSES = 3  # of 16 bits a column: beyond that comparing is as quick
MOST_NUMBERS, FEW_NUMBERS = 4, 1 << 12  # for each row, and beside that, for all of them to be counted


def by_number(numbers: NDArray[np.signedinteger[Any]], order: Ints | None = None) -> Ints:
    """(n,) rows by (n,) non-negative numbers; those of one number stay in `order`, or in that of the rows."""
    rest = int(numbers.max()) if len(numbers) else 0
    if _are_counted(rest, len(numbers)) and (c := serial.library()) is not None:
        found = serial.order(c, numbers, order, rest + 1)
        if found is not None:
            return found
    shift = 0
    while rest or order is None:
        digit = (numbers >> shift).astype(np.uint16)
        found = np.argsort(digit if order is None else digit.take(order), kind="stable")
        order = found if order is None else order.take(found)
        rest, shift = rest >> 16, shift + 16
    return order


def gather(numbers: NDArray[np.signedinteger[Any]], values: Symbols) -> Symbols:
    """(n,) uint16 values of rows, in the order of rows by (n,) non-negative numbers below 2**31."""
    found = _by_counting(numbers, values, to_rows=False)
    return values.take(by_number(numbers)) if found is None else found


def spread(numbers: NDArray[np.signedinteger[Any]], values: Symbols) -> Symbols:
    """The inverse: (n,) uint16 values that stand in that order, each at its row."""
    found = _by_counting(numbers, values, to_rows=True)
    if found is not None:
        return found
    spread_out = np.empty(len(numbers), np.uint16)
    spread_out[by_number(numbers)] = values
    return spread_out


def _by_counting(numbers: NDArray[np.signedinteger[Any]], values: Symbols, to_rows: bool) -> Symbols | None:
    most = int(numbers.max()) if len(numbers) else 0
    c = serial.library() if _are_counted(most, len(numbers)) else None
    return None if c is None else serial.moved(c, numbers, values, most + 1, to_rows)


def _are_counted(most: int, n: int) -> bool:
    return 0 <= most < MOST_NUMBERS * n + FEW_NUMBERS


def by_columns(columns: Sequence[Ints]) -> Ints:
    """(n,) rows by one or more columns, (n,) each, the first one above all; ties keep their order."""
    order: Ints | None = None
    for values in reversed(columns):
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        if (high - low) >> (16 * MOST_PASSES):
            return np.lexsort(list(reversed(columns)))
        order = by_number(values - low, order)
    assert order is not None
    return order
