"""The served deployments on their server: of one `latentpack serve` at a time, and left as people set them from one to the next.

A serve holds a lock of its own for each server, flock(2) on a file in the home folder, so a killed one holds none. The
file tells which deployments the last serve paused when it ended: any other pause is somebody's wish, and stays.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from flows import server
from vae_core.errors import UsageError

RECENT_S = 30.0
WATCH_S = 12.0  # a serve elsewhere asks for runs every 2 seconds, or every 10 where Prefect's own setting is given

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Hold:
    """The lock of a serve on a server, while it is held.

    paused : full names of the deployments the last serve paused when it ended; None when no serve has told
    """

    file: IO[str]
    paused: frozenset[str] | None

    def tell(self, paused: Sequence[str]) -> None:
        """Leave word of what this serve has paused, for the next."""
        self.file.seek(0)
        self.file.truncate()
        self.file.write(json.dumps(sorted(paused)))
        self.file.flush()


@contextlib.contextmanager
def held(api_url: str) -> Iterator[Hold]:
    """Hold the lock of the server at this URL. Raises UsageError when another serve of this home folder does."""
    folder = server.home() / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(api_url.replace("//localhost", "//127.0.0.1").encode()).hexdigest()[:16]
    with open(folder / f"{name}.lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(api_url) from error
        file.seek(0)
        try:
            told = json.loads(file.read())
        except ValueError:
            told = None
        yield Hold(file, frozenset(map(str, told)) if isinstance(told, list) else None)


def _taken(api_url: str) -> UsageError:
    return UsageError(f"another `latentpack serve` is running on the Prefect server at {api_url.removesuffix('/api')}: stop that one first")


def found_on(client: Any, served: Sequence[Any]) -> dict[str, Any]:
    """Full name -> the deployment as the server has it, for those it has."""
    from prefect.exceptions import ObjectNotFound

    found = {}
    for item in served:
        with contextlib.suppress(ObjectNotFound):
            found[item.full_name] = client.read_deployment_by_name(item.full_name)
    return found


def refuse_if_served(client: Any, api_url: str, found: dict[str, Any], hold: Hold, stop: threading.Event) -> None:
    """Raise UsageError when somebody asks for runs of these deployments: a serve on another machine, whose lock is not ours to see.

    One that has just been killed asks no more; that takes WATCH_S seconds to know.
    """
    for name, before in found.items():
        ended = before.paused and name in (hold.paused or ())
        if ended or before.last_polled is None or (datetime.now(UTC) - before.last_polled).total_seconds() > RECENT_S:
            continue
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline and not stop.wait(1.0):
            now = client.read_deployment(before.id).last_polled
            if now is not None and now > before.last_polled:
                raise _taken(api_url)
        return


def keep(client: Any, served: Any, found: Any, hold: Hold) -> None:
    """Give a deployment that is about to be registered again what people have set in the one there is.

    Its parameters stay, but for those `served` has; so do its schedules and whether they are active, a pause that
    no serve made, and whether its triggers are enabled. Schedules are switched on where there were no source and archive
    to run on before, and are now.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    kept = _still_valid(found.parameters or {}, served)
    given = dict(served.parameters or {})
    for name in ("source", "archive"):  # the same place keeps its credentials
        if name in given and _uri(kept.get(name)) == given[name]["uri"]:
            given[name] = kept[name]
    switched_on = bool(given) and not all(_uri(kept.get(name)) for name in ("source", "archive"))
    served.parameters = kept | given
    served.schedules = [
        DeploymentScheduleCreate(
            schedule=item.schedule,
            active=item.active or switched_on,
            max_scheduled_runs=item.max_scheduled_runs,
            parameters=item.parameters,
            slug=item.slug,
        )
        for item in found.schedules
    ]
    served.paused = bool(found.paused and hold.paused is not None and served.full_name not in hold.paused)
    for trigger in served.triggers:
        registered = client.read_automations_by_name(trigger.name)
        trigger.enabled = not registered or any(item.enabled for item in registered)


def _still_valid(parameters: Mapping[str, Any], served: Any) -> dict[str, Any]:
    """Those of the parameters the flow still takes: a release that no longer does has to start, too."""
    from prefect.utilities.schema_tools import validate

    schema = served._parameter_openapi_schema.model_dump(exclude_unset=True)
    kept = {}
    for name, value in parameters.items():
        if name not in schema["properties"] or validate({name: value}, schema, ignore_required=True):
            log.warning("%s: parameter %r is not kept, for this release does not take it", served.full_name, name)
        else:
            kept[name] = value
    return kept


def _uri(value: Any) -> Any:
    return value.get("uri") if isinstance(value, dict) else None


def schedule_text(served: Any) -> str:
    """When a deployment runs by itself, in words."""
    source, archive = (_uri(served.parameters.get(name)) for name in ("source", "archive"))
    active = [item.schedule for item in served.schedules or [] if item.active]
    if not (source and archive):
        lacks = "set LATENTPACK_SOURCE and LATENTPACK_ARCHIVE to run nightly"
        return f"on, without a source and an archive: {lacks}, or give them in the UI" if active else f"paused: {lacks}"
    if served.paused or not active:
        return f"paused in the UI: {source} → {archive}"
    crons = [f"{item.cron} {item.timezone or 'UTC'}" for item in active if hasattr(item, "cron")]
    return f"nightly ({', '.join(crons)}): {source} → {archive}" if crons else f"as set in the UI: {source} → {archive}"


async def pause(served: Sequence[Any], hold: Hold) -> None:
    """Pause the deployments, so that nobody's runs wait for a serve that has ended, and leave word of it.

    Those that are paused already stay as they are.
    """
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        found = [await client.read_deployment_by_name(item.full_name) for item in served]
        ours = {item.full_name: there.id for item, there in zip(served, found, strict=True) if not there.paused}
        hold.tell(list(ours))  # first: killed here, the next serve finds nothing paused
        for deployment_id in ours.values():
            await client.pause_deployment(deployment_id)
