"""News from a running pipeline, on the terminal: one moving line on a TTY, plain lines anywhere else."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from flows.report import ProgressEvent

BAR_WIDTH = 14
REDRAW_S = 0.1
PLAIN_INTERVAL_S = 10.0
COUNTS_ROWS = ("encode", "verify")
SLOW_LOGGER = "vae_core.entropy.kernel.missing"  # by name: importing it takes numpy, which most commands get later or not at all


class ProgressLine:
    """A callable for `run_pipeline(progress=...)`; safe to call from several threads.

    While training it shows bits per row falling and the seconds used of the budget, while encoding rows per second.
    `quiet` shows nothing. As a context manager it leaves the terminal on a fresh line.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._moving = not quiet and self._stream.isatty()
        self._lock = threading.Lock()
        self._stage = ""
        self._stage_began_s = 0.0
        self._shown_s = float("-inf")
        self._last_line = ""
        self._first_bits: float | None = None
        self._layer = ""
        self._on_line = False
        self._complete = False  # a budget that is used up is said so once, whatever goes on

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._finish_line()

    def __call__(self, event: ProgressEvent) -> None:
        """Show one event. Events that come faster than eyes are dropped, but never the first or last of a stage."""
        if self._quiet:
            return
        now = time.monotonic()
        with self._lock:
            new_stage = event.stage != self._stage
            if new_stage:
                self._finish_line()
                self._stage, self._stage_began_s, self._first_bits, self._complete = event.stage, now, None, False
            if event.bits_per_row is not None and _layer(event) != self._layer:
                self._layer, self._first_bits = _layer(event), None  # a layer's rate is its own: not to be compared with another's
            if self._first_bits is None:
                self._first_bits = event.bits_per_row
            complete = event.total > 0 and event.done >= event.total and not self._complete
            interval = REDRAW_S if self._moving else PLAIN_INTERVAL_S
            if not (new_stage or complete) and now - self._shown_s < interval:
                return
            line = self._text(event, now - self._stage_began_s)
            if line == self._last_line:
                return
            self._shown_s, self._last_line, self._complete = now, line, self._complete or complete
            if self._moving:
                width = shutil.get_terminal_size().columns - 1
                self._stream.write("\r\x1b[2K" + line[:width])
                self._on_line = True
            else:
                self._stream.write(line + "\n")
            self._stream.flush()

    def _finish_line(self) -> None:
        if self._on_line:
            self._stream.write("\n")
            self._stream.flush()
            self._on_line = False

    def _text(self, event: ProgressEvent, seconds: float) -> str:
        parts = [f"{event.stage:<7}"]
        if self._moving and event.total > 0 and event.stage in ("train", *COUNTS_ROWS):
            filled = round(BAR_WIDTH * min(1.0, event.done / event.total))
            parts.append("█" * filled + "░" * (BAR_WIDTH - filled))
        if event.bits_per_row is not None:
            return "  ".join([*parts, self._training(event)])
        if event.stage == "train" and self._moving:
            parts.append(f"{seconds:.0f} s")
        elif event.stage in COUNTS_ROWS and event.total > 0:
            parts.append(f"{event.done:,.0f} of {event.total:,.0f} rows")
            parts.append(f"{event.done / seconds:,.0f} rows/s" if seconds > 0.5 and event.done else "")
        parts.append(event.message)
        return "  ".join(part for part in parts if part)

    def _training(self, event: ProgressEvent) -> str:
        text = f"{event.bits_per_row:.2f} bits/row"
        layer = _layer(event)
        if self._first_bits is not None and self._first_bits > (event.bits_per_row or 0.0):
            text = f"{self._first_bits:.2f} → " + text
        if layer:
            text = f"{layer} layer  {text}"
        if event.held_out_bits_per_row is not None and event.held_out_bits_per_row != event.bits_per_row:
            text += f" (held out {event.held_out_bits_per_row:.2f})"
        if event.total > 0:
            over = event.done > event.total
            text += (
                f"  {event.done:.0f} s, budget {event.total:.0f} s"
                if over
                else f"  {event.done:.0f} of {event.total:.0f} s"
            )
        return text


class Notice(logging.Handler):
    """The first record of a logger as a line on the terminal, over a line that moves; those that follow say the same."""

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._said:
            self._said = True
            clear = "\r\x1b[2K" if sys.stderr.isatty() else ""
            print(f"{clear}latentpack: {record.getMessage()}", file=sys.stderr, flush=True)


@contextmanager
def saying_what_is_slow() -> Iterator[None]:
    """Once and on stderr, that numpy does the work of the C kernel, as soon as there is such work."""
    logger, notice = logging.getLogger(SLOW_LOGGER), Notice()
    level, logger.propagate = logger.level, False
    logger.setLevel(logging.INFO)
    logger.addHandler(notice)
    try:
        yield
    finally:
        logger.removeHandler(notice)
        logger.setLevel(level)
        logger.propagate = True


def _layer(event: ProgressEvent) -> str:
    """The layer a training event speaks of: exact, preview or distortion; empty where it does not say."""
    word = event.message.partition(":")[0].partition(" ")[0]
    return "exact" if word in ("exact", "order") else word
