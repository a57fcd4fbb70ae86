"""The error tree, drawn once in `vae_core.errors`, under the name a reader of archives looks for."""

from vae_core.errors import BadInput, Conflict, CorruptArchive, LatentpackError, Unreachable, UsageError, VerificationFailed

__all__ = ["BadInput", "Conflict", "CorruptArchive", "LatentpackError", "Unreachable", "UsageError", "VerificationFailed"]
