"""Symbols gathered by context: what is packed comes back, and what no encoder wrote is refused."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pcodec import ChunkConfig, standalone

from vae_core.entropy import gathered
from vae_core.entropy.gathered import Packed, Records, estimated, packed
from vae_core.entropy.rans import Decoder, Encoder
from vae_core.errors import CorruptArchive, UsageError

LAW = settings(deadline=None, max_examples=60)
ALPHABETS = st.sampled_from([1, 2, 3, 5, 7, 16, 17, 255, 256, 257, 300])


def record(depth: int, data: bytes) -> bytes:
    """As before format 1.14."""
    frame = zstandard.ZstdCompressor().compress(data)
    return bytes([depth]) + len(frame).to_bytes(4, "little") + frame


def by_brotli(data: bytes, base: int = 0, depth: int = 1) -> bytes:
    stream = pa.Codec("brotli").compress(data, asbytes=True)
    return bytes([128 + depth]) + len(stream).to_bytes(4, "little") + bytes([base]) + stream


def by_pco(symbols: np.ndarray) -> bytes:
    stream = standalone.simple_compress(symbols, ChunkConfig(enable_8_bit=True))
    return b"\x81" + len(stream).to_bytes(4, "little") + b"\xfe" + stream


@LAW
@given(st.data(), ALPHABETS, st.integers(0, 400), st.sampled_from([0.0, 0.2, 1e6]))
def test_what_is_packed_comes_back(data, n_symbols, n, price):
    rare = data.draw(st.booleans())
    elements = st.integers(0, n_symbols - 1)
    drawn = [data.draw(arrays(np.int64, n, elements=elements, fill=elements if rare else st.nothing())) for _ in range(2)]
    orders = [*drawn, np.sort(drawn[0])]
    with mock.patch.object(gathered, "PCO_LEAST", 1):
        found = packed(orders, n_symbols, price)
    records = Records(found.record)
    told, symbols = records.next(n, n_symbols)
    records.finish()
    assert told == found.depth and symbols.dtype == np.uint16 and np.array_equal(symbols, orders[told])
    assert found.n_bytes == len(found.record) and found.us >= 0
    if price == 1e6 and n and len(found.record) > 3:
        assert found.record[5] > 0  # pcodec, or where few symbols are told apart, what takes little time, too


def test_the_order_that_takes_fewest_bytes_is_kept():
    rng = np.random.default_rng(5)
    mixed = rng.integers(0, 40, 5000)
    found = packed([mixed, np.sort(mixed), mixed[::-1]], 40)
    assert found.depth == 1 and found.n_bytes < 200 < packed([mixed], 40).n_bytes


def test_the_order_is_kept_whose_stretches_are_alike_where_nothing_recurs():
    """zstd tells these orders apart by matches alone, and takes the wrong one."""
    rng = np.random.default_rng(11)
    context = rng.integers(0, 60, 65_536)
    symbols = (context + rng.geometric(0.12, len(context))) % 100
    orders = [symbols, symbols[np.argsort(context, kind="stable")]]
    sizes, found = [packed([order], 100).n_bytes for order in orders], packed(orders, 100)
    assert found.depth == 1 and found.n_bytes == sizes[1] < 0.9 * sizes[0]


def test_where_time_has_a_price_what_does_not_recur_is_packed_by_pcodec_for_a_few_bytes_more():
    rng = np.random.default_rng(12)
    context = np.sort(rng.integers(0, 60, 65_536))
    symbols = (context + rng.geometric(0.12, len(context))) % 100
    dear, cheap = packed([rng.permutation(symbols), symbols], 100), packed([rng.permutation(symbols), symbols], 100, 0.2)
    assert dear.depth == cheap.depth == 1 and dear.record[5] == 0 and cheap.record[5] == gathered.PCO
    assert cheap.n_bytes < 1.06 * dear.n_bytes and dear.us == 0 < cheap.us < 5_000
    told = estimated([rng.permutation(symbols), symbols], 100, 0.2)
    assert told.depth == 1 and told.us == cheap.us and 0.9 * cheap.n_bytes < told.n_bytes < 1.1 * cheap.n_bytes
    assert np.array_equal(Records(cheap.record).next(len(symbols), 100)[1], symbols)


def test_where_time_has_a_price_what_recurs_is_left_to_brotli():
    rng = np.random.default_rng(13)
    symbols = np.resize(rng.integers(0, 200, 3_000), 65_536)
    assert packed([symbols], 200, 0.2).record == packed([symbols], 200).record


@pytest.mark.parametrize(("share", "n_symbols"), [(0.001, 2), (0.01, 2), (0.1, 2), (0.1, 3), (0.1, 16)])
def test_what_is_likely_takes_less_than_a_bit(share, n_symbols):
    rng, n = np.random.default_rng(7), 50_000
    symbols = np.where(rng.random(n) < share, rng.integers(1, n_symbols, n), 0)
    counted = np.bincount(symbols, minlength=n_symbols) / n
    entropy = -float((counted * np.log2(counted)).sum())
    assert 8 * packed([symbols], n_symbols).n_bytes < 1.25 * entropy * n + 600


@pytest.mark.parametrize("n_symbols", [2, 7, 40, 256])
def test_an_estimate_is_about_what_is_packed_and_of_the_same_order(n_symbols):
    rng = np.random.default_rng(8)
    context = np.sort(rng.integers(0, 12, 20_000))
    symbols = rng.binomial(n_symbols - 1, (context + 0.5) / 13)
    orders = [rng.permutation(symbols), symbols]
    found, told = packed(orders, n_symbols), estimated(orders, n_symbols)
    assert found.depth == told.depth == 1 and 0.7 * found.n_bytes < told.n_bytes < 1.45 * found.n_bytes and told.record == b""
    assert estimated([symbols[:0]], n_symbols) == Packed(0, 3.0, 0.0)


@pytest.mark.parametrize(("symbol", "n"), [(0, 100_000), (7, 100_000), (256, 100_000), (7, 1), (0, 0)])
def test_symbols_that_are_all_one_take_three_bytes_and_so_do_none(symbol, n):
    found = packed([np.full(n, symbol)] * 3, 257, 0.2)
    assert found.depth == 0 and len(found.record) == 3
    assert np.array_equal(Records(found.record).next(n, 257)[1], np.full(n, symbol))


@pytest.mark.parametrize(
    ("data", "n_symbols", "says"),
    [
        (b"", 9, "ends within gathered symbols"),
        (b"\xff\x01", 9, "ends within gathered symbols"),
        (record(1, bytes(5))[:-1], 9, "ends within gathered symbols"),
        (record(1, bytes(4)), 9, "holds 4 bytes of gathered symbols where there are 5"),
        (record(1, bytes(5)), 300, "holds 5 bytes of gathered symbols where there are 10"),
        (record(1, b"\0\0\x09\0\0"), 9, "gathered symbol 9 of 9"),
        (record(1, bytes(4) + b"\x2c" + bytes(4) + b"\x01"), 300, "gathered symbol 300 of 300"),
        (b"\xff\x09\x00", 9, "gathered symbol 9 of 9"),
        (b"\x01\x05\x00\x00\x00hello", 9, "damaged"),
        (record(1, bytes(5))[:9] + b"\xee" * 20, 9, "gathered symbols"),
        (by_brotli(bytes(5))[:-1], 9, "ends within gathered symbols"),
        (by_brotli(bytes(5))[:5], 9, "ends within gathered symbols"),
        (by_brotli(bytes(4)), 9, "holds 4 bytes of gathered symbols where there are 5"),
        (by_brotli(bytes(6)), 9, "holds more bytes of gathered symbols where there are 5"),
        (by_brotli(bytes(5)), 300, "holds 5 bytes of gathered symbols where there are 10"),
        (by_brotli(b"\0\0\x09\0\0"), 9, "gathered symbol 9 of 9"),
        (by_brotli(b"\0\x50\0", 16), 5, "gathered symbol 5 of 5"),
        (by_brotli(bytes(5), 2), 9, "holds more bytes of gathered symbols where there are 1"),
        (by_brotli(bytes(5), 1), 9, "form 1, which there is not"),
        (by_brotli(bytes(5), 17), 17, "form 17, which there is not"),
        (by_brotli(bytes(5), 255), 9, "holds 5 bytes of gathered symbols where there are 21"),
        (by_brotli(bytes(5) + b"\x05", 255)[:-1], 9, "ends within"),
        (by_brotli(bytes(5) + b"\x04", 255), 9, "runs of gathered symbols that are not of 5"),
        (by_brotli(bytes(5) + b"\xff", 255), 9, "runs of gathered symbols that are not of 5"),
        (by_brotli(bytes(5) + b"\x05\x00", 255), 9, "runs of gathered symbols that are not of 5"),
        (by_brotli(b"\0\1\0\0\0" + b"\x01\x05", 255), 9, "runs of gathered symbols that are not of 5"),
        (by_brotli(b"\0\xff\xff\xff\xff" + b"\x01\x05", 255), 9, "runs of gathered symbols that are not of 5"),
        (by_brotli(b"\x09\0\0\0\0" + b"\x05", 255), 9, "gathered symbol 9 of 9"),
        (by_brotli(b"\0\0\0\0\0" + b"\x05", 255), 300, "form 255, which there is not"),
        (by_brotli(b"\0\1\0\0\0" + b"\x09\x03\x01", 255), 9, "gathered symbol 9 of 9"),
        (b"\x81\x00\x00\x00\x00\x00", 9, "holds 0 bytes"),
        (by_pco(np.zeros(4, np.uint8)), 9, "does not hold exactly 5"),
        (by_pco(np.zeros(6, np.uint8)), 9, "does not hold exactly 5"),
        (by_pco(np.zeros(5, np.uint16)), 9, "pcodec stream"),
        (by_pco(np.zeros(5, np.uint8)), 257, "pcodec stream"),
        (by_pco(np.array([0, 0, 9, 0, 0], np.uint8)), 9, "gathered symbol 9 of 9"),
        (by_pco(np.array([0, 0, 300, 0, 0], np.uint16)), 300, "gathered symbol 300 of 300"),
        (by_pco(np.zeros(5, np.uint8))[:-1], 9, "ends within"),
        (b"\x81\x05\x00\x00\x00\xfehello", 9, "pcodec stream"),
        (b"\x81\x05\x00\x00\x00\x00hello", 9, "damaged"),
    ],
)
def test_a_record_that_no_encoder_wrote_is_refused(data, n_symbols, says):
    with pytest.raises(CorruptArchive, match=says):
        Records(data).next(5, n_symbols)


def test_a_record_of_no_symbols_is_checked_like_any_other():
    for data in (b"\xff\x09\x00", record(0, b"")[:-1] + b"\x00\x00"):
        with pytest.raises(CorruptArchive):
            records = Records(data)
            records.next(0, 9)
            records.finish()


def test_a_claim_of_much_memory_is_refused_before_it_is_taken():
    frame = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 28))
    with pytest.raises(CorruptArchive, match="holds 268435456 bytes of gathered symbols where there are 5"):
        Records(b"\0" + len(frame).to_bytes(4, "little") + frame).next(5, 9)
    with pytest.raises(CorruptArchive, match="holds more bytes of gathered symbols where there are 5"):
        Records(by_brotli(bytes(1 << 28))).next(5, 9)


def test_records_of_format_1_13_are_read():
    """Two symbols a record, the second of two planes."""
    records = Records(record(2, b"\x07\x03") + record(0, b"\x2c\x05\x01\x00") + b"\xff\x04\x00")
    found = [(depth, symbols.tolist()) for depth, symbols in (records.next(2, 9), records.next(2, 301), records.next(2, 9))]
    assert found == [(2, [7, 3]), (0, [300, 5]), (0, [4, 4])]
    records.finish()


def test_a_build_of_pyarrow_without_brotli_is_told_what_to_install(monkeypatch):
    assert gathered.has_brotli()
    one = packed([np.arange(9)], 9).record
    monkeypatch.setattr(gathered, "has_brotli", lambda: False)
    for work in (lambda: packed([np.arange(9)], 9), lambda: Records(one).next(9, 9)):
        with pytest.raises(UsageError, match="no brotli, which columns are packed by: install pyarrow from PyPI"):
            work()
    assert Records(record(0, bytes(range(9)))).next(9, 9)[1].tolist() == list(range(9))  # format 1.13 has none of it


def test_symbols_that_share_bytes_stand_the_first_one_lowest():
    assert Records(by_brotli(b"\x21\x03", 16)).next(3, 16)[1].tolist() == [1, 2, 3]
    assert Records(by_brotli(bytes([0 + 3 * 1 + 9 * 2]), 3)).next(3, 3)[1].tolist() == [0, 1, 2]


def test_runs_say_how_many_stand_before_each_other_symbol():
    data = b"\x04" + b"\x02\0\0\0" + b"\x07\x03" + b"\x02\xff\x01\x00"
    assert Records(by_brotli(data, 255)).next(260, 9)[1].tolist() == [4, 4, 7, *[4] * 256, 3]
    symbols = np.zeros(1000, np.int64)
    symbols[[0, 256, 511, 767, 999]] = [1, 2, 1, 3, 1]  # runs of 0, 255, 254, 255 and 231
    assert np.array_equal(Records(packed([symbols], 9).record).next(1000, 9)[1], symbols)


def stream_of(*gathered: np.ndarray) -> bytes:
    encoder = Encoder()
    encoder.raw(np.array([3, 9]), np.array([5, 300]))
    for symbols in gathered:
        encoder.code_gathered(len(symbols), 9, [symbols])
    return encoder.finish()


def test_a_stream_ends_with_its_records_and_says_so():
    first, second = np.arange(8) % 5, np.arange(30) % 9
    a, b = Encoder(), Encoder()
    a.raw(np.array([3]), np.array([5]))
    a.code_gathered(8, 9, [first])
    before = a.bits
    b.raw(np.array([9]), np.array([300]))
    b.code_gathered(30, 9, [second])
    a.absorb(b)
    assert a.bits > before > 8 * 13
    decoder = Decoder(a.finish())
    assert decoder.raw(np.array([3]), None).tolist() == [5] and decoder.raw(np.array([9]), None).tolist() == [300]
    assert [decoder.code_gathered(n, 9, None)[1].tolist() for n in (8, 30)] == [first.tolist(), second.tolist()]
    decoder.finish()


def test_a_record_that_no_column_reads_is_refused():
    decoder = Decoder(stream_of(np.arange(8)))
    decoder.raw(np.array([3, 9]), None)
    with pytest.raises(CorruptArchive, match="gathered symbols that no column has"):
        decoder.finish()


def test_a_stream_with_records_it_does_not_tell_of_or_none_that_it_tells_of_is_refused():
    plain, gathered = stream_of(), stream_of(np.arange(8))
    told = int.from_bytes(plain[:2], "little") | 1 << 14
    unfolded = (1 << 14 | 1).to_bytes(2, "little") + bytes(4) + (1 << 32).to_bytes(8, "little") + b"\xff\0\0"
    with pytest.raises(CorruptArchive, match="not folded"):
        Decoder(unfolded)
    for stream in (plain + b"\0" * 9, told.to_bytes(2, "little") + plain[2:], gathered[:-15]):
        with pytest.raises(CorruptArchive):
            decoder = Decoder(stream)
            decoder.raw(np.array([3, 9]), None)
            decoder.code_gathered(8, 9, None)
