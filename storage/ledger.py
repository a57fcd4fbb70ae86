"""Every stored byte in one of five parts; the parts sum exactly to what lies under the archive, reports apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.manifest import Manifest
from storage.shards import ShardEntry, load_records
from storage.snapshots import load_readable, undisturbed

if TYPE_CHECKING:
    from storage.objects import ObjectStore

LEDGER_PARTS = ("latents", "corrections", "verbatim", "model", "metadata")
REPORTS_PREFIX = "reports/"


def bytes_by_part(store: ObjectStore, manifest: Manifest | None = None, snapshots: Sequence[Manifest] | None = None) -> dict[str, int]:
    """Bytes of every object under the archive, by part (see LEDGER_PARTS), reports apart.

    Shards and models of `manifest` and of every committed snapshot count by what they hold; FORMAT, snapshots, chapters, records,
    Parquet headers and footers, and leftovers that no readable snapshot names count as metadata. Raises CorruptArchive.

    snapshots : the committed ones that can be read, where somebody has read them (then what goes meanwhile is missing)
    """
    if snapshots is None:
        return undisturbed(store, lambda: bytes_by_part(store, manifest, load_readable(store)[0]))
    sizes = {info.path: info.n_bytes for info in store.list("") if not info.path.startswith(REPORTS_PREFIX)}
    parts = dict.fromkeys(LEDGER_PARTS, 0)
    manifests = [*snapshots, *([manifest] if manifest is not None else [])]
    models = {ref.path for one in manifests for model in one.models for ref in model.objects.values()}
    shards = {shard.record.path: shard for one in manifests for shard in one.shards}
    parts["model"] = sum(sizes.get(path, 0) for path in models)
    for entry in load_records(store, list(shards.values())):
        for name, n_bytes in entry.parts.items():
            if name != "metadata":
                parts[name] += n_bytes
    parts["metadata"] = sum(sizes.values()) - sum(parts.values())
    return parts


def report_bytes(store: ObjectStore) -> int:
    """Bytes of the reports kept beside the archive."""
    return sum(info.n_bytes for info in store.list(REPORTS_PREFIX))


def column_totals(entries: list[ShardEntry]) -> dict[str, dict[str, int | float | str]]:
    """Per dataset column: bytes, conventional_bytes, max_abs_error and the codings, the one with most rows first."""
    totals: dict[str, dict[str, int | float | str]] = {}
    rows: dict[str, dict[str, int]] = {}
    for entry in entries:
        for outcome in entry.outcomes:
            total = totals.setdefault(outcome.name, {"bytes": 0, "conventional_bytes": 0, "max_abs_error": 0.0})
            total["bytes"] = int(total["bytes"]) + outcome.n_bytes
            total["conventional_bytes"] = int(total["conventional_bytes"]) + outcome.conventional_bytes
            total["max_abs_error"] = max(float(total["max_abs_error"]), outcome.max_abs_error)
            counts = rows.setdefault(outcome.name, {})
            counts[outcome.coding] = counts.get(outcome.coding, 0) + entry.n_rows
    for name, counts in rows.items():
        totals[name]["coding"] = "+".join(sorted(counts, key=lambda coding: (-counts[coding], coding)))
    return totals
