"""Addition and multiplication of whole numbers, by number of digits."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Unpack

from testbed.env import Common, Environment
from testbed.errors import UsageError
from testbed.types import Grade, Task

OPERATORS = ("+", "*")
DIGITS = range(1, 10)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: ``left operator right``, with ``operator`` one of `OPERATORS`."""

    left: int
    operator: str
    right: int

    @property
    def expression(self) -> str:
        """The problem as a Python expression, such as ``48*97``."""
        return f"{self.left}{self.operator}{self.right}"

    @property
    def prompt(self) -> str:
        """The question."""
        return f"What is {self.expression}?"

    @property
    def answer(self) -> str:
        """The result, as text."""
        return str(self.left * self.right if self.operator == "*" else self.left + self.right)


def is_held_out(problem: Problem) -> bool:
    """Whether a problem is kept for evaluation: a tenth of those whose operands both have two digits or more.

    The choice is a hash of the text, so that training and evaluation agree on it without sharing a list.
    """
    if min(problem.left, problem.right) < 10:
        return False
    return zlib.crc32(problem.expression.encode()) % 10 == 0


def draw(rng: random.Random, operator: str, left_digits: int, right_digits: int, *, held_out: bool) -> Problem:
    """Draw a problem with operands of the given numbers of digits.

    Args:
        rng: Source of randomness.
        operator: One of `OPERATORS`.
        left_digits: Digits of the left operand, 1 to 9; one digit includes 0.
        right_digits: Digits of the right operand, 1 to 9.
        held_out: Draw from the problems kept for evaluation, or from the rest; ignored where an operand has one digit,
            for then none is kept.
    """
    splits = min(left_digits, right_digits) > 1
    while True:
        problem = Problem(_operand(rng, left_digits), operator, _operand(rng, right_digits))
        if not splits or is_held_out(problem) == held_out:
            return problem


def problems(operator: str, digits: int, n: int, seed: int = 0) -> list[Problem]:
    """Draw ``n`` different problems for evaluation; the same arguments give the same problems.

    Args:
        operator: One of `OPERATORS`.
        digits: Digits of both operands, 1 to 9.
        n: How many; at most 100 with one digit, at most 500 with more.
        seed: Seed of the draw.

    Raises:
        UsageError: if an argument is out of its range.
    """
    if operator not in OPERATORS:
        raise UsageError(f"unknown operator {operator!r}: choose one of {', '.join(OPERATORS)}")
    if digits not in DIGITS:
        raise UsageError(f"{digits} digits asked for: choose 1 to 9")
    most = 100 if digits == 1 else 500
    if not 0 <= n <= most:
        raise UsageError(f"tasks must be a number from 1 to {most} for problems of {digits} digits, not {n}")
    rng = random.Random(f"problems {operator} {digits} {seed}")
    found: dict[str, Problem] = {}
    while len(found) < n:
        problem = draw(rng, operator, digits, digits, held_out=True)
        found.setdefault(problem.expression, problem)
    return list(found.values())


def _operand(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)


class _Arithmetic(Environment):
    """Problems with one operator, operands of equal numbers of digits.

    Args:
        digits: Digits of both operands, 1 to 9; a list gives several sizes.
        tasks: Problems per size, at most 100 of one digit and 500 of more.
        seed: Seed of the choice of problems.
        common: Options of every environment.

    Raises:
        UsageError: An option is out of its range.
    """

    operator: ClassVar[str]

    def __init__(
        self, digits: int | Sequence[int] = 2, tasks: int = 20, seed: int = 0, **common: Unpack[Common]
    ) -> None:
        self.sizes = (digits,) if isinstance(digits, int) else tuple(digits)
        self.per_size, self.task_seed = tasks, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The problems, size by size."""
        for digits in self.sizes:
            for problem in problems(self.operator, digits, self.per_size, self.task_seed):
                yield self.task(problem.prompt, problem.answer, meta={"family": f"{digits} digits", "digits": digits})

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if the digits are the reference's, exactly."""
        return Grade(answer.strip() == task.reference)

    def near_misses(self, task: Task) -> Iterable[str]:
        """Off by one, a digit lost or added, a sign, a full stop, the problem itself."""
        right = str(task.reference)
        return (str(int(right) + 1), right[:-1], right + "0", f"-{right}", f"{right}.", f"= {right}", task.prompt)


class Addition(_Arithmetic):
    """Sums of two whole numbers."""

    id = "Addition-v0"
    operator = "+"
    card = (
        "Source: generated from a seed, no data. Expected: a calculator raises success at every size; a model that has "
        "learnt to add reaches short sums by itself, so that most of the difference is elicitation there. Search adds "
        "nothing. Contamination: none for problems of two digits or more, which the reference model never saw; those "
        "of one digit are in its training."
    )


class Multiplication(_Arithmetic):
    """Products of two whole numbers."""

    id = "Multiplication-v0"
    operator = "*"
    card = (
        "Source: generated from a seed, no data. Expected: bare success falls steeply with the number of digits; a "
        "calculator creates what is long. Search adds nothing. Contamination: none for problems of two digits or "
        "more, which the reference model never saw; those of one digit are in its training."
    )
