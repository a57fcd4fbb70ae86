"""The README's result tables and the plot from the committed CSV.

    python benchmarks/readme.py                   `make bench-readme`; `make bench` calls it
    python benchmarks/readme.py README RESULTS    the tables of another CSV into another page, no plot
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.results import read_csv  # noqa: E402
from benchmarks.tables import deepsqueeze_table, favour_table, main_table, peer_table, preview_table, read_table, speed_table  # noqa: E402

BEGIN, END = "<!-- results: written by `make bench` -->", "<!-- /results -->"
RESULTS = HERE / "results" / "bench.csv"
BESIDE = {"deepsqueeze.csv": deepsqueeze_table, "preview.csv": preview_table}  # results of other commands


def update(readme: Path, results: Path) -> None:
    """Replace what stands between the markers of the README."""
    rows = read_csv(results)
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{readme}: the markers {BEGIN} and {END} are missing")
    if rows:
        parts = [main_table(rows), picture(results), peer_table(rows), speed_table(rows), read_table(rows), favour_table(rows)]
        parts += [draw(read_csv(beside)) for name, draw in BESIDE.items() if (beside := results.with_name(name)).exists()]
        body = "\n\n".join(part for part in parts if part)
        readme.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")


def picture(results: Path) -> str:
    """The plot's line; empty for results from elsewhere."""
    image = results.resolve().with_suffix(".svg")
    if ROOT not in image.parents or not image.exists():
        return ""
    return f"![Bytes of each peer over those of latentpack]({image.relative_to(ROOT).as_posix()})"


def main(arguments: Sequence[str]) -> int:
    """The README and the plot of the project, or the tables alone of what is named."""
    if arguments:
        update(*(Path(argument) for argument in arguments[:2]))
        return 0
    from benchmarks.plot import draw

    draw(read_csv(RESULTS), RESULTS.with_suffix(".svg"))
    update(ROOT / "README.md", RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
