"""The report as one HTML file that works offline, and its charts as pictures."""

from __future__ import annotations

import os
import re
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.errors import UsageError
from testbed.report.findings import findings, headline, unflagged
from testbed.report.header import header
from testbed.report.record import Analysis
from testbed.report.tables import every_table
from testbed.report.words import joined, reading

if TYPE_CHECKING:
    from testbed.report.charts import Chart

PICTURE_WIDTH = 720  # pixels, before scaling
PICTURE_SCALE = 2
GLANCE = ("groups", "gain")  # charts that stand first


def render_page(analysis: Analysis) -> str:
    """The page as text. Everything that a user or a model wrote is escaped."""
    import jinja2
    import vl_convert

    from testbed.report.charts import charts
    from testbed.report.palette import theme

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["whole"] = _whole_intervals
    template = environment.from_string((files("testbed.report") / "page.html.j2").read_text(encoding="utf-8"))
    # The end tag inside a string of the bundle would end the script early; in JavaScript both spellings are equal.
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    drawn = charts(analysis)
    return template.render(
        analysis=analysis,
        arms=joined([arm.name for arm in analysis.arms]),
        header=header(analysis),
        reading=reading(analysis),
        conclusions=[
            (c.arm, tuple(filter(None, (headline(analysis, c), unflagged(analysis, c)))), findings(analysis, c))
            for c in analysis.comparisons
        ],
        tables=every_table(analysis),
        glance=[chart for chart in drawn if chart.key in GLANCE],
        charts=[chart for chart in drawn if chart.key not in GLANCE],
        themes={"light": theme(dark=False), "dark": theme(dark=True)},
        bundle=bundle,
    )


def write_page(analysis: Analysis, path: str | Path) -> None:
    """Writes the page; a reader of the file sees the old page or the new one, never half of one.

    Raises:
        UsageError: the file cannot be written.
    """
    _write(Path(path), render_page(analysis).encode("utf-8"))


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
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}.") from error
    written = []
    config = {**theme(dark=False), "background": "white"}
    for chart in charts(analysis):
        spec = _fixed(chart)
        png, svg = folder / f"{chart.key}.png", folder / f"{chart.key}.svg"
        _write(png, vl_convert.vegalite_to_png(spec, scale=PICTURE_SCALE, config=config))
        _write(svg, vl_convert.vegalite_to_svg(spec, config=config).encode("utf-8"))
        written += [png, svg]
    return written


def _whole_intervals(text: str) -> str:
    """Keeps [0.25, 0.44] on one line."""
    return re.sub(r"\[[^][ ]+, [^][]+\]", lambda found: found.group().replace(" ", "\u00a0"), text)


def _fixed(chart: Chart) -> dict[str, object]:
    """The chart for a picture, which has no container to be as wide as, and no caption."""
    return {**chart.spec, "width": PICTURE_WIDTH, "title": {"text": chart.title, "anchor": "start"}}


def _write(path: Path, data: bytes) -> None:
    """Writes a file in one step; a device or a pipe is written into, and stays what it is."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        path = path.resolve()  # a link is followed, not replaced
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "wb") as file:
                file.write(data)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
