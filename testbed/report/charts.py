"""The report's charts as Vega-Lite specifications, built with Altair.

Nothing is told by colour alone: lines differ in dash, points in shape, and every figure stands in a table, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from testbed.report.chart import Chart, LinkOf, Rows, arm_axis, chart, href, rows_of, scale, to_map, verdict_colour
from testbed.report.charts_curves import creation_chart, reach_chart
from testbed.report.charts_fronts import cost_front_chart, elicitation_chart
from testbed.report.charts_tasks import ladder_chart, map_chart
from testbed.report.comparison_tables import null_rows
from testbed.report.map_links import MapLinks
from testbed.report.palette import EFFECTS, PARTS
from testbed.report.record import Analysis, Group
from testbed.report.tables import SHORT_EFFECT
from testbed.report.words import AXES, broken_in, broken_told, figure, joined, no_claims, null_name, number
from testbed.stats import Estimate, Figures, Verdict

__all__ = ["Chart", "charts"]

TOO_FEW = "nothing seen, too few tasks to tell"
GROUPS_ARM, GROUPS_NAME = 210, 168  # pixels of names in the picture of groups
MOST_GROUPS = 60  # in a picture: more rows are read in a table


def charts(analysis: Analysis, link: LinkOf | None = None, tasks: MapLinks | None = None) -> tuple[Chart, ...]:
    """Every chart for which there is something to show, in reading order.

    Args:
        analysis: what to show.
        link: where an arm's transcripts are, relative to the page; points lead there.
        tasks: where the page shows the map of tasks filtered; groups, parts of gains and verdicts lead there.
    """
    axes = [axis for axis in AXES if any(c.axis == axis and len(c.spend) > 1 for c in analysis.curves)]
    return (
        *_gain(analysis, tasks),
        *_groups(analysis, tasks),
        *creation_chart(analysis, link),
        *elicitation_chart(analysis, link),
        *ladder_chart(analysis, link),
        *(reach_chart(analysis, axis, link) for axis in axes),
        *(cost_front_chart(analysis, front, link) for front in analysis.fronts),
        *_verdicts(analysis, tasks),
        *map_chart(analysis, tasks),
    )


def _verdicts(analysis: Analysis, tasks: MapLinks | None) -> Iterator[Chart]:
    rows = [(c.arm, c.full.figures) for c in analysis.comparisons if c.full is not None]
    rows += [(null_name(analysis), figures) for figures in null_rows(analysis)]
    if not rows:
        return
    names = [verdict.value for verdict in Verdict]
    values = [
        to_map(
            {"arm": arm, "verdict": verdict, "tasks": f.verdicts.counts[verdict], "place": place},
            tasks,
            instead="#table-verdicts",
            arm=arm,
            verdict=verdict,
        )
        for arm, f in rows
        for place, verdict in enumerate(names)
        if f.verdicts.counts[verdict]
    ]
    bars = (
        alt.Chart(Rows(values))
        .mark_bar()
        .encode(
            y=arm_axis([arm for arm, _ in rows]),
            x=alt.X(
                "tasks",
                type="quantitative",
                title="tasks",
                axis=alt.Axis(tickMinStep=1),
                stack="zero",
                scale=alt.Scale(nice=False),
            ),
            color=verdict_colour(names),
            order=alt.Order("place", type="quantitative"),
            tooltip=[alt.Tooltip(field, type="nominal") for field in ("arm", "verdict", "tasks")],
            **href(tasks),
        )
    )
    said = "; ".join(f"{arm}: " + ", ".join(f"{n} {v}" for v, n in f.verdicts.counts.items() if n) for arm, f in rows)
    yield chart(
        "verdicts",
        f"Verdicts against {analysis.bare}",
        " ".join(filter(None, ("Tasks by verdict.", no_claims(analysis), broken_in(analysis)))),
        f"{said}.",
        bars,
        height=rows_of([arm for arm, _ in rows], 26),
        table="verdicts",
    )


def _gain(analysis: Analysis, tasks: MapLinks | None) -> Iterator[Chart]:
    rows = [(c.arm, c.full.figures) for c in analysis.comparisons if c.full is not None]
    rows += [(null_name(analysis), figures) for figures in null_rows(analysis)]
    if not rows:
        return
    arms, parts = [arm for arm, _ in rows], list(PARTS)
    level, open_ = analysis.settings.level, {c.arm: broken_told(c.broken) for c in analysis.comparisons if c.broken}
    bars = [
        to_map(bar | ({"open": open_[arm]} if arm in open_ else {}), tasks, instead="#table-gain", arm=arm)
        for arm, f in rows
        for bar in _bars(arm, f)
    ]
    base = alt.Chart(Rows(bars)).encode(
        y=arm_axis(arms, lines=3), yOffset=alt.YOffset("part", type="nominal", sort=parts)
    )
    title = "difference in the share of tasks solved"
    tooltip = [
        alt.Tooltip("arm", type="nominal"),
        alt.Tooltip("part", type="nominal"),
        alt.Tooltip("figure", type="nominal", title=f"value [{level}]"),
        *([alt.Tooltip("open", type="nominal", title="but")] if open_ else []),
    ]
    layers = alt.layer(
        base.mark_bar().encode(
            x=alt.X("value", type="quantitative", title=title, axis=alt.Axis(tickCount=6, titleAnchor="end")),
            color=alt.Color("part", type="nominal", title=None, sort=parts, scale=scale(parts, list(PARTS.values()))),
            tooltip=tooltip,
            **(_outlined(parts) if open_ else {}),
            **href(tasks),
        ),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=alt.X("low", type="quantitative", title=title), x2="high", tooltip=tooltip),
        alt.Chart(Rows([{}])).mark_rule().encode(alt.XDatum(0)),
    )
    said = "; ".join(
        f"{arm}: elicitation {figure(f.elicitation_part)}, creation {figure(f.creation)}, loss {figure(f.loss)}"
        for arm, f in rows
    )
    yield chart(
        "gain",
        f"Gain over {analysis.bare}, split",
        f"Elicitation and creation to the right, loss to the left, with {level} intervals; the "
        f"{null_name(analysis)} shows what the same figures look like when nothing differs. "
        f"{no_claims(analysis)} {broken_in(analysis)} {_faint(list(open_))}".strip(),
        f"{said}.",
        layers,
        height=60 * len(rows) + 12,  # 16 for each bar, a quarter of that between arms
        table="gain",
    )


def _outlined(parts: list[str]) -> dict[str, Any]:
    """Bars that have `open` are faint, with a dashed outline in the colour of their part."""
    return {
        "stroke": alt.Stroke("part", type="nominal", sort=parts, scale=scale(parts, list(PARTS.values()))),
        "fillOpacity": alt.when("isValid(datum.open)").then(alt.value(0.15)).otherwise(alt.value(1)),
        "strokeOpacity": alt.when("isValid(datum.open)").then(alt.value(1)).otherwise(alt.value(0)),
        "strokeDash": alt.value([3, 2]),
    }


def _faint(arms: Sequence[str]) -> str:
    """Says which bars are drawn faint; nothing where none is."""
    if not arms:
        return ""
    return f"Bars of {joined(arms)}, which rest on these, are faint with a dashed outline."


def _bars(arm: str, f: Figures) -> Iterator[dict[str, Any]]:
    for part, estimate, sign in (
        ("elicitation", f.elicitation_part, 1),
        ("creation", f.creation, 1),
        ("loss", f.loss, -1),
    ):
        low, high = _signed(estimate, sign) if estimate.low is not None else (None, None)
        value = sign * (estimate.value or 0.0)
        yield {"arm": arm, "part": part, "value": value, "low": low, "high": high, "figure": figure(estimate)}


def _signed(estimate: Estimate, sign: int) -> tuple[float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    ends = sorted((sign * estimate.low, sign * estimate.high))
    return ends[0], ends[1]


def _groups(analysis: Analysis, tasks: MapLinks | None) -> Iterator[Chart]:
    if not any(effect.elicitation for group in analysis.groups for effect in group.effects):
        return
    arms = [str(analysis.bare), *(c.arm for c in analysis.comparisons)]
    groups, left = _largest(analysis.groups)
    names = [group.name for group in groups]
    words = [SHORT_EFFECT[effect] for effect in EFFECTS]
    base = alt.Chart(Rows([cell for group in groups for cell in _cells(group, tasks)])).encode(
        x=alt.X(
            "arm",
            type="nominal",
            sort=arms,
            title=None,
            axis=alt.Axis(orient="top", labelAngle=-90, labelLimit=GROUPS_ARM, labelOverlap=False),
        ),
        y=arm_axis(names, limit=GROUPS_NAME, field="group"),
    )
    done = base.transform_filter("isValid(datum.effect)")
    tooltip = [alt.Tooltip(f, type="nominal") for f in ("group", "arm", "did", "pass@1", "gain", "creation")]
    layers = alt.layer(
        done.mark_rect(stroke="#8a8a8a", strokeWidth=0.5).encode(
            color=alt.Color(
                "effect",
                type="nominal",
                title=None,
                sort=words,
                scale=scale(words, list(EFFECTS.values())),
                legend=alt.Legend(columns=2),
            ),
            tooltip=tooltip,
            **href(tasks),
        ),
        done.mark_text(fontSize=11, color="#000000").encode(
            text=alt.Text("pass@1", type="nominal"), tooltip=tooltip, **href(tasks)
        ),
        base.transform_filter("!isValid(datum.effect)")
        .mark_text(fontSize=11)
        .encode(text=alt.Text("pass@1", type="nominal")),
    )
    yield chart(
        "groups",
        "What each arm did, by group of tasks",
        "A cell's number is the arm's pass@1 on the group, its colour what the arm did there compared with "
        f"{analysis.bare}, as far as the intervals and verdicts support it; where it did several things, the one "
        f"whose part is largest.{left} {broken_in(analysis)}".strip(),
        "The table of groups holds the same.",
        layers,
        height=rows_of(names, 22, limit=GROUPS_NAME),
        table="groups",
    )


def _largest(groups: Sequence[Group]) -> tuple[list[Group], str]:
    """The groups that a picture has room for, in their order, and what it leaves out."""
    if len(groups) <= MOST_GROUPS:
        return list(groups), ""
    kept = sorted(range(len(groups)), key=lambda i: -groups[i].tasks)[:MOST_GROUPS]
    said = f" Drawn are the {MOST_GROUPS} of {len(groups):,} groups with the most tasks; the table has all."
    return [groups[i] for i in sorted(kept)], said


def _cells(group: Group, tasks: MapLinks | None) -> Iterator[dict[str, Any]]:
    by_arm = {effect.arm: effect for effect in group.effects}
    for arm in group.arms:
        cell: dict[str, Any] = {"group": group.name, "arm": arm.arm, "pass@1": number(arm.pass_1.value)}
        effect = by_arm.get(arm.arm)
        if effect is not None and effect.creation is not None:
            cell["effect"] = SHORT_EFFECT[effect.foremost]
            cell["did"] = TOO_FEW if effect.too_few else ", ".join(e.value for e in effect.effects)
            cell["gain"] = figure(effect.gain, signed=True)
            cell["creation"] = figure(effect.creation)
            cell = to_map(cell, tasks, group=group.name, arm=arm.arm)
        yield cell
