"""Tools of MCP servers in `fixtures/`, and how to call them."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool

from testbed.budget import Budget, Meter
from testbed.errors import FaultKind
from testbed.registry import make_tools
from testbed.tool import AttemptContext, Toolbox, ToolSet
from testbed.types import ToolCall

SERVER = str(Path(__file__).parents[1] / "fixtures" / "mcp_server.py")
COMMAND = [sys.executable, SERVER]
RAW = str(Path(__file__).parents[1] / "fixtures" / "raw_mcp_server.py")


def raw(**wanted: Any) -> list[str]:
    """The command of a server written by hand, which starts in no time; see there for what it can do."""
    return [sys.executable, RAW, json.dumps(wanted)]


@cache  # each asks a server, which takes a second to start
def tools(**options: Any) -> tuple[BaseTool, ...]:
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return tuple(make_tools(["mcp:fixture"], {"mcp:fixture": {"command": COMMAND, **options}}))


def box(tool_set: ToolSet, budget: Budget | None = None, context: AttemptContext | None = None) -> Toolbox:
    return tool_set.open(Meter(budget or Budget()), len, context)


async def fails_with(kind: FaultKind, opened: Toolbox, name: str, **arguments: Any) -> str:
    result = await opened.call(ToolCall(name, arguments))
    assert result.fault is kind, result
    return result.text


async def text(opened: Toolbox, name: str, **arguments: Any) -> str:
    result = await opened.call(ToolCall(name, arguments))
    assert result.fault is None, result
    return result.text


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
