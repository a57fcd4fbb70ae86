"""Train: a model for a new archive, the stored one for new files, or the stored one refreshed after drift.

What came out is a `Trained`, a small JSON document in the run's folder; the model itself is in the archive, staged.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from flows import ingest
from flows.ingest import APPEND, REPLACE, Plan, run_folder
from flows.progress import Progress
from flows.settings import RunRequest
from storage.entries import ModelRef
from storage.leaves import Leaves
from storage.manifest import Manifest
from storage.objects import ObjectStore
from storage.shards import load_records
from storage.sources import Source
from storage.writer import load_model, stage_model
from vae_core.columns import TableProfile
from vae_core.fitting import fit, refresh
from vae_core.model import FitConfig, FitResult, Model, Sample
from vae_core.shard import Measure, encode_shard
from vae_core.tolerance import Tolerance, resolve

log = logging.getLogger(__name__)

KEPT, FITTED, REFRESHED = "kept", "fitted", "refreshed"
PROBE_ROWS = 65_536


class Trained(BaseModel):
    """What training came to.

    how            : "fitted" from scratch, "kept" as stored, "refreshed" after drift
    model          : ModelRef as JSON
    row_bytes      : Arrow bytes of a row, on average
    curve, summary : the codec's own account of the fit; empty when kept
    drift_ratio    : bits per value of new data over the model's own figure; None when there is nothing to compare
    targets        : column -> the root mean square error it may have, for columns with a distortion target
    """

    model_config = ConfigDict(frozen=True)

    how: str
    model: dict[str, Any]
    row_bytes: float
    curve: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    drift_ratio: float | None = None
    targets: dict[str, float] = {}

    @property
    def ref(self) -> ModelRef:
        """The model to encode with."""
        return ModelRef.from_json(self.model, "run folder")

    def save(self, run: str) -> None:
        """Write into the run's folder."""
        run_folder(run).joinpath("train.json").write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def load(cls, run: str) -> "Trained":
        """What training of a run came to."""
        return cls.model_validate_json(run_folder(run).joinpath("train.json").read_text(encoding="utf-8"))


def learn_run(request: RunRequest, run: str) -> str:
    """Fit, keep or refresh for a run, and leave what came out in its folder; returns the digest of the model."""
    progress = Progress(
        run,
        "train",
        total=request.training.time_budget_s or MOST_SECONDS,
        artifact_key="latentpack-training",
        description="bits per row, falling",
    )
    trained = learn(request, Plan.load(run), progress)
    trained.save(run)
    progress.finish(f"model {trained.how}: {trained.ref.n_bytes:,} bytes")
    return trained.ref.digest


def learn(request: RunRequest, plan: Plan, progress: Progress) -> Trained:
    """Fit, keep or refresh, by the plan. The model is staged in the archive. Raises BadInput, CorruptArchive."""
    with ingest.source_of(request.source, plan.run) as source:
        told = len(source.notes)
        trained = _learn(request, plan, source, progress)
        for note in source.notes[told:]:
            log.warning("%s", note)
        return trained


def _learn(request: RunRequest, plan: Plan, source: Source, progress: Progress) -> Trained:
    store = ingest.store_of(request.archive)
    manifest = ingest.latest_manifest(request.archive)
    if plan.decision in (APPEND, REPLACE) and manifest is not None and manifest.models:
        return _keep_or_refresh(request, plan, source, store, manifest, progress)
    profile, row_bytes = profiled(source, set(plan.encode), progress)
    tolerances = resolved(plan, profile, source.leaves)
    sample = sampled(source, request, row_bytes)
    result = fit(sample, profile, source.schema, tolerances, fit_config(request, profile), progress=_listener(progress))
    targets = {name: tolerance.value for name, tolerance in tolerances.items() if tolerance.is_distortion}
    return _staged(FITTED, result, store, row_bytes, targets)


def _keep_or_refresh(request: RunRequest, plan: Plan, source: Source, store: Any, manifest: Manifest, progress: Progress) -> Trained:
    ref = manifest.models[-1]
    row_bytes = float(manifest.extra.get("row_bytes", 0.0)) or 64.0
    targets: dict[str, float] = manifest.extra.get("targets", {})
    if not plan.encode:
        return Trained(how=KEPT, model=ref.to_json(), row_bytes=row_bytes, targets=targets)
    model = load_model(store, ref)
    drifted = drift(model, probed(source, request, plan, row_bytes), baseline(store, ref.digest, manifest), targets)
    ratio = drifted.ratio
    if ratio is None or ratio <= 1.0 + request.training.drift_threshold:
        log.info(
            "model %s fits the new data: drift %s",
            ref.digest[:12],
            "unknown" if ratio is None else f"{ratio - 1.0:+.1%}",
        )
        return Trained(how=KEPT, model=ref.to_json(), row_bytes=row_bytes, drift_ratio=ratio, targets=targets)
    log.info("model %s costs %+.1f %% on the new data: refreshing", ref.digest[:12], 100.0 * (ratio - 1.0))
    profile, row_bytes = profiled(source, set(plan.encode), progress)
    sample = sampled(source, request, row_bytes, plan.encode)
    beyond = drifted.targets_ratio is not None and drifted.targets_ratio > 1.0 + request.training.drift_threshold
    again = targets if beyond else {}
    result = refresh(model, sample, profile, fit_config(request, profile), progress=_listener(progress), targets=again)
    return _staged(REFRESHED, result, store, row_bytes, targets, ratio)


def profiled(source: Source, paths: set[str], progress: Progress) -> tuple[TableProfile, float]:
    """(profile of every row of these files, Arrow bytes of a row), in one streaming pass."""
    profile, n_rows, n_bytes = TableProfile(source.schema), 0, 0
    for part in parts_of(source, [file.path for file in source.files if file.path in paths], ROWS_A_PART):
        for batch in source.batches(part):
            profile.update(batch)
            n_rows += batch.num_rows
            n_bytes += batch.nbytes
            progress.at(0.0, f"profiled {n_rows:,} rows")
    profile.finish()
    return profile, n_bytes / n_rows if n_rows else 64.0


ROWS_A_PART = 4_194_304
LEAST_SECONDS, MOST_SECONDS, SECONDS_A_CELL = 90.0, 240.0, 7.5e-6  # of training


def parts_of(source: Source, paths: list[str], target_rows: int) -> list[Any]:
    """Parts of at most about target_rows rows, none of which reaches across a file that is not among `paths`."""
    wanted, groups = set(paths), list[list[str]]()
    previous = False
    for file in source.files:
        if file.path in wanted:
            if not previous:
                groups.append([])
            groups[-1].append(file.path)
        previous = file.path in wanted
    return [part for group in groups for part in source.parts(target_rows, set(group))]


def resolved(plan: Plan, profile: TableProfile, leaves: Leaves) -> dict[str, Tolerance]:
    """The tolerances of a plan in column units; shares are of the range of all elements of a vector."""
    return {name: resolve(tolerance, profile.spanning(leaves.together(name))) for name, tolerance in ingest.asked_for(plan).items()}


def sample_rows(request: RunRequest, row_bytes: float) -> int:
    """How many rows to train on: bounded by count and by memory."""
    return max(1, min(request.training.sample_rows, int(request.training.sample_bytes / max(row_bytes, 1.0))))


def sampled(source: Source, request: RunRequest, row_bytes: float, only: list[str] | None = None) -> Sample:
    """The rows to train on, of all files or of those in `only`: all of a small dataset, runs from across all of a large one."""
    drawn = source.sample(sample_rows(request, row_bytes), request.training.seed, only=only)
    return Sample(drawn.table, drawn.runs)


def probed(source: Source, request: RunRequest, plan: Plan, row_bytes: float) -> pa.Table:
    """The rows drift is measured on: runs from across all new files, for contexts are of rows one after another."""
    n_rows = min(PROBE_ROWS, sample_rows(request, row_bytes))
    return source.sample(n_rows, request.training.seed, only=plan.encode).table


def time_budget_s(request: RunRequest, profile: TableProfile) -> float:
    """What was asked for; else more for a large dataset, whose bytes are worth a longer search, up to a bound."""
    asked = request.training.time_budget_s
    n_cells = profile.n_rows * len(profile.schema)
    return asked if asked is not None else min(MOST_SECONDS, max(LEAST_SECONDS, n_cells * SECONDS_A_CELL))


def fit_config(request: RunRequest, profile: TableProfile) -> FitConfig:
    """The codec's settings out of the request's."""
    return FitConfig(
        seed=request.training.seed,
        time_budget_s=time_budget_s(request, profile),
        preview=request.training.preview_share,
        favour=request.training.favour,
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def baseline(store: ObjectStore, model: str, parent: Manifest | None) -> dict[str, float]:
    """Bits per value by column over the first data a model encoded, what drift is measured against; empty for a new model.

    The first snapshot with a model does not state it, for the records of its shards do; those that build on it do.
    """
    if parent is None:
        return {}
    known = parent.extra.get("bits_per_value", {}).get(model)
    if isinstance(known, list):
        return {name: float(bits) for name, bits in zip(parent.schema.names, known, strict=True) if bits is not None}
    if known:  # before format 1.5
        return dict(known)
    rows, bits = Counter[str](), dict[str, float]()
    for entry in load_records(store, [shard for shard in parent.shards if shard.model == model], parent.schema.names):
        for name, value in entry.bits_per_value.items():
            rows[name] += entry.n_rows
            bits[name] = bits.get(name, 0.0) + value * entry.n_rows
    return {name: float(f"{bits[name] / n_rows:.4g}") for name, n_rows in rows.items() if n_rows}


@dataclass(frozen=True, slots=True)
class Drift:
    """What new data costs over what the data a model was made for does; None without a figure.

    ratio : bits per value of all columns that have one    targets_ratio : of the columns with a distortion target alone
    """

    ratio: float | None = None
    targets_ratio: float | None = None


def drift(model: Model, rows: pa.Table, first: Mapping[str, float], targets: Mapping[str, float]) -> Drift:
    """The drift of new rows.

    first   : column -> bits per value over the data the model was trained on
    targets : column -> the root mean square error it may have
    """
    if not rows.num_rows or not first:
        return Drift()
    probe = encode_shard(model, rows, preview=False, targets=targets, measure=Measure.IN_DOUBT)
    # A column the model no longer codes best has drifted: what it costs now is its conventional coding.
    now = {o.name: 8.0 * o.conventional_bytes / rows.num_rows for o in probe.outcomes} | dict(probe.bits_per_value)

    def ratio(names: list[str]) -> float | None:
        before = sum(first[name] for name in names)
        return sum(now[name] for name in names) / before if before > 0 else None

    return Drift(ratio(list(first)), ratio([name for name in first if name in targets]))


def _staged(how: str, result: FitResult, store: Any, row_bytes: float, targets: dict[str, float], ratio: float | None = None) -> Trained:
    ref = stage_model(store, result.model.to_files(with_schema=False), result.model.schema)
    log.info("%s model %s: %d bytes", how, ref.digest[:12], ref.n_bytes)
    return Trained(
        how=how,
        model=ref.to_json(),
        row_bytes=row_bytes,
        curve=result.curve,
        summary=result.summary,
        drift_ratio=ratio,
        targets=targets,
    )


def _listener(progress: Progress) -> Callable[[Any], None]:
    """What the codec says while it trains, as news of the run. Takes an event object or a dict of the curve's keys."""

    def hear(event: Any) -> None:
        get = event.get if isinstance(event, Mapping) else lambda name, default=None: getattr(event, name, default)
        stage, bits = get("stage") or "", get("held_out_bits_per_row")
        message = f"{stage}: {bits:.1f} bits a row on held-out rows" if bits is not None else str(stage)
        progress.at(get("seconds") or 0.0, message, bits_per_row=get("bits_per_row"), held_out_bits_per_row=bits)

    return hear
