"""Which attempt comes next, and how far the run is."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from testbed.experiment import Cell


@dataclass
class Progress:
    """Counts of a run under way, read by whatever shows them.

    Attributes:
        total: attempts of the experiment.
        resumed: found in the store.
        done: durable, the resumed ones included.
        missing: ended by the infrastructure after all retries.
        retried: faults of the infrastructure that led to another try.
        generated_tokens: tokens written since the run began.
        solved: per arm, the indices of tasks with at least one success so far.
        started: monotonic time of the start.
    """

    total: int = 0
    resumed: int = 0
    done: int = 0
    missing: int = 0
    retried: int = 0
    generated_tokens: int = 0
    usd: float = 0.0
    solved: dict[str, set[int]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)


class RetryQueue:
    """Hands out cells: those whose retry is due first, then new ones. A cell that waits for its retry holds no slot."""

    def __init__(self, cells: Iterator[Cell], stopping: Callable[[], bool]) -> None:
        self._cells, self._stopping = cells, stopping
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
            fresh = next(self._cells, None)
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

    def done(self) -> None:
        """Says that one cell handed out is finished or queued again."""
        self._under_way -= 1
        if self._under_way == 0:
            self._changed.set()
