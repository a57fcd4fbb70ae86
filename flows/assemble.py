"""From staged shards to a snapshot, and from a snapshot to its report; the run's folder says what happened."""

import json
import logging
import math
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal
from typing import Any

import pyarrow as pa

from flows import ingest
from flows.accounts import Account, by_column, by_leaf, column_costs, column_reports, latent_report, models_of, preview_report
from flows.encode import load_results
from flows.html import html
from flows.ingest import GENERATION, NOTHING, UNORDERED, Plan, run_folder
from flows.plots import plots
from flows.proof import ShardProof
from flows.proved import errors_of, verification
from flows.report import (
    COMMITTED,
    NOTHING_TO_DO,
    DriftReport,
    OlderReport,
    RunReport,
    SecondsReport,
    TrainingPoint,
    TransferReport,
    VerificationReport,
)
from flows.settings import RETRAIN, RunRequest
from flows.train import REFRESHED, Trained, baseline
from flows.verify import load_proofs
from storage.archive import Archive
from storage.coverage import miscounted
from storage.entries import ModelRef, Proof, SourceRecord
from storage.ledger import bytes_by_part, column_totals, report_bytes
from storage.manifest import Manifest
from storage.objects import ObjectStore
from storage.shards import ShardEntry, load_records
from storage.snapshots import load_readable, undisturbed
from storage.vacuum import held_by_older
from storage.writer import commit, vacuum
from vae_core.errors import VerificationFailed

log = logging.getLogger(__name__)


def commit_run(request: RunRequest, run: str) -> int:
    """Name what a run staged and proved in the next snapshot. Raises Conflict when another run was first.

    Safe to call again: a retry after the commit itself went through finds its own snapshot.
    """
    store, plan = ingest.store_of(request.archive), Plan.load(run)
    before = ingest.latest_manifest(request.archive)
    if before is not None and before.run == run:
        return before.snapshot
    parent = before if before is not None and before.snapshot == plan.parent else None
    with ingest.source_of(request.source, run) as source:
        schema, paths = source.schema, [file.path for file in source.files]
    return commit(store, draft(store, plan, parent, request, run, schema, paths))


def retain_run(request: RunRequest, run: str) -> int:
    """Remove all but the newest snapshots, as many as the request keeps, and what no other names. Returns how many went."""
    store, keep = ingest.store_of(request.archive), request.update.keep_snapshots
    return 0 if keep is None or ingest.latest_manifest(request.archive) is None else len(vacuum(store, keep=keep).snapshots)


def draft(
    store: ObjectStore,
    plan: Plan,
    parent: Manifest | None,
    request: RunRequest,
    run: str,
    schema: pa.Schema,
    paths: Sequence[str],
) -> Manifest:
    """The manifest of a run, not yet numbered."""
    trained = Trained.load(run)
    of_kept = set(plan.kept_shards)
    kept = [shard for shard in (parent.shards if parent else ()) if shard.record.path in of_kept]
    new = [result.shard for result in load_results(run)]
    entries = in_source_order(load_records(store, [*kept, *new], schema.names), paths)
    sources = sources_of(run, plan, parent, request.update.drop_missing)
    if wrong := miscounted(entries, sources):
        raise VerificationFailed(f"{wrong}; nothing was committed. Encode all of it again by {RETRAIN}")
    schema = parent.schema if parent and kept else schema
    proofs = {shard.id: shard.proof for shard in kept if shard.proof} | proofs_of(load_proofs(run), schema.names)
    shards = tuple(replace(entry.ref, proof=proofs.get(entry.id)) for entry in entries)
    used = {shard.model for shard in shards} | {trained.ref.digest}
    known: dict[str, ModelRef] = {model.digest: model for model in (parent.models if parent else ())}
    known.pop(trained.ref.digest, None)
    models = (*(model for digest, model in known.items() if digest in used), trained.ref)
    costs, plain = column_costs(store, entries, models_of(store, models)), column_totals(entries)
    shared = {name: {"bytes": cost["bytes"]} for name, cost in costs.items() if cost["bytes"] != plain[name]["bytes"]}
    before = baseline(store, trained.ref.digest, parent)
    return Manifest(
        schema=schema,
        models=models,
        shards=shards,
        parent=plan.parent or 0,
        created_at=plan.created_at,
        run=run,
        source=request.source.uri,
        tolerances=plan.tolerances,
        sources=sources,
        ledger={"columns": shared} if shared else {},
        verification={"rows": sum(proof.n_rows for proof in load_proofs(run)), "violations": 0, "mismatches": 0},
        extra={
            "row_bytes": round(trained.row_bytes, 3),
            **({UNORDERED: True} if is_unordered(entries, paths) else {}),
            **({"targets": trained.targets} if trained.targets else {}),
            **({"bits_per_value": {trained.ref.digest: [before.get(name) for name in schema.names]}} if before else {}),
        },
        chapters=parent.chapters if parent and kept else (),
    )


def in_source_order(entries: Sequence[ShardEntry], paths: Sequence[str]) -> list[ShardEntry]:
    """Shards in the order of their rows in the source; files that vanished keep their place by name."""
    position = places(entries, paths)
    return sorted(
        entries,
        key=lambda entry: (position[entry.sources[0].path], entry.sources[0].start) if entry.sources else (-1, 0),
    )


def is_unordered(entries: Sequence[ShardEntry], paths: Sequence[str]) -> bool:
    """Whether rows come back in another order than the source has, or would have with its vanished files back: files of other shards
    fall between those of one."""
    return bool(ingest.divided([{piece.path for piece in entry.sources} for entry in entries], places(entries, paths)))


def places(entries: Sequence[ShardEntry], paths: Sequence[str]) -> dict[str, int]:
    """Path -> its place in the source's order, also of files that vanished and left rows: by name where that is the order, else behind."""
    names = {piece.path for entry in entries for piece in entry.sources} | set(paths)
    ordered = sorted(names) if list(paths) == sorted(paths) else [*paths, *sorted(names - set(paths))]
    return {path: number for number, path in enumerate(ordered)}


def sources_of(run: str, plan: Plan, parent: Manifest | None, drop_missing: bool) -> tuple[SourceRecord, ...]:
    """The fingerprints of every file whose rows the snapshot holds."""
    # a file without rows is in no shard, kept or not
    records = {record.path: record for record in (parent.sources if parent and plan.decision != GENERATION else ())}
    for path in plan.missing if drop_missing else []:
        records.pop(path, None)
    for file in json.loads(run_folder(run).joinpath("files.json").read_text(encoding="utf-8")):
        for name in ("format", "stamp"):
            file.pop(name)
        records[file["path"]] = SourceRecord(**file)
    return tuple(records[path] for path in sorted(records))


def proofs_of(proofs: Sequence[ShardProof], names: Sequence[str]) -> dict[str, Proof]:
    """What a snapshot keeps of the proofs of a run, by shard: digests, and errors of the columns `names` to three digits, rounded up."""
    found = {}
    for proof in proofs:
        errors = {name: (rounded_up(worst), rounded_up(rmse), n) for name, (worst, rmse, n) in errors_of(proof).items()}
        found[proof.shard] = Proof.of(proof.digest, errors, names)
    return found


def rounded_up(error: float) -> float:
    """The smallest number of three digits that is not below an error >= 0: all its digits, a column and shard, would weigh much."""
    exact = Decimal(error)
    unit = Decimal(1).scaleb(exact.adjusted() - 2)
    return float((exact / unit).to_integral_value(ROUND_CEILING) * unit) if math.isfinite(error) and error > 0 else error


def report_run(request: RunRequest, run: str, seconds: Mapping[str, float], ui_url: str = "") -> RunReport:
    """Measure the archive as it now is and write the report beside it."""
    store, plan = ingest.store_of(request.archive), Plan.load(run)
    archive = Archive.open(store)
    report = assemble_report(request, plan, archive, seconds, ui_url)
    return with_report_made_up(store, archive.manifest, report) if plan.decision == NOTHING else write_report(store, report, run)


def report_nothing(request: RunRequest, plan: Plan, seconds: Mapping[str, float]) -> RunReport:
    """The report of a run that has nothing to do: the archive as it is. Nothing is written but a report that is missing."""
    archive = Archive.open(ingest.store_of(request.archive))
    return with_report_made_up(archive.store, archive.manifest, assemble_report(request, plan, archive, seconds))


def assemble_report(request: RunRequest, plan: Plan, archive: Archive, seconds: Mapping[str, float], ui_url: str = "") -> RunReport:
    """The report of a run over the newest snapshot of its archive."""
    manifest, store = archive.manifest, archive.store
    entries = archive.entries()
    parts, older, note = undisturbed(store, lambda: costs_and_note(store, manifest))
    nothing = plan.decision == NOTHING
    trained = None if nothing else Trained.load(plan.run)
    proofs = [] if nothing else load_proofs(plan.run)
    model = archive.newest_model() if manifest.models else None
    summary = trained.summary if trained else {}
    account = Account(store, entries, archive.model, model, proofs, summary)
    lines, leaves = column_reports(account, manifest), archive.leaves
    return RunReport(
        status=NOTHING_TO_DO if nothing else COMMITTED,
        run=plan.run,
        source=request.source.uri,
        archive=request.archive.uri,
        created_at=plan.created_at,
        writer=manifest.writer,
        statement=plan.statement,
        decision=plan.decision,
        rows=manifest.n_rows,
        note=note,
        n_new_rows=sum(proof.n_rows for proof in proofs),
        n_new_files=len(plan.encode),
        raw_bytes=sum(record.n_bytes for record in manifest.sources),
        arrow_bytes=round(float(manifest.extra.get("row_bytes", 0.0)) * manifest.n_rows),
        archive_bytes=sum(parts.values()),
        older=older,
        latents=parts["latents"],
        corrections=parts["corrections"],
        verbatim=parts["verbatim"],
        model=parts["model"],
        metadata=parts["metadata"],
        report_bytes=report_bytes(store),
        conventional_bytes=sum(outcome.conventional_bytes for entry in entries for outcome in entry.outcomes),
        columns=by_column(lines, leaves),
        leaves=by_leaf(lines, leaves),
        transfer=TransferReport(full_read_bytes=archive.plan_read(), preview_bytes=archive.plan_read(preview=True)),
        seconds=SecondsReport(**{name: seconds.get(name, 0.0) for name in SecondsReport.model_fields}),
        peak_rss_bytes=peak_rss_bytes(),
        snapshot=manifest.snapshot,
        model_digest=manifest.models[-1].digest if manifest.models else "",
        favours=model.favour if model else "",
        verification=VerificationReport(
            rows=sum(proof.n_rows for proof in proofs),
            digest=verification(manifest)["digest"],
            violations=sum(item["violations"] for proof in proofs for item in proof.columns.values()),
            mismatches=sum(item["mismatches"] for proof in proofs for item in proof.columns.values()),
        ),
        training=training_points(trained),
        latent=latent_report(account),
        preview=preview_report(account),
        drift=DriftReport(
            ratio=trained.drift_ratio if trained else None,
            threshold=request.training.drift_threshold,
            refreshed=trained is not None and trained.how == REFRESHED,
        ),
        ui_url=ui_url,
        summary=_json(summary),
    )


def with_report_made_up(store: ObjectStore, manifest: Manifest, report: RunReport) -> RunReport:
    """The report of a run that had nothing to do, after writing that of the newest snapshot where its run has left none.

    It tells what the archive tells. What it would say of the fit and its time went with the run's folder.
    """
    kinds = ("html", "json")
    if not manifest.run or all(store.exists(f"reports/{manifest.run}.{kind}") for kind in kinds):
        return report
    lost = f"the run that committed snapshot {manifest.snapshot} ended before writing its report, or somebody removed it"
    little = f"This report was made by a later run ({lost}): it knows nothing of training, of times, and of the preview's errors."
    made = report.model_copy(
        update={
            "status": COMMITTED,
            "run": manifest.run,
            "created_at": manifest.created_at,
            "statement": "made up for by a later run",
            "note": f"{report.note} {little}".lstrip(),
            "verification": report.verification.model_copy(update={"rows": int(manifest.verification.get("rows", 0))}),
        }
    )
    try:
        written = write_report(store, made, manifest.run)
    except OSError as error:
        note = f"Snapshot {manifest.snapshot} has no report ({lost}), and none could be written ({error})."
        return report.model_copy(update={"note": f"{report.note} {note} `latentpack info` shows the figures.".lstrip()})
    note = f"Snapshot {manifest.snapshot} had no report ({lost}); it is made up for now: {written.report_html}"
    return report.model_copy(update={"note": f"{report.note} {note}".lstrip(), "report_bytes": written.report_bytes})


def costs_and_note(store: ObjectStore, manifest: Manifest) -> tuple[dict[str, int], OlderReport, str]:
    """Bytes by part, those of older snapshots, and a sentence for each snapshot that cannot be read."""
    snapshots, damaged = load_readable(store)
    lines = [
        f"Snapshot {number} is damaged ({what}): `latentpack vacuum --keep N` lets it go, or bring the object back."
        for number, what in damaged.items()
    ]
    older_bytes, older_model_bytes = held_by_older(store, [*(one for one in snapshots if one.snapshot < manifest.snapshot), manifest])
    return bytes_by_part(store, manifest, snapshots), OlderReport(bytes=older_bytes, model=older_model_bytes), " ".join(lines)


def training_points(trained: Trained | None) -> list[TrainingPoint]:
    """The training curve, points that are numbers only."""
    if trained is None:
        return []
    names = ("step", "seconds", "bits_per_row", "held_out_bits_per_row", "stage")
    return [TrainingPoint(**{name: point[name] for name in names if point.get(name) is not None}) for point in map(_json, trained.curve)]


def write_report(store: ObjectStore, report: RunReport, run: str) -> RunReport:
    """Write reports/<run>.json and .html; the report states the bytes of all reports, its own two files included."""
    paths = {"json": f"reports/{run}.json", "html": f"reports/{run}.html"}
    base = report.report_bytes - sum(store.size(path) for path in paths.values() if store.exists(path))
    report = report.model_copy(update={"report_json": _place(store, paths["json"]), "report_html": _place(store, paths["html"])})
    drawn = plots(report)
    for _ in range(4):
        page = html(report, drawn).encode("utf-8")
        data = json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8")
        total = base + len(page) + len(data)
        if total == report.report_bytes:
            break
        report = report.model_copy(update={"report_bytes": total})
    store.write(paths["html"], page)
    store.write(paths["json"], data)
    return report


def _place(store: ObjectStore, path: str) -> str:
    """Where people find a report: a path, or the URI it was asked for."""
    return store.full_path(path) if os.path.isabs(store.full_path(path)) else f"{store.uri.rstrip('/')}/{path}"


def _json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Plain finite JSON values; anything else as text."""
    found: dict[str, Any] = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    return found


def peak_rss_bytes() -> int:
    """The most memory this process has had resident."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
