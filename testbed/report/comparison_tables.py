"""The report's tables of every arm against the bare one: gain, creation, verdicts, support."""

from __future__ import annotations

from collections.abc import Iterable

from testbed.report.cells import Cell, Row, Table, either_way, estimate, told
from testbed.report.record import Analysis, ArmComparison
from testbed.report.words import (
    NONE,
    attempts,
    broken_in,
    equivalent,
    further,
    joined,
    no_claims,
    null_name,
    null_note,
)
from testbed.stats import Figures, Range, SupportRow, Verdict


def gain(analysis: Analysis) -> Table:
    """Gain = elicitation + creation - loss of each arm, and the null row."""
    level = analysis.settings.level
    columns = tuple(f"{part} [{level}]" for part in ("gain", "= elicitation", "+ creation", "- loss"))
    rows = []
    for comparison in analysis.comparisons:
        if comparison.full is None:
            cells = (estimate(comparison.gain, signed=True), (NONE,), (NONE,), (NONE,))
            rows.append(Row(comparison.arm, cells))
        else:
            rows.append(Row(comparison.arm, _gain_cells(comparison.full.figures)))
    rows += [Row(null_name(analysis), _gain_cells(f), "null") for f in null_rows(analysis)]
    notes = [null_note(analysis), no_claims(analysis), broken_in(analysis)]
    return Table("gain", f"Gain over {analysis.bare}", "arm", columns, tuple(rows), told(notes))


def creation(analysis: Analysis) -> Table:
    """Creation of each arm against the elicitation spend: what few resamples cannot reach, more may."""
    curves = {c.arm: c.full.creation_by_spend for c in analysis.comparisons if c.full and c.full.creation_by_spend}
    spends = sorted({spend for curve in curves.values() for spend in curve.spends})
    rows = []
    for arm, curve in curves.items():
        found = dict(zip(curve.spends, curve.creation, strict=True))
        rows.append(Row(arm, tuple(estimate(found[spend]) if spend in found else ("",) for spend in spends)))
    columns = tuple(f"{spend:g} [{analysis.settings.level}]" for spend in spends)
    notes = [
        f"What is left as creation if elicitation may take as many attempts of {analysis.bare} as the column says. "
        "True creation does not rise with them. Where an interval excludes 0, that many attempts do not explain the "
        "whole gain.",
        broken_in(analysis),
    ]
    title = f"Creation, by how many attempts of {analysis.bare} elicitation may take"
    return Table("creation", title, "arm", columns, tuple(rows) if len(spends) > 1 else (), told(notes))


def missing(analysis: Analysis) -> Table:
    """What every figure of a comparison would be if all missing attempts had failed, or succeeded, in either arm.

    Of verdicts where an agent's own errors ended attempts nothing: those of the report hold however these had ended.
    """
    names = ("gain", "elicitation_part", "creation", "loss", "srr", "ndr", "sds", "nscr", "nats")
    heads = ("gain", "elicitation", "creation", "loss", "SRR", "NDR", "SDS", "NSCR", "nats")
    verdicts = [v.value for v in Verdict if not all(c.broken for c in analysis.comparisons)]
    columns = (*heads, *verdicts)
    rows = []
    for c in analysis.comparisons:
        bounds = c.full.missing if c.full else None
        if bounds is not None:
            cells = [either_way(bounds.figures.get(name)) for name in names]
            cells += [(NONE,) if c.broken else _counts(bounds.counts[verdict]) for verdict in verdicts]
            rows.append(Row(c.arm, tuple(cells)))
        elif c.gain_if_missing is not None:
            rows.append(Row(c.arm, (either_way(c.gain_if_missing), *([("",)] * (len(columns) - 1)))))
    notes = [
        "Each figure with all missing attempts of an arm failed, and with all succeeded: the least and the most of "
        "these ends, tasks without any scored attempt included. The gain lies between them however each attempt had "
        "ended; other figures may lie beyond where some had failed and others succeeded. The figures above leave "
        "missing attempts out."
    ]
    title = "Missing attempts: had all failed, or all succeeded"
    if any(c.broken for c in analysis.comparisons):
        title = "Missing attempts and the agent's own errors: had all failed, or all succeeded"
        notes.append(
            "Attempts that an error of the agent's own ended count as missing here, and as failures above. Verdicts "
            "of such an arm hold however these had ended, and have no range."
        )
    return Table("missing", title, "arm", columns, tuple(rows), told(notes))


def verdicts(analysis: Analysis) -> Table:
    """Tasks by verdict, the attempts they cost, and the attempts still needed."""
    s = analysis.settings
    columns = (*(v.value for v in Verdict), "attempts spent", "still needed")
    full = _full(analysis)
    rows = [Row(c.arm, _verdict_cells(f)) for c, f in full]
    nulls = [(_verdict_cells(f), _rests_on_errors(f, analysis)) for f in null_rows(analysis)]
    rows += [Row(null_name(analysis), (*cells[:-1], (NONE,)) if open_ else cells, "null") for cells, open_ in nulls]
    notes = [
        "A task counts as expanded only if it is out of reach of the bare arm and within reach of the other, each at "
        f"level {s.alpha:g}, whenever one stops sampling. Preserved: within reach of both; lost: of the bare arm only. "
        f"Out of reach: reach within {attempts(s.elicitation)} is below {s.rho:g}, solved now and then or never; the "
        "column counts what is out of reach of both. Undetermined: the attempts do not settle it. Spent: attempts of "
        "both arms at all tasks together. Still needed: how many more of these would settle every undetermined task, "
        "projected from the rates seen so far; a task whose reach is close to that limit takes very many.",
        _discoveries(analysis, full),
        no_claims(analysis),
        broken_in(analysis),
        "Of the null row it is not told what is still needed: of attempts that end so, more would settle nothing."
        if any(open_ for _, open_ in nulls)
        else "",
    ]
    return Table("verdicts", f"Verdicts on tasks, against {analysis.bare}", "arm", columns, tuple(rows), told(notes))


def support(analysis: Analysis) -> Table:
    """Support metrics, beside the null row."""
    columns = tuple(f"{metric} [{analysis.settings.level}]" for metric in ("SRR", "NDR", "SDS", "NSCR"))
    rows = []
    for c, f in _full(analysis):
        rows.append(Row(_head(c.arm, f), _rate_cells(f.support)))
        if c.full is not None and c.full.at_null is not None and c.full.null is not None:
            rows.append(Row(f"{c.arm} at {c.full.at_null.spend:g}", _rate_cells(c.full.at_null)))
    rows += [Row(_null_head(f, analysis), _rate_cells(f.support), "null") for f in null_rows(analysis)]
    spend = max((f.elicitation for _, f in _full(analysis)), default=0)
    notes = [
        f"A task is solved by at least one success within {attempts(spend)}, or as many as stand beside the arm's "
        "name. SRR: share of what the bare arm solves that the other still solves. NDR: share of what the other solves "
        "that is new. SDS: their harmonic mean. NSCR: net change. All four mean little but beside the null row, and "
        "only at its spend. They take the arms' attempts at a task as independent: arms that share their random "
        "numbers and differ little retain more than this says.",
        broken_in(analysis),
    ]
    return Table("support", f"Support against {analysis.bare}", "arm", columns, tuple(rows), told(notes))


def equivalents(analysis: Analysis) -> Table:
    """The gain in nats, and in attempts of the bare arm, beside the null row."""
    level = analysis.settings.level
    columns = (f"nats [{level}]", f"bare attempts to match [{level}]")
    full, nulls = _full(analysis), null_rows(analysis)
    rows = [Row(c.arm, _equivalent_cells(f)) for c, f in full]
    rows += [Row(null_name(analysis), _equivalent_cells(f), "null") for f in nulls]
    read = "; ".join(sorted({attempts(f.operating) for _, f in full}))
    budgets = _budgets(full, nulls, null_name(analysis))
    notes = [
        f"Nats: budgeted free-energy gain at equal attempts ({budgets}), mean over tasks: about the "
        "natural log of how many times as likely success became (0.69 for twice), as far as so many attempts can tell. "
        f"Bare attempts to match: the fewest whose mean reach is that of the arm at {read}; > n: more than the n that "
        "there are.",
        broken_in(analysis),
    ]
    title = f"The gain over {analysis.bare} in other units"
    return Table("equivalents", title, "arm", columns, tuple(rows), told(notes))


def _budgets(full: Iterable[tuple[ArmComparison, Figures]], nulls: Iterable[Figures], null: str) -> str:
    """Attempts at which free energy is taken: one number, or the arms that have each."""
    found: dict[int, list[str]] = {}
    for c, f in full:
        found.setdefault(f.nats_budget, []).append(c.arm)
    several = len(found) > 1
    spoken = [f"{joined(names)} {budget:,}" if several else f"{budget:,}" for budget, names in found.items()]
    return "; ".join([*spoken, *(f"{null} {f.nats_budget:,}" for f in nulls if set(found) != {f.nats_budget})])


def null_rows(analysis: Analysis) -> tuple[Figures, ...]:
    """The null row: every comparison has one, and where they differ, the one on the most tasks is shown."""
    nulls = [c.full.null for c in analysis.comparisons if c.full is not None and c.full.null is not None]
    return (max(nulls, key=lambda n: (len(n.tasks), n.elicitation)),) if nulls else ()


def _full(analysis: Analysis) -> list[tuple[ArmComparison, Figures]]:
    return [(c, c.full.figures) for c in analysis.comparisons if c.full is not None]


def _gain_cells(f: Figures) -> tuple[Cell, ...]:
    parts = [estimate(part) for part in (f.elicitation_part, f.creation, f.loss)]
    return (estimate(f.gain, signed=True), *parts)


def _verdict_cells(f: Figures) -> tuple[Cell, ...]:
    needed = f.verdicts.needed[f.verdicts.verdict == Verdict.UNDETERMINED]
    total = float(needed.sum()) if needed.size else 0.0
    counts = [(f"{f.verdicts.counts[v.value]:,}",) for v in Verdict]
    spent = f"{int(f.verdicts.spent.sum()):,}"
    return (*counts, (spent,), (further(None if total == float("inf") else total).removeprefix("about "),))


def _rests_on_errors(null: Figures, analysis: Analysis) -> bool:
    """Whether errors of an agent's own ended attempts of the null row: what further ones like them settle is open."""
    broken = {name for c in analysis.comparisons for name in c.broken}
    return bool(broken & {analysis.bare, null.tool})


def _equivalent_cells(f: Figures) -> tuple[Cell, ...]:
    return (estimate(f.nats, signed=True), equivalent(f.equivalent))


def _rate_cells(s: SupportRow) -> tuple[Cell, ...]:
    return (*(estimate(rate) for rate in (s.srr, s.ndr, s.sds)), estimate(s.nscr, signed=True))


def _null_head(f: Figures, analysis: Analysis) -> str:
    apart = any(c.full is not None and c.full.at_null is not None for c in analysis.comparisons)
    name = null_name(analysis)
    return f"{name} at {f.support.spend:g}" if apart else _head(name, f)


def _head(arm: str, f: Figures) -> str:
    """An arm's name, with the spend at which its support is read, where it has too few attempts for the one asked."""
    return arm if f.support.spend == f.elicitation else f"{arm} at {f.support.spend:g}"


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


def _counts(bounds: Range) -> Cell:
    low, high = int(bounds.low), int(bounds.high)
    return (f"{low:,}" if low == high else f"{low:,} to {high:,}",)
