"""Entries whose attempts are made against the server: what they may still be served, and how they end.

A task is known by its number on the board, never by its hash, with which guesses at its reference could be checked.
Nothing that was given out can be dropped: an entry is complete when everything was served and has ended.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from testbed.board import quota
from testbed.board.audit import note, now
from testbed.board.database import BoardDatabase
from testbed.board.refusals import Conflict, NotFound, TooMany
from testbed.board.remote.bench import Bench
from testbed.board.remote.serving import Served, left
from testbed.board.schema import entries, entry_run, remote_entries, sessions
from testbed.board.settings import Settings
from testbed.store import Run
from testbed.store.runs import RunTables
from testbed.store.schema import pack, unpack

MOST_ENTRIES = 16  # open entries of an account on a board
STATE = "partly"  # who wrote an agent's messages cannot be seen from here
_REASONS = [
    {"check": "answers", "level": "ok", "text": "made against this server, which served, metered and graded them"},
    {"check": "counts", "level": "ok", "text": "counted from the text that was sent here, four bytes to a token"},
    {
        "check": "model",
        "level": "unchecked",
        "text": "the model's name is its author's word; its prompts are not known",
    },
]


@dataclass(frozen=True)
class RemoteEntry:
    """An entry whose attempts are made here.

    Attributes:
        id: its id.
        board: slug of its board.
        account: whose it is.
        title: for people.
        manifest: what its author says of it, and "arms": those that it runs.
        open: whether attempts may still be made.
    """

    id: str
    board: str
    account: str
    title: str
    manifest: Mapping[str, Any]
    open: bool

    @property
    def arms(self) -> Sequence[str]:
        """Names of the board's arms that it runs."""
        arms: Sequence[str] = self.manifest["arms"]
        return arms


def create(
    db: BoardDatabase,
    settings: Settings,
    bench: Bench,
    account: str,
    title: str,
    manifest: Mapping[str, Any],
    arms: Sequence[str],
) -> RemoteEntry:
    """Begins an entry.

    Args:
        db: the board's database.
        settings: its limits.
        bench: the board.
        account: whose it is.
        title: for people.
        manifest: what its author says of it; "model" names the model.
        arms: which of the board's arms it runs; none for all. They cannot be chosen later.

    Raises:
        NotFound: the board has no such arm.
        Conflict: the arm without tools, which others are compared with, is not among them, or it is alone.
        NotAllowed: the account has as many entries as one may have.
        TooMany: the account has too many open entries, or too many that wait.
    """
    board = bench.board
    chosen = [name for name in bench.arms if not arms or name in arms]
    for name in arms:
        bench.arm(name)
    bare = next(name for name, arm in bench.arms.items() if not arm.spec.tools)
    if bare not in chosen or len(chosen) < 2:
        raise Conflict(f"an entry runs the arm {bare!r}, with which others are compared, and at least one other.")
    id_ = secrets.token_hex(16)
    entry = RemoteEntry(id_, board.slug, account, title, {**manifest, "arms": chosen}, open=True)
    mine = sa.select(sa.func.count()).where(
        remote_entries.c.account == account, remote_entries.c.board == board.slug, remote_entries.c.state == "open"
    )
    row = {"id": id_, "board": board.slug, "account": account, "title": pack(title), "manifest": pack(entry.manifest)}
    with db.writing() as connection:
        if (connection.scalar(mine) or 0) >= MOST_ENTRIES:
            raise TooMany(f"{MOST_ENTRIES} of your entries to {board.slug} are open; close one first.")
        quota.room_to_begin(connection, settings, account)
        RunTables(db.database).write(connection, _run(entry, bench), board.tasks)
        connection.execute(remote_entries.insert().values(**row, state="open", created=now()))
        note(connection, account, "remote.create", id_, board=board.slug, arms=chosen)
    return entry


def find(db: BoardDatabase, id_: str, account: str) -> RemoteEntry:
    """An entry of one's own.

    Raises:
        NotFound: there is none of that id, or it is somebody else's.
    """
    with db.reading() as connection:
        row = connection.execute(sa.select(remote_entries).where(remote_entries.c.id == id_)).first()
    if row is None or row.account != account:
        raise NotFound(f"you have no remote entry {id_!r:.64}.")
    manifest = unpack(row.manifest)
    return RemoteEntry(row.id, row.board, row.account, unpack(row.title), manifest, row.state == "open")


def close(db: BoardDatabase, bench: Bench, entry: RemoteEntry) -> None:
    """Ends an entry: its attempts, which were all made here, become its results.

    Raises:
        Conflict: something is left to serve, or has not ended.
    """
    with db.writing() as connection:
        if connection.scalar(sa.select(remote_entries.c.state).where(remote_entries.c.id == entry.id)) != "open":
            return
        query = sa.select(sessions.c.arm, sessions.c.task, sessions.c.sample, sessions.c.state)
        rows = connection.execute(query.where(sessions.c.entry == entry.id)).all()
        served = [Served("", entry.id, r.arm, r.task, r.sample, r.state, []) for r in rows]
        under_way = sum(one.state == "open" for one in served)
        unserved = {arm: sum(left(bench, served, arm).values()) for arm in entry.arms}
        if under_way or any(unserved.values()):
            rest = ", ".join(f"{count} in arm {arm!r}" for arm, count in unserved.items() if count)
            raise Conflict(
                "the entry is not complete, and nothing may be left out: "
                f"{under_way} sessions are open, and still to be begun: {rest or 'none'}."
            )
        connection.execute(remote_entries.update().where(remote_entries.c.id == entry.id).values(state="closed"))
        row = {"id": entry.id, "board": entry.board, "account": entry.account, "title": pack(entry.title)}
        row |= {"kind": "remote", "state": STATE, "manifest": pack(entry.manifest)}
        row["reasons"] = pack(reasons(connection, entry.id))
        connection.execute(entries.insert().values(**row, created=now(), decided=now()))
        lost = sum(one.state == "lost" for one in served)
        note(connection, entry.account, "remote.close", entry.id, board=entry.board, sessions=len(served), lost=lost)


def reasons(connection: sa.Connection, entry: str) -> list[dict[str, str]]:
    """What was checked of an entry that is closed, and what could not be."""
    query = sa.select(sa.func.count()).where(sessions.c.entry == entry, sessions.c.state == "lost")
    if not (lost := connection.scalar(query)):
        return _REASONS
    said = "1 session was" if lost == 1 else f"{lost:,} sessions were"
    text = f"{said} lost on this server; the attempts count as missing, and figures have bounds for them"
    return [*_REASONS, {"check": "missing", "level": "unchecked", "text": text}]


def _run(entry: RemoteEntry, bench: Bench) -> Run:
    spec, model = bench.board.spec, str(entry.manifest["model"])
    shared = {key: spec[key] for key in ("seed", "budget", "measure", "env", "tool") if key in spec}
    arms = [arm for name, arm in bench.arms.items() if name in entry.arms]
    tables = [
        {"name": a.spec.name, "tools": list(a.spec.tools), "control": str(a.spec.control), "samples": a.spec.samples}
        for a in arms
    ]
    name = entry_run(entry.id)
    return Run(
        name=name,
        experiment={**shared, "name": name, "model": {"id": model}, "arm": tables},  # without the seeds of its tasks
        seed=bench.board.seed,
        arms=tuple(arm.record(entry.id, model) for arm in arms),
        created=now(),
        samples={arm.spec.name: arm.spec.samples for arm in arms},
    )
