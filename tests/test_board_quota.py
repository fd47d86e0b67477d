"""How many entries an account may have: however many uploads are begun, and whenever they are completed."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from helpers.board_entries import place
from helpers.boards import FREE, VAULTS, a_board, client
from testbed.board import boards
from testbed.board.accounts import create_token
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.schema import entries, remote_entries, upload_chunks, uploads
from testbed.board.settings import Settings

QUICK_IN_POSTGRESQL = ("test_many_uploads_that_are_begun_at_once_do_not_pass_the_limit",)

ALLOWED = "the most that an account may have"


@pytest.fixture
def board(db: BoardDatabase, tmp_path: Path) -> Board:
    boards.create(db, a_board(tmp_path, VAULTS))
    return boards.create(db, a_board(tmp_path))


def asking(db: BoardDatabase, settings: Settings = FREE, account: str = "somebody") -> TestClient:
    return client(db, settings, create_token(db, account, ["submit"]))


def begin(http: TestClient, n: int) -> Any:
    hash_ = hashlib.sha256(b"%d" % n).hexdigest()
    return http.post("/api/boards/sums/uploads", json={"content": hash_, "bytes": 1, "chunks": [hash_]})


def send(http: TestClient, n: int) -> Any:
    """The whole of an upload, but for its last step; its id."""
    id_ = begin(http, n).json()["upload"]
    assert http.put(f"/api/uploads/{id_}/chunks/0", content=b"%d" % n).status_code == 200
    return id_


def finish(http: TestClient, id_: str) -> Any:
    return http.post(f"/api/uploads/{id_}/complete", json={})


def rows(db: BoardDatabase, table: sa.Table) -> int:
    with db.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.mark.parametrize(("setting", "status"), [("entries", 403), ("waiting", 429)])
def test_an_account_with_as_many_entries_as_it_may_have_is_refused_one_more(
    db: BoardDatabase, board: Board, setting: str, status: int
) -> None:
    for entry, state in (("a", "verified"), ("b", "waiting"), ("c", "rejected"), ("d", "waiting"), ("e", "replaced")):
        place(db, board, entry, [{"share": 0.5}], state=state)
    most = {"entries": 3, "waiting": 2}[setting]
    room: Any = {setting: most + 1}
    full = replace(FREE, **{setting: most})
    with asking(db, replace(FREE, **room)) as http:
        assert begin(http, 1).status_code == 200
    with asking(db, full) as http:
        assert begin(http, 1).status_code == 200  # it was begun before
        manifest = {"title": "x", "manifest": {"model": "none"}}
        for refused in (begin(http, 2), http.post("/api/boards/vaults/remote-entries", json=manifest)):
            assert (refused.status_code, ALLOWED in refused.text) == (status, True)
            assert ("retry-after" in refused.headers) == (status == 429)
    with asking(db, full, "other") as http:
        assert begin(http, 2).status_code == 200
        assert http.post("/api/boards/vaults/remote-entries", json=manifest).status_code == 201
    assert [rows(db, table) for table in (entries, uploads, remote_entries)] == [5, 2, 1]


@pytest.mark.parametrize(("setting", "status"), [("entries", 403), ("waiting", 429)])
def test_many_uploads_that_are_begun_at_once_do_not_pass_the_limit(
    db: BoardDatabase, board: Board, setting: str, status: int
) -> None:
    settings: Any = {"open_uploads": 100, setting: 3}
    with asking(db, replace(FREE, **settings)) as http, ThreadPoolExecutor(8) as threads:
        begun = list(threads.map(lambda n: begin(http, n), range(8)))
        assert sorted(answer.status_code for answer in begun) == [200] * 3 + [status] * 5
        said = next(answer.json()["error"] for answer in begun if answer.status_code == status)
        assert {"entries": "3 under way", "waiting": "3 are being sent"}[setting] in said
        assert ALLOWED in said
        mine = [n for n, answer in enumerate(begun) if answer.status_code == 200]
        done = list(threads.map(lambda n: finish(http, send(http, n)), mine))
        assert [answer.status_code for answer in done] == [200] * 3  # what was let in comes to its end
        assert begin(http, 9).status_code == status
    assert (rows(db, entries), rows(db, uploads)) == (3, 3)


def test_a_limit_holds_when_an_upload_is_completed_and_nothing_of_it_is_lost(db: BoardDatabase, board: Board) -> None:
    with asking(db) as http:
        ids = [send(http, n) for n in range(3)]
    with asking(db, replace(FREE, waiting=2)) as http:  # which whoever runs the board has lowered
        answers = [finish(http, id_) for id_ in ids]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert ALLOWED in answers[2].json()["error"]
        assert http.get(f"/api/uploads/{ids[2]}").json() == {
            "upload": ids[2], "state": "open", "missing": [], "entry": None,
        }  # fmt: skip
        assert (rows(db, entries), rows(db, upload_chunks)) == (2, 3)
        with db.writing() as connection:
            connection.execute(entries.update().where(entries.c.id == ids[0]).values(state="rejected"))
        assert finish(http, ids[2]).status_code == 200


def test_entries_that_are_being_made_against_the_server_count_as_begun(db: BoardDatabase, board: Board) -> None:
    manifest = {"title": "x", "manifest": {"model": "none"}}
    with asking(db, replace(FREE, entries=2)) as http:
        made = [http.post("/api/boards/vaults/remote-entries", json=manifest).status_code for _ in range(3)]
        assert made == [201, 201, 403]
        refused = begin(http, 1)
        assert (refused.status_code, "0 entries here, and 2 under way" in refused.json()["error"]) == (403, True)
