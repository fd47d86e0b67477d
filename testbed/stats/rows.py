"""How rows, one per attempt, become flat arrays sorted by task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.checks import BoolArray, FloatArray, IntArray, StatsError, Where


class Later(Mapping[str, FloatArray]):
    """Costs that are made when their axis is first asked for: most figures of most subsets need none of them."""

    def __init__(self, axes: Iterable[str], make: Callable[[str], FloatArray]) -> None:
        self._axes, self._make = tuple(axes), make
        self._made: dict[str, FloatArray] = {}

    def __getitem__(self, axis: str) -> FloatArray:
        if axis not in self._axes:
            raise KeyError(axis)
        if axis not in self._made:
            self._made[axis] = self._make(axis)
        return self._made[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)


def read_outcomes(values: Sequence[bool | None] | ArrayLike, arm: str, tasks: Sequence[str]) -> FloatArray:
    """Return outcomes as floats, NaN where missing."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return values.astype(np.float64)
    listed: Sequence[object] = values.tolist() if isinstance(values, np.ndarray) else list(values)  # type: ignore[arg-type]
    try:
        return np.asarray([np.nan if value is None else value for value in listed], dtype=np.float64)
    except (TypeError, ValueError) as error:
        odd = next(i for i, value in enumerate(listed) if not isinstance(value, int | float | np.generic | None))
        raise StatsError(
            f"{Where(arm, tasks)(odd)}success must be true, false or missing, not {listed[odd]!r}"
        ) from error


def successes_per_task(success: BoolArray, n: IntArray) -> IntArray:
    """Return successes per task of outcomes that come task by task."""
    return np.bincount(np.repeat(np.arange(n.size), n)[success], minlength=n.size).astype(np.int64)


def offsets_of(n: IntArray) -> IntArray:
    """Return where each task starts in the flat arrays, and their length."""
    return np.concatenate([[0], np.cumsum(n)]).astype(np.int64)


def rows_of(offsets: IntArray, positions: IntArray) -> IntArray:
    """Return the rows of the tasks at ``positions``, task by task."""
    lengths = offsets[positions + 1] - offsets[positions]
    starts = np.repeat(offsets[positions] - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.asarray(starts + np.arange(lengths.sum()), dtype=np.int64)


def halves_of(offsets: IntArray, key: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the rows of two halves of each task's rows, in the order of ``key``; an odd last row is in neither."""
    n = np.diff(offsets)
    start = offsets_of(n // 2)
    first, second = (np.empty(start[-1], dtype=np.int64) for _ in range(2))
    for size in np.unique(n[n > 1]):  # tasks of one size are sorted in one pass
        own, half = np.flatnonzero(n == size), int(size) // 2
        rows = offsets[own][:, None] + np.arange(size)
        rows = np.take_along_axis(rows, np.argsort(key[rows], axis=1), axis=1)
        to = start[own][:, None] + np.arange(half)
        first[to], second[to] = rows[:, :half], rows[:, half : 2 * half]
    return first, second


def refuse_repeated_samples(arm: str, tasks: Sequence[str], samples: Sequence[object]) -> None:
    """Raise `StatsError` where a task's rows share a sample index."""
    if len(samples) != len(tasks):
        raise StatsError(f"arm {arm!r}: {len(samples)} sample indices for {len(tasks)} attempts")
    seen: set[tuple[str, object]] = set()
    for pair in zip(tasks, samples, strict=True):
        if pair in seen:
            raise StatsError(f"arm {arm!r}, task {pair[0]!r}: sample {pair[1]!r} occurs twice; an attempt counts once")
        seen.add(pair)


def sample_numbers(samples: Sequence[object] | None) -> IntArray | None:
    """Return sample indices as numbers; None where they are not whole numbers, so that they name attempts only."""
    if samples is None or not all(isinstance(sample, int | np.integer) for sample in samples):
        return None
    return np.array([int(sample) for sample in samples], dtype=np.int64)  # type: ignore[call-overload]
