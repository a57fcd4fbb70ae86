"""Finding, on a sample, the columns by whose values a column is best recalled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vae_core.exact.recall import MAX_KEYS, key_numbers

Ints = NDArray[np.int64]
WORTH_A_KEY = 0.98  # of the bits without one more key


def best_keys(candidates: Mapping[int, Ints], values: Ints, bits: float) -> tuple[tuple[int, ...], float]:
    """Keys, at most MAX_KEYS, and roughly the bits of a column recalled by them.

    candidates : column -> (n,) values of columns decoded earlier, at the rows that count
    values     : (n,) of the column itself          bits : what these cost without recall
    Empty keys when nothing is gained. A cell that is not recalled is taken to cost what one costs without recall.
    """
    n = len(values)
    numbers = {column: key_numbers([known]) for column, known in candidates.items()}
    keys: tuple[int, ...] = ()
    key, best = np.zeros(n, np.int64), float("inf")
    while n and len(keys) < MAX_KEYS:
        trials = []
        for column, number in numbers.items():
            if column not in keys:
                joined = key * (int(number.max()) + 1) + number
                flags, missed = recalled_share(joined, values)
                trials.append((flags * n + missed * bits, column, joined))
        if not trials:
            break
        found, column, joined = min(trials, key=lambda t: (t[0], t[1]))
        if found > WORTH_A_KEY * best:
            break
        keys, best = (*keys, column), found
        key = np.unique(joined, return_inverse=True)[1].astype(np.int64)
    return (keys, best) if best < WORTH_A_KEY * bits else ((), bits)


def recalled_share(key: Ints, values: Ints) -> tuple[float, float]:
    """Of (n,) values recalled by (n,) keys: bits of flags a row, and the share of rows that are not recalled."""
    by_key = np.argsort(key, kind="stable")
    ordered, known = values[by_key], key[by_key]
    again = known[1:] == known[:-1]
    n, n_seen = max(1, len(key)), int(again.sum())
    n_same = int((again & (ordered[1:] == ordered[:-1])).sum())
    share = (n_same + 0.5) / (n_seen + 1)
    flags = -n_same * np.log2(share) - (n_seen - n_same) * np.log2(1 - share)
    return float(flags) / n, 1 - n_same / n
