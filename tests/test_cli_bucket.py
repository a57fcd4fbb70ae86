"""The command line against an S3 server, with credentials and endpoint from the environment, as the README has it."""

from __future__ import annotations

import json
import socket
import time

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import cli
from storage.sources import open_source

ARCHIVE = "s3://bucket/archive"
USES = {
    "a source": ("run", "s3://bucket/days.parquet", "archive"),
    "sources": ("run", "s3://bucket/*.parquet", "archive"),
    "an archive to be": ("run", "days.parquet", ARCHIVE),
    "read": ("read", ARCHIVE, "out.parquet"),
    "verify": ("verify", ARCHIVE),
    "info": ("info", ARCHIVE),
    "vacuum": ("vacuum", ARCHIVE),
    "sample": ("sample", ARCHIVE, "out.parquet", "--rows", "3"),
}


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Credentials, and an endpoint that nothing listens at."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "LATENTPACK_SERVER": "off",
        "LATENTPACK_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"x": [1, 2, 3]}), "days.parquet")
    fsspec.filesystem("s3").clear_instance_cache()
    yield endpoint
    fsspec.filesystem("s3").clear_instance_cache()


def refused(capsys, words) -> str:
    """The one line of an error of exit code 3; all else on stderr is news of the run."""
    assert cli.main([*words]) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("ingest ")]
    assert line.startswith("latentpack: error: s3://bucket/")
    return line


@pytest.mark.parametrize("use", USES)
def test_an_endpoint_that_does_not_answer_is_bad_input_in_seconds(use, nowhere, capsys):
    began = time.monotonic()
    line = refused(capsys, USES[use])
    assert "does not answer" in line and nowhere in line and "AWS_ENDPOINT_URL" in line
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(("endpoint", "word"), [("http://no-such-host.invalid", "does not answer"), ("nonsense", "Invalid endpoint")])
def test_an_endpoint_that_is_no_host_or_no_address_is_bad_input(endpoint, word, nowhere, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert word in refused(capsys, USES["info"]) and word in refused(capsys, USES["a source"])


@pytest.mark.parametrize("use", USES)
def test_a_bucket_that_is_not_there_is_bad_input_before_anything_is_trained(use, bucket, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"x": [1, 2, 3]}), "days.parquet")
    words = [word.replace("s3://bucket/", "s3://bucket-of-nobody/") for word in USES[use]]
    assert cli.main(words) == 3
    assert "s3://bucket-of-nobody/" in capsys.readouterr().err.splitlines()[-1]


def test_a_dataset_goes_from_bucket_to_bucket_and_back_to_a_file(bucket, tmp_path, capsys):
    days = []
    for day in (1, 2):
        days.append(pa.table({"when": list(range(600)), "temp": [round(20 + day + k % 7 / 10, 1) for k in range(600)]}))
        pq.write_table(days[-1], tmp_path / "day.parquet")
        bucket.put(str(tmp_path / "day.parquet"), f"bucket/sensors/2024-{day}.parquet")
    run = ["run", "s3://bucket/sensors/2024-*.parquet", "s3://bucket/archives/sensors", "--time-budget", "2"]
    assert cli.main(run) == 0 and "1,200 rows" in capsys.readouterr().out
    assert cli.main(run) == 0 and "Nothing to do" in capsys.readouterr().out
    out = str(tmp_path / "sensors.parquet")
    assert cli.main(["read", "s3://bucket/archives/sensors", out, "--columns", "when,temp"]) == 0
    assert pq.read_table(out).equals(pa.concat_tables(days))


def test_the_empty_object_that_makes_a_folder_of_a_bucket_is_no_file(bucket):
    bucket.pipe_file("bucket/source/x.csv", b"a\n1\n")
    for name in ("source/", "source/more/"):
        bucket.call_s3("put_object", Bucket="bucket", Key=name, Body=b"")
    bucket.invalidate_cache()
    with open_source("s3://bucket/source") as source:
        assert [f.path for f in source.files] == ["x.csv"] and source.table().num_rows == 1


def test_a_bucket_that_may_not_be_written_is_bad_input_before_anything_is_trained(bucket, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"x": [1, 2, 3]}), "days.parquet")
    nobody = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::bucket/*"}
    bucket.call_s3("put_bucket_policy", Bucket="bucket", Policy=json.dumps({"Version": "2012-10-17", "Statement": [nobody]}))
    assert "bucket" in refused(capsys, ("run", "days.parquet", ARCHIVE))
    assert bucket.find("bucket") == []
