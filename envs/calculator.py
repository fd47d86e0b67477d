"""Calculator-only: remainders of powers, which take many small steps by hand and one call of a calculator."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import ClassVar, Unpack

from testbed.env import Common, Environment
from testbed.errors import UsageError
from testbed.question_env import read_number
from testbed.types import Grade, Task

MOST_BITS, MOST_DIGITS, MOST_TASKS = 1000, 9, 100_000
INSTRUCTION = "Answer with the number alone."


class Calculator(Environment):
    """Remainders of powers: known compute.

    Squaring and multiplying step by step takes bits − 1 squarings and about half as many multiplications, each of a
    few tokens; the question, and so a call of the tool `calculator`, grows by a digit for every 3.3 bits.

    Args:
        bits: binary digits of the exponents, 2 to 1000: how long the way by hand is.
        digits: decimal digits of the moduli, 2 to 9.
        tasks: how many, 1 to 100,000.
        seed: seed of the numbers.
        common: options of every environment.

    Raises:
        UsageError: an option is out of its range.
    """

    id: ClassVar[str] = "Calculator-v0"
    card: ClassVar[str] = (
        "Source: generated from a seed, no data and no licence. Expected: all that is needed stands in the question, "
        "so that `calculator` (or python) saves tokens and adds no information. It creates under a cap on "
        "generated_tokens that the way by hand does not fit into; once the cap is raised beyond it, creation vanishes "
        "and the gain is elicitation of what slips spoil. search and retrieve add nothing, resampling is right once "
        "in 10^digits; a model may know theorems that shorten the way. Contamination: none, numbers are pseudo-random."
    )

    def __init__(
        self, bits: int = 16, digits: int = 4, tasks: int = 200, seed: int = 0, **common: Unpack[Common]
    ) -> None:
        for name, value, low, high in (
            ("bits", bits, 2, MOST_BITS),
            ("digits", digits, 2, MOST_DIGITS),
            ("tasks", tasks, 1, MOST_TASKS),
        ):
            if not low <= value <= high:
                raise UsageError(f"{self.id}: {name} must be from {low} to {high:,}, not {value}.")
        self.bits, self.digits, self.size, self.task_seed = bits, digits, tasks, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The powers."""
        rng = random.Random(f"powers {self.task_seed}")
        seen: set[tuple[int, int, int]] = set()
        while len(seen) < self.size:
            modulus = rng.randrange(10 ** (self.digits - 1), 10**self.digits)
            base, exponent = rng.randrange(2, modulus), rng.randrange(2 ** (self.bits - 1), 2**self.bits)
            if (base, exponent, modulus) not in seen:
                seen.add((base, exponent, modulus))
                yield self.task(
                    f"What is the remainder of {base} ** {exponent} divided by {modulus}? ** means a power. "
                    f"{INSTRUCTION}",
                    str(pow(base, exponent, modulus)),
                    grader="number/1",
                )

    def grade(self, task: Task, answer: str) -> Grade:
        """Whether the answer is one number and equals the reference."""
        return Grade(read_number(answer) == read_number(task.reference))

    def near_misses(self, task: Task) -> Iterable[str]:
        """Its neighbours, a digit added, and the number in a sentence."""
        right = int(task.reference)
        return (str(right + 1), str(right - 1), f"{right + 1}0", f"{right} or {right + 1}", f"it is {right}")
