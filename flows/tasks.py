"""The stages as Prefect tasks and flows: thin skins over the plain functions, four lines each.

They hand each other references: the name of the run, a digest, counts. Never a table, never a tensor.
"""

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows import assemble
from flows.encode import PartPlan, PartResult, default_workers, encode_all, part
from flows.html import markdown
from flows.progress import Progress
from flows.proof import ShardProof
from flows.report import RunReport
from flows.retrying import RETRIES, on_passing_errors
from flows.settings import RunRequest
from flows.stages import Stages
from flows.survey import survey_run
from flows.table import error_text, tolerance_text
from flows.train import learn_run
from flows.verify import Staged, shard, verify_all
from flows.words import human_bytes, human_saving

SAVINGS_ARTIFACT = "latentpack-savings"
COLUMNS_ARTIFACT = "latentpack-columns"

SKIN: dict[str, Any] = {**RETRIES, "retry_condition_fn": on_passing_errors, "cache_policy": NO_CACHE, "persist_result": False}
POOL: Any = ThreadPoolTaskRunner(max_workers=default_workers())


@task(name="survey", task_run_name="survey-{run}", **SKIN)
def survey_task(request: RunRequest, run: str, created_at: str) -> str:
    """Compare source and archive; the decision is left in the run's folder and stated here."""
    return survey_run(request, run, created_at)


@flow(name="latentpack-ingest", flow_run_name="ingest-{run}", persist_result=False)
def ingest(request: RunRequest, run: str, created_at: str) -> str:
    """Look at the source and decide what there is to do."""
    return survey_task(request, run, created_at)


@task(name="learn", task_run_name="learn-{run}", **SKIN)
def learn_task(request: RunRequest, run: str) -> str:
    """Fit, keep or refresh; returns the digest of the model, which is in the archive."""
    return learn_run(request, run)


@flow(name="latentpack-train", flow_run_name="train-{run}", persist_result=False)
def train(request: RunRequest, run: str) -> str:
    """Learn the dataset, or take the stored model if it still fits."""
    return learn_task(request, run)


@task(name="encode-part", task_run_name="encode-{planned.name}", tags=["latentpack-encode"], **SKIN)
def encode_part(planned: PartPlan, request: RunRequest) -> PartResult:
    """Encode one part of the source into a staged shard."""
    return part(planned, request)


@flow(name="latentpack-encode", flow_run_name="encode-{run}", persist_result=False, task_runner=POOL)
def encode(request: RunRequest, run: str) -> int:
    """Encode the parts of the source, several at a time; returns the number of shards."""
    return encode_all(request, run, lambda parts, progress: gather([encode_part.submit(planned, request) for planned in parts], progress))


@task(name="verify-shard", task_run_name="verify-{staged.planned.name}", tags=["latentpack-verify"], **SKIN)
def verify_shard(staged: Staged, request: RunRequest) -> ShardProof:
    """Decode one staged shard in full and compare it with the source."""
    return shard(staged, request)


@flow(name="latentpack-verify", flow_run_name="verify-{run}", persist_result=False, task_runner=POOL)
def verify(request: RunRequest, run: str) -> int:
    """Decode every new shard and compare it with the source; returns the number of rows proved."""
    return verify_all(request, run, lambda parts, progress: gather([verify_shard.submit(staged, request) for staged in parts], progress))


@task(name="commit", task_run_name="commit-{run}", **SKIN)
def commit(request: RunRequest, run: str) -> int:
    """Make the staged shards the next snapshot; returns its number."""
    return assemble.commit_run(request, run)


@task(name="retain", task_run_name="retain-{run}", **SKIN)
def retain(request: RunRequest, run: str) -> int:
    """Remove the snapshots beyond those to keep; returns how many."""
    return assemble.retain_run(request, run)


@task(name="report", task_run_name="report-{run}", **SKIN)
def report(request: RunRequest, run: str, seconds: dict[str, float], ui_url: str) -> RunReport:
    """Write the report beside the archive and show it in the UI."""
    found = assemble.report_run(request, run, seconds, ui_url)
    show(found)
    return found


def gather(futures: list[Any], progress: Progress) -> list[Any]:
    """The results of mapped tasks, in order; the first failure is raised as itself, the rest called off."""
    results = []
    for future in futures:
        try:
            results.append(future.result())
        except BaseException:
            for other in futures:
                getattr(other, "cancel", lambda: None)()
            raise
        progress.add(float(results[-1].n_rows), f"{len(results)} of {len(futures)} shards")
    return results


def with_prefect(request: RunRequest) -> Stages:
    """The stages as flows and tasks; encode and verify run as many tasks at a time as the request says."""
    workers = request.encoding.workers or default_workers()
    return Stages(
        ingest=ingest,
        train=train,
        encode=_with_workers(encode, workers),
        verify=_with_workers(verify, workers),
        commit=commit,
        retain=retain,
        report=report,
    )


def _with_workers(stage: Any, workers: int) -> Any:
    """The flow with this many threads, unless somebody has given it another task runner."""
    if not isinstance(stage.task_runner, ThreadPoolTaskRunner):
        return stage
    return stage.with_options(task_runner=ThreadPoolTaskRunner(max_workers=workers))


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
                "tolerance": tolerance_text(column),
                "worst error": error_text(column),
                "violations": column.violations,
            }
            for column in report.columns
        ],
    )
