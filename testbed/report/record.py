"""What the report shows, as frozen records: `analyse` fills them, text, page and charts only read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from testbed.experiment import Measure
from testbed.report.plain import plain
from testbed.report.record_arms import ArmComparison, ArmSummary, Curve, Reach, Solved
from testbed.report.record_groups import Effect, Group, GroupArm, GroupEffect, Rung
from testbed.report.subject import Subject

if TYPE_CHECKING:
    from testbed.report.checkpoints import Checkpoint
    from testbed.report.fronts import ElicitationFrontier
    from testbed.report.fronts_missing import FrontIfMissing
    from testbed.report.nats import ArmNats
    from testbed.report.verdict_map import VerdictMap
    from testbed.stats.pareto import CostFront

__all__ = [
    "Analysis",
    "ArmComparison",
    "ArmSummary",
    "Curve",
    "Effect",
    "Group",
    "GroupArm",
    "GroupEffect",
    "Leaks",
    "Reach",
    "Rung",
    "Solved",
    "WorstLeak",
]


@dataclass(frozen=True)
class WorstLeak:
    """The flagged attempt with the largest overlap.

    Attributes:
        attempt: its id.
        arm: its arm.
        prompt: of its task.
        overlap: share of the question that it was shown beside the answer, in [0, 1].
    """

    attempt: str
    arm: str
    prompt: str
    overlap: float


@dataclass(frozen=True)
class Leaks:
    """Tasks whose question a tool showed together with its answer, and the headline figures without them.

    Attributes:
        tasks: flagged tasks: at least one attempt was shown that.
        attempts: flagged attempts.
        read: attempts that the guard read: those with tool results, at tasks that it can judge.
        by_arm: flagged attempts by arm.
        worst: the plainest case.
        left: tasks without a flag.
        arms: every arm with a scored attempt at those.
        comparisons: each other arm against the bare one on those.
    """

    tasks: int
    attempts: int
    read: int
    by_arm: Mapping[str, int]
    worst: WorstLeak
    left: int
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[ArmComparison, ...]


@dataclass(frozen=True)
class Analysis:
    """Everything a report shows.

    Attributes:
        name: the run.
        settings: how the attempts were read; `bare` below is the arm that its `bare` came to.
        tasks: tasks of the run.
        bare: the arm that others are compared with; None where there is none.
        arms: every arm with a scored attempt, in the experiment's order.
        comparisons: each other arm against the bare one.
        groups: by groups of tasks.
        ladder: its steps, where the arms exist.
        curves: reach curves, per axis and arm.
        warnings: what a reader must know before believing a figure.
        leaks: tasks that a tool gave away; None where none was seen, or transcripts were not read.
        nats: of arms whose attempts were scored: what re-weighting, the budget and the tools' words each come to.
        checkpoints: of arms whose model is another local one than the bare arm's: how far their attempts lie from it.
        fronts: arms by cost and reach, per component of cost.
        fronts_if_missing: the same over the ways in which missing attempts could have ended; empty without any.
        frontier: success against nats of the bare arm re-weighted, and of the other arms; None with too few attempts.
        map: successes and verdict of every task and arm; None for figures without tasks.
        subject: what the report is of; None where only the outcomes are known.
    """

    name: str
    settings: Measure
    tasks: int
    bare: str | None
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[ArmComparison, ...]
    groups: tuple[Group, ...]
    ladder: tuple[Rung, ...]
    curves: tuple[Curve, ...]
    warnings: tuple[str, ...]
    leaks: Leaks | None = None
    nats: tuple[ArmNats, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    subject: Subject | None = None
    fronts: tuple[CostFront, ...] = ()
    fronts_if_missing: tuple[FrontIfMissing, ...] = ()
    frontier: ElicitationFrontier | None = None
    map: VerdictMap | None = None

    def arm(self, name: str) -> ArmSummary:
        """The summary of the arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; what is not finite becomes None."""
        values = {name: plain(value) for name, value in vars(self).items()}
        del values["settings"]["bare"]  # which arm it came to stands beside the settings
        return values
