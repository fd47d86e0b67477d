"""Questions about a generated world, with every accepted answer and the documents that they rest on.

Questions of a family come from a random order of all its candidates, of which those that are not exact are passed over:
chains that meet a document twice, answers that stand in the question, comparisons with a tie. Nothing is listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import zip_longest
from typing import TypeVar

from testbed.envs.worlds_language import KINDS, RELATIONS, Relation
from testbed.envs.worlds_model import World, paths
from testbed.envs.worlds_names import bare
from testbed.envs.worlds_prose import text_of, value_text
from testbed.errors import UsageError
from testbed.question_env import normalise

ASKED = ("hops", "comparison", "counting", "unanswerable")
SPLITS = ("known", "document", "mixed")
MOST_HOPS = 4
UNKNOWN = "unknown"
_UNKNOWN_TOO = ("not known", "unanswerable")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PATIENCE = 8  # questions seen, for each wanted, before some may rest on the same document, or be spare
_LOOKS, _LOOKS_EACH = (
    100_000,
    100,
)  # candidates looked at, in all and for each question, before saying there are too few
#: Percentage of the small counts that are not spare, of mixed documents and of others: no answer is right for most.
_KEPT = {True: {2: 25, 3: 50}, False: {2: 10, 3: 30, 4: 80}}
COUNTED = tuple(relation for relations in RELATIONS.values() for relation in relations if relation.count)
COMPARED = tuple(relation for relations in RELATIONS.values() for relation in relations if relation.most)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Family:
    """A family of questions.

    Attributes:
        kind: one of `ASKED`.
        split: one of `SPLITS`.
        hops: lengths of the chains, each as often; none for comparisons and counts.
    """

    kind: str
    split: str
    hops: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.kind == "hops":
            return f"{self.split} {self.hops[0]} hop{'s' if self.hops[0] > 1 else ''}"
        return f"{self.split} {self.kind}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question.

    Attributes:
        text: the question.
        answers: every accepted answer, the one that documents spell first.
        things: what the documents are about that it rests on, in the order of reading; where there is no answer, the
            documents that lead to the gap, the last of which has it.
        hops: length of the chain; 0 for comparisons and counts.
        spare: whether it is asked only where others do not suffice, since its answer would otherwise be too common.
    """

    text: str
    answers: tuple[str, ...]
    things: tuple[int, ...]
    hops: int = 0
    spare: bool = False


def families(kinds: Sequence[str], hops: Sequence[int], splits: Sequence[str]) -> list[Family]:
    """The families that these choices give: chains of each length apart, and no mixture of a single document."""
    found = []
    for kind in kinds:
        lengths = [(n,) for n in hops] if kind == "hops" else [tuple(hops)] if kind == "unanswerable" else [()]
        for length in lengths:
            for split in splits:
                fitting = tuple(n for n in length if n > 1) if split == "mixed" else length
                if fitting or not length:
                    found.append(Family(kind, split, fitting))
    return found


def draw(world: World, family: Family, n: int, seed: int) -> list[Question]:
    """So many questions of a family; no two rest on the same document, unless the world is too small for that.

    Args:
        world: the world.
        family: what is asked.
        n: how many.
        seed: seed of the choice.

    Raises:
        UsageError: the world does not hold so many.
    """
    chosen: list[Question] = []
    spare: list[Question] = []
    texts: set[str] = set()
    used: set[int] = set()
    holds = ""
    for looked_at, question in enumerate(_candidates(world, family, seed)):
        if looked_at == _LOOKS + _LOOKS_EACH * n:
            holds = "hardly more than "
            break
        if question is None or question.text in texts:
            continue
        texts.add(question.text)
        if used.isdisjoint(question.things) and not question.spare:
            used.update(question.things)
            chosen.append(question)
        else:
            spare.append(question)
        if len(chosen) == n or len(texts) >= _PATIENCE * n:
            break
    if len(texts) < n:
        raise UsageError(
            f"a world of {world.size} documents, {world.known:g} of them known, holds {holds}{len(texts)} questions of "
            f"the family {str(family)!r}, not {n}: ask for fewer tasks, more documents, or other splits."
        )
    return (chosen + spare)[:n]


def split_of(world: World, things: Iterable[int]) -> str:
    """Whether documents count as known, stand in documents only, or both."""
    known = {world.is_known(thing) for thing in things}
    return "mixed" if len(known) == 2 else "known" if known == {True} else "document"


def _may_begin(world: World, start: int, split: str) -> bool:
    """Whether a chain of this split may begin here: most that do not fit are found out without being followed."""
    return split == "mixed" or world.is_known(start) is (split == "known")


# Each of the following makes a candidate's question; None if there is none that is exact, or it has another split.


def chain(world: World, start: int, path: tuple[Relation, ...], split: str) -> Question | None:
    """The question at the end of a chain of relations."""
    values = world.followed(start, path) if _may_begin(world, start, split) else None
    if values is None:
        return None
    things = (start, *values[:-1])
    if len(set(things)) < len(things) or split_of(world, things) != split:
        return None
    text = _asked(world, start, path)
    answer = value_text(world, path[-1], values[-1])
    if _names(text, answer) or any(_names(text_of(world, thing), answer) for thing in things[:-1]):
        return None
    return Question(text, _accepted(path[-1], values[-1], answer), things, len(path))


def gap(world: World, start: int, path: tuple[Relation, ...], split: str) -> Question | None:
    """The question at the end of a chain whose last fact, and no other, is stated in no document."""
    values = world.followed(start, path[:-1]) if _may_begin(world, start, split) else None
    if values is None or path[-1].key in world.facts(values[-1] if values else start):
        return None
    things = (start, *values)
    if len(set(things)) < len(things) or split_of(world, things) != split:
        return None
    return Question(_asked(world, start, path), (UNKNOWN, *_UNKNOWN_TOO), things, len(path))


def comparison(world: World, one: int, relation: Relation, seed: int, split: str) -> Question | None:
    """Which of two things, often namesakes, has more or less of something: documented of both, and never a tie."""
    draws = world.draws("comparison", seed, one, relation.key)
    other = world.namesake(one) if draws.below(2) else world.someone(relation.of, draws)
    values = [world.facts(thing).get(relation.key) for thing in (one, other)]
    if values[0] is None or values[1] is None or values[0] == values[1] or split_of(world, (one, other)) != split:
        return None
    most = draws.below(2) == 1
    first, second = (one, other) if draws.below(2) else (other, one)
    text = (relation.most if most else relation.least).format(x=world.shown(first), y=world.shown(second))
    right = one if (values[0] > values[1]) is most else other
    return Question(text, (bare(world.shown(right)),), (first, second))


def counting(world: World, relation: Relation, target: int, split: str) -> Question | None:
    """How many things have a target: at least two."""
    things = tuple(world.sources(relation, target))
    if len(things) < 2 or split_of(world, things) != split:
        return None
    answers = (str(len(things)), _WORDS[len(things)])
    kept = _KEPT[split == "mixed"].get(len(things), 100)
    spare = world.draws("counting", relation.key, target).below(100) >= kept
    return Question(relation.count.format(x=world.shown(target)), answers, things, spare=spare)


def _candidates(world: World, family: Family, seed: int) -> Iterator[Question | None]:
    """The question of each candidate, in a random order; None for one that is not exact, or of another split."""
    name = f"questions {family} {seed}"
    if family.kind == "counting":
        counts = [(relation.target, relation) for relation in COUNTED]
        return (counting(world, relation, thing, family.split) for thing, relation in _pairs(world, name, counts))
    if family.kind == "comparison":
        pairs = [(relation.of, relation) for relation in COMPARED]
        return (comparison(world, one, relation, seed, family.split) for one, relation in _pairs(world, name, pairs))
    make = gap if family.kind == "unanswerable" else chain
    return (make(world, thing, path, family.split) for thing, path in _chains(world, name, family.hops))


def _pairs(world: World, name: str, choices: Sequence[tuple[str, T]]) -> Iterator[tuple[int, T]]:
    """Each choice with each thing of its kind, in a random order."""
    most = max(len(world.things(kind)) for kind, _ in choices)
    for number in world.order(name, len(choices) * most):
        ordinal, at = divmod(number, len(choices))
        kind, choice = choices[at]
        if ordinal < len(world.things(kind)):
            yield world.thing(kind, ordinal), choice


def _chains(world: World, name: str, hops: Sequence[int]) -> Iterator[tuple[int, tuple[Relation, ...]]]:
    """Each thing with each chain that begins at it, in a random order; lengths take turns."""
    orders = [_pairs(world, f"{name} {n}", [(kind, path) for kind in KINDS for path in paths(kind, n)]) for n in hops]
    return (pair for turn in zip_longest(*orders) for pair in turn if pair is not None)


def _asked(world: World, start: int, path: tuple[Relation, ...]) -> str:
    """The question for the end of a chain, in one of its forms: the same one for the same start."""
    thing = world.shown(start)
    for relation in path[:-1]:
        thing = f"the {relation.noun} of {thing}"
    forms = path[-1].questions
    form = forms[world.draws("question", start, path[-1].key).below(len(forms))]
    return form.format(x=thing)


def _accepted(relation: Relation, value: int, answer: str) -> tuple[str, ...]:
    if relation.form == "date":
        day = date.fromordinal(value)
        return answer, f"{answer.split()[1]} {day.day}, {day.year}", day.isoformat()
    return (bare(answer),)


def _names(text: str, answer: str) -> bool:
    """Whether a text has an answer in it, word by word."""
    return f" {normalise(answer)} " in f" {normalise(text)} "
