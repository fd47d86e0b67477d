"""A proxy in front of a server that speaks the OpenAI protocol: spoils answers on demand, limits who gets through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

Response = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class Refusal:
    """An answer of the proxy's own, with which a request never reaches the server."""

    status: int = 429
    headers: tuple[tuple[str, str], ...] = ()
    message: str = "slow down"

    def response(self) -> Response:
        return self.status, dict(self.headers), json.dumps({"error": {"message": self.message}}).encode()


HANG, CUT, MALFORMED, WRONG_ARGUMENTS = "hang", "cut", "malformed", "wrong arguments"


@dataclass
class Proxy:
    """Used as `async with Proxy(url) as proxy`, in the event loop of the test.

    Args:
        upstream: the server's base URL, with /v1.
        faults: what happens to the requests, one after another: a `Refusal`, one of the words above, or None; after the
            last, nothing.
        places: requests that are let through at one time; others get `refusal`.
        refusal: what they get.
        unlisted: what whoever asks for the list of models gets in its place.

    Attributes:
        bodies: of all requests but for that list, in order.
        asked: how often the list was asked for.
        refused: how many were refused for want of a place.
    """

    upstream: str
    faults: Iterable[Refusal | str | None] = ()
    places: int = 10**9
    refusal: Refusal = field(default_factory=Refusal)
    unlisted: Refusal | None = None
    asked: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    _under_way: int = 0

    async def __aenter__(self) -> Self:
        self.faults = iter(self.faults)
        # A server that failed closes the connection: one of its own for each request.
        self._client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        await self._client.aclose()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split()
            if method == "GET":
                self.asked += 1
                await self._send(writer, self.unlisted.response() if self.unlisted else await self._list(path))
            else:
                length = next(int(h.split(":")[1]) for h in head if h.lower().startswith("content-l"))
                await self._take(reader, writer, path, await reader.readexactly(length))
        writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes) -> None:
        self.bodies.append(json.loads(body))
        fault = next(iter(self.faults), None)  # type: ignore[call-overload]
        if fault == HANG:
            await reader.read()  # until the client goes away
        else:
            await self._answer(writer, path.removeprefix("/v1"), body, fault)

    async def _answer(self, writer: asyncio.StreamWriter, path: str, body: bytes, fault: Any) -> None:
        if isinstance(fault, Refusal):
            status, headers, content = fault.response()
        elif self._under_way >= self.places:
            self.refused += 1
            status, headers, content = self.refusal.response()
        else:
            status, headers, content = await self._forwarded(path, body)
        length = len(content)
        if fault == CUT:
            content = content[: length // 2]
        elif fault == MALFORMED:
            content = b'{"choices": ['.ljust(length)
        elif fault == WRONG_ARGUMENTS:
            content = _with_wrong_arguments(content)
            length = len(content)
        await self._send(writer, (status, headers, content), length)

    async def _send(self, writer: asyncio.StreamWriter, response: Response, length: int | None = None) -> None:
        status, headers, content = response
        length = len(content) if length is None else length
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers.items())]
        lines += ["content-type: application/json", f"content-length: {length}", "connection: close", "", ""]
        writer.write("\r\n".join(lines).encode() + content)
        await writer.drain()

    async def _list(self, path: str) -> Response:
        answer = await self._client.get(self.upstream + path.removeprefix("/v1"))
        return answer.status_code, {}, answer.content

    async def _forwarded(self, path: str, body: bytes) -> Response:
        self._under_way += 1
        try:
            answer = await self._client.post(
                self.upstream + path, content=body, headers={"content-type": "application/json"}
            )
        finally:
            self._under_way -= 1
        return answer.status_code, {}, answer.content


def _with_wrong_arguments(content: bytes) -> bytes:
    answer = json.loads(content)
    for call in answer["choices"][0]["message"]["tool_calls"]:
        call["function"]["arguments"] = '{"code": 7'
    return json.dumps(answer).encode()
