"""The stages of a run in their order: ingest, train, encode, verify, commit, report. No Prefect here.

What passes between the stages is the name of the run; its folder holds their small JSON documents, the archive the rest.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from flows import assemble, encode, ingest, train, verify
from flows.abandoned import at_work, remove_abandoned
from flows.ingest import NOTHING, Plan
from flows.progress import tell
from flows.report import ProgressEvent, RunReport
from flows.settings import RunRequest
from flows.survey import survey_run
from vae_core.errors import Conflict, CorruptArchive

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stages:
    """How the stages are run: as Prefect flows, or as the plain functions under them."""

    ingest: Callable[[RunRequest, str, str], str]
    train: Callable[[RunRequest, str], str]
    encode: Callable[[RunRequest, str], int]
    verify: Callable[[RunRequest, str], int]
    commit: Callable[[RunRequest, str], int]
    retain: Callable[[RunRequest, str], int]
    report: Callable[[RunRequest, str, dict[str, float], str], RunReport]


def plain() -> Stages:
    """The stages as plain functions, one part at a time."""
    return Stages(
        ingest=survey_run,
        train=train.learn_run,
        encode=lambda request, run: encode.encode_all(request, run, encode.one_by_one(lambda planned: encode.part(planned, request))),
        verify=lambda request, run: verify.verify_all(request, run, encode.one_by_one(lambda staged: verify.shard(staged, request))),
        commit=assemble.commit_run,
        retain=assemble.retain_run,
        report=assemble.report_run,
    )


def run_stages(request: RunRequest, run: str, stages: Stages, *, now: datetime, ui_url: str = "") -> RunReport:
    """All stages in order. Nothing shows in the archive before the commit; a failure leaves it as it was."""
    remove_abandoned(now)
    with at_work(run):
        return _run_stages(request, run, stages, now, ui_url)


def _run_stages(request: RunRequest, run: str, stages: Stages, now: datetime, ui_url: str) -> RunReport:
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
            decision = stages.ingest(request, run, ingest.timestamp(now))
        plan = Plan.load(run)
        log.info("%s: %s", request.source.uri, plan.statement)
        tell(run, ProgressEvent(stage="ingest", message=plan.statement, done=1.0, total=1.0))
        if decision != NOTHING:
            with timed("train", "profiling"):
                stages.train(request, run)
            with timed("encode", "planning"):
                stages.encode(request, run)
            seconds |= encode.apart(run, seconds["encode"])
            with timed("verify", "decoding"):
                stages.verify(request, run)
            with timed("commit", "committing"):
                number = stages.commit(request, run)
            log.info("committed snapshot %d of %s", number, request.archive.uri)
        if request.update.keep_snapshots is not None:
            n_removed = stages.retain(request, run)
            log.info("%d snapshots kept at most, %d removed", request.update.keep_snapshots, n_removed)
        tell(run, ProgressEvent(stage="report", message="measuring"))
        seconds["total"] = time.monotonic() - began
        report = stages.report(request, run, seconds, ui_url)
        log.info("%d rows, %d bytes stored as %d. %s", report.rows, report.raw_bytes, report.archive_bytes, report.verdict)
        return report
    except CorruptArchive as error:
        newest = ingest.latest_manifest(request.archive)
        parent = _parent(run)
        if newest is None or newest.run == run or parent in (None, newest.snapshot):
            raise
        # what it built on has gone from under it, shards and all
        raise Conflict(
            f"{request.archive.uri}: snapshot {newest.snapshot} was committed by run {newest.run or 'unnamed'} while this run built on "
            f"snapshot {parent}; nothing was committed here, run again ({error})"
        ) from error
    finally:
        ingest.discard_run_folder(run)


def _parent(run: str) -> int | None:
    """The snapshot a run builds on; None before its plan is made, and for a first one."""
    try:
        return Plan.load(run).parent
    except OSError:
        return None
