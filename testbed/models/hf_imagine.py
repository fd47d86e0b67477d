"""A tool's result in the model's own words: the chat template's markup for results, opened and left to the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed import protocol
from testbed.errors import ModelError
from testbed.models.hf_text import REJECTIONS, TextCodec
from testbed.types import Message

_SENTINEL = "zq7result"
_PIECE = re.compile(r"<[^<>\s]+>|\S+")  # a tag, or a word
# Tokens that are looked at for the closing piece: it has no more characters, and each token has at least one.
_TAIL = 24


@dataclass(frozen=True)
class Opened:
    """A conversation whose last tool message is open.

    Attributes:
        prompt: token ids up to where the result's text begins.
        closing: what the template writes after a result, its first piece: "</tool_result>", "<|im_end|>".
        lead: blanks that the template writes before a result, left off where the tokenizer joins them to words.
        trail: blanks that it writes before `closing`.
    """

    prompt: tuple[int, ...]
    closing: str
    lead: str
    trail: str


def open_result(codec: TextCodec, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Opened:
    """The conversation up to where a tool would speak.

    Raises:
        ModelError: the template refuses a tool's result, does not show it, or writes nothing after it that could close
            it.
    """
    turns = [(message["role"], message["content"]) for message in messages]
    try:
        whole = codec.render([*turns, ("tool", _SENTINEL)], tools)
    except REJECTIONS as error:
        raise ModelError(
            f"control = 'imagined': the model's chat template refuses a tool's result: {error}."
        ) from error
    before, mark, after = whole.rpartition(_SENTINEL)
    piece = _PIECE.match(after.lstrip())
    if not mark or piece is None or len(piece.group()) > _TAIL:
        raise ModelError("control = 'imagined': the model's chat template has no markup that closes a tool's result.")
    begun = before.rstrip(" ")
    return Opened(
        prompt=tuple(codec.encode(begun, special=codec.rendering.turns == "plain")),
        closing=piece.group(),
        lead=before[len(begun) :],
        trail=after[: len(after) - len(after.lstrip())],
    )


def closings(
    codec: TextCodec, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], which: Sequence[int]
) -> list[list[int]]:
    """Places of the tokens of a conversation that close some results: whoever writes these writes them as well.

    Empty where the template writes nothing behind a result.

    Raises:
        ModelError: as `TextCodec.located`.
    """
    text, places, _, offsets = codec.located(messages, tools)
    found = []
    for n in which:
        last = (places[n] or (0, 0))[1]
        end = closed_at(text, last)
        found.append([i for i, (begin, _) in enumerate(offsets) if last <= begin < end])
    return found


def closed_at(text: str, last: int) -> int:
    """Where the markup ends that closes a result which ends at `last`; `last` where nothing stands behind it."""
    after = text[last:].lstrip()
    piece = _PIECE.match(after)
    return len(text) - len(after) + len(piece.group()) if piece else last


def closes(codec: TextCodec, opened: Opened, tokens: Sequence[int]) -> bool:
    """Whether the last of the tokens that the model wrote closes the result, or ends its text for good."""
    last = codec.spell(tokens[-1:])
    if tokens[-1] in codec.stop_ids and last not in protocol.STOP_STRINGS:  # which mean nothing in what a tool says
        return True
    return opened.closing[-1] in last and opened.closing in codec.spell(tokens[-_TAIL:])


def result_of(codec: TextCodec, opened: Opened, tokens: Sequence[int]) -> str:
    """The text of the result that the model wrote, without what closes it.

    As in its messages, markers of turns are left out: read again, they would begin turns inside of the result.
    """
    if tokens and tokens[-1] in codec.stop_ids and codec.spell(tokens[-1:]) not in protocol.STOP_STRINGS:
        tokens = tokens[:-1]
    text = codec.text(tokens).partition(opened.closing)[0]
    return text.removeprefix(opened.lead).removesuffix(opened.trail)
