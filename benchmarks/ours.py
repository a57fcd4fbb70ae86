"""latentpack as a peer: `latentpack run`, then what reading the archive on disk takes, each in a process of its own.

    python benchmarks/ours.py ARCHIVE [TIMES]      prints one JSON object: full reads, one column, 1,000 rows
    python benchmarks/ours.py ARCHIVE encode       prints another: its rows encoded again by its models, on one core, a median
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.children import ask, tell  # noqa: E402

SOME_ROWS = 1_000
ENCODE, WARMING_ROWS = "encode", 2_000
WITHOUT_KERNEL_S = 600.0  # a process that reads by numpy alone and takes longer is not waited for
TIMES = 3  # by one process, full reads and encodings: the first one opens libraries and makes tables as well
ENOUGH_S = 60.0  # after which there is no other


def measure_ours(
    source: str, specs: Sequence[str], *, preview: str = "auto", favour: str = "balance", budget_s: float | None = None, reads: bool = True
) -> dict[str, Any]:
    """A run with these `--tolerance` options, then its rows encoded again on one core, and the reads by one thread.

    reads : also one column, 1,000 rows, and a full decode without the C kernel, unless its process takes longer than WITHOUT_KERNEL_S
    """
    with tempfile.TemporaryDirectory() as scratch:
        archive, report_path = os.path.join(scratch, "archive"), os.path.join(scratch, "report.json")
        command = [sys.executable, "-m", "flows.cli", "run", source, archive, "--json", report_path, "--quiet"]
        command += ["--preview", preview, "--favour", favour]
        for spec in specs:
            command += ["--tolerance", spec]
        command += [] if budget_s is None else ["--time-budget", str(budget_s)]
        ask(command)
        report = json.loads(Path(report_path).read_text(encoding="utf-8"))
        reader = [sys.executable, __file__, archive]
        read = json.loads(ask([*reader, str(TIMES)]))
        encoded = json.loads(ask([*reader, ENCODE]))
        row = _row(report, read, encoded["encode_s"])
        if reads:
            row |= {key: value for key, value in read.items() if "_read_" in key}
            with suppress(subprocess.TimeoutExpired):
                without = json.loads(ask([*reader, str(TIMES)], within_s=WITHOUT_KERNEL_S, LATENTPACK_KERNEL="off"))
                row["decode_mb_s_without_kernel"] = read["arrow_bytes"] / 1e6 / max(without["full_read_s"], 1e-9)
    return row


def _row(report: dict[str, Any], read: dict[str, Any], encode_s: float) -> dict[str, Any]:
    from benchmarks.peers import speeds

    shares = [c["max_abs_error"] / c["tolerance"] for c in report["columns"] if c["tolerance_kind"] == "absolute" and c["tolerance"] > 0]
    n_bytes = read["arrow_bytes"]
    return {
        "rows": report["rows"],
        "columns": read["columns"],
        "arrow_bytes": n_bytes,
        "bytes": report["archive_bytes"],
        "conventional_bytes": report["conventional_bytes"],
        **speeds(n_bytes, read["cells"], encode_s, read["full_read_s"]),
        "compare_s": report["seconds"]["compare"],
        "train_s": report["seconds"]["train"],
        "peak_rss_bytes": report["peak_rss_bytes"],
        "worst_error_share": max(shares, default=0.0),
        "violations": sum(c["violations"] for c in report["columns"]),
        "latent_bytes": report["latents"],
        "model_bytes": report["model"],
        "preview_bytes": report["transfer"]["preview_bytes"],
    }


def reads_of(uri: str, times: int = 1) -> dict[str, Any]:
    """Bytes moved and seconds, opening included, of a full read, of the first column and of 1,000 rows from the middle.

    times : full reads at most, no other after ENOUGH_S; the median, and the first by itself
    """
    from benchmarks.codecs.dataset import n_cells
    from storage import open_archive

    found: dict[str, Any] = {}
    seconds: list[float] = []
    while len(seconds) < times and sum(seconds) < ENOUGH_S:
        began = time.perf_counter()
        archive = open_archive(uri)
        n_bytes = cells = 0
        for batch in archive.to_batches():
            n_bytes += batch.nbytes
            cells += n_cells(batch)
        seconds.append(time.perf_counter() - began)
    found |= {"full_read_bytes": archive.meter.bytes_read, "full_read_s": statistics.median(seconds), "first_full_read_s": seconds[0]}
    names, middle = archive.schema.names, archive.num_rows // 2
    for label, some in (("one_column", {"columns": names[:1]}), ("thousand_rows", {"rows": (middle, middle + SOME_ROWS)})):
        began = time.perf_counter()
        archive = open_archive(uri)
        archive.to_table(**some)
        found |= {f"{label}_read_bytes": archive.meter.bytes_read, f"{label}_read_s": time.perf_counter() - began}
    return found | {"arrow_bytes": n_bytes, "cells": cells, "columns": len(names)}


def encoding_of(uri: str) -> dict[str, Any]:
    """Seconds that encoding the archive's rows by its models takes on one core, once the code is loaded: shards made, and made again
    where comparing shows that they have to be, not compared. Of each shard the median of TIMES, or fewer where that would be more than
    ENOUGH_S."""
    from storage import open_archive
    from vae_core.shard import Measure, beaten_by, encode_shard, measured

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    archive, first, seconds = open_archive(uri), 0, 0.0
    for entry in archive.entries():
        model, table = archive.model(entry.model, with_encoder=True), archive.to_table(rows=(first, first := first + entry.n_rows))
        again = partial(encode_shard, model, table, block_rows=max(entry.block_rows, default=1), preview=None)
        encode = partial(again, measure=Measure.LATER)
        encode_shard(model, table.slice(0, WARMING_ROWS))
        known = beaten_by(shard := encode(), measured(shard))
        taken: list[float] = []
        while len(taken) < TIMES and sum(taken) < ENOUGH_S / TIMES:
            began = time.perf_counter()
            encode()
            if known:
                again(known=known)
            taken.append(time.perf_counter() - began)
        seconds += statistics.median(taken)
    return {"encode_s": seconds}


if __name__ == "__main__":
    if sys.argv[2:] == [ENCODE]:
        tell(encoding_of(sys.argv[1]))
    else:
        tell(reads_of(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1))
