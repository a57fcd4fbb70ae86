"""What a snapshot keeps of the proof of a shard, and how it is told again."""

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.assemble import rounded_up
from flows.proved import proved_digests, proved_errors, verification
from storage.document import pack
from storage.entries import Proof, ShardRef
from storage.manifest import Manifest
from storage.verity import ObjectRef
from vae_core.errors import CorruptArchive

NAMES = ["a", "b", "c"]
SHARDS = [f"{k:032x}" for k in range(4)]
DIGESTS = [f"{k:064x}" for k in range(4)]


def manifest(proofs: list[Proof | None], told: dict) -> Manifest:
    record = ObjectRef.of("", b"x")
    return Manifest(
        schema=pa.schema([(name, pa.float64()) for name in NAMES]),
        shards=tuple(ShardRef(shard, "0" * 64, 5, record, proof) for shard, proof in zip(SHARDS, proofs, strict=True)),
        verification=told,
    )


@given(st.dictionaries(
    st.sampled_from(SHARDS),
    st.dictionaries(st.sampled_from(NAMES), st.tuples(st.floats(0, 9), st.floats(0, 9), st.integers(0, 9)).map(list), min_size=1),
))  # fmt: skip
def test_errors_come_back_from_their_lists(errors):
    proofs = [Proof.of(digest, errors.get(shard, {}), NAMES) for shard, digest in zip(SHARDS, DIGESTS, strict=True)]
    held = manifest(proofs, {"rows": 7})
    assert proved_errors(held) == errors
    assert proved_digests(held) == dict(zip(SHARDS, DIGESTS, strict=True))
    told = verification(held)
    assert told["columns"] == errors and told["shards"] == proved_digests(held) and told["rows"] == 7 and len(told["digest"]) == 64


def test_shards_that_nobody_proved_are_told_as_such():
    held = manifest([None, Proof("ab"), None, None], {})
    assert proved_digests(held) == {SHARDS[1]: "ab"} and proved_errors(held) == {}


@pytest.mark.parametrize("told", [[[1.0], [1.0], [1]], [[1.0] * 3] * 2, "x", [[1.0] * 3, [1.0] * 3, ["n"] * 3], {"zstd": "!"}])
def test_errors_that_no_writer_tells_are_corrupt(told):
    with pytest.raises(CorruptArchive):
        proved_errors(manifest([Proof("ab", told), None, None, None], {}))


def test_errors_of_many_columns_are_packed():
    names = [f"c{k}" for k in range(600)]
    proof = Proof.of("ab", {name: (0.125, 0.0625, 1000) for name in names}, names)
    assert len(str(proof.told)) < 300 and proof.told == pack([[0.125] * 600, [0.0625] * 600, [1000] * 600])


@given(st.floats(0, 1e300))
def test_an_error_is_kept_to_three_digits_and_never_below(error):
    kept = rounded_up(error)
    assert error <= kept <= error * 1.0101 or (error < 1e-300 and kept >= error)
    assert math.isinf(rounded_up(math.inf))
