"""The README's result table from the committed results.csv: `python benchmarks/readme.py`; `make bench` calls it."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

BEGIN, END = "<!-- results: written by `make bench` -->", "<!-- /results -->"
OURS = "latentpack"
SHOWN = (
    ("parquet-zstd-19", "Parquet zstd-19"),
    ("quantise+parquet-zstd-19", "quantise + Parquet zstd-19"),
    ("quantise+pcodec", "quantise + pcodec"),
    ("best-conventional", "best of these per column"),
)

Row = Mapping[str, str]


def table(rows: Sequence[Row]) -> str:
    """The markdown between the markers: a table, its means, and where the numbers come from."""
    cases = list(dict.fromkeys((row["dataset"], row["bound"]) for row in rows))
    found = {(row["dataset"], row["bound"], row["codec"]): row for row in rows}
    head = ["dataset", "bound", *(title for _, title in SHOWN), "**latentpack**", "ratio", "worst error", "decode MB/s"]
    lines = ["| " + " | ".join(head) + " |", "|:--|:--|" + "--:|" * (len(head) - 2)]
    ratios: dict[str, list[float]] = {}
    for dataset, bound in cases:
        ours = found.get((dataset, bound, OURS))
        if ours is None:
            continue
        sizes = [_bytes(found.get((dataset, bound, codec))) for codec, _ in SHOWN]
        ratio = float(ours["ratio_vs_conventional"] or "nan")
        if ratio > 0:
            ratios.setdefault(bound, []).append(ratio)
        error = "lossless" if bound == "lossless" else f"{100 * float(ours['worst_error_share']):.1f} % of bound"
        cells = [
            dataset,
            _bound(bound),
            *sizes,
            f"**{_bytes(ours)}**",
            f"{ratio:.2f}",
            error,
            f"{float(ours['decode_mb_s']):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    means = ", ".join(f"{_bound(b)} {math.exp(sum(map(math.log, r)) / len(r)):.2f}" for b, r in ratios.items())
    stamp = rows[0]
    lines += [
        "",
        "Bytes, everything counted (latents, corrections, model, metadata). *ratio* is the best conventional coding "
        f"over latentpack, above 1 is a win; geometric mean: {means}. "
        "Bounds are shares of each float column's range. Decoding by one thread, MB/s of Arrow bytes. "
        f"Measured on {stamp['date']} at commit `{stamp['commit']}` on {stamp['cores']} cores of {stamp['cpu']}: "
        "`make bench` writes `benchmarks/results.csv`, and this table from it.",
    ]
    return "\n".join(lines)


def update(readme: Path, results: Path) -> None:
    """Replace what stands between the markers of the README."""
    with results.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{readme}: the markers {BEGIN} and {END} are missing")
    if rows:
        readme.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", encoding="utf-8")


def _bytes(row: Row | None) -> str:
    return f"{int(row['bytes']):,}" if row else "–"


def _bound(bound: str) -> str:
    return bound if bound == "lossless" else f"±{bound.replace('%', ' %')}"


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    defaults = [here.parent / "README.md", here / "results.csv"]
    update(*([Path(argument) for argument in sys.argv[1:3]] or defaults))
    sys.exit(0)
