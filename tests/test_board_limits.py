"""What stands before the application: sizes, nesting, rates, headers, and what errors become."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.testclient import TestClient, WebSocketDenialResponse

from helpers.boards import FREE, listening
from testbed.board import limits
from testbed.board.accounts import Verified, create_token
from testbed.board.app import create_app
from testbed.board.bodies import nesting
from testbed.board.database import BoardDatabase
from testbed.board.limits import HEADERS, Buckets, RateLimit
from testbed.board.refusals import Conflict, TooMany, status_of
from testbed.board.settings import Settings
from testbed.errors import DataError, InfrastructureError, StoreError, TestbedError, UnknownName, UsageError

SMALL = replace(FREE, body=1000, chunk=5000, body_seconds=1.0)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[BoardDatabase]:
    """A database that no test here looks into: one kind will do."""
    with BoardDatabase.open(tmp_path / "board.sqlite") as opened:
        yield opened


def application(db: BoardDatabase, settings: Settings = SMALL) -> Any:
    """The board with an address that says how much it was sent, and others that fail."""
    app = create_app(db, settings)
    app.state.seen = []

    async def size(request: Request) -> int:
        body = await request.body()
        app.state.seen.append(len(body))
        return len(body)

    def fail(kind: str) -> None:
        raise {"bug": ValueError("hunter2"), "refused": Conflict("no <b>"), "pool": PoolTimeout("hunter2")}[kind]

    app.post("/api/size")(size)
    app.put("/api/uploads/x/chunks/0/size")(size)
    for prefix in ("/api", "/page"):
        app.get(prefix + "/fails/{kind}")(fail)
    return app


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.01)


@pytest.fixture
def client(db: BoardDatabase) -> TestClient:
    return TestClient(application(db), raise_server_exceptions=False)


# -- sizes


def test_a_body_up_to_the_limit_is_read_and_a_longer_one_refused(client: TestClient) -> None:
    assert client.post("/api/size", content=b"x" * 1000).json() == 1000
    refused = client.post("/api/size", content=b"x" * 1001)
    assert (refused.status_code, refused.json()) == (
        413,
        {"error": "the body is larger than 1000 bytes, the most that this address takes."},
    )
    assert client.app.state.seen == [1000]


CHUNK = "/api/uploads/x/chunks/0/size"


def test_chunks_of_uploads_have_a_limit_of_their_own(db: BoardDatabase, client: TestClient) -> None:
    client.headers["Authorization"] = f"Bearer {create_token(db, 'ann', ['submit'])}"
    assert client.put(CHUNK, content=b"\0[" * 2500).json() == 5000
    assert client.put(CHUNK, content=b"x" * 5001).status_code == 413


def test_a_chunk_of_nobody_is_not_even_read(db: BoardDatabase) -> None:
    app = application(db)
    asked = b"PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n%s\r\n"
    with listening(app, SMALL) as port:
        for header in (b"", b"Authorization: Bearer tb_000000000000_%s\r\n" % (b"A" * 43), b"Authorization: x\r\n"):
            assert exchange(port, asked % (CHUNK.encode(), header)) == (401, 1)
    assert app.state.seen == []


def test_only_so_many_bytes_are_held_at_one_time(db: BoardDatabase) -> None:
    app = application(db, replace(SMALL, held=1500, body_seconds=60.0))
    with listening(app, SMALL) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(head(1000) + b"x" * 999)
        until(lambda: exchange(port, head(501), b"x" * 501)[0] == 503)  # what was sent first may be read last
        refused = exchange(port, head(501), b"x" * 501)[0]
        taken = exchange(port, head(500), b"x" * 500)[0]
        slow.sendall(b"x")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        assert (refused, taken, exchange(port, head(1000), b"x" * 1000)[0]) == (503, 200, 200)


def test_those_who_write_wait_their_turn_and_leave_readers_alone(db: BoardDatabase, monkeypatch) -> None:
    app, go_on, most, arrived = application(db, replace(FREE, writers=2, threads=4)), threading.Event(), [], []
    inside, turn = 0, limits._turn

    def change() -> None:
        nonlocal inside
        inside += 1
        most.append(inside)
        go_on.wait(20)
        inside -= 1

    def noted(*given: Any) -> Any:
        arrived.append(given)
        return turn(*given)

    app.post("/api/change")(change)
    monkeypatch.setattr(limits, "_turn", noted)
    with listening(app) as port:
        address = f"http://127.0.0.1:{port}"
        with ThreadPoolExecutor(9) as pool:
            changed = [pool.submit(httpx.post, f"{address}/api/change") for _ in range(8)]
            until(lambda: len(most) == 2 and len(arrived) == 8)  # two of them write, and six wait
            read = [pool.submit(httpx.get, f"{address}/api/fails/refused").result(10) for _ in range(3)]
            monkeypatch.setattr("testbed.board.limits._PATIENCE", 0.1)
            late = httpx.post(f"{address}/api/change")
            go_on.set()
            assert [done.result(20).status_code for done in changed] == [200] * 8
    assert [answer.status_code for answer in read] == [409] * 3
    assert (late.status_code, "retry-after" in late.headers) == (503, True)
    assert max(most) == 2


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "GZIP", "x"])
def test_a_compressed_body_is_refused(client: TestClient, coding: str) -> None:
    bomb = zlib.compress(b"\0" * 100_000)
    refused = client.post("/api/size", content=bomb, headers={"Content-Encoding": coding})
    assert refused.status_code == 415
    assert client.app.state.seen == []


# -- over a socket, where bodies come in pieces


def exchange(port: int, *pieces: bytes, end: bool = False) -> tuple[int, int]:
    """Sends pieces until the server answers; the status, and how many were sent before. 0 is no answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        sent = 0
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break
            sent += 1
            connection.setblocking(False)
            time.sleep(0.01)
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except BlockingIOError:
                pass
            finally:
                connection.settimeout(10)
        if end:
            connection.shutdown(socket.SHUT_WR)
        head = connection.recv(4096).split(b"\r\n")[0].split()
        return (int(head[1]) if head else 0), sent


CHUNKED = b"POST /api/size HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def head(length: object, more: bytes = b"") -> bytes:
    return b"POST /api/size HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n%s\r\n" % (str(length).encode(), more)


def test_bodies_that_lie_about_their_length_are_refused_before_they_are_read_whole(db: BoardDatabase) -> None:
    app = application(db)
    piece = b"1f4\r\n" + b"x" * 500 + b"\r\n"  # 500 bytes in HTTP's chunked coding
    with listening(app, SMALL) as port:
        # said to be long: not a byte of it is waited for
        assert exchange(port, head(10**9)) == (413, 1)
        assert exchange(port, head("1" * 5000))[0] in (400, 413)
        # of unknown length: refused with the third piece, whether or not more come
        assert exchange(port, CHUNKED, *[piece] * 3) == (413, 4)
        assert exchange(port, CHUNKED, *[piece] * 1000)[0] == 413
        # shorter than said, and the rest never comes
        assert exchange(port, head(900), b"x" * 10)[0] == 408
        assert exchange(port, head(900), b"x" * 10, end=True)[0] == 0
        # two lengths, none, a negative one, both codings at once
        assert exchange(port, head(1, b"Content-Length: 2\r\n"), b"xx")[0] == 400
        assert exchange(port, head("-1"), b"x")[0] == 400
        assert exchange(port, head("x"), b"x")[0] == 400
        assert exchange(port, CHUNKED, b"zz\r\nx\r\n0\r\n\r\n")[0] in (0, 400)
        # and it still serves
        assert exchange(port, head(10), b"x" * 10)[0] == 200
    assert app.state.seen == [10]


# -- nesting


def test_json_nested_beyond_any_stack_is_refused_before_it_is_parsed(db: BoardDatabase) -> None:
    client = TestClient(application(db, replace(FREE, body=10**6)), raise_server_exceptions=False)
    for opening, closing in (("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")):
        for text in (opening * 10_000 + closing * 10_000, opening * 10_000, '["\\"[", ' + opening * 101):
            refused = client.post("/api/size", content=text)
            assert (refused.status_code, "nested" in refused.json()["error"]) == (400, True)
    utf16 = ('{"∀": ' + "[" * 500 + "]" * 500 + "}").encode("utf-16-le")  # ∀ holds the byte of a quotation mark
    assert client.post("/api/size", content=utf16).status_code == 400
    assert client.app.state.seen == []
    assert client.post("/api/size", content="[" * 100 + "]" * 100).status_code == 200


JSON = st.recursive(
    st.none() | st.text('[]{}"\\,:a'), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@settings(max_examples=50, deadline=None)
@given(JSON)
def test_nesting_is_that_of_the_parsed_value(value: object) -> None:
    def depth(part: object) -> int:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    counted = nesting(json.dumps(value).encode(), 0)
    assert bool(counted) == bool(depth(value))
    if (exact := depth(value)) > 0:
        assert nesting(json.dumps(value).encode(), exact) <= exact
        assert nesting(json.dumps(value).encode(), exact - 1) == exact


@pytest.mark.parametrize("unit", [b'"', b'\\"', b'["', b"\\", b"[]", b'"a', b"{[", b'""'])
def test_counting_takes_a_time_that_grows_with_the_length_and_no_faster(unit: bytes) -> None:
    def spent(length: int) -> float:
        body = (b"[" * 3 + b'"' + unit * (length // len(unit)))[:length]
        best = 9.0
        for _ in range(3):
            began = time.process_time()
            nesting(body, 2_000_000)
            nesting(body, 2)
            best = min(best, time.process_time() - began)
        return best

    assert spent(400_000) < 50 * spent(20_000) + 0.02


# -- rates


def test_a_sender_gets_its_burst_then_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    limit = Buckets(2.0, 3)
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limit.wait("b") == 0
    clock += 0.5
    assert [limit.wait("a") for _ in range(2)] == [0, 0.5]
    clock += 1e6
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    limit.put_back("a")
    assert [limit.ahead("a") for _ in range(9)] == [0] * 9
    assert [limit.wait("a") for _ in range(2)] == [0, 0.5]
    assert limit.ahead("a") == 0.5


def test_what_is_kept_of_senders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.board.limits._MOST_BUCKETS", 10)
    limit = Buckets(1.0, 1)
    for n in range(100):
        limit.wait(str(n))
    assert len(limit._left) == 10


def test_too_many_requests_are_told_when_to_come_again(db: BoardDatabase) -> None:
    client = TestClient(application(db, replace(FREE, requests=0.1, burst=2)))
    got = [client.get("/api/fails/refused") for _ in range(3)]
    assert [answer.status_code for answer in got] == [409, 409, 429]
    assert 1 <= int(got[2].headers["retry-after"]) <= 10


def test_made_up_tokens_share_the_limit_of_their_address_and_right_ones_have_their_own(db: BoardDatabase) -> None:
    token = create_token(db, "ann", ["read"])
    client = TestClient(application(db, replace(FREE, requests=0.01, burst=3)))

    def status(token: str) -> int:
        return client.get("/api/entries/none", headers={"Authorization": f"Bearer {token}"}).status_code

    db.verified.add(token)
    made_up = [f"tb_{n:012x}_{'A' * 43}" for n in range(5)]
    assert [status(other) == 429 for other in made_up] == [False, False, False, True, True]
    assert [status(token) == 429 for _ in range(4)] == [False, False, False, True]


def test_connections_that_stay_open_are_limited_like_requests(db: BoardDatabase) -> None:
    client = TestClient(application(db, replace(FREE, requests=0.01, burst=1)))
    assert client.get("/api/fails/refused").status_code == 409
    with pytest.raises(WebSocketDenialResponse) as caught, client.websocket_connect("/api/sessions/x/ws"):
        pass
    assert (caught.value.status_code, caught.value.json()["error"][:8]) == (429, "too many")


def test_addresses_of_one_network_of_ipv6_share_their_limit() -> None:
    def together(one: str, other: str) -> bool:
        limit = RateLimit(TestClient, Settings(burst=1), Verified())  # type: ignore[arg-type]
        waits = [limit._wait({"type": "http", "headers": [], "client": (each, 1)}) for each in (one, other)]
        return waits[1] > 0

    assert together("2001:db8::1", "2001:db8::ffff:1")
    assert not together("2001:db8::1", "2001:db8:0:1::1")
    assert not together("192.0.2.1", "192.0.2.2")


# -- answers


def test_every_answer_has_the_headers_and_an_id(client: TestClient) -> None:
    addresses = ("/api/openapi.json", "/api/fails/bug", "/page/fails/bug", "/nothing", "/api/fails/refused")
    answers = [*map(client.get, addresses), client.post("/api/size", content=b"x" * 2000), client.put("/api/size")]
    assert [answer.status_code for answer in answers] == [200, 500, 500, 404, 409, 413, 405]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == len(answers)
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")


def test_programs_are_answered_with_json_and_people_with_a_page_that_escapes(client: TestClient) -> None:
    assert client.get("/api/fails/refused").json() == {"error": "no <b>"}
    page = client.get("/page/fails/refused")
    assert page.headers["content-type"].startswith("text/html")
    assert "no &lt;b&gt;" in page.text


def test_a_bug_tells_nobody_but_the_log(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    for kind, status in (("bug", 500), ("pool", 503)):
        answer = client.get(f"/api/fails/{kind}")
        assert (answer.status_code, "hunter2" in answer.text) == (status, False)
    assert caplog.text.count("ValueError: hunter2") == 1


def test_the_log_holds_paths_without_queries_and_on_one_line(client: TestClient, caplog) -> None:
    caplog.set_level(logging.INFO, "testbed.board.requests")
    client.get("/a%0Ab%1b%5b2J%E2%80%AE?token=hunter2")
    line = next(record.getMessage() for record in caplog.records if record.name == "testbed.board.requests")
    assert r"GET /a\nb\x1b[2J\u202e 404" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Conflict("x"), 409),
        (TooMany("x"), 429),
        (UnknownName("run", "x", []), 404),
        (StoreError("no such"), 404),
        (UsageError("x"), 400),
        (DataError("x"), 400),
        (InfrastructureError("x"), 503),
        (TestbedError("x"), 500),
        (KeyError("x"), 500),
    ],
)
def test_every_error_has_its_status(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_a_database_that_does_not_answer_is_no_mistake_of_the_caller(tmp_path: Path) -> None:
    with BoardDatabase.open(tmp_path / "board.sqlite") as db:
        db.database.label = "hunter2"
        db.database.engine.dispose()
        (tmp_path / "board.sqlite").write_bytes(b"no database" * 100)
        client = TestClient(create_app(db, FREE), raise_server_exceptions=False)
        answer = client.get("/api/boards/sums/terms")
    assert (answer.status_code, "hunter2" in answer.text) == (503, False)
