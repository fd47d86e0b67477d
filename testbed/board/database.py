"""One database with the store's tables and the board's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from testbed.board.refusals import Overloaded
from testbed.board.schema import board_schema
from testbed.closing import Closing
from testbed.errors import StoreError
from testbed.store import Store
from testbed.store.runs import BOARD
from testbed.store.schema import BUSY_SECONDS, Database, meta, runs

if TYPE_CHECKING:
    from testbed.board.accounts import Verified
    from testbed.board.boards import Board

BOARD_VERSION = 1


class BoardDatabase(Closing):
    """An open database of boards; open one with `BoardDatabase.open`. A context manager, for any number of threads.

    Args:
        database: an open store's database, which has the board's tables.

    Attributes:
        database: the same.
        store: the store in it.
        boards: boards that were read, by slug: they are frozen, so that one reading will do.
        verified: tokens that were found right lately.
    """

    def __init__(self, database: Database) -> None:
        from testbed.board.accounts import Verified  # which needs this module

        self.database = database
        self.store = Store(database)
        self.boards: dict[str, Board] = {}
        self.verified: Verified = Verified()
        self._one_writer = threading.RLock()

    @classmethod
    def open(cls, where: str | Path = "board.sqlite", *, create: bool = True) -> BoardDatabase:
        """Opens a database, and makes the board's tables where there are none.

        Args:
            where: path of an SQLite file, or a SQLAlchemy URL such as postgresql://user@host/database.
            create: make the file and the tables if there are none; False for callers that only read.

        Raises:
            StoreError: it cannot be opened, is something else, or is of a newer schema.
        """
        if not create and "://" not in str(where) and not Path(where).exists():
            raise StoreError(
                f"there is no database {where}. Make a board with `testbed board create`, or give --store."
            )
        opened = cls(Database(where, create=create))
        try:
            opened._need_tables(create=create)
        except StoreError:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        """Closes every connection."""
        self.database.close()

    @property
    def label(self) -> str:
        """The database's name for people, without its password."""
        return self.database.label

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees everything as it was at one moment."""
        with self.database.reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction of the only writer, all or nothing.

        The threads of this process take turns here, in place of asking the database again and again whether it is free.

        Raises:
            Overloaded: another thread has been writing for `BUSY_SECONDS`.
            StoreError: another process has, or the database refuses.
        """
        if not self._one_writer.acquire(timeout=BUSY_SECONDS):
            raise Overloaded("the database is being written to; try again.", retry_after=5.0)
        try:
            with self.database.writing() as connection:
                yield connection
        finally:
            self._one_writer.release()

    def _version(self, connection: sa.Connection) -> str | None:
        """The version of the board in it; None where it may become a board's database.

        Raises:
            StoreError: it holds runs. They could be neither renamed nor deleted any more, they would write over the
                labels of the board's tasks, and whoever passed the store on would pass on the board's secrets.
        """
        version = connection.scalar(sa.select(meta.c.value).where(meta.c.key == BOARD))
        if version is None and (run := connection.scalar(sa.select(runs.c.name).order_by(runs.c.name).limit(1))):
            raise StoreError(
                f"{self.label} is a store of runs ({run!r:.60}). Give boards a database of their own with --store, "
                "such as board.sqlite."
            )
        return version

    def _need_tables(self, *, create: bool) -> None:
        with self.reading() as connection:
            version = self._version(connection)
            complete = version is not None and set(board_schema.tables) <= set(sa.inspect(connection).get_table_names())
        if version is None and not create:
            raise StoreError(f"{self.label} holds no board. Make one with `testbed board create`.")
        if version is not None and int(version) > BOARD_VERSION:
            raise StoreError(
                f"the board in {self.label} has schema {version}; this version of testbed knows {BOARD_VERSION}. "
                "Upgrade testbed (pip install -U capability-testbed)."
            )
        if create and not complete:  # asked in one query: `create_all` looks for each table by itself
            with self.writing() as connection:
                board_schema.create_all(connection)
                if version is None and self.database.is_sqlite:
                    os.chmod(self.database.label, 0o600)  # a board's secret and hashes of tokens are for nobody else
                if self._version(connection) is None:  # asked again, now that nobody else writes
                    connection.execute(meta.insert().values(key=BOARD, value=str(BOARD_VERSION)))
