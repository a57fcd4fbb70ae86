"""Which pattern the texts of a column have, of those that tell each by a number."""

from __future__ import annotations

import pyarrow as pa

from vae_core.columns.numerals import find_numerals
from vae_core.columns.texts import TextPattern, find_pattern
from vae_core.columns.times import find_times


def find_written(body: pa.Array, *, amounts: bool = False) -> TextPattern | None:
    """The pattern of nearly all of a sample's texts, (n,) large_binary without nulls, None where they have none: times first, then numbers.

    amounts : those alone that are a time, or say one number that is no part of a name
    """
    of_digits = find_pattern(body)
    if of_digits is not None and of_digits.order:
        return of_digits
    if (times := find_times(body)) is not None:
        return times
    numerals = find_numerals(body)
    if amounts:
        return numerals if numerals is not None and numerals.is_amount else None
    if numerals is None or of_digits is None:
        return numerals or of_digits
    # what is longer by and by is no misfit of a number, but zeros in front may be
    return numerals if _n_fits(numerals, body) >= _n_fits(of_digits, body) else of_digits


def _n_fits(pattern: TextPattern, body: pa.Array) -> int:
    return int(pattern.numbers(body)[1].sum())
