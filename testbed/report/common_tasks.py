"""Which tasks two runs have in common, and why others that look alike are not the same ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from testbed.errors import UsageError
from testbed.types import Task

_SHOWN = 4  # kinds of differences, or environments, that are told
_LONGEST = 60  # characters of a prompt


@dataclass(frozen=True)
class AlikeTasks:
    """Tasks of two runs with one prompt and another identity: they are not compared.

    Attributes:
        what: what differs, such as "other grader exact/1 → exact/2".
        tasks: how many there are.
        prompt: the beginning of one's prompt.
    """

    what: str
    tasks: int
    prompt: str

    def told(self) -> str:
        """Such as "12 with the same prompt, other grader exact/1 → exact/2"."""
        return f"{self.tasks:,} with the same prompt, {self.what} (such as {self.prompt!r})"


@dataclass(frozen=True)
class CommonTasks:
    """The tasks of two runs.

    Attributes:
        hashes: of those in both, in the first run's order.
        only_left: tasks that only the first run has, those that look alike included.
        only_right: tasks that only the second one has, likewise.
        alike: why tasks with one prompt are not the same.
    """

    hashes: tuple[str, ...]
    only_left: int
    only_right: int
    alike: tuple[AlikeTasks, ...]


def common_tasks(left: Sequence[Task], right: Sequence[Task]) -> CommonTasks:
    """Finds the common tasks of two runs by their hashes, and what looks alike and is not the same.

    A task's hash covers its environment, prompt, reference answer and grader: where one of them differs, an answer that
    is right in one run may be wrong in the other, and nothing can be paired.
    """
    known = {task.hash for task in right}
    both = tuple(task.hash for task in left if task.hash in known)
    shared = set(both)
    ours, theirs = ([task for task in tasks if task.hash not in shared] for tasks in (left, right))
    return CommonTasks(both, len(ours), len(theirs), _alike(ours, theirs))


def refuse_without(common: CommonTasks, left: Sequence[Task], right: Sequence[Task], names: tuple[str, str]) -> None:
    """Refuses to compare runs that have no task in common, and says why.

    Raises:
        UsageError: they have none.
    """
    if common.hashes:
        return
    said = f"{names[0]} and {names[1]} have no task in common, so that nothing can be paired: "
    if common.alike:
        said += "; ".join(alike.told() for alike in common.alike[:_SHOWN])
        said += ". An answer that is right in one may be wrong in the other."
    else:
        said += f"not one prompt is in both ({_environments(left)}; {_environments(right)})."
    if any(task.environment.startswith("imported:") for task in (*left, *right)):
        said += " Imported outcomes are tasks of their own run: import both files into one run to compare them."
    raise UsageError(said)


def joined_clusters(left: Mapping[str, str], right: Mapping[str, str], tasks: Sequence[str]) -> dict[str, str] | None:
    """Clusters in which tasks are together that either run puts together; None where both have the same ones.

    A cluster is no part of a task's identity, so that runs in two stores may disagree. Taking the coarser ones costs
    width; taking those of one run would let an interval depend on which is named first, and be too narrow.

    Args:
        left: task → cluster in one run.
        right: likewise in the other.
        tasks: the tasks of both.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ours, theirs = (np.unique([of[task] for task in tasks], return_inverse=True)[1] for of in (left, right))
    together = np.unique(np.stack([ours, theirs]), axis=1).shape[1]
    if together == ours.max(initial=-1) + 1 == theirs.max(initial=-1) + 1:
        return None
    first = int(ours.max()) + 1  # the nodes of a graph are the clusters of both, and a task joins two of them
    size = first + int(theirs.max()) + 1
    joins = coo_array((np.ones(len(tasks)), (ours, first + theirs)), shape=(size, size))
    component = connected_components(joins, directed=False)[1]
    return {task: str(component[n]) for task, n in zip(tasks, ours, strict=True)}


def _alike(left: Iterable[Task], right: Iterable[Task]) -> tuple[AlikeTasks, ...]:
    by_prompt: dict[str, Task] = {}
    for task in right:
        by_prompt.setdefault(task.prompt, task)
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for task in left:
        other = by_prompt.get(task.prompt)
        if other is not None:
            what = _difference(task, other)
            counts[what] += 1
            example.setdefault(what, task.prompt)
    return tuple(AlikeTasks(what, n, _beginning(example[what])) for what, n in counts.most_common())


def _difference(task: Task, other: Task) -> str:
    told = []
    if task.environment != other.environment:
        told.append(f"other environment {task.environment} → {other.environment}")
    if task.grader != other.grader:
        told.append(f"other grader {task.grader} → {other.grader}")
    if task.reference != other.reference:
        told.append("other reference answer")
    return " and ".join(told)


def _beginning(prompt: str) -> str:
    words = " ".join(prompt.split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


def _environments(tasks: Sequence[Task]) -> str:
    counts: Mapping[str, int] = Counter(task.environment for task in tasks)
    told = [f"{name} {n:,}" for name, n in list(counts.items())[:_SHOWN]]
    return ", ".join([*told, "…"] if len(counts) > _SHOWN else told) or "no tasks"
