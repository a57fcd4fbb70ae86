"""The command line as a contract: commands, options, exit codes and one-line errors, without running a pipeline."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import arguments, cli
from flows.server import Server
from vae_core.errors import BadInput, Conflict, CorruptArchive, Unreachable, UsageError, VerificationFailed

COMMANDS = ("run", "read", "verify", "info", "sample", "vacuum", "serve")
DOCUMENTED = {
    "run": {
        "--tolerance", "--preview", "--time-budget", "--favour", "--compare", "--block-rows", "--json", "--retrain",
        "--drop-missing", "--keep",
    },
    "read": {"--columns", "--rows", "--preview", "--snapshot"},
    "verify": {"--source", "--sample", "--json"},
    "info": {"--json"},
    "sample": {"--rows", "--seed"},
    "vacuum": {"--dry-run", "--keep"},
    "serve": {"--port"},
}


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_documented_options_and_help_that_teaches(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in DOCUMENTED[command] | {"--debug", "--quiet"}:
        assert option in shown
    if command != "serve":
        assert f"latentpack {command} " in shown.split("options:")[0].split("usage:")[1]
        assert "example" in shown


def test_help_is_quick_and_loads_neither_torch_nor_prefect_nor_arrow():
    probe = (
        "import sys\nfrom flows import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'prefect', 'pyarrow', 'pandas', 'pydantic', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        assert run_cli("--help").returncode == 0
        times.append(time.perf_counter() - began)
    assert min(times) < 1.0  # 0.3 s on an idle machine; the module check above is the real one


@pytest.mark.parametrize("module", ["reading", "inventory", "table", "report", "terminal", "verify", "launch", "stages"])
def test_what_reading_commands_import_has_no_torch_and_no_prefect(module):
    probe = f"import sys, flows.{module}\nassert not {{'torch', 'prefect', 'matplotlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)


def test_the_version_is_printed():
    assert run_cli("--version").stdout.startswith("latentpack ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["run"],
        ["run", "only-a-source"],
        ["run", "a", "b", "--time-budget", "-1"],
        ["run", "a", "b", "--time-budget", "nan"],
        ["read", "a"],
        ["read", "a", "b.parquet", "--rows", "10"],
        ["read", "a", "b.parquet", "--rows", "-5"],
        ["read", "a", "b.parquet", "--rows=--5:"],
        ["read", "a", "b.parquet", "--rows", "1:2:3"],
        ["read", "a", "b.parquet", "--rows", "x:y"],
        ["read", "a", "b.parquet", "--columns", ""],
        ["read", "a", "b.parquet", "--columns", "x,,y"],
        ["read", "a", "b.parquet", "--columns", "x,x"],
        ["read", "a", "b.parquet", "--snapshot", "-1"],
        ["verify", "a", "--sample", "0"],
        ["verify", "a", "--sample", "1.5"],
        ["sample", "a", "b.parquet"],
        ["sample", "a", "b.parquet", "--rows", "ten"],
        ["info", "a", "--frobnicate"],
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("latentpack: error: ") and shown.err.count("\n") == 1


@pytest.mark.parametrize("out", ["table.xlsx", "table", "parquet"])
def test_an_unknown_output_format_is_a_usage_error_before_the_archive_is_opened(out, tmp_path, capsys):
    assert cli.main(["read", str(tmp_path / "no-archive"), str(tmp_path / out)]) == 2
    assert ".parquet .csv .arrow .npy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:10", (0, 10)), (":10", (None, 10)), ("5:", (5, None)), (":", (None, None)), ("7:3", (7, 3)),
        ("-5:", (-5, None)), ("-9:-3", (-9, -3)), (":-3", (None, -3)),
    ],
)
def test_row_ranges_have_open_ends_and_count_from_the_end(text, expected):
    assert arguments.parse(["read", "a", "b.csv", f"--rows={text}"]).rows == expected
    parsed = arguments.parse(["read", "a", "b.csv", "--rows", text])
    assert parsed.rows == expected


def test_column_names_with_commas_can_be_quoted():
    parsed = arguments.parser().parse_args(["read", "a", "b.csv", "--columns", '"a,b",c'])
    assert parsed.columns == ["a,b", "c"]


@pytest.mark.parametrize("before", [True, False])
def test_debug_is_accepted_before_and_after_the_command(before):
    words = ["--debug", "info", "a"] if before else ["info", "a", "--debug"]
    assert arguments.parser().parse_args(words).debug is True
    assert not hasattr(arguments.parser().parse_args(["info", "a"]), "debug")


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError, 2), (BadInput, 3), (CorruptArchive, 4), (VerificationFailed, 5), (Conflict, 6)],
)
def test_each_deliberate_error_has_its_exit_code_even_when_a_framework_wrapped_it(error, code):
    assert cli.explain(error("column 'x': broken\nhere")) == ("column 'x': broken here", code)
    wrapped = RuntimeError("task run failed")
    wrapped.__cause__ = error("the reason")
    assert cli.explain(wrapped) == ("the reason", code)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (MemoryError(), "out of memory"),
        (ValueError("odd"), "--debug"),
    ],
)
def test_an_unexpected_error_is_one_line_and_exit_code_1(error, word, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "info", fail)
    assert cli.main(["info", "anywhere"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("latentpack: error: ") and shown.count("\n") == 1 and word in shown


def test_a_traceback_appears_only_with_debug(monkeypatch, capsys):
    def fail(*_):
        raise BadInput("no such thing")

    monkeypatch.setitem(cli.COMMANDS, "info", fail)
    assert cli.main(["info", "a"]) == 3
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main(["info", "a", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_exits_130_without_a_traceback(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "info", interrupt)
    assert cli.main(["info", "a"]) == 130
    assert capsys.readouterr().err == "latentpack: interrupted\n"


def test_a_report_path_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys):
    assert cli.main(["run", "a", "b", "--json", str(tmp_path / "missing" / "r.json")]) == 2
    assert cli.main(["run", "a", "b", "--json", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_a_json_path_in_a_folder_that_takes_no_files_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cli.tempfile, "TemporaryFile", refused)  # who runs as root may write anywhere
    monkeypatch.setattr("flows.launch.run_pipeline", lambda *_, **__: pytest.fail("the work began"))
    assert cli.main(["run", str(tmp_path), str(tmp_path / "a"), "--json", str(tmp_path / "r.json")]) == 2
    assert capsys.readouterr().err.strip().endswith(f"r.json: cannot write into the folder {tmp_path} (Permission denied)")


@pytest.mark.parametrize(
    "extra", [["--tolerance", "temp"], ["--tolerance", "temp=nonsense"], ["--preview", "sometimes"]]
)
def test_a_malformed_request_is_a_usage_error(extra, tmp_path, capsys):
    assert cli.main(["run", str(tmp_path / "a"), str(tmp_path / "b"), *extra]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("latentpack: error: ") and shown.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_an_archive_that_is_not_there_is_one_line(tmp_path: Path, capsys):
    for words in (["info"], ["read", str(tmp_path / "x.parquet")], ["verify"], ["vacuum"]):
        code = cli.main([words[0], str(tmp_path / "nothing"), *words[1:]])
        shown = capsys.readouterr().err
        assert code in (3, 4), words
        assert shown.count("\n") == 1 and "nothing" in shown
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("words", [["vacuum", "archive"], ["run", "source", "archive"]])
@pytest.mark.parametrize("wrong", ["0", "-1", "x", "1.5", "", "99999999999999"])
def test_a_count_of_snapshots_that_is_none_is_refused_in_one_line(words, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, f"--keep={wrong}"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "is not a count of 1 or more" in said and said.count("\n") == 1


def test_a_file_is_no_archive(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    for path in (one, two):
        pq.write_table(pa.table({"a": [1, 2, 3]}), path)
    for words in (["read", two, tmp_path / "o.parquet"], ["info", two], ["verify", two], ["vacuum", two], ["run", one, two, "--quiet"]):
        assert cli.main([str(word) for word in words]) == 2
        assert capsys.readouterr().err == f"latentpack: error: {two}: is a file, and an archive is a folder\n"


def test_an_archive_that_cannot_be_written_is_refused_before_profiling(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "one.parquet")

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr("flows.train.learn_run", lambda *_: pytest.fail("profiled"))
    assert cli.main(["run", str(tmp_path / "one.parquet"), str(tmp_path / "new" / "a"), "--quiet"]) == 3
    told = f"{tmp_path / 'new' / 'a'}: cannot be written (Permission denied in {tmp_path})"
    assert capsys.readouterr().err == f"latentpack: error: {told}\n"


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (OSError(28, "No space left on device", "/a/b"), "/a/b: No space left on device", 3),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied", 3),
        (OSError("odd"), "odd", 3),
        (Unreachable("no Prefect server answers at x"), "no Prefect server answers at x", 3),
    ],
)
def test_storage_that_fails_is_code_3_and_names_the_place(error, told, code):
    assert cli.explain(error) == (told, code)


def test_a_prefect_server_that_is_not_there_is_unreachable():
    with pytest.raises(Unreachable, match=r"no Prefect server answers at http://127\.0\.0\.1:1/api"):
        Server("http://127.0.0.1:1/api", embedded=False).wait()
