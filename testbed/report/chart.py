"""What every chart of the report is made with: one record, the arms' colours and dashes, and Vega-Lite by Altair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from testbed.report.cells import Table
from testbed.report.chart_labels import LINE, lines_of, on_lines, with_whole_characters
from testbed.report.map_links import MapLinks
from testbed.report.palette import DASHES, GREY, LINES, SHAPES, VERDICTS
from testbed.report.record import Analysis

# Of Object.prototype; what is inherited by every object that Vega looks names up in.
_INHERITED = frozenset(
    {
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
        "__proto__",
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
    }
)
NAME = 112  # pixels of an arm's name beside a chart, on each of its lines
LinkOf = Callable[[str], str]  # an arm's name → where its transcripts are


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        key: short name, unique in a report; names files and elements.
        title: what it shows.
        caption: how to read it.
        description: title, caption and the main figures, for those who cannot see it.
        spec: Vega-Lite, as wide as its container.
        table: key of the report's table with the same figures; empty where `figures` holds them.
        figures: the same figures as a table of its own, where the report has none.
        small: whether two of its kind may stand side by side.
    """

    key: str
    title: str
    caption: str
    description: str
    spec: dict[str, Any]
    table: str = ""
    figures: Table | None = None
    small: bool = False


class Rows(alt.InlineData):
    """The rows that a chart shows, which Altair would look at one by one, and copy with each layer of the chart."""

    _class_is_valid_at_instantiation = False

    def __init__(self, values: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(values=list(values))

    def __deepcopy__(self, memo: object = None) -> Rows:
        return self


def chart(
    key: str,
    title: str,
    caption: str,
    figures: str,
    drawn: alt.Chart | alt.LayerChart | alt.FacetChart,
    *,
    height: int,
    table: str = "",
    own: Table | None = None,
    small: bool = False,
) -> Chart:
    """A chart as wide as its container.

    Its height is in pixels also where each row has so many: of a height by rows, Vega-Lite warns every reader's console
    that it cannot fit the width alone, which it then does.

    Args:
        key: short name, unique in a report.
        title: what it shows.
        caption: how to read it.
        figures: what it shows, in a sentence.
        drawn: its marks.
        height: of the space for the marks, in pixels.
        table: key of the report's table with the same figures.
        own: the same figures, where the report has no such table.
        small: whether two of its kind may stand side by side.
    """
    description = f"{title}. {caption} {figures}"
    # Not validated: Altair looks at each part as it is made, and the whole would take as long again as all else here.
    spec = drawn.to_dict(validate=False)
    spec["description"] = description
    spec["width"] = "container"
    spec["height"] = height
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return Chart(key, title, caption, description, with_whole_characters(_drawable(spec)), table, own, small)


def _drawable(value: Any) -> Any:
    """The specification without a text that Vega would take for a property that every JavaScript object has.

    It keeps names as keys of plain objects, where one such as "constructor" stops the chart. A no-break space after it,
    which shows as nothing, makes it a name like any other.
    """
    if isinstance(value, dict):
        return {key: _drawable(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_drawable(own) for own in value]
    return f"{value}\u00a0" if isinstance(value, str) and value in _INHERITED else value


def scale(domain: Sequence[str], range_: Sequence[Any]) -> alt.Scale:
    """Which colour, dash or shape each name has."""
    return alt.Scale(domain=list(domain), range=list(range_))


def arm_axis(arms: Sequence[str], *, limit: int = NAME, lines: int = 2, field: str = "arm") -> alt.Y:
    """Arms from top to bottom, in the order given, with names on up to so many lines of `limit` pixels."""
    made = on_lines(limit, lines)
    # The drawing library sets the first of several lines at the middle of the row.
    up = {"condition": {"test": "true", "expr": f"{-LINE / 2:g} * (length({made}) - 1)"}, "value": 0}
    axis = alt.Axis(labelLimit=limit, labelExpr=made, labelOffset=up, ticks=False)
    return alt.Y(field, type="nominal", sort=list(arms), title=None, axis=axis)


def rows_of(names: Sequence[str], least: int, *, limit: int = NAME, lines: int = 2) -> int:
    """Pixels of all rows of an axis of names: of each at least so many, and room for the lines of the longest."""
    return len(names) * max(least, LINE * lines_of(names, limit, lines) + 4)


def verdict_colour(names: Sequence[str]) -> alt.Color:
    """The colour of each verdict, with a legend that fits a telephone beside long names."""
    own, key = scale(names, list(VERDICTS.values())), alt.Legend(columns=2)
    return alt.Color("verdict", type="nominal", title=None, sort=list(names), scale=own, legend=key)


def colours(analysis: Analysis, arms: Sequence[str]) -> alt.Scale:
    """The colour of each arm: the same in every chart, the bare arm's is grey."""
    others = [arm.name for arm in analysis.arms if arm.name != analysis.bare]
    return scale(arms, [GREY if a == analysis.bare else LINES[others.index(a) % len(LINES)] for a in arms])


def dashes(analysis: Analysis, arms: Sequence[str]) -> alt.Scale:
    """The dash of each arm, the same in every chart."""
    return scale(arms, _in_order(analysis, arms, DASHES))


def shapes(analysis: Analysis, arms: Sequence[str]) -> alt.Scale:
    """The shape of each arm's points, the same in every chart."""
    return scale(arms, _in_order(analysis, arms, SHAPES))


def _in_order(analysis: Analysis, arms: Sequence[str], styles: Sequence[Any]) -> list[Any]:
    names = [arm.name for arm in analysis.arms]
    return [styles[names.index(arm) % len(styles)] for arm in arms]


def columns(names: Sequence[str]) -> int:
    """Columns of a legend that fit a phone."""
    longest = max(len(name) for name in names)
    return 3 if longest <= 10 else 2 if longest <= 18 else 1


def line_key(arms: Sequence[str]) -> alt.Legend:
    """A legend of lines. It is shared by their bands, whose faint fill its symbols must not take."""
    return alt.Legend(
        symbolType="stroke", symbolOpacity=1, symbolFillColor="transparent", symbolSize=400, columns=columns(arms)
    )


def point_key(analysis: Analysis, arms: Sequence[str]) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of points, with one legend for both; layers share it only if all of them have it."""
    key = alt.Legend(columns=columns(arms), symbolSize=110)
    colour = alt.Color("arm", type="nominal", title=None, sort=list(arms), scale=colours(analysis, arms), legend=key)
    return colour, alt.Shape(
        "arm", type="nominal", title=None, sort=list(arms), scale=shapes(analysis, arms), legend=key
    )


def linked(row: dict[str, Any], arm: str, link: LinkOf | None) -> dict[str, Any]:
    """A point's data, with the way to the arm's transcripts where there is one."""
    where = link(arm) if link is not None else ""
    return {**row, "href": where} if where else row


def to_map(row: dict[str, Any], tasks: MapLinks | None, instead: str = "#map-title", **asked: str) -> dict[str, Any]:
    """A mark's data, with the way to the map filtered as asked where the page has one."""
    return row if tasks is None else {**row, "href": tasks.to(**asked, instead=instead)}


def each(field: str) -> alt.Detail:
    """A mark for each value of a field. Its short form, "field:N", Altair would read for as long as a small chart."""
    return alt.Detail(field, type="nominal")


def href(link: LinkOf | MapLinks | None) -> dict[str, alt.Href]:
    """The encoding by which a mark leads where its data say; nothing where there is nothing to lead to."""
    return {} if link is None else {"href": alt.Href("href", type="nominal")}
