"""Where messages stand among the tokens that a server read, and the log-probabilities of what it wrote.

Only who renders a conversation knows what the chat template puts around its messages, so it is rendered twice: as it
is, and with marks before the messages to be scored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from testbed.errors import ModelError
from testbed.models.base import Score
from testbed.models.hf_imagine import closed_at
from testbed.types import Message

MARK = "@@mark{}@@"  # ASCII: what is split inside a character cannot be read back from tokens
STRADDLES = "a token holds the end of a message and a part of what the template puts beside it."


class OtherTokens(ModelError):
    """The server read a conversation as other tokens than the tokenizer has that the user named."""


class Read(NamedTuple):
    """A token of a conversation as a server read it.

    Attributes:
        begin: where it begins in the conversation's text.
        end: where it ends there.
        logprob: given what stands before it, in nats; None where the server tells none.
        ending: ln of the probability that a message ends here, where this is a token that ends one; else None.
    """

    begin: int
    end: int
    logprob: float | None
    ending: float | None = None


def placed(
    tokens: Iterable[str],
    logprobs: Iterable[float | None],
    likely: Sequence[Mapping[str, float]] = (),
    ends: Collection[str] = (),
) -> list[Read]:
    """Tokens whose texts are the conversation's, one after the other.

    Args:
        tokens: their texts.
        logprobs: of each.
        likely: the most likely tokens in the place of each, with their log-probabilities, as far as they are told.
        ends: texts of the tokens that end a message.
    """
    read: list[Read] = []
    at = 0
    for n, (text, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
        others = likely[n] if n < len(likely) else {}
        read.append(Read(at, at + len(text), logprob, chance_to_end(text, logprob, others, ends)))
        at += len(text)
    return read


def chance_to_end(text: str, logprob: float | None, likely: Mapping[str, float], ends: Collection[str]) -> float | None:
    """Log of the probability that a token which ends messages stands where one does; None where none does.

    Those that are not told among the most likely are left out.

    Args:
        text: the token that stands there.
        logprob: its log-probability.
        likely: the most likely tokens in its place, with their log-probabilities.
        ends: texts of the tokens that end a message.
    """
    if logprob is None or not text or text not in ends:
        return None
    others = [likely[end] for end in ends if end != text and end in likely]
    return min(float(np.logaddexp.reduce([logprob, *others])), 0.0)


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


def scores_of(
    tokens: Sequence[Read],
    text: str,
    around: str,
    messages: Sequence[Message],
    which: Sequence[int],
    hidden: Mapping[int, int] | None = None,
) -> list[Score]:
    """Scores of messages whose tokens are found by what stands around them.

    Args:
        tokens: the conversation as it was read.
        text: it as text.
        around: the same with `marked` messages.
        messages: the conversation.
        which: indices of the messages to be scored.
        hidden: see `hidden_before`; None where nobody knows.

    Raises:
        ModelError: a message is not found as it is, one of its tokens holds a part of what stands beside it, or the
            server does not tell how likely one is.
    """
    found = {}
    empty, shown_not = -1, 0  # where an empty message was the last one, and the template's silent tokens up to it
    for n, (begin, end) in places_of(text, around, messages, which).items():
        shown_not = (hidden or {}).get(n, 0) + (shown_not if begin == empty else 0)
        empty = end if begin == end else -1
        own = _own(tokens, begin, end, text, None if hidden is None else shown_not)
        if any(token.begin < begin or token.end > end for token in own):
            raise ModelError(STRADDLES)
        if any(token.logprob is None for token in own if token is not tokens[0]):  # nothing stands before the first
            raise ModelError("the server does not tell the log-probability of a message's first token")
        logprobs = tuple(token.logprob or 0.0 for token in own)
        behind = [token for token in tokens if token.begin >= end]
        if begin == end and _silent(tokens, begin):  # the template's, before an empty message and after it
            behind = [] if hidden is None else behind[shown_not:]
        if messages[n]["role"] == "tool":
            found[n] = Score(n, logprobs, _closing(behind, closed_at(text, end)))
        else:
            found[n] = Score(n, logprobs, behind[0].ending if behind else None)
    return [found[n] for n in which]


def hidden_before(template: Sequence[Read], around: str, which: Sequence[int]) -> dict[int, int]:
    """How many tokens without a text stand right before each message: what the template puts there and nobody shows.

    Args:
        template: the conversation with `marked` messages, as it was read.
        around: it as text.
        which: indices of the messages.
    """
    places = {n: around.find(MARK.format(n)) for n in which}
    return {n: len(_silent(template, place)) for n, place in places.items()}


def _own(tokens: Sequence[Read], begin: int, end: int, text: str, hidden: int | None) -> list[Read]:
    """Tokens of the message in a place. Of a character of several tokens, some servers show the last one only."""
    silent = _silent(tokens, begin) if begin < end else []
    if silent and hidden is None and not text[begin].isascii():
        raise ModelError(
            "the server shows no text of some tokens before a message, which may be parts of its first character."
        )
    parts = [] if hidden is None else silent[hidden:]
    inside = (token for token in tokens if token.end > begin and token.begin < end)
    return [*parts, *inside]


def _silent(tokens: Sequence[Read], place: int) -> list[Read]:
    return [token for token in tokens if token.begin == token.end == place]


def _closing(behind: Sequence[Read], until: int) -> float | None:
    """What the markup is given that closes a result; None where the server does not tell it or hides a part of it."""
    markup = [token for token in behind if token.begin < until]
    told = [token.logprob for token in markup if token.logprob is not None and token.begin < token.end]
    return sum(told) if markup and len(told) == len(markup) else None


def written_logprobs(metadata: Mapping[str, Any], text: str, written: int) -> tuple[float, ...] | None:
    """Log-probabilities of a reply's tokens, as far as its server tells them.

    Args:
        metadata: what came with the reply.
        text: its text.
        written: the tokens that the server bills.

    Returns:
        None where the server gave none, or not of every token that it billed, or leaves the end out of both.
    """
    kept = metadata.get("logprobs")
    told = kept.get("content") if isinstance(kept, Mapping) else None
    if not isinstance(told, list) or len(told) != written or not all(map(_is_told, told)):
        return None
    said = [str(token.get("token") or "") for token in told]
    ended = bool(said) and metadata.get("finish_reason") == "stop"
    if ended and said[-1] and text.endswith(said[-1]) and len("".join(said)) <= len(text):
        return None  # all of these are the text's own: what ended it is not among them
    return tuple(float(token["logprob"]) for token in told)


def _is_told(token: Any) -> bool:
    logprob = token.get("logprob") if isinstance(token, Mapping) else None
    return isinstance(logprob, int | float) and not isinstance(logprob, bool) and logprob == logprob  # no NaN
