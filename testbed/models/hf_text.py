"""Between conversations and a local model's token ids: rendering, counting, decoding, and where a message stops."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from testbed import protocol
from testbed.errors import ModelError
from testbed.models.hf_known import KnownPrompts
from testbed.types import Message

# What the model says, not how it was trained to say it: kept in a reply even where the tokenizer has them as special.
MARKUP = (
    protocol.CALL_OPEN,
    protocol.CALL_CLOSE,
    protocol.ANSWER_OPEN,
    protocol.ANSWER_CLOSE,
    "<tool_result>",
    "</tool_result>",
)
PLAIN_TURNS = {"system": "{}\n\n", "user": "User: {}\n\n", "assistant": "Assistant: {}\n\n", "tool": "Tool: {}\n\n"}
_SENTINEL = "zq7sentinel"
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": _SENTINEL,
        "description": "probe",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
# What a template raises for a conversation it does not take: its own refusals, operations on missing values, and sums.
REJECTIONS = (TemplateError, TypeError, ValueError, KeyError, ArithmeticError)
_TAIL = 16  # no stop string is longer in tokens: each token adds at least a byte


@dataclass(frozen=True)
class Rendering:
    """How conversations are written for one model, found out by rendering sentinels.

    Attributes:
        tools: "template" where the chat template has a section for tools and calls are written as in the text protocol,
            else "protocol": tools are described in the system text.
        system: "system" where the template takes a system message, else "user": the text opens the first user message.
        results: "tool" where the template takes tool messages, else "user": results are given as tagged user messages.
        turns: "template", or "plain" for a tokenizer without a chat template: "User: …", "Assistant: …".
    """

    tools: str
    system: str
    results: str
    turns: str = "template"


class TextCodec:
    """One tokenizer's way with conversations.

    Args:
        tokenizer: a transformers tokenizer.
        stop_ids: tokens that end a message, besides those that are the protocol's closing tags.
        system: the system text instead of the instruction to answer in tags; "" for none.
        name: the model's name, for messages.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int], system: str | None, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name
        self._system = protocol.ANSWER_INSTRUCTION if system is None else system
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._fast = backend if hasattr(backend, "encode") else None
        single = {tag: ids[0] for tag in MARKUP if len(ids := self.encode(tag)) == 1}
        # Many tokenizers mark their turn markers as special only where they are added, and do not list them as special.
        marked = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._hidden = (marked | set(tokenizer.all_special_ids)) - set(single.values())
        self.stop_ids = frozenset(stop_ids) | {single[s] for s in protocol.STOP_STRINGS if s in single}
        self.end_ids = frozenset(stop_ids) & self._hidden  # those that are no part of what was said
        self._open_stops = tuple(s for s in protocol.STOP_STRINGS if s not in single)
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) if self._open_stops else []
        # Only a token with ">" in it can complete a closing tag: all others are spared the decoding.
        self._closing = frozenset(i for i, piece in enumerate(pieces) if piece and ">" in piece)
        self.rendering = self._probe()
        self._known = KnownPrompts(self._encode_prompt)

    # -- tokens ------------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`; with the tokenizer's own beginning where `special`."""
        if self._fast is not None:
            return list(self._fast.encode(text, add_special_tokens=special).ids)
        return list(self._tokenizer.encode(text, add_special_tokens=special))

    def count(self, text: str) -> int:
        """Tokens of `text`, none added."""
        if self._fast is not None:
            return len(self._fast.encode(text, add_special_tokens=False))
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """What the model said: without markers of turns, with the protocol's tags, up to the tag that ended it."""
        text = self.text(tokens)
        ends = [at + len(stop) for stop in self._open_stops if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def stops(self, tokens: Sequence[int]) -> bool:
        """Whether the last token ends the message."""
        last = tokens[-1]
        if last in self.stop_ids:
            return True
        if last not in self._closing:
            return False
        tail = self.text(tokens[-_TAIL:])
        return any(stop in tail for stop in self._open_stops)

    def spell(self, tokens: Sequence[int]) -> str:
        """Every token as text, markers of turns included."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def text(self, tokens: Sequence[int]) -> str:
        """What the tokens say, without markers of turns."""
        shown = [token for token in tokens if token not in self._hidden]
        return str(self._tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # -- conversations -----------------------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Token ids of a conversation up to where the model goes on.

        Raises:
            ModelError: the chat template refuses the conversation.
        """
        turns = tuple((message["role"], message["content"]) for message in messages)
        return self._known.of(turns, json.dumps(list(tools)) if tools else "")

    def spans(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], which: Sequence[int]
    ) -> tuple[tuple[int, ...], list[list[int]]]:
        """Token ids of a conversation to its end, and the places of those that hold some messages' contents.

        A token that holds the end of the markup as well as the beginning of a message counts as the message's. Blanks
        that the template takes off a message count as nobody's.

        Args:
            messages: the conversation.
            tools: function schemas of the offered tools.
            which: indices of messages.

        Raises:
            ModelError: the template refuses the conversation or does not show it word for word, or the tokenizer does
                not say where its tokens begin and end.
        """
        _, places, tokens, offsets = self.located(messages, tools)
        spans = []
        for n in which:
            first, last = places[n] or (0, 0)
            if places[n] is None:
                raise ModelError(
                    f"the chat template of {self._name} does not show message {n} word for word: it cannot be told "
                    "which tokens are its own."
                )
            spans.append([i for i, (begin, end) in enumerate(offsets) if begin < last and end > first])
        return tokens, spans

    def located(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, Sequence[tuple[int, int] | None], tuple[int, ...], Sequence[tuple[int, int]]]:
        """A conversation to its end, where each message's content stands in it, its tokens, and where these stand.

        Raises:
            ModelError: as `spans`, but for messages that are not shown word for word: their place is None.
        """
        if self._fast is None:
            raise ModelError(f"{self._name}: its tokenizer does not say where its tokens begin and end.")
        turns = [(message["role"], message["content"]) for message in messages]
        try:
            text, places = self._places(turns, tools)
        except REJECTIONS as error:
            raise self._refused(error) from error
        encoded = self._fast.encode(text, add_special_tokens=self.rendering.turns == "plain")
        return text, places, tuple(encoded.ids), encoded.offsets

    def _places(
        self, turns: Sequence[tuple[str, str]], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, list[tuple[int, int] | None]]:
        """A conversation to its end, and where in it each message's content stands; None where that cannot be said.

        Marks are put in front of the words: templates that look at a message mostly look at its end, and take blanks
        off it.
        """
        text = self.render(turns, tools, go_on=False)
        blanks = [len(content) - len(content.lstrip()) for _, content in turns]
        marks = [f"{_SENTINEL}{n}mark" for n in range(len(turns))]
        marked = self.render(
            [
                (role, content[:blank] + mark + content[blank:])
                for (role, content), blank, mark in zip(turns, blanks, marks, strict=True)
            ],
            tools,
            go_on=False,
        )
        places: list[tuple[int, int] | None] = []
        before = ""
        for mark, blank, (_, content) in zip(marks, blanks, turns, strict=True):
            piece, _, marked = marked.partition(mark)
            before += piece
            at = len(before)
            whole, words = (at - blank, at - blank + len(content)), (at, at + len(content.strip()))
            shown = [place for place in (whole, words) if text[slice(*place)] in (content, content.strip())]
            places.append(shown[0] if shown else None)
        return text, places if before + marked == text else [None] * len(turns)

    def _refused(self, error: Exception) -> ModelError:
        told = str(error).rstrip(".")
        if isinstance(error, TemplateSyntaxError):  # no conversation is to blame
            return ModelError(f"the chat template of {self._name} cannot be read, in its line {error.lineno}: {told}.")
        return ModelError(f"the chat template of {self._name} refuses this conversation: {told}.")

    def _encode_prompt(self, turns: tuple[tuple[str, str], ...], tools: str) -> tuple[int, ...]:
        try:
            text = self.render(turns, json.loads(tools) if tools else [])
        except REJECTIONS as error:
            raise self._refused(error) from error
        return tuple(self.encode(text, special=self.rendering.turns == "plain"))

    def render(
        self, turns: Sequence[tuple[str, str]], tools: Sequence[Mapping[str, Any]], *, go_on: bool = True
    ) -> str:
        """A conversation as the model reads it, up to where it goes on, or to its end only."""
        how = self.rendering
        native = tools if how.tools == "template" else []
        described = [] if how.tools == "template" else tools
        system = protocol.instructions(described).removesuffix(protocol.ANSWER_INSTRUCTION) if described else ""
        return self._write(_arrange(turns, (system + self._system).strip(), how), native, go_on=go_on)

    def _write(
        self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]], *, go_on: bool = True
    ) -> str:
        if not self._tokenizer.chat_template:
            text = "".join(PLAIN_TURNS[m["role"]].format(m["content"]) for m in messages)
            return text + "Assistant:" if go_on else text
        made = self._tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=go_on, tokenize=False
        )
        return str(made)

    # -- what the template can do ------------------------------------------------------------------------------------

    def _probe(self) -> Rendering:
        if not self._tokenizer.chat_template:
            return Rendering(tools="protocol", system="system", results="tool", turns="plain")
        user, said = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        offered = self._shows([user], [_PROBE_TOOL]) and self._writes_our_calls()
        system = self._shows([{"role": "system", "content": _SENTINEL}, user], [])
        results = self._shows([user, said, {"role": "tool", "content": _SENTINEL}], [])
        return Rendering(
            tools="template" if offered else "protocol",
            system="system" if system else "user",
            results="tool" if results else "user",
        )

    def _shows(self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]]) -> bool:
        try:
            return _SENTINEL in self._write(messages, tools)
        except REJECTIONS:
            return False

    def _writes_our_calls(self) -> bool:
        """Whether calls would be read: some templates teach another way of calling, as bare JSON or after a marker."""
        template = json.dumps(self._tokenizer.chat_template)
        return protocol.CALL_OPEN in template or protocol.CALL_CLOSE in template


def _arrange(turns: Sequence[tuple[str, str]], system: str, how: Rendering) -> list[dict[str, str]]:
    """The messages in the roles that the template takes."""
    messages = [{"role": role, "content": content} for role, content in turns]
    if how.results == "user":
        for message in messages:
            if message["role"] == "tool":
                message.update(role="user", content=f"<tool_result>{message['content']}</tool_result>")
        messages = _merged(messages)
    if not system:
        return messages
    if how.system == "system":
        return [{"role": "system", "content": system}, *messages]
    return _merged([{"role": "user", "content": system + "\n"}, *messages])


def _merged(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Neighbouring user messages as one: templates that know no tools mostly insist that roles alternate."""
    merged: list[dict[str, str]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"] == "user":
            merged[-1] = {"role": "user", "content": f"{merged[-1]['content']}\n{message['content']}"}
        else:
            merged.append(message)
    return merged
