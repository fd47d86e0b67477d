from __future__ import annotations

from typing import Any

import pytest

from testbed.envs.twenty_questions import NO_MORE
from testbed.errors import FaultKind, ToolFault, UnknownName, UsageError
from testbed.registry import make_env
from testbed.types import Task


def thinker(secret: str, **options: Any) -> Any:
    env = make_env("TwentyQuestions-v0", tasks=1, **options)
    task = env.tasks[0]
    return env.make_game(Task(env.id, task.prompt, secret, meta=task.meta))


@pytest.mark.parametrize(
    ("question", "holds"),
    [
        ("is it greater than 41", True),
        ("is it greater than 42", False),
        ("is it less than 43", True),
        ("is it less than 42", False),
        ("is it even", True),
        ("is it odd", False),
        ("is it divisible by 7", True),
        ("is it divisible by 5", False),
        ("is it 42", True),
        ("is it 4", False),
        ("  Is IT   greater than 041 ? ", True),
    ],
)
def test_numbers_are_answered_truly(question: str, holds: bool) -> None:
    assert thinker("42").act(question) == ("Yes." if holds else "No.")


@pytest.mark.parametrize(
    ("question", "holds"),
    [
        ("does it come before mb", True),
        ("does it come before mate", False),
        ("does it come before mat", False),
        ("does it start with ma", True),
        ("does it start with at", False),
        ("does it contain at", True),
        ("Does it contain TE?", True),
        ("does it contain am", False),
        ("is it longer than 3 letters", True),
        ("is it longer than 4 letters", False),
        ("is it mate", True),
        ("is it mat", False),
    ],
)
def test_words_are_answered_truly(question: str, holds: bool) -> None:
    assert thinker("mate", kind="words", things=10).act(question) == ("Yes." if holds else "No.")


@pytest.mark.parametrize(
    "question",
    ["", "?", "what is it", "is it greater than", "is it greater than -1", "is it greater than 1.5", "is it prime",
     "is it even and is it odd", "is it divisible by 0", "is it ²", "is it ４", "is it 1234567890", "is it even??",
     "\0", "i\u017f it even", "is it greater than 41\nis it odd", "42"],
)  # fmt: skip
def test_what_is_no_question_is_refused_and_costs_none(question: str) -> None:
    game = thinker("42", questions=1)
    with pytest.raises(ToolFault, match="there is no question") as refused:
        game.act(question)
    assert refused.value.kind is FaultKind.INVALID_ARGS
    assert game.act("is it even") == "Yes."


def test_questions_are_counted() -> None:
    game = thinker("42", questions=3)
    assert [game.act("is it even") for _ in range(5)] == ["Yes.", "Yes.", "Yes.", NO_MORE, NO_MORE]


def test_secrets_are_spread_over_all_things() -> None:
    numbers = [int(task.reference) for task in make_env("TwentyQuestions-v0", things=4, tasks=400).tasks]
    assert all(60 < numbers.count(n) < 140 for n in (1, 2, 3, 4))
    assert sum(numbers.count(n) for n in (1, 2, 3, 4)) == 400


def test_words_are_different_ones_of_which_the_secret_is_one() -> None:
    for task in make_env("TwentyQuestions-v0", kind="words", things=500, tasks=3).tasks:
        listed = task.prompt.split("words: ")[1].split(".")[0].split()
        assert len(set(listed)) == 500
        assert task.reference in listed


def test_words_are_graded_to_the_letter() -> None:
    env = make_env("TwentyQuestions-v0", kind="words", things=20, tasks=50)
    assert env.validate().problems == ()


@pytest.mark.parametrize(
    "options",
    [
        {"things": 1},
        {"things": 501, "kind": "words"},
        {"things": 10**6 + 1},
        {"questions": 0},
        {"tasks": 0},
        {"seed": -1},
    ],
)
def test_options_have_ranges(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be from"):
        make_env("TwentyQuestions-v0", **options)


def test_an_unknown_kind_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'numbers'\?"):
        make_env("TwentyQuestions-v0", kind="number")
