"""Is a task's reach within a spend at least ρ? Spells tell: attempts in a row until one succeeds or the spend is over.

Where successes and failures cost differently, the success rate and the mean cost do not give the reach: failures that
run into a limit leave room for few attempts. But spells that follow one another are independent trials, each of which
is won with a probability that *is* the reach within the spend. So the same sequences as for attempts apply, at ρ itself
(derived in docs/measurement.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from testbed.stats.checks import BoolArray, FloatArray, IntArray, StatsError, positive, probability
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.sequences import log_e_above, log_e_below
from testbed.stats.verdicts import Accessibility, accessibility, statuses


@dataclass(frozen=True, eq=False)
class Spells:
    """The spells of T tasks.

    Attributes:
        n: Whole spells per task, shape (T,).
        c: Those that were won: a success ended within the spend.
        unfinished: Whether the last attempts belong to one that is neither won nor lost yet.
        attempts: Mean number of attempts of a whole spell; of all attempts where there is none.
    """

    n: IntArray
    c: IntArray
    unfinished: BoolArray
    attempts: FloatArray


def spells(arm: ArmOutcomes, axis: str, spend: float) -> Spells:
    """Cut every task's attempts, in their order, into spells.

    A spell ends with a success within the spend, or with the attempt that takes it beyond the spend. That attempt
    belongs to no other spell: to begin one with an attempt that is known to be dear would not be a fresh start.

    Args:
        arm: Its outcomes, with costs on the axis.
        axis: A component of cost.
        spend: What a spell may cost, > 0.

    Raises:
        StatsError: Attempts at a task cost nothing, so that no spend limits them.
    """
    positive(spend, "spend")
    costs = arm.cost(axis)
    rows = []
    for task, (first, last) in enumerate(zip(arm.offsets[:-1].tolist(), arm.offsets[1:].tolist(), strict=True)):
        if last > first and not costs[first:last].any():
            raise StatsError(
                f"{arm.where(task)}attempts cost nothing on axis {axis!r}: "
                "no spend on it limits them; choose another axis"
            )
        rows.append(_cut(costs[first:last], arm.success[first:last], spend))
    n, c, rest = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    used = arm.n - rest
    return Spells(n, c, rest > 0, np.where(n > 0, used / np.maximum(n, 1), np.maximum(arm.n, 1)))


def _cut(costs: FloatArray, success: npt.NDArray[np.bool_], spend: float) -> tuple[int, int, int]:
    """Whole spells, won ones, and attempts of an unfinished one."""
    whole = won = length = 0
    left = spend
    for cost, succeeded in zip(costs.tolist(), success.tolist(), strict=True):
        length += 1
        left -= cost
        if left < 0 or succeeded:
            whole, won = whole + 1, won + (left >= 0)
            left, length = spend, 0
    return whole, won, length


def evidence_at_spend(
    arm: ArmOutcomes, axis: str, spend: float, rho_in: float, rho_out: float
) -> tuple[FloatArray, FloatArray]:
    """Return log e-values against "reach within the spend ≤ rho_in" and against "reach ≥ rho_out", per task.

    An unfinished spell counts against the claim in both: which spell is under way when attempts run out is no accident,
    since spells that will be lost last longer.

    Args:
        arm: Its outcomes, with costs on the axis.
        axis: A component of cost.
        spend: The spend, > 0.
        rho_in: Reach that counts as accessible.
        rho_out: Reach below which a task is out.
    """
    found = spells(arm, axis, spend)
    n = found.n + found.unfinished
    return log_e_above(n, found.c, rho_in), log_e_below(n, found.c + found.unfinished, rho_out)


def accessibility_at_spend(
    arm: ArmOutcomes, axis: str, spend: float, *, rho: float | tuple[float, float] = 0.5, alpha: float = 0.05
) -> Accessibility:
    """Decide for each task whether its reach within a spend is at least ρ, anytime-valid at level α.

    In the record, ``p_out`` and ``p_in`` are probabilities of winning a spell, so ρ itself; ``n`` counts attempts, and
    ``needed`` as many as spells of the length seen so far will take.

    Args:
        arm: Its outcomes, with costs on the axis.
        axis: A component of cost.
        spend: The spend, > 0.
        rho: Reach that counts as accessible, or a pair (ρ_out, ρ_in).
        alpha: Chance that a task's status is ever wrong.

    Raises:
        StatsError: Attempts at a task cost nothing on this axis.
    """
    found = spells(arm, axis, spend)
    rho_out, rho_in = rho if isinstance(rho, tuple) else (rho, rho)
    probability([rho_out, rho_in], "rho", open_ends=True)
    by_spells = accessibility(found.n, found.c, 1.0, rho=rho, alpha=alpha, where=arm.where)
    above, below = evidence_at_spend(arm, axis, spend, rho_in, rho_out)
    return replace(
        by_spells,
        status=statuses(above, below, alpha),
        n=arm.n,
        log_e_in=above,
        log_e_out=below,
        needed=by_spells.needed.times(found.attempts),
    )
