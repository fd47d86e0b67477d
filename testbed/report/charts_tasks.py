"""Task by task and step by step: the map of verdicts as a picture, and the ladder from bare to live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from testbed.report.chart import (
    Chart,
    LinkOf,
    Rows,
    arm_axis,
    chart,
    href,
    linked,
    rows_of,
    scale,
    to_map,
    verdict_colour,
)
from testbed.report.map_links import MapLinks
from testbed.report.palette import STEPS
from testbed.report.record import Analysis
from testbed.report.words import attempts, broken_in, counted, figure
from testbed.stats import Verdict

STEP, STEP_LINES = 160, 4  # pixels of a step's name beside the ladder, and lines
DRAWN = 1_500  # tasks of the map, at most: a picture has no more columns


def map_chart(analysis: Analysis, tasks: MapLinks | None = None) -> Iterator[Chart]:
    """Every task as a column of verdicts, equal ones beside one another."""
    found = analysis.map
    judged = [arm for arm in found.arms if any(arm.verdicts)] if found is not None else []
    if not judged:
        return
    words = [verdict.value for verdict in Verdict]
    columns = sorted(zip(*(arm.verdicts for arm in judged), strict=True), key=lambda own: _places(own, words))
    columns = [own for own in columns if any(own)]
    every = max(1, -(-len(columns) // DRAWN))
    drawn = columns[every // 2 :: every]
    values = [
        to_map(
            {"arm": arm.arm, "from": every * start, "to": min(every * end, len(columns)), "verdict": verdict},
            tasks,
            arm=arm.arm,
            verdict=verdict,
        )
        for i, arm in enumerate(judged)
        for start, end, verdict in _runs([own[i] for own in drawn])
        if verdict
    ]
    arms = [arm.arm for arm in judged]
    x = alt.X(
        "from",
        type="quantitative",
        title="tasks, those with equal verdicts side by side",
        scale=alt.Scale(domain=[0, len(columns)], nice=False),
        axis=alt.Axis(tickMinStep=1, grid=False, titleAnchor="end"),
    )
    colour = verdict_colour(words)
    bars = (
        alt.Chart(Rows(values))
        .mark_rect(height={"band": 0.9})
        .encode(
            arm_axis(arms),
            x,
            alt.X2("to"),
            colour,
            tooltip=[alt.Tooltip(name, type="nominal") for name in ("arm", "verdict")],
            **href(tasks),
        )
    )
    told = "" if every == 1 else f" Every {every}th of {len(columns):,} tasks is drawn."
    yield chart(
        "map",
        f"Verdicts task by task, against {analysis.bare}",
        "A column is a task, the same in every row: what one arm expands and another does not stands one above the "
        f"other.{told} {broken_in(analysis)}".strip(),
        "The table of verdicts has the counts, the map below every task.",
        bars,
        height=rows_of(arms, 28),
        table="verdicts",
    )


def _places(verdicts: Sequence[str], words: Sequence[str]) -> tuple[int, ...]:
    return tuple(words.index(verdict) if verdict else len(words) for verdict in verdicts)


def _runs(verdicts: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Neighbours with one verdict as one stretch: where it begins, where it ends, and the verdict."""
    start = 0
    for end in range(1, len(verdicts) + 1):
        if end == len(verdicts) or verdicts[end] != verdicts[start]:
            yield start, end, verdicts[start]
            start = end


def ladder_chart(analysis: Analysis, link: LinkOf | None = None) -> Iterator[Chart]:
    """What each step from the bare arm to a live one adds."""
    if not analysis.ladder:
        return
    level = analysis.settings.level
    meanings = list(dict.fromkeys(rung.meaning for rung in analysis.ladder))
    values: list[dict[str, Any]] = []
    for rung in analysis.ladder:
        step = rung.difference
        values.append(
            linked(
                {
                    "arm": f"{rung.lower} to {rung.upper}", "meaning": rung.meaning, "difference": step.value,
                    "low": step.low, "high": step.high, "figure": figure(step, signed=True), "tasks": rung.tasks,
                },
                rung.upper,
                link,
            )
        )  # fmt: skip
    names = list(dict.fromkeys(row["arm"] for row in values))
    title = "difference in the share of tasks solved"
    base = alt.Chart(Rows(values)).encode(arm_axis(names, limit=STEP, lines=STEP_LINES))
    x = alt.X("difference", type="quantitative", title=title, axis=alt.Axis(titleAnchor="end"))
    tooltip = [
        alt.Tooltip("arm", type="nominal", title="step"),
        alt.Tooltip("meaning", type="nominal", title="separates"),
        alt.Tooltip("figure", type="nominal", title=f"difference [{level}]"),
        alt.Tooltip("tasks", type="quantitative"),
    ]
    layers = alt.layer(
        base.mark_bar(height={"band": 0.55}).encode(
            x,
            alt.Color(
                "meaning",
                type="nominal",
                title=None,
                sort=meanings,
                scale=scale(meanings, [STEPS.get(meaning, STEPS[""]) for meaning in meanings]),
                legend=alt.Legend(columns=1),
            ),
            tooltip=tooltip,
            **href(link),
        ),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(alt.X("low", type="quantitative", title=title), alt.X2("high")),
        alt.Chart(Rows([{}])).mark_rule().encode(alt.XDatum(0)),
    )
    said = "; ".join(
        f"{rung.lower} to {rung.upper} ({rung.meaning}), {counted(rung.tasks, 'task')}: "
        f"{figure(rung.difference, signed=True)}"
        for rung in analysis.ladder
    )
    yield chart(
        "ladder",
        "Ladder from bare to live",
        f"What each step adds to reach within {attempts(analysis.settings.operating)}, paired over tasks, with {level} "
        f"intervals; its colour says what the step separates. {broken_in(analysis)}".strip(),
        f"{said}.",
        layers,
        height=rows_of(names, 30, limit=STEP, lines=STEP_LINES),
        table="ladder",
    )
