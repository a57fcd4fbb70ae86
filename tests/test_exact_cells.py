from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exact_digits import schemes
from test_exact_features import features
from test_exact_linear import any_int64s, forward_linears, linears, matches_of

from vae_core.entropy import kernel
from vae_core.entropy.gathered import packed
from vae_core.entropy.passes import GROUND
from vae_core.entropy.rans import Decoder, Encoder
from vae_core.errors import CorruptArchive
from vae_core.exact.cells import code_column
from vae_core.exact.clock import from_minutes, to_minutes
from vae_core.exact.counts import MAX_CELLS, n_contexts
from vae_core.exact.digits import Direct, Residual
from vae_core.exact.features import ABOVE_KINDS, AROUND_KINDS, COLUMN_KINDS, MIXED_KINDS, N_STATES, OWN_KINDS, Decoded, Feature
from vae_core.exact.forms import CLOCK, FORMS
from vae_core.exact.linear import Linear, Term, two_of
from vae_core.exact.matches import MAX_MATCHES
from vae_core.exact.plans import FLAGS, MAX_SORT_KEYS, CellPlan, ColumnCode, DigitPlan, Recall, column_code_from_json
from vae_core.exact.recall import MAX_KEYS
from vae_core.exact.schedule import LAST_CHUNKS, LONG_CHUNK, LONG_STRETCHES, OLD_PART, PARTS, SHORT_STRETCHES, STRETCH, USUAL_CHUNKS, Chunks
from vae_core.exact.units import MOST_NUMBER, Unit

LAW = settings(deadline=None, max_examples=40)
N_EARLIER = 3
PLAIN_STATE = CellPlan(Direct.over(0, N_STATES - 1), None, (DigitPlan((), (16,)),))


@st.composite
def digit_plans(draw: st.DrawFn, sizes: tuple[int, ...], kinds: tuple[str, ...]) -> tuple[DigitPlan, ...]:
    found = []
    for k, size in enumerate(sizes):
        chosen = [] if k == 0 else [Feature("digit", -1, 0, sizes[k - 1])]
        for feature in draw(st.lists(features(N_EARLIER, kinds), max_size=2)):
            if n_contexts([f.size for f in (*chosen, feature)]) * size <= MAX_CELLS >> 4:
                chosen.append(feature)
        weights = draw(st.lists(st.integers(1, 65535), min_size=len(chosen) + 1, max_size=len(chosen) + 1))
        found.append(DigitPlan(tuple(chosen), tuple(weights)))
    return tuple(found)


def units() -> st.SearchStrategy[Unit]:
    """Any that a plan may hold."""
    numbers, steps = st.integers(1 - MOST_NUMBER, MOST_NUMBER - 1) | st.integers(-3, 3), st.integers(1, 4) | st.just(MOST_NUMBER - 1)
    return st.builds(Unit, st.integers(0, N_EARLIER - 1), numbers, steps, numbers, steps)


@st.composite
def column_codes(draw: st.DrawFn) -> ColumnCode:
    scheme = draw(schemes())
    linear = draw(linears()) if isinstance(scheme, Residual) else None
    chunks = Chunks(draw(st.sampled_from(LAST_CHUNKS)), draw(st.sampled_from(PARTS)))
    own, keys, matches, leader = tuple(kind for kind in OWN_KINDS if kind not in ("match", *MIXED_KINDS, *ABOVE_KINDS)), None, (), None
    if draw(st.booleans()):
        keys = tuple(draw(st.lists(st.integers(0, N_EARLIER - 1), max_size=MAX_SORT_KEYS)))
        above = not keys and draw(st.booleans())
        others = (*AROUND_KINDS, *MIXED_KINDS, *(() if above else ABOVE_KINDS))
        linear, own = draw(forward_linears(above)), tuple(kind for kind in OWN_KINDS if kind not in others)
        matches, leader = draw(matches_of(MAX_MATCHES)), draw(st.sampled_from([None, 0, MAX_MATCHES - 1]))
        if not above and chunks.part != OLD_PART:
            chunks = replace(chunks, stretch=draw(st.sampled_from((STRETCH, *SHORT_STRETCHES, *LONG_STRETCHES))))
    value = CellPlan(scheme, linear, draw(digit_plans(scheme.sizes, (*COLUMN_KINDS, *own))), chunks, keys, matches, leader)
    if keys is None:
        value = draw(gathered_or_not(value))
    states = (N_STATES + 1,)
    state = CellPlan(Direct.over(0, N_STATES - 1), None, draw(digit_plans(states, (*COLUMN_KINDS, "left", "right", "level"))))
    recall = None
    if draw(st.booleans()):
        flags = CellPlan(FLAGS, None, draw(digit_plans(FLAGS.sizes, (*COLUMN_KINDS, "left", "right", "level"))))
        keyed = tuple(draw(st.lists(st.integers(0, N_EARLIER - 1), min_size=1, max_size=MAX_KEYS)))
        recall = Recall(keyed, draw(gathered_or_not(flags)), draw(st.none() | units()))
    fill, form = draw(st.sampled_from([0, -7, 2**63 - 1])), draw(st.sampled_from(FORMS))
    return ColumnCode(N_EARLIER, fill, form, draw(gathered_or_not(state)), value, recall)


def gathered_or_not(plan: CellPlan) -> st.SearchStrategy[CellPlan]:
    gathered = replace(plan, digits=tuple(replace(digit, weights=()) for digit in plan.digits), chunks=USUAL_CHUNKS, gathered=True)
    return st.sampled_from([plan, gathered])


def block(code: ColumnCode, n: int, rng: np.random.Generator, stateful: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """(n,) values the code may meet, mostly small, and their states."""
    scheme = code.value.scheme
    values = any_int64s(rng, n)
    if isinstance(scheme, Direct):
        values = np.where(rng.random(n) < 0.9, scheme.lo + rng.integers(0, scheme.span, n), values)
    else:
        values = np.where(rng.random(n) < 0.9, rng.integers(-50, 50, n).cumsum(), values)
    if code.form == CLOCK:  # values of a clock column are checked before they are coded
        values = np.where(from_minutes(to_minutes(values)) == values, values, 17)
    if not stateful:
        return values, None
    state = np.where(rng.random(n) < 0.3, rng.integers(0, N_STATES, n), 0).astype(np.uint8)
    return np.where(state == 0, values, code.fill), state


def earlier(n: int, rng: np.random.Generator, piece: int = 0) -> Decoded:
    states = {c: None if c else rng.integers(0, N_STATES, n).astype(np.uint8) for c in range(N_EARLIER)}
    # as a block may tell of rows above: nearly the same of rows side by side, and what no writer tells
    above = np.where(rng.random(n) < 0.9, rng.integers(0, 90) + rng.integers(0, 3, n), rng.integers(0, n + 1, n))
    return Decoded(n, {c: any_int64s(rng, n) if c else rng.integers(0, 9, n) for c in range(N_EARLIER)}, states, piece, above=above)


def fresh(decoded: Decoded) -> Decoded:
    return Decoded(decoded.n_rows, dict(decoded.values), dict(decoded.states), decoded.piece, above=decoded.above)


@contextmanager
def numpy_alone() -> Iterator[None]:
    """The specification without the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "library", lambda: None)
        yield


@LAW
@given(
    column_codes(), st.sampled_from([0, 1, 2, 31, 33, 64, 65, 700, 5000]), st.integers(0, 2**32), st.booleans(),
    st.sampled_from([0, 1, 64, 700]),
)  # fmt: skip
def test_a_column_read_is_the_column_written(code, n, seed, stateful, piece):
    rng = np.random.default_rng(seed)
    known = earlier(n, rng, 0 if code.reads_above else piece)
    values, state = block(code, n, rng, stateful)
    encoder = Encoder()
    after = fresh(known)
    code_column(encoder, code, after, values, state)
    stream = encoder.finish()
    decoder = Decoder(stream)
    before = fresh(known)
    found, found_state = code_column(decoder, code, before, None, None)
    decoder.finish()
    assert not GROUND.free.counted.any()  # what was counted is forgotten: the next tables begin where these did
    assert np.array_equal(found, values)
    assert (state is None and found_state is None) or np.array_equal(found_state, state)
    assert np.array_equal(before.values[N_EARLIER], after.values[N_EARLIER])
    with numpy_alone():
        slow = Encoder()
        code_column(slow, code, fresh(known), values, state)
        assert slow.finish() == stream
        assert np.array_equal(code_column(Decoder(stream), code, fresh(known), None, None)[0], values)


@LAW
@given(column_codes(), st.sampled_from([1, 33, 300]), st.integers(0, 2**32), st.data())
def test_a_garbled_stream_gives_wrong_values_or_a_corrupt_archive_and_nothing_else(code, n, seed, data):
    rng = np.random.default_rng(seed)
    known = earlier(n, rng)
    values, state = block(code, n, rng, data.draw(st.booleans()))
    encoder = Encoder()
    code_column(encoder, code, fresh(known), values, state)
    stream = bytearray(encoder.finish())
    stream[data.draw(st.integers(6, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found, found_state = code_column(Decoder(bytes(stream)), code, fresh(known), None, None)
    except CorruptArchive as error:
        assert not GROUND.free.counted.any()
        with numpy_alone(), pytest.raises(CorruptArchive, match=re.escape(str(error))):
            code_column(Decoder(bytes(stream)), code, fresh(known), None, None)
        return
    with numpy_alone():
        slow, slow_state = code_column(Decoder(bytes(stream)), code, fresh(known), None, None)
    assert not GROUND.free.counted.any()
    assert np.array_equal(found, slow) and (found_state is slow_state or np.array_equal(found_state, slow_state))
    assert found.shape == (n,) and (found_state is None or (found_state < N_STATES).all())


@pytest.mark.parametrize("chunks", [Chunks(64, 2), Chunks(256, 64), Chunks(1024, 16), Chunks(8192, 2), Chunks(16384, 4)])
def test_long_columns_under_wide_contexts_are_the_same_by_the_kernel_and_by_numpy(chunks):
    rng = np.random.default_rng(chunks.last)
    n = 60_000
    wide = Feature("value", 0, 0, 9000)
    scheme = Direct.over(0, 6_999)
    high = DigitPlan((wide, Feature("left", -1, 0, 4, (40, 900))), (7, 1000, 1))
    low = DigitPlan((Feature("digit", -1, 0, scheme.sizes[0]), Feature("bins", 0, 0, 3, (70, 2000))), (16, 2, 3))
    plan = CellPlan(scheme, None, (high, low), chunks)
    code = ColumnCode(1, 0, 0, PLAIN_STATE, plan)
    key = (rng.random(n) ** 3 * 9500).astype(np.int64)
    values = (key * 7919 + rng.integers(0, 9, n) * (rng.random(n) < 0.3)) % 7_000
    encoder = Encoder()
    code_column(encoder, code, Decoded(n, {0: key}, {0: None}), values, None)
    stream = encoder.finish()
    found, _ = code_column(Decoder(stream), code, Decoded(n, {0: key}, {0: None}), None, None)
    assert np.array_equal(found, values)
    with numpy_alone():
        slow = Encoder()
        code_column(slow, code, Decoded(n, {0: key}, {0: None}), values, None)
        assert slow.finish() == stream
        assert np.array_equal(code_column(Decoder(stream), code, Decoded(n, {0: key}, {0: None}), None, None)[0], values)


def test_the_longest_block_there_may_be_is_the_same_by_the_kernel_and_by_numpy():
    n = 1 << 22
    plan = CellPlan(Direct.over(0, 2), None, (DigitPlan((), (1,)),), Chunks(LONG_CHUNK, 2))
    values = np.zeros(n, np.int64)
    values[-3:] = 2, 1, 0
    fast, slow = Encoder(), Encoder()
    code_column(fast, ColumnCode(0, 0, 0, PLAIN_STATE, plan), Decoded(n), values, None)
    with numpy_alone():
        code_column(slow, ColumnCode(0, 0, 0, PLAIN_STATE, plan), Decoded(n), values, None)
    for k in (0, 1):  # low and width; to write such a stream by numpy takes long
        assert np.array_equal(np.concatenate([s[k] for s in fast._slots]), np.concatenate([s[k] for s in slow._slots]))


@LAW
@given(column_codes())
def test_a_code_comes_back_from_its_json(code):
    assert column_code_from_json(json.loads(json.dumps(code.to_json())), N_EARLIER + 1) == code


@LAW
@given(column_codes())
def test_a_code_names_the_columns_it_is_conditioned_on(code):
    plans = [code.state, code.value, *([code.recall.same] if code.recall else [])]
    named = {f.column for plan in plans for d in plan.digits for f in d.features}
    named |= {j for plan in plans for d in plan.digits for f in d.features if f.kind == "among" for j in f.edges}
    if code.value.linear is not None:
        terms = (*code.value.linear.terms, *code.value.linear.anchor_terms)
        named |= {t.column for t in terms} | {two[1] for t in terms if (two := two_of(t.kind)) is not None}
    if code.recall is not None:
        named |= set(code.recall.keys) | ({code.recall.unit.column} if code.recall.unit else set())
    named |= set(code.value.forward or ()) | {j for match in code.value.matches for j in match.others}
    assert code.columns == named - {-1}
    if any(f.column >= 0 for plan in (code.state, code.value) for d in plan.digits for f in d.features):
        with pytest.raises(CorruptArchive, match="not decoded before"):
            nothing = Decoded(40, above=np.zeros(40, np.int64))
            code_column(Encoder(), code, nothing, np.zeros(40, np.int64), np.zeros(40, np.uint8))


HOSTILE: list[Any] = [
    None, True, "x", "", [], {}, -1, 0, 3, 255, 1 << 16, 1 << 40, 1 << 63, -(1 << 63) - 1, 1 << 200, 0.5, float("inf"), float("nan"),
    [[]], {"a": 1},
]  # fmt: skip


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every node of a JSON tree but its root."""
    keys = range(len(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else ()
    return [found for key in keys for found in ((*path, key), *leaves(tree[key], (*path, key)))]


def changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The tree with one node replaced."""
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


@settings(deadline=None, max_examples=100)
@given(column_codes(), st.data())
def test_a_hostile_plan_is_refused_or_decodes_like_any_other(code, data):
    parts = json.loads(json.dumps(code.to_json()))
    parts = changed(parts, data.draw(st.sampled_from(leaves(parts))), data.draw(st.sampled_from(HOSTILE)))
    try:
        found = column_code_from_json(parts, N_EARLIER + 1)
    except CorruptArchive:
        return
    for plan in (found.state, found.value):
        for size, digit in zip(plan.scheme.sizes, plan.digits, strict=True):
            assert n_contexts([f.size for f in digit.features]) * size <= MAX_CELLS
    rng = np.random.default_rng(0)
    noise = rng.bytes(8 * 4 + 400)
    with suppress(CorruptArchive):
        code_column(Decoder((4).to_bytes(2, "little") + (100).to_bytes(4, "little") + noise), found, earlier(40, rng), None, None)


def plan_of(code: ColumnCode, **parts: Any) -> list[Any]:
    scheme, linear, digits, last = code.value.to_json()
    value = [parts.get("scheme", scheme), linear, parts.get("digits", digits), parts.get("last", last)]
    return [code.column, code.fill, code.form, code.state.to_json(), value]


@pytest.mark.parametrize(
    "parts",
    [
        {"scheme": ["direct", 0, 300, 2]},
        {"digits": []},
        {"last": 0},
        {"last": 1 << 40},
        {"digits": [[[], [16]], [[], [16]]]},
        {"digits": [[[], [0]]]},
        {"digits": [[[], [1 << 16]]]},
        {"digits": [[[], [16, 16]]]},
        {"digits": [[[["value", 0, 0, 1 << 16, []]] * 2, [1, 1, 1]]]},
        {"digits": [[[["value", 0, 0, 2, []]] * 9, [1] * 10]]},
        {"digits": [[[["digit", -1, 0, 8, []]], [1, 1]]]},
        {"last": None},
        {"digits": [[[], []]]},
    ],
)
def test_a_plan_that_could_not_be_decoded_in_bounded_memory_is_refused(parts):
    code = ColumnCode(1, 0, 0, PLAIN_STATE, CellPlan(Direct.over(0, 7), None, (DigitPlan((), (16,)),)))
    assert column_code_from_json(plan_of(code), 2) == code
    with pytest.raises(CorruptArchive):
        column_code_from_json(plan_of(code, **parts), 2)


def test_symbols_are_gathered_without_weights_and_not_of_rows_one_after_another():
    gathered = CellPlan(Direct.over(0, 7), Linear((), 0), (DigitPlan((), ()),), gathered=True)
    code = ColumnCode(1, 0, 0, PLAIN_STATE, gathered)
    parts = json.loads(json.dumps(code.to_json()))
    assert parts[4][3] is None and column_code_from_json(parts, 2) == code
    parts[4].append([])
    with pytest.raises(CorruptArchive, match="gathers symbols of rows coded one after another"):
        column_code_from_json(parts, 2)


def test_symbols_gathered_by_more_features_than_there_are_are_refused():
    encoder, plan = Encoder(), CellPlan(Direct.over(0, 7), None, (DigitPlan((), ()),), gathered=True)
    encoder.raw(np.ones(1, np.int64), np.zeros(1, np.int64))
    encoder.code_gathered(9, 9, [np.arange(9)])
    stream = bytearray(encoder.finish())
    record = packed([np.arange(9)], 9).record
    assert record[0] == 128  # beside the depth
    stream[stream.index(record)] = 129
    with pytest.raises(CorruptArchive, match="more features than their plan has"):
        code_column(Decoder(bytes(stream)), ColumnCode(0, 0, 0, PLAIN_STATE, plan), Decoded(9), None, None)


def test_what_own_rows_around_tell_is_gathered_pass_by_pass_with_the_kernel_and_without():
    rng = np.random.default_rng(8)
    n, edges = 3001, tuple(range(-60, 60, 12))
    values = rng.integers(-3, 4, n).cumsum()
    beside = Feature("left", -1, 0, len(edges) + 2, edges), Feature("right", -1, 0, len(edges) + 2, edges)
    scheme = Residual(12)
    digits = DigitPlan(beside, ()), DigitPlan((Feature("digit", -1, 0, scheme.sizes[0]),), ())
    code = ColumnCode(0, 0, 0, PLAIN_STATE, CellPlan(scheme, Linear((Term("mean", -1, 1 << 16),), 0), digits, gathered=True))
    encoder = Encoder()
    code_column(encoder, code, Decoded(n), values, None)
    stream = encoder.finish()
    assert len(stream) < n  # of some three bits a row
    assert np.array_equal(code_column(Decoder(stream), code, Decoded(n), None, None)[0], values)
    with numpy_alone():
        assert np.array_equal(code_column(Decoder(stream), code, Decoded(n), None, None)[0], values)


def test_states_have_an_alphabet_of_their_own():
    wide = CellPlan(Direct.over(0, 7), None, (DigitPlan((), (16,)),))
    value = CellPlan(Direct.over(0, 7), None, (DigitPlan((), (16,)),))
    with pytest.raises(CorruptArchive, match="states"):
        column_code_from_json(ColumnCode(0, 0, 0, wide, value).to_json(), 1)


CLOCKED = st.one_of(
    st.integers(-200, 3000),
    st.integers(-(2**63) + 2**41, 2**63 - 1),
    st.builds(lambda b, d: (1 << b) + d, st.integers(0, 62), st.integers(-3, 3)),
)


@LAW
@given(st.lists(CLOCKED, max_size=30))
def test_minutes_are_a_bijection(values):
    hhmm = np.array(values, np.int64)
    minutes = to_minutes(hhmm)
    assert np.array_equal(from_minutes(minutes), hhmm)
    assert len(np.unique(minutes)) == len(np.unique(hhmm))


def test_clock_times_become_minutes_of_the_day():
    assert to_minutes(np.array([0, 59, 100, 1234, 2359, 2400])).tolist() == [0, 59, 60, 754, 1439, 1440]
    assert (to_minutes(np.array([60, 99, 1275])) < 0).all()
