"""A server that gives answers which are written beforehand, byte for byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from testbed.models.chat import Chat

USED = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def answer(message: Any = None, usage: Any = USED, finish: Any = "stop", **choice: Any) -> dict[str, Any]:
    """A chat completion; by default it says "4"."""
    said = {"role": "assistant", "content": "<answer>4</answer>"} if message is None else message
    choices = [{"index": 0, "message": said, "finish_reason": finish, **choice}]
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "x", "choices": choices, "usage": usage}


def called(arguments: Any, name: Any = "lookup") -> dict[str, Any]:
    """A message that calls a tool."""
    call = {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@asynccontextmanager
async def served(
    *answers: Any, status: int = 200, kind: str = "application/json", headers: str = "", **options: Any
) -> AsyncIterator[Chat]:
    """A model of a server that gives these answers one after the other, the last one for ever.

    Args:
        answers: each as bytes, text or JSON, or as a function of the request that returns one with its status.
        status: of the answers that are no functions.
        kind: what they are said to be.
        headers: further ones, each with its line's end.
        options: of the model.
    """
    left = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), b":0")
        asked = await reader.readexactly(int(length.partition(b":")[2]))
        told, said = left.pop(0) if len(left) > 1 else left[0], status
        if isinstance(told, Callable):  # type: ignore[arg-type]
            said, told = told(json.loads(asked))
        body = told if isinstance(told, bytes) else (told if isinstance(told, str) else json.dumps(told)).encode()
        begun = f"HTTP/1.1 {said} x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        writer.write(begun.encode() + body)
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        model = Chat("openai:x", base_url=url, **{"patience": 1e-3, **options})
        try:
            yield model
        finally:
            await model.aclose()
