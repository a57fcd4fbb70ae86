"""How many bytes moved through an object store, counted where they move."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes and requests between two instants. Adds and subtracts field by field."""

    bytes_read: int = 0
    bytes_written: int = 0
    n_requests: int = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            self.n_requests + other.n_requests,
        )

    def __sub__(self, other: Moved) -> Moved:
        return Moved(
            self.bytes_read - other.bytes_read,
            self.bytes_written - other.bytes_written,
            self.n_requests - other.n_requests,
        )


class Meter:
    """Counts what an `ObjectStore` or a `Source` moves; one meter may be shared by many, from any thread."""

    __slots__ = ("_lock", "_moved")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moved = Moved()

    @property
    def bytes_read(self) -> int:
        return self._moved.bytes_read

    @property
    def bytes_written(self) -> int:
        return self._moved.bytes_written

    @property
    def n_requests(self) -> int:
        return self._moved.n_requests

    def record_read(self, n_bytes: int, n_requests: int = 1) -> None:
        """`n_bytes` came in."""
        with self._lock:
            self._moved += Moved(bytes_read=n_bytes, n_requests=n_requests)

    def record_write(self, n_bytes: int, n_requests: int = 1) -> None:
        """`n_bytes` went out."""
        with self._lock:
            self._moved += Moved(bytes_written=n_bytes, n_requests=n_requests)

    def record_request(self) -> None:
        """A request without a payload worth counting: a listing, a question of existence, a deletion."""
        with self._lock:
            self._moved += Moved(n_requests=1)

    def snapshot(self) -> Moved:
        """The counts now; subtract an earlier snapshot to know what a stretch of work moved."""
        return self._moved

    def minus(self, earlier: Moved) -> Moved:
        """What moved since `earlier`."""
        return self._moved - earlier
