from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_core.errors import CorruptArchive
from vae_core.exact import digits as digits_module
from vae_core.exact.digits import Direct, Residual

LAW = settings(deadline=None, max_examples=50)
LOW, HIGH = -(2**63), 2**63 - 1

INT64 = st.one_of(
    st.integers(-40, 40), st.integers(LOW, HIGH), st.sampled_from([LOW, LOW + 1, HIGH, HIGH - 1]),
    st.builds(lambda b, d: max(LOW, min(HIGH, (1 << b) + d)), st.integers(0, 63), st.integers(-2, 2)),
    st.builds(lambda b, d: max(LOW, -(1 << b) + d), st.integers(0, 63), st.integers(-2, 2)),
)  # fmt: skip


def int64s(size: int = 20) -> st.SearchStrategy[np.ndarray]:
    return st.lists(INT64, max_size=size).map(lambda values: np.array(values, np.int64))


@st.composite
def schemes(draw: st.DrawFn) -> Direct | Residual:
    if draw(st.booleans()):
        return Residual(draw(st.integers(0, 62)))
    span = draw(st.one_of(st.integers(1, 1 << 16), st.sampled_from([1, 2, 127, 128, 255, 256, 257, 1 << 15, 1 << 16])))
    lo = draw(st.one_of(st.sampled_from([0, LOW, HIGH - span + 1]), st.integers(LOW, HIGH - span + 1)))
    return Direct.over(lo, lo + span - 1)


@LAW
@given(schemes(), st.data())
def test_digits_join_to_what_was_split_for_every_int64(scheme, data):
    values = data.draw(int64s())
    if isinstance(scheme, Direct):
        near = data.draw(st.lists(st.integers(scheme.lo, scheme.lo + scheme.span - 1), max_size=10))
        values = np.concatenate([values, np.array(near, np.int64)])
    guess = np.array(data.draw(st.lists(INT64, min_size=len(values), max_size=len(values))), np.int64)
    if data.draw(st.booleans()):
        with np.errstate(over="ignore"):
            guess = values - (guess >> 50)
    parts, n_raw, raw = scheme.split(values, guess)
    assert len(parts) == len(scheme.sizes)
    for part, size in zip(parts, scheme.sizes, strict=True):
        assert part.dtype == np.int64 and ((part >= 0) & (part < size)).all()
    assert np.array_equal(scheme.n_raw(parts), n_raw) and ((n_raw >= 0) & (n_raw <= 64)).all()
    kept = np.where(n_raw == 64, raw, raw & ((np.int64(1) << np.minimum(n_raw, 63)) - 1))
    assert np.array_equal(scheme.join(parts, kept, guess), values)


@LAW
@given(schemes())
def test_a_range_within_the_alphabet_needs_no_escape_and_no_raw_bits(scheme):
    if isinstance(scheme, Residual):
        return
    values = scheme.lo + np.unique(np.linspace(0, scheme.span - 1, 50).astype(np.int64))
    parts, n_raw, _ = scheme.split(values, None)
    assert not n_raw.any() and (parts[0] != scheme.escape).all()


@LAW
@given(schemes(), st.integers(0, 2**32))
def test_any_digits_and_raw_bits_join_to_some_int64(scheme, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, size, 30) for size in scheme.sizes]
    raw = rng.integers(LOW, HIGH, 30, endpoint=True)
    joined = scheme.join(parts, raw, rng.integers(LOW, HIGH, 30, endpoint=True))
    assert joined.dtype == np.int64 and len(joined) == 30


def test_small_residuals_have_small_tokens_of_either_sign():
    scheme = Residual(20)
    residuals = np.array([0, -1, 1, -2, 2, -3, 3])
    parts, n_raw, _ = scheme.split(residuals + 100, np.full(7, 100))
    assert parts[0].tolist() == list(range(7)) and not n_raw.any()


@LAW
@given(schemes())
def test_a_scheme_comes_back_from_its_json(scheme):
    again = digits_module.from_json(json.loads(json.dumps(scheme.to_json())))
    assert again == scheme and again.sizes == scheme.sizes


@pytest.mark.parametrize(
    "parts",
    [
        [], None, "direct", ["direct", 0, 0, 0], ["direct", 0, 1 << 17, 8], ["direct", 0, 10, 9], ["direct", 0, 10, -1],
        ["direct", 0, 1 << 16, 0], ["direct", 1 << 63, 5, 0], ["direct", 0.5, 5, 0], ["direct", 0, 5], ["residual", 63],
        ["residual", -1], ["residual", "8"], ["residual"], ["gaussian", 3], {"direct": 1},
    ],
)  # fmt: skip
def test_a_scheme_that_nothing_writes_is_refused(parts):
    with pytest.raises(CorruptArchive):
        digits_module.from_json(parts)


def test_a_span_too_wide_for_two_digits_is_said_to_be():
    with pytest.raises(ValueError, match="too wide"):
        Direct.over(0, 1 << 16)
