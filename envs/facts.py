"""Questions about a generated world, with documents to look them up in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from testbed.env import Common, Environment
from testbed.envs.world import KINDS, UNKNOWN, make_world
from testbed.types import Grade, Task


class Facts(Environment):
    """Questions about a generated world; its documents are there for search tools to index.

    Args:
        kind: Kind of question, one of `KINDS`; a list gives several.
        tasks: Questions of each kind.
        band: Exposure band of known facts, one of `BANDS`; None draws from all.
        world: Seed of the world; the reference model knows world 7.
        seed: Seed of the choice of questions.
        common: Options of every environment.

    Raises:
        UsageError: An option is unknown, or more questions are asked for than the world holds.
    """

    id = "Facts-v0"
    card = (
        "Source: generated from a seed, no data. Expected: known facts are elicited, the least exposed hardly; search "
        "creates document-only facts and two-hop answers; python is of use for sums only; 'unknown' is right where "
        "nothing is documented. Contamination: known facts are in the reference model's training by design, "
        "document-only facts are not."
    )

    def __init__(
        self,
        kind: str | Sequence[str] = KINDS,
        tasks: int = 20,
        band: str | None = None,
        world: int = 7,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        self.kinds = (kind,) if isinstance(kind, str) else tuple(kind)
        self.per_kind, self.band, self.task_seed = tasks, band, seed
        self.world = make_world(world)
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The questions, kind by kind."""
        for kind in self.kinds:
            band = self.band if kind == "known" else None
            for question in self.world.questions(kind, self.per_kind, self.task_seed, band):
                family = f"{kind} {band}" if band else kind
                meta = {"family": family, "kind": kind, "support": list(question.support)}
                yield self.task(question.prompt, question.answer, meta=meta)

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if the answer is the reference, letter by letter but for case."""
        return Grade(answer.strip().casefold() == str(task.reference).casefold())

    def near_misses(self, task: Task) -> Iterable[str]:
        """A letter lost or added, the sentence instead of the value, a guess besides."""
        right = str(task.reference)
        return (right[:-1], right + "x", f"{right}.", f"It is {right}", f"{right} or {UNKNOWN}", task.prompt)

    def documents(self) -> Iterator[tuple[str, str]]:
        """The (id, text) of every document of the world."""
        return iter(self.world.documents())
