"""Lists of int64 as bytes: zigzag, LEB128; and what reads them from a payload that may be hostile."""

from __future__ import annotations

from collections.abc import Sequence

from vae_core.errors import CorruptArchive


def varints(numbers: Sequence[int]) -> bytes:
    """int64 numbers, zigzag, LEB128."""
    out = bytearray()
    for number in numbers:
        left = (number << 1) ^ (number >> 63)
        while left > 127:
            out.append(left & 127 | 128)
            left >>= 7
        out.append(left)
    return bytes(out)


class Reader:
    """A payload from its start. of: what it is of, for messages"""

    def __init__(self, data: bytes, of: str = "lattices") -> None:
        self.data, self.at, self.of = data, 0, of

    def varint(self, low: int = -(2**63), high: int = 2**63 - 1) -> int:
        """The next number. Raises CorruptArchive when there is none, or it is not in low .. high."""
        found = shift = 0
        while True:
            if self.at >= len(self.data) or shift > 63:
                raise CorruptArchive(f"a number of a payload of {self.of} is cut short, or longer than 64 bits")
            byte = self.data[self.at]
            self.at += 1
            found |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        value = (found >> 1) ^ -(found & 1)
        if not low <= value <= high:
            raise CorruptArchive(f"a payload of {self.of} holds {value} where {low} to {high} is expected")
        return value

    def take(self, n_bytes: int) -> bytes:
        """The next n_bytes. Raises CorruptArchive when there are fewer."""
        self.at += n_bytes
        if self.at > len(self.data):
            raise CorruptArchive(f"a payload of {self.of} is cut short")
        return self.data[self.at - n_bytes : self.at]

    def rest(self) -> bytes:
        """All that is left."""
        return self.data[self.at :]
