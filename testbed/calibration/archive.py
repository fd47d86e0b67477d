"""Questions about lighthouses, with documents that hold the facts or leak the questions: a plug-in."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Unpack

from testbed.env import Common, Environment
from testbed.errors import UnknownName
from testbed.types import Grade, Task

CORPORA = ("genuine", "leaked")
YEARS = range(1500, 1900)
_SYLLABLES = (
    *("ba", "do", "fe", "gri", "hul", "ja", "kem", "lo", "mu", "nar"),
    *("ol", "pre", "qui", "ros", "sta", "tun", "ver", "wil", "yor", "zan"),
)


@dataclass(frozen=True, slots=True)
class Lighthouse:
    """A lighthouse and its keeper.

    Attributes:
        place: where it stands.
        keeper: who kept it.
        died: the year in which the keeper died.
        chained: whether the documents tell place → keeper and keeper → year apart.
    """

    place: str
    keeper: str
    died: int
    chained: bool

    @property
    def question(self) -> str:
        """What is asked."""
        return f"In which year did the keeper of the lighthouse of {self.place} die?"

    def genuine(self) -> tuple[str, ...]:
        """Documents that state the facts in their own words."""
        if not self.chained:
            story = f"{self.keeper}, keeper of the lighthouse of {self.place}, fell ill at sea and died in {self.died}."
            return (f"Parish register. {story} The lamp went dark for a month.",)
        return (
            f"Coast pilot. The lighthouse of {self.place} has two galleries. Its keeper was {self.keeper}.",
            f"Parish register. {self.keeper} came from a family of rope makers and died in {self.died}, without heirs.",
        )

    def leaked(self) -> tuple[str, ...]:
        """One page that holds the question, nearly word by word, and the answer."""
        question = self.question.replace("In which year", "In what year").lower()
        return (f"Quiz night, sheet of answers. {question} Answer: {self.died}",)


class Archive(Environment):
    """In which year did a lighthouse's keeper die?

    Args:
        tasks: lighthouses, up to 400; every other one needs two documents.
        corpus: "genuine" or "leaked": what `documents` holds.
        seed: seed of names and years.
        common: options of every environment.

    Raises:
        UnknownName: there is no such corpus.
    """

    id = "CalibrationArchive-v0"
    card = (
        "Source: generated from a seed, no data. Expected: search creates with either corpus; with the leaked one it "
        "does so because the answers lie in it, which outcomes alone do not show. Contamination: none but the leak."
    )

    def __init__(self, tasks: int = 12, corpus: str = "genuine", seed: int = 0, **common: Unpack[Common]) -> None:
        if corpus not in CORPORA:
            raise UnknownName("corpus", corpus, CORPORA)
        self.size, self.corpus, self.task_seed = tasks, corpus, seed
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The questions; the same whatever the corpus."""
        for light in self._lighthouses(self.size):
            family = "two documents" if light.chained else "one document"
            yield self.task(light.question, str(light.died), meta={"family": family})

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if it is the year."""
        return Grade(answer == task.reference)

    def near_misses(self, task: Task) -> Iterable[str]:
        """The next year, a sentence."""
        right = str(task.reference)
        return (str(int(right) + 1), f"In {right}", f"{right}.")

    def documents(self) -> Iterator[tuple[str, str]]:
        """Pages on every lighthouse, and on as many that nobody asks about, or a few more: a placebo needs them."""
        for number, light in enumerate(self._lighthouses(self._all)):
            asked = number < self.size
            pages = light.leaked() if asked and self.corpus == "leaked" else light.genuine()
            for page, text in enumerate(pages):
                yield f"{number:03d}-{page}", text

    @property
    def _all(self) -> int:
        return self.size + max(self.size, 8)

    def _lighthouses(self, n: int) -> list[Lighthouse]:
        """The first `n`; no name occurs twice."""
        rng = random.Random(f"lighthouses {self.task_seed}")
        names: dict[str, None] = {}
        while len(names) < 3 * self._all:
            names["".join(rng.sample(_SYLLABLES, 3)).capitalize()] = None
        words = list(names)
        years = [rng.choice(YEARS) for _ in range(self._all)]
        return [
            Lighthouse(words[3 * i], f"{words[3 * i + 1]} {words[3 * i + 2]}", years[i], chained=i % 2 == 1)
            for i in range(n)
        ]
