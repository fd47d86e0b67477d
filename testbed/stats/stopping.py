"""When sampling of one task in one arm may stop, because its accessibility is settled.

The rule looks at the attempts of its own task and arm only, in the order of their sample index, and only at the ends
of blocks whose sizes follow from the outcomes before them. So which attempts are made depends neither on other arms and
tasks nor on the order in which attempts end; and as the statements are anytime-valid, their level holds wherever
the rule stops. What stopping biases is in docs/measurement.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.stats.checks import FloatArray, StatsError, probability
from testbed.stats.sequences import attempts_still_needed, p_star

BLOCK = 16  # least attempts between two looks: fewer save little, and models share the prompt's prefill in a block
_GROWTH = 8  # from 128 attempts on, an eighth of those made
UNKNOWN = -2  # in arrays of outcomes: not made yet

Outcomes = NDArray[np.int8]  # by sample index: 1, 0, −1 (missing) or UNKNOWN


@dataclass(frozen=True)
class StoppingRule:
    """Make ``least`` attempts at a task in any case, then go on until its status is settled, at most ``most``.

    Attributes:
        least: attempts made whatever their outcomes, at least 1: the ones that unbiased estimates are made from.
        most: attempts at most.
        k: affordable attempts K at which accessibility is judged.
        rho: reach that counts as accessible, or a pair (ρ_out, ρ_in).
        alpha: level.
    """

    least: int
    most: int
    k: float
    rho: float | tuple[float, float] = 0.5
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse a rule that makes no attempt or whose greatest number is below its least."""
        if not 1 <= self.least <= self.most:
            raise StatsError(f"a stopping rule needs 1 ≤ least ≤ most, not {self.least} and {self.most}")
        probability(self.alpha, "alpha", open_ends=True)
        rho_out, rho_in = self.rho if isinstance(self.rho, tuple) else (self.rho, self.rho)
        if not p_star(rho_out, self.k) <= p_star(rho_in, self.k):  # which refuses what is no reach and no number
            raise StatsError(f"rho_out = {rho_out} must not exceed rho_in = {rho_in}")

    def look(self, made: int, scored: int, successes: int) -> int:
        """Return how many attempts there are to be at the next look; ``made`` itself where sampling stops.

        It stops where the status is settled, where ``most`` are made, and where not even straight failures or straight
        successes could settle it within ``most``.

        Args:
            made: attempts made so far, those that the infrastructure ended included.
            scored: of these, the ones with an outcome.
            successes: of these, the successful ones.
        """
        if made < self.least:
            return self.least
        soonest = float(self._needed(scored).soonest[successes])
        if soonest == 0 or made + soonest > self.most:
            return made
        return self.beyond(made, int(soonest))

    def beyond(self, made: int, soonest: int = 1) -> int:
        """Return the end of the block after ``made`` attempts: at least ``soonest`` more, but no more than ``most``."""
        return min(made + max(soonest, BLOCK, made // _GROWTH), self.most)

    def still_needed(self, made: int, scored: int, successes: int) -> float:
        """Return the further attempts projected until sampling stops, at the rate seen so far; 0 where it stops."""
        if made >= self.least and self.look(made, scored, successes) == made:
            return 0.0
        projected = float(self._needed(scored).projected[successes])
        return float(min(max(projected, self.least - made), self.most - made))

    def blocks(self, outcomes: ArrayLike) -> tuple[int, ...]:
        """Return the ends of the blocks of attempts that the rule asks for, given the outcomes so far.

        Args:
            outcomes: 1, 0, or −1 (missing) by sample index; `UNKNOWN` or the end where an attempt is not made yet.

        Returns:
            Rising numbers of attempts, the first ``least``. If the last is beyond the attempts made without a gap,
            it is wanted next; else the rule stopped there.
        """
        return self._onward([self.least], np.asarray(outcomes, dtype=np.int8))

    def _onward(self, ends: Sequence[int], outcomes: Outcomes) -> tuple[int, ...]:
        """Return the blocks with those that follow as long as the last one is complete and is not enough."""
        found, there = list(ends), made_without_gap(outcomes)
        while found[-1] <= there:
            following = self.look(found[-1], *counted(outcomes[: found[-1]]))
            if following == found[-1]:
                break
            found.append(following)
        return tuple(found)

    def least_to_settle(self) -> tuple[float, float]:
        """Return the straight failures that settle *out* and the straight successes that settle *in*."""
        found = self._needed(0)
        return float(found.out[0]), float(found.within[0])

    def _needed(self, scored: int) -> _Needed:
        return _needed(scored, self.k, self.rho, self.alpha)


def blocks_with_replays(
    live: StoppingRule, outcomes: Outcomes, replays: Sequence[tuple[StoppingRule, Outcomes]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Return the blocks asked for of an arm and of arms that replay its attempts, each of them once.

    A replaying arm can have no more attempts than the live one made. So the live arm goes on, block by block, also
    beyond its own stop, as long as one that replays it is not settled.

    Args:
        live: the rule of the arm that is replayed.
        outcomes: its outcomes, as in `StoppingRule.blocks`.
        replays: rule and outcomes of each arm that replays it; ``least`` at most the live arm's.
    """
    ends = live.blocks(outcomes)
    while True:
        complete = ends[-1] <= made_without_gap(outcomes)
        most = ends[-1] if complete else ends[-2] if len(ends) > 1 else live.least
        found = [replace(rule, most=min(rule.most, most)).blocks(own) for rule, own in replays]
        if not complete or ends[-1] == live.most:
            return ends, found
        if not any(_wants_more(rule, own, made[-1]) for (rule, own), made in zip(replays, found, strict=True)):
            return ends, found
        ends = live._onward([*ends, live.beyond(ends[-1])], outcomes)


def _wants_more(rule: StoppingRule, outcomes: Outcomes, made: int) -> bool:
    """Return whether a block is complete and not enough."""
    return made <= made_without_gap(outcomes) and rule.look(made, *counted(outcomes[:made])) > made


def made_without_gap(outcomes: Outcomes) -> int:
    """Return how many attempts were made before the first that was not."""
    gaps = np.flatnonzero(outcomes == UNKNOWN)
    return int(gaps[0]) if gaps.size else outcomes.size


def counted(outcomes: Outcomes) -> tuple[int, int]:
    """Return how many attempts were scored and how many of them succeeded."""
    return int(np.count_nonzero(outcomes >= 0)), int(np.count_nonzero(outcomes == 1))


@dataclass(frozen=True, eq=False)
class _Needed:
    """Further attempts for each number of successes 0…n: until settled at the soonest, and at the rate seen so far."""

    soonest: FloatArray
    projected: FloatArray
    out: FloatArray
    within: FloatArray


@lru_cache(maxsize=1024)
def _needed(n: int, k: float, rho: float | tuple[float, float], alpha: float) -> _Needed:
    """For all numbers of successes at once: a run asks for few n, and for many tasks each."""
    rho_out, rho_in = rho if isinstance(rho, tuple) else (rho, rho)
    found = attempts_still_needed(n, np.arange(n + 1), p_star(rho_out, k), p_star(rho_in, k), alpha)
    return _Needed(
        np.minimum(found.if_all_fail, found.if_all_succeed),
        found.at_this_rate,
        found.if_all_fail,
        found.if_all_succeed,
    )
