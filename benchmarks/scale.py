"""A dataset of many times the memory a run may use: peak memory must not follow the number of rows.

    make scale       or: python benchmarks/scale.py --rows 20000000 --limit-mb 1500
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COMMAND = [str(Path(sys.executable).parent / "latentpack")]
ROWS_A_FILE = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--limit-mb", type=int, default=1500, help="peak resident memory a run may use")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="latentpack-scale-") as folder:
        source, archive, report = Path(folder) / "source", Path(folder) / "archive", Path(folder) / "report.json"
        source.mkdir()
        n_arrow_bytes = 0
        for number, start in enumerate(range(0, arguments.rows, ROWS_A_FILE)):
            table = telemetry(min(ROWS_A_FILE, arguments.rows - start), start, seed=number)
            n_arrow_bytes += table.nbytes
            pq.write_table(table, source / f"{number:05d}.parquet", compression="zstd")
        command = [*COMMAND, "run", str(source), str(archive), "--tolerance", "*=0.1%", "--json", str(report)]
        if subprocess.run(command, check=False).returncode != 0:
            return 1
        result = json.loads(report.read_text())
    peak_mb = result["peak_rss_bytes"] / 1e6
    print(
        f"{arguments.rows:,} rows, {n_arrow_bytes / 1e6:,.0f} MB of Arrow: peak {peak_mb:,.0f} MB of memory, "
        f"limit {arguments.limit_mb} MB; seconds {result['seconds']}"
    )
    return 0 if peak_mb <= arguments.limit_mb else 1


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
