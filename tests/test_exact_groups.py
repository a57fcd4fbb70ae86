"""One-hot groups: found where at most one flag a row is set, counted as the format says, and coded as the category they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core.errors import CorruptArchive
from vae_core.exact.features import MOST_AMONG, MOST_AMONG_ALL, Decoded, Feature, from_json
from vae_core.exact.groups import Flags, one_hot_groups
from vae_core.exact.ordering import SampleColumn
from vae_core.sampling import _Scene
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=60)
N = 20_000


def flag(column: int, is_set: NDArray[np.bool_], off: int = 0) -> SampleColumn:
    return SampleColumn(column, is_set.astype(np.int64) + off, None, off, off, off + 1, True)


def one_hot(rng: np.random.Generator, shares: list[float], first: int = 0, off: int = 0) -> list[SampleColumn]:
    kind = rng.choice(len(shares), N, p=np.array(shares) / sum(shares))
    return [flag(first + k, kind == k, off) for k in range(len(shares))]


@LAW
@given(st.data())
def test_what_is_counted_among_columns_is_so_in_any_order_of_asking(data):
    n_columns, n_rows = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    known = Decoded(n_rows, {j: rng.integers(0, 3, n_rows) for j in range(n_columns)})
    for _ in range(data.draw(st.integers(1, 6))):
        columns = data.draw(st.lists(st.integers(0, n_columns - 1), min_size=1, unique=True))
        size, off = data.draw(st.integers(2, len(columns) + 1)), data.draw(st.integers(-1, 3))
        feature = from_json(Feature("among", columns[0], off, size, tuple(sorted(columns[1:]))).to_json(), n_columns)
        wanted = np.minimum(sum((known.values[j] != off).astype(np.int64) for j in columns), size - 1)
        assert set(feature.columns) == set(columns)
        np.testing.assert_array_equal(known.feature(feature), wanted)


@pytest.mark.parametrize(
    "parts",
    [
        ["among", 0, 0, 1, [1]], ["among", 0, 0, 4, [1]], ["among", 0, 0, 2, [0, 1]], ["among", 0, 0, 2, [2, 1]],
        ["among", 0, 0, 2, [1, 1]],
        ["among", 0, 0, 2, [-1]], ["among", 0, 0, 2, [9]], ["among", 9, 0, 2, [1]], ["among", -1, 0, 2, [1]], ["among", 0, 1 << 63, 2, [1]],
        ["among", 0, 0, 2, list(range(1, MOST_AMONG + 1))],
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused(parts):
    with pytest.raises(CorruptArchive):
        from_json(parts, 9 if len(parts[4]) < 9 else 1000)


def test_a_column_that_is_not_decoded_before_is_not_counted():
    with pytest.raises(CorruptArchive, match="column 2, which is not decoded before it"):
        Decoded(2, {1: np.zeros(2, np.int64)}).feature(Feature("among", 1, 0, 2, (2,)))


def test_groups_are_found_apart_and_flags_of_none_are_in_none():
    rng = np.random.default_rng(1)
    columns = one_hot(rng, [0.5, 0.3, 0.1, 0.1]) + one_hot(rng, [0.4, 0.3, 0.2, 0.1], 4, off=7)
    columns += [flag(8, rng.random(N) < 0.5), flag(9, rng.random(N) < 0.3), SampleColumn(10, rng.integers(0, 3, N), None, 0, 0, 2, True)]
    groups = one_hot_groups(columns)
    assert set(groups) == set(range(8))
    assert set(groups[0].members) == {0, 1, 2, 3} and groups[0].members[:2] == (0, 1) and groups[0].off == 0
    assert set(groups[4].members) == {4, 5, 6, 7} and groups[4].off == 7


def test_a_group_is_found_where_set_is_the_lower_code_too():
    rng = np.random.default_rng(6)
    columns = [flag(c.column, c.values == 0) for c in one_hot(rng, [0.4, 0.3, 0.2, 0.1])]
    columns += one_hot(rng, [0.7, 0.1, 0.1, 0.1], 4)  # of which one is set mostly
    groups = one_hot_groups(columns)
    assert set(groups[0].members) == {0, 1, 2, 3} and groups[0].off == 1
    assert set(groups[4].members) == {4, 5, 6, 7} and groups[4].off == 0


def test_models_that_count_too_many_columns_are_neither_made_nor_read():
    rng = np.random.default_rng(7)
    kind = rng.permutation(2_000)
    groups = one_hot_groups([SampleColumn(k, (kind == k).astype(np.int64), None, 0, 0, 1, True) for k in range(2_000)])
    assert len(groups) == 2_000 and all(4 * g.most * len(groups) <= MOST_AMONG_ALL for g in groups.values())
    model = fitted(pa.table({f"is {k}": kind[:400] % 3 == k for k in range(3)}), preview="off", seconds=1).model
    model.check()
    code = model.codes[0]
    digits = tuple(replace(d, features=(Feature("among", 1, 0, 2, (0,)),) * (MOST_AMONG_ALL // 2 + 1)) for d in code.value.digits)
    with pytest.raises(CorruptArchive, match="counts among more than"):
        replace(model, codes=(replace(code, value=replace(code.value, digits=digits)),)).check()


def test_a_column_of_a_group_is_read_with_those_that_tell_it_and_rows_that_break_it_are_kept():
    rng = np.random.default_rng(8)
    kind = rng.integers(0, 6, 9_000)
    table = pa.table({f"is {k}": np.where(kind == k, "ja", "nein") for k in range(6)})
    model = fitted(table, preview="off", seconds=2).model
    assert any(f.kind == "among" for code in model.codes for digit in code.value.digits for f in digit.features)
    broken = pa.table({name: np.where(rng.random(700) < 0.5, "ja", "nein") for name in table.column_names})
    for rows in (table, broken):
        shard = encode_shard(model, rows)
        assert_kept(rows, decoded(stored_again(model), shard))
        for name in table.column_names:
            assert decoded(stored_again(model), shard, [name]).equals(rows.select([name]))


def test_rows_that_break_a_group_are_let_pass_where_they_are_few():
    rng = np.random.default_rng(2)
    for share, found in ((0.002, True), (0.2, False)):
        columns = [flag(c.column, (c.values == 1) | (rng.random(N) < share)) for c in one_hot(rng, [0.4, 0.3, 0.2, 0.1])]
        assert (set(one_hot_groups(columns)) == {0, 1, 2, 3}) is found


def test_flags_that_are_hardly_ever_set_are_no_group():
    rng = np.random.default_rng(3)
    assert not one_hot_groups([flag(k, rng.random(N) < 0.001) for k in range(20)])
    assert not one_hot_groups(one_hot(rng, [0.6, 0.4]))  # two tell each other
    assert not one_hot_groups([])


def test_those_set_most_often_are_counted_where_there_are_more_than_can_be():
    group = Flags(tuple(range(300)), 0)
    placed = list(range(299, -1, -1))
    feature = group.before(290, placed[:5])
    assert feature is not None and feature == Feature("among", 295, 0, 2, (296, 297, 298, 299))
    feature = group.before(290, [j for j in placed if j != 290])
    assert feature is not None and set(feature.columns) == set(range(MOST_AMONG)) and feature.column == 0
    assert group.before(290, [3]) is None and group.before(290, [290, 3]) is None


def test_a_one_hot_group_takes_what_its_category_does():
    rng = np.random.default_rng(4)
    shares = np.array([0.3, 0.2, 0.12, 0.1, 0.08, 0.06, 0.05, 0.04, 0.02, 0.01, 0.01, 0.01])
    kind = rng.choice(12, 60_000, p=shares / shares.sum())
    table = pa.table({f"is {k}": kind == k for k in range(12)})
    model = fitted(table, preview="off", seconds=20).model
    assert any(f.kind == "among" for code in model.codes for digit in code.value.digits for f in digit.features)
    n_bytes = sum(len(payload) for block in encode_shard(model, table).blocks for payload in block.payloads.values())
    entropy = -np.sum(shares / shares.sum() * np.log2(shares / shares.sum())) * len(kind) / 8
    assert n_bytes < 1.01 * entropy  # 1.12 before columns were counted


def test_rows_are_drawn_by_the_levels_that_columns_are_coded_by():
    rng = np.random.default_rng(5)
    values = [rng.integers(0, 2, 40) for _ in range(3)]
    scene = _Scene(30, np.arange(10))
    for j, column in enumerate(values):
        scene.add(j, column, None)
    known = Decoded(40, dict(enumerate(values)), dict.fromkeys(range(3)))
    rows = np.array([0, 3, 29, 30, 39])
    given_ones = Feature("among", 2, 0, 2, (0, 1)), Feature("phase", 1, 24, 12, (5,)), Feature("value", 0, 0, 3), Feature("state", 0, 0, 7)
    for feature in given_ones:
        levels = scene.levels(feature, rows, None)  # type: ignore[arg-type]
        np.testing.assert_array_equal(levels, known.feature(feature)[rows])
