"""`latentpack serve` for real: a server, a run started through its API, its report on its page, a clean end."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from prefect.utilities.importtools import import_object
from prefect.utilities.templating import apply_values

from flows import serve, server
from flows.ingest import RUN_NAME, new_run
from flows.launch import run_pipeline
from flows.report import NOTHING_TO_DO
from flows.settings import RunRequest
from storage import open_archive
from vae_core.errors import LatentpackError, UsageError

READY_S, RUN_S, STOP_S = 240.0, 240.0, 60.0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    (folder / "raw").mkdir()
    draw = np.random.default_rng(0)
    state = draw.integers(0, 5, 600)
    pq.write_table(pa.table({"state": state, "temp": np.round(state + draw.normal(size=600), 1)}), folder / "raw" / "a.parquet")
    return folder


@pytest.fixture(scope="module")
def served(home):
    """(base URL of the API, process) of a running `latentpack serve`."""
    process = _start(home, "--port", str(server.free_port()))
    try:
        yield _wait_for_url(process, home / "serve.log"), process, home / "serve.log"
    finally:
        _stop(process)


def _environment(home):
    found = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "LATENTPACK_"))}
    return found | {"LATENTPACK_HOME": str(home / "home"), "LATENTPACK_SERVER_LINGER": "1", "PREFECT_HOME": str(home / "prefect")}


def _start(home, *arguments, **more):
    with (home / "serve.log").open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(home) | more,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,
        )


def _stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for_url(process, log):
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        text = log.read_text()
        found = re.search(r"Prefect UI: +(http://\S+)", text)
        if found and "schedule:" in text:
            return found[1] + "/api"
        assert process.poll() is None, text
        time.sleep(0.2)
    raise AssertionError(f"serve did not come up:\n{log.read_text()}")


def _ask(method, url, body=None, *, until=()):
    """The answer of the API. Prefect says 503 while its SQLite is busy and expects clients to come again; so do we, and
    until the status is one of `until`."""
    deadline = time.monotonic() + 60
    while True:
        answer = httpx.request(method, url, json=body, timeout=30)
        if (answer.status_code != 503 and (not until or answer.status_code in until)) or time.monotonic() > deadline:
            return answer
        time.sleep(0.5)


def _deployment(api):
    answer = _ask("GET", f"{api}/deployments/name/latentpack/latentpack", until=(200,))
    answer.raise_for_status()
    return answer.json()


def _finished(api, run_id):
    deadline = time.monotonic() + RUN_S
    while time.monotonic() < deadline:
        run = _ask("GET", f"{api}/flow_runs/{run_id}").json()
        if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return run
        time.sleep(0.5)
    raise AssertionError(f"run {run_id} is still {run['state_name']}")


def _artifacts(api, run_id):
    query = {"artifacts": {"flow_run_id": {"any_": [run_id]}}}
    return {item["key"]: item for item in _ask("POST", f"{api}/artifacts/filter", query).json()}


def test_a_run_started_through_the_api_completes_with_its_report_on_its_page(served, home):
    api, _, log = served
    deployment = _deployment(api)
    assert {"source", "archive", "tolerance", "training"} <= set(deployment["parameter_openapi_schema"]["properties"])
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    parameters = {
        "source": {"uri": str(home / "raw")}, "archive": {"uri": str(home / "archive")},
        "training": {"time_budget_s": 2},
    }  # fmt: skip
    answer = _ask("POST", f"{api}/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
    assert answer.status_code == 201, answer.text
    run = _finished(api, answer.json()["id"])
    assert run["state_type"] == "COMPLETED", log.read_text()[-4000:]
    assert run["name"] == "raw → archive"
    assert set(run["tags"]) == {"latentpack", "archive"}
    stages = _stages(api, run["id"])
    assert len(stages) == 4 and all(set(stage["tags"]) == {"latentpack", "archive"} for stage in stages)
    shown = _artifacts(api, run["id"])
    assert "archive" in shown["latentpack-savings"]["data"] and "latentpack-columns" in shown
    assert "data:image/svg+xml;base64," in shown["latentpack-savings"]["data"]
    assert open_archive(str(home / "archive")).to_table().equals(pq.read_table(home / "raw" / "a.parquet"))
    assert _log_lines(api)


def _log_lines(api):
    query = {"limit": 200}  # of the run and of the runs of its stages
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = [line["message"] for line in _ask("POST", f"{api}/logs/filter", query).json()]
        if any("committed snapshot 1" in line for line in lines) and any("encoded part" in line for line in lines):
            return lines
        time.sleep(0.5)
    raise AssertionError(f"our own loggers do not reach the UI: {lines}")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"source": {"uri": "x"}}, ["archive"]),
        ({"source": {"uri": " "}}, ["source.uri"]),
        ({"archive": {"uri": ""}}, ["archive.uri"]),
        ({"source": {"uri": "s3://key:secret@bucket/x"}}, ["source.uri"]),
        ({"source": {"uri": "x", "credentials": "AKIAIOSFODNN7EXAMPLE"}}, ["source.credentials"]),
        ({"tolerance": {"columns": {"temp": "lots"}}}, ["tolerance.columns", "lots", "rmse"]),
        ({"tolerance": {"columns": {"temp": "-1"}}}, ["tolerance.columns", "-1"]),
        ({"training": {"preview": "some"}}, ["training.preview", "some", "auto"]),
        ({"training": {"preview": "200%"}}, ["training.preview", "200%"]),
        ({"training": {"time_budget_s": 0}}, ["training.time_budget_s"]),
        ({"training": {"hurry": True}}, ["hurry"]),
    ],
)
def test_bad_parameters_are_refused_before_a_run_exists(served, parameters, said):
    api, _, _ = served
    if "archive" not in said:
        parameters = {"source": {"uri": "x"}, "archive": {"uri": "y"}} | parameters
    answer = _ask("POST", f"{api}/deployments/{_deployment(api)['id']}/create_flow_run", {"parameters": parameters})
    assert answer.status_code == 409, answer.text
    assert all(word in answer.text for word in said), answer.text


def test_the_pages_ask_the_server_they_came_from(served):
    api, *_ = served
    settings = httpx.get(api.removesuffix("/api") + "/ui-settings", timeout=30).json()
    assert settings["api_url"] == api and not api.endswith(":4200/api")


def test_the_event_trigger_is_registered_with_the_payload_as_parameters(served):
    api, _, _ = served
    automations = _ask("POST", f"{api}/automations/filter", {}).json()
    (found,) = [item for item in automations if item["name"] == "latentpack: new data"]
    assert found["enabled"] and found["trigger"]["expect"] == ["latentpack.dataset.updated"]
    assert "event.payload" in str(found["actions"][0]["parameters"]["source"])


def test_a_run_from_the_command_line_shares_the_served_server_and_is_recorded_whole(served, home, monkeypatch):
    api, _, _ = served
    monkeypatch.setenv("LATENTPACK_HOME", str(home / "home"))
    for name in ("PREFECT_API_URL", "LATENTPACK_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    request = RunRequest(source=str(home / "raw"), archive=str(home / "second"), time_budget_s=2)
    report = run_pipeline(request)
    assert report.ui_url.startswith(api.removesuffix("/api"))
    assert run_pipeline(request).status == NOTHING_TO_DO
    run_id = report.ui_url.rsplit("/", 1)[1]
    run = _ask("GET", f"{api}/flow_runs/{run_id}").json()
    assert run["state_type"] == "COMPLETED" and set(run["tags"]) == {"latentpack", "second"}
    names = set()
    deadline = time.monotonic() + 30
    wanted = {f"{stage}-{report.run}" for stage in ("survey", "learn", "commit", "report")}
    while time.monotonic() < deadline and not wanted <= names:
        query = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        names = {item["name"] for item in _ask("POST", f"{api}/task_runs/filter", query).json()}
        time.sleep(0.5)
    assert wanted <= names and any(name.startswith("encode-a.parquet") for name in names)


def test_the_deployments_of_the_yaml_name_flows_that_take_their_parameters():
    text = (Path(__file__).parent.parent / "deployments" / "prefect.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)["deployments"]
    assert [item["name"] for item in found] == ["on-demand", "nightly", "check-archive"]
    for item in found:
        flow = import_object(item["entrypoint"])
        if "parameters" in item:
            flow.validate_parameters(item["parameters"])


def test_the_event_trigger_of_the_yaml_passes_what_the_served_one_does():
    text = (Path(__file__).parent.parent / "deployments" / "prefect.yaml").read_text(encoding="utf-8")
    (trigger,) = yaml.safe_load(text)["deployments"][0]["triggers"]
    (served,) = serve.deployments()[0].triggers
    assert trigger["parameters"] == served.parameters and set(trigger["expect"]) == served.expect
    assert apply_values(trigger, {}) == trigger  # `prefect deploy` leaves the templates of events alone


def test_the_folder_of_a_run_is_known_by_its_name():
    assert RUN_NAME.fullmatch(new_run()) and not RUN_NAME.fullmatch(f"../{new_run()}")


def test_a_dead_server_is_not_announced_as_started(home, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.free_port()}/api")
    with pytest.raises(LatentpackError, match="no Prefect server answers at"):
        serve.serve()
    assert "starting" not in capsys.readouterr().out


def test_a_port_that_cannot_be_had_is_refused(served, home, tmp_path, monkeypatch):
    api, _, _ = served
    taken = int(api.removesuffix("/api").rsplit(":", 1)[1])
    for name in ("PREFECT_API_URL", "LATENTPACK_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=f"port {taken} is taken"):
        server.connect(port=taken)
    monkeypatch.setenv("LATENTPACK_HOME", str(home / "home"))
    with pytest.raises(UsageError, match=f"runs at .*:{taken} already"):
        server.connect(port=server.free_port())
    with closing(server.connect(port=taken)) as connection:
        assert connection.api_url == api and not connection.started
    monkeypatch.setenv("PREFECT_API_URL", api)
    with pytest.raises(UsageError, match="PREFECT_API_URL"):
        server.connect(port=taken)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_second_serve_on_the_same_server_is_refused_and_leaves_the_first_alone(served, home, tmp_path, elsewhere):
    api, *_ = served
    before = _deployment(api)
    more = {"LATENTPACK_HOME": str(tmp_path), "PREFECT_API_URL": api} if elsewhere else {}
    command = [sys.executable, "-m", "flows.cli", "serve"]
    ran = subprocess.run(command, env=_environment(home) | more, cwd=Path(__file__).parent.parent, capture_output=True, timeout=READY_S)
    said = ran.stderr.decode().strip()
    assert ran.returncode == 2 and len(said.splitlines()) == 1 and "another `latentpack serve` is running" in said, said
    assert api.removesuffix("/api") in said
    after = _deployment(api)
    changing = ("updated", "last_polled", "status")
    assert {k: v for k, v in after.items() if k not in changing} == {k: v for k, v in before.items() if k not in changing}
    assert after["updated"] == before["updated"]


@pytest.fixture
def shared(served, home, monkeypatch):
    """The API of the served server, which stays up as long as the test whatever happens to `serve`."""
    for name in ("PREFECT_API_URL", "LATENTPACK_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LATENTPACK_HOME", str(home / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    with server.connect() as connection:
        yield connection.api_url


IGNORED = re.compile(r"Exception ignored in: .*\n(Traceback \(most recent call last\):\n( .*\n)*.*\n)?")
"""What Python prints of a signal that comes while it lets go of a weak reference, where nothing can be raised."""


def test_what_python_ignores_is_told_from_other_tracebacks():
    ignored = "Exception ignored in: <function f at 0x1>\nTraceback (most recent call last):\n  File 'w.py', line 1\n    x()\nSignal: 15\n"
    assert IGNORED.sub("", f"a\n{ignored}b\n") == "a\nb\n"
    other = 'Traceback (most recent call last):\n  File "x.py", line 1\nOops\n'
    assert "Traceback" in IGNORED.sub("", ignored + other) and "Traceback" in IGNORED.sub("", other)


def test_it_ends_cleanly_and_the_run_in_flight_is_cancelled(served, shared, home):
    api, process, log = served
    draw = np.random.default_rng(1)
    (home / "wide").mkdir()
    state = np.cumsum(draw.integers(-1, 2, 100_000))
    wide = {f"x{i}": np.round(state * i + draw.normal(size=len(state)), 1) for i in range(12)}  # takes a while to learn
    pq.write_table(pa.table(wide), home / "wide" / "a.parquet")
    parameters = {"source": {"uri": str(home / "wide")}, "archive": {"uri": str(home / "stopped")}, "training": {"time_budget_s": 300}}
    answer = _ask("POST", f"{api}/deployments/{_deployment(api)['id']}/create_flow_run", {"parameters": parameters})
    run_id = answer.json()["id"]
    deadline = time.monotonic() + RUN_S
    while not any(stage["name"].startswith("train-") and stage["state_type"] == "RUNNING" for stage in _stages(api, run_id)):
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.3)
    assert list((home / "home" / "runs").iterdir())
    process.send_signal(signal.SIGTERM)
    assert process.wait(2 * STOP_S) == 0, log.read_text()[-4000:]
    assert "stopped" in log.read_text() and "Traceback" not in IGNORED.sub("", log.read_text()), log.read_text()[-8000:]
    run = _ask("GET", f"{api}/flow_runs/{run_id}").json()
    assert run["state_type"] == "CANCELLED", run["state"]
    assert {stage["state_type"] for stage in _stages(api, run_id)} == {"COMPLETED", "CANCELLED"}
    tasks = _ask("POST", f"{api}/task_runs/filter", {}).json()
    assert {task["state_type"] for task in tasks} <= {"COMPLETED", "CANCELLED", "CRASHED"}
    assert not list((home / "home" / "runs").iterdir())


def _stages(api, run_id):
    return _ask("POST", f"{api}/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}}).json()


def test_it_takes_the_server_with_it(served):
    api, _, _ = served
    deadline = time.monotonic() + STOP_S
    while server.healthy(api, 1.0) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert not server.healthy(api, 1.0)


@pytest.fixture
def again(served, shared, home):
    """Starts `latentpack serve` as often as asked, on a server that stays; (URL of the API, start) after the first one has ended."""
    _, process, _ = served
    _stop(process)
    started = []

    def start(**more):
        started.append(_start(home, **more))
        _wait_for_url(started[-1], home / "serve.log")
        return started[-1]

    yield shared, start
    for process in started:
        _stop(process)


def _set(api, *, path="", **values):
    answer = _ask("PATCH", f"{api}/deployments/{_deployment(api)['id']}{path}", values)
    assert answer.status_code == 204, answer.text


def _set_schedule(api, active):
    (schedule,) = _deployment(api)["schedules"]
    _set(api, path=f"/schedules/{schedule['id']}", active=active)


def test_what_is_set_in_the_ui_outlives_a_serve(again, home):
    api, start = again
    first = start()
    assert "paused: set LATENTPACK_SOURCE" in (home / "serve.log").read_text()
    chosen = {"source": {"uri": "/data/a", "widen": True}, "archive": {"uri": "/data/b"}, "tolerance": {"columns": {"temp": "0.5"}}}
    _set(api, parameters=chosen)
    _set_schedule(api, True)
    _stop(first)
    stopped = _deployment(api)
    assert stopped["paused"] and stopped["parameters"] == chosen  # nobody's runs wait while nothing serves
    second = start()
    there = _deployment(api)
    assert not there["paused"] and there["parameters"] == chosen
    assert [schedule["active"] for schedule in there["schedules"]] == [True]
    assert "/data/a → /data/b" in (home / "serve.log").read_text()
    _set_schedule(api, False)
    _stop(second)
    third = start(LATENTPACK_SOURCE="/data/a", LATENTPACK_ARCHIVE="/data/c")  # given now, they win
    there = _deployment(api)
    assert there["parameters"] == {**chosen, "archive": {"uri": "/data/c"}}
    assert [schedule["active"] for schedule in there["schedules"]] == [False] and not there["paused"]
    _set(api, paused=True)
    third.kill()  # a killed serve leaves no lock
    third.wait()
    fourth = start()
    assert _deployment(api)["paused"]  # for this was no serve's doing
    _stop(fourth)
    fifth = start()
    assert _deployment(api)["paused"]
    _stop(fifth)
    _set(api, paused=False)
    start()
    assert not _deployment(api)["paused"]
