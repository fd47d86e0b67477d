"""Tool results that a forger gives a fault, cuts or lengthens, and bundles that keep the server busy."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.boards import SUMS, a_board, a_database, a_run
from helpers.bundles import Lines, bundle_of, examine
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.verify import Means, one_pass, replay
from testbed.board.verify import tools as verify_tools
from testbed.board.verify.remade import PRINTED, compared, machine_words, may_draw
from testbed.board.verify.tools import leak_of
from testbed.errors import FaultKind
from testbed.overlap import Question
from testbed.protocol import NO_ACTION, write_call
from testbed.types import Message, ToolResult

FAILED, LATE = FaultKind.EXECUTION_ERROR, FaultKind.TIMEOUT
WORDS = machine_words("python", {"timeout": None, "content": {"wall_seconds": 5.0, "memory_mib": 256}})
STOPPED = "error: timeout: stopped after 5 s"


@pytest.fixture
def db(tmp_path: Path, sums_board: Board) -> Iterator[BoardDatabase]:
    """One kind: what is tried here is in no database."""
    with a_database(tmp_path / "board.sqlite", sums_board) as opened:
        yield opened


def result(text: str, fault: FaultKind | None = None, cut: int | None = None) -> ToolResult:
    return ToolResult("python", text, fault, 1, cut)


@pytest.mark.parametrize(
    ("own", "recorded", "found"),
    [
        (result("994"), result("994"), "same"),
        (result("994"), result("995", FAILED), "other"),
        (result("994"), result("995", LATE), "other"),
        (result("994"), result("error: execution_error: 995", FAILED), "other"),
        (result("error: execution_error: NameError", FAILED), result("error: execution_error: 995", FAILED), "other"),
        (result("994"), result(STOPPED, LATE), "open"),
        (result("994"), result("error: timeout: python: took longer than 5 s.", LATE), "open"),
        (
            result("994"),
            result("error: execution_error: stopped for using more than 256 MiB of memory", FAILED),
            "open",
        ),
        (result("994"), result(STOPPED.replace("5", "995"), LATE), "other"),
        (result("994"), result(STOPPED + PRINTED + "995", LATE), "other"),
        (result("994"), result(STOPPED + PRINTED + "99", LATE), "open"),
        (result("994"), result("error: timeout: st", LATE, 4), "open"),
        (result("994"), result("995", LATE, 200), "other"),
        (result(STOPPED, LATE), result("995"), "open"),  # a slow server accuses nobody
        (result("99"), result("994", FAILED), "other"),
    ],
)
def test_a_fault_excuses_no_text_but_the_testbeds_own_words(own: ToolResult, recorded: ToolResult, found: str) -> None:
    assert compared(own, own, recorded, WORDS) == found


def test_what_comes_out_otherwise_each_time_is_not_held_against_anybody_and_not_called_the_same() -> None:
    assert compared(result("0.1"), result("0.2"), result("0.3"), WORDS) == "open"
    assert compared(result("0.1"), result("0.2"), result("0.2"), WORDS) == "same"


@pytest.mark.parametrize(
    ("code", "draws"),
    [
        ("import random\nprint(random.choice([0, 1]))", True),
        ("import math, time; print(time.time() % 2)", True),
        ("from numpy.random import default_rng", True),
        ("import numpy as np\nprint(np.random.rand() > 0.5)", True),
        ("print(609 + 385)  # at random, this time", False),
        ("import math\nprint(math.pi)", False),
        (5, False),
    ],
)
def test_of_a_program_that_may_draw_numbers_two_equal_results_prove_nothing(code: Any, draws: bool) -> None:
    assert may_draw({"code": code}) == draws


def test_of_results_that_nobody_can_compare_the_verdict_says_so(
    db: BoardDatabase, stranger_bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_tools, "may_draw", lambda arguments: True)
    lines = Lines.of(stranger_bundle)
    faulty(lines.of_arm("calculator")[:3])
    found = examine(db, "sums", lines.sealed())
    assert found.state == "partly"
    assert any("tools: tool results of 3 of" in text and "cannot be compared" in text for text in found.of("unchecked"))
    assert any("but for 3 of which nobody can tell" in text for text in found.of("ok"))


def fours(text: str) -> int:
    return math.ceil(len(text) / 4)


@pytest.mark.parametrize("count", [None, fours])
@pytest.mark.parametrize(
    ("own", "recorded", "same"),
    [
        ("abcdefghij", result("abcdefgh", cut=2), True),
        ("994", result("9949\ncheat", cut=200), False),  # more than the tool returned
        ("994", result("994", cut=200), False),  # all of it, and said to be cut
        ("abcdefghij", result("abcdefghij", cut=2), False),
        ("abcdefghij", result("zbcdefgh", cut=2), False),
    ],
)
def test_a_result_that_was_cut_is_the_beginning_of_a_longer_one(
    own: str, recorded: ToolResult, same: bool, count: Any
) -> None:
    assert (compared(result(own), result(own), recorded, WORDS, count) == "same") == same


def test_where_a_result_is_cut_follows_from_the_tokens_that_were_left() -> None:
    early = result("ab", cut=2)  # eight characters would have fitted
    assert compared(result("abcdefghij"), result("abcdefghij"), early, WORDS, fours) == "other"


def faulty(attempts: list[dict[str, Any]]) -> None:
    """Says of every result of the calculator that it was a failure, and leaves it to be read."""
    for attempt in attempts:
        if results := [message for message in attempt["transcript"] if message["role"] == "tool"]:
            attempt["faults"] = {"execution_error": len(results)}
            for message in results:
                message["fault"] = "execution_error"


def test_results_that_are_said_to_be_failures_are_made_again_as_any(db: BoardDatabase, stranger_bundle: bytes) -> None:
    lines = Lines.of(stranger_bundle)
    faulty(lines.of_arm("calculator"))
    found = examine(db, "sums", lines.sealed())
    assert found.state == "rejected"
    assert "and here it is" in found.wrong


@pytest.fixture(scope="module")
def hardly_solved(sums_board: Board, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run whose calculator seldom helps."""
    where = tmp_path_factory.mktemp("hardly") / "run.sqlite"
    return bundle_of(where, a_run(where, sums_board, helped=0.4), sums_board)


@pytest.mark.parametrize(("few", "state"), [(True, "rejected"), (False, "partly")])
def test_tool_results_behind_the_few_successes_at_a_task_are_always_made_again(
    db: BoardDatabase, hardly_solved: bytes, monkeypatch: pytest.MonkeyPatch, few: bool, state: str
) -> None:
    monkeypatch.setattr(one_pass, "REMADE", 0)  # nothing by chance
    lines = Lines.of(hardly_solved)
    solved = Counter(attempt["task"] for attempt in lines.of_arm("calculator") if attempt["success"])
    assert {count <= 2 for count in solved.values()} == {True, False}
    faulty([a for a in lines.of_arm("calculator") if a["success"] and (solved[a["task"]] <= 2) == few][:1])
    assert examine(db, "sums", lines.sealed()).state == state


ASKED = Question("In which year did the keeper of the lighthouse of Vornal die?", ["1843"])
TOLD = "In which year did the keeper of the lighthouse of Vornal die? 1843"


@pytest.mark.parametrize(
    ("query", "told", "leaks"),
    [
        ("Vornal", TOLD, True),
        ("In which year did the keeper of the lighthouse of Vornal die?", f"KeyError: {TOLD}", False),
        (TOLD, f"KeyError: {TOLD[:-1]}…", False),
        ("Vornal", "KeyError: Vornal 1843", False),
    ],
)
def test_a_fault_can_leak_and_what_it_repeats_of_its_call_is_no_leak(query: str, told: str, leaks: bool) -> None:
    said: list[Message] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": write_call("search", {"query": query})},
        {"role": "tool", "content": f"error: execution_error: {told}", "name": "search", "fault": "execution_error"},
    ]
    assert bool(leak_of(ASKED, said)) == leaks


@pytest.mark.parametrize("timeout", [-1, 0, 1e308, 10**400], ids=["below 0", "none", "large", "no float"])
def test_an_option_with_which_no_tool_can_be_made_is_told_and_no_failure_of_the_server(
    db: BoardDatabase, stranger_bundle: bytes, timeout: float
) -> None:
    lines = Lines.of(stranger_bundle)
    lines.arms[1]["spec"]["tools"][0]["content"] = {"timeout": timeout}
    found = examine(db, "sums", lines.sealed())
    assert found.state == "partly"
    assert any("tool results of arm 'calculator' were not made again" in text for text in found.of("unchecked"))


# ---- keeping the server busy -----------------------------------------------------------------------------------------


def talk(lines: Lines, messages: int) -> bytes:
    """An attempt that says little, often."""
    attempt = lines.attempts[0]
    said = [{"role": "assistant", "content": "Hm."}, {"role": "user", "content": NO_ACTION}] * (messages // 2)
    attempt["transcript"][1:] = said
    attempt["cost"].update(turns=messages // 2, model_calls=messages // 2, generated_tokens=10**4, prompt_tokens=10**6)
    return lines.sealed()


def test_more_messages_than_the_budget_has_turns_are_not_worked_through(
    db: BoardDatabase, stranger_bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked, least = [0], replay._least_given

    def noted(transcript: Any, replies: Any) -> list[int]:
        worked.append(len(replies))
        return least(transcript, replies)

    monkeypatch.setattr(replay, "_least_given", noted)
    found = examine(db, "sums", talk(Lines.of(stranger_bundle), 2000))
    assert max(worked) <= 4
    assert "1,000 messages of the model, and its budget 4 turns" in found.wrong


def test_each_text_is_counted_once_however_many_messages_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counter[str]()

    def fewest(text: str, *, plain: bool) -> int:
        counted[text] += 1
        return len(text)

    monkeypatch.setattr(replay, "fewest", fewest)
    said: list[Message] = [{"role": "user", "content": f"{n}"} for n in range(1000)]
    assert replay._least_given(said, [0, 1, 999])[:2] == [0, 1]
    assert set(counted.values()) == {1}


@pytest.fixture(scope="module")
def long_talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, bytes]:
    """A board with many turns, and an entry that uses 500 in one attempt."""
    folder = tmp_path_factory.mktemp("talk")
    text = SUMS.replace("turns = 4", "turns = 1000").replace("generated_tokens = 100", "generated_tokens = 100000")
    board = a_board(folder, text)
    a_run(folder / "run.sqlite", board)
    return board, talk(Lines.of(bundle_of(folder / "run.sqlite", "mine", board)), 1000)


def test_the_clock_ends_a_check_within_an_attempt(
    long_talk: tuple[Any, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = replay._finish

    async def slow(*args: Any) -> None:
        time.sleep(0.02)
        await finish(*args)

    monkeypatch.setattr(replay, "_finish", slow)
    board, data = long_talk
    with a_database(tmp_path / "board.sqlite", board) as db:
        began = time.monotonic()
        found = examine(db, "sums", data, Means(seconds=0.3))
        assert "takes longer than this server has" in found.wrong
        assert time.monotonic() - began < 5  # of 10 s and more


def test_the_clock_ends_the_look_through_descriptions(
    db: BoardDatabase, stranger_bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        def flagged(self, text: str) -> float:
            time.sleep(0.02)
            return 0.0

    monkeypatch.setattr(one_pass, "sought", lambda tasks: {str(n): Slow() for n in range(500)})
    began = time.monotonic()
    found = examine(db, "sums", stranger_bundle, Means(seconds=0.2))
    assert "takes longer than this server has" in found.wrong
    assert time.monotonic() - began < 5
