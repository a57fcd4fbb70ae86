"""Levels that are fractions: simplest ones found, the same floats back, damage seen."""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_core.columns.blobs import pack_numbers, unpack_numbers
from vae_core.columns.fractions import MOST_LEVELS, _simplest, pack_fractions, unpack_fractions
from vae_core.errors import CorruptArchive

LAW = settings(deadline=None, max_examples=200)
SMALL = st.fractions(-300, 300, max_denominator=70)
RNG = np.random.default_rng(3)


@LAW
@given(SMALL, SMALL)
def test_the_fraction_of_least_denominator_between_two_is_found(a, b):
    low, high = sorted((a, b))
    if low == high:
        return
    p, q = _simplest((low.numerator, low.denominator), (high.numerator, high.denominator))
    assert low < Fraction(p, q) < high
    assert all(low.numerator * k // low.denominator + 1 >= high * k for k in range(1, q))


@LAW
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | SMALL.map(float), min_size=1, max_size=60, unique=True))
def test_any_levels_come_back_to_the_bit(values):
    levels = np.unique(np.array(values))
    assert unpack_numbers(pack_numbers(levels), levels.dtype, len(levels)).tobytes() == levels.tobytes()


def quotients(n: int = 2000) -> list[Fraction]:
    return [Fraction(int(p), int(q)) for p, q in zip(RNG.integers(-9, 40, n), RNG.integers(1, 50, n), strict=True)]


def cut_off(x: Fraction, digits: int) -> float:
    return (1 if x >= 0 else -1) * int(abs(x) * 10**digits) / 10**digits


@pytest.mark.parametrize(
    "made",
    [float, lambda x: round(float(x), 6), lambda x: round(float(x), 3), lambda x: cut_off(x, 15), lambda x: cut_off(x, 8)],
    ids=["nearest", "6 decimals", "3 decimals", "cut off", "cut off after 8"],
)
def test_quotients_take_a_fraction_of_what_other_levels_do(made):
    levels = np.unique(np.array([made(x) for x in quotients()]))
    packed, plain = pack_numbers(levels), pack_numbers(levels, as_fractions=False)
    assert np.array_equal(unpack_numbers(packed, levels.dtype, len(levels)), levels)
    assert packed[:1] == b"Q" and len(packed) < 0.7 * len(plain)


def test_levels_that_are_no_fractions_stay_beside_those_that_are():
    levels = np.unique(np.array([*map(float, quotients(800)), *RNG.normal(size=90)]))
    found = pack_fractions(levels)
    assert found is not None and 60 < len(found[1]) <= 90
    packed = pack_numbers(levels)
    assert packed[:1] == b"Q" and np.array_equal(unpack_numbers(packed, levels.dtype, len(levels)), levels)
    for cut in range(1, len(packed), 7):
        with pytest.raises(CorruptArchive):
            unpack_numbers(packed[:cut], levels.dtype, len(levels))
    for n in (0, 1, len(levels) - 1, len(levels) + 1):
        with pytest.raises(CorruptArchive):
            unpack_numbers(packed, levels.dtype, n)
    with pytest.raises(CorruptArchive):
        unpack_numbers(packed, np.dtype(np.float32), len(levels))


def test_numbers_of_other_kinds_are_no_fractions():
    others = [RNG.normal(size=400), np.arange(9.0).astype(np.float32), np.arange(9), *(np.array(x) for x in ([-0.0, 0.5], [np.inf], []))]
    for levels in others:
        assert pack_fractions(np.sort(levels)) is None


@LAW
@given(st.binary(max_size=60), st.integers(0, 2**32))
def test_damage_is_seen_or_does_no_harm(data, at):
    whole = bytearray(pack_fractions(np.unique(np.array([float(x) for x in quotients(300)])))[0])
    for hostile in (data, bytes(whole[: at % len(whole)]), bytes([*whole[: at % len(whole)], *data])):
        began = time.monotonic()
        with contextlib.suppress(CorruptArchive):
            assert len(unpack_fractions(hostile, 1 << 24)) <= MOST_LEVELS
        assert time.monotonic() - began < 2
