"""Survey: the first stage of a run. What ingest decides, and whether it can be done and keeps what was promised.

Tolerances that are shares of a column's range keep their promise as ranges grow, for the bound is of the smaller one. Where files were
replaced or dropped, a bound made of a range that is no longer there may be too loose: the range of what is left is measured, and if the
archive's bound is beyond what was asked for, all of it is encoded again under a new one.
"""

import logging

import pyarrow as pa

from flows import ingest
from flows.ingest import NOTHING, REPLACE, SHARES, Plan
from flows.settings import DROP_MISSING, RunRequest
from storage.archive import Archive
from storage.leaves import Recipe
from storage.manifest import Manifest
from storage.shards import load_records
from storage.sources import Source
from storage.writer import check_writable
from vae_core.columns import TableProfile
from vae_core.errors import BadInput
from vae_core.tolerance import Tolerance, resolve

log = logging.getLogger(__name__)

SLACK = 1e-6  # bounds are stored to eight digits
OFF = {"relative": 2.0, "rmse_relative": 10.0, "psnr": 10.0}  # bounds by which the range of decoded rows, both ends, may be short


def survey_run(request: RunRequest, run: str, created_at: str) -> str:
    """Decide what a run will do, and leave the plan in the run's folder; returns the decision."""
    plan = held_to_ranges(request, run, ingest.survey(request, run, created_at))
    if plan.decision != NOTHING:
        check_writable(ingest.store_of(request.archive))
    plan.save()
    log.info("%s", plan.statement)
    return plan.decision


def held_to_ranges(request: RunRequest, run: str, plan: Plan) -> Plan:
    """The plan as it is, or that of a new generation where a bound of the archive is too loose for the rows that are left.

    Raises BadInput where these are partly of files that have gone, and cannot be encoded again.
    """
    manifest = ingest.latest_manifest(request.archive)
    shares = {name: asked for name, asked in ingest.asked_for(plan).items() if asked.kind in SHARES}
    if plan.decision != REPLACE or manifest is None or not shares:
        return plan
    archive = Archive.open(ingest.store_of(request.archive))
    with ingest.source_of(request.source, run, recipe=Recipe.from_json(plan.leaves)) as source:
        left, is_decoded = _left(plan, archive, source, list(shares))
        loose = _loose(shares, archive, left, is_decoded)
        if loose is None:
            return plan
        if plan.missing and not request.update.drop_missing:
            raise BadInput(
                f"{loose}, and {plan.missing[0]}, which has vanished from the source, cannot be encoded again: bring it back, or let its"
                f" rows go by {DROP_MISSING}"
            )
        log.warning("%s: everything is encoded again", loose)
        return ingest.new_generation(plan, manifest, [file.path for file in source.files], f"{loose}; all of it encoded again")


def _left(plan: Plan, archive: Archive, source: Source, names: list[str]) -> tuple[TableProfile, bool]:
    """The profile of some columns over the rows of the next snapshot, and whether there are some whose file has gone: these are known
    within their bound alone."""
    manifest: Manifest = archive.manifest
    names = list(dict.fromkeys(leaf for name in names for leaf in source.leaves.together(name)))
    profile = TableProfile(pa.schema([source.schema.field(name) for name in names]))
    for batch in source.batches():
        profile.update(batch.select(names))
    kept, missing, first = set(plan.kept_shards), set(plan.missing), 0
    is_decoded = False
    for entry in load_records(archive.store, manifest.shards, manifest.schema.names):
        if entry.record.path in kept and any(piece.path in missing for piece in entry.sources):
            for batch in archive.leaf_batches(names, rows=(first, first + entry.n_rows)):
                profile.update(batch)
            is_decoded = True
        first += entry.n_rows
    return profile.finish(), is_decoded


def _loose(shares: dict[str, Tolerance], archive: Archive, left: TableProfile, is_decoded: bool) -> str | None:
    """Which column's bound is beyond what was asked for, and by what range; None for none."""
    targets: dict[str, float] = archive.manifest.extra.get("targets", {})
    plans = {plan.name: plan for plan in archive.newest_model().columns}
    for name, asked in shares.items():
        stored = targets.get(name, plans[name].tolerance.value)
        column = left.spanning(archive.leaves.together(name))
        now, span = resolve(asked, column).value, column.value_range
        share = now / span if span else 0.0
        if now + share * OFF[asked.kind] * stored * is_decoded < stored * (1.0 - SLACK):
            return f"column {name!r}: the range of the rows that are left is {span:g}, {asked} of that is {now:g}, stored within {stored:g}"
    return None
