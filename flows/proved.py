"""What a snapshot says was proved of its shards before it was committed."""

import hashlib
from collections.abc import Sequence
from typing import Any

from flows.proof import ShardProof
from storage.manifest import Manifest


def proved_digests(manifest: Manifest) -> dict[str, str]:
    """Shard -> digest of its decoded rows."""
    return {shard.id: shard.proof.digest for shard in manifest.shards if shard.proof}


def proved_errors(manifest: Manifest) -> dict[str, dict[str, list[Any]]]:
    """Shard -> column -> [max_abs_error, rmse, n_finite], of columns that are not exact. Raises CorruptArchive."""
    names = manifest.schema.names
    return {
        shard.id: shard.proof.errors(names, shard.record.path) for shard in manifest.shards if shard.proof and shard.proof.told is not None
    }


def errors_of(proof: ShardProof) -> dict[str, list[Any]]:
    """Column -> [max_abs_error, rmse, n_finite], of columns that are not exact."""
    return {
        name: [item["max_abs_error"], item["rmse"], item["n_finite"]]
        for name, item in proof.columns.items()
        if item["max_abs_error"] or item["rmse"]
    }


def whole_digest(digests: Sequence[str]) -> str:
    """One digest for the decoded data of several shards, in row order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def verification(manifest: Manifest) -> dict[str, Any]:
    """All of it, spelt out: rows proved by its run, violations, mismatches, digest of the whole, of each shard, errors by column."""
    digests = proved_digests(manifest)
    whole = whole_digest([digests[shard.id] for shard in manifest.shards if shard.id in digests]) if digests else ""
    return {**manifest.verification, "columns": proved_errors(manifest), "digest": whole, "shards": digests}
