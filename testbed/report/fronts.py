"""Two fronts: what arms cost against what they reach, and what re-weighting the bare arm costs in nats against success.

The first says which arm is worth its cost. The second puts every arm beside what elicitation alone can buy: the bare
arm re-weighted at the least divergence (exact tilts), and by best-of-N, which spends divergence on resampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from testbed.experiment import Measure
from testbed.report.arms import Arm, mean
from testbed.stats import ArmOutcomes, Bounded, Estimate, Frontier, best_of_n_frontier, least_reweighting, tilt_frontier
from testbed.stats.energy import best_of_n_kl_bound
from testbed.stats.frontier import Resampling
from testbed.stats.pareto import CostFront, cost_front

AXES = ("generated_tokens", "model_calls", "seconds", "usd")
BETAS = np.linspace(0.0, 8.0, 33)
# A point of a frontier that the attempts leave open by more than this is not shown.
SETTLED = 0.01
FEWEST = 4  # attempts per task from which a divergence is told


@dataclass(frozen=True)
class ElicitationCurve:
    """Success against divergence along a family of re-weightings of the bare arm, means over tasks.

    Attributes:
        kind: "tilt" or "best-of-N".
        at: inverse temperatures, or draws N; rising.
        success: success at each, with pointwise intervals.
        nats: divergence from the bare arm's policy at each, likewise.
    """

    kind: str
    at: tuple[float, ...]
    success: tuple[Estimate, ...]
    nats: tuple[Estimate, ...]


@dataclass(frozen=True)
class ArmInNats:
    """One arm on the same plane.

    Attributes:
        arm: its name.
        tasks: tasks that it shares with the bare arm.
        success: success of one attempt.
        nats: the least nats that re-weighting the bare arm must spend to succeed as often at every task; `low` bounds
            the true mean, `high` is always None: the bare arm's success may be as small as one likes.
    """

    arm: str
    tasks: int
    success: Estimate
    nats: Estimate


@dataclass(frozen=True)
class ElicitationFrontier:
    """What re-weighting the bare arm can buy, and where the arms lie.

    Attributes:
        bare: the bare arm.
        tasks: its tasks that the curves are of.
        attempts: attempts that each of them has.
        budget: K, the bare attempts that resampling may spend.
        paid: ln K − (K − 1)/K, the most nats that the best of K attempts spends.
        tilt: the least divergence at every success, as far as the attempts settle it.
        best_of: best of N, N up to the attempts.
        arms: the other arms.
    """

    bare: str
    tasks: int
    attempts: int
    budget: int
    paid: float
    tilt: ElicitationCurve
    best_of: ElicitationCurve
    arms: tuple[ArmInNats, ...]


def cost_fronts(arms: Sequence[Arm], settings: Measure) -> tuple[CostFront, ...]:
    """The front of cost and reach on every axis that is known of two arms or more, on the tasks that they share.

    An arm of which all costs are 0, beside others that cost something, is the cheapest there is, as in every table.
    """
    found = []
    for axis in AXES:
        priced = [arm for arm in arms if axis not in arm.unrecorded]
        if not any(axis in arm.scored.costs for arm in priced):
            continue
        shared = set.intersection(*(set(arm.scored.tasks) for arm in priced)) if len(priced) > 1 else set()
        tasks = [task for task in priced[0].scored.tasks if task in shared] if shared else []
        if not tasks:
            continue
        own = [_with_cost(arm.on(tasks), axis) for arm in priced]
        found.append(
            cost_front(
                own,
                axis,
                attempts=min(settings.operating, *(int(one.n.min()) for one in own)),
                clusters=priced[0].clusters,
                alpha=settings.alpha,
                replicates=settings.replicates,
                seed=settings.seed,
            )
        )
    return tuple(found)


def _with_cost(arm: ArmOutcomes, axis: str) -> ArmOutcomes:
    """The arm with its costs on an axis, which are left out where all are 0."""
    return arm if axis in arm.costs else replace(arm, costs={**arm.costs, axis: np.zeros(arm.success.size)})


def elicitation_frontier(bare: Arm | None, arms: Sequence[Arm], settings: Measure) -> ElicitationFrontier | None:
    """Success against nats of the bare arm re-weighted, and of the others; None where there are too few attempts."""
    others = [arm for arm in arms if arm is not bare]
    if bare is None or not others or int(bare.scored.n.min()) < FEWEST:
        return None
    own = bare.scored
    least = int(own.n.min())
    how = _resampling(bare, settings)
    powers = 2 ** np.arange(int(np.log2(least)) + 1)
    draws = np.unique([*powers, least, min(settings.elicitation, least)])
    best, tilt = best_of_n_frontier(own, draws, **how), tilt_frontier(own, BETAS, **how)
    points = [_in_nats(bare, arm, settings) for arm in others]
    return ElicitationFrontier(
        bare=bare.name,
        tasks=len(own.tasks),
        attempts=least,
        budget=settings.elicitation,
        paid=float(best_of_n_kl_bound(settings.elicitation)),
        tilt=_curve(tilt, tilt.success.most - tilt.success.least <= SETTLED),
        best_of=_curve(best, best.kl_bias <= SETTLED),
        arms=tuple(point for point in points if point is not None),
    )


def _in_nats(bare: Arm, arm: Arm, settings: Measure) -> ArmInNats | None:
    present = set(arm.scored.tasks)
    common = [task for task in bare.scored.tasks if task in present]
    if not common:
        return None
    after = arm.on(common)
    needed = least_reweighting(bare.on(common), after, **_resampling(bare, settings))
    success = mean(after.c / after.n, bare.labels(common), settings)
    return ArmInNats(arm.name, len(common), success, Estimate(needed.mean, needed.mean_low, None))


def _resampling(bare: Arm, settings: Measure) -> Resampling:
    return Resampling(clusters=bare.clusters, alpha=settings.alpha, replicates=settings.replicates, seed=settings.seed)


def _curve(found: Frontier, shown: npt.NDArray[np.bool_]) -> ElicitationCurve:
    """The points of a frontier up to the first that is not to be shown."""
    points = shown.size if shown.all() else int(np.argmin(shown))
    return ElicitationCurve(
        found.kind,
        tuple(float(x) for x in found.at[:points]),
        tuple(_estimates(found.success))[:points],
        tuple(_estimates(found.kl))[:points],
    )


def _estimates(found: Bounded) -> list[Estimate]:
    values = found.least.tolist()
    if found.low is None or found.high is None:
        return [Estimate(value, None, None) for value in values]
    return [Estimate(*one) for one in zip(values, found.low.tolist(), found.high.tolist(), strict=True)]
