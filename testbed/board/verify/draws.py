"""Which attempts a model is asked to make again: those by which a forger gains most, and others evenly.

Reach over several attempts asks whether there is one success at a task. So one forged success at each task that is
otherwise unsolved pays most, and a few of those among many attempts are easily missed: successes at tasks where an arm
has few are drawn for themselves. All others are drawn evenly from each arm's successes and failures, so that no arm
hides behind another.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from testbed.board.verify.rerun import Again, Drawn

FEW = 2  # successes of an arm at a task, up to which each counts for much
MOST = 4096  # attempts of an entry, whatever its arms: they are held in memory
CHANCE = 0.05  # that more was otherwise than is said, and did not show


class Draws:
    """The draws of one entry; give it the attempts arm by arm and task by task.

    Args:
        arms: how many the entry has.
        most: attempts that are drawn, for each two arms; as many again of those of which only the model can tell.
        chance: draws them.
    """

    def __init__(self, arms: int, most: int, chance: random.Random) -> None:
        self._most, self._chance = min(most * -(-arms // 2), MOST), chance
        self._kept = -(-self._most // arms)
        self._odd: Drawn[Again] = Drawn(self._most, chance)
        self._telling: list[Drawn[Again]] = []
        self._even: list[Drawn[Again]] = []
        self._successes: list[Again] = []

    def begin_arm(self) -> None:
        """What comes now is of the next arm."""
        self._telling.append(Drawn(self._kept, self._chance))
        self._even += [Drawn(self._kept, self._chance) for _ in range(2)]

    def add(self, again: Again, *, odd: bool) -> None:
        """An attempt.

        Args:
            again: the attempt.
            odd: whether only the model can tell that it ended so, or in so few tokens.
        """
        success = bool(again.claimed.success)
        self._even[-1 if success else -2].add(again)
        if odd:
            self._odd.add(again)
        if success and len(self._successes) <= FEW:
            self._successes.append(again)

    def end_task(self) -> None:
        """The arm's attempts at the task are all there."""
        if len(self._successes) <= FEW:
            for again in self._successes:
                self._telling[-1].add(again)
        self._successes.clear()

    def choice(self) -> Choice:
        """What is drawn."""
        chosen: dict[str, Again] = {}
        telling = [self._shuffled(pool.kept) for pool in self._telling]
        even = [self._shuffled(pool.kept) for pool in self._even]
        _take_turns(telling, self._most // 2, chosen)
        few = len(chosen)
        looked_at = _take_turns(even, self._most, chosen)
        _take_turns(telling, self._most, chosen)
        chosen |= {again.claimed.id: again for again in self._odd.kept}
        evenly = [(pool.seen, ids) for pool, ids in zip(self._even, looked_at, strict=True)]
        return Choice(self._shuffled([*chosen.values()]), few, sum(pool.seen for pool in self._telling), evenly)

    def _shuffled(self, some: Sequence[Again]) -> list[Again]:
        return self._chance.sample(some, len(some))


@dataclass(frozen=True)
class Choice:
    """What was drawn, in an order that tells nothing: any beginning of it is as good a draw of fewer.

    Attributes:
        attempts: what the model is to make again.
        few: how many were drawn as successes at tasks where their arm has few.
        of_few: of how many such.
        evenly: of each arm's failures and successes: how many there are, and ids of those drawn evenly.
    """

    attempts: Sequence[Again]
    few: int
    of_few: int
    evenly: Sequence[tuple[int, Collection[str]]]

    def unseen(self, made: Sequence[Again]) -> float:
        """The largest share of an arm's successes, or failures, that can be otherwise and not show by `CHANCE`.

        Args:
            made: attempts that were made again, and came out the same.
        """
        ids = {again.claimed.id for again in made}
        return max((_unseen(there, len(ids.intersection(drawn))) for there, drawn in self.evenly), default=0.0)


def _unseen(there: int, drawn: int) -> float:
    """The share p with (1 - p)**drawn = `CHANCE`; 0 where all were drawn."""
    if drawn >= there:
        return 0.0
    return 1.0 - CHANCE ** (1.0 / drawn) if drawn else 1.0


def _take_turns(pools: Sequence[list[Again]], most: int, chosen: dict[str, Again]) -> list[set[str]]:
    """Adds from each pool in turn until so many are chosen; by pool, ids of what was come upon."""
    found: list[set[str]] = [set() for _ in pools]
    while len(chosen) < most and any(pools):
        for pool, ids in zip(pools, found, strict=True):
            if pool and len(chosen) < most:
                again = pool.pop()
                ids.add(again.claimed.id)
                chosen[again.claimed.id] = again
    return found
