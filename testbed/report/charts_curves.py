"""Curves: reach against what is spent, and creation against what elicitation may spend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from testbed.report.cells import Cell, Row, Table
from testbed.report.chart import Chart, LinkOf, Rows, chart, colours, dashes, each, href, line_key, linked
from testbed.report.record import Analysis, Curve
from testbed.report.words import AXES, MOVES, broken_in, figure, number, span, without_missing
from testbed.stats import Estimate, Range

DOTTED = "could have moved a curve as far as its dotted lines"
ROWS = 8  # of the table of a reach curve


def reach_chart(analysis: Analysis, axis: str, link: LinkOf | None = None) -> Chart:
    """Reach of every arm against one component of cost, with simultaneous bands."""
    curves = [curve for curve in analysis.curves if curve.axis == axis]
    name, level = AXES[axis], analysis.settings.level
    arms = [curve.arm for curve in curves]
    values = [linked(row, curve.arm, link) for curve in curves for row in _points(curve)]
    base = alt.Chart(Rows(values)).encode(
        x=alt.X("spend", type="quantitative", title=f"{name} spent on a task", scale=alt.Scale(type="log", nice=False))
    )
    key = line_key(arms)
    colour = alt.Color("arm", type="nominal", title=None, sort=arms, scale=colours(analysis, arms), legend=key)
    share = "share of tasks solved at least once"
    reach = alt.Y("reach", type="quantitative", title=share, scale=alt.Scale(domain=[0, 1]))
    low, high = alt.Y("low", type="quantitative", title=share), alt.Y2("high")
    dash = alt.StrokeDash("arm", type="nominal", title=None, sort=arms, scale=dashes(analysis, arms), legend=key)
    tooltip = [
        alt.Tooltip("arm", type="nominal"),
        alt.Tooltip("spend", type="quantitative", title=name, format=",.4~g"),
        alt.Tooltip("reach", type="quantitative", format=".2f"),
        alt.Tooltip("interval", type="nominal", title=f"{level} band"),
    ]
    lost = any(curve.if_missing for curve in curves)
    if lost:
        tooltip.append(alt.Tooltip("either way", type="nominal", title="missing either way"))
    layers = alt.layer(
        base.mark_area(opacity=0.15).encode(low, high, colour),
        *(_either_way(base, colour, share) if lost else ()),
        base.mark_line(strokeWidth=2.5).encode(reach, colour, dash),
        base.mark_point(size=60, opacity=0, filled=True).encode(reach, each("arm"), tooltip=tooltip, **href(link)),
    )
    ends = "; ".join(f"{c.arm} {number(c.reach[-1])} at {c.spend[-1]:,.4g}" for c in curves if c.reach)
    return chart(
        f"reach_{axis}",
        f"Reach against {name}",
        f"Share of tasks solved at least once within a spend of {name}, with simultaneous {level} bands. "
        f"{without_missing(analysis, DOTTED if lost else MOVES)}".strip(),
        f"Last points: {ends}.",
        layers,
        height=260,
        own=_table(analysis, curves, axis),
        small=True,
    )


def _either_way(base: alt.Chart, colour: alt.Color, share: str) -> Iterator[alt.Chart]:
    """Dotted lines below and above a curve, as far as missing attempts could move it."""
    dotted = base.transform_filter("isValid(datum.least)").mark_line(strokeWidth=1.5, strokeDash=[1, 3])
    for end in ("least", "most"):
        yield dotted.encode(alt.Y(end, type="quantitative", title=share), colour, each("arm"))


def _points(curve: Curve) -> Iterator[dict[str, Any]]:
    for i, (spend, reach) in enumerate(zip(curve.spend, curve.reach, strict=True)):
        low = reach if curve.low is None else curve.low[i]
        high = reach if curve.high is None else curve.high[i]
        yield {
            "arm": curve.arm, "spend": _short(spend), "reach": _short(reach), "low": _short(low), "high": _short(high),
            "interval": "none" if curve.low is None else f"{number(low)} to {number(high)}",
            **({} if curve.if_missing is None else _limits(curve.if_missing[i])),
        }  # fmt: skip


def _limits(bounds: Range) -> dict[str, Any]:
    return {"least": _short(bounds.low), "most": _short(bounds.high), "either way": span(bounds)}


def _short(value: float) -> float:
    """Six digits: more are not seen, and make the page longer."""
    return float(f"{value:.6g}")


def _table(analysis: Analysis, curves: Sequence[Curve], axis: str) -> Table:
    """The curves at a few of their spends, a column for each arm."""
    spends = sorted({spend for curve in curves for spend in curve.spend})
    chosen = sorted({spends[round(i * (len(spends) - 1) / (ROWS - 1))] for i in range(ROWS)})
    rows = []
    for spend in chosen:
        cells: list[Cell] = []
        for curve in curves:
            if spend not in curve.spend:
                cells.append(("",))
                continue
            i = curve.spend.index(spend)
            low, high = (None if end is None else end[i] for end in (curve.low, curve.high))
            either = [] if curve.if_missing is None else [f"{span(curve.if_missing[i])}, missing either way"]
            cells.append((figure(Estimate(curve.reach[i], low, high)), *either))
        rows.append(Row(f"{spend:,.4g}", tuple(cells)))
    title = f"Reach against {AXES[axis]} at some spends [{analysis.settings.level} band]"
    return Table(f"reach-{axis}", title, AXES[axis], tuple(curve.arm for curve in curves), tuple(rows))


def creation_chart(analysis: Analysis, link: LinkOf | None = None) -> Iterator[Chart]:
    """Creation of every arm as elicitation may spend more attempts of the bare arm."""
    found = {c.arm: c.full.creation_by_spend for c in analysis.comparisons if c.full and c.full.creation_by_spend}
    if not any(len(one.spends) > 1 for one in found.values()):
        return
    arms, level = list(found), analysis.settings.level
    values = [
        linked(
            {
                "arm": arm, "spend": spend, "creation": creation.value, "low": creation.low, "high": creation.high,
                "figure": figure(creation),
            },
            arm,
            link,
        )
        for arm, one in found.items()
        for spend, creation in zip(one.spends, one.creation, strict=True)
    ]  # fmt: skip
    title = "creation, share of tasks"
    base = alt.Chart(Rows(values)).encode(
        x=alt.X(
            "spend",
            type="quantitative",
            title=f"attempts of {analysis.bare} that elicitation may take",
            scale=alt.Scale(type="log", base=2, nice=False),
            axis=alt.Axis(values=sorted({spend for one in found.values() for spend in one.spends})),
        )
    )
    key = line_key(arms)
    colour = alt.Color("arm", type="nominal", title=None, sort=arms, scale=colours(analysis, arms), legend=key)
    dash = alt.StrokeDash("arm", type="nominal", title=None, sort=arms, scale=dashes(analysis, arms), legend=key)
    creation = alt.Y("creation", type="quantitative", title=title)
    tooltip = [
        alt.Tooltip("arm", type="nominal"),
        alt.Tooltip("spend", type="quantitative", title="bare attempts"),
        alt.Tooltip("figure", type="nominal", title=f"creation [{level}]"),
    ]
    banded = base.transform_filter("isValid(datum.low)")
    layers = alt.layer(
        banded.mark_area(opacity=0.15).encode(alt.Y("low", type="quantitative", title=title), alt.Y2("high"), colour),
        base.mark_line(strokeWidth=2.5).encode(creation, colour, dash),
        base.mark_point(size=60, opacity=0, filled=True).encode(creation, each("arm"), tooltip=tooltip, **href(link)),
    )
    said = "; ".join(
        f"{arm}: {number(one.creation[0].value)} to {number(one.creation[-1].value)}" for arm, one in found.items()
    )
    caption = (
        f"What is left of the gain as creation if elicitation may take that many attempts of {analysis.bare}, with "
        f"pointwise {level} intervals. True creation does not rise; a fall that the intervals tell from noise was "
        "within reach of patience."
    )
    yield chart(
        "creation",
        "Creation, as elicitation may spend more",
        " ".join(filter(None, (caption, without_missing(analysis), broken_in(analysis)))),
        f"From the least to the greatest spend: {said}.",
        layers,
        height=260,
        table="creation",
    )
