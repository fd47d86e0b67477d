"""The two fronts as tables: arms by cost and reach, and nats against success."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.report.cells import Cell, Row, Table, estimate, told
from testbed.report.fronts import ElicitationFrontier
from testbed.report.fronts_missing import spoken
from testbed.report.record import Analysis
from testbed.report.words import (
    AXES,
    MOVES,
    NONE,
    amount,
    at_least,
    attempts,
    broken_in,
    counted,
    joined,
    number,
    share,
    span,
    without_missing,
)
from testbed.stats import Estimate, Range
from testbed.stats.pareto import CostFront

#: Why nats have no range as reach has one: they are neither least nor greatest at an end of what could have been.
NATS_MOVE = (
    "could move this either way: success as far as the table of arms says; nats by no simple bounds, since these are "
    "least where both arms succeed alike"
)


def fronts(analysis: Analysis) -> Table:
    """What each arm costs and reaches, and in what share of replicates no other beats it in both."""
    level = analysis.settings.level
    alike = _same_reach(analysis.fronts)  # else each front has its own, on the tasks that its arms share
    heads = [f"reach [{level}]"] if alike else []
    for front in analysis.fronts:
        own_reach = [] if alike else [f"reach at {AXES[front.axis]} [{level}]"]
        heads += [*own_reach, f"{AXES[front.axis]} [{level}]", "on the front in"]
    rows = []
    for arm in analysis.arms:
        cells: list[Cell] = []
        for front in analysis.fronts:
            own = next((one for one in front.arms if one.arm == arm.name), None)
            if not alike:
                cells.append(("",) if own is None else estimate(own.reach))
            cells += [("",), ("",)] if own is None else [_priced(own.cost), _member(own.on_front, own.membership)]
        if any(any(cell) for cell in cells):
            reach = next(one.reach for front in analysis.fronts for one in front.arms if one.arm == arm.name)
            rows.append(Row(arm.name, (estimate(reach), *cells) if alike else tuple(cells)))
    read = joined(sorted({attempts(front.attempts) for front in analysis.fronts})) if analysis.fronts else ""
    notes = [
        f"Reach within {read} at a task, and what these cost. An arm is on the front if no other costs no more and "
        "reaches no less, and one of the two is better. The share is that of bootstrap replicates of the tasks in "
        "which it is; * marks the arms on the front of the figures as they are. Cost intervals are percentiles of the "
        "replicates.",
        *(of_fewer(analysis, front, f"{AXES[front.axis]}: ") for front in analysis.fronts),
        without_missing(analysis, "stand either way in the table below" if analysis.fronts_if_missing else MOVES),
    ]
    return Table("fronts", "Cost and reach", "arm", tuple(heads), tuple(rows), told(notes) if rows else ())


def fronts_either_way(analysis: Analysis) -> Table:
    """Where each arm could lie, and whether on the front, had missing attempts ended otherwise."""
    found = analysis.fronts_if_missing
    ranges = {(point.arm, point.reach) for front in found for point in front.arms}
    alike = len(ranges) == len({arm for arm, _ in ranges})
    heads = ["reach"] if alike else []
    for front in found:
        heads += [*([] if alike else [f"reach at {AXES[front.axis]}"]), AXES[front.axis], "on the front"]
    rows = []
    for arm in analysis.arms:
        cells: list[Cell] = []
        points = [next((point for point in front.arms if point.arm == arm.name), None) for front in found]
        for point in points:
            if point is None:
                cells += [("",)] * (2 if alike else 3)
                continue
            cells += [] if alike else [(span(point.reach),)]
            cells += [(cost_span(point.cost),), (spoken(point.on_front),)]
        known = next((point for point in points if point is not None), None)
        if known is not None:
            rows.append(Row(arm.name, ((span(known.reach),), *cells) if alike else tuple(cells)))
    notes = [
        "From all missing attempts failing, each at the greatest cost of the scored ones at its task, to all "
        "succeeding at their least; tasks without any scored attempt are included, at the arm's costs. On the front, "
        "however those of all arms had ended: yes, no, or it depends on them. Nothing bounds what an attempt that was "
        "lost would really have cost."
    ]
    title = "Cost and reach, missing attempts either way"
    return Table("fronts-missing", title, "arm", tuple(heads), tuple(rows), told(notes))


def cost_span(bounds: Range) -> str:
    """Least and greatest cost, as one figure where they read the same."""
    low, high = amount(bounds.low), amount(bounds.high)
    return low if low == high else f"{low} to {high}"


def _same_reach(found: Sequence[CostFront]) -> bool:
    """Whether every arm's reach is the same in all fronts that it is in."""
    reaches: dict[str, set[Estimate]] = {}
    for front in found:
        for one in front.arms:
            reaches.setdefault(one.arm, set()).add(one.reach)
    return all(len(own) == 1 for own in reaches.values())


def of_fewer(analysis: Analysis, front: CostFront, start: str = "") -> str:
    """Which arms and tasks a front is without, since it says nothing of them; empty where it has all."""
    absent = [arm.name for arm in analysis.arms if arm.name not in {one.arm for one in front.arms}]
    said = []
    if absent:
        said.append(f"without {joined(absent)}, of which the cost of some attempts is not known")
    if front.tasks < analysis.tasks:
        said.append(
            f"on the {counted(front.tasks, 'task')} of {analysis.tasks:,} that all of its arms have attempts at"
        )
    told_ = "; ".join(said)
    return f"{start}{told_ if start else told_[:1].upper() + told_[1:]}." if said else ""


def frontier(analysis: Analysis) -> Table:
    """Nats against success: what re-weighting the bare arm buys, and where the others lie."""
    found, level = analysis.frontier, analysis.settings.level
    columns = (f"success [{level}]", f"nats [{level}]")
    if found is None or not found.arms:
        return Table("frontier", "", "", columns, ())
    draws = found.best_of.at
    picks = [i for i, n in enumerate(draws) if n in (*(4.0**k for k in range(12)), found.budget, draws[-1])]
    rows = [
        Row(
            f"{found.bare}, best of {draws[i]:,.0f}",
            (estimate(found.best_of.success[i]), estimate(found.best_of.nats[i])),
        )
        for i in picks
    ]
    rows += [
        Row(
            one.arm,
            (
                estimate(one.success),
                (number(one.nats.value), "[no interval]" if one.nats.low is None else f"[{at_least(one.nats.low)}, )"),
            ),
        )
        for one in found.arms
    ]
    notes = [
        f"Nats: divergence from {found.bare} that a policy spends, mean over tasks. For {found.bare}, of the best of N "
        "of its attempts, whose success is its reach@N. For the others, the least that any re-weighting would have to "
        f"spend to succeed as often at every task, at smoothed rates; it has a lower limit only. The best of "
        f"{found.budget} spends at most {found.paid:.2f}: an arm whose lower limit lies beyond that does what so many "
        "attempts do not pay for.",
        fewer_than_bare(found),
        without_missing(analysis, NATS_MOVE),
        broken_in(analysis),
    ]
    title = f"What re-weighting {found.bare} can buy"
    return Table("frontier", title, "policy", columns, tuple(rows), told(notes))


def fewer_than_bare(found: ElicitationFrontier) -> str:
    """Which arms stand for fewer tasks than the bare arm's curves; empty where none does."""
    fewer = [f"{one.arm} {one.tasks:,}" for one in found.arms if one.tasks < found.tasks]
    return (
        f"{found.bare} has attempts at {found.tasks:,} tasks; shared with it are of {joined(fewer)}." if fewer else ""
    )


def priced(cost: Estimate) -> str:
    """A cost with its interval on one line."""
    return " ".join(_priced(cost)).rstrip()


def _priced(cost: Estimate) -> Cell:
    if cost.low is None or cost.high is None:
        return (amount(cost.value), "[no interval]")
    return (amount(cost.value), f"[{amount(cost.low)}, {amount(cost.high)}]")


def _member(on_front: bool, membership: float | None) -> Cell:
    said = NONE if membership is None else share(membership)
    return (f"{said} *" if on_front else said,)
