from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator

import pytest

from helpers.started import open_box, runner_of, started
from testbed.errors import FaultKind
from testbed.sandbox_tool import STATE_LOST
from testbed.tool import NO_OUTPUT, Toolbox, ToolSet
from testbed.tools.python_repl import PythonRepl
from testbed.types import ToolResult

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture
async def tools() -> AsyncIterator[ToolSet]:
    async with started(PythonRepl(timeout=1.0, memory_mib=128, slots=3)) as opened:
        yield opened


run = runner_of("python_repl")


@pytest.mark.parametrize(
    ("code", "text"), [("6 * 7", "42"), ("print('a')\n'b'", "a\n'b'"), ("x = 1", NO_OUTPUT), ("", NO_OUTPUT)]
)
async def test_result_is_what_was_printed_and_the_last_value(box: Toolbox, code: str, text: str) -> None:
    assert await run(box, code) == ToolResult("python_repl", text)


async def test_later_calls_of_an_attempt_see_what_earlier_ones_defined(box: Toolbox) -> None:
    await run(box, "def f(n): return n + 1")
    assert (await run(box, "f(41)")).text == "42"


async def test_an_exception_is_the_models_and_keeps_the_state(box: Toolbox) -> None:
    result = await run(box, "x = 1\nprint('so far')\n1 / 0")
    text = "error: execution_error: ZeroDivisionError: division by zero\nIt printed before:\nso far"
    assert result == ToolResult("python_repl", text, FaultKind.EXECUTION_ERROR)
    assert (await run(box, "x")).text == "1"


async def test_too_much_time_is_a_timeout_that_keeps_the_state(box: Toolbox) -> None:
    await run(box, "x = 1")
    result = await run(box, "while True: pass")
    assert (result.fault, result.text) == (FaultKind.TIMEOUT, "error: timeout: stopped after 1 s")
    assert (await run(box, "x")).text == "1"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("exit()", None),
        ("import os; os.kill(os.getpid(), 9)", FaultKind.EXECUTION_ERROR),
        ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", FaultKind.TIMEOUT),
    ],
)
async def test_the_model_is_told_when_its_state_is_lost(box: Toolbox, code: str, fault: FaultKind | None) -> None:
    result = await run(box, code)
    assert result.fault is fault
    assert result.text.endswith(STATE_LOST)
    assert STATE_LOST not in (await run(box, "1")).text


async def test_attempts_share_no_state(tools: ToolSet) -> None:
    one, two = open_box(tools), open_box(tools)
    await run(one, "x = 1")
    assert "NameError" in (await run(two, "x")).text
    await one.aclose()
    await two.aclose()


async def test_an_attempt_never_loses_its_state_to_one_that_waits(tools: ToolSet) -> None:
    """Six attempts on three slots: each holds its sandbox to its end, and the others wait their turn."""

    async def attempt(number: int) -> str:
        box = open_box(tools)
        await run(box, f"x = {number}")
        await asyncio.sleep(0.05)  # the model thinks
        text = (await run(box, "x")).text
        await box.aclose()
        return text

    assert await asyncio.gather(*map(attempt, range(6))) == [str(number) for number in range(6)]
