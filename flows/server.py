"""The Prefect server a run reports to.

Set PREFECT_API_URL (or a Prefect profile that has one) and that server is used. Otherwise a `prefect server` on SQLite
under LATENTPACK_HOME is shared by all runs of this user: the first run starts it, later ones reuse it, and its *keeper*
stops it a few seconds after the last user let go, however that user ended. Locks are flock(2) on three files, so a killed
process holds none:

    start.lock    exclusive while somebody decides to start, reuse or stop
    users.lock    shared by every run that uses the server
    keeper.lock   exclusive for the life of the keeper

This module imports no Prefect: the keeper must be small, and a server has to be on its way before Prefect is imported.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from vae_core.errors import LatentpackError, Unreachable, UsageError

START_TIMEOUT_S = 180.0
LINGER_S = 10.0
POLL_S = 0.25
# Prefect's own. Runs and `latentpack serve` share it when it is free, so that the address of a run stays good.
UI_PORT = 4200

QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
SERVER_ENVIRONMENT = {
    **QUIET,
    # The default batch of one loses task runs under load and when the server stops soon after a run. Whole seconds: the
    # recorder truncates its interval, and sleeps for nothing at all, for ever, below one.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}


def home() -> Path:
    """Where this user's server, run folders and locks live: LATENTPACK_HOME, else the platform's data folder."""
    chosen = os.environ.get("LATENTPACK_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "latentpack"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".local" / "share") / "latentpack"


def wanted() -> bool:
    """False when LATENTPACK_SERVER=off: the plain functions run without Prefect."""
    return os.environ.get("LATENTPACK_SERVER", "").strip().lower() not in ("off", "0", "no", "false")


def require() -> None:
    """Raise UsageError where Prefect is not installed, before anything is started for it."""
    if find_spec("prefect") is None:
        raise UsageError("prefect is not installed: pip install 'latentpack[flows]'; LATENTPACK_SERVER=off runs without a server")


def configured_api_url() -> str | None:
    """The API URL the user chose, by environment or by the active Prefect profile; None means the embedded server."""
    url = os.environ.get("PREFECT_API_URL")
    if url:
        return url.rstrip("/")
    folder = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml").expanduser()
    try:
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    profile = profiles.get("profiles", {}).get(active, {})
    chosen = profile.get("PREFECT_API_URL") if isinstance(profile, dict) else None
    return str(chosen).rstrip("/") if chosen else None


def no_analytics() -> None:
    """Turn Prefect's telemetry off in this process and its children, unless the user has decided otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def healthy(api_url: str, timeout_s: float = 2.0) -> bool:
    """Whether a Prefect API answers at this URL."""
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def free_port(preferred: int | None = None) -> int:
    """A TCP port of 127.0.0.1 nobody listens on, `preferred` if it is one."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise LatentpackError("no free TCP port on 127.0.0.1 for the Prefect server")


@dataclass(slots=True)
class Server:
    """A server in use. `wait()` before the first call, `close()` after the last; a context manager does both.

    api_url, ui_url : where it answers;  embedded : whether it is ours;  started : whether it was started just now
    """

    api_url: str
    embedded: bool
    started: bool = False
    _users: IO[bytes] | None = None
    _log: Path | None = None
    _keeper_lock: Path | None = None

    @property
    def ui_url(self) -> str:
        """Address of the UI, for people."""
        return self.api_url.removesuffix("/api")

    def wait(self, timeout_s: float = START_TIMEOUT_S, stop: threading.Event | None = None) -> None:
        """Return once the server answers, or `stop` is set. Raises LatentpackError when it does not (Unreachable: not ours)."""
        deadline = time.monotonic() + timeout_s
        grace = time.monotonic() + 5.0
        while not (stop is not None and stop.is_set()) and not healthy(self.api_url):
            if not self.embedded:
                raise Unreachable(
                    f"no Prefect server answers at {self.api_url}: start it, or unset PREFECT_API_URL for the embedded one"
                )
            gone = self._keeper_lock is not None and time.monotonic() > grace and not _is_locked(self._keeper_lock)
            if gone or time.monotonic() > deadline:
                raise LatentpackError(f"the embedded Prefect server did not start: see {self._log}; last line: {_last_line(self._log)}")
            time.sleep(0.1)

    def close(self) -> None:
        """Let go of the server. The keeper stops it when nobody else uses it."""
        if self._users is not None:
            self._users.close()
            self._users = None

    def __enter__(self) -> "Server":
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(*, preferred_port: int | None = None, port: int | None = None) -> Server:
    """The configured server, or the embedded one, started when none runs. Returns at once: call `wait()`.

    preferred_port : of a server that has to be started, if it is free;  port : no other will do
    Raises UsageError when `port` is taken, or the server there is (configured or running) has another.
    """
    url = configured_api_url()
    if url is not None:
        if port is not None:
            told = f"PREFECT_API_URL (or the Prefect profile) names {url}: leave the port out, or unset that"
            raise UsageError(f"port {port} is for a server of our own, and {told}")
        return Server(url, embedded=False)
    folder = home() / "server"
    folder.mkdir(parents=True, exist_ok=True)
    keeper_lock, log = folder / "keeper.lock", folder / "server.log"
    with _locked(folder / "start.lock"):
        users = open(folder / "users.lock", "ab")  # noqa: SIM115 - held, and so locked, until close()
        fcntl.flock(users, fcntl.LOCK_SH)
        state = _read_state(folder) if _is_locked(keeper_lock) else None
        try:
            api_url = _api_url(free_port(preferred_port) if port is None else _this_port(port)) if state is None else state["api_url"]
            if state is not None and port is not None and api_url != _api_url(port):
                raise UsageError(f"port {port}: the Prefect server of this user runs at {api_url.removesuffix('/api')} already")
            if state is None:
                _start_keeper(folder, api_url, log)
                (folder / "server.json").write_text(json.dumps({"api_url": api_url}), encoding="utf-8")
        except BaseException:
            users.close()
            raise
        return Server(api_url, True, state is None, users, log, keeper_lock)


def _api_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def _this_port(port: int) -> int:
    if not 0 < port < 65_536 or free_port(port) != port:
        raise UsageError(f"port {port} is taken, or not ours to take: choose another")
    return port


def _start_keeper(folder: Path, api_url: str, log: Path) -> None:
    """Start the keeper in its own session, and return once it holds its lock, so that nobody starts a second one."""
    with open(log, "wb") as out:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(folder), api_url],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # the pages ask the default port without it, whichever the server listens on
            env=_child_environment(folder) | {"PREFECT_UI_API_URL": api_url},
        )
    deadline = time.monotonic() + 30.0
    while not _is_locked(folder / "keeper.lock"):
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise LatentpackError(f"the embedded Prefect server did not start: see {log}; last line: {_last_line(log)}")
        time.sleep(0.02)
    threading.Thread(target=keeper.wait, name="reap-server-keeper", daemon=True).start()


def _child_environment(folder: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment.update(SERVER_ENVIRONMENT)
    environment["PREFECT_HOME"] = str(folder / "prefect")
    root = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    for name in ("PREFECT_SERVER_UI_ENABLED", "PREFECT_SERVER_DATABASE_CONNECTION_URL"):
        if name in os.environ:
            environment[name] = os.environ[name]
    return environment


def keep(folder: Path, api_url: str, linger_s: float) -> int:
    """The keeper: run the server, and stop it once nobody has used it for linger_s seconds. Returns its exit code."""
    with open(folder / "keeper.lock", "ab") as life:
        fcntl.flock(life, fcntl.LOCK_EX)
        port = api_url.removesuffix("/api").rsplit(":", 1)[1]
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: stopping.set())
        idle_since: float | None = None
        while server.poll() is None and not stopping.wait(POLL_S):
            with _locked(folder / "start.lock", wait=False) as deciding:
                if not deciding or _is_locked(folder / "users.lock"):
                    idle_since = None if deciding else idle_since
                    continue
                idle_since = idle_since or time.monotonic()
                if time.monotonic() - idle_since >= linger_s:
                    # Stopped while start.lock is held: the next run waits, then starts its own.
                    (folder / "server.json").unlink(missing_ok=True)
                    return _stop(server)
        return _stop(server)


def _stop(server: "subprocess.Popen[Any]") -> int:
    """Ask, wait, insist."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(15.0)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    return 0


def _end_with_parent() -> None:
    """Linux: the kernel stops the server should its keeper be killed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock; with wait=False yield False at once when somebody else does."""
    with open(path, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _is_locked(path: Path) -> bool:
    """Whether somebody holds this lock, shared or not."""
    with _locked(path, wait=False) as free:
        return not free


def _read_state(folder: Path) -> Mapping[str, str] | None:
    try:
        state = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("api_url"), str) else None


def _last_line(log: Path | None) -> str:
    if log is None or not log.exists():
        return "(no log)"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "(empty log)"


def main(arguments: list[str] | None = None) -> int:
    """`python -m flows.server FOLDER API_URL`: the keeper's process."""
    parser = argparse.ArgumentParser(prog="python -m flows.server", description="Keep the embedded Prefect server while it is used.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("api_url")
    parser.add_argument("--linger", type=float, default=float(os.environ.get("LATENTPACK_SERVER_LINGER", LINGER_S)))
    parsed = parser.parse_args(arguments)
    return keep(parsed.folder, parsed.api_url, parsed.linger)


if __name__ == "__main__":
    sys.exit(main())
