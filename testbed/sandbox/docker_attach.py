"""The attach stream of a container: a connection of our own to the engine that the SDK talks to.

It is an HTTP request that the engine answers by handing the connection over.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

from testbed.errors import SandboxDied
from testbed.sandbox.docker_engine import ANSWER_SECONDS, Engine

_LONGEST_HEAD = 1 << 16


async def attach(engine: Engine, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The two ends of a container's stream: what it says, with the engine's headers, and what it is told.

    Raises:
        SandboxDied: the engine cannot be reached or does not hand over the stream.
    """
    request = (
        f"POST /v{engine.api.api_version}/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\n"
        "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    )
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await _connect(*engine.address)
            with contextlib.ExitStack() as undo:  # if cancelled too
                undo.callback(writer.transport.abort)
                writer.write(request.encode("ascii"))
                head = await reader.readuntil(b"\r\n\r\n")
                status = head.split(b"\r\n", 1)[0].decode("latin-1")
                if status.split()[1:2] not in (["101"], ["200"]):
                    raise SandboxDied(f"the docker engine does not hand over its stream: {status}")
                undo.pop_all()
    except (OSError, EOFError, asyncio.LimitOverrunError) as error:
        why = str(error) or f"no answer within {ANSWER_SECONDS:g} s"
        raise SandboxDied(f"the docker engine's stream cannot be opened: {why}") from error
    return reader, writer


async def _connect(address: str, tls: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of our own to the engine that the SDK talks to."""
    parts = urlsplit(address)
    if parts.scheme == "http+unix":
        return await asyncio.open_unix_connection(unquote(parts.netloc + parts.path), limit=_LONGEST_HEAD)
    if parts.scheme == "ssh":
        return await _connect_ssh(parts.hostname or "", parts.username, parts.port)
    context = _tls_context(tls) if parts.scheme == "https" else None
    port = parts.port or (2376 if context else 2375)
    return await asyncio.open_connection(parts.hostname, port, ssl=context, limit=_LONGEST_HEAD)


def _tls_context(settings: Any) -> ssl.SSLContext:
    """What the SDK's settings mean to the ssl module."""
    context = ssl.create_default_context(cafile=settings.ca_cert if settings.verify else None)
    if not settings.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if settings.cert:
        context.load_cert_chain(*settings.cert)
    return context


async def _connect_ssh(
    host: str, user: str | None, port: int | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As the docker client does it: its own program at the other end carries the bytes to the engine's socket."""
    words = ["ssh", *(("-l", user) if user else ()), *(("-p", str(port)) if port else ()), "--", host]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *words, "docker system dial-stdio", stdin=pipe, stdout=pipe, limit=_LONGEST_HEAD, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdout, process.stdin
