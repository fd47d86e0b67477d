"""A board in one file: what was sent travels, results do not, and nothing of a damaged file is kept."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from helpers.boards import VAULTS, a_board, a_database, a_run, board_file
from helpers.bundles import bundle_of, upload
from helpers.command import Done
from testbed.board import boards, uploads
from testbed.board.archive import read_archive, write_archive
from testbed.board.database import BoardDatabase
from testbed.board.schema import entries
from testbed.board.settings import Settings
from testbed.errors import DataError, UsageError


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, str]:
    """An archive with one entry, the entry's bundle and its id."""
    folder = tmp_path_factory.mktemp("archive")
    board = a_board(folder)
    a_run(folder / "runs.sqlite", board)
    data = bundle_of(folder / "runs.sqlite", "mine", board)
    with a_database(folder / "board.sqlite", board) as db:
        id_ = upload(db, board.slug, data)
        path = folder / "sums.zip"
        assert write_archive(db, board.slug, path).entries == 1
    return path, data, id_


@pytest.fixture
def elsewhere(db: BoardDatabase) -> BoardDatabase:
    return db


def entered(db: BoardDatabase) -> list[tuple[str, str, str]]:
    with db.reading() as connection:
        return [tuple(row) for row in connection.execute(sa.select(entries.c.id, entries.c.account, entries.c.state))]


def test_an_entry_arrives_as_it_was_sent_and_waits_to_be_checked(
    archive: tuple[Path, bytes, str], elsewhere: BoardDatabase
) -> None:
    path, data, id_ = archive
    moved = read_archive(elsewhere, path)
    assert (moved.board.slug, moved.entries) == ("sums", 1)
    assert entered(elsewhere) == [(id_, "ann", "waiting")]
    assert b"".join(uploads.parts(elsewhere, id_)) == data


def test_an_entry_that_is_rejected_while_the_archive_is_written_is_whole_in_it(
    archive: tuple[Path, bytes, str], elsewhere: BoardDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = archive[2]
    read_archive(elsewhere, archive[0])
    parts_in = uploads.parts_in

    def rejected_first(connection: sa.Connection, id_: str) -> Iterator[bytes]:
        with elsewhere.writing() as other:
            other.execute(entries.update().where(entries.c.id == id_).values(state="rejected"))
            uploads.decided(other, id_, "rejected")
        yield from parts_in(connection, id_)

    monkeypatch.setattr(uploads, "parts_in", rejected_first)
    write_archive(elsewhere, "sums", tmp_path / "again.zip")
    with BoardDatabase.open(tmp_path / "third.sqlite") as third:
        assert read_archive(third, tmp_path / "again.zip").entries == 1
        assert entered(third) == [(id_, "ann", "waiting")]
    assert [state for *_, state in entered(elsewhere)] == ["rejected"]


def test_whoever_runs_the_board_brings_in_more_entries_than_an_account_may_send(
    archive: tuple[Path, bytes, str], elsewhere: BoardDatabase
) -> None:
    none = Settings(open_uploads=0, entries=0, waiting=0)
    assert read_archive(elsewhere, archive[0], none).entries == 1
    assert len(entered(elsewhere)) == 1


def test_reading_it_again_changes_nothing(archive: tuple[Path, bytes, str], elsewhere: BoardDatabase) -> None:
    first = read_archive(elsewhere, archive[0]).board
    again = read_archive(elsewhere, archive[0]).board
    assert first == again
    assert len(entered(elsewhere)) == 1


def changed(archive: Path, to: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return to


def with_head(**values: object) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        return json.dumps({**json.loads(data), **values}).encode() if name == "board.json" else data

    return change


def titled(name: str, data: bytes) -> bytes:
    return data.replace(b'"title": "an entry"', b'"title": "an\\nentry"') if name == "board.json" else data


def shorter(name: str, data: bytes) -> bytes:
    return data[:-1] if name.endswith(".bundle") else data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shorter, "damaged or changed"),
        (titled, "cannot be taken: a title is one line"),
        (with_head(archive=9), "form 9"),
        (with_head(entries=[{"id": "x"}]), "no archive of a board"),
        (with_head(entries=[{"id": "f" * 32, "account": "ann", "title": "", "content": ""}]), "is not in it"),
        (with_head(entries=[{"id": "x", "account": "../A B", "title": "", "content": ""}]), "small letters"),
        (with_head(hash="0" * 32), "other tasks"),
        (with_head(spec={"slug": "sums"}), "title"),
        (with_head(spec=[]), "no archive of a board"),
    ],
)
def test_of_a_damaged_archive_nothing_is_kept(
    archive: tuple[Path, bytes, str],
    elsewhere: BoardDatabase,
    tmp_path: Path,
    change: Callable[[str, bytes], bytes],
    said: str,
) -> None:
    with pytest.raises((DataError, UsageError), match=said):
        read_archive(elsewhere, changed(archive[0], tmp_path / "bad.zip", change))
    assert entered(elsewhere) == []
    assert boards.list_(elsewhere) == []


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_file_that_was_cut_is_refused_by_name(
    archive: tuple[Path, bytes, str], elsewhere: BoardDatabase, tmp_path: Path, keep: int
) -> None:
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive[0].read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut\.zip is no archive"):
        read_archive(elsewhere, cut)


def test_a_private_boards_secret_is_not_in_it(
    tmp_path: Path, elsewhere: BoardDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a secret of some length"
    monkeypatch.setenv("TESTBED_BOARD_SECRET", secret)
    board, path = a_board(tmp_path, VAULTS), tmp_path / "vaults.zip"
    with a_database(tmp_path / "board.sqlite", board) as db:
        write_archive(db, board.slug, path)
    with zipfile.ZipFile(path) as file:
        held = b"".join(file.read(name) for name in file.namelist()).decode()
    assert secret not in held
    assert not any(task.hash in held or task.prompt in held for task in board.tasks)
    monkeypatch.delenv("TESTBED_BOARD_SECRET")
    with pytest.raises(UsageError, match="set TESTBED_BOARD_SECRET"):
        read_archive(elsewhere, path)
    monkeypatch.setenv("TESTBED_BOARD_SECRET", "another secret of some length")
    with pytest.raises(UsageError, match="another secret"):
        read_archive(elsewhere, path)
    monkeypatch.setenv("TESTBED_BOARD_SECRET", secret)
    assert read_archive(elsewhere, path).board.tasks == board.tasks


def test_from_the_command_line(testbed: Callable[..., Done], tmp_path: Path) -> None:
    board_file(tmp_path)
    assert testbed("board", "create", "board.toml").code == 0
    for name in ("out.json", "out.csv", "out.zip"):
        done = testbed("board", "export", "sums", name)
        assert (done.code, (tmp_path / name).exists()) == (0, True), done.err
    assert "exists" in testbed("board", "export", "sums", "out.json").err
    assert "export form" in testbed("board", "export", "sums", "out.xls").err
    assert "--dataset" in testbed("board", "export", "sums", "out.yaml").err
    assert "Did you mean 'sums'" in testbed("board", "export", "sum", "other.json").err
    done = testbed("board", "import", "out.zip", "--store", "elsewhere.sqlite")
    assert (done.code, "board 'sums' with 0 entries" in done.out) == (0, True), done.err
    assert testbed("board", "import", "out.csv", "--store", "elsewhere.sqlite").code == 2
