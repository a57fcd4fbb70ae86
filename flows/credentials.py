"""Storage options by the name of a Prefect block, so that no parameter, artifact or log ever holds a key."""

import json
from typing import Any

from vae_core.errors import UsageError


def storage_options(block: str | None) -> dict[str, Any] | None:
    """fsspec storage options of the block called `type/name`; None without a name: fsspec then asks the environment.

    Takes `latentpack-storage/…`, a `secret/…` holding a JSON object, or Prefect's `remote-file-system/…`.
    Raises UsageError when there is no such block or it holds no options.
    """
    if block is None:
        return None
    from prefect.blocks.core import Block
    from prefect.exceptions import PrefectException

    import flows.blocks  # noqa: F401 - registers latentpack-storage

    try:
        found = Block.load(block)
    except (ValueError, RuntimeError, PrefectException) as error:
        raise UsageError(f"there is no Prefect block {block!r}: create it in the UI under Blocks, or leave credentials empty") from error
    for name in ("storage_options", "value", "settings"):
        value = getattr(found, name, None)
        if value is None:
            continue
        value = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                value = None
        if isinstance(value, dict):
            return dict(value)
    raise UsageError(f"the Prefect block {block!r} holds no storage options: a JSON object of fsspec options is needed")
