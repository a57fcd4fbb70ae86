"""Symbols gathered by context: all of one context behind one another, packed by brotli or, where its time has a price, by pcodec.

Where symbols are alike they stand together then, and a Huffman code of each stretch of them does most of what a distribution for each
context does. Few symbols share bytes, so that what is likely may take less than a bit; where nearly all are one, it is said how many of
them stand before each other. pcodec finds nothing that recurs, and takes some 2 % more where nothing does, in a fiftieth of the time. No
symbol is looked up: a reader sorts its rows by their contexts, and puts what it unpacks where they are. FORMAT.md, "Gathered symbols".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, standalone

from vae_core.errors import CorruptArchive, UsageError
from vae_core.packing import unpco

Ints = NDArray[np.int64]
Symbols = NDArray[np.uint16]
TRIAL_LEVEL = 3  # of zstd, which tells depth and form
STRETCH = 1 << 12  # symbols
QUALITY = 10  # of brotli: below it are many more bytes, above it, in pieces, no fewer in three times as long
PIECE = 1 << 14  # bytes, about
SOME_PIECES = 3
OTHER_SHARE = 0.99  # of the bytes of some pieces, for the others to be packed in another order, too
QUICK_SHARE = 0.85  # of what zstd takes in a trial, what brotli does
HEAD = 5  # bytes of a record before its frame, and one more where brotli packed it
ALL_ONE, BROTLI = 255, 128  # in place of a depth, where all symbols are one; beside it
BYTE = 256  # symbols that one byte tells apart
MOST_SHARING = 16  # symbols, of which two share a byte
RUNS, MOST_RUN = 255, 255  # in place of how many share a byte: runs of one symbol, of so many at most
BYTE_US, PACKED_US, RECURRING_US = 0.12, 1.3, 5.0  # µs of brotli: a byte, one of what it becomes, one less than by entropy
PCO = 254  # in place of how many share a byte: pcodec
PCO_LEVEL, PCO_CHUNKS = 8, (2048, 4096, 8192)  # symbols that have a distribution of their own
PCO_US, PCO_MORE, PCO_LEAST = 0.03, 1.02, 4096  # µs a symbol; of the entropy of stretches, what it takes at least; symbols to be tried
FEW_OTHERS = 0.2  # of all symbols, those that are not the commonest, for runs of it to be tried


@dataclass(frozen=True, slots=True)
class Packed:
    """What a record is, or would be.

    depth   : of the order that is packed        n_bytes : of the record, measured or estimated
    us      : microseconds that packing it takes, about, where that has a price        record : b"" where it is estimated
    """

    depth: int
    n_bytes: float
    us: float
    record: bytes = b""


def packed(orders: Sequence[Symbols], n_symbols: int, price: float = 0.0) -> Packed:
    """The record of (n,) symbols in one or more orders, those of contexts of each depth: the one that takes the fewest bytes, and little
    time where that has a price: bits that a microsecond of packing is worth. Raises UsageError without brotli."""
    if (only := _only(orders[0])) is not None:
        record = bytes([ALL_ONE]) + only.to_bytes(2, "little")
        return Packed(0, len(record), 0.0, record)
    size, depth, form = _cheapest(orders, n_symbols)
    # zstd looks for what recurs, brotli splits what does not into stretches that are alike, too: these tell of another order
    entropies = _Entropies(orders)
    even = entropies.least if form == 0 else depth
    if price and form == 0 and len(orders[0]) >= PCO_LEAST:
        told, us = min(QUICK_SHARE * size, entropies.of(even)), PCO_US * len(orders[0])
        most = HEAD + 1 + told + price / 8 * (_brotli_us(len(orders[0]) * _n_planes(n_symbols), told, entropies.of(depth)) - us)
        if PCO_MORE * entropies.of(even) < most:
            numbers = min((_pco(orders[even], n_symbols, chunk) for chunk in PCO_CHUNKS), key=len)
            if len(numbers) < most:
                return _recorded(even, PCO, numbers, us)
    data = _data(orders[depth], n_symbols, form)
    pieces = _Pieces(data)
    if even != depth:
        other = _Pieces(_data(orders[even], n_symbols, form))
        if other.some < OTHER_SHARE * pieces.some and len(other.stream) < len(pieces.stream):
            depth, pieces = even, other
    us = _brotli_us(len(data), len(pieces.stream), entropies.of(depth)) if price else 0.0
    return _recorded(depth, form, pieces.stream, us)


def _recorded(depth: int, form: int, stream: bytes, us: float) -> Packed:
    record = bytes([BROTLI + depth]) + len(stream).to_bytes(4, "little") + bytes([form]) + stream
    return Packed(depth, len(record), us, record)


def estimated(orders: Sequence[Symbols], n_symbols: int, price: float = 0.0) -> Packed:
    """What `packed` finds, about so, in a tenth of the time."""
    if _only(orders[0]) is not None:
        return Packed(0, 3.0, 0.0)
    size, depth, form = _cheapest(orders, n_symbols)
    told, n, entropies = QUICK_SHARE * size, len(orders[0]), _Entropies(orders)
    us = _brotli_us(len(_data(orders[depth], n_symbols, form)), told, entropies.of(depth)) if price else 0.0
    brotli = Packed(depth, HEAD + 1 + told, us)
    if not price or form or n < PCO_LEAST:
        return brotli
    pco = Packed(entropies.least, HEAD + 1 + PCO_MORE * entropies.of(entropies.least), PCO_US * n)
    return min(brotli, pco, key=lambda one: one.n_bytes + price / 8 * one.us)


def _brotli_us(n_data: int, n_bytes: float, entropy: float) -> float:
    """Microseconds that brotli takes to make so many bytes of n_data, about: it spends most where it finds much that recurs in short, and
    then takes less than the entropy of stretches."""
    recurring = min(max(0.0, entropy - n_bytes), n_bytes)
    return BYTE_US * n_data + PACKED_US * n_bytes + RECURRING_US * recurring


def _cheapest(orders: Sequence[Symbols], n_symbols: int) -> tuple[int, int, int]:
    """(bytes by zstd, depth, form) of the fewest bytes: the order in bytes of their own, then the form."""
    size, depth = min((_trial(_data(order, n_symbols, 0)), depth) for depth, order in enumerate(orders))
    others = _forms(orders[0], n_symbols)
    return min([(size, depth, 0), *((_trial(_data(orders[depth], n_symbols, form)), depth, form) for form in others)])


def _pco(symbols: Symbols, n_symbols: int, chunk: int) -> bytes:
    """Symbols by pcodec, so many of which have a distribution of their own."""
    how = {"mode_spec": ModeSpec.classic(), "delta_spec": DeltaSpec.no_op(), "paging_spec": PagingSpec.equal_pages_up_to(chunk)}
    config = ChunkConfig(compression_level=PCO_LEVEL, enable_8_bit=True, **how)
    return bytes(standalone.simple_compress(symbols.astype(_unit(n_symbols)), config))


def _unit(n_symbols: int) -> np.dtype[Any]:
    """What a symbol is to pcodec."""
    return np.dtype(np.uint8 if n_symbols <= BYTE else np.uint16)


class _Entropies:
    """What symbols in some orders take by how often each is met in its stretch, in bytes."""

    def __init__(self, orders: Sequence[Symbols]) -> None:
        self._orders = orders
        self._found: dict[int, float] = {}

    def of(self, depth: int) -> float:
        """Bytes of one of them."""
        if depth not in self._found:
            self._found[depth] = self._counted(self._orders[depth])
        return self._found[depth]

    @property
    def least(self) -> int:
        """The one that takes the fewest."""
        return min(range(len(self._orders)), key=self.of)

    def _counted(self, symbols: Symbols) -> float:
        n, size = len(symbols), int(symbols.max(initial=0)) + 1
        n_stretches = -(-n // STRETCH)
        first = np.repeat(np.arange(n_stretches) * size, STRETCH)[:n]
        counted = np.bincount(first + symbols, minlength=n_stretches * size).reshape(n_stretches, size)
        total = counted.sum(axis=1)
        counted = counted[counted > 1]
        return float((total * np.log2(total)).sum() - (counted * np.log2(counted)).sum()) / 8


class _Pieces:
    """Bytes packed by brotli in pieces, each a stream of its own: what their contents have in common is little, and the time grows faster
    than they do."""

    def __init__(self, data: bytes) -> None:
        _need_brotli()
        n = -(-len(data) // max(1, round(len(data) / PIECE)))
        self._data = [data[start : start + n] for start in range(0, len(data), n)]
        self._packed: dict[int, bytes] = {}

    def _of(self, numbers: range) -> list[bytes]:
        codec = pa.Codec("brotli", compression_level=QUALITY)
        self._packed |= {k: codec.compress(self._data[k], asbytes=True) for k in numbers if k not in self._packed}
        return [self._packed[k] for k in numbers]

    @property
    def some(self) -> int:
        """Bytes that one piece in SOME_PIECES takes, all where there are few."""
        n = len(self._data)
        return sum(map(len, self._of(range(n) if n < SOME_PIECES else range(1, n, SOME_PIECES))))

    @property
    def stream(self) -> bytes:
        """All of them."""
        return b"".join(self._of(range(len(self._data))))


def has_brotli() -> bool:
    """Whether this build of pyarrow has it: those on PyPI and conda-forge do."""
    return bool(pa.Codec.is_available("brotli"))


def _need_brotli() -> None:
    """Raises UsageError where columns can be neither packed nor unpacked."""
    if not has_brotli():
        raise UsageError("this build of pyarrow has no brotli, which columns are packed by: install pyarrow from PyPI")


def _only(symbols: Symbols) -> int | None:
    """The symbol that all are, 0 of none, None where they differ."""
    only = int(symbols[0]) if len(symbols) else 0
    return only if (symbols == only).all() else None


def _forms(symbols: Symbols, n_symbols: int) -> list[int]:
    """The forms worth a trial beside 0, a byte for each: of how many symbols those are that share bytes, RUNS."""
    counted = np.bincount(symbols)
    found = [len(counted)] if len(counted) <= MOST_SHARING else []
    return [*found, RUNS] if n_symbols <= BYTE and counted.max() >= (1 - FEW_OTHERS) * len(symbols) else found


def _trial(data: bytes) -> int:
    return len(zstandard.ZstdCompressor(level=TRIAL_LEVEL).compress(data))


def _sharing(base: int) -> Ints:
    """What each symbol counts of those that share a byte, the first one first."""
    powers = base ** np.arange(8)
    found: Ints = powers[powers * base <= BYTE]
    return found


def _data(symbols: Symbols, n_symbols: int, form: int) -> bytes:
    """0: the low byte of every symbol, then the high bytes where there are symbols of two. RUNS: as _runs. Else as many symbols in each
    byte as it has room for."""
    if form == RUNS:
        return _runs(symbols)
    if form:
        powers = _sharing(form)
        filled = np.zeros(-(-len(symbols) // len(powers)) * len(powers), np.int64)
        filled[: len(symbols)] = symbols
        return (filled.reshape(-1, len(powers)) @ powers).astype(np.uint8).tobytes()
    low = symbols.astype(np.uint8).tobytes()
    return low if n_symbols <= BYTE else low + (symbols >> 8).astype(np.uint8).tobytes()


def _runs(symbols: Symbols) -> bytes:
    """u8 the commonest symbol ++ u32 how many others there are ++ u8 each of these ++ u8 runs: how many of the commonest stand before
    each other and at the end, MOST_RUN of so many that have none behind them."""
    common = int(np.bincount(symbols).argmax())
    others = np.flatnonzero(symbols != common)
    lengths = np.diff(others, prepend=-1, append=len(symbols)) - 1
    whole = lengths // MOST_RUN
    runs = np.full(len(lengths) + int(whole.sum()), MOST_RUN, np.uint8)
    runs[np.arange(len(lengths)) + whole.cumsum()] = lengths % MOST_RUN
    return bytes([common]) + len(others).to_bytes(4, "little") + symbols.take(others).astype(np.uint8).tobytes() + runs.tobytes()


def _from_runs(data: bytes, n: int) -> Symbols:
    """The inverse."""
    n_others = int.from_bytes(data[1:HEAD], "little")
    others, runs = np.frombuffer(data, np.uint8, offset=HEAD)[:n_others], np.frombuffer(data, np.uint8, offset=HEAD)[n_others:]
    last = runs < MOST_RUN  # of those before an other, and the one at the end
    places = (np.cumsum(runs, dtype=np.int64) + np.cumsum(last) - 1)[last]
    if len(places) != n_others + 1 or not last[-1] or places[-1] != n:
        raise CorruptArchive(f"stream holds runs of gathered symbols that are not of {n}")
    found = np.full(n, data[0], np.uint16)
    found[places[:-1]] = others
    return found


def _check(symbol: int, n_symbols: int) -> None:
    if symbol >= n_symbols:
        raise CorruptArchive(f"stream holds gathered symbol {symbol} of {n_symbols}")


class Records:
    """Records behind one another, as a stream ends with them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def next(self, n: int, n_symbols: int) -> tuple[int, Symbols]:
        """(depth, n symbols) of the next record. Raises CorruptArchive where it is none of so many symbols."""
        head = self._taken(1)[0]
        if head == ALL_ONE:
            symbol = int.from_bytes(self._taken(2), "little")
            _check(symbol, n_symbols)
            return 0, np.full(n, symbol, np.uint16)
        length = int.from_bytes(self._taken(HEAD - 1), "little")
        form = self._taken(1)[0] if head >= BROTLI else 0
        stream = self._taken(length)
        if head >= BROTLI and form == PCO:
            symbols = unpco(stream, _unit(n_symbols), n).astype(np.uint16, copy=False)
        else:
            symbols = _from_zstd(stream, n, n_symbols) if head < BROTLI else _from_brotli(stream, form, n, n_symbols)
        _check(int(symbols.max(initial=0)), n_symbols)
        return head % BROTLI, symbols

    def _taken(self, n: int) -> bytes:
        found = self._data[self._at : self._at + n]
        if len(found) < n:
            raise CorruptArchive(f"stream ends within gathered symbols: {len(found)} bytes are left of {n}")
        self._at += n
        return found

    def finish(self) -> None:
        """Raises CorruptArchive unless every record was read."""
        if self._at < len(self._data):
            raise CorruptArchive(f"stream has {len(self._data) - self._at} bytes of gathered symbols that no column has")


def _from_brotli(stream: bytes, form: int, n: int, n_symbols: int) -> Symbols:
    """(n,) symbols."""
    _need_brotli()
    if form == 1 or (form > MOST_SHARING and form != RUNS) or (form == RUNS and n_symbols > BYTE):
        raise CorruptArchive(f"stream gathers symbols in form {form}, which there is not")
    sharing = _sharing(form) if 0 < form < RUNS else np.ones(1, np.int64)
    most = HEAD + 3 * n + 1 if form == RUNS else n * _n_planes(n_symbols) if form == 0 else -(-n // len(sharing))
    try:
        # not Codec.decompress: of a stream that holds fewer bytes it returns what was in memory behind them
        data: bytes = pa.CompressedInputStream(pa.BufferReader(stream), "brotli").read(most + 1)
    except OSError as error:
        raise CorruptArchive(f"gathered symbols are damaged ({error})") from None
    if len(data) > most or len(data) < (HEAD + 1 if form == RUNS else most):
        raise CorruptArchive(f"stream holds {'more' if len(data) > most else len(data)} bytes of gathered symbols where there are {most}")
    if form == RUNS:
        return _from_runs(data, n)
    if form:
        told = (np.arange(BYTE)[:, None] // sharing % form).astype(np.uint16)  # symbols of each byte
        found: Symbols = told.take(np.frombuffer(data, np.uint8), axis=0).reshape(-1)[:n]
        return found
    return _from_planes(data, n, n_symbols)


def _from_zstd(frame: bytes, n: int, n_symbols: int) -> Symbols:
    """As before format 1.14."""
    size = n * _n_planes(n_symbols)
    try:
        if zstandard.frame_content_size(frame) != size:  # before any memory is taken for them
            found = zstandard.frame_content_size(frame)
            raise CorruptArchive(f"stream holds {found} bytes of gathered symbols where there are {size}")
        data = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptArchive(f"gathered symbols are damaged ({error})") from None
    return _from_planes(data, n, n_symbols)


def _n_planes(n_symbols: int) -> int:
    return 1 if n_symbols <= BYTE else 2


def _from_planes(data: bytes, n: int, n_symbols: int) -> Symbols:
    planes = np.frombuffer(data, np.uint8).reshape(_n_planes(n_symbols), n)
    symbols: Symbols = planes[0].astype(np.uint16)
    if len(planes) > 1:
        symbols |= planes[1].astype(np.uint16) << 8
    return symbols
