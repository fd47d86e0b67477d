"""A worker in a container: the attach stream as its control channel, and how the host ends it for sure.

The stream is the one thing that is read during a call, so it belongs to the event loop: an HTTP request that the engine
answers by handing the connection over. From then on, what we write is the worker's standard input, and what comes is
its output in parts, each with a header of eight bytes: 1 for standard output (frames) or 2 for standard error (last
words), three zeros, and the part's length (big-endian). The container's standard input ends with this connection, and
the worker with its standard input: no host, no sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from testbed.errors import SandboxDied
from testbed.sandbox.docker_engine import Engine

_STDOUT, _STDERR = 1, 2
_LAST_WORDS = 500  # characters
_LONGEST_HEAD = 1 << 16


class Frames:
    """The worker's standard output out of the engine's stream; its standard error is kept aside.

    Args:
        stream: the connection, at its first header.

    Attributes:
        stderr: the last bytes of standard error.
        ended: whether the worker's end of the stream has been seen.
    """

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self.stderr = bytearray()
        self.ended = False
        self._stream = stream
        self._stdout = bytearray()

    async def readexactly(self, size: int) -> bytes:
        """Reads bytes of standard output.

        Raises:
            EOFError: it ended before.
            OSError: the connection broke.
        """
        while len(self._stdout) < size:
            await self._read_part()
        data = bytes(self._stdout[:size])
        del self._stdout[:size]
        return data

    async def read_rest(self) -> None:
        """Reads to the end, for the last words."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                await self._read_part()
                self._stdout.clear()

    async def _read_part(self) -> None:
        try:
            kind, length = struct.unpack(">BxxxI", await self._stream.readexactly(8))
            part = await self._stream.readexactly(length)
        except (EOFError, OSError):
            self.ended = True
            raise
        if kind == _STDOUT:
            self._stdout += part
        elif kind == _STDERR:
            self.stderr = (self.stderr + part)[-4 * _LAST_WORDS :]
        else:
            raise ConnectionError(f"the docker engine sent a part of kind {kind}")


class DockerLink:
    """A worker in a container, see `testbed.sandbox.link.Link`; made by `launch`.

    Attributes:
        reader: frames of the worker.
        writer: frames for the worker.
        name: the container's.
    """

    reader: Frames
    writer: asyncio.StreamWriter

    def __init__(self, engine: Engine, name: str, free: Callable[[], object]) -> None:
        self.name = name
        self._engine = engine
        self._free = free
        self._end: asyncio.Task[str] | None = None
        self._out_of_memory = False

    @classmethod
    async def launch(
        cls, engine: Engine, name: str, settings: Mapping[str, Any], free: Callable[[], object]
    ) -> DockerLink:
        """Makes a container, takes its streams, and starts it: no output is missed.

        Args:
            engine: a connected engine.
            name: the container's name, which nobody else uses.
            settings: see `Engine.create`.
            free: called once everything in the container is gone.

        Raises:
            SandboxDied: the engine refuses.
        """
        link = cls(engine, name, free)
        try:
            await _to_its_end(engine.create, name, settings)
            reader, link.writer = await _attach(engine, name)
            link.reader = Frames(reader)
            await _to_its_end(engine.start, name)
        except BaseException:
            await link.kill()
            raise
        return link

    def hurry(self, wanted: bool) -> None:
        """Does nothing: the limit is the engine's."""

    async def kill(self) -> str:
        """Ends the container, waits until it is gone, and returns its last words."""
        if self._end is None:
            self._end = asyncio.ensure_future(self._kill())
        return await asyncio.shield(self._end)

    def out_of_memory(self) -> Literal["limit"] | None:
        """Whether a worker that ended by itself did so because the kernel ended a process for its memory.

        While it lives, the worker knows better; the engine's word comes too late for the call.
        """
        return "limit" if self._out_of_memory else None

    async def _kill(self) -> str:
        ended_by_itself = hasattr(self, "reader") and self.reader.ended
        trouble = await asyncio.to_thread(self._engine.remove, self.name)
        if ended_by_itself:
            self._out_of_memory = await asyncio.to_thread(self._engine.ran_out_of_memory, self.name)
        if hasattr(self, "reader") and not trouble:
            await self.reader.read_rest()
        if hasattr(self, "writer"):
            self.writer.close()
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()
        self._free()
        words = bytes(self.reader.stderr) if hasattr(self, "reader") else b""
        return " ".join(filter(None, (words.decode("utf-8", "replace").strip()[-_LAST_WORDS:], trouble)))


async def _to_its_end(function: Callable[..., None], *arguments: Any) -> None:
    """Runs a blocking call in a thread; if cancelled, only once it is over: what it makes must not come too late."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise


async def _attach(engine: Engine, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        reader, writer = await _connect(*engine.address)
        writer.write(
            f"POST /v{engine.api.api_version}/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\n"
            "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode("ascii")
        )
        head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, EOFError, asyncio.LimitOverrunError) as error:
        raise SandboxDied(f"the docker engine's stream cannot be opened: {error}") from error
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split()[1:2] not in (["101"], ["200"]):
        writer.close()
        raise SandboxDied(f"the docker engine does not hand over its stream: {status}")
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
