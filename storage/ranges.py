"""A remote object as a seekable file: what lets a footer or a header be read without fetching the rest."""

from __future__ import annotations

import io

from storage.objects import ObjectStore

_READ_AHEAD_BYTES = 64 << 10


class RangeFile(io.RawIOBase):
    """Read-only view of one object of `n_bytes`; every range fetched goes through the store and its meter."""

    def __init__(self, store: ObjectStore, path: str, n_bytes: int) -> None:
        super().__init__()
        self._store = store
        self._path = path
        self._n_bytes = n_bytes
        self._position = 0
        self._kept_from = 0
        self._kept = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._n_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        rest = max(0, self._n_bytes - self._position)
        length = rest if size is None or size < 0 else min(size, rest)
        data = self._range(self._position, length)
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        return self.read(-1)

    def _range(self, offset: int, length: int) -> bytes:
        begin = offset - self._kept_from
        if begin < 0 or begin + length > len(self._kept):
            start = offset
            if offset + length == self._n_bytes:  # a footer: fetch the stretch before it too
                start = min(offset, max(0, self._n_bytes - _READ_AHEAD_BYTES))
            wanted = min(max(length + offset - start, _READ_AHEAD_BYTES), self._n_bytes - start)
            self._kept = self._store.read_range(self._path, start, wanted) if wanted else b""
            self._kept_from, begin = start, offset - start
        return self._kept[begin : begin + length]
