"""Whether an entry's attempts are those of somebody else's entry, found without reading the other's attempts again.

The same model with the same seed writes the same, so that equal attempts are no fault: they are noted, and readers may
think of it what they will.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from testbed.board.schema import ACCEPTED, entries, entry_prints

KEPT = 256  # prints of an arm: they tell the share of attempts that two arms have in common to about 2 %
MOSTLY = 0.9  # of their attempts in common: below that nothing is said
FEWEST = 16  # attempts that tell anything


class Prints:
    """The least hashes of an arm's attempts, in whatever order these come.

    Of the least of two arms together, as many are in both as of all their attempts (A. Broder, "On the resemblance and
    containment of documents", 1997).
    """

    def __init__(self) -> None:
        self._negated: list[int] = []  # a heap with the greatest of the least at its head

    def add(self, task: str, content: bytes, nth: int) -> None:
        """Adds an attempt.

        Args:
            task: hash of its task.
            content: hash of its transcript.
            nth: how many of the arm's attempts at the task have had this content before.
        """
        text = b"%s %s %d" % (task.encode(), content, nth)
        print_ = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        if len(self._negated) < KEPT:
            heapq.heappush(self._negated, -print_)
        elif -print_ > self._negated[0]:
            heapq.heapreplace(self._negated, -print_)

    @property
    def data(self) -> bytes:
        """As the database holds them."""
        return np.sort(np.array([-one for one in self._negated], dtype=">u8")).tobytes()


@dataclass(frozen=True)
class Twin:
    """An arm of somebody else's entry that has the same attempts.

    Attributes:
        entry: its entry.
        account: whose that is.
        created: when that was sent.
        share: of the attempts of both that are in both.
        others: how many more entries have such an arm.
    """

    entry: str
    account: str
    created: str
    share: float
    others: int


def twins(connection: sa.Connection, board: str, account: str, arms: Mapping[str, bytes]) -> dict[str, Twin]:
    """By arm: the oldest accepted entry of another account with an arm of the same attempts; without those alone.

    Args:
        connection: to the board's database.
        board: slug.
        account: whose entry it is.
        arms: the prints of its arms, by their names.
    """
    query = sa.select(entries.c.id, entries.c.account, entries.c.created, entry_prints.c.data)
    query = query.join_from(entries, entry_prints, entry_prints.c.entry == entries.c.id)
    before = _first_sent(connection, board, account, arms)
    query = query.where(entries.c.board == board, entries.c.state.in_(ACCEPTED), entries.c.account != account)
    own = {name: frozenset(_read(data)) for name, data in arms.items() if len(_read(data)) >= FEWEST}
    found: dict[str, list[Twin]] = {name: [] for name in own}
    for row in connection.execute(query.order_by(entries.c.created, entries.c.id, entry_prints.c.position)):
        theirs = frozenset(_read(row.data))
        for name, mine in own.items():
            if row.created <= before.get(name, row.created) and (share := _in_common(mine, theirs)) >= MOSTLY:
                found[name].append(Twin(row.id, row.account, row.created, share, 0))
    return {name: _first(listed) for name, listed in found.items() if listed}


def same_attempts(mine: bytes, theirs: bytes) -> bool:
    """Whether two arms have most of their attempts in common; where there are few, all of them."""
    if mine == theirs:
        return bool(mine)
    one, other = frozenset(_read(mine)), frozenset(_read(theirs))
    return min(len(one), len(other)) >= FEWEST and _in_common(one, other) >= MOSTLY


def _first_sent(connection: sa.Connection, board: str, account: str, arms: Mapping[str, bytes]) -> dict[str, str]:
    """By arm: when its account first sent these attempts, in an entry that was accepted then.

    Who has them from it copied them later.
    """
    query = sa.select(entries.c.created, entry_prints.c.data)
    query = query.join_from(entries, entry_prints, entry_prints.c.entry == entries.c.id)
    query = query.where(entries.c.board == board, entries.c.account == account).order_by(entries.c.created.desc())
    found: dict[str, str] = {}
    for row in connection.execute(query):
        found |= {name: row.created for name, mine in arms.items() if same_attempts(mine, row.data)}
    return found


def keep(connection: sa.Connection, entry: str, arms: Mapping[str, bytes]) -> None:
    """Keeps the prints of an entry's arms, in place of those that were there."""
    connection.execute(entry_prints.delete().where(entry_prints.c.entry == entry))
    rows = [{"entry": entry, "position": n, "data": data} for n, data in enumerate(arms.values())]
    connection.execute(entry_prints.insert(), rows)


def _first(listed: list[Twin]) -> Twin:
    oldest = listed[0]
    others = len({twin.entry for twin in listed} - {oldest.entry})
    return Twin(oldest.entry, oldest.account, oldest.created, oldest.share, others)


def _read(data: bytes) -> list[int]:
    read: list[int] = np.frombuffer(data, dtype=">u8").tolist()
    return read


def _in_common(mine: frozenset[int], theirs: frozenset[int]) -> float:
    both = mine & theirs
    if len(both) < MOSTLY * len(mine):  # most arms have nothing in common: this is quick
        return 0.0
    least = sorted(mine | theirs)[:KEPT]
    return sum(one in both for one in least) / len(least)
