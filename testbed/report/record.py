"""What the report shows, as frozen records: `analyse` fills them, text, page and charts only read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from testbed.experiment import Measure
from testbed.report.plain import plain
from testbed.report.subject import Subject
from testbed.stats import Comparison, Estimate, Range, Repeats, Verdict

if TYPE_CHECKING:
    from testbed.report.checkpoints import Checkpoint
    from testbed.report.nats import ArmNats


class Effect(StrEnum):
    """What an arm did to a group of tasks, as far as the intervals and verdicts support it."""

    CREATED = "created"
    EXPANDED = "expanded"
    ELICITED = "elicited"
    LOST = "lost"
    NOTHING = "nothing seen"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True)
class Reach:
    """Reach at k attempts, mean over tasks.

    Attributes:
        k: attempts; fewer than were asked for where a task has not so many.
        estimate: the mean with its interval.
    """

    k: int
    estimate: Estimate


@dataclass(frozen=True)
class ArmSummary:
    """One arm by itself.

    Attributes:
        name: its name.
        control: absent, inert, imagined, yoked, live; empty for imported outcomes.
        tools: names of the tools it offers.
        tasks: tasks with at least one scored attempt.
        attempts: scored attempts.
        fewest: scored attempts of the task that has the fewest.
        most: of the task that has the most.
        fixed: attempts per task that were fixed in advance, where sampling stopped early: every figure below is of
            these, but for `missing`, `faults` and `ended`; 0 where all attempts were.
        missing: attempts that the infrastructure ended.
        successes: successful attempts.
        solved: tasks solved at least once.
        pass_1: success of one attempt, mean over tasks.
        if_missing: range of pass@1 over the ways in which the missing attempts could have ended; None without any.
        operating: reach at the operating spend.
        elicitation: reach at the elicitation spend.
        operating_if_missing: range of the reach at the operating spend likewise.
        elicitation_if_missing: range of the reach at the elicitation spend likewise.
        cost: component → mean per scored attempt; left out are components that no arm recorded, and those that are not
            known of all its attempts.
        cost_per_success: component → total over scored attempts per success; None without a success.
        faults: faulty tool calls in all scored attempts, refused calls to tools that were not offered included.
        faulty: attempts with at least one.
        ended: how attempts ended → number, the missing included.
        repeats: how alike repeated attempts at a task are.
        sampled: whether attempts are known to be drawn independently (by this testbed, at a temperature above 0); then
            alike attempts say that the tasks are easy or hard, not that attempts are copies.
    """

    name: str
    control: str
    tools: tuple[str, ...]
    tasks: int
    attempts: int
    fewest: int
    most: int
    fixed: int
    missing: int
    successes: int
    solved: int
    pass_1: Estimate
    if_missing: Range | None
    operating: Reach
    elicitation: Reach
    operating_if_missing: Range | None
    elicitation_if_missing: Range | None
    cost: Mapping[str, float]
    cost_per_success: Mapping[str, float | None]
    faults: int
    faulty: int
    ended: Mapping[str, int]
    repeats: Repeats
    sampled: bool


@dataclass(frozen=True)
class Curve:
    """Reach of an arm, mean over tasks, against what is spent.

    Attributes:
        arm: the arm.
        axis: "attempts" or a component of cost.
        spend: S spends, rising, of a grid that all arms share; ends where some task's attempts ran out.
        reach: S means.
        low: lower limits of a simultaneous band: all curves of one axis lie inside theirs together, at the report's
            level; None with fewer than two clusters of tasks.
        high: upper limits, or None.
    """

    arm: str
    axis: str
    spend: tuple[float, ...]
    reach: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None


@dataclass(frozen=True)
class Solved:
    """Tasks that were solved at least once in the attempts there are; no estimate, a count of this data.

    Attributes:
        both: by both arms.
        only_bare: by the bare arm only.
        only_arm: by the other arm only.
        neither: by none.
        bare_attempts: most attempts a bare task had.
        arm_attempts: most attempts a task of the other arm had.
    """

    both: int
    only_bare: int
    only_arm: int
    neither: int
    bare_attempts: int
    arm_attempts: int


@dataclass(frozen=True)
class ArmComparison:
    """One arm against the bare one.

    Attributes:
        arm: the arm.
        bare: the bare arm.
        tasks: tasks compared.
        gain: difference of reach at the operating spend, paired over tasks.
        operating: operating spend that the attempts of the median task allow.
        elicitation: elicitation spend that they allow likewise; None where the gain cannot be split (see `notes`).
        full: every other figure, the null row included; None where the gain cannot be split.
        solved: counts of tasks solved at least once.
        claims: whether anything may be claimed from it; not where repeated attempts look like copies of one another,
            since every estimator but pass@1 takes them as independent.
        notes: what could not be computed as asked, and why.
        gain_if_missing: range of the gain over the ways in which missing attempts could have ended; None without any.
            Those of the other figures are in `full`.
    """

    arm: str
    bare: str
    tasks: int
    gain: Estimate
    operating: int
    elicitation: int | None
    full: Comparison | None
    solved: Solved
    claims: bool
    notes: tuple[str, ...]
    gain_if_missing: Range | None = None


@dataclass(frozen=True)
class GroupArm:
    """One arm on one group: tasks with an attempt, scored attempts, pass@1, and reach at the operating spend.

    `if_missing` is the range of pass@1 over the ways in which missing attempts could have ended; None without any.
    """

    arm: str
    tasks: int
    attempts: int
    pass_1: Estimate
    operating: Reach
    if_missing: Range | None


@dataclass(frozen=True)
class GroupEffect:
    """What one arm did to one group of tasks.

    Attributes:
        arm: the arm.
        tasks: tasks compared.
        effects: what it did; several where it did several things to different tasks.
        gain: gain over the group's tasks, paired.
        elicitation: part of the gain that resampling reaches too; None where the gain cannot be split, as below.
        creation: part that it does not reach.
        loss: what was lost.
        verdicts: tasks by verdict; empty where the gain cannot be split.
        never_bare: expanded tasks that no bare attempt solved.
        bare_attempts: fewest bare attempts at a task of the group.
        spent: attempts of both arms at the group's tasks.
        open_as_missing: whether scored attempts alone support a claim, but not however the missing ones had ended.
        needed: further attempts, of both arms, until the undetermined tasks are settled at the rates seen so far; None
            where that is out of sight.
        gain_if_missing: range of the gain over the ways in which missing attempts could have ended; None without any.
    """

    arm: str
    tasks: int
    effects: tuple[Effect, ...]
    gain: Estimate
    elicitation: Estimate | None
    creation: Estimate | None
    loss: Estimate | None
    verdicts: Mapping[Verdict, int]
    never_bare: int
    bare_attempts: int
    spent: int
    needed: int | None
    gain_if_missing: Range | None
    open_as_missing: bool = False


@dataclass(frozen=True)
class Group:
    """Tasks that belong together.

    Attributes:
        label: what they are, such as "4 digits", or their environment.
        within: the environment that the group is part of; empty where the group is a whole environment.
        tasks: tasks of the run that are in it.
        arms: each arm on them.
        effects: what each arm but the bare one did to them.
    """

    label: str
    within: str
    tasks: int
    arms: tuple[GroupArm, ...]
    effects: tuple[GroupEffect, ...]


@dataclass(frozen=True)
class Rung:
    """One step of the ladder bare → inert → imagined → yoked → live.

    Attributes:
        tools: the tools whose ladder it is.
        lower: the arm stepped from.
        upper: the arm stepped to.
        meaning: what separates them: scaffold, self-simulation, information, interaction.
        tasks: common tasks.
        difference: reach of `upper` less reach of `lower` at the operating spend, paired.
        if_missing: its range over the ways in which missing attempts could have ended; None without any.
    """

    tools: tuple[str, ...]
    lower: str
    upper: str
    meaning: str
    tasks: int
    difference: Estimate
    if_missing: Range | None


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

    def arm(self, name: str) -> ArmSummary:
        """The summary of the arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; what is not finite becomes None."""
        values = {name: plain(value) for name, value in vars(self).items()}
        del values["settings"]["bare"]  # which arm it came to stands beside the settings
        return values
