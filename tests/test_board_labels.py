"""Names that a chart has to cut: whatever characters they are made of, the chart is drawn and the ranks stand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
import vl_convert
from starlette.testclient import TestClient

from helpers.board_entries import place
from helpers.boards import SUMS, a_board, a_run, client
from testbed.board import boards, ranking
from testbed.board.boards import Board
from testbed.board.chart_pictures import drawn
from testbed.board.database import BoardDatabase
from testbed.board.mechanisms import mechanisms
from testbed.board.reading import summary
from testbed.report.chart import arm_axis, chart
from testbed.report.chart_labels import PLACE, cut
from testbed.report.page import write_png
from testbed.store import Store

QUICK_IN_POSTGRESQL = ("test_a_summary_that_fails_takes_neither_ranks_nor_other_summaries_with_it",)

EMOJI = "\U0001f600" * 40
NAMES = [f"{'m' * n}{EMOJI}" for n in range(4)]  # so that every limit falls into the middle of a character


@pytest.fixture
def board(db: BoardDatabase, tmp_path: Path) -> Board:
    return boards.create(db, a_board(tmp_path, SUMS.replace("tasks = 6", "tasks = 12")))


def enter(db: BoardDatabase, board: Board, model: str, sets: int = 1) -> None:
    """An entry with a bare arm and arms with as many sets of tools."""
    arms = [{"share": 0.9, "tools": [f"t{n}"], "gain": 0.4, "name": model, "model": model} for n in range(sets)]
    place(db, board, "a", [{"share": 0.5, "model": model}, *arms])


@pytest.mark.parametrize("name", NAMES, ids=range(4))
def test_a_chart_of_the_report_cuts_names_between_characters(name: str) -> None:
    values = [{"arm": name, "gain": 0.1}, {"arm": "bare", "gain": 0.2}]
    base = alt.Chart(alt.InlineData(values=values)).mark_point()
    made = base.encode(
        x=alt.X("gain", type="quantitative"), y=arm_axis([name, "bare"]), color=alt.Color("arm", type="nominal")
    )
    svg = vl_convert.vegalite_to_svg(chart("gain", "t", "c", "f", made, height=20).spec)
    assert svg.count("…") >= 1
    assert "bare" in svg


@pytest.mark.parametrize("text", ["short", "x" * 200, "字" * 200, *NAMES, "\n" * 50], ids=range(8))
def test_a_label_is_cut_by_the_room_that_it_takes(text: str) -> None:
    label = cut(text, 10 * PLACE)
    assert text.startswith(label.removesuffix("…"))
    assert len(label.removesuffix("…")) <= 20
    assert (label == text) == (len(text) <= 10)
    label.encode()


@pytest.mark.slow
def test_every_chart_of_a_report_is_drawn_whatever_arms_are_called(tmp_path: Path) -> None:
    board = a_board(tmp_path)
    a_run(tmp_path / "a.sqlite", board, arms=[{"name": NAMES[1]}, {"name": NAMES[0], "tools": ["calculator"]}])
    from testbed.report.analyse import analyse_run

    with Store.open(tmp_path / "a.sqlite") as store:
        assert len(write_png(analyse_run(store, "mine"), tmp_path / "png")) > 10


@pytest.mark.parametrize("model", NAMES[:2], ids=range(2))
def test_a_models_name_never_stops_a_boards_ranking(db: BoardDatabase, board: Board, model: str) -> None:
    enter(db, board, model)
    ranking.recompute(db, board)
    with client(db) as http:
        assert http.get("/boards/sums").text.count('name="arm"') == 1
        picture = http.get("/boards/sums/mechanisms/0.svg")
        assert (picture.status_code, "😀😀…" in picture.text) == (200, True)


def pages(http: TestClient) -> list[str]:
    addresses = ("", "/pareto", "/mechanisms", "/mechanisms?tools=t0", "/tasks")
    found = [http.get(f"/boards/sums{address}") for address in addresses]
    assert [answer.status_code for answer in found] == [200] * 5
    return [answer.text for answer in found]


def test_a_chart_that_cannot_be_drawn_is_left_out_and_nothing_else(
    db: BoardDatabase, board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> str:
        raise ValueError("unexpected end of hex escape")

    enter(db, board, "m")
    monkeypatch.setattr(vl_convert, "vegalite_to_svg", fails)
    ranking.recompute(db, board)
    assert drawn({}) == ""
    assert "could not be drawn" in caplog.text
    with client(db) as http:
        shown = pages(http)
        assert 'name="arm"' in shown[0]
        assert not [text for text in shown if "/0.svg?" in text or "tokens.svg?" in text]
        assert http.get("/boards/sums/mechanisms/0.svg").status_code == 404
        assert http.get("/boards/sums/pareto/tokens.svg").status_code == 404


def test_a_summary_that_fails_takes_neither_ranks_nor_other_summaries_with_it(
    db: BoardDatabase, board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("a bug")

    enter(db, board, "m")
    monkeypatch.setattr(ranking, "mechanisms", fails)
    with caplog.at_level(logging.ERROR):
        ranking.recompute(db, board)
    assert "its summary mechanisms could not be made" in caplog.text
    with db.reading() as connection:
        assert summary(connection, "sums", "mechanisms") is None
        assert summary(connection, "sums", "tasks")["arms"] == 2
    with client(db) as http:
        shown = http.get("/boards/sums").text, http.get("/boards/sums/mechanisms").text
        assert 'name="arm"' in shown[0]
        assert "No verified entry compares" in shown[1]


def test_of_many_sets_of_tools_only_the_first_have_a_picture(
    db: BoardDatabase, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    from testbed.board import mechanisms as module
    from testbed.board.arm_rows import read_rows

    asked = []

    def draw(spec: Any) -> str:
        asked.append(spec)
        return "<svg/>"

    monkeypatch.setattr(module, "drawn", draw)
    monkeypatch.setattr(module, "MOST_DRAWN", 2)
    monkeypatch.setattr(module, "MOST_MECHANISMS", 4)
    enter(db, board, "m", sets=6)
    with db.reading() as connection:
        found = mechanisms(read_rows(connection, "sums"), board)
    assert [bool(one["svg"]) for one in found] == [True, True, False, False]
    assert len(asked) == 2
    ranking.recompute(db, board)
    with client(db) as http:
        assert "These are the 4 with most models of 6." in http.get("/boards/sums/mechanisms").text
        last = found[-1]["tools"][0]
        assert "Forest plot" not in http.get(f"/boards/sums/mechanisms?tools={last}").text


def test_missing_attempts_are_told_beside_a_mechanisms_mean(db: BoardDatabase, board: Board) -> None:
    half, none = np.where(np.arange(12) < 6, 4, 0), np.zeros(12, dtype=int)
    place(
        db, board, "a",
        [{"n": 6, "share": 0.5}, {"n": half + 2, "c": half + 2, "made": 6, "tools": ["t"], "gain": 0.5}],
    )  # fmt: skip
    place(db, board, "b", [{"n": 6, "share": 0.5}, {"n": none + 6, "c": none + 3, "tools": ["u"], "gain": 0.0}])
    ranking.recompute(db, board)
    with db.reading() as connection:
        found = {one["tools"][0]: one["missing"] for one in summary(connection, "sums", "mechanisms")}
    assert found["u"] is None
    assert found["t"]["attempts"] == 24
    assert found["t"]["low"] < found["t"]["high"]
    with client(db) as http:
        assert "24 attempts are missing in arms that the mean is of" in http.get("/boards/sums/mechanisms?tools=t").text
        assert "however 24 missing ended" in http.get("/boards/sums/mechanisms").text
        assert "missing in arms" not in http.get("/boards/sums/mechanisms?tools=u").text
