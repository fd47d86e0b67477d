"""Support metrics of "The Invisible Leash" (Wu et al. 2025): SRR, NDR, SDS and NSCR.

P tasks are solved by both arms, E by the tool arm only, S by the bare arm only. "Solved" in their sense means solved
at least once in k attempts. With n ≥ k attempts the counts' expectation over which k of them one happened to keep
is a sum of products of reach@k, which is what `empirical_support` returns: no luck of the draw, no plug-in.

Two samples of the very same policy show E > 0 and S > 0. So these figures mean nothing without the null row beside
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.checks import FloatArray, StatsError, finite, probability


@dataclass(frozen=True)
class SupportMetrics:
    """SRR, NDR, SDS, NSCR; None where the denominator is 0.

    Attributes:
        srr: Support retention P/(P+S): what the bare arm solved and the tool arm still solves.
        ndr: Net discovery E/(P+E): how much of what the tool arm solves is new.
        sds: Harmonic mean of the two; 0 where one of them is 0.
        nscr: Net support change (E−S)/(P+E+S).
    """

    srr: float | None
    ndr: float | None
    sds: float | None
    nscr: float | None


@dataclass(frozen=True, eq=False)
class SupportCounts:
    """Expected share of each task in P, E and S, each of shape (T,), in [0, 1]."""

    preserved: FloatArray
    expanded: FloatArray
    shrunk: FloatArray


def support_metrics(preserved: float, expanded: float, shrunk: float) -> SupportMetrics:
    """Return the metrics of counts P, E and S (whole or expected numbers of tasks, ≥ 0)."""
    if (finite([preserved, expanded, shrunk], "P, E, S") < 0).any():
        raise StatsError(f"P, E, S must be numbers ≥ 0, not {preserved}, {expanded}, {shrunk}")
    srr = _ratio(preserved, preserved + shrunk)
    ndr = _ratio(expanded, preserved + expanded)
    sds = None if srr is None or ndr is None else float(harmonic_mean(np.array(srr), np.array(ndr)))
    return SupportMetrics(srr, ndr, sds, _ratio(expanded - shrunk, preserved + expanded + shrunk))


def empirical_support(bare_reach: ArrayLike, tool_reach: ArrayLike) -> SupportCounts:
    """Return each task's expected share in P, E and S from the reach of both arms at the same spend, shape (T,).

    The arms' attempts are independent given the task, so the shares are products of reaches.
    """
    before, after = probability(bare_reach, "bare reach"), probability(tool_reach, "tool reach")
    if before.shape != after.shape:
        raise StatsError(f"{before.size} tasks in the bare arm but {after.size} in the tool arm")
    return SupportCounts(before * after, (1 - before) * after, before * (1 - after))


def harmonic_mean(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return 2ab/(a+b), and 0 where both are 0."""
    total = first + second
    return np.where(total > 0, 2 * first * second / np.where(total > 0, total, 1.0), 0.0)


def _ratio(part: float, whole: float) -> float | None:
    return None if whole == 0 else float(part / whole)
