"""The pages of boards: which there are, the ranking, what success costs, and what each set of tools added.

Every page works without scripts: filters are forms that are sent, and htmx only saves loading the page again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from testbed.board import boards, pages_compare, pages_entry, pages_task
from testbed.board.boards import Board
from testbed.board.chart_pictures import in_surroundings
from testbed.board.database import BoardDatabase
from testbed.board.entry_changes import not_shown
from testbed.board.entry_file import entry_file
from testbed.board.public import address_of
from testbed.board.ranking import address_key, tools_key
from testbed.board.reading import Filters, entry_counts, ranked, summary
from testbed.board.refusals import NotFound, Refused
from testbed.board.views import PAGE_ROWS, Pages, page, picture, static_file

router = APIRouter(include_in_schema=False)
PageNumber = Annotated[int, Query(alias="page", ge=1, le=1_000_000)]
Word = Annotated[str, Query(max_length=500)]
Most = Annotated[str, Query(max_length=30)]
THEMES = Literal["light", "dark"]


@router.get("/")
def front(request: Request) -> Response:
    """Which boards there are."""
    db: BoardDatabase = request.app.state.db
    with db.reading() as connection:
        counts = entry_counts(connection)
    return page(request, "boards.html.j2", boards=[(b, facts(b), counts.get(b.slug, 0)) for b in boards.list_(db)])


@router.get("/boards/{slug}")
def ranking_page(
    request: Request,
    slug: str,
    by: Literal["reach", "gain"] = "reach",
    model: Word = "",
    tools: Word = "",
    tokens: Most = "",
    usd: Most = "",
    state: Literal["", "verified"] = "",
    page_number: PageNumber = 1,
) -> Response:
    """A board's ranking."""
    db: BoardDatabase = request.app.state.db
    board = boards.get(db, slug)
    most = {"tokens": _amount(tokens, "tokens"), "usd": _amount(usd, "USD")}
    with db.reading() as connection:
        facets = summary(connection, slug, "facets") or {"entries": 0, "usd": False}
        models, toolsets = (facets.get(f"{by}_{kind}", []) for kind in ("models", "tools"))
        filters = Filters(by, _named(model, models), _named(tools, toolsets), state=state, **most)
        total, rows = ranked(connection, slug, filters, (page_number - 1) * PAGE_ROWS, PAGE_ROWS)
        gone = not_shown(connection, slug)
    return page(
        request,
        "ranking.html.j2",
        board=board,
        facts=facts(board),
        filters=filters,
        kept={"by": by, "model": model, "tools": tools, "tokens": tokens, "usd": usd, "state": state},
        facets=facets,
        models=models,
        toolsets=toolsets,
        rows=rows,
        not_shown=gone,
        pages=Pages(page_number, total),
    )


@router.get("/boards/{slug}/pareto")
def pareto_page(request: Request, slug: str, axis: Literal["tokens", "usd"] = "tokens") -> Response:
    """What success costs."""
    board, found = _summary(request, slug, "pareto")
    return page(request, "pareto.html.j2", board=board, axes=found or {}, axis=axis, found=(found or {}).get(axis))


@router.get("/boards/{slug}/pareto/{axis}.svg")
def pareto_picture(request: Request, slug: str, axis: Literal["tokens", "usd"], theme: THEMES = "light") -> Response:
    """The picture of it."""
    _, found = _summary(request, slug, "pareto")
    if not found or axis not in found or not found[axis]["svg"]:
        raise NotFound("there is no such picture.")
    return picture(in_surroundings(found[axis]["svg"], dark=theme == "dark"))


@router.get("/boards/{slug}/mechanisms")
def mechanisms_page(
    request: Request,
    slug: str,
    tools: Word = "",
    control: Annotated[str, Query(max_length=20)] = "live",
    page_number: PageNumber = 1,
) -> Response:
    """What each set of tools added, over all models; with `tools`, what one of them did to each."""
    board, found = _summary(request, slug, "mechanisms")
    _, facets = _summary(request, slug, "facets")
    keys = [{"tools": address_key(tools_key(m["tools"])), "control": m["control"]} for m in found or []]
    listed = [(n, m, key) for n, (m, key) in enumerate(zip(found or [], keys, strict=True))]
    if not tools:
        total = (facets or {}).get("mechanisms", len(listed))
        return page(request, "mechanisms.html.j2", board=board, mechanisms=listed, total=total)
    for number, mechanism, key in listed:
        if key == {"tools": tools, "control": control}:
            pages = Pages(page_number, len(mechanism["arms"]))
            return page(
                request, "mechanism.html.j2", board=board, number=number, m=mechanism, key=key, pages=pages,
                arms=pages.of(mechanism["arms"]),
            )  # fmt: skip
    raise NotFound(f"no verified entry of board {slug!r} has an arm with the tools {tools!r:.100}.")


@router.get("/boards/{slug}/mechanisms/{number}.svg")
def mechanism_picture(request: Request, slug: str, number: int, theme: THEMES = "light") -> Response:
    """The forest plot of one of them."""
    _, found = _summary(request, slug, "mechanisms")
    if not found or not 0 <= number < len(found) or not found[number]["svg"]:
        raise NotFound("there is no such picture.")
    return picture(in_surroundings(found[number]["svg"], dark=theme == "dark"))


@router.get("/submit")
def submit_page(request: Request) -> Response:
    """How an entry is sent."""
    db: BoardDatabase = request.app.state.db
    return page(request, "submit.html.j2", boards=boards.list_(db), address=address_of(request))


@router.get("/boards/{slug}/entry.toml")
def entry_toml(request: Request, slug: str) -> Response:
    """The experiment file that an entry begins with."""
    text = entry_file(boards.get(request.app.state.db, slug), address_of(request))
    return Response(
        text,
        media_type="application/toml; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{slug}-entry.toml"'},
    )


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Files that pages load."""
    return static_file(name)


def facts(board: Board) -> dict[str, Any]:
    """What a board fixes, for people; of a private one nothing that tells a task."""
    limits = {name: value for name, value in board.spec.get("budget", {}).items() if not isinstance(value, dict)}
    tables = [] if board.private else board.spec["env"]
    return {
        "tasks": len(board.tasks),
        "environments": sorted(Counter(task.environment for task in board.tasks).items()),
        "tables": [(table["id"], {k: v for k, v in table.items() if k not in ("id", "tasks")}) for table in tables],
        "seed": board.seed,
        "samples": board.samples,
        "budget": limits,
        "rules": board.rules,
        "measure": board.measure,
    }


def _summary(request: Request, slug: str, key: str) -> tuple[Board, Any]:
    db: BoardDatabase = request.app.state.db
    board = boards.get(db, slug)
    with db.reading() as connection:
        return board, summary(connection, slug, key)


def _named(key: str, offered: Sequence[tuple[str, str, int]]) -> str:
    """The name that stands in an address as `key`."""
    return next((name for offered_key, name, _ in offered if offered_key == key), key)


def _amount(text: str, kind: str) -> float | None:
    """An amount from a form, where nothing is any amount."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        raise Refused(f"the most {kind} must be a number, not {text!r:.40}.") from None
    if not 0 <= value < 1e15:
        raise Refused(f"the most {kind} must be a number from 0, not {text!r:.40}.")
    return value


router.include_router(pages_entry.router)
router.include_router(pages_compare.router)
router.include_router(pages_task.router)
