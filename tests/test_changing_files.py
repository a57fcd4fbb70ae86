"""Files of a source that are replaced while a run is at work, and put back as if nothing had been."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import encode, train, verify
from flows.launch import run_pipeline
from flows.settings import RunRequest
from storage import open_archive, staging
from storage.objects import ObjectStore
from storage.sources import open_source
from vae_core.errors import BadInput


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for name in "ab":
        write(tmp_path / "raw" / f"{name}.parquet", ord(name))
    write(tmp_path / "other.parquet", 7)
    return tmp_path / "raw"


def write(path, seed, scale=1):
    pq.write_table(pa.table({"x": np.random.default_rng(seed).integers(0, 50, 300) * scale}), path, use_dictionary=False, compression=None)
    os.utime(path, (1e9, 1e9))


def run(**values):
    return run_pipeline(RunRequest(source="raw", archive="archive", time_budget_s=1, preview="off", **values))


def swapped_in_place(path, other):
    """Another file's bytes, in the same place of the disk."""
    before, status = path.read_bytes(), path.stat()
    path.write_bytes(other.read_bytes())
    return lambda: (path.write_bytes(before), os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns)))


def swapped_by_name(path, other):
    """Another file under the same name."""
    away = path.parent.parent / "away.parquet"
    os.rename(path, away)
    shutil.copy2(other, path)
    return lambda: os.rename(away, path)


@contextmanager
def other_file(raw, how, *, same_time):
    path, other = raw / "a.parquet", raw.parent / "other.parquet"
    assert path.stat().st_size == other.stat().st_size
    put_back = how(path, other)
    os.utime(path, (1e9, 1e9) if same_time else None)
    try:
        yield
    finally:
        put_back()
        assert path.stat().st_mtime == 1e9


@pytest.mark.parametrize("how", [swapped_in_place, swapped_by_name])
@pytest.mark.parametrize("same_time", [False, True])
def test_a_file_replaced_after_its_fingerprint_and_put_back_before_the_commit_is_not_stored(raw, monkeypatch, how, same_time):
    plan_parts, verify_all, swap = encode.plan_parts, verify.verify_all, []

    def planned(*arguments):
        parts = plan_parts(*arguments)
        swap.append(other_file(raw, how, same_time=same_time))
        swap[0].__enter__()
        return parts

    with monkeypatch.context() as raced:
        raced.setattr(encode, "plan_parts", planned)
        raced.setattr(verify, "verify_all", lambda *arguments: (verify_all(*arguments), swap.pop().__exit__(None, None, None))[0])
        with pytest.raises(BadInput, match=r"raw/a\.parquet: changed while the source was read; run again when it is at rest"):
            run()
    swap.pop().__exit__(None, None, None)
    with pytest.raises(BadInput, match="no snapshot yet"):
        open_archive("archive")
    run()
    assert open_archive("archive").to_table().equals(pq.read_table(raw))


@pytest.mark.parametrize("at", [(encode, "encode_shard"), (verify, "prove")])
def test_a_file_that_is_replaced_as_it_is_read_is_not_stored(raw, monkeypatch, at):
    module, name = at
    work = getattr(module, name)

    def meanwhile(*arguments, **options):
        swapped_in_place(raw / "a.parquet", raw.parent / "other.parquet")
        os.utime(raw / "a.parquet", (1e9, 1e9))
        return work(*arguments, **options)

    monkeypatch.setattr(module, name, meanwhile)
    with pytest.raises(BadInput, match=r"raw/a\.parquet: changed while the source was read"):
        run()


def test_a_file_that_is_touched_linked_or_moved_meanwhile_is_the_same_file(raw, monkeypatch):
    plan_parts = encode.plan_parts

    def planned(*arguments):
        parts = plan_parts(*arguments)
        os.utime(raw / "a.parquet")
        os.link(raw / "b.parquet", raw.parent / "backup.parquet")
        (raw / "b.parquet").chmod(0o600)
        return parts

    monkeypatch.setattr(encode, "plan_parts", planned)
    run()
    assert open_archive("archive").to_table().equals(pq.read_table(raw))


def test_files_at_rest_are_digested_once(raw, monkeypatch):
    sha256, read = staging._sha256, []
    monkeypatch.setattr(staging, "_sha256", lambda path: (read.append(os.path.basename(path)), sha256(path))[1])
    run()
    assert sorted(read) == ["a.parquet", "b.parquet"]


def test_a_share_of_a_range_is_of_the_files_that_are_stored(raw, monkeypatch):
    learn_run = train.learn_run

    def learned(*arguments):
        found = learn_run(*arguments)
        write(raw / "a.parquet", 1)
        os.utime(raw / "a.parquet")
        return found

    write(raw / "a.parquet", 1, scale=1000)
    with monkeypatch.context() as raced:
        raced.setattr(train, "learn_run", learned)
        with pytest.raises(BadInput, match=r"a\.parquet: changed after the range of its values was measured; run again"):
            run(tolerances=["x=1%"])
        write(raw / "a.parquet", 1, scale=1000)
        run(tolerances=["x=5"])  # of no range
    assert np.abs(open_archive("archive").to_table()["x"].to_numpy() - pq.read_table(raw)["x"].to_numpy()).max() <= 5


@pytest.mark.parametrize("seconds", [0.0, 0.9, 1.0])
def test_a_remote_file_that_is_replaced_as_it_is_fetched_is_noticed_a_second_later(raw, monkeypatch, seconds):
    """Within one, buckets tell no difference: some list times to the millisecond and tell them of one object to the second."""
    memory, began = fsspec.filesystem("memory"), datetime(2026, 1, 1, tzinfo=UTC)

    def put(name, after):
        memory.pipe_file("/changing/a.parquet", (raw.parent / name).read_bytes())
        memory.store["/changing/a.parquet"].created = began + timedelta(seconds=after)

    def meanwhile(self, path, local_path):
        put("other.parquet", seconds / 2)
        n_bytes = download(self, path, local_path)
        put("raw/a.parquet", seconds)
        return n_bytes

    put("raw/a.parquet", 0.0)
    download = ObjectStore.download
    if seconds:
        monkeypatch.setattr(ObjectStore, "download", meanwhile)
    with open_source("memory://changing/*.parquet") as source:
        if seconds < 1.0:
            assert source.fingerprints()[0].n_rows == 300
        else:
            with pytest.raises(BadInput, match=r"changing/a\.parquet: changed while the source was read"):
                source.fingerprints()
