from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import tables, tolerances_for

from vae_core.coders import conventional
from vae_core.coders.conventional import Stored
from vae_core.columns import TableProfile, encode_column, one_array, plan_columns
from vae_core.errors import CorruptArchive
from vae_core.quality import compare_column

LAW = settings(deadline=None, max_examples=40)


def plans_of(table: pa.Table, tolerances: dict | None = None):
    profile = TableProfile(table.schema)
    profile.update(table)
    return plan_columns(table.schema, profile.finish(), table, tolerances or {})


def through_parquet(native: pa.Array | None) -> pa.Array | None:
    """What a reader gets back when Arrow's own schema is not stored."""
    if native is None:
        return None
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"v": native}), sink, store_schema=False)
    return one_array(pq.read_table(pa.BufferReader(sink.getvalue())).column(0))


@LAW
@given(st.data())
def test_every_coding_gives_the_column_back(data):
    table = data.draw(tables(max_columns=2))
    for plan in plans_of(table, data.draw(tolerances_for(table.schema, distortion=True))):
        raw = one_array(table.column(plan.index))
        codes = None if plan.kind == "verbatim" else encode_column(plan, raw)
        ranked = conventional.rank(plan, raw, codes)
        assert ranked and [n for _, n in ranked] == sorted(n for _, n in ranked)
        lossless = ["ipc"] if plan.is_lossless else []
        for coding in [coding for coding, _ in ranked] + lossless:
            stored = conventional.encode(plan, coding, raw, codes)
            stored = Stored(through_parquet(stored.native), stored.payload)
            back = conventional.decode(plan, coding, stored, len(raw))
            assert compare_column(plan.name, raw, back, plan.tolerance).keeps(plan.tolerance), coding


@LAW
@given(st.data())
def test_codes_stored_conventionally_come_back_as_codes(data):
    table = data.draw(tables(max_columns=1))
    (plan,) = plans_of(table, data.draw(tolerances_for(table.schema, distortion=True)))
    if plan.kind == "verbatim":
        return
    raw = one_array(table.column(0))
    codes = encode_column(plan, raw)
    for coding in conventional.candidates_for(plan):
        if coding.startswith(("codes-", "zstd")) or coding == "pco":
            stored = conventional.encode(plan, coding, raw, codes)
            again = conventional.decode_codes(plan, coding, stored, len(raw))
            assert np.array_equal(again.values, codes.values)
            assert (again.state is None) == (codes.state is None)
            assert codes.state is None or np.array_equal(again.state, codes.state)


def test_the_measured_bytes_are_the_bytes_of_the_column_chunk():
    native = pa.array(np.arange(5000) % 17, pa.int64())
    for encoding in conventional.ENCODINGS:
        n_bytes = conventional.chunk_bytes(native, encoding)
        assert 0 < n_bytes < native.nbytes


def test_a_sorted_key_costs_next_to_nothing_and_random_bytes_what_they_are():
    rng = np.random.default_rng(0)
    table = pa.table({"key": np.arange(20_000), "noise": rng.integers(0, 2**63, 20_000)})
    sizes = {}
    for plan in plans_of(table):
        codes = encode_column(plan, table.column(plan.index))
        sizes[plan.name] = conventional.rank(plan, table.column(plan.index), codes)[0][1]
    assert sizes["key"] < 500
    assert 150_000 < sizes["noise"] < 162_000


def test_a_column_parquet_cannot_keep_falls_back_to_an_arrow_stream():
    table = pa.table({"i": pa.array([pa.MonthDayNano((1, 2, 3)), None], pa.month_day_nano_interval())})
    (plan,) = plans_of(table)
    assert plan.kind == "verbatim"
    assert conventional.rank(plan, table.column(0), None)[0][0] == "ipc"
    assert conventional.measure(plan, table.column(0), None, ["parquet-plain"])[0] == "ipc"


def test_measure_picks_the_smallest_of_the_candidates():
    table = pa.table({"x": pa.array(np.repeat(np.arange(50), 100))})
    (plan,) = plans_of(table)
    codes = encode_column(plan, table.column(0))
    ranked = dict(conventional.rank(plan, table.column(0), codes))
    coding, n_bytes = conventional.measure(plan, table.column(0), codes, ["parquet-plain", "pco", "codes-delta"])
    assert n_bytes == min(ranked[c] for c in ("parquet-plain", "pco", "codes-delta")) == ranked[coding]


@pytest.mark.parametrize("coding", ["pco", "pco-raw", "codes-plain", "ipc", "zstd", "parquet-plain", "unheard-of"])
def test_a_damaged_part_is_a_corrupt_archive_never_another_error(coding):
    values = pa.array([1.25, None, float("nan"), 7.5, 1 / 3] * 20)
    table = pa.table({"x": values})
    (plan,) = plans_of(table)
    codes = encode_column(plan, values)
    if coding != "unheard-of":
        stored = conventional.encode(plan, coding, values, codes)
        with pytest.raises(CorruptArchive):
            conventional.decode(plan, coding, stored, len(values) + 1)
        if stored.payload is None:
            return
        for cut in (1, 4, len(stored.payload) // 2, len(stored.payload) - 1):
            with pytest.raises(CorruptArchive):
                conventional.decode(plan, coding, Stored(stored.native, stored.payload[:cut]), len(values))
    with pytest.raises(CorruptArchive):
        conventional.decode(plan, coding, Stored(None, None), len(values))


@LAW
@given(st.integers(0, 400), st.integers(0, 6), st.sampled_from(["u1", "i2", "i4", "i8"]), st.booleans())
def test_what_is_weighed_together_weighs_what_each_coding_does_alone(n, seed, kind, holes):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 100, n).astype(kind)
    table = pa.table({"x": pa.array(values, mask=rng.random(n) < 0.2 if holes else None)})
    plan, array = plans_of(table)[0], one_array(table.column(0))
    codes = encode_column(plan, array) if plan.kind != "verbatim" else None
    weighed = conventional.Weighed(plan, array, codes)
    for level in (3, 19):
        for coding, n_bytes in weighed.sizes(conventional.candidates_for(plan), level).items():
            stored = conventional.encode(plan, coding, array, codes)
            alone = len(stored.payload or b"")
            if stored.native is not None:
                alone += conventional.chunk_bytes(stored.native, conventional.parquet_encoding(coding), level)
            assert n_bytes == alone, (coding, level)
