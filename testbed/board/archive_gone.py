"""Entries that were taken off a board, as its archive tells of them: so many were, and whose, and no more.

Without them, whoever withdrew or replaced many entries and kept the best would have done nothing of the kind once the
board stands elsewhere, and could send the same file there again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from testbed.board import uploads
from testbed.board.accounts import check_account
from testbed.board.audit import note
from testbed.board.database import BoardDatabase
from testbed.board.schema import REPLACED, WITHDRAWN, entries
from testbed.board.schema import uploads as upload_table
from testbed.board.verify.resent import why_replaced
from testbed.errors import DataError, UsageError
from testbed.store.schema import pack, unpack

GONE = (WITHDRAWN, REPLACED)
_KEYS = {"id", "account", "title", "state", "kind", "content", "by", "created", "decided"}
_ID, _SHA256, _WHEN = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{64}"), re.compile(r"[0-9T:.+-]{10,40}")


def gone_told(rows: Sequence[Any]) -> list[dict[str, str]]:
    """What an archive says of the rows of entries that were withdrawn or replaced; of others nothing."""
    return [_told(row) for row in rows if row.state in GONE]


def _told(row: Any) -> dict[str, str]:
    reasons = unpack(row.reasons) if row.state == REPLACED else []
    return {
        "id": row.id,
        "account": row.account,
        "title": unpack(row.title) if row.state == REPLACED else "",  # of a withdrawn one nothing more is told
        "state": row.state,
        "kind": row.kind,
        "content": row.content or "",  # of what was made against the server there is no file
        "by": next((reason["entry"] for reason in reasons if reason.get("entry")), ""),
        "created": row.created,
        "decided": row.decided or row.created,
    }


def check_gone(told: Any, path: object) -> list[dict[str, str]]:
    """What an archive's head says of such entries, where it is as `gone_told` has it.

    Raises:
        DataError: it is not.
    """
    if not isinstance(told, list) or not all(isinstance(one, dict) and _is_told(one) for one in told):
        raise DataError(f"{path}: what it says of withdrawn and replaced entries cannot be read: damaged or changed.")
    return told


def _is_told(one: dict[str, Any]) -> bool:
    if one.keys() != _KEYS or not all(isinstance(value, str) for value in one.values()):
        return False
    try:
        uploads.check_title(one["title"])
        check_account(one["account"])
    except UsageError:
        return False
    return bool(
        one["state"] in GONE
        and one["kind"] in ("submitted", "remote")
        and all(_WHEN.fullmatch(one[key]) for key in ("created", "decided"))
        and all(_ID.fullmatch(one[key]) for key in (("id", "by") if one["state"] == REPLACED else ("id",)))
        and (not one["content"] or _SHA256.fullmatch(one["content"]))
    )


def bury(db: BoardDatabase, board: str, told: dict[str, str]) -> None:
    """Counts an entry among those that were taken off a board; what is there already stays as it is.

    Args:
        db: the board's database.
        board: slug.
        told: from `check_gone`.
    """
    account, state, content = told["account"], told["state"], told["content"]
    id_ = uploads.upload_id(board, account, content) if content else told["id"]
    own = {"id": id_, "board": board, "account": account, "created": told["created"]}
    with db.writing() as connection:
        if connection.scalar(sa.select(entries.c.id).where(entries.c.id == id_)) is not None:
            return
        reasons = why_replaced(told["by"]) if state == REPLACED else []
        shown = {"title": pack(told["title"]), "reasons": pack(reasons), "manifest": "{}"}
        connection.execute(
            entries.insert().values(**own, **shown, kind=told["kind"], state=state, decided=told["decided"])
        )
        if content:  # the same file again then finds what became of it
            known = connection.scalar(sa.select(upload_table.c.id).where(upload_table.c.id == id_))
            if known is None:
                connection.execute(
                    upload_table.insert().values(**own, content=content, bytes=0, chunks="[]", state=state)
                )
            uploads.decided(connection, id_, state)
        note(connection, "", "entry.import", id_, board=board, of=account, state=state)
