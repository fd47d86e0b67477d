"""Whether a text holds a question nearly word by word, together with its answer.

A corpus leaks a benchmark when it holds its questions and answers, and not just what they are about. Outcomes cannot
show that: the tool arm succeeds either way. What an attempt was shown can. docs/leaks.md has what was measured to
choose the numbers below.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

from testbed.types import Message

SHARE = 0.8  # more than this of the question's words must stand near each other, in pairs that the question has too
LEAST = 7  # words at least: fewer stand together by chance
NEAR = 100  # words before and after, in which the answer must stand
LONG = 8  # words from which an answer need not stand there word by word either
STRETCH = 1.5  # how much longer than the question the place may be in which its words stand

_WORD = re.compile(r"[^\W_]+")  # underscores stand for emphasis or for spaces
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # soft hyphens and characters without width
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PIECE = re.compile(r"\n+|(?<=[.?!:])\s+")
_SHARED = 0.5  # pieces of more than this share of all prompts are instructions

Place = tuple[int, int]  # where words begin and end


def plain(text: str) -> str:
    """A text without case, JSON's escapes, and what cannot be seen of it."""
    if "\\" in text:
        # Doubled ones first: what is in JSON and what is not (LaTeX, say) then come to the same.
        text = _ESCAPE.sub(_unescaped, text.replace("\\\\", "\\"))
    if not text.isascii():
        text = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    return text.casefold()


def words(text: str) -> list[str]:
    """The words of a text that `plain` made: without punctuation, numbers without commas."""
    return _WORD.findall(_THOUSANDS.sub("", text))


class Question:
    """A question with its answers, to be looked for in what attempts were shown.

    Args:
        text: the question.
        answers: any of which counts; those without words do not.
        label: whether the answers are labels that other questions share, and so tell nothing by standing somewhere: the
            question must then stand there whole.
    """

    def __init__(self, text: str, answers: Iterable[str], *, label: bool = False) -> None:
        own = words(plain(text))
        self._sought, self._vocabulary = _Sought(own), frozenset(own)
        self._needed = len(own) if label else max(LEAST, math.floor(SHARE * len(own)) + 1)
        # Where an answer is a part of the question, what stands around it there; a long one then tells nothing.
        runs = [run for run in (words(plain(answer)) for answer in answers) if run]
        inside = [(run, [_around(own, place) for place in _places(run, own)]) for run in runs]
        self._answers = [(run, around) for run, around in inside if not around or len(run) <= LONG]

    @property
    def judged(self) -> bool:
        """Whether it can be flagged at all: it is long enough, and has an answer."""
        return self._sought.size >= LEAST and bool(self._answers)

    def overlap(self, text: str) -> float:
        """The largest share of the question's words that stand near each other beside an answer, in [0, 1].

        A word counts where it is in a pair of words that the question has too, side by side or with one word between.
        Near is within one and a half times the question's length, beside within `NEAR` words. An answer that is a part
        of the question must stand there besides; one of more than `LONG` words only as nearly as the question.
        """
        found = words(plain(text))
        places = sorted(
            place
            for run, around in self._answers
            for place in _places(run, found)
            if not any(_same(_around(found, place), own) for own in around)
        )
        best = 0
        for covered, (start, end) in self._sought.stretches(found) if places else ():
            if covered > best:
                first = bisect_left(places, (start - NEAR,))
                best = covered if first < len(places) and places[first][1] <= end + NEAR else best
        return best / self._sought.size if best else 0.0

    def stands(self, text: str) -> bool:
        """Whether a text holds the question nearly word by word, with or without an answer."""
        return any(covered >= self._needed for covered, _ in self._sought.stretches(words(plain(text))))

    def flagged(self, text: str) -> float:
        """The overlap where it is that of a leak: `SHARE` of the words, and `LEAST` of them; else 0.

        Most texts are dismissed by what words they lack, before they are read.
        """
        joined = plain(text).replace(",", "")
        if not any(len(run) > LONG or all(word in joined for word in run) for run, _ in self._answers):
            return 0.0
        lacking = sum(word not in joined for word in self._vocabulary)
        if self._sought.size - lacking < self._needed:
            return 0.0
        overlap = self.overlap(text)
        return overlap if round(overlap * self._sought.size) >= self._needed else 0.0


class _Sought:
    """Words that are looked for nearly as they stand.

    Args:
        own: the words in order.
    """

    def __init__(self, own: Sequence[str]) -> None:
        self.size = len(own)
        self._room = int(STRETCH * len(own)) + 2
        self._pairs: dict[tuple[str, str], set[int]] = {}
        for at, gap in product(range(len(own)), (1, 2)):
            if at + gap < len(own):
                self._pairs.setdefault((own[at], own[at + gap]), set()).update((at, at + gap))

    def stretches(self, found: Sequence[str]) -> Iterator[tuple[int, Place]]:
        """Every stretch of at most so many words that ends with a pair: how many words it covers, and its place."""
        hits: deque[tuple[int, set[int]]] = deque()
        inside: Counter[int] = Counter()
        for at, gap in product(range(len(found)), (1, 2)):
            pair = self._pairs.get((found[at], found[at + gap])) if at + gap < len(found) else None
            if pair is None:
                continue
            hits.append((at, pair))
            inside.update(pair)
            while hits[0][0] < at + gap + 1 - self._room:
                for gone in hits.popleft()[1]:
                    inside[gone] -= 1
                    if not inside[gone]:
                        del inside[gone]
            yield len(inside), (hits[0][0], at + gap + 1)


def questions(prompts: Sequence[str]) -> list[str]:
    """What is asked in each prompt of a family: without the lines and sentences that more than half of them share."""
    pieces = [[piece for piece in _PIECE.split(prompt) if piece.strip()] for prompt in prompts]
    often = Counter(piece for own in pieces for piece in set(own))
    most = max(_SHARED * len(prompts), 1)  # what one prompt alone has is never an instruction
    return ["\n".join(piece for piece in own if often[piece] <= most) or "\n".join(own) for own in pieces]


def answers(reference: Any) -> list[str]:
    """The texts and numbers in a reference; of a table, those of more than `LONG` words where it has any.

    Such tables hold programs, tests and the names of functions, of which the latter stand in many places.
    """
    if isinstance(reference, str):
        return [reference]
    if isinstance(reference, bool) or reference is None:
        return []
    if isinstance(reference, int | float):
        return [str(reference)]
    table = isinstance(reference, dict)
    found = [answer for part in (reference.values() if table else reference) for answer in answers(part)]
    long = [answer for answer in found if len(words(answer)) > LONG] if table else []
    return long or found


def results(transcript: Iterable[Message]) -> list[str]:
    """The tool results in a transcript, those of faulty calls left out."""
    return [message["content"] for message in transcript if message["role"] == "tool" and "fault" not in message]


def _places(run: Sequence[str], found: Sequence[str]) -> Iterator[Place]:
    """Where an answer stands: word by word or, if it is long, nearly so."""
    if len(run) <= LONG:
        length = len(run)
        starts = [at for at, word in enumerate(found) if word == run[0] and found[at : at + length] == run]
        yield from ((at, at + length) for at in starts)
        return
    sought = _Sought(run)
    yield from (place for covered, place in sought.stretches(found) if covered > SHARE * len(run))


def _around(found: Sequence[str], place: Place) -> tuple[str | None, str | None]:
    """The words before and after a place; None at the ends."""
    at, to = place
    return (found[at - 1] if at else None), (found[to] if to < len(found) else None)


def _same(around: tuple[str | None, str | None], own: tuple[str | None, str | None]) -> bool:
    """Whether an answer stands where the question itself has it, which may have more words before or after it."""
    return all(word in (None, other) for word, other in zip(own, around, strict=True))


def _unescaped(escape: re.Match[str]) -> str:
    if escape[1]:
        return chr(int(escape[1], 16))
    return " " if escape[2] in "nrtbf" else escape[2]
