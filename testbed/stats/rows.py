"""How rows, one per attempt, become flat arrays sorted by task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.stats.checks import GREATEST_COST, BoolArray, FloatArray, IntArray, StatsError, Where, costs


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


def read_rows(
    arm: str, tasks: Sequence[str], success: Sequence[bool | None] | ArrayLike
) -> tuple[tuple[str, ...], IntArray, NDArray[np.int8]]:
    """Return task names in the order of their first rows, the place of each row's task in them, and outcome codes.

    Raises:
        StatsError: As `ArmOutcomes.from_rows` does.
    """
    outcome = read_outcomes(success, arm, tasks)
    if len(tasks) == 0:
        raise StatsError(f"arm {arm!r} has no attempts: nothing was recorded for it")
    if outcome.shape != (len(tasks),):
        raise StatsError(f"arm {arm!r}: {len(tasks)} tasks for {outcome.size} outcomes")
    index: dict[str, int] = {}
    code = np.fromiter((index.setdefault(task, len(index)) for task in tasks), np.int64, len(tasks))
    names = tuple(index)
    odd = np.flatnonzero(~np.isnan(outcome) & (outcome != 0) & (outcome != 1))
    if odd.size:
        raise StatsError(
            f"{Where(arm, names)(int(code[odd[0]]))}success must be true, false or missing, "
            f"not {outcome[odd[0]]}; a scorer's partial credit is not a success"
        )
    return names, code, np.where(np.isnan(outcome), -1, outcome).astype(np.int8)


def read_codes(
    arm: str, tasks: Sequence[str], code: ArrayLike, success: ArrayLike
) -> tuple[tuple[str, ...], IntArray, NDArray[np.int8]]:
    """Return what `read_rows` does, of rows that are arrays and name their tasks by position in ``tasks``.

    Raises:
        StatsError: As `ArmOutcomes.from_codes` does.
    """
    position, outcome = np.asarray(code, dtype=np.int64), np.asarray(success)
    if position.size == 0:
        raise StatsError(f"arm {arm!r} has no attempts: nothing was recorded for it")
    if outcome.shape != position.shape:
        raise StatsError(f"arm {arm!r}: {position.size} tasks for {outcome.size} outcomes")
    if position.min() < 0 or position.max() >= len(tasks):
        raise StatsError(f"arm {arm!r}: a row belongs to none of the {len(tasks)} tasks")
    odd = np.flatnonzero((outcome != 0) & (outcome != 1) & (outcome != -1))
    if odd.size:
        raise StatsError(
            f"{Where(arm, tasks)(int(position[odd[0]]))}success must be 1, 0, or -1 for missing, "
            f"not {outcome[odd[0]]}; a scorer's partial credit is not a success"
        )
    first = np.full(len(tasks), position.size, dtype=np.int64)
    first[position[::-1]] = np.arange(position.size)[::-1]  # the last one written, which is the first row, stays
    present = np.argsort(first, kind="stable")[: np.count_nonzero(first < position.size)]
    place = np.empty(len(tasks), dtype=np.int64)
    place[present] = np.arange(present.size)
    return tuple(tasks[i] for i in present.tolist()), place[position], outcome.astype(np.int8)


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


def check_costs(values: FloatArray, axis: str, where: Where, offsets: IntArray) -> None:
    """Raise `StatsError` unless there is one cost for each row, each such as can be added up."""
    if values.shape != (int(offsets[-1]),):
        raise StatsError(f"{where()}{values.size} costs on axis {axis!r} for {int(offsets[-1])} attempts")
    bad = np.flatnonzero(~np.isfinite(values) | (values < 0) | (values > GREATEST_COST))
    if bad.size:
        task = int(np.searchsorted(offsets, bad[0], side="right")) - 1
        costs(values[bad[:1]], axis, where, task)


def extreme_costs(values: FloatArray, where: Where, offsets: IntArray, *, least: bool) -> FloatArray:
    """Return the least or the greatest cost per task; of the whole arm where a task has no scored attempt."""
    if values.size == 0:
        raise StatsError(f"{where()}missing attempts only, so there is no cost to bound them with")
    extreme = np.minimum if least else np.maximum
    some = np.diff(offsets) > 0
    found = np.full(some.size, extreme.reduce(values))
    found[some] = extreme.reduceat(values, offsets[:-1][some])
    return found


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
