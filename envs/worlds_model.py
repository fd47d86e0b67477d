"""A generated world: things of five kinds, what is true of them, and which of it a model may be taught.

Things are numbered in blocks of `BLOCK`, of which each holds as many of every kind. What a thing is related to lies in
one other block, found by a random order of the blocks; read backwards, that order gives all things related to one. So
whatever a question needs takes constant time and no memory, however large the world.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from hashlib import blake2b

from testbed.envs.worlds_draws import Draws, Permutation
from testbed.envs.worlds_language import NOTE, RELATIONS, Relation
from testbed.envs.worlds_names import Names, shown

PER_BLOCK = {"person": 9, "place": 4, "work": 4, "organisation": 3, "event": 3, NOTE: 2}
BLOCK = sum(PER_BLOCK.values())
_SLOTS = tuple((kind, at) for kind, count in PER_BLOCK.items() for at in range(count))
FIRST = {kind: next(slot for slot, (k, _) in enumerate(_SLOTS) if k == kind) for kind in PER_BLOCK}
#: Targets within a block that a relation has at most, where fewer than all: so that counts differ widely.
_AMONG = {"birthplace": 2, "creator": 2, "venue": 2, "seat": 2}
_GAPS = 4  # one thing in so many lacks one of its facts
_SHARE = 1_000_000


class World:
    """One generated world.

    Documents are about one thing each; every fact is stated in the document of its subject and in no other.

    Args:
        documents: how many, at least 2 · `BLOCK`.
        world: seed of the world.
        known: share of the documents that count as known, 0 to 1; they are chosen at random.
        secret: makes another world of the same seed, which nobody can make without it; never kept.
    """

    def __init__(self, documents: int, world: int = 0, known: float = 0.5, secret: str = "") -> None:
        self.size, self.known = documents, known
        locked = blake2b(secret.encode()).digest() if secret else b""
        self._key = blake2b(f"Worlds-v0/{world}".encode(), key=locked, digest_size=32).digest()
        self.blocks = documents // BLOCK
        self._numbers = Permutation(self._key, "documents", documents)
        self._names = Names(self._key)
        entity_relations = [relation for relations in RELATIONS.values() for relation in relations if relation.target]
        self._orders = {r.key: Permutation(self._key, f"relation {r.key}", self.blocks) for r in entity_relations}
        self._digits = len(str(documents - 1))

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal characters that tell worlds apart and give nothing of the secret away."""
        content = f"{self.size}/{self.known}".encode()
        return blake2b(content, key=self._key, person=b"identity", digest_size=8).hexdigest()

    def draws(self, *address: str | int) -> Draws:
        """Random numbers of this world."""
        return Draws(self._key, *address)

    def order(self, name: str, n: int) -> Iterator[int]:
        """The numbers from 0 to n − 1 in a random order."""
        permutation = Permutation(self._key, name, n)
        return (permutation[place] for place in range(n))

    # -- things and documents ------------------------------------------------------------------------------------------

    def kind(self, thing: int) -> str:
        """The kind of a thing; what is left beyond the last whole block are notes."""
        return _SLOTS[thing % BLOCK][0] if thing < self.blocks * BLOCK else NOTE

    def things(self, kind: str) -> range:
        """Ordinals of a kind's things, see `thing`."""
        return range(self.blocks * PER_BLOCK[kind])

    def thing(self, kind: str, ordinal: int) -> int:
        """The thing of a kind with this ordinal."""
        block, at = divmod(ordinal, PER_BLOCK[kind])
        return block * BLOCK + FIRST[kind] + at

    def ordinal(self, thing: int) -> int:
        """The ordinal of a thing among those of its kind."""
        kind, at = _SLOTS[thing % BLOCK]
        return thing // BLOCK * PER_BLOCK[kind] + at

    def name(self, thing: int) -> str:
        """The name of a thing, not a note's, without article and quotation marks."""
        return self._names.name(self.kind(thing), self.ordinal(thing))

    def shown(self, thing: int) -> str:
        """The name of a thing as sentences have it."""
        kind = self.kind(thing)
        return shown(kind, self._names.name(kind, self.ordinal(thing)))

    def number(self, thing: int) -> int:
        """The number of a thing's document: its place in order of id. It tells nothing of the thing."""
        return self._numbers[thing]

    def at(self, number: int) -> int:
        """The thing that the document of that number is about."""
        return self._numbers.index(number)

    def document_id(self, thing: int) -> str:
        """The id of a thing's document."""
        return f"d{self.number(thing):0{self._digits}}"

    def is_known(self, thing: int) -> bool:
        """Whether a thing's document counts as known."""
        return self.draws("known", thing).below(_SHARE) < self.known * _SHARE

    # -- facts ---------------------------------------------------------------------------------------------------------

    def facts(self, thing: int) -> dict[str, int]:
        """What is true of a thing by relation: the thing it is related to, or a date's ordinal, a year, a number.

        One thing in four lacks one of the facts that its kind has; no document states it.
        """
        relations = RELATIONS[self.kind(thing)]
        if not relations:
            return {}
        draws = self.draws("facts", thing)
        gap = draws.below(_GAPS * len(relations))
        values = ((relation.key, self._value(relation, thing, draws)) for relation in relations)
        return {key: value for at, (key, value) in enumerate(values) if at != gap}

    def _value(self, relation: Relation, thing: int, draws: Draws) -> int:
        if not relation.target:
            return relation.low + draws.below(relation.high - relation.low + 1)
        block, slot = divmod(thing, BLOCK)
        count = PER_BLOCK[relation.target]
        if relation.target == relation.of:  # never the thing itself, in whichever block
            at = (slot - FIRST[relation.of] + 1 + draws.below(count - 1)) % count
        else:
            at = draws.below(_AMONG.get(relation.key, count))
        return self._orders[relation.key][block] * BLOCK + FIRST[relation.target] + at

    def sources(self, relation: Relation, target: int) -> list[int]:
        """All things that have this target for a relation, in order."""
        block = self._orders[relation.key].index(target // BLOCK)
        first = block * BLOCK + FIRST[relation.of]
        candidates = range(first, first + PER_BLOCK[relation.of])
        return [thing for thing in candidates if self.facts(thing).get(relation.key) == target]

    def followed(self, start: int, path: tuple[Relation, ...]) -> list[int] | None:
        """The values along a chain of relations, the last one's last; None where one is not documented."""
        values: list[int] = []
        for relation in path:
            value = self.facts(values[-1] if values else start).get(relation.key)
            if value is None:
                return None
            values.append(value)
        return values

    def someone(self, kind: str, draws: Draws) -> int:
        """Any thing of a kind."""
        return self.thing(kind, draws.below(self.blocks * PER_BLOCK[kind]))

    def namesake(self, thing: int) -> int:
        """Another thing of its kind, in most cases one whose name shares a word."""
        kind, ordinal = self.kind(thing), self.ordinal(thing)
        other = ordinal ^ 1
        return self.thing(kind, other if other < self.blocks * PER_BLOCK[kind] else ordinal - 1)

    def all(self) -> Iterator[int]:
        """Every thing, in order of the documents' ids."""
        return (self.at(number) for number in range(self.size))


def paths(kind: str, hops: int) -> tuple[tuple[Relation, ...], ...]:
    """Every chain of so many relations that begins at a kind of thing; the last may lead to a date, year or number."""
    if hops == 1:
        return tuple((relation,) for relation in RELATIONS[kind])
    return tuple(
        (relation, *rest)
        for relation in RELATIONS[kind]
        if relation.target
        for rest in paths(relation.target, hops - 1)
    )
