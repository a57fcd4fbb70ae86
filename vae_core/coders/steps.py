"""Hidden steps: runs of rows whose integers are multiples of one real step, rounded.

A window of rows is asked first. The differences of its sorted distinct values are near multiples of the step, so the mean of
cos(2π · difference / step) is near 1 there and near 0 elsewhere; larger and larger differences make the step precise. What fits
is then drawn out over the rows before and behind the window, block by block, fitted again whenever it has grown.
Numbers written to so many significant digits are rounded the coarser the larger they are: each value has its own *grain*.
Floats are for the search alone: what is stored are integers (`lattices`), and what they miss is stored beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WINDOWS = (512, 128)
"""Rows of the windows asked, the next shorter one where a longer one shows nothing: batches may be short."""
PLACES = 6
"""Places looked at before anything is searched."""
MOST_DIGITS = 18
_LEAST_STEP = 4.0  # a finer step leaves too little to gain over its own rounding
_LEAST_DISTINCT = 40
_FAR, _FAR_FLOATS = 2.0**48, 2.0**62  # from a window's median: float64 tells neighbours apart; those of floats it never has to
_MANY = 32.0  # steps that the small differences of a window may span
_DIFFERENCES = 96
_COHERENT = 0.5  # mean cosine at the step: chance alone stays below 0.3 over all steps tried
_CANDIDATES = 6
_FITTING = 0.9  # of a window's distinct values, of a block's rows
_SLACK = 0.75  # of a grain, from the nearest multiple: 0.5 is rounding, the rest the step's error while it is still being fitted
_FIRST_BLOCK = 128
_AHEAD = 4096  # rows behind a window that are looked at first
_SAMPLED = 1 << 14
_FIT_POINTS = 1 << 15
_LEAST_POINTS = 8
_EXCHANGES = 40
_STRIDE = 4096  # rows: the longest over what shows nothing; a run found behind it is drawn out backward over them


@dataclass(frozen=True, slots=True)
class Lattice:
    """value = base + origin + step · k, rounded to its grain; base is an int64, origin and step are in units of the value."""

    base: int
    step: float
    origin: float


@dataclass(frozen=True, slots=True)
class Run:
    """Rows start .. stop on one lattice."""

    start: int
    stop: int
    lattice: Lattice


def significant(values: Ints) -> int:
    """Decimal digits that (n,) values seem to be written to: all with more are multiples of 10, 100 and so on. 0: no such rule."""
    values = values[:: len(values) // _SAMPLED + 1]
    size = np.abs(values)
    for digits in range(4, MOST_DIGITS):
        large = size >= 10**digits
        if int(large.sum()) < _LEAST_DISTINCT:
            return 0
        if float((values[large] % grains(values[large], digits) == 0).mean()) >= 0.999:
            return digits
    return 0


def grains(values: Ints, digits: int) -> Ints:
    """(n,) 10^j, j the decimal digits each value has beyond so many; 2^j of so many binary ones below 0; 1 everywhere for 0."""
    grain = np.ones(len(values), np.int64)
    size = np.abs(values)
    if digits < 0:
        _, n_bits = np.frexp(size.astype(np.float64))
        return grain << np.clip(n_bits.astype(np.int64) + digits, 0, 62)
    for above in range(digits, MOST_DIGITS + 1) if digits else ():
        larger = size >= 10**above
        if not larger.any():
            break
        grain[larger] = 10 ** (above - digits + 1)
    return grain


def glimpse(values: Ints) -> Ints:
    """The windows of the quick look, end to end: what it says of them it says of (n,) values."""
    if len(values) <= PLACES * WINDOWS[0]:
        return values
    return np.concatenate([values[start : start + WINDOWS[0]] for start in _places(len(values))])


def _places(n: int) -> list[int]:
    """First rows of the windows of the quick look."""
    last = max(0, n - WINDOWS[0])
    return sorted({last * place // (PLACES - 1) for place in range(PLACES)})


def shows_steps(values: Ints, digits: int = 0) -> bool:
    """Whether a window at one of PLACES places of (n,) values has a step: the quick look."""
    return any(_step_at(values, start, digits) is not None for start in _places(len(values)))


def find_runs(values: Ints, digits: int = 0) -> list[Run]:
    """Runs of (n,) values in order, none overlapping; empty after a quick look in most columns."""
    if not shows_steps(values, digits):
        return []
    runs: list[Run] = []
    at, free, stride = 0, 0, WINDOWS[-1]
    while at < len(values):
        found = _step_at(values, at, digits)
        run = None if found is None else _drawn_out(values, digits, found, at, free)
        if run is None:
            at += stride
            stride = min(_STRIDE, 2 * stride)
            continue
        runs.append(run)
        at = free = run.stop
        stride = WINDOWS[-1]
    return runs


def _step_at(values: Ints, start: int, digits: int) -> Lattice | None:
    """The step of the longest window from a row that has one."""
    for n_rows in WINDOWS:
        found = step_of(values[start : start + n_rows], digits)
        if found is not None:
            return found
    return None


def step_of(values: Ints, digits: int = 0) -> Lattice | None:
    """The largest step that explains a window of values, None when there is none worth having."""
    distinct = np.unique(values)
    if len(distinct) < _LEAST_DISTINCT:
        return None
    base = int(distinct[len(distinct) // 2])
    u, grain = near_base(distinct, base, digits), grains(distinct, digits).astype(np.float64)
    u, grain = u[np.isfinite(u)], grain[np.isfinite(u)]
    least = _LEAST_STEP * float(np.median(grain))
    gaps = np.diff(u)
    wide = gaps[gaps >= 0.75 * least]
    if len(wide) < _LEAST_DISTINCT // 2 or 2 * len(wide) < len(gaps):
        return None
    small = float(np.quantile(wide, 0.1))
    reach = 16 * small
    used = _spread(wide[(wide >= small) & (wide <= reach)])
    reach = float(used.max())
    pace = 0.25 / reach
    first = 1 / (1.1 * small + 1)
    last = min(1 / (0.94 * least), max(_MANY / small, 2 * first))
    frequencies = np.arange(first, last + 2 * pace, pace)
    score = _coherence(used, frequencies)
    peaks = np.flatnonzero((score >= _COHERENT) & (score >= np.append(score[1:], -1.0)) & (score >= np.append(-1.0, score[:-1])))
    for peak in peaks[:_CANDIDATES]:
        frequency = _sharpened(u, float(frequencies[peak]), reach)
        if frequency is None:
            continue
        lattice = _fitted(u, grain, base, 1 / frequency)
        if lattice is not None and lattice.step >= least:
            return lattice
    return None


def errors(x: Floats, lattice: Lattice) -> Floats:
    """(n,) distance of each from the nearest multiple, x counted from the base; NaN where x is."""
    shifted = x - lattice.origin
    return np.asarray(shifted - np.rint(shifted / lattice.step) * lattice.step, np.float64)


def near_base(values: Ints, base: int, digits: int = 0) -> Floats:
    """(n,) values - base, NaN where that is so far that floats lose it."""
    with np.errstate(over="ignore"):
        x = (values - np.int64(base)).astype(np.float64)
        rough = values.astype(np.float64) - float(base)
    return np.where(np.abs(rough) < (_FAR if digits >= 0 else _FAR_FLOATS), x, np.nan)


def _spread(x: Floats, most: int = _DIFFERENCES) -> Floats:
    """At most so many of them, evenly taken."""
    return x if len(x) <= most else x[np.linspace(0, len(x) - 1, most).astype(np.int64)]


def _coherence(differences: Floats, frequencies: Floats) -> Floats:
    """(m,) mean cosine of (n,) differences at each of (m,) frequencies."""
    turns = np.outer(frequencies, differences)
    turns -= np.rint(turns)
    return np.asarray(np.cos((2 * np.pi * turns).astype(np.float32)).mean(axis=1), np.float64)


def _sharpened(u: Floats, frequency: float, reach: float) -> float | None:
    """The frequency, told by differences up to `reach`, told by ever larger ones; None when they do not agree on any."""
    extent = float(u[-1] - u[0])
    lag = 1
    while reach < extent / 2 and lag < len(u) // 2:
        lag *= 2
        longer = u[lag:] - u[:-lag]
        longer = _spread(longer[longer <= 8 * reach])
        if len(longer) < _LEAST_DISTINCT // 2:
            break
        further = float(longer.max())
        if further <= reach:
            continue
        pace = 0.15 / further
        n_side = int(0.3 / reach / pace) + 1
        frequencies = frequency + pace * np.arange(-n_side, n_side + 1, dtype=np.float64)
        score = _coherence(longer, frequencies)
        best = int(score.argmax())
        if score[best] < _COHERENT:
            return None
        frequency, reach = float(frequencies[best]), further
    return frequency if frequency > 0 else None


def _fitted(u: Floats, grain: Floats, base: int, step: float) -> Lattice | None:
    """A lattice of about this step through the distinct values of a window; None when too few are on it."""
    turns = u / step
    angle = np.angle(np.exp(2j * np.pi * (turns - np.rint(turns))).sum())
    lattice = _refitted(u, grain, Lattice(base, step, float(angle) / (2 * np.pi) * step), last=False)
    return lattice if float((np.abs(errors(u, lattice)) <= _SLACK * grain).mean()) >= _FITTING else None


def _refitted(x: Floats, grain: Floats, lattice: Lattice, last: bool = True) -> Lattice:
    """The lattice through the values that are near it: least squares; at last the one of least largest error if that is better."""
    if len(x) > _FIT_POINTS:
        x, grain = (v[:: len(v) // _FIT_POINTS + 1] for v in (x, grain))
    x, grain = x[np.isfinite(x)], grain[np.isfinite(x)]
    for bound in (np.inf, np.inf, np.inf, 1.0, _SLACK, 0.6):
        k = np.rint((x - lattice.origin) / lattice.step)
        e = x - lattice.origin - k * lattice.step
        part = np.abs(e) / grain
        if bound == np.inf:
            bound = max(_SLACK, 4 * float(np.median(part)))
        good = (part <= bound) & (np.abs(e) <= lattice.step / 3)
        if int(good.sum()) < _LEAST_POINTS:
            return lattice
        weight = 1 / np.square(grain[good])
        total = float(weight.sum())
        middle = k[good] - float((weight * k[good]).sum()) / total
        square = float((weight * middle * middle).sum())
        if square == 0:
            return lattice
        slope = float((weight * middle * e[good]).sum()) / square
        level = float((weight * (e[good] - slope * k[good])).sum()) / total
        lattice = Lattice(lattice.base, lattice.step + slope, lattice.origin + level)
    choices = (lattice, _levelled(x, grain, lattice)) if last else (lattice,)
    return min(choices, key=lambda found: int((np.abs(errors(x, found)) > 0.5 * grain).sum()))


def _levelled(x: Floats, grain: Floats, lattice: Lattice) -> Lattice:
    """The line of least largest error, in grains, through the values rounded to a lattice: exchange of three extremes (Remez)."""
    k = np.rint((x - lattice.origin) / lattice.step)
    e = x - lattice.origin - k * lattice.step
    good = np.abs(e) <= 0.6 * grain
    if int(good.sum()) < _LEAST_POINTS:
        return lattice
    k, e, grain = k[good], e[good], grain[good]
    part = e / grain
    points = [int(k.argmin()), int(np.abs(part).argmax()), int(k.argmax())]
    level = slope = 0.0
    for _ in range(_EXCHANGES):
        points.sort(key=lambda p: float(k[p]))
        if not k[points[0]] < k[points[1]] < k[points[2]]:
            break
        signs = np.array([1.0, -1.0, 1.0]) * grain[points]
        level, slope, height = (float(v) for v in np.linalg.solve(np.stack([np.ones(3), k[points], signs], 1), e[points]))
        part = (e - level - slope * k) / grain
        worst = int(np.abs(part).argmax())
        if abs(part[worst]) <= abs(height) * (1 + 1e-9) + 1e-12:
            break
        points = _exchanged(points, worst, k, part)
    return Lattice(lattice.base, lattice.step + slope, lattice.origin + level)


def _exchanged(points: list[int], new: int, k: Floats, left: Floats) -> list[int]:
    """The three points with one of them replaced by a new one so that their errors still alternate in sign."""
    a, b, c = points
    same = [bool(left[p] * left[new] > 0) for p in points]
    if k[new] < k[a]:
        return [new, b, c] if same[0] else [new, a, b]
    if k[new] < k[b]:
        return [new, b, c] if same[0] else [a, new, c]
    if k[new] < k[c]:
        return [a, new, c] if same[1] else [a, b, new]
    return [a, b, new] if same[2] else [b, c, new]


def _drawn_out(values: Ints, digits: int, lattice: Lattice, start: int, least: int) -> Run | None:
    """The longest run about a window from `start` that fits, from `least` on. None when next to nothing fits after all."""
    n, ahead = 0, _AHEAD
    while True:
        part = values[start : start + ahead]
        n, lattice = _reach(near_base(part, lattice.base, digits), grains(part, digits).astype(np.float64), lattice, n)
        if n < ahead:
            break
        ahead *= 4
    if n < WINDOWS[-1] // 2:
        return None
    stop = start + n
    part = values[least:stop][::-1]
    x, grain = near_base(part, lattice.base, digits), grains(part, digits).astype(np.float64)
    n, lattice = _reach(x, grain, lattice, n)
    lattice = _refitted(x[:n], grain[:n], lattice)
    return Run(stop - n, stop, lattice) if lattice.step >= 1 else None


def _reach(x: Floats, grain: Floats, lattice: Lattice, known: int = 0) -> tuple[int, Lattice]:
    """How many of the first values fit, `known` of which do, and the lattice fitted to them."""
    n, block, tries, fitted = known, _FIRST_BLOCK, 0, 0
    while n < len(x):
        good = np.abs(errors(x[n : n + block], lattice)) <= _SLACK * grain[n : n + block]
        if float(good.mean()) >= _FITTING and float(good[-16:].mean()) >= 0.5:
            n += len(good)
            block *= 2
        else:
            more = _prefix(good)
            n += more
            tries = 0 if more >= _FIRST_BLOCK else tries + 1
            block = _FIRST_BLOCK
            if more == 0 or tries > 2:
                break
        if n > 1.1 * fitted:
            lattice, fitted = _refitted(x[:n], grain[:n], lattice, last=False), n
    return n, lattice


def _prefix(good: NDArray[np.bool_]) -> int:
    """How many of the first rows to keep: each that fits counts for 1, each that does not for -4."""
    total = np.cumsum(np.where(good, 1, -4))
    best = int(total.argmax())
    return best + 1 if total[best] >= 4 else 0
