"""Runs an experiment: attempts stream through one bounded scheduler into the store.

`testbed.preparation` makes what they share, `testbed.allocation` says which come next, `testbed.trial` makes one of
them. Here is what is around it: a fixed number of slots, a store that says when an attempt is durable, and one boundary
at which faults of the infrastructure become retries and then missing data.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from testbed.agents_trial import trial_of
from testbed.allocation import Allocation, partner_of, recorded_rules, rule_of
from testbed.errors import (
    InfrastructureError,
    ModelError,
    ModelNotAsked,
    ModelUnavailable,
    TransportError,
    UsageError,
    YokeMissing,
    first_of,
)
from testbed.experiment import Cell, Experiment
from testbed.lost_tries import LostTries
from testbed.models.base import Model
from testbed.preparation import Arm, Prepared
from testbed.run_again import recorded
from testbed.schedule import Progress, RetryQueue
from testbed.stats.stopping import UNKNOWN, Outcomes
from testbed.store import AttemptWriter, Run, Store
from testbed.threads import DaemonThreads
from testbed.trial import Trial, has_reply
from testbed.types import Attempt, Control, Status, Task, attempt_id

CONCURRENCY = 256
MOST_CONCURRENT = 10_000  # each takes memory while it is under way
SLOW_GRADES = 32  # graders that work in threads at one time; how many sandboxes they have is their own matter
RETRIES = 4
UNHEARD = 50  # attempts in a row without a word of the model, from the first on, after which a run gives up
_NO_ANSWER = tuple(f"missing:{error.kind}" for error in (ModelNotAsked, ModelUnavailable, TransportError))
BACK_OFF = 0.5  # seconds before the first retry; doubles, with jitter


class Runner:
    """Runs the attempts of an experiment that the store does not have.

    Args:
        experiment: what to run.
        store: where attempts go; a function that makes it is called once everything else is ready. Of a run that an
            open one has whole, no model is loaded.
        concurrency: attempts under way at once, 1 to 10,000.
        models: models by id that replace the experiment's, for programs that bring their own.
        retries: how often a fault of the infrastructure is tried again.
        back_off: seconds before the first retry; it doubles with each.
        begun: called once the run is recorded, before its first attempt.
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
        begun: Callable[[], object] = lambda: None,
    ) -> None:
        if not 1 <= concurrency <= MOST_CONCURRENT:
            raise UsageError(f"concurrency must be from 1 to {MOST_CONCURRENT:,} attempts, not {concurrency}.")
        self.experiment, self._store, self.progress = experiment, store, Progress()
        self._concurrency, self._retries, self._back_off, self._begun = concurrency, retries, back_off, begun
        self._jitter = random.Random()  # decides when a try is made again, nothing of what comes of it
        self._given = dict(models or {})
        self._prepared = Prepared(experiment, self._given, lambda: self.store)
        self._graders = DaemonThreads(SLOW_GRADES)
        self._allocation: Allocation | None = None
        self._index: dict[str, int] = {}  # of a task by its hash
        self._lost = LostTries()
        self._tried: dict[str, Attempt] = {}  # stored as missing, until the next try at them has ended
        self._under_way: set[Trial] = set()  # those that may be given up
        self._stopping = self._heard = False  # heard: the model has written something since this run was started

    @property
    def tasks(self) -> list[Task]:
        """The experiment's tasks, in order; none before the run has begun."""
        return self._prepared.tasks

    @property
    def arms(self) -> list[Arm]:
        """The experiment's arms, in order; none before the run has begun."""
        return self._prepared.arms

    def stop(self) -> None:
        """Begins no further attempt and gives up those that only wait for a server; others under way end normally."""
        self._stopping = True
        for trial in self._under_way:
            trial.stop_waiting()

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
            await self._prepared.start()
            if not self._begun_before():
                await self._prepared.load()  # before a store is made: an experiment that cannot run leaves none
            self._index = {task.hash: n for n, task in enumerate(self.tasks)}
            with recorded(self.store, self._record(), self.tasks):
                self._begun()
                await self._make_attempts()
        finally:
            if self._stopping:  # what is stored of those whose next try never came is told as missing
                self._count(list(self._tried.values()))
            await self._prepared.aclose()
            self._graders.close()
        return self.progress

    def _begun_before(self) -> bool:
        return isinstance(self._store, Store) and self._store.has(self.experiment.name)

    async def _make_attempts(self) -> None:
        finished = self.store.finished(self.experiment.name)
        self.progress.resumed = self.progress.done = len(finished)
        for arm in self.arms:
            if not getattr(arm.model, "reproducible", False):
                self._lost.remember(self.store.missing(self.experiment.name, arm.spec.name))
        self._allocation = allocation = self._allocate(finished)
        if not allocation.empty:
            await self._prepared.load()
        async with self.store.writer() as writer:
            writer.on_durable(self._count)
            while True:
                for yoked in (False, True):
                    allocation.turn(yoked=yoked)
                    await self._schedule(allocation, writer)
                    await writer.flush()  # what yoked attempts replay must be readable
                    self.progress.elsewhere = writer.known
                if self._stopping or allocation.over:
                    break

    def _record(self) -> Run:
        rules = {spec.name: rule for spec in self.experiment.arms if (rule := rule_of(self.experiment, spec))}
        if recorded_rules(self.experiment.source) != rules:  # the analysis reads them there
            raise UsageError(
                "arms stop early by a rule that the experiment's source does not have; parse it from data."
            )
        return Run(
            name=self.experiment.name,
            experiment=self.experiment.source,
            seed=self.experiment.seed,
            arms=tuple(arm.record() for arm in self.arms),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            samples={arm.spec.name: arm.spec.samples for arm in self.arms},
        )

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

    def _id(self, cell: Cell) -> str:
        return attempt_id(self.tasks[cell.task].hash, self.arms[cell.arm].hash, cell.sample, self.experiment.seed)

    async def _schedule(self, allocation: Allocation, writer: AttemptWriter) -> None:
        """Keeps `concurrency` attempts under way until no more are wanted and none waits for a retry."""
        queue = RetryQueue(allocation.next, lambda: self._stopping)
        self._plan(allocation)

        async def slot() -> None:
            while (item := await queue.next()) is not None:
                cell, tries = item
                attempt, more = await self._try(cell, tries, queue, writer), False
                if attempt is not None:
                    self._tried.pop(attempt.id, None)
                    await writer.add(attempt)
                    self._listen(attempt)
                    more = allocation.learn(cell, attempt.first_draw)
                    self._plan(allocation)
                queue.done(more=more)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(slot())
        except BaseExceptionGroup as errors:  # several slots may fail at once, mostly of the same cause
            raise first_of(errors) from None

    def _plan(self, allocation: Allocation) -> None:
        """How many attempts there will be at most, as far as is known."""
        progress = self.progress
        progress.total = max(allocation.planned, progress.resumed)  # another run may have made more of the same
        progress.cells, progress.settled = allocation.cells, allocation.settled

    async def _try(self, cell: Cell, tries: int, queue: RetryQueue, writer: AttemptWriter) -> Attempt | None:
        """One attempt; None where it was queued again after a fault of the infrastructure, or given up."""
        arm, task = self.arms[cell.arm], self.tasks[cell.task]
        trial = trial_of(arm, task, self._prepared.environment(cell.task), cell.sample, self.experiment.seed)
        self._under_way.add(trial)
        try:
            attempt = await trial.run(self._replay(arm, cell), self._graders)
            return attempt and self._lost.marked(attempt)
        except InfrastructureError as error:
            missing = self._lost.marked(trial.missing(error))
            if drawn := trial.has_drawn(error):
                self._lost.add(missing.id)
            if tries >= self._retries or not error.passing:
                return missing
            if drawn:
                self._tried[missing.id] = missing
                await writer.add(missing, counts=False)  # it stays, if there is no next try
            self.progress.retried += 1
            delay = self._back_off * 2**tries * (1 + self._jitter.random() / 2)
            queue.again(cell, tries + 1, max(delay, getattr(error, "retry_after", 0.0)))
            return None
        except asyncio.CancelledError:
            if trial.has_asked() and (self._stopping or self._heard):  # else the run may be taken back as a whole
                missing = self._lost.marked(trial.given_up())
                self._tried[missing.id] = missing
                await writer.add(missing, counts=False)
            raise
        except ModelError:  # found out late: a chat template's refusal of a longer conversation, a wrong key
            if not self.experiment.places.lines:
                raise
            with self.experiment.places.blaming(("arm", cell.arm, "model"), ("model",)):
                raise
        finally:
            self._under_way.discard(trial)

    def _replay(self, arm: Arm, cell: Cell) -> Iterator[str] | None:
        """What the partner of a yoked attempt saw: the live arm's next sample, which has another random stream.

        The next one in a circle of the live attempts that were asked for together: all of them are made whatever their
        outcomes, so that stopping early does not choose what is replayed.
        """
        if arm.spec.control is not Control.YOKED or arm.spec.replays_all or self._allocation is None:
            return None
        live = next(n for n, other in enumerate(self.arms) if other.spec.name == arm.spec.yoke)
        sample = partner_of(cell.sample, self._allocation.blocks(live, cell.task))
        partner = self._id(Cell(live, cell.task, sample))
        attempt = self.store.find(partner)
        if attempt is None or attempt.status is Status.MISSING:
            raise YokeMissing(f"the live attempt {partner} that this one replays is missing; run the experiment again.")
        return iter([m["content"] for m in attempt.transcript if m["role"] == "tool"])

    def _count(self, attempts: Sequence[Attempt]) -> None:
        names = {arm.hash: arm.spec.name for arm in self.arms}
        for attempt in attempts:
            self.progress.count(attempt, names[attempt.arm], self._index[attempt.task])

    def _listen(self, attempt: Attempt) -> None:
        """Gives up where the model was not heard in any of the first attempts: the others would fare no better."""
        progress = self.progress
        if attempt.ended not in _NO_ANSWER or has_reply(attempt.transcript):
            self._heard = True
        elif not self._heard:
            progress.unheard += 1
            if progress.unheard == UNHEARD and not self._stopping:
                progress.gave_up = True
                self.stop()
