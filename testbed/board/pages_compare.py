"""Any two arms of one board's entries, paired over its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from testbed.board import boards
from testbed.board.arm_rows import ArmRow, FloatArray, IntArray
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.pages_entry import attempt_address, excerpt, head, task_address
from testbed.board.reading import Filters, arms_of, entry_of, ranked
from testbed.board.refusals import NotFound, Refused
from testbed.board.views import Pages, page
from testbed.report.plain import plain
from testbed.stats import Estimate, cluster_bootstrap

router = APIRouter(include_in_schema=False)
OFFERED = 50  # best places of the ranking that the form offers
SHARED = 40  # characters that stand for an arm in a choice


@dataclass(frozen=True)
class Side:
    """One side of a comparison: an arm and its entry."""

    entry: dict[str, Any]
    arm: ArmRow
    board: str

    @property
    def key(self) -> str:
        """How addresses name it."""
        return f"{self.entry['id']}:{self.arm.position}"


@router.get("/compare")
def compare_page(
    request: Request,
    left: Annotated[str, Query(max_length=60)] = "",
    right: Annotated[str, Query(max_length=60)] = "",
    arm: Annotated[list[str] | None, Query(max_length=20)] = None,
    page_number: Annotated[int, Query(alias="page", ge=1, le=1_000_000)] = 1,
) -> Response:
    """Two arms, paired over the board's tasks; `arm` twice, as the ranking's boxes send it, means the same."""
    db: BoardDatabase = request.app.state.db
    chosen = [key for key in (left, right, *(arm or ())) if key]
    if len(chosen) != 2:
        raise Refused(f"a comparison is of two arms, and {len(chosen)} were chosen. Tick two boxes in a ranking.")
    with db.reading() as connection:
        sides = [_side(connection, key) for key in chosen]
        if sides[0].board != sides[1].board:
            raise Refused(
                f"the arms are of two boards, {sides[0].board!r} and {sides[1].board!r}: they tried other tasks "
                "under other limits, so that nothing can be paired."
            )
        _, offered = ranked(connection, sides[0].board, Filters(), 0, OFFERED)
    board = boards.get(db, sides[0].board)
    pages = Pages(page_number, len(board.tasks), 100)
    return page(
        request,
        "compare.html.j2",
        board=board,
        sides=sides,
        priced=any(side.arm.usd for side in sides),
        differs=differs(sides[0].arm, sides[1].arm),
        found=compared(board, sides[0].arm, sides[1].arm),
        choices=_choices(sides, offered),
        rows=_rows(board, sides, pages),
        pages=pages,
    )


def differs(left: ArmRow, right: ArmRow) -> list[str]:
    """What two arms have otherwise than one another: "temperature 1 → 0.5"."""
    ours, theirs = _kept(left), _kept(right)
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return [
        f"{name.replace('_', ' ')} {ours.get(name, 'not known')} → {theirs.get(name, 'not known')}" for name in names
    ]


def _kept(arm: ArmRow) -> dict[str, str]:
    decoding = arm.figures.get("decoding") or {}
    own = {"model": arm.model, "tools": ", ".join(arm.tools) or "none", "control": arm.control if arm.tools else "live"}
    return own | {name: f"{value:g}" for name, value in decoding.items()}


def compared(board: Board, left: ArmRow, right: ArmRow) -> dict[str, Any]:
    """The difference of two arms' reach at the operating spend, paired over the tasks that are known of both."""
    k = board.measure.operating
    (before, there), (after, also) = left.reach_scored(k), right.reach_scored(k)
    known = np.flatnonzero(there & also)
    difference = _mean(board, after - before, known)
    if_missing = _if_missing(left, right, k)
    return {
        "difference": plain(difference),
        "tasks": int(known.size),
        "left_out": len(board.tasks) - int(known.size),
        "better": int((after > before)[known].sum()),
        "worse": int((after < before)[known].sum()),
        "same": int((after == before)[known].sum()),
        "if_missing": if_missing,
        "told": _told(difference, _sure(board, left, right, k) if if_missing else difference),
    }


def _mean(board: Board, difference: FloatArray, tasks: IntArray) -> Estimate:
    """A difference by task, as a mean over some of them with its limits."""
    measure = board.measure
    if not tasks.size:
        return Estimate(None, None, None)
    return cluster_bootstrap(
        difference[tasks],
        least=-1,
        greatest=1,
        clusters=[board.tasks[i].cluster or board.tasks[i].hash for i in tasks.tolist()],
    ).intervals(measure.alpha)[0]


def _if_missing(left: ArmRow, right: ArmRow, k: int) -> dict[str, float] | None:
    """Least and greatest mean difference over the ways in which missing attempts could have ended; None without any."""
    (before, before_most), (after, after_most) = left.reach_limits(k), right.reach_limits(k)
    low, high = float((after - before_most).mean()), float((after_most - before).mean())
    return {"low": low, "high": high} if low < high else None


def _sure(board: Board, left: ArmRow, right: ArmRow, k: int) -> Estimate:
    """Limits of the difference over all tasks that hold however the missing attempts had ended, as the ranks' do."""
    (before, before_most), (after, after_most) = left.reach_limits(k), right.reach_limits(k)
    every = np.arange(len(board.tasks))
    least, most = _mean(board, after - before_most, every), _mean(board, after_most - before, every)
    return Estimate(None, least.low, most.high)


def _told(difference: Estimate, sure: Estimate) -> str:
    """The verdict: `difference` is of what was scored, and `sure` holds whatever is missing."""
    if difference.value is None:
        return "No task is known of both, so that nothing is compared."
    if difference.low is None or difference.high is None:
        return "The tasks are of one cluster, which does not tell how others would differ: no interval."
    for more, less, seen, shown in (
        ("second", "first", difference.low > 0, sure.low is not None and sure.low > 0),
        ("first", "second", difference.high < 0, sure.high is not None and sure.high < 0),
    ):
        if seen and shown:
            return f"The {more} reaches more than the {less}, as far as these tasks tell."
        if seen:
            return (
                f"Not told apart: the {more} reaches more where enough was scored, and missing attempts could undo it."
            )
    return "The data do not tell the two apart."


def _side(connection: sa.Connection, key: str) -> Side:
    id_, _, position = key.partition(":")
    entry = entry_of(connection, id_)
    arm = next((arm for arm in arms_of(connection, id_) if str(arm.position) == position), None)
    if arm is None:
        raise NotFound(f"the entry has no arm {key!r:.60} whose figures are shown.")
    return Side(head(entry), arm, entry.board)


def _choices(sides: list[Side], offered: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Arms that the form offers: both sides' and the best of the ranking."""
    both = {side.key: f"{side.entry['title'][:SHARED]}: {side.arm.name[:SHARED]}" for side in sides}
    best = {f"{row['entry']}:{row['position']}": f"{row['title'][:SHARED]}: {row['name'][:SHARED]}" for row in offered}
    return list((both | best).items())


def _rows(board: Board, sides: list[Side], pages: Pages) -> list[dict[str, Any]]:
    return [_row(board, sides, i) for i in range(pages.start, pages.end)]


def _row(board: Board, sides: list[Side], i: int) -> dict[str, Any]:
    """One task: both arms' successes, how far these are apart, and where to read both attempts."""
    counts = [(int(side.arm.c[i]), int(side.arm.n[i])) for side in sides]
    links = [
        attempt_address(board, side.arm, board.tasks[i]) if n else ""
        for side, (_, n) in zip(sides, counts, strict=True)
    ]
    (c, n), (other_c, other_n) = counts
    return {
        "number": i + 1,
        "excerpt": excerpt(board, i),
        "link": task_address(board, i),
        "cells": [(f"{c}/{n}" if n else "none", link) for (c, n), link in zip(counts, links, strict=True)],
        "apart": other_c / other_n - c / n if n and other_n else None,
        "beside": f"{links[0]}?beside={links[1].rsplit('/', 1)[-1]}" if all(links) else "",
    }
