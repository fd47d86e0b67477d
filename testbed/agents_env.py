"""What an agent is given of an attempt: an environment to drive, and the arm's tools as langchain tools."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from testbed.budget import LARGEST, UNLIMITED, VISIBLE, Budget
from testbed.episode import Observation, Step
from testbed.errors import UsageError
from testbed.protocol import write_call
from testbed.spaces import Utf8


class AttemptOver(BaseException):
    """The attempt has ended: nothing that the agent does still counts.

    No `Exception`, so that no agent takes it for a failed tool or model and goes on: like a cancelled task, it passes
    through everything that the agent has around its calls.
    """


class Bridge:
    """Carries an agent's messages from its own thread or event loop to the run's.

    Args:
        take: reads one message of the agent; called on the run's loop.
        closed: whether the attempt is over and done with.
    """

    def __init__(self, take: Callable[[str], Coroutine[Any, Any, Step]], closed: Callable[[], bool]) -> None:
        self._take, self._closed, self._loop = take, closed, asyncio.get_running_loop()

    def step(self, text: str) -> Step:
        """Waits for what becomes of a message; blocks the calling thread."""
        try:
            return self._submit(text).result()
        except concurrent.futures.CancelledError:
            raise AttemptOver from None

    async def astep(self, text: str) -> Step:
        """What becomes of a message."""
        future = self._submit(text)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if self._closed():
                raise AttemptOver from None
            raise

    def _submit(self, text: str) -> concurrent.futures.Future[Step]:
        if not isinstance(text, str):
            raise UsageError(f"an action is the text of a message, not {text!r:.80}.")
        if self._closed():
            raise AttemptOver
        return asyncio.run_coroutine_threadsafe(self._take(text), self._loop)


class MeteredTool(BaseTool):
    """A tool of the arm: calling it is a message of the agent, which is read, metered and answered like any other."""

    args_schema: Any = None
    _bridge: Bridge = PrivateAttr()

    @classmethod
    def of(cls, schema: Mapping[str, Any], bridge: Bridge) -> MeteredTool:
        """The tool that a function schema describes."""
        function = schema["function"]
        tool = cls(
            name=function["name"], description=function.get("description", ""), args_schema=dict(function["parameters"])
        )
        tool._bridge = bridge
        return tool

    def _run(self, /, **arguments: Any) -> str:
        return self._bridge.step(write_call(self.name, arguments))[0]["text"]

    async def _arun(self, /, **arguments: Any) -> str:
        return (await self._bridge.astep(write_call(self.name, arguments)))[0]["text"]


@dataclass(frozen=True)
class Given:
    """What an agent may know of its attempt.

    Attributes:
        first: the first observation.
        info: the task's hash and the tools' schemas.
        budget: the attempt's limits.
        stream: key of the attempt's random stream.
        tools: the arm's tools, metered.
    """

    first: Observation
    info: Mapping[str, Any]
    budget: Budget
    stream: int
    tools: Sequence[BaseTool]

    @property
    def seed(self) -> int:
        """A number of 31 bits, the same whenever the attempt is made, and in every arm."""
        return self.stream % 2**31


class AgentEnv(gym.Env[Observation, str]):
    """One attempt, as an agent drives it: `reset` once, then `step` until it says that the attempt is over.

    Actions are texts in the text protocol, ``<answer>…</answer>`` or ``<tool_call>…</tool_call>``; instead of writing
    calls, the agent may use `tools`. Steps may come from several threads: they are read one after another.

    Attributes:
        task_prompt: the task.
        tools: the arm's tools as langchain tools; none in the bare arm.
        budget: the attempt's limits.
        seed: for whatever takes a seed; `np_random` is a generator of the attempt's own.
    """

    def __init__(self, given: Given, bridge: Bridge) -> None:
        self.observation_space, self.action_space = _spaces(given.budget)
        self.task_prompt, self.tools, self.budget = given.first["text"], list(given.tools), given.budget
        self.seed, self._np_random = given.seed, np.random.Generator(np.random.Philox(key=given.stream))
        self._given, self._bridge, self._begun = given, bridge, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """The task's prompt; once, and without a choice: which task and which randomness is the experiment's affair.

        Raises:
            UsageError: it was called before.
        """
        if self._begun:
            raise UsageError("reset() was called twice: an agent's attempt is one attempt at one task.")
        self._begun = True
        return self._given.first, dict(self._given.info)

    def step(self, action: str) -> Step:
        """Reads a message, runs the tools that it calls, and shows the results; see `testbed.env.Environment.step`.

        Raises:
            UsageError: the action is not text.
        """
        return self._bridge.step(action)


class AsyncAgentEnv:
    """`AgentEnv` for agents that are coroutines: `reset` and `step` are awaited."""

    def __init__(self, given: Given, bridge: Bridge) -> None:
        self._env, self._bridge = AgentEnv(given, bridge), bridge
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self.task_prompt, self.tools, self.budget = self._env.task_prompt, self._env.tools, self._env.budget
        self.seed, self.np_random = self._env.seed, self._env.np_random

    async def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """As `AgentEnv.reset`."""
        return self._env.reset(seed=seed, options=options)

    async def step(self, action: str) -> Step:
        """As `AgentEnv.step`."""
        return await self._bridge.astep(action)


def _spaces(budget: Budget) -> tuple[gym.Space[Observation], gym.Space[str]]:
    remaining = gym.spaces.Box(UNLIMITED, LARGEST, (len(VISIBLE) + len(budget.calls),), np.float64)
    observation = gym.spaces.Dict({"text": Utf8(), "remaining": remaining})
    return cast("gym.Space[Observation]", observation), Utf8()
