"""`testbed board submit`: refused here before anything is sent, sent in spite of a bad line, and told the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from helpers.boards import FREE, VAULTS, a_board, a_database, a_run, client
from helpers.bundles import ran
from helpers.served_board import nobodys_port
from testbed.board import boards
from testbed.board.accounts import create_token
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.schema import entries
from testbed.board.submit import Submitted, submit
from testbed.board.verify import verify_entry
from testbed.errors import TransportError, UnknownName, UsageError
from testbed.store import Store

QUICK_IN_POSTGRESQL = ("test_a_run_is_sent_and_its_verdict_told", "test_a_submission_that_was_cut_goes_on_where_it_was")

HERE = "http://127.0.0.1/boards/sums"
SETTINGS = replace(FREE, chunk=1000)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return a_board(tmp_path)


@pytest.fixture
def served(board: Board, where: str) -> Iterator[tuple[BoardDatabase, TestClient]]:
    with a_database(where, board) as db, client(db, SETTINGS) as http:
        yield db, http


@pytest.fixture
def run(board: Board, tmp_path: Path) -> Iterator[Store]:
    a_run(tmp_path / "run.sqlite", board)
    with Store.open(tmp_path / "run.sqlite") as store:
        yield store


def sent(served: tuple[BoardDatabase, Any], store: Store, run: str = "mine", **options: Any) -> Submitted:
    db, http = served
    token = create_token(db, "ann", ["submit"])
    usual = {"pause": 0.001, "wait": 0.0, "say": [].append}
    return submit(store, run, HERE, token, client=http, **usual | options)


class Counting:
    """A client that counts what it sends, and cuts the line now and then."""

    def __init__(self, http: TestClient, cuts: dict[int, Any] | None = None) -> None:
        self._http, self._cuts, self.asked = http, cuts or {}, []

    def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        self.asked.append(f"{method} {url.partition('/api/')[2]}")
        cut = self._cuts.get(len(self.asked))
        if isinstance(cut, httpx.Response):
            return cut
        answer = self._http.request(method, url, **more)
        if cut is not None:  # the request got there, and its answer did not get back
            raise cut
        return answer


def test_a_run_is_sent_and_its_verdict_told(served: tuple[BoardDatabase, TestClient], run: Store) -> None:
    first = sent(served, run, title="Mine")
    assert first.state == "waiting"
    verify_entry(served[0], first.entry)
    told = sent(served, run)  # the same again finds what became of it
    assert (told.entry, told.state) == (first.entry, "partly")
    assert f"http://127.0.0.1/entries/{told.entry}: partly verified\n  not checked (counts): " in told.told()
    assert "  checked (answers): all 60 attempts were gone through and graded again." in told.told()


def test_sending_a_run_again_that_was_withdrawn_or_replaced_fails_and_says_so(
    served: tuple[BoardDatabase, TestClient], run: Store, testbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, http = served
    entry = sent(served, run).entry
    monkeypatch.setenv("TESTBED_TOKEN", create_token(db, "ann", ["submit"]))
    monkeypatch.setattr(httpx, "Client", lambda **_: SimpleNamespace(request=http.request, close=lambda: None))
    said = {
        "withdrawn": "withdrawn, which is for good: this run cannot be entered again. One with another arm can",
        "replaced": "replaced",
        "rejected": "rejected",
    }
    lines: list[str] = []
    for state, told in said.items():
        with db.writing() as connection:
            connection.execute(entries.update().values(state=state))
        again = sent(served, run)
        assert (again.entry, again.state, again.told()) == (entry, state, f"{again.page}: {told}")
        done = testbed("board", "submit", "mine", "--board", HERE, "--store", "run.sqlite")
        assert (done.code, done.out) == (1, f"{again.told()}\n"), done.err
        sent(served, run, title="Another", say=lambda line: lines.append(line))
    assert "retitle" not in " ".join(lines)  # of what is gone


def test_a_verdict_that_does_not_come_in_time_is_no_success_and_the_same_command_waits_on(
    served: tuple[BoardDatabase, TestClient], run: Store, testbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, http = served
    monkeypatch.setenv("TESTBED_TOKEN", create_token(db, "ann", ["submit"]))
    monkeypatch.setattr(httpx, "Client", lambda **_: SimpleNamespace(request=http.request, close=lambda: None))
    command = ("board", "submit", "mine", "--board", HERE, "--store", "run.sqlite", "--json", "--wait")
    late, sent_only = testbed(*command, "0.01"), testbed(*command, "0")
    assert (late.code, late.data["state"]) == (3, "waiting"), late.err
    assert (sent_only.code, sent_only.data) == (0, late.data), sent_only.err
    assert ": not decided yet. Its page will say, and the same command again waits for it" in sent(served, run).told()
    verify_entry(db, late.data["entry"])
    assert testbed(*command, "0.01").code == 0


def test_an_entry_is_called_as_its_run_unless_it_is_given_a_title_and_keeps_it(
    served: tuple[BoardDatabase, TestClient], run: Store
) -> None:
    said: list[str] = []
    entry = sent(served, run).entry
    assert served[1].get(f"/api/entries/{entry}").json()["title"] == "mine"
    sent(served, run, title="Another", say=said.append)
    assert "under the title 'mine', which stays; `testbed board retitle`" in "\n".join(said)
    assert served[1].get(f"/api/entries/{entry}").json()["title"] == "mine"


def test_a_server_that_is_not_there_is_told_at_once(run: Store) -> None:
    asked: list[httpx.Request] = []
    with (
        nobodys_port() as port,
        httpx.Client(event_hooks={"request": [asked.append]}) as http,
        pytest.raises(TransportError, match=r"cannot be reached: .*refused"),
    ):
        submit(run, "mine", f"http://127.0.0.1:{port}/boards/sums", "tb_x", client=http, pause=60.0)
    assert len(asked) == 1


def test_further_tries_are_told(served: tuple[BoardDatabase, TestClient], run: Store) -> None:
    said: list[str] = []
    http = Counting(served[1], {2: httpx.ConnectError("gone")})
    assert sent((served[0], http), run, say=said.append).state == "waiting"
    assert said[0] == "the board does not answer (gone); trying again in 0 s, try 2 of 8"


def test_a_token_that_may_not_send_is_found_before_the_run_is_packed(
    served: tuple[BoardDatabase, TestClient], run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testbed.board.submit.write_bundle", None)
    reader = create_token(served[0], "ann", ["read"])
    for token, said in ((reader, "403: this needs a token of scope 'submit'"), ("tb_wrong", "401: the token is wrong")):
        with pytest.raises(UsageError, match=said):
            submit(run, "mine", HERE, token, client=served[1], say=str)


def test_a_bad_line_is_withstood_and_no_piece_is_sent_twice_that_arrived(
    served: tuple[BoardDatabase, TestClient], run: Store
) -> None:
    broken = httpx.ReadError("cut")
    busy = httpx.Response(503, headers={"Retry-After": "0"}, json={"error": "busy"})
    http = Counting(served[1], {1: broken, 3: broken, 5: busy, 7: broken})
    assert sent((served[0], http), run).state == "waiting"
    assert len(http.asked) == len(set(http.asked)) + 4


def test_a_submission_that_was_cut_goes_on_where_it_was(served: tuple[BoardDatabase, TestClient], run: Store) -> None:
    http = Counting(served[1], {n: httpx.ConnectError("gone") for n in range(5, 100)})
    with pytest.raises(TransportError, match="cannot be reached: gone"):
        sent((served[0], http), run)
    arrived = {asked for asked in http.asked if asked.startswith("PUT")}
    again = Counting(served[1])
    assert sent((served[0], again), run).state == "waiting"
    assert arrived
    assert arrived.isdisjoint(again.asked)


def refused(served: tuple[BoardDatabase, TestClient], store: Store, run: str = "mine") -> str:
    http = Counting(served[1])
    with pytest.raises(UsageError) as told:
        sent((served[0], http), store, run)
    assert not any("uploads" in asked for asked in http.asked)  # nothing was sent
    return str(told.value)


def test_a_run_that_does_not_fit_is_refused_before_anything_is_sent(
    served: tuple[BoardDatabase, TestClient], run: Store, board: Board, tmp_path: Path
) -> None:
    path = tmp_path / "run.sqlite"
    seeded = ran(path, board, {"id": "oracle"}, seed=9, name="seeded")
    text = refused(served, run, seeded)
    assert "seed 9, and the board 3" in text
    assert "arm 'bare' asks the oracle" in text
    spec = {
        **board.spec,
        "budget": {"turns": 9},
        "samples": {"bare": 2, "tools": 2},
        "env": [{"id": "Addition-v0", "tasks": 2}],
    }
    a_run(path, replace(board, spec=spec), "other", arms=[{"name": "bare"}, {"name": "runs", "tools": ["python"]}])
    text = refused(served, run, "other")
    for part in (
        "6 of the board's tasks are not in the entry",
        "turns 4 → 9",
        "generated_tokens 100 → no limit",
        "its [[env]] differs from the board's (board → run): "
        "Addition-v0.digits 1 → the default; Addition-v0.tasks 6 → 2.",
        "has 2 samples, and the board 6",
        "offers 'python'; the board allows calculator",
    ):
        assert part in text
    a_run(path, board, "lonely", arms=[{"name": "calculator", "tools": ["calculator"]}])
    assert "one arm without tools" in refused(served, run, "lonely")


def test_more_samples_than_the_board_asks_for_are_left_at_home(
    served: tuple[BoardDatabase, TestClient], run: Store, board: Board, tmp_path: Path
) -> None:
    spec = {**board.spec, "samples": {"bare": 9, "tools": 9}}
    a_run(tmp_path / "run.sqlite", replace(board, spec=spec), "more")
    entry = sent(served, run, "more").entry
    verify_entry(served[0], entry)
    assert served[0].store.run(f"entry-{entry}").samples == {"bare": 6, "calculator": 4}


def test_private_boards_and_wrong_addresses_and_names_are_told(
    served: tuple[BoardDatabase, TestClient], run: Store, tmp_path: Path
) -> None:
    db, http = served
    boards.create(db, a_board(tmp_path, VAULTS))
    token = create_token(db, "ann", ["submit"])
    with pytest.raises(UsageError, match="made against the server"):
        submit(run, "mine", "http://localhost/boards/vaults", token, client=http)
    with pytest.raises(UsageError, match=r"unknown board 'sum'.* Did you mean 'sums'"):
        submit(run, "mine", "http://localhost/boards/sum", token, client=http)
    with pytest.raises(UnknownName, match="Did you mean 'mine'"):
        submit(run, "mime", HERE, token, client=http)
    with pytest.raises(UsageError, match="401: the token is wrong"):
        submit(run, "mine", HERE, "tb_wrong", client=http, say=str)
    odd = [f"http://{server}/boards/sums" for server in ("127.0.0.1:port", "[::1", "ann:secret@127.0.0.1", "")]
    for address in ("sums", "ftp://x/boards/sums", "https://example.org/", "https://example.org/boards/", *odd):
        with pytest.raises(UsageError, match="is no board's address"):
            submit(run, "mine", address, token, client=http)
    with pytest.raises(UsageError, match="without encryption"):
        submit(run, "mine", "http://example.org/boards/sums", token, client=http)


def test_the_command_needs_a_token_and_never_prints_it(testbed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_TOKEN", raising=False)
    command = ("board", "submit", "mine", "--board", "http://127.0.0.1:9/boards/sums")
    done = testbed(*command)
    assert done.code == 2
    assert "TESTBED_TOKEN" in done.err
    monkeypatch.setenv("TESTBED_TOKEN", "tb_secret")
    done = testbed(*command)
    assert done.code == 2
    assert "tb_secret" not in done.out + done.err
