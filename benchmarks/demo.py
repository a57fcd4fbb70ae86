"""The main job on the bundled flights, as a user would do it: archive half a year, add the rest, verify, read back.

    make demo        leaves its work in demo/
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MONTHS = sorted((HERE / "data" / "flights").glob("*.parquet"))
WORK = HERE.parent / "demo"
SOURCE, ARCHIVE = WORK / "source", WORK / "archive"
COMMAND = [str(Path(sys.executable).parent / "latentpack")]


def latentpack(*arguments: str) -> None:
    """Run one command, shown as a user would type it; stop the demo if it fails."""
    shown = [str(Path(a).relative_to(WORK.parent)) if a.startswith(str(WORK)) else a for a in arguments]
    print(f"\n$ latentpack {' '.join(shown)}", flush=True)
    started = time.monotonic()
    done = subprocess.run([*COMMAND, *arguments], cwd=WORK.parent, check=False)
    print(f"  [{time.monotonic() - started:.1f} s]", flush=True)
    if done.returncode != 0:
        sys.exit(done.returncode)


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for month in MONTHS[:6]:
        shutil.copy(month, SOURCE)
    run = ("run", str(SOURCE), str(ARCHIVE), "--time-budget", "20", "--json")

    say("six months of flights, lossless: trained, encoded, decoded again and compared, committed")
    latentpack(*run, str(WORK / "first.json"))

    say("six more months arrive: only they are encoded, into a second snapshot")
    for month in MONTHS[6:]:
        shutil.copy(month, SOURCE)
    latentpack(*run, str(WORK / "second.json"))

    say("nothing new: nothing to do")
    latentpack(*run, str(WORK / "third.json"))

    say("every row against the source")
    latentpack("verify", str(ARCHIVE), "--source", str(SOURCE))

    say("a slice: three columns of 1,000 rows, moving only the bytes they need")
    piece = WORK / "slice.csv"
    latentpack("read", str(ARCHIVE), str(piece), "--columns", "carrier,origin,dep_delay", "--rows", "200000:201000")
    with open(piece, encoding="utf-8") as file:
        print("".join(file.readline() for _ in range(4)), end="")

    report = json.loads((WORK / "second.json").read_text())
    pages = sorted((ARCHIVE / "reports").glob("*.html"), key=lambda page: page.stat().st_mtime)
    say(f"done in {time.monotonic() - started:.0f} s")
    print(
        f"{report['raw_bytes']:,} bytes of Parquet are {report['archive_bytes']:,} in the archive;\n"
        f"the best conventional coding takes {report['conventional_bytes']:,}.\n"
        f"Report: {pages[-1] if pages else ARCHIVE / 'reports'}\n"
        "The runs in the Prefect UI: .venv/bin/latentpack serve"
    )


if __name__ == "__main__":
    main()
