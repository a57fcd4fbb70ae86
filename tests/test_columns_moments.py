"""Texts that are times as people write them: found on a sample, exact to the byte, with the relations and periods of times."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, profiled, stored_again

from vae_core.columns import STATE_MISFIT, Codes, plan_columns
from vae_core.columns.texts import body_of
from vae_core.columns.times import MOST_BYTES, TimeText, find_times, times_from_json
from vae_core.errors import CorruptArchive
from vae_core.periods import DAY, WEEK, periods_of
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=150)
EPOCH = dt.datetime(1970, 1, 1)
FORMATS = [
    "%-m/%-d/%Y %-H:%M", "%m/%d/%Y %I:%M:%S %p", "%d/%b/%Y:%H:%M:%S +0000", "%-d.%-m.%Y", "%a, %d %b %Y %H:%M:%S GMT", "%b %-d, %Y",
    "%-m/%-d/%y %-I:%M%P", "%Y-%^b-%d %H", "%d%b%Y", "%-d-%^b-%y %-I %p", "%Y/%m/%d %H:%M:%S,%3f", "100%% %-H:%M", "%-I:%M:%S.%6f %p",
    "%H:%M %d.%m.%Y", "été %-d %b %Y", "%-m/%-d/%Y, %-I:%M:%S\u202f%p",
]  # fmt: skip
TOLD_BY_TWO_DIGITS = dt.datetime(1969, 1, 1), dt.datetime(2068, 12, 31)
CELLS = st.one_of(st.none(), st.binary(max_size=40), st.text(st.sampled_from("0123456789/:.- APMJanFeb"), max_size=30))


def written(when: dt.datetime, said: str) -> str:
    """A time as the C library writes it, in English."""
    month, day = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * when.month - 3 :][:3], "MonTueWedThuFriSatSun"[3 * when.weekday() :][:3]
    half = "PM" if when.hour >= 12 else "AM"
    parts = {
        "%-m": when.month, "%-d": when.day, "%-H": when.hour, "%-I": (when.hour + 11) % 12 + 1, "%I": f"{(when.hour + 11) % 12 + 1:02d}",
        "%^b": month.upper(), "%b": month, "%a": day, "%p": half, "%P": half.lower(), "%Y": f"{when.year:04d}",
        "%y": f"{when.year % 100:02d}", "%m": f"{when.month:02d}", "%d": f"{when.day:02d}", "%H": f"{when.hour:02d}",
        "%M": f"{when.minute:02d}", "%S": f"{when.second:02d}", "%3f": f"{when.microsecond // 1000:03d}", "%6f": f"{when.microsecond:06d}",
        "%%": "%",
    }  # fmt: skip
    for name, part in parts.items():
        said = said.replace(name, str(part))
    return said


def unit_of(said: str) -> int:
    """Microseconds of the last part."""
    for part, unit in (("%6f", 1), ("%3f", 10**3), ("%S", 10**6), ("%M", 60 * 10**6), ("H", 3600 * 10**6), ("%-I", 3600 * 10**6)):
        if part in said:
            return unit
    return DAY * 10**6


def found_in(texts):
    return find_times(body_of(pa.chunked_array([pa.array(texts, pa.string())])))


def planned(column):
    table = pa.table({"x": column})
    return plan_columns(table.schema, profiled(table), table, {})[0]


def times_of(n: int, seed: int = 0) -> list[dt.datetime]:
    rng = np.random.default_rng(seed)
    return [EPOCH + dt.timedelta(microseconds=int(tick)) for tick in rng.integers(946 * 10**12, 17 * 10**14, n)]


@LAW
@given(st.sampled_from(FORMATS), st.lists(st.datetimes(*TOLD_BY_TWO_DIGITS), min_size=1, max_size=9), st.data())
def test_a_time_is_what_passed_since_1970_and_every_text_comes_back(said, times, data):
    texts = [written(when, said) for when in times]
    text = texts[0]
    scars = [text[:-1], text + "0", text.replace("1", "x"), text.lower(), text.replace("0", ""), "0" + text, "é", ""]
    odd = data.draw(st.lists(st.sampled_from([None, *scars]), max_size=4))
    way = times_from_json(json.loads(json.dumps(TimeText(said).to_json()))["f"])
    array = pa.array([*texts, *odd])
    codes = way.encode(array, 5)
    assert way.decode(codes, pa.string()).equals(array)
    assert codes.state is None or not codes.state[: len(texts)].any()
    passed = [(when - EPOCH) // dt.timedelta(microseconds=1) // unit_of(said) for when in times]
    if "%d" not in said and "%-d" not in said:
        passed = [ticks % (DAY * 10**6 // unit_of(said)) for ticks in passed]
    assert codes.values[: len(times)].tolist() == passed


@LAW
@given(st.sampled_from(FORMATS), st.lists(CELLS, max_size=20))
def test_any_bytes_come_back(said, cells):
    array = pa.array([cell.encode() if isinstance(cell, str) else cell for cell in cells], pa.large_binary())
    way = TimeText(said)
    assert way.decode(way.encode(array, 3), pa.large_binary()).equals(array)
    assert way.decode(way.encode(array.slice(len(array) // 2), 3), pa.large_binary()).equals(array.slice(len(array) // 2))


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        ("%-m/%-d/%Y %-I:%M %p", ["2/29/2023 1:00 AM", "13/1/2024 1:00 AM", "02/1/2024 1:00 AM", "2/1/2024 13:00 PM", "2/1/2024 0:00 AM",
                                  "2/1/2024 1:60 AM", "2/1/2024 1:00 am", "2/1/2024 1:00 XM", "2/1/2024 1:00", "2/1/24 1:00 AM",
                                  "2/001/2024 1:00 AM"]),
        ("%a %d-%b-%y", ["Tue 01-Jan-24", "Mon 01-JAN-24", "Mon 32-Jan-24", "Mon 01-Jqn-24", "mon 01-Jan-24", "Mon 1-Jan-24"]),
        ("%H:%M %d.%m.%Y", ["24:00 01.01.2024", "23:60 01.01.2024", "23:59 00.01.2024", "23:59 31.04.2024", "23:59 01.01.+024"]),
    ],
)  # fmt: skip
def test_what_is_no_time_or_written_otherwise_is_kept_beside_the_others(said, texts):
    good = written(dt.datetime(2024, 1, 1, 1, 5), said)
    array = pa.array([good, *texts])
    codes = TimeText(said).encode(array, 0)
    assert codes.state is not None and codes.state.tolist() == [0, *[STATE_MISFIT] * len(texts)]
    assert TimeText(said).decode(codes, pa.string()).equals(array)


@pytest.mark.parametrize(
    "said",
    [
        "", "%", "%q", "plain", "%Y", "%Y-%m", "%Y-%m-%d %d", "%Y-%m-%d %M", "%Y-%m-%d %H:%S", "%Y-%m-%d %I", "%Y-%m-%d %H %p", "%H",
        "%M:%S",
        "%I:%M %p %P", "%a %H:%M", "%Y-%y-%m-%d", "%b %m %d %Y", "%Y-%m-%d %H:%M:%3f", "%Y-%m-%d %H:%M:%S %0f", "%-Y-%m-%d", "%Y-%m-%d%",
        "é" * (MOST_BYTES // 2) + "%Y-%m-%d", "\ud800%Y-%m-%d", 7, None, ["%Y-%m-%d"], "%Y-%m-%d %H %-H", "%Y-%m-%d %a %a",
    ],
)  # fmt: skip
def test_hostile_formats_are_refused(said):
    with pytest.raises(CorruptArchive, match="format of times"):
        times_from_json(said)


def test_codes_that_no_text_says_are_refused():
    for said, codes, message in [
        ("%-d.%-m.%Y", (-719_529, 2_932_897, 2**63 - 1, -(2**63)), "year of four digits"),
        ("%-d.%-m.%y", (-366, 36_160, -719_528), "two digits tell"),
        ("%-I:%M %p", (-1, 1440, 2**63 - 1), "time of the day"),
    ]:
        for code in codes:
            with pytest.raises(CorruptArchive, match=message):
                TimeText(said).decode(Codes(np.array([0, code])), pa.string())
    assert TimeText("%-d.%-m.%y").texts(np.array([-365, 36_159])).to_pylist() == [b"1.1.69", b"31.12.68"]


def test_formats_are_found_on_a_sample():
    times = times_of(900)
    for said in FORMATS:
        if said.startswith("100"):
            continue  # digits that are always there, before a time
        assert found_in([written(when, said) for when in times]) == TimeText(said), said
    assert found_in([f"{k % 24}:{k % 60:02d}" if k % 90 else "30:00" for k in range(900)]) is None  # no time of the day: how long it took
    american = [written(when, "%-m/%-d/%Y %-H:%M") for when in times]
    assert found_in([*american[:-9], "", "NA", None, "x", "1/2/2020", "5", "n/a", "-", "?"]) == TimeText("%-m/%-d/%Y %-H:%M")
    assert found_in(american[:60]) is None and found_in([]) is None
    early = [when.replace(day=when.day % 12 + 1) for when in times]  # which number is the month nobody can tell
    assert found_in([written(when, "%-m/%-d/%Y") for when in early]) is None
    for other in (
        "{k4}.{k19}.{k7}.{k5}", "{k}:{k4}", "v{k12}.{k}", "{k12}/{k28}/{k}", "mar {k12}", "Jan {k}", "{k28}-May-2024 and Jun {k}",
        "٣/٣/٢٠٢٤", "{k}" * 90,
    ):  # fmt: skip
        texts = [other.format(k=k, **{f"k{n}": k % n + 1 for n in (4, 5, 7, 12, 19, 28)}) for k in range(900)]
        assert found_in(texts) is None, texts[:3]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_binary()])
def test_times_follow_from_each_other_and_tell_the_hour(kind):
    rng = np.random.default_rng(2)
    n = 12_000
    start = 1_600_000_000 + np.cumsum(rng.integers(1, 400, n))
    took = rng.integers(60, 4_000, n)
    began, ended = ([EPOCH + dt.timedelta(seconds=int(s)) for s in at] for at in (start, start + took))
    table = pa.table({
        "began": pa.array([written(when, "%m/%d/%Y %I:%M:%S %p") for when in began], kind),
        "ended": pa.array([None if k % 500 == 7 else written(when, "%-d-%b-%Y %-H:%M:%S") for k, when in enumerate(ended)], kind),
        "took": took, "shift": (start // 3600 % 24 // 8).astype(np.int8),
    })  # fmt: skip
    plans = plan_columns(table.schema, profiled(table), table, {})
    assert [type(plan.transform) for plan in plans[:2]] == [TimeText, TimeText]
    assert {DAY, WEEK} <= {period.length for period in periods_of(plans[0])} and periods_of(plans[0]) == periods_of(plans[1])
    model = fitted(table, [], preview="off", seconds=10).model
    shard = encode_shard(model, table)
    assert_kept(table, decoded(stored_again(model), shard))
    taken = {outcome.name: outcome.n_bytes for outcome in shard.outcomes}
    assert min(taken["began"], taken["ended"], taken["took"]) < 150 and taken["shift"] < 200, taken


def test_days_that_recur_are_days_and_a_few_are_words():
    rng = np.random.default_rng(4)
    days = [EPOCH + dt.timedelta(days=int(day)) for day in rng.integers(18_000, 19_000, 9_000)]
    assert isinstance(planned(pa.array([written(day, "%-m/%-d/%Y") for day in days])).transform, TimeText)
    few = [EPOCH + dt.timedelta(days=18_000 + int(day)) for day in rng.integers(0, 20, 9_000)]
    assert planned(pa.array([written(day, "%b %-d, %Y") for day in few])).kind == "categorical"
