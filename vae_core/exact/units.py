"""What a value is of one unit of another column: an amount by its quantity is a price, which its goods tell where no amount recurs.

A quotient of whole numbers, where the division leaves nothing. Codes are numbers of a lattice, start + step · code, in whatever unit
makes both columns whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
LOOKED_AT, LEAST_LOOKED_AT = 4_096, 256  # rows
NEARLY_ALL, BY_CHANCE = 0.9, 0.7  # of rows that divide: by their own number, and at most by another row's
MOST_NUMBER = 1 << 62
NO_QUOTIENT = -(2**63)


@dataclass(frozen=True, slots=True)
class Unit:
    """A column that a value is a multiple of.

    column : earlier; its number is by_start + by_step · code        start, step : the value's number is start + step · code
    """

    column: int
    start: int
    step: int
    by_start: int
    by_step: int

    def to_json(self) -> list[int]:
        return [self.column, self.start, self.step, self.by_start, self.by_step]

    def quotients(self, values: Ints, by: Ints) -> tuple[Ints, Bools]:
        """(n,) values as multiples of codes `by`, (n,) of the column, NO_QUOTIENT where they are none; and where they are."""
        with np.errstate(over="ignore"):
            number, divisor = self.start + self.step * values, self.by_start + self.by_step * by
            safe = np.where((divisor == 0) | (divisor == -1), 1, divisor)
            found = np.where(divisor == -1, -number, number // safe)
            fits = (divisor != 0) & (found * divisor == number) & (found != NO_QUOTIENT)
            fits &= (number - self.start) // self.step == values  # not where a step more than once round comes to the same
        return np.where(fits, found, NO_QUOTIENT), fits

    def values(self, quotients: Ints, by: Ints) -> Ints:
        """The inverse, where there are quotients; some number elsewhere."""
        with np.errstate(over="ignore"):
            found: Ints = (quotients * (self.by_start + self.by_step * by) - self.start) // self.step
        return found


def unit_from_json(parts: Any, n_columns: int) -> Unit:
    """The inverse of Unit.to_json. Raises CorruptArchive."""
    match parts:
        case [int(column), int(start), int(step), int(by_start), int(by_step)] if 0 <= column < n_columns:
            unit = Unit(column, start, step, by_start, by_step)
        case _:
            raise CorruptArchive(f"model holds a malformed unit: {str(parts)[:60]}")
    if any(abs(n) >= MOST_NUMBER for n in (start, step, by_start, by_step)) or step < 1 or by_step < 1:
        raise CorruptArchive(f"model recalls by multiples of a lattice of steps {step} and {by_step}")
    return unit


def unit_of(column: int, own: tuple[int, int], by: tuple[int, int]) -> Unit:
    """The unit that a column is, by start and step of either's numbers, without what all of a column's have in common."""
    common, common_by = (max(1, gcd(*lattice)) for lattice in (own, by))
    return Unit(column, own[0] // common, own[1] // common, by[0] // common_by, by[1] // common_by)


def best_unit(
    values: Ints, own: tuple[int, int], others: Mapping[int, Ints], lattices: Mapping[int, tuple[int, int]]
) -> Unit | None:
    """The column that values are multiples of in nearly all rows, and are not of its other rows; None where there is none.

    values : (n,) codes, start and step `own`        others : column -> (n,) codes, of lattices
    """
    best: tuple[float, Unit] | None = None
    values = values[:LOOKED_AT]
    for column, codes in others.items() if len(values) >= LEAST_LOOKED_AT else ():
        unit, by = unit_of(column, own, lattices[column]), codes[: len(values)]
        first = unit.quotients(values[:LEAST_LOOKED_AT], by[:LEAST_LOOKED_AT])[1]
        if first.mean() < NEARLY_ALL or unit.quotients(values, by)[1].mean() < NEARLY_ALL:
            continue
        chance = float(unit.quotients(values, np.roll(by, len(by) // 2 + 1))[1].mean())
        if chance <= BY_CHANCE and (best is None or chance < best[0]):
            best = chance, unit
    return None if best is None else best[1]
