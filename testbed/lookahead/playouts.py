"""Tree search: the model's moves are tried on clones of the environment's game, and what was found is then played.

A search in the manner of UCT (Kocsis & Szepesvári 2006). A simulation goes from the start through positions that are
known; where the model has not yet proposed `width` moves it is asked for one, and so on to the end of the game, to the
depth, or to a message without a move. Otherwise the next position is the known one with the highest upper confidence
bound. What a simulation is worth is what the game itself gave, never a value that a model made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from testbed.budget import Budget
from testbed.env import Environment
from testbed.episode import Episode, Step
from testbed.errors import UsageError
from testbed.game import ScoredGame
from testbed.lookahead.settings import Tree, branch_key
from testbed.protocol import Action
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Message, Task, ToolCall, ToolResult, Usage, canonical

EXPLORATION = math.sqrt(2)  # UCT's constant for rewards in [0, 1]


@dataclass(eq=False)
class Position:
    """Where moves lead.

    Attributes:
        number: in the order in which positions were found; 0 is the start.
        game: a clone that stands there.
        parent: the position before; None at the start.
        moves: the calls that led here from it.
        said: the model's message with them, and what came of each.
        observed: tokens of what came of them.
        asked: how often the model was asked for a move here.
        children: positions that moves from here lead to, by the moves.
        visits: simulations that came here.
        total: what they were worth together.
        spent: whether nothing new can be found here, also where another position of the same standing is as near.
    """

    number: int
    game: ScoredGame
    parent: Position | None = None
    moves: tuple[ToolCall, ...] = ()
    said: tuple[Message, ...] = ()
    observed: int = 0
    asked: int = 0
    children: dict[str, Position] = field(default_factory=dict)
    visits: int = 0
    total: float = 0.0
    spent: bool = False

    @cached_property
    def line(self) -> tuple[Position, ...]:
        """The positions from the first move to here."""
        return () if self.parent is None else (*self.parent.line, self)

    def cost(self) -> tuple[int, int]:
        """Tool calls and observed tokens that it takes to come here."""
        return sum(len(p.moves) for p in self.line), sum(p.observed for p in self.line)

    def bound(self, visits: int) -> float:
        """Upper confidence bound of what it is worth, after so many visits of its parent."""
        return self.total / self.visits + EXPLORATION * math.sqrt(math.log(visits) / self.visits)


class Playouts(Episode):
    """An attempt that first looks for good moves on clones of its game, then makes them, then goes on by itself.

    The model sees each position as if it had played its way there. Every proposal is a call of the model, every move
    on a clone a tool call whose result is observed; what it then takes to make the moves in the game itself is kept
    back, and so is one message for the answer. The moves made are those to the position of the highest reward, the
    first of them; none if no position is worth more than the start.

    Args:
        settings: width, depth and simulations.
        environment: the task's.
        task: the task.
        tools: the arm's one tool.
        budget: the attempt's limits.
        count: tokens of a text.
        context: what the tools may know of the attempt; without a game.
        max_tokens: of one message.

    Raises:
        UsageError: the game cannot be searched.
    """

    def __init__(
        self,
        settings: Tree,
        environment: Environment,
        task: Task,
        tools: ToolSet,
        budget: Budget,
        count: Callable[[str], int],
        context: AttemptContext,
        max_tokens: int,
    ) -> None:
        context = environment.enter(task, tools, context)
        if not isinstance(context.game, ScoredGame):
            raise UsageError(f"the game of {environment.id} cannot be searched.")
        super().__init__(task, environment.grade, tools, budget, count, context, environment.feedback)
        (self._tool,) = tools.offers
        self._settings, self._max_tokens = settings, max_tokens
        self._start = self._best = Position(0, context.game.clone())
        self._path = [self._start]
        # The fewest moves that led to each standing.
        self._depths: dict[Hashable, float] = {self._start.game.standing(): 0}
        self._simulation, self._found, self._proposals = 1, 0, 0
        self._first = 1  # message of the game itself in the transcript
        self._searching = not self._start.game.ended() and not self._spent()
        self._was_search = False

    @property
    def messages(self) -> Sequence[Message]:
        """The prompt, and the way to the position at hand or, after the search, the moves made."""
        if not self._searching:
            return [self.transcript[0], *self.transcript[self._first :]]
        return [self.transcript[0], *(message for position in self._path[1:] for message in position.said)]

    @property
    def stream(self) -> int:
        """A stream for each proposal; after the search the attempt's own."""
        return branch_key(self.context.key, self._proposals) if self._searching else super().stream

    @property
    def position(self) -> int:
        """Streams of proposals are new ones."""
        return 0 if self._searching else super().position

    @property
    def goes_on_elsewhere(self) -> bool:
        """Whether the last message was one of the search."""
        return self._was_search

    def read(self, text: str, usage: Usage, logprobs: Sequence[float] | None = None) -> None:
        """Books and reads one message of the model."""
        self._was_search = self._searching
        if self._searching:
            self._remark(f"Simulation {self._simulation}, at position {self._path[-1].number}:")
        super().read(text, usage, logprobs)

    async def run_tools(self) -> list[ToolResult]:
        """Tries the proposed move; at the end of the search makes those that were found."""
        if not self._searching:
            return await super().run_tools()
        await self._go_on(await self._tried())
        return []

    def finish(self, results: Sequence[ToolResult]) -> Step:
        """Says whether a limit ended the search; after it, as in any attempt."""
        if not self._was_search:
            return super().finish(results)
        self.cost()  # sets the clock
        limit = self.meter.exhausted()
        if limit is not None:
            self.ended = f"limit:{limit}"
        info = self._info({"limit": limit} if limit else {})
        return self.observe(""), 0.0, False, limit is not None, info

    async def fill(self, why: str) -> None:
        """Gives up the position whose conversation fills the model's context: no move can be proposed there."""
        if not self._searching:
            return await super().fill(why)
        at, self._was_search = self._path[-1], True
        self._remark(f"Position {at.number} fills the model's context.")
        at.asked = self._settings.width
        await self._go_on(None)
        self.finish(())
        return None

    async def _go_on(self, child: Position | None) -> None:
        """Goes on after a proposal, with the position that it leads to; makes the moves where the search is over."""
        self._learn(child)
        self.action = Action()
        if not self._searching:
            await self._play()

    async def _tried(self) -> Position | None:
        """The position that the proposed move leads to; None where the message has no move that the rules know."""
        at, calls = self._path[-1], self.action.calls
        at.asked += 1
        self._proposals += 1
        if not calls:
            self._remark("No move.")
            return None
        name = canonical([[call.name, call.arguments, call.message] for call in calls])
        if (known := at.children.get(name)) is not None:
            self._remark(f"Position {known.number} again.")
            return known
        if self._spent(more=len(calls)):
            self._remark("Not tried: the budget keeps what is needed to make the moves.")
            return None
        game, before = at.game.clone(), self.meter.amounts["observed_tokens"]
        results = await self._acted(game)
        said = len(self.transcript) - 1  # the proposal
        for result in results:
            self._show(result)
        if any(result.fault for result in results):
            return None
        self._found += 1
        observed = int(self.meter.amounts["observed_tokens"] - before)
        child = Position(self._found, game, at, calls, tuple(self.transcript[said:]), observed)
        at.children[name] = child
        depth = len(child.line)
        before_in = self._depths.get(game.standing(), math.inf)
        self._depths[game.standing()] = min(depth, before_in)
        child.spent = before_in <= depth or game.ended() or depth == self._settings.depth
        what = ", the end" if game.ended() else ", reached before in as few moves" if before_in <= depth else ""
        self._remark(f"Position {child.number}: reward {game.reward():g}{what}.")
        return child

    async def _acted(self, game: ScoredGame) -> list[ToolResult]:
        key = branch_key(self.context.key, self._proposals)
        toolbox = self._tools.open(self.meter, self._count, replace(self.context, key=key, game=game))
        try:
            return [await toolbox.call(call) for call in self.action.calls]
        finally:
            await toolbox.aclose()

    def _learn(self, child: Position | None) -> None:
        """Goes on from the child, or ends the simulation and begins the next; ends the search where it is over."""
        if child is not None:
            self._path.append(child)
            if child.game.reward() > self._best.game.reward() and self._affordable(child):
                self._best = child
        over = child is None or child.spent
        if over:
            self._back_up()
        last = over and (self._start.spent or self._simulation == self._settings.simulations)
        if last or self._best.game.reward() >= 1:
            self._searching = False
            return
        if over:
            self._simulation += 1
            self._path = [self._start]
        if self._spent():
            self._searching = False
        else:
            self._descend()

    def _back_up(self) -> None:
        """What the simulation was worth, told to every position on its way."""
        worth = self._path[-1].game.reward()
        for position in reversed(self._path):
            position.visits += 1
            position.total += worth
            open_ = position.asked < self._settings.width or any(not p.spent for p in position.children.values())
            position.spent = position.spent or not open_

    def _descend(self) -> None:
        """Goes to a position where the model is to be asked."""
        while (at := self._path[-1]).asked >= self._settings.width:
            known = [child for child in at.children.values() if not child.spent]
            self._path.append(max(known, key=lambda child: child.bound(at.visits)))

    async def _play(self) -> None:
        """Makes the moves that were found in the attempt's own game."""
        best, worth = self._best.number, f"{self._best.game.reward():g}"
        self._remark(
            f"The search ends after {self._simulation} simulations and {self._proposals} proposals. "
            + (f"The moves to position {best}, of reward {worth}, are made:" if best else "No move is worth making.")
        )
        self._first = len(self.transcript)
        for position in self._best.line:
            self.transcript.append(position.said[0])
            for call in position.moves:
                self._show(await self.toolbox.call(call))

    def _spent(self, more: int = 0) -> bool:
        """Whether the budget leaves no more than making the moves and answering takes.

        Args:
            more: calls of a message at hand; 0 before one is asked for.
        """
        meter, left = self.meter, self.meter.left
        calls, observed = self._best.cost()
        here, seen = self._path[-1].cost()
        ahead = more or 1
        if meter.calls_left(self._tool) - ahead < max(calls, here + ahead):
            return True
        if left("observed_tokens") <= max(observed, seen):
            return True
        few = min(left("turns"), left("model_calls")) <= 1 or left("generated_tokens") < 2 * self._max_tokens
        return few and not more

    def _affordable(self, position: Position) -> bool:
        """Whether what is left allows to make the moves to a position."""
        calls, observed = position.cost()
        return self.meter.calls_left(self._tool) >= calls and self.meter.left("observed_tokens") >= observed

    def _remark(self, text: str) -> None:
        self.transcript.append({"role": "system", "content": text})
