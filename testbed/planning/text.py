"""A plan in the terminal: the tables of the report, 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from testbed.planning.record import Detectable, Needed, Pair, Plan
from testbed.report.cells import Row, Table
from testbed.report.text import print_tables
from testbed.report.words import AXES, amount, number

NEVER = "never"


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Prints a plan.

    Args:
        plan: what to show.
        console: where to; by default standard output.
    """
    title = f"Plan for {plan.name}" if plan.name else "Plan"
    said = [_reading(plan), _out_of_reach(plan), *(f"! {note}" for note in plan.notes)]
    print_tables(title, said, [*_tables(plan)], console)


def _tables(plan: Plan) -> Iterator[Table]:
    yield _varies(plan)
    if plan.tasks is not None:
        yield _found(plan)
    yield _asked(plan) if plan.effect is not None else _needed(plan)
    if plan.pairs[0].by_attempts:
        yield _by_attempts(plan, plan.pairs[0])
    yield _settling(plan)
    if plan.name:
        yield _costs(plan)


def _reading(plan: Plan) -> str:
    measure = plan.measure
    read = "1 attempt" if measure.operating == 1 else f"{measure.operating} attempts"
    return (
        f"A gain is found when the report's {measure.level} interval for it excludes 0; plans are for a probability of "
        f"{plan.power:g}. Arms are read at {read}."
    )


def _out_of_reach(plan: Plan) -> str:
    """What verdicts ask of the bare arm: the line that most come for."""
    (one, many), bare, made = plan.certificate, plan.pairs[0].bare, plan.bare_most
    needs = f"For a task to be found expanded, {bare} needs at least {one:,} attempts at it, all of them failures"
    if many is None:
        return f"{needs}."
    together = f"{many:,} where a tenth of all {plan.tasks:,} tasks is to be found so together"
    so = "too few" if made < one else "enough for the first, too few for the second" if made < many else "enough"
    return f"{needs}; {together}. It makes {made:,} per task: {so}."


def _varies(plan: Plan) -> Table:
    clustered = any(pair.spread.cluster_size > 1 for pair in plan.pairs)
    columns = ["between tasks", f"within, {plan.pairs[0].bare}", "within, this arm"]
    columns += ["tasks in a cluster", "icc"] if clustered else []
    columns += ["gain seen"] if any(pair.pilot for pair in plan.pairs) else []
    rows = []
    for pair in plan.pairs:
        spread = pair.spread
        cells = [_small(spread.between), _small(spread.bare[-1]), _small(spread.tool[-1])]
        cells += [f"{spread.cluster_size:.3g}", f"{spread.icc:.2f}"] if clustered else []
        cells += [number(pair.pilot.gain.mean, signed=True)] if pair.pilot else []
        rows.append(_row(pair.arm, [*cells, pair.source]))
    read = plan.measure.operating
    draw = "one attempt" if read == 1 else f"a draw of {read} attempts"
    notes = (f"Variance of the true gain over tasks, and of {draw} within a task, which more attempts average out.",)
    return Table("varies", "What makes the gain vary", "arm", (*columns, "from"), tuple(rows), notes)


def _found(plan: Plan) -> Table:
    parts = [d.what for d in plan.pairs[0].detectable][1:]
    columns = ("attempts per task", "gain", "gain, normal interval", *parts)
    rows = [
        _row(
            pair.arm,
            [_attempts(pair), *_gain(pair.detectable), *(_least(d.report) for d in pair.detectable[1:])],
        )
        for pair in plan.pairs
    ]
    notes = [
        f"The least true mean that is found with probability {plan.power:g}. The normal interval is the published "
        "formula's; the report's is wider, as it holds at any number of tasks."
    ]
    return Table("found", f"What {plan.tasks:,} tasks find", "arm", columns, tuple(rows), tuple(notes))


def _asked(plan: Plan) -> Table:
    cautious = any(need.cautious is not None for pair in plan.pairs for need in pair.needed)
    columns = ["attempts per task", "tasks", "normal interval"]
    columns += ["cautious"] if cautious else []
    columns += ["attempts in all"]
    columns += [f"attempts per task with {plan.tasks:,} tasks"] if plan.tasks is not None else []
    rows = []
    for pair in plan.pairs:
        for need in pair.needed:
            cells = [_attempts(pair), *_tasks(need, cautious), _whole(need.in_all)]
            if plan.tasks is not None:
                cells.append(NEVER if pair.attempts_needed is None else f"{pair.attempts_needed:,}")
            rows.append(_row(pair.arm, cells))
    notes = []
    if cautious:
        notes.append("Cautious: with the pilot's variance at the upper end of its one-sided 80% interval.")
    if plan.tasks is not None:
        notes.append("Attempts per task are the same in both arms; never: these tasks are too few at any number.")
    return Table(
        "asked", f"Tasks that find a gain of {plan.effect:g}", "arm", tuple(columns), tuple(rows), tuple(notes)
    )


def _needed(plan: Plan) -> Table:
    effects = [need.effect for need in plan.pairs[0].needed]
    columns = ("attempts per task", *(f"gain of {effect:g}" for effect in effects))
    rows = [_row(pair.arm, [_attempts(pair), *(f"{need.tasks:,}" for need in pair.needed)]) for pair in plan.pairs]
    notes = ("Ask for one with --effect to see its costs, and the tasks at other numbers of attempts.",)
    return Table("needed", "Tasks needed", "arm", columns, tuple(rows), notes)


def _by_attempts(plan: Plan, pair: Pair) -> Table:
    cautious = any(need.cautious is not None for need in pair.by_attempts)
    columns = ("tasks", "normal interval", *(["cautious"] if cautious else []), "attempts in all")
    rows = [
        _row(
            "any number" if need.in_all is None else f"{need.attempts:.0f}",
            [*_tasks(need, cautious), _whole(need.in_all)],
        )
        for need in pair.by_attempts
    ]
    notes = ("Attempts per task are the same in both arms. Any number: what no noise within tasks would leave.",)
    title = f"Tasks that find a gain of {plan.effect:g}, by attempts per task"
    return Table("attempts", title, "attempts", columns, tuple(rows), notes)


def _settling(plan: Plan) -> Table:
    measure = plan.measure
    made = list(plan.settling[0].settled) if plan.settling else []
    power = f"{100 * plan.power:.3g}%"
    columns = (
        "status",
        "fixed in advance",
        "any time, half",
        f"any time, {power}",
        *(f"settled by {n:,}" for n in made),
    )
    rows = []
    for line in plan.settling:
        need = line.attempts
        counts = [_whole(n) if n is not None else "> 100,000" for n in (need.fixed, need.half, need.anytime)]
        chances = [f"{100 * line.settled[n]:.0f}%" for n in made]
        rows.append(_row(f"{line.reach:g}", [need.status, *counts, *chances]))
    notes = [
        f"A task is in if its reach within {measure.elicitation} attempts is at least {measure.rho:g}, else out; level "
        f"{measure.alpha:g}. Fixed in advance: one look, right with probability {plan.power:g}. Any time: one looks "
        "after each attempt, as reports do; half and "
        f"{power} of such tasks are settled by then. Expanded takes both: out in the bare arm, in in the other.",
    ]
    return Table("verdicts", "Attempts that settle a task", "true reach", columns, tuple(rows), tuple(notes))


def _costs(plan: Plan) -> Table:
    axes = [axis for axis in AXES if any(cost.cost.get(axis) for cost in plan.costs)]
    columns = ("attempts", *(AXES[axis] for axis in axes))
    rows = [
        _row(line.arm, [f"{line.attempts:,}", *(amount(line.cost.get(axis)) for axis in axes)]) for line in plan.costs
    ]
    if len(plan.costs) > 1:
        sums = [amount(sum(line.cost.get(axis, 0.0) for line in plan.costs)) for axis in axes]
        rows.append(Row("in all", _row("", [f"{sum(line.attempts for line in plan.costs):,}", *sums]).cells, "whole"))
    notes = ("Costs are the means of the pilot's attempts; seconds are those of attempts, many of which run at once.",)
    title = f"Attempts and costs of {plan.costed:,} tasks" if plan.costed else "Costs"
    return Table("costs", title, "arm", columns, tuple(rows), notes if axes else ())


def _row(head: str, cells: Sequence[str]) -> Row:
    return Row(head, tuple((cell,) for cell in cells))


def _gain(found: Sequence[Detectable]) -> list[str]:
    return [_least(found[0].report), _least(found[0].normal)]


def _tasks(need: Needed, cautious: bool) -> list[str]:
    more = [_whole(need.cautious)] if cautious else []
    return [f"{need.tasks:,}", f"{need.normal:,}", *more]


def _attempts(pair: Pair) -> str:
    return f"{pair.bare_attempts:,}, {pair.attempts:,}"


def _least(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}" if value >= 0.0005 else "< 0.001"


def _small(value: float) -> str:
    return f"{value:.3f}"


def _whole(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
