"""How pages are made: templates that escape everything, figures in words, and the files that pages load."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from math import ceil
from typing import Any
from urllib.parse import urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from testbed.board.board_file import ANY
from testbed.board.refusals import NotFound
from testbed.report.transcript_page import transcript_css
from testbed.report.unseen import visible
from testbed.report.words import NONE, amount, interval, number
from testbed.stats import Estimate

PAGE_ROWS = 50
LONGEST = 200  # characters of a name or title that a page shows
# htmx works under a policy that allows no inline style or script, evaluates nothing and asks this server only.
HTMX = {
    "includeIndicatorStyles": False,
    "allowEval": False,
    "allowScriptTags": False,
    "selfRequestsOnly": True,
    "historyCacheSize": 0,
    "refreshOnHistoryMiss": True,
}
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_LONG = "public, max-age=31536000, immutable"


def page(request: Request, template: str, **values: Any) -> HTMLResponse:
    """A page made of a template.

    Args:
        request: what asked for it.
        template: name of a file in `pages`.
        values: what the template shows.
    """
    text = templates().get_template(template).render(request=request, here=request.url.path, **values)
    return HTMLResponse(text, headers={"Cache-Control": "no-cache"})


@lru_cache(maxsize=1)
def templates() -> jinja2.Environment:
    """The templates; whatever they are given is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("testbed.board", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
    )
    made.filters.update(
        text=shown_text,
        whole=lambda value: visible(str(value)),
        num=number,
        signed=lambda value: number(value, signed=True),
        limits=lambda found, signed=False: interval(_estimate(found), signed=signed) if found else "",
        amount=amount,
        day=lambda moment: str(moment or "")[:10],
        version=version,
        size=svg_size,
    )
    made.globals.update(
        static=static_url,
        query=query,
        htmx=json.dumps(HTMX),
        unknown=NONE,
        any_tool=ANY,
        place=place,
        MARKS=VERDICT_MARKS,
    )
    return made


# A verdict's sign, its word and its class, by its code in `figures["verdicts_by_task"]`.
VERDICT_MARKS = {
    "P": ("●", "preserved", "preserved"),
    "E": ("▲", "expanded", "expanded"),
    "L": ("▼", "lost", "lost"),
    "O": ("○", "out of reach", "out"),
    "U": ("?", "undetermined", "undetermined"),
    "-": ("", "not compared", "none"),
}


def shown_text(value: object, longest: int = LONGEST) -> str:
    """Text that somebody else wrote: in one line, cut if it is long, with characters that hide or turn text shown."""
    text = " ".join(visible(str(value)).split())
    return text if len(text) <= longest else f"{text[:longest]}…"


def place(value: float | None, least: float = 0.0, most: float = 1.0, width: float = 100.0) -> float:
    """Where a figure stands on a bar `width` wide that reaches from `least` to `most`."""
    inside = min(max(value if value is not None else least, least), most)
    return round(width * (inside - least) / (most - least), 2)


def query(**values: object) -> str:
    """The part of an address after its path; what is empty is left out."""
    kept = {name: value for name, value in values.items() if value not in ("", None)}
    return f"?{urlencode(kept)}" if kept else ""


def _estimate(found: Mapping[str, float | None]) -> Estimate:
    return Estimate(found.get("value"), found.get("low"), found.get("high"))


class Pages:
    """Which rows of a list a page shows.

    Args:
        number: of the page, from 1.
        total: rows of the whole list.
        rows: of a page.
    """

    def __init__(self, number: int, total: int, rows: int = PAGE_ROWS) -> None:
        self.number, self.total, self.rows = number, total, rows
        self.count = max(1, ceil(total / rows))
        if number > self.count:
            raise NotFound(f"the list has {self.count} page{'s' if self.count > 1 else ''}; there is no page {number}.")

    @property
    def start(self) -> int:
        """Number of the first row, from 0."""
        return (self.number - 1) * self.rows

    @property
    def end(self) -> int:
        """Number after that of the last row."""
        return min(self.total, self.start + self.rows)

    def of(self, listed: Sequence[Any]) -> Sequence[Any]:
        """The page's part of a list."""
        return listed[self.start : self.end]


# -- files that pages load


def static_file(name: str) -> Response:
    """A style sheet or a script of the board's own, or of a package that it stands on.

    Raises:
        NotFound: there is none of that name.
    """
    data = _static(name)
    if data is None:
        raise NotFound(f"no file is called {name!r:.60}.")
    return Response(data, media_type=_TYPES[name.rsplit(".", 1)[-1]], headers={"Cache-Control": _LONG})


def picture(svg: str) -> Response:
    """A picture whose address changes with it."""
    return Response(svg, media_type=_TYPES["svg"], headers={"Cache-Control": "public, max-age=300"})


def svg_size(svg: str) -> tuple[int, int]:
    """Width and height that a picture says it has: a page keeps its place free, and does not jump when it comes."""
    head = svg[: svg.find(">")]
    width, height = (re.search(rf' {side}="(\d+)', head) for side in ("width", "height"))
    return (int(width[1]), int(height[1])) if width and height else (640, 320)


@lru_cache
def static_url(name: str) -> str:
    """A file's address, which changes with its content, so that browsers may keep it for ever."""
    data = _static(name)
    assert data is not None
    return f"/static/{name}?v={version(data.decode())}"


def version(text: str) -> str:
    """What stands in the address of a text, so that another text has another address."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@lru_cache
def _static(name: str) -> bytes | None:
    if name == "htmx.js":
        return (files("django_htmx") / "static" / "django_htmx" / "htmx-2.min.js").read_bytes()
    if name == "transcript.css":
        return transcript_css().encode()
    if name in ("board.css", "icon.svg"):
        return (files("testbed.board") / "static" / name).read_bytes()
    return None
