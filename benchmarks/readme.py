"""The tables of the README and of the page beside this file, and the plot, from the committed CSV.

    python benchmarks/readme.py                 `make bench-readme`; `make bench` calls it
    python benchmarks/readme.py PAGE RESULTS    the tables of another CSV into another page, no plot
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.results import read_csv  # noqa: E402
from benchmarks.tables import (  # noqa: E402
    Row,
    blocks_table,
    deepsqueeze_table,
    favour_table,
    main_table,
    peer_table,
    preview_table,
    read_table,
    scale_table,
    speed_table,
)

PAGES = (ROOT / "README.md", HERE / "README.md")
RESULTS = HERE / "results" / "bench.csv"


def summary(rows: Sequence[Row], results: Path) -> list[str]:
    """What the README shows: ours against conventional codings, and every peer as a plot."""
    return [main_table(rows), picture(results)]


def details(rows: Sequence[Row], results: Path) -> list[str]:
    """All else that was measured, each under a heading."""
    drawn = {
        "Every peer": peer_table(rows),
        "Speed and memory": speed_table(rows),
        "Reading a part, and by numpy alone": read_table(rows),
        "A thousand rows by the rows of a block": blocks_table(beside(results, "reads.csv")),
        "Made for reading": favour_table(rows),
        "Bounds on every column of numbers": deepsqueeze_table(beside(results, "deepsqueeze.csv")),
        "Memory and rows": scale_table(beside(results, "scale.csv")),
        "Previews": preview_table(beside(results, "preview.csv")),
    }
    return [part for title, table in drawn.items() if table for part in (f"## {title}", table)]


def beside(results: Path, name: str) -> list[Row]:
    """The rows of another CSV in the same folder, none where it is not there."""
    path = results.with_name(name)
    return read_csv(path) if path.exists() else []


SECTIONS = {"results": summary, "details": details}


def markers(name: str) -> tuple[str, str]:
    """What stands before and behind a section of a page."""
    return f"<!-- {name}: written by `make bench` -->", f"<!-- /{name} -->"


def update(page: Path, results: Path) -> None:
    """Replace what stands between the markers of a page."""
    rows = read_csv(results)
    text = page.read_text(encoding="utf-8")
    found = 0
    for name, parts in SECTIONS.items():
        begin, end = markers(name)
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if opened and closed:
            found += 1
            body = "\n\n".join(part for part in parts(rows, results) if part)
            text = f"{before}{begin}\n{body}\n{end}{after}" if rows else text
    if not found:
        raise SystemExit(f"{page}: no markers like {' … '.join(markers('results'))}")
    page.write_text(text, encoding="utf-8")


def picture(results: Path) -> str:
    """The plot's line; empty for results from elsewhere."""
    image = results.resolve().with_suffix(".svg")
    if ROOT not in image.parents or not image.exists():
        return ""
    return f"![Bytes of each peer over those of latentpack]({image.relative_to(ROOT).as_posix()})"


def main(arguments: Sequence[str]) -> int:
    """The pages and the plot of the project, or the tables alone of what is named."""
    if arguments:
        update(*(Path(argument) for argument in arguments[:2]))
        return 0
    from benchmarks.plot import draw

    draw(read_csv(RESULTS), RESULTS.with_suffix(".svg"))
    for page in PAGES:
        update(page, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
