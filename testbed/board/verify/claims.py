"""What is claimed of an attempt beside what the server makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from testbed.board.bundle_lines import ClaimedAttempt
from testbed.board.verify.spread import Forged
from testbed.episode import Episode
from testbed.types import Message


def same_transcript(own: Sequence[Message], sent: Sequence[Message]) -> None:
    """Compares transcripts message by message.

    Raises:
        Forged: says which message differs first, and in what.
    """
    mine, theirs = said(own), said(sent)
    for n, (here, there) in enumerate(zip(mine, theirs, strict=False)):
        if here != there:
            raise Forged(f"message {n} is {_brief(there, here)}, and has to be {_brief(here, there)}")
    if len(mine) != len(theirs):
        raise Forged(f"its transcript has {len(theirs)} messages, and has to have {len(mine)}")


def same_outcome(episode: Episode, claimed: ClaimedAttempt) -> None:
    """Compares how an attempt ended, and what came of it.

    Raises:
        Forged: says what differs.
    """
    grade = episode.grade
    for what, own, sent in (
        ("end", episode.ended, claimed.ended),
        ("answer", episode.answer, claimed.answer),
        ("success", bool(grade and grade.success), claimed.success),
        ("score", grade.score if grade else None, claimed.score),
    ):
        if own != sent:
            raise Forged(f"its {what} is said to be {sent!r:.120}, and is {own!r:.120}")


def said(transcript: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages without log-probabilities, which are their author's word."""
    return [{key: value for key, value in message.items() if key != "logprobs"} for message in transcript]


def _brief(message: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What of a message differs from another."""
    shown = {key: value for key, value in message.items() if other.get(key) != value}
    return f"{shown!r:.160}" if shown else f"one of the {message['role']}"
