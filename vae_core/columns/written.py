"""Which pattern the texts of a column have, of those that tell each by a number, and whether they had better be numbers than words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vae_core.columns.numerals import NumberText, find_numerals
from vae_core.columns.physical import Ints
from vae_core.columns.texts import TextPattern, find_pattern
from vae_core.columns.times import find_times

WIDEST_KEY = 1 << 16  # numbers that each can tell something of its own; of more, words that recur are better keys
SPARSE, DENSE = 64, 4  # steps to each number: of times, and of what may be names, as codes of goods are
IN_ORDER, LEAST_STEPS = 2.0, 64  # bits that steps take less than words, where rows are in order


def find_written(body: pa.Array) -> TextPattern | None:
    """The pattern of nearly all of a sample's texts, (n,) large_binary without nulls, None where they have none: times first, then
    numbers."""
    of_digits = find_pattern(body)
    if of_digits is not None and of_digits.order:
        return of_digits
    if (times := find_times(body)) is not None:
        return times
    numerals = find_numerals(body)
    if numerals is None or of_digits is None:
        return numerals or of_digits
    # what is longer by and by is no misfit of a number, but zeros in front may be
    return numerals if _n_fits(numerals, body) >= _n_fits(of_digits, body) else of_digits


def are_amounts(pattern: TextPattern, values: Ints, n_words: int) -> bool:
    """Whether texts that recur are better told by the (n,) numbers of a sample than as so many words: times, and numbers that stand close,
    or go on in small steps from row to row."""
    span = int(values.max()) - int(values.min()) if len(values) else 0
    if not 0 < span < WIDEST_KEY:
        return False
    if pattern.calendar is not None:
        return span < SPARSE * n_words
    if not (isinstance(pattern, NumberText) and pattern.is_amount):
        return False
    if span < DENSE * n_words:
        return True
    steps = np.diff(values)
    steps = np.abs(steps[steps != 0])  # what is the same as in the row before is so as a word, too
    if len(steps) < LEAST_STEPS:
        return False
    share = np.unique(values, return_counts=True)[1] / len(values)
    return bool(np.log2(steps).mean() + IN_ORDER < -(share * np.log2(share)).sum())


def _n_fits(pattern: TextPattern, body: pa.Array) -> int:
    return int(pattern.numbers(body)[1].sum())
