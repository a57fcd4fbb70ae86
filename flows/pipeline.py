"""The flows people start: `pipeline` composes the stages, `check_archive` proves an archive that is there already.

`flows.launch.run_pipeline` runs the pipeline from a command line; a deployment runs it from the UI, a schedule or an event.
"""

import contextvars
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import flow, tags
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from prefect.runtime import flow_run as current_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import Field

from flows import ingest
from flows.leftovers import clear_up
from flows.progress import Listener, in_prefect_run, listening
from flows.report import RunReport
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
from flows.stages import run_stages
from flows.tasks import with_prefect
from flows.verify import verify_archive
from vae_core.errors import VerificationFailed

TAG = "latentpack"

_listener: contextvars.ContextVar[Listener | None] = contextvars.ContextVar("latentpack_listener", default=None)


def _run_name() -> str:
    parameters = current_run.parameters
    source, archive = parameters.get("source"), parameters.get("archive")
    return f"{_place(source)} → {_place(archive)}"


def _place(settings: object) -> str:
    uri = settings.get("uri", "") if isinstance(settings, dict) else getattr(settings, "uri", "")
    return str(uri).rstrip("/").rsplit("/", 1)[-1] or "?"


@contextmanager
def _tagged(archive: ArchiveSettings) -> Iterator[None]:
    """Tags of this run and of the runs and tasks it starts: ours, and the name of the archive.

    A deployment gives a run its own tags before the archive is known, so a run that lacks some is given them here.
    """
    wanted, run_id = {TAG, _place(archive)}, current_run.get_id()
    found = set(current_run.get_tags())
    if run_id and not wanted <= found:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(run_id), tags=sorted(found | wanted))
    with tags(*wanted):
        yield


HOOKS: dict[str, Any] = {"on_cancellation": [clear_up], "on_crashed": [clear_up]}


@flow(name="latentpack", flow_run_name=_run_name, persist_result=False, validate_parameters=True, **HOOKS)
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
    with _tagged(archive), listening(run, _listener.get()):
        return run_stages(request, run, with_prefect(request), now=now, ui_url=_ui_url())


def _ui_url() -> str:
    return str(current_run.get_flow_run_ui_url() or "") if current_run.get_id() else ""


@flow(name="latentpack-check-archive", flow_run_name="check-{archive.uri}", persist_result=False)
def check_archive(
    archive: ArchiveSettings, source: SourceSettings | None = None, sample: float = Field(default=1.0, gt=0, le=1)
) -> dict[str, Any]:
    """Check every digest of an archive, decode it, and compare it with its source if one is named."""
    show_logs()
    with _tagged(archive):
        result = verify_archive(
            archive.uri,
            None if source is None else source.uri,
            sample,
            credentials=archive.credentials,
            source_credentials=None if source is None else source.credentials,
            widen=source is not None and source.widen,
        )
    create_markdown_artifact(
        key="latentpack-check",
        description=archive.uri,
        markdown=f"## {archive.uri}\n\n{result['rows']:,} rows in {result['blocks']} blocks decoded, "
        f"{result['objects']} objects ({result['bytes']:,} bytes) match their digests; "
        f"{result['violations']} violations, {result['mismatches']} mismatches.",
    )
    if result["violations"] or result["mismatches"]:
        raise VerificationFailed(f"{archive.uri}: {result['violations']} values outside their tolerance, {result['mismatches']} differ")
    return {name: result[name] for name in ("rows", "blocks", "violations", "mismatches", "digest")}


def run_here(request: RunRequest, api_url: str, progress: Listener | None) -> RunReport:
    """Run the pipeline in this process, on a Prefect server that answers; every log line and event reaches it."""
    token = _listener.set(progress)
    try:
        with quiet_console(), temporary_settings({PREFECT_API_URL: api_url}), tags(TAG, _place(request.archive)):
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
