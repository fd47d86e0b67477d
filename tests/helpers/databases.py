"""Plug-in of the tests: SQLite files and PostgreSQL servers, and the stores and boards in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testbed.board.boards import Board
    from testbed.board.database import BoardDatabase
    from testbed.store import Store


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of the tests' own; skips where there is no such program."""
    from helpers.postgres import server

    with server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_boards(postgres: str) -> Iterator[str]:
    """A place in PostgreSQL in which all tables are made, and empty between tests."""
    from helpers.postgres import place
    from testbed.board.database import BoardDatabase

    with place(postgres) as url:
        BoardDatabase.open(url).close()
        yield url


@pytest.fixture(scope="session")
def postgres_store(postgres: str) -> Iterator[str]:
    """A place in PostgreSQL in which a store's tables are made, and empty between tests."""
    from helpers.postgres import place
    from testbed.store import Store

    with place(postgres) as url:
        Store.open(url).close()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for a new store, in each database."""
    wants_boards, wants_tables = "db" in request.fixturenames, "empty_files" in request.fixturenames
    if request.param == "postgresql" and (wants_boards or wants_tables):  # who wants the tables need not make them
        from helpers.postgres import empty

        made = request.getfixturevalue("postgres_boards" if wants_boards else "postgres_store")
        yield made
        empty(made)
        return
    yield from _place(request, tmp_path)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def where_shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A place for a store that the tests of a file share, in each database."""
    yield from _place(request, tmp_path_factory.mktemp("shared"))


def _place(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    from helpers.postgres import place

    if request.param == "sqlite":
        yield str(folder / "store.sqlite")
        return
    with place(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture(scope="session")
def empty_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files in which all tables are made, and empty: of a store and of boards."""
    from testbed.board.database import BoardDatabase
    from testbed.store import Store

    folder = tmp_path_factory.mktemp("empty")
    Store.open(folder / "store").close()
    BoardDatabase.open(folder / "boards").close()
    return folder


def _begun(where: str, empty: Path) -> None:
    """Making tables takes longer than most tests of what is in them; how they are made has tests of its own."""
    if "://" not in where:
        shutil.copy(empty, where)


@pytest.fixture
def db(where: str, empty_files: Path) -> Iterator[BoardDatabase]:
    """A new database for boards, in each kind."""
    from testbed.board.database import BoardDatabase

    _begun(where, empty_files / "boards")
    with BoardDatabase.open(where) as opened:
        yield opened


@pytest.fixture
def store(where: str, empty_files: Path) -> Iterator[Store]:
    """A new store, in each database."""
    from testbed.store import Store

    _begun(where, empty_files / "store")
    with Store.open(where) as opened:
        yield opened


@pytest.fixture(scope="session")
def sums_board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board of sums; in no database yet."""
    from helpers.boards import a_board

    return a_board(tmp_path_factory.mktemp("sums"))


@pytest.fixture
def sums_db(db: BoardDatabase, sums_board: Board) -> BoardDatabase:
    """A new database with the board of sums, in each kind."""
    from testbed.board import boards

    boards.create(db, sums_board)
    return db


@pytest.fixture(scope="session")
def stranger_bundle(sums_board: Board, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run's bundle: its bare arm often fails, its other asks a calculator; its model is not on the server."""
    from helpers.boards import a_run
    from helpers.bundles import bundle_of

    store = tmp_path_factory.mktemp("stranger") / "store.sqlite"
    return bundle_of(store, a_run(store, sums_board), sums_board)


@pytest.fixture(scope="session")
def reference_bundle(sums_board: Board, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run's bundle, of the reference model, which the server has."""
    from helpers.bundles import bundle_of, ran

    store = tmp_path_factory.mktemp("reference") / "store.sqlite"
    return bundle_of(store, ran(store, sums_board, {"id": "reference", "max_tokens": 60}), sums_board)
