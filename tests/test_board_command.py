"""`testbed board`: what whoever runs a board types, and a served one from beginning to end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from helpers.boards import SUMS, VAULTS, a_board, a_run, board_file
from testbed.board.accounts import check
from testbed.board.board_file import SECRET_VARIABLE
from testbed.board.database import BoardDatabase

EXPERIMENT = """\
name = "mine"
samples = 1
[model]
id = "reference"
[[env]]
id = "Addition-v0"
digits = 1
tasks = 1
[[arm]]
name = "bare"
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests; the board's store is in the test's folder."""
    for name in (SECRET_VARIABLE, "TESTBED_TOKEN", "TESTBED_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TESTBED_BOARD_STORE", str(tmp_path / "board.sqlite"))


@pytest.fixture
def store(plain_environment: None, where: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The board's store in each database."""
    monkeypatch.setenv("TESTBED_BOARD_STORE", where)
    return where


# -- making boards and tokens


@pytest.mark.usefixtures("store")
def test_a_board_is_created_and_listed(testbed, tmp_path: Path) -> None:
    made = testbed("board", "create", str(board_file(tmp_path)))
    assert made.code == 0, made.err
    assert re.fullmatch(r"board 'sums' of .+: 6 tasks, hash [0-9a-f]{32}\n", made.out)
    listed = testbed("board", "list")
    assert listed.out.split("\n")[1].split() == ["sums", "Sums", "of", "one", "digit", "6", "0", "no"]
    (row,) = testbed("board", "list", "--json").data
    assert (row["board"], row["tasks"], row["private"]) == ("sums", 6, False)


@pytest.mark.usefixtures("store")
def test_whoever_creates_a_board_is_told_where_no_task_of_it_can_count_as_expanded(testbed, tmp_path: Path) -> None:
    enough = board_file(tmp_path, SUMS.replace("bare = 6", "bare = 31"), slug="enough")
    assert testbed("board", "create", str(enough)).err == ""
    few = SUMS.replace("tools = 4", "tools = 2")
    assert testbed("board", "create", str(board_file(tmp_path, few))).err == (
        "note: no task of board 'sums' can count as expanded: it takes 31 attempts without tools to show that a task "
        "is out of reach and 3 attempts with them to show that it is within it, and the board has bare = 6 and "
        "tools = 2. It is frozen: for such verdicts, create one under another slug with bare = 31 and tools = 3, "
        "or a smaller elicitation in [measure].\n"
    )
    again = testbed("board", "create", str(board_file(tmp_path, few)))  # changes nothing, and says so, not the rest
    assert (again.code, again.err) == (0, "")
    assert "is there already, unchanged: 6 tasks" in again.out
    beyond = SUMS.replace("elicitation = 4", "elicitation = 1_000_000_000_000")
    done = testbed("board", "create", str(board_file(tmp_path, beyond, slug="beyond")))
    assert "with a smaller elicitation" in done.err


@pytest.mark.usefixtures("store")
def test_creating_a_board_in_another_form_is_refused(testbed, tmp_path: Path) -> None:
    testbed("board", "create", str(board_file(tmp_path)))
    assert testbed("board", "create", str(board_file(tmp_path))).code == 0
    refused = testbed("board", "create", str(board_file(tmp_path, title="Other")))
    assert refused.code == 2
    assert "frozen: title was 'Sums of one digit', now 'Other'" in refused.err


def test_nothing_is_made_where_a_boards_file_is_wrong(testbed, tmp_path: Path) -> None:
    refused = testbed("board", "create", str(board_file(tmp_path, slug="Sums")))
    assert refused.code == 2
    assert "Sums.toml:1: slug must be" in refused.err
    assert not (tmp_path / "board.sqlite").exists()


@pytest.mark.usefixtures("store")
def test_the_secret_of_a_private_board_is_never_printed(testbed, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "the secret of the vaults")
    told = [testbed("board", "create", str(board_file(tmp_path, VAULTS)))]
    told += [testbed("board", "list", "--json"), testbed("board", "audit", "--json")]
    assert [done.code for done in told] == [0, 0, 0]
    assert "secret of the vaults" not in "".join(done.out + done.err for done in told)


def test_looking_at_boards_makes_no_store(testbed, tmp_path: Path) -> None:
    for command in (["list"], ["audit"], ["token", "list"], ["token", "revoke", "x"]):
        done = testbed("board", *command)
        assert (done.code, "Make a board with `testbed board create`" in done.err) == (2, True)
    assert not (tmp_path / "board.sqlite").exists()


def test_a_file_holds_runs_or_boards_and_is_refused_for_the_other(testbed, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("q,m,won\nx,a,1\n")
    words = ["import", "log.csv", "--run", "mine", "--task", "q", "--arm", "m", "--success", "won"]
    assert testbed(*words, "--store", "runs.sqlite").code == 0
    was = (tmp_path / "runs.sqlite").stat().st_mode
    file = str(board_file(tmp_path))
    for command in (["create", file], ["serve", "--port", "0"], ["token", "create", "ann", "--scope", "read"]):
        done = testbed("board", *command, "--store", "runs.sqlite")
        assert (done.code, "runs.sqlite is a store of runs ('mine')" in done.err) == (2, True), done.err
    assert (tmp_path / "runs.sqlite").stat().st_mode == was
    assert testbed("runs", "delete", "mine", "--yes", "--store", "runs.sqlite").code == 0
    assert testbed("board", "create", file).code == 0
    (tmp_path / "mine.toml").write_text(EXPERIMENT)
    for command in (words, ["run", "mine.toml"]):
        done = testbed(*command, "--store", "board.sqlite")
        assert (done.code, "board.sqlite is a board's database, which holds no runs" in done.err) == (2, True), done.err
    assert "mine" not in testbed("list", "runs", "--store", "board.sqlite").out


@pytest.mark.usefixtures("store")
def test_a_token_is_printed_once_alone_and_works(testbed, store: str) -> None:
    made = testbed("board", "token", "create", "ann", "--scope", "submit", "--scope", "read", "--days", "3")
    token = made.out.strip()
    assert re.fullmatch(r"tb_[0-9a-f]{12}_\S{43}", token)
    assert token not in made.err
    with BoardDatabase.open(store) as db:
        assert check(db, token).account == "ann"
    later = [testbed("board", "token", "list"), testbed("board", "token", "list", "--json"), testbed("board", "audit")]
    shown = "".join(done.out + done.err for done in later)
    assert token[16:] not in shown
    assert shown.count(token[3:15]) == 3
    (row,) = testbed("board", "token", "list", "--json").data
    assert (row["scopes"], row["revoked"]) == (["read", "submit"], None)


@pytest.mark.usefixtures("store")
def test_a_token_is_revoked_by_its_id(testbed, tmp_path: Path) -> None:
    token = testbed("board", "token", "create", "ann", "--scope", "submit").out.strip()
    assert testbed("board", "token", "revoke", token[3:15]).out == f"token {token[3:15]} is revoked\n"
    (row,) = testbed("board", "token", "list", "--json").data
    assert row["revoked"] is not None
    assert testbed("board", "token", "revoke", "0" * 12).code == 2


@pytest.mark.usefixtures("store")
def test_a_whole_token_can_be_revoked_without_being_printed(testbed) -> None:
    token = testbed("board", "token", "create", "ann", "--scope", "submit").out.strip()
    done = testbed("board", "token", "revoke", token)
    assert (done.code, token[16:] in done.out + done.err) == (0, False)


@pytest.mark.usefixtures("store")
def test_the_audit_log_is_a_line_for_each_note(testbed, tmp_path: Path) -> None:
    testbed("board", "create", str(board_file(tmp_path)))
    testbed("board", "token", "create", "ann", "--scope", "read")
    lines = testbed("board", "audit").out.splitlines()
    assert [line.split()[1:3] for line in lines] == [["server", "token.create"], ["server", "board.create"]]
    assert testbed("board", "audit", "--action", "board.create", "--json").data[0]["subject"] == "sums"


def test_what_cannot_be_served_is_told_before_anything_is(testbed, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = testbed("board", "serve", "--port", str(port))
        assert (refused.code, f"cannot listen at 127.0.0.1, port {port}" in refused.err) == (2, True)
    refused = testbed("board", "serve", "--port", "0", "--certificate", "none.pem")
    assert (refused.code, "there is no file none.pem" in refused.err) == (2, True)
    refused = testbed("board", "serve", "--port", "0", "--store", str(tmp_path))
    assert (refused.code, "is a folder" in refused.err) == (2, True)


def test_what_is_missing_of_the_packages_is_told(testbed, monkeypatch) -> None:
    monkeypatch.setattr("testbed.board_command._PACKAGES", ("httpx", "no_such_package"))
    refused = testbed("board", "list")
    assert refused.code == 2
    assert "need no_such_package: pip install 'capability-testbed[board]'" in refused.err


# -- served


@contextmanager
def interruptible() -> Iterator[None]:
    """What is started now can be ended by Ctrl-C, also where the tests run in a shell's background, which cannot."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of `testbed board serve`, and its process; what it logs goes to a file."""
    command = [sys.executable, "-m", "testbed", "board", "serve", "--port", "0"]
    with (folder / "log").open("a") as log, interruptible():
        begin = log.tell()
        process = subprocess.Popen(command, cwd=folder, stderr=log, stdout=log, text=True)
    try:
        until = time.monotonic() + 100
        while not (found := re.search(r" at (http://127\.0\.0\.1:\d+)", (folder / "log").read_text()[begin:])):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield found[1], process
    finally:
        process.kill()
        process.wait()


def test_a_served_database_without_a_board_says_so(testbed, tmp_path: Path) -> None:
    """Else a mistyped --store serves an empty list, and nothing tells why."""
    with served(tmp_path):
        pass
    assert "there is no board in" in (tmp_path / "log").read_text()
    testbed("board", "create", str(board_file(tmp_path)))
    (tmp_path / "log").unlink()
    with served(tmp_path) as (address, _):
        assert httpx.get(f"{address}/boards/sums", timeout=60).status_code == 200
    assert "there is no board in" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("where", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.usefixtures("store")
def test_a_board_from_its_file_to_a_checked_entry_over_a_restart(testbed, tmp_path: Path, monkeypatch) -> None:
    board = a_board(tmp_path)
    a_run(tmp_path / "testbed.sqlite", board)
    testbed("board", "create", "board.toml")
    token = testbed("board", "token", "create", "ann", "--scope", "submit").out.strip()
    with served(tmp_path) as (address, process):
        refused = testbed("board", "submit", "mine", "--board", f"{address}/boards/sums")
        assert (refused.code, "TESTBED_TOKEN" in refused.err) == (2, True)
        monkeypatch.setenv("TESTBED_TOKEN", token)
        sent = testbed("board", "submit", "mine", "--board", f"{address}/boards/sums", "--json")
        assert sent.code == 0, sent.err
        assert sent.data["state"] in ("verified", "partly")
        page = f"/entries/{sent.data['entry']}"
        assert httpx.get(address + page, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
    with served(tmp_path) as (address, process):
        assert httpx.get(address + page, timeout=60).status_code == 200
        assert sent.data["entry"] in httpx.get(f"{address}/boards/sums", timeout=60).text
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert token[16:] not in log
    assert "GET /boards/sums 200" in log
