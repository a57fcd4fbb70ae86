"""Kill runs at random instants, SIGKILL, and prove after each that the archive is as it was or as it should be.

    make chaos       or: python benchmarks/chaos.py --kills 20 --seed 1
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MONTHS = sorted((HERE / "data" / "flights").glob("*.parquet"))
COMMAND = [str(Path(sys.executable).parent / "latentpack")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=float, default=60.0, metavar="SECONDS", help="latest instant of a kill")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="latentpack-chaos-") as folder:
        source, archive = Path(folder) / "source", Path(folder) / "archive"
        source.mkdir()
        shutil.copy(MONTHS[0], source)
        run = [*COMMAND, "run", str(source), str(archive), "--time-budget", "5"]
        added = 1
        for i in range(arguments.kills):
            before = _snapshots(archive)
            instant = rng.uniform(0.5, arguments.within)
            outcome = _killed(run, instant)
            after = _snapshots(archive)
            if after[: len(before)] != before or len(after) > len(before) + 1:
                return _fail(f"kill {i} after {instant:.1f} s: snapshots went from {before} to {after}")
            if after and subprocess.run([*COMMAND, "verify", str(archive)], check=False).returncode != 0:
                return _fail(f"kill {i} after {instant:.1f} s: the archive does not verify")
            print(f"kill {i}: {outcome} after {instant:.1f} s, {len(after)} snapshots, archive whole", flush=True)
            if len(after) > len(before) and added < len(MONTHS):  # all committed: give the next run something to do
                shutil.copy(MONTHS[added], source)
                added += 1
        for command in (run, [*COMMAND, "verify", str(archive), "--source", str(source)]):
            if subprocess.run(command, check=False).returncode != 0:
                return _fail(f"after all kills {command[1]} fails")
        leftovers = [path for path in archive.rglob(".tmp-*")] + list((archive / "pending").glob("*"))
        if leftovers:
            return _fail(f"left behind: {leftovers[:3]}")
    print(f"{arguments.kills} kills, archive whole after each, last run verified against its source")
    return 0


def _killed(command: list[str], instant_s: float) -> str:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + instant_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return f"finished by itself ({process.returncode})"
        time.sleep(0.02)
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
