"""Log-probabilities from a server: of what it wrote, and of a conversation that it is given to read.

The latter is vLLM's `prompt_logprobs` on /v1/chat/completions; servers that lack it are refused by name. Only the
server knows its chat template, so it is asked twice: with the messages, and with marks before those to be scored, which
show what the template puts around them.
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
Tokens = Sequence[tuple[str, float]]  # text and log-probability of each token that was read


def marked(messages: Sequence[Message], which: Sequence[int]) -> list[Message]:
    """The messages, with marks before the contents of those that are to be scored.

    Before, not in their place: templates may look at how a message ends.
    """
    made = [message.copy() for message in messages]
    for n in set(which):
        made[n]["content"] = MARK.format(n) + messages[n]["content"]
    return made


def tokens_read(answer: Mapping[str, Any], name: str) -> Tokens:
    """The prompt's tokens from a server's answer.

    Args:
        answer: the answer as JSON.
        name: the model, for the message.

    Raises:
        ModelError: the server does not say what the prompt's tokens were.
    """
    told = answer.get("prompt_logprobs")
    if not isinstance(told, list) or not told:
        raise ModelError(
            f"{name} cannot score texts: its server gives no prompt_logprobs. vLLM does; of local models, hf: always."
        )
    tokens = []
    for choices in told:
        first = (
            next(iter(choices.values())) if choices else {}
        )  # the prompt's own token stands first; none at the start
        tokens.append((str(first.get("decoded_token") or ""), float(first.get("logprob", 0.0))))
    return tokens


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
    around = "".join(text for text, _ in template)
    ends = list(accumulate(len(text) for text, _ in tokens))
    starts = [0, *ends]
    read, position, found = "".join(text for text, _ in tokens), 0, {}
    for n in sorted(set(which)):
        text = messages[n]["content"]
        before, mark, rest = around.partition(MARK.format(n))
        begin = position + len(before)
        if not mark or not rest.startswith(text) or not read.startswith(before + text, position):
            raise ModelError("a message is not as it was said among the tokens that the server read.")
        position, around = begin + len(text), rest[len(text) :]
        if begin not in starts or position not in starts:
            raise ModelError("a token holds the end of a message and a part of what the template puts beside it.")
        first, last = bisect_right(starts, begin) - 1, bisect_left(starts, position)  # tokens may have no text
        found[n] = Score(n, tuple(logprob for _, logprob in tokens[first:last]))
    if read[position:] != around:
        raise ModelError("the server's template puts other things around a conversation when its contents change.")
    return [found[n] for n in which]


def written_logprobs(metadata: Mapping[str, Any], written: int) -> tuple[float, ...] | None:
    """Log-probabilities of a reply's tokens; None where the server gave none, or not of every token that it billed."""
    told = (metadata.get("logprobs") or {}).get("content")
    if not told or len(told) != written:
        return None
    return tuple(float(token["logprob"]) for token in told)
