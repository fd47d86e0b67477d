"""Entries with the same attempts as somebody else's: noted, never rejected for it, and nobody else is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.boards import a_board, a_database, a_run, client
from helpers.bundles import Lines, bundle_of, upload
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.entry_changes import withdraw
from testbed.board.schema import entries, entry_prints
from testbed.board.verify import verify_entry
from testbed.board.verify.prints import FEWEST, KEPT, Prints, keep, twins
from testbed.store.schema import unpack

QUICK_IN_POSTGRESQL = ("test_ones_own_entries_and_rejected_ones_are_not_noted",)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Board, bytes, bytes]:
    """A board, an entry to it, and one of another model."""
    folder = tmp_path_factory.mktemp("twins")
    board = a_board(folder)
    a_run(folder / "one.sqlite", board)
    a_run(folder / "other.sqlite", board, skill=0.1, helped=0.5)
    return board, bundle_of(folder / "one.sqlite", "mine", board), bundle_of(folder / "other.sqlite", "mine", board)


@pytest.fixture(scope="module")
def one_kind(sent: tuple[Board, bytes, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardDatabase]:
    with a_database(tmp_path_factory.mktemp("prints") / "board.sqlite", sent[0]) as opened:
        yield opened


@pytest.fixture
def db(sent: tuple[Board, bytes, bytes], where: str) -> Iterator[BoardDatabase]:
    with a_database(where, sent[0]) as opened:
        yield opened


def checked(db: BoardDatabase, data: bytes, account: str) -> tuple[str, list[dict[str, str]]]:
    """An entry's id, and what is noted of it."""
    id_ = upload(db, "sums", data, account)
    assert verify_entry(db, id_) == "partly"  # its model is not here, and that alone is why
    with db.reading() as connection:
        (row,) = connection.execute(entries.select().where(entries.c.id == id_))
    return id_, [reason for reason in unpack(row.reasons) if reason["level"] == "note"]


def shuffled(data: bytes) -> bytes:
    """The same attempts as other samples, without what a run says of itself: what somebody would send who copies."""
    lines = Lines.of(data)
    cells: dict[tuple[str, str], list[dict[str, object]]] = {}
    for attempt in lines.attempts:
        cells.setdefault((attempt["arm"], attempt["task"]), []).append(attempt)
    for cell in cells.values():
        turned = [{**attempt, "cost": {**attempt["cost"], "seconds": 0.5}} for attempt in reversed(cell)]
        for n, (attempt, other) in enumerate(zip(cell, turned, strict=True)):
            attempt.update({**other, "sample": n, "cost": {**other["cost"], "seconds": 0.25 + n / 7}})
    lines.manifest["run"] = "quite-another"
    return lines.sealed()


def test_the_same_attempts_of_another_account_are_noted_with_whose_they_are(
    db: BoardDatabase, sent: tuple[Board, bytes, bytes]
) -> None:
    _, one, other = sent
    first, noted = checked(db, one, "ann")
    assert noted == []
    assert checked(db, other, "bob")[1] == []
    copy, noted = checked(db, shuffled(one), "eve")
    assert [reason["check"] for reason in noted] == ["copies", "copies"]  # its two arms
    assert {reason["entry"] for reason in noted} == {first}
    assert all("'ann'" in reason["text"] and "100%" in reason["text"] for reason in noted)
    third, noted = checked(db, one, "joe")
    assert {reason["entry"] for reason in noted} == {first}
    assert "of 1 more entries" in noted[0]["text"]
    with client(db) as http:
        assert f'<a href="/entries/{first}">That entry</a>' in http.get(f"/entries/{copy}").text
        assert "That entry" not in http.get(f"/entries/{first}").text
        told = http.get(f"/api/entries/{third}").json()["reasons"]
    assert {reason["entry"] for reason in told if reason["level"] == "note"} == {first}


def test_ones_own_entries_and_rejected_ones_are_not_noted(db: BoardDatabase, sent: tuple[Board, bytes, bytes]) -> None:
    _, one, _ = sent
    first, _ = checked(db, one, "ann")
    assert checked(db, shuffled(one), "ann")[1] == []
    with db.writing() as connection:
        connection.execute(entries.update().values(state="rejected"))
    assert checked(db, one, "bob")[1] == []
    with db.reading() as connection:
        kept = connection.execute(entry_prints.select().where(entry_prints.c.entry == first)).all()
    assert [row.position for row in kept] == [0, 1]


def test_what_was_withdrawn_does_not_come_back_packed_otherwise(
    db: BoardDatabase, sent: tuple[Board, bytes, bytes]
) -> None:
    _, one, other = sent
    first, _ = checked(db, one, "ann")
    withdraw(db, first, "ann")
    again = upload(db, "sums", shuffled(one), "ann")
    assert verify_entry(db, again) == "rejected"
    with db.reading() as connection:
        (row,) = connection.execute(entries.select().where(entries.c.id == again))
    (said,) = (reason["text"] for reason in unpack(row.reasons) if reason["level"] == "wrong")
    assert f"are in entry {first}, which its author withdrew for good" in said
    checked(db, other, "ann")  # another run can
    checked(db, one, "bob")  # and whoever else made the same one


def prints(*attempts: int) -> bytes:
    made, seen = Prints(), list(attempts)
    for n, attempt in enumerate(seen):
        made.add(f"task {attempt % 7}", b"%d" % attempt, seen[:n].count(attempt))
    return made.data


@pytest.mark.parametrize(
    ("mine", "theirs", "told"),
    [
        (range(2000), range(1999, -1, -1), 1.0),
        (range(2000), range(40, 2040), 0.96),
        (range(2000), range(400, 2400), None),
        (range(2000), range(1000), None),  # half of one is all of the other: no more than a share in common
        (range(FEWEST), range(FEWEST), 1.0),
        (range(FEWEST - 1), range(FEWEST - 1), None),
        ([1] * 30, [1] * 300, None),  # how often the same was said counts
    ],
)
def test_the_share_in_common_is_told_from_few_prints(
    one_kind: BoardDatabase, mine: range, theirs: range, told: float | None
) -> None:
    db = one_kind
    row = {"board": "sums", "account": "ann", "title": '""', "kind": "submitted", "state": "verified"}
    with db.writing() as connection:
        connection.execute(entries.delete())
        connection.execute(entries.insert().values(id="1", **row, reasons="[]", manifest="{}", created="2026"))
        keep(connection, "1", {"arm": prints(*theirs)})
        keep(connection, "1", {"arm": prints(*theirs)})  # checked again: in place of what was there
    with db.reading() as connection:
        found = twins(connection, "sums", "bob", {"a": prints(*mine)})
        assert twins(connection, "sums", "ann", {"a": prints(*mine)}) == {}
        assert twins(connection, "others", "bob", {"a": prints(*mine)}) == {}
    assert len(prints(*mine)) <= 8 * KEPT
    assert ("a" in found) == (told is not None)
    if told is not None:
        assert (found["a"].entry, found["a"].account, found["a"].others) == ("1", "ann", 0)
        assert abs(found["a"].share - told) < 0.04
