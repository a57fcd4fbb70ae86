"""Starting a run from here: what there is to do is decided first, and only work waits for a Prefect server.

This module imports Prefect and torch late: a run with nothing to do needs neither, and the embedded server starts while
they load.
"""

import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from importlib import import_module

from flows import assemble, ingest, server
from flows.ingest import FIRST, GENERATION, NOTHING
from flows.progress import Listener, listening
from flows.report import ProgressEvent, RunReport
from flows.settings import RunRequest
from flows.stages import plain, run_stages


def run_pipeline(request: RunRequest, progress: Listener | None = None) -> RunReport:
    """Run the pipeline from here, on the configured Prefect server or the embedded one, started or reused.

    A run with nothing to do answers at once and leaves no trace on a server. LATENTPACK_SERVER=off runs the stages
    without Prefect. Raises the LatentpackError of whatever failed.
    """
    hear: Listener = progress or (lambda _: None)
    if not server.wanted():
        now = datetime.now(UTC)
        run = ingest.new_run(now)
        with listening(run, progress):
            return run_stages(request, run, plain(), now=now)
    return _run_on_server(request, hear)


def _run_on_server(request: RunRequest, hear: Callable[[ProgressEvent], None]) -> RunReport:
    began = time.monotonic()
    server.no_analytics()
    hear(ProgressEvent(stage="ingest", message="looking at the source"))
    # A request that cannot work fails here as well, before a server is started for it.
    plan = ingest.survey(request, None, ingest.timestamp(datetime.now(UTC)))
    if plan.decision == NOTHING:
        hear(ProgressEvent(stage="ingest", message=plan.statement, done=1.0, total=1.0))
        assemble.retain_run(request, plan.run)
        seconds = time.monotonic() - began
        return assemble.report_nothing(request, plan, {"ingest": seconds, "total": seconds})
    server.require()
    with closing(server.connect(preferred_port=server.UI_PORT)) as connection:
        hear(ProgressEvent(stage="server", message=f"{'starting' if connection.started else 'looking'} at {connection.ui_url}"))
        run_here = import_module("flows.pipeline").run_here
        if plan.decision in (FIRST, GENERATION):
            import_module("torch")  # training needs it, and the server is not there yet
        connection.wait()
        hear(ProgressEvent(stage="server", message=f"Prefect at {connection.ui_url}", done=1.0, total=1.0))
        report: RunReport = run_here(request, connection.api_url, hear)
        return report
