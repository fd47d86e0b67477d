"""What is asked of a plan, and what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.errors import UsageError
from testbed.experiment import Measure
from testbed.stats.pilot import Pilot
from testbed.stats.spread import Spread
from testbed.stats.verdict_power import VerdictAttempts


@dataclass(frozen=True)
class Asked:
    """What the caller says; None for what is to come from the experiment, the pilot, or an assumption.

    Attributes:
        effect: true mean gain to be found, between −1 and 1, not 0.
        power: probability of finding it, in (alpha/2, 1).
        tasks: number of tasks.
        attempts: attempts per task of an arm.
        bare_attempts: attempts per task of the bare arm.
        between: variance of the gain between tasks, 0 to 1.
        within: mean variance of one attempt within a task, 0 to ¼.
        cluster_size: tasks of a cluster.
        icc: correlation of the gains of two tasks of a cluster.
        arm: name of the only arm to plan for; empty for all.
        measure: settings of [measure] that replace the experiment's.
    """

    effect: float | None = None
    power: float = 0.8
    tasks: int | None = None
    attempts: int | None = None
    bare_attempts: int | None = None
    between: float | None = None
    within: float | None = None
    cluster_size: float | None = None
    icc: float | None = None
    arm: str = ""
    measure: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("tasks", "attempts", "bare_attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 1, not {value}.")
        for name in ("effect", "power", "between", "within", "cluster_size", "icc"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{name.replace('_', '-')} must be a finite number, not {value}.")


@dataclass(frozen=True)
class Needed:
    """What one gain needs at given attempts.

    Attributes:
        effect: the true mean gain.
        bare_attempts: attempts per task of the bare arm; inf for no noise.
        attempts: attempts per task of the other arm.
        tasks: tasks at which the report's interval finds it.
        normal: tasks at which the normal interval does, by the published formula.
        cautious: as `tasks`, with the pilot's variance at its upper 80% limit; None without a pilot.
        in_all: attempts of both arms at all tasks; None where the attempts per task are not finite.
    """

    effect: float
    bare_attempts: float
    attempts: float
    tasks: int
    normal: int
    cautious: int | None
    in_all: int | None


@dataclass(frozen=True)
class Detectable:
    """The least true mean that is found: of the gain, or of a part of it. None where none is.

    Attributes:
        what: gain, elicitation, creation or loss.
        report: for the report's interval.
        normal: for the normal interval.
    """

    what: str
    report: float | None
    normal: float | None


@dataclass(frozen=True)
class Pair:
    """An arm against the bare one.

    Attributes:
        bare: name of the bare arm.
        arm: name of the other.
        bare_attempts: attempts per task of the bare arm.
        attempts: attempts per task of the other.
        spread: what makes the gain vary.
        source: "assumed", "given", or "pilot".
        pilot: what the pilot says.
        detectable: what the given number of tasks finds; empty if none is given. Parts of the gain from a pilot only.
        needed: tasks for each effect at these attempts.
        by_attempts: tasks for the effect asked for at other attempts, the same in both arms.
        attempts_needed: attempts, the same in both arms, at which the given tasks find the effect; None if none do.
    """

    bare: str
    arm: str
    bare_attempts: int
    attempts: int
    spread: Spread
    source: str
    pilot: Pilot | None
    detectable: tuple[Detectable, ...]
    needed: tuple[Needed, ...]
    by_attempts: tuple[Needed, ...]
    attempts_needed: int | None


@dataclass(frozen=True)
class Settling:
    """Attempts that settle the status of one task in one arm.

    Attributes:
        reach: its true reach at the elicitation spend.
        attempts: how many are needed.
        settled: attempts of the design's arms → chance that they settle it rightly.
    """

    reach: float
    attempts: VerdictAttempts
    settled: Mapping[int, float]


@dataclass(frozen=True)
class ArmCost:
    """What the attempts of an arm come to.

    Attributes:
        arm: its name.
        attempts: at all tasks.
        cost: component → total, from the mean of the pilot's attempts; empty without a pilot that knows the arm.
    """

    arm: str
    attempts: int
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """Everything `testbed plan` says.

    Attributes:
        name: of the experiment or the pilot; empty without.
        measure: how the report will read the attempts.
        power: probability of finding an effect.
        effect: gain asked for; None if none was.
        tasks: number of tasks given by option, experiment or pilot; None if none is.
        pairs: each arm against the bare one.
        settling: attempts for verdicts.
        certificate: straight failures after which a task at which no success is seen is out; for one task, and so that
            e-BH keeps it when a tenth of all tasks is expanded (None without a number of tasks).
        bare_most: attempts per task that the bare arm makes at most.
        costed: number of tasks that `costs` are for.
        costs: attempts and costs by arm.
        notes: what one must know.
    """

    name: str
    measure: Measure
    power: float
    effect: float | None
    tasks: int | None
    pairs: tuple[Pair, ...]
    settling: tuple[Settling, ...]
    certificate: tuple[int, int | None]
    bare_most: int
    costed: int | None
    costs: tuple[ArmCost, ...]
    notes: tuple[str, ...]
