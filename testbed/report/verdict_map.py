"""Every task against every arm: successes, attempts and verdict, for the map that a reader sorts and filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from testbed.report.arms import Arm
from testbed.report.record_arms import ArmComparison
from testbed.report.unseen import visible
from testbed.stats import Verdict
from testbed.types import Task

if TYPE_CHECKING:
    from testbed.store import Outcomes

IntArray = npt.NDArray[np.int64]
EXCERPT = 160  # characters of a prompt that stand for it


@dataclass(frozen=True)
class MappedTask:
    """A task as a row of the map: its hash, its environment, its group and the beginning of its prompt."""

    hash: str
    environment: str
    group: str
    prompt: str


@dataclass(frozen=True, eq=False)
class MappedArm:
    """An arm as a column of the map, each array of shape (tasks,).

    Attributes:
        arm: its name.
        successes: successful attempts.
        attempts: scored attempts.
        missing: attempts that the infrastructure ended.
        verdicts: verdict against the bare arm; "" where the task was not compared, and for the bare arm.
        success: sample number of the first success, -1 where there is none.
        failure: sample number of the first failure, likewise.
    """

    arm: str
    successes: IntArray
    attempts: IntArray
    missing: IntArray
    verdicts: tuple[str, ...]
    success: IntArray
    failure: IntArray


@dataclass(frozen=True, eq=False)
class VerdictMap:
    """Tasks and arms of the map, in the order of the experiment."""

    tasks: tuple[MappedTask, ...]
    arms: tuple[MappedArm, ...]


def verdict_map(
    outcomes: Outcomes, arms: Sequence[Arm], comparisons: Iterable[ArmComparison], label: Callable[[Task], str]
) -> VerdictMap:
    """The map of a run. All attempts count, since verdicts are made from all."""
    tasks, names = outcomes.tasks, [record.name for record in outcomes.arms]
    firsts = {kind: _first_samples(outcomes, kind) for kind in (1, 0)}
    judged = {c.arm: c.full.figures for c in comparisons if c.full is not None and c.claims}
    mapped = tuple(MappedTask(task.hash, task.environment, label(task), excerpt(task.prompt)) for task in tasks)
    position = {task.hash: i for i, task in enumerate(tasks)}
    found = []
    for arm in arms:
        verdicts = [""] * len(tasks)
        if arm.name in judged:
            own = judged[arm.name]
            for task, verdict in zip(own.tasks, own.verdicts.verdict.tolist(), strict=True):
                verdicts[position[task]] = str(Verdict(verdict))
        rows = np.array([position[task] for task in arm.judged.tasks], dtype=np.int64)
        successes, attempts, missing = (np.zeros(len(tasks), dtype=np.int64) for _ in range(3))
        successes[rows], attempts[rows], missing[rows] = arm.judged.c, arm.judged.n, arm.judged.missing
        success, failure = (firsts[kind][names.index(arm.name)] for kind in (1, 0))
        found.append(MappedArm(arm.name, successes, attempts, missing, tuple(verdicts), success, failure))
    return VerdictMap(mapped, tuple(found))


def _first_samples(outcomes: Outcomes, kind: int) -> IntArray:
    """The least sample number with such an outcome of every arm and task, shape (arms, tasks); -1 where none has it."""
    none = np.iinfo(np.int64).max
    found = np.full((len(outcomes.arms), len(outcomes.tasks)), none, dtype=np.int64)
    rows = np.flatnonzero(outcomes.success == kind)
    np.minimum.at(found, (outcomes.arm[rows], outcomes.task[rows]), outcomes.sample[rows].astype(np.int64))
    found[found == none] = -1
    return found


def excerpt(prompt: str) -> str:
    """The beginning of a prompt on one line; characters that do not show, or turn the direction, are made visible."""
    line = visible(" ".join(prompt[: 4 * EXCERPT].split()))
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"
