"""Each measurement is a process of its own, so that its peak memory is its own: `ask` runs one, in it `tell` answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def ask(command: Sequence[str], *, within_s: float | None = None, **settings: str) -> str:
    """Standard output of a process that has one thread and no Prefect server. Raises CalledProcessError, or TimeoutExpired after
    `within_s`, when the process is no more."""
    environment = {**os.environ, **ONE_THREAD, "LATENTPACK_SERVER": "off", **settings}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=within_s).stdout


def tell(found: Mapping[str, Any]) -> NoReturn:
    """Print JSON and end the process at once.

    After `parquet.read_table` pyarrow 26's own threads abort about one process in fifty while the interpreter shuts down
    ("terminate called without an active exception"), when everything has been measured: that is left out.
    """
    json.dump(found, sys.stdout)
    sys.stdout.flush()
    os._exit(0)
