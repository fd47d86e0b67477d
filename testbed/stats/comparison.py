"""The records that a comparison of two arms returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from testbed.stats.checks import FloatArray
from testbed.stats.gain import Decomposition
from testbed.stats.intervals import Estimate
from testbed.stats.repeats import Repeats
from testbed.stats.verdicts import Verdicts


@dataclass(frozen=True)
class SampleEquivalent:
    """Least number k* of bare attempts whose suite reach equals the tool arm's at its operating spend.

    Attributes:
        k: k*, or None: more than ``censored_at``.
        low: Lower end of its interval, or None: more than ``censored_at`` (or no interval, see ``interval``).
        high: Upper end, or None: more than ``censored_at`` (or no interval).
        censored_at: Bare attempts at the median task: nothing beyond is estimated. Where a task ran out before, its
            reach lies between that of its own attempts, which the value and the upper end take, and 1, which the lower
            end takes.
        interval: Whether there is an interval at all (two clusters or more).
    """

    k: int | None
    low: int | None
    high: int | None
    censored_at: int
    interval: bool


@dataclass(frozen=True)
class SupportRow:
    """SRR, NDR, SDS, NSCR with intervals, and the expected counts of tasks they rest on.

    Attributes:
        spend: At which both arms are read.
        preserved: Expected number P of tasks that both arms solve within the spend.
        expanded: Expected number E that only the tool arm solves.
        shrunk: Expected number S that only the bare arm solves.
        srr: P/(P+S).
        ndr: E/(P+E).
        sds: Harmonic mean of the two.
        nscr: (E−S)/(P+E+S).
    """

    spend: float
    preserved: float
    expanded: float
    shrunk: float
    srr: Estimate
    ndr: Estimate
    sds: Estimate
    nscr: Estimate


@dataclass(frozen=True, eq=False)
class Figures:
    """Every figure of one pair of arms. Means are over tasks.

    Attributes:
        bare: Name of the arm taken as bare.
        tool: Name of the arm taken as tool.
        tasks: Names of the T tasks compared.
        clusters: Number of clusters behind the intervals.
        operating: Operating spend b on the axis.
        elicitation: Elicitation spend B on the axis.
        bare_pass1: Success of one attempt, bare.
        tool_pass1: Success of one attempt, tool.
        bare_operating: R_0(b).
        tool_operating: R_T(b).
        bare_elicitation: R_0(B), at its lower bound.
        tool_elicitation: R_T(B), at its lower bound.
        bare_elicitation_upper: R_0(B), at its upper bound; the same number unless attempts ran out.
        tool_elicitation_upper: R_T(B), at its upper bound.
        gain: R_T(b) − R_0(b) = elicitation + creation − loss.
        elicitation_part: What resampling the bare arm would have reached too. The point estimates of the parts add
            up to that of the gain exactly, and may be below 0 or above 1 by noise; the limits of each are about the
            true part, which is in [0, 1], and hold whatever the folds could tell (see `testbed.stats.parts`).
        creation: What it would not have reached. Cross-fitted, it is never biased upward; see ``parts.cross_fitted``.
        creation_upper: The same at the greatest value the data allow, where bare attempts ran out.
        loss: What the tools broke.
        nats: Φ(bare) − Φ(tool), at ``nats_budget`` attempts.
        nats_budget: B of the budgeted free energy: the attempts that both arms have at the median task. Tasks with
            fewer are read at as many as they have, which makes their differences smaller in size.
        support: Support metrics at the elicitation spend.
        verdicts: Per-task verdicts at the spend of accessibility, with counts.
        log_e_created: Per task, the log e-value against "the tool arm is not within reach at b, or the bare arm is at
            B": evidence of creation at this task, whenever one stops sampling.
        equivalent: Sample-equivalent gain.
        parts: The decomposition per task.
        unsettled: Tasks whose attempts ran out before a spend, so that some figure is only bounded.
    """

    bare: str
    tool: str
    tasks: tuple[str, ...]
    clusters: int
    operating: float
    elicitation: float
    bare_pass1: Estimate
    tool_pass1: Estimate
    bare_operating: Estimate
    tool_operating: Estimate
    bare_elicitation: Estimate
    tool_elicitation: Estimate
    bare_elicitation_upper: Estimate
    tool_elicitation_upper: Estimate
    gain: Estimate
    elicitation_part: Estimate
    creation: Estimate
    creation_upper: Estimate
    loss: Estimate
    nats: Estimate
    nats_budget: int
    support: SupportRow
    verdicts: Verdicts
    log_e_created: FloatArray
    equivalent: SampleEquivalent
    parts: Decomposition
    unsettled: int


@dataclass(frozen=True)
class CreationBySpend:
    """Cross-fitted creation, mean over tasks, as the bare arm may spend more: true creation does not rise.

    Attributes:
        spends: Elicitation spends B, rising, the one asked for among them.
        creation: Creation at each.
    """

    spends: tuple[float, ...]
    creation: tuple[Estimate, ...]


@dataclass(frozen=True)
class Range:
    """Least and greatest value of a figure over the ways in which missing attempts could have ended."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class MissingBounds:
    """Bounds over missing attempts: those of each arm all fail or all succeed (four corner cases).

    Attributes:
        bare_missing: Missing attempts of the bare arm.
        tool_missing: Missing attempts of the tool arm.
        tasks: Tasks compared here, those without any scored attempt included.
        figures: Name of a field of `Figures` or `SupportRow` → its range; none for a ratio that is
            undefined in a corner.
        counts: Verdict → least and greatest number of tasks.
        names: Names of these tasks.
        least: What claims rest on → its least value per task over the corner cases: "elicitation" (the least form),
            "creation", "loss", and the log e-values "created", "expanded" and "lost".
        most: "elicitation", "creation" and "loss" → the greatest value of the estimate per task over the corner cases.
    """

    bare_missing: int
    tool_missing: int
    tasks: int
    figures: Mapping[str, Range]
    counts: Mapping[str, Range]
    names: tuple[str, ...]
    least: Mapping[str, FloatArray]
    most: Mapping[str, FloatArray]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A bare arm against a tool arm.

    Attributes:
        axis: "attempts" or a cost axis; the unit of both spends.
        rho: Reach that counts as accessible.
        alpha: Level of verdicts; intervals have level 1 − alpha.
        figures: The comparison.
        null: Two samples of the bare policy compared in the same way: the bare arm and a second one where there is
            one, else random halves of the bare arm, so far as the attempts of the median task allow (see its own
            ``operating`` and ``elicitation``; tasks with too few for these are left out of it); None where those are
            too few (four, or two without cross-fitting).
        at_null: The support metrics of these arms on the null row's tasks at its elicitation spend, where that is not
            their own: they change with the spend, and are to be held against the null row at the same one.
        creation_by_spend: Creation against the elicitation spend; None without cross-fitting.
        missing: Bounds, where any attempt is missing.
        only_bare: Tasks that only the bare arm has; left out.
        only_tool: Tasks that only the tool arm has; left out.
        unscored: Common tasks without a scored attempt in one of the arms; left out of ``figures``.
        bare_repeats: Whether the bare arm's attempts look like copies of one another.
        tool_repeats: The same for the tool arm.
    """

    axis: str
    rho: float | tuple[float, float]
    alpha: float
    figures: Figures
    null: Figures | None
    at_null: SupportRow | None
    creation_by_spend: CreationBySpend | None
    missing: MissingBounds | None
    only_bare: tuple[str, ...]
    only_tool: tuple[str, ...]
    unscored: tuple[str, ...]
    bare_repeats: Repeats
    tool_repeats: Repeats
