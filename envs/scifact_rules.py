"""The rule of SciFact's evaluation, claim by claim: what an answer names, and what of it is right.

Source: Wadden et al. 2020, Fact or Fiction: Verifying Scientific Claims, arXiv 2004.14974, and doc/evaluation.md of
github.com/allenai/scifact, whose scoring example is in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

LABELS = ("SUPPORT", "CONTRADICT")
NOINFO = "NOINFO"
COUNTED = 3  # sentences of an abstract, from the first, among which the rule looks for a complete piece of evidence
LONGEST = 2_000  # characters of an answer that is still read

_LINE = re.compile(rf"(?P<doc>\w+) +(?P<label>{'|'.join(LABELS)})(?P<numbers>(?:[ ,]+[0-9]{{1,4}})*)")


@dataclass(frozen=True)
class Evidence:
    """What one abstract says of a claim.

    Attributes:
        label: one of `LABELS`.
        sets: numbers of sentences; each set is evidence by itself. Of an answer: one, in the order given.
    """

    label: str
    sets: tuple[tuple[int, ...], ...]


def abstract_is_right(said: Evidence, gold: Evidence) -> bool:
    """Whether the label is right and a set of evidence is complete among the first three sentences."""
    counted = {n for numbers in said.sets for n in numbers[:COUNTED]}
    return said.label == gold.label and any(counted.issuperset(numbers) for numbers in gold.sets)


def right_sentences(said: Evidence, gold: Evidence) -> int:
    """How many sentences belong to sets of evidence that are complete, under the right label."""
    named = {n for numbers in said.sets for n in numbers}
    complete = [numbers for numbers in gold.sets if said.label == gold.label and named.issuperset(numbers)]
    return len(set().union(*complete))


def sentence_f1(found: Mapping[str, Evidence], gold: Mapping[str, Evidence]) -> float:
    """F1 over the sentences of a claim."""
    right = sum(right_sentences(said, gold[doc]) for doc, said in found.items() if doc in gold)
    named = sum(len(numbers) for e in found.values() for numbers in e.sets)
    wanted = sum(len(set().union(*e.sets)) for e in gold.values())
    return f1(right, named, wanted)


def f1(right: int, named: int, wanted: int) -> float:
    """Harmonic mean of the shares of what was named and of what was wanted; 1 where both are nothing."""
    return 2 * right / (named + wanted) if named + wanted else 1.0


def read_evidence(answer: str) -> dict[str, Evidence] | None:
    """The abstracts of an answer by id; None if it cannot be read."""
    text = answer.strip()
    if text.upper() == NOINFO:
        return {}
    found: dict[str, Evidence] = {}
    for line in re.split(r"[\n;]", text[: LONGEST + 1]):
        said = _LINE.fullmatch(line.strip())
        if said is None or said["doc"] in found or len(text) > LONGEST:
            return None
        found[said["doc"]] = Evidence(said["label"], (tuple(map(int, re.findall("[0-9]+", said["numbers"]))),))
    return found
