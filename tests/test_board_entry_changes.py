"""Entries after their verdict: other titles, and withdrawals, which take an entry off every page and hide no trick."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from helpers.board_entries import boarded, place
from helpers.board_pages import Served
from helpers.boards import FREE, VAULTS, a_board, client, listening
from testbed.board import archive, audit, boards, entry_changes, uploads
from testbed.board.accounts import create_token
from testbed.board.app import create_app
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.entry_changes import NotShown
from testbed.board.refusals import NotValid
from testbed.board.schema import entries, remote_entries, sessions
from testbed.board.service import Steps, Worker
from testbed.board.settings import Settings
from testbed.board.verify.resent import replace
from testbed.store.schema import unpack


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Board, list[str]]:
    folder = tmp_path_factory.mktemp("made")
    db, board, ids = boarded(folder, entries_=[{"title": "First"}, {"title": "", "skill": 0.8}])
    for entry, state in (("d", "rejected"), ("e", "waiting")):
        place(db, board, entry, [{"share": 1.0}], state=state)
    db.close()
    return folder / "sums.sqlite", board, [*ids, "d" * 32, "e" * 32]


@pytest.fixture
def served(made: tuple[Path, Board, list[str]], tmp_path: Path) -> Iterator[Served]:
    source, board, ids = made
    with BoardDatabase.open(shutil.copy(source, tmp_path / "board.sqlite")) as db, client(db) as http:
        yield Served(db, board, ids, http)


def asked(served: Served, method: str, address: str, account: str = "somebody", **body: Any) -> Any:
    token = create_token(served.db, account, ["submit"])
    return served.http.request(method, address, headers={"Authorization": f"Bearer {token}"}, **body)


def rank(served: Served) -> None:
    """What the server does some seconds after an entry has come or gone."""
    usual = Steps.usual(Settings())
    Worker(served.db, Steps(lambda *_: None, usual.compute, usual.rank)).run_once()


def test_its_author_gives_an_entry_another_title_which_is_shown_and_noted(served: Served) -> None:
    entry = served.ids[0]
    rank(served)
    answer = asked(served, "PUT", f"/api/entries/{entry}/title", json={"title": " Better "})
    assert (answer.status_code, answer.json()["title"]) == (200, "Better")
    assert ">Better<" in served.page("/boards/sums")
    assert served.http.get("/api/boards/sums/results.json").json()["entries"][0]["title"] == "Better"
    (noted,) = audit.read(served.db, action="entry.retitle")
    assert (noted.account, noted.subject) == ("somebody", entry)
    assert noted.detail == {"board": "sums", "before": "First", "title": "Better"}
    for title in ("", " ", "two\nlines", "x" * 201):
        assert asked(served, "PUT", f"/api/entries/{entry}/title", json={"title": title}).status_code == 422, title


def test_a_withdrawn_entry_is_gone_from_every_page_and_stays_in_the_log(served: Served) -> None:
    entry, other = served.ids[:2]
    transcript = served.attempt(entry, "bare")
    assert asked(served, "POST", f"/api/entries/{entry}/withdraw").json()["state"] == "withdrawn"
    text = served.page("/boards/sums")
    assert f"/entries/{entry}" not in text
    assert f"/entries/{other}" in text
    assert "somebody, who withdrew 1 entry<" in text
    assert "On this board, somebody withdrew 1 entry." in served.page(f"/entries/{other}")
    own = served.page(f"/entries/{entry}")
    assert "It was withdrawn, for good" in own
    assert 'id="arms"' not in own
    served.page(transcript, 404)
    assert served.http.get(f"/api/entries/{entry}/every_eval_ever.json").status_code == 404
    rank(served)
    assert [found["id"] for found in served.http.get("/api/boards/sums/results.json").json()["entries"]] == [other]
    (noted,) = audit.read(served.db, action="entry.withdraw")
    assert noted.detail == {"board": "sums", "of": "somebody", "was": "verified", "title": "First"}


def test_entries_that_were_replaced_until_chance_was_kind_are_counted_where_everybody_sees_it(
    served: Served, testbed: Any, tmp_path: Path
) -> None:
    entry, other, rejected, _ = served.ids
    with served.db.writing() as connection:
        for old in (entry, rejected):
            replace(connection, old, other, "somebody")
    told = "somebody replaced 2 entries with nearly equal ones"
    assert told.replace(" ", ", who ", 1) + "<" in served.page("/boards/sums")
    assert f"On this board, {told}. Of many" in served.page(f"/entries/{other}")
    page = served.page(f"/entries/{entry}")
    assert "It was replaced, for good" in page
    assert f'<a href="/entries/{other}">That entry</a>' in page
    refused = asked(served, "POST", f"/api/entries/{entry}/withdraw")  # which would count it as another thing
    assert (refused.status_code, "is replaced: it has no results" in refused.json()["error"]) == (409, True)
    assert asked(served, "POST", f"/api/entries/{other}/withdraw").status_code == 200
    found = served.http.get("/api/boards/sums/results.json").json()
    assert found["not_shown"] == {"somebody": {"withdrawn": 1, "replaced": 2, "unfinished": 0}}
    assert testbed("board", "export", "sums", "sums.json", "--store", served.db.label).code == 0
    assert json.loads((tmp_path / "sums.json").read_text())["not_shown"] == found["not_shown"]


def test_a_board_whose_every_entry_was_withdrawn_is_ranked_anew(served: Served) -> None:
    for entry in served.ids[:2]:
        for _ in range(2):  # which changes nothing the second time
            assert asked(served, "POST", f"/api/entries/{entry}/withdraw").status_code == 200
    rank(served)
    assert "No entry has been verified yet." in served.page("/boards/sums")
    for page in ("pareto", "mechanisms", "tasks"):
        served.page(f"/boards/sums/{page}")
    assert len(audit.read(served.db, action="entry.withdraw")) == 2


def test_a_verdict_is_not_got_round_and_another_accounts_entry_is_not_touched(served: Served) -> None:
    first, _, rejected, waiting = served.ids
    for entry, said in ((rejected, "has no results"), (waiting, "once it has been checked")):
        answer = asked(served, "POST", f"/api/entries/{entry}/withdraw")
        assert answer.status_code == 409
        assert said in answer.json()["error"]
    for method, address, body in (
        ("POST", f"/api/entries/{first}/withdraw", None),
        ("PUT", f"/api/entries/{first}/title", {"title": "x"}),
    ):
        assert asked(served, method, address, "mallory", json=body).status_code == 403
        assert served.http.request(method, address, json=body).status_code == 401
    assert asked(served, "POST", f"/api/entries/{'0' * 32}/withdraw").status_code == 404
    asked(served, "POST", f"/api/entries/{first}/withdraw")
    assert asked(served, "PUT", f"/api/entries/{first}/title", json={"title": "x"}).status_code == 409


def test_an_archive_does_not_bring_a_withdrawn_entry_back(served: Served, tmp_path: Path) -> None:
    content = "0" * 64
    begun = uploads.begin(served.db, Settings(), "ann", "sums", uploads.Announced(content, 1, (content,)))
    with served.db.writing() as connection:
        values = {"account": "ann", "state": "verified", "title": '"Kept"', "id": begun.id, "board": "sums"}
        told = {"kind": "submitted", "reasons": "[]", "manifest": "{}", "created": "2026-01-01"}
        connection.execute(entries.insert().values(**values, **told))
    assert archive.write_archive(served.db, "sums", tmp_path / "before.zip").entries == 1
    asked(served, "POST", f"/api/entries/{begun.id}/withdraw", "ann")
    assert archive.write_archive(served.db, "sums", tmp_path / "after.zip").entries == 0


def test_whoever_runs_the_board_does_both_from_the_command_line(served: Served, testbed: Any) -> None:
    (entry, other), where = served.ids[:2], served.db.label
    assert testbed("board", "retitle", entry, "Mine", "--store", where).out == f"entry {entry} has the title 'Mine'\n"
    assert ">Mine<" in served.page("/boards/sums")
    assert testbed("board", "withdraw", other, "--store", where).code == 0
    assert f"/entries/{other}" not in served.page("/boards/sums")
    done = testbed("board", "withdraw", "0" * 32, "--store", where)
    assert (done.code, "there is no entry" in done.err) == (2, True)


def test_its_author_does_both_by_the_address_of_its_page(
    served: Served, testbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_TOKEN", create_token(served.db, "somebody", ["submit"]))
    entry = served.ids[0]
    with listening(create_app(served.db, FREE)) as port:
        page = f"http://127.0.0.1:{port}/entries/{entry}"
        assert testbed("board", "retitle", page, "Mine").code == 0
        assert ">Mine<" in served.page("/boards/sums")
        assert testbed("board", "withdraw", page).out == f"entry {page} is withdrawn\n"
    assert "It was withdrawn" in served.page(f"/entries/{entry}")


def test_another_page_and_a_missing_token_are_told(testbed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_TOKEN", raising=False)
    page = f"http://127.0.0.1:9/entries/{'0' * 32}"
    for address, said in (
        ("http://127.0.0.1:9/boards/sums", "is no entry's page"),
        (page.replace(":9", ":port"), "is no entry's page"),
        (page.replace("127.0.0.1", "[::1"), "is no entry's page"),
        (page.replace("127.0.0.1", "example.org"), "without encryption"),
        (page, "set TESTBED_TOKEN"),
    ):
        done = testbed("board", "withdraw", address)
        assert (done.code, said in done.err) == (2, True), done.err


def test_entries_that_were_begun_and_not_finished_are_counted_once_something_of_them_was_served(
    db: BoardDatabase, tmp_path: Path
) -> None:
    board = boards.create(db, a_board(tmp_path, VAULTS))
    shared = {"board": board.slug, "account": "ann", "title": '""', "manifest": "{}", "created": "2026"}
    with db.writing() as connection:
        for entry, state in (("untouched", "open"), ("seen", "open"), ("through", "open"), ("finished", "closed")):
            connection.execute(remote_entries.insert().values(id=entry, state=state, **shared))
        for n, (entry, state) in enumerate(
            (("seen", "open"), ("through", "done"), ("through", "lost"), ("finished", "done"))
        ):
            row = {"entry": entry, "arm": "bare", "task": "t", "sample": n, "state": state}
            connection.execute(sessions.insert().values(id=str(n), **row, steps="[]", created="2026"))
    with db.reading() as connection:
        (found,) = entry_changes.not_shown(connection, board.slug).items()
    assert found == ("ann", NotShown(unfinished=2))
    assert found[1].told == "has not finished 2 entries"
    assert (
        NotShown(1, 1, 1).told
        == "withdrew 1 entry, replaced 1 entry with a nearly equal one and has not finished 1 entry"
    )


def test_changes_are_kept_in_either_database(db: BoardDatabase, tmp_path: Path) -> None:
    board = boards.create(db, a_board(tmp_path))
    for entry in "ab":
        place(db, board, entry, [{"share": 1.0}])
        entry_changes.retitle(db, entry * 32, f"\U0001f600 {entry}")
    entry_changes.withdraw(db, "a" * 32, "somebody")
    with db.reading() as connection:
        assert entry_changes.not_shown(connection, "sums") == {"somebody": NotShown(withdrawn=1)}
        titles = connection.scalars(sa.select(entries.c.title).order_by(entries.c.id)).all()
    assert [unpack(title) for title in titles] == ["\U0001f600 a", "\U0001f600 b"]
    with pytest.raises(NotValid, match="1 to 200 characters"):
        entry_changes.retitle(db, "b" * 32, "\u202e")
