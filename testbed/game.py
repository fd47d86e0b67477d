"""Games: what an environment offers its tools to act on, such as an opponent that answers or a board to play on.

Tools know nothing of the task. Where interaction is what a task is about, they must be able to act on something that
does: the environment makes a game of the task (`Environment.make_game`), one for each attempt, and the attempt's tools
share it. A game speaks text, and tells nothing but what its rules reveal to whoever plays it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, Self, runtime_checkable


@runtime_checkable
class Game(Protocol):
    """One game under way."""

    def act(self, text: str) -> str:
        """Takes one question or move and says what comes of it.

        Raises:
            ToolFault: invalid_args, if the rules know no such question or move; the game is then as it was before.
        """
        ...


@runtime_checkable
class CloneableGame(Game, Protocol):
    """A game whose course can be tried out.

    Only for games in which nothing is hidden that acting would not cost: whoever may act on clones may look ahead, and
    asks a game with a secret without being charged for it.
    """

    def clone(self) -> Self:
        """A game that stands as this one does; acting on either leaves the other alone."""
        ...


@runtime_checkable
class ScoredGame(CloneableGame, Protocol):
    """A game that can be cloned and says how it stands: what a search over its moves needs.

    An environment says that it makes such games by what its `make_game` returns.
    """

    def reward(self) -> float:
        """What was won so far, by the game's own rules, in [0, 1]; 1 is all that can be won."""
        ...

    def ended(self) -> bool:
        """Whether no move is left to make."""
        ...

    def standing(self) -> Hashable:
        """What tells positions apart: games of equal standing go on alike, whatever moves led there."""
        ...
