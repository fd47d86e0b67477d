"""The same attempts sent twice by one account: the newer entry takes the place of the older, or adds nothing to it.

What a file's bytes are changes with its compression, the order of its keys, its labels, its seconds and its USD; an
entry is what its models wrote and its tools returned. Else anybody could fill a ranking with one run. So whoever sends
a run again, completed, with one more arm, or to a server that can by now check more of it, has one entry all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from testbed.board import uploads
from testbed.board.audit import note
from testbed.board.database import BoardDatabase
from testbed.board.schema import ACCEPTED, REPLACED, WITHDRAWN, entries, entry_prints, entry_run
from testbed.board.verify.models import OF_THE_MACHINE
from testbed.board.verify.prints import same_attempts
from testbed.store.runs import RunTables
from testbed.store.schema import pack
from testbed.types import canonical


@dataclass(frozen=True)
class Sent:
    """An arm of an entry.

    Attributes:
        prints: of its attempts, see `verify.prints.Prints`.
        what: the model, the tools and their control; see `what_it_is`.
    """

    prints: bytes
    what: str


def what_it_is(spec: Mapping[str, Any]) -> str:
    """What an arm of a board is, of its description: the rest is the board's, or changes nothing that is written.

    Were it left out, two models that answer tersely, and are always right, would be one.
    """
    model = {key: value for key, value in spec["model"].items() if key not in OF_THE_MACHINE}
    schemas = [tool["schema"] for tool in spec["tools"]]
    return canonical({"model": model, "tools": schemas, "control": str(spec.get("control", ""))})


def replaced(db: BoardDatabase, connection: sa.Connection, board: str, account: str, arms: Sequence[Sent]) -> list[str]:
    """Ids of an account's accepted entries of which every arm is among these, oldest first.

    Args:
        db: the board's database.
        connection: to it.
        board: slug.
        account: whose entry it is.
        arms: of the new entry.
    """
    own = _own(connection, board, account)
    return [id_ for id_, prints in own if _possible(prints, arms) and _among(_arms(db, connection, id_, prints), arms)]


def holding(db: BoardDatabase, connection: sa.Connection, board: str, account: str, arms: Sequence[Sent]) -> str:
    """Id of an account's oldest accepted entry that has all of these arms and more; "" without one. As `replaced`."""
    for id_, prints in _own(connection, board, account):
        if len(prints) > len(arms) and _among(arms, _arms(db, connection, id_, prints)):
            return id_
    return ""


def withdrawn(db: BoardDatabase, connection: sa.Connection, board: str, account: str, arms: Sequence[Sent]) -> str:
    """Id of an account's oldest withdrawn entry that has all of these arms; "" without one. As `replaced`."""
    own = _own(connection, board, account, (WITHDRAWN,))
    return next((id_ for id_, prints in own if _among(arms, _arms(db, connection, id_, prints))), "")


def alike(connection: sa.Connection, board: str, account: str, prints: bytes) -> str:
    """Id of an account's oldest accepted entry with an arm of the same attempts, whatever it is; "" without one."""
    own = _own(connection, board, account)
    return next((id_ for id_, known in own if any(same_attempts(prints, one) for one in known)), "")


def why_replaced(new: str) -> list[dict[str, str]]:
    """The reasons of an entry whose place another one, given by its id, took."""
    said = f"its author sent the same attempts again, or nearly, and entry {new} took its place."
    return [{"check": "copies", "level": "note", "text": said, "entry": new}]


def replace(connection: sa.Connection, old: str, new: str, account: str) -> None:
    """Takes an entry off the board in favour of another one, and is counted in public: see `entry_changes`."""
    values = {"state": REPLACED, "reasons": pack(why_replaced(new))}
    connection.execute(entries.update().where(entries.c.id == old).values(**values))
    uploads.decided(connection, old, REPLACED)
    note(connection, account, "entry.replaced", old, by=new)


def _own(
    connection: sa.Connection, board: str, account: str, states: Collection[str] = ACCEPTED
) -> Iterator[tuple[str, list[bytes]]]:
    query = sa.select(entries.c.id, entry_prints.c.data)
    query = query.join_from(entries, entry_prints, entry_prints.c.entry == entries.c.id)
    query = query.where(entries.c.board == board, entries.c.account == account, entries.c.state.in_(states))
    listed: dict[str, list[bytes]] = {}
    for row in connection.execute(query.order_by(entries.c.created, entries.c.id, entry_prints.c.position)):
        listed.setdefault(row.id, []).append(row.data)
    yield from listed.items()


def _arms(db: BoardDatabase, connection: sa.Connection, entry: str, prints: Sequence[bytes]) -> list[Sent]:
    stored = RunTables(db.database).read(connection, entry_run(entry)).arms
    return [Sent(data, what_it_is(arm.spec)) for data, arm in zip(prints, stored, strict=True)]


def _possible(old: Sequence[bytes], new: Sequence[Sent]) -> bool:
    """Whether every arm's attempts are there: most entries are others, and need not be read."""
    return all(any(same_attempts(sent.prints, data) for sent in new) for data in old)


def _among(old: Sequence[Sent], new: Sequence[Sent]) -> bool:
    return all(any(o.what == n.what and same_attempts(n.prints, o.prints) for n in new) for o in old)
