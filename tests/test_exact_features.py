from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exact_digits import INT64

from vae_core.errors import CorruptArchive
from vae_core.exact import features as features_module
from vae_core.exact.features import (
    COLUMN_KINDS,
    FRACTIONS,
    MIXED_KINDS,
    MOST_BESIDE,
    MOST_PERIOD,
    N_STATES,
    NOISE_LEVELS,
    OWN_KINDS,
    STEP_CLASSES,
    Decoded,
    Feature,
    Surroundings,
)
from vae_core.exact.matches import LEVELS as MATCH_LEVELS
from vae_core.exact.matches import MAX_MATCHES
from vae_core.exact.schedule import STEPS

LAW = settings(deadline=None, max_examples=50)
N_COLUMNS = 3


@st.composite
def features(draw: st.DrawFn, n_columns: int = N_COLUMNS, kinds: tuple[str, ...] = (*COLUMN_KINDS, *OWN_KINDS)) -> Feature:
    kind = draw(st.sampled_from([k for k in kinds if n_columns or k in OWN_KINDS]))
    column = draw(st.integers(0, n_columns - 1)) if kind in COLUMN_KINDS else -1
    if kind == "value":
        return Feature(kind, column, draw(INT64), draw(st.integers(1, 40)))
    if kind == "phase":
        length = draw(st.sampled_from([2, 7, 24, 86_400, MOST_PERIOD]))
        return Feature(kind, column, length, draw(st.integers(2, min(length, 40))), (draw(st.integers(0, length - 1)),))
    if kind == "among":
        others = draw(st.sets(st.integers(0, n_columns - 1))) - {column}
        return Feature(kind, column, draw(INT64), draw(st.integers(2, len(others) + 2)), tuple(sorted(others)))
    fixed = {"state": N_STATES, "step": STEP_CLASSES, "spread": 65, "level": len(STEPS) + 1, "fraction": FRACTIONS, "noise": NOISE_LEVELS}
    fixed |= dict.fromkeys((*MIXED_KINDS, "off"), NOISE_LEVELS)
    back = draw(st.sampled_from([1, 2, 7, 64, 1 << 20]))
    if kind == "rough":
        return Feature(kind, column, back, NOISE_LEVELS)
    if kind == "place":
        return Feature(kind, column, back, draw(st.integers(1, 40)))
    if kind == "class":
        levels = draw(st.lists(st.integers(0, 11), min_size=1, max_size=70))
        return Feature(kind, column, len(levels), 12, tuple(levels))
    if kind in fixed:
        return Feature(kind, column, 0, fixed[kind])
    if kind == "match":
        return Feature(kind, column, draw(st.integers(0, MAX_MATCHES - 1)), MATCH_LEVELS)
    edges = tuple(sorted(set(draw(st.lists(INT64, max_size=6)))))
    lo = back if kind == "back" else draw(st.integers(-MOST_BESIDE, MOST_BESIDE)) if kind == "above" else 0
    return Feature(kind, column, lo, len(edges) + 1 + (kind in ("left", "right", "between", "back", "above")), edges)


@LAW
@given(features(), st.integers(1, 20), st.data())
def test_every_feature_is_a_level_below_its_size_for_any_int64(feature, n, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))

    def column() -> np.ndarray:
        return np.array(data.draw(st.lists(INT64, min_size=4, max_size=4)), np.int64)[rng.integers(0, 4, n)]

    state = data.draw(st.sampled_from([None, rng.integers(0, N_STATES, n).astype(np.uint8)]))
    decoded = Decoded(n, {c: column() for c in range(N_COLUMNS)}, dict.fromkeys(range(N_COLUMNS), state))
    step = data.draw(st.sampled_from([0, *STEPS]))
    known, guessed = step not in (0, STEPS[0]), data.draw(st.booleans())
    around = Surroundings(
        step, column() if known else None, column() if known else None,
        column() if guessed else None, rng.integers(0, FRACTIONS, n) if guessed else None,
        back=(lambda lag: column()) if data.draw(st.booleans()) else None,
    )  # fmt: skip
    levels = decoded.feature(feature) if feature.is_given else around.levels(feature, n)
    assert levels.shape == (n,) and levels.dtype in (np.uint8, np.uint16, np.int64) and ((levels >= 0) & (levels < feature.size)).all()


@LAW
@given(features())
def test_a_feature_comes_back_from_its_json(feature):
    assert features_module.from_json(json.loads(json.dumps(feature.to_json())), N_COLUMNS) == feature


def test_an_exact_feature_has_a_level_for_the_rest():
    levels = Feature("value", 0, -2, 5).levels(np.array([-3, -2, -1, 1, 2, 2**63 - 1, -(2**63)]))
    assert levels.tolist() == [4, 0, 1, 3, 4, 4, 4]


def test_bins_count_the_edges_at_or_below_a_value():
    assert Feature("bins", 0, 0, 4, (0, 10, 20)).levels(np.array([-1, 0, 9, 10, 25])).tolist() == [0, 1, 1, 2, 3]


def test_a_column_one_row_earlier_starts_with_itself():
    decoded = Decoded(4, {0: np.array([5, 1, 9, 9])}, {0: None})
    assert decoded.feature(Feature("before", 0, 0, 3, (2, 6))).tolist() == [1, 1, 0, 2]
    up, down = features_module.step_class(np.array([3, 1, 0, 2**62]), np.array([0, 1, 3, 0])), 0
    assert up[1] == down and up[0] != up[2] and (up < STEP_CLASSES).all()


@pytest.mark.parametrize(
    "parts",
    [
        None, [], ["value", 0, 0, 5], ["value", N_COLUMNS, 0, 5, []], ["value", -1, 0, 5, []], ["value", 0, 0, 0, []],
        ["value", 0, 1 << 63, 5, []], ["value", 0, 0, (1 << 16) + 1, []], ["bins", 0, 0, 3, [1]], ["bins", 0, 0, 3, [2, 1]],
        ["bins", 0, 0, 2, [1 << 63]], ["bins", 0, 0, 2, ["1"]], ["state", 0, 0, 6, []], ["step", 0, 0, 20, []], ["left", 0, 0, 2, []],
        ["left", -1, 0, 1, []], ["level", -1, 0, 3, []], ["spread", -1, 0, 64, []], ["digit", -1, 0, 5, []], ["mood", 0, 0, 5, []],
        ["value", 0, 0.0, 5, []], ["value", True, 0, 5.0, []],
    ],
)  # fmt: skip
def test_a_feature_that_nothing_writes_is_refused(parts):
    with pytest.raises(CorruptArchive):
        features_module.from_json(parts, N_COLUMNS)


def test_a_feature_of_a_column_not_yet_decoded_is_refused():
    with pytest.raises(CorruptArchive, match="not decoded before"):
        Decoded(3).feature(Feature("value", 1, 0, 5))
