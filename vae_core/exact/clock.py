"""Clocks: integers HHMM as minutes and back, a bijection on all int64 that occur."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def to_minutes(values: Ints) -> Ints:
    """HHMM to minutes where the last two digits are a minute, anything else to the integers these leave free."""
    quotient = values // 100
    rest = values - 100 * quotient
    if len(values) and 0 <= values.min() <= values.max() < 1 << 40 and rest.max() < 60:
        return values - 40 * quotient
    regular = (values >= 0) & (values < 1 << 40) & (rest < 60)
    odd = (values >= 0) & (values < 1 << 40) & (rest >= 60)
    spare = -(quotient * 40 + (rest - 60)) - 1
    return np.where(regular, quotient * 60 + rest, np.where(odd, spare, np.where(values < 0, values - (1 << 41), values)))


def from_minutes(minutes: Ints) -> Ints:
    """The inverse of to_minutes on its image."""
    hours = minutes // 60
    found = minutes + 40 * hours
    if len(minutes) and not 0 <= minutes.min() <= minutes.max() < 1 << 40:
        spare = -(minutes + 1)
        quotient, rest = np.divmod(spare, 40)
        odd = quotient * 100 + rest + 60
        found = np.where(
            minutes < -(1 << 41), minutes + (1 << 41), np.where(minutes < 0, odd, np.where(minutes >= 1 << 40, minutes, found))
        )
    return found
