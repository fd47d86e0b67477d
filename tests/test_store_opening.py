"""Files and folders that are no store, and stores that cannot be used."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.stored import TASKS, make_run
from testbed.errors import StoreError
from testbed.store import Store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def test_opening_to_read_makes_no_file(file: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store .*store\.sqlite\. Make one with `testbed run`"):
        Store.open(file, create=False)
    assert list(file.parent.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_left_alone(file: Path) -> None:
    file.write_text("task,success\n" * 100)
    for create in (True, False):
        with pytest.raises(StoreError, match="not an SQLite database"):
            Store.open(file, create=create)
    assert file.read_text() == "task,success\n" * 100


def test_a_database_of_something_else_is_refused_and_left_alone(file: Path) -> None:
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"something else \(tables bookmarks\)"):
        Store.open(file)
    assert file.read_bytes() == before


def test_a_foreign_meta_table_is_not_taken_for_a_store(file: Path) -> None:
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    other.close()
    with pytest.raises(StoreError, match="not a testbed store"):
        Store.open(file)


def test_a_damaged_store_says_so(file: Path) -> None:
    with Store.open(file) as store:
        store.add_run(make_run(), TASKS)
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StoreError, match="damaged"):
        Store.open(file, create=False).runs()


def test_a_changed_task_is_noticed(file: Path) -> None:
    with Store.open(file) as store:
        store.add_run(make_run(), TASKS)
    with sqlite3.connect(file) as other:
        other.execute("UPDATE tasks SET reference = '999' WHERE hash = ?", [TASKS[2].hash])
    other.close()
    with Store.open(file) as store, pytest.raises(StoreError, match=TASKS[2].hash):
        store.tasks("r")


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path} is a folder"):
        Store.open(tmp_path)


def test_a_store_in_a_folder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no folder .*/nowhere"):
        Store.open(tmp_path / "nowhere" / "store.sqlite")


def test_a_store_below_a_file_names_the_file_and_no_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot be made: .*/file is a file: give another path\.$"):
        Store.open(tmp_path / "file" / "deeper" / "store.sqlite")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which not even root may make files")
def test_a_folder_that_cannot_be_written_is_refused_by_name() -> None:
    with pytest.raises(StoreError, match=r"/proc/store\.sqlite.* cannot be opened"):
        Store.open("/proc/store.sqlite")


def test_a_read_only_store_can_be_read_and_says_why_it_is_not_written(file: Path) -> None:
    with Store.open(file) as store:
        store.add_run(make_run(), TASKS)
    file.chmod(0o400)
    if os.access(file, os.W_OK):
        pytest.skip("this user may write everything")
    with Store.open(file) as store:
        assert store.run("r") == make_run()
        with pytest.raises(StoreError, match="read-only"):
            store.add_run(make_run("other"), TASKS)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u@h/d", "not in 'mysql'"),
        ("sqlite://", "must be a file"),
        ("nonsense://", "not in 'nonsense'"),
        ("://x", "cannot be read"),
        ("", "no path"),
    ],
)
def test_a_place_that_cannot_hold_a_store_is_refused(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Store.open(url)


def test_a_password_is_not_repeated_in_errors() -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with pytest.raises(StoreError) as caught:
        Store.open("postgresql://me:hush@localhost:1/nothing")
    assert "hush" not in str(caught.value)
    assert "me:***@localhost" in str(caught.value)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_store_on_a_read_only_disk_is_read_and_not_written_to(file: Path) -> None:
    odd = file.with_name("a store of 100% ü?.sqlite")
    with Store.open(odd) as store:
        store.add_run(make_run(), TASKS)
    program = """
import sys
from testbed.errors import StoreError
from testbed.store import Store
with Store.open(sys.argv[1], create=False) as store:
    print([run.name for run in store.runs()])
    try:
        store.edits.rename("r", "s")
    except StoreError as error:
        print(error)
"""
    mounts = ["--bind", "/", "/", "--ro-bind", str(file.parent), str(file.parent)]
    command = ["bwrap", *mounts, sys.executable, "-c", program, str(odd)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout.splitlines()[0] == "['r']"
    assert "it is read-only. Change its permissions" in done.stdout
    assert list(file.parent.iterdir()) == [odd]
