"""A number to be guessed, a tool that answers questions about it, and one that gives it away: a plug-in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import numpy as np
from pydantic import BaseModel, Field, PrivateAttr

from testbed.env import Common, Environment
from testbed.errors import FaultKind, ToolFault, UsageError
from testbed.tool import AttemptContext, Tool
from testbed.types import Grade, Task

YES, NO = "yes", "no"
NO_MORE = "All questions are asked."


def secret_of(game: str, numbers: int, seed: int) -> int:
    """The number of a game: one of 1…numbers."""
    key = hashlib.blake2b(f"game {game} {seed}".encode(), digest_size=8).digest()
    return int.from_bytes(key, "big") % numbers + 1


class Guessing(Environment):
    """Which number is thought of?

    A game is named NUMBERS-INDEX, such as 32-0.

    Args:
        numbers: the number is one of 1…numbers.
        tasks: games.
        seed: seed of the numbers; the tools need the same.
        common: options of every environment.

    Raises:
        UsageError: fewer than two numbers.
    """

    id = "CalibrationGuessing-v0"
    card = (
        "Source: generated from a seed, no data. Expected: bare success is 1 of `numbers`; asking creates if the "
        "answers are to one's own questions, a hint whoever asked for it. Contamination: none, numbers are "
        "pseudo-random."
    )

    def __init__(self, numbers: int = 32, tasks: int = 20, seed: int = 0, **common: Unpack[Common]) -> None:
        if numbers < 2:
            raise UsageError(f"{self.id}: numbers must be at least 2, not {numbers}.")
        self.numbers, self.size, self.task_seed = numbers, tasks, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The games."""
        for index in range(self.size):
            game = f"{self.numbers}-{index}"
            prompt = f"Game {game}: I think of a whole number from 1 to {self.numbers}. Which?"
            yield self.task(prompt, str(secret_of(game, self.numbers, self.task_seed)))

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if it is the number."""
        return Grade(answer == task.reference)

    def near_misses(self, task: Task) -> Iterable[str]:
        """Off by one, a full stop, every number."""
        right = str(task.reference)
        return (str(int(right) + 1), f"{right}.", " ".join(str(n + 1) for n in range(self.numbers)))


class _Knowing(Tool):
    """A tool that knows the numbers."""

    seed: int = 0

    def _secret(self, game: str) -> int:
        numbers, _, index = game.partition("-")
        if not (numbers.isdecimal() and index.isdecimal() and int(numbers) > 1):
            raise ToolFault(FaultKind.INVALID_ARGS, f"there is no game {game!r}")
        return secret_of(game, int(numbers), self.seed)


class Guess(BaseModel):
    """Arguments of `Ask`."""

    game: str = Field(description="The game's name, such as 32-0.")
    numbers: list[int] = Field(description="The numbers of which the secret one may be.")


class Ask(_Knowing):
    """Says whether the number is one of those listed; an attempt may ask so many questions.

    Attributes:
        seed: seed of the numbers, as the environment's.
        questions: questions of one attempt.
    """

    name: str = "calibration_ask"
    description: str = "Says whether the number that a game thinks of is one of those listed."
    args_schema: Any = Guess
    questions: int = 20

    _left: int = PrivateAttr(0)

    def for_attempt(self, context: AttemptContext) -> Tool:
        """A copy with all its questions."""
        mine = self.model_copy()
        mine._left = self.questions
        return mine

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """A coin's yes or no."""
        return YES if rng.random() < 0.5 else NO

    async def _arun(self, game: str, numbers: list[int]) -> str:
        if self._left <= 0:
            return NO_MORE
        self._left -= 1
        return YES if self._secret(game) in numbers else NO


class Hinted(BaseModel):
    """Arguments of `Hint`."""

    game: str = Field(description="The game's name, such as 32-0.")


class Hint(_Knowing):
    """Gives the number away: the same sentence to everybody who asks about a game.

    Attributes:
        seed: seed of the numbers, as the environment's.
    """

    name: str = "calibration_hint"
    description: str = "Tells the number that a game thinks of."
    args_schema: Any = Hinted

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """A sentence of the usual shape without the number."""
        return "The number is a whole one."

    async def _arun(self, game: str) -> str:
        return f"The number is {self._secret(game)}."
