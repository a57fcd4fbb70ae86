"""Series told by the week before: found, read in lanes that are long enough, and in longer ones where these save enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from telemetry import assert_kept, decoded, fitted, stored_again

from vae_core.entropy import kernel
from vae_core.exact import options, sampled
from vae_core.exact.digits import Residual
from vae_core.exact.features import Decoded
from vae_core.exact.lags import seasons_of
from vae_core.exact.linear import Linear, Term
from vae_core.exact.plans import CellPlan, DigitPlan
from vae_core.exact.price import OF_MANY_ROWS, Price
from vae_core.exact.sampled import Sampled
from vae_core.exact.schedule import LONG_STRETCHES, STRETCH, Chunks
from vae_core.exact.tuning import in_long_lanes, in_short_lanes
from vae_core.shard import encode_shard

DAY = 48
needs_kernel = pytest.mark.skipif(not kernel.available(), reason="long lanes are looked for with the kernel alone")


def weekly(n: int, seed: int = 0) -> np.ndarray:
    """(n,) readings of which each is mostly what it was a week before, days of which are unlike each other."""
    rng = np.random.default_rng(seed)
    week = rng.normal(size=7 * DAY) * 300 + 200 * np.sin(np.arange(7 * DAY) / DAY * 2 * np.pi)
    return np.round(np.tile(week, -(-n // len(week)))[:n] + rng.normal(size=n) * 4).astype(np.int64)


def test_weeks_are_seasons_where_that_is_asked_and_days_recur_less():
    values = weekly(14_000)
    assert 7 * DAY not in seasons_of(values)
    assert seasons_of(values, looks_far=True)[-1] == 7 * DAY
    days = values + np.resize(np.random.default_rng(2).normal(size=DAY) * 900, 14_000).astype(np.int64)
    assert seasons_of(days)[0] == DAY and {DAY, 7 * DAY} <= set(seasons_of(days, looks_far=True))
    daily = np.round(300 * np.sin(np.arange(14_000) / DAY * 2 * np.pi) + np.random.default_rng(1).normal(size=14_000)).astype(np.int64)
    assert seasons_of(daily, looks_far=True)[0] == seasons_of(daily)[0]
    assert seasons_of(values[:2_000], looks_far=True) == seasons_of(values[:2_000])


@needs_kernel
def test_lanes_are_some_times_as_long_as_what_a_prediction_looks_back():
    few = Sampled(100, 100, Decoded(100))
    for reach, places in ((1, STRETCH), (128, STRETCH), (129, 1024), (338, 2048), (1010, 4096), (5000, 4096)):
        assert options.stretch_for(few, Linear((Term(f"lag{reach}", -1, 1),), 0), ()) == places
    far = Linear((Term("lag1010", -1, 1),), 0)
    assert options.stretch_for(replace(few, price=OF_MANY_ROWS["balance"]), far, ()) == STRETCH
    assert options.stretch_for(Sampled(100, 100, Decoded(100, above=np.zeros(100, np.int64))), far, ()) == STRETCH


def test_without_the_kernel_nothing_looks_far(monkeypatch):
    monkeypatch.setattr(sampled.kernel, "available", lambda: False)
    assert not Sampled(100, 100, Decoded(100)).looks_far


def test_longer_lanes_are_taken_while_each_doubling_saves_enough_and_pays_for_what_it_takes():
    plan = CellPlan(Residual(20), Linear((Term("lag1", -1, 1 << 16),), 0), (DigitPlan((), (16,)),), Chunks(1024, 32), ())
    bits = {STRETCH: 1000.0, 1024: 990.0, 2048: 980.0, 4096: 979.0}
    cost = lambda one: bits[one.chunks.stretch]  # noqa: E731
    found, taken = in_long_lanes(cost, plan, 1000.0, 100_000, Price())
    assert (found.chunks.stretch, taken) == (2048, 980.0)
    assert in_long_lanes(cost, plan, 1000.0, 1_500, Price())[0].chunks.stretch == 1024  # of fewer rows than places there is one lane
    assert in_long_lanes(cost, plan, 1000.0, 100_000, Price(numpy=0.8))[0] == plan
    assert in_long_lanes(cost, replace(plan, forward=None), 1000.0, 100_000, Price())[0].forward is None
    assert in_long_lanes(cost, plan, 1000.0, 100_000, Price(), lambda: False)[0] == plan
    long = plan.stretched(4096)
    assert in_short_lanes(lambda one: 1000.0, long, 1000.0, 100_000, Price(numpy=0.8))[0].chunks.stretch < STRETCH


@needs_kernel
def test_a_series_is_told_by_the_week_before(monkeypatch):
    table = pa.table({"load": weekly(20_000)})
    taken = {}
    for far in (True, False):
        with monkeypatch.context() as patch:
            if not far:
                patch.setattr(Sampled, "looks_far", property(lambda self: False))
                patch.setattr("vae_core.exact.tuning.LONG_STRETCHES", ())
            model = fitted(table, preview="off", seconds=10).model
            shard = encode_shard(model, table)
            taken[far] = sum(o.n_bytes for o in shard.outcomes)
            assert_kept(table, decoded(stored_again(model), shard))
            lanes = {code.value.chunks.stretch for code in model.codes if code.value.forward is not None}
            assert bool(lanes.intersection(LONG_STRETCHES)) is far, lanes
    assert taken[True] < 0.97 * taken[False], taken
