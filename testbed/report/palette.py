"""Colours and styles of the charts.

Colours are from the palette of Okabe and Ito, which stays distinct under the common colour vision deficiencies.
"""

from __future__ import annotations

from typing import Any

from testbed.report.record import Effect
from testbed.stats import Verdict

GREY, SKY, GREEN, VERMILLION, BLUE, YELLOW = "#8a8a8a", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#f0e442"
LINES = (BLUE, VERMILLION, GREEN, "#cc79a7", "#e69f00", SKY)  # tool arms in order; the bare arm is grey
DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 4], [12, 4])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
VERDICTS = {
    Verdict.PRESERVED: BLUE,
    Verdict.EXPANDED: GREEN,
    Verdict.LOST: VERMILLION,
    Verdict.OUT_OF_REACH: GREY,
    Verdict.UNDETERMINED: YELLOW,
}
EFFECTS = {
    Effect.CREATED: GREEN,
    Effect.EXPANDED: "#7bc8a4",
    Effect.ELICITED: SKY,
    Effect.LOST: VERMILLION,
    Effect.NOTHING: "#c8c8c8",
    Effect.UNDETERMINED: YELLOW,
}
STEPS = {
    "scaffold": YELLOW,
    "self-simulation": "#cc79a7",
    "information": SKY,
    "interaction": GREEN,
    "information and interaction": BLUE,
    "": GREY,
}
PARTS = {"elicitation": SKY, "creation": GREEN, "loss": VERMILLION}


def theme(*, dark: bool) -> dict[str, Any]:
    """Vega-Lite configuration for light or dark surroundings; the background is the page's."""
    ink, faint = ("#e8e8e8", "#4a4a4a") if dark else ("#1d1d1f", "#d8d8d8")
    guide = {
        "labelColor": ink,
        "titleColor": ink,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
    }
    return {
        "background": "transparent",
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
        "axis": {
            **guide,
            "gridColor": faint,
            "domainColor": ink,
            "tickColor": ink,
            "labelPadding": 5,
            "labelSeparation": 6,
        },
        "legend": {
            **guide,
            "orient": "bottom",
            "columns": 3,
            "labelLimit": 280,
            "symbolStrokeWidth": 2.5,
            "layout": {"bottom": {"anchor": "start", "direction": "vertical"}},
        },
        "view": {"stroke": None},
        "rule": {"color": ink},
        "text": {"color": ink},
    }
