"""From what is asked, an experiment and an earlier run to a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from testbed.errors import UsageError
from testbed.experiment import Experiment, Measure
from testbed.planning.design import design_of
from testbed.planning.earlier import Earlier
from testbed.planning.record import ArmCost, Asked, Detectable, Needed, Pair, Plan, Settling
from testbed.stats import StatsError, attempts_still_needed, p_star
from testbed.stats.bootstrap import cluster_codes
from testbed.stats.pilot import Pilot, cluster_size
from testbed.stats.power import Interval, attempts_needed, detectable_gain, tasks_needed
from testbed.stats.spread import Spread, scaled, uniform_noise
from testbed.stats.verdict_power import MOST, attempts_for_verdict, settled_by
from testbed.types import Task

BETWEEN = 1 / 9  # assumed variance of the gain between tasks: Miller's (2024) example
EFFECTS = (0.02, 0.05, 0.1, 0.2)  # shown where no effect is asked for
ATTEMPTS = (1, 2, 4, 8, 16, 32, np.inf)  # shown beside those of the design
REACHES = (0.0, 0.1, 0.25, 0.75, 0.9, 1.0)  # true reach of the tasks whose verdicts are planned
CAUTION = 0.8416  # standard errors above a pilot's variance: its upper 80% limit
FEW = 30  # clusters of a pilot below which its variances are rough
EXPANDED = 10  # one task in so many is taken to be expanded where e-BH is planned for


def make_plan(
    asked: Asked,
    *,
    experiment: Experiment | None = None,
    tasks: Sequence[Task] = (),
    earlier: Earlier | None = None,
) -> Plan:
    """Plans a comparison of arms with the bare one.

    Args:
        asked: what the caller says; it goes before everything else.
        experiment: whose arms, attempts and settings are planned for.
        tasks: the experiment's tasks.
        earlier: a run to estimate variances and costs from; without an experiment, also the arms and attempts.

    Raises:
        UnknownName: there is no such arm.
        UsageError: a value is out of its range, or no outcomes can vary so.
    """
    try:
        return _Planner(asked, experiment, tasks, earlier).plan()
    except StatsError as error:
        raise UsageError(f"{error}.") from error


class _Planner:
    """Puts options, experiment and pilot together: options go first, the pilot comes last."""

    def __init__(
        self, asked: Asked, experiment: Experiment | None, tasks: Sequence[Task], earlier: Earlier | None
    ) -> None:
        self.asked, self.experiment, self.earlier = asked, experiment, earlier
        base = experiment.measure if experiment else earlier.measure if earlier else Measure()
        self.measure = replace(base, **asked.measure)
        self.design = design_of(asked, self.measure, experiment, earlier)
        self.tasks = asked.tasks or len(tasks) or (earlier.tasks if earlier else None)
        self.size = self._cluster_size(tasks)
        self.notes: list[str] = []

    def plan(self) -> Plan:
        pairs = tuple(self._pair(arm) for arm in self.design.arms)
        costed = max((need.tasks for pair in pairs for need in pair.needed), default=None)
        costed = costed if self.asked.effect else self.tasks
        self._note_design()
        return Plan(
            name=self.experiment.name if self.experiment else self.earlier.name if self.earlier else "",
            measure=self.measure,
            power=self.asked.power,
            effect=self.asked.effect,
            tasks=self.tasks,
            pairs=pairs,
            settling=tuple(self._settling()),
            certificate=self._certificate(),
            bare_most=self.design.most[self.design.bare],
            costed=costed,
            costs=tuple(self._costs(costed)) if costed else (),
            notes=tuple(dict.fromkeys(self.notes)),
        )

    # -- what varies

    def _cluster_size(self, tasks: Sequence[Task]) -> float | None:
        """Tasks in the cluster of a random task, as asked for or in the experiment; None where neither says."""
        if self.asked.cluster_size is not None:
            return self.asked.cluster_size
        if not tasks:
            return None
        clusters = {task.hash: task.cluster or task.hash for task in tasks}
        return cluster_size(cluster_codes(tuple(clusters), clusters))

    def _spread(self, pilot: Pilot | None) -> tuple[Spread, str]:
        """What makes the gain vary, and where it comes from."""
        asked, noise = self.asked, uniform_noise(self.measure.operating)
        spread = pilot.spread if pilot else Spread(BETWEEN, noise, noise)
        if asked.within is not None:
            if self.measure.operating > 1:
                raise UsageError("within is the variance of one attempt: it cannot be given where several are read.")
            spread = replace(spread, bare=(asked.within,), tool=(asked.within,), third=0.0)
        if asked.between is not None:
            spread = replace(spread, between=asked.between, third=0.0)
        spread = self._clustered(spread, pilot)
        given = [asked.between is not None, asked.within is not None]
        if not pilot and not all(given):
            self.notes.append(_assumption(spread, *given))
        return spread, "given" if all(given) else "pilot" if pilot else "assumed"

    def _clustered(self, spread: Spread, pilot: Pilot | None) -> Spread:
        size = spread.cluster_size if self.size is None else self.size
        if self.asked.icc is not None:
            return replace(spread, cluster_size=size, icc=self.asked.icc)
        if size > 1 and not (pilot and pilot.clusters < len(pilot.tasks)):
            self.notes.append(
                f"Tasks form clusters of {size:.3g}; that the tasks of a cluster gain alike (icc = 1) is a cautious "
                "assumption. Give --icc, or a pilot with clusters."
            )
            return replace(spread, cluster_size=size, icc=1.0)
        return replace(spread, cluster_size=size)

    # -- one arm

    def _pair(self, arm: str) -> Pair:
        bare, fixed = self.design.bare, self.design.fixed
        pilot = self.earlier.pilot(bare, arm, self.measure.operating) if self.earlier else None
        if pilot:
            self._note_pilot(arm, pilot)
        spread, source = self._spread(pilot)
        error = pilot.gain.error if pilot and source == "pilot" else None
        effects = (self.asked.effect,) if self.asked.effect is not None else EFFECTS
        needed = [self._needed(e, spread, fixed[bare], fixed[arm], error, arm) for e in effects]
        asked = self.asked.effect
        single = len(self.design.arms) == 1 and asked is not None
        others = [k for k in ATTEMPTS if k >= self.measure.operating] if single else []
        return Pair(
            bare=bare,
            arm=arm,
            bare_attempts=fixed[bare],
            attempts=fixed[arm],
            spread=spread,
            source=source,
            pilot=pilot,
            detectable=tuple(self._detectable(arm, spread, pilot)),
            needed=tuple(needed),
            by_attempts=tuple(self._needed(asked, spread, k, k, error, "") for k in others if asked is not None),
            attempts_needed=self._attempts_needed(spread),
        )

    @property
    def _level(self) -> dict[str, float]:
        return {"power": self.asked.power, "alpha": self.measure.alpha}

    def _attempts_needed(self, spread: Spread) -> int | None:
        effect, power, alpha = self.asked.effect, self.asked.power, self.measure.alpha
        if effect is None or self.tasks is None:
            return None
        return attempts_needed(effect, self.tasks, spread, power=power, alpha=alpha, interval=Interval.REPORT)

    def _needed(self, effect: float, spread: Spread, bare: float, arm: float, error: float | None, name: str) -> Needed:
        """Tasks for an effect at given attempts; of a named arm, the attempts in all are those of the design."""

        def tasks(spread: Spread, interval: Interval) -> int:
            variance, size = spread.variance(bare, arm), spread.cluster_size
            skewness = float(np.sign(effect)) * spread.skewness(bare, arm)
            kind = {"cluster_size": size, "skewness": skewness, **self._level}
            return tasks_needed(effect, variance, interval=interval, **kind)

        report = tasks(spread, Interval.REPORT)
        most = self.design.most
        each = most[self.design.bare] + most[name] if name else bare + arm
        return Needed(
            effect=effect,
            bare_attempts=bare,
            attempts=arm,
            tasks=report,
            normal=tasks(spread, Interval.NORMAL),
            cautious=None if error is None else tasks(scaled(spread, 1 + CAUTION * error), Interval.REPORT),
            in_all=int(report * each) if each < np.inf else None,
        )

    def _detectable(self, arm: str, spread: Spread, pilot: Pilot | None) -> Iterator[Detectable]:
        if self.tasks is None:
            return
        asked, bare = self.asked, self.design.bare
        made = self.design.fixed[bare], self.design.fixed[arm]
        varies = {"gain": (spread.variance(*made), spread.skewness(*made))}
        changed = [asked.attempts, asked.bare_attempts, asked.between, asked.within, asked.icc, asked.cluster_size]
        if self.earlier and pilot and not self.experiment and all(value is None for value in changed):
            wanted = self.earlier.asked or "elicitation" in asked.measure
            found = self.earlier.parts(bare, arm, pilot.tasks, self.measure, asked=wanted)
            varies |= {part: (f.variance, f.skewness) for part, f in found.items() if f.variance is not None}
        for what, (variance, skewness) in varies.items():
            kind = {"cluster_size": spread.cluster_size, "skewness": skewness, **self._level}
            report, normal = (
                detectable_gain(self.tasks, variance, interval=interval, **kind)
                for interval in (Interval.REPORT, Interval.NORMAL)
            )
            yield Detectable(what, report, normal)

    # -- verdicts and costs

    def _settling(self) -> Iterator[Settling]:
        measure = self.measure
        threshold = float(p_star(measure.rho, measure.elicitation))
        made = sorted({min(self.design.most[arm], MOST) for arm in (self.design.bare, *self.design.arms)}, reverse=True)
        for reach in REACHES:
            p = float(-np.expm1(np.log1p(-reach) / measure.elicitation)) if reach < 1 else 1.0
            if abs(reach - measure.rho) < 1e-9:
                continue  # on the threshold: no number of attempts settles it
            needs = attempts_for_verdict(p, threshold, alpha=measure.alpha, power=self.asked.power)
            chance = settled_by(p, threshold, alpha=measure.alpha, most=made[0])
            yield Settling(reach, needs, {n: float(chance[min(n, chance.size - 1)]) for n in made})

    def _certificate(self) -> tuple[int, int | None]:
        """Straight failures that show one task to be out of reach, and one of many under control of false discovery."""
        threshold = p_star(self.measure.rho, self.measure.elicitation)
        levels = [self.measure.alpha]
        if self.tasks:
            levels.append(self.measure.alpha * max(1, self.tasks // EXPANDED) / self.tasks)
        found = [int(attempts_still_needed(0, 0, threshold, alpha=level).if_all_fail) for level in levels]
        return found[0], found[1] if len(found) > 1 else None

    def _costs(self, tasks: int) -> Iterator[ArmCost]:
        known = self.earlier.costs if self.earlier else {}
        for arm in (self.design.bare, *self.design.arms):
            attempts = tasks * self.design.most[arm]
            yield ArmCost(arm, attempts, {axis: mean * attempts for axis, mean in known.get(arm, {}).items()})

    # -- what one must know

    def _note_pilot(self, arm: str, pilot: Pilot) -> None:
        names = f"{self.design.bare!r} and {arm!r}"
        if not pilot.separated:
            self.notes.append(
                f"The pilot has too few attempts per task to tell noise from variation between tasks ({names}). All of "
                "it is taken for the latter: at more attempts than the pilot's the plan asks for too many tasks."
            )
        for name, alike in ((self.design.bare, pilot.bare_repeats), (arm, pilot.tool_repeats)):
            if self.earlier and self.earlier.arm(name).drawn.look_like_copies(alike):
                self.notes.append(
                    f"Repeated attempts of the pilot's arm {name!r} look like copies of one another. If they were not "
                    "sampled independently, more attempts will help less than the plan says."
                )
        if pilot.clusters < FEW:
            self.notes.append(
                f"The pilot has {pilot.clusters} {'tasks' if pilot.clusters == len(pilot.tasks) else 'clusters'}: its "
                "variances are rough, so prefer the cautious numbers."
            )

    def _note_design(self) -> None:
        bare, measure = self.design.bare, self.measure
        if (self.experiment or self.earlier) and self.design.fixed[bare] <= measure.elicitation:
            self.notes.append(
                f"To split the gain into elicitation and creation at elicitation = {measure.elicitation}, the bare arm "
                f"needs more than {measure.elicitation} attempts per task, better {2 * measure.elicitation}."
            )
        if self.design.fixed != self.design.most:
            these = "the most there can be" if self.experiment else "as in the pilot"
            self.notes.append(
                "Sampling stops where a verdict is settled. The gain is planned from the attempts that are made in any "
                f"case; attempts and costs in all are {these}."
            )


def _assumption(spread: Spread, between: bool, within: bool) -> str:
    assumed = [
        f"variance of the gain between tasks {spread.between:.3g}" if not between else "",
        "success probabilities spread evenly from 0 to 1 within each arm" if not within else "",
    ]
    return (
        f"Assumed, not measured: {' and '.join(filter(None, assumed))}. A pilot (--pilot RUN) says what it is for your "
        "model and tasks; --between and --within set it by hand."
    )
