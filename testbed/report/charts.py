"""The report's charts as Vega-Lite specifications, built with Altair.

Nothing is told by colour alone: lines differ in dash too, and every figure stands in a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import altair as alt

from testbed.report.comparison_tables import null_rows
from testbed.report.palette import DASHES, EFFECTS, GREY, LINES, PARTS, VERDICTS
from testbed.report.record import Analysis, Curve, Group
from testbed.report.tables import SHORT_EFFECT
from testbed.report.words import AXES, figure, no_claims, number
from testbed.stats import Estimate, Figures, Verdict


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        key: short name, unique in a report; names files and elements.
        title: what it shows.
        caption: how to read it.
        description: title, caption and the main figures, for those who cannot see it.
        spec: Vega-Lite, as wide as its container.
    """

    key: str
    title: str
    caption: str
    description: str
    spec: dict[str, Any]


def charts(analysis: Analysis) -> tuple[Chart, ...]:
    """Every chart for which there is something to show, in reading order."""
    made = [*_gain(analysis), *_groups(analysis), *_verdicts(analysis)]
    axes = [axis for axis in AXES if any(c.axis == axis and len(c.spend) > 1 for c in analysis.curves)]
    return (*made, *(_reach(analysis, axis) for axis in axes))


def _reach(analysis: Analysis, axis: str) -> Chart:
    curves = [curve for curve in analysis.curves if curve.axis == axis]
    name, level = AXES[axis], analysis.settings.level
    arms = [curve.arm for curve in curves]
    base = alt.Chart(alt.InlineData(values=[row for curve in curves for row in _points(curve)])).encode(
        x=alt.X("spend", type="quantitative", title=f"{name} spent on a task", scale=alt.Scale(type="log", nice=False))
    )
    colours = _line_colours(analysis, arms)
    # The legend is shared by the bands, whose faint fill its symbols must not take.
    key = alt.Legend(
        symbolType="stroke", symbolOpacity=1, symbolFillColor="transparent", symbolSize=400, columns=_columns(arms)
    )
    colour = alt.Color("arm", type="nominal", title=None, sort=arms, scale=colours, legend=key)
    share = "share of tasks solved at least once"
    reach = alt.Y("reach", type="quantitative", title=share, scale=alt.Scale(domain=[0, 1]))
    low, high = alt.Y("low", type="quantitative", title=share), alt.Y2("high")
    dash = alt.StrokeDash("arm", type="nominal", title=None, sort=arms, scale=_dashes(arms), legend=key)
    tooltip = [
        alt.Tooltip("arm", type="nominal"),
        alt.Tooltip("spend", type="quantitative", title=name, format=",.4~g"),
        alt.Tooltip("reach", type="quantitative", format=".2f"),
        alt.Tooltip("interval", type="nominal", title=f"{level} band"),
    ]
    layers = alt.layer(
        base.mark_area(opacity=0.15).encode(low, high, colour),
        base.mark_line(strokeWidth=2.5).encode(reach, colour, dash),
        base.mark_point(size=60, opacity=0).encode(reach, detail="arm:N", tooltip=tooltip),
    )
    ends = "; ".join(f"{c.arm} {number(c.reach[-1])} at {c.spend[-1]:,.4g}" for c in curves if c.reach)
    return _chart(
        f"reach_{axis}",
        f"Reach against {name}",
        f"Mean over tasks of the chance of at least one success within a spend of {name}, per arm, with simultaneous "
        f"{level} bands: all of these curves lie inside theirs together. A curve ends where the first task ran out of "
        "attempts.",
        f"Last points: {ends}.",
        layers,
        height=260,
    )


def _points(curve: Curve) -> Iterator[dict[str, Any]]:
    for i, (spend, reach) in enumerate(zip(curve.spend, curve.reach, strict=True)):
        low = reach if curve.low is None else curve.low[i]
        high = reach if curve.high is None else curve.high[i]
        interval = "none" if curve.low is None else f"{number(low)} to {number(high)}"
        yield {"arm": curve.arm, "spend": spend, "reach": reach, "low": low, "high": high, "interval": interval}


def _verdicts(analysis: Analysis) -> Iterator[Chart]:
    rows = [(c.arm, c.full.figures) for c in analysis.comparisons if c.full is not None]
    rows += [("null row", figures) for figures in null_rows(analysis)]
    if not rows:
        return
    names = [verdict.value for verdict in Verdict]
    values = [
        {"arm": arm, "verdict": verdict, "tasks": f.verdicts.counts[verdict], "place": place}
        for arm, f in rows
        for place, verdict in enumerate(names)
    ]
    bars = (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar()
        .encode(
            y=_arm_axis([arm for arm, _ in rows]),
            x=alt.X(
                "tasks",
                type="quantitative",
                title="tasks",
                axis=alt.Axis(tickMinStep=1),
                stack="zero",
                scale=alt.Scale(nice=False),
            ),
            color=alt.Color(
                "verdict", type="nominal", title=None, sort=names, scale=_scale(names, list(VERDICTS.values()))
            ),
            order=alt.Order("place", type="quantitative"),
            tooltip=[alt.Tooltip(field, type="nominal") for field in ("arm", "verdict", "tasks")],
        )
    )
    said = "; ".join(f"{arm}: " + ", ".join(f"{n} {v}" for v, n in f.verdicts.counts.items() if n) for arm, f in rows)
    yield _chart("verdicts", f"Verdicts against {analysis.bare}", "Tasks by verdict.", f"{said}.", bars, step=26)


def _gain(analysis: Analysis) -> Iterator[Chart]:
    rows = [(c.arm, c.full.figures) for c in analysis.comparisons if c.full is not None]
    rows += [("null row", figures) for figures in null_rows(analysis)]
    if not rows:
        return
    arms, parts = [arm for arm, _ in rows], list(PARTS)
    level = analysis.settings.level
    base = alt.Chart(alt.InlineData(values=[row for arm, f in rows for row in _bars(arm, f)])).encode(
        y=_arm_axis(arms), yOffset=alt.YOffset("part", type="nominal", sort=parts)
    )
    title = "difference in the share of tasks solved"
    tooltip = [
        alt.Tooltip("arm", type="nominal"),
        alt.Tooltip("part", type="nominal"),
        alt.Tooltip("figure", type="nominal", title=f"value [{level}]"),
    ]
    layers = alt.layer(
        base.mark_bar().encode(
            x=alt.X("value", type="quantitative", title=title, axis=alt.Axis(tickCount=6)),
            color=alt.Color("part", type="nominal", title=None, sort=parts, scale=_scale(parts, list(PARTS.values()))),
            tooltip=tooltip,
        ),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=alt.X("low", type="quantitative", title=title), x2="high", tooltip=tooltip),
        alt.Chart(alt.InlineData(values=[{}])).mark_rule().encode(x=alt.datum(0)),
    )
    said = "; ".join(
        f"{arm}: elicitation {figure(f.elicitation_part)}, creation {figure(f.creation)}, loss {figure(f.loss)}"
        for arm, f in rows
    )
    yield _chart(
        "gain",
        f"Gain over {analysis.bare}, split",
        f"Elicitation and creation to the right, loss to the left, with {level} intervals; the null row shows what the "
        f"same figures look like when nothing differs. {no_claims(analysis)}".strip(),
        f"{said}.",
        layers,
        step={"step": 16, "for": "offset"},
    )


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


def _groups(analysis: Analysis) -> Iterator[Chart]:
    if not any(effect.elicitation for group in analysis.groups for effect in group.effects):
        return
    arms = [str(analysis.bare), *(c.arm for c in analysis.comparisons)]
    names = [_label(group) for group in analysis.groups]
    words = [SHORT_EFFECT[effect] for effect in EFFECTS]
    base = alt.Chart(alt.InlineData(values=[row for group in analysis.groups for row in _cells(group)])).encode(
        x=alt.X(
            "arm",
            type="nominal",
            sort=arms,
            title=None,
            axis=alt.Axis(orient="top", labelAngle=-35, labelLimit=140, labelOverlap=False),
        ),
        y=alt.Y("group", type="nominal", sort=names, title=None, axis=alt.Axis(labelLimit=150, ticks=False)),
    )
    done = base.transform_filter("isValid(datum.effect)")
    tooltip = [alt.Tooltip(f, type="nominal") for f in ("group", "arm", "did", "pass@1", "gain", "creation")]
    layers = alt.layer(
        done.mark_rect(stroke="#8a8a8a", strokeWidth=0.5).encode(
            color=alt.Color(
                "effect", type="nominal", title=None, sort=words, scale=_scale(words, list(EFFECTS.values()))
            ),
            tooltip=tooltip,
        ),
        done.mark_text(fontSize=12, color="#000000").encode(text=alt.Text("pass@1", type="nominal")),
        base.transform_filter("!isValid(datum.effect)")
        .mark_text(fontSize=12)
        .encode(text=alt.Text("pass@1", type="nominal")),
    )
    yield _chart(
        "groups",
        "What each arm did, by group of tasks",
        "A cell's number is the arm's pass@1 on the group, its colour what the arm did there compared with "
        f"{analysis.bare}, as far as the intervals and verdicts support it; where it did several things, the first of "
        "created, expanded, elicited, lost.",
        "The table of groups holds the same.",
        layers,
        step=22,
    )


def _cells(group: Group) -> Iterator[dict[str, Any]]:
    by_arm = {effect.arm: effect for effect in group.effects}
    for arm in group.arms:
        cell: dict[str, Any] = {"group": _label(group), "arm": arm.arm, "pass@1": number(arm.pass_1.value)}
        effect = by_arm.get(arm.arm)
        if effect is not None and effect.creation is not None:
            cell["effect"] = SHORT_EFFECT[effect.effects[0]]
            cell["did"] = ", ".join(e.value for e in effect.effects)
            cell["gain"] = figure(effect.gain, signed=True)
            cell["creation"] = figure(effect.creation)
        yield cell


def _label(group: Group) -> str:
    return f"{group.within}, {group.label}" if group.within else group.label


def _arm_axis(arms: list[str]) -> alt.Y:
    return alt.Y("arm", type="nominal", sort=arms, title=None, axis=alt.Axis(labelLimit=110, ticks=False))


def _line_colours(analysis: Analysis, arms: list[str]) -> alt.Scale:
    others = [arm.name for arm in analysis.arms if arm.name != analysis.bare]
    return _scale(arms, [GREY if a == analysis.bare else LINES[others.index(a) % len(LINES)] for a in arms])


def _columns(names: list[str]) -> int:
    """Columns of a legend that fit a phone."""
    longest = max(len(name) for name in names)
    return 3 if longest <= 10 else 2 if longest <= 18 else 1


def _dashes(arms: list[str]) -> alt.Scale:
    return _scale(arms, [DASHES[i % len(DASHES)] for i in range(len(arms))])


def _scale(domain: list[str], range_: list[Any]) -> alt.Scale:
    return alt.Scale(domain=domain, range=range_)


def _chart(
    key: str,
    title: str,
    caption: str,
    figures: str,
    chart: alt.Chart | alt.LayerChart | alt.FacetChart,
    *,
    height: int | None = None,
    step: int | dict[str, Any] | None = None,
) -> Chart:
    description = f"{title}. {caption} {figures}"
    spec = chart.properties(width="container", description=description).to_dict()
    spec["height"] = height if height is not None else step if isinstance(step, dict) else {"step": step}
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return Chart(key, title, caption, description, spec)
