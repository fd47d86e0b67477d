"""The error of this folder and the checks that every estimator makes on its input.

`testbed.stats` imports nothing else of the testbed, so it has an error of its own. A message names the arm and the
task where they are known, because "c > n at index 17" helps nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]

_MOST = 2**53  # beyond it whole numbers have gaps in float64
GREATEST_COST = 1e200  # a sum of as many as memory holds is still finite


class StatsError(ValueError):
    """Input that no estimator here can use, with the arm and the task it came from where they are known."""


@dataclass(frozen=True)
class Where:
    """Names used in error messages.

    Attributes:
        arm: Name of the arm, or "".
        tasks: Task names in the order of the arrays, or ().
    """

    arm: str = ""
    tasks: Sequence[str] = ()

    def __call__(self, index: int | None = None) -> str:
        """Return a prefix such as ``arm 'bare', task 'sum-3': `` for the task at flat position ``index``."""
        parts = [f"arm {self.arm!r}"] if self.arm else []
        if index is not None:
            parts.append(f"task {self.tasks[index]!r}" if index < len(self.tasks) else f"task number {index}")
        return ", ".join(parts) + ": " if parts else ""


NOWHERE = Where()


def whole_numbers(values: ArrayLike, name: str, where: Where = NOWHERE) -> IntArray:
    """Return ``values`` as int64; refuse NaN, fractions, negative numbers and those that float64 cannot tell apart."""
    try:
        raw = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise StatsError(f"{where()}{name}: {error}") from error
    if raw.size == 0:
        raise StatsError(f"{where()}no {name} at all")
    if raw.dtype.kind not in "iubf":
        raise StatsError(f"{where()}{name} must be numbers, not {raw.dtype}")
    bad = (raw < 0) | (raw > _MOST)
    if raw.dtype.kind == "f":
        bad |= ~(raw == np.floor(raw))  # NaN is equal to nothing
    if bad.any():
        index = int(np.flatnonzero(bad.ravel())[0])
        limits = "a whole number ≥ 0" if not raw.ravel()[index] > _MOST else "at most 2^53"
        raise StatsError(f"{where(index)}{name} must be {limits}, not {raw.ravel()[index]}")
    return raw.astype(np.int64)


def numbers(values: ArrayLike, name: str, where: Where = NOWHERE) -> FloatArray:
    """Return ``values`` as float64, NaN and infinities included; refuse what is no number, or nothing at all."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StatsError(f"{where()}{name} must be numbers: {error}") from error
    if array.size == 0:
        raise StatsError(f"{where()}no {name} at all")
    return array


def finite(values: ArrayLike, name: str) -> FloatArray:
    """Return ``values`` as finite float64."""
    array = numbers(values, name)
    if not np.isfinite(array).all():
        raise StatsError(f"{name} must be finite, not {array[~np.isfinite(array)].ravel()[0]}")
    return array


def together(**arrays: AnyArray) -> tuple[AnyArray, ...]:
    """Broadcast arrays against each other; refuse shapes that do not fit, by name."""
    try:
        return np.broadcast_arrays(*arrays.values())
    except ValueError as error:
        shapes = ", ".join(f"{name} of shape {array.shape}" for name, array in arrays.items())
        raise StatsError(f"{shapes} do not fit together") from error


def counts(n: ArrayLike, c: ArrayLike, where: Where = NOWHERE) -> tuple[IntArray, IntArray]:
    """Return attempts ``n`` and successes ``c`` as int64 arrays of one shape; refuse c > n."""
    attempts, successes = together(
        attempts=whole_numbers(n, "attempts", where), successes=whole_numbers(c, "successes", where)
    )
    if (successes > attempts).any():
        index = int(np.flatnonzero((successes > attempts).ravel())[0])
        raise StatsError(f"{where(index)}{successes.ravel()[index]} successes among {attempts.ravel()[index]} attempts")
    return attempts, successes


def probability(value: ArrayLike, name: str, *, open_ends: bool = False) -> FloatArray:
    """Return ``value`` as float64 in [0, 1], or in (0, 1) with ``open_ends``."""
    array = numbers(value, name)
    inside = (array > 0) & (array < 1) if open_ends else (array >= 0) & (array <= 1)
    if not inside.all():
        bad = array.ravel()[int(np.flatnonzero(~inside.ravel())[0])]
        raise StatsError(f"{name} must lie {'strictly ' if open_ends else ''}between 0 and 1, not {bad}")
    return array


def positive(value: ArrayLike, name: str) -> FloatArray:
    """Return ``value`` as finite float64 > 0."""
    array = numbers(value, name)
    good = np.isfinite(array) & (array > 0)
    if not good.all():
        bad = array.ravel()[int(np.flatnonzero(~good.ravel())[0])]
        raise StatsError(f"{name} must be a finite number > 0, not {bad}")
    return array


def level(alpha: float, name: str = "alpha") -> float:
    """Return ``alpha`` as one number in (0, 1)."""
    found = probability(alpha, name, open_ends=True)
    if found.ndim:
        raise StatsError(f"{name} must be one number, not {found.size}")
    return float(found)


def costs(values: ArrayLike, axis: str, where: Where = NOWHERE, task: int | None = None) -> FloatArray:
    """Return costs as float64; refuse NaN, infinities, negative costs and such as cannot be added up."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StatsError(f"{where(task)}costs on axis {axis!r} must be numbers: {error}") from error
    bad = ~np.isfinite(array) | (array < 0)
    if bad.any():
        worst = array.ravel()[int(np.flatnonzero(bad.ravel())[0])]
        raise StatsError(f"{where(task)}cost {axis!r} must be a finite number ≥ 0, not {worst}")
    if (array > GREATEST_COST).any():
        raise StatsError(f"{where(task)}cost {axis!r} must be at most {GREATEST_COST:g}, not {array.max()}")
    return array
