"""The README only promises what works: its commands run as written, make targets and files are there, numbers are the CSV's."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from flows import arguments, cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FLIGHTS = ROOT / "benchmarks" / "data" / "flights"
FENCES = re.findall(r"```(\w+)\n(.*?)```", README, re.S)


def commands() -> list[str]:
    lines = [
        line.split("  #")[0].strip() for language, body in FENCES if language == "sh" for line in body.splitlines()
    ]
    return [line for line in lines if re.match(r"(\S*/)?latentpack ", line)]


def test_the_readme_shows_the_commands():
    assert {shlex.split(line)[1] for line in commands()} == {
        "run",
        "read",
        "verify",
        "info",
        "sample",
        "vacuum",
        "serve",
    }


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_parses(line):
    arguments.parser().parse_args(shlex.split(line)[1:])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the data sets the README speaks of, and no server."""
    for name, value in {"LATENTPACK_SERVER": "off", "LATENTPACK_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for folder in ("flights", "SOURCE"):
        Path(folder).mkdir()
        pq.write_table(pq.read_table(FLIGHTS / "2013-01.parquet").slice(0, 2500), f"{folder}/2013-01.parquet")
    measured = measurements(400)
    pyarrow.csv.write_csv(measured.select(["when", "temp"]), "measurements.csv")
    pq.write_table(measured, "measurements.parquet")
    return tmp_path


def measurements(n_rows: int) -> pa.Table:
    draw = np.random.default_rng(0)
    temp = np.round(20 + 5 * np.sin(np.arange(n_rows) / 30) + draw.normal(0, 0.2, n_rows), 2)
    image = (np.outer(temp, np.linspace(0, 1, 16)) + draw.normal(0, 0.5, (n_rows, 16))).astype(np.float32)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(image.ravel()), 16)
    geo = pa.StructArray.from_arrays([pa.array(40 + temp / 7)], ["lat"])
    return pa.table({"when": 60 * np.arange(n_rows), "temp": temp, "image": pixels, "geo": geo})


def run_as_written(line: str) -> None:
    """One command line; training gets less time than the README gives it, and nothing else is changed."""
    words = shlex.split(line)[1:]
    assert cli.main([*words, *(("--time-budget", "1") if words[0] == "run" else ())]) == 0, line


def test_every_local_command_of_the_readme_runs_as_written_one_after_the_other(place, capsys):
    local = [line for line in commands() if "s3://" not in line and not line.endswith("serve")]
    assert len(local) >= 11
    for line in local:
        run_as_written(line)
    said = capsys.readouterr().out
    assert "Nothing to do" not in said and "1,000 rows drawn" in said
    assert json.loads(Path("savings.json").read_text())["columns"][1]["max_abs_error"] <= 0.05
    flights = pq.read_table("flights/2013-01.parquet")
    assert pq.read_table("flights.parquet").equals(flights) and pa.ipc.open_file("before.arrow").read_all().equals(flights)
    assert pyarrow.csv.read_csv("part.csv").column_names == ["origin", "dest", "dep_delay"]
    assert pq.read_table("imagined.parquet").schema.equals(flights.schema)


def test_the_bucket_commands_of_the_readme_run_as_written(bucket, place):
    for month in (1, 2):
        pq.write_table(measurements(100 * month), "month.parquet")
        bucket.put("month.parquet", f"bucket/sensors/2024-0{month}.parquet")
    remote = [line for line in commands() if "s3://" in line]
    assert len(remote) == 2
    for line in remote:
        run_as_written(line)
    assert pq.read_table("sensors.parquet").num_rows == 300


@pytest.mark.parametrize("spec", re.findall(r"^\| `--tolerance '([^']+)'`", README, re.M))
def test_every_tolerance_of_the_readme_keeps_its_promise(spec, place):
    run_as_written(f"latentpack run measurements.parquet archive --tolerance '{spec}' --json report.json")
    report = json.loads(Path("report.json").read_text())
    columns = {column["name"]: column for column in [*report["columns"], *report["leaves"]]}
    asked = [name for name in columns if spec.startswith((f"{name}=", "*=")) and name != "when"]
    assert asked and all(column["violations"] == 0 for column in columns.values())
    for name in asked:
        assert columns[name]["tolerance"] not in ("lossless", None)


def test_every_tolerance_of_the_readme_and_of_the_help_is_one():
    from flows.settings import RunRequest

    shown = re.findall(r"--tolerance '([^']+)'", README + arguments.RUN_HELP)
    assert len(set(shown)) >= 6
    for spec in shown:
        RunRequest(source="a", archive="b", tolerances=[spec])


def test_every_option_and_make_target_of_the_readme_exists():
    options = set(re.findall(r"--[a-z][a-z-]+", README))
    helps = "".join(
        action.format_help() for action in arguments.parser()._subparsers._group_actions[0].choices.values()
    )
    assert {option for option in options if option not in helps} == set()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z][a-z-]*)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_file_and_heading_the_readme_links_to_exists():
    for link, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", README):
        assert (ROOT / link).exists(), link
        headings = re.findall(r"^#+ (.*)$", (ROOT / link).read_text(encoding="utf-8"), re.M) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, anchor


def test_every_example_of_the_help_parses():
    for text in (
        arguments.MAIN_HELP,
        arguments.RUN_HELP,
        arguments.READ_HELP,
        arguments.VERIFY_HELP,
        arguments.INFO_HELP,
        arguments.SAMPLE_HELP,
        arguments.VACUUM_HELP,
    ):
        for line in re.findall(r"^  (latentpack .*)$", text, re.M):
            arguments.parser().parse_args(shlex.split(re.split(r"\s{3,}|\s\|", line)[0])[1:])


def test_the_python_of_the_readme_reads_an_archive_with_every_library_it_names(tmp_path, monkeypatch):
    raw = pq.read_table(ROOT / "benchmarks" / "data" / "flights" / "2013-01.parquet").slice(0, 2500)
    pq.write_table(raw.select(["origin", "dest", "hour"]), tmp_path / "flights.parquet")
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    assert cli.main(["run", str(tmp_path / "flights.parquet"), str(tmp_path / "archive"), "--time-budget", "2", "--quiet"]) == 0
    monkeypatch.chdir(tmp_path)
    (body,) = [body for language, body in FENCES if language == "python"]
    names: dict = {}
    exec(body, names)
    assert names["trips"].equals(raw.select(["origin", "dest"])) and names["n_rows"] == 2500
    assert names["frame"].equals(raw.select(["origin", "dest", "hour"]).slice(1000, 1000).to_pandas())
    assert names["sketch"].schema == names["archive"].schema and names["sketch"].num_rows == 2500
    assert dict(names["counts"].rows()) == names["trips"].to_pandas().groupby("origin").size().to_dict()
    assert names["busiest"].set_index("dest")["n"].to_dict() == names["trips"].to_pandas().groupby("dest").size().to_dict()


def test_the_changelog_states_the_format_of_every_release():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.split(r"^## ", changelog, flags=re.M)[1:]
    assert releases and all("**Format**" in release for release in releases)
