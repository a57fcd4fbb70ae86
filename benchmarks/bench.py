"""`make bench`: every dataset, bound, peer and latentpack in the same run; writes results.csv and the README's table.

    python benchmarks/bench.py                          the bundled flights, lossless / 0.1 % / 1 %
    python benchmarks/bench.py --data FOLDER            every Parquet and NPY file of a folder
    python benchmarks/bench.py --full --data FOLDER     the same with the optional peers that are installed
    python benchmarks/bench.py --quick                  one bound, a short training, nothing written

Bytes count everything a reader needs. Speeds are MB/s of Arrow bytes, one thread. Each measurement is its own process.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers import LOSSLESS, PEERS, Peer  # noqa: E402

BUNDLED = HERE / "data" / "flights"
RESULTS = HERE / "results.csv"
BOUNDS = (LOSSLESS, "0.1%", "1%")
OURS = "latentpack"
ENDINGS = (".parquet", ".npy")
FIELDS = (
    "dataset", "rows", "columns", "arrow_bytes", "raw_bytes", "bound", "codec", "bytes", "ratio_vs_conventional",
    "encode_mb_s", "decode_mb_s", "train_s", "peak_rss_bytes", "worst_error_share", "violations", "latent_bytes",
    "model_bytes", "preview_bytes",
    "one_column_read_bytes", "thousand_rows_read_bytes", "version", "commit", "date", "cpu", "cores",
)  # fmt: skip

DECODE = """
import json, sys, time
import pyarrow as pa
from storage import open_archive
archive = open_archive(sys.argv[1])
began = time.perf_counter()
n_bytes = sum(batch.nbytes for batch in archive.to_batches())
seconds = time.perf_counter() - began
name = archive.schema.names[0] if len(archive.schema) else None
one = open_archive(sys.argv[1]); one.to_table(columns=[name] if name else None)
some = open_archive(sys.argv[1]); middle = some.num_rows // 2; some.to_table(rows=(middle, middle + 1000))
json.dump({"arrow_bytes": n_bytes, "seconds": seconds, "one_column_read_bytes": one.meter.bytes_read,
           "thousand_rows_read_bytes": some.meter.bytes_read, "columns": len(archive.schema)}, sys.stdout)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0, or 1 when a promise was broken or a measurement failed."""
    arguments = _parser().parse_args(argv)
    sources = datasets(Path(arguments.data) if arguments.data else None, arguments.datasets)
    if not sources:
        print(f"bench: no Parquet or NPY file in {arguments.data}", file=sys.stderr)
        return 1
    bounds = [LOSSLESS] if arguments.quick else arguments.bounds.split(",")
    budget = 10.0 if arguments.quick and arguments.time_budget is None else arguments.time_budget
    optional = {"sz3", "zfp"}
    peers = [p for p in PEERS if p.available and (arguments.full or p.name not in optional)]
    stamp = machine()
    rows: list[dict[str, Any]] = []
    failures = 0
    for name, source in sources.items():
        for bound in bounds:
            for codec in [*peers, None]:
                label = codec.name if codec else OURS
                print(f"{name:<28} {bound:<9} {label:<26}", end="", flush=True)
                try:
                    row = measure_peer(codec, source, bound) if codec else measure_ours(source, bound, budget)
                except subprocess.CalledProcessError as error:
                    failures += 1
                    print("failed: " + ((error.stderr or "").strip().splitlines() or ["no message"])[-1])
                    continue
                row |= {"dataset": name, "bound": bound, "codec": label, "raw_bytes": _stored_bytes(source), **stamp}
                rows.append(row)
                failures += bool(row["violations"])
                print(
                    f"{row['bytes']:>13,} B  encode {row['encode_mb_s']:7.1f}  decode {row['decode_mb_s']:7.1f} MB/s",
                    flush=True,
                )
    complete(rows)
    out = Path(arguments.out) if arguments.out else None if arguments.quick else RESULTS
    if out is not None:
        write_csv(rows, out)
        print(f"wrote {out}")
    if out == RESULTS:
        from benchmarks.readme import update

        update(ROOT / "README.md", RESULTS)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="a folder of Parquet and NPY files, each one dataset (default: the bundled flights)",
    )
    parser.add_argument("--datasets", metavar="NAME", nargs="*", default=[], help="only these, by file name without its ending")
    parser.add_argument("--bounds", default=",".join(BOUNDS), help=f"comma-separated (default {','.join(BOUNDS)})")
    parser.add_argument(
        "--time-budget",
        type=float,
        default=None,
        metavar="SECONDS",
        help="training time of latentpack (default: its own)",
    )
    parser.add_argument("--full", action="store_true", help="the optional peers too, those that are installed: pysz, zfpy")
    parser.add_argument("--quick", action="store_true", help="lossless only, 10 s of training, writes nothing: a smoke test")
    parser.add_argument("--out", metavar="CSV", help="write here instead of benchmarks/results.csv, and leave the README alone")
    return parser


def datasets(folder: Path | None, wanted: Sequence[str]) -> dict[str, str]:
    """Name -> source. The bundled flights are one dataset of twelve files."""
    if folder is None:
        found = {"flights": str(BUNDLED)}
    else:
        found = {path.stem: str(path) for path in sorted(folder.iterdir()) if path.suffix in ENDINGS}
    return {name: source for name, source in found.items() if not wanted or name in wanted}


def measure_peer(peer: Peer, source: str, bound: str) -> dict[str, Any]:
    """One peer in a process of its own."""
    return _json_of([sys.executable, str(HERE / "peers.py"), peer.name, source, bound])


def measure_ours(source: str, bound: str, budget: float | None) -> dict[str, Any]:
    """`latentpack run`, then a full decode by one thread, a one-column and a 1,000-row read of the archive on disk."""
    with tempfile.TemporaryDirectory() as scratch:
        archive, report_path = os.path.join(scratch, "archive"), os.path.join(scratch, "report.json")
        command = [sys.executable, "-m", "flows.cli", "run", source, archive, "--json", report_path, "--quiet"]
        command += [] if bound == LOSSLESS else ["--tolerance", f"*={bound}"]
        command += [] if budget is None else ["--time-budget", str(budget)]
        _run(command)
        report = json.loads(Path(report_path).read_text(encoding="utf-8"))
        decoded = _json_of([sys.executable, "-c", DECODE, archive], one_thread=True)
    shares = [c["max_abs_error"] / c["tolerance"] for c in report["columns"] if c["tolerance_kind"] == "absolute" and c["tolerance"] > 0]
    return {
        "rows": report["rows"],
        "columns": decoded["columns"],
        "arrow_bytes": decoded["arrow_bytes"],
        "bytes": report["archive_bytes"],
        "encode_mb_s": decoded["arrow_bytes"] / 1e6 / max(report["seconds"]["encode"], 1e-9),
        "decode_mb_s": decoded["arrow_bytes"] / 1e6 / max(decoded["seconds"], 1e-9),
        "train_s": report["seconds"]["train"],
        "peak_rss_bytes": report["peak_rss_bytes"],
        "worst_error_share": max(shares, default=0.0),
        "violations": sum(c["violations"] for c in report["columns"]),
        "latent_bytes": report["latents"],
        "model_bytes": report["model"],
        "preview_bytes": report["transfer"]["preview_bytes"],
        "one_column_read_bytes": decoded["one_column_read_bytes"],
        "thousand_rows_read_bytes": decoded["thousand_rows_read_bytes"],
    }


def complete(rows: list[dict[str, Any]]) -> None:
    """Fill in what one row learns from another: the table's shape, and the ratio to the best conventional coding."""
    for row in rows:
        same = [r for r in rows if r["dataset"] == row["dataset"]]
        ours = next((r for r in same if r["codec"] == OURS), {})
        for key in ("rows", "columns", "arrow_bytes"):
            row.setdefault(key, ours.get(key, ""))
        best = next((r for r in same if r["codec"] == "best-conventional" and r["bound"] == row["bound"]), None)
        row["ratio_vs_conventional"] = best["bytes"] / row["bytes"] if best and row["bytes"] else ""


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The results, one row a measurement, numbers with four significant digits where they are measured speeds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n", restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def machine() -> dict[str, Any]:
    """Where and when, and of which commit."""
    from importlib.metadata import PackageNotFoundError, version

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    try:
        release = version("latentpack")
    except PackageNotFoundError:
        release = ""
    return {
        "version": release,
        "commit": commit,
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
    }


def _stored_bytes(source: str) -> int:
    path = Path(source)
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def _json_of(command: Sequence[str], *, one_thread: bool = False) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(_run(command, one_thread=one_thread))
    return value


def _run(command: Sequence[str], *, one_thread: bool = False) -> str:
    environment = dict(os.environ, LATENTPACK_SERVER="off")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if one_thread:
        environment |= {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "ARROW_NUM_THREADS": "1",
        }
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
