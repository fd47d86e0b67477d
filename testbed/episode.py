"""One attempt under way: what was said, what was used, and how it stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from testbed.budget import Budget, Meter
from testbed.errors import UsageError
from testbed.protocol import NO_ACTION, TOOLS_SPENT, Action, parse
from testbed.tool import AttemptContext, Toolbox, ToolSet
from testbed.types import CONTEXT_FULL, RESENT, Cost, Grade, Message, Task, ToolResult, Usage, well_formed


class Observation(TypedDict):
    """What the agent sees: only what is new, and what is left of its budget.

    Attributes:
        text: the task's prompt at first, then tool results or a note.
        remaining: what is left of the budget, see `testbed.budget.Meter.remaining`; −1 is no limit.
    """

    text: str
    remaining: npt.NDArray[np.float64]


WRONG = "That is wrong."
# Twice what text of any language needs: a model that reports still fewer tokens for what it wrote is not believed.
MOST_CHARS_PER_TOKEN = 8
DIGITS = 5  # of log-probabilities that are kept: batch-mates change what comes after

Step = tuple[Observation, float, bool, bool, dict[str, Any]]


def say_wrong(task: Task, answer: str, grade: Grade) -> str:
    """The least that can be said of a wrong answer."""
    return WRONG


class Episode:
    """One attempt at one task: its meter, its tools, its transcript and how it stands.

    Args:
        task: the task.
        grade: judges an answer to it.
        tools: the arm's tools.
        budget: the attempt's limits.
        count: tokens of a text.
        context: what the tools may know of the attempt.
        feedback: what the model is told of a wrong answer, where the budget allows another.

    Attributes:
        task: the task.
        context: what the tools may know of the attempt.
        meter: what was used and what is left.
        toolbox: the attempt's tools.
        transcript: every message so far.
        action: what the last message of the model does.
        results: of its calls, as far as they have come.
        imagined: log-probabilities of the results that the model wrote itself, by position, where they are kept.
        ended: "" while it runs, then "answered" or "limit:<component>".
        answers: how many answers were graded.
        answer: the last graded answer, if any.
        grade: its grade, if any.
    """

    def __init__(
        self,
        task: Task,
        grade: Callable[[Task, str], Grade],
        tools: ToolSet,
        budget: Budget,
        count: Callable[[str], int],
        context: AttemptContext,
        feedback: Callable[[Task, str, Grade], str] = say_wrong,
    ) -> None:
        self.task, self.context, self._grader, self._feedback = task, context, grade, feedback
        self._tools, self._count = tools, count
        self.meter = Meter(budget)
        self.toolbox: Toolbox = tools.open(self.meter, count, context)
        self.transcript: list[Message] = [{"role": "user", "content": task.prompt}]
        self.action = Action()
        self.results: list[ToolResult] = []
        self.imagined: dict[int, Sequence[float]] = {}
        self.ended = ""
        self.answers = 0
        self.answer: str | None = None
        self.grade: Grade | None = None
        self._faults: dict[str, int] = {}
        self._started = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether an answer was graded or a limit ran out."""
        return bool(self.ended)

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation that the model's next message continues."""
        return self.transcript

    @property
    def said(self) -> Sequence[Message]:
        """The conversation with the results that have come since: what a model goes on from that writes the next."""
        shown = [Message(role="tool", name=result.name, content=result.text) for result in self.results]
        return [*self.messages, *shown]

    @property
    def stream(self) -> int:
        """Key of the random stream that the next message is sampled from."""
        return self.context.key

    @property
    def position(self) -> int:
        """How many of the stream's numbers were used: tokens that the model generated before."""
        return int(self.meter.amounts["generated_tokens"])

    @property
    def goes_on_elsewhere(self) -> bool:
        """Whether a full context leaves it other conversations to go on with."""
        return False

    @property
    def faults(self) -> Mapping[str, int]:
        """The model's tool faults so far, by kind, and requests `RESENT`."""
        return self._faults

    def cost(self) -> Cost:
        """What was used so far, the clock included."""
        self.meter.clock(time.monotonic() - self._started)
        return self.meter.cost

    def forgive(self, seconds: float) -> None:
        """Takes time off the attempt's clock in which it waited for others."""
        self._started += seconds

    def end(self, reason: str, note: str = "") -> None:
        """Ends the attempt from outside: a clock that ran out, a full context; `note` goes into the transcript."""
        self.ended = reason
        if note:
            self.transcript.append({"role": "system", "content": note})

    async def fill(self, why: str) -> None:
        """Ends the attempt, whose conversation fills the model's context."""
        self.end(CONTEXT_FULL, why)

    def read(self, text: str, usage: Usage, logprobs: Sequence[float] | None = None) -> None:
        """Books and reads one message of the model; `logprobs` of its tokens are kept beside it.

        Raises:
            UsageError: the attempt is over.
        """
        if self.over:
            raise UsageError("the attempt is over; call reset() first.")
        self.meter.charge_model(self._believed(usage, text))
        if usage.resent:
            self._faults[RESENT] = self._faults.get(RESENT, 0) + usage.resent
        text = well_formed(text)
        message: Message = {"role": "assistant", "content": text}
        if logprobs is not None:
            message["logprobs"] = _kept(logprobs)
        self.transcript.append(message)
        self.action = parse(text)

    def _believed(self, usage: Usage, text: str) -> Usage:
        """The usage as reported, its tokens counted again where it claims more text than tokens hold."""
        if usage.generated_tokens * MOST_CHARS_PER_TOKEN >= len(text):
            return usage
        return replace(usage, generated_tokens=max(usage.generated_tokens, self._count(text)))

    async def run_tools(self) -> list[ToolResult]:
        """Runs the calls of the last message, one after another: they share the attempt's state."""
        self.results, self.imagined = [], {}
        for call in self.action.calls:
            self.results.append(await self.toolbox.call(call))
        return self.results

    def finish(self, results: Sequence[ToolResult]) -> Step:
        """Grades the answer, or shows the results, and says whether the attempt is over.

        An answer counts if it came within every limit: reaching one is allowed, passing it is not.
        """
        self.meter.clock(time.monotonic() - self._started)
        answer = self.action.answer
        limit = self.meter.exceeded() if answer is not None else self.meter.exhausted()
        if answer is not None and limit is None:
            return self._graded(answer)
        shown = [self._show(result, self.imagined.get(n)) for n, result in enumerate(results)]
        if limit is not None:
            self.ended = f"limit:{limit}"
        elif not results:
            shown.append(self._note(NO_ACTION))
        elif self._tools_spent():
            shown.append(self._note(TOOLS_SPENT))
        observation = self.observe("\n".join(shown))
        return observation, 0.0, False, limit is not None, self._info({"limit": limit} if limit else {})

    def observe(self, text: str) -> Observation:
        """`text` with what is left of the budget."""
        return {"text": text, "remaining": self.meter.remaining()}

    def _graded(self, answer: str) -> Step:
        began = time.monotonic()
        self.grade = self._grader(self.task, answer)
        self._started += time.monotonic() - began  # the grader's time is not the attempt's
        self.answer = answer
        self.answers += 1
        info = self._info({"grade": self.grade.detail, "score": self.grade.score})
        left = self.meter.budget.answers - self.answers
        if self.grade.success or not left:
            self.ended = "answered"
            return self.observe(""), float(self.grade.success), True, False, info
        return self._told_wrong(answer, self.grade, left, info)

    def _told_wrong(self, answer: str, grade: Grade, left: int, info: dict[str, Any]) -> Step:
        """Goes on after a wrong answer; what the environment says of it is an observation like a tool's result."""
        note = f"{self._feedback(self.task, answer, grade)} Answers left: {left}."
        self.meter.charge_observed(self._count(note))
        observation = self.observe(self._note(note))
        limit = self.meter.exhausted()
        if limit is not None:
            self.ended, info = f"limit:{limit}", info | {"limit": limit}
        return observation, 0.0, False, limit is not None, info

    def _show(self, result: ToolResult, logprobs: Sequence[float] | None = None) -> str:
        message: Message = {"role": "tool", "name": result.name, "content": result.text}
        if logprobs is not None:
            message["logprobs"] = _kept(logprobs)
        if result.fault is not None:
            message["fault"] = result.fault
            self._faults[result.fault] = self._faults.get(result.fault, 0) + 1
        message["tokens"] = result.tokens
        if result.cut is not None:
            message["cut"] = result.cut
        message["remaining"] = self.meter.remaining_dict()
        self.transcript.append(message)
        return result.text

    def _note(self, text: str) -> str:
        self.transcript.append({"role": "user", "content": text})
        return text

    def _tools_spent(self) -> bool:
        offered = self._tools.offers
        if self.meter.left("observed_tokens") <= 0:
            return True
        return bool(offered) and all(self.meter.calls_left(name) <= 0 for name in offered)

    def _info(self, more: dict[str, Any]) -> dict[str, Any]:
        return {"task": self.task.hash, "cost": _without_clock(self.meter), "faults": dict(self._faults), **more}


def _kept(logprobs: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in logprobs]


def _without_clock(meter: Meter) -> dict[str, float]:
    return {name: amount for name, amount in meter.amounts.items() if name != "seconds"}
