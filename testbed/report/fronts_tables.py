"""The two fronts as tables: arms by cost and reach, and nats against success."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.report.cells import Cell, Row, Table, estimate, told
from testbed.report.fronts import ElicitationFrontier
from testbed.report.record import Analysis
from testbed.report.words import (
    AXES,
    NONE,
    amount,
    at_least,
    attempts,
    counted,
    joined,
    number,
    share,
    without_missing,
)
from testbed.stats import Estimate
from testbed.stats.pareto import CostFront


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
        without_missing(analysis),
    ]
    return Table("fronts", "Cost and reach", "arm", tuple(heads), tuple(rows), told(notes) if rows else ())


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
        without_missing(analysis),
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
