"""One column of a block as integers, with what does not fit beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

STATE_VALUE, STATE_NULL, STATE_NAN, STATE_POS_INF, STATE_NEG_INF, STATE_NEG_ZERO, STATE_MISFIT = range(7)


@dataclass(frozen=True, slots=True)
class Codes:
    """One column of n_rows rows, `width` values a row, row after row.

    values  : (n_rows * width,) int64, plan.fill where state != STATE_VALUE; may share the memory of the Arrow array
    state   : (n_rows * width,) uint8 or None when all are STATE_VALUE
    misfits : raw values of the STATE_MISFIT cells in order, in the value type; None when there are none
    """

    values: NDArray[np.int64]
    state: NDArray[np.uint8] | None = None
    misfits: pa.Array | None = None
