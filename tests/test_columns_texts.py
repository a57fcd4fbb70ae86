"""Texts of one pattern as numbers: found on a sample, exact for every text, hostile patterns and codes refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, profiled, stored_again

from vae_core.coders import conventional
from vae_core.columns import STATE_MISFIT, Codes, decode_column, encode_column, one_array, plan_columns
from vae_core.columns.texts import DIGIT, DigitText, body_of, find_pattern, pattern_from_json
from vae_core.errors import CorruptArchive
from vae_core.layout import uses_codes
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=100)
KINDS = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]
PATTERN = DigitText((*b"A-", DIGIT, DIGIT, *b"/", DIGIT))


def found_in(texts):
    """The pattern of a sample of texts."""
    return find_pattern(body_of(pa.chunked_array([pa.array(texts, pa.string())])))


@LAW
@given(st.data())
def test_every_text_comes_back_and_those_of_the_pattern_as_their_digits(data):
    kind = data.draw(st.sampled_from(KINDS))
    like = st.builds(lambda n: f"A-{n // 10:02d}/{n % 10}", st.integers(0, 999))
    odd = st.sampled_from(["", "A-1x/2", "A-123", "B-12/3", "A-12/34", "Ä-12/3"])
    values = data.draw(st.lists(st.one_of(like, st.none(), odd), max_size=20))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = [v if v is None else v.encode() for v in values]
    array = pa.array(values, kind)
    start = data.draw(st.integers(0, len(values)))
    codes = PATTERN.encode(array.slice(start), 7)
    back = PATTERN.decode(codes, kind)
    assert back.type == kind and back.equals(array.slice(start))
    for k, v in enumerate(values[start:]):
        text = v.decode() if isinstance(v, bytes) else v
        fits = text is not None and len(text) == 6 and text[:2] == "A-" and text[4] == "/" and (text[2:4] + text[5]).isdigit()
        state = 0 if codes.state is None else codes.state[k]
        assert (state == 0) == fits and codes.values[k] == (int(text[2:4] + text[5]) if fits else 7)


def test_a_pattern_is_found_where_nearly_all_texts_have_it():
    rng = np.random.default_rng(0)
    texts = [f"{y}-{n:06d}" for y, n in zip(rng.integers(16, 19, 500), rng.integers(0, 10**6, 500), strict=True)]
    assert found_in(texts) == DigitText((DIGIT, DIGIT, 45, *[DIGIT] * 6))
    assert found_in([*texts[:-3], "odd", None, "16-00000x"]) is not None
    assert found_in(texts[:20]) is None
    assert found_in([f"{n:x}" for n in rng.integers(2**60, 2**61, 500)]) is None
    assert found_in(["same"] * 500) is None
    wide = found_in([f"{n:020d}" for n in rng.integers(0, 2**50, 500)])
    assert wide == DigitText((48, 48, *[DIGIT] * 18))  # zeros that never change make room
    assert found_in([f"{n:019d}" for n in rng.integers(0, 2**63, 500)]) is None
    assert found_in(["x" * 65 + str(n % 10) for n in range(500)]) is None
    assert found_in([]) is None


def test_texts_beyond_the_sample_of_their_plan_are_held_too():
    raw = pa.table({"id": [f"17-{n:06d}" for n in range(3000)]})
    (plan,) = plan_columns(raw.schema, profiled(raw), raw, {})
    assert plan.kind == "numeric" and isinstance(plan.transform, DigitText) and not plan.is_measured
    fresh = pa.array(["17-999999", None, "18-000000", "17-5", "", "17-00000a"])
    codes = encode_column(plan, fresh)
    assert decode_column(plan, codes).equals(fresh)
    assert codes.state is not None and int((codes.state == STATE_MISFIT).sum()) == 3
    guessed = decode_column(plan, Codes(np.array([-5, 10**17])), approximate=True)
    assert guessed.to_pylist() == ["17-000000", "17-002999"]


def test_growing_numbers_in_texts_cost_their_steps_and_the_peer_stays_text():
    rng = np.random.default_rng(1)
    n = 20_000
    numbers = rng.integers(1, 9, n).cumsum()
    table = pa.table({"id": [f"ORD-2026-{k:07d}" for k in numbers], "at": [f"2026-11-{1 + k // 9000:02d}" for k in range(n)]})
    model = fitted(table, [], preview="off", seconds=20).model
    shard = encode_shard(model, table, preview=False)
    outcome = {o.name: o for o in shard.outcomes}["id"]
    assert outcome.coding in ("learned", "pco", "codes-delta", "lattices")
    assert outcome.n_bytes < 1.1 * 3 * n / 8 < 0.5 * outcome.conventional_bytes  # steps are three bits; the peer holds texts
    names = [name for name in conventional.candidates_for(model.columns[0]) if not uses_codes(name)]
    texts = conventional.sizes(model.columns[0], one_array(table["id"]), None, names)
    assert outcome.conventional_bytes == min(texts.values())
    assert_kept(table, decoded(stored_again(model), shard))


BAD_PATTERNS = [
    None, 7, [], [DIGIT] * 19, [65], [DIGIT, 256], [DIGIT, -2], [DIGIT, True], [DIGIT, 1.0], [DIGIT, *[65] * 64],
]  # fmt: skip
BAD_CODES = [Codes(np.array([k]), s) for k, s in ((1000, None), (-1, None), (1, np.array([6], np.uint8)), (1, np.array([7], np.uint8)))]


@pytest.mark.parametrize("pattern", BAD_PATTERNS)
def test_a_hostile_pattern_is_refused(pattern):
    with pytest.raises(CorruptArchive, match="pattern"):
        pattern_from_json(pattern)


@pytest.mark.parametrize("codes", BAD_CODES)
def test_codes_no_text_has_are_refused(codes):
    with pytest.raises(CorruptArchive):
        PATTERN.decode(codes, pa.string())


def test_a_pattern_comes_back_from_its_json():
    assert pattern_from_json(PATTERN.to_json()["p"]) == PATTERN
