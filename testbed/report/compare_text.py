"""A comparison of two runs in the terminal: 80 columns, piped or not, with or without colour."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from testbed.report.cells import Cell, Row, Table, either_way, estimate, told
from testbed.report.compare_record import RunComparison, SideSummary
from testbed.report.comparison_tables import creation, equivalents, gain, missing
from testbed.report.findings import headline
from testbed.report.record import Analysis
from testbed.report.text import print_tables
from testbed.report.words import AXES, amount, attempts, counted
from testbed.stats import Estimate

ENOUGH_FOR_RATIOS = 10  # tasks; docs/compare.md says how often intervals of ratios hold with fewer


def print_comparison(found: RunComparison, console: Console | None = None) -> None:
    """Prints a comparison.

    Args:
        found: what to show.
        console: where to; by default standard output.
    """
    title = f"{_name(found.left)} (A) and {_name(found.right)} (B) on {counted(found.tasks, 'common task')}"
    print_tables(title, list(_remarks(found)), list(_tables(found)), console)


def _remarks(found: RunComparison) -> Iterator[str]:
    for difference in found.differs:
        topic = "" if difference.topic == "else" else f"{difference.topic}: "
        yield f"differs: {topic}{'; '.join(difference.lines)}"
    same = ", ".join(found.same) or "not known"
    yield f"the same: {same}" if found.differs else "Nothing differs between the arms."
    for warning in found.warnings:
        yield f"! {warning}"
    if found.reference and found.verdicts.tasks and not found.only_pass_1:
        other = "A" if found.reference == "B" else "B"
        yield f"{other} against {found.reference}: {headline(_as_analysis(found), found.verdicts)}"


def _tables(found: RunComparison) -> Iterator[Table]:
    yield _sides(found)
    yield _verdicts(found)
    yield _costs(found)
    yield _divergence(found)
    if found.reference and not found.only_pass_1:
        analysis = _as_analysis(found)
        yield from (gain(analysis), creation(analysis), equivalents(analysis), missing(analysis))


def _sides(found: RunComparison) -> Table:
    """Both sides and their difference."""
    level, k = found.settings.level, found.operating
    several = k > 1 and not found.only_pass_1
    lost = any(side.missing for side in (found.left, found.right))
    columns = ["attempts per task", f"pass@1 [{level}]"]
    columns += [f"reach@{k} [{level}]"] if several else []
    columns += ["missing", "pass@1, missing either way"] if lost else []
    rows = []
    for side in (found.left, found.right):
        cells = [(_range(side),), estimate(side.pass_1)]
        cells += [estimate(side.reach)] if several else []
        cells += [(f"{side.missing:,}",), either_way(side.pass_1_if_missing)] if lost else []
        rows.append(Row(side.letter, tuple(cells)))
    cells = [("",), estimate(found.pass_1, signed=True)]
    cells += [estimate(found.reach, signed=True)] if several else []
    cells += [("",), either_way(found.pass_1_if_missing)] if lost else []
    rows.append(Row("B - A", tuple(cells), "whole"))
    notes = [
        "Means over tasks; the difference is paired: task by task, on the same tasks.",
        f"Reach is read within {attempts(k)} instead of {found.settings.operating}: some task has no more."
        if k < found.settings.operating and not found.only_pass_1
        else "",
    ]
    return Table("sides", "Both sides", "", tuple(columns), tuple(rows), told(notes))


def _verdicts(found: RunComparison) -> Table:
    """Tasks by which side has them within reach."""
    s = found.settings
    cells = tuple((f"{count:,}",) for count in found.within_reach.values())
    notes = [
        f"Within reach: the chance that at least one of {attempts(s.elicitation)} succeeds is at least {s.rho:g}, at "
        f"level {s.alpha:g} for each side. Undetermined: the attempts do not settle it."
    ]
    rows = (Row("tasks", cells),) if cells else ()
    return Table("verdicts", "Tasks within reach", "", tuple(found.within_reach), rows, told(notes))


def _costs(found: RunComparison) -> Table:
    """Mean cost of an attempt on both sides, and B's over A's."""
    rows = []
    for axis, name in AXES.items():
        if axis in found.left.cost or axis in found.right.cost:
            sides = [
                (amount(side.cost[axis]) if axis in side.cost else "not known",) for side in (found.left, found.right)
            ]
            ratio = found.ratios.get(axis)
            rows.append(Row(name, (*sides, _ratio(ratio) if ratio else ("",))))
    notes = [
        "Means per scored attempt, over tasks. Seconds are by the clock of the machine that made the run, with what "
        "attempts made at one time waited for one another, and for whatever else ran."
    ]
    if found.tasks < ENOUGH_FOR_RATIOS and any(ratio.low is not None for ratio in found.ratios.values()):
        notes.append("With so few tasks, the true ratio lies outside its interval more often than the level says.")
    columns = ("A", "B", f"B / A [{found.settings.level}]")
    return Table("costs", "Cost of an attempt", "component", columns, tuple(rows), told(notes))


def _divergence(found: RunComparison) -> Table:
    """How far both sides' attempts lie from one model; no rows where that is not known."""
    title, column = "Nats between checkpoints", f"KL [{found.settings.level}]"
    if found.divergence is None:
        return Table("divergence", title, "", (column,), ())
    far = found.divergence
    rows = [Row(letter, (estimate(kl),)) for letter, kl in (("A", far.left), ("B", far.right)) if kl is not None]
    if far.difference is not None:
        rows.append(Row("B - A", (estimate(far.difference, signed=True),), "whole"))
    whose = f"that of {far.own}, {far.model}" if far.own else far.model
    notes = [
        "KL: ln of how much likelier an attempt's whole text, ends of messages included, is to the arm's own model "
        f"than to {whose}; mean over attempts, then tasks. Its upper limit does not foresee tasks far worse than all "
        "that were seen.",
        f"Of the {far.tasks:,} common tasks with attempts that were read." if far.tasks < found.tasks else "",
        *(
            f"{side}: {attempts(n)} lack{'s' * (n == 1)} scores by one of the models or both."
            for side, n in far.unscored.items()
        ),
    ]
    return Table("divergence", title, "", (column,), tuple(rows), told(notes))


def _ratio(found: Estimate) -> Cell:
    if found.low is None or found.high is None:
        return (amount(found.value), "[no interval]")
    return (amount(found.value), f"[{amount(found.low)}, {amount(found.high)}]")


def _as_analysis(found: RunComparison) -> Analysis:
    """The comparison as a report has it, whose tables it shares."""
    return Analysis(
        name="",
        settings=found.settings,
        tasks=found.tasks,
        bare=found.reference,
        arms=(),
        comparisons=(found.verdicts,),
        groups=(),
        ladder=(),
        curves=(),
        warnings=(),
    )


def _name(side: SideSummary) -> str:
    return f"{side.run}:{side.arm}"


def _range(side: SideSummary) -> str:
    return f"{side.fewest:,}" if side.fewest == side.most else f"{side.fewest:,}-{side.most:,}"
