from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_core.entropy import kernel
from vae_core.entropy.rans import SLOTS, Decoder, Encoder
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


def numpy_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel, "library", lambda: None)


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
@given(digits(), st.lists(st.sampled_from([1, 64, 3000]), min_size=1, max_size=4))
def test_numpy_and_the_kernel_learn_the_same_tables(digit, lengths):
    n_symbols, sizes, weights, rng = digit
    fast, slow = AdaptiveCounts(n_symbols, sizes, weights), AdaptiveCounts(n_symbols, sizes, weights)
    for n in lengths:
        levels, symbols = chunk(rng, n_symbols, sizes, n)
        contexts = fast.contexts(levels, n)
        a = fast.cumulative(contexts)
        fast.update(contexts, symbols)
        with pytest.MonkeyPatch.context() as patch:
            numpy_alone(patch)
            b = slow.cumulative(contexts)
            slow.update(contexts, symbols)
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


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
    fast, _ = counts.cumulative(counts.contexts([one], 1))
    with pytest.MonkeyPatch.context() as patch:
        numpy_alone(patch)
        slow, _ = counts.cumulative(counts.contexts([one], 1))
    n = 1 << 22
    chance = [(1 << SCALE_BITS) // 3] * 3
    for _ in range(2):
        chance = [(((n if s == 0 else 0) << (SCALE_BITS + 4)) + p) // (16 * n + 1) for s, p in enumerate(chance)]
    assert np.diff(fast[0]).tolist() == np.diff(slow[0]).tolist() == [c + 1 for c in chance]


def test_the_number_of_contexts_is_counted_without_overflow():
    assert n_contexts([]) == 1 and n_contexts([1 << 16] * 5) == 1 << 80
