"""How many entries an account may have, so that one cannot fill the board's queue, or its ranking.

What was begun counts as if it were there, since many uploads can be begun at once and be completed together.
All of it is asked within the transaction that adds to it.
"""

from __future__ import annotations

import sqlalchemy as sa

from testbed.board.refusals import NotAllowed, TooMany
from testbed.board.schema import ACCEPTED, entries, remote_entries, uploads
from testbed.board.settings import Settings

RETRY_AFTER = 60.0  # seconds in which one of those that wait may have been checked
OPEN, WAITING = "open", "waiting"  # states of an upload or a remote entry that goes on, and of an entry


def room_to_begin(connection: sa.Connection, settings: Settings, account: str) -> None:
    """Refuses to begin what would make one entry too many.

    Args:
        connection: of `BoardDatabase.writing`.
        settings: the board's limits.
        account: who sends.

    Raises:
        NotAllowed: the account has as many entries as one may have, with those that are under way.
        TooMany: so many of them wait to be checked, or are being sent.
    """
    sent, made = _under_way(connection, uploads, account), _under_way(connection, remote_entries, account)
    _refuse(connection, settings, account, sent, made)


def room_for_entry(connection: sa.Connection, settings: Settings, account: str) -> None:
    """Refuses an upload that is complete where it would make one entry too many; as `room_to_begin`.

    What else is under way was let in under the same limits, and may never be completed: it does not count here.
    """
    _refuse(connection, settings, account, 0, 0)


def _refuse(connection: sa.Connection, settings: Settings, account: str, sent: int, made: int) -> None:
    query = sa.select(entries.c.state, sa.func.count()).where(entries.c.account == account).group_by(entries.c.state)
    counts = {state: count for state, count in connection.execute(query)}
    waiting = counts.get(WAITING, 0)
    kept = waiting + sum(counts.get(state, 0) for state in ACCEPTED)
    begun = f", and {sent + made} under way" if sent + made else ""
    if kept + sent + made >= settings.entries:
        raise NotAllowed(
            f"you have {kept} entries here{begun}: {settings.entries} are the most that an account may have; ask "
            "whoever runs the server for more."
        )
    if waiting + sent >= settings.waiting:
        sending = f", and {sent} are being sent" if sent else ""
        raise TooMany(
            f"{waiting} of your entries wait to be checked{sending}: {settings.waiting} are the most that an account "
            "may have; send more afterwards.",
            retry_after=RETRY_AFTER,
        )


def _under_way(connection: sa.Connection, table: sa.Table, account: str) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(table.c.account == account, table.c.state == OPEN)
    return connection.scalar(query) or 0
