"""Names beside a chart's axes and in its legends: on several lines where there is room, cut where they are too long.

The drawing library cuts by halves of surrogate pairs and then cannot say what it has drawn: one name of many emoji
would stop a chart. So it is told to cut nothing, and names are cut here, by whole characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LIMITS = {"axis": 180, "legend": 280}  # pixels of a label where a chart does not say
PLACE = 14  # pixels that a wide character takes, or two others
LINE = 14  # pixels from one line of a name to the next
_WIDE = r"\u1100-\uffff\u{10000}-\u{10ffff}"  # from here on, letters and pictures are mostly as wide as they are high
_WIDE_HERE = "\u1100-\U0010ffff"
_ORDERED = ("nominal", "ordinal")
_GUIDES = {"x": "axis", "y": "axis"} | dict.fromkeys(("color", "fill", "stroke", "shape", "strokeDash"), "legend")


def cut(text: str, pixels: int) -> str:
    """A name that takes about so many pixels at most."""
    found = re.match(f"(?s)({_places(_WIDE_HERE, pixels)}).+$", text)
    return f"{found[1]}…" if found else text


def _places(wide: str, pixels: int) -> str:
    """So many places: a wide character each, or two others, or one that no other follows.

    Without the last condition a place may hold one character as well as two, and names that fit are cut.
    """
    return f"(?:[{wide}]|[^{wide}]{{2}}|[^{wide}](?![^{wide}])){{{pixels // PLACE}}}"


def lines_of(names: Sequence[str], pixels: int, most: int) -> int:
    """Lines that the longest of some names takes beside an axis, about, where a line has so many pixels."""
    longest = max((len(re.sub(f"[{_WIDE_HERE}]", "xx", name)) for name in names), default=0)
    # Where a line ends after a word, its last quarter is empty on average.
    return 1 if longest <= 2 * (pixels // PLACE) else max(2, min(most, -(-longest // (3 * (pixels // PLACE) // 2))))


def on_lines(pixels: int, most: int) -> str:
    """What puts a name on up to so many lines, for Vega: they end after words or their parts; what is beyond is cut."""
    places, end = _places(_WIDE, pixels), pixels // PLACE
    place = places.removesuffix(f"{{{end}}}")
    line = rf"{place}{{1,{end}}}$|{place}{{0,{end - 1}}}[^{_WIDE}]?[-_ /.,:]|{places}"
    broken = _replaced("datum.label", line, "$1\\n", flags="gus")
    kept = _replaced(broken, rf"^((?:[^\n]*\n){{{most - 1}}}[^\n]*)\n[^\n].*", "$1…", group=False)
    whole = _replaced(kept, r"[\n ]+$", "", group=False)
    return f"split({whole}, '\\n')"


def with_whole_characters(spec: Any) -> Any:
    """A Vega-Lite specification in which the names of axes and legends are cut as `cut` does, and by nothing else."""
    if isinstance(spec, Mapping):
        own = {key: with_whole_characters(value) for key, value in spec.items()}
        encoding = own.get("encoding")
        if isinstance(encoding, dict):
            own["encoding"] = {name: _channel(name, value) for name, value in encoding.items()}
        return own
    return [with_whole_characters(inner) for inner in spec] if isinstance(spec, list) else spec


def _channel(name: str, value: Any) -> Any:
    """A channel of an encoding; those of names have their labels cut."""
    guide = _GUIDES.get(name)
    if guide is None or not isinstance(value, dict) or value.get("type") not in _ORDERED:
        return value
    if value.get(guide, {}) is None:  # it has none
        return value
    asked = value.get(guide, {})
    pixels = asked.get("labelLimit", 0) or LIMITS[guide]
    return {**value, guide: {"labelExpr": _expression(pixels), **asked, "labelLimit": 0}}


def _expression(pixels: int) -> str:
    """What `cut` does, for Vega."""
    return _replaced("datum.label", f"^({_places(_WIDE, pixels)}).+$", "$1…", group=False)


def _replaced(text: str, pattern: str, by: str, *, flags: str = "us", group: bool = True) -> str:
    """An expression of Vega for a text in which what a pattern finds, its first group, is replaced."""
    found = (f"({pattern})" if group else pattern).replace("\\", "\\\\")
    return f"replace({text}, regexp('{found}', '{flags}'), '{by}')"
