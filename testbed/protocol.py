"""The one parser between what a model writes and what the testbed does.

A model's message is read for two tags: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>`` and
``<answer>…</answer>``. The first complete tag decides what the message is: an answer ends the reading; calls are
collected up to the first answer, which is then ignored, since it was written before the results were seen. Models with
native tool calls go through `encode_native`, which writes their calls in the same tags (also calls that are not valid)
and escapes tags that stand in their prose, so that every model is read and metered alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.errors import FaultKind
from testbed.types import ToolCall

VERSION = "1"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
STOP_STRINGS = (CALL_CLOSE, ANSWER_CLOSE)

ANSWER_INSTRUCTION = f"Give your final answer as {ANSWER_OPEN}…{ANSWER_CLOSE}, with nothing but the answer inside."
NO_ACTION = f"No answer and no tool call found. Reply with {ANSWER_OPEN}…{ANSWER_CLOSE}."

_TAG = re.compile(r"<tool_call>|<answer>")
_MARKUP = re.compile(r"<(?=/?(?:tool_call|answer|tool_result)>)")


@dataclass(frozen=True, slots=True)
class Action:
    """What one message of the model does.

    Attributes:
        answer: the submitted answer, stripped, or None.
        calls: the calls to run, in order; empty when there is an answer.

    A message that neither answers nor calls has no answer and no calls.
    """

    answer: str | None = None
    calls: tuple[ToolCall, ...] = ()


def parse(text: str) -> Action:
    """Reads one message of the model.

    Never raises: a call that cannot be read becomes a `ToolCall` whose `fault` says why.
    """
    calls: list[ToolCall] = []
    at = 0
    while (tag := _TAG.search(text, at)) is not None:
        close = CALL_CLOSE if tag.group() == CALL_OPEN else ANSWER_CLOSE
        end = text.find(close, tag.end())
        body = text[tag.end() : end] if end >= 0 else text[tag.end() :]
        if tag.group() == ANSWER_OPEN:
            if calls:
                break
            if end >= 0:
                return Action(answer=body.strip())
            at = tag.end()  # an unclosed answer is not an answer: it may have been cut short
            continue
        if end < 0 and not _closes_as_json(body):
            calls.append(_unreadable(f"{CALL_OPEN} without {CALL_CLOSE}"))
            break
        calls.append(parse_call(body))
        at = end + len(close) if end >= 0 else len(text)
    return Action(calls=tuple(calls))


def parse_call(body: str) -> ToolCall:
    """Reads the JSON between the call tags."""
    try:
        value = json.loads(body)
    except (json.JSONDecodeError, RecursionError) as error:
        return _unreadable(f"the call is not valid JSON ({_short(error)})")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return _unreadable('the call must be an object {"name": …, "arguments": {…}}')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return ToolCall(value["name"], {}, FaultKind.INVALID_ARGS, '"arguments" must be an object')
    return ToolCall(value["name"], arguments)


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as text. ``<`` inside is JSON-escaped, so that no argument can close the tag; `parse` gives it back."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, separators=(",", ":"))
    return CALL_OPEN + body.replace("<", "\\u003c") + CALL_CLOSE


def write_answer(answer: str) -> str:
    """An answer as text."""
    return f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"


def escape(text: str) -> str:
    """Takes the force from protocol tags in prose, leaving everything else as it is."""
    return _MARKUP.sub("&lt;", text)


def encode_native(content: str, calls: Iterable[Mapping[str, Any]], invalid: Iterable[Mapping[str, Any]] = ()) -> str:
    """Writes a native message (langchain's `tool_calls` and `invalid_tool_calls`) in the text protocol.

    Args:
        content: the message's prose. Its answer tags count as an answer only when there are no calls; call tags never
            do.
        calls: mappings with "name" and "args".
        invalid: mappings with "name", "args" (unparsed text) and "error"; they become calls that `parse` reads as
            faults.
    """
    written = [write_call(str(call["name"]), call.get("args") or {}) for call in calls]
    written += [CALL_OPEN + str(call.get("args") or "").replace("<", "\\u003c") + CALL_CLOSE for call in invalid]
    prose = re.sub(r"<(?=/?(?:tool_call|tool_result)>)", "&lt;", content) if not written else escape(content)
    return prose + "".join(written)


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """The system text of the text protocol: how to answer and, where tools are offered, how to call them.

    Args:
        tools: function schemas as in `Toolbox.schemas`.
    """
    if not tools:
        return ANSWER_INSTRUCTION
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You may call these tools, one JSON schema a line:\n{listed}\n"
        f'To call one, write {CALL_OPEN}{{"name": …, "arguments": {{…}}}}{CALL_CLOSE} and stop; '
        f"the result comes in the next message.\n{ANSWER_INSTRUCTION}"
    )


def _closes_as_json(body: str) -> bool:
    """A stop string is often dropped from what a server returns: the call is complete if its JSON is."""
    try:
        json.loads(body)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _unreadable(message: str) -> ToolCall:
    return ToolCall("", {}, FaultKind.PARSE_ERROR, message)


def _short(error: BaseException) -> str:
    return str(error)[:120]
