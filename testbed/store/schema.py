"""The store's tables, how a database is opened, and what its errors mean.

The tables use only what SQLite and PostgreSQL share. Free text (prompts, answers) is stored as JSON text, since models
write characters that databases refuse: NUL, and halves of surrogate pairs.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from testbed.errors import StoreError, in_the_way
from testbed.types import COST_COMPONENTS, canonical

SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0  # how long a writer waits for another process before it gives up
_ADVISORY_LOCK = 7_305_221_940  # names the one-writer lock in PostgreSQL; any constant that nothing else uses
_WHOLE = ("generated_tokens", "prompt_tokens", "observed_tokens", "model_calls", "tool_calls", "turns")

schema = sa.MetaData()

meta = sa.Table(
    "meta",
    schema,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
runs = sa.Table(
    "runs",
    schema,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("experiment", sa.Text, nullable=False),  # canonical JSON
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)
run_tasks = sa.Table(
    "run_tasks",
    schema,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("task", sa.String(32), nullable=False),
    sa.UniqueConstraint("run", "task"),
)
run_arms = sa.Table(
    "run_arms",
    schema,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("arm", sa.String(32), nullable=False),
    sa.Column("name", sa.String, nullable=False),  # arms are content: two runs may name the same one differently
    sa.Column("samples", sa.Integer, nullable=False),
    sa.UniqueConstraint("run", "name"),
)
tasks = sa.Table(
    "tasks",
    schema,
    sa.Column("hash", sa.String(32), primary_key=True),
    sa.Column("environment", sa.String, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),  # JSON
    sa.Column("reference", sa.Text, nullable=False),  # JSON
    sa.Column("grader", sa.String, nullable=False),
    sa.Column("cluster", sa.Text, nullable=False),  # JSON
    sa.Column("meta", sa.Text, nullable=False),  # JSON
)
arms = sa.Table(
    "arms",
    schema,
    sa.Column("hash", sa.String(32), primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),  # JSON
)
attempts = sa.Table(
    "attempts",
    schema,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("task", sa.String(32), nullable=False),
    sa.Column("arm", sa.String(32), nullable=False),
    sa.Column("sample", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("ended", sa.String, nullable=False),
    sa.Column("success", sa.SmallInteger),  # 1, 0, or NULL when missing
    sa.Column("score", sa.Double),
    sa.Column("answer", sa.Text),  # JSON
    *(sa.Column(c, sa.BigInteger if c in _WHOLE else sa.Double, nullable=False) for c in COST_COMPONENTS),
    sa.Column("faults", sa.Text, nullable=False),  # JSON
    sa.Index("attempts_by_cell", "arm", "task", "sample"),
)
# Apart from the attempts, so that reading 100,000 outcomes does not read their texts.
transcripts = sa.Table(
    "transcripts",
    schema,
    sa.Column("attempt", sa.String(32), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),  # zstd of canonical JSON
)


def pack(value: Any) -> str:
    """Canonical JSON that every database can hold."""
    text = canonical(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: legal in Python and in escaped JSON, not in UTF-8
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text


def unpack(text: str) -> Any:
    """The value of `pack`'s text."""
    return json.loads(text)


class Database:
    """An open database with the store's tables.

    Args:
        where: path of an SQLite file, or a SQLAlchemy URL of SQLite or PostgreSQL.
        create: make the store if there is none.

    Raises:
        StoreError: it cannot be opened, is something else, or is of a newer schema.
    """

    def __init__(self, where: str | Path, *, create: bool) -> None:
        url = _url(where)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.label = str(url.database) if self.is_sqlite else url.render_as_string(hide_password=True)
        if self.is_sqlite:
            url = _file(url, create=create)
        self.engine = _engine(url, self.label)
        try:
            self._check_schema(create=create)
        except StoreError:
            self.engine.dispose()
            raise

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees the store as it was at one moment."""
        with self._connected("read") as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction of the only writer, all or nothing; others wait for up to `BUSY_SECONDS`."""
        with self._connected("write") as connection, connection.begin():
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # a deferred one may fail half-way where it must upgrade
            else:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(BUSY_SECONDS * 1000)}")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
            yield connection

    @contextmanager
    def _connected(self, purpose: str) -> Iterator[sa.Connection]:
        try:
            with self.engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise StoreError(f"cannot {purpose} the store {self.label}: {_explain(str(error.orig))}") from error

    def _check_schema(self, *, create: bool) -> None:
        with self._connected("open") as connection:
            found = set(sa.inspect(connection).get_table_names())
        if "meta" not in found:
            self._refuse_foreign(found, create=create)
            self._make_tables()
        with self._connected("open") as connection:
            version = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version"))
        if version is None:
            raise StoreError(f"{self.label} is a database, but not a testbed store. Give another path.")
        if int(version) > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self.label} has schema {version}; this version of testbed knows schema {SCHEMA_VERSION}. "
                "Upgrade testbed (pip install -U capability-testbed), or give another path with --store."
            )

    def _refuse_foreign(self, found: set[str], *, create: bool) -> None:
        ours = set(schema.tables)
        if not create:
            raise StoreError(f"{self.label} holds no testbed store. Make one with `testbed run` or `testbed import`.")
        if found and (self.is_sqlite or found & ours):
            listed = ", ".join(sorted(found)[:5])
            raise StoreError(f"{self.label} is a database of something else (tables {listed}). Give another path.")

    def _make_tables(self) -> None:
        if self.is_sqlite:
            self._use_wal()
        with self.writing() as connection:  # one transaction, and a second process that came along waits and finds them
            schema.create_all(connection)
            if connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version")) is None:
                connection.execute(meta.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))

    def _use_wal(self) -> None:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            with self._connected("write") as connection:
                try:
                    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                    return
                except DBAPIError as error:  # SQLite does not wait by itself for this one lock
                    if "locked" not in str(error.orig) or time.monotonic() > deadline:
                        raise
            time.sleep(0.05)


def _url(where: str | Path) -> sa.URL:
    text = str(where)
    if not text:
        raise StoreError("the store has no path; give one with --store, such as --store results.sqlite.")
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).absolute()))
    try:
        url = sa.make_url(text)
    except ArgumentError as error:
        raise StoreError("the store's URL cannot be read. Write postgresql://user:password@host/database.") from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"a store lives in SQLite or PostgreSQL, not in {url.get_backend_name()!r}.")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError("a store must be a file, so that attempts outlive the program. Give a path.")
    # SQLAlchemy's default driver for PostgreSQL differs between its versions.
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _file(url: sa.URL, *, create: bool) -> sa.URL:
    """The URL by which a file is opened: as it lies, where it is only read and SQLite can put nothing beside it."""
    path = Path(str(url.database))
    _check_path(path, create=create)
    beside = [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]  # there where others write
    if create or os.access(path.parent, os.W_OK) or any(file.exists() and file.stat().st_size for file in beside):
        return url
    return sa.URL.create("sqlite", database=path.as_uri(), query={"uri": "true", "mode": "ro", "immutable": "1"})


def _check_path(path: Path, *, create: bool) -> None:
    if path.is_dir():
        raise StoreError(f"the store {path} is a folder. Give a file, such as {path / 'testbed.sqlite'}.")
    if path.exists():
        return
    if not create:
        raise StoreError(f"there is no store {path}. Make one with `testbed run` or `testbed import`, or give --store.")
    if found := in_the_way(path.parent):
        raise StoreError(f"the store {path} cannot be made: {found}.")
    if not path.parent.is_dir():
        raise StoreError(f"the store {path} cannot be made: there is no folder {path.parent}. Make it first.")


def _engine(url: sa.URL, label: str) -> sa.Engine:
    is_sqlite = url.get_backend_name() == "sqlite"
    try:
        connect_args = {"timeout": BUSY_SECONDS} if is_sqlite else {}
        engine = sa.create_engine(url, connect_args=connect_args, hide_parameters=True)  # errors are written to logs
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise StoreError(
            f"no driver for the store {label} ({error}). Install one: pip install 'psycopg[binary]'."
        ) from error
    if is_sqlite:
        sa.event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where this module says so
    connection.execute("PRAGMA synchronous = FULL")  # a commit that returned survives a power cut
    connection.execute("PRAGMA cache_size = -16384")  # KiB: room for the indexes of some 100,000 attempts


def _explain(message: str) -> str:
    """What a database's message means and what to do; tested on the messages themselves."""
    busy = f"another process has been writing to it for {BUSY_SECONDS:.0f} s. Wait for it, then run this again."
    causes = {
        "file is not a database": "it is not an SQLite database. Give another path.",
        "malformed": "the file is damaged. Restore a copy, or run `sqlite3 FILE .recover`.",
        "readonly": "it is read-only. Change its permissions, or give another path.",
        "unable to open": "it cannot be opened. Check the folder's permissions, or give another path; what was copied "
        "in the middle of a run needs a folder that can be written to.",
        "is locked": busy,
        "lock timeout": busy,
        "full": "the disk is full. Make room, then run this again: what was reported done is safe.",
        "disk I/O": "the disk refuses. Check its space and quota, then run this again: what was reported done is safe.",
    }
    return next((text for sign, text in causes.items() if sign in message), message.strip())
