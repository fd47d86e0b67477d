"""An earlier run, from which a plan takes variances, attempts and costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from testbed.allocation import recorded_rules
from testbed.errors import UnknownName, UsageError
from testbed.experiment import Measure
from testbed.report.analyse import bare_arm, scored_arms
from testbed.report.arms import Arm
from testbed.report.compare import readable, spends_of
from testbed.report.copies import drawn_arms
from testbed.stats.bootstrap import cluster_codes
from testbed.stats.crossfit import parts_of
from testbed.stats.pilot import Figure, Pilot, estimate_spread, figure
from testbed.store import Store


@dataclass(frozen=True)
class Earlier:
    """A run of a store.

    Attributes:
        name: its name.
        measure: how its report reads it.
        tasks: number of its tasks.
        arms: its arms with a scored attempt, by name; of arms that stopped early only the attempts made in any case.
        costs: mean cost of an attempt by arm and component, of components that were recorded.
        default_bare: name of the arm that its report compares with; empty if it knows none.
        asked: whether its experiment asks for an elicitation spend.
    """

    name: str
    measure: Measure
    tasks: int
    arms: Mapping[str, Arm]
    costs: Mapping[str, Mapping[str, float]]
    default_bare: str
    asked: bool

    @classmethod
    def read(cls, store: Store, name: str) -> Earlier:
        """Reads a run.

        Raises:
            UnknownName: there is none of that name.
            UsageError: it has no scored attempt.
        """
        run = store.run(name)
        outcomes = store.outcomes(name)
        rules = recorded_rules(run.experiment)
        drawn = drawn_arms(store, run)
        arms = scored_arms(outcomes, rules, drawn)
        if not arms:
            raise UsageError(f"run {name!r} has no scored attempt, so nothing can be planned from it.")
        measure = Measure(**run.experiment.get("measure", {}))
        bare = bare_arm(outcomes.arms, arms, measure.bare)
        return cls(
            name=name,
            measure=measure,
            tasks=len(outcomes.tasks),
            arms={arm.name: arm for arm in arms},
            costs={arm.name: _mean_costs(arm) for arm in (scored_arms(outcomes, drawn=drawn) if rules else arms)},
            default_bare=bare.name if bare else "",
            asked="elicitation" in run.experiment.get("measure", {}),
        )

    def arm(self, name: str) -> Arm:
        """An arm by name.

        Raises:
            UnknownName: no arm of that name has a scored attempt.
        """
        if name not in self.arms:
            raise UnknownName(
                "arm",
                name,
                self.arms,
                hint="Name arms of the pilot with --arm and --bare.",
                of=f"the pilot {self.name!r}",
            )
        return self.arms[name]

    def attempts(self, name: str) -> int:
        """Scored attempts of an arm at its tasks: the least number that nine tenths of them have."""
        n = self.arm(name).scored.n
        return max(1, int(np.quantile(n, 0.1, method="lower")))

    def spent(self, name: str) -> int:
        """Attempts that an arm made per task: on average where it stopped early, else as `attempts`."""
        every = self.arm(name).every
        return self.attempts(name) if every is None else math.ceil(every.n.mean())

    def pilot(self, bare: str, arm: str, operating: int) -> Pilot:
        """What two arms say about the gain's variation.

        Raises:
            StatsError: they have too few tasks in common.
        """
        left, right = self.arm(bare), self.arm(arm)
        return estimate_spread(left.outcomes, right.outcomes, operating=operating, clusters=left.clusters)

    def parts(self, bare: str, arm: str, tasks: tuple[str, ...], measure: Measure, *, asked: bool) -> dict[str, Figure]:
        """How elicitation, creation and loss vary at these tasks, read as a report reads them.

        Args:
            bare: name of the bare arm.
            arm: name of the other.
            tasks: tasks with a scored attempt in both; those that a report would leave out are left out.
            measure: the spends.
            asked: whether its elicitation spend was asked for, or is the default, which yields to balanced folds.

        Returns:
            By part; empty where the attempts allow no split at the operating spend.
        """
        left, right = self.arm(bare).on(tasks), self.arm(arm).on(tasks)
        enough = np.flatnonzero((left.n >= 2) & (right.n >= 2))
        if not enough.size:
            return {}
        operating, elicitation = spends_of(left.take(enough), right.take(enough), measure, asked, [])
        if operating < measure.operating:
            return {}
        kept = readable(left, right, operating, elicitation)
        left, right = left.take(kept), right.take(kept)
        found = parts_of(left, right, operating=operating, elicitation=elicitation, seed=measure.seed)
        code = cluster_codes(left.tasks, self.arm(bare).clusters)
        return {part: figure(getattr(found, part), code) for part in ("elicitation", "creation", "loss")}


def _mean_costs(arm: Arm) -> dict[str, float]:
    return {axis: float(values.mean()) for axis, values in arm.outcomes.costs.items()}
