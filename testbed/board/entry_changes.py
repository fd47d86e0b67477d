"""What whoever sent an entry may still do with it: give it another title, or withdraw it.

A withdrawn entry stays in the database with its notes in the audit log, and nothing of it is shown any more. It is for
good, and pages tell how many entries each account has withdrawn, and how many it has replaced with nearly the same ones
(`verify.resent`) or begun and not finished: whoever makes the same thing many times and keeps the best one is seen to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from testbed.board.audit import note
from testbed.board.database import BoardDatabase
from testbed.board.refusals import Conflict, NotAllowed, NotFound, NotValid
from testbed.board.schema import ACCEPTED, REPLACED, WITHDRAWN, entries, remote_entries, sessions
from testbed.board.uploads import LONGEST_TITLE, WAITING
from testbed.store.schema import pack, unpack


@dataclass(frozen=True)
class NotShown:
    """How many entries to a board an account has made whose results nobody sees, and knew how they fared.

    Attributes:
        withdrawn: those that were withdrawn.
        replaced: those in whose place nearly the same attempts were sent again.
        unfinished: those whose attempts are made against the server, which were begun and are not closed.
    """

    withdrawn: int = 0
    replaced: int = 0
    unfinished: int = 0

    @property
    def told(self) -> str:
        """For people, after the account's name."""
        parts = [f"withdrew {_entries(self.withdrawn)}"] if self.withdrawn else []
        if self.replaced:
            other = "a nearly equal one" if self.replaced == 1 else "nearly equal ones"
            parts.append(f"replaced {_entries(self.replaced)} with {other}")
        if self.unfinished:
            parts.append(f"has not finished {_entries(self.unfinished)}")
        return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


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
        Conflict: it waits to be checked, was rejected, or was replaced: its verdict is not to be got round.
    """
    with db.writing() as connection:
        row = _own(connection, entry, account)
        if row.state == WITHDRAWN:
            return
        if row.state not in ACCEPTED:
            why = "can be withdrawn once it has been checked" if row.state == WAITING else "has no results"
            raise Conflict(f"entry {entry} is {row.state}: it {why}.")
        connection.execute(entries.update().where(entries.c.id == entry).values(state=WITHDRAWN))
        title = unpack(row.title)
        note(connection, account, "entry.withdraw", entry, board=row.board, of=row.account, was=row.state, title=title)


def not_shown(connection: sa.Connection, board: str) -> dict[str, NotShown]:
    """What of each account a board does not show; without accounts of which it shows all."""
    gone = sa.select(entries.c.account, entries.c.state, sa.func.count()).group_by(entries.c.account, entries.c.state)
    gone = gone.where(entries.c.board == board, entries.c.state.in_((WITHDRAWN, REPLACED)))
    begun = sa.select(sessions.c.id).where(sessions.c.entry == remote_entries.c.id).exists()
    going_on = sa.select(remote_entries.c.account, sa.literal("unfinished"), sa.func.count())
    going_on = going_on.where(remote_entries.c.board == board, remote_entries.c.state == "open", begun)
    found: dict[str, dict[str, int]] = {}
    for query in (gone, going_on.group_by(remote_entries.c.account)):
        for account, kind, count in connection.execute(query):
            found.setdefault(account, {})[kind] = int(count)
    return {account: NotShown(**counts) for account, counts in found.items()}


def _entries(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def _own(connection: sa.Connection, entry: str, account: str) -> Any:
    row = connection.execute(sa.select(entries).where(entries.c.id == entry)).first()
    if row is None:
        raise NotFound(f"there is no entry {entry!r:.80}.")
    if account and row.account != account:
        raise NotAllowed(f"entry {entry} is another account's.")
    return row
