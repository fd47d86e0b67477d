"""The worker: what waits is done, what fails is tried again and then told, and nothing is lost or shown for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from helpers.boards import FREE, a_board, client, listening
from testbed.board import audit, boards, entry_changes, service
from testbed.board.app import create_app
from testbed.board.audit import now
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.schema import entries, entry_reports, rankings
from testbed.board.service import BEGINNINGS, FAILURES, Steps, Worker, check_again
from testbed.errors import UsageError
from testbed.store.schema import pack, unpack

QUICK_IN_POSTGRESQL = (
    "test_a_board_without_entries_is_not_ranked",
    "test_an_entry_is_checked_again_once_the_server_can",
    "test_an_entry_that_the_server_cannot_check_is_rejected_and_says_so",
    "test_each_step_that_a_killed_server_left_undone_is_done_by_the_next",
    "test_the_thread_outlives_a_database_that_is_away",
)


@pytest.fixture
def board(db: BoardDatabase, tmp_path: Path) -> Board:
    return boards.create(db, a_board(tmp_path))


def add(db: BoardDatabase, id_: str, state: str = "waiting", board: str = "sums", account: str = "ann") -> None:
    """An entry as a complete upload leaves it."""
    row = {"id": id_, "board": board, "account": account, "title": pack(id_), "kind": "submitted", "manifest": "{}"}
    with db.writing() as connection:
        connection.execute(entries.insert().values(**row, state=state, reasons="[]", created=now()))


def state(db: BoardDatabase, id_: str) -> str:
    with db.reading() as connection:
        return str(connection.scalar(sa.select(entries.c.state).where(entries.c.id == id_)))


def reasons(db: BoardDatabase, id_: str) -> list[str]:
    with db.reading() as connection:
        found = unpack(connection.scalar(sa.select(entries.c.reasons).where(entries.c.id == id_)))
    return [reason["text"] for reason in found]


class Doing:
    """Steps that write what the real ones do, in tables, and fail where they are told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fail: dict[str, int] = {}
        self.hold: Callable[[], object] = lambda: None

    def _do(self, what: str) -> None:
        self.hold()
        if self.fail.get(what, 0) > 0:
            self.fail[what] -= 1
            raise RuntimeError(f"{what} failed")
        self.done.append(what)

    def steps(self) -> Steps:
        def verify(db: BoardDatabase, entry: str) -> None:
            self._do(f"verify {entry}")
            with db.writing() as connection:
                connection.execute(entries.update().where(entries.c.id == entry).values(state="verified"))

        def compute(db: BoardDatabase, entry: str) -> None:
            self._do(f"compute {entry}")
            with db.writing() as connection:
                connection.execute(entry_reports.insert().values(entry=entry, data=b"", charts=b""))

        def rank(db: BoardDatabase, board: Board) -> None:
            self._do(f"rank {board.slug}")

        return Steps(verify, compute, rank)


def worker(db: BoardDatabase, doing: Doing) -> Worker:
    return Worker(db, doing.steps(), pause=0.0)


def test_entries_are_checked_in_order_and_their_board_ranked_once(db: BoardDatabase, board: Board) -> None:
    doing = Doing()
    for id_ in ("b", "a"):
        add(db, id_)
    worker(db, doing).run_once()
    assert doing.done == ["verify b", "compute b", "verify a", "compute a", "rank sums"]


def test_what_was_withdrawn_while_the_server_failed_at_it_stays_withdrawn(db: BoardDatabase, board: Board) -> None:
    doing = Doing()
    doing.fail["compute a"] = FAILURES
    add(db, "a")
    for _ in range(FAILURES - 1):
        worker(db, doing).run_once()
    assert state(db, "a") == "verified"
    doing.hold = lambda: entry_changes.withdraw(db, "a", "ann")
    worker(db, doing).run_once()
    assert state(db, "a") == "withdrawn"
    with pytest.raises(UsageError, match="it is withdrawn"):
        check_again(db, "a")


def test_an_account_with_many_entries_holds_up_nobody_else(db: BoardDatabase, board: Board) -> None:
    doing = Doing()
    for id_ in ("ann 1", "ann 2", "ann 3", "ann 4", "bob 1", "bob 2"):
        add(db, id_, account=id_[:3])
    doing.hold = lambda: len(doing.done) == 2 and add(db, "eve 1", account="eve")  # comes while others are checked
    worker(db, doing).run_once()
    checked = [what.removeprefix("verify ") for what in doing.done if what.startswith("verify")]
    assert checked == ["ann 1", "bob 1", "eve 1", "ann 2", "bob 2", "ann 3", "ann 4"]


def test_what_is_done_is_not_done_again(db: BoardDatabase, board: Board) -> None:
    doing = Doing()
    add(db, "a")
    add(db, "b", "rejected")
    for _ in range(2):
        worker(db, doing).run_once()
    assert doing.done == ["verify a", "compute a", "rank sums"]


def test_each_step_that_a_killed_server_left_undone_is_done_by_the_next(db: BoardDatabase, board: Board) -> None:
    for stopped_before in ("verify", "compute", "rank"):
        doing, id_ = Doing(), f"before {stopped_before}"
        add(db, id_)

        def killed(doing: Doing = doing, before: str = stopped_before) -> None:
            if len(doing.done) == ("verify", "compute", "rank").index(before):
                raise KeyboardInterrupt

        doing.hold = killed
        with pytest.raises(KeyboardInterrupt):
            worker(db, doing).run_once()
        doing.hold = lambda: None
        worker(db, doing).run_once()
        assert doing.done == [f"verify {id_}", f"compute {id_}", "rank sums"]


def test_a_step_that_fails_is_noted_and_tried_again(db: BoardDatabase, board: Board) -> None:
    for step in ("verify", "compute"):
        doing, id_ = Doing(), f"fails to {step}"
        doing.fail = {f"{step} {id_}": FAILURES - 1}
        add(db, id_)
        service = worker(db, doing)
        for n in range(1, FAILURES):
            service.run_once()
            assert state(db, id_) == {"verify": "waiting", "compute": "verified"}[step]
            notes = audit.read(db, action="entry.check-failed", subject=id_)
            assert [note.detail["error"] for note in notes] == [f"RuntimeError: {step} {id_} failed"] * n
        service.run_once()
        assert state(db, id_) == "verified"
        assert f"compute {id_}" in doing.done


def test_an_entry_that_the_server_cannot_check_is_rejected_and_says_so(db: BoardDatabase, board: Board) -> None:
    for step, told in (("verify", "check it"), ("compute", "work out its figures")):
        doing = Doing()
        doing.fail = {f"{step} {step}": 99}
        add(db, step)
        add(db, f"after {step}")
        service = worker(db, doing)
        for _ in range(FAILURES + 3):
            service.run_once()
        assert (state(db, step), reasons(db, step)) == ("rejected", [f"the server could not {told}"])
        assert doing.fail[f"{step} {step}"] == 99 - FAILURES
        assert state(db, f"after {step}") == "verified"
        assert [note.subject for note in audit.read(db, action="entry.rejected", subject=step)] == [step]
    with db.reading() as connection:
        shown = connection.scalars(sa.select(entry_reports.c.entry)).all()
    assert sorted(shown) == ["after compute", "after verify"]


def test_failures_are_counted_over_restarts(db: BoardDatabase, board: Board) -> None:
    doing = Doing()
    doing.fail = {"verify a": 99}
    add(db, "a")
    for _ in range(FAILURES):
        worker(db, doing).run_once()
    assert state(db, "a") == "rejected"


def test_an_entry_that_kills_the_server_again_and_again_is_rejected(db: BoardDatabase, board: Board) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    doing = Doing()
    doing.hold = kill
    add(db, "a")
    for _ in range(BEGINNINGS):
        with pytest.raises(KeyboardInterrupt):
            worker(db, doing).run_once()
    assert state(db, "a") == "waiting"
    worker(db, doing).run_once()
    assert (state(db, "a"), reasons(db, "a")) == ("rejected", ["the server could not check it"])


def test_an_entry_is_checked_again_once_the_server_can(db: BoardDatabase, board: Board) -> None:
    doing = Doing()
    doing.fail = {"verify a": FAILURES}
    add(db, "a")
    for _ in range(FAILURES):
        worker(db, doing).run_once()
    assert state(db, "a") == "rejected"
    check_again(db, "a")
    assert (state(db, "a"), reasons(db, "a")) == ("waiting", [])
    doing.fail = {"verify a": FAILURES - 1}  # and it has all its tries again
    for _ in range(FAILURES):
        worker(db, doing).run_once()
    assert state(db, "a") == "verified"


def test_an_entry_that_was_decided_is_not_checked_again(db: BoardDatabase, board: Board) -> None:
    for id_ in ("waiting", "verified", "rejected", "partly"):
        add(db, id_, id_)
        with pytest.raises(UsageError, match=f"it is {id_}"):
            check_again(db, id_)
    with pytest.raises(UsageError, match="there is no entry 'none'"):
        check_again(db, "none")


def test_a_failed_step_is_put_off_longer_each_time(db: BoardDatabase, board: Board, monkeypatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(service.time, "monotonic", lambda: clock)
    doing = Doing()
    doing.fail = {"verify a": 99}
    add(db, "a")
    service_ = Worker(db, doing.steps(), pause=5.0)
    tried = []
    for _ in range(60):
        before = doing.fail["verify a"]
        service_.run_once()
        if doing.fail["verify a"] < before:
            tried.append(clock - 1000)
        clock += 10
    assert tried == [0, 40, 360]


def test_a_ranking_that_fails_is_tried_again_and_other_boards_are_ranked(db: BoardDatabase, board, tmp_path) -> None:
    boards.create(db, a_board(tmp_path, slug="other"))
    doing = Doing()
    doing.fail = {"rank other": 1}
    for slug in ("other", "sums"):
        add(db, f"of {slug}", board=slug)
    service = worker(db, doing)
    service.run_once()
    assert [what for what in doing.done if what.startswith("rank")] == ["rank sums"]
    service.run_once()
    assert doing.done[-1] == "rank other"


def test_boards_are_ranked_now_and_then_while_entries_keep_coming(db: BoardDatabase, board, monkeypatch) -> None:
    monkeypatch.setattr(service, "RANKED_EVERY", -1.0)
    doing = Doing()
    for id_ in "ab":
        add(db, id_)
    worker(db, doing).run_once()
    assert doing.done == ["verify a", "compute a", "rank sums", "verify b", "compute b", "rank sums"]


# -- as a thread


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_thread_does_what_it_is_woken_for_and_ends_when_told(db: BoardDatabase, board: Board) -> None:
    doing = Doing()
    service = Worker(db, doing.steps(), pause=1000.0)
    service.start()
    try:
        add(db, "a")
        service.wake()
        wait_for(lambda: "rank sums" in doing.done)
    finally:
        service.stop()
    assert not service._thread.is_alive()


def test_a_worker_that_is_told_to_end_as_it_looks_again_does_not_wait_for_its_next_look(
    db: BoardDatabase, board: Board
) -> None:
    class ToldJustBefore(threading.Event):
        def clear(self) -> None:
            service._stop.set()  # as `stop` does, in another thread
            self.set()
            super().clear()

    service = Worker(db, Doing().steps(), pause=1000.0)
    service._wake = ToldJustBefore()
    service.start()
    service._thread.join(20)
    assert not service._thread.is_alive()


def test_stopping_waits_for_the_entry_at_hand_and_begins_no_other(db: BoardDatabase, board: Board) -> None:
    doing, held = Doing(), threading.Event()

    def hold() -> None:
        held.set()
        assert service._stop.wait(20)

    doing.hold = hold
    for id_ in "ab":
        add(db, id_)
    service = Worker(db, doing.steps(), pause=1000.0)
    service.start()
    assert held.wait(20)
    service.stop()
    assert doing.done == ["verify a", "compute a"]
    assert state(db, "b") == "waiting"


def test_the_thread_outlives_a_database_that_is_away(db: BoardDatabase, board: Board, monkeypatch) -> None:
    doing, away = Doing(), [True, True]
    usual = Worker._next

    def next_(self: Worker, done: set[str]) -> str | None:
        if away:
            away.pop()
            raise RuntimeError("no database")
        return usual(self, done)

    monkeypatch.setattr(Worker, "_next", next_)
    add(db, "a")
    service = Worker(db, doing.steps(), pause=0.01)
    service.start()
    try:
        wait_for(lambda: "rank sums" in doing.done)
    finally:
        service.stop()


def test_the_application_starts_and_ends_the_worker_and_wakes_it(db: BoardDatabase, board: Board) -> None:
    with client(db, replace(FREE, work=True)) as opened:
        thread = opened.app.state.worker._thread
        assert thread.is_alive()
    assert not thread.is_alive()
    with client(db) as opened:
        assert opened.app.state.worker is None


def test_a_server_that_is_told_to_end_answers_the_requests_under_way(db: BoardDatabase) -> None:
    app, begun = create_app(db, FREE), threading.Event()

    def slow() -> str:
        begun.set()
        time.sleep(1)
        return "done"

    app.get("/api/slow")(slow)
    with ThreadPoolExecutor(1) as pool:
        with listening(app) as port:
            answer = pool.submit(httpx.get, f"http://127.0.0.1:{port}/api/slow")
            assert begun.wait(20)
        assert answer.result(20).json() == "done"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/api/slow")


def test_a_board_without_entries_is_not_ranked(db: BoardDatabase, board: Board) -> None:
    doing = Doing()
    add(db, "a", "rejected")
    worker(db, doing).run_once()
    with db.reading() as connection:
        assert connection.scalars(sa.select(rankings.c.entry)).all() == []
    assert doing.done == []
