"""What may be said about each task: is it accessible to an arm, and did the tools change that?

A task is *accessible* to an arm when its reach at the spend is at least ρ. The verdict on a pair of arms is an
intersection–union test: *expanded* needs the bare arm *out* and the tool arm *in*, each at level α. Its e-value is the
smaller of the two, so e-BH (Wang & Ramdas 2022) controls the false discovery rate over tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.stats.checks import (
    NOWHERE,
    BoolArray,
    FloatArray,
    IntArray,
    StatsError,
    Where,
    counts,
    level,
    numbers,
    probability,
    together,
)
from testbed.stats.sequences import AttemptsNeeded, attempts_still_needed, log_e_above, log_e_below, p_star


class Status(StrEnum):
    """Accessibility of one task to one arm."""

    IN = "in"
    OUT = "out"
    UNDETERMINED = "undetermined"


class Verdict(StrEnum):
    """What became of one task between the bare arm and the tool arm."""

    PRESERVED = "preserved"
    EXPANDED = "expanded"
    LOST = "lost"
    OUT_OF_REACH = "out of reach"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, eq=False)
class Accessibility:
    """Accessibility of T tasks to one arm, anytime-valid at level α.

    Attributes:
        status: T values of `Status`, as an object array.
        n: Attempts it cost, shape (T,).
        p_out: Success probability below which a task is out, shape (T,).
        p_in: Success probability from which it is in, shape (T,); equal to ``p_out`` unless a pair ρ was given.
        log_e_in: Log e-value against "p ≤ p_in", shape (T,).
        log_e_out: Log e-value against "p ≥ p_out", shape (T,).
        needed: Further attempts until it is settled.
        alpha: The level.
    """

    status: NDArray[np.object_]
    n: IntArray
    p_out: FloatArray
    p_in: FloatArray
    log_e_in: FloatArray
    log_e_out: FloatArray
    needed: AttemptsNeeded
    alpha: float

    def count(self, status: Status) -> int:
        """Return how many tasks have ``status``."""
        return int(np.count_nonzero(self.status == status))


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Verdicts on T tasks.

    Attributes:
        verdict: T values of `Verdict`, as an object array; each claim at level α by itself.
        expanded_fdr: Tasks that e-BH declares expanded with false discovery rate ≤ α over the suite, shape (T,).
        lost_fdr: The same for lost.
        log_e_expanded: Log e-value against "not expanded", shape (T,).
        log_e_lost: Log e-value against "not lost", shape (T,).
        spent: Attempts of both arms per task, shape (T,).
        needed: Further attempts (both arms together, at the rates seen so far) until the verdict is settled;
            0 where settled, inf where a rate sits on its threshold. A projection. Shape (T,).
        bare: Accessibility to the bare arm.
        tool: Accessibility to the tool arm.
        alpha: The level.
    """

    verdict: NDArray[np.object_]
    expanded_fdr: BoolArray
    lost_fdr: BoolArray
    log_e_expanded: FloatArray
    log_e_lost: FloatArray
    spent: IntArray
    needed: FloatArray
    bare: Accessibility
    tool: Accessibility
    alpha: float

    @property
    def counts(self) -> dict[str, int]:
        """Number of tasks per verdict, in the order of `Verdict`, zeros included."""
        return {v.value: int(np.count_nonzero(self.verdict == v)) for v in Verdict}


def accessibility(
    n: ArrayLike,
    c: ArrayLike,
    k: ArrayLike,
    *,
    rho: float | tuple[float, float] = 0.5,
    alpha: float = 0.05,
    where: Where = NOWHERE,
) -> Accessibility:
    """Decide for each task whether its reach with K affordable attempts is at least ρ.

    Args:
        n: Attempts per task, shape (T,).
        c: Successes per task.
        k: Affordable attempts K per task, or one number for all; K = spend / mean cost of an attempt.
        rho: Reach that counts as accessible, or a pair (ρ_out, ρ_in): out below the first, in from the second on.
        alpha: Chance that the confidence sequence of a task ever misleads.
        where: Names for error messages.
    """
    attempts, successes = counts(np.atleast_1d(n), np.atleast_1d(c), where)
    rho_out, rho_in = rho if isinstance(rho, tuple) else (rho, rho)
    probability([rho_out, rho_in], "rho", open_ends=True)
    if rho_out > rho_in:
        raise StatsError(f"rho_out = {rho_out} must not exceed rho_in = {rho_in}")
    level(alpha)
    attempts, successes, p_out, p_in = together(
        attempts=attempts, successes=successes, k=p_star(rho_out, k), k_in=p_star(rho_in, k)
    )
    above, below = log_e_above(attempts, successes, p_in), log_e_below(attempts, successes, p_out)
    status = statuses(above, below, alpha)
    needed = attempts_still_needed(attempts, successes, p_out, p_in, alpha)
    return Accessibility(status, attempts, p_out, p_in, above, below, needed, alpha)


def statuses(log_e_in: FloatArray, log_e_out: FloatArray, alpha: float) -> NDArray[np.object_]:
    """Return each task's `Status`: what the evidence at level α settles.

    Args:
        log_e_in: Log e-values against "below reach".
        log_e_out: Log e-values against "within reach".
        alpha: The level.
    """
    status = np.full(log_e_in.shape, Status.UNDETERMINED, dtype=object)
    status[log_e_in >= np.log(1 / alpha)] = Status.IN
    status[log_e_out >= np.log(1 / alpha)] = Status.OUT
    return status


def verdicts(bare: Accessibility, tool: Accessibility) -> Verdicts:
    """Combine the accessibility of the same tasks to two arms into verdicts.

    Raises:
        StatsError: Different numbers of tasks or levels.
    """
    if bare.status.shape != tool.status.shape:
        raise StatsError(f"{bare.status.size} tasks in the bare arm but {tool.status.size} in the tool arm")
    if bare.alpha != tool.alpha:
        raise StatsError(f"the arms were judged at different levels, {bare.alpha} and {tool.alpha}")
    table = {
        (Status.IN, Status.IN): Verdict.PRESERVED,
        (Status.OUT, Status.IN): Verdict.EXPANDED,
        (Status.IN, Status.OUT): Verdict.LOST,
        (Status.OUT, Status.OUT): Verdict.OUT_OF_REACH,
    }
    found = np.full(bare.status.shape, Verdict.UNDETERMINED, dtype=object)
    for (before, after), verdict in table.items():
        found[(bare.status == before) & (tool.status == after)] = verdict
    # The null "not expanded" is a union, so only the weaker of the two pieces of evidence counts against it.
    expanded = np.minimum(bare.log_e_out, tool.log_e_in)
    lost = np.minimum(bare.log_e_in, tool.log_e_out)
    return Verdicts(
        verdict=found,
        expanded_fdr=e_bh(expanded, bare.alpha),
        lost_fdr=e_bh(lost, bare.alpha),
        log_e_expanded=expanded,
        log_e_lost=lost,
        spent=bare.n + tool.n,
        needed=bare.needed.at_this_rate + tool.needed.at_this_rate,
        bare=bare,
        tool=tool,
        alpha=bare.alpha,
    )


def e_bh(log_e: ArrayLike, alpha: float = 0.05) -> BoolArray:
    """Return which of T hypotheses e-BH rejects: the k largest e-values, k the most with e_(k) ≥ T/(α k).

    The false discovery rate is at most α under any dependence between the e-values (Wang & Ramdas 2022).

    Args:
        log_e: Natural logarithms of T e-values.
        alpha: False discovery rate.
    """
    values = np.atleast_1d(numbers(log_e, "log e-values")).ravel()
    level(alpha)
    if np.isnan(values).any():
        raise StatsError("an e-value is not a number")
    order = np.argsort(-values, kind="stable")
    rank = np.arange(1, values.size + 1)
    passing = np.flatnonzero(values[order] >= np.log(values.size / (alpha * rank)))
    rejected = np.zeros(values.size, dtype=np.bool_)
    if passing.size:
        rejected[order[: passing[-1] + 1]] = True
    return rejected
