"""A generated world of facts: some known to the reference model, some only in documents, some nowhere.

The world is fictional and a pure function of its seed, so no pre-trained model can have seen any of it. *Known* facts
are those the reference model is trained on, with a steep exposure curve; *document-only* facts never occur in training:
a model can answer them only by reading. Every fact is one sentence and one document.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from testbed.errors import UnknownName, UsageError

ONSETS = (*"bdfghjklmnprstvwz", "br", "dr", "gr", "kr", "pl", "sh", "st", "tr", "th")
VOWELS = tuple("aeiou")
CODAS = ("", "", "", "n", "r", "l", "s", "m", "x")
UNKNOWN = "unknown"
KINDS = ("known", "document", "two_hop", "sum", "unanswerable")
BANDS = ("head", "middle", "tail")
#: Exponent of the Zipf curve of training exposures over the known facts, most exposed first.
EXPOSURE_EXPONENT = 1.6


def make_name(rng: random.Random, low: int = 2, high: int = 3) -> str:
    """Draw a pronounceable name of ``low`` to ``high`` open syllables and at most one closing consonant."""
    syllables = (rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.randint(low, high)))
    return ("".join(syllables) + rng.choice(CODAS)).capitalize()


def make_number(rng: random.Random) -> str:
    """Draw a number of four to six digits, as text: too many values for a guess."""
    digits = rng.randint(4, 6)
    return str(rng.randint(10 ** (digits - 1), 10**digits - 1))


def make_code(rng: random.Random) -> str:
    """Draw a five-digit code, as text."""
    return str(rng.randint(10_000, 99_999))


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact: how it is asked, and how its values are drawn.

    Attributes:
        noun: What the documents and the search queries call it.
        question: Question with an ``{entity}`` field.
        value: Draws a value.
        of_city: Whether it belongs to a city; otherwise to a land.
    """

    noun: str
    question: str
    value: Callable[[random.Random], str]
    of_city: bool

    @property
    def is_numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.value is not make_name


RELATIONS: dict[str, Relation] = {
    relation.noun: relation
    for relation in (
        Relation("capital", "What is the capital of {entity}?", make_name, of_city=False),
        Relation("ruler", "Who rules {entity}?", make_name, of_city=False),
        Relation("river", "Which river flows through {entity}?", make_name, of_city=False),
        Relation("area", "How large is {entity}?", make_number, of_city=False),
        Relation("mayor", "Who is the mayor of {entity}?", make_name, of_city=True),
        Relation("postal code", "What is the postal code of {entity}?", make_code, of_city=True),
        Relation("population", "How many people live in {entity}?", make_number, of_city=True),
    )
}
LAND_NOUNS = tuple(noun for noun, relation in RELATIONS.items() if not relation.of_city)
CITY_NOUNS = tuple(noun for noun, relation in RELATIONS.items() if relation.of_city)


def sentence(noun: str, entity: str, value: str) -> str:
    """Return the one sentence that states a fact."""
    return f"The {noun} of {entity} is {value}."


def query(noun: str, entity: str) -> str:
    """Return the search query for a fact."""
    return f"{noun} of {entity}"


def two_hop_question(noun: str, land: str) -> str:
    """Ask for a fact about the capital of ``land`` without naming the capital."""
    return RELATIONS[noun].question.format(entity=f"the capital of {land}")


def sum_question(first: str, second: str) -> str:
    """Ask for the sum of the populations of two cities."""
    return f"How many people live in {first} and {second} together?"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: ``entity`` has ``value`` for the relation ``noun``; ``id`` is its document's."""

    id: str
    noun: str
    entity: str
    value: str

    @property
    def text(self) -> str:
        """The document that states the fact."""
        return sentence(self.noun, self.entity, self.value)

    @property
    def question(self) -> str:
        """The question that the fact answers."""
        return RELATIONS[self.noun].question.format(entity=self.entity)

    @property
    def query(self) -> str:
        """The search query that finds the fact's document."""
        return query(self.noun, self.entity)


@dataclass(frozen=True, slots=True)
class Question:
    """One question about the world.

    Attributes:
        kind: One of `KINDS`.
        prompt: The question.
        answer: The reference answer; `UNKNOWN` where nothing documents one.
        support: Ids of the documents that the answer rests on, in the order of reading; none if unanswerable.
    """

    kind: str
    prompt: str
    answer: str
    support: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """All facts of one generated world.

    Attributes:
        seed: The seed that it was made from.
        known: Facts that the reference model is trained on, most exposed first.
        document_only: Facts that stand in documents only.
        missing: (noun, entity) pairs that nothing documents, of entities that other documents are about.
    """

    seed: int
    known: tuple[Fact, ...]
    document_only: tuple[Fact, ...]
    missing: tuple[tuple[str, str], ...]

    def documents(self) -> list[tuple[str, str]]:
        """Return (id, text) of every document, known and document-only facts mixed, in order of id."""
        return sorted((fact.id, fact.text) for fact in self.known + self.document_only)

    def names(self) -> frozenset[str]:
        """Return every name that occurs in the world, as an entity or as a value."""
        facts = self.known + self.document_only
        return frozenset(name for fact in facts for name in (fact.entity, fact.value) if name.isalpha())

    def band(self, band: str | None) -> tuple[Fact, ...]:
        """Return the known facts of an exposure band: ranks 1–30 (head), 31–120 (middle), the rest (tail), or all.

        Raises:
            UnknownName: ``band`` is none of `BANDS`.
        """
        if band is None:
            return self.known
        if band not in BANDS:
            raise UnknownName("exposure band", band, BANDS)
        return {"head": self.known[:30], "middle": self.known[30:120], "tail": self.known[120:]}[band]

    def questions(self, kind: str, n: int, seed: int = 0, band: str | None = None) -> list[Question]:
        """Draw ``n`` different questions of a kind; the same arguments give the same questions.

        Args:
            kind: One of `KINDS`.
            n: How many; at most as many as the world holds.
            seed: Seed of the draw.
            band: Exposure band of known facts, one of `BANDS`; None draws from all.

        Raises:
            UsageError: the kind or the band is unknown, or ``n`` is negative or more than the world holds.
        """
        if kind not in KINDS:
            raise UnknownName("kind of question", kind, KINDS)
        pool = list(self._pool(kind, band))
        if not 0 <= n <= len(pool):
            raise UsageError(f"{n} questions of kind {kind!r} asked for: there are at most {len(pool)}")
        return random.Random(f"questions {self.seed} {kind} {band} {seed}").sample(pool, n)

    def _pool(self, kind: str, band: str | None) -> Iterable[Question]:
        facts = self.document_only
        if kind == "known":
            return (Question(kind, fact.question, fact.value, (fact.id,)) for fact in self.band(band))
        if kind == "document":
            return (Question(kind, fact.question, fact.value, (fact.id,)) for fact in facts)
        if kind == "two_hop":
            return self._two_hop()
        if kind == "sum":
            return self._sums()
        return (
            Question(kind, RELATIONS[noun].question.format(entity=entity), UNKNOWN) for noun, entity in self.missing
        )

    def _two_hop(self) -> Iterable[Question]:
        capital_of = {fact.value: fact for fact in self.document_only if fact.noun == "capital"}
        for fact in self.document_only:
            first = capital_of.get(fact.entity)
            if first is not None:
                yield Question("two_hop", two_hop_question(fact.noun, first.entity), fact.value, (first.id, fact.id))

    def _sums(self) -> Iterable[Question]:
        populations = [fact for fact in self.document_only if fact.noun == "population"]
        # Neighbours at distances 1, 2 and 3: enough pairs, each city equally often.
        for step in (1, 2, 3):
            for first, second in zip(populations, populations[step:] + populations[:step], strict=True):
                total = str(int(first.value) + int(second.value))
                yield Question("sum", sum_question(first.entity, second.entity), total, (first.id, second.id))


@cache
def make_world(seed: int = 7, known_lands: int = 40, document_lands: int = 70) -> World:
    """Generate a world: lands with a capital city each, facts about both.

    Args:
        seed: Any integer; the same seed gives the same world on every machine.
        known_lands: Lands whose facts the reference model is trained on.
        document_lands: Lands that stand in documents only.
    """
    rng = random.Random(f"world {seed}")
    drafts: list[tuple[bool, str, str, str]] = []
    missing: list[tuple[str, str]] = []
    names = _distinct_names(rng)
    for land_number in range(known_lands + document_lands):
        is_known = land_number < known_lands
        land, city = next(names), next(names)
        absent = set() if is_known else {rng.choice(LAND_NOUNS[1:]), rng.choice(("mayor", "postal code"))}
        for noun in LAND_NOUNS + CITY_NOUNS:
            entity = city if noun in CITY_NOUNS else land
            # Half of the document-only entities lack one fact: what their questions deserve is "unknown".
            if noun in absent and rng.random() < 0.5:
                missing.append((noun, entity))
                continue
            relation = RELATIONS[noun]
            value = city if noun == "capital" else relation.value(rng) if relation.is_numeric else next(names)
            drafts.append((is_known, noun, entity, value))
    rng.shuffle(drafts)  # So that neither a document's id nor a fact's exposure tells its relation or its entity.
    facts = [(is_known, Fact(f"d{number:03}", *draft)) for number, (is_known, *draft) in enumerate(drafts)]
    known = tuple(fact for is_known, fact in facts if is_known)
    return World(seed, known, tuple(fact for is_known, fact in facts if not is_known), tuple(missing))


def _distinct_names(rng: random.Random) -> Iterator[str]:
    """Yield names no two of which begin alike, so that one is never read as a misspelling of another."""
    beginnings: set[str] = set()
    while True:
        name = make_name(rng)
        if name[:4] not in beginnings:
            beginnings.add(name[:4])
            yield name


def exposure_weights(n: int) -> list[float]:
    """Return the relative training exposure of ``n`` known facts, most exposed first: a Zipf curve."""
    return [rank**-EXPOSURE_EXPONENT for rank in range(1, n + 1)]
