"""What makes a gain look larger than it is: a bare arm that was held back, and attempts that are said to be missing."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.board_entries import place
from helpers.boards import SUMS, a_board
from helpers.bundles import Lines, bundle_of, examine, ran
from testbed.board import boards, ranking
from testbed.board.arm_rows import read_rows
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.pages_compare import compared
from testbed.board.schema import rankings
from testbed.board.verify import Means
from testbed.board.verify import one_pass as verify_pass
from testbed.board.verify.rerun import Drawn
from testbed.board.verify.tools import Remaker
from testbed.errors import ContextFull
from testbed.models import make_model
from testbed.models.base import Reply, Request
from testbed.models.hf import HuggingFace
from testbed.protocol import NO_ACTION, write_answer

QUICK_IN_POSTGRESQL = (
    "test_ranks_take_missing_attempts_at_their_worst_also_where_enough_were_scored",
    "test_a_missing_attempt_whose_tool_result_names_no_tool",
)


def cut_short(attempt: dict[str, Any], ended: str) -> None:
    """Leaves nothing of an attempt but its prompt and what is said to have ended it."""
    attempt.update(ended=ended, success=False, score=None, answer=None, faults={}, transcript=attempt["transcript"][:1])
    attempt["cost"] |= dict.fromkeys(set(attempt["cost"]) - {"seconds", "usd"}, 0)


def with_bare_successes_cut(data: bytes, ended: str) -> bytes:
    lines = Lines.of(data)
    for attempt in lines.of_arm("bare"):
        if attempt["success"]:
            cut_short(attempt, ended)
    return lines.sealed()


# ---- a bare arm that is held back ------------------------------------------------------------------------------------


def test_a_full_context_that_the_model_does_not_find_full(sums_db: BoardDatabase, reference_bundle: bytes) -> None:
    found = examine(sums_db, "sums", with_bare_successes_cut(reference_bundle, "limit:context"))
    assert found.state == "rejected"
    assert "said to have ended by 'limit:context', and the model goes on with" in found.wrong


def test_a_full_context_that_the_model_finds_full_again_is_no_forgery(
    sums_board: Board, sums_db: BoardDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = HuggingFace.generate

    async def full_now_and_then(model: HuggingFace, request: Request) -> Reply:
        if request.stream % 4 == 0 or len(request.messages) > 3:
            raise ContextFull("the conversation is too long.")
        return await writes(model, request)

    monkeypatch.setattr(HuggingFace, "generate", full_now_and_then)
    where = tmp_path / "runs.sqlite"
    data = bundle_of(where, ran(where, sums_board, {"id": "reference", "max_tokens": 60}), sums_board)
    assert sum(attempt["ended"] == "limit:context" for attempt in Lines.of(data).attempts) > 5
    assert examine(sums_db, "sums", data).state == "verified"


def test_a_message_that_the_context_cut_is_no_forgery(
    sums_board: Board, sums_db: BoardDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = HuggingFace.generate

    async def cut_now_and_then(model: HuggingFace, request: Request) -> Reply:
        if request.stream % 4:
            return await writes(model, request)
        return replace(await writes(model, replace(request, max_tokens=2)), finish="context")

    monkeypatch.setattr(HuggingFace, "generate", cut_now_and_then)
    where = tmp_path / "runs.sqlite"
    data = bundle_of(where, ran(where, sums_board, {"id": "reference", "max_tokens": 60}), sums_board)
    cut = [attempt for attempt in Lines.of(data).attempts if attempt["ended"] == "limit:context"]
    assert {attempt["transcript"][-2]["role"] for attempt in cut} == {"assistant"}
    found = examine(sums_db, "sums", data)
    assert found.state == "verified", found.wrong


def test_nothing_follows_a_message_that_the_context_cut(
    sums_board: Board, sums_db: BoardDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens claimed are those of the cut message alone, which has more of them than its text needs."""
    writes, rambles = HuggingFace.generate, "a b c d e f g h i j"

    async def cut_now_and_then(model: HuggingFace, request: Request) -> Reply:
        reply = await writes(model, request)
        if request.stream % 2 or request.tools:
            return reply
        return replace(reply, text=rambles, usage=replace(reply.usage, generated_tokens=60), finish="context")

    monkeypatch.setattr(HuggingFace, "generate", cut_now_and_then)
    where = tmp_path / "runs.sqlite"
    lines = Lines.of(bundle_of(where, ran(where, sums_board, {"id": "reference", "max_tokens": 60}), sums_board))
    prompt = make_model("reference").prompt
    right = {task.hash: task.reference for task in sums_board.tasks}
    for attempt in lines.of_arm("bare"):
        if attempt["ended"] == "limit:context":
            asked, said, _ = attempt["transcript"]
            answer = right[attempt["task"]]
            attempt["transcript"] = [asked, said, {"role": "user", "content": NO_ACTION}]
            attempt["cost"] |= {"turns": 2, "model_calls": 2}
            attempt["cost"]["prompt_tokens"] += len(prompt(attempt["transcript"], []))
            attempt["transcript"].append({"role": "assistant", "content": write_answer(answer)})
            attempt.update(ended="answered", success=True, score=None, answer=answer)
    found = examine(sums_db, "sums", lines.sealed())
    assert found.state == "rejected"
    assert "its message 1 fills the model's context" in found.wrong


def test_a_full_context_of_a_model_that_is_not_here_is_said_to_be_unchecked(
    sums_db: BoardDatabase, stranger_bundle: bytes
) -> None:
    found = examine(sums_db, "sums", with_bare_successes_cut(stranger_bundle, "limit:context"))
    assert any("'bare' ended since their model took no longer conversation" in text for text in found.of("unchecked"))


@pytest.mark.parametrize("ended", ["limit:seconds", "limit:usd"])
def test_a_limit_that_the_board_does_not_have_ends_nothing(
    sums_db: BoardDatabase, stranger_bundle: bytes, ended: str
) -> None:
    found = examine(sums_db, "sums", with_bare_successes_cut(stranger_bundle, ended))
    assert found.state == "rejected"
    assert f"cannot have ended by '{ended}'" in found.wrong


# ---- attempts that are said to be missing ----------------------------------------------------------------------------


def test_ranks_take_missing_attempts_at_their_worst_also_where_enough_were_scored(
    db: BoardDatabase, tmp_path: Path
) -> None:
    # Two of three scored, where two of four were made: who leaves a failure out of each task is not shown better.
    board = a_board(tmp_path, SUMS.replace("digits = 1\ntasks = 6", "digits = 2\ntasks = 80"))
    size = len(board.tasks)
    scored, succeeded = np.full(size, 3), np.full(size, 2)
    boards.create(db, board)
    place(db, board, "a", [{"n": scored, "c": succeeded, "made": 4, "name": "left failures out"}])
    place(db, board, "b", [{"n": scored + 1, "c": succeeded}])
    ranking.recompute(db, board)
    with db.reading() as connection:
        found = {r.entry[0]: (r.low, r.high) for r in connection.execute(rankings.select())}
        first, second = read_rows(connection, board.slug)
    shown = compared(board, second, first)
    assert found == {"a": (1, 2), "b": (1, 2)}
    assert shown["difference"]["low"] > 0  # of what was scored
    assert shown["if_missing"] == pytest.approx({"low": 0.0, "high": 0.25})


def test_missing_bare_successes_do_not_rank_a_gain_higher(db: BoardDatabase, tmp_path: Path) -> None:
    board = a_board(tmp_path, SUMS.replace("digits = 1\ntasks = 6", "digits = 2\ntasks = 80"))
    size = len(board.tasks)
    honest = {"n": np.full(size, 4), "c": np.full(size, 2)}
    held_back = {"n": np.full(size, 3), "c": np.full(size, 1), "made": 4}
    tools = {"n": np.full(size, 4), "c": np.full(size, 3), "tools": ["calculator"]}
    boards.create(db, board)
    place(db, board, "a", [held_back, {**tools, "gain": 0.75 - 1 / 3}])
    place(db, board, "b", [honest, {**tools, "gain": 0.25}])
    ranking.recompute(db, board)
    with db.reading() as connection:
        query = rankings.select().where(rankings.c.by == "gain")
        found = {r.entry[0]: (r.low, r.high) for r in connection.execute(query)}
    assert found == {"a": (1, 2), "b": (1, 2)}


def test_a_missing_attempt_whose_tool_result_names_no_tool(sums_db: BoardDatabase, stranger_bundle: bytes) -> None:
    lines = Lines.of(stranger_bundle)
    lost = next(a for a in lines.of_arm("calculator") if a["cost"]["tool_calls"])
    lost.update(status="missing", ended="missing:transport_error", success=None, score=None, answer=None)
    del lost["transcript"][2]["name"]
    assert "without the tool's name" in examine(sums_db, "sums", lines.sealed()).wrong


# ---- names that are not a model's own --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "said"), [("reference_bundle", "chat:lab:tiny-1m"), ("stranger_bundle", "reference")]
)
def test_a_model_under_another_models_name_is_never_verified(
    sums_db: BoardDatabase, request: pytest.FixtureRequest, which: str, said: str
) -> None:
    lines = Lines.of(request.getfixturevalue(which))
    for arm in lines.arms:
        arm["spec"]["name"] = said
    found = examine(sums_db, "sums", lines.sealed())
    assert found.state == "partly"
    assert any(f"its author calls the model '{said}', and" in text for text in found.of("unchecked"))


def test_arms_that_call_one_model_by_two_names(sums_db: BoardDatabase, stranger_bundle: bytes) -> None:
    lines = Lines.of(stranger_bundle)
    lines.arms[1]["spec"]["name"] = "chat:lab:large"
    assert "differ in their model's name" in examine(sums_db, "sums", lines.sealed()).wrong


# ---- trying again until chance looks elsewhere -----------------------------------------------------------------------


def test_of_many_each_is_drawn_as_often_as_any_other() -> None:
    chance, times = random.Random(1), Counter[int]()
    for _ in range(4000):
        drawn = Drawn(5, chance)
        for n in range(20):
            drawn.add(n)  # type: ignore[arg-type]
        assert len(set(drawn.kept)) == 5
        times.update(drawn.kept)
    expected = 4000 * 5 / 20
    assert all(abs(times[n] - expected) < 5 * expected**0.5 for n in range(20))


def test_an_account_whose_entries_were_rejected_is_looked_at_more_closely(
    sums_db: BoardDatabase, reference_bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_pass, "MADE_AGAIN", 3)
    told = []
    for n, forged in enumerate((False, True, True, False)):
        lines = Lines.of(reference_bundle)
        lines.manifest["created"] = f"try {n}"  # other bytes, so that it is another entry
        lines.attempts[0]["success"] ^= forged
        found = examine(sums_db, "sums", lines.sealed())
        assert (found.state == "rejected") == forged
        told += [text for text in found.of("ok") if "the model made" in text]
    assert [text.split(" attempts")[0] for text in told] == ["model: the model made 3", "model: the model made 12"]


# ---- keeping the server busy -----------------------------------------------------------------------------------------


def test_an_attempt_whose_tools_take_for_ever_does_not_keep_the_server(
    sums_db: BoardDatabase, stranger_bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*args: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(Remaker, "check", slow)
    began = time.monotonic()
    found = examine(sums_db, "sums", stranger_bundle, Means(seconds=2.0))
    assert "takes longer than this server has" in found.wrong
    assert time.monotonic() - began < 30
