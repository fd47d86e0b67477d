"""The report's tables as data: the terminal and the page lay out the same cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from testbed.report.cells import Cell, Row, Table, either_way, estimate, told
from testbed.report.checkpoints_words import table as checkpoints
from testbed.report.comparison_tables import creation, equivalents, gain, missing, support, verdicts
from testbed.report.fronts_tables import frontier, fronts, fronts_either_way
from testbed.report.groups import SMALL
from testbed.report.nats_words import table as nats
from testbed.report.record import Analysis, ArmSummary, Effect, Group, Reach
from testbed.report.record_groups import TELLING
from testbed.report.words import AXES, amount, attempts, broken_in, counted, number, span

SHORT_EFFECT = {
    Effect.CREATED: "created",
    Effect.EXPANDED: "expanded",
    Effect.ELICITED: "elicited",
    Effect.LOST: "lost",
    Effect.NOTHING: "no sign",
    Effect.UNDETERMINED: "undet.",
}
_STEPS = {
    "scaffold": "Scaffold: being offered tools at all, though they answer nothing of use.",
    "self-simulation": "Self-simulation: that the model itself writes what the tools would answer.",
    "information": "Information: what the tools answer, whoever asked.",
    "interaction": "Interaction: that it is the arm's own calls that are answered.",
}


def every_table(analysis: Analysis) -> tuple[Table, ...]:
    """Every table for which there is something to show, in reading order."""
    made = (
        arms,
        _unflagged(arms),
        gain,
        _unflagged(gain),
        creation,
        verdicts,
        support,
        equivalents,
        missing,
        solved,
        groups,
        ladder,
        checkpoints,
        nats,
        frontier,
        fronts,
        fronts_either_way,
        cost,
    )
    return tuple(table for table in (make(analysis) for make in made) if table.rows)


def arms(analysis: Analysis) -> Table:
    """Each arm by itself: attempts, pass@1, reach, missing attempts with bounds."""
    level, lost = analysis.settings.level, any(arm.missing for arm in analysis.arms)
    first = max((arm.operating.k for arm in analysis.arms), default=1)
    last = max((arm.elicitation.k for arm in analysis.arms), default=1)
    several = 1 < first < last
    spends = [*([first] if several else []), *([last] if last > 1 else [])]
    columns = ["attempts per task", f"pass@1 [{level}]", *(f"reach@{k} [{level}]" for k in spends)]
    priced = _price(analysis)
    if priced:
        columns += [f"{AXES[priced]} per attempt", "per solved task"]
    if lost:
        columns += ["missing", "pass@1, missing either way", *(f"reach@{k}, either way" for k in spends)]
    rows = []
    for arm in analysis.arms:
        made = (_range(arm), f"first {arm.fixed:,} read") if arm.fixed else (_range(arm),)
        cells: list[Cell] = [made, estimate(arm.pass_1)]
        cells += [_reach(arm.operating, first)] if several else []
        cells += [_reach(arm.elicitation, last)] if last > 1 else []
        cells += [(amount(arm.cost.get(priced)),), (amount(_per_solved(arm, priced)),)] if priced else []
        if lost:
            cells += [(f"{arm.missing:,}",), either_way(arm.if_missing)]
            cells += [either_way(arm.operating_if_missing)] if several else []
            cells += [either_way(arm.elicitation_if_missing)] if last > 1 else []
        rows.append(Row(arm.name, tuple(cells)))
    notes = [_reach_note(analysis, last)] if last > 1 else []
    if priced:
        notes.append(
            f"Per solved task: what {attempts(first)} at a task cost, over the share of tasks that these solve."
        )
    title = f"Arms on {counted(analysis.tasks, 'task')}"
    return Table("arms", title, "arm", tuple(columns), tuple(rows), told(notes))


def _reach_note(analysis: Analysis, k: int) -> str:
    said = f"pass@1: the chance that one attempt succeeds. reach@{k}: that at least one of {k} does. Means over tasks."
    fewer = [arm for arm in analysis.arms if arm.elicitation.k < k]
    if not fewer:
        return said
    return f"{said} A reach within fewer attempts, of an arm that has no more, is no match for the others."


def _price(analysis: Analysis) -> str:
    """The component of cost that the table of arms tells: money where it is known, else what was generated."""
    return next(
        (a for a in ("usd", "generated_tokens", "model_calls") if any(a in arm.cost for arm in analysis.arms)), ""
    )


def _per_solved(arm: ArmSummary, axis: str) -> float | None:
    """Cost of the operating spend at a task by the share of tasks that it solves; None where it solves none."""
    solved = arm.operating.estimate.value
    return arm.operating.k * arm.cost[axis] / solved if solved and axis in arm.cost else None


def _unflagged(make: Callable[[Analysis], Table]) -> Callable[[Analysis], Table]:
    """The same table of the tasks that the guard against leaks did not flag; without rows where it flagged none."""

    def made(analysis: Analysis) -> Table:
        leaks = analysis.leaks
        if leaks is None:
            return Table("", "", "", (), ())
        left = replace(analysis, tasks=leaks.left, arms=leaks.arms, comparisons=leaks.comparisons)
        table = make(left)
        title = f"{table.title}, without the {counted(leaks.tasks, 'flagged task')}"
        return replace(table, key=f"{table.key}-unflagged", title=title, notes=())

    return made


def solved(analysis: Analysis) -> Table:
    """Tasks solved at least once: counts of this data."""
    columns = ("both", f"only {analysis.bare}", "only this arm", "neither", "attempts")
    rows = []
    for c in analysis.comparisons:
        s = c.solved
        if s.bare_attempts != s.arm_attempts:
            continue  # the arm with more attempts solves more tasks: the counts would mislead
        counts = (s.both, s.only_bare, s.only_arm, s.neither)
        rows.append(Row(c.arm, (*((f"{n:,}",) for n in counts), (f"{s.bare_attempts}, {s.arm_attempts}",))))
    notes = ["Counts of this data, no estimate, for arms with as many attempts at a task as the bare arm."]
    return Table("solved", "Tasks solved at least once", "arm", columns, tuple(rows), told(notes))


def groups(analysis: Analysis) -> Table:
    """Groups of tasks: pass@1 of each arm, and what it did."""
    names = [arm.name for arm in analysis.arms]
    rows = [
        Row(group.label, ((f"{group.tasks:,}",), *(_group_cell(analysis, group, name) for name in names)), _kind(group))
        for group in analysis.groups
    ]
    notes = [
        "pass@1, and what the arm did to these tasks compared with the bare arm. Created, elicited, lost: claims that "
        f"intervals over tasks or the evidence of these tasks support, each by itself at {analysis.settings.level}, "
        "however missing attempts had ended. Expanded: tasks came within reach, be it by creation or elicitation. "
        f"No sign: every part is within {SMALL:g} of none, and the interval of the gain holds 0 and nothing beyond "
        f"{TELLING:g}, which is what was seen and no claim that there is none. Undet.: undetermined, it needs more "
        "tasks or attempts.",
        broken_in(analysis),
    ]
    if not any(c.full for c in analysis.comparisons):
        notes = ["pass@1 of each arm."]
    return Table("groups", "Groups of tasks", "tasks", ("n", *names), tuple(rows), told(notes))


def ladder(analysis: Analysis) -> Table:
    """The steps from bare to live."""
    lost = any(rung.if_missing for rung in analysis.ladder)
    rows = []
    for rung in analysis.ladder:
        cells: list[Cell] = [(rung.meaning,), (f"{rung.tasks:,}",), estimate(rung.difference, signed=True)]
        rows.append(Row(f"{rung.lower} to {rung.upper}", (*cells, *([either_way(rung.if_missing)] if lost else []))))
    columns = ["separates", "tasks", f"difference [{analysis.settings.level}]"]
    columns += ["missing either way"] if lost else []
    meanings = " ".join(rung.meaning for rung in analysis.ladder)
    spend = analysis.settings.operating
    fewer = ", or as many as there are" if spend > 1 else ""
    notes = [
        f"Difference of reach within {attempts(spend)}{fewer}.",
        *(text for word, text in _STEPS.items() if word in meanings),
        *([broken_in(analysis)] if broken_in(analysis) else []),
    ]
    return Table("ladder", "Ladder from bare to live", "step", tuple(columns), tuple(rows), (" ".join(notes),))


def cost(analysis: Analysis) -> Table:
    """Mean cost of an attempt by component, of a success, and tool faults."""
    axes = [axis for axis in AXES if any(axis in arm.cost for arm in analysis.arms)]
    main = next((axis for axis in ("generated_tokens", "model_calls", *axes) if axis in axes), None)
    columns = [AXES[axis] for axis in axes]
    columns += [f"{AXES[main]} per success"] if main else []
    faults = any(arm.faults or arm.control for arm in analysis.arms)  # not recorded in imported outcomes
    rows = []
    for arm in analysis.arms:
        cells: list[Cell] = [(amount(arm.cost.get(axis)),) for axis in axes]
        cells += [(amount(arm.cost_per_success.get(main)),)] if main else []
        cells += [(f"{arm.faults:,}",)] if faults else []
        rows.append(Row(arm.name, tuple(cells)))
    note = "Mean per scored attempt."
    if "seconds" in axes:
        note += " Seconds are by the clock, with what attempts made at one time waited for one another."
    if faults:
        columns.append("tool faults")
        note += (
            " Tool faults: faulty calls in all scored attempts together, calls to tools that were not offered included."
        )
    return Table("cost", "Cost of an attempt", "arm", tuple(columns), tuple(rows) if columns else (), told([note]))


def _group_cell(analysis: Analysis, group: Group, name: str) -> Cell:
    arm = next((a for a in group.arms if a.arm == name), None)
    if arm is None:
        return ("",)
    effect = next((e for e in group.effects if e.arm == name), None)
    done = []
    if effect is not None and effect.elicitation is not None:
        done = [SHORT_EFFECT[e] for e in ((Effect.UNDETERMINED,) if effect.too_few else effect.effects)]
    bounds = [span(arm.if_missing)] if arm.if_missing else []
    return (number(arm.pass_1.value), *bounds, *done)


def _kind(group: Group) -> str:
    return "part" if group.within else "whole"


def _reach(reach: Reach, asked: int) -> Cell:
    cell = estimate(reach.estimate)
    return cell if reach.k == asked else (*cell, f"within {reach.k}")


def _range(arm: ArmSummary) -> str:
    return f"{arm.fewest:,}" if arm.fewest == arm.most else f"{arm.fewest:,}-{arm.most:,}"
