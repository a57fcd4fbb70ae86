"""Verify: read every new shard back from the store, decode it and hold it against the source, before the commit.

`verify_archive` does the same for an archive that is already there.
"""

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from flows import ingest
from flows.encode import PartPlan, PartResult, load_parts, load_results, model_of
from flows.ingest import Plan, run_folder
from flows.progress import Progress
from flows.proof import (
    RMSE_SLACK,
    ShardProof,
    decoded_blocks,
    describe,
    gather_qualities,
    prove,
    tolerances_of,
)
from flows.proved import proved_digests, whole_digest
from flows.settings import RETRAIN, ArchiveSettings, RunRequest, SourceSettings
from storage.claims import shard_claim
from storage.coverage import miscounted
from storage.leaves import Leaves
from storage.manifest import Manifest
from storage.objects import ObjectStore
from storage.shards import ShardEntry, load_record, load_records
from storage.snapshots import load_manifest, load_manifests
from storage.sources import Source, SourcePart
from storage.transient import shown
from storage.verity import read_verified, read_whole
from vae_core import quality
from vae_core.errors import BadInput, CorruptArchive, UsageError, VerificationFailed
from vae_core.model import Model
from vae_core.quality import ColumnQuality

log = logging.getLogger(__name__)


class Staged(BaseModel):
    """A part of the source and the staged shard it became."""

    model_config = ConfigDict(frozen=True)

    planned: PartPlan
    result: PartResult


def shard(staged: Staged, request: RunRequest) -> ShardProof:
    """Decode a staged shard, compare it with its part of the source. Raises VerificationFailed, by column and row."""
    store = ingest.store_of(request.archive)
    planned, entry = staged.planned, load_record(store, staged.result.shard)
    with ingest.source_of(request.source, planned.run) as source, planned.held(source):
        try:
            raw = source.table(SourcePart.from_json(planned.part))
            return prove(store, entry, model_of(request.archive, planned.model), raw, planned.targets)
        except VerificationFailed:
            store.delete(shard_claim(entry.ref))  # the next run encodes it anew: it may be of a file that was another one then
            raise


def save_proofs(run: str, proofs: Sequence[ShardProof]) -> None:
    """Leave the proofs in the run's folder."""
    run_folder(run).joinpath("proofs.json").write_text(json.dumps([proof.model_dump() for proof in proofs]), encoding="utf-8")


def load_proofs(run: str) -> list[ShardProof]:
    """The proofs of a run."""
    text = run_folder(run).joinpath("proofs.json").read_text(encoding="utf-8")
    return [ShardProof.model_validate(item) for item in json.loads(text)]


def verify_all(request: RunRequest, run: str, mapped: Callable[[list[Staged], Progress], list[ShardProof]]) -> int:
    """Have `mapped` prove the shards of a run; returns the number of rows proved."""
    parts = [Staged(planned=planned, result=result) for planned, result in zip(load_parts(run), load_results(run), strict=True)]
    n_rows = sum(staged.result.n_rows for staged in parts)
    progress = Progress(
        run,
        "verify",
        total=float(n_rows),
        artifact_key="latentpack-verification",
        description="rows decoded and compared",
    )
    proofs = mapped(parts, progress)
    save_proofs(run, proofs)
    if request.verification.reread_kept_shards:
        reread_kept(request, set(Plan.load(run).kept_shards))
    n_proved = sum(proof.n_rows for proof in proofs)
    progress.finish(f"{n_proved:,} rows decoded, 0 violations")
    return n_proved


def reread_kept(request: RunRequest, kept: set[str]) -> None:
    """Check every byte of the shards a run keeps from the last snapshot. Raises CorruptArchive naming the object."""
    store, manifest = ingest.store_of(request.archive), ingest.latest_manifest(request.archive)
    for ref in manifest.shards if manifest is not None else ():
        if ref.record.path in kept:
            for held in load_record(store, ref).objects.values():
                read_verified(store, held)


def verify_archive(
    uri: str,
    source: str | None = None,
    sample: float = 1.0,
    *,
    snapshot: int | None = None,
    seed: int = 0,
    credentials: str | None = None,
    source_credentials: str | None = None,
    widen: bool = False,
) -> dict[str, Any]:
    """Check an archive: every digest, every (sampled) block decoded, every value compared when a source is named.

    sample : fraction of the blocks to decode, at least one; digests are always checked over all bytes
    Returns {archive, source, snapshot, rows, blocks, sample, digest, violations, mismatches, columns, objects, bytes}.
    Raises CorruptArchive naming the object, BadInput, UsageError; violations are counted, not raised.
    """
    if not 0.0 < sample <= 1.0:
        raise UsageError(f"sample is {sample}: give a fraction above 0 and at most 1")
    store = ingest.store_of(ArchiveSettings(uri=uri, credentials=credentials))
    manifest = load_manifest(store, snapshot)
    recipe = Leaves.read(manifest.schema).recipe
    asked = SourceSettings(uri=source, credentials=source_credentials, widen=widen) if source is not None else None
    opened = None if asked is None else ingest.source_of(asked, recipe=recipe)
    entries = load_records(store, manifest.shards, manifest.schema.names)
    chosen = _sampled(entries, sample, seed)
    if wrong := miscounted(entries, manifest.sources):
        raise VerificationFailed(f"snapshot {manifest.snapshot}: {wrong}; keep the raw data, and run with {RETRAIN}")
    if opened is not None:
        _refuse_other_source(opened, manifest, entries, is_newest=snapshot is None)
    n_objects, n_object_bytes = _check_objects(store, manifest, entries)
    load_manifests(store)  # the lists of the others: a damaged one is found while there is time
    totals: dict[str, ColumnQuality] = {}
    counts = Counter[str]()
    digests: list[str] = []
    committed = proved_digests(manifest)
    for entry in entries:
        blocks = chosen[entry.id]
        if not blocks:
            continue
        model = model_of(ArchiveSettings(uri=uri, credentials=credentials), manifest.model(entry.model).to_json())
        rows = None if opened is None else _RawRows(opened, entry)

        def checked(
            entry: ShardEntry = entry, blocks: list[int] = blocks, model: Model = model, rows: _RawRows | None = rows
        ) -> Iterator[pa.Table]:
            for first, decoded, *_ in decoded_blocks(store, entry, model, blocks):
                counts.update(rows=decoded.num_rows, blocks=1)
                if rows is not None:
                    gather_qualities(
                        totals,
                        quality.compare(rows.take(first, decoded.num_rows), decoded, tolerances_of(model), first_row=first),
                    )
                yield decoded

        digests.append(quality.digest(checked()))
        stated = committed.get(entry.id)
        if len(blocks) == len(entry.block_rows) and stated is not None and digests[-1] != stated:
            raise CorruptArchive(f"{entry.record.path}: decodes to other data than it did when it was committed")
    if sample == 1.0 and opened is not None:
        missed = _missed(manifest, totals)
        totals = {name: replace(item, violations=item.violations + (name in missed)) for name, item in totals.items()}
    return {
        "archive": uri,
        "source": source,
        "snapshot": manifest.snapshot,
        "rows": counts["rows"],
        "blocks": counts["blocks"],
        "sample": sample,
        "digest": whole_digest(digests) if sample == 1.0 and digests else "",
        "violations": sum(item.violations for item in totals.values()),
        "mismatches": sum(item.mismatches for item in totals.values()),
        "columns": [asdict(item) for item in totals.values()],
        "objects": n_objects,
        "bytes": n_object_bytes,
    }


def _refuse_other_source(source: Source, manifest: Manifest, entries: Sequence[ShardEntry], *, is_newest: bool) -> None:
    """Raise BadInput when the source lacks a file these shards hold rows of: it is another one, or the file has gone; or when the newest
    snapshot does not hold a file of the source: nobody shall delete that on the word of a comparison it was no part of."""
    there = {file.path for file in source.files}
    for entry in entries:
        for piece in entry.sources:
            if piece.path not in there:
                made = f" (made from {shown(manifest.source)})" if manifest.source else ""
                raise BadInput(f"{shown(source.uri)}: has no file {piece.path!r}, and the archive{made} holds rows of it")
    more = sorted(there.difference(record.path for record in manifest.sources)) if is_newest and manifest.sources else []
    if more:
        others = f" and {len(more) - 1} other{'s' * (len(more) > 2)}" if len(more) > 1 else ""
        raise BadInput(
            f"{shown(source.uri)}: snapshot {manifest.snapshot} does not hold {more[0]!r}{others}, which came later: "
            "add them by a run, or compare with a glob of the files that it holds"
        )


def _check_objects(store: ObjectStore, manifest: Manifest, entries: Sequence[ShardEntry]) -> tuple[int, int]:
    """Read every object the snapshot names against its digests and its size. Returns (objects, bytes)."""
    refs = [*manifest.beside, *(ref for model in manifest.models for ref in model.objects.values())]
    refs += [ref for entry in entries for ref in (entry.record, *entry.objects.values())]
    for ref in refs:
        read_whole(store, ref)
    return len(refs), sum(ref.n_bytes for ref in refs)


def _missed(manifest: Manifest, totals: Mapping[str, ColumnQuality]) -> set[str]:
    """Columns that miss their distortion target over all rows."""
    targets: Mapping[str, float] = manifest.extra.get("targets", {})
    return {name for name, item in totals.items() if name in targets and item.rmse > targets[name] * (1.0 + RMSE_SLACK)}


def _sampled(entries: Sequence[ShardEntry], sample: float, seed: int) -> dict[str, list[int]]:
    """Shard id -> the blocks to decode, drawn with a seed, at least one of all."""
    every = [(entry.id, block) for entry in entries for block in range(len(entry.block_rows))]
    n_drawn = len(every) if sample >= 1.0 else min(len(every), max(1, round(sample * len(every))))
    drawn = set(random.Random(seed).sample(every, n_drawn))
    return {entry.id: [block for block in range(len(entry.block_rows)) if (entry.id, block) in drawn] for entry in entries}


class _RawRows:
    """The raw rows of a shard, streamed: asked for in ascending order, never held as a whole."""

    def __init__(self, source: Source, entry: ShardEntry) -> None:
        self._batches = source.batches(
            SourcePart(
                "shard",
                tuple((piece.path, piece.start, piece.stop) for piece in entry.sources),
                source.uri,
                entry.n_rows,
            )
        )
        self._schema = source.schema
        self._held: list[pa.RecordBatch] = []
        self._first = 0
        self._where = describe(entry.sources)

    def take(self, first: int, n_rows: int) -> pa.Table:
        """Rows first to first + n_rows of the shard. Raises VerificationFailed when the source has fewer."""
        self._drop(first - self._first)
        while sum(batch.num_rows for batch in self._held) < n_rows:
            batch = next(self._batches, None)
            if batch is None:
                raise VerificationFailed(f"{self._where}: the source has fewer rows than the archive")
            self._held.append(batch)
            self._drop(first - self._first)
        return pa.Table.from_batches(self._held, self._schema).slice(0, n_rows)

    def _drop(self, n_rows: int) -> None:
        while n_rows > 0 and self._held:
            head = self._held[0]
            gone = min(n_rows, head.num_rows)
            self._held[0:1] = [head.slice(gone)] if gone < head.num_rows else []
            self._first += gone
            n_rows -= gone
