"""Who did what, and when: written in the same transaction as what it tells of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from testbed.board.database import BoardDatabase
from testbed.board.schema import audit
from testbed.store.schema import pack, unpack


class Note(NamedTuple):
    """A line of the audit log.

    Attributes:
        n: its number.
        at: when, ISO 8601 in UTC.
        account: who; "" for the server itself.
        action: what was done, such as "token.create".
        subject: to what, such as a token's id.
        detail: more of it, never a secret.
    """

    n: int
    at: str
    account: str
    action: str
    subject: str
    detail: Mapping[str, Any]


def now() -> str:
    """The time, as the board's tables hold it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def note(connection: sa.Connection, account: str, action: str, subject: str, /, **detail: Any) -> None:
    """Records what the transaction of `connection` does.

    Args:
        connection: of `BoardDatabase.writing`.
        account: who; "" for the server itself.
        action: what is done, such as "token.create".
        subject: to what.
        detail: more of it: JSON values, never a secret.
    """
    row = {"at": now(), "account": account, "action": action, "subject": subject, "detail": pack(detail)}
    connection.execute(audit.insert().values(**row))


def read(
    db: BoardDatabase, *, account: str | None = None, action: str = "", subject: str = "", limit: int = 100
) -> list[Note]:
    """The newest notes, newest first.

    Args:
        db: the board's database.
        account: only of this account; "" for the server's own.
        action: only of this action.
        subject: only of this subject.
        limit: how many, at most.
    """
    query = sa.select(audit).order_by(audit.c.n.desc()).limit(limit)
    if account is not None:
        query = query.where(audit.c.account == account)
    if action:
        query = query.where(audit.c.action == action)
    if subject:
        query = query.where(audit.c.subject == subject)
    with db.reading() as connection:
        rows = connection.execute(query).all()
    return [Note(row.n, row.at, row.account, row.action, row.subject, unpack(row.detail)) for row in rows]
