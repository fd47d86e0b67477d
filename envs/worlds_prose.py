"""Documents of `Worlds-v0`: what is true of a thing as a paragraph, and a paragraph read back."""

from __future__ import annotations

import re
from functools import cache

from testbed.envs.worlds_asides import ASIDES, DESCRIPTIONS, INTRODUCTIONS, OPENINGS, PRONOUNS
from testbed.envs.worlds_draws import Draws
from testbed.envs.worlds_language import NOTE, RELATIONS, Relation
from testbed.envs.worlds_model import World
from testbed.envs.worlds_names import bare

_MOST_ASIDES = 3
_NAME = r'"[^"]+"|(?:[Tt]he )?[A-Z]\w+(?: of [A-Z]\w+| [A-Z]\w+)*'
_SENTENCE_END = re.compile(r"(?<=\.) ")


def text_of(world: World, thing: int) -> str:
    """The document about a thing: an introduction, its facts in any order, and asides that name others."""
    draws = world.draws("prose", thing)
    kind = world.kind(thing)
    if kind == NOTE:
        return " ".join(map(_capital, [_one(OPENINGS, draws), *_asides(world, thing, kind, "", draws, 2)]))
    name = world.shown(thing)
    pronoun = _one(PRONOUNS[kind] if kind != "person" else (("she", "he")[draws.below(2)],), draws)
    introduction = _one(INTRODUCTIONS[kind], draws).format(n=name, d=_one(DESCRIPTIONS[kind], draws))
    facts = world.facts(thing)
    body = [
        _one(relation.sentences, draws).format(s=name, v=value_text(world, relation, facts[relation.key]))
        for relation in RELATIONS[kind]
        if relation.key in facts
    ]
    body += _asides(world, thing, kind, name, draws, 1)
    _shuffle(body, draws)
    # The first sentence has the name; of the others that begin with it, two in three say "she" or "the town" instead.
    body = [_referring(sentence, name, pronoun, draws) for sentence in body]
    return " ".join(_capital(sentence) for sentence in [introduction, *body])


def value_text(world: World, relation: Relation, value: int) -> str:
    """A value as documents write it."""
    return world.shown(value) if relation.target else relation.text(value)


def facts_in(text: str) -> tuple[str, dict[str, str]]:
    """The name of the thing that a document is about, and what the document states of it by relation, as written.

    A note is about nothing: its name is empty. Whoever reads like that knows the language, and no world.
    """
    introduction, *sentences = _SENTENCE_END.split(text)
    for kind, pattern in _introductions():
        found = pattern.fullmatch(introduction)
        if found:
            stated = {}
            for sentence in sentences:
                for relation, form in _sentences(kind):
                    value = form.fullmatch(sentence)
                    if value:
                        stated[relation.key] = bare(value["v"])
            return bare(found["n"]), stated
    return "", {}


def _referring(sentence: str, name: str, pronoun: str, draws: Draws) -> str:
    if sentence.startswith(name) and draws.below(3):
        return pronoun + sentence[len(name) :]
    return sentence


def _asides(world: World, thing: int, kind: str, name: str, draws: Draws, least: int) -> list[str]:
    forms = list(ASIDES[kind])
    chosen = [forms.pop(draws.below(len(forms))) for _ in range(least + draws.below(_MOST_ASIDES + 1 - least))]
    return [form.format(s=name, **_others(world, thing, form, draws)) for form in chosen]


def _others(world: World, thing: int, form: str, draws: Draws) -> dict[str, str]:
    """Names for the fields of a form."""
    fields = re.findall(r"\{(\w{2,})\}", form)
    return {
        field: world.shown(world.namesake(thing) if field == "namesake" else world.someone(field.rstrip("2"), draws))
        for field in fields
    }


def _shuffle(sentences: list[str], draws: Draws) -> None:
    for at in range(len(sentences) - 1, 0, -1):
        other = draws.below(at + 1)
        sentences[at], sentences[other] = sentences[other], sentences[at]


def _one(choices: tuple[str, ...], draws: Draws) -> str:
    return choices[draws.below(len(choices))]


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


@cache
def _introductions() -> tuple[tuple[str, re.Pattern[str]], ...]:
    patterns = []
    for kind, forms in INTRODUCTIONS.items():
        for form in forms:
            what = "|".join(map(re.escape, DESCRIPTIONS[kind]))
            patterns.append((kind, _pattern(form, n=f"(?P<n>{_NAME})", d=f"(?:{what})")))
    return tuple(patterns)


@cache
def _sentences(kind: str) -> tuple[tuple[Relation, re.Pattern[str]], ...]:
    return tuple(
        (relation, _pattern(form, s="(?:.+)", v=_value_pattern(relation)))
        for relation in RELATIONS[kind]
        for form in relation.sentences
    )


def _value_pattern(relation: Relation) -> str:
    forms = {"date": r"\d+ \w+ \d+", "year": r"\d+", "number": r"[\d,]+"}
    return f"(?P<v>{forms.get(relation.form, _NAME)})"


def _pattern(form: str, **fields: str) -> re.Pattern[str]:
    """A form as an expression; its first letter may be a capital."""
    pieces = re.split(r"\{(\w)\}", form)
    escaped = [fields[piece] if at % 2 else re.escape(piece) for at, piece in enumerate(pieces)]
    return re.compile("".join(escaped))
