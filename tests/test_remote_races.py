"""What could be won at the service by asking twice, at one time, or while its database does not answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.types import Message

from helpers.remote import MANIFEST, SECRET, Service, added, attempts_of, calculated, serving
from helpers.virtual_time import in_virtual_time
from testbed.board import limits
from testbed.board.limits import RateLimit
from testbed.board.refusals import Conflict
from testbed.board.remote import entries as remote_entries
from testbed.board.remote.live import Live
from testbed.board.remote.serving import session
from testbed.board.remote.sessions import Sessions, sessions_in
from testbed.board.settings import Settings
from testbed.protocol import write_answer
from testbed.registry import env_class
from testbed.types import Status


@pytest.fixture(scope="module")
def sums(where_shared: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(tmp_path_factory.mktemp("board"), where=where_shared) as service,
    ):
        patch.setenv("TESTBED_BOARD_SECRET", SECRET)
        yield service


def sessions_of(service: Service) -> Sessions:
    return sessions_in(service.http.app.state)  # type: ignore[attr-defined]


@pytest.fixture
def failing_once(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The first step cannot be kept, which takes a while to be seen; set once it is being tried."""
    keep, tried = Sessions._store, threading.Event()

    def store(self: Sessions, *given: Any) -> None:
        if not tried.is_set():
            tried.set()
            time.sleep(0.3)
            raise PoolTimeout("the database is busy")
        keep(self, *given)

    monkeypatch.setattr(Sessions, "_store", store)
    return tried


def how_it_stands(service: Service, begun: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = service.get(f"sessions/{begun['session']}")
    return found


def test_who_waited_for_a_step_that_could_not_be_kept_is_not_told_its_reply(
    sums: Service, failing_once: threading.Event
) -> None:
    entry = sums.entry()
    begun = sums.begin(entry, "bare")

    def guess(number: int) -> tuple[int, int]:
        assert number == 0 or failing_once.wait(20)
        body = {"n": 0, "action": write_answer(str(number))}
        answer = sums.http.post(f"/api/sessions/{begun['session']}/steps", json=body)
        return number, answer.status_code

    with ThreadPoolExecutor(2) as pool:
        answers = dict(pool.map(guess, range(2)))
    assert answers == {0: 503, 1: 200}  # the second guess is the only one, and was taken as such
    (attempt,) = attempts_of(sums, entry)
    assert (attempt.answer, how_it_stands(sums, begun)["state"]) == ("1", "done")


def test_no_time_is_won_by_a_step_that_could_not_be_kept(sums: Service, failing_once: threading.Event) -> None:
    begun = sums.begin(sums.entry(), "bare")
    sums.step(begun, 0, "hm", 503)
    time.sleep(0.1)
    assert how_it_stands(sums, begun)["seconds_left"] <= begun["seconds_left"] - 0.4


def test_a_session_that_was_looked_at_before_it_began_is_the_same_one(sums: Service) -> None:
    begun = sums.begin(sums.entry(), "calculator")
    served, sessions = session(sums.db, begun["session"]), sessions_of(sums)
    reply = sums.step(begun, 0, calculated(begun["prompt"]))

    async def begin_late() -> dict[str, Any]:
        return await sessions.begin(await sessions.bench(sums.board), served)

    found = asyncio.run(sessions.run(begin_late))
    assert (found["step"], found["last"]) == (1, reply)


def test_a_step_that_another_server_took_is_not_taken_again(sums: Service) -> None:
    begun = sums.begin(sums.entry(), "calculator")
    other = Sessions(sums.db)
    try:
        served = session(sums.db, begun["session"])
        bench = asyncio.run(other.run(lambda: other.bench(sums.board)))
        asyncio.run(other.run(lambda: other.look(bench, served)))
        reply = sums.step(begun, 0, calculated(begun["prompt"]))
        with pytest.raises(Conflict, match="another server"):
            asyncio.run(other.run(lambda: other.step(bench, served, 0, "what else?")))
        assert asyncio.run(other.run(lambda: other.look(bench, served)))["last"] == reply
    finally:
        other.close()


def test_an_answer_that_comes_late_is_not_graded(sums: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = sums.entry()
    begun = sums.begin(entry, "bare")
    monkeypatch.setattr(Live, "seconds_left", property(lambda self: 0.0))
    late = sums.step(begun, 0, write_answer(added(begun["prompt"])))
    assert (late["reward"], late["truncated"], late["limit"]) == (0, True, "seconds")
    assert [(a.ended, a.success) for a in attempts_of(sums, entry)] == [("limit:seconds", False)]


def test_what_cannot_be_taken_up_again_is_lost_and_holds_no_entry_open(
    sums: Service, failing_once: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = sums.entry()
    begun = sums.begin(entry, "bare")
    sums.step(begun, 0, "hm", 503)

    def broken(self: object, *given: Any) -> Any:
        raise ValueError("a secret")

    monkeypatch.setattr(env_class("Addition-v0"), "enter", broken)
    found = how_it_stands(sums, begun)
    assert (found["state"], found["last"]["lost"]) == ("lost", "the server could not do its part")
    assert [a.status for a in attempts_of(sums, entry)] == [Status.MISSING]
    monkeypatch.undo()
    sums.finish(entry)
    reasons = sums.get(f"entries/{entry['entry']}")["reasons"]
    assert [one["text"] for one in reasons if one["check"] == "missing"] == [
        "1 session was lost on this server; the attempts count as missing, and figures have bounds for them"
    ]


def test_no_more_entries_are_open_than_allowed_even_if_they_come_at_one_time(
    sums: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums.entry()
    with sums.db.reading() as connection:
        open_ = connection.exec_driver_sql("SELECT count(*) FROM remote_entries WHERE state = 'open'").scalar_one()
    monkeypatch.setattr(remote_entries, "MOST_ENTRIES", open_ + 2)
    body = {"title": "another", "manifest": MANIFEST}

    def begin(_: int) -> int:
        return sums.http.post(f"/api/boards/{sums.board}/remote-entries", json=body).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(begin, range(6))) == [201] * 2 + [429] * 4


def test_messages_of_a_websocket_wait_like_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    def now() -> float:
        return asyncio.get_running_loop().time()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(4):
            await receive()
            told.append(now())

    async def receive() -> Message:
        return {"type": "websocket.receive", "text": "x"}

    async def send(message: Message) -> None: ...

    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=now))
    scope: dict[str, Any] = {"type": "websocket", "headers": [], "client": ("127.0.0.1", 1)}
    limit = RateLimit(app, Settings(requests=20, burst=3), set())  # type: ignore[arg-type]
    in_virtual_time(lambda: limit(scope, receive, send))
    assert told == pytest.approx([0.0, 0.0, 0.05, 0.1])  # opening it, and two messages, at once
