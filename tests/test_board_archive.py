"""A board in one file: what was sent travels, results do not, and nothing of a damaged file is kept."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa

from helpers.boards import VAULTS, a_board, a_database, a_run, board_file, client
from helpers.bundles import bundle_of, upload
from helpers.command import Done
from testbed.board import boards, uploads
from testbed.board.archive import read_archive, write_archive
from testbed.board.database import BoardDatabase
from testbed.board.entry_changes import NotShown, withdraw
from testbed.board.schema import entries
from testbed.board.settings import Settings
from testbed.board.shown import not_shown
from testbed.board.verify.resent import replace
from testbed.errors import DataError, UsageError

QUICK_IN_POSTGRESQL = (
    "test_an_entry_arrives_as_it_was_sent_and_waits_to_be_checked",
    "test_an_entry_that_is_rejected_while_the_archive_is_written_is_whole_in_it",
    "test_what_is_there_stays_though_the_archive_says_that_it_was_taken_back",
)


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


def test_an_archive_that_can_be_neither_written_nor_taken_away_is_told(tmp_path: Path) -> None:
    """As on a read-only disk: taking away what was begun fails too, and must not hide why."""
    board = a_board(tmp_path)
    (tmp_path / "file").write_text("mine")
    with a_database(tmp_path / "board.sqlite", board) as db:
        below = f"Not a directory; {tmp_path / 'file'} is a file: give another path"
        for place, why in ((f"{'x' * 250}.zip", "File name too long"), ("file/out.zip", below)):
            with pytest.raises(UsageError, match=f"cannot be written: {why}"):
                write_archive(db, board.slug, tmp_path / place)


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
    assert "out.csv is a file: give another path" in testbed("board", "export", "sums", "out.csv/out.json").err


def test_an_archive_that_is_not_there_is_not_told_as_damaged(testbed: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "sums.zip").write_text("")
    for name, told in (
        ("suns.zip", "there is no file suns.zip. Did you mean 'sums.zip'?"),
        ("elsewhere/sums.zip", "there is no file elsewhere/sums.zip."),
        (".", ". is a folder; name the archive itself."),
        ("x" * 300, "{0} is no archive of a board, or is damaged: [Errno 36] File name too long: '{0}'."),
    ):
        done = testbed("board", "import", name)
        assert (done.code, done.err) == (2, f"error: {told.format(name)}\n")


def test_an_import_that_is_refused_leaves_no_new_database_and_no_old_one_away(testbed, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("{}")
    refused = testbed("board", "import", "out.json", "--store", "new.sqlite")
    assert (refused.code, "no archive of a board" in refused.err) == (2, True)
    assert not (tmp_path / "new.sqlite").exists()
    board_file(tmp_path)
    testbed("board", "create", "board.toml")
    assert testbed("board", "import", "out.json", "--store", "board.sqlite").code == 2
    assert testbed("board", "list", "--json").data[0]["board"] == "sums"


@pytest.fixture
def gone(archive: tuple[Path, bytes, str], tmp_path: Path) -> tuple[Path, list[str]]:
    """An archive of a board from which an entry was withdrawn and two were replaced, one made against the server."""
    with BoardDatabase.open(tmp_path / "old.sqlite") as old:
        board = read_archive(old, archive[0]).board
        ids = [upload(old, board.slug, data) for data in (b"first", b"second")]
        with old.writing() as connection:
            connection.execute(entries.update().where(entries.c.id == ids[0]).values(state="verified"))
            replace(connection, ids[1], archive[2], "ann")
            there = {"id": "e" * 32, "board": board.slug, "account": "bob", "kind": "remote", "state": "withdrawn"}
            told = {"title": '"Bob\'s"', "reasons": "[]", "manifest": "{}", "created": "2026-01-01T00:00:00+00:00"}
            connection.execute(entries.insert().values(**there, **told))
        withdraw(old, ids[0])
        moved = write_archive(old, board.slug, tmp_path / "gone.zip")
        assert (moved.entries, moved.left_out) == (1, 3)
    return tmp_path / "gone.zip", [*ids, "e" * 32]


def test_how_many_entries_were_taken_back_comes_along(
    gone: tuple[Path, list[str]], archive: tuple[Path, bytes, str], elsewhere: BoardDatabase
) -> None:
    path, ids = gone
    for _ in range(2):
        assert read_archive(elsewhere, path).entries == 1
        assert not_shown(elsewhere, "sums") == {"ann": NotShown(withdrawn=1, replaced=1), "bob": NotShown(withdrawn=1)}
    states = {id_: state for id_, _, state in entered(elsewhere)}
    assert states == dict(zip([archive[2], *ids], ["waiting", "withdrawn", "replaced", "withdrawn"], strict=True))
    for data, id_, state in ((b"first", ids[0], "withdrawn"), (b"second", ids[1], "replaced")):
        content = sha256(data).hexdigest()
        again = uploads.begin(elsewhere, Settings(), "ann", "sums", uploads.Announced(content, len(data), (content,)))
        assert (again.id, again.state, again.missing) == (id_, state, ())  # the same file finds what became of it
    with client(elsewhere) as http:
        assert "was withdrawn" in http.get(f"/entries/{ids[0]}").text
        assert f"/entries/{archive[2]}" in http.get(f"/entries/{ids[1]}").text
        assert "Bob" not in http.get(f"/entries/{ids[2]}").text
    with zipfile.ZipFile(path) as file:
        assert "Bob" not in file.read("board.json").decode()


def test_what_is_there_stays_though_the_archive_says_that_it_was_taken_back(
    gone: tuple[Path, list[str]], archive: tuple[Path, bytes, str], elsewhere: BoardDatabase
) -> None:
    read_archive(elsewhere, archive[0])
    id_ = upload(elsewhere, "sums", b"first")
    read_archive(elsewhere, gone[0])
    assert {state for own, _, state in entered(elsewhere) if own == id_} == {"waiting"}


@pytest.mark.parametrize(
    "changes",
    [{"state": "verified"}, {"id": "x"}, {"account": "A B"}, {"title": "a\nb"}, {"content": "0"}, {"created": ""},
     {"by": 1}, {"more": ""}],
)  # fmt: skip
def test_of_an_archive_that_tells_nonsense_of_what_was_taken_back_nothing_is_kept(
    gone: tuple[Path, list[str]], elsewhere: BoardDatabase, tmp_path: Path, changes: dict[str, object]
) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name != "board.json":
            return data
        head = json.loads(data)
        head["gone"][0] |= changes
        return json.dumps(head).encode()

    with pytest.raises(DataError, match="withdrawn and replaced entries cannot be read"):
        read_archive(elsewhere, changed(gone[0], tmp_path / "bad.zip", change))
    assert boards.list_(elsewhere) == []
