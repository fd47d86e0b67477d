"""An environment and tools to try the base classes with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

import numpy as np
from langchain_core.tools import tool

from testbed.env import Common, Environment
from testbed.tool import AttemptContext, Tool
from testbed.types import Grade, Task


class Reverse(Environment):
    """Reverse a word."""

    id = "Reverse-v0"

    def __init__(self, length: int = 5, tasks: int = 20, seed: int = 0, **common: Unpack[Common]) -> None:
        self.length, self.size, self.task_seed = length, tasks, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        rng = np.random.default_rng(self.task_seed)
        for n in range(self.size):
            word = "".join(rng.choice(list("abcdef"), self.length))
            yield self.task(f"Reverse the word {word}é{n}.", reference=f"{word}é{n}"[::-1])

    def grade(self, task: Task, answer: str) -> Grade:
        return Grade(answer == task.reference)

    def near_misses(self, task: Task) -> Iterable[str]:
        return (task.reference + "x", task.reference.upper())


class Noise(Tool):
    """Says a number of its attempt's random stream."""

    name: str = "noise"
    description: str = "Draws a number."
    key: int = -1

    def for_attempt(self, context: AttemptContext) -> Tool:
        return self.model_copy(update={"key": context.key})

    def _run(self) -> str:
        return str(np.random.default_rng(self.key).integers(10**9))


@tool
def turn(text: str) -> str:
    """Turns a text round."""
    return text[::-1]


def play(env: Environment, texts: list[str], **options: Any) -> list[Any]:
    seen: list[Any] = [env.reset(**options)]
    seen += [env.step(text) for text in texts]
    return seen
