"""What a snapshot says was proved of its shards before it was committed."""

import hashlib
from collections.abc import Sequence
from typing import Any

from storage.manifest import Manifest


def proved_digests(manifest: Manifest) -> dict[str, str]:
    """Shard -> digest of its decoded rows. A snapshot lists them in the order of its shards; one of format 1.0 names the shards."""
    found = manifest.verification.get("shards", {})
    if isinstance(found, list):
        found = dict(zip((shard.id for shard in manifest.shards), found, strict=False))
    return {shard: digest for shard, digest in found.items() if isinstance(digest, str)}


def whole_digest(digests: Sequence[str]) -> str:
    """One digest for the decoded data of several shards, in row order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def verification(manifest: Manifest) -> dict[str, Any]:
    """All of it, spelt out: rows proved by its run, violations, mismatches, digest of the whole, of each shard, errors by column."""
    digests = proved_digests(manifest)
    whole = whole_digest([digests[shard.id] for shard in manifest.shards if shard.id in digests]) if digests else ""
    return {"columns": {}, **manifest.verification, "digest": whole, "shards": digests}
