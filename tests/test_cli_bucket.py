"""The command line against an S3 server, with credentials and endpoint from the environment, as the README has it."""

from __future__ import annotations

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import cli


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "LATENTPACK_SERVER": "off",
        "LATENTPACK_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    store = fsspec.filesystem("s3")
    store.call_s3("create_bucket", Bucket="bucket")
    yield store
    store.clear_instance_cache()
    server.stop()


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
