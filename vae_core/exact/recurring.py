"""Finding, on a sample, the keys of memories (`matches`) that tell a column of rows coded one after another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.exact.costs import RANK_WEIGHTS, extend, rank, root
from vae_core.exact.counts import MAX_CELLS
from vae_core.exact.features import NOISE_LEVELS
from vae_core.exact.forward import fixed_totals, known_of_rows
from vae_core.exact.lanes import Lanes
from vae_core.exact.linear import Linear
from vae_core.exact.matches import LEVELS, Match
from vae_core.exact.sampled import Sampled
from vae_core.exact.tally import Narrow

Ints = NDArray[np.int64]
OWN_KEYS = ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6))
KEYED, PAIRED = 6, 4  # other columns that make keys, and those of them that make pairs
MOST_KEPT, JUDGED_ROWS = 2, 30_000
MOST_LEADERS, MOST_BESIDE = 3, 8  # keys tried again with another prediction of the same lanes, or other digits: the most telling
WORTH_KEEPING, WORTH_LEADING = 0.02, 0.15  # bits a row


def keys_to_try(sampled: Sampled, column: int) -> tuple[Match, ...]:
    """Keys: rows before, other columns, both. None where they are not asked for, or there is no kernel to try so many."""
    if not sampled.remembers or not kernel.available():
        return ()
    near = [c.column for c in sampled.related(column, KEYED)]
    found = [Match((), lags) for lags in OWN_KEYS]
    found += [Match((j,), lags) for j in near for lags in ((), (1,))]
    found += [Match(pair) for pair in itertools.combinations(near[:PAIRED], 2)]
    return tuple(found)


def best_leader(
    sampled: Sampled, own: Ints, lanes: Lanes, linear: Linear, tried: Sequence[Match]
) -> tuple[Match | None, Sequence[Match]]:
    """The match that predicts a column, (n_rows,) values, much better than a linear prediction does, if one does; and those worth a try
    beside another prediction of the same lanes."""
    if not tried:
        return None, ()
    truth, totals = own[lanes.rows], fixed_totals(lanes, linear, sampled.decoded)

    def off(matches: tuple[Match, ...]) -> float:
        guess = known_of_rows(lanes, linear, sampled.decoded, own, matches, 0 if matches else None, totals)[0]
        with np.errstate(over="ignore"):
            return float(np.log2(1.0 + np.abs((truth - guess).astype(np.float64))).mean())

    offs = list(sampled.each(off, [(match,) for match in tried]))
    found = sorted(zip(offs, range(len(tried)), strict=True), key=lambda f: f[0])
    likely = tuple(tried[k] for _, k in found[:MOST_LEADERS])
    return likely[0] if found[0][0] < off(()) - WORTH_LEADING else None, likely


def best_beside(
    symbols: Narrow, n_symbols: int, noise: Narrow, levels: Sequence[Narrow], sampled: Sampled
) -> tuple[list[int], list[int]]:
    """Which of several memories tell most of (n,) first digits beside the noise, each beside those before it; and all, those that tell most
    on their own first."""
    stride = max(1, len(symbols) // JUDGED_ROWS)
    thin = np.ascontiguousarray(symbols[::stride])
    chain = extend(root(thin, n_symbols), noise[::stride], NOISE_LEVELS, thin, n_symbols, RANK_WEIGHTS)
    kept, ranking = list[int](), list(range(len(levels)))
    while levels and len(kept) < MOST_KEPT and chain.n_possible * LEVELS * n_symbols <= MAX_CELLS:
        bits = rank(chain, [(level[::stride], LEVELS) for level in levels], thin, n_symbols, sampled.each)
        best = min(range(len(levels)), key=lambda k: bits[k])
        ranking = ranking if kept else sorted(ranking, key=lambda k: bits[k])
        if chain.bits - bits[best] < WORTH_KEEPING * len(thin):
            break
        kept.append(best)
        chain = extend(chain, levels[best][::stride], LEVELS, thin, n_symbols, RANK_WEIGHTS)
    return kept, ranking
