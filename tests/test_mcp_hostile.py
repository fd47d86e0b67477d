"""MCP servers that break rules: what they leave behind, what they write, what they offer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import BaseTool

from helpers.mcp_fixture import box, raw, runs, text
from helpers.processes import talking
from testbed.errors import TransportError, UsageError
from testbed.mcp import stdio
from testbed.registry import make_tools
from testbed.tool import ToolSet
from testbed.types import ToolCall

pytest.importorskip("langchain_mcp_adapters", reason="pip install 'capability-testbed[mcp]'")

NUMBER = {"type": "object", "properties": {"x": {"type": "integer"}}}


def made(options: dict[str, Any] | None = None, **wanted: Any) -> list[BaseTool]:
    return make_tools(["mcp:raw"], {"mcp:raw": {"command": raw(**wanted), "timeout": 5.0, **(options or {})}})


async def gone(*processes: int, within: float = 8.0) -> bool:
    until = time.monotonic() + within
    while any(map(runs, processes)) and time.monotonic() < until:
        await asyncio.sleep(0.05)
    return not any(map(runs, processes))


async def test_what_a_server_started_in_a_session_of_its_own_ends_with_it() -> None:
    tool_set = ToolSet(made(do="daemon"))
    server, daemon = map(int, (await text(box(tool_set), "t")).split())
    assert runs(daemon)
    os.kill(server, signal.SIGKILL)
    assert await gone(daemon)
    with pytest.raises(TransportError):
        await box(tool_set).call(ToolCall("t", {}))
    server, daemon = map(int, (await text(box(tool_set), "t")).split())
    await tool_set.aclose()
    assert not runs(server)
    assert await gone(daemon, within=0.5)


HOST = """
import asyncio, os, sys
from testbed.registry import make_tool
async def main():
    tool = make_tool("mcp:raw", command={command!r})
    await tool.start()
    print(await tool.ainvoke({{}}), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_a_host_that_is_killed_leaves_no_servers_behind() -> None:
    with talking([sys.executable, "-c", HOST.format(command=raw(do="daemon"))]) as (host, line):
        server, daemon = map(int, line.split())
        assert runs(server)
        assert runs(daemon)
        host.kill()
    assert await gone(server, daemon)


async def test_a_server_ends_with_its_warden() -> None:
    tool_set = ToolSet(made(do="daemon"))
    server, _ = map(int, (await text(box(tool_set), "t")).split())
    warden = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    assert warden != os.getpid()
    daemon = int((await text(box(tool_set), "t")).split()[1])
    os.kill(warden, signal.SIGKILL)
    assert await gone(server)
    os.kill(daemon, signal.SIGKILL)  # which nobody was left to end, as docs/tools_mcp.md says
    await tool_set.aclose()


ENDLESS = """
from testbed.errors import UsageError
from testbed.mcp import stdio
from testbed.registry import make_tool
stdio.LONGEST_LINE = 2**40
try:
    make_tool("mcp:raw", command={command!r}, start_timeout=0.7)
except UsageError as error:
    print(error)
"""


async def test_a_server_that_is_given_up_leaves_no_complaints_on_the_screen() -> None:
    script = ENDLESS.format(command=raw(do="endless"))
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert "mcp:raw: no MCP server answers" in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
async def test_a_server_that_ignores_every_request_to_leave_is_killed() -> None:
    tool_set = ToolSet(made(do="stays"))
    server = int(await text(box(tool_set), "t"))
    began = time.monotonic()
    await tool_set.aclose()
    assert time.monotonic() - began < 9
    assert not runs(server)


@pytest.mark.parametrize(
    ("content", "shown"),
    [('"caf\xe9"', "caf\ufffd"), ('"half \\ud800 pair"', "half \ufffd pair"), ('"\\ud83d\\ude00"', "😀")],
)
async def test_answers_that_are_no_proper_text_arrive_all_the_same(content: str, shown: str) -> None:
    say = '{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":' + content + "}]}}"
    tool_set = ToolSet(made(say=say))
    assert await text(box(tool_set), "t") == shown
    await tool_set.aclose()


@pytest.mark.parametrize(
    "say",
    ['{"jsonrpc":"2.0","id":ID,"result":', '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}'],
)
async def test_a_message_that_cannot_be_read_is_the_servers_fault_and_told_at_once(say: str) -> None:
    tool_set = ToolSet(made(say=say))
    began = time.monotonic()
    with pytest.raises(TransportError, match=r"no MCP message .*jsonrpc"):
        await box(tool_set).call(ToolCall("t", {}))
    assert time.monotonic() - began < 4  # before the timeout, which would be the model's fault
    await tool_set.aclose()


async def test_a_line_without_end_is_not_collected_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "LONGEST_LINE", 2**23)
    with pytest.raises(UsageError, match="a line of more than 8 MiB"):
        await asyncio.to_thread(made, do="endless")


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([["a", NUMBER], ["a", {}]], "'a' is listed twice"),
        ([["a", NUMBER], ["", NUMBER]], "'' has no name"),
        ([["a", NUMBER], ["b.c", NUMBER], ["b_c", NUMBER]], "'b_c' would be offered by the same name as 'b.c'"),
        ([["a", NUMBER], ["b", {"$ref": "#/no"}]], "'b' cannot be used: the schema of its arguments refers to '#/no'"),
        ([["a", NUMBER], ["b", {"type": "objekt"}]], "'b' cannot be used: .* is not a JSON schema"),
    ],
)
def test_a_tool_that_cannot_be_offered_is_named_with_its_server_and_can_be_left_out(
    tools: list[Any], says: str
) -> None:
    with pytest.raises(UsageError, match=rf"mcp:raw: the server's tool {says}.*; leave it out with offer = "):
        made(tools=tools)
    if tools[1][0] != "a":
        assert [tool.name for tool in made({"offer": ["a"]}, tools=tools)] == ["a"]


@pytest.mark.parametrize("schema", [{"type": "object"}, {"type": "object", "anyOf": [NUMBER, {"required": ["y"]}]}])
async def test_a_schema_that_forbids_nothing_lets_arguments_through(schema: dict[str, Any]) -> None:
    tool_set = ToolSet(made(tools=[["t", schema]]))
    assert await text(box(tool_set), "t", x=1) == '{"x": 1}'
    await tool_set.aclose()
