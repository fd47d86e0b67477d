"""The pages of tasks and attempts: who solves a task and at what cost, and what was said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from markupsafe import Markup
from starlette.responses import Response, StreamingResponse

from testbed.board import boards
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.pages_entry import attempt_address, excerpt, head, task_address
from testbed.board.reading import (
    AtTask,
    ShownArm,
    arms_at_task,
    arms_by_key,
    arms_of,
    shown_arm,
    summary,
    well_formed_id,
)
from testbed.board.refusals import NotFound, Refused
from testbed.board.schema import board_tasks
from testbed.board.transcript_parts import LONGEST, parts, said
from testbed.board.views import Pages, page, templates
from testbed.report.transcript_page import render_side_by_side, render_transcript
from testbed.report.transcript_view import Part, TranscriptView
from testbed.report.unseen import beginning
from testbed.store.schema import arms as store_arms
from testbed.store.schema import unpack
from testbed.types import Attempt, Task, attempt_id

router = APIRouter(include_in_schema=False)
PageNumber = Annotated[int, Query(alias="page", ge=1, le=1_000_000)]
PIECE = 2**16  # characters of a transcript's page that are sent at one time
MOST_SAMPLES = 64  # of an arm at a task that a transcript's page leads to one by one


@router.get("/boards/{slug}/tasks")
def tasks_page(request: Request, slug: str, page_number: PageNumber = 1) -> Response:
    """A board's tasks, and how many arms solve each."""
    db: BoardDatabase = request.app.state.db
    board = boards.get(db, slug)
    with db.reading() as connection:
        found = summary(connection, slug, "tasks") or {"arms": 0}
    pages = Pages(page_number, len(board.tasks))
    rows = [
        {
            "number": i + 1,
            "excerpt": excerpt(board, i),
            "environment": board.tasks[i].environment,
            "link": task_address(board, i),
            "solved": found["solved"][i] if found["arms"] else None,
            "share": found["share"][i] if found["arms"] else None,
        }
        for i in range(pages.start, pages.end)
    ]
    return page(request, "tasks.html.j2", board=board, arms=found["arms"], rows=rows, pages=pages)


@router.get("/boards/{slug}/tasks/{number}")
def numbered_task_page(request: Request, slug: str, number: int, page_number: PageNumber = 1) -> Response:
    """A task by its number on a board."""
    board = boards.get(request.app.state.db, slug)
    if not 1 <= number <= len(board.tasks):
        raise NotFound(f"board {slug!r} has {len(board.tasks)} tasks; there is no number {number}.")
    return _task_page(request, board, number - 1, page_number)


@router.get("/tasks/{hash_}")
def task_page(
    request: Request,
    hash_: str,
    board: Annotated[str, Query(max_length=64)] = "",
    page_number: PageNumber = 1,
) -> Response:
    """A public board's task by its hash; without a board, of the first that has it."""
    db: BoardDatabase = request.app.state.db
    well_formed_id(hash_, "task")
    with db.reading() as connection:
        query = sa.select(board_tasks.c.board, board_tasks.c.position).where(board_tasks.c.task == hash_)
        places = {slug: position for slug, position in connection.execute(query.order_by(board_tasks.c.board))}
    on = {slug: boards.get(db, slug) for slug in places}
    if not on or any(one.private for one in on.values()) or (board and board not in on):
        raise NotFound(f"no public board has a task of the hash {hash_!r}.")
    chosen = on[board or next(iter(on))]
    return _task_page(request, chosen, places[chosen.slug], page_number)


def _task_page(request: Request, board: Board, position: int, page_number: int) -> Response:
    db: BoardDatabase = request.app.state.db
    task = board.tasks[position]
    with db.reading() as connection:
        found = arms_at_task(connection, board.slug, position)
        pages = Pages(page_number, len(found))
        listed = pages.of(found)
        arms = arms_by_key(connection, [(row.entry, row.position) for row in listed])
        facets = summary(connection, board.slug, "facets") or {}
    return page(
        request,
        "task.html.j2",
        board=board,
        number=position + 1,
        task=None if board.private else task,
        environment=task.environment,
        name=excerpt(board, position),
        total=sum(row.competes for row in found),
        solved=sum(row.competes and row.c > 0 for row in found),
        placebos=sum(not row.competes for row in found),
        priced=facets.get("usd", False),
        rows=[_at_task(board, row, arms[row.entry, row.position], position) for row in listed],
        pages=pages,
    )


def _at_task(board: Board, row: AtTask, arm: dict[str, Any], position: int) -> dict[str, Any]:
    """One arm at a task: how often it succeeds, and what an attempt and a success cost."""

    def mean(name: str) -> float | None:
        values = arm["figures"].get(name) or []
        return values[position] if position < len(values) else None

    tokens, usd = mean("task_tokens"), mean("task_usd")
    link = ""
    if row.n and not board.private:
        link = f"/attempts/{attempt_id(board.tasks[position].hash, arm['arm'], 0, board.seed)}"
    return {
        **arm,
        "n": row.n,
        "c": row.c,
        "task_tokens": tokens,
        "task_usd": usd,
        "tokens_per_success": tokens * row.n / row.c if tokens is not None and row.c else None,
        "link": link,
    }


@router.get("/attempts/{id_}")
def attempt_page(
    request: Request, id_: str, beside: Annotated[str, Query(max_length=60)] = "", page_number: PageNumber = 1
) -> Response:
    """An attempt's transcript, or two attempts' side by side; sent piece by piece, a long one on several pages."""
    db: BoardDatabase = request.app.state.db
    both = [_shown(db, one) for one in filter(None, (id_, beside))]
    attempt, shown = both[0].attempt, both[0].shown
    if any(one.shown.board.slug != shown.board.slug for one in both):
        raise Refused("the attempts are of two boards: they were made under other limits.")
    on_pages = parts(*(one.attempt.transcript for one in both))
    pages = Pages(page_number, len(on_pages), 1)
    part = Part(on_pages[pages.start], LONGEST)
    views = [one.view(part) for one in both]
    if beside:
        transcript = render_side_by_side(views[0], views[1], reveal_reference=True)
    else:
        transcript = render_transcript(views[0], reveal_reference=True)
    position = next(i for i, task in enumerate(shown.board.tasks) if task.hash == attempt.task)
    with db.reading() as connection:
        arms = arms_of(connection, shown.entry.id)
    context = {
        "request": request,
        "here": request.url.path,
        "board": shown.board,
        "id": id_,
        "shown": [(head(one.shown.entry), one.shown.arm) for one in both],
        "pages": pages,
        "cut": [(one.attempt.id, n + 1) for one in both for n in _cut(one.attempt, part)],
        "name": excerpt(shown.board, position),
        "task_link": task_address(shown.board, position),
        "sample": attempt.sample,
        "samples": _samples(shown, attempt),
        "others": [
            (
                arm.name,
                attempt_address(shown.board, arm, shown.board.tasks[position], attempt.sample).rsplit("/", 1)[-1],
            )
            for arm in arms
            if arm.arm != attempt.arm and attempt.sample < arm.figures["samples"]
        ],
        "transcript": transcript,
        "beside": beside,
    }
    pieces = _pieces(templates().get_template("attempt.html.j2").generate(context))
    first = next(pieces)  # what goes wrong in making it still has a status of its own
    return StreamingResponse(chain([first], pieces), media_type="text/html", headers={"Cache-Control": "no-cache"})


@router.get("/attempts/{id_}/steps/{number}.txt")
def step_text(request: Request, id_: str, number: int) -> Response:
    """All that one step says, for those that are too long for a page."""
    attempt = _shown(request.app.state.db, id_).attempt
    if not 1 <= number <= len(attempt.transcript):
        raise NotFound(f"the attempt has {len(attempt.transcript)} steps; there is no step {number}.")
    name = f"{id_[:12]}-step-{number}.txt"
    return Response(
        said(attempt.transcript[number - 1]).encode("utf-8", "backslashreplace"),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _cut(attempt: Attempt, part: Part) -> list[int]:
    """Steps of a part that are too long to be shown whole."""
    numbers = (n for n in part.entries if n < len(attempt.transcript))
    texts = ((n, said(attempt.transcript[n])) for n in numbers)
    return [n for n, text in texts if len(beginning(text, LONGEST)) < len(text)]


@dataclass(frozen=True)
class _Shown:
    """An attempt of an accepted entry of a public board, as its page needs it."""

    attempt: Attempt
    task: Task
    shown: ShownArm
    spec: Mapping[str, Any] | None

    def view(self, part: Part) -> TranscriptView:
        """As its page shows a part of it."""
        return TranscriptView.of(self.attempt, self.task, self.shown.arm.name, self.spec, part)


def _shown(db: BoardDatabase, id_: str) -> _Shown:
    """An attempt of an accepted entry of a public board.

    Raises:
        NotFound: there is none of that id; an attempt of a private board is not told from one that is not there.
    """
    well_formed_id(id_, "attempt")
    attempt = db.store.find(id_)
    with db.reading() as connection:
        found = shown_arm(db, connection, attempt.arm) if attempt is not None else None
        if attempt is None or found is None or found.board.private:
            raise NotFound(f"no attempt that is shown has the id {id_!r}.")
        spec = connection.scalar(sa.select(store_arms.c.spec).where(store_arms.c.hash == attempt.arm))
    task = next((task for task in found.board.tasks if task.hash == attempt.task), None)
    if task is None:
        raise NotFound(f"no attempt that is shown has the id {id_!r}.")
    return _Shown(attempt, task, found, unpack(spec) if spec else None)


def _samples(shown: ShownArm, attempt: Attempt) -> Sequence[tuple[int, str]]:
    """The arm's attempts at the same task: number and address. Of very many those around this one, and some of all."""
    count = int(shown.arm.figures["samples"])
    numbers = set(range(count))
    if count > MOST_SAMPLES:
        half = MOST_SAMPLES // 4
        around = range(max(0, attempt.sample - half), min(count, attempt.sample + half))
        numbers = {*around, *range(0, count, -(-count // half)), count - 1}
    return [(n, f"/attempts/{attempt_id(attempt.task, attempt.arm, n, attempt.seed)}") for n in sorted(numbers)]


def _pieces(made: Iterator[str | Markup]) -> Iterator[str]:
    """A page's text in pieces of like size."""
    held: list[str] = []
    size = 0
    for part in made:
        for start in range(0, len(part), PIECE):
            held.append(str(part[start : start + PIECE]))
            size += len(held[-1])
            if size >= PIECE:
                yield "".join(held)
                held, size = [], 0
    yield "".join(held)
