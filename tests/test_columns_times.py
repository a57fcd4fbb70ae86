"""Texts that are times: told from numbers on a sample, to the tick and back, with the periods that a time has."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, profiled, stored_again

from vae_core.columns import STATE_MISFIT, Codes, encode_column, plan_columns
from vae_core.columns.calendar import FIRST_DAY, LAST_DAY, LENGTHS, ORDERS, Calendar
from vae_core.columns.texts import DIGIT, DigitText, body_of, find_pattern, pattern_from_json
from vae_core.errors import CorruptArchive
from vae_core.periods import DAY, periods_of
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=100)
EPOCH = dt.datetime(1970, 1, 1)
WRITTEN = {"YMD": "%Y-%m-%d", "MDY": "%m/%d/%Y", "DMY": "%d.%m.%Y"}
OF_DAY = {8: "", 10: " %H", 12: " %H:%M", 14: "T%H:%M:%SZ", 17: " %H:%M:%S.%f", 20: " %H:%M:%S.%f"}


def text_of(when: dt.datetime, order: str, n_digits: int) -> str:
    text = when.strftime(WRITTEN[order].replace("%Y", f"{when.year:04d}") + OF_DAY[n_digits])
    return text[:-3] if n_digits == 17 else text


def pattern_of(text: str) -> tuple[int, ...]:
    return tuple(DIGIT if c.isdigit() else ord(c) for c in text)


def found_in(texts):
    """The pattern of a sample of texts."""
    return find_pattern(body_of(pa.chunked_array([pa.array(texts, pa.string())])))


@LAW
@given(st.sampled_from(sorted(WRITTEN)), st.sampled_from(sorted(OF_DAY)), st.lists(st.datetimes(), min_size=1, max_size=9), st.data())
def test_a_time_is_its_ticks_since_1970_and_every_text_comes_back(order, n_digits, times, data):
    texts = [text_of(when, order, n_digits) for when in times]
    odd = data.draw(st.lists(st.sampled_from([None, "", texts[0][:-1], texts[0].replace(texts[0][0], "x"), texts[0] + "0"]), max_size=3))
    made = json.loads(json.dumps(DigitText(pattern_of(texts[0]), order).to_json()))
    way = pattern_from_json(made["p"], made["c"])
    array = pa.array([*texts, *odd])
    codes = way.encode(array, 5)
    assert way.decode(codes, pa.string()).equals(array)
    unit = {8: 86_400 * 10**6, 10: 3600 * 10**6, 12: 60 * 10**6, 14: 10**6, 17: 10**3, 20: 1}[n_digits]
    assert codes.values[: len(times)].tolist() == [(when - EPOCH) // dt.timedelta(microseconds=1) // unit for when in times]
    assert codes.values[len(times) :].tolist() == [5] * len(odd)
    assert Calendar(order, n_digits).ticks_of_day * unit == DAY * 10**6


@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29 10:00:00", "1900-02-29 10:00:00", "2024-13-01 10:00:00", "2024-00-01 10:00:00", "2024-01-00 10:00:00",
        "2024-04-31 10:00:00", "2024-01-01 24:00:00", "2024-01-01 10:60:00", "2016-12-31 23:59:60", "2024-01-01T10:00:00",
    ],
)  # fmt: skip
def test_what_is_no_time_is_kept_beside_those_that_are(text):
    way = DigitText(pattern_of("2024-01-01 10:00:00"), "YMD")
    array = pa.array(["2024-02-29 23:59:59", text, "0000-01-01 00:00:00", "9999-12-31 23:59:59"])
    codes = way.encode(array, 0)
    assert codes.state is not None and codes.state.tolist() == [0, STATE_MISFIT, 0, 0]
    assert codes.values[2] == FIRST_DAY * DAY and codes.values[3] == LAST_DAY * DAY + DAY - 1
    assert way.decode(codes, pa.string()).equals(array)


def test_nanoseconds_beyond_64_bits_are_kept_beside_the_others():
    way = DigitText(pattern_of("2024-01-01 10:00:00.123456789"), "YMD")
    array = pa.array(["2024-01-01 10:00:00.123456789", "1500-01-01 10:00:00.123456789", "2262-04-09 00:00:00.000000001"])
    codes = way.encode(array, 0)
    assert codes.state is not None and codes.state.tolist() == [0, STATE_MISFIT, 0]
    assert way.decode(codes, pa.string()).equals(array)


def test_codes_beyond_years_of_four_digits_are_refused():
    for n_digits in (8, 14):
        way = DigitText((DIGIT,) * n_digits, "YMD")
        per_day = Calendar("YMD", n_digits).ticks_of_day
        for code in (FIRST_DAY * per_day - 1, (LAST_DAY + 1) * per_day, -(2**63), 2**63 - 1):
            with pytest.raises(CorruptArchive, match="year of four digits"):
                way.decode(Codes(np.array([0, code])), pa.string())


@pytest.mark.parametrize(
    ("n_digits", "order"), [(9, "YMD"), (11, "YMD"), (13, "DMY"), (24, "YMD"), (8, "YDM"), (8, 7), (8, None), (19, ""), (8, ["YMD"])]
)
def test_hostile_times_are_refused(n_digits, order):
    with pytest.raises(CorruptArchive, match="pattern"):
        pattern_from_json([DIGIT] * n_digits, order)


def test_every_length_says_which_numbers_it_has():
    assert [Calendar("YMD", n).widths for n in LENGTHS[:6]] == [
        (4, 2, 2), (4, 2, 2, 2), (4, 2, 2, 2, 2), (4, 2, 2, 2, 2, 2), (4, 2, 2, 2, 2, 2, 1), (4, 2, 2, 2, 2, 2, 2),
    ]  # fmt: skip
    for order in ORDERS:
        assert all(sum(Calendar(order, n).widths) == n for n in LENGTHS)


def test_times_are_told_from_numbers_on_a_sample():
    rng = np.random.default_rng(0)
    times = [EPOCH + dt.timedelta(seconds=int(s)) for s in rng.integers(10**9, 17 * 10**8, 500)]
    for order in WRITTEN:
        for n_digits in OF_DAY:
            found = found_in([text_of(when, order, n_digits) for when in times])
            assert found is not None and found.order == order and found.n_digits == n_digits
    compact = found_in([when.strftime("%Y%m%dT%H%M%S") for when in times])
    assert compact is not None and compact.order == "YMD"
    numbers = found_in([f"{n:08d}" for n in rng.integers(0, 10**8, 500)])
    assert numbers == DigitText((DIGIT,) * 8)
    early = [when.replace(day=when.day % 12 + 1) for when in times]  # which number is the month nobody can tell
    for order in ("MDY", "DMY"):
        found = found_in([text_of(when, order, 12) for when in early])
        assert found is not None and not found.order
    counted = found_in([f"20240105-{n:04d}" for n in rng.integers(0, 60, 500)])
    assert counted is not None and not counted.order
    orders = found_in([f"20240105-{n:06d}" for n in rng.integers(0, 10**6, 500)])
    assert orders is not None and not orders.order


def test_texts_that_are_times_have_the_periods_of_times_and_follow_from_one():
    rng = np.random.default_rng(1)
    n = 20_000
    when = rng.integers(1_700_000_000, 1_720_000_000, n)
    stamps = pa.array(when, pa.timestamp("s"))
    table = pa.table({
        "at": stamps, "text": [(EPOCH + dt.timedelta(seconds=int(s))).strftime("%m/%d/%Y %H:%M:%S") for s in when],
        "kind": pa.array((when // 3600 % 24 // 2).astype(np.int8)),
    })  # fmt: skip
    plans = plan_columns(table.schema, profiled(table), table, {})
    assert periods_of(plans[0]) == periods_of(plans[1]) != ()
    assert np.array_equal(encode_column(plans[0], table.column(0)).values, encode_column(plans[1], table.column(1)).values)
    model = fitted(table, [], preview="off", seconds=10).model
    shard = encode_shard(model, table)
    assert_kept(table, decoded(stored_again(model), shard))
    taken = {o.name: o.n_bytes for o in shard.outcomes}
    assert min(taken["at"], taken["text"]) < 20 and taken["kind"] < 200, taken
    alone = fitted(table.select(["text", "kind"]), [], preview="off", seconds=10).model
    taken = {o.name: o.n_bytes for o in encode_shard(alone, table.select(["text", "kind"])).outcomes}
    assert taken["kind"] < 200, taken
