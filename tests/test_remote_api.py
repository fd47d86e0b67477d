from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.websockets import WebSocketDisconnect

from helpers.remote import MANIFEST, SECRET, SUMS_IN_PRIVATE, Service, added, attempts_of, calculated, serving
from testbed.board import boards
from testbed.board.accounts import create_token
from testbed.board.remote import entries as remote_entries
from testbed.board.remote import serving as remote_serving
from testbed.board.remote.sessions import Sessions
from testbed.errors import SandboxDied
from testbed.protocol import write_answer
from testbed.types import Status

QUICK_IN_POSTGRESQL = (
    "test_nothing_is_served_more_often_than_allowed_even_at_one_time",
    "test_a_step_that_is_sent_again_is_answered_as_before_and_charged_once",
    "test_a_closed_entry_gets_figures_and_a_rank_like_any_other",
    "test_a_lost_session_stays_lost_when_its_sample_is_served_again",
    "test_a_step_that_could_not_be_kept_has_not_happened",
    "test_what_was_served_least_comes_next_and_lost_ones_again_only_as_often_as_allowed",
)


@pytest.fixture(autouse=True, scope="module")
def secret() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_BOARD_SECRET", SECRET)
        yield


@pytest.fixture(scope="module")
def shared(where_shared: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("board"), where=where_shared) as service:
        yield service


@pytest.fixture
def sums(shared: Service) -> Iterator[Service]:
    """A board that all tests share; each has entries of its own."""
    token = shared.http.headers["Authorization"]
    yield shared
    shared.http.headers["Authorization"] = token


def test_an_attempt_is_served_metered_and_graded_there(sums: Service) -> None:
    entry = sums.entry()
    session = sums.begin(entry, "calculator")
    assert session["last"]["observation"]["text"] == session["prompt"]
    assert [tool["function"]["name"] for tool in session["tools"]] == ["calculator"]
    reply = sums.step(session, 0, calculated(session["prompt"]))
    assert reply["observation"]["text"] == added(session["prompt"])
    assert (reply["reward"], reply["terminated"], reply["truncated"]) == (0, False, False)
    last = sums.step(session, 1, write_answer(reply["observation"]["text"]))
    assert (last["reward"], last["terminated"]) == (1, True)
    (attempt,) = attempts_of(sums, entry)
    assert (attempt.success, attempt.ended, attempt.status) == (True, "answered", Status.COMPLETE)
    assert (attempt.cost.tool_calls, attempt.cost.turns) == (1, 2)
    said = sum(len(m["content"].encode()) / 4 for m in attempt.transcript if m["role"] == "assistant")
    assert said <= attempt.cost.generated_tokens < said + 2


def test_an_entry_is_closed_when_everything_was_served_and_only_then(sums: Service) -> None:
    entry = sums.entry()
    session = sums.begin(entry, "bare")
    refused = sums.post(f"remote-entries/{entry['entry']}/close", status=409)["error"]
    assert "1 sessions are open" in refused
    assert "5 in arm 'bare', 3 in arm 'calculator'" in refused
    sums.step(session, 0, write_answer(added(session["prompt"])))
    sums.finish(entry)
    assert len(attempts_of(sums, entry)) == 3 * 2 + 3 * 1
    assert sums.get(f"remote-entries/{entry['entry']}")["state"] == "closed"
    assert "closed" in sums.begin(entry, "bare", status=409)["error"]


def test_a_closed_entry_gets_figures_and_a_rank_like_any_other(sums: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from testbed.board.service import Worker

    monkeypatch.setattr("testbed.board.results.pictures", lambda *given, **named: {})  # drawn in other tests
    entry = sums.entry()
    sums.finish(entry)
    Worker(sums.db).run_once()
    from sqlalchemy import select

    from testbed.board.schema import entries, entry_arms, rankings

    with sums.db.reading() as connection:
        row = connection.execute(select(entries).where(entries.c.id == entry["entry"])).one()
        arms = connection.execute(select(entry_arms).where(entry_arms.c.entry == entry["entry"])).all()
        ranked = connection.execute(select(rankings)).all()
    assert (row.kind, row.state) == ("remote", "partly")
    assert [reason["level"] for reason in json.loads(row.reasons)] == ["ok", "ok", "unchecked"]
    assert {json.loads(arm.name): arm.reach for arm in arms} == {"bare": 1, "calculator": 1}
    assert ranked


def test_nothing_is_served_more_often_than_allowed_even_at_one_time(sums: Service) -> None:
    entry = sums.entry()

    def begin(_: int) -> int:
        path = f"/api/remote-entries/{entry['entry']}/sessions"
        return sums.http.post(path, json={"arm": "bare", "task": 1}).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(begin, range(8)))
    assert sorted(codes) == [201] * 2 + [409] * 6
    arms = {arm["name"]: arm["left"] for arm in sums.get(f"remote-entries/{entry['entry']}")["arms"]}
    assert arms == {"bare": {"0": 2, "2": 2}, "calculator": {"0": 1, "1": 1, "2": 1}}


def test_a_step_that_is_sent_again_is_answered_as_before_and_charged_once(sums: Service) -> None:
    entry = sums.entry()
    session = sums.begin(entry, "calculator")
    call = calculated(session["prompt"])
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: sums.step(session, 0, call), range(6)))
    assert all(reply == replies[0] for reply in replies)
    answer = write_answer("1")
    assert sums.step(session, 1, answer) == sums.step(session, 1, answer)
    assert sums.step(session, 0, call) == replies[0]
    (attempt,) = attempts_of(sums, entry)
    assert (attempt.cost.tool_calls, attempt.cost.turns) == (1, 2)


def test_steps_out_of_turn_are_refused(sums: Service) -> None:
    session = sums.begin(sums.entry(), "bare")
    assert "next step is 0" in sums.step(session, 1, "x", 409)["error"]
    sums.step(session, 0, "x")
    assert "another action" in sums.step(session, 0, "y", 409)["error"]
    sums.step(session, 1, write_answer("1"))
    assert "has ended" in sums.step(session, 2, "x", 409)["error"]


def test_limits_hold_there(sums: Service) -> None:
    entry = sums.entry()
    session = sums.begin(entry, "bare")
    replies = [sums.step(session, n, "I think") for n in range(3)]
    assert [reply["truncated"] for reply in replies] == [False, False, True]
    assert replies[-1]["limit"] == "turns"
    assert [a.ended for a in attempts_of(sums, entry)] == ["limit:turns"]


def test_who_comes_back_finds_the_session_as_it_was(sums: Service) -> None:
    entry = sums.entry()
    session = sums.begin(entry, "calculator", task=2)
    assert sums.get(f"sessions/{session['session']}") | {"seconds_left": 0} == session | {"seconds_left": 0}
    reply = sums.step(session, 0, calculated(session["prompt"]))
    found = sums.get(f"sessions/{session['session']}")
    assert (found["last"], found["step"], found["state"]) == (reply, 1, "open")
    assert sums.get(f"remote-entries/{entry['entry']}")["open"] == [
        {"session": session["session"], "arm": "calculator", "task": 2}
    ]


def test_references_and_hashes_never_leave(sums: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    original = sums.http.request
    entry = sums.entry()
    for arm in ("bare", "calculator"):
        session = sums.begin(entry, arm)
        said += [json.dumps(session)]
        said += [json.dumps(sums.step(session, 0, write_answer("0")))]
        said += [json.dumps(sums.get(f"sessions/{session['session']}"))]
    said += [json.dumps(sums.get(f"remote-entries/{entry['entry']}")), original("GET", "/api/openapi.json").text]
    for task in boards.get(sums.db, sums.board).tasks:
        assert not any(task.hash in text for text in said)
        assert not any(f'"{task.reference}"' in text for text in said)


def test_what_breaks_in_a_grader_tells_nothing_and_is_no_failure(
    sums: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from testbed.registry import env_class

    def broken(self: object, task: Any, answer: str) -> Any:
        raise ValueError(f"expected {task.reference}")

    monkeypatch.setattr(env_class("Addition-v0"), "grade", broken)
    entry = sums.entry()
    session = sums.begin(entry, "bare")
    reply = sums.step(session, 0, write_answer("1"))
    assert added(session["prompt"]) not in json.dumps(reply)
    assert (reply["truncated"], reply["lost"]) == (True, "the server could not do its part")
    assert [a.status for a in attempts_of(sums, entry)] == [Status.MISSING]


def test_a_lost_session_stays_lost_when_its_sample_is_served_again(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SUMS_IN_PRIVATE.replace("[measure]", "[rules]\nmost_served = 2\n\n[measure]")

    async def fail(*_: object) -> None:
        raise SandboxDied("gone")

    with serving(tmp_path, text, where) as service:
        entry = service.entry()
        lost = service.begin(entry, "bare", 0)
        with monkeypatch.context() as patch:
            patch.setattr("testbed.board.remote.live.Live.take", fail)
            service.step(lost, 0, "<answer>1</answer>")
        others = [service.begin(entry, "bare", 0) for _ in range(2)]
        again = next(one for one in others if one["sample"] == lost["sample"])
        service.step(again, 0, write_answer(added(again["prompt"])))
        assert service.get(f"sessions/{lost['session']}")["state"] == "lost"
        assert service.get(f"sessions/{again['session']}")["state"] == "done"


def test_what_was_served_least_comes_next_and_lost_ones_again_only_as_often_as_allowed(sums: Service) -> None:
    entry = sums.entry()
    tasks = len(boards.get(sums.db, "hidden-sums").tasks)
    samples = next(arm for arm in entry["arms"] if arm["name"] == "bare")["samples"]
    given = [sums.begin(entry, "bare") for _ in range(tasks * samples)]
    assert [session["task"] for session in given] == [n for _ in range(samples) for n in range(tasks)]
    assert "nothing is left" in sums.begin(entry, "bare", status=409)["error"]
    assert "nothing is left" in sums.begin(entry, "bare", 0, status=409)["error"]


def test_an_entry_that_is_refused_leaves_no_run_behind(sums: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [run.name for run in sums.db.store.runs()]
    monkeypatch.setattr(remote_entries, "MOST_ENTRIES", 0)
    sums.post("boards/hidden-sums/remote-entries", {"title": "another", "manifest": MANIFEST}, 429)
    assert [run.name for run in sums.db.store.runs()] == before


def test_a_step_that_could_not_be_kept_has_not_happened(sums: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = sums.entry()
    session = sums.begin(entry, "calculator")
    keep, failed = Sessions._store, []

    def fails_once(self: Sessions, *given: Any) -> None:
        if not failed:
            failed.append(given)
            raise PoolTimeout("the database is busy")
        keep(self, *given)

    monkeypatch.setattr(Sessions, "_store", fails_once)
    call = calculated(session["prompt"])
    sums.step(session, 0, call, status=503)
    assert sums.get(f"sessions/{session['session']}")["step"] == 0
    reply = sums.step(session, 0, call)
    sums.step(session, 1, write_answer(reply["observation"]["text"]))
    (attempt,) = attempts_of(sums, entry)
    assert (attempt.success, attempt.cost.tool_calls, attempt.cost.turns) == (True, 1, 2)


def test_entries_and_sessions_are_ones_own(sums: Service) -> None:
    entry = sums.entry()
    session = sums.begin(entry, "bare")
    sums.http.headers["Authorization"] = f"Bearer {create_token(sums.db, 'bob', ['submit'])}"
    sums.get(f"remote-entries/{entry['entry']}", 404)
    sums.get(f"sessions/{session['session']}", 404)
    sums.step(session, 0, "x", 404)
    sums.post(f"remote-entries/{entry['entry']}/close", status=404)
    sums.http.headers["Authorization"] = f"Bearer {create_token(sums.db, 'eve', ['read'])}"
    sums.get(f"sessions/{session['session']}", 403)
    del sums.http.headers["Authorization"]
    sums.get(f"sessions/{session['session']}", 401)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("boards/hidden-sums/remote-entries", {"title": "x"}, 422),
        ("boards/hidden-sums/remote-entries", {"title": "x", "manifest": {"model": "m"}, "arms": ["calculator"]}, 409),
        ("boards/hidden-sums/remote-entries", {"title": "x", "manifest": {"model": "m"}, "arms": ["none"]}, 404),
        ("boards/hidden-sums/remote-entries", {"title": "x", "manifest": {"model": "m", "gain": 1}}, 422),
        ("boards/other/remote-entries", {"title": "x", "manifest": {"model": "m"}}, 404),
        ("remote-entries/x/sessions", {"arm": "bare"}, 422),
        (f"remote-entries/{'0' * 32}/sessions", {"arm": "bare"}, 404),
        (f"sessions/{'0' * 32}/steps", {"n": 0, "action": "x"}, 404),
        (f"sessions/{'0' * 32}/steps", {"n": -1, "action": "x"}, 422),
    ],
)
def test_bad_requests_are_refused(sums: Service, path: str, body: Any, status: int) -> None:
    assert sums.post(path, body, status)["error"]


def test_bad_choices_of_a_session_are_refused(sums: Service) -> None:
    entry = sums.entry()
    assert "runs bare, calculator" in sums.begin(entry, "python", status=404)["error"]
    assert "no task 3" in sums.begin(entry, "bare", task=3, status=404)["error"]
    sums.begin(entry, "bare", task="last", status=422)


def test_too_many_open_sessions_and_entries_are_refused(sums: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = sums.entry()
    monkeypatch.setattr(remote_serving, "MOST_OPEN", 1)
    session = sums.begin(entry, "bare")
    sums.begin(entry, "bare", status=429)
    assert sums.post(f"sessions/{session['session']}/end")["last"]["truncated"]
    sums.begin(entry, "bare")
    monkeypatch.setattr(remote_entries, "MOST_ENTRIES", 1)
    body = {"title": "another", "manifest": MANIFEST}
    assert "close one first" in sums.post("boards/hidden-sums/remote-entries", body, 429)["error"]


def test_an_attempt_that_is_given_up_is_a_failure_at_once(sums: Service) -> None:
    entry = sums.entry()
    session = sums.begin(entry, "bare")
    given_up = sums.post(f"sessions/{session['session']}/end")
    assert (given_up["state"], given_up["last"]["limit"]) == ("done", "")
    assert sums.post(f"sessions/{session['session']}/end") == given_up
    assert sums.step(session, 0, write_answer(added(session["prompt"])))["reward"] == 0
    (attempt,) = attempts_of(sums, entry)
    assert (attempt.ended, attempt.success, attempt.status) == ("agent:silent", False, Status.COMPLETE)


def test_public_boards_are_run_at_home(tmp_path: Path) -> None:
    from helpers.boards import SUMS

    with serving(tmp_path, SUMS) as service:
        said = service.post("boards/sums/remote-entries", {"title": "x", "manifest": {"model": "m"}}, 400)
        assert "public" in said["error"]


def test_a_websocket_says_the_same(sums: Service) -> None:
    entry = sums.entry()
    session = sums.begin(entry, "calculator")
    with sums.http.websocket_connect(f"/api/sessions/{session['session']}/ws") as socket:
        assert socket.receive_json()["prompt"] == session["prompt"]
        socket.send_json({"n": 0, "action": calculated(session["prompt"])})
        reply = socket.receive_json()
        assert reply["observation"]["text"] == added(session["prompt"])
        for wrong, status in (('{"n": 5, "action": "x"}', 409), ("[" * 10_000, 400), ("{}", 422), ("nonsense", 422)):
            socket.send_text(wrong)
            assert socket.receive_json()["status"] == status
        socket.send_bytes(b"{}")
        told = socket.receive_json()
        assert (told["status"], "as text" in told["error"]) == (422, True)
    with sums.http.websocket_connect(f"/api/sessions/{session['session']}/ws") as socket:  # after the line broke
        assert socket.receive_json()["last"] == reply
        socket.send_json({"n": 1, "action": write_answer(reply["observation"]["text"])})
        assert socket.receive_json()["reward"] == 1
    (attempt,) = attempts_of(sums, entry)
    assert attempt.cost.tool_calls == 1


def test_a_websocket_needs_a_token_and_a_session_of_ones_own(sums: Service) -> None:
    session = sums.begin(sums.entry(), "bare")
    for header, status in (("", 401), (f"Bearer {create_token(sums.db, 'bob', ['submit'])}", 404)):
        sums.http.headers["Authorization"] = header
        with sums.http.websocket_connect(f"/api/sessions/{session['session']}/ws") as socket:
            assert socket.receive_json()["status"] == status
            with pytest.raises(WebSocketDisconnect):
                socket.receive_json()


def test_the_service_is_documented(sums: Service) -> None:
    paths = sums.http.get("/api/openapi.json").json()["paths"]
    step = paths["/api/sessions/{session_id}/steps"]["post"]
    assert {"200", "401", "403", "404", "409", "422", "429", "503"} <= set(step["responses"])
    assert step["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Reply")
