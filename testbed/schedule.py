"""Which attempt comes next, and how far the run is."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from testbed.causes import Causes
from testbed.errors import GivenUp
from testbed.experiment import Cell
from testbed.types import AGENT_ERROR, AGENT_SILENT, CONTEXT_FULL, Attempt, Status


@dataclass
class Progress:
    """Counts of a run under way, read by whatever shows them.

    Attributes:
        total: attempts of the experiment at most; falls where sampling stops early.
        resumed: found in the store.
        elsewhere: made here, but stored by another process before.
        done: durable, the resumed ones included.
        missing: ended by the infrastructure after all retries, or given up.
        given_up: of these, in the middle of which the run was ended.
        causes: why those are missing.
        broken: why others failed without an answer, by their agent or a prompt beyond the context.
        unheard: attempts ended, before the model first wrote anything, by its not being reached.
        gave_up: whether so many were unheard that the run ended early.
        retried: faults of the infrastructure that led to another try.
        generated_tokens: tokens written since the run began.
        solved: per arm, the indices of tasks with at least one success so far.
        cells: task × arm whose sampling may stop early.
        settled: how many of them have stopped.
        started: monotonic time of the start.
    """

    total: int = 0
    resumed: int = 0
    elsewhere: int = 0
    done: int = 0
    missing: int = 0
    given_up: int = 0
    causes: Causes = field(default_factory=Causes)
    broken: Causes = field(default_factory=lambda: Causes("failed without an answer"))
    unheard: int = 0
    gave_up: bool = False
    retried: int = 0
    generated_tokens: int = 0
    usd: float = 0.0
    solved: dict[str, set[int]] = field(default_factory=dict)
    cells: int = 0
    settled: int = 0
    started: float = field(default_factory=time.monotonic)

    def count(self, attempt: Attempt, arm: str, task: int) -> None:
        """Counts an attempt that is durable.

        Args:
            attempt: that was made now.
            arm: its arm's name.
            task: index of its task.
        """
        self.done += 1
        self.generated_tokens += attempt.cost.generated_tokens
        self.usd += attempt.cost.usd
        if attempt.status is Status.MISSING:
            self.missing += 1
            self.given_up += attempt.ended == f"missing:{GivenUp.kind}"
            self.causes.add(attempt)
        elif attempt.ended in (AGENT_ERROR, AGENT_SILENT, CONTEXT_FULL):
            self.broken.add(attempt)
        elif attempt.success:
            self.solved.setdefault(arm, set()).add(task)


class RetryQueue:
    """Hands out cells: those whose retry is due first, then new ones. A cell that waits for its retry holds no slot.

    Args:
        fresh: the next new cell, or None where there is none now; the end of one that is under way may bring more.
        stopping: whether no further cell is to be handed out.
    """

    def __init__(self, fresh: Callable[[], Cell | None], stopping: Callable[[], bool]) -> None:
        self._fresh, self._stopping = fresh, stopping
        self._waiting: list[tuple[float, int, Cell, int]] = []
        self._order = itertools.count()
        self._under_way = 0
        self._changed = asyncio.Event()

    async def next(self) -> tuple[Cell, int] | None:
        """The next cell and how often it was tried, or None when all is done."""
        while True:
            if self._stopping():
                return None
            now = time.monotonic()
            if self._waiting and self._waiting[0][0] <= now:
                _, _, cell, tries = heapq.heappop(self._waiting)
                self._under_way += 1
                return cell, tries
            fresh = self._fresh()
            if fresh is not None:
                self._under_way += 1
                return fresh, 0
            if not self._waiting and self._under_way == 0:
                return None
            due = self._waiting[0][0] - now if self._waiting else 0.25
            self._changed.clear()
            try:
                async with asyncio.timeout(min(max(due, 0.001), 0.25)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def again(self, cell: Cell, tries: int, delay: float) -> None:
        """Queues a cell for another try after `delay` seconds."""
        heapq.heappush(self._waiting, (time.monotonic() + delay, next(self._order), cell, tries))

    def done(self, *, more: bool = False) -> None:
        """Says that one cell handed out is finished or queued again; `more`: that brought new ones."""
        self._under_way -= 1
        if more or self._under_way == 0:
            self._changed.set()
