"""How much of a question stands in a passage that also holds its answer: the kernel of a guard against leaks.

A corpus leaks a benchmark when it holds its questions and answers, and not just what they are about. Outcomes cannot
show that: the tool arm succeeds either way. The passages that an attempt was shown can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from testbed.types import Message

WIDTH = 3  # words of a shingle
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return _WORD.findall(text.casefold())


def shingles(text: str, width: int = WIDTH) -> set[tuple[str, ...]]:
    """Every run of `width` words; none where the text has fewer."""
    found = words(text)
    return {tuple(found[i : i + width]) for i in range(len(found) - width + 1)}


def leak_overlap(question: str, answer: str, passages: Iterable[str], width: int = WIDTH) -> float:
    """The largest share of the question's shingles in one passage that also holds the answer, in [0, 1].

    1 says that the question stands there word by word, beside its answer; 0 that no passage holds the answer, or none
    that does shares a shingle. A leak in other words goes unseen, and a document that repeats a long name from the
    question shows some overlap without being one.

    Args:
        question: the task's prompt.
        answer: its reference as text; a run of whole words.
        passages: what the attempt was shown, one document each.
        width: words of a shingle, at least 1; all words of a question that has fewer.
    """
    width, wanted = min(width, len(words(question))), words(answer)
    asked = shingles(question, width) if width else set()
    if not asked or not wanted:
        return 0.0
    return max(
        (len(asked & shingles(p, width)) / len(asked) for p in passages if _holds(words(p), wanted)), default=0.0
    )


def passages_shown(transcript: Iterable[Message]) -> list[str]:
    """Every line of every tool result in a transcript: search tools show a document a line."""
    shown = [message["content"] for message in transcript if message["role"] == "tool" and "fault" not in message]
    return [line for text in shown for line in text.splitlines()]


def _holds(text: list[str], run: list[str]) -> bool:
    return any(text[i : i + len(run)] == run for i in range(len(text) - len(run) + 1))
