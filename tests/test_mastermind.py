from __future__ import annotations

import itertools
from typing import Any

import pytest

from testbed.budget import Budget
from testbed.envs.mastermind import judge
from testbed.errors import ToolFault, UsageError
from testbed.protocol import write_answer, write_call
from testbed.registry import make_env, make_tool


@pytest.mark.parametrize(
    ("code", "guess", "right", "elsewhere"),
    [
        ("ABCD", "ABCD", 4, 0),
        ("ABCD", "DCBA", 0, 4),
        ("AABB", "ABAB", 2, 2),
        ("AABB", "CCCC", 0, 0),
        ("AABC", "ADAA", 1, 1),
        ("ABBB", "BAAA", 0, 2),
        ("FDDB", "DDDD", 2, 0),
    ],
)
def test_letters_are_counted_once(code: str, guess: str, right: int, elsewhere: int) -> None:
    assert judge(code, guess) == (right, elsewhere)


def test_judging_is_symmetric_and_only_the_code_itself_is_all_right() -> None:
    codes = ["".join(code) for code in itertools.product("ABC", repeat=3)]
    for code, guess in itertools.product(codes, codes):
        right, elsewhere = judge(code, guess)
        assert (right, elsewhere) == judge(guess, code)
        assert right + elsewhere <= 3
        assert (right == 3) is (code == guess)
        assert (right, elsewhere) != (2, 1)  # the third letter could only stand in the third place


def test_what_is_said_tells_as_much_as_published() -> None:
    # Knuth (1977): of the first guess AABB, the largest class of codes that are judged alike has 256 members; five
    # guesses suffice. Here: the sizes of all classes, and that the 1,296 codes fall into 14 of them at most.
    codes = ["".join(code) for code in itertools.product("ABCDEF", repeat=4)]
    sizes: dict[tuple[int, int], int] = {}
    for code in codes:
        pegs = judge(code, "AABB")
        sizes[pegs] = sizes.get(pegs, 0) + 1
    assert max(sizes.values()) == 256
    assert sizes[4, 0] == 1
    assert len(sizes) <= 14
    assert len({judge(code, "ABCD") for code in codes}) == 14


def test_feedback_comes_after_each_wrong_answer_but_the_last() -> None:
    env = make_env("Mastermind-v0", tasks=1, budget=Budget(answers=3))
    code = env.tasks[0].reference
    env.reset(options={"task": 0})
    right, elsewhere = judge(code, "AAAB")
    said, _, over, _, _ = env.step(write_answer("AAAB"))
    assert said["text"] == (
        f"Letters in their right place: {right}. Others that occur elsewhere: {elsewhere}. Answers left: 2."
    )
    assert not over
    assert env.step(write_answer("nothing"))[0]["text"].startswith(
        "A guess has 4 letters, each one of A B C D E F, not"
    )
    _, reward, over, _, info = env.step(write_answer(code))
    assert (reward, over, info["score"]) == (1.0, True, 1.0)


def test_asking_says_what_answering_says() -> None:
    env = make_env("Mastermind-v0", tasks=20, tools=[make_tool("ask")])
    for task in env.tasks:
        env.reset(options={"task": task})
        asked = env.step(write_call("ask", {"text": "ABCD"}))[0]["text"]
        assert asked == env.feedback(task, "ABCD", env.grade(task, "ABCD"))
    env.close()


def test_partial_credit_is_kept_apart_from_success() -> None:
    env = make_env("Mastermind-v0", tasks=1, length=4, symbols=26)
    task = env.tasks[0]
    wrong = task.reference[:3] + ("A" if task.reference[3] != "A" else "B")
    assert (env.grade(task, wrong).success, env.grade(task, wrong).score) == (False, 0.75)


@pytest.mark.parametrize("guess", ["", "AAA", "AAAAA", "AAAG", "aaaa", "AA AA", "ΑΑΑΑ", "\0"])
def test_what_is_no_code_is_refused(guess: str) -> None:
    env = make_env("Mastermind-v0", tasks=1)
    with pytest.raises(ToolFault, match="a guess has 4 letters"):
        env.make_game(env.tasks[0]).act(guess)


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"length": 21}, {"symbols": 1}, {"symbols": 27}, {"tasks": 0}, {"seed": -1}]
)
def test_options_have_ranges(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be from"):
        make_env("Mastermind-v0", **options)
