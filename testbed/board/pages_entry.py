"""The page of an entry: what was checked, its arms, its charts, and every task against every arm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from testbed.board import boards
from testbed.board.arm_rows import ArmRow
from testbed.board.boards import Board
from testbed.board.chart_pictures import in_surroundings
from testbed.board.database import BoardDatabase
from testbed.board.entry_changes import NotShown, not_shown
from testbed.board.reading import arms_of, charts_of, entry_of, title_of, warnings_of
from testbed.board.refusals import NotFound
from testbed.board.results import NO_VERDICT
from testbed.board.schema import ACCEPTED, rankings
from testbed.board.views import VERDICT_MARKS, Pages, page, picture
from testbed.store.schema import unpack
from testbed.types import Task, attempt_id

router = APIRouter(include_in_schema=False)
MAP_ROWS = 50
EXCERPT = 120  # characters of a prompt that stand for it
# What of a manifest is shown: labels. A figure that an author gives is never shown, whatever it is called.
_LABELS = ("run", "model", "seed", "created", "testbed", "description", "agent", "code", "url", "license")


@router.get("/entries/{id_}")
def entry_page(
    request: Request,
    id_: str,
    verdict: Literal["", "P", "E", "L", "O", "U"] = "",
    page_number: Annotated[int, Query(alias="page", ge=1, le=1_000_000)] = 1,
) -> Response:
    """An entry; of one that was not accepted only what became of it."""
    db: BoardDatabase = request.app.state.db
    with db.reading() as connection:
        entry = entry_of(connection, id_)
        board = boards.get(db, entry.board)
        shown = entry.state in ACCEPTED
        arms = arms_of(connection, id_) if shown else []
        charts = charts_of(connection, id_) if shown else []
        warnings = warnings_of(connection, id_) if shown else []
        places = connection.execute(_places(entry)).all() if shown else []
        gone = not_shown(connection, entry.board).get(entry.account, NotShown())
    chosen = [i for i in range(len(board.tasks)) if not verdict or any(_code(arm, i) == verdict for arm in arms)]
    pages = Pages(page_number, len(chosen), MAP_ROWS)
    return page(
        request,
        "entry.html.j2",
        entry=head(entry),
        board=board,
        arms=arms,
        charts=charts,
        warnings=warnings,
        places=places,
        not_shown=gone,
        rows=[_map_row(board, arms, i) for i in pages.of(chosen)] if arms else [],
        verdict=verdict,
        pages=pages,
    )


@router.get("/entries/{id_}/charts/{key}.svg")
def entry_picture(request: Request, id_: str, key: str, theme: Literal["light", "dark"] = "light") -> Response:
    """One of an entry's charts."""
    db: BoardDatabase = request.app.state.db
    with db.reading() as connection:
        entry_of(connection, id_)
        found = next((chart for chart in charts_of(connection, id_) if chart["key"] == key), None)
    if found is None:
        raise NotFound("there is no such picture.")
    return picture(in_surroundings(found["svg"], dark=theme == "dark"))


def head(entry: Any) -> dict[str, Any]:
    """An entry's row for people."""
    reasons: list[dict[str, str]] = json.loads(entry.reasons)
    manifest = unpack(entry.manifest)
    manifest = manifest if isinstance(manifest, dict) else {}
    return {
        "id": entry.id,
        "title": title_of(entry.id, unpack(entry.title)),
        "account": entry.account,
        "kind": entry.kind,
        "state": entry.state,
        "created": entry.created,
        "decided": entry.decided,
        "wrong": [reason for reason in reasons if reason.get("level") == "wrong"],
        "unchecked": [reason for reason in reasons if reason.get("level") == "unchecked"],
        "noted": [reason for reason in reasons if reason.get("level") == "note"],
        "checked": [reason for reason in reasons if reason.get("level") == "ok"],
        "manifest": [(name, manifest[name]) for name in _LABELS if isinstance(manifest.get(name), str | int)],
    }


def excerpt(board: Board, position: int) -> str:
    """What a task is called in a list: the beginning of its prompt, or its number on a private board."""
    if board.private:
        return f"task {position + 1}"
    prompt = " ".join(board.tasks[position].prompt.split())
    return prompt if len(prompt) <= EXCERPT else f"{prompt[:EXCERPT]}…"


def task_address(board: Board, position: int) -> str:
    """The address of a task's page: by its hash, or by its number on a private board, whose hashes tell too much."""
    if board.private:
        return f"/boards/{board.slug}/tasks/{position + 1}"
    return f"/tasks/{board.tasks[position].hash}?board={board.slug}"


def attempt_address(board: Board, arm: ArmRow, task: Task, sample: int = 0) -> str:
    """The address of an attempt's transcript; empty on a private board."""
    return "" if board.private else f"/attempts/{attempt_id(task.hash, arm.arm, sample, board.seed)}"


def _places(entry: Any) -> sa.Select[Any]:
    """Where an entry stands: by what, and from which rank to which."""
    query = sa.select(rankings.c.by, rankings.c.low, rankings.c.high)
    return query.where(rankings.c.board == entry.board, rankings.c.entry == entry.id).order_by(rankings.c.by.desc())


def _code(arm: ArmRow, task: int) -> str:
    codes: str | None = arm.figures["verdicts_by_task"]
    return codes[task] if codes else NO_VERDICT


def _map_row(board: Board, arms: Sequence[ArmRow], i: int) -> dict[str, Any]:
    task = board.tasks[i]
    cells = []
    for arm in arms:
        mark, word, kind = VERDICT_MARKS[_code(arm, i)] if not arm.bare else ("", "", "bare")
        told = f"{int(arm.c[i])}/{int(arm.n[i])}" if arm.n[i] else "none"
        link = attempt_address(board, arm, task) if arm.n[i] else ""
        cells.append({"mark": mark, "word": word, "kind": kind, "told": told, "link": link})
    return {"number": i + 1, "excerpt": excerpt(board, i), "link": task_address(board, i), "cells": cells}
