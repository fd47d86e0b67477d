"""What the pages read of the database: rows that were computed before, and never an entry that is not accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from testbed.board import boards
from testbed.board.arm_rows import ArmRow, arm_row, competing
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.ranking import NO_TOOLS
from testbed.board.refusals import NotFound
from testbed.board.results import unpacked
from testbed.board.schema import ACCEPTED, board_summaries, entries, entry_arms, entry_reports, rankings
from testbed.store.schema import pack, unpack

_ID = re.compile("[0-9a-f]{32}")
# Columns of an arm that a list needs; its counts by task stay in the database.
_LISTED = ("position", "arm", "name", "model", "tools", "control", "bare", "reach", "gain", "tokens", "usd", "figures")


@dataclass(frozen=True)
class Filters:
    """Which places of a ranking are shown.

    Attributes:
        by: "reach" or "gain".
        model: only arms of this model; empty for all.
        tools: only arms with these tools, joined by "+", or "none"; empty for all.
        tokens: generated tokens of an attempt at most; None for any.
        usd: USD of an attempt at most; None for any.
        state: "verified" for entries of which everything was checked; empty for all.
    """

    by: str = "reach"
    model: str = ""
    tools: str = ""
    tokens: float | None = None
    usd: float | None = None
    state: str = ""

    @property
    def narrow(self) -> bool:
        """Whether they leave anything out."""
        return any((self.model, self.tools, self.tokens is not None, self.usd is not None, self.state))


def well_formed_id(id_: str, kind: str) -> str:
    """An id from an address.

    Raises:
        NotFound: it is none.
    """
    if not _ID.fullmatch(id_):
        raise NotFound(f"no {kind} has the id {id_!r:.60}.")
    return id_


def entry_counts(connection: sa.Connection) -> dict[str, int]:
    """Accepted entries by board."""
    query = sa.select(entries.c.board, sa.func.count()).where(entries.c.state.in_(ACCEPTED)).group_by(entries.c.board)
    return {board: count for board, count in connection.execute(query)}


def summary(connection: sa.Connection, board: str, key: str) -> Any:
    """One of a board's summaries over all its entries; None as long as it has none."""
    query = sa.select(board_summaries.c.data).where(board_summaries.c.board == board, board_summaries.c.key == key)
    data = connection.scalar(query)
    return None if data is None else unpacked(data)


def ranked(
    connection: sa.Connection, board: str, filters: Filters, start: int, rows: int
) -> tuple[int, list[dict[str, Any]]]:
    """How many places of a ranking there are under the filters, and some of them in order.

    Args:
        connection: to read with.
        board: the board's slug.
        filters: which places.
        start: number of the first, from 0.
        rows: how many at most.
    """
    table = rankings.join(entries, entries.c.id == rankings.c.entry).join(
        entry_arms, sa.and_(entry_arms.c.entry == rankings.c.entry, entry_arms.c.position == rankings.c.position)
    )
    where = [
        rankings.c.board == board,
        rankings.c.by == filters.by,
        entries.c.state.in_([filters.state] if filters.state else ACCEPTED),
    ]
    if filters.model:
        where.append(entry_arms.c.model == pack(filters.model))
    if filters.tools:
        where.append(entry_arms.c.tools == pack(filters.tools.split("+") if filters.tools != NO_TOOLS else []))
    for limit, column in ((filters.tokens, entry_arms.c.tokens), (filters.usd, entry_arms.c.usd)):
        if limit is not None:
            where.append(column <= limit)
    total = connection.scalar(sa.select(sa.func.count()).select_from(table).where(*where)) or 0
    columns = [rankings.c.entry, rankings.c.low, rankings.c.high, rankings.c.value]
    columns += [entries.c.title, entries.c.account, entries.c.state, entries.c.kind, entries.c.created]
    columns += [entry_arms.c[name] for name in _LISTED]
    # By the middle of the range: whoever stands first "at best" for want of data stands not above whoever is shown to.
    order = (rankings.c.low + rankings.c.high, rankings.c.value.desc(), rankings.c.entry)
    query = sa.select(*columns).select_from(table).where(*where).order_by(*order).limit(rows).offset(start)
    return total, [listed_arm(row) for row in connection.execute(query)]


def listed_arm(row: Any) -> dict[str, Any]:
    """A row with an arm's columns as a list shows it."""
    found = dict(row._mapping)
    for column in ("name", "model", "tools", "title"):
        if column in found:
            found[column] = unpack(found[column])
    if "title" in found:
        found["title"] = title_of(found["entry"], found["title"])
    found["figures"] = json.loads(found["figures"])
    return found


def title_of(entry: str, title: str) -> str:
    """What an entry is called: its title, or its id where its author gave none, so that every link has a text."""
    return title if title.strip() else f"entry {entry[:8]}"


def entry_of(connection: sa.Connection, id_: str) -> Any:
    """An entry's row, whatever its state.

    Raises:
        NotFound: there is none.
    """
    row = connection.execute(sa.select(entries).where(entries.c.id == well_formed_id(id_, "entry"))).first()
    if row is None:
        raise NotFound(f"no entry has the id {id_!r}.")
    return row


def arms_of(connection: sa.Connection, entry: str) -> list[ArmRow]:
    """An accepted entry's arms; none of another."""
    query = sa.select(entry_arms).join(entries, entries.c.id == entry_arms.c.entry)
    query = query.where(entry_arms.c.entry == entry, entries.c.state.in_(ACCEPTED))
    return [arm_row(row) for row in connection.execute(query.order_by(entry_arms.c.position))]


def charts_of(connection: sa.Connection, entry: str) -> list[dict[str, Any]]:
    """An accepted entry's charts."""
    query = sa.select(entry_reports.c.charts).join(entries, entries.c.id == entry_reports.c.entry)
    data = connection.scalar(query.where(entry_reports.c.entry == entry, entries.c.state.in_(ACCEPTED)))
    return [] if data is None else list(unpacked(data))


def warnings_of(connection: sa.Connection, entry: str) -> list[str]:
    """What a reader must know before believing an entry's figures."""
    data = connection.scalar(sa.select(entry_reports.c.data).where(entry_reports.c.entry == entry))
    return [] if data is None else list(unpacked(data).get("warnings", ()))


@dataclass(frozen=True)
class ShownArm:
    """An arm of an accepted entry, as a transcript's page needs it."""

    board: Board
    entry: Any
    arm: ArmRow


def shown_arm(db: BoardDatabase, connection: sa.Connection, arm: str) -> ShownArm | None:
    """The accepted entry that an arm of the store belongs to; None of one that belongs to none."""
    query = sa.select(entry_arms).join(entries, entries.c.id == entry_arms.c.entry)
    row = connection.execute(query.where(entry_arms.c.arm == arm, entries.c.state.in_(ACCEPTED))).first()
    if row is None:
        return None
    entry = entry_of(connection, row.entry)
    return ShownArm(boards.get(db, entry.board), entry, arm_row(row))


@dataclass(frozen=True)
class AtTask:
    """An arm at one task, as a list shows it: which arm, its scored attempts and successes, and whether it competes."""

    entry: str
    position: int
    n: int
    c: int
    competes: bool

    @property
    def share(self) -> float:
        """Share of its attempts that succeeded; −1 where none was scored."""
        return self.c / self.n if self.n else -1.0


def arms_at_task(connection: sa.Connection, board: str, position: int) -> list[AtTask]:
    """Every arm of a board's accepted entries at its task number `position` (from 0), best first."""
    counts = (sa.func.substr(entry_arms.c[name], 4 * position + 1, 4, type_=sa.LargeBinary) for name in "nc")
    query = sa.select(entry_arms.c.entry, entry_arms.c.position, entry_arms.c.control, entry_arms.c.reach, *counts)
    query = query.join(entries, entries.c.id == entry_arms.c.entry)
    query = query.where(entries.c.board == board, entries.c.state.in_(ACCEPTED))
    found = [
        AtTask(entry, place, int.from_bytes(n, "little"), int.from_bytes(c, "little"), competing(control, reach))
        for entry, place, control, reach, n, c in connection.execute(query)
    ]
    return sorted(found, key=lambda row: (-row.share, -row.n, row.entry, row.position))


def arms_by_key(connection: sa.Connection, keys: Sequence[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Some arms by entry and position, with their entries' titles."""
    columns = [entry_arms.c.entry, entries.c.title, entries.c.state, *(entry_arms.c[name] for name in _LISTED)]
    query = sa.select(*columns).join(entries, entries.c.id == entry_arms.c.entry)
    wanted = set(keys)
    query = query.where(entry_arms.c.entry.in_({entry for entry, _ in wanted}), entries.c.state.in_(ACCEPTED))
    found = {(row.entry, row.position): row for row in connection.execute(query)}
    return {key: listed_arm(found[key]) for key in wanted if key in found}
