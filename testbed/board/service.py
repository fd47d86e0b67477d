"""The background worker: checks entries that wait, works out what the pages show of them, and ranks their boards.

What is to be done is read from the database, so that nothing is lost with the process: an entry whose upload was
acknowledged waits there until it is decided.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import sqlalchemy as sa

from testbed.board.audit import note, now
from testbed.board.boards import Board, get
from testbed.board.database import BoardDatabase
from testbed.board.faults import boundary, record
from testbed.board.remote import entries as remote_entries
from testbed.board.schema import ACCEPTED, audit, entries, entry_reports
from testbed.board.settings import Settings
from testbed.errors import UsageError
from testbed.store.schema import meta, pack, unpack
from testbed.types import digest

FAILURES = 3  # times that a step of an entry may raise an error of the server's own
BEGINNINGS = 10  # times that a check of an entry may begin, however it ends: one of them may be what kills the server
RANKED_EVERY = 60.0  # seconds between rankings while many entries wait
_BEGUN, _FAILED, _AGAIN = "entry.check", "entry.check-failed", "entry.check-again"
_OURS = "server"  # names the check in a reason that is no fault of the entry


@dataclass(frozen=True)
class Steps:
    """What is done with an entry that waits, and then with its board.

    Attributes:
        verify: decides an entry, by its id.
        compute: works out what the pages show of an accepted one, by its id.
        rank: ranks a board's accepted entries.
    """

    verify: Callable[[BoardDatabase, str], object]
    compute: Callable[[BoardDatabase, str], object]
    rank: Callable[[BoardDatabase, Board], object]

    @classmethod
    def usual(cls, settings: Settings) -> Steps:
        """The board's own."""
        from testbed.board import ranking, results, verify  # scipy and models: not for whoever only asks for help

        means = verify.Means(settings.models, settings.corpora, settings=settings)
        return cls(lambda db, entry: verify.verify_entry(db, entry, means), results.compute_entry, ranking.recompute)


class Worker:
    """One thread that does what is waiting.

    Args:
        db: the board's database.
        steps: what it does; by default the board's own, with the usual settings.
        pause: seconds between looks at the database, if nobody wakes it; also before a failed step is tried again,
            which grows eightfold with each failure.
    """

    def __init__(self, db: BoardDatabase, steps: Steps | None = None, pause: float = 5.0) -> None:
        self._db, self._steps, self._pause = db, steps or Steps.usual(Settings()), pause
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._not_before: dict[str, float] = {}
        self._turns: dict[str, int] = {}  # by account, which turn was its last
        self._ranked_at = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._work, name="testbed-board-worker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Says that there is something to do."""
        self._wake.set()

    def stop(self, seconds: float = 30.0) -> None:
        """Ends the thread after the entry that it is at; what it has not done waits in the database."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def run_once(self) -> None:
        """Does all that can be done now, in this thread."""
        self._ranked_at = time.monotonic()
        done: set[str] = set()
        while (entry := self._next(done)) is not None:
            if self._stop.is_set():
                return
            done.add(entry)
            self._handle(entry)
            if time.monotonic() - self._ranked_at > RANKED_EVERY:
                self._rank_all()
        self._rank_all()

    def _work(self) -> None:
        while True:
            self._wake.clear()
            if self._stop.is_set():  # looked at after that: whoever sets it wakes this thread next
                return
            with boundary() as fault:
                self.run_once()
            if fault.error is not None:  # the database may be away for a while; what waits in it waits on
                record(fault.error, "the worker could not go on; it looks again in %.0f s", self._pause)
            self._wake.wait(self._pause)

    # -- entries

    def _next(self, done: Collection[str]) -> str | None:
        """Id of an entry that is not decided, or accepted without figures, and not among those done; None without one.

        Accounts take turns, each with its oldest: a check may take hours, and one account can have many waiting.
        """
        reported = sa.select(entry_reports.c.entry)
        unfinished = sa.and_(entries.c.state.in_(ACCEPTED), entries.c.id.not_in(reported))
        query = sa.select(entries.c.id, entries.c.account).where(sa.or_(entries.c.state == "waiting", unfinished))
        with self._db.reading() as connection:
            found = connection.execute(query.order_by(entries.c.created, entries.c.id)).all()
        due = [row for row in found if row.id not in done and self._due(row.id)]
        if not due:
            return None
        chosen = min(due, key=lambda row: self._turns.get(row.account, 0))
        self._turns[chosen.account] = 1 + max(self._turns.values(), default=0)
        return str(chosen.id)

    def _handle(self, entry: str) -> None:
        """Checks an entry and works out its figures; an unexpected error is noted, and the entry waits on."""
        doing = "check it"
        if not self._begin(entry):
            return
        with boundary() as fault:
            if self._state(entry) == "waiting":
                self._steps.verify(self._db, entry)
            doing = "work out its figures"
            if self._state(entry) in ACCEPTED:
                self._steps.compute(self._db, entry)
        if fault.error is not None:  # the server's own, whatever it is: neither the author's nor the worker's end
            record(fault.error, "entry %s: the server could not %s", entry, doing)
            self._failed(entry, doing, fault.error)

    def _begin(self, entry: str) -> bool:
        """Notes that a check begins; an entry with which too many have begun is rejected in place of that."""
        with self._db.writing() as connection:
            if _count(connection, _BEGUN, entry) >= BEGINNINGS:
                _reject(connection, entry, "check it")
                return False
            note(connection, "", _BEGUN, entry)
        return True

    def _failed(self, entry: str, doing: str, error: Exception) -> None:
        with self._db.writing() as connection:
            note(connection, "", _FAILED, entry, error=f"{type(error).__name__}: {error}"[:500])
            failures = _count(connection, _FAILED, entry)
            if failures >= FAILURES:
                _reject(connection, entry, doing)
        self._put_off(entry, failures)

    def _state(self, entry: str) -> str | None:
        with self._db.reading() as connection:
            return connection.scalar(sa.select(entries.c.state).where(entries.c.id == entry))

    # -- boards

    def _rank_all(self) -> None:
        """Ranks the boards whose ranking is not of all their accepted entries."""
        with self._db.reading() as connection:
            slugs = connection.scalars(sa.select(entries.c.board).distinct().order_by(entries.c.board)).all()
            stale = [slug for slug in slugs if _ranked(connection, slug) != _accepted(connection, slug)]
        for slug in filter(self._due, stale):
            with boundary() as fault:
                self._rank(slug)
            if fault.error is not None:  # the server's own: other boards are ranked all the same
                record(fault.error, "board %s could not be ranked", slug)
                self._put_off(slug, 3)
        self._ranked_at = time.monotonic()

    def _rank(self, slug: str) -> None:
        with self._db.reading() as connection:
            accepted = _accepted(connection, slug)
        self._steps.rank(self._db, get(self._db, slug))
        with self._db.writing() as connection:
            connection.execute(meta.delete().where(meta.c.key == _rank_key(slug)))
            connection.execute(meta.insert().values(key=_rank_key(slug), value=accepted))

    # -- what failed lately

    def _due(self, subject: str) -> bool:
        return self._not_before.get(subject, 0.0) <= time.monotonic()

    def _put_off(self, subject: str, failures: int) -> None:
        self._not_before[subject] = time.monotonic() + self._pause * 8**failures


def check_again(db: BoardDatabase, entry: str) -> None:
    """Has an entry checked once more that was rejected because the server could not; a running server takes it up.

    Raises:
        UsageError: there is no such entry, or it was not rejected for that.
    """
    with db.writing() as connection:
        row = connection.execute(sa.select(entries).where(entries.c.id == entry)).first()
        if row is None:
            raise UsageError(f"there is no entry {entry!r:.80}.")
        if row.state != "rejected" or [reason["check"] for reason in unpack(row.reasons)] != [_OURS]:
            raise UsageError(f"entry {entry} was not rejected for what the server could not do; it is {row.state}.")
        # Who ran a remote entry's attempts has decided it: its figures alone are to be worked out.
        values = {"state": "waiting", "reasons": "[]", "decided": None}
        if row.kind == "remote":
            values = {
                "state": remote_entries.STATE,
                "reasons": pack(remote_entries.reasons(connection, entry)),
                "decided": now(),
            }
        connection.execute(entries.update().where(entries.c.id == entry).values(**values))
        note(connection, "", _AGAIN, entry)


def _count(connection: sa.Connection, action: str, subject: str) -> int:
    """How often something happened to an entry since it was last taken up anew."""
    query = sa.select(audit.c.action).where(audit.c.subject == subject, audit.c.action.in_((action, _AGAIN)))
    last_first = list(connection.scalars(query.order_by(audit.c.n.desc())))
    return [*last_first, _AGAIN].index(_AGAIN)


def _reject(connection: sa.Connection, entry: str, doing: str) -> None:
    """Rejects an entry, unless its author has taken it off the board meanwhile: that is counted, and for good."""
    reasons = [{"check": _OURS, "level": "unchecked", "text": f"the server could not {doing}"}]
    values = {"state": "rejected", "reasons": pack(reasons), "decided": now()}
    there = entries.update().where(entries.c.id == entry, entries.c.state.in_(("waiting", *ACCEPTED)))
    if connection.execute(there.values(**values)).rowcount:
        note(connection, "", "entry.rejected", entry, reasons=reasons)


def _accepted(connection: sa.Connection, slug: str) -> str:
    """Hash of the ids of a board's accepted entries that have figures."""
    query = sa.select(entries.c.id).join(entry_reports, entry_reports.c.entry == entries.c.id)
    query = query.where(entries.c.board == slug, entries.c.state.in_(ACCEPTED)).order_by(entries.c.id)
    return digest(list(connection.scalars(query)))


def _ranked(connection: sa.Connection, slug: str) -> str:
    """Hash of the entries that a board's ranking was made of."""
    return connection.scalar(sa.select(meta.c.value).where(meta.c.key == _rank_key(slug))) or digest([])


def _rank_key(slug: str) -> str:
    return f"board_ranked:{slug}"
