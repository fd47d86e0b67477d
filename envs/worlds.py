"""Questions about a generated world of any size, with documents to look them up in; some a model may be taught."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Unpack

from testbed.env import Common
from testbed.envs.worlds_language import RELATIONS
from testbed.envs.worlds_model import BLOCK, World
from testbed.envs.worlds_names import bare
from testbed.envs.worlds_prose import text_of
from testbed.envs.worlds_questions import ASKED, MOST_HOPS, SPLITS, UNKNOWN, Question, chain, draw, families
from testbed.errors import UnknownName, UsageError
from testbed.question_env import QuestionEnvironment
from testbed.types import Task

LEAST, MOST = 2 * BLOCK, 1_000_000
MOST_TASKS = 10_000  # of a family
_SECRET_CHARACTERS = 16  # of a secret, at least: a shorter one could be found by trying
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Worlds(QuestionEnvironment):
    """Questions about a generated world of people, places, works, organisations and events, and its documents.

    Part of the documents, chosen at random, counts as known; the others stand in the corpus only.
    A question's split says what it rests on: "known" documents, others ("document"), or some of each ("mixed").
    No model knows any of it unless it was taught: `lessons` and `drills` are what to teach it.

    An answer is right if it equals an accepted one after SQuAD's normalisation.

    Args:
        kind: what is asked, of `ASKED`: for the end of a chain of "hops", a "comparison", a "counting", or what is
            "unanswerable"; a list gives several.
        hops: lengths of chains, also of unanswerable ones, 1 to 4.
        split: of `SPLITS`; a list gives several.
        tasks: questions of each family; a family is a kind and a split and, for "hops", a length.
        documents: size of the world, 50 to 1,000,000.
        known: share of known documents, 0 to 1.
        hide_known: leaves known documents out of the corpus, so that mixed questions take memory and search both.
        world: seed of the world.
        seed: seed of the choice of questions.
        secret: "${NAME}": with the text of that environment variable, at least 16 characters, the world is one that
            nobody without it can make. It is neither shown nor stored.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UnknownName: no such kind or split; names the nearest.
        UsageError: a number is out of its range, the secret is not set or too short, or the world is too small.
    """

    id: ClassVar[str] = "Worlds-v0"
    card: ClassVar[str] = (
        "Source: generated from a seed, no data; under this project's licence. Expected: search and retrieve create "
        "document-only and mixed answers, more calls more hops, and do nothing for known ones, which a model must have "
        "been taught (none is by default: then all splits are document-only); resampling elicits comparisons, of which "
        "half are right by chance, and small counts; 'unknown' is right where nothing is documented; python adds "
        "nothing. Contamination: anybody can make the world of a seed; with a secret nobody else can, and no model has "
        "seen it."
    )
    instruction: ClassVar[str] = f'Answer in as few words as possible, or "{UNKNOWN}" if nothing says it.'

    def __init__(
        self,
        kind: str | Sequence[str] = ASKED,
        hops: int | Sequence[int] = (1, 2, 3, 4),
        split: str | Sequence[str] = SPLITS,
        tasks: int = 10,
        documents: int = 10_000,
        known: float = 0.5,
        hide_known: bool = False,
        world: int = 0,
        seed: int = 0,
        secret: Any = "",
        **common: Unpack[Common],
    ) -> None:
        kinds = _chosen("kind of question", kind, ASKED)
        splits = _chosen("split", split, SPLITS)
        lengths = (hops,) if isinstance(hops, int) else tuple(dict.fromkeys(hops))
        self._check_range("hops", lengths, 1, MOST_HOPS)
        self._check_range("tasks", (tasks,), 1, MOST_TASKS)
        self._check_range("documents", (documents,), LEAST, MOST)
        self._check_range("known", (known,), 0, 1)
        self.families = families(kinds, lengths, splits)
        if not self.families:
            raise UsageError(
                f"{self.id}: no question is left; one of one hop rests on one document, so none of these is mixed."
            )
        self.per_family, self.task_seed, self.hide_known = tasks, seed, hide_known
        self.world = World(documents, world, known, _revealed(secret, self.id))
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The questions, family by family."""
        drawn = [(family, draw(self.world, family, self.per_family, self.task_seed)) for family in self.families]
        clusters = _clusters(question.things for _, questions in drawn for question in questions)
        for family, questions in drawn:
            for question in questions:
                ids = [self.world.document_id(thing) for thing in question.things]
                answerable = question.answers[0] != UNKNOWN
                meta = {
                    "family": str(family),
                    "kind": family.kind,
                    "split": family.split,
                    "hops": question.hops,
                    "world": self.world.identity,
                    "support": ids if answerable else [],
                    "gap": [] if answerable else ids,
                }
                yield self._task(question, clusters[question.things[0]], meta)

    def near_misses(self, task: Task) -> Iterable[str]:
        """Besides the usual ones: "unknown" or a guess, the other one of two, the number next to it."""
        yield from super().near_misses(task)
        right = str(task.reference[0])
        yield "1800" if right == UNKNOWN else UNKNOWN
        if task.meta["kind"] == "comparison":
            both = task.prompt.partition("?")[0].partition(", ")[2].split(" or ")
            yield from (name for name in map(bare, both) if name != right)
        if right.replace(",", "").isdecimal():
            yield str(int(right.replace(",", "")) + 1)

    def documents(self) -> Iterator[tuple[str, str]]:
        """The (id, text) of every document of the corpus in order of id, made one at a time."""
        for thing in self.world.all():
            if not (self.hide_known and self.world.is_known(thing)):
                yield self.world.document_id(thing), text_of(self.world, thing)

    def document(self, number: int) -> tuple[str, str]:
        """The id and text of one document of the world, made without any other.

        Raises:
            UsageError: there is no document of that number.
        """
        if not 0 <= number < self.world.size:
            raise UsageError(f"{self.id}: there is no document {number}; they are numbered 0 to {self.world.size - 1}.")
        thing = self.world.at(number)
        return self.world.document_id(thing), text_of(self.world, thing)

    def lessons(self) -> Iterator[tuple[str, str]]:
        """The (id, text) of every known document: what to train a model on so that it knows the known split."""
        for thing in self.world.all():
            if self.world.is_known(thing):
                yield self.world.document_id(thing), text_of(self.world, thing)

    def drills(self) -> Iterator[tuple[str, str]]:
        """(prompt, answer) for every known fact, asked as the tasks of one hop are; for training beside `lessons`."""
        for thing in self.world.all():
            for relation in RELATIONS[self.world.kind(thing)] if self.world.is_known(thing) else ():
                question = chain(self.world, thing, (relation,), "known")
                if question is not None:
                    yield f"{question.text}\n{self.instruction}", question.answers[0]

    def _task(self, question: Question, cluster: str, meta: dict[str, Any]) -> Task:
        task = self.question(question.text, question.answers, meta)
        return Task(task.environment, task.prompt, task.reference, task.grader, cluster, task.meta)

    def _check_range(self, name: str, values: Sequence[float], low: int, high: int) -> None:
        for value in values:
            whole = name != "known"
            kinds = (int,) if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                number = "a whole number" if whole else "a number"
                raise UsageError(f"{self.id}: {name} must be {number} from {low:,} to {high:,}, not {value!r:.80}.")


def _chosen(what: str, names: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    chosen = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise UnknownName(what, str(name), known)
    return chosen


def _revealed(secret: object, name: str) -> str:
    """The text of the environment variable that "${NAME}" stands for. Messages never show what was given."""
    if secret == "":
        return ""
    found = _VARIABLE.fullmatch(secret) if isinstance(secret, str) else None
    if found is None:
        raise UsageError(
            f'{name}: secret must be written "${{NAME}}", for the environment variable that holds it: what stands in '
            "an experiment is stored with it."
        )
    text = os.environ.get(found[1], "")
    if len(text) < _SECRET_CHARACTERS:
        fault = "is not set" if not text else f"holds fewer than {_SECRET_CHARACTERS} characters"
        raise UsageError(
            f"{name}: the environment variable {found[1]}, which holds the secret, {fault}; a good one is that of "
            "python -c 'import secrets; print(secrets.token_hex())'."
        )
    return text


def _clusters(groups: Iterable[tuple[int, ...]]) -> dict[int, str]:
    """A name for all questions that rest on common documents, directly or through others, by document.

    It is empty for a question that has its documents for itself.
    """
    leaders: dict[int, int] = {}

    def leader(thing: int) -> int:
        while leaders.setdefault(thing, thing) != thing:
            thing = leaders[thing]
        return thing

    firsts = []
    for first, *others in groups:
        firsts.append(first)
        for other in others:
            leaders[leader(other)] = leader(first)
    sizes = Counter(leader(first) for first in firsts)
    return {first: f"documents {leader(first)}" if sizes[leader(first)] > 1 else "" for first in firsts}
