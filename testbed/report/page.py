"""The report as one HTML file that works offline, and its charts as pictures."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from testbed.errors import UsageError, in_the_way
from testbed.report.files import write_file
from testbed.report.findings import findings, headline, unflagged
from testbed.report.header import added, header
from testbed.report.map_links import map_links
from testbed.report.page_map import map_data
from testbed.report.palette import VERDICTS
from testbed.report.record import Analysis
from testbed.report.tables import every_table
from testbed.report.transcript_links import TranscriptLinks
from testbed.report.transcript_page import transcript_css
from testbed.report.transcripts_inside import TranscriptsInside
from testbed.report.unseen import visible_in
from testbed.report.words import broken_in, in_shell, joined, reading

if TYPE_CHECKING:
    from jinja2 import Template

    from testbed.report.chart import Chart, LinkOf

PICTURE_WIDTH = 720  # pixels, before scaling
PICTURE_SCALE = 2
GLANCE = ("groups", "gain")  # charts that stand first
TO_MAP = (*GLANCE, "verdicts", "map")  # charts whose marks lead to the map of tasks
SECTIONS = (  # the others: key and title of a section, how its charts' keys begin, and what holds of all
    ("elicitation", "Elicitation or creation", ("creation", "frontier", "ladder"), ""),
    (
        "spend",
        "What is spent",
        ("reach_", "front_"),
        "Reach is the mean over tasks of the chance of at least one success within a spend. All curves of a figure lie "
        "inside their bands together; a curve ends where the first task ran out of attempts. An arm is on the front of "
        "cost and reach if no other costs no more and reaches no less, and one of the two is better.",
    ),
    ("tasks", "Task by task", ("verdicts", "map"), ""),
)


def render_page(analysis: Analysis, links: TranscriptLinks | TranscriptsInside | None = None) -> str:
    """The page as text. Everything that a user or a model wrote is escaped.

    Args:
        analysis: what to show.
        links: transcripts that stand in the page, or where they lie beside it; None for neither.
    """
    from testbed.report.charts import charts
    from testbed.report.palette import theme

    drawn = charts(analysis, _link_of(links), map_links(analysis))
    tables = every_table(analysis)
    scripts = _scripts()
    return _template().render(
        analysis=analysis,
        arms=joined([arm.name for arm in analysis.arms]),
        run=in_shell(analysis.name),
        broken=broken_in(analysis),
        header=header(analysis),
        added=added(analysis),
        reading=reading(analysis),
        conclusions=[
            (c.arm, tuple(filter(None, (headline(analysis, c), unflagged(analysis, c)))), findings(analysis, c))
            for c in analysis.comparisons
        ],
        tables=tables,
        keys={table.key for table in tables},
        glance=[chart for chart in drawn if chart.key in GLANCE],
        sections=list(_sections(drawn, mapped=analysis.map is not None)),
        charts=drawn,
        map=map_data(analysis, links),
        to_map=TO_MAP,
        links=links,
        inside=links if isinstance(links, TranscriptsInside) else None,
        folder=unquote(links.folder) if isinstance(links, TranscriptLinks) else "",
        made=sum(arm.attempts + arm.missing for arm in analysis.arms),
        css=transcript_css(),
        verdict_colours=[(verdict.replace(" ", "-"), colour) for verdict, colour in VERDICTS.items()],
        themes={"light": theme(dark=False), "dark": theme(dark=True)},
        scripts=scripts,
        policy=_policy(scripts),
    )


def _link_of(links: TranscriptLinks | TranscriptsInside | None) -> LinkOf | None:
    """Where points lead: of an arm without transcripts to the head of all, as no point of a linked chart is without."""
    if isinstance(links, TranscriptsInside):
        return lambda arm: links.arm(arm) or "#transcripts"
    return links.arm if links is not None else None


@dataclass(frozen=True)
class Section:
    """Charts that belong together, under a heading."""

    key: str
    title: str
    about: str
    charts: tuple[Chart, ...]


def _sections(drawn: Sequence[Chart], *, mapped: bool) -> Iterator[Section]:
    for key, title, beginnings, about in SECTIONS:
        own = tuple(chart for chart in drawn if chart.key not in GLANCE and chart.key.startswith(beginnings))
        if own or (key == "tasks" and mapped):
            yield Section(key, title, about, own)


@lru_cache(maxsize=1)
def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # six bytes a letter for most of the world's
    environment.filters["whole"] = _whole_intervals
    return environment.from_string(_packaged("page.html.j2"))


@lru_cache(maxsize=1)
def _scripts() -> tuple[str, ...]:
    """The page's scripts in the order in which they run: what draws charts, the map, links of points, the start."""
    import vl_convert

    # The end tag inside a string of the bundle would end the script early; in JavaScript both spellings are equal.
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    return bundle, _packaged("map.js.j2"), _packaged("points.js.j2"), _packaged("draw.js.j2")


def _policy(scripts: Sequence[str]) -> str:
    """What the page may do: run these scripts and no other, and ask the network for nothing."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    own = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {own}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _packaged(name: str) -> str:
    return (files("testbed.report") / name).read_text(encoding="utf-8")


def write_page(analysis: Analysis, path: str | Path, links: TranscriptLinks | TranscriptsInside | None = None) -> None:
    """Writes the page; a reader of the file sees the old page or the new one, never half of one.

    Args:
        analysis: what to show.
        path: the file.
        links: transcripts that stand in it, or where they lie beside it; None for neither.

    Raises:
        UsageError: the file cannot be written.
    """
    write_file(Path(path), render_page(analysis, links).encode("utf-8"))


def write_png(analysis: Analysis, folder: str | Path) -> list[Path]:
    """Writes every chart as PNG and SVG into a folder, which is made if need be.

    Returns:
        The files, in the order of the report.

    Raises:
        UsageError: the folder cannot be written.
    """
    import vl_convert

    from testbed.report.charts import charts
    from testbed.report.palette import theme

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = in_the_way(folder) or error.strerror
        raise UsageError(f"cannot make the folder {folder}: {why}.") from error
    written = []
    config = {**theme(dark=False), "background": "white"}
    for chart in charts(analysis):
        spec = visible_in(_fixed(chart))  # the drawing library aborts at what no XML holds
        png, svg = folder / f"{chart.key}.png", folder / f"{chart.key}.svg"
        write_file(png, vl_convert.vegalite_to_png(spec, scale=PICTURE_SCALE, config=config))
        write_file(svg, vl_convert.vegalite_to_svg(spec, config=config).encode("utf-8"))
        written += [png, svg]
    return written


def _whole_intervals(text: str) -> str:
    """Keeps [0.25, 0.44] on one line."""
    return re.sub(r"\[[^][ ]+, [^][]+\]", lambda found: found.group().replace(" ", "\u00a0"), text)


def _fixed(chart: Chart) -> dict[str, object]:
    """The chart for a picture, which has no container to be as wide as, and no caption."""
    return {**chart.spec, "width": PICTURE_WIDTH, "title": {"text": chart.title, "anchor": "start"}}
