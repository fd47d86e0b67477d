"""Servers of the Model Context Protocol: one started or reached, kept, called, and ended for sure.

A session must be left in the task that entered it, and an answer is parsed on the loop that reads it. So all sessions
of a server live on an event loop in a thread of their own: whoever calls, from whichever loop or thread, only waits for
a result, and 50 MB of it hold up nobody else.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import logging
import os
import re
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TextIO, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from testbed import mcp_stdio
from testbed.errors import FaultKind, ToolFault, TransportError, UsageError
from testbed.threads import LoopThread
from testbed.types import digest

if TYPE_CHECKING:
    from mcp import ClientSession
    from mcp.types import CallToolResult

T = TypeVar("T")

WORDS_KEPT = 4_096  # bytes of what a server writes to stderr, from the end
PING = 2.0  # seconds to tell a server that is busy from one that has gone
LEAVING = 10.0  # seconds for a session to close; a server that hangs is killed after about 4
CLOSED, INVALID_PARAMS, SESSION_TERMINATED = -32000, -32602, 32600  # JSON-RPC error codes, the last one mcp's own

Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, Field(strict=True)]


class McpServer(BaseModel):
    """A server as an experiment file describes it, in ``[tool."mcp:NAME"]``.

    ``${NAME}`` in `url`, `env` and `headers` stands for a variable of the testbed's own environment. It is put in when
    a server is started: neither the store nor any hash sees the value.

    Attributes:
        command: what starts a server that speaks over stdin and stdout.
        url: where a server listens that speaks streamable HTTP; exactly one of the two is given.
        env: variables of the server's environment, besides HOME, PATH and the like.
        headers: HTTP headers.
        cwd: the server's working directory.
        offer: which of the server's tools are offered, by its own names; all where none is named.
        prefix: put before the tools' names, so that those of two servers differ.
        per_attempt: an attempt has a server (a session, with `url`) of its own, for servers that keep state.
        slots: servers (sessions) at one time, at least 1. Each does one call at a time; others wait, outside any limit.
        timeout: seconds a call may take.
        start_timeout: seconds a server may take to say what it offers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...] = ()
    url: str = ""
    env: dict[str, str] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    cwd: str = "."
    offer: tuple[str, ...] = ()
    prefix: str = Field(default="", pattern=r"^[a-zA-Z0-9_-]*$")
    per_attempt: bool = Field(default=False, strict=True)
    slots: Whole = Field(default=4, ge=1)
    timeout: Real = Field(default=10.0, gt=0, allow_inf_nan=False)
    start_timeout: Real = Field(default=30.0, gt=0, allow_inf_nan=False)

    @field_validator("command", "offer", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"must be a list of strings, such as {value.split()!r}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise UsageError('give either command = ["python", "server.py"] or url = "http://…" of the MCP server.')
        if self.url and not self.url.startswith(("http://", "https://")):
            raise UsageError(f"url = {self.url!r} must begin with http:// or https://.")
        if self.url and self.env:
            raise UsageError("env is for servers that command starts; one behind a url has its own environment.")
        if self.command and self.headers:
            raise UsageError("headers are for servers behind a url; use env with command.")
        if not Path(self.cwd).is_dir():
            raise UsageError(f"cwd = {self.cwd!r} is no folder.")
        return self

    def identity(self) -> dict[str, Any]:
        """What of these options can change a result: values of `env` and `headers` as they are written, hashed.

        Files that the command names are known by their content, so that a changed server is another arm.
        """
        files = {part: _hash_of(Path(self.cwd, part)) for part in self._own_files()}
        return {
            "command": list(self.command),
            "files": files,
            "url": self.url,
            "env": {name: digest(value) for name, value in self.env.items()},
            "headers": {name: digest(value) for name, value in self.headers.items()},
            "cwd": self.cwd,
            "per_attempt": self.per_attempt,
            "timeout": self.timeout,
        }

    def _own_files(self) -> Iterable[str]:
        """The files that a command names, programs that the whole machine shares apart."""
        for n, part in enumerate(self.command):
            if (n or not os.path.isabs(part)) and len(part) < 1_000 and Path(self.cwd, part).is_file():
                yield part


@dataclass(frozen=True)
class ServerTool:
    """One tool as a server lists it.

    Attributes:
        name: the server's name of it.
        description: what the server says of it.
        schema: JSON schema of its arguments.
    """

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Listing:
    """What a server says of itself.

    Attributes:
        name: its name.
        version: its version.
        tools: what it offers, in its order.
    """

    name: str
    version: str
    tools: tuple[ServerTool, ...]


class Servers:
    """The running servers (or sessions) of one description, at most `slots`, each doing one call at a time.

    So a call that hangs takes nobody else's time, and a timeout is the fault of the call that it ends: its server is
    ended with it. Nothing runs before `start` or the first call, nor after `aclose`.

    Args:
        name: how the experiment names it, such as "mcp:files".
        spec: what to start or to reach.

    Raises:
        UsageError: the server cannot be started or reached; says why, with what it wrote to stderr.
    """

    def __init__(self, name: str, spec: McpServer) -> None:
        self.name, self.spec = name, spec
        self._guard = threading.Lock()
        self._thread: LoopThread | None = None
        self._slots: asyncio.Semaphore
        self._idle: list[Session]
        self._held: dict[int, tuple[object, Session]]  # by id of the attempt, which is kept alive beside
        self._retiring: set[asyncio.Task[None]]
        self._under_way: set[asyncio.Task[Any]]
        thread = LoopThread()
        try:
            self.listing: Listing = thread.run(self._discover())
        except TransportError as error:
            raise UsageError(str(error)) from error
        finally:
            thread.close()

    async def start(self) -> None:
        """Has one server ready.

        Raises:
            UsageError: it cannot be started.
        """
        try:
            await asyncio.wrap_future(self._loop().submit(self._tracked(self._warm())))
        except TransportError as error:
            raise UsageError(str(error)) from error

    async def call(self, tool: str, arguments: Mapping[str, Any], attempt: object = None) -> CallToolResult:
        """The server's answer.

        Args:
            tool: the server's name of the tool.
            arguments: valid ones.
            attempt: whose server it is, where each attempt has its own; the same object for all its calls.

        Raises:
            ToolFault: it took too long, or the server refused the arguments.
            TransportError: the server died, or could not be reached.
        """
        call = self._tracked(self._call(tool, arguments, attempt))
        return await asyncio.wrap_future(self._loop().submit(call))

    def call_blocking(self, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
        """As `call`, for callers in a thread, and for no attempt in particular."""
        return self._loop().run(self._tracked(self._call(tool, arguments, None)))

    async def end(self, attempt: object) -> None:
        """Ends the attempt's server, if it has one."""
        if self._thread is not None:
            await asyncio.wrap_future(self._thread.submit(self._end(attempt)))

    async def aclose(self) -> None:
        """Ends every server, at last by force."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """As `aclose`, for programs about to exit."""
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.run(self._close_all())
            thread.close()

    def _loop(self) -> LoopThread:
        with self._guard:
            if self._thread is None:
                self._thread = LoopThread()
                self._slots = asyncio.Semaphore(self.spec.slots)
                self._idle, self._held, self._retiring, self._under_way = [], {}, set(), set()
                _left_open.add(self)
                atexit.register(_close_left)
            return self._thread

    # -- on the servers' own loop
    # ------------------------------------------------------------------------------------------------------------

    async def _discover(self) -> Listing:
        session = Session(self.name, self.spec)
        try:
            return await session.open()
        finally:
            await session.close()

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; what is under way at the end is given up before servers are ended."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            return await work
        finally:
            self._under_way.discard(task)

    async def _warm(self) -> None:
        if not self._idle and not self._held:
            async with self._slots:
                self._idle.append(await self._open())

    async def _call(self, tool: str, arguments: Mapping[str, Any], attempt: object) -> CallToolResult:
        session = await self._take(attempt)
        sound = False
        try:
            result = await session.call(tool, arguments)
            sound = True
            return result
        except ToolFault as fault:
            sound = fault.kind is not FaultKind.TIMEOUT
            raise
        finally:
            self._give(session, attempt, sound)

    async def _take(self, attempt: object) -> Session:
        held = self._held.pop(id(attempt), None)
        if held is not None:
            return held[1]
        await self._slots.acquire()
        try:
            while self._idle:
                if (session := self._idle.pop()).alive:
                    return session
                self._retire(session)
            return await self._open()
        except BaseException:
            self._slots.release()
            raise

    def _give(self, session: Session, attempt: object, sound: bool) -> None:
        if sound and self.spec.per_attempt and attempt is not None:
            self._held[id(attempt)] = attempt, session
            return
        if sound and not self.spec.per_attempt:
            self._idle.append(session)
        else:
            self._retire(session)
        self._slots.release()

    async def _end(self, attempt: object) -> None:
        held = self._held.pop(id(attempt), None)
        if held is not None:
            self._retire(held[1])
            self._slots.release()

    async def _open(self) -> Session:
        session = Session(self.name, self.spec)
        try:
            listing = await session.open()
        except BaseException:
            self._retire(session)
            raise
        if listing != self.listing:
            self._retire(session)
            raise UsageError(
                f"{self.name}: the server offers something else than when it was first asked, so results would not "
                "be comparable. Run again once it no longer changes."
            )
        return session

    def _retire(self, session: Session) -> None:
        task = asyncio.get_running_loop().create_task(session.close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close_all(self) -> None:
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(set(self._under_way))
        for session in [*self._idle, *(session for _, session in self._held.values())]:
            self._retire(session)
        self._idle.clear()
        self._held.clear()
        if self._retiring:
            await asyncio.wait(set(self._retiring))


class Session:
    """One conversation with a server, which runs as long as it does where a command starts it.

    Args:
        name: how the experiment names the server.
        spec: what to start or to reach.
    """

    def __init__(self, name: str, spec: McpServer) -> None:
        self._name, self._spec = name, spec
        self._opened: asyncio.Future[Listing] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._words = LastWords()
        self._session: ClientSession
        self._keeper = asyncio.create_task(self._keep())

    @property
    def alive(self) -> bool:
        """Whether it can still be used, as far as one can tell without asking."""
        return not self._keeper.done()

    async def open(self) -> Listing:
        """What the server offers.

        Raises:
            TransportError: it cannot be started or reached, or says nothing; with what it wrote to stderr.
        """
        limit = self._spec.start_timeout
        either: set[asyncio.Future[Any]] = {self._keeper, self._opened}
        await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if self._opened.done():
            return self._opened.result()
        if self._keeper.done() and isinstance(error := self._keeper.exception(), UsageError):
            raise error
        where = self._spec.url or " ".join(self._spec.command)
        silent = f"it did not say within {limit:g} s what it offers (start_timeout)"
        await asyncio.sleep(0.05 if self._keeper.done() else 0)  # its last words may still be in the pipe
        why = _reason(self._keeper) if self._keeper.done() else silent
        raise TransportError(f"{self._name}: no MCP server answers at {where!r}: {why}.{self._words.quoted()}")

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
        """The server's answer; the session is of no use after any fault but invalid_args.

        Raises:
            ToolFault: it took too long, or the server refused the arguments.
            TransportError: the server died, or broke the protocol.
        """
        limit = self._spec.timeout
        if (answered := await self._ask(self._session.call_tool(tool, dict(arguments)), limit)) is not None:
            return self._answer(answered)
        # A stream of HTTP that ends with the server tells the session nothing: only asking does.
        if self.alive and self._spec.url and (pong := await self._ask(self._session.send_ping(), PING)) is not None:
            self._answer(pong)
        if not self.alive:
            raise TransportError(f"{self._name}: the connection broke: {_reason(self._keeper)}.{self._words.quoted()}")
        lost = " The server was started anew: what it had in memory is gone." if self._spec.per_attempt else ""
        raise ToolFault(FaultKind.TIMEOUT, f"took longer than {limit:g} s.{lost}")

    async def _ask(self, request: Coroutine[Any, Any, T], limit: float) -> asyncio.Task[T] | None:
        """The request, done; None where the session ended before, or the time."""
        task = asyncio.create_task(request)
        either: set[asyncio.Future[Any]] = {task, self._keeper}
        try:
            await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            return task if task.done() else None
        finally:
            task.cancel()

    def _answer(self, request: asyncio.Task[T]) -> T:
        from anyio import BrokenResourceError, ClosedResourceError
        from mcp import McpError
        from pydantic import ValidationError

        try:
            return request.result()
        except McpError as error:
            if error.error.code in (CLOSED, SESSION_TERMINATED):
                died = f"{self._name}: the server ended in mid-call.{self._words.quoted()}"
                raise TransportError(died) from error
            kind = FaultKind.INVALID_ARGS if error.error.code == INVALID_PARAMS else FaultKind.EXECUTION_ERROR
            raise ToolFault(kind, error.error.message) from error
        except (BrokenResourceError, ClosedResourceError) as error:
            raise TransportError(f"{self._name}: the server had ended.{self._words.quoted()}") from error
        except ValidationError as error:
            raise TransportError(f"{self._name}: the server's answer is not MCP: {str(error)[:200]}") from error

    async def close(self) -> None:
        """Leaves the session; a server that does not end by itself is killed, with what it started."""
        self._leave.set()
        if not self._opened.done():
            self._keeper.cancel()
        await asyncio.wait({self._keeper}, timeout=LEAVING)
        if self._keeper.done() and not self._keeper.cancelled():
            self._keeper.exception()  # seen: whoever was waiting has been told
        self._words.close()

    async def _keep(self) -> None:
        """Enters and leaves the session: one task must do both."""
        from langchain_mcp_adapters.tools import load_mcp_tools

        async with self._connected() as session:
            greeting = await session.initialize()
            listed = await load_mcp_tools(session)
            self._session = session
            # Not `listed` itself: calls through it lose an argument named "runtime", which the adapter takes for its
            # own, and raise where a result holds sound.
            tools = tuple(ServerTool(tool.name, tool.description, _schema(tool.args_schema)) for tool in listed)
            self._opened.set_result(Listing(greeting.serverInfo.name, greeting.serverInfo.version, tools))
            await self._leave.wait()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClientSession]:
        from langchain_mcp_adapters.sessions import StreamableHttpConnection, create_session
        from mcp import ClientSession

        if not logging.getLogger("mcp").handlers:  # what goes wrong is told by our errors, not printed as it goes
            logging.getLogger("mcp").addHandler(logging.NullHandler())
        spec = self._spec
        if spec.url:
            url, headers = self._filled("url", spec.url), self._all_filled("headers", spec.headers)
            limit = spec.timeout + spec.start_timeout  # beyond our own limits, which name what took too long
            reached = StreamableHttpConnection(
                transport="streamable_http", url=url, headers=headers, timeout=limit, sse_read_timeout=limit
            )
            async with create_session(reached) as session:
                yield session
            return
        env = self._all_filled("env", spec.env)
        async with (
            mcp_stdio.started(spec.command, env, spec.cwd, self._words.stream) as (read, write),
            ClientSession(read, write) as session,
        ):
            yield session

    def _all_filled(self, option: str, values: Mapping[str, str]) -> dict[str, str]:
        return {name: self._filled(f"{option}.{name}", value) for name, value in values.items()}

    def _filled(self, option: str, text: str) -> str:
        def value(found: re.Match[str]) -> str:
            if found[1] not in os.environ:
                raise UsageError(f"{self._name}: {option} needs the environment variable {found[1]}, which is not set.")
            return os.environ[found[1]]

        return re.sub(r"\$\{(\w+)\}", value, text)


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


_left_open: weakref.WeakSet[Servers] = weakref.WeakSet()


def _close_left() -> None:
    for servers in list(_left_open):
        servers.close()


def _schema(schema: Any) -> dict[str, Any]:
    return dict(schema) if isinstance(schema, dict) else {"type": "object", "properties": {}}


def _hash_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _reason(task: asyncio.Task[None]) -> str:
    """What a task failed of, in one line; of several failures, the first."""
    if task.cancelled():
        return "it was cancelled"
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error).strip()}" if error else "it was closed"
