"""What a snapshot says was proved of its shards before it was committed."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from flows.proof import ShardProof
from storage.manifest import Manifest


def proved_digests(manifest: Manifest) -> dict[str, str]:
    """Shard -> digest of its decoded rows. A snapshot lists them in the order of its shards; one of format 1.0 names the shards."""
    found = manifest.verification.get("shards", {})
    if isinstance(found, list):
        found = dict(zip((shard.id for shard in manifest.shards), found, strict=False))
    return {shard: digest for shard, digest in found.items() if isinstance(digest, str)}


def proved_errors(manifest: Manifest) -> dict[str, dict[str, list[Any]]]:
    """Shard -> column -> [max_abs_error, rmse, n_finite], of columns that are not exact."""
    told = manifest.verification
    found = dict(told.get("columns", {}))  # before format 1.4
    for number, lists in zip(told.get("errors_of", []), told.get("errors", []), strict=False):
        lines = zip(manifest.schema.names, *lists, strict=False)
        if number in range(len(manifest.shards)):
            found[manifest.shards[number].id] = {name: list(line) for name, *line in lines if line[0] is not None}
    return found


def errors_of(proof: ShardProof) -> dict[str, list[Any]]:
    """Column -> [max_abs_error, rmse, n_finite], of columns that are not exact."""
    return {
        name: [item["max_abs_error"], item["rmse"], item["n_finite"]]
        for name, item in proof.columns.items()
        if item["max_abs_error"] or item["rmse"]
    }


def errors_in_order(errors: Mapping[str, Mapping[str, Sequence[float]]], order: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """The inverse, for a snapshot of shards in this order and columns of these names: three lists a shard, null where a column is exact."""
    numbers = [k for k, shard in enumerate(order) if shard in errors]
    lists = [[[errors[order[k]].get(name, (None,) * 3)[i] for name in names] for i in range(3)] for k in numbers]
    return {"errors_of": numbers, "errors": lists} if numbers else {}


def whole_digest(digests: Sequence[str]) -> str:
    """One digest for the decoded data of several shards, in row order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def verification(manifest: Manifest) -> dict[str, Any]:
    """All of it, spelt out: rows proved by its run, violations, mismatches, digest of the whole, of each shard, errors by column."""
    digests = proved_digests(manifest)
    whole = whole_digest([digests[shard.id] for shard in manifest.shards if shard.id in digests]) if digests else ""
    told = {key: value for key, value in manifest.verification.items() if key not in ("errors", "errors_of")}
    return {**told, "columns": proved_errors(manifest), "digest": whole, "shards": digests}
