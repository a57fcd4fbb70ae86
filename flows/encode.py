"""Encode: every part of the source into a staged shard, one task a part.

A shard's identifier is a digest of what goes in: the slices of which files (by path and content), the model, the format. A part
whose shard is already staged is not encoded again, so a killed run continues where it stopped.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from flows import ingest
from flows.ingest import Plan, run_folder
from flows.progress import Progress
from flows.settings import SAMPLED, ArchiveSettings, EncodingSettings, RunRequest
from flows.train import Trained, parts_of
from storage.entries import ModelRef, ShardRef
from storage.objects import ObjectStore
from storage.shards import ShardEntry
from storage.sources import Source, SourceFile, SourcePart
from storage.version import FORMAT_VERSION
from storage.writer import find_pending, load_model, shard_id, stage_shard
from vae_core.model import Model
from vae_core.shard import EncodedShard, Measure, beaten_by, encode_shard, measured

log = logging.getLogger(__name__)

BLOCK_BYTES = 16 << 20
LEAST_BLOCK_ROWS, MOST_BLOCK_ROWS = 131_072, 524_288
BLOCK_CELLS = 4 << 20  # of tensors


class PartPlan(BaseModel):
    """One part of the source and the shard it becomes: a reference, small enough to hand to a task.

    part    : SourcePart as JSON
    shard   : identifier of the shard
    model   : ModelRef as JSON
    targets : column -> root mean square error it may have at most
    block_rows : rows of each of its blocks, about
    files   : SourceFile of each of its files as JSON, as they were digested
    """

    model_config = ConfigDict(frozen=True)

    run: str
    name: str
    block_rows: int
    part: dict[str, Any]
    shard: str
    model: dict[str, Any]
    targets: dict[str, float] = {}
    files: list[dict[str, Any]] = []

    def held(self, source: Source) -> AbstractContextManager[None]:
        """Within this the files are what they were when they were digested. Raises BadInput otherwise."""
        return source.holding([SourceFile(**file) for file in self.files])


class PartResult(BaseModel):
    """What encoding one part came to: a reference and counts. ref: ShardRef as JSON, model: digest.

    encode_s, compare_s : seconds for the shard, and for what conventional codings would take, which is for the report alone
    """

    model_config = ConfigDict(frozen=True)

    ref: list[Any]
    model: str
    n_rows: int
    n_bytes: int
    reused: bool
    encode_s: float = 0.0
    compare_s: float = 0.0

    @property
    def shard(self) -> ShardRef:
        """The staged shard."""
        return ShardRef.from_json(self.ref, [self.model], "run folder")

    @classmethod
    def of(cls, entry: ShardEntry, reused: bool, encode_s: float = 0.0, compare_s: float = 0.0) -> "PartResult":
        """The reference to a staged shard."""
        return cls(
            ref=entry.ref.to_json([entry.model]),
            model=entry.model,
            n_rows=entry.n_rows,
            n_bytes=entry.n_bytes,
            reused=reused,
            encode_s=encode_s,
            compare_s=compare_s,
        )


def default_workers() -> int:
    """Half the cores, at least one: the kernels of the codec use threads of their own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def rows_a_shard(settings: EncodingSettings, row_bytes: float, n_cells: int = 0) -> int:
    """Rows of a shard: bounded by count and by Arrow bytes, whole blocks when it holds more than one."""
    rows = max(1, min(settings.shard_rows, int(settings.shard_bytes / max(row_bytes, 1.0))))
    block = rows_a_block(settings, row_bytes, n_cells)
    return rows - rows % block if rows > block else rows


def rows_a_block(settings: EncodingSettings, row_bytes: float, n_cells: int = 0) -> int:
    """Rows of a block: as asked for, else by Arrow bytes, and by cells of tensors, of which a row has n_cells. Every block learns anew,
    and narrow rows take many to pay for that."""
    rows = settings.block_rows or max(LEAST_BLOCK_ROWS, min(MOST_BLOCK_ROWS, int(BLOCK_BYTES / max(row_bytes, 1.0))))
    return rows if settings.block_rows or not n_cells else max(1, min(rows, BLOCK_CELLS // n_cells))


def tensor_cells(schema: pa.Schema) -> int:
    """Cells of all tensors of a row."""
    stored = [item.type.storage_type if isinstance(item.type, pa.BaseExtensionType) else item.type for item in schema]
    return sum(kind.list_size for kind in stored if pa.types.is_fixed_size_list(kind))


def plan_parts(request: RunRequest, plan: Plan, trained: Trained) -> list[PartPlan]:
    """The parts of the files to encode, in source order, and the shard each becomes."""
    with ingest.source_of(request.source, plan.run) as source:
        ingest.refuse_other_ranges(plan, source)
        n_cells = tensor_cells(source.schema)
        parts = parts_of(source, plan.encode, rows_a_shard(request.encoding, trained.row_bytes, n_cells))
        files = source.fingerprints(set(plan.encode))
    digested = {file.path: asdict(file) for file in files}
    run_folder(plan.run).joinpath("files.json").write_text(json.dumps(list(digested.values())), encoding="utf-8")
    prints = {file.path: str(file.digest) for file in files}
    block_rows = rows_a_block(request.encoding, trained.row_bytes, n_cells)
    return [
        PartPlan(
            run=plan.run,
            name=part.name,
            part=part.to_json(),
            model=trained.model,
            targets=trained.targets,
            block_rows=block_rows,
            files=[digested[path] for path in sorted({path for path, _, _ in part.slices})],
            shard=shard_id(part_fingerprint(part, prints, request, block_rows), trained.ref.digest, FORMAT_VERSION),
        )
        for part in parts
    ]


def part_fingerprint(part: SourcePart, prints: Mapping[str, str], request: RunRequest, block_rows: int) -> str:
    """sha256 over what decides a part's rows and blocks: paths and content of its files, slices, widening, block size.

    Paths, too: files of the same content are shards of their own, which are replaced and dropped on their own.
    """
    slices = [[path, prints[path], start, stop] for path, start, stop in part.slices]
    settings = [request.source.widen, block_rows, request.training.preview]
    return hashlib.sha256(json.dumps([slices, settings]).encode()).hexdigest()


@lru_cache(maxsize=2)
def _cached_model(archive: str, credentials: str | None, ref: str) -> Model:
    store = ingest.store_of(ArchiveSettings(uri=archive, credentials=credentials))
    model: Model = load_model(store, ModelRef.from_json(json.loads(ref), archive))
    return model


_loading = threading.Lock()


def model_of(archive: ArchiveSettings, ref: Mapping[str, Any]) -> Model:
    """The model, read and checked once a process."""
    with _loading:
        return _cached_model(archive.uri, archive.credentials, json.dumps(ref, sort_keys=True))


def part(planned: PartPlan, request: RunRequest) -> PartResult:
    """Encode one part and stage its shard, unless that has been done. Raises BadInput, CorruptArchive."""
    store: ObjectStore = ingest.store_of(request.archive)
    found = find_pending(store, planned.shard)
    if found is not None:
        log.info("part %s: shard %s is staged already", planned.name, planned.shard[:12])
        return PartResult.of(found, reused=True)
    sliced = SourcePart.from_json(planned.part)
    with ingest.source_of(request.source, planned.run) as source, planned.held(source):
        encode = partial(
            encode_shard,
            model_of(request.archive, planned.model),
            source.table(sliced),  # some of it may be mapped, and read when it is encoded
            block_rows=planned.block_rows,
            preview={"auto": None, "off": False}.get(str(request.training.preview), True),
            targets=planned.targets,
        )
        compared, encode_s, compare_s = _compared(encode, by_part=request.encoding.compare == SAMPLED)
        del encode  # the rows, which are no longer held
    began = time.monotonic()
    ref = ModelRef.from_json(dict(planned.model), "run folder")
    entry = stage_shard(store, ref, planned.shard, compared, sliced.slices)
    log.info("encoded part %s: %d rows, %d bytes, shard %s", planned.name, entry.n_rows, entry.n_bytes, planned.shard[:12])
    return PartResult.of(entry, reused=False, encode_s=encode_s + time.monotonic() - began, compare_s=compare_s)


def _compared(encode: Callable[..., EncodedShard], by_part: bool) -> tuple[EncodedShard, float, float]:
    """A shard with what conventional codings would take, seconds that encoding it took, and those that comparing took."""
    began = time.monotonic()
    shard = encode(measure=Measure.IN_DOUBT if by_part else Measure.LATER)
    compares = time.monotonic()
    compared = measured(shard, by_part=by_part)
    ends = time.monotonic()
    if not by_part and (known := beaten_by(shard, compared)):
        compared = encode(known=known)
    return compared, compares - began + time.monotonic() - ends, ends - compares


def save_parts(run: str, parts: list[PartPlan]) -> None:
    """Leave the parts of a run in its folder."""
    text = json.dumps([planned.model_dump() for planned in parts])
    run_folder(run).joinpath("parts.json").write_text(text, encoding="utf-8")


def load_parts(run: str) -> list[PartPlan]:
    """The parts of a run."""
    text = run_folder(run).joinpath("parts.json").read_text(encoding="utf-8")
    return [PartPlan.model_validate(item) for item in json.loads(text)]


def load_results(run: str) -> list[PartResult]:
    """What encoding the parts of a run came to, in the order of the parts."""
    text = run_folder(run).joinpath("encoded.json").read_text(encoding="utf-8")
    return [PartResult.model_validate(item) for item in json.loads(text)]


def apart(run: str, seconds: float) -> dict[str, float]:
    """Seconds of the stage that went into shards, and into what they are compared with."""
    results = load_results(run)
    compare_s, both_s = sum(r.compare_s for r in results), sum(r.encode_s + r.compare_s for r in results)
    compare = seconds * compare_s / both_s if both_s else 0.0
    return {"encode": seconds - compare, "compare": compare}


def encode_all(request: RunRequest, run: str, mapped: Callable[[list[PartPlan], Progress], list[PartResult]]) -> int:
    """Plan the parts of a run and have `mapped` encode them; returns the number of shards."""
    parts = plan_parts(request, Plan.load(run), Trained.load(run))
    save_parts(run, parts)
    n_rows = sum(planned.part["n_rows"] or 0 for planned in parts)
    progress = Progress(run, "encode", total=float(n_rows), artifact_key="latentpack-encoding", description="rows encoded")
    results = mapped(parts, progress)
    text = json.dumps([result.model_dump() for result in results])
    run_folder(run).joinpath("encoded.json").write_text(text, encoding="utf-8")
    progress.finish(f"{len(results)} shards, {sum(result.n_rows for result in results):,} rows")
    return len(results)


def one_by_one(work: Callable[[Any], Any]) -> Callable[[list[Any], Progress], list[Any]]:
    """A mapper without Prefect."""

    def mapped(parts: list[Any], progress: Progress) -> list[Any]:
        results = []
        for planned in parts:
            results.append(work(planned))
            progress.add(float(results[-1].n_rows), f"{len(results)} of {len(parts)} shards")
        return results

    return mapped
