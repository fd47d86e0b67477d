"""The attempts of one arm, in the form that every estimator takes: flat arrays sorted by task, and counts per task.

An attempt that ended in an infrastructure error is *missing*: it is counted, never scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.stats.checks import (
    BoolArray,
    FloatArray,
    IntArray,
    StatsError,
    Where,
    counts,
    numbers,
    together,
    whole_numbers,
)
from testbed.stats.rows import (
    Later,
    check_costs,
    extreme_costs,
    halves_of,
    offsets_of,
    read_codes,
    read_rows,
    refuse_repeated_samples,
    rows_of,
    sample_numbers,
    successes_per_task,
)


@dataclass(frozen=True, eq=False)
class ArmOutcomes:
    """Outcomes of one arm on T tasks. Build it with `from_rows` or `from_counts`.

    Attributes:
        arm: Name of the arm.
        tasks: T task names, all different.
        n: Scored attempts per task, shape (T,).
        c: Successes per task, shape (T,), ≤ n.
        missing: Attempts per task that ended in an infrastructure error, shape (T,).
        success: Outcomes of the scored attempts, flat, task by task in sample order, shape (sum n,).
        offsets: Where each task starts in the flat arrays, shape (T + 1,).
        costs: Cost axis → cost of each scored attempt, flat, shape (sum n,), ≥ 0.
        samples: Sample index of each scored attempt, flat, shape (sum n,), −1 where it has none; None where unknown.
            Attempts of two arms at one task and index may share a random stream, and are then kept in one fold.
        missing_samples: The same of the missing attempts, task by task, shape (sum missing,).
    """

    arm: str
    tasks: tuple[str, ...]
    n: IntArray
    c: IntArray
    missing: IntArray
    success: BoolArray
    offsets: IntArray
    costs: Mapping[str, FloatArray] = field(default_factory=dict)
    samples: IntArray | None = None
    missing_samples: IntArray | None = None

    def __post_init__(self) -> None:
        """Refuse an empty arm, tasks named twice, and arrays that do not fit together."""
        if not self.tasks:
            raise StatsError(f"arm {self.arm!r} has no tasks: nothing was recorded for it")
        if len(set(self.tasks)) < len(self.tasks):
            twice = next(name for i, name in enumerate(self.tasks) if name in self.tasks[:i])
            raise StatsError(f"arm {self.arm!r}: task {twice!r} is listed twice")
        counts(self.n, self.c, self.where)
        if self.success.shape != (int(self.n.sum()),) or self.offsets.shape != (len(self.tasks) + 1,):
            raise StatsError(f"arm {self.arm!r}: outcomes, offsets and attempts per task do not fit together")
        if self.samples is not None and self.samples.shape != self.success.shape:
            raise StatsError(f"arm {self.arm!r}: {self.samples.size} samples for {self.success.size} attempts")
        if isinstance(self.costs, Later):
            return  # made from costs that were checked, and asking would make them
        for axis, values in self.costs.items():
            check_costs(values, axis, self.where, self.offsets)

    @property
    def where(self) -> Where:
        """Names for error messages."""
        return Where(self.arm, self.tasks)

    @classmethod
    def from_rows(
        cls,
        arm: str,
        tasks: Sequence[str],
        success: Sequence[bool | None] | ArrayLike,
        *,
        costs: Mapping[str, ArrayLike] | None = None,
        samples: Sequence[object] | None = None,
    ) -> ArmOutcomes:
        """Build from one row per attempt, in any order.

        Args:
            arm: Name of the arm.
            tasks: Task name of each row, length N.
            success: True, False, or None (NaN in a float array) for an attempt that ended in an infrastructure error.
            costs: Cost axis → cost of each row, length N; the cost of a missing attempt is ignored and may be NaN.
            samples: Sample index of each row; where given, a task's rows must have different ones. Whole numbers also
                say which attempts of two arms belong together (see the attribute).

        Raises:
            StatsError: No rows, lengths that differ, an outcome that is none of these, a (task, sample) pair that
                occurs twice, or a cost that is negative or not finite.
        """
        names, code, outcome = read_rows(arm, tasks, success)
        if samples is not None:
            refuse_repeated_samples(arm, tasks, samples)
        return cls._from_codes(arm, names, code, outcome, costs or {}, sample_numbers(samples))

    @classmethod
    def from_codes(
        cls,
        arm: str,
        tasks: Sequence[str],
        code: ArrayLike,
        success: ArrayLike,
        *,
        costs: Mapping[str, ArrayLike] | None = None,
        samples: ArrayLike | None = None,
    ) -> ArmOutcomes:
        """Build from one row per attempt, as arrays: what `from_rows` does, without a step of Python for each attempt.

        Args:
            arm: Name of the arm.
            tasks: Task names; those without a row are left out, the others come in the order of their first rows.
            code: Position in ``tasks`` of each row, shape (N,).
            success: 1, 0, or −1 for an attempt that ended in an infrastructure error, shape (N,).
            costs: As in `from_rows`.
            samples: Sample index of each row, shape (N,), a task's all different; −1 for one that has none.

        Raises:
            StatsError: No rows, lengths that differ, a position that is none, an outcome that is none of these, or a
                cost that is negative or not finite.
        """
        names, own, outcome = read_codes(arm, tasks, code, success)
        index = None if samples is None else np.asarray(samples, dtype=np.int64)
        if index is not None and index.shape != own.shape:
            raise StatsError(f"arm {arm!r}: {index.size} samples for {outcome.size} attempts")
        return cls._from_codes(arm, names, own, outcome, costs or {}, index)

    @classmethod
    def _from_codes(
        cls,
        arm: str,
        names: tuple[str, ...],
        code: IntArray,
        outcome: NDArray[np.int8],
        costs: Mapping[str, ArrayLike],
        samples: IntArray | None,
    ) -> ArmOutcomes:
        scored = outcome >= 0
        order = None if (np.diff(code) >= 0).all() else np.argsort(code, kind="stable")
        if not scored.all():
            order = np.flatnonzero(scored) if order is None else order[scored[order]]
        own = code if order is None else code[order]
        lost = np.flatnonzero(~scored)
        lost = lost[np.argsort(code[lost], kind="stable")]
        n = np.bincount(own, minlength=len(names)).astype(np.int64)
        success = (outcome if order is None else outcome[order]).astype(np.bool_)
        flat: dict[str, FloatArray] = {}
        for axis, values in costs.items():
            array = numbers(values, f"costs on axis {axis!r}", Where(arm))
            if array.shape != outcome.shape:
                raise StatsError(f"arm {arm!r}: {array.size} costs on axis {axis!r} for {outcome.size} attempts")
            flat[axis] = array if order is None else array[order]
        return cls(
            arm=arm,
            tasks=names,
            n=n,
            c=np.bincount(own[success], minlength=len(names)).astype(np.int64),
            missing=np.bincount(code[lost], minlength=len(names)).astype(np.int64),
            success=success,
            offsets=offsets_of(n),
            costs=flat,
            samples=samples if samples is None or order is None else samples[order],
            missing_samples=None if samples is None else samples[lost],
        )

    @classmethod
    def from_counts(
        cls, arm: str, tasks: Sequence[str], n: ArrayLike, c: ArrayLike, *, missing: ArrayLike | None = None
    ) -> ArmOutcomes:
        """Build from attempts and successes per task, where the order of the outcomes and the costs are unknown.

        Args:
            arm: Name of the arm.
            tasks: T task names.
            n: Scored attempts per task, shape (T,) or one number for all.
            c: Successes per task, shape (T,).
            missing: Missing attempts per task, shape (T,); none where left out.

        Raises:
            StatsError: c > n, negative or fractional numbers, a task named twice, no tasks.
        """
        where = Where(arm, tuple(tasks))
        if len(tasks) == 0:
            raise StatsError(f"arm {arm!r} has no tasks: nothing was recorded for it")
        attempts, successes = counts(n, c, where)
        lost = np.zeros(1, np.int64) if missing is None else whole_numbers(missing, "missing attempts", where)
        each = np.zeros(len(tasks), np.int64)
        attempts, successes, lost, _ = together(attempts=attempts, successes=successes, missing=lost, tasks=each)
        if attempts.shape != each.shape:
            raise StatsError(f"arm {arm!r}: counts of shape {attempts.shape} for {len(tasks)} tasks")
        outcome = np.repeat(
            np.tile([True, False], len(tasks)), np.column_stack([successes, attempts - successes]).ravel()
        )
        return cls(arm, tuple(tasks), attempts.copy(), successes.copy(), lost.copy(), outcome, offsets_of(attempts), {})

    def cost(self, axis: str) -> FloatArray:
        """Return the flat costs on ``axis``; refuse an axis that was not recorded."""
        if axis not in self.costs:
            known = ", ".join(sorted(self.costs)) or "none"
            raise StatsError(f"arm {self.arm!r} has no cost axis {axis!r}; recorded: {known}")
        return self.costs[axis]

    def mean_cost(self, axis: str) -> FloatArray:
        """Return the mean cost of a scored attempt per task, shape (T,); every task needs at least one."""
        values = self.cost(axis)
        if (self.n == 0).any():
            raise StatsError(f"{self.where(int(np.argmin(self.n)))}no scored attempt, so there is no mean {axis!r}")
        sums = np.add.reduceat(values, self.offsets[:-1])
        return np.asarray(sums / self.n, dtype=np.float64)

    def task_of_rows(self) -> IntArray:
        """Return the number of the task of each scored attempt, in the order of the flat arrays."""
        return np.repeat(np.arange(len(self.tasks)), self.n)

    def attempts_of(self, task: int) -> slice:
        """Return the slice of the flat arrays that holds task number ``task``."""
        return slice(int(self.offsets[task]), int(self.offsets[task + 1]))

    def take(self, chosen: Sequence[int] | IntArray) -> ArmOutcomes:
        """Return the arm on the tasks at positions ``chosen``, in that order."""
        positions = np.asarray(chosen, dtype=np.int64)
        if np.array_equal(positions, np.arange(len(self.tasks))):
            return self
        rows = rows_of(self.offsets, positions)
        return self._with_rows(rows, positions, self.n[positions], self.missing[positions], self.arm)

    def halves(self, seed: int) -> tuple[ArmOutcomes, ArmOutcomes]:
        """Split every task's scored attempts at random into two halves of ⌊n/2⌋ (an odd attempt out is dropped).

        Missing attempts stay out of both halves. Used for the null row: two samples of the very same policy.
        """
        key = np.random.default_rng([seed, 1]).random(self.success.size)
        first, second = halves_of(self.offsets, key)
        every, none = np.arange(len(self.tasks)), np.zeros_like(self.missing)
        return (
            self._with_rows(first, every, self.n // 2, none, f"{self.arm} (half 1)"),
            self._with_rows(second, every, self.n // 2, none, f"{self.arm} (half 2)"),
        )

    def with_missing(self, *, succeed: bool) -> ArmOutcomes:
        """Return the arm as if all missing attempts had succeeded, at the task's least cost, or failed, at its most."""
        if not self.missing.any():
            return self
        extra = np.repeat(np.arange(len(self.tasks)), self.missing)
        places = self.offsets[1:][extra]  # after the scored attempts of the task

        def filled(axis: str) -> FloatArray:
            values = self.costs[axis]
            return np.insert(values, places, extreme_costs(values, self.where, self.offsets, least=succeed)[extra])

        n = self.n + self.missing
        c = self.c + self.missing * int(succeed)
        outcome = np.insert(self.success, places, succeed)
        costs = Later(self.costs, filled)
        samples = None
        if self.samples is not None and self.missing_samples is not None:
            samples = np.insert(self.samples, places, self.missing_samples)
        none = np.zeros_like(self.missing)
        return ArmOutcomes(self.arm, self.tasks, n, c, none, outcome, offsets_of(n), costs, samples)

    def _with_rows(self, rows: IntArray, tasks: IntArray, n: IntArray, missing: IntArray, arm: str) -> ArmOutcomes:
        success, lost = self.success[rows], self.missing_samples
        if lost is not None:
            lost = lost[rows_of(offsets_of(self.missing), tasks)] if missing.any() else lost[:0]
        return ArmOutcomes(
            arm=arm,
            tasks=tuple(self.tasks[i] for i in tasks.tolist()),
            n=n,
            c=successes_per_task(success, n),
            missing=missing,
            success=success,
            offsets=offsets_of(n),
            costs=Later(self.costs, lambda axis: self.costs[axis][rows]),
            samples=None if self.samples is None else self.samples[rows],
            missing_samples=lost,
        )
