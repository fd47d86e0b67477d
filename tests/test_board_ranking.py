"""The ranking and the other summaries of a board, from counts that are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from helpers.board_entries import place
from helpers.boards import SUMS, a_board
from testbed.board import boards, ranking
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.reading import Filters, ranked, summary
from testbed.board.schema import entries, rankings
from testbed.stats import decompose_cross_fitted

QUICK_IN_POSTGRESQL = (
    "test_filters_choose_and_keep_the_order",
    "test_pages_of_a_ranking_follow_on_from_one_another",
    "test_an_entry_that_is_no_longer_accepted_leaves_the_ranking",
    "test_ranking_again_changes_nothing",
)

TASKS = 40


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board of forty sums, which are the same in every test."""
    return a_board(tmp_path_factory.mktemp("board"), SUMS.replace("tasks = 6", f"tasks = {TASKS}"))


@pytest.fixture
def opened(db: BoardDatabase, read: Board) -> tuple[BoardDatabase, Board]:
    return db, boards.create(db, read)


def places(db: BoardDatabase, by: str = "reach") -> dict[str, tuple[int, int, int]]:
    """Entry's character → position of the arm it stands with, best and worst rank."""
    with db.reading() as connection:
        found = connection.execute(sa.select(rankings).where(rankings.c.by == by))
        return {row.entry[0]: (row.position, row.low, row.high) for row in found}


def summary_of(db: BoardDatabase, key: str) -> Any:
    with db.reading() as connection:
        return summary(connection, "sums", key)


def test_entries_that_are_far_apart_have_exact_ranks_and_equal_ones_share_theirs(
    opened: tuple[BoardDatabase, Board],
) -> None:
    db, board = opened
    for entry, share in (("a", 0.1), ("b", 0.95), ("c", 0.5), ("d", 0.5)):
        place(db, board, entry, [{"share": share}])
    ranking.recompute(db, board)
    assert places(db) == {"b": (0, 1, 1), "c": (0, 2, 3), "d": (0, 2, 3), "a": (0, 4, 4)}


def test_an_entry_stands_with_its_best_arm_and_never_with_a_placebo(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    arms = [{"share": 0.2}, {"share": 0.9, "tools": ["a"]}, {"share": 1.0, "tools": ["a"], "control": "inert"}]
    place(db, board, "a", arms)
    ranking.recompute(db, board)
    assert places(db) == {"a": (1, 1, 1)}


def test_gain_is_ranked_against_the_bare_arm_of_the_same_entry(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    place(db, board, "a", [{"share": 0.8}, {"share": 0.9, "tools": ["t"], "gain": 0.1}])
    place(db, board, "b", [{"share": 0.0}, {"share": 0.8, "tools": ["t"], "gain": 0.8}])
    place(db, board, "c", [{"share": 1.0}])  # nothing to compare with
    ranking.recompute(db, board)
    assert places(db, "gain") == {"b": (1, 1, 1), "a": (1, 2, 2)}
    assert places(db)["c"][0] == 0


def test_tasks_left_out_do_not_help(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    half = np.arange(TASKS) < TASKS // 2
    place(db, board, "a", [{"n": np.where(half, 4, 0), "c": np.where(half, 4, 0), "name": "dropped its failures"}])
    place(db, board, "b", [{"share": 0.75}])
    ranking.recompute(db, board)
    assert places(db) == {"a": (0, 1, 2), "b": (0, 1, 2)}


def test_an_entry_that_is_no_longer_accepted_leaves_the_ranking(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    for entry in "ab":
        place(db, board, entry, [{"share": 0.5}])
    place(db, board, "c", [{"share": 1.0}], state="rejected")
    ranking.recompute(db, board)
    assert set(places(db)) == {"a", "b"}
    with db.writing() as connection:
        connection.execute(entries.update().where(entries.c.id == "a" * 32).values(state="rejected"))
    with db.reading() as connection:  # not listed even before the ranking is made again
        assert [row["entry"][0] for row in ranked(connection, "sums", Filters(), 0, 50)[1]] == ["b"]
    ranking.recompute(db, board)
    assert places(db) == {"b": (0, 1, 1)}


def test_a_board_without_entries_has_an_empty_ranking(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    ranking.recompute(db, board)
    assert places(db) == {}
    assert summary_of(db, "mechanisms") == []
    assert summary_of(db, "pareto") == {}


# ---- filters ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(where_shared: str, read: Board) -> Iterator[BoardDatabase]:
    """Three entries that every filter tells apart."""
    with BoardDatabase.open(where_shared) as db:
        board = boards.create(db, read)
        place(db, board, "a", [{"share": 0.9, "model": "small", "tokens": 5, "usd": 0.1}])
        tools = {"share": 0.6, "tools": ["search", "python"], "gain": 0.5, "tokens": 50, "model": "large", "usd": 1.0}
        place(db, board, "b", [{"share": 0.1, "model": "large"}, tools])
        place(db, board, "c", [{"share": 0.2, "model": "large", "tokens": 20, "usd": 2.0}], state="partly")
        ranking.recompute(db, board)
        yield db


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (Filters(), "abc"),
        (Filters(model="small"), "a"),
        (Filters(tools="python+search"), "b"),
        (Filters(tools="none"), "ac"),
        (Filters(tokens=20), "ac"),
        (Filters(usd=0.5), "a"),
        (Filters(state="verified"), "ab"),
        (Filters(model="small' OR '1'='1"), ""),
        (Filters(model="nul\x00"), ""),
        (Filters(by="gain"), "b"),
    ],
)
def test_filters_choose_and_keep_the_order(three: BoardDatabase, filters: Filters, found: str) -> None:
    with three.reading() as connection:
        total, rows = ranked(connection, "sums", filters, 0, 50)
    assert "".join(row["entry"][0] for row in rows) == found
    assert total == len(found)


def test_pages_of_a_ranking_follow_on_from_one_another(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    for n, entry in enumerate("0123456789"):
        place(db, board, entry, [{"share": n / 10}])
    ranking.recompute(db, board)
    with db.reading() as connection:
        pages = [ranked(connection, "sums", Filters(), start, 4)[1] for start in (0, 4, 8)]
    assert "".join(row["entry"][0] for page in pages for row in page) == "9876543210"


def test_the_filters_offer_what_is_ranked(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    place(db, board, "a", [{"share": 0.2, "model": "m"}, {"share": 0.9, "tools": ["t"], "model": "m", "gain": 0.7}])
    place(db, board, "b", [{"share": 0.3, "model": "m"}])
    ranking.recompute(db, board)
    found = summary_of(db, "facets")
    assert found["reach_models"] == [["m", "m", 2]]
    assert found["reach_tools"] == [["none", "none", 1], ["t", "t", 1]]
    assert found["gain_tools"] == [["t", "t", 1]]
    assert (found["entries"], found["usd"]) == (2, False)


# ---- what success costs ----------------------------------------------------------------------------------------------


def test_the_front_holds_the_arms_that_no_cheaper_arm_equals(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    for entry, share, tokens in (("a", 0.5, 10), ("b", 0.95, 20), ("c", 0.1, 30), ("d", 0.9, 25), ("e", 0.2, 5)):
        place(db, board, entry, [{"share": share, "tokens": tokens}])
    ranking.recompute(db, board)
    found = summary_of(db, "pareto")["tokens"]
    assert [point["entry"][0] for point in found["front"]] == ["e", "a", "b"]
    assert (found["arms"], found["behind"], found["open"]) == (5, 1, 1)  # c is shown to be behind, d is not
    assert "<svg" in found["svg"]
    assert "usd" not in summary_of(db, "pareto")


# ---- what a mechanism added ------------------------------------------------------------------------------------------


def paired(rng: np.random.Generator, model: str, gain: float) -> list[dict[str, Any]]:
    before = rng.binomial(6, 0.3, TASKS)
    after = rng.binomial(4, 0.3 + gain, TASKS)
    return [
        {"n": 6, "c": before, "model": model},
        {"n": 4, "c": after, "tools": ["search"], "model": model, "gain": float((after / 4 - before / 6).mean())},
    ]


def test_a_mechanism_of_one_entry_is_the_decomposition_of_that_entry(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    bare, tool = paired(np.random.default_rng(1), "m", 0.4)
    place(db, board, "a", [bare, tool])
    ranking.recompute(db, board)
    (found,) = summary_of(db, "mechanisms")
    six, four = np.full(TASKS, 6), np.full(TASKS, 4)
    parts = decompose_cross_fitted(six, bare["c"], four, tool["c"], operating=1, elicitation=3)
    assert found["spends"] == [1, 3]
    assert found["mean"]["gain"]["value"] == pytest.approx(tool["gain"])
    for name, key in (("creation", "creation"), ("loss", "loss"), ("elicitation", "elicitation_part")):
        assert found["mean"][key]["value"] == pytest.approx(getattr(parts, name).mean())
    assert (found["tools"], found["models"], found["entries"], found["above"]) == (["search"], 1, 1, 1)
    assert "<svg" in found["svg"]


def test_a_model_that_was_entered_often_counts_once(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    rng = np.random.default_rng(2)
    weak, strong = paired(rng, "weak", 0.1), paired(rng, "strong", 0.6)
    place(db, board, "a", strong)
    for entry in "bcdef":
        place(db, board, entry, weak)
    ranking.recompute(db, board)
    (found,) = summary_of(db, "mechanisms")
    assert (found["models"], found["entries"]) == (2, 6)
    assert found["mean"]["gain"]["value"] == pytest.approx((weak[1]["gain"] + strong[1]["gain"]) / 2)
    parts = found["mean"]
    total = parts["elicitation_part"]["value"] + parts["creation"]["value"] - parts["loss"]["value"]
    assert total == pytest.approx(parts["gain"]["value"])


def test_placebos_stand_apart_from_the_live_tools(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    bare, tool = paired(np.random.default_rng(3), "m", 0.3)
    place(db, board, "a", [bare, tool, {**tool, "control": "inert"}])
    ranking.recompute(db, board)
    assert [m["control"] for m in summary_of(db, "mechanisms")] == ["live", "inert"]


def test_one_attempt_per_task_gives_no_split(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    place(db, board, "a", [{"n": 1, "share": 0.2}, {"n": 1, "share": 0.8, "tools": ["t"], "gain": 0.6}])
    ranking.recompute(db, board)
    (found,) = summary_of(db, "mechanisms")
    assert found["mean"] is None
    assert found["spends"] is None


# ---- again -----------------------------------------------------------------------------------------------------------


def test_ranking_again_changes_nothing(opened: tuple[BoardDatabase, Board]) -> None:
    db, board = opened
    for entry, share in (("a", 0.1), ("b", 0.9)):
        place(db, board, entry, [{"share": share, "model": f"model {entry}"}])
    for _ in range(2):
        ranking.recompute(db, board)
    assert places(db) == {"b": (0, 1, 1), "a": (0, 2, 2)}
    with db.reading() as connection:
        assert ranked(connection, "sums", Filters(model="model a", tools="none", tokens=10), 0, 50)[0] == 1
