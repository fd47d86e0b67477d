"""What all attempts of an experiment share, made before the first: environments with their tasks, and arms.

An experiment that cannot run as written is refused here, before a store is opened.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from langchain_core.tools import BaseTool

from testbed.agents import Agent
from testbed.arm_checks import check_model, check_unoffered
from testbed.env import Environment
from testbed.errors import UnknownName, UsageError
from testbed.experiment import ArmSpec, Experiment
from testbed.lookahead.beginning import refuse_environment
from testbed.models import make_model
from testbed.models.base import Model
from testbed.places import Key
from testbed.protocol import VERSION as PROTOCOL_VERSION
from testbed.recording import Recording
from testbed.registry import make_env, make_tools
from testbed.store import ArmRecord, Store
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Control, Task, digest
from testbed.wrappers import under_control


@dataclass(frozen=True)
class Arm:
    """An arm ready to run: its model, its tools, and its content hash.

    Attributes:
        spec: what the experiment says.
        model: shared by all arms that name it.
        tools: shared by the arm's attempts.
        hash: covers everything that can change an outcome.
        identity: what was hashed, for people.
        recording: what its tools answer from, where they replay.
    """

    spec: ArmSpec
    model: Model
    tools: ToolSet
    hash: str
    identity: dict[str, object]
    recording: Recording | None = None

    def record(self) -> ArmRecord:
        """The arm as the store keeps it: what was hashed, and labels that were not."""
        labels: dict[str, object] = {"name": self.spec.model}
        if self.tools.offers:
            labels["stateful"] = self.tools.stateful()
            labels["schemas"] = json.dumps(self.tools.schemas)  # as text, which keeps the order that models read
        tokenization: Callable[[], Mapping[str, str]] = getattr(self.model, "tokenization", dict)
        if told := tokenization():
            labels["tokenization"] = dict(told)
        if self.recording is not None:
            labels["replays"] = self.recording.label()
        return ArmRecord(self.hash, self.spec.name, {**self.identity, **labels})


class Prepared:
    """The environments, tasks and arms of an experiment; empty until `start`.

    Args:
        experiment: what is to be run.
        models: models by id that replace the experiment's; whoever gives them starts and closes them.
        store: opens the store that the attempts go to, where an arm replays a run that is in it.

    Attributes:
        tasks: of all environments, in the experiment's order.
        arms: in the experiment's order.
    """

    def __init__(self, experiment: Experiment, models: Mapping[str, Model], store: Callable[[], Store]) -> None:
        self._experiment, self._given, self._store = experiment, models, store
        self.tasks: list[Task] = []
        self.arms: list[Arm] = []
        self._environments: list[Environment] = []
        self._environment_of: list[Environment] = []
        self._models: dict[str, Model] = {}
        self._loaded = False
        self._tool_sets: list[ToolSet] = []
        self._recordings: list[Recording] = []
        self._servers: dict[str, list[BaseTool]] = {}

    def environment(self, task: int) -> Environment:
        """The environment that lists a task and grades answers to it."""
        return self._environment_of[task]

    async def start(self) -> None:
        """Makes everything, and starts what has to be started but the models; close it also after this failed.

        Raises:
            UsageError: the experiment cannot run as written.
        """
        check_unoffered(self._experiment)
        self._make_environments()
        self._experiment.check_size(len(self.tasks))
        specs = self._experiment.arms
        for spec in sorted(specs, key=lambda s: s.control is Control.YOKED):  # a yoked arm's hash covers its live arm's
            self.arms.append(await self._arm(spec))
        self.arms.sort(key=lambda arm: specs.index(arm.spec))
        self._refuse_equal_arms()
        self._check_calls()

    async def load(self) -> None:
        """Starts the models, if it has not yet: apart, since a run with nothing left to do needs none of them.

        Raises:
            UsageError: one of them cannot be loaded, or takes no prompt of an environment.
        """
        if self._loaded:
            return
        self._loaded = True
        waiting = {id(model): model for model in self._models.values()}
        for n, arm in enumerate(self.arms):
            if (model := waiting.pop(id(arm.model), None)) is not None:
                with self._experiment.places.blaming(("arm", n, "model"), ("model",)):
                    await model.start()
        await asyncio.to_thread(self._check_prompts)

    async def aclose(self) -> None:
        """Frees what tools, models, recordings and environments hold."""
        for recording in self._recordings:
            recording.close()
        for tools in self._tool_sets:
            await tools.aclose()
        for model in self._models.values():
            await model.aclose()
        for environment in self._environments:
            await asyncio.to_thread(environment.close)  # a grader may hold a sandbox

    def _make_environments(self) -> None:
        for n, source in enumerate(self._experiment.environments):
            with self._experiment.places.blaming(("env", n)):
                environment = make_env(source.id, **source.options)
                self._environments.append(environment)
                self.tasks += environment.tasks
                self._environment_of += [environment] * len(environment.tasks)
                self._refuse_duplicates()

    def _refuse_duplicates(self) -> None:
        seen: set[str] = set()
        for task in self.tasks:
            if task.hash in seen:
                raise UsageError(f"two [[env]] tables list the task {task.prompt[:60]!r} ({task.environment}).")
            seen.add(task.hash)

    async def _arm(self, spec: ArmSpec) -> Arm:
        at = ("arm", self._experiment.arms.index(spec))
        with self._experiment.places.blaming((*at, "model"), ("model",)):
            model = self._model(spec)
            of_model = dict(model.fingerprint())
        check_model(self._experiment, spec, model)
        recording = await self._recording(spec, at)
        with self._experiment.places.blaming(*[("tool", name) for name in spec.tools], (*at, "tools")):
            tools = await self._tools(spec, recording)
            of_tools = tools.fingerprint()
            if recording is not None and not spec.replays_all:
                recording.check_tools(of_tools)
        identity: dict[str, object] = {
            "model": of_model,
            "sampling": {}
            if isinstance(model, Agent)
            else spec.sampling.as_dict(),  # agents' models decode as these say
            "tools": of_tools,
            "control": str(spec.control),
            "budget": spec.budget.as_dict(),
            "protocol": PROTOCOL_VERSION,
        }
        if spec.lookahead is not None:
            identity["lookahead"] = spec.lookahead.as_dict()
            with self._experiment.places.blaming((*at, "lookahead")):
                for environment in self._environments:
                    refuse_environment(spec.lookahead, environment, tools)
        if spec.yoke:
            identity["yoke"] = next(arm.hash for arm in self.arms if arm.spec.name == spec.yoke)
        if recording is not None:
            identity["replay"] = recording.identity()
        return Arm(spec, model, tools, digest(identity), identity, recording)

    def _check_prompts(self) -> None:
        """Refuses environments of which not even the shortest prompt leaves a local model room for a reply."""
        for position, arm in enumerate(self.arms):
            too_long = getattr(arm.model, "too_long", lambda text, tools: "")
            for n, environment in enumerate(self._environments):
                shortest = min((task.prompt for task in environment.tasks), key=len)
                with self._experiment.places.blaming(("arm", position, "model"), ("model",)):
                    why = too_long(shortest, arm.tools.schemas)
                if why:
                    raise self._experiment.places.error(f"arm {arm.spec.name!r}: {why}", ("env", n, "id"), ("env", n))

    async def _recording(self, spec: ArmSpec, at: Key) -> Recording | None:
        if spec.replay is None:
            return None
        with self._experiment.places.blaming((*at, "replay"), ("replay",)):
            recording = await asyncio.to_thread(Recording, spec, self._store)
            self._recordings.append(recording)
            recording.check(self._experiment, self.tasks)
        return recording

    def _model(self, spec: ArmSpec) -> Model:
        if spec.model in self._given:
            return self._given[spec.model]
        key = digest([spec.model, spec.model_options])
        if key not in self._models:
            self._models[key] = make_model(spec.model, spec.model_options)
        return self._models[key]

    async def _tools(self, spec: ArmSpec, recording: Recording | None) -> ToolSet:
        if recording is not None and spec.replays_all:
            replayed = recording.tools()
            self._tool_sets.append(replayed)
            return replayed
        # In a thread: making tools may read a corpus or ask a server, and a Ctrl-C must be heard meanwhile.
        made = await asyncio.to_thread(self._make_tools, spec.tools)
        tools = ToolSet(under_control(made, spec.control))
        self._tool_sets.append(tools)
        for environment in self._environments:  # a tool may lack something to act on: better told now
            environment.enter(environment.tasks[0], tools, AttemptContext())
        await tools.start()
        return tools

    def _make_tools(self, names: Sequence[str]) -> list[BaseTool]:
        """The tools of an arm; all arms share the servers of an MCP name, which take their time to start."""
        made: list[BaseTool] = []
        for name in names:
            tools = self._servers.get(name) or make_tools([name], self._experiment.tool_options)
            if name.startswith("mcp:"):
                self._servers[name] = tools
            made += tools
        return made

    def _refuse_equal_arms(self) -> None:
        names: dict[str, str] = {}
        for n, arm in enumerate(self.arms):
            if (first := names.setdefault(arm.hash, arm.spec.name)) != arm.spec.name:
                raise self._experiment.places.error(
                    f"arms {first!r} and {arm.spec.name!r} differ in nothing but their names, so they would share all "
                    "attempts; drop one of them",
                    ("arm", n, "name"),
                )

    def _check_calls(self) -> None:
        """Limits of single tools name tools that some arm offers; only now is known what foreign names stand for."""
        offered = {name for arm in self.arms for name in arm.tools.offers}
        for n, arm in enumerate(self.arms):
            for name in arm.spec.budget.calls:
                if name not in offered:
                    wrong = str(UnknownName("tool in budget calls", name, offered))
                    at = ("budget", "calls", name)
                    raise self._experiment.places.error(wrong, ("arm", n, *at), at)
