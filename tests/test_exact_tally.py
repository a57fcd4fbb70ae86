"""Counting for the search: compiled and in numpy alike, and what the numbers are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_core.entropy import kernel
from vae_core.exact import parents, tally
from vae_core.exact.costs import ALL_WEIGHTS, RANK_WEIGHTS, extend, rank, root
from vae_core.exact.keys import numbered, recalled_share
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.sampled import Sampled, decoded_sample
from vae_core.exact.search import search_column

LAW = settings(deadline=None, max_examples=60)
HAS_COMPILER = any(kernel.compilers())
compiled = pytest.mark.skipif(tally.library() is None, reason="no C compiler here")


@contextmanager
def numpy_alone() -> Iterator[None]:
    """The specification without compiled code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "library", lambda: None)
        yield


def test_where_there_is_a_compiler_the_search_counts_in_compiled_code():
    assert (tally.library() is not None) == (HAS_COMPILER and kernel.available())


@compiled
@LAW
@given(
    st.integers(30, 900) | st.just(0), st.integers(2, 300), st.lists(st.sampled_from([1, 2, 7, 300, 65_536]), max_size=3),
    st.sampled_from(ALL_WEIGHTS), st.integers(0, 2**32),
)  # fmt: skip
def test_a_chain_costs_the_same_counted_either_way(n, n_symbols, sizes, weight, seed):
    rng = np.random.default_rng(seed)
    symbols = np.minimum(rng.geometric(0.2, n) - 1, n_symbols - 1)
    levels = [(np.minimum(rng.geometric(min(1.0, 3 / size), n) - 1, size - 1), size) for size in sizes]

    def counted():
        chain, found = root(symbols, n_symbols), []
        for level, size in levels:
            ranked = rank(chain, [(level, size), (np.repeat(level, 3)[::3].astype(np.int32), size)], symbols, n_symbols)
            least = min(extend(chain, level, size, symbols, n_symbols, (w,)).bits for w in RANK_WEIGHTS)
            chain = extend(chain, level, size, symbols, n_symbols, (weight,))
            found += [*ranked, chain.bits, chain.plug_in_bits]
            assert len(np.unique(chain.context)) == chain.n_contexts <= chain.n_possible == math.prod(sizes[: len(chain.weights) - 1])
            assert ranked[0] == ranked[1] == pytest.approx(least)
        return found, chain

    one, mine = counted()
    with numpy_alone():
        other, theirs = counted()
    assert np.allclose(one, other, rtol=1e-9, atol=1e-7 * max(1, n))  # numpy's log-gamma is good to 1e-8 or so
    assert mine.weights == theirs.weights and np.allclose(mine.chance, theirs.chance, rtol=1e-9)
    assert len(set(zip(mine.context.tolist(), theirs.context.tolist(), strict=True))) == mine.n_contexts == theirs.n_contexts


@compiled
@LAW
@given(st.integers(0, 500), st.sampled_from([1, 4, 2**20, 2**63]), st.integers(0, 2**32))
def test_keys_recall_the_same_share_counted_either_way(n, spread, seed):
    rng = np.random.default_rng(seed)
    raw = rng.integers(-spread, spread, n)[rng.integers(0, max(1, n), n)] if n else np.empty(0, np.int64)
    values = raw // 2 * 3 + rng.integers(0, 2, n)
    key, n_keys = numbered(raw)
    with numpy_alone():
        plain, n_plain = numbered(raw)
        share = recalled_share(key, values)
    assert n_keys == n_plain == len(set(raw.tolist())) == len(set(zip(key.tolist(), plain.tolist(), strict=True)))
    assert recalled_share(key, values) == recalled_share(plain, values) == share


@compiled
def test_a_search_finds_the_same_code_counted_either_way():
    rng = np.random.default_rng(8)
    n = 20_000
    a, b = rng.integers(0, 30, n), np.cumsum(rng.integers(-3, 4, n))
    told = 50 * a + b + (rng.random(n) < 0.1)
    state = (rng.random(n) < 0.2).astype(np.uint8)
    picked = [SampleColumn(j, v, None, 0, int(v.min()), int(v.max()), False) for j, v in enumerate((a, b))]
    last = SampleColumn(2, np.where(state == 0, told, 0), state, 0, int(told.min()), int(told.max()), False)
    sampled = Sampled(n, 20 * n, decoded_sample([*picked, last]), placed=picked, ordered={1})
    mine, bits = search_column(sampled, last, lambda: True)
    with numpy_alone():
        theirs, plain_bits = search_column(Sampled(n, 20 * n, sampled.decoded, placed=picked, ordered={1}), last, lambda: True)
    assert mine == theirs and bits == pytest.approx(plain_bits, rel=1e-9)


def test_threads_rank_as_one_does():
    rng = np.random.default_rng(2)
    symbols, levels = rng.integers(0, 9, 30_000), [(rng.integers(0, size, 30_000), size) for size in (3, 5, 70, 900, 4)]
    chain = root(symbols, 9)
    with ThreadPoolExecutor(3) as pool:
        assert rank(chain, levels, symbols, 9, pool.map) == rank(chain, levels, symbols, 9)


def test_a_feature_that_later_ones_make_useless_gives_its_place_away(monkeypatch):
    monkeypatch.setattr(parents, "MAX_PARENTS", 3)
    rng = np.random.default_rng(4)
    n = 40_000
    a, b, c = (rng.integers(0, 8, n) for _ in range(3))
    told = a + b + c
    near = (told + rng.integers(0, 3, n)) // 3  # tells most of any column alone, and nothing beside all three
    picked = [SampleColumn(j, v, None, 0, 0, int(v.max()), True) for j, v in enumerate((near, a, b, c))]
    last = SampleColumn(4, told, None, 0, 0, 21, True)
    code, bits = search_column(Sampled(n, 20 * n, decoded_sample([*picked, last]), placed=picked), last, lambda: True)
    assert {f.column for f in code.value.digits[0].features} == {1, 2, 3} and bits < 0.2 * n


def test_a_level_outside_its_range_is_refused_before_it_is_counted():
    chain = root(np.zeros(5, np.int64), 3)
    with pytest.raises(ValueError, match=r"levels 0\.\.4 where there are 4"):
        extend(chain, np.arange(5), 4, np.zeros(5, np.int64), 3)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("w->total[k]++;", "w->total[k] += 2;"),
        ("level[i * stride]", "level[i]"),
        ("(uint64_t)c->context[i] * (uint64_t)size", "(uint64_t)c->context[i]"),
        ("t->keys[at] != key", "0"),
        ("w->prior[k] = c->chance[i];", "w->prior[k] = c->chance[0];"),
        ("#define MANY 8", "#define MANY 3"),
        ("product *= x + j", "product *= x + 1"),
        ("trial < bits[0]", "trial > bits[0]"),
        ("w.total[w.owner[k]] + a", "w.total[w.owner[k]]"),
        ("values[last[k]] == values[i]", "values[last[k]] != values[i]"),
        ("(int32_t)++t->n", "(int32_t)(t->n += 2)"),
    ],
)
def test_counting_that_departs_from_its_formulas_is_not_used(tmp_path, monkeypatch, right, wrong):
    source = tally.SOURCE.read_text()
    assert right in source
    changed = tmp_path / "tally.c"
    changed.write_text(source.replace(right, wrong))
    monkeypatch.setattr(tally, "SOURCE", changed)
    monkeypatch.setenv("LATENTPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LATENTPACK_KERNEL", raising=False)
    assert tally.library.__wrapped__() is None
    assert bool(list((tmp_path / "cache").glob("*.so"))) == HAS_COMPILER
