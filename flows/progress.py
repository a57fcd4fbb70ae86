"""News from a run, to whoever listens: the terminal of this process, and the progress artifacts of the Prefect UI.

Tasks report to a run by its folder's name; a listener is only ever in the process that started the run. A worker has
none, and the artifacts are what people watch there.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from flows.report import ProgressEvent

Listener = Callable[[ProgressEvent], None]
ARTIFACT_INTERVAL_S = 1.0

_listeners: dict[str, Listener] = {}


@contextlib.contextmanager
def listening(run: str, listener: Listener | None) -> Iterator[None]:
    """Send the news of a run to `listener` while the block lasts."""
    if listener is not None:
        _listeners[run] = listener
    try:
        yield
    finally:
        _listeners.pop(run, None)


def tell(run: str, event: ProgressEvent) -> None:
    """Hand an event to the listener of a run, if any. A listener that fails is dropped: news must not stop work."""
    listener = _listeners.get(run)
    if listener is not None:
        try:
            listener(event)
        except Exception:
            _listeners.pop(run, None)


def in_prefect_run() -> bool:
    """Whether this code runs inside a flow or task run, and so has a page in the UI."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


class Progress:
    """The progress of one stage of a run; callable from several threads.

    artifact_key : also shown as a Prefect progress artifact of this task run, updated at most once a second
    """

    def __init__(self, run: str, stage: str, *, total: float = 0.0, artifact_key: str | None = None, description: str = "") -> None:
        self._run, self._stage, self._total = run, stage, total
        self._done = 0.0
        self._lock = threading.Lock()
        self._artifact: object | None = None
        self._shown_s = float("-inf")
        if artifact_key is not None and in_prefect_run():
            from prefect.artifacts import create_progress_artifact

            self._artifact = create_progress_artifact(progress=0.0, key=artifact_key, description=description)

    def add(self, amount: float, message: str = "") -> None:
        """Count work done. The last of it is told by `finish`."""
        with self._lock:
            self._done += amount
            done = self._done
        if not 0.0 < self._total <= done:
            self.at(done, message)

    def at(
        self,
        done: float,
        message: str = "",
        *,
        total: float | None = None,
        bits_per_row: float | None = None,
        held_out_bits_per_row: float | None = None,
    ) -> None:
        """State the work done so far, in the stage's own unit."""
        whole = self._total if total is None else total
        tell(
            self._run,
            ProgressEvent(
                stage=self._stage,
                message=message,
                done=done,
                total=whole,
                bits_per_row=bits_per_row,
                held_out_bits_per_row=held_out_bits_per_row,
            ),
        )
        if whole > 0:
            self._show(100.0 * min(done / whole, 1.0), message)

    def finish(self, message: str = "") -> None:
        """The stage is done."""
        total = self._total or 1.0
        tell(self._run, ProgressEvent(stage=self._stage, message=message, done=total, total=total))
        self._show(100.0, message, now=True)

    def _show(self, percent: float, message: str, *, now: bool = False) -> None:
        if self._artifact is None:
            return
        with self._lock:
            moment = time.monotonic()
            if not now and moment - self._shown_s < ARTIFACT_INTERVAL_S:
                return
            self._shown_s = moment
        from prefect.artifacts import update_progress_artifact

        update_progress_artifact(artifact_id=self._artifact, progress=percent, description=message or None)  # type: ignore[arg-type]
