"""Acting on the task's game, one question or move at a time: interaction as a tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from testbed.game_tool import GameTool

LONGEST = 1000  # characters of a question or move


class Question(BaseModel):
    """Arguments of `Ask`."""

    text: str = Field(
        description="One question or move, in the words that the task allows.", min_length=1, max_length=LONGEST
    )


class Ask(GameTool):
    """Puts one question or move to the game that the environment made of the task, and returns what comes of it.

    The game goes on from call to call and ends with the attempt. A question that its rules do not know is the model's
    invalid_args. How many may be put is a matter of the game and of the budget (`calls = { ask = 20 }`). Works with
    environments that make games, such as TwentyQuestions-v0, Mastermind-v0 and FrozenLake-v0.
    """

    name: str = "ask"
    description: str = "Puts one question or move to the game of the task and returns what comes of it."
    args_schema: Any = Question

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """The game stays silent."""
        return "No reply."

    def _run(self, text: str) -> str:
        reply: str = self._game.act(text)
        return reply
