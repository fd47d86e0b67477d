"""Whatever an entry's author calls things, every database takes it, and the pages are shown."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.boards import a_board, a_run, client
from helpers.bundles import Lines, bundle_of, examine
from testbed.board import boards, ranking
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.results import compute_entry

ODD: dict[str, Any] = {
    "nul": "m\x00\x1b[31m",
    "direction": "m\u202e</title><script>",
    "long": "m" * 500,
    "not a character": "m\ufffe",
}
ODD["all of them"] = "".join(sorted(ODD.values(), key=len))[:500]
BY_ITSELF = [pytest.param(odd, marks=() if odd == "all of them" else pytest.mark.slow) for odd in ODD]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Board, bytes]:
    folder = tmp_path_factory.mktemp("odd")
    board = a_board(folder)
    return board, bundle_of(folder / "runs.sqlite", a_run(folder / "runs.sqlite", board), board)


@pytest.mark.parametrize("odd", BY_ITSELF)
def test_an_odd_model_is_stored_ranked_and_shown(db: BoardDatabase, sent: tuple[Board, bytes], odd: str) -> None:
    board, data = sent
    lines = Lines.of(data)
    for arm in lines.arms:
        arm["spec"]["name"] = ODD[odd]
        arm["spec"]["model"] = {**arm["spec"]["model"], ODD[odd][:1000]: ODD[odd]}
    boards.create(db, board)
    found = examine(db, board.slug, lines.sealed())
    assert found.state == "partly", found.wrong
    compute_entry(db, found.id)
    ranking.recompute(db, board)
    with client(db) as asked:
        for page in (f"/entries/{found.id}", "/boards/sums", "/boards/sums/mechanisms", "/api/boards/sums/results.csv"):
            answer = asked.get(page)
            assert answer.status_code == 200, page
            assert "<script>" not in answer.text.replace("<script src=", "") or page.endswith("csv")


@pytest.mark.parametrize(
    ("name", "said"),
    [("a\x00b", "printable"), ("\x1b[31m", "printable"), (" ", "printable"), ("\ud800", "line 3 of the bundle")],
)
def test_an_arm_whose_name_cannot_be_printed_is_refused(
    db: BoardDatabase, sent: tuple[Board, bytes], name: str, said: str
) -> None:
    board, data = sent
    lines = Lines.of(data)
    lines.arms[1]["name"] = name
    boards.create(db, board)
    found = examine(db, board.slug, lines.sealed())
    assert found.state == "rejected"
    assert said in found.wrong
