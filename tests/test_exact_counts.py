from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_core.entropy.passes import Contexts
from vae_core.entropy.rans import SLOTS, UP, Decoder, Encoder
from vae_core.exact.counts import SCALE_BITS, AdaptiveCounts, n_contexts

LAW = settings(deadline=None, max_examples=30)


@st.composite
def digits(draw: st.DrawFn) -> tuple[int, list[int], list[int], np.random.Generator]:
    """(n_symbols, sizes, weights, randomness)"""
    n_symbols = draw(st.sampled_from([1, 2, 3, 16, 257]))
    sizes = draw(st.lists(st.integers(1, 6), max_size=3))
    weights = draw(st.lists(st.one_of(st.integers(1, 40), st.just(65535)), min_size=len(sizes) + 1, max_size=len(sizes) + 1))
    return n_symbols, sizes, weights, np.random.default_rng(draw(st.integers(0, 2**32)))


def chunk(rng: np.random.Generator, n_symbols: int, sizes: list[int], n: int) -> tuple[list[np.ndarray], np.ndarray]:
    levels = [rng.integers(0, size, n) for size in sizes]
    lopsided = np.minimum((rng.random(n) ** 3 * n_symbols).astype(np.int64), n_symbols - 1)
    return levels, lopsided


@LAW
@given(digits(), st.lists(st.sampled_from([1, 5, 64, 500]), min_size=1, max_size=5))
def test_tables_are_the_formula_in_unbounded_integers(digit, lengths):
    n_symbols, sizes, weights, rng = digit
    counts = AdaptiveCounts(n_symbols, sizes, weights)
    seen: dict[tuple[int, ...], list[int]] = {}
    for n in lengths:
        levels, symbols = chunk(rng, n_symbols, sizes, n)
        contexts = counts.contexts(levels, n)
        cumulative, table = counts.cumulative(contexts)
        for i in range(0, n, max(1, n // 7)):
            chance = [(1 << SCALE_BITS) // n_symbols] * n_symbols
            for k in range(len(sizes) + 1):
                found = seen.get(tuple(int(level[i]) for level in levels[:k]), [0] * n_symbols)
                total = 16 * sum(found) + weights[k]
                chance = [((c << (SCALE_BITS + 4)) + weights[k] * p) // total for c, p in zip(found, chance, strict=True)]
            assert np.diff(cumulative[table[i]]).tolist() == [c + 1 for c in chance]
        counts.update(contexts, symbols)
        for i in range(n):
            for k in range(len(sizes) + 1):
                seen.setdefault(tuple(int(level[i]) for level in levels[:k]), [0] * n_symbols)[int(symbols[i])] += 1


@LAW
@given(digits(), st.sampled_from([1, 64, 3000]))
def test_tables_are_what_the_coder_takes(digit, n):
    n_symbols, sizes, weights, rng = digit
    counts = AdaptiveCounts(n_symbols, sizes, weights)
    for _ in range(2):
        levels, symbols = chunk(rng, n_symbols, sizes, n)
        contexts = counts.contexts(levels, n)
        cumulative, table = counts.cumulative(contexts)
        assert (cumulative[:, 0] == 0).all() and (np.diff(cumulative, axis=1) > 0).all() and (cumulative[:, -1] <= SLOTS).all()
        assert cumulative.shape[1] == n_symbols + 1 and ((table >= 0) & (table < len(cumulative))).all()
        encoder = Encoder()
        encoder.code(cumulative, table, symbols)
        decoder = Decoder(encoder.finish())
        assert np.array_equal(decoder.code(cumulative, table, None), symbols)
        decoder.finish()
        counts.update(contexts, symbols)


def test_counts_stay_exact_for_as_many_rows_as_a_block_may_have():
    counts = AdaptiveCounts(3, [2], [1, 1])
    for _ in range(4):
        symbols = np.zeros(1 << 20, np.int64)
        counts.update(counts.contexts([symbols], len(symbols)), symbols)
    one = np.zeros(1, np.int64)
    found, _ = counts.cumulative(counts.contexts([one], 1))
    n = 1 << 22
    chance = [(1 << SCALE_BITS) // 3] * 3
    for _ in range(2):
        chance = [(((n if s == 0 else 0) << (SCALE_BITS + 4)) + p) // (16 * n + 1) for s, p in enumerate(chance)]
    assert np.diff(found[0]).tolist() == [c + 1 for c in chance]


def test_the_number_of_contexts_is_counted_without_overflow():
    assert n_contexts([]) == 1 and n_contexts([1 << 16] * 5) == 1 << 80


@LAW
@given(st.integers(0, 2**32), st.sampled_from([(20, 27), (24, 24)]))
def test_a_product_with_the_inverse_is_the_quotient_rounded_down(seed, bits):
    """Quotients and divisors below 2**bits each: those of the chances, and those of the slots."""
    rng = np.random.default_rng(seed)
    quotient, divisor = ((1 << rng.integers(0, n + 1, 4000)) - rng.integers(0, 3, 4000) for n in bits)
    quotient, divisor = np.maximum(quotient, 0), np.maximum(divisor, 1)
    rest = np.where(rng.random(4000) < 0.6, divisor - 1, (rng.random(4000) * divisor).astype(np.int64))
    numerator = quotient * divisor + np.where(rng.random(4000) < 0.2, 0, rest)
    assert ((numerator * (UP / divisor)).astype(np.int64) == numerator // divisor).all()
    scale = SLOTS * UP / divisor
    small = np.minimum(numerator >> 24, divisor)
    assert ((small * scale).astype(np.int64) == (small << 24) // divisor).all()


def test_context_numbers_are_positions_in_the_table_of_all_levels():
    first, before, last = np.array([2, 0, 1]), np.array([3, 3, 0]), np.array([1, 0, 4])
    contexts = Contexts.of([3, 4, 5], [first, None, last])
    found = contexts.numbers(slice(0, 3), 3, before)
    assert [level.tolist() for level in found] == [[0] * 3, [2, 0, 1], [11, 3, 4], [56, 15, 24]]
    narrow = Contexts.of([3, 4, 5], [first.astype(np.uint8), None, last.astype(np.uint16)], kind=np.int32)
    assert [None if level is None else level.dtype for level in narrow.bases] == [None, np.int32, np.int32, np.int32]
