"""Read-only arrays: what travels between pools is shared, so nobody may write to it."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

TokenIds = NDArray[np.int32]
Versions = NDArray[np.int32]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def frozen(values: ArrayLike, dtype: Any) -> NDArray[Any]:
    """A contiguous, read-only, one-dimensional array; a read-only input of the right type is not copied.

    Raises:
        ValueError: the values are not one-dimensional.
    """
    array = np.ascontiguousarray(values, dtype=dtype)
    if array.ndim != 1:
        raise ValueError(f"expected one dimension, got shape {array.shape}")
    if array.flags.writeable:
        array = array.copy() if array is values else array
        array.flags.writeable = False
    return array
