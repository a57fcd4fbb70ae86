"""Codes that are multiples of hidden steps: a step for each stretch of rows, and the small integers k that count it.

A conversion of units, a scaled counter or min-max normalisation leaves k · step + origin, rounded to some decimals: the decimals
look random, k does not, and the step often changes from one stretch of rows to the next. `steps` finds the stretches. What is
stored is integer arithmetic alone (FORMAT.md, "Lattices"): a table of segments that tile the rows, their k in pcodec, and what
each row misses its lattice by: nothing at all, mostly. So any integers have a payload, found lattices or not.

Floats that are no decimals have their bits for codes, on which no lattice is straight. Their lattices are those of the values in
fixed point (`FixedPoint`); the code of the nearest float is what a row may miss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.coders.narrow import NARROW, narrowed, pco_of
from vae_core.coders.steps import MOST_DIGITS, Run, errors, find_runs, glimpse, grains, near_base, shows_steps, significant
from vae_core.coders.varints import Reader, varints
from vae_core.columns.codes import Codes
from vae_core.columns.floats import OrderedBits
from vae_core.columns.physical import floats_of_bits, ordered_bits
from vae_core.columns.plan import ColumnPlan
from vae_core.errors import CorruptArchive
from vae_core.packing import unpco, unzstd, zstd

Ints = NDArray[np.int64]

MOST_SHIFT = 62
MOST_SCALE = 960  # keeps 2^63 units within double's normal range: scaling by a power of two is then exact
_FINE_SHIFT = 44  # bits of a step's fraction: a 2^20th k is then off by less than 2^-24
_COUNT_BITS = 45  # of k: beyond, its zero is not worth moving
_NUMBERS = 7  # of a segment
_MOST_PARTED = 64  # segments that may have a stream each
_NO_MISSES, _DENSE, _SPARSE = range(3)
_INTEGERS, _FLOATS = range(2)
_BITS = {4: 22, 8: 50}  # of a float of so many bytes that are searched for steps: the last may be off, from the arithmetic it came by


@dataclass(frozen=True, slots=True)
class Segment:
    """n_rows rows whose codes are base + k · step / 2^shift + phase / 2^shift, rounded half up.

    stream : which pcodec stream has its k
    digits : decimal digits the codes are rounded to; 0: to integers
    0 <= phase < 2^shift, 0 <= shift <= 62; step and base are any int64, arithmetic is modulo 2^64
    """

    n_rows: int
    stream: int
    digits: int
    shift: int
    step: int
    base: int
    phase: int

    @property
    def is_plain(self) -> bool:
        """Whether k is the code itself, or off by a constant."""
        return self.step == 1 and self.shift == 0

    def points(self, k: Ints) -> Ints:
        """(n,) k -> (n,) codes; total on int64. A step's integer and fraction are multiplied apart, lest they overflow."""
        whole, fraction = self.step >> self.shift, self.step & ((1 << self.shift) - 1)
        exact = k * np.int64(fraction) + np.int64(self.phase)
        coarse = k * np.int64(whole) + np.int64(self.base)
        half = np.int64(1 << (self.shift - 1) if self.shift else 0)
        rounded = coarse + ((exact + half) >> np.int64(self.shift))
        grain = grains(rounded, self.digits)
        if self.digits == 0 or int(grain.max(initial=1)) == 1:
            return rounded
        floor = coarse + (exact >> np.int64(self.shift))
        return np.where(grain == 1, rounded, (floor + grain // 2) // grain * grain)


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Floats of a type, by their ordered bits, as multiples of 2^-scale; small ones lose their last bits."""

    dtype: np.dtype[np.floating[Any]]
    scale: int

    @classmethod
    def of(cls, codes: Ints, dtype: np.dtype[np.floating[Any]]) -> FixedPoint:
        """The finest that holds (n,) codes of finite floats."""
        with np.errstate(invalid="ignore"):
            size = np.abs(floats_of_bits(codes, dtype).astype(np.float64))
        exponent = int(np.frexp(size.max(initial=0.0, where=np.isfinite(size)))[1])
        return cls(dtype, max(-MOST_SCALE, min(MOST_SCALE, MOST_SHIFT - 1 - exponent)))

    def points(self, codes: Ints) -> Ints:
        """(n,) codes -> (n,) integers, at most 2^62 in size; total on int64."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            floats = floats_of_bits(codes, self.dtype).astype(np.float64)
            scaled = np.ldexp(np.where(np.isfinite(floats), floats, 0.0), self.scale)
        return np.asarray(np.rint(np.clip(scaled, -(2.0**62), 2.0**62)), np.float64).astype(np.int64)

    def codes(self, points: Ints) -> Ints:
        """(n,) integers -> (n,) codes of the nearest floats; total on int64."""
        with np.errstate(over="ignore", under="ignore"):
            return ordered_bits(np.ldexp(points.astype(np.float64), -self.scale).astype(self.dtype))


PLAIN = Segment(0, 0, 0, 0, 1, 0, 0)
"""k is the code itself."""


def worth_trying(plan: ColumnPlan, codes: Codes | None) -> bool:
    """Whether a quick look at some windows of a column's codes shows steps."""
    if codes is None or plan.n_levels is not None:
        return False
    values = glimpse(codes.values if codes.state is None else codes.values[codes.state == 0])
    dtype = floats_of(plan)
    if dtype is not None:
        return shows_steps(FixedPoint.of(values, dtype).points(values), -_BITS[dtype.itemsize])
    return any(shows_steps(values, digits) for digits in _roundings(values))


def floats_of(plan: ColumnPlan) -> np.dtype[np.floating[Any]] | None:
    """The type of the floats whose bits a plan's codes are; None for codes that are numbers."""
    if not isinstance(plan.transform, OrderedBits):
        return None
    dtype = np.dtype(np.float32 if plan.transform.single else plan.transform.dtype)
    return dtype if dtype.itemsize in _BITS else None


def bits(values: Ints, state: NDArray[np.uint8] | None) -> float:
    """Bits of the payload of a column's (n,) codes under their states; infinity where a quick look shows no steps."""
    good = values if state is None else values[state == 0]
    return 8.0 * len(pack(good)) if any(shows_steps(good, digits) for digits in _roundings(good)) else math.inf


def pack(values: Ints, dtype: np.dtype[np.floating[Any]] | None = None) -> bytes:
    """(n,) codes as a payload; with lattices where there are any. `dtype` as `floats_of` tells it."""
    if dtype is not None:
        form = FixedPoint.of(values, dtype)
        points = form.points(values)
        digits = -_BITS[dtype.itemsize]
        return packed(values, _segments(points, find_runs(points, digits), digits), form)
    return min((packed(values, _segments(values, find_runs(values, digits), digits)) for digits in _roundings(values)), key=len)


def packed(values: Ints, segments: Sequence[tuple[Segment, Ints]], form: FixedPoint | None = None) -> bytes:
    """(n,) codes under given segments that tile them, each with its (n_rows,) k; any will do, good ones are smaller."""
    points = np.concatenate([np.zeros(0, np.int64), *(segment.points(k) for segment, k in segments)])
    missed = values - (points if form is None else form.codes(points))
    how, misses = _pack_misses(missed)
    choices = []
    for numbers in _numberings([segment for segment, _ in segments]):
        streams = [
            pco_of(np.concatenate([k for (_, k), number in zip(segments, numbers, strict=True) if number == stream]))
            for stream in range(max(numbers, default=-1) + 1)
        ]
        head = [_INTEGERS, len(segments)] if form is None else [_FLOATS, form.scale, len(segments)]
        for (segment, _), number in zip(segments, numbers, strict=True):
            head += [segment.n_rows, number, segment.digits, segment.shift, segment.step, segment.base, segment.phase]
        head += [len(streams), *(part for tag, body in streams for part in (tag, len(body))), how]
        choices.append(varints(head) + b"".join(body for _, body in streams) + misses)
    return min(choices, key=len)


def unpack(data: bytes, n: int, dtype: np.dtype[np.floating[Any]] | None = None) -> Ints:
    """The inverse of `pack` for n codes. Raises CorruptArchive."""
    reader = Reader(data)
    form = None
    if reader.varint(_INTEGERS, _INTEGERS if dtype is None else _FLOATS) == _FLOATS:
        assert dtype is not None
        form = FixedPoint(dtype, reader.varint(-MOST_SCALE, MOST_SCALE))
    n_segments = reader.varint(0, n)
    segments = [
        Segment(
            reader.varint(1, n), reader.varint(0, n), reader.varint(0, MOST_DIGITS), reader.varint(0, MOST_SHIFT),
            reader.varint(), reader.varint(), reader.varint(),
        )
        for _ in range(n_segments)
    ]  # fmt: skip
    n_streams = reader.varint(0, n_segments)
    heads = [(reader.varint(0, len(NARROW) - 1), reader.varint(0, len(data))) for _ in range(n_streams)]
    how = reader.varint(_NO_MISSES, _SPARSE)
    if sum(s.n_rows for s in segments) != n or {s.stream for s in segments} != set(range(n_streams)):
        raise CorruptArchive(f"segments of lattices hold {sum(s.n_rows for s in segments)} rows, expected {n}")
    if any(not 0 <= s.phase < 1 << s.shift for s in segments):
        raise CorruptArchive("a lattice has a phase beyond its shift")
    n_rows = np.bincount([s.stream for s in segments], [s.n_rows for s in segments], n_streams).astype(np.int64)
    streams = [
        unpco(reader.take(n_bytes), np.dtype(NARROW[tag]), int(rows)).astype(np.int64)
        for (tag, n_bytes), rows in zip(heads, n_rows, strict=True)
    ]
    values = np.empty(n, np.int64)
    first, read = 0, [0] * n_streams
    for s in segments:
        start = read[s.stream]
        values[first : first + s.n_rows] = s.points(streams[s.stream][start : start + s.n_rows])
        read[s.stream] = start + s.n_rows
        first += s.n_rows
    misses = _unpack_misses(how, reader.rest(), n)
    return (values if form is None else form.codes(values)) + misses


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """What makes codes of counts of steps, where these are coded by something else (FORMAT.md, "Counted steps").

    segments : tile the n rows        form : of the points, None where they are the codes
    missed   : (n,) how far codes are above what that makes of the counts        fill : a count for rows that have none
    """

    segments: tuple[Segment, ...]
    form: FixedPoint | None
    missed: Ints
    fill: int

    def codes(self, k: Ints) -> Ints:
        """(n,) counts -> (n,) codes; total on int64."""
        ends = np.cumsum([0, *(segment.n_rows for segment in self.segments)])
        parts = [s.points(k[start : start + s.n_rows]) for s, start in zip(self.segments, ends[:-1], strict=True)]
        points = np.concatenate([np.zeros(0, np.int64), *parts])
        return (points if self.form is None else self.form.codes(points)) + self.missed

    def to_bytes(self) -> bytes:
        """A payload, the counts apart."""
        how, misses = _pack_misses(self.missed)
        head = [_INTEGERS] if self.form is None else [_FLOATS, self.form.scale]
        head += [self.fill, len(self.segments)]
        for s in self.segments:
            head += [s.n_rows, s.digits, s.shift, s.step, s.base, s.phase]
        return varints([*head, how]) + misses

    @classmethod
    def from_bytes(cls, data: bytes, n: int, dtype: np.dtype[np.floating[Any]] | None = None) -> Counted:
        """The inverse of to_bytes for n rows. Raises CorruptArchive."""
        reader = Reader(data)
        is_float = reader.varint(_INTEGERS, _INTEGERS if dtype is None else _FLOATS) == _FLOATS
        form = FixedPoint(dtype, reader.varint(-MOST_SCALE, MOST_SCALE)) if is_float and dtype is not None else None
        fill = reader.varint()
        segments = tuple(
            Segment(
                reader.varint(1, n), 0, reader.varint(0, MOST_DIGITS), shift := reader.varint(0, MOST_SHIFT),
                reader.varint(), reader.varint(), reader.varint(0, (1 << shift) - 1),
            )
            for _ in range(reader.varint(0, n))
        )  # fmt: skip
        how = reader.varint(_NO_MISSES, _SPARSE)
        if sum(s.n_rows for s in segments) != n:
            raise CorruptArchive(f"segments of counted steps hold {sum(s.n_rows for s in segments)} rows, expected {n}")
        return cls(segments, form, _unpack_misses(how, reader.rest(), n), fill)


def counted(values: Ints, dtype: np.dtype[np.floating[Any]] | None = None) -> tuple[Counted, Ints]:
    """(n,) codes as counts of hidden steps, and what makes codes of them; where no steps are found, counts are the codes."""
    form: FixedPoint | None = None
    if dtype is None:
        found = [_segments(values, find_runs(values, digits), digits) for digits in _roundings(values)]
        segments = found[0] if len(found) == 1 else min(found, key=lambda one: len(packed(values, one)))
    else:
        form = FixedPoint.of(values, dtype)
        points, digits = form.points(values), -_BITS[dtype.itemsize]
        segments = _segments(points, find_runs(points, digits), digits)
    if all(segment.is_plain for segment, _ in segments):
        form, segments = None, [(replace(PLAIN, n_rows=len(values)), values)] if len(values) else []
    else:
        segments = _drawn_over(values if form is None else points, segments)
    k = np.concatenate([np.zeros(0, np.int64), *(k for _, k in segments)])
    bare = Counted(tuple(segment for segment, _ in segments), form, np.zeros(len(values), np.int64), 0)
    with np.errstate(over="ignore"):
        missed = values - bare.codes(k)
    return replace(bare, missed=missed, fill=int(np.sort(k)[len(k) // 2]) if len(k) else 0), k


def _drawn_over(points: Ints, segments: Sequence[tuple[Segment, Ints]]) -> list[tuple[Segment, Ints]]:
    """Segments of which those that are plain have the lattice before them, or behind: what they miss costs less than counts that jump."""
    found: list[tuple[Segment, Ints]] = []
    lattice = next(segment for segment, _ in segments if not segment.is_plain)
    first = 0
    for segment, k in segments:
        if segment.is_plain:
            beyond = points[first : first + segment.n_rows].astype(np.float64) - lattice.base - lattice.phase * 2.0**-lattice.shift
            k = np.rint(np.clip(beyond / (lattice.step * 2.0**-lattice.shift), -(2.0**_COUNT_BITS), 2.0**_COUNT_BITS)).astype(np.int64)
        else:
            lattice = segment
        first += segment.n_rows
        if found and replace(found[-1][0], n_rows=0, stream=0) == replace(lattice, n_rows=0, stream=0):
            before, counts = found.pop()
            found.append((replace(before, n_rows=before.n_rows + segment.n_rows), np.concatenate([counts, k])))
        else:
            found.append((replace(lattice, n_rows=segment.n_rows), k))
    return found


def _roundings(values: Ints) -> list[int]:
    """Significant digits worth trying: as many as the values seem to have, and plain rounding."""
    return sorted({significant(values), 0}, reverse=True)


def _segments(values: Ints, runs: Sequence[Run], digits: int) -> list[tuple[Segment, Ints]]:
    """Runs as segments with their k, and plain ones between them."""
    found: list[tuple[Segment, Ints]] = []
    first = 0
    for run in runs:
        if run.start > first:
            found.append((replace(PLAIN, n_rows=run.start - first), values[first : run.start]))
        before = (int(found[-1][1][-1]), int(values[run.start - 1])) if found and not found[-1][0].is_plain else None
        found.append(_segment(values[run.start : run.stop], run, digits, before))
        first = run.stop
    if first < len(values):
        found.append((replace(PLAIN, n_rows=len(values) - first), values[first:]))
    return found


def _segment(values: Ints, run: Run, digits: int, before: tuple[int, int] | None) -> tuple[Segment, Ints]:
    """One run in fixed point.

    before : k and code of the row before it: k goes on from there, so that differences over the border stay small
    """
    lattice = run.lattice
    x = near_base(values, lattice.base, digits)
    counts = np.rint((x - lattice.origin) / lattice.step)
    fits = np.abs(errors(x, lattice)) <= grains(values, digits)
    if not fits.any():
        return replace(PLAIN, n_rows=len(values)), values
    # values off the lattice are missed anyway: their k must not cost the step its precision
    k = np.clip(np.nan_to_num(counts), counts[fits].min(), counts[fits].max()).astype(np.int64)
    start = round(lattice.base / lattice.step)
    if before is not None:
        start = before[0] + round((int(values[0]) - before[1]) / lattice.step) - int(k[0])
    ends = (int(k.min()), int(k.max()))
    for first in (start, 0):
        n_bits = max(abs(first + end).bit_length() for end in ends)
        shift = max(0, min(_FINE_SHIFT, MOST_SHIFT - 1 - n_bits, MOST_SHIFT - int(lattice.step).bit_length()))
        step = round(lattice.step * 2.0**shift)
        at_zero = (lattice.base << shift) + round(lattice.origin * 2.0**shift) - first * step
        base = at_zero >> shift
        if n_bits <= _COUNT_BITS and abs(base) < 2**62:
            break
    if abs(base) >= 2**63:
        return replace(PLAIN, n_rows=len(values)), values
    return Segment(len(values), 0, max(0, digits), shift, step, base, at_zero & ((1 << shift) - 1)), k + np.int64(first)


def _numberings(segments: Sequence[Segment]) -> list[list[int]]:
    """Ways to share streams worth trying: one for all, lattices and plain codes apart, one each."""
    n = len(segments)
    choices = [[0] * n]
    plain = [segment.is_plain for segment in segments]
    if any(plain) and not all(plain):
        choices.append([int(p) for p in plain])
    if 1 < n <= _MOST_PARTED:
        choices.append(list(range(n)))
    return choices


def _pack_misses(missed: Ints) -> tuple[int, bytes]:
    """What the rows miss their lattices by: how it is written, and the bytes."""
    at = np.flatnonzero(missed)
    if not len(at):
        return _NO_MISSES, b""
    tag, body = pco_of(missed)
    narrow, narrow_tag = narrowed(missed[at])
    gaps = np.diff(at, prepend=-1).astype(np.uint32)
    sparse = bytes([narrow_tag]) + zstd(_planes(gaps) + _planes(narrow))
    return (_DENSE, bytes([tag]) + body) if len(body) + 1 <= len(sparse) else (_SPARSE, sparse)


def _unpack_misses(how: int, data: bytes, n: int) -> Ints:
    """The inverse of `_pack_misses` for n rows. Raises CorruptArchive."""
    missed = np.zeros(n, np.int64)
    if how == _NO_MISSES:
        if data:
            raise CorruptArchive(f"{len(data)} bytes behind lattices that miss nothing")
        return missed
    if not data or data[0] >= len(NARROW):
        raise CorruptArchive("misses of lattices are of an unknown type")
    dtype = np.dtype(NARROW[data[0]])
    if how == _DENSE:
        return unpco(data[1:], dtype, n).astype(np.int64)
    width = 4 + dtype.itemsize
    body = unzstd(data[1:], width * n)
    if len(body) % width:
        raise CorruptArchive("misses of lattices are cut short")
    m = len(body) // width
    gaps = _unplaned(body[: 4 * m], np.dtype(np.uint32), m).astype(np.int64)
    at = np.cumsum(gaps) - 1
    if m and (int(gaps.min()) < 1 or int(at[-1]) >= n):
        raise CorruptArchive("a miss of a lattice lies outside its block")
    missed[at] = _unplaned(body[4 * m :], dtype, m)
    return missed


def _planes(x: NDArray[np.generic]) -> bytes:
    """All first bytes, all second bytes and so on."""
    return x.view(np.uint8).reshape(-1, x.itemsize).T.tobytes()


def _unplaned(data: bytes, dtype: np.dtype[np.generic], n: int) -> NDArray[np.generic]:
    return np.frombuffer(data, np.uint8).reshape(dtype.itemsize, n).T.copy().view(dtype).reshape(n)
