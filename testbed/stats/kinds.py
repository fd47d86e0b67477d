"""Rows that are alike, once each: most tasks of a large suite share their counts with others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from testbed.stats.checks import AnyArray, IntArray

_MOST = 2**62  # kinds that a 64-bit number can tell apart


def kinds(*columns: AnyArray) -> tuple[IntArray, IntArray]:
    """Return where each kind of row comes first, in rising order of rows, and the kind of each row.

    What `numpy.unique` does along an axis, at a fifth of its time.

    Args:
        columns: One array per column, without NaN, all of shape (N,).

    Returns:
        Positions of shape (K,), and numbers 0…K−1 of shape (N,).
    """
    code: NDArray[np.int64] = np.zeros(columns[0].shape, dtype=np.int64)
    possible = 1
    for column in columns:
        values, place = np.unique(column, return_inverse=True)
        if possible * values.size > _MOST:
            seen, code = np.unique(code, return_inverse=True)
            possible = seen.size
        code = code * values.size + place
        possible *= values.size
    _, first, kind = np.unique(code, return_index=True, return_inverse=True)
    return first, kind
