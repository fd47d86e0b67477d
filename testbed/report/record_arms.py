"""What the report shows of arms, as frozen records: each by itself, its curves, and each against the bare one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.report.copies import Drawn
from testbed.stats import Comparison, Estimate, Range, Repeats


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
        stated: whether their author states that they are, see `testbed.report.copies`.
        same_answers: chance that two failed attempts at one task gave the same answer, mean over tasks; None where it
            says nothing, or `sampled` says enough.
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
    stated: bool = False
    same_answers: float | None = None

    @property
    def drawn(self) -> Drawn:
        """Whether its attempts were drawn independently, as far as anybody says."""
        return Drawn(self.sampled, self.stated, self.same_answers)


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
        if_missing: at each spend, the range of the reach over the ways in which missing attempts could have ended; None
            without any.
    """

    arm: str
    axis: str
    spend: tuple[float, ...]
    reach: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    if_missing: tuple[Range, ...] | None = None


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
        broken: arm → attempts that an error of its agent's own ended, and of how many scored ones; arms without any are
            left out. They count as failures in every figure, and as missing in whatever is claimed, in verdicts and in
            ranges over missing attempts.
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
    broken: Mapping[str, tuple[int, int]] = field(default_factory=dict)
