"""How many entries an account may have, so that one cannot fill the board's queue, or its ranking."""

from __future__ import annotations

import sqlalchemy as sa

from testbed.board.database import BoardDatabase
from testbed.board.refusals import NotAllowed, TooMany
from testbed.board.results import SHOWN_STATES
from testbed.board.schema import entries, uploads
from testbed.board.settings import Settings

RETRY_AFTER = 60.0  # seconds in which one of those that wait may have been checked
_WAITING = "waiting"


def refuse_upload(db: BoardDatabase, settings: Settings, account: str, board: str, content: str) -> None:
    """Refuses an upload that would make one entry too many; one that was begun may always be gone on with.

    Args:
        db: the board's database.
        settings: its limits.
        account: who sends.
        board: slug.
        content: SHA-256 of the bundle.

    Raises:
        NotAllowed: the account has as many entries as one may have.
        TooMany: so many of them wait to be checked.
    """
    begun = sa.select(uploads.c.id).where(
        uploads.c.account == account, uploads.c.board == board, uploads.c.content == content
    )
    with db.reading() as connection:
        if connection.execute(begun).first() is None:
            _refuse(connection, settings, account)


def refuse_entry(db: BoardDatabase, settings: Settings, account: str) -> None:
    """Refuses an entry whose attempts would be made here, likewise."""
    with db.reading() as connection:
        _refuse(connection, settings, account)


def _refuse(connection: sa.Connection, settings: Settings, account: str) -> None:
    query = sa.select(entries.c.state, sa.func.count()).where(entries.c.account == account).group_by(entries.c.state)
    counts = {state: count for state, count in connection.execute(query)}
    waiting = counts.get(_WAITING, 0)
    kept = waiting + sum(counts.get(state, 0) for state in SHOWN_STATES)
    if kept >= settings.entries:
        raise NotAllowed(
            f"you have {kept} entries here, the most that an account may have; ask whoever runs the server for more."
        )
    if waiting >= settings.waiting:
        raise TooMany(
            f"{waiting} of your entries wait to be checked, the most that an account may have; send more afterwards.",
            retry_after=RETRY_AFTER,
        )
