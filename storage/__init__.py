"""Raw datasets in, archives out. Reading an archive starts at `open_archive` and needs neither torch nor Prefect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vae_core.errors import BadInput, Conflict, CorruptArchive, LatentpackError, UsageError, VerificationFailed

if TYPE_CHECKING:
    from storage.archive import Archive, open_archive

__all__ = [
    "Archive",
    "BadInput",
    "Conflict",
    "CorruptArchive",
    "LatentpackError",
    "UsageError",
    "VerificationFailed",
    "open_archive",
]


def __getattr__(name: str) -> Any:
    """`Archive` and `open_archive`, with pyarrow and fsspec behind them, are imported when first asked for."""
    if name in ("Archive", "open_archive"):
        from storage import archive

        return getattr(archive, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
