"""Tools that are started once for several attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from langchain_core.tools import BaseTool

from testbed.budget import Budget, Meter
from testbed.env import approximate_tokens
from testbed.tool import Toolbox, ToolSet
from testbed.types import ToolCall, ToolResult


@asynccontextmanager
async def started(tool: BaseTool) -> AsyncIterator[ToolSet]:
    tools = ToolSet([tool])
    await tools.start()
    try:
        yield tools
    finally:
        await tools.aclose()


def open_box(tools: ToolSet) -> Toolbox:
    """The tools as one attempt has them."""
    return tools.open(Meter(Budget()), approximate_tokens)


def runner_of(tool: str) -> Callable[[Toolbox, str], Awaitable[ToolResult]]:
    """Runs programs with a box's tool of that name."""

    async def run(box: Toolbox, code: str) -> ToolResult:
        return await box.call(ToolCall(tool, {"code": code}))

    return run
