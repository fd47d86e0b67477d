"""What one author can send much of: arms, entries and long transcripts cost others neither time nor room."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from helpers.board_entries import boarded, place
from helpers.boards import SUMS, a_board, client
from testbed.board import boards, ranking
from testbed.board.arm_rows import ArmRow
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.forms import as_csv
from testbed.board.pages_compare import compared
from testbed.board.reading import summary
from testbed.board.results import BY_TASK, unpacked
from testbed.board.schema import entries, entry_arms, entry_reports, rankings
from testbed.board.shown import board_results
from testbed.board.transcript_parts import parts
from testbed.protocol import CALL_OPEN
from testbed.report.message_blocks import MOST_BLOCKS, read_blocks
from testbed.report.unseen import beginning, visible
from testbed.types import Attempt, attempt_id

QUICK_IN_POSTGRESQL = ("test_results_are_put_together_once_and_hold_no_figures_of_single_tasks",)

CALLS = '<tool_call>{"name":"python","arguments":{"a":1}}</tool_call>' * 100
UNSEEN = "\u202e\u2066" * 1000


@pytest.fixture
def board(db: BoardDatabase, tmp_path: Path) -> Board:
    return boards.create(db, a_board(tmp_path, SUMS.replace("tasks = 6", "tasks = 8")))


# ---- arms ------------------------------------------------------------------------------------------------------------


def test_of_an_entry_only_its_first_arms_are_ranked_in_its_authors_order(
    db: BoardDatabase, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "MOST_RANKED", 3)
    more = [{"share": 0.5 + n / 10, "tools": [f"t{n}"], "gain": n / 10} for n in range(4)]
    place(db, board, "a", [*more, {"share": 0.4}])  # the bare arm last
    ranking.recompute(db, board)
    with db.reading() as connection:
        found = {row.by: row.position for row in connection.execute(sa.select(rankings))}
        shown = summary(connection, "sums", "pareto")["tokens"]["arms"]
    assert found == {"reach": 1, "gain": 1}
    assert shown == 3  # the bare arm is among them


def test_the_pages_of_all_tasks_and_of_one_count_the_same_arms(db: BoardDatabase, board: Board) -> None:
    live, inert = ({"share": 1.0, "tools": ["t"], "gain": 0.5, "control": control} for control in ("live", "inert"))
    place(db, board, "a", [{"share": 0.5}, live, inert])
    ranking.recompute(db, board)
    with client(db) as http:
        assert "2 of 2</td>" in http.get("/boards/sums/tasks").text
        one = http.get(f"/tasks/{board.tasks[0].hash}?board=sums").text
    assert "2 of 2 arms solve it at least once; 1 placebo arm is not counted." in one


# ---- a comparison with missing attempts ------------------------------------------------------------------------------


def row(n: int, c: int, made: int, tasks: int) -> ArmRow:
    return ArmRow(
        entry="e", position=0, arm="a", name="n", model="m", tools=(), control="live", bare=False, reach=0.5, gain=0.0,
        tokens=1.0, usd=0.0, n=np.full(tasks, n), c=np.full(tasks, c), figures={"samples": made},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scored", "told"),
    [
        (1, "Not told apart: the second reaches more where enough was scored, and missing attempts could undo it."),
        (4, "The second reaches more than the first, as far as these tasks tell."),
    ],
)
def test_a_comparison_claims_only_what_holds_however_missing_attempts_ended(
    tmp_path: Path, scored: int, told: str
) -> None:
    text = SUMS.replace("digits = 1", "digits = 3").replace("tasks = 6", "tasks = 40")
    board = a_board(tmp_path, text)
    left, right = row(4, 2, 4, 40), row(scored, scored, 4, 40)
    found = compared(board, left, right)
    assert found["told"] == told
    assert ("first reaches more" in compared(board, right, left)["told"]) == (found["difference"]["low"] > 0)
    assert (found["if_missing"] is None) == (scored == 4)


# ---- results for programs --------------------------------------------------------------------------------------------


def test_results_are_put_together_once_and_hold_no_figures_of_single_tasks(
    db: BoardDatabase, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(db, board, "a", [{"share": 0.5}, {"share": 0.9, "tools": ["t"], "gain": 0.4}])
    place(db, board, "b", [{"share": 0.1}])
    ranking.recompute(db, board)
    with db.writing() as connection:  # what is not read cannot be slow
        connection.execute(entry_arms.update().values(figures="{}"))
        connection.execute(entries.update().where(entries.c.id == "b" * 32).values(state="rejected"))
    with client(db) as http:
        text = http.get("/api/boards/sums/results.json").text
        (found,) = http.get("/api/boards/sums/results.json").json()["entries"]
    assert not [name for name in BY_TASK if name in text]
    assert [arm["figures"]["operating"]["k"] for arm in found["arms"]] == [1, 1]
    assert found["arms"][1]["ranks"]["gain"] == [1, 1]
    assert found["url"].endswith(f"/entries/{'a' * 32}")


BEGINNINGS = ("=", "\n=", " =", "＝", "\u200b=", "\u0301=", "\r\n@", "\u3000+", "－", "\t-")


def test_no_cell_begins_with_a_formula_once_what_does_not_show_is_passed_over(db: BoardDatabase, board: Board) -> None:
    named = [{"share": 0.5, "name": f"{begin}1+1", "model": f"m\n{begin}1", "tools": ["a\n=b"]} for begin in BEGINNINGS]
    place(db, board, "a", named)
    ranking.recompute(db, board)
    _, found = board_results(db, "sums")
    text = as_csv(board, found, "")
    _, *rows = text.splitlines()
    assert len(rows) == len(BEGINNINGS)
    for begin, cells in zip(BEGINNINGS, rows, strict=True):
        assert f",'{' '.join(f'{begin}1+1'.splitlines())}," in cells


def test_nothing_is_read_out_of_the_name_that_an_author_gives_a_model(db: BoardDatabase, board: Board) -> None:
    place(db, board, "a", [{"share": 0.5, "model": "hf:org/gpt-6"}, {"share": 0.5, "model": "chat:x", "tools": ["t"]}])
    with client(db) as http:
        logs = http.get(f"/api/entries/{'a' * 32}/every_eval_ever.json").json()
    unknown = {"deployment_type": "unknown", "model_availability": "unknown"}
    assert [log["model_info"]["additional_details"] for log in logs] == [unknown, unknown]


# ---- transcripts -----------------------------------------------------------------------------------------------------


def test_a_part_of_a_transcript_ends_once_it_is_long_and_nothing_is_left_out() -> None:
    long = [{"role": "tool", "content": "x" * n} for n in (10, 400_000, 10, 299_980, 20)]
    assert parts(long) == [range(0, 2), range(2, 5)]
    assert parts([*long, "more"])[-1] == range(5, 6)
    many = [{"role": "assistant", "content": CALLS}] * 20
    assert [len(part) for part in parts(many)] == [6, 6, 6, 2]
    assert parts([]) == [range(0)]
    assert parts(["x"] * 250, ["x"] * 50) == [range(0, 100), range(100, 200), range(200, 250)]
    assert parts(["x"] * 100) == [range(0, 100)]
    assert CALL_OPEN in CALLS


def test_a_message_stands_in_a_bounded_number_of_pieces_and_loses_no_word() -> None:
    arguments = ",".join(f'"a{n}":1' for n in range(100))
    text = f'<tool_call>{{"name":"p","arguments":{{{arguments}}}}}</tool_call>' * 100
    blocks = list(read_blocks(text))
    assert MOST_BLOCKS <= len(blocks) <= MOST_BLOCKS + 103
    shown = sum(block.label == "calls p" for block in blocks)
    assert blocks[-1].text == text[len(text) // 100 * shown :]


def test_the_beginning_of_a_text_takes_no_more_room_than_it_may() -> None:
    text = UNSEEN * 20
    cut = beginning(text, 100_000)
    assert text.startswith(cut)
    assert 0 < len(visible(cut)) <= 100_000
    assert beginning("x" * 50_000, 50_000) == "x" * 50_000


def tall(attempt: Attempt) -> Attempt:
    if attempt.sample:
        return attempt
    said = [{"role": "assistant", "content": f"step {n} {CALLS}"} for n in range(30)]
    odd: list[Any] = [{"role": "user", "content": UNSEEN * 500}, {"role": "tool", "content": "the end\ud800"}]
    return replace(attempt, transcript=[*said, *odd])  # type: ignore[list-item]


@pytest.fixture(scope="module")
def transcripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BoardDatabase, TestClient, str, str]]:
    """A board, a client, and two attempts whose transcripts are tall."""
    db, board, ids = boarded(tmp_path_factory.mktemp("tall"), entries_=[{"rewrite": tall}])
    with db, client(db) as http:
        with db.reading() as connection:
            query = sa.select(entry_arms.c.arm).where(entry_arms.c.entry == ids[0]).order_by(entry_arms.c.position)
            arms = connection.scalars(query).all()
        first, second = (attempt_id(board.tasks[0].hash, arm, 0, board.seed) for arm in arms)
        yield db, http, first, second


def test_only_the_warnings_of_an_analysis_are_kept(transcripts: Any) -> None:
    with transcripts[0].reading() as connection:
        assert list(unpacked(connection.scalar(sa.select(entry_reports.c.data)))) == ["warnings"]


def test_a_tall_transcript_stands_on_several_small_pages_that_lead_to_each_other(transcripts: Any) -> None:
    _, http, attempt, _ = transcripts
    address, pages = f"/attempts/{attempt}", 0
    seen: list[int] = []
    while address:
        text = http.get(address).text
        assert len(text) < (500_000 if "‹U+" not in text else 12_000_000)
        seen += map(int, re.findall(r"<h3>(\d+) ·", text))
        pages += 1
        following = re.search(r'rel="next" href="([^"]+)"', text)
        address = following[1].replace("&amp;", "&") if following else ""
    assert seen == list(range(1, 33))
    assert pages > 5
    assert http.get(f"/attempts/{attempt}?page={pages + 1}").status_code == 404


def test_two_tall_transcripts_stand_beside_each_other_page_by_page(transcripts: Any) -> None:
    _, http, attempt, other = transcripts
    text = http.get(f"/attempts/{attempt}?beside={other}&page=2").text
    assert "steps here say the same" in text
    assert f"beside={other}" in re.search(r'rel="next" href="([^"]+)"', text)[1]  # type: ignore[index]
    assert "step 29 " not in text


def test_what_is_too_long_for_a_page_is_loaded_as_text(transcripts: Any) -> None:
    _, http, attempt, _ = transcripts
    text = http.get(f"/attempts/{attempt}?page=99").text
    assert "there is no page" in text
    last = int(re.search(r"Page 1 of (\d+)", http.get(f"/attempts/{attempt}").text)[1])  # type: ignore[index]
    text = "".join(http.get(f"/attempts/{attempt}?page={n}").text for n in (last - 1, last))
    assert f'href="/attempts/{attempt}/steps/31.txt"' in text
    assert "more characters are not shown here" in text
    whole = http.get(f"/attempts/{attempt}/steps/31.txt")
    assert whole.text == UNSEEN * 500
    assert whole.headers["content-type"].startswith("text/plain")
    assert "attachment" in whole.headers["content-disposition"]
    assert http.get(f"/attempts/{attempt}/steps/32.txt").text == "the end\\ud800"
    assert [http.get(f"/attempts/{attempt}/steps/{n}.txt").status_code for n in (0, 33)] == [404, 404]
