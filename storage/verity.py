"""Verified reads: objects are cut into segments, each with a digest; no byte is used before its segment is checked.

FORMAT.md, section "Objects and segments".
"""

from __future__ import annotations

import bisect
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.document import MAX_COUNT, Fields, from_base64, from_varints, to_base64, to_varints
from vae_core.errors import CorruptArchive

if TYPE_CHECKING:
    from storage.objects import ObjectStore

DIGEST_BYTES = 16
MIN_SEGMENT_BYTES = 8 << 10
AIMED_SEGMENT_BYTES = 64 << 10
MAX_SEGMENT_BYTES = 1 << 20
SEGMENTS_AIMED_AT = 128
APART_BYTES = 1 << 10
SPARED_BYTES = 32 << 10
GAP_BYTES = 8 << 10
TRUSTED_BYTES = 16 << 20


def digest(data: bytes | memoryview) -> bytes:
    """BLAKE2b of 16 bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One stored object and what its bytes must be.

    path    : relative to the archive
    n_bytes : the size of the object
    ends    : (n_segments,) ascending, exclusive end of each segment; the last is n_bytes
    digests : n_segments * 16 bytes, BLAKE2b-128 of each segment
    """

    path: str
    n_bytes: int
    ends: tuple[int, ...]
    digests: bytes

    @classmethod
    def of(cls, path: str, data: bytes, cuts: Sequence[int] | None = None) -> ObjectRef:
        """Describe `data`, one segment unless `cuts` (see `segment_ends`) says otherwise."""
        ends = (len(data),) if cuts is None else tuple(cuts)
        view = memoryview(data)
        digests = b"".join(digest(view[start:end]) for start, end in zip((0, *ends), ends, strict=False))
        return cls(path, len(data), ends, digests)

    def to_json(self) -> list[Any]:
        """[n_segments, base64 of the segment lengths as varints followed by the digests]."""
        lengths = [end - start for start, end in zip((0, *self.ends), self.ends, strict=False)]
        return [len(lengths), to_base64(to_varints(lengths) + self.digests)]

    @classmethod
    def from_json(cls, path: str, value: Any, where: str) -> ObjectRef:
        """Undo `to_json`. Raises CorruptArchive."""
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], str):
            raise CorruptArchive(f"{where}: malformed description of object {path}")
        n_segments = Fields({"segments": value[0]}, f"{where}: object {path}").count("segments", MAX_COUNT)
        lengths, digests = from_varints(from_base64(value[1], where), n_segments, where)
        if not n_segments or len(digests) != n_segments * DIGEST_BYTES:
            raise CorruptArchive(f"{where}: object {path} has {len(digests)} digest bytes for {n_segments} segments")
        ends = []
        total = 0
        for length in lengths:
            total += length
            ends.append(total)
        if total > MAX_COUNT:
            raise CorruptArchive(f"{where}: object {path} claims {total} bytes")
        return cls(path, total, tuple(ends), digests)

    def check(self, index: int, data: bytes | memoryview) -> None:
        """Raise CorruptArchive unless `data` is segment `index`."""
        if digest(data) != self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]:
            start = self.ends[index - 1] if index else 0
            raise CorruptArchive(f"{self.path}: bytes {start} to {self.ends[index]} are not what the archive recorded")


def segment_ends(n_bytes: int, boundaries: Iterable[int], required: Iterable[int] = ()) -> tuple[int, ...]:
    """Where to cut an object of `n_bytes` into segments.

    A cut falls on every `required` offset, and on natural `boundaries` (between things that are read apart) once a
    segment holds enough, or before a thing that is enough by itself. Enough is 8 to 64 KiB, more in larger objects, so
    that digests stay near 0.1 % or 2 KiB. What is small by itself joins what is small: a digest is spent wherever it spares
    the readers of a few bytes 32 KiB of what follows. What is read whole is one segment, up to 2 MiB.
    """
    target = min(max(n_bytes // SEGMENTS_AIMED_AT, MIN_SEGMENT_BYTES), AIMED_SEGMENT_BYTES)
    musts = {offset for offset in required if 0 < offset < n_bytes} | {n_bytes}
    offsets = sorted(musts.union(offset for offset in boundaries if 0 < offset < n_bytes))
    ends: list[int] = []
    start = 0
    for boundary, following in zip(offsets, [*offsets[1:], n_bytes], strict=True):
        while boundary - start > 2 * MAX_SEGMENT_BYTES:
            start += MAX_SEGMENT_BYTES
            ends.append(start)
        ahead = following - boundary
        apart = ahead >= SPARED_BYTES or (ahead >= target and boundary - start >= APART_BYTES)
        if apart or boundary - start >= target or boundary in musts:
            start = boundary
            ends.append(boundary)
    return tuple(ends)


def read_verified(store: ObjectStore, ref: ObjectRef) -> bytes:
    """The whole object, every segment checked. Raises CorruptArchive naming it."""
    data = _fetch(store, ref, 0, ref.n_bytes)
    view = memoryview(data)
    start = 0
    for index, end in enumerate(ref.ends):
        ref.check(index, view[start:end])
        start = end
    return data


def read_whole(store: ObjectStore, ref: ObjectRef) -> bytes:
    """The same, of an object that holds nothing besides. Raises CorruptArchive naming it."""
    data = read_verified(store, ref)
    if store.size(ref.path) != ref.n_bytes:
        raise CorruptArchive(f"{ref.path}: the object is longer than the {ref.n_bytes} bytes recorded")
    return data


def _fetch(store: ObjectStore, ref: ObjectRef, start: int, stop: int) -> bytes:
    if start == stop:
        return b""
    try:
        # some stores allocate what is asked for: a size that is a lie must not get that far
        is_there = stop - start <= TRUSTED_BYTES or store.size(ref.path) >= stop
        data = store.read_range(ref.path, start, stop - start) if is_there else b""
    except FileNotFoundError:
        raise CorruptArchive(f"{ref.path}: the object is missing") from None
    except OSError:
        if store.size(ref.path) >= stop:  # an object store refuses a range past the end; anything else is not about us
            raise
        data = b""
    if len(data) != stop - start:
        raise CorruptArchive(f"{ref.path}: the object is shorter than the {ref.n_bytes} bytes recorded")
    return data


class VerifiedFile(io.RawIOBase):
    """A read-only, seekable view of one object that serves only checked bytes.

    `prefetch` says what comes next: the segments that cover it are fetched in as few requests as the gaps allow, and
    segments fetched for earlier work are dropped, so memory stays with what is being read.
    """

    def __init__(self, store: ObjectStore, ref: ObjectRef) -> None:
        super().__init__()
        self._store = store
        self._ref = ref
        self._position = 0
        self._held: dict[int, memoryview] = {}

    @property
    def n_bytes(self) -> int:
        """Size of the object."""
        return self._ref.n_bytes

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as io.IOBase.seek does; positions stay inside the object."""
        base = {0: 0, 1: self._position, 2: self._ref.n_bytes}[whence]
        self._position = min(max(base + offset, 0), self._ref.n_bytes)
        return self._position

    def size(self) -> int:
        """Size of the object, as pyarrow asks for it."""
        return self._ref.n_bytes

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` checked bytes from the current position. Raises CorruptArchive naming the object."""
        stop = self._ref.n_bytes if size is None or size < 0 else min(self._position + size, self._ref.n_bytes)
        data = self.read_range(self._position, stop)
        self._position = stop
        return data

    def readall(self) -> bytes:
        """The rest of the object."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the current position."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_range(self, start: int, stop: int) -> bytes:
        """Checked bytes start..stop. Raises CorruptArchive for a range outside the object or bytes that differ."""
        if not 0 <= start <= stop <= self._ref.n_bytes:
            raise CorruptArchive(f"{self._ref.path}: bytes {start} to {stop} asked of an object of {self._ref.n_bytes}")
        if start == stop:
            return b""
        first, last = self._covering(start, stop)
        self._fetch_missing(range(first, last))
        if last - first == 1:
            offset = self._start(first)
            return bytes(self._held[first][start - offset : stop - offset])
        joined = b"".join(self._held[index] for index in range(first, last))
        offset = self._start(first)
        return joined[start - offset : stop - offset]

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch and check what covers `ranges` ((start, stop) pairs); drop everything else."""
        wanted = self._wanted(ranges)
        for index in self._held.keys() - set(wanted):
            del self._held[index]
        self._fetch_missing(wanted)

    def planned(self, steps: Iterable[Iterable[tuple[int, int]]]) -> int:
        """Bytes that a `prefetch` of each step in turn would move, starting with nothing held."""
        n_bytes = 0
        held: set[int] = set()
        for ranges in steps:
            wanted = self._wanted(ranges)
            runs = self._runs([index for index in wanted if index not in held])
            n_bytes += sum(self._ref.ends[run.stop - 1] - self._start(run.start) for run in runs)
            held = held.intersection(wanted).union(*runs)
        return n_bytes

    def _start(self, index: int) -> int:
        return self._ref.ends[index - 1] if index else 0

    def _covering(self, start: int, stop: int) -> tuple[int, int]:
        return bisect.bisect_right(self._ref.ends, start), bisect.bisect_left(self._ref.ends, stop) + 1

    def _wanted(self, ranges: Iterable[tuple[int, int]]) -> list[int]:
        wanted: set[int] = set()
        for start, stop in ranges:
            if not 0 <= start <= stop <= self._ref.n_bytes:
                asked = f"bytes {start} to {stop} asked of an object of {self._ref.n_bytes}"
                raise CorruptArchive(f"{self._ref.path}: {asked}")
            if start < stop:
                wanted.update(range(*self._covering(start, stop)))
        return sorted(wanted)

    def _runs(self, indexes: Sequence[int]) -> list[range]:
        """Runs of segments to fetch together: neighbours, and those a gap of at most GAP_BYTES apart."""
        runs: list[range] = []
        for index in indexes:
            if runs and self._start(index) - self._ref.ends[runs[-1].stop - 1] <= GAP_BYTES:
                runs[-1] = range(runs[-1].start, index + 1)
            else:
                runs.append(range(index, index + 1))
        return runs

    def _fetch_missing(self, wanted: Iterable[int]) -> None:
        for run in self._runs([index for index in wanted if index not in self._held]):
            start = self._start(run.start)
            view = memoryview(_fetch(self._store, self._ref, start, self._ref.ends[run.stop - 1]))
            for index in run:
                segment = view[self._start(index) - start : self._ref.ends[index] - start]
                self._ref.check(index, segment)
                self._held[index] = segment
