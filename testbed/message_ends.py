"""Ends of messages: that a model stopped is a choice of its own, and that a result closes there has to be guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from testbed.models.base import Score
from testbed.protocol import STOP_STRINGS
from testbed.store import MessageScore
from testbed.types import Attempt


def with_ends(
    attempt: Attempt, found: Sequence[Score], roles: Mapping[int, str], longest: int | None
) -> list[MessageScore]:
    """Scores of an attempt's messages, in which the end of one that the model ended itself counts as a token of it.

    So does what closes a tool's result, but for the number of its tokens.

    Args:
        attempt: the attempt.
        found: scores of its messages' contents.
        roles: of these messages.
        longest: most tokens that the arm's model may write in one message; None where unknown.
    """
    ended = _ended(attempt, found, roles, longest)
    rows = []
    for score in found:
        tokens, nats = len(score.logprobs), score.nats
        if score.message in ended and score.end is not None:
            tokens, nats = tokens + 1, nats - score.end
        if roles[score.message] == "tool" and score.end is not None:
            nats -= score.end  # who writes a result himself has to close it there; no token of what the tool said
        rows.append(MessageScore(attempt.id, score.message, roles[score.message], tokens, nats))
    return rows


def lacks_ends(attempt: Attempt, found: Sequence[Score], roles: Mapping[int, str], longest: int | None) -> bool:
    """Whether a message that the model ended itself has no end to be counted: whoever scored it tells none.

    Args:
        attempt: the attempt.
        found: scores of its messages' contents.
        roles: of these messages.
        longest: as for `with_ends`.
    """
    ended = _ended(attempt, found, roles, longest)
    return any(score.end is None for score in found if score.message in ended)


def _ended(attempt: Attempt, found: Sequence[Score], roles: Mapping[int, str], longest: int | None) -> set[int]:
    sizes = {score.message: len(score.logprobs) for score in found if roles[score.message] == "assistant"}
    return own_ends(attempt, sizes, longest)


def own_ends(attempt: Attempt, sizes: Mapping[int, int], longest: int | None) -> set[int]:
    """The messages that the model ended itself: no closing tag of the protocol did, and no limit.

    Args:
        attempt: the attempt.
        sizes: tokens of the contents of each message that the model wrote, by index.
        longest: as for `with_ends`.
    """
    ended = {
        n
        for n, size in sizes.items()
        if not attempt.transcript[n]["content"].endswith(STOP_STRINGS) and (longest is None or size < longest)
    }
    # A budget or the context cuts the last message only: it then has fewer tokens than with an end of its own.
    if sizes and sum(sizes.values()) + len(ended) > attempt.cost.generated_tokens:
        ended.discard(max(sizes))
    return ended
