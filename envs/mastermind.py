"""Mastermind: a secret code, and how near each guess is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from string import ascii_uppercase
from typing import ClassVar, Unpack

import numpy as np

from testbed.env import Common, Environment
from testbed.errors import FaultKind, ToolFault, UsageError
from testbed.game import Game
from testbed.types import Grade, Task

LONGEST = 20  # letters of a code
MOST_TASKS = 100_000
MOST_SEED = 2**63 - 1


class Mastermind(Environment):
    """A code of letters. What is said of a guess: how many letters are right, and how many elsewhere.

    It is said after a wrong answer, where the budget allows several (`Budget.answers`), and by the game that its tools
    act on.

    Args:
        length: letters of a code, 1 to 20.
        symbols: how many letters there are to choose from, from A on, 2 to 26.
        tasks: games, 1 to 100,000.
        seed: seed of the codes, 0 or above.
        common: options of every environment.

    Raises:
        UsageError: an option is out of its range.
    """

    id: ClassVar[str] = "Mastermind-v0"
    card: ClassVar[str] = (
        "Source: generated from a seed, no data; the board game (4 places, 6 colours, repeats allowed). Expected: bare "
        "success is 1 of symbols^length; several answers (Budget.answers) or guesses by `ask` create, since what is "
        "said of one guess steers the next (five always suffice for 4 places of 6: Knuth 1977); inert and yoked fail; "
        "python helps to choose guesses once there is something to choose by, search and retrieve add nothing. "
        "Contamination: none for codes, which are pseudo-random; high for the game and its strategies."
    )

    def __init__(
        self, length: int = 4, symbols: int = 6, tasks: int = 200, seed: int = 0, **common: Unpack[Common]
    ) -> None:
        for name, value, low, high in (
            ("length", length, 1, LONGEST),
            ("symbols", symbols, 2, len(ascii_uppercase)),
            ("tasks", tasks, 1, MOST_TASKS),
            ("seed", seed, 0, MOST_SEED),
        ):
            if not low <= value <= high:
                raise UsageError(f"{self.id}: {name} must be from {low} to {high:,}, not {value}.")
        self.length, self.symbols, self.size, self.task_seed = length, symbols, tasks, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The games, each with a code of its own."""
        rng = np.random.default_rng(self.task_seed)
        letters = ascii_uppercase[: self.symbols]
        for index in range(self.size):
            code = "".join(rng.choice(list(letters), self.length))
            yield self.task(
                f"Game {index + 1}: I have a secret code of {self.length} letters, each one of {' '.join(letters)}; a "
                "letter may occur more than once. Of a guess I can say how many letters are right, and how many "
                f"others occur elsewhere in the code. Answer with the code alone, such as {letters[0] * self.length}.",
                code,
                meta={"letters": letters},
            )

    def make_game(self, task: Task) -> Game:
        """Somebody who has the code and judges guesses."""
        return _Keeper(str(task.reference), str(task.meta["letters"]))

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if it is the code; the score is the share of letters in their places."""
        code, guess = str(task.reference), answer.strip()
        if not is_code(guess, len(code), str(task.meta["letters"])):
            return Grade(False, 0.0, "no code")
        right, elsewhere = judge(code, guess)
        return Grade(guess == code, right / len(code), f"{right} right, {elsewhere} elsewhere")

    def feedback(self, task: Task, answer: str, grade: Grade) -> str:
        """How many letters are right, and how many elsewhere."""
        try:
            return _Keeper(str(task.reference), str(task.meta["letters"])).act(answer)
        except ToolFault as fault:
            said = str(fault)
            return f"{said[0].upper()}{said[1:]}."

    def near_misses(self, task: Task) -> Iterable[str]:
        """The code in lower case, spaced, with a letter too many or too few, with one letter changed."""
        code, letters = str(task.reference), str(task.meta["letters"])
        other = letters[(letters.index(code[-1]) + 1) % len(letters)]
        yield from (code.lower(), code + code[-1], code[:-1], code[:-1] + other, f"{code}.", f"The code is {code}")
        if len(code) > 1:
            yield " ".join(code)


class _Keeper:
    """Judges guesses of a code."""

    def __init__(self, code: str, letters: str) -> None:
        self._code, self._letters = code, letters

    def act(self, text: str) -> str:
        """How near the guess is."""
        guess = text.strip()
        if not is_code(guess, len(self._code), self._letters):
            raise ToolFault(
                FaultKind.INVALID_ARGS,
                f"a guess has {len(self._code)} letters, each one of {' '.join(self._letters)}, not {text[:50]!r}",
            )
        right, elsewhere = judge(self._code, guess)
        return f"Letters in their right place: {right}. Others that occur elsewhere: {elsewhere}."


def is_code(text: str, length: int, letters: str) -> bool:
    """Whether a text has the form of a code."""
    return len(text) == length and all(letter in letters for letter in text)


def judge(code: str, guess: str) -> tuple[int, int]:
    """How many letters are right, and how many others occur elsewhere, each counted once.

    Args:
        code: the secret.
        guess: as many letters.
    """
    right = sum(a == b for a, b in zip(code, guess, strict=True))
    return right, (Counter(code) & Counter(guess)).total() - right
