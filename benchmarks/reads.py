"""What a read of 1,000 rows moves, by the rows of a block: archives beside Parquet whose row groups have as many rows.

    make bench-reads DATA=FOLDER      or: python benchmarks/reads.py --data FOLDER --datasets flights covtype

Bytes of the whole, and the bytes that leave the store for 1,000 rows of every column, opening included: the mean over places spread
over the table. Parquet is zstd-19 as pyarrow writes it; of it the footer and the row groups that hold the rows count, no byte more.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks import readme  # noqa: E402
from benchmarks.bench import datasets  # noqa: E402
from benchmarks.children import ask  # noqa: E402
from benchmarks.codecs.dataset import load  # noqa: E402
from benchmarks.results import OURS, machine  # noqa: E402

RESULTS = HERE / "results" / "reads.csv"
FIELDS = (
    "dataset", "rows", "block_rows", "codec", "bytes", "thousand_rows_read_bytes", "version", "commit", "date", "cpu", "cores",
)  # fmt: skip
PARQUET = "parquet-zstd-19"
BLOCK_ROWS = (131_072, 32_768, 8_192, 2_048)
SOME_ROWS, PLACES = 1_000, 8
MAGIC = 8  # bytes behind a footer

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the CSV and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", help="every Parquet file in it is a table; default: the bundled flights")
    parser.add_argument("--datasets", metavar="NAME", nargs="*", default=[], help="only these")
    parser.add_argument("--block-rows", metavar="ROWS", type=int, nargs="+", default=BLOCK_ROWS)
    parser.add_argument("--out", metavar="CSV", help="write here, and leave the page alone")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out) if arguments.out else RESULTS
    stamp, rows = machine(ROOT), list[Row]()
    for name, source in datasets(Path(arguments.data) if arguments.data else None, arguments.datasets).items():
        if not source.endswith(".npy"):
            for block_rows in arguments.block_rows:
                for codec, measure in ((PARQUET, parquet), (OURS, archive)):
                    found = measure(source, block_rows)
                    rows.append({"dataset": name, "block_rows": block_rows, "codec": codec, **found, **stamp})
                    print(f"{name:<20} {block_rows:>8,} rows  {codec:<16} {found['bytes']:>11,} B", end="")
                    print(f"  1,000 rows {found['thousand_rows_read_bytes']:>10,} B", flush=True)
                write(rows, out)
    if out == RESULTS:
        readme.main([])
    return 0


def places(n_rows: int) -> list[tuple[int, int]]:
    """(start, stop) of the reads: SOME_ROWS in the middle of each of PLACES equal parts."""
    n = min(SOME_ROWS, n_rows)
    starts = [(2 * k + 1) * n_rows // (2 * PLACES) - n // 2 for k in range(PLACES)]
    return [(start, start + n) for start in (min(max(0, start), n_rows - n) for start in starts)]


def archive(source: str, block_rows: int) -> Row:
    """A run with blocks of so many rows, and what reading it moves."""
    from storage import open_archive

    with tempfile.TemporaryDirectory() as scratch:
        uri, report = os.path.join(scratch, "archive"), os.path.join(scratch, "report.json")
        ask([sys.executable, "-m", "flows.cli", "run", source, uri, "--block-rows", str(block_rows), "--json", report, "--quiet"])
        told, moved = json.loads(Path(report).read_text(encoding="utf-8")), list[int]()
        for start, stop in places(told["rows"]):
            opened = open_archive(uri)
            opened.to_table(rows=(start, stop))
            moved.append(opened.meter.bytes_read)
    return {"rows": told["rows"], "bytes": told["archive_bytes"], "thousand_rows_read_bytes": round(float(np.mean(moved)))}


def parquet(source: str, block_rows: int) -> Row:
    """The same of one Parquet file with row groups of so many rows."""
    import pyarrow.parquet as pq

    table = load(source)
    with tempfile.TemporaryDirectory() as scratch:
        path, moved = Path(scratch) / "table.parquet", list[int]()
        pq.write_table(table, path, compression="zstd", compression_level=19, row_group_size=block_rows)
        footer = pq.read_metadata(path)
        groups = [footer.row_group(k) for k in range(footer.num_row_groups)]
        sizes = [sum(g.column(j).total_compressed_size for j in range(g.num_columns)) for g in groups]
        for start, stop in places(table.num_rows):
            moved.append(footer.serialized_size + MAGIC + sum(sizes[start // block_rows : (stop - 1) // block_rows + 1]))
        return {"rows": table.num_rows, "bytes": path.stat().st_size, "thousand_rows_read_bytes": round(float(np.mean(moved)))}


def write(rows: Sequence[Row], path: Path) -> None:
    """Whole or not at all."""
    beside = path.with_name(path.name + ".part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
