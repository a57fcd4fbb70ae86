"""Runs and vacuums side by side, switched between at any access to the store: every snapshot there is stays whole."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from archive_fakes import Killed, example_table, open_fake, run_once, stage_parts

from storage.objects import ObjectStore
from storage.snapshots import list_snapshots
from storage.vacuum import vacuum
from vae_core.errors import Conflict, CorruptArchive

TABLE = example_table(140, n_learned=30)  # its schema is an object of its own
PARTS = [TABLE.slice(start, 10) for start in range(0, 140, 10)]
CHOICES = [PARTS[:1], PARTS[:2], PARTS[:9]]
RUN_ACCESSES = 45  # about as many as a run makes; its commit is the second half
ACCESSES = ("list", "read", "read_range", "write", "create", "delete", "info")
TRIALS = 12


class Turns:
    """Actors in threads of their own, of which the first in an order runs, up to its next access to the store.

    switches : numbers of the accesses after which it goes behind all others; few of them find what is rare
               (Burckhardt et al. 2010)
    kills    : actor -> the number of the access at which it dies
    """

    def __init__(self, order: list[str], switches: Collection[int], kills: Mapping[str, int]) -> None:
        self._order, self._switches, self._kills = order, switches, kills
        self._changed = threading.Condition()
        self._waiting: set[str] = set()
        self._turn = ""
        self._n_accesses: Counter[str] = Counter()

    def play(self, actors: Mapping[str, Callable[[ObjectStore], Any]], root: str) -> None:
        """Let them all run to their ends. Raises what one of them does not expect."""
        failures: list[BaseException] = []

        def act(name: str) -> None:
            try:
                actors[name](self._watched(name, ObjectStore.open(root)))
            except (Killed, Conflict, CorruptArchive, FileNotFoundError):
                pass  # killed, or told that another was first, or that what it read has gone
            except BaseException as error:
                failures.append(error)
            finally:
                with self._changed:
                    self._order.remove(name)
                    self._choose()

        threads = [threading.Thread(target=act, args=(name,), daemon=True) for name in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        if failures:
            raise failures[0]

    def _watched(self, name: str, store: ObjectStore) -> ObjectStore:
        inside = [False]

        def watched(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                if inside[0]:
                    return original(*arguments)
                self._wait(name)
                inside[0] = True
                try:
                    return original(*arguments)
                finally:
                    inside[0] = False

            return call

        for access in ACCESSES:
            setattr(store, access, watched(getattr(store, access)))
        return store

    def _wait(self, name: str) -> None:
        with self._changed:
            self._n_accesses[name] += 1
            if self._kills.get(name) == self._n_accesses[name]:
                raise Killed
            self._waiting.add(name)
            self._choose()
            while self._turn != name:
                self._changed.wait()
            self._turn = ""
            self._waiting.discard(name)
            if self._n_accesses.total() in self._switches and len(self._order) > 1:
                self._order.remove(name)
                self._order.append(name)

    def _choose(self) -> None:
        if not self._turn and self._order and self._waiting == set(self._order):
            self._turn = self._order[0]
            self._changed.notify_all()


def one_after_another(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """What `side_by_side` does, in one thread, so that an actor is one."""
    return [work(item) for item in items]


def make_old(root: Path, start: str, age_s: float) -> None:
    for path in (root / "pending").glob(f"{start}*"):
        os.utime(path, (time.time() - age_s,) * 2)


class Trial:
    """An archive with a history, and actors to let loose on it; the same seed is the same trial."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.rng = root, random.Random(seed)
        self.store = ObjectStore.open(str(root))
        self.committed: dict[int, list[pa.Table]] = {}
        self.actors: dict[str, Callable[[ObjectStore], Any]] = {}

    def run(self, parts: list[pa.Table], at: ObjectStore) -> None:
        self.committed[run_once(at, parts)[0]] = parts

    def add(self, runs: Iterable[list[pa.Table]], keeps: Iterable[int | None]) -> None:
        self.actors |= {f"run {n}": partial(self.run, parts) for n, parts in enumerate(runs)}
        self.actors |= {f"vacuum {n}": partial(vacuum, keep=keep) for n, keep in enumerate(keeps)}

    def play(self, order: list[str], switches: Collection[int], kills: Mapping[str, int]) -> None:
        """Let the actors take turns, then look at every snapshot, and at what a run and a vacuum make of what is left."""
        Turns(order, switches, kills).play(self.actors, str(self.root))
        numbers = list(list_snapshots(self.store))
        assert max(numbers) >= max(self.committed)
        for number in numbers:
            archive = open_fake(self.store, TABLE.schema, snapshot=number)
            assert number not in self.committed or archive.to_table().equals(pa.concat_tables(self.committed[number]))
            assert list(archive.check_objects())
        make_old(self.root, "vacuum-", 3700)
        run_once(self.store, PARTS[:5])
        vacuum(self.store, keep=1)
        assert open_fake(self.store, TABLE.schema).to_table().equals(pa.concat_tables(PARTS[:5]))
        assert list(open_fake(self.store, TABLE.schema).check_objects())


def trial_of_any_history(root: Path, seed: int) -> None:
    trial = Trial(root, seed)
    rng = trial.rng
    for _ in range(rng.randint(1, 4)):
        trial.run(rng.choice(CHOICES), trial.store)
    if rng.random() < 0.4:
        stage_parts(trial.store, rng.choice(CHOICES))
        if rng.random() < 0.5:
            make_old(root, "", 2 * 24 * 3600)
    trial.add(rng.choices(CHOICES, k=rng.choice([1, 1, 2])), rng.choices([None, 1, 2], k=rng.choice([1, 2])))
    order = rng.sample(sorted(trial.actors), len(trial.actors))
    kills = {rng.choice(order): rng.randint(1, RUN_ACCESSES)} if rng.random() < 0.3 else {}
    trial.play(order, rng.sample(range(2 * RUN_ACCESSES), rng.choice([1, 2, 3, 20, 2 * RUN_ACCESSES])), kills)


def trial_of_a_part_that_comes_back(root: Path, seed: int) -> None:
    """An old snapshot still has what a run is about to name again, and two vacuums come between."""
    trial = Trial(root, seed)
    for parts in (PARTS[:1], PARTS[:2], PARTS[:1]):
        trial.run(parts, trial.store)
    trial.add([PARTS[:2]], [trial.rng.choice([None, 2, 3]), 1])
    switches = trial.rng.sample(range(RUN_ACCESSES // 2, RUN_ACCESSES), trial.rng.choice([1, 2, 3]))
    trial.play(["run 0", *trial.rng.sample(["vacuum 0", "vacuum 1"], 2)], switches, {})


@pytest.mark.parametrize(("trial", "first_seed"), [(trial_of_any_history, 0), (trial_of_a_part_that_comes_back, 10)])
def test_runs_and_vacuums_leave_whole_snapshots_however_they_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: Callable[[Path, int], None], first_seed: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # most of the time of a trial
    for module in ("storage.shards", "storage.snapshots"):
        monkeypatch.setattr(f"{module}.side_by_side", one_after_another)
    for seed in range(first_seed, first_seed + TRIALS):
        trial(tmp_path / str(seed), seed)


@pytest.mark.parametrize("first_keep", [None, 2])
def test_a_young_claim_stays_though_an_old_snapshot_names_what_it_claims(tmp_path: Path, first_keep: int | None) -> None:
    store, other = ObjectStore.open(str(tmp_path)), ObjectStore.open(str(tmp_path))
    for parts in (PARTS[:1], PARTS[:2], PARTS[:1]):
        run_once(store, parts)  # the shard of part 2 in snapshot 2 alone
    original = other.create

    def create(path: str, data: bytes) -> None:
        if path.startswith("snapshots/"):
            vacuum(store, keep=first_keep)
            vacuum(store, keep=1)
        original(path, data)

    other.create = create  # type: ignore[method-assign]
    assert run_once(other, PARTS[:2])[0] == 4
    assert open_fake(store, TABLE.schema).to_table().equals(pa.concat_tables(PARTS[:2]))
    assert list(open_fake(store, TABLE.schema).check_objects())
