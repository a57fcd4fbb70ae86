"""Texts that say a number: found on a sample, exact to the byte whatever the text, with the relations and periods that numbers have."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry import assert_kept, decoded, fitted, profiled, stored_again

from vae_core.coders.fields.places import FIXED, KEPT_ONE, STRIPPED, Written
from vae_core.columns import STATE_MISFIT, Codes, encode_column, plan_columns
from vae_core.columns.numerals import GROUPS, MOST_AFFIX, MOST_DIGITS, PLAIN, POINTS, NumberText, Signs, find_numerals, numerals_from_json
from vae_core.columns.texts import DigitText, body_of
from vae_core.errors import CorruptArchive
from vae_core.peers import of_texts
from vae_core.periods import DAY, HOUR, periods_of
from vae_core.shard import encode_shard

LAW = settings(deadline=None, max_examples=150)
WRITTEN = st.one_of(
    st.builds(lambda d, w, z: (Written(FIXED, d, w), min(d, z)), st.integers(0, 18), st.integers(0, 18), st.integers(0, 4)),
    st.builds(lambda how, d: (Written(how, d), 0), st.sampled_from([STRIPPED, KEPT_ONE]), st.integers(0, 18)),
)
SIGNS = st.one_of(st.just(PLAIN), st.builds(Signs, st.sampled_from(list(POINTS)), st.sampled_from(list(GROUPS)), st.booleans()))
AFFIX = st.sampled_from([b"", b"$", b"-", b"0", b"7.", "€ ".encode(), b"%", b" km", b"\xff", b"x" * MOST_AFFIX])
NUMBERLIKE = st.from_regex(r"\A-?[0-9]{0,20}\.?[0-9]{0,20}\Z")
CHARACTERS = st.text(st.sampled_from("0123456789.-+eE ,x٣'$"), max_size=28)


def way_of(written, before, behind, signs):
    """Any way there is to write numbers."""
    grouped = signs.group and (written[0].how != FIXED or signs.group == signs.point)
    first = signs.first and before[:1] not in (b"", b"-")
    return NumberText(before, behind, *written, Signs(signs.point, 0 if grouped else signs.group, first))


CELLS = st.one_of(st.none(), NUMBERLIKE, CHARACTERS, st.binary(max_size=30))


def found_in(texts):
    """How a sample of texts says numbers."""
    return find_numerals(body_of(pa.chunked_array([pa.array(texts)])))


def planned(column, name="x"):
    table = pa.table({name: column})
    return plan_columns(table.schema, profiled(table), table, {})[0]


@LAW
@given(WRITTEN, AFFIX, AFFIX, SIGNS, st.lists(st.integers(-(10**18) + 1, 10**18 - 1), max_size=12))
def test_every_number_is_a_text_and_that_text_is_the_number(written, before, behind, signs, numbers):
    way = way_of(written, before, behind, signs)
    most = 10 ** (MOST_DIGITS - way.zeros)
    values = np.array([n % most if n >= 0 else -(-n % most) for n in numbers], np.int64)
    texts = way.texts(values)
    found, fits = way.numbers(texts)
    assert fits.all() and found.tolist() == values.tolist()
    said = json.loads(json.dumps(way.to_json()))
    assert numerals_from_json(*(said[key] for key in "wbac" if key in said)) == way
    told = [text.decode("latin-1").removeprefix("-" * way.signs.first) for text in texts.to_pylist()]
    plain = [text[len(before) : len(text) - len(behind)] for text in told]
    if not way.signs.first and not way.zeros and not written[0].width:
        bare = [text.replace(chr(way.signs.group), "") if way.signs.group else text for text in plain]
        assert [Decimal(text.replace(chr(signs.point), ".")) * 10 ** written[0].decimals for text in bare] == values.tolist()


@LAW
@given(WRITTEN, AFFIX, AFFIX, SIGNS, st.lists(CELLS, max_size=20), st.booleans())
def test_any_texts_come_back_to_the_byte(written, before, behind, signs, texts, around):
    cells = [None if t is None else t.encode() if isinstance(t, str) else t for t in texts]
    if around:
        cells = [None if t is None else before + t + behind for t in cells]
    array, way = pa.array(cells, pa.large_binary()), way_of(written, before, behind, signs)
    codes = way.encode(array, 7)
    assert way.decode(codes, pa.large_binary()).equals(array)
    half = array.slice(len(array) // 2)
    assert way.decode(way.encode(half, 7), pa.large_binary()).equals(half)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1.50", 150), ("-0.01", -1), ("0.00", 0), ("12345678901234.56", 1234567890123456), ("9999999999999999.99", 10**18 - 1),
        ("-0.00", None), ("01.50", None), ("1.5", None), ("1.500", None), ("1", None), (".50", None), ("1.", None), ("+1.50", None),
        ("1,50", None), ("", None), ("-", None), ("--1.50", None), ("1.5-", None), ("1e2", None), ("NaN", None), (" 1.50", None),
        ("10000000000000000.00", None), ("1..50", None), ("00000000000000001.50", None), ("99999999999999999999", None),
    ],
)  # fmt: skip
def test_what_is_written_otherwise_is_no_number(text, code):
    codes = NumberText(b"", b"", Written(FIXED, 2)).encode(pa.array([text, "7.25"]), 3)
    assert codes.values.tolist() == [3 if code is None else code, 725]
    assert (codes.state is None) == (code is not None) and (codes.state is None or codes.state[0] == STATE_MISFIT)


def test_how_numbers_are_written_is_found_on_a_sample():
    rng = np.random.default_rng(0)
    cents = rng.integers(-5_000, 90_000, 700).tolist()
    stripped = [f"{c / 100:.2f}".rstrip("0").rstrip(".") for c in cents]
    assert found_in([f"{c / 100:.2f}" for c in cents]) == NumberText(b"", b"", Written(FIXED, 2))
    assert found_in(stripped) == NumberText(b"", b"", Written(STRIPPED, 2))
    assert found_in([repr(c / 100) for c in cents]) == NumberText(b"", b"", Written(KEPT_ONE, 2))
    assert found_in([f"${abs(c)}.000000 each" for c in cents]) == NumberText(b"$", b" each", Written(FIXED, 6), 6)
    assert found_in([str(c) for c in cents]) == NumberText(b"", b"", Written(FIXED, 0))
    assert found_in([f"rs-{abs(c)}" for c in cents]) == NumberText(b"rs-", b"", Written(FIXED, 0))
    assert found_in([f"{n:04d}" for n in range(100, 12_000, 11)]) == NumberText(b"", b"", Written(FIXED, 0, 4))
    odd = [*(f"{c}.123456789" for c in range(4)), "", "x", "1e9", "NA", "-"]
    assert found_in([*stripped[:-9], *odd]) == NumberText(b"", b"", Written(STRIPPED, 2))
    assert found_in(stripped[:60]) is None and found_in([]) is None
    assert found_in([f"{n:x}" for n in rng.integers(2**60, 2**61, 500).tolist()]) is None
    assert found_in([f"{a}.{b}.{a}" for a, b in rng.integers(0, 99, (500, 2)).tolist()]) is None
    assert found_in([f"{n}" for n in rng.integers(0, 2**63, 500).tolist()]) is None  # too many digits, most of them
    assert found_in(["word"] * 300) is None and found_in(["x" * (MOST_AFFIX + 1) + str(c) for c in cents]) is None
    dollars = found_in([f"{'-' * (c < 0)}${abs(c) * 10 / 100:,.2f}" for c in cents])
    assert dollars == NumberText(b"$", b"", Written(FIXED, 2), 1, Signs(ord("."), ord(","), first=True))
    assert found_in([f"{c:,}" for c in cents]) == NumberText(b"", b"", Written(FIXED, 0), 0, Signs(group=ord(",")))
    assert found_in([f"{c * 999:,}".replace(",", " ") for c in cents]) == NumberText(b"", b"", Written(FIXED, 0), 0, Signs(group=ord(" ")))
    assert found_in([f"{c / 1000:.3f}".replace(".", ",") for c in cents]) == NumberText(b"", b"", Written(FIXED, 3), 0, Signs(ord(",")))
    assert found_in([text.replace(".", ",") for text in stripped]) == NumberText(b"", b"", Written(STRIPPED, 2), 0, Signs(ord(",")))
    german = [f"{c / 9:,.2f} €".translate(str.maketrans(",.", ".,")) for c in cents]
    assert found_in(german) == NumberText(b"", " €".encode(), Written(FIXED, 2), 0, Signs(ord(","), ord(".")))
    assert found_in([f"{'--' if k % 100 else '-'}port={k}" for k in range(2_000)]) == NumberText(b"--port=", b"", Written(FIXED, 0))
    for text in ("{k}.5" + "0" * 38, "{k}.5" + "0" * 20, "--{k}", "---{k}", "- {k}", "-{k}", "-$-{k}", "{k}" + "0" * 30):
        found = found_in([text.format(k=k - (k % 90 == 1)) for k in range(1, 900)])
        if found is not None:
            said = found.to_json()
            assert numerals_from_json(*(said[key] for key in "wbac" if key in said)) == found
    # one text that recurs may stand for much; several may not, as which of them it is would be told by nothing
    assert found_in([text if k % 3 else "NA" for k, text in enumerate(stripped)]) is not None
    assert found_in([text if k % 3 else "NA" if k % 100 else "?" for k, text in enumerate(stripped)]) is not None
    assert found_in([text if k % 3 else ("NA", "?")[k % 2] for k, text in enumerate(stripped)]) is None
    assert found_in([text if k % 3 else f"none {k}a" for k, text in enumerate(stripped)]) is None
    assert found_in([f"{v:06d}" for v in range(99_300, 139_300)]) == NumberText(b"", b"", Written(FIXED, 0, 6))


@pytest.mark.parametrize(
    ("written", "before", "behind"),
    [
        ([0, 0, 0, 0], [], []), ([4, 0, 0, 0], [], []), ([1, 19, 0, 0], [], []), ([1, 2, 19, 0], [], []), ([1, 2, 0, 3], [], []),
        ([2, 2, 0, 1], [], []), ([2, 2, 4, 0], [], []), ([1, -1, 0, 0], [], []), ([1, 2, 0], [], []), ([1, 2, 0, 0], [256], []),
        ([1, 2, 0, 0], [], [-1]), ([1, 2.0, 0, 0], [], []), ([1, 2, 0, 0], [48] * 25, []), ([1, 2, 0, 0], "ab", []),
        ([1, 2, 0, 0], [True], []), (None, [], []), ([1, 2, 0, -1], [], []), ([True, 2, 0, 0], [], []), ([1, 2, False, 0], [], []),
    ],
)  # fmt: skip
def test_hostile_ways_of_writing_are_refused(written, before, behind):
    with pytest.raises(CorruptArchive, match="says numbers as"):
        numerals_from_json(written, before, behind)


@pytest.mark.parametrize(
    ("how", "signs"),
    [(1, [46, 46, 0]), (1, [48, 0, 0]), (1, [46, 45, 0]), (1, [46, 44]), (1, [46, 44, 2]), (1, None), (2, [46, 44, 0]), (1, [46, 0, True]),
     (1, [46, 0, 1])],
)  # fmt: skip
def test_hostile_signs_are_refused(how, signs):
    with pytest.raises(CorruptArchive, match="says numbers as"):
        numerals_from_json([how, 2, 0, 0], [], [], signs)


@pytest.mark.parametrize("code", [10**15, -(10**15), 2**63 - 1, -(2**63)])
def test_codes_of_too_many_digits_are_refused(code):
    way = NumberText(b"a", b"", Written(FIXED, 4), 3)
    with pytest.raises(CorruptArchive, match="no number of 15 digits"):
        way.decode(Codes(np.array([0, code])), pa.string())
    assert way.texts(np.array([10**15 - 1])).to_pylist() == [b"a99999999999999.9000"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_texts_that_say_numbers_are_learned_beside_each_other_and_come_back(kind):
    rng = np.random.default_rng(3)
    n = 6_000
    level = np.cumsum(rng.integers(-30, 31, n)) + 2_000
    unit, number = rng.integers(100, 900, n), rng.integers(1, 40, n)
    texts = {
        "level": [f"{v / 10:.1f}" if k % 50 else "nil" for k, v in enumerate(level.tolist())],
        "again": [f"~{v} mm" for v in (3 * level).tolist()],
        "unit": [f"€{v / 100:.2f}" for v in unit.tolist()],
        "total": [f"€{v / 100:.2f}" for v in (unit * number).tolist()],
        "number": number.tolist(),
    }
    table = pa.table({name: pa.array(t, kind if name != "number" else pa.int64()) for name, t in texts.items()})
    table = table.set_column(0, "level", pa.array([None if k % 777 == 5 else t for k, t in enumerate(texts["level"])], kind))
    plans = plan_columns(table.schema, profiled(table), table, {})
    assert [isinstance(plan.transform, NumberText) for plan in plans] == [True, True, True, True, False]
    assert all(plan.kind == "numeric" and plan.is_lossless and not plan.is_measured for plan in plans[:4])
    model = fitted(table, [], preview="off", seconds=10).model
    shard = encode_shard(model, table)
    assert_kept(table, decoded(stored_again(model), shard))
    taken = {outcome.name: outcome.n_bytes for outcome in shard.outcomes}
    assert taken["again"] < 20 or taken["level"] < 600, taken  # but for the texts that are not there
    assert min(taken["unit"], taken["total"], taken["number"]) < 100, taken


def test_few_texts_and_names_stay_categories():
    rng = np.random.default_rng(5)
    n = 8_000
    assert planned(pa.array([str(v) for v in rng.integers(0, 9, n)])).kind == "categorical"
    assert planned(pa.array([f"team {v}" for v in rng.integers(0, 200, n)])).kind == "categorical"
    assert planned(pa.array([f"{v}" for v in (rng.integers(0, 300, n) * 7919 % 10**6)])).kind == "categorical"  # sparse
    dense = planned(pa.array([f"{v} %" for v in rng.integers(-200, 300, n)]))
    assert isinstance(dense.transform, NumberText) and dense.kind == "numeric"
    dates = np.datetime64("2021-03-01") + rng.integers(0, 700, n)
    found = planned(pa.array([str(day) for day in dates]))
    assert isinstance(found.transform, DigitText) and found.transform.order == "YMD"


def test_zeros_in_front_that_are_too_few_to_see_are_digits_where_all_texts_have_one_length():
    rng = np.random.default_rng(11)
    texts = [f"{v:08d}" for v in rng.integers(0, 10**8, 3_000)]
    rare = [text if k % 40 else f"0{text[1:]}" for k, text in enumerate(t.replace("0", "1") for t in texts)]
    for column in (texts, rare, [*rare, *["00000007"] * 3]):
        assert encode_column(planned(pa.array(column)), pa.array(column)).state is None


def test_words_that_recur_stay_keys_where_numbers_would_be_too_many_to_be_one():
    rng = np.random.default_rng(12)
    codes = rng.choice(80_000, 2_000, replace=False)[np.minimum(rng.zipf(1.2, 20_000) - 1, 1_999)]
    assert planned(pa.array([str(code) for code in codes])).kind == "categorical"
    assert planned(pa.array([str(code % 60_000) for code in codes])).kind == "categorical"  # names of goods, for all one knows
    assert isinstance(planned(pa.array([str(code % 3_000) for code in codes])).transform, NumberText)
    walk = 20_000 + 25 * np.cumsum(rng.integers(-3, 4, 20_000))
    assert isinstance(planned(pa.array([f"{level} m" for level in walk])).transform, NumberText)  # from row to row in small steps
    assert planned(pa.array([f"{level} m" for level in rng.permutation(walk)])).kind == "categorical"
    shops = np.sort(rng.choice(9_000, 300, replace=False))
    assert planned(pa.array([str(shop) for shop in np.repeat(rng.permutation(shops), 60)])).kind == "categorical"  # in order, but by name


def test_texts_of_extension_types_are_numbers_and_come_back():
    texts = [f"{k:06d}" for k in range(3_000)]
    array = pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts))
    table = pa.table({"x": array, "y": pa.ExtensionArray.from_storage(pa.json_(), pa.array([f"{k % 700 / 4}" for k in range(3_000)]))})
    assert all(isinstance(plan.transform, NumberText) for plan in plan_columns(table.schema, profiled(table), table, {}))
    model = fitted(table, [], preview="off", seconds=10).model
    assert_kept(table, decoded(stored_again(model), encode_shard(model, table)))


def test_bytes_that_are_no_text_are_refused_where_texts_are_asked_for():
    way = NumberText(b"\xff", b"", Written(FIXED, 0))
    assert way.decode(Codes(np.array([1])), pa.binary()).to_pylist() == [b"\xff1"]
    with pytest.raises(CorruptArchive, match="no text"):
        way.decode(Codes(np.array([1])), pa.string())
    state = np.array([0, STATE_MISFIT], np.uint8)
    with pytest.raises(CorruptArchive, match="1 texts of another pattern"):
        way.decode(Codes(np.array([1, 1]), state, pa.array([None], pa.binary())), pa.binary())


def test_files_with_longer_numbers_than_the_sample_are_no_misfits():
    plan = planned(pa.array([str(n) for n in range(1_000, 9_999)]))
    later = pa.array([str(n) for n in (7, 9_999, 10_000, 123_456_789, -4)])
    assert isinstance(plan.transform, NumberText) and encode_column(plan, later).state is None


def test_times_since_1970_have_periods_in_texts_and_in_floats():
    rng = np.random.default_rng(7)
    seconds = np.sort(rng.integers(1_700_000_000, 1_700_000_000 + 30 * DAY, 4_000))
    for column, unit in [
        (pa.array([str(s) for s in seconds]), 1),
        (pa.array([f"{s}.{k:03d}" for s, k in zip(seconds, rng.integers(0, 1000, 4_000), strict=True)]), 1_000),
        (pa.array(seconds + rng.integers(0, 1000, 4_000) / 1000), 1_000),
        (pa.array([str(1000 * s + 7) for s in seconds]), 1_000),
    ]:
        assert {HOUR * unit, DAY * unit} <= {period.length for period in periods_of(planned(column))}
    assert not periods_of(planned(pa.array(rng.integers(600_000_000, 900_000_000, 4_000) / 10**7)))  # degrees
    assert not periods_of(planned(pa.array([str(v) for v in rng.integers(0, 10**6, 4_000)])))


def test_what_is_reported_of_texts_counts_a_dictionary_where_they_recur():
    rng = np.random.default_rng(9)
    steps = np.cumsum(rng.integers(-2, 3, 30_000)) % 2_000
    array = pa.array([f"{v}.5" for v in steps])
    plan = planned(array)
    assert isinstance(plan.transform, NumberText)
    alone = pa.array([f"{v}.5" for v in rng.permutation(30_000)])
    assert of_texts(plan, array) < 0.7 * of_texts(plan, alone)
    table = pa.table({"x": array})
    model = fitted(table, [], preview="off", seconds=10).model
    assert encode_shard(model, table).outcomes[0].conventional_bytes == of_texts(model.columns[0], array)


def test_times_of_the_day_are_what_passed_since_midnight():
    texts = ["00:00:00", "23:59:59", "07:05:09"] * 40
    plan = planned(pa.array([*texts, *(f"{h:02d}:{m:02d}:{s:02d}" for h in range(24) for m in (0, 17, 44) for s in range(0, 60, 7))]))
    assert isinstance(plan.transform, DigitText) and plan.transform.order == "T"
    codes = encode_column(plan, pa.array(["00:00:00", "07:05:09", "23:59:59", "24:00:00", "12:60:00", "12:00:60", "7:05:09", "07.05.09"]))
    assert codes.state is not None and codes.state.tolist() == [0, 0, 0, *[STATE_MISFIT] * 5]
    assert codes.values[:3].tolist() == [0, 7 * 3600 + 5 * 60 + 9, 86_399]
    for code in (-1, 86_400):
        with pytest.raises(CorruptArchive, match="time of the day"):
            plan.transform.decode(Codes(np.array([5, code])), pa.string())
    minutes = planned(pa.array([f"{k // 60 % 24:02d}:{k % 60:02d}" for k in range(3_000)]))
    assert isinstance(minutes.transform, DigitText) and minutes.transform.order == "T"
    for share in (2, 90):  # of a hundred laps, in minutes and seconds: those that take longer than a day has hours
        laps = planned(pa.array([f"{(30 if k % 100 < share else 3):02d}:{k % 60:02d}" for k in range(9_000)]))
        assert laps.kind == "categorical" or (isinstance(laps.transform, DigitText) and not laps.transform.order)
