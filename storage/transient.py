"""Which I/O failures pass by themselves, and the patience to wait for that."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from storage.errors import BadInput, LatentpackError, Unreachable

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 4
FIRST_ATTEMPTS = 2  # where nothing has ever answered, patience is for a wrong address
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
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError", "ProfileNotFound"}
_NO_REQUEST = {"ParamValidationError", "InvalidRegionError", "NoRegionError", "UnknownServiceError", "InvalidProxiesConfigError"}


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
    if isinstance(error, Unreachable | TimeoutError | ConnectionError | InterruptedError | BlockingIOError):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS


def translated(error: Exception, where: str) -> Exception:
    """A storage client's own exception as one of ours or an OSError, in one line that names `where`."""
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        lost = _lost_connection(error)
        return error if lost is None else _unreachable(lost, where)
    if isinstance(error, LatentpackError | FileExistsError):
        return error
    if isinstance(error, PermissionError) and error.filename is not None:
        return BadInput(f"{where}: {error.strerror}")  # of a local file
    if isinstance(error, PermissionError) or name in _NO_CREDENTIALS:
        return BadInput(f"{where}: access refused; give credentials by the environment or storage options")
    if isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS):
        return _unreachable(error, where)
    if isinstance(error, OSError):
        return error
    if name in _NO_REQUEST or (isinstance(error, ValueError) and str(error).startswith("Invalid endpoint")):
        said = " ".join(str(error).split())[:300]
        return BadInput(f"{where}: {said}; check the address, for S3 also AWS_ENDPOINT_URL")
    if type(error).__module__.partition(".")[0] in _CLIENT_LIBRARIES:
        return _unreachable(error, where)
    return error


def _lost_connection(error: BaseException) -> BaseException | None:
    """What fsspec's http took for a missing file: a server that was never reached."""
    link = error.__cause__ or error.__context__
    while link is not None and not isinstance(link, ConnectionError | TimeoutError):
        link = link.__cause__ or link.__context__
    return link


def _unreachable(error: BaseException, where: str) -> Unreachable:
    return Unreachable(f"{where}: the storage does not answer ({_first_line(error)}); check the network and, for S3, AWS_ENDPOINT_URL")


def persist(action: Callable[[], T], where: str, *, attempts: int = ATTEMPTS, sleep: Callable[[float], None] = time.sleep) -> T:
    """`action()`, again after a growing pause when it fails in a way that may pass.

    Raises what the last attempt raised, translated: Unreachable where nothing answers, BadInput for refused access,
    OSError otherwise.
    """
    for attempt in range(attempts):
        try:
            return action()
        except Exception as error:
            final = translated(error, where)
            if isinstance(error, LatentpackError) or not is_transient(final) or attempt == attempts - 1:
                if final is error:
                    raise
                raise final from error
            delay = FIRST_DELAY_S * 4**attempt
            level = logging.WARNING if attempts == ATTEMPTS else logging.INFO
            log.log(level, "%s: %s; again in %.1f s", where, _first_line(error), delay)
            sleep(delay)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
