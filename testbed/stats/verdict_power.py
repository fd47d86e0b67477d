"""How many attempts at one task settle whether it is accessible, if its success probability is known.

Exact: the counts (n, c) are followed attempt by attempt, and leave where a confidence sequence settles them. Beside it
stands the exact binomial test with a number of attempts fixed in advance, which is cheaper and may not be peeked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, bdtrc

from testbed.stats.checks import BoolArray, FloatArray, IntArray, StatsError, probability
from testbed.stats.sequences import log_e_above, log_e_below

MOST = 100_000  # attempts at a task that anybody plans
_BLOCK = 1024


@dataclass(frozen=True)
class VerdictAttempts:
    """Attempts that settle a task of a known success probability.

    Attributes:
        probability: Its success probability p.
        status: What it is: "in" or "out".
        fixed: Least number, fixed in advance, at which the exact test at level α says so with the power asked for;
            None above `MOST`.
        half: Attempts by which the confidence sequence has said so with probability ½; None above `MOST`.
        anytime: The same with the power asked for.
    """

    probability: float
    status: str
    fixed: int | None
    half: int | None
    anytime: int | None


def attempts_for_verdict(
    p: float,
    p_out: float,
    p_in: float | None = None,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    most: int = MOST,
) -> VerdictAttempts:
    """Return how many attempts settle a task whose success probability is ``p``.

    Args:
        p: Success probability; below ``p_out`` or from ``p_in`` on.
        p_out: Threshold below which a task is out (`p_star`), in (0, 1).
        p_in: Threshold from which it is in; ``p_out`` where left out.
        alpha: Level of the verdict.
        power: Probability with which it is to be settled rightly, in (0, 1).
        most: Give up beyond this number of attempts.

    Raises:
        StatsError: p lies between the thresholds, or on the only one, where no number of attempts settles it.
    """
    status = _status(p, p_out, p_out if p_in is None else p_in)
    probability(alpha, "alpha", open_ends=True)
    probability(power, "power", open_ends=True)
    settled = settled_by(p, p_out, p_in, alpha=alpha, most=most, until=max(power, 0.5))
    return VerdictAttempts(
        probability=p,
        status=status,
        fixed=_fixed(p, p_out if p_in is None or status == "out" else p_in, status, alpha, power, most),
        half=_first(settled >= 0.5),
        anytime=_first(settled >= power),
    )


def settled_by(
    p: float,
    p_out: float,
    p_in: float | None = None,
    *,
    alpha: float = 0.05,
    most: int = MOST,
    until: float = 1.0,
) -> FloatArray:
    """Return the chance that a task is rightly settled by attempt 0, 1, …, if sampling stops when it is settled.

    Args:
        p: Success probability, not between the thresholds.
        p_out: Threshold below which a task is out, in (0, 1).
        p_in: Threshold from which it is in; ``p_out`` where left out.
        alpha: Level of the confidence sequence.
        most: Last attempt.
        until: Stop early where the chance has reached this.

    Returns:
        Chances, shape (N + 1,), N ≤ ``most``; they do not fall.
    """
    probability(alpha, "alpha", open_ends=True)
    high = p_out if p_in is None else p_in
    out_is_right = _status(p, p_out, high) == "out"
    chances = [np.zeros(1)]
    alive, first, right = np.ones(1), 0, 0.0  # probabilities of first, first + 1, … successes, unsettled
    for start in range(1, most + 1, _BLOCK):
        n = np.arange(start, min(start + _BLOCK, most + 1))
        below, above = _boundaries(n, p_out, high, alpha)
        found = np.empty(n.size)
        for i in range(n.size):
            alive = np.append(alive * (1 - p), 0.0) + np.append(0.0, alive * p)
            low = max(0, int(below[i]) + 1 - first)  # positions before are out
            top = max(low, int(above[i]) - first)  # positions from here on are in
            right += float(alive[:low].sum() if out_is_right else alive[top:].sum())
            alive, first = alive[low:top], first + low
            found[i] = right
        chances.append(np.minimum(found, 1.0))
        if right >= until or not alive.size:
            break
    whole = np.concatenate(chances)
    enough = _first(whole >= until)
    return whole if enough is None else whole[: enough + 1]


def _status(p: float, p_out: float, p_in: float) -> str:
    probability(p, "the success probability")
    probability([p_out, p_in], "the threshold", open_ends=True)
    if p_out > p_in:
        raise StatsError(f"p_out = {p_out:g} must not exceed p_in = {p_in:g}")
    if p_out <= p <= p_in:
        where = f"on the threshold {p_in:g}" if p_out == p_in else f"between the thresholds {p_out:g} and {p_in:g}"
        raise StatsError(f"p = {p:g} lies {where}: no number of attempts settles it")
    return "out" if p < p_out else "in"


def _boundaries(n: IntArray, p_out: float, p_in: float, alpha: float) -> tuple[IntArray, IntArray]:
    """Return per n the most successes that settle *out* (−1: none) and the fewest that settle *in* (n + 1: none)."""
    limit = np.log(1 / alpha)
    # The evidence falls with c up to n·p_out, and rises from n·p_in.
    low, high = np.full(n.shape, -1), np.floor(n * p_out).astype(np.int64) + 1
    while (high - low > 1).any():
        middle = np.maximum((low + high) // 2, 0)
        out = log_e_below(n, middle, p_out) >= limit
        moving = high - low > 1
        low, high = np.where(moving & out, middle, low), np.where(moving & ~out, middle, high)
    below = low
    low, high = np.ceil(n * p_in).astype(np.int64) - 1, n + 1
    while (high - low > 1).any():
        middle = np.clip((low + high) // 2, 0, n)
        inside = log_e_above(n, middle, p_in) >= limit
        moving = high - low > 1
        low, high = np.where(moving & ~inside, middle, low), np.where(moving & inside, middle, high)
    return below, high


def _fixed(p: float, threshold: float, status: str, alpha: float, power: float, most: int) -> int | None:
    """Return the least n at which the exact one-sided test of ``threshold`` at level α has the power."""
    for start in range(1, most + 1, _BLOCK):
        n = np.arange(start, min(start + _BLOCK, most + 1))
        low, high = np.full(n.shape, -1), n + 1
        # The last c with P(at most c) ≤ α under the threshold; mirrored for *in*.
        while (high - low > 1).any():
            middle = np.clip((low + high) // 2, 0, n)
            tail = bdtr(middle, n, threshold) if status == "out" else bdtrc(n - middle - 1, n, threshold)
            tail = np.where(middle >= n, 1.0, tail)
            moving = high - low > 1
            low = np.where(moving & (tail <= alpha), middle, low)
            high = np.where(moving & (tail > alpha), middle, high)
        reached = bdtr(np.maximum(low, 0), n, p) if status == "out" else bdtrc(n - np.maximum(low, 0) - 1, n, p)
        found = _first(np.where(low < 0, 0.0, reached) >= power)
        if found is not None:
            return int(n[found])
    return None


def _first(true: BoolArray) -> int | None:
    places = np.flatnonzero(true)
    return int(places[0]) if places.size else None
