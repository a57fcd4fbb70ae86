"""A real process, killed by the operating system while it encodes: nothing half done is ever seen, and a rerun finishes the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from telemetry import telemetry

from flows.launch import run_pipeline
from flows.settings import RunRequest
from storage import open_archive
from vae_core.errors import BadInput, LatentpackError
from vae_core.quality import compare

N_FILES, FILE_ROWS = 3, 300

# argv: source, archive, where to die ("write N": before the Nth object of a shard; "code N": in the Nth stream of a shard)
KILLED = """
import os, signal, sys
from flows.launch import run_pipeline
from flows.settings import RunRequest
from storage.objects import ObjectStore
from vae_core import encoding

where, left = sys.argv[3], int(sys.argv[4])

def dying(honest, counts):
    def called(*arguments, **named):
        global left
        if counts(arguments):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return honest(*arguments, **named)
    return called

if where == "write":
    ObjectStore.write = dying(ObjectStore.write, lambda a: a[1].startswith("shards/"))
else:
    encoding.Encoder.finish = dying(encoding.Encoder.finish, lambda a: True)
run_pipeline(RunRequest(source=sys.argv[1], archive=sys.argv[2], time_budget_s=60, preview="off", shard_rows=300))
"""


def request(place: Path) -> RunRequest:
    return RunRequest(source=str(place / "raw"), archive=str(place / "archive"), time_budget_s=60, preview="off", shard_rows=FILE_ROWS)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    (tmp_path / "raw").mkdir()
    for number in range(N_FILES):
        pq.write_table(telemetry(FILE_ROWS, number), tmp_path / "raw" / f"{number}.parquet")
    return tmp_path


def staged(place: Path) -> dict[Path, tuple[int, bytes]]:
    """When every object of a shard was written, and its bytes."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (place / "archive" / "shards").rglob("*") if path.is_file()}


@pytest.mark.parametrize(("where", "count"), [("write", 4), ("write", 2 * N_FILES - 1), ("code", 2)])
def test_a_run_killed_while_it_encodes_leaves_no_snapshot_and_a_rerun_finishes_without_doing_shards_again(place, where, count):
    command = [sys.executable, "-c", KILLED, str(place / "raw"), str(place / "archive"), where, str(count)]
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list((place / "archive").glob("snapshots/*"))
    with pytest.raises(LatentpackError) as refused:
        open_archive(str(place / "archive"))
    assert isinstance(refused.value, BadInput)
    before = staged(place)
    run_pipeline(request(place))
    after = staged(place)
    whole = {path.parent for path in before if path.name == "shard.json.zst"}  # the record is written last
    assert all(after[path] == what for path, what in before.items() if path.parent in whole)
    assert len(whole) >= (count // 3 if where == "write" else 1)  # two or three objects a shard
    manifest = open_archive(str(place / "archive")).manifest
    assert {path.name for path in whole} <= {shard.record.path.split("/")[1] for shard in manifest.shards}
    raw = pa.concat_tables(pq.read_table(path) for path in sorted((place / "raw").glob("*.parquet")))
    back = open_archive(str(place / "archive")).to_table()
    assert back.schema.equals(raw.schema, check_metadata=True)
    assert all(quality.mismatches == 0 for quality in compare(raw, back, {}))
    assert not list((place / "archive").glob("pending/*"))
