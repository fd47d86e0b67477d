"""What tools that act on an attempt's game have in common."""

from __future__ import annotations

from typing import Any, Self

from pydantic import PrivateAttr

from testbed.errors import UsageError
from testbed.game import Game
from testbed.tool_base import AttemptContext, Tool


class GameTool(Tool):
    """Base of tools that act on the attempt's game, which all tools of the attempt share.

    Games may take their time: implement `_run`, which works in a thread and is held to the tool's `timeout`.
    """

    _game: Any = PrivateAttr(None)

    def acts_on(self) -> type | None:
        """Any game; override it where more is needed."""
        return Game

    def for_attempt(self, context: AttemptContext) -> Self:
        """A copy that acts on the attempt's game.

        Raises:
            UsageError: the attempt has none; see `Environment.enter`, which gives it one.
        """
        if context.game is None:
            raise UsageError(f"tool {self.name!r} acts on a game, and none came with the attempt.")
        mine = self.model_copy()
        mine._game = context.game
        return mine
