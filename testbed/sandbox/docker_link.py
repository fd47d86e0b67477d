"""A worker in a container: its control channel, and how the host ends it for sure.

The channel is a socket where the engine is on this machine (`testbed.sandbox.docker_door`), else the attach stream: an
HTTP request that the engine answers by handing the connection over. From then on, what we write is the worker's
standard input, and what comes is its output in parts, each with a header of eight bytes: 1 for standard output (frames)
or 2 for standard error (last words), three zeros, and the part's length (big-endian). The worker ends with its channel,
and the channel with this process: no host, no sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Mapping
from typing import Any, Literal

from testbed.errors import SandboxDied
from testbed.sandbox.docker_attach import attach
from testbed.sandbox.docker_door import Door
from testbed.sandbox.docker_engine import Engine
from testbed.sandbox.link import START_SECONDS, Reader
from testbed.sandbox.undo import UnlessFinished

_STDOUT, _STDERR = 1, 2
_LAST_WORDS = 500  # characters


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

    async def wait_for_output(self) -> bool:
        """Waits for standard output without taking it; False if the stream ends first."""
        with contextlib.suppress(EOFError, OSError):
            while not self._stdout:
                await self._read_part()
            return True
        return False

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

    reader: Reader
    writer: asyncio.StreamWriter

    def __init__(self, engine: Engine, name: str, free: Callable[[], object]) -> None:
        self.name = name
        self._engine = engine
        self._free = free
        self._writers: list[asyncio.StreamWriter] = []
        self._stream: Frames | None = None
        self._listening: asyncio.Future[bool] | None = None  # to the stream, for the last words
        self._end: asyncio.Task[str] | None = None
        self._out_of_memory = False
        self._hurried, self._cpus = False, 1.0
        self._pace: asyncio.Future[None] | None = None  # the last request of `hurry`

    @classmethod
    async def launch(
        cls, engine: Engine, name: str, settings: Mapping[str, Any], free: Callable[[], object]
    ) -> DockerLink:
        """Starts a worker in a container of its own.

        Args:
            engine: a connected engine.
            name: the container's name, which nobody else uses.
            settings: see `Engine.create`.
            free: called once everything in the container is gone.

        Raises:
            SandboxDied: the engine refuses.
        """
        link = cls(engine, name, free)
        link._cpus = settings["host_config"]["CpuQuota"] / settings["host_config"]["CpuPeriod"]
        with contextlib.ExitStack() as at_the_end:
            door = _door(engine)
            if door is not None:
                at_the_end.callback(door.close)
            async with UnlessFinished(link.kill):
                await link._begin(settings, door)
        return link

    def hurry(self, wanted: bool) -> None:
        """Asks the engine to lift the container's limit on CPU time, or to set it again; one request after another."""
        if wanted != self._hurried:
            self._hurried = wanted
            self._pace = asyncio.ensure_future(self._set_pace(wanted, self._pace))

    async def _set_pace(self, fast: bool, before: asyncio.Future[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        await asyncio.to_thread(self._engine.set_cpus, self.name, None if fast else self._cpus)

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

    async def _begin(self, settings: Mapping[str, Any], door: Door | None) -> None:
        """Starts the container, if possible with a door, and has the worker come in."""
        if door is None:
            await self._start(settings)
            return
        try:
            await self._start(door.shown(settings))
        except SandboxDied:  # for the folder, as far as we know
            self._engine.shows_folders = False
            await asyncio.to_thread(self._engine.remove, self.name)
            await self._start(settings)
        else:
            await self._come_in(door)

    async def _start(self, settings: Mapping[str, Any]) -> None:
        """Makes the container, takes its stream, and starts it: no output is missed."""
        await _to_its_end(self._engine.create, self.name, settings)
        reader, self.writer = await attach(self._engine, self.name)
        self._writers.append(self.writer)
        self.reader = self._stream = Frames(reader)
        await _to_its_end(self._engine.start, self.name)

    async def _come_in(self, door: Door) -> None:
        """Waits until the worker comes through the door, or speaks on the stream because it cannot."""
        assert self._stream is not None
        self._listening = asyncio.ensure_future(self._stream.wait_for_output())
        arrival = asyncio.ensure_future(self._arrive(door))
        try:
            await asyncio.wait([arrival, self._listening], timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
        if arrival.done():
            await arrival
        elif self._listening.done():
            self._engine.shows_folders = False  # or not the sockets in them
        else:
            raise SandboxDied(f"the sandbox did not start within {START_SECONDS:g} s.")

    async def _arrive(self, door: Door) -> None:
        try:
            self.reader, self.writer = await door.accept()
        except OSError as error:
            raise SandboxDied(f"the worker's connection cannot be taken: {error}") from error
        self._writers.append(self.writer)

    @property
    def _has_ended(self) -> bool:
        """Whether the end of the channel has been seen."""
        if self._stream is None:
            return False
        return self._stream.ended or (isinstance(self.reader, asyncio.StreamReader) and self.reader.at_eof())

    async def _kill(self) -> str:
        ended_by_itself = self._has_ended
        if self._pace is not None:
            await asyncio.wait([self._pace])
        trouble = await asyncio.to_thread(self._engine.remove, self.name)
        if ended_by_itself:
            self._out_of_memory = await asyncio.to_thread(self._engine.ran_out_of_memory, self.name)
        words = await self._last_words(wait=not trouble)
        for writer in self._writers:
            writer.transport.abort()  # an engine that stands still would never take what is left to write
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self._free()
        return " ".join(filter(None, (words, trouble)))

    async def _last_words(self, *, wait: bool) -> str:
        if self._listening is not None:
            if not wait:
                self._listening.cancel()
            await asyncio.wait([self._listening])
        if self._stream is None:
            return ""
        if wait:
            await self._stream.read_rest()
        return bytes(self._stream.stderr).decode("utf-8", "replace").strip()[-_LAST_WORDS:]


def _door(engine: Engine) -> Door | None:
    """A door, if the engine may be able to show it."""
    if engine.shows_folders:
        with contextlib.suppress(OSError):
            return Door()
    return None


async def _to_its_end(function: Callable[..., None], *arguments: Any) -> None:
    """Runs a blocking call in a thread; if cancelled, only once it is over: what it makes must not come too late."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise
