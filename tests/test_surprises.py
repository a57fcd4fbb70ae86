"""What may surprise is said once, in a line, and not at all where nobody asked for news."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from flows import cli, server
from storage import open_archive
from vae_core.errors import UsageError


def told(caplog, words, *arguments):
    caplog.clear()
    assert cli.main(["run", *words, "--time-budget", "1", *arguments]) == 0
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_text_in_another_encoding_is_bytes_and_that_is_said_and_written_as_digits(place, caplog):
    (place / "l1.csv").write_bytes("id,city\n1,Zürich\n2,Bern\n".encode("latin-1"))
    (line,) = told(caplog, ["l1.csv", "a"])
    assert "l1.csv: field 'city' is not UTF-8 and is kept as bytes" in line
    assert open_archive("a").to_table()["city"].to_pylist() == ["Zürich".encode("latin-1"), b"Bern"]
    assert cli.main(["read", "a", "o.csv"]) == 0
    assert (place / "o.csv").read_text().splitlines()[1:] == ['1,"5afc72696368"', '2,"4265726e"']


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_text_in_utf_16_is_refused_by_name(place, capsys, encoding):
    (place / "wide.csv").write_bytes(("\ufeff" + "id,city\n1,Bern\n").encode(encoding))
    assert cli.main(["run", "wide.csv", "a"]) == 3
    assert "wide.csv: is text in UTF-16; convert it to UTF-8" in capsys.readouterr().err


def test_many_digits_and_folders_with_keys_are_told_of_once(place, caplog):
    (place / "days" / "day=1").mkdir(parents=True)
    (place / "days" / "day=1" / "x.csv").write_text("a,b\n123456789012345678901234567890,1\n2,2\n")
    lines = told(caplog, ["days", "a"])
    assert len(lines) == 2 and "key=value" in lines[0] and "values beyond 2^53" in lines[1]


def test_with_quiet_errors_alone_are_on_the_terminal(place, capfd):
    (place / "l1.csv").write_bytes("id,city\n1,Zürich\n".encode("latin-1"))
    assert cli.main(["run", "l1.csv", "a", "--time-budget", "1", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert cli.main(["run", "nowhere.csv", "a", "--quiet"]) == 3
    assert capfd.readouterr().err.startswith("latentpack: error: nowhere.csv")


def test_rows_may_be_a_range_and_snapshots_are_counted(place, capsys):
    pq.write_table(pa.table({"x": range(9)}), place / "x.parquet")
    assert cli.main(["run", "x.parquet", "a", "--time-budget", "1"]) == 0
    assert open_archive("a").to_table(rows=range(1, 3))["x"].to_pylist() == [1, 2]
    with pytest.raises(UsageError, match="step 10"):
        open_archive("a").to_table(rows=range(0, 100, 10))
    capsys.readouterr()
    assert cli.main(["info", "a"]) == 0 and "snapshot 1, 9 rows" in capsys.readouterr().out
    pq.write_table(pa.table({"x": range(20)}), place / "x.parquet")
    assert cli.main(["run", "x.parquet", "a", "--time-budget", "1"]) == 0
    assert cli.main(["info", "a"]) == 0 and "snapshot 2 (and 1 older), 20 rows" in capsys.readouterr().out
    assert cli.main(["read", "a", "s3://bucket/o.parquet"]) == 2
    assert "s3://bucket/o.parquet: OUT is a file on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["run", "x.parquet", "a"], ["serve"]])
def test_without_prefect_nothing_is_started(place, words, capsys, monkeypatch):
    monkeypatch.delenv("LATENTPACK_SERVER")
    pq.write_table(pa.table({"x": range(9)}), place / "x.parquet")
    monkeypatch.setattr(server, "find_spec", lambda _: None)
    monkeypatch.setattr(server, "connect", lambda *_, **__: pytest.fail("a server is started"))
    assert cli.main(words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("ingest ")]
    wanted = "prefect is not installed: pip install 'latentpack[flows]'; LATENTPACK_SERVER=off runs without a server"
    assert said == [f"latentpack: error: {wanted}"]


def test_times_of_json_lines_are_told_of_for_they_lose_what_says_utc(place, caplog):
    (place / "x.jsonl").write_text('{"when":"2024-01-01T02:00:00+02:00","n":1}\n')
    (line,) = told(caplog, ["x.jsonl", "a"])
    assert "field 'when' is read as times: in UTC where the text has an offset" in line


def test_a_wider_file_for_a_narrower_archive_needs_two_options_and_both_are_named_at_once(place, capsys):
    (place / "days").mkdir()
    (place / "days" / "1.csv").write_text("a\n1\n2\n")
    assert cli.main(["run", "days", "a", "--time-budget", "1", "--quiet"]) == 0
    (place / "days" / "2.csv").write_text("a\n1.5\n2.5\n")
    capsys.readouterr()
    assert cli.main(["run", "days", "a", "--quiet"]) == 3
    said = capsys.readouterr().err
    assert "--widen (in the form: Widen types) would join them, and the archive" in said and "needs --retrain (in the form: New" in said
    assert cli.main(["run", "days", "a", "--widen", "--retrain", "--time-budget", "1", "--quiet"]) == 0
    assert open_archive("a").to_table()["a"].to_pylist() == [1.0, 2.0, 1.5, 2.5]
