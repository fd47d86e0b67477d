"""Where messages stand among the tokens that a server read, and the log-probabilities of what it wrote.

Only who renders a conversation knows what the chat template puts around its messages, so it is rendered twice: as it
is, and with marks before the messages to be scored.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from testbed.errors import ModelError
from testbed.models.base import Score
from testbed.types import Message

MARK = "@@mark{}@@"  # ASCII: what is split inside a character cannot be read back from tokens
STRADDLES = "a token holds the end of a message and a part of what the template puts beside it."
Tokens = Sequence[tuple[str, float]]  # text and log-probability of each token that was read


def marked(messages: Sequence[Message], which: Sequence[int]) -> list[Message]:
    """The messages, with marks before the contents of those that are to be scored.

    Before, not in their place: templates may look at how a message ends.
    """
    made = [message.copy() for message in messages]
    for n in set(which):
        made[n]["content"] = MARK.format(n) + messages[n]["content"]
    return made


def places_of(read: str, around: str, messages: Sequence[Message], which: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Where messages begin and end in a conversation as it was read.

    Args:
        read: the conversation.
        around: the same with `marked` messages.
        messages: its messages.
        which: indices of those that are looked for.

    Raises:
        ModelError: a message is not found as it is.
    """
    position, found = 0, {}
    for n in sorted(set(which)):
        text = messages[n]["content"]
        before, mark, rest = around.partition(MARK.format(n))
        begin = position + len(before)
        if not mark or not rest.startswith(text) or not read.startswith(before + text, position):
            raise ModelError("a message is not as it was said among the tokens that the server read.")
        position, around = begin + len(text), rest[len(text) :]
        found[n] = begin, position
    if read[position:] != around:
        raise ModelError("the server's template puts other things around a conversation when its contents change.")
    return found


def scores_of(tokens: Tokens, template: Tokens, messages: Sequence[Message], which: Sequence[int]) -> list[Score]:
    """Scores of messages whose tokens are found by what stands around them.

    Args:
        tokens: the conversation as it was read.
        template: the same with `marked` messages.
        messages: the conversation.
        which: indices of the messages to be scored.

    Raises:
        ModelError: a message is not found as it is, or one of its tokens holds a part of what stands beside it.
    """
    starts = [0, *accumulate(len(text) for text, _ in tokens)]
    read, around = ("".join(text for text, _ in texts) for texts in (tokens, template))
    found = {}
    for n, (begin, end) in places_of(read, around, messages, which).items():
        if begin not in starts or end not in starts:
            raise ModelError(STRADDLES)
        first, last = bisect_right(starts, begin) - 1, bisect_left(starts, end)  # tokens may have no text
        found[n] = Score(n, tuple(logprob for _, logprob in tokens[first:last]))
    return [found[n] for n in which]


def written_logprobs(metadata: Mapping[str, Any], text: str, written: int) -> tuple[float, ...] | None:
    """Log-probabilities of a reply's tokens, as far as its server tells them.

    Args:
        metadata: what came with the reply.
        text: its text.
        written: the tokens that the server bills.

    Returns:
        None where the server gave none, or not of every token that it billed, or leaves the end out of both.
    """
    told = (metadata.get("logprobs") or {}).get("content")
    if not told or len(told) != written:
        return None
    said = [str(token.get("token") or "") for token in told]
    ended = metadata.get("finish_reason") == "stop"
    if ended and said[-1] and text.endswith(said[-1]) and len("".join(said)) <= len(text):
        return None  # all of these are the text's own: what ended it is not among them
    return tuple(float(token["logprob"]) for token in told)
