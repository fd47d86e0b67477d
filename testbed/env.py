"""Environments: a family of tasks as a Gymnasium environment, with tools.

To write one, subclass `Environment`, give it an `id`, list its tasks and grade answers; one file is enough::

    class Reverse(Environment):
        '''Reverse a word.'''

        id = "Reverse-v0"

        def __init__(self, length: int = 5, tasks: int = 100, seed: int = 0, **common: Unpack[Common]) -> None:
            self.length, self.size, self.task_seed = length, tasks, seed
            super().__init__(**common)

        def make_tasks(self) -> Iterable[Task]:
            rng = np.random.default_rng(self.task_seed)
            for _ in range(self.size):
                word = "".join(rng.choice(list("abcdef"), self.length))
                yield self.task(f"Reverse the word {word}.", reference=word[::-1])

        def grade(self, task: Task, answer: str) -> Grade:
            return Grade(answer == task.reference)

        def near_misses(self, task: Task) -> Iterable[str]:
            return (task.reference + "x",)

An `Episode` is one attempt. Gymnasium users drive it through `reset` and `step`; the runner drives it itself, since it
awaits the tools on its own event loop: `step` is exactly "read the message, run the tools it calls, finish the turn".
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, TypedDict, TypeVar, cast

import gymnasium as gym
import numpy as np
from langchain_core.tools import BaseTool

from testbed.budget import LARGEST, UNLIMITED, VISIBLE, Budget
from testbed.episode import Episode, Observation, Step
from testbed.errors import UnknownName, UsageError
from testbed.family import TaskFamily, Validation
from testbed.game import CloneableGame
from testbed.spaces import Utf8
from testbed.threads import LoopThread
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Task, Usage

__all__ = ["RESET_OPTIONS", "Common", "Environment", "Validation", "approximate_tokens"]

T = TypeVar("T")

RESET_OPTIONS = ("task", "context")


class Common(TypedDict, total=False):
    """Options that every environment takes.

    Attributes:
        tools: the tools it offers, or an arm's shared `ToolSet`.
        budget: limits per attempt.
        count: tokens of a text; by default four bytes are a token.
        render_mode: "ansi" or None.
    """

    tools: Sequence[BaseTool] | ToolSet
    budget: Budget | None
    count: Callable[[str], int] | None
    render_mode: str | None


def approximate_tokens(text: str) -> int:
    """Four bytes a token: the count where no model is there to ask."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


class Environment(TaskFamily, gym.Env[Observation, str]):
    """A family of tasks with tools, as Gymnasium drives it; see the module's docstring for how to write one.

    What it implements is declared in `testbed.family.TaskFamily`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]

    def __init__(
        self,
        tools: Sequence[BaseTool] | ToolSet = (),
        budget: Budget | None = None,
        count: Callable[[str], int] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if not getattr(type(self), "id", ""):
            raise UsageError(
                f"environment {type(self).__name__} has no id; give the class one, such as id = 'Mine-v0'."
            )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UnknownName("render mode", str(render_mode), self.metadata["render_modes"])
        if budget is not None and not isinstance(budget, Budget):
            raise UsageError(f"{self.id}: budget must be a testbed.budget.Budget, not {budget!r:.80}.")
        self.budget = budget or Budget()
        remaining = gym.spaces.Box(UNLIMITED, LARGEST, (len(VISIBLE) + len(self.budget.calls),), np.float64)
        self.observation_space = cast(
            "gym.Space[Observation]", gym.spaces.Dict({"text": Utf8(), "remaining": remaining})
        )
        self.action_space = Utf8()
        self.render_mode = render_mode
        self.tools = tools if isinstance(tools, ToolSet) else ToolSet(tools)
        self._count = count or approximate_tokens
        self._episode: Episode | None = None
        self._loop: LoopThread | None = None

    # -- what the runner calls, too
    # -----------------------------------------------------------------------------------------

    def enter(self, task: Task, tools: ToolSet, context: AttemptContext) -> AttemptContext:
        """The context with a game of the attempt's own, where one of its tools acts on one.

        Raises:
            UsageError: this environment makes no such game of the task; names it and the tool.
        """
        needs = tools.acts_on()
        if not needs:
            return context
        game = self.make_game(task)
        for name, kind in needs.items():
            if game is None:
                raise UsageError(f"tool {name!r} acts on a game, and {self.id} makes none; leave the tool out.")
            if not isinstance(game, kind):
                cannot = "cannot be cloned" if kind is CloneableGame else f"is no {kind.__name__}"
                raise UsageError(f"tool {name!r} cannot act on the game of {self.id}: it {cannot}; leave the tool out.")
        return replace(context, game=game)

    # -- the Gymnasium interface
    # --------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an attempt.

        Args:
            seed: seeds the choice of the task and the tools' random stream.
            options: "task": index, `Task` or hash of the task to attempt; "context": an `AttemptContext`.

        Raises:
            UsageError: there is no such task or option, or a tool cannot work here.
        """
        super().reset(seed=seed)
        options = options or {}
        for key in options:
            if key not in RESET_OPTIONS:
                raise UnknownName("reset option", key, RESET_OPTIONS)
        task = self._choose(options.get("task"))
        context = options.get("context") or AttemptContext(key=int(self.np_random.integers(0, 2**63)))
        context = self.enter(task, self.tools, context)
        self._close_episode()
        self._episode = Episode(task, self.grade, self.tools, self.budget, self._count, context, self.feedback)
        return self._episode.observe(task.prompt), {"task": task.hash, "tools": self.tools.schemas}

    def step(self, action: str) -> Step:
        """Reads one message of the model, runs the tools it calls, and shows the results.

        Raises:
            UsageError: there is no attempt, it is over, or the action is not text.
            InfrastructureError: a tool could not do its part.
        """
        episode = self.episode
        if not isinstance(action, str):
            raise UsageError(f"an action is the text of a message, not {action!r:.80}.")
        episode.read(action, Usage(generated_tokens=self._count(action)))
        if not episode.action.calls:
            return episode.finish(())
        return episode.finish(self._await(episode.run_tools()))

    def render(self) -> str | None:
        """The transcript so far as text, in mode "ansi"."""
        if self.render_mode != "ansi" or self._episode is None:
            return None
        return "\n".join(f"[{m['role']}] {m['content']}" for m in self._episode.transcript)

    def close(self) -> None:
        """Frees what the tools hold."""
        self._close_episode()
        loop, self._loop = self._loop, None
        if loop is not None:
            try:
                loop.run(self.tools.aclose())
            finally:
                loop.close()

    @property
    def episode(self) -> Episode:
        """The attempt under way.

        Raises:
            UsageError: `reset` was not called.
        """
        if self._episode is None:
            raise UsageError("no attempt is under way; call reset() first.")
        return self._episode

    def _choose(self, wanted: Any) -> Task:
        if isinstance(wanted, Task) and wanted.environment == self.id:
            return wanted
        if wanted is None:
            return self.tasks[int(self.np_random.integers(len(self.tasks)))]
        whole = isinstance(wanted, Integral) and not isinstance(wanted, bool)
        if whole and 0 <= int(wanted) < len(self.tasks):
            return self.tasks[int(wanted)]
        if isinstance(wanted, str) and wanted in self._by_hash:
            return self._by_hash[wanted]
        raise UsageError(f"{self.id} has no task {wanted!r:.80}: give an index below {len(self.tasks)}, or a hash.")

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = LoopThread()
        # A tool begins with the first call of any, and not with the environment: many never need to.
        return self._loop.run(self._with_tools(coroutine))

    async def _with_tools(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            await self.tools.start()
            return await coroutine
        finally:
            coroutine.close()  # else Python warns of one that nobody awaited; one that has ended stays as it is

    def _close_episode(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None and self._loop is not None:
            self._loop.run(episode.toolbox.aclose())
