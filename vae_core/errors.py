"""Every error latentpack raises on purpose, as one tree; the exit code of the command line is a property of the class.

    LatentpackError            1
    ├── UsageError             2   the request itself makes no sense (unknown column, malformed tolerance)
    ├── BadInput               3   the source data cannot be read or contradicts itself
    │   └── Unreachable        3   the storage of source or archive, or the Prefect server, does not answer; later it may
    ├── CorruptArchive         4   stored bytes are not what the manifest says, or not this format
    ├── VerificationFailed     5   decoded data is outside what was promised; nothing was committed
    └── Conflict               6   another run committed first, or an object that must be new exists
"""

from __future__ import annotations

from typing import ClassVar


class LatentpackError(Exception):
    """Base of every deliberate error. The message is one line: what, where, what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(LatentpackError):
    """The request makes no sense as it stands."""

    exit_code: ClassVar[int] = 2


class BadInput(LatentpackError):
    """The source cannot be read, or its parts disagree."""

    exit_code: ClassVar[int] = 3


class Unreachable(BadInput):
    """The storage does not answer: no such host, nothing listens, the connection breaks. Trying again later may help."""


class CorruptArchive(LatentpackError):
    """Stored bytes differ from their digest, or are not a format this release reads."""

    exit_code: ClassVar[int] = 4


class VerificationFailed(LatentpackError):
    """A decoded value is outside its promise. Nothing was committed."""

    exit_code: ClassVar[int] = 5


class Conflict(LatentpackError):
    """An object that must be new exists: another run committed first."""

    exit_code: ClassVar[int] = 6
