"""The order in which messages join the batch: attempts under way first, then those that begin alike, side by side."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from testbed.models.hf_prefix import Tokens
    from testbed.models.hf_row import Row


# A round lets in about twice as many as wait at a time, those that come meanwhile included; twice that is too long.
_LONG = 4


class Waits(Protocol):
    """Whatever waits with a row."""

    row: Row


J = TypeVar("J", bound=Waits)


class Waiting(Generic[J]):
    """Messages that wait for a place.

    An attempt's next message comes before attempts that have not begun: what stands before it is still in memory. New
    ones come in the order of their prompts, round and round, so that the samples of one prompt run at the same time and
    attend to one copy of it. Where others keep coming in between, so that a round has no end, the one that waits
    longest comes next.
    """

    def __init__(self) -> None:
        self._going: deque[J] = deque()
        self._new: list[tuple[Tokens, int, int, J]] = []  # with its number, and how many had joined when it came
        self._count, self._joined = 0, 0
        self._last: Tokens = ()  # prompt of the new one that joined last

    def __len__(self) -> int:
        return len(self._going) + len(self._new)

    def __iter__(self) -> Iterator[J]:
        return chain(self._going, (job for *_, job in self._new))

    def add(self, job: J) -> None:
        """Lets one more wait."""
        if job.row.position:
            self._going.append(job)
            return
        self._count += 1  # equal prompts in the order in which they came
        insort(self._new, (job.row.prompt, self._count, self._joined, job))

    def first(self, size: int) -> list[J]:
        """Those whose turn it is, at most so many."""
        at = self._turn()
        new = (job for *_, job in chain(islice(self._new, at, None), islice(self._new, at)))
        return list(islice(chain(self._going, new), size))

    def take(self, size: int) -> list[J]:
        """Those whose turn it is, so many; they wait no more."""
        jobs = self.first(size)
        new = jobs[len(self._going) :]
        if new:
            self._last = new[-1].row.prompt
            self._joined += len(new)
        taken = set(jobs)
        self.keep(lambda job: job not in taken)
        return jobs

    def keep(self, wanted: Callable[[J], bool]) -> None:
        """Lets only some of them wait on."""
        self._going = deque(job for job in self._going if wanted(job))
        self._new = [entry for entry in self._new if wanted(entry[-1])]

    def _turn(self) -> int:
        """The new one whose turn it is."""
        if not self._new:
            return 0
        longest = min(self._new, key=lambda entry: entry[1])
        if self._joined - longest[2] > _LONG * len(self._new):
            return self._new.index(longest)
        return bisect_left(self._new, self._last, key=lambda entry: entry[0])
