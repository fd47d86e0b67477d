from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

import pytest

from testbed.envs.game24 import evaluate, puzzles, solve
from testbed.errors import UsageError
from testbed.registry import make_env


def test_there_are_as_many_puzzles_as_published() -> None:
    assert len(puzzles()) == 1362


def test_they_are_the_published_ones(data_dir: Path) -> None:
    with (data_dir / "game24" / "24.csv").open(encoding="utf-8") as file:
        published = {tuple(sorted(map(int, row["Puzzles"].split()))) for row in csv.DictReader(file)}
    assert set(puzzles()) == published


def test_every_solution_makes_24_of_its_numbers() -> None:
    for numbers in puzzles():
        used, value = evaluate(solve(numbers))
        assert (tuple(sorted(used)), value) == (numbers, 24)


def test_what_cannot_make_24_has_no_solution() -> None:
    with pytest.raises(ValueError, match="cannot make 24"):
        solve((1, 1, 1, 1))


@pytest.mark.parametrize(
    ("expression", "value"),
    [("8 / (3 - 8 / 3)", Fraction(24)), ("1/3+1/3", Fraction(2, 3)), ("2-3*4", Fraction(-10)), ("((7))", Fraction(7))],
)
def test_values_are_exact(expression: str, value: Fraction) -> None:
    assert evaluate(expression)[1] == value


@pytest.mark.parametrize(
    "text",
    ["", "2 ** 3", "2 // 3", "-2", "+2", "2 3", "2,3", "x", "1.5", "__import__('os')", "(", "()", "1/0", "(" * 150,
     "01+2", "²", "4 / (2 - 2)"],
)  # fmt: skip
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an expression|something else|divides by zero"):
        evaluate(text)


def test_any_solution_is_right_and_the_equation_may_be_completed() -> None:
    env = make_env("Game24-v0", tasks=1362)
    task = next(task for task in env.tasks if task.meta["numbers"] == [4, 5, 9, 10])
    for answer in ("(10 - 4) * (9 - 5)", "(9-5)*(10-4) = 24", " (5 - 9) * (4 - 10)=24 "):
        assert env.grade(task, answer).success
    for answer in ("4 * 5 + 9 - 5", "(10 - 4) * 4", "10 + 9 + 5", "24", "(10 - 4) * (9 - 5) = 25"):
        assert not env.grade(task, answer).success


@pytest.mark.parametrize("tasks", [0, 1363])
def test_more_puzzles_than_there_are_cannot_be_had(tasks: int) -> None:
    with pytest.raises(UsageError, match="from 1 to 1362 puzzles"):
        make_env("Game24-v0", tasks=tasks)
