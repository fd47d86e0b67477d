"""What a comparison of two runs shows, as frozen records: `compare_runs` fills them, text and JSON only read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.experiment import Measure
from testbed.report.common_tasks import AlikeTasks
from testbed.report.divergence import Divergence
from testbed.report.plain import plain
from testbed.report.record import ArmComparison
from testbed.report.spec_differences import Difference
from testbed.stats import Estimate, Range


@dataclass(frozen=True)
class SideSummary:
    """One side of a comparison, on the tasks that both sides attempted.

    Attributes:
        letter: "A" or "B".
        run: its run.
        arm: its arm's name in the run.
        hash: of the arm.
        seed: of the run.
        created: when the run was begun, ISO 8601.
        attempts: scored attempts.
        fewest: of the task that has the fewest.
        most: of the task that has the most.
        missing: attempts at common tasks that the infrastructure ended, those included of which none is left.
        fixed: attempts per task that were fixed in advance, where sampling stopped early: every figure here is of
            these; 0 where all were.
        pass_1: success of one attempt, mean over tasks.
        pass_1_if_missing: its range over the ways in which missing attempts could have ended, also at tasks of which
            none was scored; None without any.
        reach: reach at the operating spend, mean over tasks.
        cost: component → mean per scored attempt, mean over tasks; left out are those that are 0 on both sides, and
            those that are not known of all attempts.
    """

    letter: str
    run: str
    arm: str
    hash: str
    seed: int
    created: str
    attempts: int
    fewest: int
    most: int
    missing: int
    fixed: int
    pass_1: Estimate
    pass_1_if_missing: Range | None
    reach: Estimate
    cost: dict[str, float]


@dataclass(frozen=True)
class Shared:
    """Attempts of one configuration, seed, task and sample index on both sides.

    Attributes:
        attempts: how many there are; in one store, each was made once.
        otherwise: how many of them ended otherwise on the other side.
    """

    attempts: int
    otherwise: int


@dataclass(frozen=True)
class RunComparison:
    """Two arms of any runs, paired over their common tasks. Differences are B less A.

    Attributes:
        left: side A.
        right: side B.
        settings: how they are read.
        reference: "A" or "B", whose gain over it is split; empty where neither is the reference.
        tasks: common tasks with a scored attempt on both sides: what every figure here is of, but for `verdicts`.
        common: common tasks.
        only_left: tasks that only A's run has.
        only_right: tasks that only B's run has.
        alike: tasks with one prompt and another identity, which are left out.
        differs: what differs between the arms and their runs.
        same: topics in which they do not differ.
        warnings: what a reader must know before believing a figure.
        shared: attempts that both sides have.
        pass_1: difference of pass@1, paired over tasks.
        pass_1_if_missing: its range over the ways in which missing attempts could have ended; None without any.
        operating: attempts at which reach is read: as many as asked for, or as every task has.
        reach: difference of reach at that spend, paired over tasks.
        verdicts: every other figure: the reference, or A, taken as the bare arm.
        within_reach: tasks by what is within reach of both, only A, only B, neither, or undetermined; empty where a
            task has too few attempts for that, or `only_pass_1`.
        ratios: component of cost → B's mean per attempt over A's.
        divergence: how far both sides' attempts lie from one model; None where both runs do not have it.
    """

    left: SideSummary
    right: SideSummary
    settings: Measure
    reference: str
    tasks: int
    common: int
    only_left: int
    only_right: int
    alike: tuple[AlikeTasks, ...]
    differs: tuple[Difference, ...]
    same: tuple[str, ...]
    warnings: tuple[str, ...]
    shared: Shared | None
    pass_1: Estimate
    pass_1_if_missing: Range | None
    operating: int
    reach: Estimate
    verdicts: ArmComparison
    within_reach: dict[str, int]
    ratios: dict[str, Estimate]
    divergence: Divergence | None = None

    @property
    def only_pass_1(self) -> bool:
        """Whether repeated attempts look like copies of one another: what several of them reach then says nothing."""
        return self.verdicts.full is not None and not self.verdicts.claims

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; what is not finite becomes None."""
        values = {name: plain(value) for name, value in vars(self).items()}
        del values["settings"]["bare"]
        return values
