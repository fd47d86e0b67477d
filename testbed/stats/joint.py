"""Folds that are drawn by sample index in both arms at once, so that arms on one random stream cannot mix them up.

Attempts of two arms at the same task and sample index may share a random stream, and so depend on one another. If the
folds of each arm were drawn apart, the tool arm's choosing fold could hold the index that the bare arm's measuring fold
holds: then the sign of a part would be decided by what measures it. Here an index lies in the choosing or in the
measuring folds of both arms, so what decides and what measures are independent, whatever the arms have in common.

Counts are no longer sufficient, and the mean over all splits has no short sum; it is taken over seeded random ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from testbed.stats.checks import BoolArray, FloatArray, IntArray
from testbed.stats.gain import TIE
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.reach import posterior_reach, reach_at_k
from testbed.stats.rows import offsets_of

# Splits of a task: enough that the mean over tasks is as exact as this many splits at one task would make it.
_SPLITS_IN_ALL, _LEAST, _MOST = 64_000, 64, 512
_NUMBERS_AT_A_TIME = 1_000_000


def common_rows(bare: ArmOutcomes, tool: ArmOutcomes) -> tuple[IntArray, IntArray]:
    """Return the rows, in the flat arrays of either arm, of the attempts that share their task and sample index.

    Args:
        bare: One arm.
        tool: The other, on the same tasks in the same order.

    Returns:
        Two arrays of one length, task by task; empty where an arm's samples are not known.
    """
    none = np.empty(0, np.int64)
    if bare.samples is None or tool.samples is None:
        return none, none
    index, place = np.unique(np.concatenate([bare.samples, tool.samples]), return_inverse=True)
    own = place - np.count_nonzero(index < 0)
    left, right = own[: bare.samples.size], own[bare.samples.size :]
    rows = [np.flatnonzero(sample >= 0) for sample in (left, right)]
    one, other = (
        (arm.task_of_rows() * index.size + sample)[some]
        for arm, sample, some in zip((bare, tool), (left, right), rows, strict=True)
    )
    _, first, second = np.intersect1d(one, other, return_indices=True)
    return rows[0][first], rows[1][second]


def common_attempts(bare: ArmOutcomes, tool: ArmOutcomes) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield, task by task, which attempts of either arm share their sample index, by their place in the task."""
    first, second = common_rows(bare, tool)
    ends = offsets_of(np.bincount(bare.task_of_rows()[first], minlength=len(bare.tasks)))
    for task, (start, end) in enumerate(pairwise(ends.tolist())):
        yield first[start:end] - bare.offsets[task], second[start:end] - tool.offsets[task]


@dataclass(frozen=True, eq=False)
class _Pile:
    """Attempts of every task in seeded random orders, summed up so that any stretch of an order is counted at once.

    Attributes:
        size: Attempts per task, shape (T,).
        sums: For each order and each arm that made them, running sums of successes; shape (orders, arms, N + 1).
    """

    size: IntArray
    sums: NDArray[np.int32]

    @classmethod
    def of(cls, task: IntArray, tasks: int, outcomes: list[BoolArray], orders: int, rng: np.random.Generator) -> _Pile:
        sums = np.zeros((orders, len(outcomes), task.size + 1), dtype=np.int32)
        for i in range(orders):
            order = np.argsort(task + 0.999 * rng.random(task.size))  # never rounded up to the next task
            for arm, won in enumerate(outcomes):
                np.cumsum(won[order], out=sums[i, arm, 1:])
        return cls(np.bincount(task, minlength=tasks).astype(np.int64), sums)

    def stretches(self, tasks: slice, lengths: IntArray, each: int) -> IntArray:
        """Return the successes in ``each`` stretches of every order, spread evenly round it; shape (arms, tasks, S)."""
        start, size = offsets_of(self.size)[:-1][tasks, None], self.size[tasks, None]
        begin = (np.arange(each) * size) // each
        end = begin + lengths[:, None]
        over = np.maximum(end - size, 0)
        found = (
            self.sums[:, :, start + end - over] - self.sums[:, :, start + begin]
            + self.sums[:, :, start + over] - self.sums[:, :, start]
        )  # fmt: skip
        orders, arms, many, _ = found.shape
        return np.asarray(found.transpose(1, 2, 0, 3).reshape(arms, many, orders * each), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class JointSplits:
    """Seeded random splits of two arms' attempts by sample index; made by `joint_splits`, used at any spends."""

    bare: ArmOutcomes
    tool: ArmOutcomes
    both: _Pile
    only_bare: _Pile
    only_tool: _Pile
    each: int

    def creation_and_loss(self, b: int, big: int) -> FloatArray:
        """Return creation and loss per task, averaged over the splits, shape (T, 2).

        Args:
            b: Operating spend, less than every task's attempts of the tool arm.
            big: Elicitation spend B ≥ b, less than every task's attempts of the bare arm.
        """
        many = self.each * len(self.both.sums)
        step = max(1, _NUMBERS_AT_A_TIME // many)
        tasks = len(self.bare.tasks)
        return np.concatenate([self._some(slice(i, i + step), b, big) for i in range(0, tasks, step)])

    def _some(self, tasks: slice, b: int, big: int) -> FloatArray:
        n0, c0, n1, c1 = (column[tasks] for column in (self.bare.n, self.bare.c, self.tool.n, self.tool.c))
        shared, alone = self._measuring(tasks, b, big)
        bare, tool = self.both.stretches(tasks, shared, self.each)
        bare = bare + self.only_bare.stretches(tasks, big - shared, self.each)[0]
        tool = tool + self.only_tool.stretches(tasks, alone, self.each)[0]
        folds = shared + alone
        x, y = (_expected(n0 - big, c0[:, None] - bare, k) for k in (b, big))
        t = _expected(n1 - folds, c1[:, None] - tool, b)
        successes = np.arange(big + 1)
        measured_x, measured_y = (reach_at_k(big, successes, k)[bare] for k in (b, big))
        measured_t = _measured(folds, tool, b)
        creation = (t > y + TIE) * (measured_t - measured_y)
        loss = (t < x - TIE) * (measured_x - measured_t)
        return np.stack([creation.mean(axis=1), loss.mean(axis=1)], axis=1)

    def _measuring(self, tasks: slice, b: int, big: int) -> tuple[IntArray, IntArray]:
        """Return per task how many common indices measure, and how many attempts of the tool arm without a partner.

        The bare arm measures with B attempts, of which as large a share have partners as of all: then it matters little
        if attempts with partners differ from those that lost theirs. At least one common index is left to choose with.
        """
        both, left, right = (pile.size[tasks] for pile in (self.both, self.only_bare, self.only_tool))
        least = np.maximum(np.maximum(big - left, b - right), 0)
        share = np.rint(big * both / np.maximum(both + left, 1)).astype(np.int64)
        shared = np.maximum(least, np.minimum(share, both - 1))
        alone = np.rint(shared * right / np.maximum(both, 1)).astype(np.int64)
        return shared, np.maximum(b - shared, alone)


def joint_splits(
    bare: ArmOutcomes, tool: ArmOutcomes, *, splits: int | None = None, seed: int = 0
) -> JointSplits | None:
    """Return random splits by sample index; None where no attempts of the arms share an index of a task.

    Args:
        bare: The bare arm.
        tool: The tool arm, on the same tasks in the same order.
        splits: Splits per task at least; 64 to 512, fewer for large suites, where left out.
        seed: Seed of the splits.
    """
    first, second = common_rows(bare, tool)
    if not first.size:
        return None
    tasks = len(bare.tasks)
    splits = splits or int(np.clip(_SPLITS_IN_ALL // tasks, _LEAST, _MOST))
    task = bare.task_of_rows()[first]
    # A random order and its rotations are as many splits as it has attempts, for one sorting.
    each = int(min(splits, max(bare.n.max(), tool.n.max())))
    orders = -(-splits // each)
    rng = np.random.default_rng([seed, 5])
    both = _Pile.of(task, tasks, [bare.success[first], tool.success[second]], orders, rng)
    only_bare, only_tool = (_alone(arm, shared, orders, rng) for arm, shared in ((bare, first), (tool, second)))
    return JointSplits(bare, tool, both, only_bare, only_tool, each)


def _alone(arm: ArmOutcomes, shared: IntArray, orders: int, rng: np.random.Generator) -> _Pile:
    rest = np.ones(arm.success.size, dtype=np.bool_)
    rest[shared] = False
    return _Pile.of(arm.task_of_rows()[rest], len(arm.tasks), [arm.success[rest]], orders, rng)


def _expected(n: IntArray, hits: IntArray, k: int) -> FloatArray:
    """Return the posterior reach at k of ``hits`` (T, S) successes among n (T,), each kind of count worked out once."""
    sizes, place = np.unique(n, return_inverse=True)
    counts = np.minimum(np.arange(hits.max() + 1), sizes[:, None])
    return np.asarray(posterior_reach(sizes[:, None], counts, k)[place[:, None], hits], dtype=np.float64)


def _measured(n: IntArray, hits: IntArray, k: int) -> FloatArray:
    """Return reach@k of ``hits`` (T, S) successes among n (T,), each kind of count worked out once."""
    sizes, place = np.unique(n, return_inverse=True)
    counts = np.minimum(np.arange(hits.max() + 1), sizes[:, None])
    return np.asarray(reach_at_k(np.broadcast_to(sizes[:, None], counts.shape), counts, k)[place[:, None], hits])
