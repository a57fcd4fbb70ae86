"""Arrow arrays from buffers are those that pyarrow makes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vae_core.arrays import byte_strings, from_numpy, scalar, to_numpy

LAW = settings(deadline=None, max_examples=60)
DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


@LAW
@given(st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, st.integers(0, 40))), st.data())
def test_numbers_are_what_pyarrow_makes_of_them_and_come_back(values, data):
    mask = data.draw(st.none() | hnp.arrays(np.bool_, len(values)))
    some = slice(data.draw(st.integers(0, len(values))), None, data.draw(st.sampled_from([1, 2])))
    values, mask = values[some], None if mask is None else mask[some]
    found, wanted = from_numpy(values, mask=mask), pa.array(np.ascontiguousarray(values), mask=mask)
    found.validate(full=True)
    assert found.type == wanted.type and found.null_count == wanted.null_count
    assert [str(x) for x in found.to_pylist()] == [str(x) for x in wanted.to_pylist()]
    first = data.draw(st.integers(0, len(values)))
    known = np.ones(len(values), np.bool_) if mask is None else ~mask
    assert np.array_equal(to_numpy(found.slice(first))[known[first:]].view("u1"), values[first:][known[first:]].view("u1"))


@LAW
@given(st.lists(st.binary(max_size=9)))
def test_byte_strings_are_what_pyarrow_makes_of_them(texts):
    found = byte_strings(texts)
    found.validate(full=True)
    assert found.equals(pa.array(texts, pa.large_binary()))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(-1, pa.int8()), (2**63, pa.uint64()), (0.5, pa.float32()), (True, pa.bool_()), (b"ab", pa.large_binary()), (None, pa.int16())],
)
def test_a_scalar_is_what_pyarrow_makes_of_it(value, kind):
    assert scalar(value, kind).equals(pa.scalar(value, kind))


@pytest.mark.parametrize(
    ("values", "kind", "mask"),
    [
        (np.zeros((2, 2)), None, None),
        (np.zeros(2, ">i4"), None, None),
        (np.zeros(2, "M8[D]"), None, None),
        (np.zeros(2, "i4"), pa.int64(), None),
        (np.zeros(3, "?"), pa.int8(), None),
        (np.zeros(3, "i4"), None, np.ones(2, np.bool_)),
    ],
)
def test_what_has_another_layout_is_refused(values, kind, mask):
    with pytest.raises(ValueError, match=r"no numbers|layout|mask"):
        from_numpy(values, kind, mask)


@pytest.mark.parametrize("array", [pa.array([0], pa.date32()), pa.array(["a"]), pa.array([None], pa.decimal128(5, 2))])
def test_what_is_no_number_is_not_taken_for_one(array):
    with pytest.raises(ValueError, match="is no number"):
        to_numpy(array)
