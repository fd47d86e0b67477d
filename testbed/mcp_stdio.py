"""An MCP server as a child process that speaks over its stdin and stdout.

The mcp package's own transport copies all that it has read of a line for every 64 KiB more (100 s for 50 MB), and the
adapter does not say where the server's stderr goes. All that a session needs of a transport is two streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

    Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]

CHUNK = 2**20  # bytes read at one time
GRACE = 2.0  # seconds a server has to end after its stdin was closed, and again after SIGTERM


@asynccontextmanager
async def started(command: Sequence[str], env: Mapping[str, str], cwd: str, errors: TextIO) -> AsyncIterator[Streams]:
    """A server's streams; at the end it and what it started are ended, by force if need be.

    Args:
        command: the program and its arguments.
        env: variables besides the few that every server gets, such as HOME and PATH.
        cwd: its working directory.
        errors: where its stderr goes.

    Raises:
        OSError: there is no such program.
    """
    import anyio
    from mcp.client.stdio import get_default_environment

    # A session, and so a process group, of its own: what the server starts is ended with it.
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=errors,
        env={**get_default_environment(), **env},
        cwd=cwd,
        start_new_session=True,
        limit=CHUNK,
    )
    to_session: Any
    from_session: Any
    to_session, read = anyio.create_memory_object_stream(0)
    write, from_session = anyio.create_memory_object_stream(0)
    try:
        async with to_session, read, write, from_session, anyio.create_task_group() as group:
            group.start_soon(_receive, process, to_session)
            group.start_soon(_send, process, from_session)
            try:
                yield read, write
            finally:
                group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _receive(process: Process, to_session: Any) -> None:
    from mcp.shared.message import SessionMessage
    from mcp.types import JSONRPCMessage
    from pydantic import ValidationError

    async with to_session:  # its end tells the session that the server has gone
        async for line in _lines(process):
            with contextlib.suppress(ValidationError):  # whatever else a server prints is not for us
                await to_session.send(SessionMessage(JSONRPCMessage.model_validate_json(line)))


async def _lines(process: Process) -> AsyncIterator[bytes]:
    assert process.stdout is not None
    parts: list[bytes] = []
    while chunk := await process.stdout.read(CHUNK):
        first, *others = chunk.split(b"\n")
        parts.append(first)
        for part in others:
            yield b"".join(parts)
            parts = [part]


async def _send(process: Process, from_session: Any) -> None:
    assert process.stdin is not None
    async for message in from_session:
        text = message.message.model_dump_json(by_alias=True, exclude_none=True)
        with contextlib.suppress(ConnectionError):  # it has died: the end of its output says so
            process.stdin.write(text.encode("utf-8", "replace") + b"\n")
            await process.stdin.drain()


async def _end(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE)
            break
        _signal_group(process, number)
    _signal_group(process, signal.SIGKILL)  # what it left behind
    await process.wait()


def _signal_group(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
