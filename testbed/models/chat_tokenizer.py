"""A server's tokenizer, as the user names it: conversations as text and as tokens, without asking the server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.errors import ModelError
from testbed.models.chat_echo import WRITTEN, Echo
from testbed.models.hf_text import REJECTIONS

UNREADABLE = ("\ufffd", "bytes:")  # how servers write tokens that are no whole characters


class StatedTokenizer:
    """A transformers tokenizer with a chat template.

    Args:
        name: a directory, or a name on the Hugging Face Hub.

    Raises:
        ModelError: it cannot be loaded, has no chat template, or does not say where its tokens stand in a text.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer

        self.name = name
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(Path(name).expanduser()))
        except Exception as error:  # the tokenizers library raises bare Exception for a malformed file
            said = " ".join(str(error).split())[:200].rstrip(".")
            raise ModelError(f"the tokenizer {name!r} cannot be loaded: {said}.") from error
        if not self._tokenizer.chat_template:
            raise ModelError(f"the tokenizer {name!r} has no chat template, so it cannot say how conversations look.")
        if not self._tokenizer.is_fast:
            raise ModelError(f"the tokenizer {name!r} has no tokenizer.json, so it cannot say where its tokens stand.")

    @property
    def bos(self) -> str:
        """The beginning-of-text token; "" where it has none."""
        return str(self._tokenizer.bos_token or "")

    def render(self, body: Mapping[str, Any], *, go_on: bool) -> str:
        """A conversation as text.

        Args:
            body: its `messages` and `tools` in OpenAI's form.
            go_on: whether to open the model's next message.

        Raises:
            ModelError: the chat template refuses it.
        """
        messages = [{**message, "content": message.get("content") or ""} for message in body["messages"]]
        for message in messages:
            if calls := message.get("tool_calls"):  # templates expect objects, as servers give them
                message["tool_calls"] = [_with_object(call) for call in calls]
        try:
            made = self._tokenizer.apply_chat_template(
                messages, tools=body.get("tools"), add_generation_prompt=go_on, tokenize=False
            )
        except REJECTIONS as error:
            raise ModelError(f"the chat template of {self.name} refuses this conversation: {error}.") from error
        return str(made)

    def encode(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """Token ids of `text`, and the places that they cover; those of one split character all cover it."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        covers, reached = [], 0
        for begin, end in encoded["offset_mapping"]:  # blanks before a word are left out of some
            covers.append((min(begin, reached), end))
            reached = max(reached, end)
        return tuple(encoded["input_ids"]), covers

    def matched(self, ids: Sequence[int], pieces: Sequence[str], told: Echo) -> list[float | None]:
        """Log-probabilities of the tokens `ids` as a server tells them.

        Args:
            ids: the tokens of a prompt.
            pieces: what they cover of it.
            told: what the server says of it.

        Returns:
            One for each; None where the server tells none.

        Raises:
            ModelError: the server read other tokens.
        """
        if told.count != len(ids):
            raise ModelError(
                f"the server read {told.count or 'an unknown number of'} tokens, where the tokenizer {self.name!r} has "
                f"{len(ids)}"
            )
        everything = range(len(ids))
        begun = [n for n in everything if not (self.bos and pieces[n] == self.bos)]  # llama-cpp-python tells no others
        fitting = [
            shown
            for shown in ([everything] if len(begun) == len(ids) else [everything, begun])
            if 0 <= len(told.tokens) - len(shown) <= WRITTEN
            and all(_fits(token, pieces[n]) for token, n in zip(told.tokens, shown, strict=False))
        ]
        if len(fitting) != 1:
            raise ModelError(f"the server read other tokens than the tokenizer {self.name!r} has")
        logprobs = dict(zip(fitting[0], told.logprobs, strict=False))
        return [logprobs.get(n) for n in everything]


def _fits(told: str, piece: str) -> bool:
    """Whether a token that the server tells can be the one that covers `piece`; some tell nothing of special ones."""
    return told.strip() in piece or any(sign in told for sign in UNREADABLE)


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
