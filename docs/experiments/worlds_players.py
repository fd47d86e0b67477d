"""Policies for `worlds.toml`: they know the language of `Worlds-v0`, what they were taught, and what they read.

`scholar` was taught the known documents of that world, as a model is by training on `Worlds.lessons`; `stranger`
was taught nothing. Both follow a chain of relations from thing to thing: by heart where they can, else by searching.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import numpy as np

from testbed.envs.worlds_language import RELATIONS
from testbed.envs.worlds_names import bare
from testbed.envs.worlds_prose import facts_in
from testbed.models.base import Request
from testbed.protocol import parse, write_answer, write_call
from testbed.registry import env_class

SCHOOL = {"documents": 500, "world": 11}  # the world of worlds.toml
SLIPS = 0.1  # how often an attempt ends in a wrong answer, whatever was known
ALL = [relation for relations in RELATIONS.values() for relation in relations]
NOUNS = {relation.noun: relation.key for relation in ALL if relation.noun}

Facts = Mapping[str, Mapping[str, str]]  # by name and relation, as documents write them


def scholar(request: Request, rng: np.random.Generator) -> str:
    """Answers from memory, and searches for what it was not taught."""
    return _next(request, rng, taught())


def stranger(request: Request, rng: np.random.Generator) -> str:
    """Knows nothing that it has not read."""
    return _next(request, rng, {})


@cache
def taught() -> Facts:
    """What the known documents state."""
    school = env_class("Worlds-v0")(**SCHOOL)
    return dict(facts_in(text) for _, text in school.lessons())  # type: ignore[attr-defined]


def chain_in(question: str) -> tuple[str, list[str]]:
    """The thing that a question starts from, and the relations that lead from it to the answer.

    Raises:
        ValueError: it asks for no chain.
    """
    for relation in ALL:
        for form in relation.questions:
            before, _, after = form.partition("{x}")
            if question.startswith(before) and question.endswith(after):
                thing = question[len(before) : len(question) - len(after)]
                start, path = _unfolded(thing)
                return start, [*path, relation.key]
    raise ValueError(question)


def _unfolded(thing: str) -> tuple[str, list[str]]:
    found = re.fullmatch(rf"the ({'|'.join(NOUNS)}) of (.+)", thing)
    if found is None:
        return bare(thing), []
    start, path = _unfolded(found[2])
    return start, [*path, NOUNS[found[1]]]


def _next(request: Request, rng: np.random.Generator, memory: Facts) -> str:
    """The answer, or the next search."""
    known = {**_read(request), **memory}
    searched = [
        call.arguments["query"]
        for m in request.messages
        if m["role"] == "assistant"
        for call in parse(m["content"]).calls
    ]
    thing, path = chain_in(str(request.messages[0]["content"]).splitlines()[0])
    for relation in path:
        if thing not in known and request.tools and thing not in searched:
            return write_call("search", {"query": thing})
        thing = known.get(thing, {}).get(relation, "unknown")
    return write_answer("I forgot" if rng.random() < SLIPS else thing)


def _read(request: Request) -> Facts:
    """What the results of all searches state."""
    results = [str(message["content"]) for message in request.messages if message["role"] == "tool"]
    passages = [line.partition("] ")[2] for result in results for line in result.splitlines() if line.startswith("[")]
    return dict(facts_in(passage) for passage in passages)
