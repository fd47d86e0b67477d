"""Other people's coroutines: whatever they do, it ends or holds up nothing but their own call."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool

from helpers.mcp_fixture import box
from testbed import offer
from testbed.errors import FaultKind, TransportError
from testbed.own_loop import OwnLoop
from testbed.results import NO_OUTPUT
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Control, ToolCall, ToolResult
from testbed.wrappers import under_control


class Odd(BaseException):
    pass


def as_tool(function: Callable[..., Any], **kind: Any) -> BaseTool:
    given = kind or ({"coroutine": function} if asyncio.iscoroutinefunction(function) else {"func": function})
    return StructuredTool.from_function(**given, name="t", description="d")


async def asked(tool: BaseTool, control: Control = Control.LIVE, key: int = 0, **arguments: Any) -> ToolResult:
    tool_set = ToolSet(under_control([tool], control))
    await tool_set.start()
    try:
        return await box(tool_set, context=AttemptContext(key)).call(ToolCall("t", arguments))
    finally:
        await tool_set.aclose()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer, "FOREIGN_TIMEOUT", 0.3)


@pytest.mark.parametrize("control", [Control.LIVE, Control.INERT])
@pytest.mark.parametrize(
    "raised",
    [SystemExit(0), SystemExit(3), KeyboardInterrupt(), Odd(), asyncio.CancelledError(), GeneratorExit()],
    ids=repr,
)
async def test_what_a_coroutine_raises_is_the_result_of_its_call(raised: BaseException, control: Control) -> None:
    async def run() -> str:
        await asyncio.sleep(0)
        raise raised

    result = await asked(as_tool(run), control)
    assert result.fault is FaultKind.EXECUTION_ERROR
    assert (type(raised).__name__ in result.text) is (control is Control.LIVE)


async def test_a_task_that_a_coroutine_left_behind_may_exit_too() -> None:
    async def leave() -> None:
        sys.exit(5)

    async def run() -> str:
        run.left = asyncio.create_task(leave())  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        return "fine"

    result = await asked(as_tool(run))
    assert (result.fault, result.text) == (None, "fine")


@pytest.mark.usefixtures("hurried")
async def test_a_coroutine_that_blocks_costs_its_own_call_and_no_others_time() -> None:
    release = threading.Event()

    async def run(block: bool) -> str:
        await asyncio.sleep(0)
        return str(release.wait(20)) if block else "fine"

    tool_set = ToolSet([as_tool(run)])
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.02)
            beats += 1

    beating = asyncio.create_task(beat())
    began = time.monotonic()
    result = await box(tool_set).call(ToolCall("t", {"block": True}))
    assert result.fault is FaultKind.TIMEOUT
    assert beats >= 5  # the run went on meanwhile
    await asyncio.sleep(0.7)
    assert (await box(tool_set).call(ToolCall("t", {"block": False}))).text == "fine"  # on another loop
    await tool_set.aclose()
    assert time.monotonic() - began < 6
    beating.cancel()
    release.set()


@pytest.mark.usefixtures("hurried")
async def test_a_coroutine_that_withstands_being_cancelled_times_out_and_lets_the_run_end() -> None:
    async def run() -> str:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    began = time.monotonic()
    assert (await asked(as_tool(run))).fault is FaultKind.TIMEOUT
    assert time.monotonic() - began < 5


async def test_calls_that_another_one_holds_up_are_nobodys_fault() -> None:
    release = threading.Event()
    own = OwnLoop()

    async def block() -> None:
        await asyncio.sleep(0.05)  # until the other one has begun
        release.wait(20)

    async def patient() -> str:
        await asyncio.sleep(0.2)
        return "fine"

    blocked = asyncio.create_task(own.run(block, 0.5))
    await asyncio.sleep(0)
    held_up = asyncio.create_task(own.run(patient, 0.3))  # its time is over first
    await asyncio.sleep(0.2)
    late = asyncio.create_task(own.run(patient, 0.3))  # which the blocked loop never begins
    with pytest.raises(TimeoutError):
        await blocked
    with pytest.raises(TransportError, match="another call blocked"):
        await held_up
    assert await late == "fine"
    release.set()
    await own.aclose()


async def test_calls_that_all_block_for_ever_all_end_and_are_begun_once() -> None:
    release, begun = threading.Event(), 0
    own = OwnLoop()

    async def block() -> None:
        nonlocal begun
        begun += 1
        release.wait(20)

    ended = await asyncio.gather(*(own.run(block, 0.1) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in ended] == [TimeoutError] * 3
    assert begun == 3
    release.set()
    await own.aclose()


async def test_calls_that_block_for_a_while_do_not_add_up_to_a_timeout() -> None:
    own = OwnLoop()

    async def slow() -> str:
        await asyncio.sleep(0)
        time.sleep(0.1)
        return "fine"

    assert await asyncio.gather(*(own.run(slow, 0.3) for _ in range(8))) == ["fine"] * 8
    await own.aclose()


@pytest.fixture
async def own_loop() -> AsyncIterator[OwnLoop]:
    own = OwnLoop()
    yield own
    await own.aclose()


async def test_calls_share_one_loop_so_that_clients_that_they_share_go_on_working(own_loop: OwnLoop) -> None:
    async def where() -> tuple[int, int]:
        return id(asyncio.get_running_loop()), threading.get_ident()

    first, second = await own_loop.run(where), await own_loop.run(where)
    assert first == second
    assert first[1] != threading.get_ident()


async def test_a_cancelled_call_is_cancelled_where_it_runs(own_loop: OwnLoop) -> None:
    ended = threading.Event()

    async def run() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    call = asyncio.create_task(own_loop.run(run))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(ended.wait, 5)


# -- the placebo


async def paris(number: int) -> str:
    """Tells."""
    return f'{{"city": "Paris", "people": {number}}}'


def sync_paris(number: int) -> str:
    return f'{{"city": "Paris", "people": {number}}}'


@pytest.mark.parametrize("function", [paris, sync_paris])
async def test_the_placebo_of_a_langchain_tool_keeps_shape_and_length_and_says_nothing(
    function: Callable[..., Any],
) -> None:
    live = await asked(as_tool(function), number=2_102_650)
    one, again, other = [await asked(as_tool(function), Control.INERT, key, number=2_102_650) for key in (1, 1, 2)]
    assert one == again != other
    for blank in (one.text, other.text):
        assert len(blank) == len(live.text)
        assert [c for c in blank if not c.isalnum()] == [c for c in live.text if not c.isalnum()]
        assert "Paris" not in blank
        assert "2102650" not in blank


async def test_the_placebo_fails_and_is_empty_where_the_live_tool_is() -> None:
    def fail() -> str:
        raise ValueError("no page 42")

    def lose() -> str:
        raise ConnectionError("gone")

    failed = await asked(as_tool(fail), Control.INERT)
    assert failed.fault is FaultKind.EXECUTION_ERROR
    assert len(failed.text) == len((await asked(as_tool(fail))).text)
    assert "page" not in failed.text
    assert (await asked(as_tool(lambda: None), Control.INERT)).text == NO_OUTPUT
    with pytest.raises(TransportError):
        await asked(as_tool(lose), Control.INERT)


def test_the_placebo_of_another_tool_is_another_arm() -> None:
    def identity(function: Callable[..., Any]) -> list[dict[str, Any]]:
        return ToolSet(under_control([as_tool(function)], Control.INERT)).fingerprint()

    assert identity(sync_paris) == identity(sync_paris) != identity(paris)
