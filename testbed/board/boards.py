"""Boards: a frozen suite of tasks, a budget and rules, under which entries can be compared."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from testbed import registry
from testbed.board.audit import note, now
from testbed.board.board_file import SECRET_VARIABLE, Rules, experiment_of, read_spec
from testbed.board.database import BoardDatabase
from testbed.board.refusals import NotFound
from testbed.board.schema import board_tasks, entries
from testbed.board.schema import boards as table
from testbed.budget import Budget
from testbed.env import Environment
from testbed.errors import UsageError, did_you_mean
from testbed.experiment import Experiment, Measure
from testbed.store.runs import RunTables, row_task
from testbed.store.schema import meta, pack, tasks, unpack
from testbed.types import Task, digest

_SHORTEST_SECRET = 16


@dataclass(frozen=True)
class Board:
    """A board: once it is created, nothing of it changes.

    Attributes:
        slug: its name in addresses.
        title: its name for people.
        spec: what its file says.
        hash: of the spec and the tasks' hashes.
        private: whether its tasks are only served, and never shown.
        created: when, ISO 8601; empty until it is in a database.
        tasks: in order.
        secret: of a private board that was just read from its file: what its tasks are drawn from; empty elsewhere.
        drawn: whether the secret was drawn just now, and not given.
    """

    slug: str
    title: str
    spec: Mapping[str, Any]
    hash: str
    private: bool
    created: str
    tasks: tuple[Task, ...]
    secret: str = field(default="", repr=False, compare=False)
    drawn: bool = field(default=False, repr=False, compare=False)

    @property
    def seed(self) -> int:
        """Seeds every attempt's random stream."""
        return int(self.spec.get("seed", 0))

    @property
    def samples(self) -> dict[str, int]:
        """Attempts per task of a bare arm ("bare") and of one with tools ("tools")."""
        return {kind: int(count) for kind, count in self.spec["samples"].items()}

    @property
    def budget(self) -> Budget:
        """Limits of every attempt."""
        return Budget.from_mapping(self.spec.get("budget", {}))

    @property
    def measure(self) -> Measure:
        """How entries are read."""
        return Measure(**self.spec.get("measure", {}))

    @property
    def rules(self) -> Rules:
        """What entries may do."""
        said = dict(self.spec.get("rules", {}))
        return Rules(**{**said, "tools": tuple(said.get("tools", Rules.tools))})

    @property
    def description(self) -> str:
        """One line on what it measures; may be empty."""
        return str(self.spec.get("description", ""))


def read_board_file(path: str | Path, plugins: Sequence[str] = ()) -> Board:
    """Reads and checks a board's file, and makes its tasks.

    Args:
        path: TOML file.
        plugins: Python files with further environments and tools, loaded first.

    Raises:
        ExperimentError: the file is missing, is not TOML, or is no board; names the file and the line.
        UsageError: the secret is too short to be one.
    """
    spec = read_spec(path, plugins)
    given = os.environ.get(SECRET_VARIABLE, "") if spec.get("private") else ""
    if given and len(given) < _SHORTEST_SECRET:
        raise UsageError(
            f"{SECRET_VARIABLE} must have at least {_SHORTEST_SECRET} characters; leave it unset to draw one."
        )
    secret = (given or secrets.token_hex(32)) if spec.get("private") else ""
    return of_spec(spec, secret, path=str(path), drawn=bool(secret) and not given)


def of_spec(spec: Mapping[str, Any], secret: str = "", *, path: str = "", drawn: bool = False) -> Board:
    """The board that a checked file describes, with its tasks made.

    Args:
        spec: what the file says.
        secret: of a private board: what its tasks are drawn from.
        path: the file, for messages.
        drawn: whether the secret was drawn just now.

    Raises:
        ExperimentError: it is no board.
        UsageError: two environments list the same task.
    """
    made = _make(experiment_of(spec, secret, path=path))
    own = tuple(task for environment in made for task in environment.tasks)
    _close(made)
    if len({task.hash for task in own}) != len(own):
        raise UsageError(f"{path or spec['slug']}: two [[env]] tables list the same task.")
    private = bool(spec.get("private"))
    return Board(spec["slug"], spec["title"], spec, _hash(spec, own), private, "", own, secret, drawn)


def create(db: BoardDatabase, board: Board, account: str = "") -> Board:
    """Puts a board into a database; does nothing when the same one is there.

    Args:
        db: the board's database.
        board: from `read_board_file`.
        account: who does it; "" for whoever runs the server.

    Returns:
        The board as the database holds it.

    Raises:
        UsageError: another board has that slug; the message says what differs.
    """
    with db.writing() as connection:
        old = _read(connection, board.slug)
        if old is None:
            _write(db, connection, board)
            note(connection, account, "board.create", board.slug, hash=board.hash, tasks=len(board.tasks))
        elif found := _changes(old, board, _secret(connection, board.slug)):
            raise UsageError(
                f"board {board.slug!r} is there already, and boards are frozen: {'; '.join(found)}. "
                "Give the new one another slug."
            )
    return get(db, board.slug)


def has(db: BoardDatabase, slug: str) -> bool:
    """Whether there is a board of that slug."""
    with db.reading() as connection:
        return connection.scalar(sa.select(table.c.slug).where(table.c.slug == slug)) is not None


def get(db: BoardDatabase, slug: str) -> Board:
    """A board by its slug.

    Raises:
        NotFound: there is none; the message offers the nearest.
    """
    if slug in db.boards:
        return db.boards[slug]
    with db.reading() as connection:
        board = _read(connection, slug)
        known = [] if board else list(connection.scalars(sa.select(table.c.slug)))
    if board is None:
        raise NotFound(f"unknown board {slug!r:.100}.{did_you_mean(slug, known)}")
    db.boards[slug] = board
    return board


def list_(db: BoardDatabase) -> list[Board]:
    """All boards, oldest first."""
    with db.reading() as connection:
        slugs = list(connection.scalars(sa.select(table.c.slug).order_by(table.c.created, table.c.slug)))
    return [get(db, slug) for slug in slugs]


def count_entries(db: BoardDatabase) -> dict[str, int]:
    """How many entries each board has, by slug, whatever was decided of them."""
    query = sa.select(entries.c.board, sa.func.count()).group_by(entries.c.board)
    with db.reading() as connection:
        return {slug: int(count) for slug, count in connection.execute(query)}


def experiment(db: BoardDatabase, board: Board) -> Experiment:
    """The experiment that a board's entries repeat; of a private board it holds the secret tasks' seeds.

    Raises:
        UsageError: this version of the testbed, or what is installed with it, cannot make it any more.
    """
    with db.reading() as connection:
        return experiment_of(board.spec, _secret(connection, board.slug))


def environments(db: BoardDatabase, board: Board) -> list[Environment]:
    """A board's environments, which serve and grade its tasks; close them after use.

    Raises:
        UsageError: they do not make the board's tasks any more: the testbed or a plug-in has changed.
    """
    made = _make(experiment(db, board))
    if [task.hash for environment in made for task in environment.tasks] != [task.hash for task in board.tasks]:
        _close(made)
        raise UsageError(
            f"board {board.slug!r}: its environments no longer make its tasks. It was created with another version of "
            "the testbed or of a plug-in; run that one."
        )
    return made


def _make(experiment: Experiment) -> list[Environment]:
    return [registry.make_env(source.id, **source.options) for source in experiment.environments]


def _close(made: Sequence[Environment]) -> None:
    for environment in made:
        environment.close()


def _hash(spec: Mapping[str, Any], own: Sequence[Task]) -> str:
    return digest([dict(spec), [task.hash for task in own]])


def _secret_key(slug: str) -> str:
    return f"board_secret:{slug}"


def _secret(connection: sa.Connection, slug: str) -> str:
    return connection.scalar(sa.select(meta.c.value).where(meta.c.key == _secret_key(slug))) or ""


def _read(connection: sa.Connection, slug: str) -> Board | None:
    row = connection.execute(sa.select(table).where(table.c.slug == slug)).first()
    if row is None:
        return None
    listed = sa.select(tasks).join_from(board_tasks, tasks, tasks.c.hash == board_tasks.c.task)
    listed = listed.where(board_tasks.c.board == slug).order_by(board_tasks.c.position)
    own = tuple(row_task(found) for found in connection.execute(listed))
    return Board(row.slug, row.title, unpack(row.spec), row.hash, bool(row.private), row.created, own)


def _write(db: BoardDatabase, connection: sa.Connection, board: Board) -> None:
    values = {"slug": board.slug, "title": board.title, "spec": pack(dict(board.spec)), "hash": board.hash}
    connection.execute(table.insert().values(**values, private=board.private, created=now()))
    RunTables(db.database).label(connection, board.tasks)
    rows = [{"board": board.slug, "position": n, "task": task.hash} for n, task in enumerate(board.tasks)]
    connection.execute(board_tasks.insert(), rows)
    if board.secret:
        connection.execute(meta.insert().values(key=_secret_key(board.slug), value=board.secret))


def _changes(old: Board, new: Board, secret: str) -> list[str]:
    """How a board differs from the one of its slug that is there."""
    keys = sorted(key for key in {*old.spec, *new.spec} if old.spec.get(key) != new.spec.get(key))
    found = [f"{key} was {old.spec.get(key)!r:.100}, now {new.spec.get(key)!r:.100}" for key in keys]
    if new.private and not new.drawn and new.secret != secret:
        found.append(f"{SECRET_VARIABLE} is another")
    elif not keys and not new.private and old.hash != new.hash:
        found.append("its environments make other tasks than then")
    return found
