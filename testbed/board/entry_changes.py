"""What whoever sent an entry may still do with it: give it another title, or withdraw it.

A withdrawn entry stays in the database with its notes in the audit log, and nothing of it is shown any more. It is for
good, and pages tell how many entries each account has withdrawn: whoever sends the same thing many times and keeps the
best one is seen to.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from testbed.board.audit import note
from testbed.board.database import BoardDatabase
from testbed.board.refusals import Conflict, NotAllowed, NotFound, NotValid
from testbed.board.results import SHOWN_STATES
from testbed.board.schema import entries
from testbed.board.uploads import LONGEST_TITLE
from testbed.store.schema import pack, unpack

WITHDRAWN = "withdrawn"  # an entry's state


def retitle(db: BoardDatabase, entry: str, title: str, account: str = "") -> None:
    """Gives an entry another title; the same one again changes nothing.

    Args:
        db: the board's database.
        entry: its id.
        title: one line of text.
        account: whose it has to be; "" for whoever runs the server.

    Raises:
        NotFound: there is no such entry.
        NotAllowed: it is another account's.
        NotValid: the title is empty or no line of text.
        Conflict: the entry was withdrawn.
    """
    title = title.strip()
    if not title or not title.isprintable() or len(title) > LONGEST_TITLE:
        raise NotValid(f"a title is one line of 1 to {LONGEST_TITLE} characters.")
    with db.writing() as connection:
        row = _own(connection, entry, account)
        if row.state == WITHDRAWN:
            raise Conflict(f"entry {entry} was withdrawn.")
        before = unpack(row.title)
        if before != title:
            connection.execute(entries.update().where(entries.c.id == entry).values(title=pack(title)))
            note(connection, account, "entry.retitle", entry, board=row.board, before=before, title=title)


def withdraw(db: BoardDatabase, entry: str, account: str = "") -> None:
    """Withdraws an accepted entry for good; of one that was withdrawn it does nothing.

    Args:
        db: the board's database.
        entry: its id.
        account: whose it has to be; "" for whoever runs the server.

    Raises:
        NotFound: there is no such entry.
        NotAllowed: it is another account's.
        Conflict: it waits to be checked, or was rejected: its verdict is not to be got round.
    """
    with db.writing() as connection:
        row = _own(connection, entry, account)
        if row.state == WITHDRAWN:
            return
        if row.state not in SHOWN_STATES:
            why = "has no results" if row.state == "rejected" else "can be withdrawn once it has been checked"
            raise Conflict(f"entry {entry} is {row.state}: it {why}.")
        connection.execute(entries.update().where(entries.c.id == entry).values(state=WITHDRAWN))
        title = unpack(row.title)
        note(connection, account, "entry.withdraw", entry, board=row.board, of=row.account, was=row.state, title=title)


def withdrawn(connection: sa.Connection, board: str) -> dict[str, int]:
    """How many entries to a board each account has withdrawn; without those that withdrew none."""
    query = sa.select(entries.c.account, sa.func.count()).group_by(entries.c.account)
    rows = connection.execute(query.where(entries.c.board == board, entries.c.state == WITHDRAWN))
    return {account: int(count) for account, count in rows}


def _own(connection: sa.Connection, entry: str, account: str) -> Any:
    row = connection.execute(sa.select(entries).where(entries.c.id == entry)).first()
    if row is None:
        raise NotFound(f"there is no entry {entry!r:.80}.")
    if account and row.account != account:
        raise NotAllowed(f"entry {entry} is another account's.")
    return row
