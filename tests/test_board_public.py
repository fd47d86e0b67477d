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
    [("", ""), ("https://Board.Example.org/", "https://board.example.org"), ("http://[::1]:80", "http://[::1]:80")],
)
def test_an_address_is_kept_in_one_form(given: str, kept: str) -> None:
    assert public_address(given) == kept


@pytest.mark.parametrize(
    "url",
    [
        "board.example.org",
        "ftp://board.example.org",
        "https://",
        "https://board.example.org/boards",
        "https://board.example.org?x=1",
        "https://ann:secret@board.example.org",
        "https://board.example.org:port",
        "https://b oard.example.org",
        "https://bücher.example.org",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(db: BoardDatabase, url: str) -> None:
    with pytest.raises(UsageError, match=r"https://example\.org"):
        public_address(url)
    with pytest.raises(UsageError):
        create_app(db, replace(FREE, public_url=url))


def test_the_command_refuses_it_before_it_opens_anything(testbed, tmp_path: Path) -> None:
    done: Done = testbed("board", "serve", "--public-url", "example.org")
    assert done.code == 2
    assert "https://example.org" in done.err
    assert not (tmp_path / "board.sqlite").exists()
