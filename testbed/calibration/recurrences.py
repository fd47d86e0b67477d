"""Sums that take many small steps, and a tool that does them at once: a plug-in."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Unpack

from pydantic import BaseModel, Field

from testbed.env import Common, Environment
from testbed.tool import Tool
from testbed.types import Grade, Task

MODULUS = 1009  # prime, so that a slip at any step changes the end


def follow(start: int, multiplier: int, increment: int, modulus: int, times: int) -> int:
    """What x is after `times` replacements of x by (multiplier * x + increment) mod modulus."""
    for _ in range(times):
        start = (multiplier * start + increment) % modulus
    return start


class Recurrences(Environment):
    """Where does a recurrence end?

    Args:
        tasks: how many.
        times: steps of each.
        seed: seed of their choice.
        common: options of every environment.
    """

    id = "CalibrationRecurrences-v0"
    card = (
        "Source: generated from a seed, no data. Expected: everything needed stands in the question, so that a tool "
        "only saves tokens: it creates under a cap that the long way does not fit into, and elicits above it. "
        "Contamination: none."
    )

    def __init__(self, tasks: int = 20, times: int = 60, seed: int = 0, **common: Unpack[Common]) -> None:
        self.size, self.times, self.task_seed = tasks, times, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The recurrences."""
        rng = random.Random(f"recurrences {self.task_seed}")
        starts = rng.sample(range(1, MODULUS), self.size)
        for start in starts:
            multiplier, increment = rng.randrange(2, 100), rng.randrange(1, 100)
            end = follow(start, multiplier, increment, MODULUS, self.times)
            prompt = (
                f"Begin with x = {start}. Replace x by ({multiplier} * x + {increment}) mod {MODULUS}, "
                f"{self.times} times. What is x?"
            )
            yield self.task(prompt, str(end))

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if the digits are the reference's, exactly."""
        return Grade(answer == task.reference)

    def near_misses(self, task: Task) -> Iterable[str]:
        """Off by one, a digit added, a full stop."""
        right = str(task.reference)
        return (str(int(right) + 1), right + "0", f"{right}.", f"x = {right}")


class Steps(BaseModel):
    """Arguments of the tool."""

    start: int
    multiplier: int
    increment: int
    modulus: int = Field(ge=1)
    times: int = Field(ge=0, le=100_000)


class Iterate(Tool):
    """Follows a recurrence: nothing that its caller could not work out from the same numbers."""

    name: str = "calibration_iterate"
    description: str = "Replaces x by (multiplier * x + increment) mod modulus, so many times, and returns x."
    args_schema: Any = Steps

    async def _arun(self, start: int, multiplier: int, increment: int, modulus: int, times: int) -> str:
        return str(follow(start, multiplier, increment, modulus, times))
