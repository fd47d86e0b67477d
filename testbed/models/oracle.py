"""A model that knows the answers: proves graders and pipelines, and gives statistics a known success rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from testbed.errors import ModelError, UsageError
from testbed.models.base import Reply, Request, uniforms
from testbed.models.scripted import identify
from testbed.protocol import write_answer
from testbed.types import Task, Usage, canonical

VERSION = "1"
WRONG = "(wrong on purpose)"


def reference_answer(task: Task) -> str:
    """The task's reference as an answer: text as it is, other values as JSON."""
    return task.reference if isinstance(task.reference, str) else canonical(task.reference)


class Oracle:
    """Answers from the task's hidden reference.

    Args:
        answer: the right answer to a task; by default its reference as text.
        accuracy: probability in [0, 1] of answering right. The draw belongs to the attempt, so that it repeats.

    Raises:
        UsageError: `accuracy` is not a probability.
    """

    name = "oracle"
    reproducible = True
    priced = False

    def __init__(self, answer: Callable[[Task], str] = reference_answer, *, accuracy: float = 1.0) -> None:
        if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
            raise UsageError(f'model "oracle": accuracy must be between 0 and 1, not {accuracy!r}.')
        self._answer, self._accuracy = answer, float(accuracy)

    def fingerprint(self) -> Mapping[str, Any]:
        """The accuracy and how answers are made."""
        return {"kind": "oracle", "version": VERSION, "accuracy": self._accuracy, "answer": identify(self._answer)}

    def count(self, text: str) -> int:
        """Tokens of `text`: a quarter of its characters, rounded up."""
        return (len(text) + 3) // 4

    async def start(self) -> None:
        """Nothing to load."""

    async def generate(self, request: Request) -> Reply:
        """The right answer, or with probability 1 − accuracy a wrong one.

        Raises:
            ModelError: the request carries no task.
        """
        if request.task is None:
            raise ModelError("the oracle answers from the task's reference, and this request has no task.")
        right = self._accuracy >= 1 or uniforms(request.stream, request.position, 1)[0] < self._accuracy
        text, finish = write_answer(self._answer(request.task) if right else WRONG), "stop"
        if self.count(text) > request.max_tokens:
            text, finish = text[: 4 * request.max_tokens], "length"
        prompt = sum([self.count(message["content"]) for message in request.messages])
        return Reply(text, Usage(prompt, self.count(text)), finish)

    async def aclose(self) -> None:
        """Nothing to free."""
