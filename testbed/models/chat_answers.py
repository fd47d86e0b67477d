"""What a server answers, put right before the client reads it: many speak the OpenAI protocol nearly.

Only what has one meaning is put right. What stays unreadable is an answer that was lost, see `testbed.models.chat`.
"""

from __future__ import annotations

import json
from typing import Any

from openai import DefaultAsyncHttpxClient

from testbed.models.chat_errors import note_answer

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
_INTERRUPTED = ("error", "abort", "insufficient_system_resource", "network_error")  # what the server gave up
_OF_THE_BODY = ("content-length", "content-encoding", "transfer-encoding")  # headers


class AnswerConnections(DefaultAsyncHttpxClient):
    """Connections whose answers are put right."""

    async def send(self, request: Any, **options: Any) -> Any:
        """Sends a request, see httpx."""
        answer = await super().send(request, **options)
        note_answer()
        return answer if options.get("stream") or answer.status_code != 200 else put_right(answer)


def put_right(answer: Any) -> Any:
    """The httpx response, or one in its place: with the status that an error in it tells, or mended."""
    try:
        told = json.loads(answer.content)
    except (ValueError, RecursionError):  # the client will say so
        return answer
    if not isinstance(told, dict):
        return answer
    status = _status_of(told)
    if status == 200 and not _mend(told):
        return answer
    headers = [(key, value) for key, value in answer.headers.multi_items() if key not in _OF_THE_BODY]
    return type(answer)(status, headers=headers, content=json.dumps(told).encode(), request=answer.request)


def _status_of(told: dict[str, Any]) -> int:
    """The status of an answer: gateways tell errors with 200, and the real one inside."""
    choices = told.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict):
        error = first.get("finish_reason") in _INTERRUPTED and (first.get("error") or _interrupted(first))
    else:
        error = told.get("error") or (told.get("object") == "error" and told)
    if not error:
        return 200
    if error is not told:
        told["error"] = error  # where clients look for what it says
    code = str(error.get("code") or error.get("status")) if isinstance(error, dict) else ""
    return int(code) if len(code) == 3 and code.isdecimal() and code[0] in "45" else 500


def _interrupted(choice: dict[str, Any]) -> dict[str, Any]:
    return {"message": f"the reply was interrupted: finish_reason = {choice['finish_reason']!r}"}


def _mend(told: dict[str, Any]) -> bool:
    """Mends a completion, and says whether there was anything to mend."""
    usage, choices = told.get("usage"), told.get("choices")
    mended = "usage" in told and not (isinstance(usage, dict) and all(_may_be_count(usage.get(n)) for n in _COUNTS))
    if mended:
        del told["usage"]
    elif isinstance(usage, dict):
        for details in [key for key in _DETAILS if not isinstance(usage.get(key), dict | None)]:
            del usage[details]
            mended = True
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if isinstance(message, dict):
            mended |= _mend_message(message)
    return mended


def _may_be_count(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _mend_message(message: dict[str, Any]) -> bool:
    mended = message.get("role") != "assistant"
    message["role"] = "assistant"
    older = message.get("function_call")
    if isinstance(older, dict) and not message.get("tool_calls"):  # as it was before there were several
        message["tool_calls"] = [{"id": "call", "type": "function", "function": older}]
        mended = True
    if isinstance(message.get("tool_calls"), dict) and message["tool_calls"]:  # one, without a list around it
        message["tool_calls"] = [message["tool_calls"]]
        mended = True
    calls = message.get("tool_calls")
    if (said := _said(message.get("content") or message.get("refusal"))) != message.get("content"):
        message["content"], mended = said, True
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and not isinstance(call.get("id"), str | None):
            call["id"], mended = str(call["id"]), True
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and (text := _as_text(function.get("arguments"))) != function.get("arguments"):
            function["arguments"], mended = text, True
    return mended


def _said(content: Any) -> Any:
    """A message's text, which some tell in parts; thoughts are none of it. What is no text at all stays as it is."""
    parts = content if isinstance(content, list) else [content] if isinstance(content, dict) else None
    if parts is None:
        return content
    texts: list[Any] = [part.get("text") if isinstance(part, dict) else part for part in parts if not _is_thought(part)]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else content


def _is_thought(part: Any) -> bool:
    return isinstance(part, dict) and str(part.get("type")) in ("thinking", "reasoning", "redacted_thinking")


def _as_text(arguments: Any) -> Any:
    """Arguments as the text of an object; what is JSON and no object is made unreadable, for it is the model's fault.

    langchain would take it for arguments and then fail over its own types.
    """
    if isinstance(arguments, dict):
        return json.dumps(arguments)
    if isinstance(arguments, str) and not arguments.strip():
        return "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return arguments
    return arguments if value is None or isinstance(value, dict) else f"{{{text}}}"
