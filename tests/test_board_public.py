"""The board's own address: links are made of it where it is set, and of nothing that a request says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient, WebSocketDenialResponse

from helpers.boards import FREE, a_board, a_database, listening
from helpers.command import Done
from testbed.board.app import create_app
from testbed.board.database import BoardDatabase
from testbed.board.public import public_address
from testbed.board.settings import Settings
from testbed.errors import UsageError

OURS = "https://board.example.org"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardDatabase]:
    """A database that no test here writes to: one kind will do."""
    folder = tmp_path_factory.mktemp("public")
    with a_database(folder / "board.sqlite", a_board(folder)) as opened:
        yield opened


def asked(db: BoardDatabase, public_url: str = OURS, host: str = "board.example.org") -> TestClient:
    app: FastAPI = create_app(db, replace(FREE, public_url=public_url))
    return TestClient(app, headers={"Host": host}, raise_server_exceptions=False)


def test_links_redirects_and_documents_hold_the_address_that_is_set(db: BoardDatabase) -> None:
    http = asked(db)
    assert http.get("/api/boards/sums/results.json").json()["url"] == f"{OURS}/boards/sums"
    assert http.get("/api/openapi.json").json()["servers"] == [{"url": OURS}]
    assert http.get("/boards/sums/", follow_redirects=False).headers["location"] == f"{OURS}/boards/sums"


@pytest.mark.parametrize("host", ["board.example.org", "BOARD.example.org:443", "127.0.0.1:8000", "[::1]:8000"])
def test_however_the_server_is_called_its_links_are_the_same(db: BoardDatabase, host: str) -> None:
    assert f"--board {OURS}/boards/sums " in asked(db, host=host).get("/submit").text


def test_an_address_without_encryption_stays_one_behind_a_proxy_with_it(db: BoardDatabase) -> None:
    page = asked(db, "http://board.example.org").get("https://board.example.org/submit")
    assert "--board http://board.example.org/boards/sums " in page.text


def test_without_it_links_are_of_what_the_request_says(db: BoardDatabase) -> None:
    http = asked(db, "", host="elsewhere.test")
    assert "--board http://elsewhere.test/boards/sums " in http.get("/submit").text


@pytest.mark.parametrize("host", ["evil.test", "board.example.org.evil.test", "evil.test@board.example.org:x", "", "["])
def test_a_request_that_names_another_server_is_refused_and_not_repeated(db: BoardDatabase, host: str) -> None:
    http = asked(db, host=host)
    refused = http.get("/api/boards/sums/terms")
    assert (refused.status_code, list(refused.json())) == (400, ["error"])
    assert OURS in refused.json()["error"]
    assert "evil" not in refused.text
    assert http.get("/").status_code == 400
    assert refused.headers["Content-Security-Policy"]


def test_a_websocket_of_another_server_is_refused(db: BoardDatabase) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        asked(db, host="evil.test").websocket_connect(f"/api/sessions/{'0' * 32}/ws"),
    ):
        pass
    assert refused.value.status_code == 400


def test_over_a_real_socket_the_host_header_is_what_counts(db: BoardDatabase) -> None:
    settings: Settings = replace(FREE, public_url="http://board.example.org:8080")
    with listening(create_app(db, settings), settings) as port:
        page = httpx.get(f"http://127.0.0.1:{port}/submit")
        assert "--board http://board.example.org:8080/boards/sums " in page.text
        refused = httpx.get(f"http://127.0.0.1:{port}/submit", headers={"Host": "evil.test"})
    assert refused.status_code == 400


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("https://Board.Example.org/", "https://board.example.org"),
        ("HTTP://[::1]:80", "http://[::1]:80"),
        ("https://10.0.0.7:65535//", "https://10.0.0.7:65535"),
        ("https://my_board.xn--bcher-kva.org", "https://my_board.xn--bcher-kva.org"),
    ],
)
def test_an_address_is_kept_in_one_form(given: str, kept: str) -> None:
    assert public_address(given) == kept


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("board.example.org", "does not begin with http"),
        ("ftp://board.example.org", "does not begin with http"),
        *[
            (f"https://{name}", "is no server's name")
            for name in ("", "/", ":80", "a..b", "-a.org", "a-", "a:b:c", "[]")
        ],
        *[(f"https://board.example.org:{port}", "port") for port in ("99999", "0", "", "1" * 5000)],
        *[(f"https://{ip}", "is no IP address") for ip in ("999.1.1.1", "1.2.3", "0.0.0.256", "[::1::]", "[1.2.3.4]")],
        ("https://board.example.org:port", "is no server's name"),
        ("https://board.example.org/boards", "a path"),
        *[(f"https://board.example.org{more}", "a query") for more in ("?", "?x=1", "/?")],
        *[(f"https://board.example.org{more}", "a fragment") for more in ("#", "/#top")],
        *[(f"https://{user}@board.example.org", "a user's name") for user in ("", ":", "ann:s%2Fcret", "ann:s/cret")],
        *[(f"https://{name}", "a space, or a letter") for name in ("b oard", "board.org ", "b\toard", "bücher.org")],
        ("https://board.example.org\\@evil.org", "a user's name"),
        ("https://board.example.org\\evil", "a backslash"),
        ("https://<script>.org", "is no server's name"),
    ],
)
def test_what_is_no_address_of_a_server_is_refused_with_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"Write https://example\.org") as refused:
        public_address(url)
    assert said in str(refused.value)
    assert "cret" not in str(refused.value)


def test_no_application_is_made_for_one_that_is_none(db: BoardDatabase) -> None:
    with pytest.raises(UsageError, match="it has a user's name"):
        create_app(db, replace(FREE, public_url="https://@board.example.org"))


def test_the_command_refuses_it_before_it_opens_anything(testbed, tmp_path: Path) -> None:
    for address in ("example.org", ""):
        done: Done = testbed("board", "serve", "--public-url", address)
        assert done.code == 2
        assert "https://example.org" in done.err
    assert not (tmp_path / "board.sqlite").exists()
