"""Tools that are started once for several attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langchain_core.tools import BaseTool

from testbed.budget import Budget, Meter
from testbed.env import approximate_tokens
from testbed.tool import Toolbox, ToolSet


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
