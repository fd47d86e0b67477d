"""Transcripts as langchain messages and back, native tool calls included.

A transcript holds what any model is shown, calls in the text protocol. A native model gets them back as native calls;
the ids that tie results to calls are made up anew, always the same, because a transcript does not keep them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
)

from testbed import protocol
from testbed.types import Message, well_formed

# Where providers say why a reply ended, and what they call it that it is not whole.
_REASON = ("finish_reason", "stop_reason", "stopReason", "done_reason")
_CUT = {
    *("length", "max_tokens", "max_output_tokens", "incomplete"),
    *("content_filter", "content_filtered", "safety", "recitation", "refusal", "sensitive", "guardrail_intervened"),
    *("blocklist", "prohibited_content", "spii", "repetition"),
}
_FULL = {"model_length", "model_context_window_exceeded"}  # and that the model's context was
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # of a tool, as strict providers have it
_NO_NAME = "unreadable_call"  # providers refuse a call without a name


def to_langchain(
    messages: Sequence[Message], system: str, *, native: bool, offered: Collection[str] = ()
) -> list[BaseMessage]:
    """A conversation as the provider gets it.

    Args:
        messages: the transcript.
        system: system text; none where empty.
        native: calls as tool calls and results as tool messages; else both as text.
        offered: names of tools, which stay as they are; of others, strict providers refuse some.
    """
    made: list[BaseMessage] = [SystemMessage(system)] if system else []
    open_calls: Iterator[str] = iter(())
    for turn, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == "assistant" and native:
            said = _native(content, turn, offered)
            open_calls = iter([call["id"] or "" for call in said.tool_calls])
            made.append(said)
        elif role == "assistant":
            made.append(AIMessage(content))
        elif role == "tool":
            made.append(_result(content, _sendable_name(message.get("name", ""), offered), next(open_calls, None)))
        elif role == "system":
            made.append(SystemMessage(content))
        else:
            made.append(HumanMessage(content))
    return made


def system_text(described: Sequence[Mapping[str, Any]], system: str | None) -> str:
    """What stands before a conversation.

    Args:
        described: schemas of tools that are described in words.
        system: text in place of the instruction to answer in tags.
    """
    answer = protocol.ANSWER_INSTRUCTION if system is None else system
    return protocol.instructions(described).removesuffix(protocol.ANSWER_INSTRUCTION) + answer


def in_openais_form(messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`messages` and, where there are any, `tools` as /v1/chat/completions takes them."""
    body: dict[str, Any] = {"messages": convert_to_openai_messages(messages)}
    return {**body, "tools": [dict(tool) for tool in tools]} if tools else body


def encode_reply(message: AIMessage, *, native: bool, cut: bool) -> str:
    """A reply in the text protocol. Without native calls the text is taken as it is: its tags are the model's own.

    Args:
        message: what the provider returned.
        native: whether calls were asked for natively.
        cut: whether the reply ended at its length limit.
    """
    text = well_formed(str(message.text))  # half a character cannot be sent back
    calls: list[Mapping[str, Any]] = [dict(call) for call in message.tool_calls]
    invalid: list[Mapping[str, Any]] = [dict(call) for call in message.invalid_tool_calls]
    if not (cut or (native and (calls or invalid))):
        text = _closed(text)
    return protocol.encode_native(text, calls, invalid) if native else text


def finish_of(message: AIMessage) -> str:
    """Whether a reply was cut.

    "context" where the model's context was full, "length" where it was cut at its limit or by the provider's filter,
    else "stop".
    """
    reason = str(next(filter(None, map(message.response_metadata.get, _REASON)), None)).lower()
    return "context" if reason in _FULL else "length" if reason in _CUT else "stop"


def _native(content: str, turn: int, offered: Collection[str]) -> AIMessage:
    """An assistant's text with its calls taken out of the tags."""
    calls = protocol.parse(content).calls
    if not calls:
        return AIMessage(content)
    return AIMessage(
        content[: content.index(protocol.CALL_OPEN)],
        tool_calls=[
            {
                "name": _sendable_name(call.name, offered),
                "args": _sendable(call.arguments),
                "id": f"call_{turn}_{n}",
            }
            for n, call in enumerate(calls)
        ],
    )


def _sendable_name(name: str, offered: Collection[str]) -> str:
    """A called tool's name. One that is not offered may be anything, and the call is told all the same."""
    if name in offered or _NAME.fullmatch(name):
        return name
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or _NO_NAME


def _sendable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without halves of characters, which a model can write as JSON escapes and no request can hold."""
    made: dict[str, Any] = json.loads(well_formed(json.dumps(dict(arguments), ensure_ascii=False)))
    return made


def _result(content: str, name: str, call_id: str | None) -> BaseMessage:
    if call_id is None:
        return HumanMessage(f"<tool_result>{content}</tool_result>")
    return ToolMessage(content, tool_call_id=call_id, name=name)


def _closed(text: str) -> str:
    """`text` with the closing tag that servers cut off where they stop at it, or where it is the model's end token."""
    pairs = ((protocol.CALL_OPEN, protocol.CALL_CLOSE), (protocol.ANSWER_OPEN, protocol.ANSWER_CLOSE))
    for opening, closing in pairs:
        if text.rfind(opening) > text.rfind(closing):
            return text + closing
    return text
