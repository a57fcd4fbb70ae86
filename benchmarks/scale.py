"""A dataset of many times the memory a run may use: peak memory must not follow the number of rows.

    make scale       or: python benchmarks/scale.py --rows 5000000 20000000 --limit-mb 1500

Every number of rows is a dataset and a run of its own; `results/scale.csv` and the table in README.md here are of those of `make scale`.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks import readme  # noqa: E402
from benchmarks.results import machine  # noqa: E402

COMMAND = [str(Path(sys.executable).parent / "latentpack")]
RESULTS = HERE / "results" / "scale.csv"
ROWS, ROWS_A_FILE = (5_000_000, 20_000_000), 1_000_000
FIELDS = (
    "rows", "arrow_bytes", "archive_bytes", "peak_rss_bytes", "train_s", "encode_s", "verify_s", "version", "commit", "date", "cpu",
    "cores",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run, compare with the limit, and write the CSV and the page where the usual numbers of rows are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--limit-mb", type=int, default=1500, help="peak resident memory a run may use")
    arguments = parser.parse_args(argv)
    measured = list[dict[str, Any]]()
    for n_rows in arguments.rows:
        row = measure(n_rows)
        if row is None:
            return 1
        measured.append(row)
        print(
            f"{n_rows:,} rows, {row['arrow_bytes'] / 1e6:,.0f} MB of Arrow: peak {row['peak_rss_bytes'] / 1e6:,.0f} MB of memory, "
            f"limit {arguments.limit_mb} MB"
        )
    if tuple(arguments.rows) == ROWS:
        unfinished = RESULTS.with_name(RESULTS.name + ".part")
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(measured)
        unfinished.replace(RESULTS)
        readme.main([])
    return 0 if all(row["peak_rss_bytes"] <= 1e6 * arguments.limit_mb for row in measured) else 1


def measure(n_rows: int) -> dict[str, Any] | None:
    """A run over so many rows made up, one file a million; None where it fails."""
    with tempfile.TemporaryDirectory(prefix="latentpack-scale-") as folder:
        source, archive, report = Path(folder) / "source", Path(folder) / "archive", Path(folder) / "report.json"
        source.mkdir()
        n_arrow_bytes = 0
        for number, start in enumerate(range(0, n_rows, ROWS_A_FILE)):
            table = telemetry(min(ROWS_A_FILE, n_rows - start), start, seed=number)
            n_arrow_bytes += table.nbytes
            pq.write_table(table, source / f"{number:05d}.parquet", compression="zstd")
        command = [*COMMAND, "run", str(source), str(archive), "--tolerance", "*=0.1%", "--json", str(report)]
        if subprocess.run(command, check=False).returncode != 0:
            return None
        result = json.loads(report.read_text())
    seconds = {f"{stage}_s": round(result["seconds"][stage], 1) for stage in ("train", "encode", "verify")}
    sizes = {"archive_bytes": result["archive_bytes"], "peak_rss_bytes": result["peak_rss_bytes"]}
    return {"rows": n_rows, "arrow_bytes": n_arrow_bytes, **sizes, **seconds, **machine(ROOT)}


def telemetry(n_rows: int, start: int, seed: int) -> pa.Table:
    """Rows of a machine under changing load: clock, load, two temperatures that follow it, a state."""
    rng = np.random.default_rng(seed)
    step = np.arange(start, start + n_rows)
    load = 50 + 30 * np.sin(step / 5000) + np.cumsum(rng.normal(0, 0.02, n_rows))
    inlet = 20 + 5 * np.sin(step / 86_400) + rng.normal(0, 0.05, n_rows)
    outlet = inlet + 0.4 * load + rng.normal(0, 0.2, n_rows)
    return pa.table(
        {
            "when": pa.array(1_700_000_000_000 + 1000 * step, pa.timestamp("ms", "UTC")),
            "load": pa.array(load.astype(np.float32)),
            "inlet": pa.array(inlet.astype(np.float32)),
            "outlet": pa.array(outlet.astype(np.float32)),
            "state": pa.array(np.array(["idle", "run", "alarm"])[np.digitize(outlet, [35, 55])]),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
