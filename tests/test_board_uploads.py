"""Uploads: in pieces, in any order, as often as one likes; what was acknowledged stays, what does not fit does not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from helpers.boards import FREE, VAULTS, a_board, client
from testbed.board import audit, boards, uploads
from testbed.board.accounts import create_token
from testbed.board.database import BoardDatabase
from testbed.board.schema import entries, upload_chunks
from testbed.board.schema import uploads as table

QUICK_IN_POSTGRESQL = (
    "test_an_account_has_so_many_uploads_under_way_and_no_more",
    "test_every_step_may_be_sent_again_and_changes_nothing",
    "test_many_who_send_the_same_at_once_make_one_entry_for_each_account",
    "test_pieces_in_any_order_become_an_entry_that_waits",
)

SETTINGS = replace(FREE, chunk=1000, upload=10_000, open_uploads=3)
DATA = os.urandom(2500)


def announced(data: bytes = DATA, size: int = 1000) -> dict[str, Any]:
    chunks = [hashlib.sha256(data[at : at + size]).hexdigest() for at in range(0, len(data), size)]
    return {"content": hashlib.sha256(data).hexdigest(), "bytes": len(data), "chunks": chunks}


@pytest.fixture
def board(db: BoardDatabase, tmp_path: Path) -> BoardDatabase:
    boards.create(db, a_board(tmp_path))
    return db


@pytest.fixture
def ann(board: BoardDatabase) -> Iterator[TestClient]:
    with client(board, SETTINGS, create_token(board, "ann", ["submit"])) as opened:
        yield opened


def begin(http: TestClient, **changes: Any) -> Any:
    return http.post("/api/boards/sums/uploads", json={**announced(), **changes})


def put(http: TestClient, upload: str, n: int, data: bytes | None = None) -> Any:
    return http.put(
        f"/api/uploads/{upload}/chunks/{n}", content=DATA[1000 * n : 1000 * (n + 1)] if data is None else data
    )


def finish(http: TestClient, upload: str, **body: Any) -> Any:
    return http.post(f"/api/uploads/{upload}/complete", json=body)


def rows(db: BoardDatabase, which: sa.Table) -> int:
    with db.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(which)) or 0


def test_pieces_in_any_order_become_an_entry_that_waits(ann: TestClient, board: BoardDatabase) -> None:
    begun = begin(ann).json()
    assert (begun["state"], begun["missing"], begun["entry"]) == ("open", [0, 1, 2], None)
    for n, left in ((2, [0, 1]), (0, [1]), (1, [])):
        assert put(ann, begun["upload"], n).json()["missing"] == left
    done = finish(ann, begun["upload"], title="Mine").json()
    assert (done["state"], done["entry"]) == ("complete", f"/api/entries/{begun['upload']}")
    told = ann.get(done["entry"]).json()
    assert (told["state"], told["title"], told["board"], told["decided"]) == ("waiting", "Mine", "sums", None)
    assert b"".join(uploads.parts(board, begun["upload"])) == DATA
    assert [note.action for note in reversed(audit.read(board, account="ann"))] == ["upload.begin", "entry.submit"]


def test_an_upload_goes_on_where_it_was_cut(ann: TestClient, board: BoardDatabase) -> None:
    id_ = begin(ann).json()["upload"]
    put(ann, id_, 1)
    with client(board, SETTINGS, create_token(board, "ann", ["submit"])) as later:
        assert begin(later).json() == {"upload": id_, "state": "open", "missing": [0, 2], "entry": None}
        assert later.get(f"/api/uploads/{id_}").json()["missing"] == [0, 2]


def test_an_upload_that_is_cut_into_other_pieces_begins_anew(ann: TestClient, board: BoardDatabase) -> None:
    id_ = begin(ann).json()["upload"]
    put(ann, id_, 0)
    assert begin(ann, **announced(size=500)).json() == {
        "upload": id_, "state": "open", "missing": [0, 1, 2, 3, 4], "entry": None
    }  # fmt: skip
    for n in range(5):
        assert put(ann, id_, n, DATA[500 * n : 500 * (n + 1)]).status_code == 200
    assert finish(ann, id_).json()["state"] == "complete"
    assert begin(ann).json()["state"] == "complete"  # however it was cut
    assert (rows(board, table), rows(board, upload_chunks)) == (1, 5)


def test_every_step_may_be_sent_again_and_changes_nothing(ann: TestClient, board: BoardDatabase) -> None:
    id_ = begin(ann).json()["upload"]
    for _ in range(2):
        begin(ann)
        for n in range(3):
            assert put(ann, id_, n).status_code == 200
        assert finish(ann, id_, title="Mine").status_code == 200
    assert finish(ann, id_, title="Another").json()["state"] == "complete"
    assert ann.get(f"/api/entries/{id_}").json()["title"] == "Mine"
    assert (rows(board, table), rows(board, entries), rows(board, upload_chunks)) == (1, 1, 3)


def test_the_same_run_of_two_accounts_is_two_entries(ann: TestClient, board: BoardDatabase) -> None:
    with client(board, SETTINGS, create_token(board, "bob", ["submit"])) as bob:
        own, other = begin(ann).json()["upload"], begin(bob).json()["upload"]
        assert own != other
        for answer in (bob.get(f"/api/uploads/{own}"), put(bob, own, 0), finish(bob, own)):
            assert answer.status_code == 404  # what is another's is not there


def test_many_who_send_the_same_at_once_make_one_entry_for_each_account(board: BoardDatabase) -> None:
    def send(account: str) -> str:
        told = announced()
        file = uploads.Announced(told["content"], told["bytes"], tuple(told["chunks"]))
        id_ = uploads.begin(board, SETTINGS, account, "sums", file).id
        for n in range(len(told["chunks"])):
            uploads.put(board, account, id_, n, DATA[1000 * n : 1000 * (n + 1)])
        return uploads.complete(board, SETTINGS, account, id_)

    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(send, ["ann", "bob"] * 8))
    assert len(set(ids)) == rows(board, entries) == 2
    submitted = [note.subject for note in audit.read(board, action="entry.submit")]
    assert sorted(submitted) == sorted(set(ids))


def test_a_piece_that_is_not_the_announced_one_is_refused_and_not_kept(ann: TestClient, board: BoardDatabase) -> None:
    id_ = begin(ann).json()["upload"]
    for data in (b"", b"x", DATA[:999], DATA[1000:2000]):
        assert put(ann, id_, 0, data).status_code == 422
    assert put(ann, id_, 3, b"x").status_code == 404
    assert put(ann, id_, 0, bytes(1001)).status_code == 413
    assert rows(board, upload_chunks) == 0


def test_pieces_that_are_longer_together_than_was_announced_are_not_kept(ann: TestClient, board: BoardDatabase) -> None:
    id_ = begin(ann, bytes=1500).json()["upload"]  # the three have 2500
    assert put(ann, id_, 0).status_code == 200
    assert put(ann, id_, 0).status_code == 200  # it is there already
    refused = put(ann, id_, 1)
    assert (refused.status_code, "announced with 1,500 bytes" in refused.json()["error"]) == (413, True)
    assert put(ann, id_, 2).status_code == 200
    assert rows(board, upload_chunks) == 2


def test_an_upload_that_lacks_pieces_is_no_entry(ann: TestClient, board: BoardDatabase) -> None:
    id_ = begin(ann).json()["upload"]
    put(ann, id_, 0)
    answer = finish(ann, id_)
    assert answer.status_code == 409
    assert "lacks 2 chunks, such as 1" in answer.json()["error"]
    assert rows(board, entries) == 0


def test_pieces_that_make_another_file_than_was_announced_are_dropped(ann: TestClient, board: BoardDatabase) -> None:
    id_ = begin(ann, content="0" * 64).json()["upload"]
    for n in range(3):
        put(ann, id_, n)
    assert finish(ann, id_).status_code == 409
    assert (rows(board, table), rows(board, upload_chunks), rows(board, entries)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"bytes": 10_001}, 413),
        ({"bytes": 3001}, 422),
        ({"bytes": 2}, 422),
        ({"bytes": "2500"}, 422),
        ({"chunks": []}, 422),
        ({"chunks": ["X" * 64]}, 422),
        ({"content": "abc"}, 422),
        ({"more": 1}, 422),
    ],
)
def test_an_announcement_that_cannot_be_kept_is_refused(
    ann: TestClient, board: BoardDatabase, changes: dict[str, Any], status: int
) -> None:
    assert begin(ann, **changes).status_code == status
    assert rows(board, table) == 0


def test_an_account_has_so_many_uploads_under_way_and_no_more(ann: TestClient, board: BoardDatabase) -> None:
    for n in range(3):
        assert begin(ann, content=f"{n:064}").status_code == 200
    answer = begin(ann, content="f" * 64)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "10")
    long_ago = (datetime.now(UTC) - timedelta(days=8)).isoformat(timespec="milliseconds")
    with board.writing() as connection:
        connection.execute(table.update().values(created=long_ago))
    assert begin(ann, content="f" * 64).status_code == 200
    assert rows(board, table) == 1


def test_nobody_sends_without_a_token_that_may(board: BoardDatabase) -> None:
    for token, status in (("", 401), ("tb_000000000000_" + "x" * 43, 401), (create_token(board, "eve", ["read"]), 403)):
        with client(board, SETTINGS, token) as http:
            answers = [
                begin(http),
                put(http, "0" * 32, 0, b""),
                finish(http, "0" * 32),
                http.get(f"/api/uploads/{'0' * 32}"),
            ]
            assert [answer.status_code for answer in answers] == [status] * 4
    assert rows(board, table) == 0


def test_boards_that_are_not_there_or_private_take_no_uploads(
    ann: TestClient, board: BoardDatabase, tmp_path: Path
) -> None:
    boards.create(board, a_board(tmp_path, VAULTS))
    assert ann.post("/api/boards/sums-2/uploads", json=announced()).status_code == 404
    refused = ann.post("/api/boards/vaults/uploads", json=announced())
    assert refused.status_code == 403
    assert "against this server" in refused.json()["error"]
    terms = ann.get("/api/boards/vaults/terms").json()
    assert (terms["private"], terms["tasks"]) == (True, [])


def test_the_terms_say_what_an_entry_needs(ann: TestClient, board: BoardDatabase) -> None:
    terms = ann.get("/api/boards/sums/terms").json()
    assert terms["tasks"] == [task.hash for task in boards.get(board, "sums").tasks]
    assert (terms["seed"], terms["samples"], terms["tools"]) == (3, {"bare": 6, "tools": 4}, ["calculator"])
    assert (terms["chunk"], terms["upload"]) == (1000, 10_000)


@pytest.mark.parametrize("title", ["two\nlines", "\x1b[31mred", "x" * 201, "a‮b"])
def test_a_title_is_one_line_of_plain_text(ann: TestClient, title: str) -> None:
    id_ = begin(ann).json()["upload"]
    assert finish(ann, id_, title=title).status_code == 422


def test_an_entry_that_is_not_there_is_not_found(ann: TestClient) -> None:
    assert ann.get(f"/api/entries/{'0' * 32}").status_code == 404
    assert ann.get("/api/entries/nonsense").status_code == 422
