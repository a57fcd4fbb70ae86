"""Proof: decode a shard from its stored bytes and hold every value against the raw one, before anybody relies on it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from storage.blocks import ShardReader
from storage.objects import ObjectStore
from storage.shards import ShardEntry, SourceSlice
from vae_core import quality
from vae_core.base.layer import take_up
from vae_core.columns import one_array
from vae_core.columns.rows import dense
from vae_core.errors import VerificationFailed
from vae_core.model import Model
from vae_core.quality import ColumnQuality
from vae_core.shard import decode_block, needs
from vae_core.tables import flat_floats
from vae_core.tolerance import Tolerance

# A distortion target is met up to the rounding of its own measurement.
RMSE_SLACK = 1e-9
PREVIEW, DISTORTION = "preview", "distortion"


class PreviewError(BaseModel):
    """Error of a previewed column: relative to its standard deviation, or the share of right categories."""

    relative_rmse: float | None = None
    accuracy: float | None = None


class LayerProof(BaseModel):
    """The stored latents of one base layer in a shard. zeros: for each latent of a window, in how many windows it is zero."""

    kind: str
    window: int
    n_windows: int
    zeros: list[int]


class ShardProof(BaseModel):
    """What decoding one shard found: a digest and counts.

    columns : ColumnQuality by name, as JSON
    layers  : "preview" and "distortion", those whose latents are stored
    preview : column -> error of the preview layer alone, on the shard's first block
    """

    model_config = ConfigDict(frozen=True)

    shard: str
    n_rows: int
    digest: str
    columns: dict[str, dict[str, Any]]
    layers: dict[str, LayerProof] = Field(default_factory=dict)
    preview: dict[str, PreviewError] = Field(default_factory=dict)


def tolerances_of(model: Model) -> dict[str, Tolerance]:
    """Column -> the tolerance its values were encoded with, in column units."""
    return {column.name: column.tolerance for column in model.columns}


class Block(NamedTuple):
    """One decoded block: its first row within the shard, its rows, and what they were decoded from, latents included."""

    first_row: int
    table: pa.Table
    natives: dict[str, pa.Array]
    payloads: dict[str, bytes]


def decoded_blocks(store: ObjectStore, entry: ShardEntry, model: Model, blocks: Sequence[int] | None = None) -> Iterator[Block]:
    """The blocks of a shard in order, decoded; every byte is checked against its digest before it is parsed."""
    wanted = None if blocks is None else set(blocks)
    reader, need, first = ShardReader(store, entry), needs(model, dict(entry.layout), None, False), 0
    latents = [native.name for native in entry.natives if native.role == "latent"]
    names = [*need.natives, *(name for name in latents if name not in need.natives)]
    for block, n_rows in enumerate(entry.block_rows):
        if wanted is None or block in wanted:
            natives, payloads = reader.read_block(block, names, need.groups)
            yield Block(first, decode_block(model, dict(entry.layout), n_rows, natives, payloads), natives, payloads)
        first += n_rows


def prove(store: ObjectStore, entry: ShardEntry, model: Model, raw: pa.Table, targets: Mapping[str, float]) -> ShardProof:
    """Decode all blocks of a shard and compare them with `raw`, the rows it was made from.

    targets : column -> the root mean square error it may have over the shard
    Raises VerificationFailed naming the column and the row when a promise is broken.
    """
    where = f"shard {entry.id[:12]} ({describe(entry.sources)})"
    if raw.num_rows != entry.n_rows:
        raise VerificationFailed(f"{where}: decodes to {entry.n_rows} rows, the source has {raw.num_rows}")
    tolerances = tolerances_of(model)
    found: dict[str, ColumnQuality] = {}
    layers: dict[str, LayerProof] = {}
    preview: dict[str, PreviewError] = {}

    def checked() -> Iterator[pa.Table]:
        for first, decoded, natives, payloads in decoded_blocks(store, entry, model):
            rows = raw.slice(first, decoded.num_rows)
            for ours, theirs in zip(decoded.schema, raw.schema, strict=True):
                if ours.name != theirs.name or ours.type != theirs.type:
                    raise VerificationFailed(f"{where}: field {theirs} decodes as {ours}; nothing was committed")
            qualities = quality.compare(rows, decoded, tolerances, first_row=first)
            refuse_violations(qualities, where)
            gather_qualities(found, qualities)
            count_zeros(layers, model, natives)
            if first == 0 and PREVIEW in layers and model.preview is not None:
                names = [model.columns[index].name for index in model.preview.columns]
                sketch = decode_block(model, dict(entry.layout), decoded.num_rows, natives, payloads, names, preview=True)
                preview.update(preview_errors(sketch, rows.select(names)))
            yield decoded

    digest = quality.digest(checked())
    refuse_distortion(list(found.values()), targets, where)
    return ShardProof(
        shard=entry.id,
        n_rows=entry.n_rows,
        digest=digest,
        columns={name: asdict(item) for name, item in found.items()},
        layers=layers,
        preview=preview,
    )


def gather_qualities(totals: dict[str, ColumnQuality], more: Sequence[ColumnQuality]) -> None:
    """Add the qualities of later rows to the totals."""
    for item in more:
        totals[item.name] = quality.combine(totals[item.name], item) if item.name in totals else item


def refuse_violations(columns: Sequence[ColumnQuality], where: str) -> None:
    """Raise VerificationFailed for the first column with a value outside its promise."""
    for item in columns:
        if item.violations or item.mismatches:
            row = "unknown" if item.first_violation_row is None else str(item.first_violation_row)
            kind = "values outside their tolerance" if item.violations else "values differ"
            # texts, and values lost or come by, have no error
            worst = f", worst error {item.max_abs_error:g}" if item.max_abs_error else ""
            raise VerificationFailed(
                f"{where}: column {item.name!r}, row {row}: {max(item.violations, item.mismatches)} {kind}{worst}; nothing was committed"
            )


def refuse_distortion(columns: Sequence[ColumnQuality], targets: Mapping[str, float], where: str) -> None:
    """Raise VerificationFailed for the first column that misses its distortion target."""
    for item in columns:
        target = targets.get(item.name)
        if target is not None and item.rmse > target * (1.0 + RMSE_SLACK):
            raise VerificationFailed(
                f"{where}: column {item.name!r}: root mean square error {item.rmse:g}, asked for at most {target:g}; nothing was committed"
            )


def count_zeros(layers: dict[str, LayerProof], model: Model, natives: Mapping[str, pa.Array]) -> None:
    """Add the zeros among a block's latents to what was counted before, layer by layer."""
    for role, base in ((PREVIEW, model.preview), (DISTORTION, model.distortion)):
        if base is None or any(name not in natives for name in base.latent_names):
            continue
        stored = np.stack([natives[name].to_numpy(zero_copy_only=False) for name in base.latent_names], axis=1)
        latents = take_up(stored, base.layer.n_latents, base.layer.window)
        before = layers.get(role)
        zeros = np.asarray(before.zeros if before else 0) + (latents == 0).sum(axis=0)
        layers[role] = LayerProof(
            kind=base.layer.kind,
            window=base.layer.window,
            n_windows=len(latents) + (before.n_windows if before else 0),
            zeros=zeros.tolist(),
        )


def is_number(data_type: pa.DataType) -> bool:
    """Whether a preview of this type is judged by its distance: numbers, moments, durations, tensors of them."""
    if isinstance(data_type, pa.BaseExtensionType):
        return is_number(data_type.storage_type)
    if pa.types.is_fixed_size_list(data_type):
        return is_number(data_type.value_type)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal)
    return any(test(data_type) for test in tests)


def preview_errors(preview: pa.Table, raw: pa.Table) -> dict[str, PreviewError]:
    """How far a preview is from the raw rows of the same columns: numbers by RMSE over their standard deviation, all else
    by the share of rows that are right."""
    found = {}
    for name in raw.column_names:
        ours, theirs = one_array(preview.column(name)), one_array(raw.column(name))
        if is_number(theirs.type):
            x, y = flat_floats(theirs), flat_floats(ours)
            if len(x) != len(y):
                continue
            finite = np.isfinite(x) & np.isfinite(y)
            x, y = x[finite], y[finite]
            # in units of the largest: squares, differences and sums of the largest floats are beyond them
            unit = float(max(np.abs(x).max(initial=0.0), np.abs(y).max(initial=0.0))) or 1.0
            spread = float((x / unit).std()) if len(x) else 0.0
            if spread > 0:
                found[name] = PreviewError(relative_rmse=float(np.sqrt(np.mean((x / unit - y / unit) ** 2))) / spread)
        elif not pa.types.is_nested(theirs.type):
            if pa.types.is_dictionary(theirs.type):
                ours, theirs = dense(ours), dense(theirs)
            same = pc.fill_null(pc.equal(ours, theirs), pc.and_(ours.is_null(), theirs.is_null()))
            share = pc.mean(same).as_py()
            if share is not None:
                found[name] = PreviewError(accuracy=float(share))
    return found


def describe(slices: Sequence[SourceSlice]) -> str:
    """Where a shard's rows are from, for people."""
    if not slices:
        return "no rows"
    first = slices[0]
    rest = f" and {len(slices) - 1} more" if len(slices) > 1 else ""
    return f"{first.path} rows {first.start}:{'' if first.stop is None else first.stop}{rest}"
