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
from collections.abc import Iterator
from typing import Any

from flows import server
from vae_core.errors import UsageError

DEPLOYMENT = "latentpack"
EVENT = "latentpack.dataset.updated"
NIGHTLY = "0 2 * * *"
POLL_SECONDS = "2"
RUNS_AT_A_TIME = 2
STOP_TIMEOUT_S = 90.0  # the runner gives each run 30 seconds before it kills it

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
    port : of the server that is started; without it 4200, or any when that is taken
    Raises UsageError when only one of source and archive is given, and for a port that cannot be had; LatentpackError when
    no server answers.
    """
    source = source or os.environ.get("LATENTPACK_SOURCE")
    archive = archive or os.environ.get("LATENTPACK_ARCHIVE")
    if (source is None) != (archive is None):
        raise UsageError("serve: give both a source and an archive for the schedule, or neither")
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", POLL_SECONDS)
    server.no_analytics()
    with _stopping() as stop, contextlib.closing(server.connect(preferred_port=server.UI_PORT, port=port)) as connection:
        if connection.started:
            print(f"starting the Prefect server at {connection.ui_url} ...", flush=True)
        connection.wait(stop=stop)
        if not connection.started and not stop.is_set():
            print(f"using the Prefect server at {connection.ui_url}", flush=True)
        if not stop.is_set():
            _serve(connection, source, archive, cron, tolerances or {}, stop)
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
        parameters = {
            "source": {"uri": source},
            "archive": {"uri": archive},
            "tolerance": {"columns": tolerances or {}},
        }
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


def _serve(
    connection: server.Server,
    source: str | None,
    archive: str | None,
    cron: str,
    tolerances: dict[str, str],
    stop: threading.Event,
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.blocks import LatentpackStorage

    # The runs are subprocesses; they take these from the environment.
    os.environ["PREFECT_API_URL"] = connection.api_url
    with temporary_settings({PREFECT_API_URL: connection.api_url}):
        LatentpackStorage.register_type_and_schema()
        served = deployments(source, archive, cron=cron, tolerances=tolerances)
        print(f"Prefect UI:  {connection.ui_url}", flush=True)
        print(f"deployments: {', '.join(f'{item.flow_name}/{item.name}' for item in served)}", flush=True)
        when = f"nightly ({cron} UTC)" if source else "paused: set LATENTPACK_SOURCE and LATENTPACK_ARCHIVE to run nightly"
        print(f"schedule:    {when}", flush=True)
        print(f"event:       {EVENT}; stop with Ctrl-C", flush=True)
        _run_until(stop, served)


def _run_until(stop: threading.Event, served: list[Any]) -> None:
    """Run the deployments until `stop` is set, in a thread where the runner leaves our signal handlers alone."""
    from prefect.runner import Runner

    failures: list[BaseException] = []

    async def work() -> None:
        runner = Runner(name="latentpack", limit=RUNS_AT_A_TIME, pause_on_shutdown=True)
        for deployment in served:
            await runner.aadd_deployment(deployment)
        running = asyncio.ensure_future(runner.start())
        try:
            await asyncio.wait({running, asyncio.ensure_future(asyncio.to_thread(stop.wait))}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await _end(runner, running)
            with contextlib.suppress(asyncio.CancelledError):
                await running
        finally:
            stop.set()  # the thread that waits for it ends, too

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
