"""The pipeline: ingest, train, encode, verify, commit, report. One flow composes them, one function runs it.

What passes between the stages is the name of the run; its folder holds their small JSON documents, the archive the rest.
"""

import contextvars
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from prefect.runtime import flow_run as current_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows import assemble, encode, ingest, server, train, verify
from flows.html import markdown
from flows.ingest import NOTHING, Plan
from flows.progress import Listener, Progress, in_prefect_run, listening, tell
from flows.report import ProgressEvent, RunReport
from flows.retrying import RETRIES, on_passing_errors
from flows.settings import (
    ArchiveSettings,
    EncodingSettings,
    RunRequest,
    SourceSettings,
    ToleranceSettings,
    TrainingSettings,
    UpdateSettings,
    VerificationSettings,
)
from flows.table import human_bytes, human_saving

log = logging.getLogger(__name__)

SAVINGS_ARTIFACT = "latentpack-savings"
COLUMNS_ARTIFACT = "latentpack-columns"

_listener: contextvars.ContextVar[Listener | None] = contextvars.ContextVar("latentpack_listener", default=None)


@dataclass(frozen=True, slots=True)
class Stages:
    """How the stages are run: as Prefect flows, or as the plain functions under them."""

    ingest: Callable[[RunRequest, str, str], str]
    train: Callable[[RunRequest, str], str]
    encode: Callable[[RunRequest, str], int]
    verify: Callable[[RunRequest, str], int]
    commit: Callable[[RunRequest, str], int]
    report: Callable[[RunRequest, str, dict[str, float], str], RunReport]


@task(
    name="commit",
    task_run_name="commit-{run}",
    **RETRIES,
    retry_condition_fn=on_passing_errors,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def commit_task(request: RunRequest, run: str) -> int:
    """Make the staged shards the next snapshot; returns its number."""
    return assemble.commit_run(request, run)


@task(
    name="report",
    task_run_name="report-{run}",
    **RETRIES,
    retry_condition_fn=on_passing_errors,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def report_task(request: RunRequest, run: str, seconds: dict[str, float], ui_url: str) -> RunReport:
    """Write the report beside the archive and show it in the UI."""
    report = assemble.report_run(request, run, seconds, ui_url)
    show(report)
    return report


def with_prefect(request: RunRequest) -> Stages:
    """The stages as flows and tasks; encode and verify run as many tasks at a time as the request says."""
    workers = request.encoding.workers or encode.default_workers()
    return Stages(
        ingest=ingest.ingest,
        train=train.train,
        encode=_with_workers(encode.encode, workers),
        verify=_with_workers(verify.verify, workers),
        commit=commit_task,
        report=report_task,
    )


def _with_workers(stage: Any, workers: int) -> Any:
    """The flow with this many threads, unless somebody has given it another task runner."""
    if not isinstance(stage.task_runner, ThreadPoolTaskRunner):
        return stage
    return stage.with_options(task_runner=ThreadPoolTaskRunner(max_workers=workers))


def without_prefect() -> Stages:
    """The same stages as plain functions, one part at a time."""

    def survey(request: RunRequest, run: str, created_at: str) -> str:
        plan = ingest.survey(request, run, created_at)
        plan.save()
        return plan.decision

    def learn(request: RunRequest, run: str) -> str:
        trained = train.learn(request, Plan.load(run), Progress(run, "train", total=request.training.time_budget_s))
        trained.save(run)
        return trained.ref.digest

    return Stages(
        ingest=survey,
        train=learn,
        encode=lambda request, run: encode.encode_all(request, run, encode.one_by_one(lambda planned: encode.part(planned, request))),
        verify=lambda request, run: verify.verify_all(request, run, encode.one_by_one(lambda staged: verify.shard(staged, request))),
        commit=assemble.commit_run,
        report=assemble.report_run,
    )


def run_stages(request: RunRequest, run: str, stages: Stages, *, now: datetime, ui_url: str = "") -> RunReport:
    """All stages in order. Nothing shows in the archive before the commit; a failure leaves it as it was."""
    seconds: dict[str, float] = {}
    began = time.monotonic()

    @contextmanager
    def timed(stage: str, message: str) -> Iterator[None]:
        tell(run, ProgressEvent(stage=stage, message=message))
        start = time.monotonic()
        try:
            yield
        finally:
            seconds[stage] = time.monotonic() - start

    try:
        with timed("ingest", "looking at the source"):
            decision = stages.ingest(request, run, f"{now:%Y-%m-%dT%H:%M:%SZ}")
        plan = Plan.load(run)
        log.info("%s: %s", request.source.uri, plan.statement)
        tell(run, ProgressEvent(stage="ingest", message=plan.statement, done=1.0, total=1.0))
        if decision != NOTHING:
            with timed("train", "profiling"):
                stages.train(request, run)
            with timed("encode", "planning"):
                stages.encode(request, run)
            with timed("verify", "decoding"):
                stages.verify(request, run)
            with timed("commit", "committing"):
                number = stages.commit(request, run)
            log.info("committed snapshot %d of %s", number, request.archive.uri)
        tell(run, ProgressEvent(stage="report", message="measuring"))
        seconds["total"] = time.monotonic() - began
        report = stages.report(request, run, seconds, ui_url)
        log.info("%d rows, %d bytes stored as %d. %s", report.rows, report.raw_bytes, report.archive_bytes, report.verdict)
        return report
    finally:
        ingest.discard_run_folder(run)


def _run_name() -> str:
    parameters = current_run.parameters
    source, archive = parameters.get("source"), parameters.get("archive")
    return f"{_place(source)} → {_place(archive)}"


def _place(settings: object) -> str:
    uri = settings.get("uri", "") if isinstance(settings, dict) else getattr(settings, "uri", "")
    return str(uri).rstrip("/").rsplit("/", 1)[-1] or "?"


@flow(name="latentpack", flow_run_name=_run_name, persist_result=False, validate_parameters=True)
def pipeline(
    source: SourceSettings,
    archive: ArchiveSettings,
    tolerance: ToleranceSettings = ToleranceSettings(),  # noqa: B008 - frozen
    training: TrainingSettings = TrainingSettings(),  # noqa: B008 - frozen
    encoding: EncodingSettings = EncodingSettings(),  # noqa: B008 - frozen
    verification: VerificationSettings = VerificationSettings(),  # noqa: B008 - frozen
    update: UpdateSettings = UpdateSettings(),  # noqa: B008 - frozen
) -> RunReport:
    """Store a dataset as sparse latents plus corrections, prove it by decoding, report what it saves."""
    show_logs()
    request = RunRequest(
        source=source,
        archive=archive,
        tolerance=tolerance,
        training=training,
        encoding=encoding,
        verification=verification,
        update=update,
    )
    now = datetime.now(UTC)
    run = ingest.new_run(now)
    with listening(run, _listener.get()):
        return run_stages(request, run, with_prefect(request), now=now, ui_url=_ui_url())


def _ui_url() -> str:
    return str(current_run.get_flow_run_ui_url() or "") if current_run.get_id() else ""


def show(report: RunReport) -> None:
    """The savings report and the per-column table as artifacts of this run."""
    create_markdown_artifact(
        key=SAVINGS_ARTIFACT,
        markdown=markdown(report),
        description=f"{human_bytes(report.raw_bytes)} stored as {human_bytes(report.archive_bytes)}. {report.verdict}",
    )
    create_table_artifact(
        key=COLUMNS_ARTIFACT,
        description="bytes, error and coding of every column",
        table=[
            {
                "column": column.name,
                "coding": column.coding,
                "bytes": column.bytes,
                "conventional bytes": column.conventional_bytes,
                "saving": human_saving(100.0 * (1.0 - column.bytes / column.conventional_bytes)) if column.conventional_bytes else "",
                "tolerance": column.tolerance,
                "worst error": column.max_abs_error,
                "violations": column.violations,
            }
            for column in report.columns
        ],
    )


def run_pipeline(request: RunRequest, progress: Listener | None = None) -> RunReport:
    """Run the pipeline from here, on the configured Prefect server or the embedded one, started or reused.

    LATENTPACK_SERVER=off runs the stages without Prefect. Raises the LatentpackError of whatever failed.
    """
    if not server.wanted():
        now = datetime.now(UTC)
        run = ingest.new_run(now)
        with listening(run, progress):
            return run_stages(request, run, without_prefect(), now=now)
    return _run_on_server(request, progress)


def _run_on_server(request: RunRequest, progress: Listener | None) -> RunReport:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    server.no_analytics()
    with closing(server.connect()) as connection:
        if progress is not None:
            progress(ProgressEvent(stage="server", message=f"starting at {connection.ui_url}"))
        # A request that cannot work fails here, while the server is still on its way.
        ingest.survey(request, None, "")
        connection.wait()
        if progress is not None:
            progress(ProgressEvent(stage="server", message=f"Prefect at {connection.ui_url}", done=1.0, total=1.0))
        token = _listener.set(progress)
        try:
            with quiet_console(), temporary_settings({PREFECT_API_URL: connection.api_url}):
                try:
                    return pipeline(
                        source=request.source,
                        archive=request.archive,
                        tolerance=request.tolerance,
                        training=request.training,
                        encoding=request.encoding,
                        verification=request.verification,
                        update=request.update,
                    )
                finally:
                    drain()
        finally:
            _listener.reset(token)


class RunLogHandler(APILogHandler):
    """Sends a record to the page of the run it was logged in; records from outside a run are not Prefect's business."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if in_prefect_run():
            super().emit(record)


def show_logs() -> None:
    """Let the standard-library loggers of the three packages reach the UI, from the level INFO on."""
    for name in ("flows", "storage", "vae_core"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, RunLogHandler) for handler in logger.handlers):
            logger.addHandler(RunLogHandler())
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)


@contextmanager
def quiet_console() -> Iterator[None]:
    """Keep Prefect's log lines off the terminal, where the progress of the run is; the UI still gets them."""
    handlers = [
        handler
        for logger in (logging.getLogger(), *(logging.getLogger(name) for name in ("prefect", "uvicorn", "fastapi")))
        for handler in logger.handlers
        if isinstance(handler, PrefectConsoleHandler)
    ]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def drain() -> None:
    """Hand every log line and event still queued in this process to the server, so that nothing of the run is lost."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=30.0, at_exit=False)
