"""Which words of two texts differ.

difflib finds them. Its time can grow with the square of what it compares and a model chooses the words, so that the
work is bounded: what would take more is compared by lines, or marked as a whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from testbed.beginnings import in_common

MOST_PIECES = 2_000  # words or lines of one text that are compared with those of another
MOST_WORK = 2_000_000  # pairs of equal words that all texts of a page may make difflib look at

_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
_LONGEST_WORD = 64  # characters; of a longer one a part may be marked
_LINES = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class Run:
    """A stretch of text, and whether the other side has another in its place."""

    text: str
    differs: bool = False


class Effort:
    """Comparisons of texts, and what is left of the work that all of them may take."""

    def __init__(self) -> None:
        self._left = MOST_WORK

    def marked(self, left: str, right: str) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """Two texts in stretches, those marked that differ: by words, by lines where these are many, or as a whole."""
        if left == right:
            return _runs([(left, False)]), _runs([(right, False)])
        start = in_common(left, right)
        end = in_common(left[start:][::-1], right[start:][::-1])
        start, end = _back_to_word(left, right, start), end - _into_word(left, right, end, start)
        ours, theirs = left[start : len(left) - end], right[start : len(right) - end]
        middle = next(filter(None, (self._compared(ours, theirs, by) for by in (_WORDS, _LINES))), None)
        before, after = (left[:start], False), (left[len(left) - end :], False)
        found = middle or ([(ours, True)], [(theirs, True)])
        return _runs([before, *found[0], after]), _runs([before, *found[1], after])

    def _compared(
        self, left: str, right: str, by: re.Pattern[str]
    ) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]] | None:
        """Both texts cut into pieces, each with whether it differs; None where that would take too long."""
        if max(len(left), len(right)) > MOST_PIECES * 200:
            return None
        ours, theirs = by.findall(left), by.findall(right)
        if max(len(ours), len(theirs)) > MOST_PIECES:
            return None
        counts = Counter(theirs)
        work = sum(counts[piece] for piece in ours)
        if work > self._left:
            return None
        self._left -= work
        mine: list[tuple[str, bool]] = []
        others: list[tuple[str, bool]] = []
        for tag, i, i_end, j, j_end in SequenceMatcher(None, ours, theirs).get_opcodes():
            mine.append(("".join(ours[i:i_end]), tag != "equal"))
            others.append(("".join(theirs[j:j_end]), tag != "equal"))
        return mine, others


def _runs(pieces: Sequence[tuple[str, bool]]) -> tuple[Run, ...]:
    """Stretches without empty ones, neighbours of one kind joined."""
    joined: list[tuple[list[str], bool]] = []
    for text, differs in pieces:
        if text and joined and joined[-1][1] == differs:
            joined[-1][0].append(text)
        elif text:
            joined.append(([text], differs))
    return tuple(Run("".join(texts), differs) for texts, differs in joined)


def _back_to_word(left: str, right: str, start: int) -> int:
    """The last place at or before `start` that parts no word of either text."""
    least = max(0, start - _LONGEST_WORD)
    while start > least and any(_parts_a_word(text, start, 0) for text in (left, right)):
        start -= 1
    return start


def _into_word(left: str, right: str, end: int, start: int) -> int:
    """How many characters of a shared end belong to words that begin before it."""
    taken = 0
    while taken < min(end, _LONGEST_WORD) and any(
        _parts_a_word(text, len(text) - end + taken, start) for text in (left, right)
    ):
        taken += 1
    return taken


def _parts_a_word(text: str, at: int, start: int) -> bool:
    return start < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()
