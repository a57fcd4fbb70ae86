"""The plot of the results: for every dataset and bound, each peer's bytes over ours. Drawn from the CSV, the same bytes each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.results import OURS
from benchmarks.tables import NUMERIC

Row = Mapping[str, str]

SERIES = (
    ("parquet-zstd-19", "Parquet zstd-19", "x", "#999999"),
    ("best-conventional", "best conventional", "s", "#333333"),
    ("quantise+openzl", "OpenZL", "d", "#8c6d31"),
    ("sz3", "SZ3", "v", "#e6a23c"),
    ("zfp", "zfp", "^", "#d9d05a"),
    ("klt", "KLT + residual", "<", "#7fb3d5"),
    ("autoencoder", "autoencoder + residual", ">", "#9b7fd5"),
    ("vae", "VAE + residual", "P", "#6a3d9a"),
    ("bayes-net", "Bayes net", "o", "#2a9d5c"),
)


def draw(rows: Sequence[Row], path: Path) -> None:
    """One line a dataset and bound, a mark a peer, at its bytes over ours; right of 1 we are smaller."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "latentpack", "font.size": 9})
    from matplotlib import pyplot

    found = {(row["dataset"], row["bound"], row["codec"]): int(row["bytes"]) for row in rows if row.get("bytes")}
    cases = [case for case in dict.fromkeys((r["dataset"], r["bound"]) for r in rows) if (*case, OURS) in found]
    cases = [case for case in cases if not case[1].startswith(NUMERIC)]
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.28 * len(cases)), layout="constrained")
    for codec, title, marker, colour in SERIES:
        points = [(found[*case, codec] / found[*case, OURS], y) for y, case in enumerate(cases) if (*case, codec) in found]
        if points:
            across, down = zip(*points, strict=True)
            axes.scatter(across, down, marker=marker, color=colour, s=26, label=title, zorder=3)
    axes.axvline(1.0, color="#c0392b", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_yticks(range(len(cases)), [f"{dataset}, {bound}" for dataset, bound in cases])
    axes.invert_yaxis()
    axes.grid(axis="x", color="#dddddd")
    axes.set_xlabel("bytes over latentpack's (red line); right of it latentpack is smaller")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
