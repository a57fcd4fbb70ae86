from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_core.columns import TableProfile
from vae_core.errors import UsageError
from vae_core.tolerance import LOSSLESS, Tolerance, parse_tolerances, resolve, short_below

SCHEMA = pa.schema(
    [
        ("temp", pa.float64()),
        ("n", pa.int64()),
        ("s", pa.string()),
        ("image", pa.list_(pa.float32(), 4)),
        ("pixels", pa.list_(pa.uint8(), 4)),
        ("a=b", pa.float32()),
        ("when", pa.timestamp("s")),
    ]
)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("0.05", "absolute", 0.05),
        (" 1% ", "relative", 0.01),
        ("0.1%", "relative", 0.001),
        ("rmse:0.02", "rmse", 0.02),
        ("rmse:3%", "rmse_relative", 0.03),
        ("psnr:30", "psnr", 30.0),
        ("0", "lossless", 0.0),
        ("lossless", "lossless", 0.0),
        ("1e-3", "absolute", 0.001),
    ],
)
def test_a_spec_is_read_as_written(text, kind, value):
    assert Tolerance.parse(text) == Tolerance(kind, value)


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1%%", "%", "psnr:", "psnr:0", "psnr:3%", "ssim:1", "rmse:x", "1_0", "5 m"])
def test_nonsense_is_refused_and_quoted(text):
    with pytest.raises(UsageError) as error:
        Tolerance.parse(text)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_star_means_every_float_column_and_a_named_column_beats_it_in_any_order():
    for specs in (["*=1%", "temp=0.5"], ["temp=0.5", "*=1%"]):
        found = parse_tolerances(specs, SCHEMA)
        assert found == {
            "temp": Tolerance("absolute", 0.5),
            "image": Tolerance("relative", 0.01),
            "a=b": Tolerance("relative", 0.01),
        }


def test_integers_and_timestamps_take_a_tolerance_only_when_named():
    assert set(parse_tolerances(["n=3", "when=60", "pixels=psnr:30"], SCHEMA)) == {"n", "when", "pixels"}


def test_a_name_may_hold_an_equals_sign():
    assert parse_tolerances(["a=b=0.5"], SCHEMA) == {"a=b": Tolerance("absolute", 0.5)}


@pytest.mark.parametrize("spec", ["nosuch=1%", "s=1%", "temp", "temp=warm"])
def test_what_cannot_be_meant_is_refused_by_name(spec):
    with pytest.raises(UsageError) as error:
        parse_tolerances([spec], SCHEMA)
    assert spec.partition("=")[0] in str(error.value)


def test_a_text_column_may_be_asked_to_stay_lossless():
    assert parse_tolerances(["s=lossless"], SCHEMA) == {"s": LOSSLESS}


def test_fractions_become_units_of_the_column_by_its_finite_range():
    table = pa.table({"x": [1.0, 5.0, None, float("nan"), float("inf")], "n": pa.array([1, 2, 3, 4, 101], pa.uint8())})
    profile = TableProfile(table.schema)
    profile.update(table)
    profile.finish()
    x, n = profile.columns["x"], profile.columns["n"]
    assert resolve(Tolerance("relative", 0.01), x) == Tolerance("absolute", 0.04)
    assert resolve(Tolerance("rmse_relative", 0.5), x) == Tolerance("rmse", 2.0)
    assert resolve(Tolerance("psnr", 20.0), x) == Tolerance("rmse", 0.4)
    assert resolve(Tolerance("psnr", 20.0), n) == Tolerance("rmse", 25.5)
    assert resolve(Tolerance("absolute", 2.0), x) == Tolerance("absolute", 2.0)


def test_a_constant_column_is_lossless_at_any_fraction_of_its_range():
    table = pa.table({"x": [2.5, 2.5], "e": pa.array([None, None], pa.float32())})
    profile = TableProfile(table.schema)
    profile.update(table)
    profile.finish()
    for column in profile.columns.values():
        assert resolve(Tolerance("relative", 0.1), column) == LOSSLESS


def test_a_range_beyond_float64_still_resolves():
    table = pa.table({"x": [-1.7e308, 1.7e308]})
    profile = TableProfile(table.schema)
    profile.update(table)
    assert 0 < resolve(Tolerance("relative", 0.01), profile.finish().columns["x"]).value < 1e308


def test_a_tolerance_survives_json():
    for tolerance in (LOSSLESS, Tolerance("psnr", 30.0), Tolerance("relative", 0.001)):
        assert Tolerance.from_json(tolerance.to_json()) == tolerance


@given(st.floats(5e-324, 1e308), st.integers(2, 9))
def test_a_short_number_is_just_below(value, n_digits):
    short = short_below(value, n_digits)
    assert 0 < short <= value
    assert short >= value * (1 - 10.0 ** (1 - n_digits)) or value < 1e-300
    assert float(f"{short:.{n_digits - 1}e}") == short or value < 1e-300
