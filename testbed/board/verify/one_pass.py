"""The one pass over an entry's attempts: each is gone through again, and what only many of them show is counted."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn

from testbed.board.bundle import Bundle
from testbed.board.bundle_lines import ClaimedAttempt
from testbed.board.verify.arm_pass import ArmPass, Cell
from testbed.board.verify.draws import FEW, Choice, Draws
from testbed.board.verify.findings import Findings, Stopped
from testbed.board.verify.replay import Ground, messages_of
from testbed.board.verify.rerun import Again, Drawn
from testbed.board.verify.spread import CONTEXT, Forged
from testbed.board.verify.tools import leak_of
from testbed.env import Environment
from testbed.overlap import Question
from testbed.report.leaks import sought
from testbed.types import REDRAWN, Attempt, Cost, Grade, Status, Task, attempt_id, stream_key

REMADE = 2000  # attempts of an arm whose tool results are made again, about; of those that take a sandbox, ISOLATED
ISOLATED = 64
MADE_AGAIN = 256  # attempts of each two arms that the model makes again, and as many of those that only it can tell of
MOST_CLOSELY = 8  # times as many at most, of an account whose entries were rejected before
MOST_MISSING = 0.05  # of an arm's attempts: more cannot be told from failures that were left out
REMEMBERED = 4096  # grades
_MISSING = re.compile("missing:[a-z_]{1,40}")


class Pass:
    """One pass over a bundle's attempts.

    Args:
        bundle: with its head read and found right.
        arms: of the entry, in its order.
        tasks: of the board.
        environments: which make and grade them.
        findings: where what is found goes.
        seconds: that it may take.
        closely: how many times as many attempts as usual are looked at more closely.

    Attributes:
        unjudged: how many tasks the guard against leaks cannot judge: their questions are too short.
    """

    def __init__(
        self,
        bundle: Bundle,
        arms: Sequence[ArmPass],
        tasks: Sequence[Task],
        environments: Sequence[Environment],
        findings: Findings,
        seconds: float,
        closely: int = 1,
    ) -> None:
        self._closely = closely
        self._bundle, self._arms, self._findings = bundle, arms, findings
        self._questions: Mapping[str, Question] = sought(tasks)
        self._grounds = grounds(environments)
        self._until = time.monotonic() + seconds
        self._chance = random.SystemRandom()  # nobody can know which attempts are looked at more closely
        self._draws = Draws(len(arms), MADE_AGAIN * closely, self._chance)
        self.unjudged = len(tasks) - len(self._questions)

    @property
    def again(self) -> Choice:
        """Attempts that the model is to make again."""
        return self._draws.choice()

    def check_descriptions(self) -> None:
        """Looks for tasks with their answers in what the model is told of itself and of its tools.

        Raises:
            Stopped: that takes too long, or what was found decides.
        """
        for arm in self._arms:
            text = json.dumps(arm.arm.claimed.spec, ensure_ascii=False)
            for task, question in self._questions.items():
                if time.monotonic() > self._until:
                    self._too_long()
                if question.flagged(text):
                    self._findings.wrong(
                        "leaks", f"the description of arm {arm.arm.name!r} tells the answer of task {task}."
                    )

    async def run(self, keep: Callable[[Attempt], None]) -> None:
        """Checks every attempt.

        Args:
            keep: takes each attempt as the server makes it out.

        Raises:
            Stopped: what was found decides.
        """
        sent = self._bundle.attempts()
        for arm in self._arms:
            of_arm = len(self._bundle.tasks) * arm.arm.claimed.samples
            self._draws.begin_arm()
            closely = min(1.0, self._closely * (ISOLATED if arm.remaker.isolated else REMADE) / of_arm)
            left = _Left(Drawn(ISOLATED * self._closely, self._chance))
            for task in self._bundle.tasks:
                cell = Cell(arm)
                for sample in range(arm.arm.claimed.samples):
                    claimed = self._next(sent, arm, task.hash, sample)
                    where = f"attempt {claimed.id} (arm {arm.arm.name!r}, task {task.hash}, sample {sample})"
                    async with self._told(where):
                        keep(await self._check(claimed, arm, closely, left))
                    cell.add(claimed)
                self._draws.end_task()
                left.end_task()
            for shown in left.drawn.kept:
                async with self._told(f"attempt {shown.claimed} (arm {arm.arm.name!r}, task {shown.attempt.task})"):
                    await self._remake(shown.attempt, arm, shown.ground)
        for _ in sent:
            pass  # raises what is wrong behind the last one

    @asynccontextmanager
    async def _told(self, where: str) -> AsyncIterator[None]:
        """Tells what is found wrong with an attempt, and stops where the time is up."""
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())) as clock:
                yield
        except Forged as forged:
            self._findings.wrong(forged.check, f"{where}: {forged}.")
        except TimeoutError:
            if not clock.expired():  # another clock's, of the server's own
                raise
            self._too_long()

    def _next(self, sent: Iterator[ClaimedAttempt], arm: ArmPass, task: str, sample: int) -> ClaimedAttempt:
        """The next attempt, which has to be that of a place in the grid."""
        if time.monotonic() > self._until:
            self._too_long()
        claimed, seed = next(sent, None), self._bundle.manifest.seed
        place = f"of arm {arm.arm.name!r}, task {task}, sample {sample}"
        if claimed is None:
            self._findings.wrong("structure", f"the attempt {place}, and those after it, are not there.")
            raise Stopped
        if (claimed.arm, claimed.task, claimed.sample) != (arm.arm.claimed.hash, task, sample):
            self._findings.wrong(
                "structure",
                f"in the place of the attempt {place}, there is attempt {claimed.id}, of task {claimed.task}, sample "
                f"{claimed.sample}: every sample of every task has to be there once, in order.",
            )
            raise Stopped
        if claimed.seed != seed or claimed.id != attempt_id(task, arm.arm.claimed.hash, sample, seed):
            self._findings.wrong("structure", f"attempt {claimed.id} {place}, has another seed, or the id of another.")
        return claimed

    def _too_long(self) -> NoReturn:
        self._findings.wrong("bundle", "checking it takes longer than this server has for an entry.")
        raise Stopped

    async def _check(self, claimed: ClaimedAttempt, arm: ArmPass, closely: float, left: _Left) -> Attempt:
        arm.seconds += claimed.cost.seconds
        arm.usd += claimed.cost.usd
        ground = self._grounds[claimed.task]
        id = attempt_id(claimed.task, arm.stored, claimed.sample, claimed.seed)
        arm.missing += claimed.missing or bool(claimed.faults.get(REDRAWN))
        if claimed.missing:
            lost = _missing(claimed, id, arm.stored)
            self._check_leaks(lost, ground)
            return lost
        short = len(arm.replayer.short)
        attempt = await arm.replayer.attempt(claimed, ground, id, arm.stored)
        if arm.replayer.known.model is not None:  # else nobody asks it
            odd = len(arm.replayer.short) > short or claimed.ended == CONTEXT
            self._draws.add(Again(claimed, ground, arm.replayer), odd=odd)
        if arm.arm.tools:
            left.successes += bool(attempt.success)
            if await self._check_tools(attempt, arm, ground, closely) and attempt.success:
                left.shown.append(_Shown(claimed.id, attempt, ground))
        return attempt

    async def _check_tools(self, attempt: Attempt, arm: ArmPass, ground: Ground, closely: float) -> bool:
        """Returns whether there are tool results that could be made again, and were not."""
        if not any(message["role"] == "tool" for message in attempt.transcript):
            return False
        arm.called += 1
        self._check_leaks(attempt, ground)
        if arm.remaker.why_not or self._chance.random() >= closely:
            return not arm.remaker.why_not
        await self._remake(attempt, arm, ground)
        return False

    async def _remake(self, attempt: Attempt, arm: ArmPass, ground: Ground) -> None:
        key = stream_key(attempt.seed, ground.task.hash, attempt.sample)
        whole = await arm.remaker.check(attempt.transcript, ground.task, ground.environment, key)
        arm.remade += 1
        arm.unsettled += not whole

    def _check_leaks(self, attempt: Attempt, ground: Ground) -> None:
        if overlap := leak_of(self._questions.get(ground.task.hash), attempt.transcript):
            raise Forged(f"a tool showed {overlap:.0%} of the task's words together with its answer", "leaks")


@dataclass(frozen=True)
class _Shown:
    """An attempt whose tool results were not made again.

    Attributes:
        claimed: its author's id of it.
        attempt: as the server makes it out.
        ground: what it was made on.
    """

    claimed: str
    attempt: Attempt
    ground: Ground


@dataclass
class _Left:
    """Of one arm: successes at tasks where it has few, whose tool results were not made again yet.

    Attributes:
        drawn: some of them.
        shown: successes at the present task that were not drawn before.
        successes: all at the present task.
    """

    drawn: Drawn[_Shown]
    shown: list[_Shown] = field(default_factory=list)
    successes: int = 0

    def end_task(self) -> None:
        """The arm's attempts at the task are all there."""
        if self.successes <= FEW:
            for one in self.shown:
                self.drawn.add(one)
        self.shown.clear()
        self.successes = 0


def grounds(environments: Sequence[Environment]) -> dict[str, Ground]:
    """What attempts are made on, by hash of the task; grades are remembered, since many answers are the same."""
    made: dict[str, Ground] = {}
    for environment in environments:
        remembered = _remembering(environment)
        made |= {task.hash: Ground(task, environment, remembered) for task in environment.tasks}
    return made


def _remembering(environment: Environment) -> Callable[[Task, str], Grade]:
    return lru_cache(REMEMBERED)(environment.grade)


def _missing(claimed: ClaimedAttempt, id: str, arm: str) -> Attempt:
    """An attempt that is missing data, with what can be read of it and nothing that counts.

    Raises:
        Forged: it says how it fared all the same.
    """
    if not _MISSING.fullmatch(claimed.ended) or claimed.success is not None:
        raise Forged(f"it is said to be missing, and to have ended by {claimed.ended!r:.80}")
    return Attempt(
        id=id,
        task=claimed.task,
        arm=arm,
        sample=claimed.sample,
        seed=claimed.seed,
        status=Status.MISSING,
        ended=claimed.ended,
        success=None,
        score=None,
        answer=None,
        cost=Cost(),
        transcript=messages_of(claimed),
    )
