"""What every column and every base layer costs, from the records of the shards.

The latents of a distortion layer stand for several columns at once. Their bytes are divided among these columns in
proportion to what each would have cost conventionally, so that the columns of a report add up to its data.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.proof import DISTORTION, PREVIEW, LayerProof, ShardProof
from flows.proved import errors_of, proved_errors
from flows.report import ColumnReport, LatentReport, PreviewColumn, PreviewReport, error_share
from storage.entries import ModelRef
from storage.leaves import Leaves
from storage.ledger import column_totals
from storage.manifest import Manifest
from storage.nodes import OTHERS, VALID, Strip, share_of
from storage.objects import ObjectStore
from storage.shards import LATENTS, ShardEntry
from storage.verity import VerifiedFile
from storage.writer import load_model
from vae_core.layout import LATENT
from vae_core.model import Base, Model
from vae_core.quality import pooled
from vae_core.tolerance import LOSSLESS, Tolerance

Models = Callable[[str], Model]
UNIFORM_KIND = "uniform"


@dataclass(frozen=True, slots=True)
class Account:
    """What a report is drawn from: the records of a snapshot's shards, its models, and what this run proved and fitted.

    model : the newest, None in an empty archive        summary : FitResult.summary, empty when a stored model was kept
    """

    store: ObjectStore
    entries: Sequence[ShardEntry]
    models: Models
    model: Model | None
    proofs: Sequence[ShardProof]
    summary: Mapping[str, Any]

    def base(self, role: str) -> Base | None:
        """The newest model's layer of this role."""
        found: Base | None = None if self.model is None else getattr(self.model, role)
        return found

    def in_shards(self, role: str) -> list[bool]:
        """Whether each shard of this run stores the latents of this layer."""
        return [role in proof.layers for proof in self.proofs]

    def n_bytes(self, role: str) -> int:
        """Bytes of the latents of all shards that belong to this layer of their model."""
        n_bytes = 0
        for entry in self.entries:
            base = getattr(self.models(entry.model), role) if entry.parts.get("latents") else None
            n_bytes += latent_bytes(self.store, entry, base) if base is not None else 0
        return n_bytes


def models_of(store: ObjectStore, refs: Iterable[ModelRef]) -> Models:
    """Digest -> model, each read when it is first asked for."""
    known = {ref.digest: ref for ref in refs}

    @cache
    def load(digest: str) -> Model:
        model: Model = load_model(store, known[digest], with_encoder=False)
        return model

    return load


def column_costs(store: ObjectStore, entries: Sequence[ShardEntry], models: Models) -> dict[str, dict[str, Any]]:
    """Column -> {coding, bytes, conventional_bytes}, its share of a distortion layer's latents included."""
    totals: dict[str, dict[str, Any]] = {name: dict(total) for name, total in column_totals(list(entries)).items()}
    for entry in entries:
        sharing = {outcome.name: outcome.conventional_bytes for outcome in entry.outcomes if outcome.coding == LATENT}
        base = models(entry.model).distortion if sharing else None
        if base is not None:
            for name, n_bytes in divided(latent_bytes(store, entry, base), sharing).items():
                totals[name]["bytes"] += n_bytes
    return totals


def latent_bytes(store: ObjectStore, entry: ShardEntry, base: Base) -> int:
    """Bytes the latents of one base layer take in a shard. Reads the footer of its Parquet file."""
    latents = {native.name for native in entry.natives if native.role == "latent"}
    ours = latents & set(base.latent_names)
    if ours == latents:
        return int(entry.parts["latents"])
    footer = pq.read_metadata(VerifiedFile(store, entry.objects[LATENTS]))
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(int(chunk.total_compressed_size) for chunk in chunks if chunk.path_in_schema in ours)


def divided(n_bytes: int, weights: Mapping[str, int]) -> dict[str, int]:
    """n_bytes among the names, in proportion to their weights, summing to n_bytes exactly."""
    total = sum(weights.values())
    shares, given, seen = dict[str, int](), 0, 0
    for number, (name, weight) in enumerate(weights.items(), 1):
        seen += weight
        upto = round(n_bytes * seen / total) if total else round(n_bytes * number / len(weights))
        shares[name], given = upto - given, upto
    return shares


def by_column(reports: Sequence[ColumnReport], leaves: Leaves) -> list[ColumnReport]:
    """One line a column of the dataset, of lines of the leaves it is stored as; of columns that are one, an even share of what that is."""
    lines = {line.name: line for line in reports}
    found = list[ColumnReport]()
    for item, (node, k) in zip(leaves.outer, leaves.of_columns, strict=True):
        if isinstance(node, Strip):
            found.append(_share(lines[node.path], item, k, len(node.items)))
        else:
            found.append(_together(item.name, str(item.type), [lines[leaf.name] for leaf in node.leaves]))
    return found


def _share(line: ColumnReport, item: pa.Field, k: int, n: int) -> ColumnReport:
    """The k-th of n columns that are stored as one."""
    counts = {key: share_of(getattr(line, key), k, n) for key in ("bytes", "conventional_bytes", "violations", "mismatches")}
    return line.model_copy(update={"name": item.name, "type": str(item.type), "n_null": None, **counts})


def by_leaf(reports: Sequence[ColumnReport], leaves: Leaves) -> list[ColumnReport]:
    """One line a leaf, those of one vector together; nothing where columns are their own leaves."""
    if leaves.is_flat:
        return []
    lines = {line.name: line for line in reports}
    return [_together(name, str(kind), [lines[part] for part in parts]) for name, kind, parts in leaves.shown]


def _together(name: str, kind: str, lines: Sequence[ColumnReport]) -> ColumnReport:
    """Lines as one: bytes in all; tolerance and errors are those of the line that used most of its tolerance."""
    if len(lines) == 1 and lines[0].name == name:
        return lines[0]
    values = [line for line in lines if not line.name.endswith((VALID, OTHERS))]
    main, worst = max(values or lines, key=lambda line: line.bytes), max(lines, key=lambda line: (error_share(line), line.tolerance))
    return main.model_copy(update={
        "name": name, "type": kind,
        "bytes": sum(line.bytes for line in lines), "conventional_bytes": sum(line.conventional_bytes for line in lines),
        "tolerance": worst.tolerance, "tolerance_kind": worst.tolerance_kind,
        "max_abs_error": worst.max_abs_error, "rmse": worst.rmse,
        "violations": sum(line.violations for line in lines), "mismatches": sum(line.mismatches for line in lines),
        "n_null": min((line.n_null or 0 for line in values), default=0),
    })  # fmt: skip


def column_reports(account: Account, manifest: Manifest) -> list[ColumnReport]:
    """One line a leaf, in schema order; errors are those proved by decoding, over all shards of the snapshot."""
    plans = {column.name: column for column in account.model.columns} if account.model else {}
    costs = column_costs(account.store, account.entries, account.models)
    # exactly as proved by this run, rounded up as kept from earlier ones
    proved = proved_errors(manifest) | {proof.shard: errors_of(proof) for proof in account.proofs}
    targets = manifest.extra.get("targets", {})
    reports = []
    for field in manifest.schema:
        cost, plan = costs.get(field.name, {}), plans.get(field.name)
        tolerance = plan.tolerance if plan else LOSSLESS
        # where a distortion target is met by uniform steps the plan has the bound of these; the promise is the target
        if field.name in targets:
            tolerance = Tolerance("rmse", targets[field.name])
        errors = [proved[entry.id][field.name] for entry in account.entries if field.name in proved.get(entry.id, {})]
        n_finite = sum(error[2] for error in errors)
        without = 0.0 if tolerance.is_distortion else None
        worst = max((error[0] for error in errors), default=0.0)
        rmse = pooled([(error[1], error[2]) for error in errors]) if n_finite else without
        # rounded up or not, a committed error is within its bound
        if tolerance.is_distortion:
            rmse = None if rmse is None else min(rmse, tolerance.value)
        elif not tolerance.is_lossless:
            worst = min(worst, tolerance.value)
        items = [proof.columns[field.name] for proof in account.proofs if field.name in proof.columns]
        reports.append(
            ColumnReport(
                name=field.name,
                type=str(field.type),
                kind=str(plan.kind) if plan else "",
                coding=str(cost.get("coding", "")),
                bytes=int(cost.get("bytes", 0)),
                conventional_bytes=int(cost.get("conventional_bytes", 0)),
                tolerance=0.0 if tolerance.is_lossless else tolerance.value,
                tolerance_kind="lossless" if tolerance.is_lossless else "rmse" if tolerance.is_distortion else "absolute",
                max_abs_error=worst,
                rmse=rmse,
                violations=sum(item["violations"] + item["mismatches"] for item in items),
                mismatches=sum(item["mismatches"] for item in items),
                n_rows=manifest.n_rows,
                n_null=sum(item["n_null"] for item in items),
            )
        )
    return reports


def latent_report(account: Account) -> LatentReport:
    """The stored latents: those of the distortion layer where there is one, else the preview's."""
    compared = siblings(
        account.summary.get("distortion_compared", []), account.base(DISTORTION), account.in_shards(DISTORTION), falls_back=True
    )
    role = DISTORTION if compared or account.base(DISTORTION) is not None else PREVIEW
    if role == PREVIEW:
        compared = siblings(account.summary.get("preview_compared", []), account.base(PREVIEW), account.in_shards(PREVIEW))
    layers = [proof.layers[role] for proof in account.proofs if role in proof.layers]
    zeros, n_windows = summed(layers)
    return LatentReport(
        role=role if layers or compared else "",
        kind=layers[0].kind if layers else "",
        n=len(zeros),
        window=layers[0].window if layers else 1,
        n_bytes=account.n_bytes(role),
        zero_fraction=sum(zeros) / (n_windows * len(zeros)) if zeros and n_windows else 0.0,
        zero_fraction_by_dimension=[count / n_windows for count in zeros] if n_windows else [],
        comparison=compared,
    )


def preview_report(account: Account) -> PreviewReport:
    """What the preview costs, and its error measured on the first block of every shard of this run."""
    measured: dict[str, list[tuple[int, float | None, float | None]]] = {}
    for proof in account.proofs:
        for name, error in proof.preview.items():
            measured.setdefault(name, []).append((proof.n_rows, error.relative_rmse, error.accuracy))
    columns = []
    for name, found in measured.items():
        squares = [(n_rows, rmse**2) for n_rows, rmse, _ in found if rmse is not None]
        right = [(n_rows, accuracy) for n_rows, _, accuracy in found if accuracy is not None]
        mean = _weighted(squares)
        columns.append(PreviewColumn(name=name, relative_rmse=None if mean is None else math.sqrt(mean), accuracy=_weighted(right)))
    return PreviewReport(
        bytes=account.n_bytes(PREVIEW),
        columns=columns,
        comparison=siblings(account.summary.get("preview_compared", []), account.base(PREVIEW), account.in_shards(PREVIEW)),
    )


def summed(layers: Sequence[LayerProof]) -> tuple[list[int], int]:
    """(zeros by latent, windows) over layers of one shape; those of another shape, from a refreshed model, are left out."""
    alike = [layer for layer in layers if len(layer.zeros) == len(layers[0].zeros)]
    return [sum(counts) for counts in zip(*(layer.zeros for layer in alike), strict=True)], sum(layer.n_windows for layer in alike)


def siblings(
    compared: Sequence[Mapping[str, Any]], base: Base | None, in_shards: Sequence[bool], *, falls_back: bool = False
) -> list[dict[str, Any]]:
    """The rows of a comparison, fewest bytes first, with `chosen` on what this run's shards hold.

    in_shards  : for each of them, whether it stores the latents of the model's layer: the encoder has the last word
    falls_back : shards without are quantised uniformly
    """
    rows = sorted((dict(row) for row in compared), key=lambda row: row.get("n_bytes") or math.inf)
    form = None if base is None else (base.layer.kind, base.layer.window, base.layer.n_latents)
    left = {True: form is not None and any(in_shards), False: falls_back and (form is None or not all(in_shards))}
    for row in rows:
        is_layer = form == (row.get("kind"), row.get("window"), row.get("n_latents"))
        fits = is_layer or str(row.get("kind", "")).startswith(UNIFORM_KIND)
        row["chosen"] = fits and left[is_layer]
        left[is_layer] = left[is_layer] and not fits
    return rows


def _weighted(values: Sequence[tuple[int, float]]) -> float | None:
    total = sum(weight for weight, _ in values)
    return sum(weight * value for weight, value in values) / total if total else None
