"""How a transcript is divided among pages, so that none is large, whatever somebody sent.

An attempt that is missing proves nothing and is not checked word by word: its transcript may be anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from testbed.protocol import CALL_OPEN
from testbed.report.transcript_view import text_of

MOST_ENTRIES = 100  # of a transcript, on one page
MOST_WEIGHT = 300_000  # characters after which a page ends, more or less; its last entry may have more
LONGEST = 8_000_000  # characters of one entry that are shown; the whole of it has an address of its own
CALL = 500  # characters that a call weighs as much as: it stands on the page in pieces


def parts(*transcripts: Sequence[Any]) -> list[range]:
    """Which entries stand on each page: the same numbers of all transcripts that stand beside each other."""
    found, start, weight = [], 0, 0
    count = max(map(len, transcripts))
    for end, own in enumerate(_weights(transcripts), 1):
        weight += own
        if weight >= MOST_WEIGHT or end - start >= MOST_ENTRIES:
            found.append(range(start, end))
            start, weight = end, 0
    return [*found, range(start, count)] if start < count or not found else found


def _weights(transcripts: Sequence[Sequence[Any]]) -> Iterator[int]:
    return (sum(_weight(entry) for entry in entries) for entries in zip_longest(*transcripts))


def _weight(entry: Any) -> int:
    """What an entry takes on a page."""
    if entry is None:
        return 0
    text = said(entry)
    return len(text) + CALL * text.count(CALL_OPEN)


def said(entry: Any) -> str:
    """What an entry of a transcript says; one that is no message says itself."""
    return text_of(entry if isinstance(entry, dict) else {"content": entry})
