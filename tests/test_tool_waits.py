"""A tool's wait for a place that others have is none of the attempt's seconds; what the tool then does is."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from helpers.mcp_fixture import raw
from helpers.runs import SAY_AND_ECHO, registered, run
from testbed.budget import Budget, Meter
from testbed.errors import UsageError
from testbed.experiment_file import parse_experiment
from testbed.protocol import write_answer, write_call
from testbed.registry import make_tools
from testbed.threads import DaemonThreads
from testbed.tool import AttemptContext, Tool, Toolbox, ToolSet
from testbed.tools.python import Python
from testbed.types import Control, ToolCall
from testbed.wrappers import under_control

Log = list[str]


def waiting(log: Log, who: str) -> Callable[[], AbstractContextManager[None]]:
    """An attempt's clock, which notes when it stands."""

    @contextmanager
    def off_clock() -> Iterator[None]:
        log.append(f"{who} waits")
        yield
        log.append(f"{who} has its turn")

    return off_clock


def box(tools: ToolSet, log: Log, who: str) -> Toolbox:
    return tools.open(Meter(Budget()), len, AttemptContext(len(who), off_clock=waiting(log, who)))


async def told(log: Log, what: str) -> None:
    async with asyncio.timeout(30):
        while what not in log:
            await asyncio.sleep(0.001)


class Gate(Tool):
    """Says that it works, and waits to be let through."""

    name: str = "gate"
    description: str = "Waits."
    log: Any = None
    opened: Any = None

    def _run(self) -> str:
        self.log.append("works")
        assert self.opened.wait(30)
        return "through"


class Foreign(BaseTool):
    """The same, and knows nothing of attempts."""

    name: str = "foreign"
    description: str = "Waits."
    log: Any
    opened: Any

    def _run(self) -> str:
        self.log.append("works")
        assert self.opened.wait(30)
        return "through"


@pytest.mark.parametrize(
    ("kind", "control"), [(Gate, Control.LIVE), (Foreign, Control.LIVE), (Foreign, Control.INERT)], ids=str
)
async def test_a_call_waits_for_a_thread_off_the_clock_and_works_on_it(kind: Any, control: Control) -> None:
    opened, log = threading.Event(), Log()
    (tool,) = under_control([kind(log=log, opened=opened)], control)
    tools = ToolSet([tool])
    if control is Control.LIVE:
        tools.threads = DaemonThreads(1)
    else:
        tool._threads = DaemonThreads(1)
    first = asyncio.create_task(box(tools, log, "first").call(ToolCall(tool.name, {})))
    await told(log, "works")
    second = asyncio.create_task(box(tools, log, "second").call(ToolCall(tool.name, {})))
    await told(log, "second waits")
    assert log == ["first waits", "first has its turn", "works", "second waits"]
    opened.set()
    await asyncio.gather(first, second)
    assert log[4:] == ["second has its turn", "works"]
    await tools.aclose()


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
async def test_a_program_waits_for_a_sandbox_off_the_clock_and_runs_on_it() -> None:
    tools, log = ToolSet([Python(slots=1)]), Log()
    await tools.start()

    async def attempt(who: str) -> None:
        opened = box(tools, log, who)
        result = await opened.call(ToolCall("python", {"code": "import time; time.sleep(.2); print(1)"}))
        assert result.text == "1"
        log.append(f"{who} is done")
        await opened.aclose()

    await asyncio.gather(attempt("first"), attempt("second"))
    assert log == [
        *("first waits", "second waits", "first has its turn", "first is done"),
        *("second has its turn", "second is done"),
    ]
    await tools.aclose()


async def test_a_call_waits_for_a_server_off_the_clock_and_is_answered_on_it() -> None:
    pytest.importorskip("langchain_mcp_adapters", reason="pip install 'capability-testbed[mcp]'")
    options = {"command": raw(), "slots": 1, "per_attempt": True}
    tools, log = ToolSet(make_tools(["mcp:fixture"], {"mcp:fixture": options})), Log()
    first, second = box(tools, log, "first"), box(tools, log, "second")
    assert (await first.call(ToolCall("t", {"a": 1}))).text == '{"a": 1}'
    assert (await first.call(ToolCall("t", {"a": 2}))).text == '{"a": 2}'  # by the server that it has
    late = asyncio.create_task(second.call(ToolCall("t", {"a": 3})))
    await told(log, "second waits")
    assert log == ["first waits", "first has its turn"] * 2 + ["second waits"]
    await first.aclose()
    assert (await late).text == '{"a": 3}'
    assert log[5:] == ["second has its turn"]
    await second.aclose()
    await tools.aclose()


async def test_the_placebo_of_a_servers_tool_waits_for_a_server_off_the_clock_like_the_tool() -> None:
    pytest.importorskip("langchain_mcp_adapters", reason="pip install 'capability-testbed[mcp]'")
    options = {"command": raw(), "slots": 1, "per_attempt": True}
    live = make_tools(["mcp:fixture"], {"mcp:fixture": options})
    tools, inert, log = ToolSet(live), ToolSet(under_control(live, Control.INERT)), Log()
    first, second = box(tools, Log(), "first"), box(inert, log, "second")
    assert (await first.call(ToolCall("t", {"a": 1}))).text == '{"a": 1}'
    late = asyncio.create_task(second.call(ToolCall("t", {"a": 3})))
    await told(log, "second waits")
    await asyncio.sleep(0.3)
    assert log == ["second waits"]
    await first.aclose()
    assert (await late).fault is None
    assert log == ["second waits", "second has its turn"]
    await inert.aclose()


async def test_whoever_leaves_the_line_for_a_thread_leaves_no_gap_in_it() -> None:
    threads, opened = DaemonThreads(1), threading.Event()
    first = asyncio.create_task(threads.run(opened.wait))
    await asyncio.sleep(0)
    leaving, called, staying = (asyncio.create_task(threads.run(lambda: 3)) for _ in range(3))
    await asyncio.sleep(0)
    leaving.cancel()  # while it waits
    first.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(called.cancel))  # when its turn comes
    opened.set()
    assert await asyncio.wait_for(staying, 30) == 3
    assert leaving.cancelled()
    assert await asyncio.wait_for(threads.run(lambda: 4), 30) == 4
    threads.close()


class Queue(Tool):
    """Waits long for its turn, or takes as long."""

    name: str = "queue"
    description: str = "Takes its time."
    waits: bool = True
    _context: AttemptContext = PrivateAttr()

    def for_attempt(self, context: AttemptContext) -> Tool:
        mine = self.model_copy()
        mine._context = context
        return mine

    async def _arun(self) -> str:
        with self._context.off_clock() if self.waits else open_ended():
            await asyncio.sleep(1.5)
        return "done"


@contextmanager
def open_ended() -> Iterator[None]:
    yield


@pytest.mark.parametrize("waits", [True, False])
async def test_a_limit_of_seconds_holds_for_work_and_not_for_waits(waits: bool, tmp_path: Path) -> None:
    arm, options = {"name": "queue", "tools": ["queue"]}, {"queue": {"waits": waits}}
    data = {
        **{"name": "test", "samples": 2, "model": {"id": "scripted", "replies": ["unused"]}},
        **{"env": [{"id": "Say-v0", "tasks": 1}], "arm": [arm], "budget": {"seconds": 1.0}, "tool": options},
    }
    replies = [write_call("queue", {}), write_answer("0")]
    with registered(SAY_AND_ECHO, sys.modules[__name__]):
        _, attempts = await run(replies, parse_experiment(data), tmp_path / "s.sqlite")
    assert {attempt.ended for attempt in attempts.values()} == {"answered" if waits else "limit:seconds"}
    assert all((attempt.cost.seconds < 1) == waits for attempt in attempts.values())


class Threaded(Queue):
    """Waits for its turn in its thread, where that cannot be told."""

    name: str = "threaded"
    _arun = Tool._arun

    def _run(self) -> str:
        with self._context.off_clock():
            return "done"


async def test_a_wait_that_cannot_be_told_ends_the_run_and_is_no_fault_of_the_model(tmp_path: Path) -> None:
    data = {
        **{"name": "test", "samples": 1, "model": {"id": "scripted", "replies": ["unused"]}},
        **{"env": [{"id": "Say-v0", "tasks": 1}], "arm": [{"name": "arm", "tools": ["threaded"]}]},
    }
    replies = [write_call("threaded", {}), write_answer("0")]
    with registered(SAY_AND_ECHO, sys.modules[__name__]), pytest.raises(UsageError, match="in `_arun` only"):
        await run(replies, parse_experiment(data), tmp_path / "s.sqlite")
