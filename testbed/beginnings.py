"""What two sequences begin with in common."""

from __future__ import annotations

from collections.abc import Sequence


def in_common(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items two texts, or two tuples, begin with in common.

    By halving: slices are compared without a step of Python for each item.
    """
    least, most = 0, min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least
