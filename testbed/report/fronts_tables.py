"""The two fronts as tables: arms by cost and reach, and nats against success."""

from __future__ import annotations

from testbed.report.cells import Cell, Row, Table, estimate, told
from testbed.report.record import Analysis
from testbed.report.words import AXES, NONE, amount, at_least, attempts, joined, number, share
from testbed.stats import Estimate


def fronts(analysis: Analysis) -> Table:
    """What each arm costs and reaches, and in what share of replicates no other beats it in both."""
    level = analysis.settings.level
    columns = [f"{AXES[front.axis]} [{level}]" for front in analysis.fronts]
    heads = [head for cost in columns for head in (cost, "on the front in")]
    rows = []
    for arm in analysis.arms:
        cells: list[Cell] = []
        for front in analysis.fronts:
            own = next((one for one in front.arms if one.arm == arm.name), None)
            cells += [("",), ("",)] if own is None else [_priced(own.cost), _member(own.on_front, own.membership)]
        if any(any(cell) for cell in cells):
            reach = next(one.reach for front in analysis.fronts for one in front.arms if one.arm == arm.name)
            rows.append(Row(arm.name, (estimate(reach), *cells)))
    read = joined(sorted({attempts(front.attempts) for front in analysis.fronts})) if analysis.fronts else ""
    notes = [
        f"Reach within {read} at a task, and what these cost. An arm is on the front if no other costs no more and "
        "reaches no less, and one of the two is better. The share is that of bootstrap replicates of the tasks in "
        "which it is; * marks the arms on the front of the figures as they are. Cost intervals are percentiles of the "
        "replicates."
    ]
    title = "Cost and reach"
    return Table("fronts", title, "arm", (f"reach [{level}]", *heads), tuple(rows), told(notes) if rows else ())


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
        "attempts do not pay for."
    ]
    title = f"What re-weighting {found.bare} can buy"
    return Table("frontier", title, "policy", columns, tuple(rows), told(notes))


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
