"""The command line end to end on real rows: run, info, read, verify, sample, vacuum, new files, damage."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from flows import cli, reading, stages
from storage import open_archive
from vae_core.errors import CorruptArchive

ROOT = Path(__file__).resolve().parent.parent
FLIGHTS = ROOT / "benchmarks" / "data" / "flights"
N_ROWS = 1500
ENVIRONMENT = {"LATENTPACK_SERVER": "off", "COLUMNS": "120"}
BUDGET = ("--time-budget", 3)


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


def latentpack(*arguments: object, code: int = 0) -> Done:
    """One command in this process; errors must be one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        found = cli.main([str(argument) for argument in arguments])
    done = Done(out.getvalue(), err.getvalue())
    assert found == code, done.stderr + done.stdout
    if code:
        assert done.stderr.splitlines()[-1].startswith("latentpack: error: ")
        assert "Traceback" not in done.stderr
    return done


def copy_month(month: str, folder: Path) -> None:
    pq.write_table(pq.read_table(FLIGHTS / f"2013-{month}.parquet").slice(0, N_ROWS), folder / f"2013-{month}.parquet")


def bytes_under(folder: Path) -> int:
    return sum(
        f.stat().st_size for f in folder.rglob("*") if f.is_file() and "reports" not in f.relative_to(folder).parts
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[Path, Path, dict]:
    """(source folder, archive folder, the JSON of the run): two months, lossless."""
    folder = tmp_path_factory.mktemp("flights")
    source, archive = folder / "source", folder / "archive"
    source.mkdir()
    for month in ("01", "02"):
        copy_month(month, source)
    done = latentpack("run", source, archive, *BUDGET, "--json", folder / "report.json")
    assert "smaller than" in done.stdout or "not worth it" in done.stdout
    assert "train" in done.stderr and "\r" not in done.stderr
    return source, archive, json.loads((folder / "report.json").read_text())


def test_the_json_agrees_with_the_disk(stored):
    source, archive, report = stored
    assert report["rows"] == 2 * N_ROWS
    assert report["archive_bytes"] == bytes_under(archive) == sum(report["parts"].values())
    assert report["raw_bytes"] == bytes_under(source)
    assert report["report_bytes"] == bytes_under(archive / "reports")
    assert [c["name"] for c in report["columns"]] == pq.read_schema(source / "2013-01.parquet").names
    assert all(c["violations"] == 0 for c in report["columns"])
    assert report["transfer"]["full_read_bytes"] <= report["archive_bytes"]
    assert report["archive_bytes"] <= 1.005 * report["conventional_bytes"] + 16 * 1024
    assert Path(report["report_html"]).read_text().startswith("<!doctype html>")
    assert json.loads(Path(report["report_json"]).read_text())["snapshot"] == report["snapshot"] == 1


def test_what_is_read_is_what_was_stored(stored, tmp_path):
    source, archive, _ = stored
    raw = pa.concat_tables([pq.read_table(path) for path in sorted(source.iterdir())])
    latentpack("read", archive, tmp_path / "all.parquet")
    back = pq.read_table(tmp_path / "all.parquet")
    assert back.equals(raw) and back.schema.equals(raw.schema, check_metadata=True)
    latentpack("read", archive, tmp_path / "part.arrow", "--columns", "dest,dep_delay", "--rows", "100:250")
    part = pa.ipc.open_file(tmp_path / "part.arrow").read_all()
    assert part.equals(raw.select(["dest", "dep_delay"]).slice(100, 150))
    latentpack("read", archive, tmp_path / "x.npy", "--columns", "distance", "--rows", "2990:")
    assert (np.load(tmp_path / "x.npy") == raw.column("distance").slice(2990).to_numpy()).all()


def test_a_preview_has_the_schema_and_the_rows(stored, tmp_path):
    source, archive, _ = stored
    latentpack("read", archive, tmp_path / "p.parquet", "--preview")
    preview = pq.read_table(tmp_path / "p.parquet")
    assert preview.num_rows == 2 * N_ROWS and preview.schema.equals(pq.read_schema(source / "2013-01.parquet"))


def test_verify_compares_with_the_source(stored, tmp_path):
    source, archive, _ = stored
    done = latentpack("verify", archive, "--source", source, "--json", tmp_path / "proof.json")
    assert done.stdout.startswith(f"ok: {2 * N_ROWS:,} rows decoded")
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert proof["violations"] == proof["mismatches"] == 0 and proof["rows"] == 2 * N_ROWS


def test_info_shows_rows_parts_and_snapshots(stored):
    _, archive, report = stored
    value = json.loads(latentpack("info", archive, "--json").stdout)
    assert value["rows"] == 2 * N_ROWS and value["parts"] == report["parts"]
    assert f"{2 * N_ROWS:,} rows" in latentpack("info", archive).stdout


WITHOUT = """
import sys
for name in ("prefect", "torch", "matplotlib", "psutil", "s3fs", "fastapi", "sqlalchemy"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from flows import cli, reading, stages
from storage import open_archive
from vae_core.errors import CorruptArchive
sys.exit(cli.main(sys.argv[1:]))
"""


def test_everything_but_making_an_archive_works_where_neither_prefect_nor_torch_is_installed(stored, tmp_path):
    source, archive, _ = stored
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LATENTPACK_", "PREFECT_"))}
    environment["LATENTPACK_HOME"] = str(tmp_path / "home")

    def bare(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120)

    for words in (
        ("verify", archive, "--source", source),
        ("info", archive),
        ("read", archive, tmp_path / "all.parquet"),
        ("sample", archive, tmp_path / "new.parquet", "--rows", 10),
        ("vacuum", archive, "--dry-run"),
        ("run", source, archive),  # nothing to do: no server is started for that
    ):
        done = bare(*words)
        assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    assert "Nothing to do" in done.stdout and not (tmp_path / "home" / "server").exists()
    failed = bare("run", source, tmp_path / "other")
    assert failed.returncode == 2 and "pip install" in failed.stderr and failed.stderr.count("latentpack: error:") == 1


def test_samples_have_the_schema_and_follow_the_seed(stored, tmp_path):
    source, archive, _ = stored
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        latentpack("sample", archive, tmp_path / f"{name}.parquet", "--rows", 200, "--seed", seed)
    a, b, c = (pq.read_table(tmp_path / f"{name}.parquet") for name in "abc")
    assert a.num_rows == 200 and a.schema.equals(pq.read_schema(source / "2013-01.parquet"), check_metadata=True)
    assert a.equals(b) and not a.equals(c)
    known = pa.concat_tables(pq.read_table(path) for path in sorted(source.glob("*.parquet")))
    assert set(a.column("carrier").to_pylist()) <= set(known.column("carrier").to_pylist())
    assert len(pc.unique(a.column("dest"))) > 20


def test_samples_of_a_larger_archive_learn_from_some_of_its_rows(stored, tmp_path, monkeypatch):
    _, archive, _ = stored
    for name, value in (("DECODED_ROWS", 2000), ("DECODED_RUN_ROWS", 500), ("KNOWN_ROWS", 600), ("KNOWN_RUN_ROWS", 50)):
        monkeypatch.setattr(reading, name, value)
    known = reading._known_rows(open_archive(str(archive)), 0)
    assert 500 <= known.num_rows <= 600 and len(pc.unique(known.column("month"))) == 2
    latentpack("sample", archive, tmp_path / "new.parquet", "--rows", 100)
    assert pq.read_table(tmp_path / "new.parquet").num_rows == 100


def test_samples_learn_from_an_archive_with_a_file_of_one_row(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    for name, n in (("a", 900), ("b", 1)):
        pq.write_table(pa.table({"x": [k % 7 for k in range(n)], "name": ["n"] * n}), tmp_path / "source" / f"{name}.parquet")
        latentpack("run", tmp_path / "source", tmp_path / "archive", *BUDGET)
    monkeypatch.setattr(reading, "KNOWN_ROWS", 100)
    assert 100 <= reading._known_rows(open_archive(str(tmp_path / "archive")), 0).num_rows <= 101


def test_an_archive_without_rows_gives_as_many_rows_of_nulls_as_asked_for(tmp_path):
    empty = pa.schema([pa.field("x", pa.float64()), pa.field("name", pa.string())], metadata={"made": "here"}).empty_table()
    pq.write_table(empty, tmp_path / "empty.parquet")
    latentpack("run", tmp_path / "empty.parquet", tmp_path / "archive", *BUDGET)
    latentpack("sample", tmp_path / "archive", tmp_path / "new.parquet", "--rows", 3)
    drawn = pq.read_table(tmp_path / "new.parquet")
    assert drawn.schema.equals(empty.schema, check_metadata=True)
    assert drawn.num_rows == 3 and all(column.null_count == 3 for column in drawn.columns)


def test_a_second_run_has_nothing_to_do_and_new_files_become_a_snapshot(stored, tmp_path):
    source, archive, _ = stored
    before = bytes_under(archive)
    assert "Nothing to do" in latentpack("run", source, archive).stdout
    assert bytes_under(archive) == before
    copy_month("03", source)
    try:
        latentpack("run", source, archive, *BUDGET, "--quiet", "--json", tmp_path / "r.json")
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["snapshot"] == 2 and report["n_new_rows"] == N_ROWS and report["rows"] == 3 * N_ROWS
        latentpack("read", archive, tmp_path / "old.parquet", "--snapshot", 1)
        assert pq.read_table(tmp_path / "old.parquet").num_rows == 2 * N_ROWS
        latentpack("read", archive, tmp_path / "no.parquet", "--snapshot", 9, code=2)
    finally:
        (source / "2013-03.parquet").unlink()


def test_a_tolerance_holds_for_every_value(stored, tmp_path):
    source, _, _ = stored
    archive = tmp_path / "archive"
    latentpack(
        "run",
        source,
        archive,
        "--tolerance",
        "dep_delay=2",
        "--tolerance",
        "distance=1%",
        "--time-budget",
        5,
        "--json",
        "-",
        "--quiet",
    )
    latentpack("read", archive, tmp_path / "back.parquet")
    raw = pa.concat_tables([pq.read_table(path) for path in sorted(source.glob("2013-0[12].parquet"))])
    back = pq.read_table(tmp_path / "back.parquet")
    for name, most in (("dep_delay", 2.0), ("distance", 0.01 * _range(raw, "distance")), ("arr_delay", 0.0)):
        error = pc.max(pc.abs(pc.subtract(raw.column(name), back.column(name)))).as_py()
        assert error <= most, name
        assert raw.column(name).is_null().equals(back.column(name).is_null())


def _range(table: pa.Table, name: str) -> float:
    ends = pc.min_max(table.column(name)).as_py()
    return ends["max"] - ends["min"]


def test_unknown_columns_are_usage_errors_and_missing_sources_bad_input(stored, tmp_path):
    source, archive, _ = stored
    assert "no_such" in latentpack("read", archive, tmp_path / "x.csv", "--columns", "no_such", code=2).stderr
    assert "no_such" in latentpack("run", source, tmp_path / "a", "--tolerance", "no_such=1", code=2).stderr
    assert "missing" in latentpack("run", tmp_path / "missing", tmp_path / "a", code=3).stderr
    assert not (tmp_path / "x.csv").exists()


def test_a_flipped_byte_is_exit_code_4_and_names_the_object(stored, tmp_path):
    _, archive, _ = stored
    victim = max((archive / "shards").rglob("*.parquet"), key=lambda path: path.stat().st_size)
    whole = victim.read_bytes()
    try:
        victim.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
        assert victim.name in latentpack("verify", archive, code=4).stderr
        latentpack("read", archive, tmp_path / "x.parquet", code=4)
        assert not (tmp_path / "x.parquet").exists()
    finally:
        victim.write_bytes(whole)


def test_vacuum_finds_nothing_after_clean_runs(stored):
    _, archive, _ = stored
    assert "nothing to remove" in latentpack("vacuum", archive, "--dry-run").stdout


def test_old_snapshots_go_when_asked_by_a_run_and_by_vacuum(tmp_path):
    source, archive, report = tmp_path / "source", tmp_path / "archive", tmp_path / "r.json"
    source.mkdir()
    for night in range(4):
        pq.write_table(pa.table({"x": np.arange(300) * 0.5 + night, "k": ["n"] * 300}), source / f"{night}.parquet")
        latentpack("run", source, archive, *BUDGET, "--json", report, *(("--keep", 2) if night == 3 else ()))
    assert sorted(path.stem[-1] for path in archive.glob("snapshots/*")) == ["3", "4"]
    on_disk = sum(f.stat().st_size for f in archive.rglob("*") if f.is_file() and "reports" not in f.parts)
    assert json.loads(report.read_text())["archive_bytes"] == on_disk
    assert "Nothing to do" in latentpack("run", source, archive, "--keep", 1).stdout
    assert [path.name for path in archive.glob("snapshots/*")] == ["0000000004.json"]
    assert "it has 4" in latentpack("read", archive, tmp_path / "x.parquet", "--snapshot", 3, code=2).stderr
    (source / "0.parquet").unlink()
    latentpack("run", source, archive, *BUDGET, "--drop-missing")
    planned = latentpack("vacuum", archive, "--keep", 1, "--dry-run").stdout
    assert "1 of them snapshots" in planned and "snapshots/0000000004.json" in planned
    assert planned.replace("would remove", "removed") == latentpack("vacuum", archive, "--keep", 1).stdout
    assert json.loads(latentpack("info", archive, "--json").stdout)["n_snapshots"] == 1
    latentpack("verify", archive, "--source", source)


def nights(source, *numbers):
    """Files of an hour each, named in the order of their rows."""
    source.mkdir(exist_ok=True)
    for night in numbers:
        pq.write_table(pa.table({"t": np.arange(200) + 1000 * night, "k": ["n"] * 200}), source / f"{night:02}.parquet")


def test_rows_come_back_in_the_order_of_the_source_wherever_a_file_is_put(tmp_path):
    source, archive = tmp_path / "source", tmp_path / "archive"
    for step in ((0, 5), (2,), (9,), (1, 7), (3, 4)):
        nights(source, *step)
        done = latentpack("run", source, archive, *BUDGET)
        latentpack("read", archive, tmp_path / "back.parquet")
        whole = pa.concat_tables(pq.read_table(path) for path in sorted(source.iterdir()))
        assert pq.read_table(tmp_path / "back.parquet").equals(whole), step
    assert "snapshot 5" in done.stdout
    latentpack("verify", archive, "--source", source)
    (source / "05.parquet").unlink()
    nights(source, 6)
    latentpack("run", source, archive, *BUDGET)  # a shard that cannot be made again keeps its place
    assert pq.read_table(tmp_path / "back.parquet").num_rows == 8 * 200
    latentpack("read", archive, tmp_path / "back.parquet")
    assert sorted(pq.read_table(tmp_path / "back.parquet")["t"].to_pylist()) == sorted(
        t + 1000 * night for night in (0, 1, 2, 3, 4, 5, 6, 7, 9) for t in range(200)
    )


def test_a_damaged_old_snapshot_is_named_and_stops_no_run(tmp_path):
    source, archive = tmp_path / "source", tmp_path / "archive"
    for night in range(3):
        nights(source, night)
        latentpack("run", source, archive, *BUDGET)
    damaged = archive / "snapshots" / "0000000002.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"latentpack", b"latentpick"))
    nights(source, 3)
    done = latentpack("run", source, archive, *BUDGET, "--json", tmp_path / "r.json")
    assert "Snapshot 2 is damaged" in done.stdout and Path(json.loads((tmp_path / "r.json").read_text())["report_html"]).exists()
    assert "damaged: snapshots/0000000002.json" in latentpack("info", archive).stdout
    assert "snapshots/0000000002.json" in latentpack("verify", archive, code=4).stderr
    assert "snapshots/0000000002.json" in latentpack("vacuum", archive, code=4).stderr
    assert "3 of them snapshots" in latentpack("vacuum", archive, "--keep", 1).stdout
    latentpack("verify", archive, "--source", source)


@pytest.mark.parametrize("pattern", ["shards/*/shard.json.zst", "shards/*/corrections.parquet", "models/*/plan.json.zst"])
def test_bytes_put_at_the_end_of_an_object_are_found(tmp_path, pattern):
    source, archive = tmp_path / "source", tmp_path / "archive"
    nights(source, 0)
    latentpack("run", source, archive, *BUDGET)
    [victim] = archive.glob(pattern)
    victim.write_bytes(victim.read_bytes() + b"x")
    assert f"{victim.relative_to(archive)}: the object is longer" in latentpack("verify", archive, code=4).stderr


def test_a_run_whose_snapshot_went_from_under_it_says_so(tmp_path, monkeypatch):
    source, archive = tmp_path / "source", tmp_path / "archive"
    nights(source, 0)
    latentpack("run", source, archive, *BUDGET)
    nights(source, 1)

    def overtaken(request, run):
        monkeypatch.undo()
        pq.write_table(pa.table({"t": np.arange(50), "k": ["m"] * 50}), source / "00.parquet")
        latentpack("run", source, archive, *BUDGET, "--keep", 1)
        raise CorruptArchive("shards/x/shard.json.zst: the object is missing")

    monkeypatch.setattr(stages.train, "learn_run", overtaken)
    said = latentpack("run", source, archive, *BUDGET, code=6).stderr
    assert "snapshot 2 was committed by run" in said and "built on snapshot 1" in said


def test_a_distortion_target_is_met_and_its_siblings_are_shown(tmp_path):
    draw, steps = np.random.default_rng(0), np.arange(6000)
    wave = np.sin(steps / 40)
    columns = {f"s{k}": wave * (k + 1) + 0.05 * draw.normal(size=len(steps)) for k in range(4)}
    raw = pa.table(columns | {"key": [f"k{k}" for k in steps % 7]})
    pq.write_table(raw, tmp_path / "waves.parquet")
    asked = ("--tolerance", "*=rmse:2%", "--tolerance", "s3=psnr:30", "--time-budget", 6)
    done = latentpack("run", tmp_path / "waves.parquet", tmp_path / "archive", *asked, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    latentpack("read", tmp_path / "archive", tmp_path / "back.parquet")
    back = pq.read_table(tmp_path / "back.parquet")
    assert back["key"].equals(raw["key"])
    for column in report["columns"][:4]:
        error = back[column["name"]].to_numpy() - raw[column["name"]].to_numpy()
        share = 10 ** (-30 / 20) if column["name"] == "s3" else 0.02
        assert column["tolerance"] == pytest.approx(share * _range(raw, column["name"]))
        assert column["rmse"] == pytest.approx(float(np.sqrt(np.mean(error**2))), rel=1e-6)
        assert column["tolerance_kind"] == "rmse" and column["rmse"] <= column["tolerance"]
    compared = report["latent"]["comparison"]
    assert {"klt", "uniform quantisation, conventional coding"} <= {row["kind"] for row in compared}
    assert sum(row["chosen"] for row in compared) == 1
    assert "siblings compared at the same error" in done.stdout and "KLT" in done.stdout
    assert "Siblings compared at the same error" in Path(report["report_html"]).read_text()
    data = sum(report[part] for part in ("latents", "corrections", "verbatim"))
    assert sum(column["bytes"] for column in report["columns"]) == pytest.approx(data, rel=0.1, abs=300)
    latentpack("verify", tmp_path / "archive", "--source", tmp_path / "waves.parquet")


@pytest.mark.parametrize("pays", [True, False])
def test_the_sibling_that_is_called_chosen_is_the_one_the_shards_hold(pays, tmp_path, monkeypatch):
    steps = np.arange(6000)
    columns = {f"s{k}": np.sin(steps / 40) * (k + 1) + 0.05 * np.random.default_rng(k).normal(size=6000) for k in range(4)}
    pq.write_table(pa.table(columns), tmp_path / "waves.parquet")
    if not pays:  # as the encoder finds where it has all rows, and the fit had a sample
        monkeypatch.setattr("vae_core.encoding.latents_that_pay", lambda *_: None)
    asked = ("--tolerance", "*=rmse:2%", "--time-budget", 6, "--json", tmp_path / "r.json")
    done = latentpack("run", tmp_path / "waves.parquet", tmp_path / "archive", *asked)
    report = json.loads((tmp_path / "r.json").read_text())
    (chosen,) = [row["kind"] for row in report["latent"]["comparison"] if row["chosen"]]
    assert chosen.startswith("uniform") == (not pays) and (report["latents"] > 0) == pays
    assert {column["coding"] == "latent" for column in report["columns"]} == {pays}
    (line,) = [line for line in done.stdout.splitlines() if line.endswith("chosen")]
    assert line.startswith("uniform steps") == (not pays) and "estimates on the sample" in done.stdout


def test_blocks_are_as_small_as_asked_for(tmp_path):
    table = pq.read_table(FLIGHTS / "2013-01.parquet").slice(0, 4000)
    pq.write_table(table, tmp_path / "raw.parquet")
    run = ("run", tmp_path / "raw.parquet", tmp_path / "archive", *BUDGET, "--preview", "off")
    said = latentpack(*run, "--block-rows", 100, code=2).stderr
    assert "--block-rows 100: input should be greater than or equal to 1024" in said and not (tmp_path / "archive").exists()
    latentpack(*run, "--block-rows", 1024)
    (entry,) = open_archive(str(tmp_path / "archive")).entries()
    assert entry.block_rows == (1000,) * 4
    latentpack("read", tmp_path / "archive", tmp_path / "some.parquet", "--rows", "900:1100")
    assert pq.read_table(tmp_path / "some.parquet").equals(table.slice(900, 200))


def test_other_tolerances_need_retrain_and_vanished_files_go_when_asked(stored, tmp_path):
    source, archive = tmp_path / "source", tmp_path / "archive"
    source.mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"x": np.arange(500) * 0.5, "k": [name] * 500}), source / f"{name}.parquet")
    latentpack("run", source, archive, *BUDGET)
    assert "add --retrain (in the form: New generation)" in latentpack("run", source, archive, "--tolerance", "x=1", code=2).stderr
    assert "snapshot 2" in latentpack("run", source, archive, *BUDGET, "--tolerance", "x=1", "--retrain").stdout
    (source / "b.parquet").unlink()
    assert "Nothing to do" in latentpack("run", source, archive, "--tolerance", "x=1").stdout
    latentpack("run", source, archive, *BUDGET, "--tolerance", "x=1", "--drop-missing", "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == 500


def test_ctrl_c_while_training_exits_130_and_commits_nothing(stored, tmp_path):
    source, _, _ = stored
    command = [sys.executable, "-m", "flows.cli", "run", str(source), str(tmp_path / "a"), "--time-budget", "120"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("train"):
            break
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "latentpack: interrupted" and "Traceback" not in errors
    assert not list((tmp_path / "a").glob("snapshots/*"))
