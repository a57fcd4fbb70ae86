"""What every test starts from: no telemetry, no credentials and no proxies of the machine it runs on."""

import os
import signal
import urllib.request

import pytest
from hypothesis import HealthCheck, settings

# A shell that puts the tests in the background makes them ignore interrupts, and their children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
    os.environ.pop(name, None)
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

# Generating wide Arrow tables is slow on a busy machine: that is no property of the code. CI repeats the same examples
# every time; a developer's run looks for new ones.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An S3 server with a bucket called `bucket`, and the environment that leads to it."""
    import fsspec
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
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    fsspec.filesystem("s3").clear_instance_cache()
    store = fsspec.filesystem("s3")
    store.call_s3("create_bucket", Bucket="bucket")
    yield store
    store.clear_instance_cache()
    urllib.request.urlopen(reset).close()  # what a test forbade, the next server of this process would forbid, too
    server.stop()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of its own to run the command line in, without Prefect."""
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    monkeypatch.chdir(tmp_path)
    return tmp_path
