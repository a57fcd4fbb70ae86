"""Small questions asked of Arrow arrays in more than one room."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core.quality import compare_column
from vae_core.tolerance import Tolerance


def flat_floats(array: pa.Array) -> NDArray[np.float64]:
    """Values, or elements of lists and tensors, as float64; nulls are NaN. Timestamps and the like by their integers."""
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    if pa.types.is_temporal(array.type):
        array = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64())
    if pa.types.is_floating(array.type):
        found: NDArray[np.float64] = array.to_numpy(zero_copy_only=False).astype(np.float64)
        return found
    floats: NDArray[np.float64] = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return floats


def rmse_of(raw: pa.Array, decoded: pa.Array) -> float:
    """Root mean square error over the values that are finite in both, 0 when there are none; exact where both are integers."""
    return compare_column("", raw, decoded, Tolerance("rmse", 1.0)).rmse
