"""Calls of real MCP servers, started by the tests."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from helpers.mcp_fixture import COMMAND, box, fails_with, runs, text, tools
from helpers.processes import gone
from testbed.budget import Budget
from testbed.errors import FaultKind, TransportError
from testbed.protocol import write_call
from testbed.registry import make_env, make_tools
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Control, ToolCall
from testbed.wrappers import under_control

pytest.importorskip("langchain_mcp_adapters", reason="pip install 'capability-testbed[mcp]'")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[ToolSet]:
    """Tools whose server is started once; a test that ends it finds it replaced."""
    tool_set = ToolSet(tools(timeout=8.0))
    yield tool_set
    await tool_set.aclose()


@pytest.mark.asyncio(loop_scope="module")
async def test_calls_are_answered_over_stdio_and_arguments_checked_before_the_server_sees_them(shared: ToolSet) -> None:
    opened = box(shared)
    assert await text(opened, "add", a=2, b=3) == "5"
    assert await text(opened, "reach", points=[{"x": 1, "y": 2}, {"x": 3, "y": 4}]) == "10"
    assert await text(opened, "where", runtime="here") == "here"
    assert await text(opened, "dotted_name_with_slash") == "dotted"
    assert "b: 'x' is not of type 'integer'" in await fails_with(FaultKind.INVALID_ARGS, opened, "add", a=1, b="x")
    assert "'b' is a required" in await fails_with(FaultKind.INVALID_ARGS, opened, "add", a=1)
    assert "Did you mean 'b'" in await fails_with(FaultKind.INVALID_ARGS, opened, "add", a=1, bb=1)
    deep = await fails_with(FaultKind.INVALID_ARGS, opened, "reach", points=[{"x": 1, "y": -1}])
    assert deep.startswith("error: invalid_args: points.0.y: ")
    assert "Did you mean 'add'" in await fails_with(FaultKind.TOOL_NOT_FOUND, opened, "ad")
    assert "no such file: page 42" in await fails_with(FaultKind.EXECUTION_ERROR, opened, "fail")


@pytest.mark.asyncio(loop_scope="module")
async def test_results_that_are_no_plain_text_are_described_and_long_ones_cut(shared: ToolSet) -> None:
    opened = box(shared)
    assert await text(opened, "picture") == "[image, image/png, 256 bytes]"
    assert await text(opened, "mixed") == "first\n[link to file:///tmp/a.bin: a.bin]\nof a file"
    assert (await text(opened, "odd")).startswith("nul")
    began = time.monotonic()
    long = await text(opened, "huge", megabytes=25)
    assert time.monotonic() - began < 8  # the mcp package's transport would take 25 s
    assert long.endswith("\n[24980000 more characters cut]")
    assert len(long) < 20_100


@pytest.mark.asyncio(loop_scope="module")
async def test_a_server_killed_in_mid_call_is_the_infrastructures_fault_and_replaced(shared: ToolSet) -> None:
    opened = box(shared)
    first = await text(opened, "process")
    with pytest.raises(TransportError, match=r"(?s)ended in mid-call.*out of coffee"):
        await opened.call(ToolCall("die", {}))
    second = await text(opened, "process")
    assert second != first
    os.kill(int(second), 9)  # between two calls: nobody's call was lost, but it is noticed by the next
    with pytest.raises(TransportError):
        await opened.call(ToolCall("process", {}))
    assert await text(opened, "add", a=1, b=1) == "2"


async def test_a_hanging_call_times_out_and_only_it_and_its_server_is_ended() -> None:
    tool_set = ToolSet(tools(timeout=1.5))
    opened, other = box(tool_set), box(tool_set)
    pid = int(await text(opened, "process"))
    began = time.monotonic()
    hung = asyncio.create_task(fails_with(FaultKind.TIMEOUT, opened, "hang"))
    await asyncio.sleep(0.1)
    assert await text(other, "add", a=1, b=1) == "2"  # by a second server
    assert await hung == "error: timeout: took longer than 1.5 s."
    assert time.monotonic() - began < 4
    assert await text(opened, "add", a=1, b=1) == "2"
    await tool_set.aclose()  # which waits until the one that hangs has been killed
    assert not runs(pid)


async def test_what_a_server_started_ends_with_it(tmp_path: Path) -> None:
    tool_set = ToolSet(tools(timeout=8.0))
    await text(box(tool_set), "spawn", pid_file=str(tmp_path / "pid"))
    child = int((tmp_path / "pid").read_text())
    assert runs(child)
    await tool_set.aclose()
    assert await gone({child}, 10)  # a killed process takes a moment to go


@pytest.mark.slow
async def test_closing_in_mid_call_ends_the_server_and_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tool_set = ToolSet(tools(timeout=60.0))
    pid = int(await text(box(tool_set), "process"))
    hung = asyncio.create_task(box(tool_set).call(ToolCall("hang", {})))
    await asyncio.sleep(0.3)
    hung.cancel()
    await tool_set.aclose()
    assert not runs(pid)
    assert caplog.records == []
    with pytest.raises(asyncio.CancelledError):
        await hung


async def test_attempts_share_a_server_unless_each_has_its_own() -> None:
    shared = ToolSet(tools(timeout=8.0))
    one, two = box(shared, context=AttemptContext(1)), box(shared, context=AttemptContext(1))
    assert await text(one, "note", text="a") == "a"
    assert await text(two, "note", text="b") == "a, b"
    await shared.aclose()
    own = ToolSet(tools(per_attempt=True, offer=("note", "process")))
    # Equal contexts: a retry of the same attempt must not find what the first try left.
    one, two = box(own, context=AttemptContext(1)), box(own, context=AttemptContext(1))
    assert await text(one, "note", text="a") == "a"
    assert await text(two, "note", text="b") == "b"
    assert await text(one, "note", text="c") == "a, c"
    pid = int(await text(one, "process"))  # of another tool, but the same attempt
    await one.aclose()
    assert await gone({pid}, 10)
    assert await text(two, "note", text="d") == "b, d"
    await two.aclose()
    await own.aclose()


@pytest.mark.slow
async def test_slots_bound_the_servers_and_waiting_for_one_is_no_timeout() -> None:
    tool_set = ToolSet(tools(per_attempt=True, slots=1, timeout=1.0, offer=("process",)))
    first = box(tool_set, context=AttemptContext(1))
    await text(first, "process")
    second = asyncio.create_task(text(box(tool_set, context=AttemptContext(2)), "process"))
    await asyncio.sleep(1.3)
    assert not second.done()
    await first.aclose()
    assert (await second).isdigit()
    await tool_set.aclose()


@pytest.mark.asyncio(loop_scope="module")
async def test_calls_are_budgeted_like_any_other(shared: ToolSet) -> None:
    opened = box(shared, Budget(tool_calls=3, calls={"add": 1}))
    await text(opened, "add", a=1, b=1)
    assert "no calls of add are left" in await fails_with(FaultKind.BUDGET_EXHAUSTED, opened, "add", a=1, b=1)
    await fails_with(FaultKind.EXECUTION_ERROR, opened, "fail")
    assert "budget is spent" in await fails_with(FaultKind.BUDGET_EXHAUSTED, opened, "process")


def test_a_gymnasium_environment_offers_them_and_leaves_no_server_behind() -> None:
    env = make_env(
        "Addition-v0",
        tools=["mcp:fixture"],
        tool_options={"mcp:fixture": {"command": COMMAND, "offer": ["add", "process"]}},
    )
    _, info = env.reset(seed=1)
    assert [offered["function"]["name"] for offered in info["tools"]] == ["add", "process"]
    assert env.step(write_call("add", {"a": 20, "b": 22}))[0]["text"].endswith("42")
    pid = int(env.step(write_call("process", {}))[0]["text"].split()[-1])
    assert runs(pid)
    env.close()
    assert not runs(pid)


@pytest.mark.slow
def test_a_program_that_forgets_to_close_leaves_no_server_behind(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from testbed.registry import make_tool\n"
        f"made = make_tool('mcp:x', command={COMMAND!r}, offer=['process'])\n"
        "print(asyncio.run(made.ainvoke({})))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not runs(int(done.stdout))


@pytest.mark.asyncio(loop_scope="module")
async def test_the_placebo_has_the_live_results_shape_and_says_nothing(shared: ToolSet) -> None:
    inert = ToolSet(under_control(tools(timeout=8.0), Control.INERT))
    assert inert.schemas == shared.schemas
    assert inert.fingerprint() != shared.fingerprint()
    live = await text(box(shared), "double", number=21)
    one, again, other = [await text(box(inert, context=AttemptContext(n)), "double", number=21) for n in (1, 1, 2)]
    assert one == again != other
    for blank in (one, other):
        assert len(blank) == len(live)
        assert [c for c in blank if not c.isalnum()] == [c for c in live if not c.isalnum()]
        assert not set(blank.replace("\n", " ").split()) & {"Twice", "is", "42.", "That"}
    await fails_with(FaultKind.INVALID_ARGS, box(inert), "double")
    failed = await fails_with(FaultKind.EXECUTION_ERROR, box(inert), "fail")
    assert "page" not in failed
    await inert.aclose()


async def test_yoked_replays_without_any_server() -> None:
    yoked = ToolSet(under_control(tools(timeout=8.0), Control.YOKED))
    await yoked.start()
    opened = box(yoked, context=AttemptContext(1, iter(["seen", "then"])))
    assert await text(opened, "add", a=1, b=1) == "seen"
    assert await text(opened, "fail") == "then"


# -- streamable HTTP


class HttpServer:
    """The fixture behind a port of the loopback."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([*COMMAND, "http", str(self.port)], stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("the server does not listen")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def http() -> Iterator[HttpServer]:
    server = HttpServer()
    yield server
    server.kill()


async def test_a_server_behind_a_url_is_called_lost_and_found_again(http: HttpServer) -> None:
    made = await asyncio.to_thread(make_tools, ["mcp:far"], {"mcp:far": {"url": http.url, "timeout": 2.0}})
    tool_set = ToolSet(made)
    await tool_set.start()
    opened = box(tool_set)
    assert await text(opened, "add", a=2, b=3) == "5"
    assert "page 42" in await fails_with(FaultKind.EXECUTION_ERROR, opened, "fail")
    with pytest.raises(TransportError):
        await opened.call(ToolCall("die", {}))
    with pytest.raises(TransportError):  # nobody listens there any more
        await opened.call(ToolCall("add", {"a": 2, "b": 3}))
    http.process.wait()
    http.start()
    assert await text(opened, "add", a=2, b=4) == "6"
    http.kill()
    http.start()
    with pytest.raises(TransportError):  # another process, which does not know the session
        await opened.call(ToolCall("add", {"a": 2, "b": 3}))
    assert await text(opened, "add", a=2, b=5) == "7"
    assert await fails_with(FaultKind.TIMEOUT, opened, "hang") == "error: timeout: took longer than 2 s."
    http.kill()
    await tool_set.aclose()
