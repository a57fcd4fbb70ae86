"""Kill runs at random instants, SIGKILL, and prove after each that the archive is as it was or as it should be.

    make chaos       or: python benchmarks/chaos.py --kills 20 --seed 1

The first run is left alone: it says how long one takes, and kills fall anywhere within that time. Runs go without a
Prefect server (--server: with one), so that kills hit the work and not the start of a server.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
MONTHS = sorted((HERE / "data" / "flights").glob("*.parquet"))
COMMAND = [sys.executable, "-m", "flows.cli"]
BUDGET = ("--time-budget", "2", "--quiet")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=5_000, help="rows of each file (default 5000)")
    parser.add_argument("--server", action="store_true", help="run on the Prefect server, as users do")
    arguments = parser.parse_args()
    if not arguments.server:
        os.environ["LATENTPACK_SERVER"] = "off"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="latentpack-chaos-") as folder:
        return torment(Path(folder), arguments.kills, arguments.rows, rng)


def torment(folder: Path, n_kills: int, n_rows: int, rng: random.Random) -> int:
    """Kill runs until n_kills have been killed, then finish the work; 0 when the archive was whole all along."""
    source, archive = folder / "source", folder / "archive"
    source.mkdir()
    months = iter(MONTHS * (1 + n_kills // len(MONTHS)))
    n_files = 0

    def arrive() -> None:
        nonlocal n_files
        pq.write_table(pq.read_table(next(months)).slice(0, n_rows), source / f"{n_files:04d}.parquet")
        n_files += 1

    arrive()
    run = ("run", str(source), str(archive), *BUDGET)
    began = time.monotonic()
    if _done(*run) != 0:
        return _fail("the run that is left alone fails")
    duration = time.monotonic() - began
    print(f"a run takes {duration:.1f} s", flush=True)
    n_killed = 0
    while n_killed < n_kills:
        before = _snapshots(archive)
        if len(before) == n_files:  # everything is committed: give the next run something to do
            arrive()
        instant = rng.uniform(0.1, duration)
        began = time.monotonic()
        outcome = _killed([*COMMAND, *run], instant)
        if outcome == "killed":
            n_killed += 1
        else:  # adding a file takes less than the first run did
            duration = min(duration, time.monotonic() - began)
        after = _snapshots(archive)
        if after[: len(before)] != before or len(after) > len(before) + 1:
            return _fail(f"{outcome} after {instant:.1f} s: snapshots went from {before} to {after}")
        if _done("verify", str(archive), "--quiet") != 0:
            return _fail(f"{outcome} after {instant:.1f} s: the archive does not verify")
        print(f"{outcome} after {instant:.1f} s: {len(after)} snapshots of {n_files} files, archive whole", flush=True)
    for words in (run, ("vacuum", str(archive), "--quiet"), ("verify", str(archive), "--source", str(source))):
        if _done(*words) != 0:
            return _fail(f"after all kills {words[0]} fails")
    left = [str(path) for path in archive.rglob(".tmp-*")] + [str(path) for path in (archive / "pending").glob("*")]
    if left:
        return _fail(f"left behind: {left[:3]}")
    print(f"{n_killed} kills, archive whole after each, the last run verified against its source")
    return 0


def _done(*words: str) -> int:
    return subprocess.run([*COMMAND, *words], check=False).returncode


def _killed(command: list[str], instant_s: float) -> str:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        code = process.wait(instant_s)
        return f"finished by itself ({code})"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return "killed"


def _snapshots(archive: Path) -> list[str]:
    return sorted(path.name for path in (archive / "snapshots").glob("*.json"))


def _fail(reason: str) -> int:
    print(f"FAILED: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
