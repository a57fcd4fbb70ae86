"""Letting old snapshots go: what remains is whole at every instant, and nothing a run is at work on is taken."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from archive_fakes import Killed, example_table, killed_at, open_fake, run_once, stage_parts

from storage.claims import claimed_for_commit, notice_of_removal
from storage.ledger import bytes_by_part
from storage.manifest import Manifest
from storage.objects import ObjectStore
from storage.snapshots import list_snapshots, load_manifests, load_readable, newest_manifest
from storage.vacuum import vacuum
from storage.verity import read_verified
from storage.writer import commit
from vae_core.errors import Conflict, CorruptArchive, UsageError

TABLE = example_table(900, n_learned=30)  # its schema is an object of its own
PARTS = [TABLE.slice(start, 30) for start in range(0, 900, 30)]
DAY = 24 * 3600.0


def nightly(root: Path, n_runs: int) -> ObjectStore:
    store = ObjectStore.open(str(root))
    for n in range(1, n_runs + 1):
        run_once(store, PARTS[:n])
    return store


def everything(store: ObjectStore) -> set[str]:
    return {info.path for info in store.list("")}


def whole(store: ObjectStore) -> None:
    """Every snapshot there is reads as it did when it was written, from objects that are what they were."""
    for number in list_snapshots(store):
        archive = open_fake(store, TABLE.schema, snapshot=number)
        assert archive.to_table().equals(pa.concat_tables(PARTS[:number]))
        assert list(archive.check_objects())


def test_only_the_newest_snapshots_and_what_they_name_remain(tmp_path: Path) -> None:
    store = nightly(tmp_path, 9)
    before, n_bytes = everything(store), sum(bytes_by_part(store).values())
    planned = vacuum(store, keep=2, dry_run=True)
    assert everything(store) == before
    done = vacuum(store, keep=2)
    assert done == planned and done.snapshots == tuple(range(1, 8))
    assert everything(store) == before - set(done.paths)
    assert list(list_snapshots(store)) == [8, 9]
    whole(store)
    assert sum(bytes_by_part(store).values()) == n_bytes - done.n_bytes == sum(store.size(p) for p in everything(store))
    named = {ref.path for number in (8, 9) for ref in open_fake(store, TABLE.schema, snapshot=number).manifest.beside}
    assert {p for p in everything(store) if p.startswith(("chapters/", "schemas/"))} == named != set()
    assert vacuum(store, keep=2).paths == ()


def test_the_next_run_goes_on_from_what_remains(tmp_path: Path) -> None:
    store = nightly(tmp_path, 7)
    vacuum(store, keep=1)
    assert run_once(store, PARTS[:8])[0] == 8
    whole(store)


def test_shards_that_old_snapshots_alone_name_go_at_once(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    run_once(store, PARTS[:3])
    run_once(store, PARTS[:1])
    done = vacuum(store, keep=1)
    assert sum(path.startswith("shards/") and path.endswith("shard.json.zst") for path in done.paths) == 2
    assert open_fake(store, TABLE.schema).to_table().equals(PARTS[0])


def test_a_kill_at_any_removal_leaves_whole_snapshots_and_a_rerun_finishes(tmp_path: Path) -> None:
    n_removals = 0
    while True:
        store = nightly(tmp_path / str(n_removals), 6)
        try:
            with killed_at(store, n_removals):
                vacuum(store, keep=1)
        except Killed:
            whole(store)
            vacuum(store, keep=1)
            assert list(list_snapshots(store)) == [6]
            whole(store)
            assert sum(bytes_by_part(store).values()) == sum(store.size(p) for p in everything(store))
            n_removals += 3
            continue
        break
    assert n_removals >= 6


def test_keep_of_less_than_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least the newest"):
        vacuum(nightly(tmp_path, 1), keep=0)


@pytest.mark.parametrize("moment", ["list", "read", "read_range"])
@pytest.mark.parametrize("n_calls", range(0, 14))
def test_a_run_that_commits_while_a_vacuum_looks_loses_nothing(tmp_path: Path, moment: str, n_calls: int) -> None:
    store, other = nightly(tmp_path, 3), ObjectStore.open(str(tmp_path))
    stage_parts(other, PARTS[:4])

    def then_commit(original: Callable[..., Any]) -> Callable[..., Any]:
        left = [n_calls]

        def call(*arguments: Any) -> Any:
            found = original(*arguments)
            left[0] -= 1
            if left[0] == -1:
                run_once(other, PARTS[:4])
            return found

        return call

    setattr(store, moment, then_commit(getattr(store, moment)))
    vacuum(store, keep=1)
    delattr(store, moment)
    if max(list_snapshots(store)) == 3:
        run_once(store, PARTS[:4])
    assert open_fake(store, TABLE.schema).to_table().equals(pa.concat_tables(PARTS[:4]))
    assert list(open_fake(store, TABLE.schema).check_objects())


def test_what_a_commit_has_claimed_is_spared_while_the_claim_is_young(tmp_path: Path) -> None:
    store = nightly(tmp_path, 1)
    lost = {f"chapters/{'a' * 32}.json.zst", f"schemas/{'b' * 32}.arrow.zst"}
    with claimed_for_commit(store, lost):
        for path in lost:
            store.write(path, b"of a run that is about to commit, or was killed")
        assert vacuum(store).paths == () and vacuum(store).n_pending == 3
        claim = next(path for path in everything(store) if path.startswith("pending/commit-"))
        data = store.read(claim)
    store.write(claim, data)
    now = (tmp_path / "FORMAT").stat().st_mtime
    removed = set(vacuum(store, now=now + 2 * DAY).paths)
    assert lost < removed and len(removed) == 3
    whole(store)


def returning(root: Path) -> tuple[ObjectStore, ObjectStore]:
    """A store for a vacuum and one for a run; rows that are in an old snapshot alone are about to come back, under the same names."""
    store = ObjectStore.open(str(root))
    run_once(store, PARTS[:1])
    run_once(store, PARTS[:2])
    run_once(store, PARTS[:1])
    return store, ObjectStore.open(str(root))


def settled(store: ObjectStore) -> None:
    """Whatever came of a run beside a vacuum: another run finishes it, every snapshot is whole, nothing is left pending."""
    if open_fake(store, TABLE.schema).num_rows != 60:
        run_once(store, PARTS[:2])
    assert open_fake(store, TABLE.schema).to_table().equals(pa.concat_tables(PARTS[:2]))
    for number in list_snapshots(store):
        assert list(open_fake(store, TABLE.schema, snapshot=number).check_objects())
    assert not [path for path in everything(store) if path.startswith("pending/")]


@pytest.mark.parametrize("n_calls", range(0, 60))
def test_rows_that_come_back_while_a_vacuum_lets_them_go_are_not_lost(tmp_path: Path, n_calls: int) -> None:
    store, other = returning(tmp_path)
    refused = []

    def run() -> None:
        try:
            run_once(other, PARTS[:2])
        except (Conflict, CorruptArchive) as error:
            refused.append(str(error))

    with meanwhile(store, n_calls, run):
        vacuum(store, keep=1)
    assert all("run again" in said or "missing" in said for said in refused)
    settled(store)


@pytest.mark.parametrize("n_calls", range(0, 60))
def test_a_vacuum_at_any_moment_of_a_run_takes_nothing_the_run_commits(tmp_path: Path, n_calls: int) -> None:
    store, other = returning(tmp_path)
    try:
        with meanwhile(other, n_calls, lambda: vacuum(store, keep=1)):
            run_once(other, PARTS[:2])
    except Conflict as error:
        assert "run again" in str(error)
    except CorruptArchive as error:
        assert "missing" in str(error)
    settled(store)


@contextmanager
def meanwhile(store: ObjectStore, n_calls: int, action: Callable[[], Any]) -> Iterator[None]:
    """`action` happens once, right after so many calls of the store."""
    names = ("list", "read", "read_range", "write", "create", "delete", "exists", "size")
    left = [n_calls]

    def then(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            found = original(*arguments)
            left[0] -= 1
            if left[0] == -1:
                action()
            return found

        return call

    for name in names:
        setattr(store, name, then(getattr(store, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(store, name)


def test_a_commit_gives_way_to_a_vacuum_that_gave_notice_and_an_old_notice_is_none(tmp_path: Path) -> None:
    store, other = returning(tmp_path)
    model, entries, _ = stage_parts(other, PARTS[:2])
    late = Manifest(schema=TABLE.schema, models=(model,), shards=tuple(entry.ref for entry in entries), parent=3)
    folder = entries[1].record.path.rpartition("/")[0]
    with notice_of_removal(store, {folder}), pytest.raises(Conflict, match="a vacuum is removing it"):
        commit(other, late)
    with notice_of_removal(store, {folder}):
        notice = next(path for path in everything(store) if path.startswith("pending/vacuum-"))
        data = store.read(notice)
    store.write(notice, data)
    with pytest.raises(Conflict, match="a vacuum is removing it"):
        commit(other, late)
    hour_ago = time.time() - 3700
    os.utime(tmp_path / notice, (hour_ago, hour_ago))
    assert commit(other, late) == 4
    assert notice in vacuum(store).paths


def test_a_vacuum_of_many_objects_keeps_its_notice_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = returning(tmp_path)
    monkeypatch.setattr("storage.claims.RENEWED_S", -1.0)
    written = []
    write = store.write
    monkeypatch.setattr(store, "write", lambda path, data: (written.append(path), write(path, data)))
    n_removed = len(vacuum(store, keep=1).paths)
    assert n_removed > 3 and len(written) == 1 + n_removed and len(set(written)) == 1


def aged(root: Path, path: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(root / path, (then, then))


def killed_vacuum(store: ObjectStore, root: Path, n_removals: int, **how: Any) -> None:
    """A vacuum that is killed after so many removals; its notice outlives it."""
    with pytest.raises(Killed), killed_at(store, 1 + n_removals):
        vacuum(store, **how)


@pytest.mark.parametrize("n_removals", range(1, 8))
def test_what_a_killed_vacuum_has_half_removed_is_not_committed(tmp_path: Path, n_removals: int) -> None:
    store, other = nightly(tmp_path, 1), ObjectStore.open(str(tmp_path))
    model, entries, _ = stage_parts(other, PARTS[:3])
    late = Manifest(schema=TABLE.schema, models=(model,), shards=tuple(entry.ref for entry in entries), parent=1)
    for path in [path for path in everything(store) if path.startswith("pending/")]:
        aged(tmp_path, path, 2 * DAY)
    killed_vacuum(store, tmp_path, n_removals)
    for path in [path for path in everything(store) if path.startswith("pending/vacuum-")]:
        aged(tmp_path, path, 3700)
    try:
        commit(other, late)
    except Conflict as error:
        assert "is gone" in str(error)
    for number in list_snapshots(store):
        assert list(open_fake(store, TABLE.schema, snapshot=number).check_objects())
    run_once(store, PARTS[:3])
    assert open_fake(store, TABLE.schema).to_table().equals(pa.concat_tables(PARTS[:3]))
    assert list(open_fake(store, TABLE.schema).check_objects())


def test_what_a_run_uses_again_is_claimed_anew(tmp_path: Path) -> None:
    store = nightly(tmp_path, 1)
    stage_parts(store, PARTS[:3])
    staged = everything(store)
    for path in [path for path in staged if path.startswith("pending/")]:
        aged(tmp_path, path, 2 * DAY)
    assert stage_parts(store, PARTS[:3])[2] >= 2
    gone = [path for path in vacuum(store).paths if not path.startswith("pending/")]  # those of the first part, which is committed
    assert gone == [] and set(everything(store)) <= set(staged)
    aged_again = [path for path in everything(store) if path.startswith("pending/")]
    for path in aged_again:
        aged(tmp_path, path, 2 * DAY)
    assert [path for path in vacuum(store).paths if path.startswith("shards/")]


def test_a_vacuum_that_stood_still_for_long_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = returning(tmp_path)
    delete, clock = store.delete, time.time
    n_deleted = 0

    def sleepy(path: str) -> None:
        nonlocal n_deleted
        delete(path)
        n_deleted += 1
        if n_deleted == 1:
            notice = next(path for path in everything(store) if path.startswith("pending/vacuum-"))
            aged(tmp_path, notice, 4000)
            run_once(other, PARTS[:2])
            monkeypatch.setattr("storage.claims.time.time", lambda: clock() + 4000)

    monkeypatch.setattr(store, "delete", sleepy)
    with pytest.raises(Conflict, match="what is left stays"):
        vacuum(store, keep=1)
    monkeypatch.undo()
    settled(store)


def test_a_clock_that_is_fast_sees_notices_and_claims_as_young_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = returning(tmp_path)
    model, entries, _ = stage_parts(other, PARTS[:2])
    late = Manifest(schema=TABLE.schema, models=(model,), shards=tuple(entry.ref for entry in entries), parent=3)
    clock = time.time
    with notice_of_removal(store, {entries[1].record.path.rpartition("/")[0]}):
        monkeypatch.setattr("storage.claims.time.time", lambda: clock() + 3 * DAY)
        with pytest.raises(Conflict, match="a vacuum is removing it"):
            commit(other, late)
    monkeypatch.setattr("storage.vacuum.time.time", lambda: clock() + 3 * DAY)
    vacuum(store)
    assert commit(other, late) == 4
    settled(store)


def test_a_damaged_snapshot_that_goes_anyway_need_not_be_read(tmp_path: Path) -> None:
    store = nightly(tmp_path, 4)
    path = tmp_path / "snapshots" / "0000000002.json"
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-2"))
    with pytest.raises(CorruptArchive, match="0000000002"):
        vacuum(store, keep=3)
    manifests, damaged = load_readable(store)
    assert [manifest.snapshot for manifest in manifests] == [1, 3, 4] and list(damaged) == [2]
    assert sum(bytes_by_part(store).values()) == sum(store.size(p) for p in everything(store))
    assert vacuum(store, keep=2).snapshots == (1, 2)
    whole(store)


@pytest.mark.parametrize("n_calls", range(0, 14))
def test_the_ledger_is_right_while_snapshots_go(tmp_path: Path, n_calls: int) -> None:
    store, other = nightly(tmp_path, 3), ObjectStore.open(str(tmp_path))
    run_once(store, PARTS[5:6])
    with meanwhile(store, n_calls, lambda: vacuum(other, keep=1)):
        assert bytes_by_part(store)["corrections"] > 0
    assert len(load_manifests(store)) == 1


def test_a_snapshot_whose_chapter_went_meanwhile_is_not_committed(tmp_path: Path) -> None:
    store = nightly(tmp_path, 6)
    parent = newest_manifest(store)
    assert parent is not None and parent.chapters
    for ref in parent.beside:
        read_verified(store, ref)
        store.delete(ref.path)
    model, entries, _ = stage_parts(store, PARTS[:7])
    late = Manifest(
        schema=TABLE.schema, models=(model,), shards=tuple(entry.ref for entry in entries), parent=6, chapters=parent.chapters
    )  # fmt: skip
    late = replace(late, shards=(*parent.shards, late.shards[-1]), sources=parent.sources)
    with pytest.raises(Conflict, match="chapters/"):
        commit(store, late)
    assert max(list_snapshots(store)) == 6
