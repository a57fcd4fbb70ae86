"""Text files are often stored compressed; their first bytes say how."""

from __future__ import annotations

import io
from typing import BinaryIO

import pyarrow as pa

_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bz2"), (b"\x04\x22\x4d\x18", "lz4"))


class _Borrowed(io.RawIOBase):
    """A file that stays open when the Arrow stream around it is closed or forgotten."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def decompressed(file: BinaryIO | pa.NativeFile) -> pa.NativeFile:
    """The text of a seekable binary file from its start, decompressed if it is gzip, zstd, bzip2 or LZ4."""
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    stream = file if isinstance(file, pa.NativeFile) else pa.PythonFile(_Borrowed(file), mode="r")
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return pa.CompressedInputStream(stream, name)
    return stream


def opened_text(path: str) -> pa.NativeFile:
    """A local text file, decompressed as `decompressed` would."""
    return decompressed(pa.OSFile(path, "rb"))
