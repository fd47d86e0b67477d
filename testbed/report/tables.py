"""The report's tables as data: the terminal and the page lay out the same cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from testbed.report.groups import SMALL
from testbed.report.record import Analysis, ArmComparison, ArmSummary, Effect, Group, Reach
from testbed.report.words import (
    AXES,
    NONE,
    amount,
    equivalent,
    figure,
    further,
    interval,
    no_claims,
    null_note,
    number,
    span,
)
from testbed.stats import Estimate, Figures, Range, SupportRow, Verdict

Cell = tuple[str, ...]  # lines: a figure, and its interval under it where it has one

SHORT_EFFECT = {
    Effect.CREATED: "created",
    Effect.EXPANDED: "expanded",
    Effect.ELICITED: "elicited",
    Effect.LOST: "lost",
    Effect.NOTHING: "no sign",
    Effect.UNDETERMINED: "undet.",
}


@dataclass(frozen=True)
class Row:
    """A row: what it is about, its cells, and its kind ("", "null", "whole" or "part") for emphasis."""

    head: str
    cells: tuple[Cell, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: short name, unique in a report.
        title: what it shows.
        head: heading of the first column.
        columns: headings of the others.
        rows: its rows.
        notes: what one must know to read it.
    """

    key: str
    title: str
    head: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def every_table(analysis: Analysis) -> tuple[Table, ...]:
    """Every table for which there is something to show, in reading order."""
    # which are made of these tables' parts
    from testbed.report.checkpoints_words import table as checkpoints
    from testbed.report.nats_words import table as nats

    made = (
        arms,
        _unflagged(arms),
        gain,
        _unflagged(gain),
        creation,
        verdicts,
        support,
        missing,
        solved,
        groups,
        ladder,
        checkpoints,
        nats,
        cost,
    )
    return tuple(table for table in (make(analysis) for make in made) if table.rows)


def arms(analysis: Analysis) -> Table:
    """Each arm by itself: attempts, pass@1, reach, missing attempts with bounds."""
    s, lost = analysis.settings, any(arm.missing for arm in analysis.arms)
    more = s.operating > 1
    columns = ["attempts per task", f"pass@1 [{s.level}]"]
    columns += [f"reach@{s.operating} [{s.level}]"] if more else []
    columns += [f"reach@{s.elicitation} [{s.level}]"] if s.elicitation > 1 else []
    if lost:
        columns += ["missing", "pass@1, missing either way"]
        columns += [f"reach@{s.operating}, either way"] if more else []
        columns += [f"reach@{s.elicitation}, either way"] if s.elicitation > 1 else []
    rows = []
    for arm in analysis.arms:
        attempts = (_range(arm), f"first {arm.fixed:,} read") if arm.fixed else (_range(arm),)
        cells: list[Cell] = [attempts, _estimate(arm.pass_1)]
        cells += [_reach(arm.operating, s.operating)] if more else []
        cells += [_reach(arm.elicitation, s.elicitation)] if s.elicitation > 1 else []
        if lost:
            cells += [(f"{arm.missing:,}",), _either_way(arm.if_missing)]
            cells += [_either_way(arm.operating_if_missing)] if more else []
            cells += [_either_way(arm.elicitation_if_missing)] if s.elicitation > 1 else []
        rows.append(Row(arm.name, tuple(cells)))
    return Table("arms", f"Arms on {analysis.tasks:,} tasks", "arm", tuple(columns), tuple(rows))


def _unflagged(make: Callable[[Analysis], Table]) -> Callable[[Analysis], Table]:
    """The same table of the tasks that the guard against leaks did not flag; without rows where it flagged none."""

    def made(analysis: Analysis) -> Table:
        leaks = analysis.leaks
        if leaks is None:
            return Table("", "", "", (), ())
        left = replace(analysis, tasks=leaks.left, arms=leaks.arms, comparisons=leaks.comparisons)
        table = make(left)
        title = f"{table.title}, without the {leaks.tasks:,} flagged" + ("" if make is arms else " tasks")
        return replace(table, key=f"{table.key}-unflagged", title=title, notes=())

    return made


def gain(analysis: Analysis) -> Table:
    """Gain = elicitation + creation - loss of each arm, and the null row."""
    level = analysis.settings.level
    columns = tuple(f"{part} [{level}]" for part in ("gain", "= elicitation", "+ creation", "- loss"))
    rows = []
    for comparison in analysis.comparisons:
        if comparison.full is None:
            cells = (_estimate(comparison.gain, signed=True), (NONE,), (NONE,), (NONE,))
            rows.append(Row(comparison.arm, cells))
        else:
            rows.append(Row(comparison.arm, _gain_cells(comparison.full.figures)))
    rows += [Row("null row", _gain_cells(f), "null") for f in null_rows(analysis)]
    notes = [null_note(analysis), no_claims(analysis)]
    return Table("gain", f"Gain over {analysis.bare}", "arm", columns, tuple(rows), _notes(notes))


def creation(analysis: Analysis) -> Table:
    """Creation of each arm against the elicitation spend: what few resamples cannot reach, more may."""
    curves = {c.arm: c.full.creation_by_spend for c in analysis.comparisons if c.full and c.full.creation_by_spend}
    spends = sorted({spend for curve in curves.values() for spend in curve.spends})
    rows = []
    for arm, curve in curves.items():
        found = dict(zip(curve.spends, curve.creation, strict=True))
        rows.append(Row(arm, tuple(_estimate(found[spend]) if spend in found else ("",) for spend in spends)))
    columns = tuple(f"{spend:g} [{analysis.settings.level}]" for spend in spends)
    notes = [
        f"Creation if elicitation may take as many attempts of {analysis.bare} as the column says. True creation does "
        "not rise with them. Where its interval excludes 0, what is left at the right is not explained by that many."
    ]
    title = f"Creation by the attempts of {analysis.bare} allowed"
    return Table("creation", title, "arm", columns, tuple(rows) if len(spends) > 1 else (), _notes(notes))


def missing(analysis: Analysis) -> Table:
    """What every figure of a comparison would be if all missing attempts had failed, or succeeded, in either arm."""
    names = ("gain", "elicitation_part", "creation", "loss", "srr", "ndr", "sds", "nscr", "nats")
    heads = ("gain", "elicitation", "creation", "loss", "SRR", "NDR", "SDS", "NSCR", "nats")
    columns = (*heads, *(v.value for v in Verdict))
    rows = []
    for c in analysis.comparisons:
        bounds = c.full.missing if c.full else None
        if bounds is not None:
            cells = [_either_way(bounds.figures.get(name)) for name in names]
            cells += [_counts(bounds.counts[v.value]) for v in Verdict]
            rows.append(Row(c.arm, tuple(cells)))
        elif c.gain_if_missing is not None:
            rows.append(Row(c.arm, (_either_way(c.gain_if_missing), *([("",)] * (len(columns) - 1)))))
    notes = [
        "Each figure's range if all missing attempts of either arm had failed, or all succeeded, tasks without any "
        "scored attempt included. The figures above leave missing attempts out."
    ]
    return Table("missing", "Missing attempts, either way", "arm", columns, tuple(rows), _notes(notes))


def verdicts(analysis: Analysis) -> Table:
    """Tasks by verdict, the attempts they cost, and the attempts still needed."""
    columns = (*(v.value for v in Verdict), "attempts spent", "still needed")
    full = _full(analysis)
    rows = [Row(c.arm, _verdict_cells(f)) for c, f in full]
    rows += [Row("null row", _verdict_cells(f), "null") for f in null_rows(analysis)]
    notes = [
        "A task counts as expanded only if it is out of reach of the bare arm and within reach of the other, each at "
        f"level {analysis.settings.alpha:g}, whenever one stops sampling. Out of reach: reach within "
        f"{_count(analysis.settings.elicitation)} is below {analysis.settings.rho:g}, solved now and then or never. "
        "Still needed is a projection from the rates seen so far.",
        _discoveries(analysis, full),
        no_claims(analysis),
    ]
    return Table("verdicts", f"Verdicts on tasks, against {analysis.bare}", "arm", columns, tuple(rows), _notes(notes))


def support(analysis: Analysis) -> Table:
    """Support metrics, nats and the sample-equivalent gain, beside the null row."""
    level = analysis.settings.level
    columns = (*(f"{m} [{level}]" for m in ("SRR", "NDR", "SDS", "NSCR")), f"nats [{level}]", f"worth [{level}]")
    rows = []
    for c, f in _full(analysis):
        rows.append(Row(_head(c.arm, f), _support_cells(f)))
        if c.full is not None and c.full.at_null is not None and c.full.null is not None:
            rows.append(Row(f"{c.arm} at {c.full.at_null.spend:g}", (*_rate_cells(c.full.at_null), ("",), ("",))))
    rows += [Row(_null_head(f, analysis), _support_cells(f), "null") for f in null_rows(analysis)]
    budgets = sorted({f.nats_budget for _, f in _full(analysis)})
    notes = [
        "SRR: share of what the bare arm solves that the other still solves. NDR: share of what the other solves that "
        "is new. SDS: their harmonic mean. NSCR: net change. All four mean little but beside the null row, and only "
        "at its spend. They take the arms' attempts at a task as independent: arms that share their random numbers and "
        "differ little retain more than this says.",
        f"Nats: free-energy gain at equal attempts ({', '.join(map(str, budgets))}). Worth: bare attempts with the "
        "same reach.",
    ]
    return Table("support", f"Support against {analysis.bare}", "arm", columns, tuple(rows), _notes(notes))


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
    return Table("solved", "Tasks solved at least once", "arm", columns, tuple(rows), _notes(notes))


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
        f"No sign: every part is within {SMALL:g} of none and the interval of the gain holds 0, which is what was seen "
        "and no claim that there is none. Undet.: undetermined, it needs more tasks or attempts."
    ]
    if not any(c.full for c in analysis.comparisons):
        notes = ["pass@1 of each arm."]
    return Table("groups", "Groups of tasks", "tasks", ("n", *names), tuple(rows), _notes(notes))


def ladder(analysis: Analysis) -> Table:
    """The steps from bare to live."""
    lost = any(rung.if_missing for rung in analysis.ladder)
    rows = []
    for rung in analysis.ladder:
        cells: list[Cell] = [(rung.meaning,), (f"{rung.tasks:,}",), _estimate(rung.difference, signed=True)]
        rows.append(Row(f"{rung.lower} to {rung.upper}", (*cells, *([_either_way(rung.if_missing)] if lost else []))))
    columns = ["separates", "tasks", f"difference [{analysis.settings.level}]"]
    columns += ["missing either way"] if lost else []
    return Table("ladder", "Ladder from bare to live", "step", tuple(columns), tuple(rows))


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
    notes = ["Mean per scored attempt."]
    if faults:
        columns.append("tool faults")
        notes = [f"{notes[0]} Tool faults: all of the arm, refused calls to tools that were not offered included."]
    return Table("cost", "Cost of an attempt", "arm", tuple(columns), tuple(rows) if columns else (), _notes(notes))


def null_rows(analysis: Analysis) -> tuple[Figures, ...]:
    """The null row: every comparison has one, and where they differ, the one on the most tasks is shown."""
    nulls = [c.full.null for c in analysis.comparisons if c.full is not None and c.full.null is not None]
    return (max(nulls, key=lambda n: (len(n.tasks), n.elicitation)),) if nulls else ()


def _full(analysis: Analysis) -> list[tuple[ArmComparison, Figures]]:
    return [(c, c.full.figures) for c in analysis.comparisons if c.full is not None]


def _gain_cells(f: Figures) -> tuple[Cell, ...]:
    parts = [_estimate(part) for part in (f.elicitation_part, f.creation, f.loss)]
    return (_estimate(f.gain, signed=True), *parts)


def _verdict_cells(f: Figures) -> tuple[Cell, ...]:
    needed = f.verdicts.needed[f.verdicts.verdict == Verdict.UNDETERMINED]
    total = float(needed.sum()) if needed.size else 0.0
    counts = [(f"{f.verdicts.counts[v.value]:,}",) for v in Verdict]
    spent = f"{int(f.verdicts.spent.sum()):,}"
    return (*counts, (spent,), (further(None if total == float("inf") else total).removeprefix("about "),))


def _support_cells(f: Figures) -> tuple[Cell, ...]:
    return (*_rate_cells(f.support), _estimate(f.nats, signed=True), equivalent(f.equivalent))


def _rate_cells(s: SupportRow) -> tuple[Cell, ...]:
    return (*(_estimate(rate) for rate in (s.srr, s.ndr, s.sds)), _estimate(s.nscr, signed=True))


def _null_head(f: Figures, analysis: Analysis) -> str:
    apart = any(c.full is not None and c.full.at_null is not None for c in analysis.comparisons)
    return f"null row at {f.support.spend:g}" if apart else _head("null row", f)


def _head(arm: str, f: Figures) -> str:
    """An arm's name, with the spend at which its support is read, where it has too few attempts for the one asked."""
    return arm if f.support.spend == f.elicitation else f"{arm} at {f.support.spend:g}"


def _count(attempts: int) -> str:
    return f"{attempts:,} attempt" if attempts == 1 else f"{attempts:,} attempts"


def _discoveries(analysis: Analysis, full: Iterable[tuple[ArmComparison, Figures]]) -> str:
    said = []
    for comparison, f in full:
        for kept, verdict in ((f.verdicts.expanded_fdr, Verdict.EXPANDED), (f.verdicts.lost_fdr, Verdict.LOST)):
            if count := f.verdicts.counts[verdict.value]:
                said.append(f"{comparison.arm} {int(kept.sum())} of {count} {verdict.value}")
    if not said:
        return ""
    alpha = analysis.settings.alpha
    kept_ = f"With the false discovery rate over all tasks kept to {alpha:g} by e-BH there remain: {', '.join(said)}."
    if not any(arm.fixed for arm in analysis.arms):
        return kept_
    return (
        f"{kept_} The fewer tasks show a thing, the more evidence of each e-BH asks for, and sampling stopped as soon "
        'as it was enough for the task alone, unless the experiment says stop = "discovery".'
    )


def _group_cell(analysis: Analysis, group: Group, name: str) -> Cell:
    arm = next((a for a in group.arms if a.arm == name), None)
    if arm is None:
        return ("",)
    effect = next((e for e in group.effects if e.arm == name), None)
    done = [SHORT_EFFECT[e] for e in effect.effects] if effect is not None and effect.elicitation is not None else []
    bounds = [span(arm.if_missing)] if arm.if_missing else []
    return (number(arm.pass_1.value), *bounds, *done)


def _kind(group: Group) -> str:
    return "part" if group.within else "whole"


def _estimate(estimate: Estimate, *, signed: bool = False) -> Cell:
    return (number(estimate.value, signed=signed), interval(estimate, signed=signed))


def _either_way(bounds: Range | None) -> Cell:
    return (span(bounds),) if bounds else ("",)


def _counts(bounds: Range) -> Cell:
    low, high = int(bounds.low), int(bounds.high)
    return (f"{low:,}" if low == high else f"{low:,} to {high:,}",)


def _reach(reach: Reach, asked: int) -> Cell:
    text = figure(reach.estimate)
    return tuple(text.split(" ", 1)) if reach.k == asked else (*text.split(" ", 1), f"at {reach.k}")


def _range(arm: ArmSummary) -> str:
    return f"{arm.fewest:,}" if arm.fewest == arm.most else f"{arm.fewest:,}-{arm.most:,}"


def _notes(notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(note for note in notes if note)
