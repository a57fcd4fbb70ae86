from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import fitted, profiled
from test_exact_cells import numpy_alone
from test_exact_linear import any_int64s, forward_linears

from vae_core import fitting, sections, streams
from vae_core.columns import encode_column
from vae_core.decoding import decode_block, needs
from vae_core.encoding import encode_shard
from vae_core.errors import CorruptArchive
from vae_core.exact import above as rows_above
from vae_core.exact.above import STRICT, find_above, pack_above, tells, unpack_above
from vae_core.exact.features import Decoded, steps_above
from vae_core.exact.forward import known_of_rows
from vae_core.exact.lanes import Lanes
from vae_core.exact.plans import column_code_from_json
from vae_core.exact.schedule import STRETCH as STEPS
from vae_core.fitting import refresh
from vae_core.layout import ABOVE, Layout
from vae_core.model import FitConfig, Model, Sample
from vae_core.peers import Measure
from vae_core.sampling import sample_rows

LAW = settings(deadline=None, max_examples=40)


def relief(n_lines: int, seed: int, least: int = 90, most: int = 140) -> tuple[pa.Table, np.ndarray]:
    """A map line after line, each clipped somewhere else, and of each row how many rows above it what is above it stands, 0 for nothing."""
    rng = np.random.default_rng(seed)
    height = np.cumsum(np.cumsum(rng.normal(0, 1, (n_lines, most + 40)), axis=0), axis=1) / 8
    wet = np.cumsum(rng.normal(0, 3, (n_lines, most + 40)), axis=0)
    starts, lengths = 20 + np.cumsum(rng.integers(-2, 3, n_lines)).clip(-20, 20), rng.integers(least, most, n_lines)
    starts = starts.clip(0, 39)
    rows, place = [], {}
    for line, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        for at in range(start, start + length):
            place[line, at] = len(rows)
            rows.append((line, at))
    lines, at = np.array(rows).T
    apart = np.array([k - place.get((line - 1, column), k) for k, (line, column) in enumerate(rows)])
    return pa.table({
        "height": np.round(height[lines, at]).astype(np.int64), "wet": np.round(wet[lines, at]).astype(np.int64),
        "kind": (wet[lines, at] > 0).astype(np.int8),
    }), apart  # fmt: skip


MAP, APART = relief(240, 1)


@LAW
@given(st.integers(0, 700), st.integers(1, 12), st.integers(0, 2**32), st.sampled_from([20, 50, STRICT]))
def test_rows_above_are_the_same_with_and_without_the_compiled_search(n, n_columns, seed, jump):
    rng = np.random.default_rng(seed)
    columns = [rng.choice([any_int64s(rng, n), rng.integers(-9, 9, n).cumsum(), np.full(n, 7)]) for _ in range(n_columns)]
    found = find_above(columns, n, jump)
    assert found.shape == (n,) and ((found >= 0) & (found <= np.arange(n))).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_above.tally, "library", lambda: None)
        assert np.array_equal(find_above(columns, n, jump), found)


def test_the_row_above_is_found_where_lines_of_a_map_differ_in_length():
    columns = [MAP[name].to_numpy() for name in ("height", "wet")]
    found, known = find_above(columns, len(APART)), APART > 0
    assert (found[known] == APART[known]).mean() > 0.6  # lines two above are alike, too
    assert tells(columns, find_above(columns, len(APART), STRICT))
    assert len(pack_above(found)) < len(APART) / 8


@pytest.mark.parametrize("kind", ["noise", "walks", "numbered"])
def test_rows_that_stand_beside_no_others_are_told_as_before(kind):
    rng = np.random.default_rng(4)
    noise = rng.integers(-400, 400, (4, 30_000))
    columns = list({"noise": noise, "walks": noise.cumsum(axis=1), "numbered": np.arange(30_000) + np.zeros((4, 1), np.int64)}[kind])
    assert not tells(columns, find_above(columns, 30_000, STRICT))


@LAW
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2**20)), max_size=60))
def test_what_is_told_of_rows_above_comes_back(runs):
    n = sum(length for length, _ in runs)
    above = np.minimum(np.repeat([rows for _, rows in runs], [length for length, _ in runs]).astype(np.int64), n)
    assert np.array_equal(unpack_above(pack_above(above), n), above)


@LAW
@given(st.data())
def test_rows_above_that_are_damaged_are_refused_or_others(data):
    above = np.repeat([0, 90, 91, 300], [100, 400, 7, 500])
    packed = bytearray(pack_above(above))
    if data.draw(st.booleans()):
        packed = packed[: data.draw(st.integers(0, len(packed) - 1))]
    else:
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack_above(bytes(packed), len(above))
    except CorruptArchive:
        return
    assert found.shape == above.shape and ((found >= 0) & (found <= len(above))).all()


@pytest.mark.parametrize("wrong", [[90] * 999, [90] * 1001, [-1] * 1000, [1001] * 1000, []])
def test_rows_above_of_other_rows_are_refused(wrong):
    with pytest.raises(CorruptArchive):
        unpack_above(pack_above(np.array(wrong, np.int64)), 1000)


@LAW
@given(st.sampled_from([1, 40, STEPS + 3, 5 * STEPS]), st.integers(-3, 3), st.booleans(), st.integers(0, 2**32))
def test_the_row_beside_the_row_above_is_one_of_the_lane_before_or_the_last_one(n, beside, whole, seed):
    rng = np.random.default_rng(seed)
    told = np.where(rng.random(n) < 0.2, rng.integers(0, n + 1, n), 33)
    active = np.arange(n) if whole else np.flatnonzero(rng.random(n) < 0.7)
    lanes = Lanes(Decoded(n, above=told), (), active, above=True)
    place, step_of = {row: k for k, row in enumerate(active.tolist())}, {}
    for step, (start, stop) in enumerate(itertools.pairwise(lanes.edges.tolist())):
        step_of |= dict.fromkeys(lanes.rows[start:stop].tolist(), step)
    values = np.arange(n) * 10
    found = dict(zip(lanes.rows.tolist(), lanes.above(lanes.sorted(values), beside).tolist(), strict=True))
    for row, step in step_of.items():
        last = np.searchsorted(active, row - told[row], side="right") - 1  # of the rows that hold a value, at or before the one above
        back = place[row] - int(last) - beside
        back = back if told[row] <= row and 0 < back <= step else min(step, 1)
        assert found[row] == 10 * active[place[row] - back]


@LAW
@given(st.sampled_from([0, 1, 2, STEPS + 1, 4 * STEPS]), forward_linears(above=True), st.booleans(), st.integers(0, 2**32))
def test_the_kernel_knows_of_rows_above_what_numpy_knows(n, linear, whole, seed):
    rng = np.random.default_rng(seed)
    values = {j: any_int64s(rng, n) for j in range(3)}
    decoded = Decoded(n, values, dict.fromkeys(values), above=np.where(rng.random(n) < 0.1, rng.integers(0, n + 1, n), 41))
    own, active = any_int64s(rng, n), None if whole else np.flatnonzero(rng.random(n) < 0.8)
    lanes = Lanes(decoded, (), active, linear, above=True)
    found = known_of_rows(lanes, linear, decoded, own)
    with numpy_alone():
        assert np.array_equal(known_of_rows(lanes, linear, decoded, own), found)


def test_lanes_are_long_enough_for_most_rows_to_have_one_above():
    n = 256 * STEPS
    lanes = Lanes(Decoded(n, above=np.arange(n) % 601), (), None, above=True)
    assert lanes.n_steps == 64 * 300
    assert Lanes(Decoded(n, above=np.full(n, n)), (), None, above=True).n_lanes == 4


def test_nothing_before_a_row_is_the_row_before():
    assert steps_above(np.array([5, 5, 5, 2, 0]), np.array([0, 3, 9, 9, 9]), 1).tolist() == [0, 1, 4, 1, 1]


@pytest.fixture(scope="module")
def model() -> Model:
    found = fitted(MAP, preview="off", seconds=20).model
    assert any(code.reads_above for code in found.codes)
    return found


def test_a_map_takes_fewer_bytes_by_the_rows_above_and_comes_back(model):
    shard = encode_shard(model, MAP, preview=False, block_rows=20_000)
    assert ABOVE in [s[0] + str(s[1]) for s in shard.layout["sections"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "has_above", lambda *_: False)
        without = fitted(MAP, preview="off", seconds=20).model
    assert not any(code.reads_above for code in without.codes)
    shards = shard, encode_shard(without, MAP, preview=False)
    n_bytes = [sum(len(payload) for block in one.blocks for payload in block.payloads.values()) for one in shards]
    assert n_bytes[0] < 0.9 * n_bytes[1], n_bytes
    first = 0
    for block in shard.blocks:
        for patched in (False, True):
            with numpy_alone() if patched else pytest.MonkeyPatch.context():
                found = decode_block(model, shard.layout, block.n_rows, block.natives, block.payloads)
            assert found.equals(MAP.slice(first, block.n_rows))
        wanted = needs(model, shard.layout, ["wet"], False)
        payloads = {group: block.payloads[group] for group in wanted.groups}
        alone = decode_block(model, shard.layout, block.n_rows, {}, payloads, ["wet"])
        assert alone.column(0).equals(MAP.slice(first, block.n_rows)["wet"])
        first += block.n_rows


def test_rows_above_in_blocks_read_together_by_numpy_are_those_of_each(model):
    from vae_core.decoding import decode_blocks

    shard = encode_shard(model, MAP, preview=False, block_rows=9_000)
    parts = [(b.n_rows for b in shard.blocks), (b.natives for b in shard.blocks), (b.payloads for b in shard.blocks)]
    with numpy_alone():
        found = list(decode_blocks(model, shard.layout, *map(list, parts)))
    assert len(found) > 2 and pa.concat_tables(found).combine_chunks().equals(MAP.combine_chunks())


def test_a_block_that_tells_of_no_rows_above_is_refused(model):
    shard = encode_shard(model, MAP, preview=False, block_rows=len(MAP))
    layout = {**shard.layout, "sections": [s for s in shard.layout["sections"] if s[0] != ABOVE[0]]}
    with pytest.raises(CorruptArchive):
        decode_block(model, layout, len(MAP), {}, shard.blocks[0].payloads)


def test_few_rows_and_none_are_written_by_a_model_of_rows_above(model):
    for n in (0, 1, 5, 40):
        shard = encode_shard(model, MAP.slice(0, n), preview=False)
        found = [decode_block(model, shard.layout, b.n_rows, b.natives, b.payloads) for b in shard.blocks]
        assert pa.concat_tables([MAP.schema.empty_table(), *found]).combine_chunks().equals(MAP.slice(0, n).combine_chunks())


def test_a_model_of_rows_above_is_read_from_its_files_and_draws_rows(model):
    again = Model.from_files(model.to_files())
    assert again.codes == model.codes
    drawn = sample_rows(again, MAP.slice(0, 3000), 500, 7)
    assert drawn.num_rows == 500 and drawn.schema == MAP.schema
    heights = encode_column(model.columns[0], MAP["height"]).values
    assert heights.min() <= drawn["height"].to_numpy().min() and drawn["height"].to_numpy().max() <= heights.max()


def test_a_model_that_looks_above_is_refreshed_for_reading(model):
    config = FitConfig(time_budget_s=10, preview="off", favour="reading")
    again = refresh(model, Sample(MAP, (MAP.num_rows,)), profiled(MAP), config).model
    (block,) = (shard := encode_shard(again, MAP, preview=False)).blocks
    assert decode_block(again, shard.layout, block.n_rows, block.natives, block.payloads).equals(MAP)


def test_a_plan_of_rows_above_in_another_order_is_refused(model):
    (code, *_) = [code for code in model.codes if code.reads_above and code.value.linear and code.value.linear.reads_above]
    column, fill, form, state, value = code.to_json()[:5]
    assert column_code_from_json([column, fill, form, state, value], 3).value == code.value
    for wrong in ([*value[:4], [0], *value[5:]], value[:4]):
        with pytest.raises(CorruptArchive):
            column_code_from_json([column, fill, form, state, wrong], 3)
    with pytest.raises(CorruptArchive, match="rows above"):
        column_code_from_json([column, fill, form, state, value], 3, of_tensor=True)


def test_columns_without_values_stand_beside_rows_above():
    n = len(MAP)
    rng = np.random.default_rng(9)
    table = MAP.append_column("gone", pa.nulls(n, pa.int64())).append_column("once", pa.array([None] * (n - 1) + [3], pa.int64()))
    table = table.append_column("seldom", pa.array(rng.integers(0, 3, n), mask=(np.arange(n) > n // 2) | (rng.random(n) < 0.5)))
    holes = pa.array(MAP["wet"].to_numpy(), mask=np.arange(n) % 9_000 < 1_500)
    table = table.set_column(1, "wet", holes)
    model = fitted(table, preview="off", seconds=10).model
    assert any(code.reads_above for code in model.codes)
    shard = encode_shard(model, table, preview=False, block_rows=5_000)
    found = [decode_block(model, shard.layout, b.n_rows, b.natives, b.payloads) for b in shard.blocks]
    assert pa.concat_tables(found).combine_chunks().equals(table.combine_chunks())


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_what_rows_above_save_is_measured_before_it_is_held_against_telling_of_them(model, noise, monkeypatch):
    find = streams.find_above

    def find_most(values: Sequence[np.ndarray], n: int) -> np.ndarray:
        found, rng = find(values, n), np.random.default_rng(3)
        return np.where(rng.random(len(found)) < noise, rng.integers(0, np.arange(len(found)) + 1), found)

    monkeypatch.setattr(streams, "find_above", find_most)
    shards = [encode_shard(model, MAP, preview=False, measure=measure) for measure in Measure]
    assert all(shard.blocks == shards[0].blocks and shard.layout == shards[0].layout for shard in shards[1:])


def test_where_rows_above_save_less_than_telling_them_takes_nothing_is_told_of_them(model, monkeypatch):
    rng = np.random.default_rng(8)
    monkeypatch.setattr(streams, "find_above", lambda _, n: rng.integers(0, np.arange(n) + 1))
    shard = encode_shard(model, MAP, preview=False, block_rows=9_000)
    told = {model.columns[code.column].name for code in model.codes if code.reads_above}
    assert any(outcome.coding == "learned" for outcome in shard.outcomes if outcome.name in told)
    n_bytes = sum(len(payload) for block in shard.blocks for payload in block.payloads.values())
    assert n_bytes <= sum(outcome.conventional_bytes for outcome in shard.outcomes)
    found = []
    for block in shard.blocks:
        layout = Layout.from_json(shard.layout, model)
        parts = block.payloads if ABOVE in layout.own else sections.unpack(block.payloads["pool"], layout.pooled)
        assert not unpack_above(parts[ABOVE], block.n_rows).any()
        found.append(decode_block(model, shard.layout, block.n_rows, block.natives, block.payloads))
    assert pa.concat_tables(found).combine_chunks().equals(MAP.combine_chunks())
