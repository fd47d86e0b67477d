"""The attempts of one arm, in the form that every estimator takes: flat arrays sorted by task, and counts per task.

An attempt that ended in an infrastructure error is *missing*: it is counted, never scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.checks import BoolArray, FloatArray, IntArray, StatsError, Where, costs, counts, whole_numbers


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
    """

    arm: str
    tasks: tuple[str, ...]
    n: IntArray
    c: IntArray
    missing: IntArray
    success: BoolArray
    offsets: IntArray
    costs: Mapping[str, FloatArray] = field(default_factory=dict)

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
        for axis, values in self.costs.items():
            if values.shape != self.success.shape:
                raise StatsError(
                    f"arm {self.arm!r}: {values.size} costs on axis {axis!r} for {self.success.size} attempts"
                )
            bad = np.flatnonzero(~np.isfinite(values) | (values < 0))
            if bad.size:
                task = int(np.searchsorted(self.offsets, bad[0], side="right")) - 1
                costs(values[bad[:1]], axis, self.where, task)

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
            samples: Sample index of each row; where given, a task's rows must have different ones.

        Raises:
            StatsError: No rows, lengths that differ, an outcome that is none of these, a (task, sample) pair that
                occurs twice, or a cost that is negative or not finite.
        """
        outcome = np.asarray([np.nan if s is None else s for s in _listed(success)], dtype=np.float64)
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
        if samples is not None:
            _refuse_repeated_samples(arm, tasks, samples)
        scored = ~np.isnan(outcome)
        order = np.argsort(code, kind="stable")
        order = order[scored[order]]
        n = np.bincount(code[scored], minlength=len(names)).astype(np.int64)
        flat: dict[str, FloatArray] = {}
        for axis, values in (costs or {}).items():
            array = np.asarray(values, dtype=np.float64)
            if array.shape != outcome.shape:
                raise StatsError(f"arm {arm!r}: {array.size} costs on axis {axis!r} for {outcome.size} attempts")
            flat[axis] = array[order]
        return cls(
            arm=arm,
            tasks=names,
            n=n,
            c=np.bincount(code[scored], weights=outcome[scored], minlength=len(names)).astype(np.int64),
            missing=np.bincount(code[~scored], minlength=len(names)).astype(np.int64),
            success=outcome[order].astype(np.bool_),
            offsets=_offsets(n),
            costs=flat,
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
        attempts, successes = np.broadcast_to(attempts, len(tasks)), np.broadcast_to(successes, len(tasks))
        lost = np.zeros(len(tasks), np.int64) if missing is None else whole_numbers(missing, "missing attempts", where)
        outcome = np.repeat(
            np.tile([True, False], len(tasks)), np.column_stack([successes, attempts - successes]).ravel()
        )
        return cls(arm, tuple(tasks), attempts.copy(), successes.copy(), lost, outcome, _offsets(attempts), {})

    def cost(self, axis: str) -> FloatArray:
        """Return the flat costs on ``axis``; refuse an axis that was not recorded."""
        if axis not in self.costs:
            known = ", ".join(sorted(self.costs)) or "none"
            raise StatsError(f"arm {self.arm!r} has no cost axis {axis!r}; recorded: {known}")
        return self.costs[axis]

    def mean_cost(self, axis: str) -> FloatArray:
        """Return the mean cost of a scored attempt per task, shape (T,); every task needs at least one."""
        sums = np.add.reduceat(self.cost(axis), self.offsets[:-1])
        return np.asarray(sums / self.n, dtype=np.float64)

    def attempts_of(self, task: int) -> slice:
        """Return the slice of the flat arrays that holds task number ``task``."""
        return slice(int(self.offsets[task]), int(self.offsets[task + 1]))

    def take(self, chosen: Sequence[int] | IntArray) -> ArmOutcomes:
        """Return the arm on the tasks at positions ``chosen``, in that order."""
        positions = np.asarray(chosen, dtype=np.int64)
        rows = _rows(self.offsets, positions)
        return self._with_rows(rows, positions, self.n[positions], self.missing[positions], self.arm)

    def halves(self, seed: int) -> tuple[ArmOutcomes, ArmOutcomes]:
        """Split every task's scored attempts at random into two halves of ⌊n/2⌋ (an odd attempt out is dropped).

        Missing attempts stay out of both halves. Used for the null row: two samples of the very same policy.
        """
        rng = np.random.default_rng([seed, 1])
        half = self.n // 2
        # Sorting by (task, random key) shuffles every task's attempts in one pass.
        task = np.repeat(np.arange(len(self.tasks)), self.n)
        shuffled = np.lexsort((rng.random(task.size), task))
        place = np.arange(task.size) - self.offsets[task]
        first, second = shuffled[place < half[task]], shuffled[(place >= half[task]) & (place < 2 * half[task])]
        every, none = np.arange(len(self.tasks)), np.zeros_like(self.missing)
        return (
            self._with_rows(first, every, half, none, f"{self.arm} (half 1)"),
            self._with_rows(second, every, half, none, f"{self.arm} (half 2)"),
        )

    def with_missing(self, *, succeed: bool) -> ArmOutcomes:
        """Return the arm as if all missing attempts had succeeded, at the task's least cost, or failed, at its most."""
        if not self.missing.any():
            return self
        extra = np.repeat(np.arange(len(self.tasks)), self.missing)
        task = np.concatenate([np.repeat(np.arange(len(self.tasks)), self.n), extra])
        order = np.argsort(task, kind="stable")
        outcome = np.concatenate([self.success, np.full(extra.size, succeed)])[order]
        filled: dict[str, FloatArray] = {}
        for axis, values in self.costs.items():
            guess = np.array([self._extreme_cost(values, i, least=succeed) for i in range(len(self.tasks))])
            filled[axis] = np.concatenate([values, guess[extra]])[order]
        n = self.n + self.missing
        c = self.c + self.missing * int(succeed)
        return ArmOutcomes(self.arm, self.tasks, n, c, np.zeros_like(self.missing), outcome, _offsets(n), filled)

    def _extreme_cost(self, values: FloatArray, task: int, *, least: bool) -> float:
        own = values[self.attempts_of(task)]
        pool = own if own.size else values
        if pool.size == 0:
            raise StatsError(f"arm {self.arm!r} has missing attempts only: there is no cost to bound them with")
        return float(pool.min() if least else pool.max())

    def _with_rows(self, rows: IntArray, tasks: IntArray, n: IntArray, missing: IntArray, arm: str) -> ArmOutcomes:
        success = self.success[rows]
        offsets = _offsets(n)
        running = np.concatenate([[0], np.cumsum(success)])
        return ArmOutcomes(
            arm=arm,
            tasks=tuple(self.tasks[i] for i in tasks),
            n=n,
            c=(running[offsets[1:]] - running[offsets[:-1]]).astype(np.int64),
            missing=missing,
            success=success,
            offsets=offsets,
            costs={axis: values[rows] for axis, values in self.costs.items()},
        )


def align(bare: ArmOutcomes, tool: ArmOutcomes) -> tuple[ArmOutcomes, ArmOutcomes]:
    """Return both arms on the tasks they have in common, in the bare arm's order.

    Raises:
        StatsError: The arms have no task in common.
    """
    position = {name: i for i, name in enumerate(tool.tasks)}
    pairs = [(i, position[name]) for i, name in enumerate(bare.tasks) if name in position]
    if not pairs:
        raise StatsError(
            f"arms {bare.arm!r} and {tool.arm!r} have no task in common "
            f"(for example {bare.tasks[0]!r} and {tool.tasks[0]!r}): a paired comparison needs the same tasks in both"
        )
    left, right = zip(*pairs, strict=True)
    return bare.take(left), tool.take(right)


def _listed(values: Sequence[bool | None] | ArrayLike) -> Sequence[object]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)  # type: ignore[arg-type]


def _offsets(n: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(n)]).astype(np.int64)


def _rows(offsets: IntArray, positions: IntArray) -> IntArray:
    lengths = offsets[positions + 1] - offsets[positions]
    starts = np.repeat(offsets[positions] - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.asarray(starts + np.arange(lengths.sum()), dtype=np.int64)


def _refuse_repeated_samples(arm: str, tasks: Sequence[str], samples: Sequence[object]) -> None:
    if len(samples) != len(tasks):
        raise StatsError(f"arm {arm!r}: {len(samples)} sample indices for {len(tasks)} attempts")
    seen: set[tuple[str, object]] = set()
    for pair in zip(tasks, samples, strict=True):
        if pair in seen:
            raise StatsError(f"arm {arm!r}, task {pair[0]!r}: sample {pair[1]!r} occurs twice; an attempt counts once")
        seen.add(pair)
