"""A real run, really killed: the short form of `make chaos`."""

import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).resolve().parent.parent / "benchmarks" / "chaos.py"


def test_runs_killed_at_random_instants_leave_the_archive_whole_and_the_next_run_finishes_the_work():
    command = [sys.executable, str(CHAOS), "--kills", "2", "--rows", "1200", "--seed", "11"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills, archive whole after each" in done.stdout
