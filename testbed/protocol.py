"""The one parser between what a model writes and what the testbed does.

A model's message is read for two tags: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>`` and
``<answer>…</answer>``. The first complete tag decides what the message is: an answer ends the reading; calls are
collected up to the first answer, which is then ignored, since it was written before the results were seen. An answer
begins at the last ``<answer>`` before its end, so that prose may mention the tag; a call that is never closed takes the
rest of the message with it. JSON is read strictly: NaN, infinite and overlong numbers are refused, since nothing that
must be identified by content can hold them. Reading takes time linear in the message.

Models with native tool calls go through `encode_native`, which writes their calls in the same tags (also calls that are
not valid) and escapes tags that stand in their prose, so that every model is read and metered alike.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.errors import FaultKind
from testbed.types import ToolCall, well_formed

VERSION = "1"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
STOP_STRINGS = (CALL_CLOSE, ANSWER_CLOSE)

ANSWER_INSTRUCTION = f"Give your final answer as {ANSWER_OPEN}…{ANSWER_CLOSE}, with nothing but the answer inside."
NO_ACTION = f"No answer and no tool call found. Reply with {ANSWER_OPEN}…{ANSWER_CLOSE}."
TOOLS_SPENT = "The tool budget is spent: answer now."

_TAG = re.compile(r"<tool_call>|<answer>")
_MARKUP = re.compile(r"<(?=/?(?:tool_call|answer|tool_result)>)")
_ESCAPED = re.compile(r"&lt;(?=/?(?:tool_call|answer|tool_result)>)")
_CALL_MARKUP = re.compile(r"<(?=/?(?:tool_call|tool_result)>)")


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

    @property
    def does_something(self) -> bool:
        """Whether it answers, or makes a call that can be read."""
        return self.answer is not None or any(call.fault is None for call in self.calls)


def parse(text: str) -> Action:
    """Reads one message of the model.

    Never raises: a call that cannot be read becomes a `ToolCall` whose `fault` says why.
    """
    calls: list[ToolCall] = []
    at, answer_ends = 0, text.rfind(ANSWER_CLOSE)
    while (tag := _TAG.search(text, at)) is not None:
        at = tag.end()
        if tag.group() == ANSWER_OPEN:
            if calls:
                break
            if at <= answer_ends:
                end = text.find(ANSWER_CLOSE, at)
                nested = text.rfind(ANSWER_OPEN, at, end)
                return Action(answer=text[at if nested < 0 else nested + len(ANSWER_OPEN) : end].strip())
            continue  # an unclosed answer is not an answer: it may have been cut short
        end = text.find(CALL_CLOSE, at)
        if end < 0:
            calls.append(_unclosed(text[at:]))
            break
        calls.append(parse_call(text[at:end]))
        at = end + len(CALL_CLOSE)
    return Action(calls=tuple(calls))


def parse_call(body: str) -> ToolCall:
    """Reads the JSON between the call tags."""
    try:
        value = _JSON.decode(body)
    except (ValueError, RecursionError) as error:  # ValueError: also numbers that are no JSON, or have too many digits
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
    if not body.isascii() and well_formed(body) != body:  # lone surrogates survive only as escapes
        body = json.dumps({"name": name, "arguments": arguments}, separators=(",", ":"))
    return CALL_OPEN + body.replace("<", "\\u003c") + CALL_CLOSE


def write_answer(answer: str) -> str:
    """An answer as text."""
    return f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"


def escape(text: str) -> str:
    """Takes the force from protocol tags in prose, leaving everything else as it is."""
    return _MARKUP.sub("&lt;", text)


def unescape(text: str) -> str:
    """What a message was before `escape`, but for tags that were written with ``&lt;`` at first."""
    return _ESCAPED.sub("<", text)


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
    written += [_write_invalid(str(call.get("name") or ""), str(call.get("args") or "")) for call in invalid]
    prose = escape(content) if written else _CALL_MARKUP.sub("&lt;", content)
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


def _unclosed(body: str) -> ToolCall:
    """A stop string is often dropped from what a server returns: the call is complete if its JSON is."""
    call = parse_call(body)
    return call if call.fault is not FaultKind.PARSE_ERROR else _unreadable(f"{CALL_OPEN} without {CALL_CLOSE}")


def _write_invalid(name: str, raw: str) -> str:
    """A native call whose arguments could not be read, so written that `parse` cannot read them either."""
    body = _enclose(name, raw)
    if parse_call(body).fault is None:  # it is valid after all, or breaks out of its place: keep it as mere text
        body = _enclose(name, json.dumps(raw))
    return CALL_OPEN + body + CALL_CLOSE


def _enclose(name: str, arguments: str) -> str:
    return f'{{"name":{json.dumps(name)},"arguments":{arguments}}}'.replace("<", "\\u003c")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")


_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)


def _unreadable(message: str) -> ToolCall:
    return ToolCall("", {}, FaultKind.PARSE_ERROR, message)


def _short(error: BaseException) -> str:
    return str(error)[:120]
