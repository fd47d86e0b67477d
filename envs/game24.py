"""Game of 24: four numbers, each used once, and the four operations must make 24."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement
from typing import ClassVar, Unpack

import numpy as np

from testbed.env import Common, Environment
from testbed.errors import UsageError
from testbed.expressions import parsed
from testbed.types import Grade, Task

TARGET = 24
LARGEST = 13
LONGEST = 200  # characters of an answer that is still read

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_ALLOWED = re.compile(r"[0-9+\-*/() ]*")


class Game24(Environment):
    """Four numbers from 1 to 13 that make 24 by addition, subtraction, multiplication and division.

    There are 1,362 such puzzles. An answer is an expression that uses each number exactly once; "= 24" may follow. Any
    solution is right.

    Args:
        tasks: how many puzzles, 1 to 1,362.
        seed: seed of the choice and its order, 0 or above.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: more puzzles are asked for than there are, or an option is out of its range.
    """

    id: ClassVar[str] = "Game24-v0"
    card: ClassVar[str] = (
        "Source: the card game; every solvable puzzle, found by exhaustion (their number, 1,362, is that of "
        "4nums.com, as used by Yao et al. 2023, arXiv 2305.10601). Expected: python creates (a search by program finds "
        "what hardly any sample does), resampling elicits slowly, search and retrieve add nothing. Contamination: "
        "low for solutions, high for the game."
    )

    def __init__(self, tasks: int = 100, seed: int = 0, **common: Unpack[Common]) -> None:
        if not 1 <= tasks <= len(puzzles()):
            raise UsageError(f"{self.id}: tasks must be from 1 to {len(puzzles())} puzzles, not {tasks}.")
        if seed < 0:
            raise UsageError(f"{self.id}: seed must be from 0 up, not {seed}.")
        self.size, self.task_seed = tasks, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """A seeded choice of all puzzles."""
        order = np.random.default_rng(self.task_seed).permutation(len(puzzles()))[: self.size]
        for numbers in (puzzles()[i] for i in order):
            listed = " ".join(map(str, numbers))
            yield self.task(
                f"Make {TARGET} from the numbers {listed}. Use each exactly once, with +, -, * and /, and parentheses "
                "as needed. Answer with the expression alone.",
                solve(numbers),
                grader="expression/1",
                meta={"numbers": list(numbers)},
            )

    def grade(self, task: Task, answer: str) -> Grade:
        """Whether the expression uses the numbers and makes 24, in exact fractions."""
        expression = re.sub(rf"=\s*{TARGET}\s*$", "", answer.strip()).strip()
        try:
            used, value = evaluate(expression)
        except ValueError as error:
            return Grade(False, detail=str(error))
        if sorted(used) != sorted(task.meta["numbers"]):
            return Grade(False, detail=f"uses {', '.join(map(str, sorted(used)))}")
        return Grade(value == TARGET, detail=f"makes {value}")

    def public_check(self, task: Task, answer: str) -> bool:
        """As the grader: the prompt has all that it takes."""
        return self.grade(task, answer).success

    def near_misses(self, task: Task) -> Iterable[str]:
        """The target alone, a number too many, one too few, and other results with the right numbers."""
        numbers = task.meta["numbers"]
        solution = str(task.reference)
        yield from (str(TARGET), f"{solution} + 0", f"{solution} * 1", f"-({solution})", f"{solution} = 25")
        yield f"{solution}; {solution}"
        for wrong in (" + ".join(map(str, numbers)), " * ".join(map(str, numbers))):
            if evaluate(wrong)[1] != TARGET:
                yield wrong


@cache
def puzzles() -> tuple[tuple[int, ...], ...]:
    """Every set of four numbers from 1 to 13 that can make 24, in ascending order."""
    return tuple(four for four in combinations_with_replacement(range(1, LARGEST + 1), 4) if _reachable(four))


@cache
def solve(numbers: tuple[int, ...]) -> str:
    """An expression that makes 24.

    Raises:
        ValueError: there is none.
    """
    for text, value in _expressions(tuple((str(n), Fraction(n)) for n in numbers)):
        if value == TARGET:
            return text[1:-1]
    raise ValueError(f"{numbers} cannot make {TARGET}")


def evaluate(expression: str) -> tuple[list[int], Fraction]:
    """The numbers that an expression uses, and its value.

    Raises:
        ValueError: it is no expression of whole numbers, the four operations and parentheses; or divides by zero.
    """
    if len(expression) > LONGEST or not _ALLOWED.fullmatch(expression):
        raise ValueError("not an expression of numbers, + - * / and parentheses")
    try:
        tree = parsed(expression.strip()).body
        used: list[int] = []
        return used, _value(tree, used)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("not an expression") from None
    except ZeroDivisionError:
        raise ValueError("divides by zero") from None


def _value(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise ValueError("uses something else than the four operations")


@cache
def _reachable(values: tuple[int | Fraction, ...]) -> bool:
    if len(values) == 1:
        return values[0] == TARGET
    for i, left in enumerate(values):
        for j, right in enumerate(values):
            if i == j:
                continue
            rest = tuple(v for k, v in enumerate(values) if k not in (i, j))
            results = [left + right, left - right, left * right, *([Fraction(left) / right] if right else [])]
            if any(_reachable(tuple(sorted((*rest, result)))) for result in results):
                return True
    return False


def _expressions(parts: tuple[tuple[str, Fraction], ...]) -> Iterator[tuple[str, Fraction]]:
    if len(parts) == 1:
        yield parts[0]
        return
    for i, (left, a) in enumerate(parts):
        for j, (right, b) in enumerate(parts):
            if i == j:
                continue
            rest = tuple(part for k, part in enumerate(parts) if k not in (i, j))
            results = [("+", a + b), ("-", a - b), ("*", a * b), *([("/", a / b)] if b else [])]
            for sign, value in results:
                yield from _expressions((*rest, (f"({left} {sign} {right})", value)))
