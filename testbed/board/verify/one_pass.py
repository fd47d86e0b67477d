"""The one pass over an entry's attempts: each is gone through again, and what only many of them show is counted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn

from testbed.board.bundle import Bundle
from testbed.board.bundle_lines import ClaimedAttempt
from testbed.board.verify.arms import EntryArm
from testbed.board.verify.findings import Findings, Stopped
from testbed.board.verify.replay import Ground, Replayer, messages_of
from testbed.board.verify.rerun import Again, Drawn
from testbed.board.verify.spread import CONTEXT, Forged
from testbed.board.verify.tools import Remaker, leak_of
from testbed.env import Environment
from testbed.overlap import Question
from testbed.report.leaks import sought
from testbed.types import REDRAWN, Attempt, Cost, Grade, Status, Task, attempt_id, stream_key

REMADE = 2000  # attempts of an arm whose tool results are made again, about; of those that take a sandbox, ISOLATED
ISOLATED = 64
MADE_AGAIN = 64  # attempts of an entry that the model makes again, and as many of those that only it can tell of
MOST_CLOSELY = 8  # times as many at most, of an account whose entries were rejected before
MOST_MISSING = 0.05  # of an arm's attempts: more cannot be told from failures that were left out
# This share of the pairs of an arm's attempts at one task went the same and took the same time to the nanosecond: ten
# times what was counted in 2.7 million pairs of a fast local model. More than one in a thousand honest entries has by
# chance is forged. What took less than a millisecond tells nothing.
ALIKE_BY_CHANCE = 1e-5
RARE = 1e-3
SHORTEST = 1e-3
LONG = 400  # characters that a model wrote, from which on a word for word repetition is worth a remark
REMEMBERED = 4096  # grades
_MISSING = re.compile("missing:[a-z_]{1,40}")


@dataclass
class ArmPass:
    """What is known of one arm during the pass.

    Attributes:
        arm: the arm.
        replayer: goes through its attempts.
        remaker: makes its tool results again.
        stored: hash of the arm in the server's store.
        missing: attempts that the infrastructure is said to have ended, or whose first draw it is said to have lost.
        seconds: as claimed, summed.
        usd: likewise.
        called: attempts with tool results.
        remade: of these, those whose results were made again.
        pairs: pairs of attempts that could be alike.
        alike: attempts that are just like an earlier one, seconds included.
        repeated: attempts whose long text is just that of an earlier one.
    """

    arm: EntryArm
    replayer: Replayer
    remaker: Remaker
    stored: str
    missing: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    called: int = 0
    remade: int = 0
    pairs: int = 0
    alike: list[str] = field(default_factory=list)
    repeated: int = 0


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
        self._any, self._odd = (Drawn(MADE_AGAIN * closely, self._chance) for _ in range(2))
        self.unjudged = len(tasks) - len(self._questions)

    @property
    def again(self) -> list[Again]:
        """Attempts that the model is to make again."""
        return list({one.claimed.id: one for one in (*self._any.kept, *self._odd.kept)}.values())

    def check_descriptions(self) -> None:
        """Looks for tasks with their answers in what the model is told of itself and of its tools."""
        for arm in self._arms:
            text = json.dumps(arm.arm.claimed.spec, ensure_ascii=False)
            for task, question in self._questions.items():
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
            closely = min(1.0, self._closely * (ISOLATED if arm.remaker.isolated else REMADE) / of_arm)
            for task in self._bundle.tasks:
                cell = _Cell(arm)
                for sample in range(arm.arm.claimed.samples):
                    claimed = self._next(sent, arm, task.hash, sample)
                    where = f"attempt {claimed.id} (arm {arm.arm.name!r}, task {task.hash}, sample {sample})"
                    try:
                        async with asyncio.timeout(max(0.0, self._until - time.monotonic())) as clock:
                            keep(await self._check(claimed, arm, closely))
                    except Forged as forged:
                        self._findings.wrong(forged.check, f"{where}: {forged}.")
                    except TimeoutError:
                        if not clock.expired():  # another clock's, of the server's own
                            raise
                        self._too_long()
                    cell.add(claimed)
        for _ in sent:
            pass  # raises what is wrong behind the last one

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

    async def _check(self, claimed: ClaimedAttempt, arm: ArmPass, closely: float) -> Attempt:
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
        again = Again(claimed, ground, arm.replayer)
        self._any.add(again)
        if len(arm.replayer.short) > short or claimed.ended == CONTEXT:
            self._odd.add(again)
        if arm.arm.tools:
            await self._check_tools(attempt, arm, ground, closely)
        return attempt

    async def _check_tools(self, attempt: Attempt, arm: ArmPass, ground: Ground, closely: float) -> None:
        called = any(message["role"] == "tool" for message in attempt.transcript)
        if not called:
            return
        arm.called += 1
        self._check_leaks(attempt, ground)
        if not arm.remaker.why_not and self._chance.random() < closely:
            arm.remade += 1
            key = stream_key(attempt.seed, ground.task.hash, attempt.sample)
            await arm.remaker.check(attempt.transcript, ground.task, ground.environment, key)

    def _check_leaks(self, attempt: Attempt, ground: Ground) -> None:
        if overlap := leak_of(self._questions.get(ground.task.hash), attempt.transcript):
            raise Forged(f"a tool showed {overlap:.0%} of the task's words together with its answer", "leaks")


class _Cell:
    """The attempts of one arm at one task, for what only several of them show."""

    def __init__(self, arm: ArmPass) -> None:
        self._arm = arm
        self._timed: Counter[tuple[bytes, float]] = Counter()
        self._long: set[bytes] = set()
        self._slow = 0

    def add(self, claimed: ClaimedAttempt) -> None:
        """Compares an attempt with those before it."""
        if claimed.missing:
            return
        arm, seconds = self._arm, claimed.cost.seconds
        text = _content(claimed)
        if seconds >= SHORTEST:
            arm.pairs += self._slow
            self._slow += 1
            if self._timed[text, seconds]:
                arm.alike.append(claimed.id)
            self._timed[text, seconds] += 1
        if sum(len(message.content) for message in claimed.transcript if message.role == "assistant") >= LONG:
            arm.repeated += text in self._long
            self._long.add(text)


def grounds(environments: Sequence[Environment]) -> dict[str, Ground]:
    """What attempts are made on, by hash of the task; grades are remembered, since many answers are the same."""
    made: dict[str, Ground] = {}
    for environment in environments:
        remembered = _remembering(environment)
        made |= {task.hash: Ground(task, environment, remembered) for task in environment.tasks}
    return made


def _remembering(environment: Environment) -> Callable[[Task, str], Grade]:
    return lru_cache(REMEMBERED)(environment.grade)


def _content(claimed: ClaimedAttempt) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for message in claimed.transcript:
        digest.update(f"{message.role}\0{len(message.content)}\0{message.content}".encode("utf-8", "surrogatepass"))
    return digest.digest()


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
