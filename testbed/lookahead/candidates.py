"""Best of n: the model is sampled from the task's prompt until a check accepts an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from testbed.budget import Budget
from testbed.env import Environment
from testbed.episode import Episode, Step
from testbed.lookahead.settings import BestOf, branch_key
from testbed.protocol import Action
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Grade, Message, Task, ToolResult

CHECK = "check"  # what a check is booked as: a tool call


class Candidates(Episode):
    """An attempt that submits the first of its candidates that a check accepts, or the last one unchecked.

    A candidate is a conversation of its own: it begins with the task's prompt, has its own random stream, tools and
    game, and sees nothing of the others. It may take an equal share of the attempt's turns. All candidates share the
    attempt's meter; a check is booked as a tool call, and its time is the attempt's. Where no tool call is left, the
    candidate at hand is submitted unchecked. Where another limit ends the search, nothing is submitted; a full context
    ends the candidate only, but for the last.

    Args:
        settings: how many candidates, and who accepts.
        environment: the task's.
        task: the task.
        tools: the arm's tools.
        budget: the attempt's limits.
        count: tokens of a text.
        context: what the tools may know of the attempt; without a game.
    """

    def __init__(
        self,
        settings: BestOf,
        environment: Environment,
        task: Task,
        tools: ToolSet,
        budget: Budget,
        count: Callable[[str], int],
        context: AttemptContext,
    ) -> None:
        self._settings, self._environment, self._given = settings, environment, context
        self._share = settings.share(budget)
        self._judge = lru_cache(None)(lambda answer: environment.grade(task, answer))  # what is submitted was checked
        own = environment.enter(task, tools, replace(context, key=branch_key(context.key, 0)))
        super().__init__(task, lambda _, answer: self._judge(answer), tools, budget, count, own)
        self._number = 1  # of the candidate at hand
        self._first = 1  # its first message in the transcript
        self._before = (0, 0)  # turns and generated tokens of those before it
        self._fresh = True  # whether the toolbox is its own

    @property
    def messages(self) -> Sequence[Message]:
        """The prompt and the candidate's own messages."""
        return [self.transcript[0], *self.transcript[self._first :]]

    @property
    def position(self) -> int:
        """Tokens that the candidate generated so far."""
        return super().position - self._before[1]

    @property
    def goes_on_elsewhere(self) -> bool:
        """Whether candidates are left."""
        return not self._last

    async def run_tools(self) -> list[ToolResult]:
        """Runs the calls of the last message with the candidate's own tools."""
        if not self._fresh and self.action.calls:
            await self.toolbox.aclose()
            self.toolbox, self._fresh = self._tools.open(self.meter, self._count, self.context), True
        return await super().run_tools()

    def finish(self, results: Sequence[ToolResult]) -> Step:
        """Checks the candidate's answer, and submits it or begins the next candidate; else shows the results."""
        answer = self.action.answer
        self.cost()  # sets the clock
        if answer is None or self.meter.exceeded() is not None:
            step = super().finish(results)
            return self._discard("gave no answer") if not self.over and self._silent() else step
        if self._last or self.meter.left("tool_calls") <= 0:
            self._note_for_readers("is submitted unchecked")
        elif self._accepted(answer):
            self._note_for_readers(f"is accepted by {self._checker} and submitted")
        else:
            return self._discard(f"is refused by {self._checker}")
        return super().finish(results)

    async def fill(self, why: str) -> None:
        """Gives up the candidate whose conversation fills the model's context: the next one has its own."""
        if self._last:
            await super().fill(why)
        else:
            self._discard("filled the model's context")

    @property
    def _last(self) -> bool:
        return self._number == self._settings.n

    @property
    def _checker(self) -> str:
        return "the grader" if self._settings.check == "grader" else "the public check"

    def _silent(self) -> bool:
        """Whether the candidate's share of the turns is spent."""
        return self._share is not None and self.meter.amounts["turns"] - self._before[0] >= self._share

    def _accepted(self, answer: str) -> bool:
        self.meter.charge_call(CHECK)
        self.answer, self.grade = answer, None
        if self._settings.check == "public":
            return bool(self._environment.public_check(self.task, answer))
        grade: Grade = self._judge(answer)
        if not grade.success:  # what is accepted is graded once it is submitted: the check may have taken too long
            self.grade = grade
        return grade.success

    def _discard(self, why: str) -> Step:
        """Begins the next candidate, if a limit does not forbid it."""
        self._note_for_readers(why)
        self.action = Action()
        self.cost()
        limit = self.meter.exhausted() or ("turns" if self._last else None)
        if limit is not None:
            self.ended = f"limit:{limit}"
        else:
            own = replace(self._given, key=branch_key(self._given.key, self._number))
            self.context = self._environment.enter(self.task, self._tools, own)
            self._number += 1
            self._first, self._fresh = len(self.transcript), False
            self._before = int(self.meter.amounts["turns"]), super().position
        info = self._info({"limit": limit} if limit else {})
        return self.observe("" if limit else self.task.prompt), 0.0, False, limit is not None, info

    def _note_for_readers(self, what: str) -> None:
        note = f"Candidate {self._number} of {self._settings.n} {what}."
        self.transcript.append({"role": "system", "content": note})
