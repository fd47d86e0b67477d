"""Fronts: what arms cost against what they reach, and nats against success."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import altair as alt

from testbed.report.chart import Chart, LinkOf, Rows, chart, each, href, linked, point_key
from testbed.report.fronts import ElicitationCurve
from testbed.report.fronts_missing import PointIfMissing, points_of
from testbed.report.fronts_tables import NATS_MOVE, cost_span, fewer_than_bare, of_fewer, priced
from testbed.report.record import Analysis
from testbed.report.words import (
    AXES,
    MOVES,
    at_least,
    attempts,
    broken_in,
    figure,
    number,
    share,
    span,
    without_missing,
)
from testbed.stats.pareto import ArmOnFront, CostFront

SOLVED = "share of tasks solved"
DOTTED = "could have moved the points along the dotted lines"
MARGIN = 1.4  # between the outermost points and the ends of a logarithmic axis
WIDE = 8  # how many times the least cost the greatest is, from which the axis is logarithmic


def cost_front_chart(analysis: Analysis, front: CostFront, link: LinkOf | None = None) -> Chart:
    """Arms by cost and reach, the front between them, and how often each arm is on it."""
    name, arms = AXES[front.axis], [one.arm for one in front.arms]
    limits = {point.arm: point for point in points_of(analysis.fronts_if_missing, front.axis)}
    values = [linked(_on_front(one, limits.get(one.arm)), one.arm, link) for one in front.arms]
    spent = f"{name} of {attempts(front.attempts)} at a task"
    x = alt.X("cost", type="quantitative", title=spent, scale=_cost_scale(front, limits.values()))
    y = alt.Y("reach", type="quantitative", title=SOLVED, scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(Rows(values))
    colour, shape = point_key(analysis, arms)
    level = analysis.settings.level
    tooltip = [
        alt.Tooltip("arm", type="nominal"),
        alt.Tooltip("cost figure", type="nominal", title=f"{name} [{level}]"),
        alt.Tooltip("reach figure", type="nominal", title=f"reach [{level}]"),
        alt.Tooltip("member", type="nominal", title="on the front"),
        *([alt.Tooltip("either way", type="nominal", title="missing either way")] if limits else []),
    ]
    steps = sorted((r for r in values if r["front"]), key=lambda row: (row["cost"], row["reach"]))
    layers = alt.layer(
        alt.Chart(Rows(steps))
        .mark_line(interpolate="step-after", strokeDash=[4, 3], strokeWidth=1.5, color="#8a8a8a")
        .encode(x, y),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x, alt.Y("low", type="quantitative", title=SOLVED), alt.Y2("high"), colour),
        base.transform_filter("isValid(datum.least)")
        .mark_rule(strokeWidth=1.5)
        .encode(alt.X("least", type="quantitative", title=spent), y, alt.X2("most"), colour),
        *(_either_way(base, x, y, colour, spent) if limits else ()),
        base.mark_point(size=110, filled=True, opacity=1).encode(x, y, colour, shape, tooltip=tooltip, **href(link)),
        base.transform_filter("datum.front && isValid(datum.share)")
        .mark_text(align="right", dx=-8, dy=-9, fontSize=11)
        .encode(x, y, text=alt.Text("share", type="nominal")),
    )
    said = "; ".join(
        f"{one.arm}: {priced(one.cost)} {name}, reach {figure(one.reach)}, on the front: {_member(one)}"
        for one in front.arms
    )
    return chart(
        f"front_{front.axis}",
        f"Reach against the cost in {name}",
        f"What {attempts(front.attempts)} at a task cost in {name} and how many tasks that solves, with {level} "
        "intervals. Dashed: the front, with the share of bootstrap replicates in which an arm is on it."
        f"{_further(of_fewer(analysis, front), without_missing(analysis, DOTTED if limits else MOVES))}",
        f"{said}.",
        layers,
        height=260,
        table="fronts",
        small=True,
    )


def _cost_scale(front: CostFront, limits: Iterable[PointIfMissing]) -> alt.Scale:
    """From 0, or logarithmic about the points and their lines where they lie far apart."""
    means = [one.cost.value or 0.0 for one in front.arms]
    if min(means) <= 0 or max(means) <= WIDE * min(means):
        return alt.Scale(zero=True)
    ends = [end for one in front.arms for end in (one.cost.low, one.cost.value, one.cost.high) if end]
    ends += [end for point in limits for end in (point.cost.low, point.cost.high) if end > 0]
    return alt.Scale(type="log", nice=False, domain=[min(ends) / MARGIN, max(ends) * MARGIN])


def _either_way(base: alt.Chart, x: alt.X, y: alt.Y, colour: alt.Color, spent: str) -> Iterator[alt.Chart]:
    """Dotted lines through a point, as far as missing attempts could move it."""
    given = base.transform_filter("isValid(datum.fewest)")
    dotted = given.mark_rule(strokeWidth=3, strokeDash=[2, 3])
    yield dotted.encode(x, alt.Y("fewest", type="quantitative", title=SOLVED), alt.Y2("greatest"), colour)
    yield dotted.encode(alt.X("cheapest", type="quantitative", title=spent), y, alt.X2("dearest"), colour)


def _on_front(one: ArmOnFront, limits: PointIfMissing | None) -> dict[str, Any]:
    return {
        "arm": one.arm, "cost": one.cost.value, "least": one.cost.low, "most": one.cost.high,
        "reach": one.reach.value, "low": one.reach.low, "high": one.reach.high, "front": one.on_front,
        "cost figure": priced(one.cost),
        "reach figure": figure(one.reach), "member": _member(one),
        "share": None if one.membership is None else share(one.membership),
        **({} if limits is None else {
            "fewest": limits.reach.low, "greatest": limits.reach.high, "cheapest": limits.cost.low,
            "dearest": limits.cost.high, "either way": _limits(limits),
        }),
    }  # fmt: skip


def _limits(point: PointIfMissing) -> str:
    on_front = {True: "on the front", False: "not on the front", None: "on the front or not"}[point.on_front]
    return f"reach {span(point.reach)}, cost {cost_span(point.cost)}, {on_front}"


def _member(one: ArmOnFront) -> str:
    return "no interval" if one.membership is None else f"in {share(one.membership)} of replicates"


def elicitation_chart(analysis: Analysis, link: LinkOf | None = None) -> Iterator[Chart]:
    """Nats against success: the bare arm re-weighted, and the other arms."""
    found = analysis.frontier
    if found is None or not found.arms or len(found.best_of.at) < 2:
        return
    level, arms = analysis.settings.level, [one.arm for one in found.arms]
    axis, across = "nats, mean over tasks", "success of one attempt"
    x = alt.X("nats", type="quantitative", title=axis, scale=alt.Scale(type="sqrt"), axis=alt.Axis(tickCount=6))
    y = alt.Y("success", type="quantitative", title=across)
    y = y.scale(domain=[0, 1])
    kinds = [f"{found.bare} re-weighted, least nats", f"{found.bare}, best of N"]
    families = [*_family(found.tilt, kinds[0]), *_family(found.best_of, kinds[1])]
    curves = alt.Chart(Rows(families))
    points = alt.Chart(
        Rows(
            [
                linked(
                    {
                        "arm": one.arm, "nats": one.nats.value, "least": one.nats.low, "success": one.success.value,
                        "low": one.success.low, "high": one.success.high, "success figure": figure(one.success),
                        "needs": _needs(one.nats.value, one.nats.low),
                    },
                    one.arm,
                    link,
                )
                for one in found.arms
            ]
        )
    )  # fmt: skip
    line = alt.StrokeDash(
        "kind",
        type="nominal",
        title=None,
        sort=kinds,
        scale=alt.Scale(domain=kinds, range=[[1, 0], [2, 3]]),
        legend=alt.Legend(columns=1),
    )
    colour, shape = point_key(analysis, arms)
    curve_tip = [
        alt.Tooltip("kind", type="nominal", title="curve"),
        alt.Tooltip("at", type="nominal", title="at"),
        alt.Tooltip("success figure", type="nominal", title=f"success [{level}]"),
        alt.Tooltip("nats figure", type="nominal", title=f"nats [{level}]"),
    ]
    tip = [
        alt.Tooltip("arm", type="nominal"),
        alt.Tooltip("success figure", type="nominal", title=f"success [{level}]"),
        alt.Tooltip("needs", type="nominal", title="re-weighting needs"),
    ]
    layers = alt.layer(
        curves.transform_filter("isValid(datum.low)")
        .mark_area(opacity=0.18, color="#8a8a8a")
        .encode(x, alt.Y("low", type="quantitative", title=across), alt.Y2("high"), each("kind")),
        curves.mark_line(strokeWidth=2.5, color="#8a8a8a").encode(x, y, line),
        curves.mark_point(size=60, opacity=0, filled=True).encode(x, y, tooltip=curve_tip),
        alt.Chart(Rows([{"nats": found.paid}])).mark_rule(strokeDash=[4, 3]).encode(x),
        points.transform_filter("isValid(datum.least)")
        .mark_rule(strokeWidth=1.5)
        .encode(alt.X("least", type="quantitative", title=axis), alt.X2("nats"), y, colour),
        points.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x, alt.Y("low", type="quantitative", title=across), alt.Y2("high"), colour),
        points.mark_point(size=110, filled=True, opacity=1).encode(x, y, colour, shape, tooltip=tip, **href(link)),
    )
    said = "; ".join(
        f"{one.arm}: success {figure(one.success)}, {_needs(one.nats.value, one.nats.low)} nats" for one in found.arms
    )
    yield chart(
        "frontier",
        "What re-weighting can buy: nats against success",
        f"Grey: {found.bare} re-weighted, at the least divergence that any re-weighting needs for a success (line), "
        f"and by taking the best of N (dotted), with {level} intervals, as far as its {found.attempts:,} attempts per "
        "task settle it. Points: the other arms, at the least nats that re-weighting would have to spend to succeed as "
        f"often at every task; a line to the left ends at the lower limit, and to the right there is none. Dashed: "
        f"{found.paid:.2f} nats, the most that the best of {found.budget} spends."
        f"{_further(fewer_than_bare(found), without_missing(analysis, NATS_MOVE), broken_in(analysis))}",
        f"{said}.",
        layers,
        height=300,
        table="frontier",
    )


def _family(curve: ElicitationCurve, kind: str) -> Iterator[dict[str, Any]]:
    for at, success, nats in zip(curve.at, curve.success, curve.nats, strict=True):
        yield {
            "kind": kind, "at": f"N = {at:g}" if curve.kind == "best-of-N" else f"inverse temperature {at:g}",
            "nats": nats.value, "success": success.value, "low": success.low, "high": success.high,
            "success figure": figure(success), "nats figure": figure(nats),
        }  # fmt: skip


def _further(*sentences: str) -> str:
    return "".join(f" {sentence}" for sentence in sentences if sentence)


def _needs(value: float | None, low: float | None) -> str:
    return number(value) if low is None else f"{number(value)}, at least {at_least(low)}"
