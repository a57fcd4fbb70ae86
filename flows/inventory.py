"""What an archive holds and what it costs, from its manifest and the sizes of its objects: `latentpack info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.objects import ObjectStore

MAX_SNAPSHOTS_SHOWN = 20


def inventory(uri: str, *, snapshot: int | None = None) -> dict[str, Any]:
    """One archive as JSON values: rows, columns, snapshots (the newest first), models, bytes by part.

    Nothing is decoded. Bytes are those of all objects under the archive, reports apart, whichever snapshot is shown;
    `unfinished_bytes` of its metadata are of runs that have not come to a snapshot.
    Raises BadInput when there is no archive, UsageError for an unknown snapshot, CorruptArchive.
    """
    from storage.objects import ObjectStore
    from storage.snapshots import undisturbed

    store = ObjectStore.open(uri)
    return undisturbed(store, lambda: _inventory(store, uri, snapshot))


def _inventory(store: ObjectStore, uri: str, snapshot: int | None) -> dict[str, Any]:
    from flows.proved import verification
    from storage.ledger import bytes_by_part, column_totals
    from storage.shards import load_records
    from storage.snapshots import load_manifest, load_readable
    from storage.vacuum import named_by, unfinished

    manifest = load_manifest(store, snapshot)
    totals: dict[str, dict[str, Any]] = {
        name: dict(total) for name, total in column_totals(load_records(store, manifest.shards, manifest.schema.names)).items()
    }
    for name, stated in manifest.ledger.get("columns", {}).items():
        totals.setdefault(name, {}).update(stated)
    snapshots, damaged = load_readable(store)
    parts = dict(bytes_by_part(store, manifest, snapshots))
    total = sum(parts.values())
    raw_bytes = sum(source.n_bytes for source in manifest.sources)
    conventional_bytes = sum(int(total.get("conventional_bytes", 0)) for total in totals.values())
    snapshots.reverse()
    return {
        "archive": uri,
        "format": "{}.{}".format(*manifest.format_version),
        "writer": manifest.writer,
        "snapshot": manifest.snapshot,
        "created_at": manifest.created_at,
        "source": manifest.source,
        "source_files": len(manifest.sources),
        "rows": manifest.n_rows,
        "shards": len(manifest.shards),
        **_columns(manifest.schema, manifest.tolerances, totals),
        "models": [{"digest": model.digest, "bytes": model.n_bytes} for model in manifest.models],
        "n_snapshots": len(snapshots) + len(damaged),
        "snapshots": [{"snapshot": m.snapshot, "created_at": m.created_at, "rows": m.n_rows} for m in snapshots[:MAX_SNAPSHOTS_SHOWN]],
        "damaged_snapshots": {str(number): str(what) for number, what in damaged.items()},
        "archive_bytes": total,
        "parts": parts,
        "unfinished_bytes": sum(info.n_bytes for info in unfinished(store, named_by(snapshots))),
        "raw_bytes": raw_bytes,
        "conventional_bytes": conventional_bytes,
        "ratio_vs_raw": raw_bytes / total if total else 0.0,
        "ratio_vs_conventional": conventional_bytes / total if total else 0.0,
        "verification": verification(manifest),
    }


def _columns(schema: Any, tolerances: Mapping[str, Any], totals: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The columns of the dataset, and where nested ones are divided, as they are stored."""
    from storage.leaves import Leaves
    from storage.nodes import share_of

    leaves = Leaves.read(schema)
    lines = list[dict[str, Any]]()
    for item, (node, k) in zip(leaves.outer, leaves.of_columns, strict=True):
        line = {**_line(item.name, item.type, [leaf.name for leaf in node.leaves], tolerances, totals), "nullable": item.nullable}
        for key in ("bytes", "conventional_bytes"):
            line[key] = share_of(line[key], k, node.n_columns)
        lines.append(line)
    shown = [_line(name, kind, parts, tolerances, totals) for name, kind, parts in leaves.shown]
    return {"columns": lines} if leaves.is_flat else {"columns": lines, "leaves": shown}


def _line(
    name: str, kind: Any, parts: Sequence[str], tolerances: Mapping[str, Any], totals: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    from vae_core.tolerance import Tolerance

    coded = [totals.get(part, {}) for part in parts]
    asked = [tolerances[part] for part in parts if tolerances.get(part)]
    return {
        "name": name,
        "type": str(kind),
        "tolerance": "several" if any(one != asked[0] for one in asked) else str(Tolerance.from_json(asked[0])) if asked else "lossless",
        "coding": str(max(coded, key=lambda total: int(total.get("bytes", 0))).get("coding", "")),
        "bytes": sum(int(total.get("bytes", 0)) for total in coded),
        "conventional_bytes": sum(int(total.get("conventional_bytes", 0)) for total in coded),
    }
