"""Finding, on a sample, the columns by whose values a column is best recalled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_core.exact import tally
from vae_core.exact.recall import MAX_KEYS

Ints = NDArray[np.int64]
MOST_KEYS = 1 << 62
WORTH_A_KEY = 0.98  # of the bits without one more key
FIRSTS = 2  # first keys of pairs: so many of the best on their own
NEAREST = 2  # and so many of those that tell most of the column


@dataclass(frozen=True, slots=True)
class _Trial:
    bits: float
    keys: tuple[int, ...]
    key: Ints


def best_keys(candidates: Mapping[int, Ints], values: Ints, bits: float) -> tuple[tuple[int, ...], float]:
    """Keys, at most MAX_KEYS, and roughly the bits of a column recalled by them.

    candidates : column -> (n,) values of columns decoded earlier, at the rows that count; those that tell most of it first
    values     : (n,) of the column itself          bits : what these cost without recall
    Empty keys when nothing is gained. A cell that is not recalled is taken to cost what one costs without recall. Pairs are
    tried from several first keys: one of two columns that determine a third together need tell nothing of it alone.
    """
    n = len(values)
    if not n or not candidates:
        return (), bits
    numbers = {column: numbered(known) for column, known in candidates.items()}

    def priced(keys: tuple[int, ...], key: Ints) -> _Trial:
        flags, missed = recalled_share(key, values)
        return _Trial(flags * n + missed * bits, keys, key)

    def widened(trial: _Trial) -> list[_Trial]:
        dense, _ = numbered(trial.key)
        others = [(j, *number) for j, number in numbers.items() if j not in trial.keys]
        return [priced((*trial.keys, j), dense * n_numbers + number) for j, number, n_numbers in others]

    singles = sorted((priced((j,), number) for j, (number, _) in numbers.items()), key=lambda t: (t.bits, t.keys))
    near = list(candidates)[:NEAREST]
    firsts = singles[:FIRSTS] + [t for t in singles[FIRSTS:] if t.keys[0] in near]
    best = singles[0]
    trials = [pair for first in firsts for pair in widened(first)]
    while trials:
        found = min(trials, key=lambda t: (t.bits, t.keys))
        if found.bits > WORTH_A_KEY * best.bits:
            break
        best = found
        trials = widened(best) if len(best.keys) < MAX_KEYS else []
    return (best.keys, best.bits) if best.bits < WORTH_A_KEY * bits else ((), bits)


def numbered(values: Ints) -> tuple[Ints, int]:
    """(n,) small integers, equal exactly where the values are, and how many there are."""
    c = tally.library()
    if c is None or not len(values):
        distinct, number = np.unique(values, return_inverse=True)
        return number.astype(np.int64), len(distinct)
    low = int(values.min())
    with np.errstate(over="ignore"):
        return tally.number(c, values - np.int64(low), min(int(values.max()) - low + 1, MOST_KEYS))


def recalled_share(key: Ints, values: Ints) -> tuple[float, float]:
    """Of (n,) values recalled by (n,) keys, none negative: bits of flags a row, and the share of rows that are not recalled."""
    c = tally.library()
    if c is None or not len(key):
        by_key = np.argsort(key, kind="stable")
        ordered, known = values[by_key], key[by_key]
        again = known[1:] == known[:-1]
        n_seen, n_same = int(again.sum()), int((again & (ordered[1:] == ordered[:-1])).sum())
    else:
        n_seen, n_same = tally.recalled(c, key, int(key.max()) + 1, values)
    n = max(1, len(key))
    share = (n_same + 0.5) / (n_seen + 1)
    flags = -n_same * np.log2(share) - (n_seen - n_same) * np.log2(1 - share)
    return float(flags) / n, 1 - n_same / n
