"""The report's charts as pictures, drawn when an entry is computed: a page that shows them runs no script."""

from __future__ import annotations

import logging
from typing import Any

from testbed.report.plain import plain
from testbed.report.record import Analysis
from testbed.report.unseen import visible, visible_in

log = logging.getLogger("testbed.board")

WIDTH = 640
LARGEST = 300_000  # characters of a picture; a larger one is a cloud that a table tells better
LEFT_OUT = ("map",)  # charts that the entry's page has a table in place of, with links
# Charts whose marks are arms, not tasks or groups of them.
OF_ARMS = ("gain", "verdicts", "creation", "ladder", "reach_attempts", "reach_generated_tokens", "reach_model_calls")


def pictures(analysis: Analysis, *, private: bool) -> list[dict[str, Any]]:
    """Every chart of a report: key, title, caption, description for those who cannot see it, spec, SVG, tables.

    Args:
        analysis: the report.
        private: whether only charts are made that tell nothing of single tasks.
    """
    from testbed.report.charts import charts
    from testbed.report.tables import every_table

    tables = {table.key: plain(table) for table in every_table(analysis)}
    made = []
    for chart in charts(analysis):
        if chart.key in LEFT_OUT or (private and chart.key not in OF_ARMS):
            continue
        svg = drawn(chart.spec)
        own = plain(chart.figures) if chart.figures is not None else tables.get(chart.table)
        if svg and len(svg) <= LARGEST:
            made.append(
                {
                    "key": chart.key,
                    "title": chart.title,
                    "caption": chart.caption,
                    "description": chart.description,
                    "spec": chart.spec,
                    "svg": svg,
                    "table": own,
                }
            )
    return made


def drawn(spec: dict[str, Any], width: int = WIDTH) -> str:
    """A Vega-Lite chart as SVG, for light surroundings, with no background of its own.

    A control character in a name, which no XML holds, would end the process: the drawing library aborts at it.

    Returns:
        The picture; empty where the library cannot draw it. What else was found must not be lost with it, since
        names in it are whatever somebody sent.
    """
    import vl_convert

    from testbed.report.palette import theme

    shown = visible_in({**spec, "width": width})
    try:
        return str(vl_convert.vegalite_to_svg(shown, config=theme(dark=False), allowed_base_urls=[]))
    except ValueError as error:
        log.warning("a chart could not be drawn: %s", visible(" ".join(str(error).split())[:200]))
        return ""


def in_surroundings(svg: str, *, dark: bool) -> str:
    """A picture of `drawn` in the ink and the faint lines of dark surroundings, or as it is."""
    if not dark:
        return svg
    from testbed.report.palette import theme

    for was, becomes in zip(_inks(theme(dark=False)), _inks(theme(dark=True)), strict=True):
        svg = svg.replace(was, becomes)
    return svg


def _inks(theme: dict[str, Any]) -> tuple[str, str]:
    return theme["axis"]["labelColor"], theme["axis"]["gridColor"]
