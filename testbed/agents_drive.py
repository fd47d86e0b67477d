"""An agent at work on one attempt: it drives, and what it does is metered and graded like a model's messages.

What an agent raises is its failure, and is scored; faults of the models that it asks, and of the tools that it calls,
are the infrastructure's: the attempt is tried again.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from testbed.agents import FUNCTION, Agent
from testbed.agents_env import AgentEnv, AsyncAgentEnv, AttemptOver, Bridge, Given, MeteredTool
from testbed.agents_meter import Tap, current
from testbed.agents_runnable import aconverse, as_answer, converse, opened
from testbed.episode import Episode, Step
from testbed.errors import ContextFull, InfrastructureError, ModelUnavailable, TestbedError
from testbed.models.chat_errors import translated
from testbed.plugins import named
from testbed.threads import DaemonThreads
from testbed.tool import is_broken_connection
from testbed.trial import standing
from testbed.types import AGENT_ERROR, AGENT_SILENT, CONTEXT_FULL, ToolResult, Usage

GRACE = 1.0  # seconds that an agent gets to return after its attempt has ended


@dataclass(frozen=True)
class Outcome:
    """How an agent's own code ended: what it returned, or raised."""

    result: Any = None
    error: BaseException | None = None


class Drive:
    """An agent at work on one attempt.

    Args:
        agent: who drives.
        episode: the attempt.
        graders: where a slow grader works; None for one that is not.
    """

    def __init__(self, agent: Agent, episode: Episode, graders: DaemonThreads | None) -> None:
        self._agent, self._episode, self._graders = agent, episode, graders
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._turn, self._steps = asyncio.Lock(), set[asyncio.Task[Any]]()
        self._tap = Tap(episode.meter, agent.prices, agent.count, self._stop)
        self._failure: Exception | None = None
        self._grading: asyncio.Task[Step] | None = None
        self._closed = False
        self._clock: asyncio.Timeout

    async def run(self, schemas: list[dict[str, Any]]) -> None:
        """Lets the agent drive until it has ended or the attempt is over.

        Args:
            schemas: of the arm's tools.

        Raises:
            InfrastructureError: a tool or a model did not do its part.
            UsageError: the caller has something to mend.
        """
        try:
            await self._conclude(await self._driven(schemas))
        finally:
            self._settle()  # what was used is the attempt's, also of one that could not be made or was given up

    async def _driven(self, schemas: list[dict[str, Any]]) -> asyncio.Future[Outcome]:
        """The agent's own code, which has ended or was given up."""
        seconds = self._episode.meter.budget.seconds or self._agent.timeout
        work = asyncio.ensure_future(self._work(self._given(schemas), seconds))
        over = asyncio.ensure_future(self._over.wait())
        try:
            # A shared loop keeps the time itself: what one attempt held up must not cost another.
            async with asyncio.timeout(None if self._agent.asynchronous else seconds) as self._clock:
                await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
                if self._over.is_set():
                    await asyncio.wait({work}, timeout=GRACE)
                if self._grading is not None:  # what came in time is graded, whatever becomes of its agent
                    await asyncio.wait({self._grading})
        except TimeoutError:
            self._end("limit:seconds")
        finally:
            self._closed = self._tap.over = True
            await _cancel(over, work, *self._steps, *([self._grading] if self._grading else []))
        return work

    async def take(self, text: str) -> Step:
        """Reads one message of the agent; messages that come at one time are read one after another."""
        task = asyncio.current_task()
        assert task is not None
        self._steps.add(task)
        try:
            async with self._turn:
                if self._episode.over or self._failure:
                    raise AttemptOver
                return await self._read(text)
        finally:
            self._steps.discard(task)

    async def _read(self, text: str) -> Step:
        episode, metered = self._episode, self._tap.metered
        used, calls = self._tap.take()
        try:
            episode.read(text, used if metered else Usage(generated_tokens=self._agent.count(text)))
            if metered:  # the message itself is no further call of a model
                episode.meter.amounts["model_calls"] += calls - 1
            results = await episode.run_tools()
            if episode.action.answer is None or self._graders is None:
                step = episode.finish(results)
            else:
                self._grading = asyncio.ensure_future(self._graded(self._graders, results))
                step = await asyncio.shield(self._grading)  # the agent may be given up meanwhile
        except Exception as error:  # ours, or the tools': the run must have it, and the agent must not go on
            self._failure = error
            self._over.set()
            raise AttemptOver from error
        if episode.over:
            self._over.set()
        return step

    async def _graded(self, graders: DaemonThreads, results: list[ToolResult]) -> Step:
        if self._closed:  # what the agent returned: its clock has been stopped
            return await graders.run(lambda: self._episode.finish(results))
        with standing(self._clock, self._loop.time()):
            return await graders.run(lambda: self._episode.finish(results))

    def _given(self, schemas: list[dict[str, Any]]) -> tuple[Given, Bridge]:
        episode, bridge = self._episode, Bridge(self.take, lambda: self._closed)
        info = {"task": episode.task.hash, "tools": schemas}
        tools = [MeteredTool.of(schema, bridge) for schema in schemas]
        first = episode.observe(episode.task.prompt)
        return Given(first, info, episode.meter.budget, episode.context.key, tools), bridge

    async def _work(self, given: tuple[Given, Bridge], seconds: float) -> Outcome:
        """What the agent's own code returns or raises, wherever it runs."""
        if self._agent.asynchronous:
            env, asked = AsyncAgentEnv(*given), time.monotonic()
            return await self._agent.own_loop.run(lambda: self._awaited(env, asked), seconds)
        context = copy_context()
        context.run(current.set, self._tap)
        return await self._agent.threads.run(lambda: context.run(self._called, AgentEnv(*given)))

    def _called(self, env: AgentEnv) -> Outcome:
        agent = self._agent
        try:
            if agent.kind == FUNCTION:
                return Outcome(agent.thing(env))
            converse(opened(agent, env.tools), env, agent.system)
            return Outcome()
        except AttemptOver:
            return Outcome()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the agent's code, whatever it raises: judged by `_conclude`)
            return Outcome(error=error)

    async def _awaited(self, env: AsyncAgentEnv, asked: float) -> Outcome:
        agent = self._agent
        self._episode.forgive(time.monotonic() - asked)  # others held the loop up, or it was given up with them
        current.set(self._tap)
        try:
            if agent.kind == FUNCTION:
                return Outcome(await agent.thing(env))
            await aconverse(opened(agent, env.tools), env, agent.system)
            return Outcome()
        except AttemptOver:
            return Outcome()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the agent's code, whatever it raises: judged by `_conclude`)
            return Outcome(error=error)

    async def _conclude(self, work: asyncio.Future[Outcome]) -> None:
        """Says how the attempt ended, now that the agent has, or raises why it could not be made."""
        ungraded = self._grading.exception() if self._grading else None
        if failure := self._failure or ungraded or self._tap.refused:
            raise failure
        if self._episode.over:
            return
        outcome = _outcome(work)
        if isinstance(outcome.error, _TooLate):
            self._end("limit:seconds")
        elif outcome.error is not None:
            self._blame(outcome.error)
        elif isinstance(outcome.result, str):
            await self._submit(outcome.result)
        elif self._episode.answers:
            self._end("answered", "The agent returned without an answer.")
        elif outcome.result is None:
            self._end(AGENT_SILENT, "The agent returned without an answer.")
        else:  # a right number would else be a failure like any other, and a tool that gives text would seem to create
            kind = type(outcome.result).__name__
            self._end(AGENT_ERROR, f"The agent returned a value of type {kind}; only text is an answer, as of str(…).")

    async def _submit(self, text: str) -> None:
        """Takes what the agent returned as its answer."""
        try:
            await self._read(as_answer(text))
        except AttemptOver as over:
            raise self._failure or over from None
        self._end("answered", "The agent returned after a wrong answer.")

    def _blame(self, error: BaseException) -> None:
        """Ends the attempt for what the agent raised; raises it where it is the infrastructure's or the caller's."""
        if isinstance(error, InfrastructureError):
            raise error
        if isinstance(error, Exception):
            asked = any(failure in _chain(error) for failure in self._tap.failures)
            told = translated(_of_model(error, self._tap.failures), self._agent.name, self._agent.timeout)
            if isinstance(told, ContextFull) and asked:
                self._end(CONTEXT_FULL, str(told))
                return
            if (asked and isinstance(told, TestbedError)) or isinstance(told, ModelUnavailable):
                raise told from error
            if is_broken_connection(error) and isinstance(told, InfrastructureError):
                raise told from error
        self._end(AGENT_ERROR, f"The agent raised {named(error)}{self._agent.place_of(error)}")

    def _stop(self, limit: str) -> None:
        """Ends the attempt from whichever thread a model was asked in."""
        self._loop.call_soon_threadsafe(self._end, f"limit:{limit}" if limit else AGENT_ERROR)

    def _end(self, reason: str, note: str = "") -> None:
        if not self._episode.over:
            self._episode.end(reason, note)
        self._over.set()

    def _settle(self) -> None:
        """Books what was used since the last message, by calls under way at the end too; by now there will be none."""
        used, calls = self._tap.rest()
        amounts = self._episode.meter.amounts
        for component in ("prompt_tokens", "generated_tokens", "usd"):
            amounts[component] += getattr(used, component)
        amounts["model_calls"] += calls


class _TooLate(Exception):
    """An agent on a shared loop took longer than its attempt may."""


def _outcome(work: asyncio.Future[Outcome]) -> Outcome:
    """How the agent ended; what its thread or loop raises besides is told as its error."""
    if work.cancelled():
        return Outcome()
    error = work.exception()
    if error is None:
        return work.result()
    return Outcome(error=_TooLate() if isinstance(error, TimeoutError) else error)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error, and those that it came from."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _of_model(error: Exception, failures: list[BaseException]) -> Exception:
    """What a model's client raised, of the errors that led to this one; else the error itself."""
    return next((e for e in _chain(error) if e in failures and isinstance(e, Exception)), error)
