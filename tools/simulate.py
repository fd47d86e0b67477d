"""What would come of a sequence of moves: lookahead as a tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, StringConstraints

from testbed.errors import ToolFault
from testbed.game import CloneableGame
from testbed.game_tool import GameTool

MOST = 100  # moves tried in one call
LONGEST = 200  # characters of a move


class Moves(BaseModel):
    """Arguments of `Simulate`."""

    moves: list[Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)]] = Field(
        description=f"The moves to try, in order, in the words that the task allows; at most {MOST}.",
        min_length=1,
        max_length=MOST,
    )


class Simulate(GameTool):
    """Plays moves on a clone of the attempt's game, as it stands, and reports each; the game itself is unchanged.

    One line a move. A move that the rules do not know is the model's invalid_args, with its number. Works with
    environments whose games can be cloned, such as FrozenLake-v0, and is refused where trying would reveal a secret.
    """

    name: str = "simulate"
    description: str = "Says what would come of moves in the game of the task, without making them."
    args_schema: Any = Moves

    def acts_on(self) -> type | None:
        """A game that can be cloned."""
        return CloneableGame

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """A line for each move, which says nothing."""
        return "\n".join(f"{n}. {move}: unforeseen" for n, move in enumerate(arguments["moves"], 1))

    def _run(self, moves: list[str]) -> str:
        game = self._game.clone()
        return "\n".join(f"{n}. {move}: {_tried(game, n, move)}" for n, move in enumerate(moves, 1))


def _tried(game: CloneableGame, number: int, move: str) -> str:
    try:
        return game.act(move)
    except ToolFault as fault:
        raise ToolFault(fault.kind, f"move {number}: {fault}") from None
