"""Which attempts of a remote entry were given out, and which may still be.

The server gives out each (arm, task, sample) once, or, where the board allows more, again after it was lost here.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from testbed.board.audit import now
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.refusals import Conflict, NotFound, TooMany
from testbed.board.remote.bench import Bench
from testbed.board.schema import remote_entries, sessions
from testbed.store.schema import unpack
from testbed.types import Task

MOST_OPEN = 256  # sessions that an entry may have open: each holds memory and tools here


@dataclass(frozen=True)
class Served:
    """A session as the database holds it.

    Attributes:
        id: its id.
        entry: its entry's.
        arm: name of the arm.
        task: hash of the task.
        serving: which serving of the task to this arm it is, from 0: sample indices repeat after all samples.
        state: "open", "done" or "lost".
        steps: the messages so far, see `testbed.board.remote.sessions`.
    """

    id: str
    entry: str
    arm: str
    task: str
    serving: int
    state: str
    steps: list[dict[str, Any]]


def sessions_of(db: BoardDatabase, entry: str, *, state: str = "") -> list[Served]:
    """An entry's sessions without their steps, oldest first; only those in a state, where one is given."""
    columns = [column for column in sessions.c if column.name != "steps"]
    query = sa.select(*columns).where(sessions.c.entry == entry).order_by(sessions.c.created, sessions.c.id)
    if state:
        query = query.where(sessions.c.state == state)
    with db.reading() as connection:
        return [Served(r.id, r.entry, r.arm, r.task, r.sample, r.state, []) for r in connection.execute(query)]


def session_of(db: BoardDatabase, id_: str, account: str) -> Served:
    """A session of one's own, with its steps.

    Raises:
        NotFound: there is none of that id, or it is somebody else's.
    """
    query = sa.select(sessions.c.id).join(remote_entries, remote_entries.c.id == sessions.c.entry)
    with db.reading() as connection:
        mine = connection.scalar(query.where(sessions.c.id == id_, remote_entries.c.account == account))
    if mine is None:
        raise NotFound(f"you have no session {id_!r:.64}.")
    return session(db, id_)


def session(db: BoardDatabase, id_: str) -> Served:
    """A session by its id, with its steps.

    Raises:
        NotFound: there is none.
    """
    with db.reading() as connection:
        r = connection.execute(sa.select(sessions).where(sessions.c.id == id_)).first()
    if r is None:
        raise NotFound(f"there is no session {id_!r:.64}.")
    return Served(r.id, r.entry, r.arm, r.task, r.sample, r.state, unpack(r.steps))


def left(bench: Bench, served: Sequence[Served], arm: str) -> dict[int, int]:
    """How many attempts an arm may still begin, by the task's number; tasks without any are left out."""
    rounds = _rounds(served, arm)
    counts = {n: len(_free(bench, arm, rounds.get(task.hash, []))) for n, task in enumerate(bench.board.tasks)}
    return {n: count for n, count in counts.items() if count}


def serve(db: BoardDatabase, bench: Bench, entry: str, runs: Sequence[str], arm: str, number: int | None) -> Served:
    """Gives out an attempt.

    Args:
        db: the board's database.
        bench: the board.
        entry: id of the entry whose attempt it is.
        runs: names of the arms that it runs.
        arm: in which arm.
        number: of the task; None for whichever task has been served least so far.

    Raises:
        NotFound: the entry does not run that arm, or there is no such task.
        Conflict: nothing is left to serve, or the entry is closed.
        TooMany: too many of the entry's sessions are open.
    """
    if arm not in runs:
        raise NotFound(f"the entry does not run an arm {arm!r:.100}; it runs {', '.join(runs)}.")
    if number is not None and not 0 <= number < len(bench.board.tasks):
        raise NotFound(f"there is no task {number}; the board has {len(bench.board.tasks)}, from 0 on.")
    with db.writing() as connection:  # one at a time, so that nothing is given out twice
        if connection.scalar(sa.select(remote_entries.c.state).where(remote_entries.c.id == entry)) != "open":
            raise Conflict("the entry is closed.")
        under_way = sa.select(sa.func.count()).where(sessions.c.entry == entry, sessions.c.state == "open")
        if (connection.scalar(under_way) or 0) >= MOST_OPEN:
            raise TooMany(f"{MOST_OPEN} of the entry's sessions are open; end some first.")
        number, serving = _choose(connection, bench, entry, arm, number)
        task = bench.board.tasks[number]
        made = Served(secrets.token_hex(16), entry, arm, task.hash, serving, "open", [])
        row = {"id": made.id, "entry": entry, "arm": arm, "task": task.hash, "sample": serving, "state": "open"}
        connection.execute(sessions.insert().values(**row, steps="[]", created=now()))
    return made


def task_of(board: Board, hash_: str) -> tuple[int, Task]:
    """A task of the board and its number."""
    return next((n, task) for n, task in enumerate(board.tasks) if task.hash == hash_)


def _choose(connection: sa.Connection, bench: Bench, entry: str, arm: str, number: int | None) -> tuple[int, int]:
    """The number of the task that comes next, and which serving of it; only that task's sessions are read."""
    mine = sa.and_(sessions.c.entry == entry, sessions.c.arm == arm)
    for n in [number] if number is not None else _least_served(connection, bench, mine, arm):
        hash_ = bench.board.tasks[n].hash
        query = sa.select(sessions.c.sample, sessions.c.state).where(mine, sessions.c.task == hash_)
        served = [Served("", entry, arm, hash_, r.sample, r.state, []) for r in connection.execute(query)]
        if free := _free(bench, arm, served):
            return n, min(free)
    what = f"task {number}" if number is not None else "any task"
    raise Conflict(f"nothing is left to serve of {what} in arm {arm!r}.")


def _least_served(connection: sa.Connection, bench: Bench, mine: sa.ColumnElement[bool], arm: str) -> list[int]:
    """Tasks of which something may be left in an arm, by number; those served least first."""
    lost = sa.func.sum(sa.case((sessions.c.state == "lost", 1), else_=0))
    query = sa.select(sessions.c.task, sa.func.count(), lost).where(mine).group_by(sessions.c.task)
    counts = {task: (served, served - lost) for task, served, lost in connection.execute(query)}
    samples, most = bench.samples(arm), bench.board.rules.most_served
    found = []
    for n, task in enumerate(bench.board.tasks):
        served, kept = counts.get(task.hash, (0, 0))  # what is kept was served once, so that it counts samples
        if kept < samples and served < samples * most:
            found.append((served, n))
    return [n for _, n in sorted(found)]


def _rounds(served: Sequence[Served], arm: str) -> dict[str, list[Served]]:
    found: dict[str, list[Served]] = {}
    for one in served:
        if one.arm == arm:
            found.setdefault(one.task, []).append(one)
    return found


def _free(bench: Bench, arm: str, served: Sequence[Served]) -> list[int]:
    """The servings of a task that may be begun: of samples never served, and of those whose last serving was lost."""
    samples, most = bench.samples(arm), bench.board.rules.most_served
    times = Counter(one.serving % samples for one in served)
    kept = {one.serving % samples for one in served if one.state != "lost"}
    return [times[n] * samples + n for n in range(samples) if n not in kept and times[n] < most]
