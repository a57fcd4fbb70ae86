"""The results as rows of a CSV file: what is in them, where and when they were measured, what one row learns from another."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS, WITHOUT_LATENTS, FOR_READING = "latentpack", "latentpack-without-latents", "latentpack-for-reading"
FIELDS = (
    "dataset", "rows", "columns", "arrow_bytes", "raw_bytes", "csv_bytes", "bound", "codec", "bytes", "conventional_bytes",
    "ratio_vs_conventional", "encode_mb_s", "decode_mb_s", "encode_ns_cell", "decode_ns_cell", "train_s", "compare_s", "budget_s",
    "peak_rss_bytes", "worst_error_share", "violations", "reason", "latent_bytes", "model_bytes", "preview_bytes",
    "full_read_bytes", "full_read_s", "first_full_read_s", "one_column_read_bytes", "one_column_read_s", "thousand_rows_read_bytes",
    "thousand_rows_read_s", "decode_mb_s_without_kernel", "version", "commit", "date", "cpu", "cores",
)  # fmt: skip
CONVENTIONAL = ("parquet-zstd-19", "quantise+parquet-zstd-19", "quantise+pcodec", "best-conventional")
PRODUCT = ("vae_core", "storage", "flows", "benchmarks/codecs")

Row = dict[str, Any]


def complete(rows: Sequence[Row]) -> None:
    """Fill in what one row learns from another: the best conventional coding as our report measures it, and the ratio to that or to the
    best conventional peer, where this takes less: peers are given our integers of a column, such as those made of texts, the report's
    codings are not."""
    known = {(row["dataset"], row["bound"]): int(row["conventional_bytes"]) for row in rows if row.get("conventional_bytes")}
    least = dict(known)
    for row in rows:
        case = (row["dataset"], row["bound"])
        if case in least and row["codec"] in CONVENTIONAL and row.get("bytes"):
            least[case] = min(least[case], int(row["bytes"]))
    for row in rows:
        case = (row["dataset"], row["bound"])
        if case in known and row.get("bytes"):
            row["conventional_bytes"] = known[case]
            row["ratio_vs_conventional"] = least[case] / int(row["bytes"])


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One row a measurement, numbers with four significant digits where they are measured speeds. Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n", restval="", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    beside.replace(path)


def read_csv(path: Path) -> list[Row]:
    """The rows of `write_csv`, every value as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def machine(root: Path) -> Row:
    """Where and when, and of which commit; "-dirty" when what is measured is not what was committed."""
    from importlib.metadata import PackageNotFoundError, version

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    commit = _git(root, "rev-parse", "--short", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *PRODUCT)
    try:
        release = version("latentpack")
    except PackageNotFoundError:
        release = ""
    return {
        "version": release,
        "commit": commit + ("-dirty" if commit and changed else ""),
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
    }


def _git(root: Path, *arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
