"""Loops in compiled code give what numpy and Python give."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_core import weights
from vae_core.entropy import kernel, serial
from vae_core.exact.features import Decoded
from vae_core.exact.recall import Recalled
from vae_core.exact.sorting import by_number, gather, spread

LAW = settings(deadline=None, max_examples=60)
HAS_COMPILER = any(kernel.compilers())
FACTOR = 0x9E3779B97F4A7C15
BITS_64 = (1 << 64) - 1


def by_numpy(decoded: Decoded, keys: tuple[int, ...], active: np.ndarray | None) -> Recalled:
    """The specification without compiled code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serial, "library", lambda: None)
        return Recalled(decoded, keys, active)


@LAW
@given(st.integers(0, 300), st.integers(1, 3), st.integers(0, 62), st.integers(0, 2**32), st.booleans())
def test_rows_of_a_key_are_those_that_sorting_finds(n, n_keys, shift, seed, partial):
    rng = np.random.default_rng(seed)
    decoded = Decoded(n, {j: rng.integers(-4, 5, n) << (shift * j // 2) for j in range(n_keys)})
    keys, active = tuple(range(n_keys)), rng.random(n) < 0.7 if partial else None
    fast, slow = Recalled(decoded, keys, active), by_numpy(decoded, keys, active)
    assert np.array_equal(fast.seen, slow.seen)
    values = rng.integers(0, 3, n)
    assert np.array_equal(fast.same(values), slow.same(values))
    flags = np.where(fast.seen, rng.integers(0, 2, n), 0)
    one, other = values.copy(), values.copy()
    fast.copy(one, flags)
    slow.copy(other, flags)
    assert np.array_equal(one, other)


@LAW
@given(st.integers(0, 300), st.sampled_from([1, 2, 40, 5_000, 70_000, 1 << 40]), st.integers(0, 2**32))
def test_rows_by_number_are_those_that_sorting_finds(n, n_numbers, seed):
    rng = np.random.default_rng(seed)
    numbers, values, before = rng.integers(0, n_numbers, n), rng.integers(0, 512, n).astype(np.uint16), rng.permutation(n)
    narrow = numbers.astype(np.int32) if n_numbers < 1 << 31 else numbers
    wanted = np.argsort(numbers, kind="stable")
    assert np.array_equal(by_number(numbers), wanted) and np.array_equal(by_number(narrow), wanted)
    assert np.array_equal(spread(narrow, values[wanted]), values) and np.array_equal(gather(narrow, values), values[wanted])
    assert np.array_equal(by_number(numbers, before), before[np.argsort(numbers[before], kind="stable")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serial, "library", lambda: None)
        slow = by_number(numbers), by_number(numbers, before), spread(narrow, values)
    assert np.array_equal(by_number(numbers), slow[0]) and np.array_equal(by_number(numbers, before), slow[1])
    assert np.array_equal(spread(narrow, values), slow[2])


def test_rows_are_not_counted_by_numbers_beyond_the_table_nor_spread_from_too_few_values():
    c = serial.library()
    assert (c is not None) == (HAS_COMPILER and os.environ.get("LATENTPACK_KERNEL") != "off")
    some, symbols = np.arange(5), np.arange(5, dtype=np.uint16)
    assert np.array_equal(by_number(some), some) and np.array_equal(spread(some, symbols), symbols)  # with a compiler and without
    if c is None:
        return
    for numbers in np.array([0, 1, 2, 3, 5]), np.array([0, 1, -1, 3, 4]), np.array([0, 1, 2, 3, 2**62]):
        assert serial.order(c, numbers, None, 5) is None and serial.moved(c, numbers, symbols, 5, to_rows=True) is None
        for to_rows in (True, False) if abs(numbers).max() < 1 << 31 else ():
            assert serial.moved(c, numbers.astype(np.int32), symbols, 5, to_rows) is None
    assert serial.moved(c, some.astype(np.int32), symbols[:4], 5, to_rows=True) is None and serial.order(c, some, some[:4], 5) is None


@LAW
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=200), st.binary(max_size=200), st.integers(0, 200))
def test_adaptive_integers_are_those_the_specification_reads(values, noise, count):
    payload = weights._encode_adaptive(values)
    assert weights._decode_adaptive(payload, len(values)) == values
    c = serial.library()
    assert (c is not None) == (HAS_COMPILER and os.environ.get("LATENTPACK_KERNEL") != "off")
    if c is not None:
        assert serial.adaptive(c, payload, len(values)) == values
        assert serial.adaptive(c, noise, count) == weights._decode_adaptive(noise, count)


def test_keys_made_to_fall_on_one_place_are_sorted_instead():
    inverse = pow(FACTOR, -1, 1 << 64)
    keys = []
    for k in range(20_000):
        folded = found = k * inverse & BITS_64
        for _ in range(3):
            found = folded ^ (found >> 29)
        keys.append(found * inverse & BITS_64)
    column = np.array(keys + keys[:50], np.uint64).view(np.int64)
    c = serial.library()
    assert c is None or serial.links(c, [column], None) is None
    assert np.flatnonzero(Recalled(Decoded(len(column), {0: column}), (0,), None).seen).tolist() == list(range(20_000, 20_050))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("columns[k][a] == columns[k][b]", "a >= 0"),
        ("keys[row] == keys[i] && ", ""),
        ("keys[i] * (span + 1)", "keys[i]"),
        ("previous[i] = cells[keys[i]] - 1;", "previous[i] = -1;"),
        ("seen[i] = 1;", "seen[i] = 0;"),
        ("if (active && !active[i]) continue;", ""),
        ("        cells[at] = (int32_t)(i + 1);", "        if (!cells[at]) cells[at] = (int32_t)(i + 1);"),
        ("if (same[i] &&", "if ("),
        ("b->n += b->n < 4;", ""),
        ("int64_t row = before ? before[i] : i;", "int64_t row = i;"),
        ("starts[k] = start;", "starts[k] = 0;"),
        ("found[i] = values[starts[numbers[i]]++];", "found[i] = values[starts[numbers[i]]];"),
        ("found[starts[numbers[i]]++] = values[i];", "found[starts[numbers[i]]] = values[i];"),
        ("n_bits < 2 ? n_bits : 2", "1"),
        ("below[n_bits][i]", "below[0][i]"),
        ("in->code << 8 | next_byte(in)", "in->code << 8"),
    ],
)
def test_loops_that_depart_from_the_specification_are_not_used(tmp_path, monkeypatch, right, wrong):
    source = serial.SOURCE.read_text()
    assert right in source
    changed = tmp_path / "serial.c"
    changed.write_text(source.replace(right, wrong))
    monkeypatch.setattr(serial, "SOURCE", changed)
    monkeypatch.setenv("LATENTPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LATENTPACK_KERNEL", raising=False)
    assert serial.library.__wrapped__() is None
    assert bool(list((tmp_path / "cache").glob("*.so"))) == HAS_COMPILER
