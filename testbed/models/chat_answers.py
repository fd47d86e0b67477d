"""What a server answers, put right before the client reads it: many speak the OpenAI protocol nearly.

Only what has one meaning is put right. What stays unreadable is an answer that was lost, see `testbed.models.chat`.
"""

from __future__ import annotations

import json
from typing import Any

from openai import DefaultAsyncHttpxClient

from testbed.models.chat_errors import note_answer

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
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
        error = first.get("finish_reason") == "error" and (first.get("error") or True)
    else:
        error = told.get("error") or (told.get("object") == "error" and told)
    if not error:
        return 200
    code = str(error.get("code") or error.get("status")) if isinstance(error, dict) else ""
    return int(code) if len(code) == 3 and code.isdecimal() and code[0] in "45" else 500


def _mend(told: dict[str, Any]) -> bool:
    """Mends a completion, and says whether there was anything to mend."""
    usage, choices = told.get("usage"), told.get("choices")
    mended = "usage" in told and not (isinstance(usage, dict) and all(_may_be_count(usage.get(n)) for n in _COUNTS))
    if mended:
        del told["usage"]
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
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and (text := _as_text(function.get("arguments"))) != function.get("arguments"):
            function["arguments"], mended = text, True
    return mended


def _as_text(arguments: Any) -> Any:
    """Arguments as the text of an object; what is JSON and no object is made unreadable, for it is the model's fault.

    langchain would take it for arguments and then fail over its own types.
    """
    if isinstance(arguments, dict):
        return json.dumps(arguments)
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return arguments
    return arguments if value is None or isinstance(value, dict) else f"{{{text}}}"
