"""Names of things in a generated world: each unique, computed from its number alone, and with near-namesakes.

People of a family share its name, several places, works, organisations and events share a made-up word. So words alone
do not tell things apart.
"""

from __future__ import annotations

from testbed.envs.worlds_draws import Permutation
from testbed.envs.worlds_language import KINDS

_ONSETS = (*"bdfghjklmnprstvwz", "br", "dr", "gr", "kr", "pl", "sh", "st", "tr", "th", "kl", "fl", "sk")
_SYLLABLES = tuple(onset + vowel for onset in _ONSETS for vowel in "aeiou")
_CODAS = ("", "", "n", "r", "l", "s", "m", "x")
CAPACITY = len(_SYLLABLES) ** 3  # made-up words; since a consonant begins every syllable, each is spelled in one way

SHARED = {"person": 8, "place": 3, "work": 4, "organisation": 2, "event": 2}  # things that share a made-up word
_GIVEN = 64  # given names of a world
_PREFIXES = ("Port", "Upper", "Old", "Little")
_TITLES = (
    *("Lantern", "Clockmaker", "Garden", "Winter", "Ferryman", "Mirror", "Orchard", "Bells"),
    *("Shepherd", "Bridge", "Daughters", "Storm", "Weaver", "Island", "Feast", "Silence"),
)
_HOUSES = ("Guild", "Institute", "Academy", "Company", "Foundation", "Brotherhood", "Observatory", "League")
_OCCASIONS = ("Congress", "Regatta", "Festival", "Exhibition", "Assembly", "Tournament", "Jubilee", "Fair")


class Names:
    """The names of a world.

    Args:
        key: the world's key.
    """

    def __init__(self, key: bytes) -> None:
        self._order = Permutation(key, "words", CAPACITY)
        self._given = tuple(self._word(len(KINDS), number)[0] for number in range(_GIVEN))

    def _word(self, group: int, number: int) -> tuple[str, int]:
        """A made-up word and the code that it spells; groups share none."""
        code = self._order[number * (len(KINDS) + 1) + group]
        rest, third = divmod(code, len(_SYLLABLES))
        first, second = divmod(rest, len(_SYLLABLES))
        word = _SYLLABLES[first] + _SYLLABLES[second] + _SYLLABLES[third] + _CODAS[code % len(_CODAS)]
        return word.capitalize(), code

    def name(self, kind: str, ordinal: int) -> str:
        """The name of the thing of a kind with this ordinal, from 0 on, without article and quotation marks."""
        shared, member = divmod(ordinal, SHARED[kind])
        word, code = self._word(KINDS.index(kind), shared)
        if kind == "person":
            return f"{self._given[(code + 7 * member) % _GIVEN]} {word}"
        if kind == "place":
            return (word, f"New {word}", f"{_PREFIXES[code % len(_PREFIXES)]} {word}")[member]
        if kind == "work":
            return f"The {_TITLES[(code + 5 * member) % len(_TITLES)]} of {word}"
        if kind == "organisation":
            return f"{word} {_HOUSES[(code + 3 * member) % len(_HOUSES)]}"
        return f"{_OCCASIONS[(code + 3 * member) % len(_OCCASIONS)]} of {word}"


def shown(kind: str, name: str) -> str:
    """A name within a sentence: works in quotation marks, organisations and events with an article."""
    if kind == "work":
        return f'"{name}"'
    return f"the {name}" if kind in ("organisation", "event") else name


def bare(text: str) -> str:
    """A name without what `shown` added."""
    text = text.strip()
    if text.startswith('"'):
        return text.strip('"')
    return text[4:] if text.startswith(("the ", "The ")) else text
