"""Board files and boards in a database: what is refused, what is frozen, what stays secret."""

from __future__ import annotations

import dataclasses
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from helpers.boards import SUMS, VAULTS, a_board, a_database, board_file
from testbed.board import audit, boards
from testbed.board.board_file import SECRET_VARIABLE
from testbed.board.database import BoardDatabase
from testbed.board.refusals import NotFound, Overloaded
from testbed.board.schema import board_schema
from testbed.budget import Budget
from testbed.errors import ExperimentError, StoreError, UsageError
from testbed.store import Run, Store
from testbed.store.schema import meta
from testbed.transfer import Columns, import_outcomes


@pytest.fixture(autouse=True)
def no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)


# -- files


def test_a_board_says_what_its_file_says(tmp_path: Path) -> None:
    board = a_board(tmp_path)
    assert (board.slug, board.title, board.seed, board.private) == ("sums", "Sums of one digit", 3, False)
    assert board.samples == {"bare": 6, "tools": 4}
    assert board.budget == Budget(turns=4, tool_calls=2, generated_tokens=100)
    assert (board.measure.elicitation, board.measure.operating) == (4, 1)
    assert [task.prompt for task in board.tasks] == [task.prompt for task in a_board(tmp_path).tasks]
    assert len(board.tasks) == 6
    assert (board.rules.allows("calculator"), board.rules.allows("python")) == (True, False)


def test_rules_that_name_no_tools_allow_all(tmp_path: Path) -> None:
    text = SUMS.replace('[rules]\ntools = ["calculator"]\n', "")
    assert a_board(tmp_path, text).rules.allows("mcp:anything")


WRONG = [
    ('slug = "sums"', 'slug = "Sums"', 1, "slug must be"),
    ('slug = "sums"', 'slug = "-"', 1, "slug must be"),
    ('slug = "sums"', 'slug = "sums\\n"', 1, "slug must be"),
    ('title = "Sums of one digit"', 'titel = "Sums"', 2, "Did you mean 'title'"),
    ('title = "Sums of one digit"', 'title = "two\\nlines"', 2, "one line"),
    ('title = "Sums of one digit"', 'title = " "', 2, "needs a title"),
    ("seed = 3", "seed = -3", 3, "seed"),
    ("bare = 6", "bear = 6", 6, "Did you mean 'bare'"),
    ("bare = 6", "bare = 0", 6, "at least 1"),
    ("bare = 6\n", "", 5, "needs bare"),
    ('tools = ["calculator"]', 'tools = ["calculater"]', 10, "Did you mean 'calculator'"),
    ('tools = ["calculator"]', 'corpora = { search = "abc" }', 10, "corpora"),
    ('tools = ["calculator"]', "most_served = 0", 10, "most_served"),
    ("tool_calls = 2", "tool_call = 2", 14, "Did you mean 'tool_calls'"),
    ("tool_calls = 2", "calls = { search = 2 }", 14, "unknown tool in .budget. calls 'search'"),
    ("replicates = 100", "replicates = 1", 20, "replicates"),
    ('id = "Addition-v0"', 'id = "Additon-v0"', 23, "Addition-v0"),
    ("digits = 1", "digit = 1", 24, "Did you mean 'digits'"),
    ("seed = 3", "seed = 3\nprivate = 1", 4, "true or false"),
    ("seed = 3", "seed = 3\n[[arm]]\nname = 'bare'", 4, "private boards"),
    ("seed = 3", "seed = 3\nwhen = 2026-01-01", 4, "key of a board"),
    ("seed = 3", "seed = = 3", 3, "not valid TOML"),
]


@pytest.mark.parametrize(("old", "new", "line", "told"), WRONG, ids=[f"{w[1]!r:.40}" for w in WRONG])
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, line: int, told: str) -> None:
    path = board_file(tmp_path, SUMS.replace(old, new, 1))
    with pytest.raises(ExperimentError, match=told) as caught:
        boards.read_board_file(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    board_file(tmp_path)
    with pytest.raises(ExperimentError, match=r"no such file\. Did you mean .*board\.toml"):
        boards.read_board_file(tmp_path / "bord.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = " + b"[" * 100_000, b"\x00"])
def test_a_file_that_is_no_text_or_nested_without_end_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    with pytest.raises(ExperimentError, match=r"odd\.toml"):
        boards.read_board_file(path)


def test_the_same_task_twice_is_refused(tmp_path: Path) -> None:
    text = SUMS + '\n[[env]]\nid = "Addition-v0"\ndigits = 1\ntasks = 2\n'
    with pytest.raises(UsageError, match="same task"):
        a_board(tmp_path, text)


# -- in a database


def test_a_board_comes_back_as_it_was_created(db: BoardDatabase, tmp_path: Path) -> None:
    board = a_board(tmp_path)
    boards.create(db, board, "ann")
    db.boards.clear()
    found = boards.get(db, "sums")
    assert (found.spec, found.hash, found.title) == (board.spec, board.hash, board.title)
    assert found.tasks == board.tasks
    assert [task.meta for task in found.tasks] == [task.meta for task in board.tasks]
    assert [note.subject for note in audit.read(db, account="ann", action="board.create")] == ["sums"]


def test_creating_the_same_board_again_changes_nothing(db: BoardDatabase, tmp_path: Path) -> None:
    first = boards.create(db, a_board(tmp_path))
    assert boards.create(db, a_board(tmp_path)) == first
    assert len(audit.read(db)) == 1


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("elicitation = 4", "elicitation = 5", "measure was"),
        ("Sums of one digit", "Other sums", "title was"),
        ("tasks = 6", "tasks = 7", "env was"),
        ("bare = 6", "bare = 7", "samples was"),
    ],
)
def test_another_board_under_one_slug_is_refused_with_what_differs(
    db: BoardDatabase, tmp_path: Path, old: str, new: str, told: str
) -> None:
    boards.create(db, a_board(tmp_path))
    with pytest.raises(UsageError, match=f"frozen: {told}"):
        boards.create(db, a_board(tmp_path, SUMS.replace(old, new)))
    assert boards.get(db, "sums").spec == a_board(tmp_path).spec


def test_an_environment_that_makes_other_tasks_than_then_is_told(db: BoardDatabase, tmp_path, monkeypatch) -> None:
    from testbed.envs import arithmetic

    board = boards.create(db, a_board(tmp_path))
    usual = arithmetic.problems
    monkeypatch.setattr(arithmetic, "problems", lambda *args: usual(*args)[::-1])
    with pytest.raises(UsageError, match="other tasks"):
        boards.create(db, a_board(tmp_path))
    with pytest.raises(UsageError, match="no longer make its tasks"):
        boards.environments(db, board)


def test_a_boards_environments_make_and_grade_its_tasks(db: BoardDatabase, tmp_path: Path) -> None:
    board = boards.create(db, a_board(tmp_path))
    (environment,) = boards.environments(db, board)
    task = board.tasks[0]
    assert [environment.grade(task, answer).success for answer in (task.reference, "x")] == [True, False]
    environment.close()


def test_an_unknown_board_is_told_with_the_nearest(db: BoardDatabase, tmp_path: Path) -> None:
    boards.create(db, a_board(tmp_path))
    with pytest.raises(NotFound, match="Did you mean 'sums'"):
        boards.get(db, "sum")


def test_boards_are_listed_oldest_first(db: BoardDatabase, tmp_path: Path) -> None:
    for slug in ("b", "a", "c"):
        boards.create(db, a_board(tmp_path, slug=slug))
    assert [board.slug for board in boards.list_(db)] == ["b", "a", "c"]
    assert boards.count_entries(db) == {}


# -- private boards


def test_the_tasks_of_a_private_board_come_from_a_secret(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "a secret of some length")
    first, same = a_board(tmp_path, VAULTS), a_board(tmp_path, VAULTS)
    monkeypatch.setenv(SECRET_VARIABLE, "another secret of it")
    other = a_board(tmp_path, VAULTS)
    assert first.tasks == same.tasks
    assert not {task.hash for task in first.tasks} & {task.hash for task in other.tasks}


def test_a_drawn_secret_is_kept_where_only_the_server_looks(db: BoardDatabase, tmp_path: Path) -> None:
    board = a_board(tmp_path, VAULTS)
    secret = board.secret
    made = boards.create(db, board)
    assert len(secret) == 64
    assert made.tasks == board.tasks
    assert sum(len(environment.tasks) for environment in boards.environments(db, made)) == 3
    shown = repr(board) + repr(made) + repr(audit.read(db)) + repr(made.spec)
    assert secret not in shown
    with db.reading() as connection:
        rows = [row for table in board_schema.sorted_tables for row in connection.execute(sa.select(table))]
        kept = connection.scalars(sa.select(meta.c.value)).all()
    assert secret not in repr(rows)
    assert secret in kept


def test_a_private_board_may_be_created_again_without_its_secret_and_not_with_another(
    db: BoardDatabase, tmp_path: Path, monkeypatch
) -> None:
    made = boards.create(db, a_board(tmp_path, VAULTS))
    assert boards.create(db, a_board(tmp_path, VAULTS)) == made
    monkeypatch.setenv(SECRET_VARIABLE, "another secret of it")
    with pytest.raises(UsageError, match=f"frozen: {SECRET_VARIABLE}"):
        boards.create(db, a_board(tmp_path, VAULTS))


def test_a_short_secret_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "short")
    with pytest.raises(UsageError, match="at least 16 characters") as caught:
        a_board(tmp_path, VAULTS)
    assert "'short'" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("vaults = 3", "vaults = 3\nseed = 4", "its secret"),
        ('[[arm]]\nname = "bare"\n', "", "one \\[\\[arm\\]\\] without tools"),
        ('name = "asks"\n', 'name = "asks"\nmodel = "reference"\n', "key of a board's arm"),
        ('name = "asks"\n', 'name = "asks"\ncontrol = "yoked"\n', "control"),
        ('tools = ["ask"]', 'tools = ["asked"]', "Did you mean 'ask'"),
        ('id = "Oracle-v0"', 'id = "GSM8K-v0"', "no tasks from a seed"),
        ('id = "Oracle-v0"', 'id = "Orakel-v0"', r"board\.toml:18: unknown environment 'Orakel-v0'"),
    ],
)
def test_what_a_private_board_cannot_do_is_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ExperimentError, match=told):
        a_board(tmp_path, VAULTS.replace(old, new))


# -- the database


def test_a_store_becomes_a_board_without_losing_anything(where: str, tmp_path: Path) -> None:
    Store.open(where).close()
    with pytest.raises(StoreError, match="holds no board"):
        BoardDatabase.open(where, create=False)
    with BoardDatabase.open(where) as db:
        boards.create(db, a_board(tmp_path))
    with Store.open(where, create=False) as store:
        assert store.runs() == []
    with BoardDatabase.open(where, create=False) as db:
        assert [board.slug for board in boards.list_(db)] == ["sums"]


def test_a_store_with_runs_becomes_no_board_and_stays_as_it_was(where: str, tmp_path: Path) -> None:
    with Store.open(where) as store:
        store.add_run(Run("mine", {}, 0, (), "2026-01-01", {}), [])
    for create in (True, False):
        with pytest.raises(StoreError, match=r"is a store of runs \('mine'\)\. Give boards a database of their own"):
            BoardDatabase.open(where, create=create)
    with Store.open(where) as store:
        store.edits.rename("mine", "still_mine")  # which of a board's database nobody may
        store.edits.delete("still_mine")
    BoardDatabase.open(where).close()


def test_a_boards_database_takes_no_runs_which_would_relabel_its_frozen_tasks(where: str, tmp_path: Path) -> None:
    with a_database(where, a_board(tmp_path)) as db:
        tasks = boards.get(db, "sums").tasks
        other = [dataclasses.replace(task, cluster="all") for task in tasks]
        assert [task.hash for task in other] == [task.hash for task in tasks]
        with pytest.raises(StoreError, match="is a board's database, which holds no runs but its entries"):
            db.store.add_run(Run("mine", {}, 0, (), "2026-01-01", {}), other)
        (tmp_path / "log.csv").write_text("q,m,won\nx,a,1\n")
        columns = Columns.parse(task="q", arm="m", success="won")
        with pytest.raises(StoreError, match="Give runs a store of their own with --store"):
            import_outcomes(db.store, tmp_path / "log.csv", "mine", columns)
    with BoardDatabase.open(where, create=False) as db:
        assert boards.get(db, "sums").tasks == tasks
        assert db.store.runs() == []


def test_a_table_that_a_board_lacks_is_made_when_it_is_opened(where: str) -> None:
    lacking = board_schema.sorted_tables[-1]  # to which no other table refers
    with BoardDatabase.open(where) as db, db.writing() as connection:
        lacking.drop(connection)
    with BoardDatabase.open(where) as db, db.reading() as connection:
        assert connection.execute(sa.select(lacking)).all() == []


def test_a_whole_board_is_opened_while_somebody_writes_to_it(where: str) -> None:
    with BoardDatabase.open(where) as db, db.writing():
        BoardDatabase.open(where).close()


def test_a_file_that_holds_a_board_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It holds the seeds of private boards and hashes of tokens; whatever rights it had as a store are taken once."""
    path = tmp_path / "board.sqlite"
    Store.open(path).close()
    path.chmod(0o644)
    BoardDatabase.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)  # as its owner says
    BoardDatabase.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_board_of_a_newer_version_is_refused(where: str) -> None:
    with BoardDatabase.open(where) as db, db.writing() as connection:
        connection.execute(meta.update().where(meta.c.key == "board_schema_version").values(value="99"))
    with pytest.raises(StoreError, match="Upgrade testbed"):
        BoardDatabase.open(where)


def test_a_transaction_that_fails_leaves_no_note(db: BoardDatabase) -> None:
    def fails() -> None:
        with db.writing() as connection:
            audit.note(connection, "ann", "test", "it")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert audit.read(db) == []


def test_threads_take_turns_to_write_and_one_that_waits_too_long_is_told(db: BoardDatabase, monkeypatch) -> None:
    inside, most = 0, []

    def write(n: int) -> None:
        nonlocal inside
        with db.writing() as connection:
            inside += 1
            most.append(inside)
            audit.note(connection, "", "test", str(n))
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
        assert max(most) == 1
        assert {note.subject for note in audit.read(db)} == {str(n) for n in range(40)}
        monkeypatch.setattr("testbed.board.database.BUSY_SECONDS", 0.1)
        with db.writing(), pytest.raises(Overloaded):
            pool.submit(write, 40).result(20)


def test_notes_come_back_newest_first_and_as_they_were(db: BoardDatabase) -> None:
    with db.writing() as connection:
        audit.note(connection, "ann", "first", "a", odd="\ud800 \x00 </script>", account="detail of that name")
        audit.note(connection, "", "second", "b")
    notes = audit.read(db)
    assert [(note.action, note.subject) for note in notes] == [("second", "b"), ("first", "a")]
    assert notes[1].detail == {"odd": "\ud800 \x00 </script>", "account": "detail of that name"}
    assert [note.action for note in audit.read(db, account="")] == ["second"]
    assert [note.action for note in audit.read(db, subject="a")] == ["first"]
    assert [note.action for note in audit.read(db, limit=1)] == ["second"]
