"""An MCP server as a child process that speaks over its stdin and stdout.

The mcp package's own transport copies all that it has read of a line for every 64 KiB more (100 s for 50 MB), and the
adapter does not say where the server's stderr goes. All that a session needs of a transport is two streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from testbed.errors import TransportError
from testbed.types import well_formed

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage
    from mcp.types import JSONRPCMessage

    Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]

CHUNK = 2**20  # bytes read at one time
WORDS_KEPT = 4_096  # bytes of what a server writes to stderr, from the end
GRACE = 2.0  # seconds a server has to end after its stdin was closed, and again after SIGTERM
KILLING = 6.0  # seconds for a warden to kill what a server started
LONGEST_LINE = 2**27  # bytes
WARDEN = str(Path(__file__).with_name("warden.py"))


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

    process, transport = await _start(command, {**get_default_environment(), **env}, cwd, errors)
    to_session: Any
    from_session: Any
    to_session, read = anyio.create_memory_object_stream(0)
    write, from_session = anyio.create_memory_object_stream(0)
    try:
        async with to_session, read, write, from_session, anyio.create_task_group() as group:
            group.start_soon(_receive, process, transport, to_session)
            group.start_soon(_send, process, from_session)
            try:
                yield read, write
            finally:
                group.cancel_scope.cancel()
    finally:
        ending = asyncio.create_task(_end(process, transport))
        while not ending.done():  # however often this is cancelled: the server must be gone afterwards
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({ending})


async def _start(
    command: Sequence[str], env: Mapping[str, str], cwd: str, errors: TextIO
) -> tuple[Process, asyncio.SubprocessTransport]:
    """The server, under a warden where there can be one, see `testbed.mcp.warden`."""
    if sys.platform == "linux" and sys.executable:
        unset = "" if "LC_CTYPE" in env else "LC_CTYPE"  # which Python sets where it finds no locale
        command = [sys.executable, "-I", "-S", WARDEN, str(os.getpid()), unset, *command]
    loop = asyncio.get_running_loop()
    # As `asyncio.create_subprocess_exec` does it, which keeps the transport to itself. In a session, and so a process
    # group, of its own: an interrupt at the terminal is for the testbed to handle.
    transport, protocol = await loop.subprocess_exec(
        lambda: SubprocessStreamProtocol(limit=CHUNK, loop=loop),
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=errors,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    return Process(transport, protocol, loop), transport


class LastWords:
    """The end of what a server writes to stderr.

    Attributes:
        stream: what the server gets for its stderr.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._from, to = os.pipe()
        os.set_blocking(self._from, False)
        self.stream: TextIO = os.fdopen(to, "w")
        self._bytes = b""
        self._loop.add_reader(self._from, self._read)

    def quoted(self) -> str:
        """A sentence with them; "" where there are none."""
        if not self.stream.closed:
            self._read()
        text = self._bytes.decode("utf-8", "replace").strip()
        return f" It wrote last:\n{text[-1_000:]}" if text else ""

    def close(self) -> None:
        """Frees the pipe."""
        if not self.stream.closed:
            self._loop.remove_reader(self._from)
            self.stream.close()
            os.close(self._from)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._bytes = (self._bytes + os.read(self._from, 2**16))[-WORDS_KEPT:]


async def _receive(process: Process, transport: asyncio.SubprocessTransport, to_session: Any) -> None:
    from mcp.shared.message import SessionMessage

    async with to_session:  # its end tells the session that the server has gone
        try:
            async for line in _lines(process):
                message = _message(line)
                if message is not None:
                    await to_session.send(SessionMessage(message))
        except TransportError:
            if (output := transport.get_pipe_transport(1)) is not None:
                output.close()  # nobody reads on: a server that writes on ends by that
            raise


def _message(line: bytes) -> JSONRPCMessage | None:
    """What a line says; None if it is none of ours: whatever else a server prints.

    Raises:
        TransportError: it is meant for us, but says nothing. Whoever waits for it would wait for ever.
    """
    from mcp.types import JSONRPCMessage
    from pydantic import ValidationError

    try:
        return JSONRPCMessage.model_validate_json(line)
    except ValidationError as error:
        if not line.lstrip().startswith(b"{") or b'"jsonrpc"' not in line:
            return None
        reason = error
    # pydantic takes neither bytes that are no UTF-8 nor half a surrogate pair, which other parsers let pass.
    try:
        lenient = json.dumps(json.loads(line.decode("utf-8", "replace")), ensure_ascii=False)
        return JSONRPCMessage.model_validate_json(well_formed(lenient))
    except (ValueError, RecursionError):  # pydantic's error and json's are both ValueErrors
        why = reason.errors(include_url=False, include_input=False)[0]["msg"]
        raise TransportError(f"the server wrote what is no MCP message ({why}): {line[:200]!r}") from None


async def _lines(process: Process) -> AsyncIterator[bytes]:
    assert process.stdout is not None
    parts: list[bytes] = []
    held = 0
    while chunk := await process.stdout.read(CHUNK):
        first, *others = chunk.split(b"\n")
        parts.append(first)
        held += len(first)
        for part in others:
            yield b"".join(parts)
            parts, held = [part], len(part)
        if held > LONGEST_LINE:
            raise TransportError(f"the server wrote a line of more than {LONGEST_LINE >> 20} MiB")


async def _send(process: Process, from_session: Any) -> None:
    assert process.stdin is not None
    async for message in from_session:
        text = message.message.model_dump_json(by_alias=True, exclude_none=True)
        with contextlib.suppress(ConnectionError):  # it has died: the end of its output says so
            process.stdin.write(text.encode("utf-8", "replace") + b"\n")
            await process.stdin.drain()


async def _end(process: Process, transport: asyncio.SubprocessTransport) -> None:
    """Asks a server to end, then tells it to, then has it killed with all that it started."""
    assert process.stdin is not None
    process.stdin.close()
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGQUIT, GRACE), (signal.SIGKILL, KILLING)):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience)
            break
        _signal_group(process, number)
    _signal_group(process, signal.SIGKILL)  # what it left behind, where there was no warden
    await process.wait()
    transport.close()  # else it would complain when it is forgotten, after its loop
    await asyncio.sleep(0)


def _signal_group(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
