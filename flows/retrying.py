"""What a task tries again: storage and network errors that may pass, nothing that is wrong for good."""

from typing import Any

from storage.transient import is_transient
from vae_core.errors import LatentpackError, Unreachable

RETRIES: dict[str, Any] = {"retries": 3, "retry_delay_seconds": [2, 10, 30]}


def may_pass(error: BaseException) -> bool:
    """Whether trying again could help."""
    if isinstance(error, LatentpackError):
        return isinstance(error, Unreachable)
    return isinstance(error, (OSError, TimeoutError, ConnectionError)) and is_transient(error)


def on_passing_errors(task: Any, task_run: Any, state: Any) -> bool:
    """A Prefect retry condition."""
    try:
        state.result()
    except Exception as error:
        return may_pass(error)
    return False
