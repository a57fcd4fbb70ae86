"""The time that a fit takes, by a clock that only searches move: what the budget is spent on, and that it is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from telemetry import decoded, profiled

from vae_core import fitting
from vae_core.entropy import kernel
from vae_core.exact import arrange, drafts
from vae_core.exact.arrange import QUICK_ROWS, QUICK_RUN, Arrangement, some_rows
from vae_core.exact.effort import FULL, QUICK
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.sampled import Sampled, decoded_sample
from vae_core.model import FitConfig, FitResult, Sample
from vae_core.quality import compare
from vae_core.shard import encode_shard

N_ROWS, SEARCH_S, QUICK_S = 3_000, 1.0, 0.05


class Clock:
    """Stands still but while a column is searched; how often each was, quickly and not, and which was first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.quick, self.whole, self.first = 100.0, Counter[int](), Counter[int](), list[int]()
        search = arrange.search_column

        def timed(sampled: Sampled, column: SampleColumn, tick):
            is_quick = sampled.effort.is_quick
            self.time += QUICK_S if is_quick else SEARCH_S
            (self.quick if is_quick else self.whole)[column.column] += 1
            if not is_quick:
                self.first.append(column.column)
            return search(replace(sampled, effort=QUICK), column, lambda: False)

        monkeypatch.setattr(arrange, "search_column", timed)

    def __call__(self) -> float:
        return self.time


def sensors(n_columns: int) -> pa.Table:
    """Readings of one walk, every seventh much finer than the others."""
    rng = np.random.default_rng(n_columns)
    walk = np.cumsum(rng.integers(-2, 3, N_ROWS))

    def sensor(j: int) -> np.ndarray:
        return 4096 * walk + rng.integers(0, 4096, N_ROWS) if j % 7 == 3 else walk + rng.integers(0, 3, N_ROWS)

    return pa.table({f"s{j}": sensor(j) for j in range(n_columns)})


def fit_for(seconds: float, table: pa.Table, clock: Clock) -> FitResult:
    config = FitConfig(time_budget_s=seconds, preview="off")
    return fitting.fit(Sample(table, (table.num_rows,)), profiled(table), table.schema, {}, config, now=clock)


def assert_sound(found: FitResult, table: pa.Table) -> None:
    known: set[int] = set()
    for code in found.model.codes:
        assert code.columns <= known
        known.add(code.column)
    shard = encode_shard(found.model, table, preview=False)
    assert all(column.mismatches == 0 for column in compare(table, decoded(found.model, shard), {}))


@pytest.mark.parametrize("seconds", [2, 4, 8])
def test_a_short_budget_is_kept_and_every_column_has_a_code_the_dearest_searched_first(monkeypatch, seconds):
    clock, table = Clock(monkeypatch), sensors(30)
    began = clock.time
    found = fit_for(seconds, table, clock)
    assert clock.time - began < 1.25 * seconds + SEARCH_S
    assert len(found.model.learned) == 30 and set(clock.quick) == set(range(30))
    assert clock.whole.total() <= seconds
    assert all(j % 7 == 3 for j in clock.first[:4])
    assert_sound(found, table)


def test_of_a_wide_table_those_columns_are_learned_that_have_most_to_gain(monkeypatch):
    clock, table = Clock(monkeypatch), sensors(70)
    monkeypatch.setattr(drafts, "SURE", 10)
    began = clock.time
    found = fit_for(2, table, clock)
    assert clock.time - began < 2
    learned = {code.column for code in found.model.codes}
    assert 20 <= len(learned) < 40
    assert sum(j % 7 == 3 for j in learned) == 10  # all there are
    assert_sound(found, table)
    assert len(fit_for(1e-6, table, clock).model.learned) == 10


def test_where_there_is_time_for_all_no_column_has_a_quick_search(monkeypatch):
    clock, table = Clock(monkeypatch), sensors(6)
    fit_for(100, table, clock)
    assert not clock.quick and all(clock.whole[j] for j in range(6))


def test_whole_searches_that_time_runs_out_for_leave_the_quick_codes_of_the_rest(monkeypatch):
    clock, table = Clock(monkeypatch), sensors(12)
    monkeypatch.setattr(drafts, "WHOLE", 0.1)  # it seems that there is time
    found = fit_for(10, table, clock)
    assert len(found.model.learned) == 12 and set(clock.quick) == set(range(12)) and 4 < len(clock.whole) < 12
    assert_sound(found, table)


def test_where_quick_codes_of_a_wide_table_save_nothing_no_others_are_searched(monkeypatch, improved):
    rng, clock = np.random.default_rng(1), Clock(monkeypatch)
    noise = pa.table({f"n{j}": rng.integers(0, 1 << 20, N_ROWS) for j in range(30)})
    found = fit_for(8, noise, clock)
    assert set(clock.quick) == set(range(30)) and not clock.whole
    assert_sound(found, noise)


@pytest.fixture
def improved(monkeypatch) -> list[Arrangement]:
    """Arrangements in the order that moves of their columns are asked for; none is made."""
    asked = list[Arrangement]()
    monkeypatch.setattr(Arrangement, "improve", lambda self, *_args, **_options: asked.append(self))
    return asked


def test_where_there_is_no_time_for_two_more_orders_the_first_is_improved_before(monkeypatch):
    searched = dict[int, int]()
    for seconds in (40, 110):
        clock = Clock(monkeypatch)

        def asked(self, *_args, clock=clock, seconds=seconds, **_options):
            searched.setdefault(seconds, clock.whole.total())

        monkeypatch.setattr(Arrangement, "improve", asked)
        fit_for(seconds, sensors(6), clock)
    assert searched[40] == 6 and searched[110] >= 12  # a second an order's column


def test_columns_of_quick_codes_alone_are_moved_too(monkeypatch, improved):
    found = fit_for(8, table := sensors(30), Clock(monkeypatch))
    assert improved and all(len(one.order) == 30 for one in improved) and len(improved[0].order) == len(found.model.learned)
    assert_sound(found, table)


def test_threads_change_nothing_that_is_found():
    rng = np.random.default_rng(9)
    pattern = rng.permutation(700)
    recurring = np.concatenate([pattern[(k := int(rng.integers(0, 600))) : k + 60] for _ in range(60)])[:N_ROWS]
    table = sensors(3).append_column("recurring", pa.array(recurring))
    config = FitConfig(preview="off")
    found = [
        fitting.fit(Sample(table, (N_ROWS,)), profiled(table), table.schema, {}, replace(config, threads=n), now=lambda: 0.0).model.codes
        for n in (1, 3)
    ]
    assert found[0] == found[1]
    if kernel.available():
        assert any(code.value.matches for code in found[0])  # walks of several memories were made


def test_a_quick_search_looks_at_runs_of_rows_from_all_over():
    assert np.array_equal(some_rows(9_000, QUICK_ROWS, QUICK_RUN), np.arange(9_000)) and len(some_rows(0, QUICK_ROWS, QUICK_RUN)) == 0
    rows = some_rows(60_000, QUICK_ROWS, QUICK_RUN)
    assert len(np.unique(rows)) == arrange.QUICK_ROWS and rows[0] == 0 and rows[-1] == 59_999
    assert (np.diff(rows) == 1).sum() == arrange.QUICK_ROWS - arrange.QUICK_ROWS // arrange.QUICK_RUN
    assert QUICK.most < FULL.most


def test_what_a_search_of_few_rows_finds_is_reckoned_for_all():
    rng = np.random.default_rng(3)
    n = 40_000
    picked = [SampleColumn(j, rng.integers(0, 16, n), None, 0, 0, 15, False) for j in range(2)]
    found = Arrangement(Sampled(n, n, decoded_sample(picked)), picked, lambda: False)
    for j in range(2):
        found.add(j)
    assert all(bits == pytest.approx(4 * n, rel=0.02) for _, bits in found.found.values())
