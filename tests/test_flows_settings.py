"""A request is refused while it is still a form."""

import re

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.arguments import parse
from flows.settings import (
    DROP_MISSING,
    PREVIEW_SHARE,
    RETRAIN,
    TOLERANCE_SPEC,
    RunRequest,
    SourceSettings,
    TrainingSettings,
    UpdateSettings,
)
from flows.train import fit_config
from storage.agreement import WIDEN
from vae_core.columns import TableProfile
from vae_core.exact.price import FAVOURS


def test_the_flat_spelling_of_the_command_line_and_the_nested_one_of_the_form_are_the_same_request():
    flat = RunRequest(
        source="raw/",
        archive="out/",
        tolerances=["temp=0.05", "*=1%"],
        preview="3%",
        seed=7,
        widen=True,
        time_budget_s=5,
    )
    nested = RunRequest(
        source={"uri": "raw/", "widen": True},
        archive={"uri": "out/"},
        tolerance={"columns": {"temp": "0.05", "*": "1%"}},
        training={"preview": "3%", "seed": 7, "time_budget_s": 5},
    )
    assert flat == nested
    assert RunRequest.model_validate_json(flat.model_dump_json()) == flat


@pytest.mark.parametrize("said", [RETRAIN, DROP_MISSING, WIDEN])
def test_messages_name_a_switch_as_the_command_line_and_the_form_do(said):
    option, title = re.match(r"(--[a-z-]+) \(in the form: ([A-Za-z ]+)\)", said).groups()
    assert getattr(parse(["run", "source", "archive", option]), option[2:].replace("-", "_")) is True
    assert title in {field.title for form in (UpdateSettings, SourceSettings) for field in form.model_fields.values()}


def test_the_default_loses_nothing():
    assert RunRequest(source="a", archive="b").tolerance.columns == {}


def test_a_column_name_may_hold_an_equals_sign():
    assert RunRequest(source="a", archive="b", tolerances=["x=y=0.5"]).tolerance.columns == {"x=y": "0.5"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tolerances": ["temp"]}, "COLUMN=TOLERANCE"),
        ({"tolerances": ["temp=lots"]}, "temp"),
        ({"tolerances": ["temp=1", "temp=2"]}, "two tolerances"),
        ({"preview": "5"}, "percentage"),
        ({"preview": "0%"}, "above 0%"),
        ({"time_budget_s": 0}, "greater than 0"),
        ({"time_budget_s": float("inf")}, "finite"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"source": "  "}, "empty"),
        ({"source": "b/"}, "same place"),
        ({"block_rows": 1}, "1024"),
        ({"no_such_setting": 1}, "no_such_setting"),
    ],
)
def test_nonsense_is_refused_and_named(values, said):
    with pytest.raises(ValidationError, match=said):
        RunRequest(**{"source": "a", "archive": "b", **values})


def test_credentials_are_the_name_of_a_block_and_never_a_key():
    assert SourceSettings(uri="a", credentials="latentpack-storage/team").credentials == "latentpack-storage/team"
    assert SourceSettings(uri="a", credentials=" ").credentials is None
    with pytest.raises(ValidationError, match="name of a block"):
        SourceSettings(uri="a", credentials="AKIAIOSFODNN7EXAMPLE")
    with pytest.raises(ValidationError, match="password"):
        SourceSettings(uri="s3://key:secret@bucket/data")


def test_every_setting_of_the_form_has_a_title_and_a_description():
    schema = RunRequest.model_json_schema()
    for name, section in schema["$defs"].items():
        for field, about in section["properties"].items():
            assert about.get("title") and about.get("description"), f"{name}.{field}"


@given(st.from_regex(TOLERANCE_SPEC.removesuffix("$"), fullmatch=True))
def test_what_the_form_takes_for_a_tolerance_is_one(spec):
    assume(not re.match(r" *psnr: *[0.]*$", spec.rstrip()))
    assert RunRequest(source="a", archive="b", tolerances=[f"x={spec}"]).tolerance.columns == {"x": spec}


@pytest.mark.parametrize("spec", ["0.05", "1%", ".5", "1e-6", "rmse:0.02", "rmse: 3%", "psnr:30", "lossless", "abs:2"])
def test_the_form_takes_every_kind_of_tolerance(spec):
    assert re.search(TOLERANCE_SPEC, spec)


def test_the_schema_of_the_form_says_what_the_validators_refuse():
    defs = RunRequest.model_json_schema()["$defs"]
    spec = defs["ToleranceSettings"]["properties"]["columns"]["additionalProperties"]
    assert spec == {"type": "string", "pattern": TOLERANCE_SPEC}
    for section, name, bad in (
        ("SourceSettings", "uri", ["", " ", "s3://key:secret@bucket/x"]),
        ("ArchiveSettings", "uri", ["", " ", "s3://key:secret@bucket/x"]),
        ("SourceSettings", "credentials", ["AKIAIOSFODNN7EXAMPLE"]),
        ("TrainingSettings", "preview", ["3", "some", "200%", "100.1%", "101 %", "0%", "0.0 %", ".0%", "00%"]),
    ):
        pattern = defs[section]["properties"][name]["pattern"]
        assert not any(re.search(pattern, value) for value in bad)
        good = {"uri": "s3://bucket/a b/*.csv", "credentials": "latentpack-storage/team", "preview": "12.5%"}[name]
        assert re.search(pattern, good)


SHARES = [st.from_regex(pattern, fullmatch=True) for pattern in (PREVIEW_SHARE.removesuffix("$"), r"[0-9]{0,3}(\.[0-9]{1,2})? ?%")]


@given(st.one_of(SHARES))
def test_the_form_takes_for_a_preview_what_the_validator_takes(spec):
    try:
        TrainingSettings(preview=spec)
    except ValidationError:
        assert not re.search(PREVIEW_SHARE, spec)
    else:
        assert re.search(PREVIEW_SHARE, spec)


@pytest.mark.parametrize("share", ["100%", "100.0 %", "3%", ".5%", "0.01%", "12.5 %", "099%"])
def test_the_form_takes_every_share_up_to_the_whole(share):
    assert re.search(PREVIEW_SHARE, share) and 0 < TrainingSettings(preview=share).preview_share <= 1


def test_a_preview_share_is_a_fraction_for_the_codec():
    assert TrainingSettings(preview="3%").preview_share == pytest.approx(0.03)
    assert TrainingSettings().preview_share == "auto"
    profile = TableProfile(pa.schema([("x", pa.int64())]))
    assert fit_config(RunRequest(source="a", archive="b", preview="12.5%"), profile).preview == 0.125
    assert fit_config(RunRequest(source="a", archive="b", preview="off"), profile).preview == "off"


def test_what_is_favoured_is_a_balance_unless_it_is_told():
    profile = TableProfile(pa.schema([("x", pa.int64())]))
    assert fit_config(RunRequest(source="a", archive="b"), profile).favour == "balance"
    assert [fit_config(RunRequest(source="a", archive="b", favour=one), profile).favour for one in FAVOURS] == list(FAVOURS)
    with pytest.raises(ValidationError, match="size"):
        RunRequest(source="a", archive="b", favour="beauty")


def test_training_takes_longer_for_large_datasets_up_to_a_bound_unless_it_is_told():
    profile, request = TableProfile(pa.schema([(f"x{k}", pa.int64()) for k in range(50)])), RunRequest(source="a", archive="b")
    for n_rows, seconds in ((1000, 90), (200_000, 90), (400_000, 150), (10**9, 240)):
        profile.n_rows = n_rows
        assert fit_config(request, profile).time_budget_s == pytest.approx(seconds)
    assert fit_config(RunRequest(source="a", archive="b", time_budget_s=7), profile).time_budget_s == 7
