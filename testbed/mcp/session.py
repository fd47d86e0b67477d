"""One conversation with an MCP server: opened, asked, and left by the task that entered it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from testbed.errors import FaultKind, ToolFault, TransportError, UsageError
from testbed.mcp import stdio
from testbed.mcp.description import McpServer

if TYPE_CHECKING:
    from mcp import ClientSession
    from mcp.types import CallToolResult

T = TypeVar("T")

PING = 2.0  # seconds to tell a server that is busy from one that has gone
LEAVING = 10.0  # seconds for a session to close; a server that hangs is killed after about 4
CLOSED, INVALID_PARAMS, SESSION_TERMINATED = -32000, -32602, 32600  # JSON-RPC error codes, the last one mcp's own


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
        self._words = stdio.LastWords()
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
            return await self._told(answered)
        # A stream of HTTP that ends with the server tells the session nothing: only asking does.
        if self.alive and self._spec.url and (pong := await self._ask(self._session.send_ping(), PING)) is not None:
            await self._told(pong)
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

    async def _told(self, request: asyncio.Task[T]) -> T:
        from anyio import BrokenResourceError, ClosedResourceError
        from mcp import McpError
        from pydantic import ValidationError

        try:
            return request.result()
        except McpError as error:
            if error.error.code in (CLOSED, SESSION_TERMINATED):
                await asyncio.wait({self._keeper}, timeout=0.05)  # which knows why, where our side broke it off
                broken = self._keeper.done() and not self._keeper.cancelled() and self._keeper.exception()
                why = f"the connection broke: {_reason(self._keeper)}" if broken else "the server ended in mid-call"
                raise TransportError(f"{self._name}: {why}.{self._words.quoted()}") from error
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
            stdio.started(spec.command, env, spec.cwd, self._words.stream) as (read, write),
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


def _schema(schema: Any) -> dict[str, Any]:
    return dict(schema) if isinstance(schema, dict) else {"type": "object", "properties": {}}


def _reason(task: asyncio.Task[None]) -> str:
    """What a task failed of, in one line; of several failures, the first."""
    if task.cancelled():
        return "it was cancelled"
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error).strip()}" if error else "it was closed"
