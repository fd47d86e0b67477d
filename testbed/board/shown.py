"""What a board has found, as plain records: what the exports write, and nothing that the pages would not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from testbed.board import boards, entry_changes
from testbed.board.arm_rows import FoundArm, found_arm
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.entry_changes import NotShown
from testbed.board.refusals import NotFound
from testbed.board.results import BY_TASK, unpacked
from testbed.board.schema import ACCEPTED, board_summaries, entries, entry_arms, rankings
from testbed.store.schema import unpack
from testbed.types import well_formed

RESULTS = "results"  # key of the summary that holds them


@dataclass(frozen=True, eq=False)
class ArmResult(FoundArm):
    """What the board found of one arm of an entry, where it ranks, and how.

    Attributes:
        creation: the part of its gain that re-sampling does not reach; None where it is not known.
        ranks: by what is ranked ("reach", "gain"): the best and the worst rank that the data allow.
    """

    creation: float | None
    ranks: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class EntryResult:
    """What the board found of an entry.

    Attributes:
        id: the entry's.
        board: slug of its board.
        title: as its author calls it.
        account: who brought it.
        kind: "submitted" or "remote".
        state: "verified" or "partly".
        reasons: what was checked, and what could not be.
        created: when it came, ISO 8601.
        decided: when it was checked.
        arms: what was found of each arm.
    """

    id: str
    board: str
    title: str
    account: str
    kind: str
    state: str
    reasons: tuple[Mapping[str, str], ...]
    created: str
    decided: str
    arms: tuple[ArmResult, ...]


def board_results(db: BoardDatabase, slug: str) -> tuple[Board, list[EntryResult]]:
    """A board and what it found, oldest entry first; entries that were rejected or still wait have no results.

    It is read as `collected` had it when the board was last ranked.

    Raises:
        NotFound: there is no such board.
    """
    board = boards.get(db, slug)
    with db.reading() as connection:
        listed = sa.select(entries.c.id, entries.c.title).where(entries.c.board == slug)
        still = connection.execute(listed.where(entries.c.state.in_(ACCEPTED)))
        titles = {row.id: well_formed(unpack(row.title)) for row in still}  # which may have been changed since
        query = sa.select(board_summaries.c.data)
        data = connection.scalar(query.where(board_summaries.c.board == slug, board_summaries.c.key == RESULTS))
    found = [] if data is None else unpacked(data)
    return board, [_result({**one, "title": titles[one["id"]]}) for one in found if one["id"] in titles]


def not_shown(db: BoardDatabase, slug: str) -> dict[str, NotShown]:
    """What of each account a board does not show, as its pages tell it."""
    with db.reading() as connection:
        return entry_changes.not_shown(connection, slug)


def collected(db: BoardDatabase, slug: str) -> list[dict[str, Any]]:
    """What a board found, without what each arm's figures hold for single tasks: they are most of it.

    Anybody may ask for it at any time, so that it is put together once for every ranking.
    """
    with db.reading() as connection:
        return [
            vars(entry) | {"arms": [vars(arm) | {"figures": _of_all_tasks(arm.figures)} for arm in entry.arms]}
            for entry in _results(connection, entries.c.board == slug)
        ]


def _of_all_tasks(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in BY_TASK}


def _result(found: Mapping[str, Any]) -> EntryResult:
    """An entry of `collected`."""
    arms = tuple(ArmResult(**{**arm, "tools": tuple(arm["tools"])}) for arm in found["arms"])
    return EntryResult(**{**found, "arms": arms, "reasons": tuple(found["reasons"])})


def entry_results(db: BoardDatabase, entry: str) -> tuple[Board, EntryResult]:
    """An entry's board and what was found of the entry.

    Raises:
        NotFound: there is no such entry, or it has no results.
    """
    with db.reading() as connection:
        found = next(_results(connection, entries.c.id == entry), None)
    if found is None:
        raise NotFound(f"no entry with results has the id {entry!r:.60}.")
    return boards.get(db, found.board), found


def _results(connection: sa.Connection, which: sa.ColumnElement[bool]) -> Iterator[EntryResult]:
    shown = sa.select(entries).where(which, entries.c.state.in_(ACCEPTED))
    ids = sa.select(entries.c.id).where(which, entries.c.state.in_(ACCEPTED))
    ranks: dict[tuple[str, int], dict[str, tuple[int, int]]] = {}
    for row in connection.execute(sa.select(rankings).where(rankings.c.entry.in_(ids))):
        ranks.setdefault((row.entry, row.position), {})[row.by] = (row.low, row.high)
    arms: dict[str, list[ArmResult]] = {}
    listed = sa.select(*(column for column in entry_arms.c if column.name not in ("n", "c")))
    for row in connection.execute(listed.where(entry_arms.c.entry.in_(ids)).order_by(entry_arms.c.position)):
        arms.setdefault(row.entry, []).append(_arm(row, ranks.get((row.entry, row.position), {})))
    for row in connection.execute(shown.order_by(entries.c.created, entries.c.id)):
        yield EntryResult(
            id=row.id,
            board=row.board,
            title=well_formed(unpack(row.title)),
            account=row.account,
            kind=row.kind,
            state=row.state,
            reasons=tuple(unpack(row.reasons)),
            created=row.created,
            decided=row.decided or "",
            arms=tuple(arms.get(row.id, ())),
        )


def _arm(row: Any, ranks: Mapping[str, tuple[int, int]]) -> ArmResult:
    found = found_arm(row)
    texts = {name: well_formed(found[name]) for name in ("name", "model")}
    return ArmResult(**{**found, **texts}, creation=row.creation, ranks=ranks)
