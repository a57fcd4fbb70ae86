"""What a deployment keeps from one `latentpack serve` to the next; test_serve.py does the same with a server."""

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest

from flows import deployed, serve
from vae_core.errors import UsageError

X, Y = {"source": {"uri": "/x"}}, {"archive": {"uri": "/y"}}
WITH_CREDENTIALS = {"source": {"uri": "/x", "credentials": "latentpack-storage/team"}}
BUDGET = {"training": {"time_budget_s": 5}}
API = "http://127.0.0.1:4200/api"


@pytest.mark.parametrize(
    ("parameters", "active", "given", "kept", "on"),
    [
        ({}, False, ("/x", "/y"), X | Y, True),  # there was nothing to run on before
        (X | Y, False, ("/x", "/y"), X | Y, False),
        (BUDGET | {"gone": 1, "update": {"gone": 1}}, True, (None, None), BUDGET, True),
        (WITH_CREDENTIALS, True, ("/x", "/y"), WITH_CREDENTIALS | Y, True),
        (WITH_CREDENTIALS | Y, True, ("/z", "/y"), {"source": {"uri": "/z"}} | Y, True),
    ],
)
def test_a_deployment_keeps_what_was_set_but_for_what_is_given_now(parameters, active, given, kept, on):
    served, _ = serve.deployments(*given)
    (schedule,) = served.schedules
    there = schedule.model_copy(update={"active": active})
    found = SimpleNamespace(parameters=parameters, schedules=[there], paused=True)
    automations = SimpleNamespace(read_automations_by_name=lambda _: [SimpleNamespace(enabled=False)])
    deployed.keep(automations, served, found, deployed.Hold(io.StringIO(), None))
    assert served.parameters == kept
    assert [item.active for item in served.schedules] == [on] and not served.paused and not served.triggers[0].enabled


def test_one_serve_holds_a_server_and_a_killed_one_holds_none(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path))
    with deployed.held(API) as hold:
        assert hold.paused is None
        hold.tell(["b", "a"])
        same = API.replace("127.0.0.1", "localhost")
        with pytest.raises(UsageError, match="another `latentpack serve` is running on the Prefect server"), deployed.held(same):
            pass
        with deployed.held(API.replace("4200", "4201")) as other:
            assert other.paused is None
    with deployed.held(API) as hold:
        assert hold.paused == {"a", "b"}
    lines = ["import os", "from flows import deployed"]
    lines += [f"held = deployed.held({API!r})", "held.__enter__().tell([])", "os.kill(os.getpid(), 9)"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False)
    with deployed.held(API) as hold:
        assert hold.paused == set()
