"""Which I/O failures pass by themselves, and the patience to wait for that."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from storage.errors import BadInput, LatentpackError

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 4
FIRST_DELAY_S = 0.2

_TRANSIENT_ERRNOS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EREMOTEIO if hasattr(errno, "EREMOTEIO") else errno.EIO,
}
_CLIENT_LIBRARIES = {"botocore", "aiobotocore", "aiohttp", "urllib3", "requests", "gcsfs", "azure"}


def shown(uri: str) -> str:
    """`uri` as it may be printed: without user, password and query string."""
    scheme, separator, rest = uri.partition("://")
    if not separator or not ("@" in rest or "?" in rest):
        return uri
    parts = urlsplit(f"x://{rest}")
    clean = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
    return f"{scheme}://{clean.removeprefix('x://')}"


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, TimeoutError | ConnectionError | InterruptedError | BlockingIOError):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS


def translated(error: Exception, where: str) -> Exception:
    """A storage client's own exception as one of ours or an OSError, in one line that names `where`."""
    if isinstance(error, LatentpackError | FileNotFoundError | FileExistsError):
        return error
    if isinstance(error, PermissionError) or type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}:
        return BadInput(f"{where}: access refused; give credentials by the environment or storage options")
    if isinstance(error, OSError):
        return error
    if type(error).__module__.partition(".")[0] in _CLIENT_LIBRARIES:
        return ConnectionError(f"{where}: {type(error).__name__}: {_first_line(error)}")
    return error


def persist(action: Callable[[], T], where: str, *, sleep: Callable[[float], None] = time.sleep) -> T:
    """`action()`, again after a growing pause when it fails in a way that may pass.

    Raises what the last attempt raised, translated: BadInput for refused access, OSError otherwise.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except Exception as error:
            final = translated(error, where)
            if not is_transient(final) or attempt == ATTEMPTS - 1:
                if final is error:
                    raise
                raise final from error
            delay = FIRST_DELAY_S * 4**attempt
            log.warning("%s: %s; again in %.1f s", where, _first_line(error), delay)
            sleep(delay)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
