"""Twenty questions: a secret number or word, found by asking."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Unpack

import numpy as np

from testbed.env import Common, Environment
from testbed.errors import FaultKind, ToolFault, UnknownName, UsageError
from testbed.game import Game
from testbed.types import Grade, Task

KINDS = ("numbers", "words")
MOST_THINGS = {"numbers": 10**6, "words": 500}
MOST_TASKS = 100_000
MOST_SEED = 2**63 - 1
YES, NO = "Yes.", "No."
NO_MORE = "No more questions are answered: say what it is."

_SYLLABLES = [a + b for a in "bdfghklmnprstvz" for b in "aeiou"]

# What can be asked: how it is shown, how it is read, and when the answer is yes. `ſ` and other letters that only case
# folding takes for ASCII are no letters here: questions are read with re.ASCII.
Question = tuple[str, str, Callable[[str, str], bool]]
QUESTIONS: dict[str, tuple[Question, ...]] = {
    "numbers": (
        ("is it greater than N", r"is it greater than ([0-9]{1,9})", lambda it, n: int(it) > int(n)),
        ("is it less than N", r"is it less than ([0-9]{1,9})", lambda it, n: int(it) < int(n)),
        ("is it even", r"is it (even)", lambda it, _: int(it) % 2 == 0),
        ("is it odd", r"is it (odd)", lambda it, _: int(it) % 2 == 1),
        ("is it divisible by N", r"is it divisible by ([1-9][0-9]{0,8})", lambda it, n: int(it) % int(n) == 0),
        ("is it N", r"is it ([0-9]{1,9})", lambda it, n: int(it) == int(n)),
    ),
    "words": (
        ("does it come before WORD", r"does it come before ([a-z]{1,30})", lambda it, word: it < word),
        ("does it start with LETTERS", r"does it start with ([a-z]{1,30})", lambda it, start: it.startswith(start)),
        ("does it contain LETTERS", r"does it contain ([a-z]{1,30})", lambda it, part: part in it),
        ("is it longer than N letters", r"is it longer than ([0-9]{1,9}) letters", lambda it, n: len(it) > int(n)),
        ("is it WORD", r"is it ([a-z]{1,30})", lambda it, word: it == word),
    ),
}


class TwentyQuestions(Environment):
    """A secret among many things, to be found by yes/no questions.

    The game that its tools act on answers questions of the forms in `QUESTIONS`, in any case, with or without "?"; what
    it cannot read is the model's invalid_args and costs none of the questions.

    Args:
        kind: "numbers", from 1 to `things`, or "words", made of syllables and listed in the prompt.
        things: among how many the secret is; 2 to 1,000,000 numbers or 500 words.
        questions: how many are answered, 1 to 1,000.
        tasks: games, 1 to 100,000.
        seed: seed of the secrets and words, 0 or above.
        common: options of every environment.

    Raises:
        UsageError: an option is out of its range.
    """

    id: ClassVar[str] = "TwentyQuestions-v0"
    card: ClassVar[str] = (
        "Source: generated from a seed, no data; the party game. Expected: bare success is 1 of `things`, and only "
        "resampling raises it; asking (`ask`) creates, up to certainty from log2(things) questions on; inert and yoked "
        "fail, since answers to somebody else's questions say little (a yoked arm needs a model whose questions differ "
        "between attempts: one that always asks the same is answered the same). Several answers (Budget.answers) add "
        "one thing tried each; python, search and retrieve add nothing. Contamination: none, secrets are pseudo-random."
    )

    def __init__(
        self,
        kind: str = "numbers",
        things: int = 256,
        questions: int = 20,
        tasks: int = 200,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        if kind not in KINDS:
            raise UnknownName("kind of thing", kind, KINDS)
        for name, value, low, high in (
            ("things", things, 2, MOST_THINGS[kind]),
            ("questions", questions, 1, 1000),
            ("tasks", tasks, 1, MOST_TASKS),
            ("seed", seed, 0, MOST_SEED),
        ):
            if not low <= value <= high:
                raise UsageError(f"{self.id}: {name} must be from {low} to {high:,} for {kind}, not {value}.")
        self.kind, self.things, self.questions, self.size, self.task_seed = kind, things, questions, tasks, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The games, each with a secret of its own."""
        rng = np.random.default_rng(self.task_seed)
        forms = "; ".join(f'"{shown}"' for shown, _, _ in QUESTIONS[self.kind])
        for index in range(self.size):
            if self.kind == "numbers":
                secret, among = str(rng.integers(self.things) + 1), f"a whole number from 1 to {self.things}"
            else:
                words = _words(rng, self.things)
                secret, among = words[rng.integers(self.things)], f"one of these words: {' '.join(words)}"
            yield self.task(
                f"Game {index + 1}: I think of {among}. Which is it? Whoever can ask me is answered up to "
                f"{self.questions} yes/no questions of these forms: {forms}. Answer with the "
                f"{self.kind.removesuffix('s')} alone.",
                secret,
                meta={"family": self.kind, "questions": self.questions},
            )

    def make_game(self, task: Task) -> Game:
        """Somebody who thinks of the secret and answers questions."""
        kind = str(task.meta["family"])
        return _Thinker(str(task.reference), QUESTIONS[kind], int(task.meta["questions"]))

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if it is the secret, exactly."""
        return Grade(answer.strip() == task.reference)

    def near_misses(self, task: Task) -> Iterable[str]:
        """The next thing, a sentence, two things at once."""
        right = str(task.reference)
        if right.isdecimal():
            yield from (str(int(right) + 1), str(int(right) - 1), f"0{right}", f"{right}.0", f"-{right}")
        else:
            yield from (right.upper(), right[:-1], right[::-1] + "x")
        yield from (f"{right}.", f"It is {right}", f"{right} {right}", f"{right} or 1")


class _Thinker:
    """Answers so many questions about a secret."""

    def __init__(self, secret: str, questions: Sequence[Question], left: int) -> None:
        self._secret, self._questions, self._left = secret, questions, left

    def act(self, text: str) -> str:
        """Yes or no."""
        asked = re.sub(r"\s+", " ", text.strip().removesuffix("?")).strip()
        for _, form, holds in self._questions:
            if match := re.fullmatch(form, asked, re.IGNORECASE | re.ASCII):
                if self._left <= 0:
                    return NO_MORE
                self._left -= 1
                return YES if holds(self._secret, match[1].lower()) else NO
        forms = ", ".join(repr(shown) for shown, _, _ in self._questions)
        raise ToolFault(FaultKind.INVALID_ARGS, f"there is no question {text[:100]!r}; the forms are {forms}")


def _words(rng: np.random.Generator, n: int) -> list[str]:
    """So many different words of two to four syllables, in alphabetical order."""
    found: set[str] = set()
    while len(found) < n:
        found.add("".join(_SYLLABLES[i] for i in rng.integers(len(_SYLLABLES), size=rng.integers(2, 5))))
    return sorted(found)
