"""`latentpack serve`: a Prefect server with its UI, and the pipeline served beside it.

Three ways to start a run: the nightly schedule, the form of the deployment, and an event. Whoever puts new data in place
emits `latentpack.dataset.updated` with `source` and `archive` in its payload; the automation runs the pipeline on them.
"""

import asyncio
import contextlib
import contextvars
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from flows import deployed, server
from vae_core.errors import UsageError

DEPLOYMENT = "latentpack"
EVENT = "latentpack.dataset.updated"
NIGHTLY = "0 2 * * *"
POLL_SECONDS = "2"
RUNS_AT_A_TIME = 2
STOP_TIMEOUT_S = 90.0  # the runner gives each run 30 seconds before it kills it
PAUSE_TIMEOUT_S = 20.0

log = logging.getLogger(__name__)


def serve(
    source: str | None = None,
    archive: str | None = None,
    *,
    cron: str = NIGHTLY,
    tolerances: dict[str, str] | None = None,
    port: int | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then cancel the runs in flight, shut down and return.

    source, archive : what the schedule runs on (or LATENTPACK_SOURCE and LATENTPACK_ARCHIVE); without them the
    schedule is registered but paused, and runs start from the form or by the event. tolerances: of the scheduled runs.
    cron : of a deployment that is not there yet
    port : of the server that is started; without it 4200, or any when that is taken
    Deployments that are there already keep what was set in the UI: parameters not given here, and whether they are active.
    Raises UsageError when only one of source and archive is given, for a port that cannot be had, and while another serve
    runs on the same server; LatentpackError when no server answers.
    """
    server.require()
    source = source or os.environ.get("LATENTPACK_SOURCE")
    archive = archive or os.environ.get("LATENTPACK_ARCHIVE")
    if (source is None) != (archive is None):
        raise UsageError("serve: give both a source and an archive for the schedule, or neither")
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", POLL_SECONDS)
    server.no_analytics()
    with (
        _stopping() as stop,
        contextlib.closing(server.connect(preferred_port=server.UI_PORT, port=port)) as connection,
        deployed.held(connection.api_url) as hold,
    ):
        if connection.started:
            print(f"starting the Prefect server at {connection.ui_url} ...", flush=True)
        connection.wait(stop=stop)
        if not connection.started and not stop.is_set():
            print(f"using the Prefect server at {connection.ui_url}", flush=True)
        if not stop.is_set():
            _serve(connection, hold, deployments(source, archive, cron=cron, tolerances=tolerances), stop)
    print("latentpack: stopped", flush=True)


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, from the first second on."""
    stop = threading.Event()
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def deployments(
    source: str | None = None,
    archive: str | None = None,
    *,
    cron: str = NIGHTLY,
    tolerances: dict[str, str] | None = None,
) -> list[Any]:
    """The served deployments: the pipeline with its schedule and event trigger, and the check of an archive."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.events import DeploymentEventTrigger
    from prefect.types.entrypoint import EntrypointType

    from flows.pipeline import check_archive, pipeline

    scheduled = source is not None and archive is not None
    parameters: dict[str, Any] = {}
    if scheduled:
        parameters = {"source": {"uri": source}, "archive": {"uri": archive}}
        if tolerances:
            parameters["tolerance"] = {"columns": tolerances}
    trigger = DeploymentEventTrigger(
        name="latentpack: new data",
        description=f"Runs the pipeline on the source and archive named in the payload of a {EVENT} event.",
        expect={EVENT},
        parameters={
            "source": {"uri": _template("{{ event.payload['source'] }}")},
            "archive": {"uri": _template("{{ event.payload['archive'] }}")},
            "tolerance": {"columns": _json_template("{{ event.payload.get('tolerances', {}) | tojson }}")},
        },
    )
    return [
        pipeline.to_deployment(
            DEPLOYMENT,
            schedules=[DeploymentScheduleCreate(schedule=CronSchedule(cron=cron, timezone="UTC"), active=scheduled)],
            triggers=[trigger],
            parameters=parameters,
            tags=["latentpack"],
            description=PIPELINE_HELP,
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
        check_archive.to_deployment(
            "on-demand",
            tags=["latentpack"],
            description="Check every digest of an archive, decode it, and compare it with its source if one is named.",
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
    ]


PIPELINE_HELP = f"""\
Store a dataset as sparse latents plus corrections, prove it by decoding, report what it saves.

* **On demand**: *Run → Custom run*, fill in source and archive.
* **Nightly**: switch the schedule on after giving the deployment its source and archive (`latentpack serve`
  takes them from `LATENTPACK_SOURCE` and `LATENTPACK_ARCHIVE`).
* **On an event**: emit `{EVENT}` with `{{"source": …, "archive": …}}` as its payload.

The savings report is an artifact of every run.
"""


def _template(text: str) -> dict[str, str]:
    return {"__prefect_kind": "jinja", "template": text}


def _json_template(text: str) -> dict[str, Any]:
    return {"__prefect_kind": "json", "value": _template(text)}


def _serve(connection: server.Server, hold: deployed.Hold, served: list[Any], stop: threading.Event) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.blocks import LatentpackStorage

    # The runs are subprocesses; they take these from the environment.
    os.environ["PREFECT_API_URL"] = connection.api_url
    with temporary_settings({PREFECT_API_URL: connection.api_url}):
        with get_client(sync_client=True) as client:
            found = deployed.found_on(client, served)
            if not connection.embedded:  # others may use it, with locks of their own
                deployed.refuse_if_served(client, connection.api_url, found, hold, stop)
            for item in served:
                if item.full_name in found:
                    deployed.keep(client, item, found[item.full_name], hold)
        LatentpackStorage.register_type_and_schema()
        _run_until(stop, served, hold, lambda: _announce(connection, served))


def _announce(connection: server.Server, served: list[Any]) -> None:
    print(f"Prefect UI:  {connection.ui_url}", flush=True)
    print(f"deployments: {', '.join(item.full_name for item in served)}", flush=True)
    print(f"schedule:    {deployed.schedule_text(served[0])}", flush=True)
    print(f"event:       {EVENT}; stop with Ctrl-C", flush=True)


def _run_until(stop: threading.Event, served: list[Any], hold: deployed.Hold, announce: Callable[[], None]) -> None:
    """Run the deployments until `stop` is set, in a thread where the runner leaves our signal handlers alone.

    announce : called once they are registered: what is set in the UI before that would be lost
    """
    from prefect.runner import Runner

    failures: list[BaseException] = []

    async def work() -> None:
        runner = Runner(name="latentpack", limit=RUNS_AT_A_TIME, pause_on_shutdown=False)  # deployed.pause tells the next serve, too
        for deployment in served:
            await runner.aadd_deployment(deployment)
        hold.tell([])
        announce()
        running = asyncio.ensure_future(runner.start())
        try:
            await asyncio.wait({running, asyncio.ensure_future(asyncio.to_thread(stop.wait))}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await _end(runner, running)
            with contextlib.suppress(asyncio.CancelledError):
                await running
        finally:
            stop.set()  # the thread that waits for it ends, too
            try:
                await asyncio.wait_for(deployed.pause(served, hold), PAUSE_TIMEOUT_S)
            except Exception as error:  # its server is gone, most likely
                log.warning("the deployments could not be paused: %s", error or type(error).__name__)

    def thread() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    context = contextvars.copy_context()
    worker = threading.Thread(target=lambda: context.run(thread), name="latentpack-runner")
    worker.start()
    while not stop.wait(0.5):
        pass
    worker.join()
    if failures:
        raise failures[0]


async def _end(runner: Any, running: "asyncio.Future[None]") -> None:
    """Stop the runner, and its runs first: ended without this, they would stay `Running` on a server that outlives them."""
    try:
        await asyncio.wait_for(runner.astop(), STOP_TIMEOUT_S)
    except Exception as error:  # the runner has not begun, or its server is gone: there is nobody to tell
        log.warning("the runs in flight could not be cancelled: %s", error or type(error).__name__)
        running.cancel()


if __name__ == "__main__":
    serve()
