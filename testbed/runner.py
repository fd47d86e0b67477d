"""Runs an experiment: attempts stream through one bounded scheduler into the store.

The loop of one attempt reads as a sentence: ask the model, read its message, run the tools it calls, show the results.
Around it: a fixed number of slots, a store that says when an attempt is durable, and one boundary at which faults of
the infrastructure become retries and then missing data.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from langchain_core.tools import BaseTool

from testbed.allocation import Allocation, recorded_rules, rule_of
from testbed.env import Environment
from testbed.episode import Episode
from testbed.errors import ContextFull, InfrastructureError, TestbedError, UnknownName, UsageError, YokeMissing
from testbed.experiment import ArmSpec, Cell, Experiment
from testbed.models import make_model
from testbed.models.base import Model, Request
from testbed.protocol import VERSION as PROTOCOL_VERSION
from testbed.registry import make_env, make_tools
from testbed.schedule import Progress, RetryQueue
from testbed.stats.stopping import UNKNOWN, Outcomes
from testbed.store import ArmRecord, AttemptWriter, Run, Store
from testbed.threads import DaemonThreads
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Attempt, Control, Cost, Message, Status, Task, attempt_id, digest, stream_key
from testbed.wrappers import under_control

CONCURRENCY = 256
MOST_CONCURRENT = 10_000  # each takes memory while it is under way
SLOW_GRADES = 32  # graders that work in threads at one time; how many sandboxes they have is their own matter
RETRIES = 4
BACK_OFF = 0.5  # seconds before the first retry; doubles, with jitter


@dataclass(frozen=True)
class Arm:
    """An arm ready to run: its model, its tools, and its content hash.

    Attributes:
        spec: what the experiment says.
        model: shared by all arms that name it.
        tools: shared by the arm's attempts.
        hash: covers everything that can change an outcome.
        identity: what was hashed, for people.
    """

    spec: ArmSpec
    model: Model
    tools: ToolSet
    hash: str
    identity: dict[str, object]


class Runner:
    """Runs the attempts of an experiment that the store does not have.

    Args:
        experiment: what to run.
        store: where attempts go; a function that opens it is called once everything else is ready.
        concurrency: attempts under way at once, 1 to 10,000.
        models: models by id that replace the experiment's, for programs that bring their own.
        retries: how often a fault of the infrastructure is tried again.
        back_off: seconds before the first retry; it doubles with each.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: Store | Callable[[], Store],
        *,
        concurrency: int = CONCURRENCY,
        models: dict[str, Model] | None = None,
        retries: int = RETRIES,
        back_off: float = BACK_OFF,
    ) -> None:
        if not 1 <= concurrency <= MOST_CONCURRENT:
            raise UsageError(f"concurrency must be from 1 to {MOST_CONCURRENT:,} attempts, not {concurrency}.")
        self.experiment, self._store = experiment, store
        self.progress = Progress()
        self._concurrency, self._retries, self._back_off = concurrency, retries, back_off
        self._given = dict(models or {})
        self._models: dict[str, Model] = {}
        self._tool_sets: list[ToolSet] = []
        self._servers: dict[str, list[BaseTool]] = {}
        self._graders = DaemonThreads(SLOW_GRADES)
        self._stopping = False
        self.environments: list[Environment] = []
        self.tasks: list[Task] = []
        self._grader_of: list[Environment] = []
        self.arms: list[Arm] = []
        self._allocation: Allocation | None = None

    def stop(self) -> None:
        """Begins no further attempt; those under way end normally."""
        self._stopping = True

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped before its end."""
        return self._stopping

    @property
    def store(self) -> Store:
        """Where attempts go; opened on first use."""
        if not isinstance(self._store, Store):
            self._store = self._store()
        return self._store

    async def run(self) -> Progress:
        """Makes every attempt that is not in the store yet.

        Returns:
            The final counts.

        Raises:
            UsageError: the experiment cannot run as written, or differs from the run of that name in the store.
        """
        try:
            await self._prepare()
            finished = self.store.finished(self.experiment.name)
            self.progress.resumed = self.progress.done = len(finished)
            async with self.store.writer() as writer:
                writer.on_durable(self._count)
                self._allocation = self._allocate(finished)
                while True:
                    for yoked in (False, True):
                        self._allocation.turn(yoked=yoked)
                        await self._schedule(self._allocation, writer)
                        await writer.flush()  # what yoked attempts replay must be readable
                    if self._stopping or self._allocation.over:
                        break
        finally:
            await self._close()
        return self.progress

    # -- preparation
    # --------------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        for n, source in enumerate(self.experiment.environments):
            with self.experiment.places.blaming(("env", n)):
                environment = make_env(source.id, **source.options)
                self.environments.append(environment)
                self.tasks += environment.tasks
                self._grader_of += [environment] * len(environment.tasks)
                self._refuse_duplicates()
        self.experiment.check_size(len(self.tasks))
        self._index = {task.hash: n for n, task in enumerate(self.tasks)}
        specs = self.experiment.arms
        for spec in sorted(specs, key=lambda s: s.control is Control.YOKED):  # a yoked arm's hash covers its live arm's
            self.arms.append(await self._arm(spec))
        self.arms.sort(key=lambda arm: specs.index(arm.spec))
        self._refuse_equal_arms()
        self._check_calls()
        self.store.add_run(self._record(), self.tasks)

    def _refuse_duplicates(self) -> None:
        seen: set[str] = set()
        for task in self.tasks:
            if task.hash in seen:
                raise UsageError(f"two [[env]] tables list the task {task.prompt[:60]!r} ({task.environment}).")
            seen.add(task.hash)

    def _refuse_equal_arms(self) -> None:
        names: dict[str, str] = {}
        for n, arm in enumerate(self.arms):
            if (first := names.setdefault(arm.hash, arm.spec.name)) != arm.spec.name:
                raise self.experiment.places.error(
                    f"arms {first!r} and {arm.spec.name!r} differ in nothing but their names, so they would share all "
                    "attempts; drop one of them",
                    ("arm", n, "name"),
                )

    def _make_tools(self, names: Sequence[str]) -> list[BaseTool]:
        """The tools of an arm; all arms share the servers of an MCP name, which take their time to start."""
        made: list[BaseTool] = []
        for name in names:
            tools = self._servers.get(name) or make_tools([name], self.experiment.tool_options)
            if name.startswith("mcp:"):
                self._servers[name] = tools
            made += tools
        return made

    def _check_calls(self) -> None:
        """Limits of single tools name tools that some arm offers; only now is known what foreign names stand for."""
        offered = {name for arm in self.arms for name in arm.tools.offers}
        for n, arm in enumerate(self.arms):
            for name in arm.spec.budget.calls:
                if name not in offered:
                    wrong = str(UnknownName("tool in budget calls", name, offered))
                    at = ("budget", "calls", name)
                    raise self.experiment.places.error(wrong, ("arm", n, *at), at)

    async def _arm(self, spec: ArmSpec) -> Arm:
        at = ("arm", self.experiment.arms.index(spec))
        with self.experiment.places.blaming((*at, "model"), ("model",)):
            model = await self._model(spec)
            of_model = dict(model.fingerprint())
        with self.experiment.places.blaming(*[("tool", name) for name in spec.tools], (*at, "tools")):
            # In a thread: making tools may read a corpus or ask a server, and a Ctrl-C must be heard meanwhile.
            made = await asyncio.to_thread(self._make_tools, spec.tools)
            tools = ToolSet(under_control(made, spec.control))
            self._tool_sets.append(tools)
            for environment in self.environments:  # a tool may lack something to act on: better told now
                environment.enter(environment.tasks[0], tools, AttemptContext())
            await tools.start()
            of_tools = tools.fingerprint()
        identity: dict[str, object] = {
            "model": of_model,
            "sampling": spec.sampling.as_dict(),
            "tools": of_tools,
            "control": str(spec.control),
            "budget": spec.budget.as_dict(),
            "protocol": PROTOCOL_VERSION,
        }
        if spec.yoke:
            identity["yoke"] = next(arm.hash for arm in self.arms if arm.spec.name == spec.yoke)
        return Arm(spec, model, tools, digest(identity), identity)

    async def _model(self, spec: ArmSpec) -> Model:
        if spec.model in self._given:
            return self._given[spec.model]
        key = digest([spec.model, spec.model_options])
        if key not in self._models:
            self._models[key] = make_model(spec.model, spec.model_options)
            await self._models[key].start()
        return self._models[key]

    def _record(self) -> Run:
        rules = {spec.name: rule for spec in self.experiment.arms if (rule := rule_of(self.experiment, spec))}
        if recorded_rules(self.experiment.source) != rules:  # the analysis reads them there
            raise UsageError(
                "arms stop early by a rule that the experiment's source does not have; parse it from data."
            )
        arms = tuple(ArmRecord(arm.hash, arm.spec.name, {**arm.identity, "name": arm.spec.model}) for arm in self.arms)
        return Run(
            name=self.experiment.name,
            experiment=self.experiment.source,
            seed=self.experiment.seed,
            arms=arms,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            samples={arm.spec.name: arm.spec.samples for arm in self.arms},
        )

    async def _close(self) -> None:
        for tools in self._tool_sets:
            await tools.aclose()
        for model in self._models.values():
            await model.aclose()
        for environment in self.environments:
            await asyncio.to_thread(environment.close)  # a grader may hold a sandbox
        self._graders.close()

    # -- scheduling
    # ---------------------------------------------------------------------------------------------------------

    def _allocate(self, finished: set[str]) -> Allocation:
        return Allocation(
            self.experiment,
            len(self.tasks),
            finished=lambda cell: self._id(cell) in finished,
            outcomes=self._known([n for n, arm in enumerate(self.arms) if arm.spec.adaptive]),
        )

    def _known(self, arms: Sequence[int]) -> dict[int, Outcomes]:
        """What the store has of arms that stop early: outcomes by task and sample, those to be tried again left out."""
        known = {n: np.full((len(self.tasks), self.arms[n].spec.samples), UNKNOWN, np.int8) for n in arms}
        if known:
            stored = self.store.outcomes(self.experiment.name)
            for n, outcomes in known.items():
                rows = np.flatnonzero((stored.arm == n) & (stored.success >= 0))
                outcomes[stored.task[rows], stored.sample[rows]] = stored.success[rows]
        return known

    def _live(self, arm: Arm) -> int:
        return next(n for n, other in enumerate(self.arms) if other.spec.name == arm.spec.yoke)

    def _id(self, cell: Cell) -> str:
        return attempt_id(self.tasks[cell.task].hash, self.arms[cell.arm].hash, cell.sample, self.experiment.seed)

    async def _schedule(self, allocation: Allocation, writer: AttemptWriter) -> None:
        """Keeps `concurrency` attempts under way until no more are wanted and none waits for a retry."""
        queue = RetryQueue(allocation.next, lambda: self._stopping)
        self._plan(allocation)

        async def slot() -> None:
            while (item := await queue.next()) is not None:
                cell, tries = item
                attempt, more = await self._try(cell, tries, queue), False
                if attempt is not None:
                    await writer.add(attempt)
                    more = allocation.learn(cell, attempt.success)
                    self._plan(allocation)
                queue.done(more=more)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(slot())
        except BaseExceptionGroup as errors:  # several slots may fail at once, mostly of the same cause
            raise _first(errors) from None

    def _plan(self, allocation: Allocation) -> None:
        """How many attempts there will be at most, as far as is known."""
        progress = self.progress
        progress.total = max(allocation.planned, progress.resumed)  # another run may have made more of the same
        progress.cells, progress.settled = allocation.cells, allocation.settled

    async def _try(self, cell: Cell, tries: int, queue: RetryQueue) -> Attempt | None:
        """One attempt; after a fault of the infrastructure it is queued again, at last recorded as missing."""
        arm, task = self.arms[cell.arm], self.tasks[cell.task]
        episode: Episode | None = None
        try:
            episode = self._episode(arm, cell)
            return await self._attempt(arm, cell, episode)
        except InfrastructureError as error:
            if tries < self._retries and not isinstance(error, YokeMissing):
                self.progress.retried += 1
                delay = self._back_off * 2**tries * (1 + random.random() / 2)  # jitter, no part of any outcome
                queue.again(cell, tries + 1, delay)
                return None
            ended = f"missing:{error.kind}"
            return self._finished(arm, task, cell, episode, ended, note=str(error))

    def _episode(self, arm: Arm, cell: Cell) -> Episode:
        task = self.tasks[cell.task]
        context = AttemptContext(stream_key(self.experiment.seed, task.hash, cell.sample), self._replay(arm, cell))
        env = self._grader_of[cell.task]
        context = env.enter(task, arm.tools, context)
        return Episode(task, env.grade, arm.tools, arm.spec.budget, arm.model.count, context, env.feedback)

    async def _attempt(self, arm: Arm, cell: Cell, episode: Episode) -> Attempt:
        try:
            async with asyncio.timeout(arm.spec.budget.seconds) as clock:
                while not episode.over:
                    reply = await arm.model.generate(self._request(arm, episode))
                    episode.read(reply.text, reply.usage)
                    await self._finish_turn(cell, episode, clock)
        except TimeoutError:
            episode.end("limit:seconds")
        except ContextFull as error:
            episode.end("limit:context", str(error))
        finally:
            await episode.toolbox.aclose()
        return self._finished(arm, episode.task, cell, episode, episode.ended)

    async def _finish_turn(self, cell: Cell, episode: Episode, clock: asyncio.Timeout) -> None:
        """Runs the tools and finishes the turn; a slow grader works in a thread while the attempt's clock stands."""
        results = await episode.run_tools()
        if episode.action.answer is None or not self._grader_of[cell.task].grades_slowly:
            episode.finish(results)
            return
        ends, began = clock.when(), asyncio.get_running_loop().time()
        clock.reschedule(None)
        await self._graders.run(lambda: episode.finish(results))
        if ends is not None:
            clock.reschedule(ends + asyncio.get_running_loop().time() - began)

    @staticmethod
    def _request(arm: Arm, episode: Episode) -> Request:
        left = episode.meter.left("generated_tokens")
        return Request(
            messages=episode.transcript,
            tools=arm.tools.schemas,
            sampling=arm.spec.sampling,
            max_tokens=int(min(arm.spec.sampling.max_tokens, left)),
            stream=episode.context.key,
            position=int(episode.meter.amounts["generated_tokens"]),
            task=episode.task,
        )

    def _finished(
        self, arm: Arm, task: Task, cell: Cell, episode: Episode | None, ended: str, note: str = ""
    ) -> Attempt:
        missing = ended.startswith("missing:")
        transcript: list[Message] = list(episode.transcript) if episode else []
        if note:
            transcript.append({"role": "system", "content": note})
        grade = episode.grade if episode and not missing else None
        return Attempt(
            id=self._id(cell),
            task=task.hash,
            arm=arm.hash,
            sample=cell.sample,
            seed=self.experiment.seed,
            status=Status.MISSING if missing else Status.COMPLETE,
            ended=ended,
            success=None if missing else bool(grade and grade.success),
            score=grade.score if grade else None,
            answer=episode.answer if episode else None,
            cost=episode.cost() if episode else Cost(),
            faults=dict(episode.faults) if episode else {},
            transcript=transcript,
        )

    def _replay(self, arm: Arm, cell: Cell) -> Iterator[str] | None:
        """What the partner of a yoked attempt saw: the live arm's next sample, which has another random stream.

        The next one in a circle of the live attempts that were asked for together: all of them are made whatever their
        outcomes, so that stopping early does not choose what is replayed.
        """
        if arm.spec.control is not Control.YOKED or self._allocation is None:
            return None
        live, task = self._live(arm), self.tasks[cell.task]
        sample = partner_of(cell.sample, self._allocation.blocks(live, cell.task))
        partner = attempt_id(task.hash, self.arms[live].hash, sample, self.experiment.seed)
        attempt = self.store.find(partner)
        if attempt is None or attempt.status is Status.MISSING:
            raise YokeMissing(f"the live attempt {partner} that this one replays is missing; run the experiment again.")
        return iter([m["content"] for m in attempt.transcript if m["role"] == "tool"])

    def _count(self, attempts: Sequence[Attempt]) -> None:
        progress = self.progress
        names = {arm.hash: arm.spec.name for arm in self.arms}
        for attempt in attempts:
            progress.done += 1
            progress.generated_tokens += attempt.cost.generated_tokens
            progress.usd += attempt.cost.usd
            if attempt.status is Status.MISSING:
                progress.missing += 1
            elif attempt.success:
                progress.solved.setdefault(names[attempt.arm], set()).add(self._index[attempt.task])


def partner_of(sample: int, blocks: Sequence[int]) -> int:
    """The live sample that a yoked one replays.

    Args:
        sample: of the yoked attempt, below the last of `blocks`.
        blocks: ends of the blocks in which the live attempts were asked for.
    """
    end = next(end for end in blocks if sample < end)
    start = max((other for other in blocks if other < end), default=0)
    if end - start == 1:  # a last block of one has no other sample in it
        return max(sample - 1, 0)
    return start + (sample - start + 1) % (end - start)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error to show of several: the caller's, which has a remedy, before a bug."""
    flat: list[BaseException] = []
    for error in errors.exceptions:
        flat.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in flat if isinstance(error, TestbedError)), flat[0])
