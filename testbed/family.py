"""A family of tasks: what an environment makes, how it grades, and whether its grader can be believed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from testbed.episode import WRONG
from testbed.errors import UsageError
from testbed.game import Game
from testbed.types import Grade, Task

SLOW_GRADES = 8  # graders that `validate` has at work in threads, where they are slow
_NEVER_RIGHT = ("", " ", "9" * 5000, "²³", "\x00")


@dataclass(frozen=True, slots=True)
class Validation:
    """What `validate` found: tasks checked, and one line for each that its grader judges wrongly."""

    checked: int
    problems: tuple[str, ...]


class TaskFamily(ABC):
    """What whoever writes an environment implements; `testbed.env` says how.

    Attributes:
        id: name and version, such as "Multiplication-v0"; raise the version when tasks or grading change.
        card: source, licence, what each mechanism should change and why, contamination risk.
        grades_slowly: whether `grade` takes longer than a few milliseconds, such as in a sandbox; it is then called in
            threads, several at once.
    """

    id: ClassVar[str]
    card: ClassVar[str] = ""
    grades_slowly: ClassVar[bool] = False

    @abstractmethod
    def make_tasks(self) -> Iterable[Task]:
        """Its tasks, in a fixed order that depends on the constructor's arguments alone."""

    @abstractmethod
    def grade(self, task: Task, answer: str) -> Grade:
        """Judges an answer, strictly. Sees neither tool output nor the model's prose."""

    def feedback(self, task: Task, answer: str, grade: Grade) -> str:
        """What the model is told of a wrong answer where its budget allows more than one; sentences, one line.

        What it says is the interaction that the task offers: how near the answer is, which part of it is right.
        """
        return WRONG

    def public_check(self, task: Task, answer: str) -> bool | None:
        """Whether an answer passes a check that needs nothing hidden; None (the default) where there is no such check.

        Whoever has the prompt alone could make it, such as running the tests that it shows. It may be weaker than the
        grader, and must not be stricter. Used by `lookahead` where it is not to ask the grader itself.
        """
        return None

    def make_game(self, task: Task) -> Game | None:
        """A new game of the task for one attempt's tools to act on; None where there is nothing to act on.

        It depends on the task alone: what can be learnt from it is the same in every arm and attempt.
        """
        return None

    def near_misses(self, task: Task) -> Iterable[str]:
        """Wrong answers that look right; `validate` checks that the grader refuses them."""
        return ()

    def reference_answer(self, task: Task) -> str:
        """The reference as the model would write it."""
        return str(task.reference)

    def documents(self) -> Iterator[tuple[str, str]]:
        """The (id, text) documents that search tools may index for these tasks; none by default."""
        return iter(())

    def task(
        self,
        prompt: str,
        reference: Any,
        *,
        grader: str = "exact/1",
        cluster: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> Task:
        """A task of this environment."""
        return Task(self.id, prompt, reference, grader, cluster, meta or {})

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Every task, made once.

        Raises:
            UsageError: there is none, or two are the same.
        """
        tasks = tuple(self.make_tasks())
        if not tasks:
            raise UsageError(f"{self.id} has no tasks with these options.")
        seen: dict[str, Task] = {}
        for task in tasks:
            if seen.setdefault(task.hash, task) is not task:
                raise UsageError(
                    f"{self.id} lists the task {task.prompt[:60]!r} twice; ask for fewer tasks, or for each once."
                )
        return tasks

    @cached_property
    def _by_hash(self) -> dict[str, Task]:
        return {task.hash: task for task in self.tasks}

    def validate(self, limit: int | None = None) -> Validation:
        """Checks that the grader accepts each reference, and refuses each near miss and what is never right.

        Never right are empty and blank answers, and what graders stumble over: numbers of more digits than Python
        converts, digits that `int` does not know. A grader that raises is a bug: the exception is passed on.
        """
        tasks = self.tasks[:limit]
        if self.grades_slowly:
            with ThreadPoolExecutor(SLOW_GRADES) as threads:
                found = list(threads.map(self._check, tasks))
        else:
            found = [self._check(task) for task in tasks]
        return Validation(len(tasks), tuple(problem for problems in found for problem in problems))

    def _check(self, task: Task) -> list[str]:
        """What the grader judges wrongly of one task."""
        problems = []
        right = self.reference_answer(task)
        if not self.grade(task, right).success:
            problems.append(f"refuses the reference {right!r} of {task.prompt[:80]!r}")
        for wrong in (*_NEVER_RIGHT, *self.near_misses(task)):
            if self.grade(task, wrong).success:
                problems.append(f"accepts {wrong!r} for {task.prompt[:80]!r}, reference {right!r}")
        return problems
