"""Many small byte strings in one payload."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_core import sections
from vae_core.errors import CorruptArchive

NAMES = ["c0", "c1", "m1", "s0"]


@given(st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=300)), st.integers(0, 40_000))
def test_sections_come_back(parts, n_more):
    parts["s0"] = bytes(n_more)
    pool = sections.pack(parts, NAMES)
    assert sections.unpack(pool, NAMES) == {name: parts.get(name, b"") for name in NAMES}


def test_short_lengths_take_a_byte():
    assert sections.pack({"c0": bytes(127)}, ["c0"]) == b"\x7f" + bytes(127)
    assert sections.unpack(b"\x02\0\0\0ab", ["c0"], fixed=True) == {"c0": b"ab"}


@pytest.mark.parametrize("pool", [b"", b"\x80", b"\xff\xff\xff\xff\xff\x01", b"\x05abc", b"\x01ab", b"\xff" * 9])
def test_lengths_that_do_not_fit_are_corrupt(pool):
    with pytest.raises(CorruptArchive, match="pool"):
        sections.unpack(pool, ["c0"])
