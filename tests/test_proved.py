"""What a snapshot keeps of its verification, and how it is told again."""

import math

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from flows.assemble import rounded_up
from flows.proved import errors_in_order, proved_errors, verification
from storage.manifest import Manifest, ShardRef
from storage.verity import ObjectRef

NAMES = ["a", "b", "c"]
SHARDS = [f"{k:032x}" for k in range(4)]


def manifest(told: dict) -> Manifest:
    record = ObjectRef.of("", b"x")
    return Manifest(
        schema=pa.schema([(name, pa.float64()) for name in NAMES]),
        shards=tuple(ShardRef(shard, "0" * 64, 5, record) for shard in SHARDS), verification=told,
    )  # fmt: skip


@given(st.dictionaries(
    st.sampled_from(SHARDS),
    st.dictionaries(st.sampled_from(NAMES), st.tuples(st.floats(0, 9), st.floats(0, 9), st.integers(0, 9)).map(list), min_size=1),
))  # fmt: skip
def test_errors_come_back_from_their_lists(errors):
    told = errors_in_order(errors, SHARDS, NAMES)
    assert proved_errors(manifest(told)) == errors
    assert verification(manifest(told | {"rows": 7})) == {"rows": 7, "columns": errors, "digest": "", "shards": {}}


def test_errors_of_earlier_formats_are_told_alike():
    errors = {SHARDS[1]: {"b": [0.5, 0.25, 3]}}
    assert proved_errors(manifest({"columns": errors})) == errors


@given(st.floats(0, 1e300))
def test_an_error_is_kept_to_three_digits_and_never_below(error):
    kept = rounded_up(error)
    assert error <= kept <= error * 1.0101 or (error < 1e-300 and kept >= error)
    assert math.isinf(rounded_up(math.inf))
