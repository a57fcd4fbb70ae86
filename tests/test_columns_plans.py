from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_core.coders.conventional import dictionary_bytes
from vae_core.columns import (
    STATE_MISFIT,
    STATE_NEG_ZERO,
    STATE_NULL,
    Codes,
    ColumnPlan,
    TableProfile,
    blobs,
    decode_column,
    encode_column,
    pack_side,
    plan_columns,
    unpack_side,
)
from vae_core.columns.blobs import pack_numbers, pack_values, unpack_numbers, unpack_values
from vae_core.columns.dictionaries import ValueDictionary
from vae_core.errors import CorruptArchive
from vae_core.packing import zstd
from vae_core.quality import compare_column, differences
from vae_core.tolerance import Tolerance

RNG = np.random.default_rng(7)


def plan_of(array, tolerance: Tolerance | None = None) -> ColumnPlan:
    table = pa.table({"x": array})
    profile = TableProfile(table.schema)
    for batch in table.to_batches(max_chunksize=1000):
        profile.update(batch)
    (plan,) = plan_columns(table.schema, profile.finish(), table, {"x": tolerance} if tolerance else {})
    back = decode_column(plan, encode_column(plan, table.column(0))) if plan.kind != "verbatim" else None
    if back is not None:
        whole = table.column(0).combine_chunks()
        assert compare_column("x", whole, back, plan.tolerance).keeps(plan.tolerance)
    return plan


def span(plan: ColumnPlan) -> int:
    return plan.hi - plan.lo + 1


def test_cents_in_floats_become_integers():
    plan = plan_of(np.round(RNG.uniform(0, 100, 5000), 2))
    assert plan.kind == "numeric" and not plan.opaque and span(plan) <= 10_001


def test_fahrenheit_from_tenths_of_celsius_finds_its_step():
    tenths = RNG.integers(-100, 350, 5000)
    plan = plan_of(np.round(tenths * 0.18 + 32, 2))
    assert span(plan) == int(tenths.max() - tenths.min()) + 1


def test_decimals_that_went_through_float32_are_still_decimals():
    values = np.round(RNG.uniform(0, 50, 5000), 3).astype(np.float32)
    for array in (values, values.astype(np.float64)):
        plan = plan_of(array)
        assert not plan.opaque and plan.n_levels is None and span(plan) <= 50_001


def test_noise_in_floats_is_opaque_and_not_a_decimal_of_nine_digits():
    for dtype in (np.float32, np.float64):
        assert plan_of(RNG.normal(size=5000).astype(dtype)).opaque


def test_few_odd_floats_become_sorted_levels():
    plan = plan_of(np.repeat(RNG.normal(size=40), 100))
    assert plan.n_levels == 40 and not plan.opaque
    ordered = decode_column(plan, Codes(np.arange(40)))
    assert np.all(np.diff(np.asarray(ordered)) > 0)


def test_timestamps_lose_the_unit_they_do_not_use():
    hours = pa.array(np.arange(1000) * 3_600_000_000 + 1_800_000_000, pa.timestamp("us", "UTC"))
    plan = plan_of(hours)
    assert span(plan) == 1000 and plan.field.type == hours.type


def test_plain_integers_are_encoded_and_decoded_without_a_copy():
    values = pa.array(RNG.integers(0, 10**6, 1000))
    plan = plan_of(values)
    codes = encode_column(plan, values)
    assert np.shares_memory(codes.values, values.to_numpy())
    assert np.shares_memory(decode_column(plan, codes).to_numpy(), codes.values)


def test_a_loose_bound_on_a_lattice_needs_no_more_codes_than_odd_groups_of_it():
    integers = pa.array(RNG.integers(0, 1000, 5000))
    assert span(plan_of(integers, Tolerance("absolute", 2.0))) <= 201
    assert span(plan_of(integers, Tolerance("absolute", 2.9))) <= 201
    tenths = np.round(RNG.uniform(0, 100, 5000), 1)
    assert span(plan_of(tenths, Tolerance("absolute", 0.26))) <= 168
    assert plan_of(tenths, Tolerance("absolute", 0.04)).is_lossless


def test_a_bound_below_the_grain_of_the_type_is_kept_losslessly():
    plan = plan_of(RNG.normal(1e9, 1e7, 3000).astype(np.float32), Tolerance("absolute", 1e-3))
    assert plan.is_lossless


def test_bins_of_a_float_column_are_nearly_twice_the_bound():
    plan = plan_of(RNG.uniform(0, 1, 5000), Tolerance("absolute", 0.01))
    assert 50 <= span(plan) <= 52


def test_one_wild_value_is_a_misfit_not_the_end_of_the_bins():
    values = np.append(RNG.normal(size=5000), 1e30).astype(np.float32)
    plan = plan_of(values, Tolerance("absolute", 0.01))
    codes = encode_column(plan, pa.array(values))
    assert codes.misfits is not None and len(codes.misfits) == 1 and codes.state is not None
    assert codes.state[-1] == STATE_MISFIT


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()])
def test_integer_extremes_come_back_under_a_bound_the_profile_set_elsewhere(kind):
    plan = plan_of(pa.array(range(100, 200), kind), Tolerance("absolute", 5.0))
    low, high = (0, 2**64 - 1) if kind == pa.uint64() else (-(2**63), 2**63 - 1)
    ends = pa.array([low, low + 1, low + 3, high - 3, high - 1, high, 0, 1, 2**63 - 1], kind)
    back = decode_column(plan, encode_column(plan, ends))
    assert compare_column("x", ends, back, plan.tolerance).keeps(plan.tolerance)


def test_negative_zero_is_state_and_comes_back_even_within_a_bound():
    values = pa.array([0.0, -0.0, 1.5, None] * 50)
    plan = plan_of(values, Tolerance("absolute", 0.1))
    codes = encode_column(plan, values)
    assert codes.state is not None and codes.state[1] == STATE_NEG_ZERO and codes.state[3] == STATE_NULL
    back = decode_column(plan, codes)
    assert np.signbit(back[1].as_py()) and not np.signbit(back[0].as_py())


def test_the_dictionary_of_a_dictionary_column_keeps_its_order_and_its_unused_values():
    array = pa.DictionaryArray.from_arrays(pa.array([2, 0, None, 2], pa.int8()), pa.array(["z", "m", "a"]), ordered=True)
    plan = plan_of(array)
    back = decode_column(plan, encode_column(plan, array))
    assert back.equals(array) and back.type == array.type and plan.n_levels == 3


def test_dictionaries_that_differ_by_chunk_are_united_in_order_of_appearance():
    chunks = [pa.array(values).dictionary_encode() for values in (["b", "a", "b"], ["c", "a", "c"])]
    column = pa.chunked_array(chunks)
    plan = plan_of(column)
    back = decode_column(plan, encode_column(plan, column))
    assert pa.chunked_array([back]).equals(pa.chunked_array([column.unify_dictionaries().combine_chunks()]))


def test_a_dictionary_larger_than_any_softmax_is_numeric_and_opaque():
    values = pa.array([f"v{i}" for i in range(70_000)])
    array = pa.DictionaryArray.from_arrays(pa.array(np.arange(70_000, dtype=np.int32)), values)
    plan = plan_of(array)
    assert (plan.kind, plan.opaque, plan.n_levels) == ("numeric", True, 70_000)
    assert decode_column(plan, encode_column(plan, array)).equals(array)


def test_a_word_outside_its_dictionary_that_is_null_is_refused():
    words = ValueDictionary(pa.array(["a", "b"]))
    state = np.array([0, STATE_MISFIT, 0, STATE_MISFIT], np.uint8)
    assert words.decode(Codes(np.zeros(4, np.int64), state, pa.array(["x", "y"]))).to_pylist() == ["a", "x", "a", "y"]
    with pytest.raises(CorruptArchive, match="null"):
        words.decode(Codes(np.zeros(4, np.int64), state, pa.array([None, "x"])))


def test_new_words_are_misfits_and_repeated_ones_take_one_dictionary_entry():
    plan = plan_of(pa.array(["a", "b", "c"] * 20).dictionary_encode())
    fresh = pa.array(["a", "new", None, "new", "other"]).dictionary_encode()
    codes = encode_column(plan, fresh)
    assert codes.misfits is not None and codes.misfits.to_pylist() == ["new", "new", "other"]
    back = decode_column(plan, codes)
    assert back.to_pylist() == ["a", "new", None, "new", "other"] and len(back.dictionary) == 5


def test_free_text_is_verbatim_and_few_words_are_categorical():
    assert plan_of(pa.array([f"row {i} of {31 * i}" for i in range(500)])).kind == "verbatim"
    plan = plan_of(pa.array(["x", "y", None, "x"] * 100))
    assert (plan.kind, plan.n_levels) == ("categorical", 2)
    assert dictionary_bytes(plan, "pco") > 0 == dictionary_bytes(plan, "parquet-plain")


def test_a_null_row_of_a_tensor_is_told_from_a_row_of_nulls():
    kind = pa.list_(pa.float32(), 2)
    plan = plan_of(pa.array([[float(i), 0.5] for i in range(500)], kind))
    fresh = pa.array([None, [None, None], [1.0, None], [2.5, -0.0]], kind)
    back = decode_column(plan, encode_column(plan, fresh))
    assert plan.kind == "tensor" and plan.width == 2 and not differences(fresh, back).any()


def test_a_tensor_extension_comes_back_as_itself():
    kind = pa.fixed_shape_tensor(pa.uint8(), (2, 3))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(RNG.integers(0, 256, 600), pa.uint8()), 6)
    array = pa.ExtensionArray.from_storage(kind, flat)
    plan = plan_of(array)
    assert decode_column(plan, encode_column(plan, array)).type == kind and (plan.lo, plan.hi) == (0, 255)


def test_a_prediction_beyond_the_plan_is_drawn_to_its_ends_when_asked():
    plan = plan_of(pa.array(["a", "b"] * 50))
    assert decode_column(plan, Codes(np.array([-4, 9])), approximate=True).to_pylist() == ["a", "b"]
    plan = plan_of(pa.array([1, 2, 100] * 50, pa.int8()))
    assert decode_column(plan, Codes(np.array([-4, 999])), approximate=True).to_pylist() == [1, 100]


@pytest.mark.parametrize(
    "array",
    [pa.array(["a", "b"] * 50), pa.array(np.repeat(RNG.normal(size=5), 100)), pa.array([1, 2, 3] * 50, pa.int8())],
)
def test_a_code_no_encoder_writes_is_a_corrupt_archive(array):
    plan = plan_of(array)
    for codes in (
        Codes(np.array([0, 10**6])),
        Codes(np.array([-(2**63)])),
        Codes(np.array([plan.lo]), np.array([9], np.uint8)),
        Codes(np.array([plan.lo]), np.array([STATE_MISFIT], np.uint8)),
        Codes(np.array([plan.lo, plan.lo]), np.array([0], np.uint8)),
    ):
        with pytest.raises(CorruptArchive):
            decode_column(plan, codes)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "magic"},
        {"index": 7},
        {"name": "y"},
        {"transform": {"t": "nothing"}},
        {"transform": {"t": "lattice", "o": 0, "s": 0, "g": 1, "b": 0}},
        {"transform": {"t": "bins", "f": "<f8", "w": 1.0, "b": 1.0}},
        {"transform": {"t": "dictionary", "n": 5}},
        {"range": [0, 2**70, 0]},
        {"range": []},
    ],
)
def test_a_plan_no_writer_writes_is_a_corrupt_archive(change):
    array = pa.array([1, 2, 3] * 50)
    data = {**plan_of(array).to_json(), **change}
    with pytest.raises(CorruptArchive):
        ColumnPlan.from_json(json.loads(json.dumps(data)), {}, pa.schema([("x", pa.int64())]))


def test_packed_dictionaries_come_back_and_damage_is_seen():
    words = pa.array(sorted({f"N{i * 37 % 1000:03d}" for i in range(800)}))
    packed = pack_values(words)
    assert unpack_values(packed, words.type).equals(words) and len(packed) < words.nbytes / 3
    for cut in (0, 1, 5, len(packed) // 2, len(packed) - 1):
        with pytest.raises(CorruptArchive):
            unpack_values(packed[:cut], words.type)
    numbers = np.sort(RNG.normal(size=300))
    assert np.array_equal(unpack_numbers(pack_numbers(numbers), numbers.dtype, 300), numbers)
    with pytest.raises(CorruptArchive):
        unpack_numbers(pack_numbers(numbers), numbers.dtype, 299)


PROSE = [
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "of", "that", "many", "tales", "are", "told",
    "in", "winter", "when", "nights", "grow", "long", "and", "no", "one", "is", "about", "who", "would", "not", "listen",
]


def test_prose_in_no_order_takes_less_in_bzip2_and_comes_back():
    lines = [" ".join(RNG.choice(PROSE, 9 + k % 3)) for k in range(3000)]
    packed = pack_values(pa.array(lines))
    assert packed[:1] == b"B" and len(packed) < 0.9 * len(zstd("\n".join(lines).encode()))
    assert unpack_values(packed, pa.string()).to_pylist() == lines
    for damaged in (packed[:2], packed[:-1], packed + b"x", b"B?" + packed[2:], b"B\n" + zstd(b"x\n"), b"B"):
        with pytest.raises(CorruptArchive):
            unpack_values(damaged, pa.string())
    with pytest.raises(CorruptArchive):
        unpack_values(packed, pa.int64())


@given(st.lists(st.binary(max_size=20), max_size=30), st.sampled_from([pa.binary(), pa.large_binary()]))
def test_any_texts_come_back_from_each_way_there_is(texts, kind):
    values = pa.array(texts, kind)
    ways = [b"F" + zstd(blobs._front(texts)), *blobs._joined(texts), pack_values(values)]
    assert len(ways) == 3
    assert all(unpack_values(way, kind).equals(values) for way in ways)


def test_texts_of_every_byte_are_not_joined():
    whole = pa.array([bytes(range(256))])
    assert blobs._joined(whole.to_pylist()) == [] and unpack_values(pack_values(whole), pa.binary()).equals(whole)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("run", [1, 90])
def test_states_are_written_the_shortest_way(share, run):
    state = np.repeat(RNG.random(90_000 // run) < share, run).astype(np.uint8)
    state[7] = 1
    kinds, gaps = state[state > 0].tobytes(), np.diff(np.flatnonzero(state), prepend=-1).astype("<u4")
    ways = (state.tobytes(), np.packbits(state).tobytes() + kinds, gaps.view(np.uint8).reshape(-1, 4).T.tobytes() + kinds)
    assert len(pack_side(state, None)) == 6 + min(len(zstd(way)) for way in ways)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.9])
def test_states_and_misfits_come_back_from_their_bytes(share):
    state = np.where(RNG.random(5000) < share, RNG.integers(1, 7, 5000), 0).astype(np.uint8)
    n = int((state == STATE_MISFIT).sum())
    misfits = pa.array(RNG.normal(size=n)) if n else None
    packed = pack_side(state, misfits)
    again, values = unpack_side(packed, 5000, pa.float64())
    assert np.array_equal(again, state) and (values is None if misfits is None else values.equals(misfits))
    for cut in (1, 3, len(packed) // 2, len(packed) - 1):
        with pytest.raises(CorruptArchive):
            unpack_side(packed[:cut], 5000, pa.float64())


@pytest.mark.parametrize("tolerance", [{"kind": "absolutf", "value": 0.1}, {"kind": "absolute", "value": -1.0}, {"kind": "rmse"}])
def test_a_plan_with_a_tolerance_nobody_asks_for_is_corrupt(tolerance):
    plan = plan_of(pa.array(np.arange(100) / 7))
    with pytest.raises(CorruptArchive, match="the plan of column 'x' cannot be read"):
        ColumnPlan.from_json({**plan.to_json(), "tolerance": tolerance}, plan.blobs(), pa.schema([pa.field("x", pa.float64())]))
