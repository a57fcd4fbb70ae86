from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from telemetry import assert_kept, decoded, fitted, stored_again
from test_exact_cells import numpy_alone

from vae_core.columns import encode_column
from vae_core.encoding import encode_shard
from vae_core.entropy.rans import Encoder
from vae_core.exact.arrange import Arrangement, some_rows
from vae_core.exact.cells import code_column
from vae_core.exact.features import Decoded
from vae_core.exact.ordering import SampleColumn
from vae_core.exact.plans import ColumnCode
from vae_core.exact.sampled import Sampled, decoded_sample
from vae_core.exact.tuning import MOST_WEIGHT, TUNED_ROWS, TUNED_RUN, tuned
from vae_core.model import Model

N = 12_000
ALWAYS, NEVER = (lambda: True), (lambda: False)


def made(seed: int = 3) -> tuple[pa.Table, Model]:
    """Columns told by contexts, by rows before and by what their key last was, with nulls; and a model of them."""
    rng = np.random.default_rng(seed)
    key, kind = rng.integers(0, 900, N), rng.integers(0, 6, N)
    of_key = rng.permutation(60_000)[:900]
    walk = np.cumsum(rng.integers(-3, 4, N))
    table = pa.table({
        "key": key, "kind": kind, "walk": walk,
        "name": np.where(rng.random(N) < 0.03, 7, of_key[key]),
        "near": pa.array(np.minimum(rng.geometric(0.1 + 0.12 * kind), 40), mask=rng.random(N) < 0.1),
    })  # fmt: skip
    return table, fitted(table, seconds=5, preview="off").model


def known(table: pa.Table, model: Model) -> Decoded:
    found = Decoded(N)
    for code in model.codes:
        codes = encode_column(model.columns[code.column], table.column(code.column))
        code_column(Encoder(), code, found, codes.values, codes.state)
    return found


def bits_of(code: ColumnCode, table: pa.Table, model: Model, whole: Decoded) -> float:
    encoder, codes = Encoder(), encode_column(model.columns[code.column], table.column(code.column))
    code_column(encoder, code, Decoded(N, dict(whole.values), dict(whole.states)), codes.values, codes.state)
    return encoder.bits


def with_weights(code: ColumnCode, weight: int) -> ColumnCode:
    digits = tuple(replace(digit, weights=(weight,) * len(digit.weights)) for digit in code.value.digits)
    return replace(code, value=replace(code.value, digits=digits))


def test_tuned_codes_take_fewer_bits_and_differ_in_nothing_but_weights():
    table, model = made()
    whole, codes = known(table, model), []
    assert any(code.recall for code in model.codes) and any(code.value.forward is not None for code in model.codes)
    for code in model.codes:
        poor = with_weights(code, 4096)
        better, share = tuned(whole, poor, ALWAYS)
        before, after = (bits_of(one, table, model, whole) for one in (poor, better))
        assert after <= before and share <= 1.0
        if code.recall is None and whole.states[code.column] is None:
            assert after == pytest.approx(before * share, abs=1.0)  # a bit says whether there are states
        weights = [w for digit in better.value.digits for w in digit.weights]
        assert min(weights) >= 1 and max(weights) <= MOST_WEIGHT
        assert with_weights(better, 1) == replace(with_weights(poor, 1), recall=better.recall)
        assert tuned(whole, poor, ALWAYS)[0] == better
        codes.append(better)
    assert sum(bits_of(one, table, model, whole) for one in codes) < 0.97 * sum(
        bits_of(with_weights(code, 4096), table, model, whole) for code in model.codes
    )
    changed = replace(model, codes=tuple(codes))
    assert_kept(table, decoded(stored_again(changed), encode_shard(changed, table, preview=False)))


def test_without_time_weights_stay_as_they_are():
    table, model = made()
    whole = known(table, model)
    for code in model.codes:
        assert tuned(whole, code, NEVER) == (code, 1.0)


def test_weights_are_tried_on_runs_from_all_over():
    for n in (0, 1, TUNED_ROWS + TUNED_ROWS // 4):
        assert np.array_equal(some_rows(n, TUNED_ROWS, TUNED_RUN), np.arange(n))
    rows = some_rows(10**6, TUNED_ROWS, TUNED_RUN)
    assert len(rows) == TUNED_ROWS and rows[0] == 0 and rows[-1] == 10**6 - 1 and (np.diff(rows) > 0).all()


def arranged() -> Arrangement:
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 8, N)
    columns = [
        SampleColumn(0, kind, None, 0, 0, 7, True),
        SampleColumn(1, kind * 3 + (rng.random(N) < 0.1), None, 0, 0, 22, False),
        SampleColumn(2, np.sort(rng.integers(0, 10**6, N)), None, 0, 0, 10**6, False),
    ]
    found = Arrangement(Sampled(N, N, decoded_sample(columns)), columns, ALWAYS)
    for column in columns:
        found.add(column.column)
    return found


def test_what_nothing_tells_comes_first_and_what_is_told_stays_behind_what_tells_it():
    found = arranged()
    assert 0 in found.found[1][0].columns and not found.found[2][0].columns
    found.put_first({1, 2})
    assert found.order == [2, 0, 1]


def test_an_arrangement_is_tuned_until_its_time_is_out():
    found = arranged()
    before = dict(found.found)
    found.tune(2, until=float("inf"))
    assert found.bits <= sum(bits for _, bits in before.values())
    again, late = arranged(), arranged()
    again.tune(1, until=float("inf"))
    assert again.codes == found.codes
    late._tick = NEVER  # type: ignore[method-assign]
    late.tune(2, until=0.0)
    assert late.found == before
    with numpy_alone():
        slow = arranged()
        slow.tune(2, until=float("inf"))
    assert [code.value.digits for code in slow.codes] == [before[j][0].value.digits for j in slow.order]
