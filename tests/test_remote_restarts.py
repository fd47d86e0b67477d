"""Sessions that nobody ends, and sessions whose server restarts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.remote import SECRET, SUMS_IN_PRIVATE, VAULTS, added, attempts_of, calculated, serving
from testbed.board import audit
from testbed.protocol import write_answer, write_call
from testbed.types import REDRAWN, Status


@pytest.fixture(autouse=True, scope="module")
def secret() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_BOARD_SECRET", SECRET)
        yield


def until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    pytest.fail("it never came to pass")


def test_a_session_that_nobody_ends_is_a_failure(where: str, tmp_path: Path) -> None:
    text = SUMS_IN_PRIVATE.replace("turns = 3", "turns = 3\nseconds = 1.5")
    with serving(tmp_path, text, where) as service:
        entry = service.entry()
        session, other = service.begin(entry, "bare"), service.begin(entry, "bare")
        service.step(other, 0, write_answer(added(other["prompt"])))
        until(lambda: service.get(f"sessions/{session['session']}")["state"] == "done")
        late = service.step(session, 0, write_answer(added(session["prompt"])))
        assert (late["truncated"], late["limit"], late["reward"]) == (True, "seconds", 0)
        ended = {a.ended: (a.success, a.status) for a in attempts_of(service, entry)}
    assert ended == {"limit:seconds": (False, Status.COMPLETE), "answered": (True, Status.COMPLETE)}


def test_sessions_go_on_after_a_restart_with_the_same_results(where: str, tmp_path: Path) -> None:
    with serving(tmp_path, where=where) as service:
        entry = service.entry()
        session, fresh = service.begin(entry, "calculator"), service.begin(entry, "bare")
        reply = service.step(session, 0, calculated(session["prompt"]))
    with serving(tmp_path, where=where) as service:
        assert service.step(session, 0, calculated(session["prompt"])) == reply
        assert service.get(f"sessions/{fresh['session']}")["prompt"] == fresh["prompt"]
        service.step(session, 1, write_answer(added(session["prompt"])))
        (attempt,) = attempts_of(service, entry)
        assert (attempt.success, attempt.cost.tool_calls, attempt.cost.turns) == (True, 1, 2)
        assert [m["role"] for m in attempt.transcript] == ["user", "assistant", "tool", "assistant"]


def test_the_clock_of_an_abandoned_session_runs_on_after_a_restart(where: str, tmp_path: Path) -> None:
    text = SUMS_IN_PRIVATE.replace("turns = 3", "turns = 3\nseconds = 1.2")
    with serving(tmp_path, text, where) as service:
        entry = service.entry()
        session = service.begin(entry, "bare")
        service.step(session, 0, "hm")
    time.sleep(1.3)
    with serving(tmp_path, text, where) as service:
        assert len(service.get(f"remote-entries/{entry['entry']}")["open"]) == 1
        until(lambda: not service.get(f"remote-entries/{entry['entry']}")["open"])
        assert [a.ended for a in attempts_of(service, entry)] == ["limit:seconds"]


def test_what_a_restart_cannot_take_up_again_is_missing_and_noted(where: str, tmp_path: Path) -> None:
    with serving(tmp_path, VAULTS, where) as service:
        entry = service.entry()
        session, begun = service.begin(entry, "asks"), service.begin(entry, "asks")
        service.step(session, 0, write_call("ask", {"text": "open"}))
    with serving(tmp_path, VAULTS, where) as service:
        found = service.get(f"remote-entries/{entry['entry']}")["open"]
        assert [one["session"] for one in found] == [begun["session"]]
        assert service.get(f"sessions/{session['session']}")["state"] == "lost"
        reply = service.step(session, 1, write_answer("1"))
        assert (reply["truncated"], reply["lost"]) == (True, "the server could not do its part")
        (attempt,) = attempts_of(service, entry)
        assert (attempt.status, attempt.ended) == (Status.MISSING, "missing:server_restarted")
        (note,) = audit.read(service.db, action="remote.session-lost")
        assert note.subject == session["session"]
        left = {arm["name"]: arm["left"] for arm in service.get(f"remote-entries/{entry['entry']}")["arms"]}
        assert sum(left["asks"].values()) == 3 * 2 - 2


def test_what_was_lost_is_served_again_where_the_board_allows_it(where: str, tmp_path: Path) -> None:
    text = VAULTS.replace("[measure]", "[rules]\nmost_served = 2\n\n[measure]")
    with serving(tmp_path, text, where) as service:
        entry = service.entry()
        session = service.begin(entry, "asks", task=0)
        service.step(session, 0, write_call("ask", {"text": "open"}))
    with serving(tmp_path, text, where) as service:
        left = {arm["name"]: arm["left"] for arm in service.get(f"remote-entries/{entry['entry']}")["arms"]}
        assert left["asks"]["0"] == 2
        samples = [service.begin(entry, "asks", task=0)["sample"] for _ in range(2)]
        assert sorted(samples) == [0, 1]
        for one in service.get(f"remote-entries/{entry['entry']}")["open"]:
            service.post(f"sessions/{one['session']}/end")
        found = {a.sample: a.faults.get(REDRAWN, 0) for a in attempts_of(service, entry)}
        assert found == {session["sample"]: 1, 1 - session["sample"]: 0}  # what broke may have chosen it
        service.begin(entry, "asks", task=0, status=409)
