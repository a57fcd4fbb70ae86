"""The row above: tables that hold rasters, cycles or panels row after row have rows that belong beside each other so many rows apart.

Lines of a map that is clipped, days with readings missing and devices one after another differ in length, so that no lag of fixed length
finds the row above. How many rows above it stands is found when a block is written, from all amounts together, and told in runs of rows.
A reader knows it before any column (FORMAT.md, "Rows above").
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vae_core.coders.fields.columns import Allowance, pack_integers, unpack_integers
from vae_core.coders.varints import Reader, varints
from vae_core.errors import CorruptArchive
from vae_core.exact import tally
from vae_core.exact.features import steps_above
from vae_core.exact.lags import seasons_of
from vae_core.exact.plans import ColumnCode

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
NEAREST, FARTHEST = 8, 2_048  # rows above that are looked for
MOST_COLUMNS = 10  # that are compared
FINE, FAR = 4, 25  # units of a column's usual step, and as many units as a difference counts at most: of ten columns they fit a byte
JUMP = 50  # units that it costs to look elsewhere: about what telling it takes
STRICT = 160  # likewise, where it is asked whether there is anything to tell: few jumps cannot be made to fit what is noise
WORTH_TELLING = 0.08  # bits a row and column
STRIPE = 1_024  # rows whose costs are known at once


def find_above(columns: Sequence[Ints], n_rows: int, jump: int = JUMP) -> Ints:
    """(n_rows,) how many rows above each row one like it stands, the same for rows side by side as far as they are alike.

    columns : (n_rows,) amounts, MOST_COLUMNS at most are compared by their steps        jump : units that another distance costs
    """
    if n_rows <= NEAREST or not columns:
        return np.zeros(n_rows, np.int64)
    scaled = np.stack([_scaled(values) for values in columns[:MOST_COLUMNS]])
    found = _followed(scaled, min(FARTHEST, n_rows - 1), jump)
    found[found > np.arange(n_rows)] = 0
    return found


def _followed(scaled: Bytes, farthest: int, jump: int) -> Ints:
    """(n_rows,) lags that cost least in all, by dynamic programming: what rows differ, and a jump where the lag is another than before."""
    n_rows = scaled.shape[1]
    likely, began = np.empty(n_rows, np.int32), np.empty(n_rows, np.int32)
    compiled = tally.library()
    if compiled is not None:
        tally.above(compiled, scaled, (NEAREST, farthest), FAR, jump, likely, began)
    else:
        follow(scaled, farthest, jump, likely, began)
    found = np.empty(n_rows, np.int64)
    stop = n_rows
    while stop > 0:
        start = int(began[stop - 1])
        found[start:stop] = likely[stop - 1]
        stop = start
    return found


def follow(scaled: Bytes, farthest: int, jump: int, likely: NDArray[np.int32], began: NDArray[np.int32]) -> None:
    """Of each row the lag at the end of the least dear way so far, the nearest of equals, and the row since when it is that one."""
    n_rows = scaled.shape[1]
    lags = np.arange(NEAREST, farthest + 1)
    best, since = np.zeros(len(lags), np.uint32), np.zeros(len(lags), np.int32)
    least = jump
    for start in range(0, n_rows, STRIPE):
        for row, cost in enumerate(_costs(scaled, start, min(n_rows, start + STRIPE), lags), start):
            jumps = best > least
            best[jumps], since[jumps] = least, row
            best += cost
            last = int(best.argmin())
            least = int(best[last]) + jump
            likely[row], began[row] = lags[last], since[last]


def _costs(scaled: Bytes, start: int, stop: int, lags: Ints) -> Bytes:
    """(rows, lags) how far rows are from those above them, in units; FAR where there are none."""
    found = np.zeros((len(lags), stop - start), np.uint8)
    for cost, lag in zip(found, lags.tolist(), strict=True):
        first = max(start, lag)
        cost[: first - start] = len(scaled) * FAR
        if first < stop:
            off = np.abs((scaled[:, first:stop] - scaled[:, first - lag : stop - lag]).view(np.int8)).view(np.uint8)
            np.add.reduce(np.minimum(off, FAR), axis=0, dtype=np.uint8, out=cost[first - start :])
    return np.ascontiguousarray(found.T)


def telling_of(codes: Sequence[ColumnCode]) -> list[int]:
    """The columns by which rows above are found: amounts that are told by them."""
    return [code.column for code in codes if code.value.reads_above and code.value.linear is not None and code.value.linear.terms]


def above_of_runs(columns: Sequence[Ints], runs: Sequence[int], jump: int = JUMP) -> Ints:
    """As find_above of each of several runs of rows, that stand one behind another; their lengths."""
    edges = np.cumsum([0, *runs])
    return np.concatenate([find_above([v[a:b] for v in columns], int(b - a), jump) for a, b in itertools.pairwise(edges)] or [edges[:0]])


def tells(columns: Sequence[Ints], above: Ints) -> bool:
    """Whether rows above tell more of amounts, (n_rows,) each, than the rows before do, and than it takes to tell which they are."""
    if not len(above) or not above.any():
        return False
    rows = np.arange(len(above))
    at = rows - steps_above(above, rows, 0)
    saved = 0.0
    for values in columns:
        x = values.astype(np.float64)
        step = np.diff(x, prepend=x[:1])
        plain = [x - np.median(x), step, np.diff(step, prepend=0.0)]
        for season in seasons_of(values):
            plain += [x[season:] - x[:-season], *_stepwise(step[season:], step[:-season])]
        told = x - x[at], *_stepwise(step, step[at])
        saved += max(0.0, min(map(_size, plain)) - min(map(_size, told)))
    return saved - 8 * len(pack_above(above)) / len(above) > WORTH_TELLING * len(columns)


def _stepwise(step: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far steps are from others, and from half of these."""
    return step - other, step - other / 2


def _size(off: NDArray[np.float64]) -> float:
    return float(np.log2(1 + np.abs(off)).mean())


def pack_above(above: Ints) -> bytes:
    """Rows above as runs: how many, how long, and of each the rows beyond those of the run before."""
    starts = np.flatnonzero(np.diff(above, prepend=-1))
    lengths = pack_integers(np.diff(starts, append=len(above)))
    return varints([len(starts), len(lengths)]) + lengths + pack_integers(np.diff(above[starts], prepend=0))


def unpack_above(data: bytes, n_rows: int) -> Ints:
    """The inverse of pack_above: (n_rows,). Raises CorruptArchive."""
    # lengths and steps, each perhaps as a list and places in it
    reader, allowed = Reader(data, "rows above"), Allowance(16 * n_rows, 6 * n_rows)
    n_runs = reader.varint(0, n_rows)
    lengths = unpack_integers(reader.take(reader.varint(0)), n_runs, allowed)
    steps = unpack_integers(reader.rest(), n_runs, allowed)
    if len(lengths) and (int(lengths.min()) < 1 or int(lengths.max()) > n_rows or np.abs(steps).max() > n_rows):
        raise CorruptArchive(f"rows above are told of other rows than the {n_rows} there are")
    rows = np.cumsum(steps)
    if int(lengths.sum()) != n_rows or ((rows < 0) | (rows > n_rows)).any():
        raise CorruptArchive(f"rows above are told of other rows than the {n_rows} there are")
    return np.repeat(rows, lengths)


def _scaled(values: Ints) -> Bytes:
    """(n,) steps of a column in units of its usual one, modulo 256: differences of bytes that wrap are what nearness needs."""
    steps = np.diff(values.astype(np.float64), prepend=float(values[0]))
    usual = float(np.median(np.abs(steps[steps != 0]))) if steps.any() else 1.0
    return np.mod(np.rint(steps * (FINE / usual)), 256).astype(np.uint8)
