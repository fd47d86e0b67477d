"""What a private board serves: its environments, and its arms with their tools, shared by all sessions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from testbed.board import boards
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.refusals import NotFound
from testbed.board.schema import entry_arm
from testbed.env import Environment, approximate_tokens
from testbed.episode import Episode
from testbed.errors import did_you_mean
from testbed.experiment import ArmSpec, Experiment
from testbed.protocol import VERSION as PROTOCOL_VERSION
from testbed.registry import make_tools
from testbed.replay import Recorded
from testbed.store import ArmRecord
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Task, digest, stream_key
from testbed.wrappers import under_control

SECONDS = 3600.0  # that a session may take where the board's budget does not limit them


@dataclass(frozen=True)
class ServedArm:
    """One of a board's arms, as its server offers it.

    Attributes:
        spec: what the board's file says.
        tools: shared by its sessions.
    """

    spec: ArmSpec
    tools: ToolSet

    @property
    def seconds(self) -> float:
        """How long a session may take, from its first observation on."""
        return self.spec.budget.seconds or SECONDS

    def record(self, entry: str, model: str) -> ArmRecord:
        """The arm of an entry, as the store keeps it.

        Args:
            entry: the entry's id.
            model: what its author says the model is.
        """
        identity: dict[str, object] = {
            "model": {"kind": "remote", "told": model},
            "sampling": {},
            "tools": self.tools.fingerprint(),
            "control": str(self.spec.control),
            "budget": self.spec.budget.as_dict(),
            "protocol": PROTOCOL_VERSION,
        }
        labels: dict[str, object] = {"name": model}
        if self.tools.offers:
            labels |= {"stateful": self.tools.stateful(), "schemas": json.dumps(self.tools.schemas)}
        return ArmRecord(entry_arm(entry, digest(identity)), self.spec.name, {**identity, **labels})


class Bench:
    """A private board, ready to serve; made by `open_bench`.

    Args:
        board: the board.
        environments: they grade; close them after use.
        arms: by name, in the board's order.
    """

    def __init__(self, board: Board, environments: list[Environment], arms: Mapping[str, ServedArm]) -> None:
        self.board, self.arms, self._environments = board, dict(arms), environments
        self._home = {task.hash: environment for environment in environments for task in environment.tasks}

    def arm(self, name: str) -> ServedArm:
        """The arm of that name.

        Raises:
            NotFound: there is none.
        """
        if name not in self.arms:
            raise NotFound(f"the board has no arm {name!r:.100}.{did_you_mean(name, self.arms)}")
        return self.arms[name]

    def environment(self, task: Task) -> Environment:
        """The environment that grades a task."""
        return self._home[task.hash]

    def samples(self, arm: str) -> int:
        """Attempts per task that an entry makes in an arm."""
        return self.arms[arm].spec.samples

    def episode(self, arm: str, task: Task, sample: int, recorded: Recorded | None = None) -> Episode:
        """A new attempt, whose tokens are counted as the board counts them.

        Args:
            arm: the arm's name.
            task: of the board.
            sample: index of the attempt within arm and task.
            recorded: results that calls are answered with as long as there are any.
        """
        served, environment = self.arms[arm], self.environment(task)
        context = AttemptContext(stream_key(self.board.seed, task.hash, sample), recorded=recorded)
        context = environment.enter(task, served.tools, context)
        budget = served.spec.budget
        return Episode(task, environment.grade, served.tools, budget, approximate_tokens, context, environment.feedback)

    async def aclose(self) -> None:
        """Frees what tools and environments hold."""
        for arm in self.arms.values():
            await arm.tools.aclose()
        for environment in self._environments:
            await asyncio.to_thread(environment.close)


async def open_bench(db: BoardDatabase, board: Board) -> Bench:
    """Makes a board's environments and starts its arms' tools.

    Raises:
        UsageError: they cannot be made any more, or a tool cannot work here.
    """
    environments = await asyncio.to_thread(boards.environments, db, board)
    experiment = await asyncio.to_thread(boards.experiment, db, board)
    bench = Bench(board, environments, {})
    async with AsyncExitStack() as undo:  # of who is cancelled too: what was started must not outlive this
        undo.push_async_callback(bench.aclose)
        for spec in experiment.arms:
            tools = await asyncio.to_thread(_tools, spec, experiment)
            bench.arms[spec.name] = ServedArm(spec, tools)
            for environment in environments:  # a tool may lack something to act on: better told now
                environment.enter(environment.tasks[0], tools, AttemptContext())
            await tools.start()
        undo.pop_all()
    return bench


def _tools(spec: ArmSpec, experiment: Experiment) -> ToolSet:
    return ToolSet(under_control(make_tools(spec.tools, experiment.tool_options), spec.control))
