"""Nested values as columns: what is packed comes back cell for cell, and what is garbled is an error."""

from __future__ import annotations

import datetime as dt
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import plain_columns
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core import packed_nested
from vae_core.coders import nested
from vae_core.coders.fields import columns
from vae_core.coders.nested import cells, elements, members, numbers, payload
from vae_core.coders.varints import Reader, varints
from vae_core.columns.blobs import pack_values, unpack_values
from vae_core.errors import CorruptArchive
from vae_core.quality import differences, digest
from vae_core.shard import encode_shard


@st.composite
def arrays(draw: st.DrawFn, n: int, depth: int = 3, is_leaf: bool = True) -> pa.Array:
    """(n,) of a type, nested to some depth, nulls at every level, often what is null holds something, often a slice."""
    kind = draw(st.sampled_from(["list", "large_list", "fixed", "map", "struct", *(["leaf"] * 3 if is_leaf else [])])) if depth else "leaf"
    if kind == "leaf":
        if draw(st.integers(0, 9)) == 0:
            return pa.nulls(n)
        array = draw(plain_columns(n))
        views = {pa.string_view(): pa.string(), pa.binary_view(): pa.large_binary()}
        return array.cast(views[array.type]) if array.type in views else array
    before = draw(st.integers(0, 2))
    n += before
    valid = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_) if draw(st.booleans()) else None
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    if kind == "struct":
        parts = [draw(arrays(n, depth - 1)) for _ in range(draw(st.integers(0, 3)))]
        whole = pa.Array.from_buffers(pa.struct([(f"m{i}", part.type) for i, part in enumerate(parts)]), n, [bits], children=parts)
        return whole.slice(before)
    if kind == "fixed":
        size = draw(st.integers(0, 3))
        values = draw(arrays(size * n, depth - 1))
        return pa.Array.from_buffers(pa.list_(values.type, size), n, [bits], children=[values]).slice(before)
    lengths = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    skipped = draw(st.integers(0, 2))
    offsets = skipped + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if kind == "map":
        n_items = int(offsets[-1])
        keys = pa.array(draw(st.lists(st.sampled_from(["a", "b", "", "c"]), min_size=n_items, max_size=n_items)), pa.string())
        items = draw(arrays(n_items, depth - 1))
        of = pa.map_(pa.string(), items.type)
        values = pa.StructArray.from_arrays([keys, items], fields=list(of.field(0).type))
    else:
        values = draw(arrays(int(offsets[-1]), depth - 1))
        of = pa.list_(values.type) if kind == "list" else pa.large_list(values.type)
    offsets = offsets.astype(np.int64 if kind == "large_list" else np.int32)
    return pa.Array.from_buffers(of, n, [bits, pa.py_buffer(offsets)], children=[values]).slice(before)


def is_sound(array: pa.Array) -> bool:
    """Dates, times and decimals may hold what Arrow itself let in."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def same(array: pa.Array) -> bytes:
    packed = nested.pack(array)
    assert packed is not None
    found = nested.unpack(packed, array.type, len(array))
    found.validate(full=is_sound(array))
    assert found.type == array.type and len(found) == len(array) and not differences(array, found).any()
    one, other = (pa.table({"x": a}) for a in (array, found))
    assert digest([one]) == digest([other])
    return packed


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_any_nested_values_come_back(data):
    array = data.draw(arrays(data.draw(st.integers(0, 12)), is_leaf=False))
    array.validate()
    many = pa.concat_arrays([array] * data.draw(st.sampled_from([1, 1, 40])))
    with mock.patch.multiple(members, LEAST_OF_GROUP=1, LEAST_HITS=0.1), mock.patch.multiple(cells, _LEAST_GAIN=9.0):
        same(array)
        same(many.slice(min(3, len(many))))
    same(array)


def events(n: int = 300, seed: int = 5) -> pa.Array:
    """Lists of structs with what every way of coding a member is for, lists that recur, maps, and nulls at every depth."""
    rng = np.random.default_rng(seed)
    sets = [[], ["a"], ["a", "b"], ["b", "c", "a"]]
    found: list[Any] = []
    for k in range(n):
        at, row = dt.datetime(2024, 1, 1) + dt.timedelta(hours=k), []
        for _ in range(int(rng.integers(0, 5))):
            at += dt.timedelta(seconds=int(rng.integers(1, 900)))
            which, tags = int(rng.integers(0, 9)), sets[rng.integers(0, 4)]
            row.append({
                "at": at, "end": at + dt.timedelta(seconds=int(rng.integers(0, 60))), "kind": ["click", "key"][which % 2],
                "name": f"article {which:03d}", "price": which * 1.25, "value": rng.bytes(4).hex() if which % 2 else "none",
                "tags": tags, "grid": [[int(v) for v in rng.integers(0, 9, 2)] for _ in range(which % 3)],
                "extra": {"size": str(which), "weight": f"{rng.integers(0, 99)}"} if which else {},
                "sure": bool(which % 3), "id": rng.bytes(5), "cost": None if which == 4 else float(rng.normal()),
            })  # fmt: skip
        found.append(None if k % 50 == 9 else row)
    item = pa.struct([
        ("at", pa.timestamp("ms")), ("end", pa.timestamp("ms")), ("kind", pa.string()), ("name", pa.large_string()),
        ("price", pa.float64()), ("value", pa.string()), ("tags", pa.list_(pa.string())), ("grid", pa.list_(pa.large_list(pa.int16()))),
        ("extra", pa.map_(pa.string(), pa.string())), ("sure", pa.bool_()), ("id", pa.binary(5)), ("cost", pa.float32()),
    ])  # fmt: skip
    for row in found:
        for one in row or ():
            one["extra"] = list(one["extra"].items())
    return pa.array(found, pa.list_(item))


EVENTS = events()
PACKED = nested.pack(EVENTS) or b""


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_a_garbled_payload_gives_other_values_or_a_corrupt_archive(data):
    packed = bytearray(PACKED)
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    whole = bytes(packed[: data.draw(st.integers(0, len(packed)))]) if data.draw(st.booleans()) else bytes(packed)
    try:
        found = nested.unpack(whole, EVENTS.type, len(EVENTS))
    except CorruptArchive:
        return
    found.validate(full=True)
    assert len(found) == len(EVENTS) and found.type == EVENTS.type


def test_members_are_coded_as_suits_them():
    array = events(3000)
    inner = cells.elements_of(array.drop_null())
    parts = [inner.field(i) for i in range(inner.type.num_fields)]
    hows = cells._hows(parts, cells.lengths_of(array.drop_null()), None)
    kinds = {item.name: how.kind for item, how in zip(inner.type, hows, strict=True)}
    assert kinds["end"] == members.ABOVE and kinds["kind"] == kinds["price"] == members.TOLD and kinds["name"] == members.PLAIN
    told = {item.name: inner.type.field(how.by).name for item, how in zip(inner.type, hows, strict=True) if how.kind}
    assert told["end"] == "at" and told["value"] == "kind" and kinds["value"] == members.GROUPED and told["kind"] == told["price"] == "name"
    same(array)


def test_values_of_maps_are_columns_by_key_and_keys_a_list_of_patterns():
    rng = np.random.default_rng(2)
    n = 2000
    rows = [
        [("id", rng.bytes(4).hex()), ("took", f"{rng.integers(100, 999)}")] + ([("user", "ann")] if k % 3 else []) for k in range(n)
    ]
    packed = same(pa.array(rows, pa.map_(pa.string(), pa.string())))
    assert len(packed) < n * (4 + 1.3) + 300  # 32 bits, about 10 bits, and nothing for what recurs
    array = pa.array([[{"name": name, "value": value} for name, value in row] for row in rows])
    assert len(same(array)) < len(packed) + 20


def test_lists_that_ascend_are_stored_by_their_steps():
    rng = np.random.default_rng(3)
    starts, lengths = rng.integers(0, 2**40, 500), rng.integers(0, 9, 500)
    array = pa.array([list(s + np.cumsum(rng.integers(0, 16, k))) for s, k in zip(starts, lengths, strict=True)], pa.list_(pa.int64()))
    assert len(same(array)) < 500 * 5 + int(lengths.sum()) * 0.55 + 500 * 0.5 + 200
    values = np.array([2**63 - 1, -(2**63), 5], np.int64)
    reader = Reader(numbers.pack_integers(values, np.array([3])), "nested values")
    assert (numbers.unpack_integers(reader, 3, np.array([3])) == values).all()


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_decimals_with_a_few_values_that_are_none_stay_decimals(kind):
    rng = np.random.default_rng(4)
    values = np.round(rng.normal(9, 2, 4000), 1).astype(kind.to_pandas_dtype())
    values[rng.integers(0, 4000, 60)] = np.nan
    values[[7, 1999]] = [-0.0, np.inf]
    packed = same(pa.ListArray.from_arrays(pa.array(np.arange(0, 4001, 8), pa.int32()), pa.array(values)))
    assert len(packed) < 4000


def test_what_cannot_be_columns_is_left_to_others():
    for kind in (
        pa.string(), pa.int64(), pa.list_(pa.dictionary(pa.int8(), pa.string())), pa.list_(pa.string_view()), pa.list_view(pa.int8()),
        pa.struct([("id", pa.uuid())]), pa.list_(pa.month_day_nano_interval()),
    ):  # fmt: skip
        assert not nested.holds(kind) and nested.pack(pa.nulls(3, kind)) is None
        with pytest.raises(CorruptArchive, match="nested values of type"):
            nested.unpack(b"", kind, 0)


def test_what_is_too_much_is_not_packed(monkeypatch):
    array = pa.array([["a" * 9] * 3] * 5)
    monkeypatch.setattr(payload, "MOST", int(cells.weights_of(array).sum()))
    assert cells.weights_of(array).tolist() == [8 + 3 * (8 + 9)] * 5
    packed = same(array)
    monkeypatch.setattr(payload, "MOST", payload.MOST - 1)
    assert nested.pack(array) is None
    with pytest.raises(CorruptArchive, match="stands for more"):
        nested.unpack(packed, array.type, 5)


LISTS, INTS = pa.list_(pa.int64()), pa.int64()
PAIRS = pa.list_(pa.struct([("a", pa.int64()), ("b", pa.int64()), ("c", pa.float64())]))
NONE = varints([0])


def ints(*values: int) -> bytes:
    return bytes([numbers.PLAIN]) + numbers.sized(columns.pack_integers(np.array(values, np.int64)))


def bits(*flags: int) -> bytes:
    return numbers.pack_flags(np.array(flags, np.bool_))


def lists(*lengths: int) -> bytes:
    return NONE + bytes([cells.END_TO_END]) + ints(*lengths)


TWO = lists(2) + NONE
MANY = lists(300) + NONE + varints([0, 2, 0]) + NONE + ints(*range(300)) + NONE + bytes([numbers.BITS]) + ints(*range(300))


def test_a_payload_is_as_the_format_says():
    packed = bits(1, 0, 1) + bytes([cells.END_TO_END]) + ints(2, 1) + bits(0, 1, 1) + ints(7, -8)
    assert nested.unpack(packed, LISTS, 3).to_pylist() == [[None, 7], None, [-8]]
    steps = lists(3, 0, 2) + NONE + bytes([numbers.STEPS]) + numbers.sized(columns.pack_integers(np.array([5, 9])))
    steps += numbers.sized(columns.pack_integers(np.array([1, 1, -9])))
    assert nested.unpack(steps, LISTS, 3).to_pylist() == [[5, 6, 7], [], [9, 0]]
    listed = NONE + bytes([cells.LISTED]) + varints([2]) + lists(1, 2)[1:] + NONE + ints(4, 5, 6) + ints(1, 0, 1)
    assert nested.unpack(listed, LISTS, 3).to_pylist() == [[5, 6], [4], [5, 6]]
    told = lists(4) + NONE + varints([0, 1 + 3 * 0, 2 + 3 * 0]) + NONE + ints(3, 3, 4, 3) + bits(0, 1) + NONE + ints(1, 2, 9)
    told += NONE + bytes([numbers.DECIMALS, 1]) + varints([0]) + ints(15, 25, 35) + NONE + bytes([numbers.BITS]) + ints(0)
    assert [[*one.values()] for one in nested.unpack(told, PAIRS, 1)[0].as_py()] == [[3, 1, 1.5], [3, 2, 2.5], [4, 9, 0.0], [3, 2, 3.5]]
    by = NONE + bytes([cells.BY_MEMBER]) + varints([1]) + lists(2, 1)[1:] + NONE + ints(30, 20, 10) + varints([3 * 1 + 3, 0])
    by += NONE + ints(1, 2, 3) + NONE + bytes([numbers.BITS]) + ints(0, 0, 0)
    assert [[one["a"] for one in row] for row in nested.unpack(by, PAIRS, 2).to_pylist()] == [[31, 22], [13]]


@pytest.mark.parametrize(
    ("packed", "kind", "says"),
    [
        (lists(1 << 40), LISTS, "longer than what is read"),
        (lists(-1), LISTS, "longer than what is read"),
        (lists((1 << 25) + 1), LISTS, "stands for more"),
        (lists(1 << 24) + NONE, pa.list_(pa.list_(pa.int8(), 9)), "stands for more"),
        (lists(3) + NONE + ints(1, 2), LISTS, "pcodec stream|expected"),
        (lists(1) + NONE + ints(300), pa.list_(pa.int8()), "outside -128..127"),
        (NONE + bytes([9]), LISTS, "have form 9"),
        (NONE + bytes([cells.BY_MEMBER]) + varints([0]), LISTS, "have form 2"),
        (NONE + bytes([cells.BY_MEMBER]) + varints([3]), PAIRS, "3 where 0 to 2"),
        (NONE + bytes([cells.LISTED]) + varints([2]), LISTS, "2 where 1 to 1"),
        (NONE + bytes([cells.LISTED]) + varints([1, 3]), LISTS, "form 6"),
        (NONE + bytes([cells.LISTED]) + varints([1]) + lists(0)[1:] + ints(1), LISTS, "outside its list"),
        (lists(1) + NONE + bytes([7]), LISTS, "integers of nested values have form 7"),
        (NONE + bytes([cells.END_TO_END, numbers.STEPS]), LISTS, "integers of nested values have form 1"),
        (lists(1) + NONE + bytes([7]), pa.list_(pa.float64()), "floats of nested values have form 7"),
        (lists(1) + NONE + bytes([numbers.DECIMALS, 16]) + NONE, pa.list_(pa.float64()), "16 decimals"),
        (lists(1) + NONE + bytes([numbers.DECIMALS, 1]) + varints([2]), pa.list_(pa.float64()), "2 where 0 to 1"),
        (lists(1) + NONE + bytes([numbers.DECIMALS, 1]) + varints([1]) + ints(1)[1:], pa.list_(pa.float64()), "odd beyond"),
        (lists(1) + NONE + bytes([7, 0]), pa.list_(pa.string()), "texts of nested values have form 7"),
        (lists(1) + NONE + bytes([cells.WHOLE]) + ints(1)[1:], pa.list_(pa.binary(2)), "has form 0"),
        (TWO + varints([4 + 3]), PAIRS, "told by 2, which cannot be"),
        (TWO + varints([1]), PAIRS, "told by 0, which cannot be"),
        (TWO + varints([0, 0, 3]), PAIRS, "above 0, which is of another type"),
        (TWO + varints([4, 1, 0]), PAIRS, "tell each other"),
        (MANY, PAIRS, "in 300 groups"),
        (lists(1) + bits(0), pa.map_(pa.string(), pa.int8()), "key of nested values is null"),
        (lists(0) + b"\0", LISTS, "has a tail"),
        (lists(1)[:-1], LISTS, "cut short"),
        (b"", LISTS, "cut short"),
        (bits(1, 0)[:1], LISTS, "cut short"),
        (lists(1) + NONE + bytes([cells.COLUMN]) + numbers.sized(columns.pack_texts(pa.array([b"\xff"], pa.large_binary()), None)),
         pa.list_(pa.string()), "are no list"),
    ],
)  # fmt: skip
def test_a_payload_that_cannot_be_is_refused_before_memory_is_taken_for_it(packed, kind, says):
    with pytest.raises(CorruptArchive, match=says):
        nested.unpack(packed, kind, 1)


def test_a_few_rows_told_again_and_again_are_refused_before_they_are_made():
    long = lists(1 << 14)[1:] + NONE + ints(*[0] * (1 << 14))
    packed = NONE + bytes([cells.LISTED]) + varints([1]) + long + ints(*[0] * (1 << 12))
    with pytest.raises(CorruptArchive, match="stands for more"):
        nested.unpack(packed, LISTS, 1 << 12)
    text = numbers.sized(columns.pack_texts(pa.array([b"x" * (1 << 20)], pa.large_binary()), None))
    kind = pa.struct([("a", pa.int8()), ("b", pa.binary())])
    told = NONE + varints([0, 1]) + NONE + ints(*[0] * 300) + bits(*[1] * 299) + NONE + bytes([cells.COLUMN]) + text
    with pytest.raises(CorruptArchive, match="stands for more"):
        nested.unpack(told, kind, 300)


def test_nested_columns_are_packed_in_every_block_and_what_is_reported_stays_parquet():
    rng = np.random.default_rng(1)
    full = pa.array([[rng.bytes(40)] for _ in range(900)], pa.list_(pa.binary(40)))
    table = pa.table({"events": events(900), "n": np.arange(900) % 7, "full": full})
    model = fitted(table, preview="off").model
    shard = encode_shard(model, table, block_rows=300)
    coded = {outcome.name: outcome for outcome in shard.outcomes}
    assert coded["events"].coding == "nested" and coded["events"].conventional_bytes > 1.5 * coded["events"].n_bytes
    assert coded["full"].coding.startswith("parquet-")  # less is saved than 5 %
    assert_kept(table, decoded(stored_again(model), shard))


def test_extensions_of_nested_values_and_sliced_tables_come_back():
    array = events(400)
    empty = pa.array([[]] * 300, pa.list_(pa.null()))
    table = pa.table({"events": pa.chunked_array([array.slice(7, 100), array.slice(200)]), "empty": empty})
    model = fitted(table, preview="off").model
    with mock.patch.object(packed_nested, "LEAST_BYTES", 0):
        shard = encode_shard(model, table, block_rows=128)
    assert shard.outcomes[0].coding == "nested"
    assert_kept(table, decoded(stored_again(model), shard))


def test_first_rows_tell_whether_all_are_packed(monkeypatch):
    array = pa.concat_arrays([events(400)] * 3)
    most = 9 * len(nested.pack(array) or b"")
    assert packed_nested.packed(pa.array(["a"]), [(0, 1)], most, None) is None
    assert packed_nested.packed(array, [(0, 600), (600, 600)], most, None) is not None
    monkeypatch.setattr(packed_nested, "HEAD_ROWS", 100)
    assert packed_nested.packed(array, [(0, 600), (600, 600)], most, "plain") is not None
    monkeypatch.setattr(packed_nested, "WORTH_PACKING", 0.1)
    with mock.patch.object(packed_nested.nested, "pack", wraps=nested.pack) as packs:
        assert packed_nested.packed(array, [(0, 600), (600, 600)], most, "plain") is None
    assert [len(call.args[0]) for call in packs.call_args_list] == [100]


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_garbled_dictionary_of_nested_values_gives_other_values_or_a_corrupt_archive(data):
    values = pa.array([[f"word {k % 41}", f"word {k % 43}"] for k in range(500)])
    blob = bytearray(pack_values(values))
    assert blob[:1] == b"N" and unpack_values(bytes(blob), values.type).equals(values)
    assert len(blob) < len(pack_values(values, as_fields=False))
    blob[data.draw(st.integers(1, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack_values(bytes(blob), values.type)
    except CorruptArchive:
        return
    found.validate(full=True)
    assert not found.null_count


def test_groups_beyond_what_is_read_are_refused_before_there_is_an_array_of_each(monkeypatch):
    kind, n = pa.struct([pa.field("a", pa.int64()), pa.field("b", pa.int8())]), 5_000
    payload = varints([0]) + varints([0, 2]) + varints([0]) + numbers.pack_integers(np.arange(n), None)
    monkeypatch.setattr(members, "groups_of", lambda _: pytest.fail("arrays of groups are made"))
    with pytest.raises(CorruptArchive, match=f"in {n} groups, at most {members.MOST_GROUPS}"):
        nested.unpack(payload, kind, n)


@st.composite
def vectors(draw: st.DrawFn) -> pa.Array:
    """Vectors of some kind of number, nulls among them and in them, often a slice."""
    kind = draw(st.sampled_from([pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()]))
    n, size, before = draw(st.integers(0, 12)), draw(st.integers(2, 5)), draw(st.integers(0, 2))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    raw = rng.integers(0, 256, (n + before) * size * kind.bit_width // 8, np.uint8).view(kind.to_pandas_dtype())
    raw = raw if draw(st.booleans()) else np.full_like(raw, draw(st.integers(0, 100)))
    gone = rng.random(len(raw)) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    mask = pa.array(rng.random(n + before) < draw(st.sampled_from([0.3, 1.0]))) if draw(st.booleans()) else None
    return pa.FixedSizeListArray.from_arrays(pa.array(raw, kind, mask=gone if gone.any() else None), size, mask=mask).slice(before)


@settings(max_examples=300, deadline=None)
@given(vectors())
def test_vectors_come_back_element_by_element(array: pa.Array) -> None:
    packed = elements.pack(array)
    assert packed is not None
    back = elements.unpack(packed, array.type, len(array))
    back.validate(full=True)
    assert back.type == array.type and not differences(array, back).any()


@settings(max_examples=300, deadline=None)
@given(vectors(), st.data())
def test_garbled_elements_are_an_error_or_vectors(array: pa.Array, data: st.DataObject) -> None:
    packed = bytearray(elements.pack(array) or b"")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(packed) - 1))
        packed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        if not packed:
            break
    try:
        found = elements.unpack(bytes(packed), array.type, len(array))
    except CorruptArchive:
        return
    assert len(found) == len(array) and found.type == array.type


def test_elements_that_stand_for_very_many_are_refused_before_they_are_made() -> None:
    column = cells.pack(pa.array(np.zeros(1 << 20, np.int8)))
    payload_ = varints([0]) + 64 * (varints([len(column)]) + column)
    with pytest.raises(CorruptArchive, match="more than is read"):
        elements.unpack(payload_, pa.list_(pa.int8(), 64), 1 << 20)


def test_what_is_no_vector_of_numbers_has_no_elements() -> None:
    texts, single = pa.array([["a", "b"]], pa.list_(pa.string(), 2)), pa.array([[1]], pa.list_(pa.int8(), 1))
    for array in (pa.array([1]), pa.array([[1]]), texts, single):
        assert elements.pack(array) is None
        with pytest.raises(CorruptArchive, match="no vector of numbers"):
            elements.unpack(b"\0", array.type, 1)


def test_elements_of_kinds_of_their_own_take_what_their_columns_would() -> None:
    rng = np.random.default_rng(2)
    n = 5000
    kinds = [rng.integers(0, 4, n), np.arange(n) * 1000, np.round(rng.normal(size=n), 2) * 100, np.full(n, 7)] * 8
    columns = [pa.array(np.asarray(kind, np.float64)) for kind in kinds]
    array = pa.FixedSizeListArray.from_arrays(pa.array(np.stack(kinds, 1).astype(np.float64).ravel()), len(kinds))
    packed = len(elements.pack(array) or b"")
    assert packed < 1.005 * sum(len(cells.pack(column)) for column in columns) + 100
    assert abs(elements.bytes_of_some(array) - packed) < 0.05 * packed, "all of them are looked at"
