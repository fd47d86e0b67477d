"""Other people's tools by name: ``mcp:NAME`` for those of an MCP server, ``langchain:MODULE:ATTRIBUTE`` for any.

Both come through the registry like any other tool, and are validated, timed, limited and metered like any other. A name
may stand for several tools, which are offered by the names they give themselves.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from testbed.errors import DataError, FaultKind, ToolFault, UnknownName, UsageError
from testbed.mcp import McpServer, Servers, ServerTool
from testbed.options import construct
from testbed.plugins import execute, foreign_code, named
from testbed.schemas import ArgumentSchema
from testbed.scramble import scrambled
from testbed.tool_base import AttemptContext, Tool
from testbed.types import digest

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock

FORMS = {
    "mcp:NAME": "The tools of an MCP server that the experiment file describes.",
    "langchain:MODULE:ATTRIBUTE": "Any langchain tool, its class, or a function that makes some.",
}
LEAVE_OUT = 'leave it out with offer = ["…"], which names those to offer'
LONGEST_OFFERED = 64  # characters that providers of native tool calls take in a tool's name


def find(name: str) -> Any:
    """What makes the tools of a name: a class or function of the tool's options, or a finished tool.

    Raises:
        UsageError: the name has another form, an extra is not installed, or what it names is no tool.
        DataError: the module cannot be imported.
        UnknownName: the module has no such attribute.
    """
    kind, _, rest = name.partition(":")
    if kind == "langchain":
        return _attribute(name, rest)
    if not re.fullmatch(r"[\w.-]+", rest):
        raise UsageError(f'{name!r} names no server: write "mcp:files", say, and describe it in [tool."mcp:files"].')
    for package in ("mcp", "langchain-mcp-adapters"):
        try:
            version(package)
        except PackageNotFoundError:
            raise UsageError(f"{name}: {package} is not installed: pip install 'capability-testbed[mcp]'.") from None
    return McpServer


def make(name: str, options: Mapping[str, Any]) -> list[BaseTool]:
    """The tools that a name stands for.

    An MCP server is started for a moment to be asked what it offers.

    Raises:
        UsageError: the options do not fit, the server cannot be started, or what comes out are no tools.
    """
    maker = find(name)
    if maker is McpServer:
        return list(_of_server(name, options))
    if isinstance(maker, BaseTool):
        return [maker]
    made = construct(maker, name, options)
    tools = [made] if isinstance(made, BaseTool) else made
    if not isinstance(tools, list | tuple) or not tools or not all(isinstance(tool, BaseTool) for tool in tools):
        raise UsageError(f"{name} made {made!r:.80}, which is neither a langchain tool nor a list of some.")
    for tool in tools:
        if options and not isinstance(tool, Tool):  # part of the arm's identity, see `Offer.fingerprint`
            tool.metadata = {**(tool.metadata or {}), "made_with": digest(dict(options))}
    return list(tools)


class McpTool(Tool):
    """One tool of an MCP server.

    Its placebo asks the server and scrambles the answer: every letter and digit is drawn anew, words change places by
    their lengths, and layout and length stay. Nothing else is known of what a foreign tool returns.

    Attributes:
        servers: what runs it, shared with the server's other tools.
        of: the tool as the server lists it.
    """

    servers: Servers
    of: ServerTool
    _attempt: AttemptContext | None = PrivateAttr(None)
    _off_clock: Callable[[], AbstractContextManager[None]] = PrivateAttr(default=nullcontext)

    def fingerprint(self) -> dict[str, Any]:
        """The server's name, version and options, and the tool as the server lists it."""
        listing = self.servers.listing
        return {
            "server": {"name": listing.name, "version": listing.version, **self.servers.spec.identity()},
            "tool": self.of.name,
            "listed": digest([self.of.description, dict(self.of.schema)]),
        }

    def for_attempt(self, context: AttemptContext) -> Self:
        """A copy that knows its attempt, where attempts have servers of their own."""
        mine = self.model_copy()
        mine._attempt = context if self.servers.spec.per_attempt else None
        mine._off_clock = context.off_clock
        return mine

    def keeps_state(self) -> bool:
        """Whether attempts have servers of their own, which is for servers that keep state."""
        return self.servers.spec.per_attempt

    async def end_attempt(self) -> None:
        """Ends the attempt's server."""
        if self._attempt is not None:
            await self.servers.end(self._attempt)

    async def start(self) -> None:
        """Has a server ready."""
        await self.servers.start()

    async def aclose(self) -> None:
        """Ends all servers."""
        await self.servers.aclose()

    async def inert_answer(
        self,
        arguments: Mapping[str, Any],
        rng: np.random.Generator,
        off_clock: Callable[[], AbstractContextManager[None]],
    ) -> str:
        """The server's answer, scrambled; faults stay faults, and say as little."""
        try:
            return scrambled(as_text(await self.servers.call(self.of.name, arguments, off_clock=off_clock)), rng)
        except ToolFault as fault:
            if fault.kind is FaultKind.TIMEOUT:
                raise
            raise ToolFault(fault.kind, scrambled(str(fault), rng)) from fault

    async def _arun(self, /, **arguments: Any) -> str:
        return as_text(await self.servers.call(self.of.name, arguments, self._attempt, self._off_clock))


def as_text(result: CallToolResult) -> str:
    """What a model is shown of a server's answer: its text; of anything else, what it is and how large.

    Raises:
        ToolFault: execution_error, where the server says that the call failed.
    """
    from testbed import results

    text = "\n".join(_shown(block) for block in result.content)
    if result.isError:
        raise ToolFault(FaultKind.EXECUTION_ERROR, text or "the server reports an error without saying which")
    return text or results.as_text(result.structuredContent)


def _of_server(name: str, options: Mapping[str, Any]) -> Iterable[McpTool]:
    if not options:
        raise UsageError(f'{name} needs command = ["python", "server.py"] or url = "http://…" in [tool."{name}"].')
    try:
        spec: McpServer = construct(McpServer, name, options)
    except UsageError as error:
        if name in str(error):
            raise
        raise UsageError(f"{name}: {error}") from error
    servers = Servers(name, spec)
    listing = servers.listing
    if not listing.tools:
        raise UsageError(f"{name}: the server {listing.name!r} offers no tools.")
    for wanted in spec.offer:
        if wanted not in (listed := [tool.name for tool in listing.tools]):
            raise UnknownName(f"tool of {name} in offer", wanted, listed)
    offered: dict[str, str] = {}
    for tool in listing.tools:
        if spec.offer and tool.name not in spec.offer:
            continue
        shown = (spec.prefix + re.sub(r"[^a-zA-Z0-9_-]", "_", tool.name))[:LONGEST_OFFERED]
        if fault := _unfit(tool, offered.get(shown)):
            raise UsageError(f"{name}: the server's tool {tool.name!r:.200} {fault}; {LEAVE_OUT}.")
        offered[shown] = tool.name
        yield McpTool(
            name=shown,
            description=tool.description,
            args_schema=dict(tool.schema),
            timeout=float("inf"),  # kept by the servers: waiting for a free one is nobody's fault
            servers=servers,
            of=tool,
        )


def _unfit(tool: ServerTool, namesake: str | None) -> str:
    """Why a tool cannot be offered, given the one that would go by the same name; "" if it can."""
    if not tool.name:
        return "has no name"
    if namesake == tool.name:
        return "is listed twice"
    if namesake is not None:
        return f"would be offered by the same name as {namesake!r:.200}"
    try:
        ArgumentSchema(tool.schema)
    except UsageError as error:
        return f"cannot be used: the schema of its arguments {error}"
    return ""


def _shown(block: ContentBlock) -> str:
    if block.type == "text":
        return block.text
    if block.type == "image" or block.type == "audio":
        return f"[{block.type}, {block.mimeType}, {_bytes(block.data)}]"
    if block.type == "resource_link":
        return f"[link to {block.uri}: {block.description or block.name}]"
    held = block.resource
    text = getattr(held, "text", None)
    return text if isinstance(text, str) else f"[file {held.uri}, {held.mimeType}, {_bytes(getattr(held, 'blob', ''))}]"


def _bytes(base64: str) -> str:
    return f"{len(base64) * 3 // 4 - base64[-2:].count('='):,} bytes"


def _attribute(name: str, where: str) -> Any:
    place, _, attribute = where.rpartition(":")
    if not place or not attribute:
        raise UsageError(f'{name!r} must be "langchain:module:attribute" or "langchain:file.py:attribute".')
    if place.endswith(".py") and not Path(place).is_file():
        raise DataError(f"{name}: there is no file {place!r}; paths are relative to the working directory.")
    module = execute(Path(place)) if place.endswith(".py") else _module(name, place)
    found = getattr(module, attribute, None)
    if found is None:
        usable = [key for key, value in vars(module).items() if _makes_tools(value) and not key.startswith("_")]
        raise UnknownName("langchain tool", attribute, usable, hint=f"It is looked up in {place}.")
    if not _makes_tools(found):
        raise UsageError(f"{name} is {found!r:.80}: no langchain tool, no class of one, no function that makes some.")
    return found


def _makes_tools(value: Any) -> bool:
    if inspect.isclass(value):
        return issubclass(value, BaseTool)
    return isinstance(value, BaseTool) or inspect.isroutine(value)


def _module(name: str, place: str) -> Any:
    with foreign_code(lambda error: f"{name}: {place!r} cannot be imported ({named(error)})."):
        return importlib.import_module(place)
