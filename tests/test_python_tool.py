from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable

import pytest

from helpers.started import open_box, runner_of, started
from testbed.errors import FaultKind, SandboxDied, ToolFault, UnknownName, UsageError
from testbed.sandbox import Result
from testbed.sandbox_tool import printed
from testbed.tool import NO_OUTPUT, Toolbox, ToolSet
from testbed.tools.python import Python
from testbed.types import ToolResult

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture
async def tools() -> AsyncIterator[ToolSet]:
    async with started(Python(timeout=1.0, memory_mib=128, slots=2)) as opened:
        yield opened


run = runner_of("python")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print(1234 * 5678)", "7006652"),
        ("print('a')\nprint('b')", "a\nb"),
        ("print('  kept  ')", "  kept  "),
        ("6 * 7", NO_OUTPUT),
        ("", NO_OUTPUT),
        ("print()", NO_OUTPUT),
        ("exit()", NO_OUTPUT),
        ("import sys; print('warned', file=sys.stderr); print(1)", "1"),
        ("print('äß漢🙂')", "äß漢🙂"),
        ("if __name__ == '__main__': print('main')", "main"),
    ],
)
async def test_result_is_what_was_printed(box: Toolbox, code: str, text: str) -> None:
    assert await run(box, code) == ToolResult("python", text)


NULL_BYTES = "SyntaxError" if sys.version_info >= (3, 11, 4) else "ValueError"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1/0", "ZeroDivisionError: division by zero"),
        ("def f():\n  raise KeyError('k')\nf()", "KeyError: 'k'"),
        ("print(", "SyntaxError: '(' was never closed"),
        ("raise ValueError('two\\nlines')", "ValueError: two\nlines"),
        ("print('so far'); 1/0", "ZeroDivisionError: division by zero\nIt printed before:\nso far"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import sys; sys.exit('said')", "said"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("print('a\0b')", f"{NULL_BYTES}: source code string cannot contain null bytes"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
    ],
)
async def test_a_failing_program_is_the_models_execution_error(box: Toolbox, code: str, text: str) -> None:
    assert await run(box, code) == ToolResult("python", f"error: execution_error: {text}", FaultKind.EXECUTION_ERROR)


async def test_too_much_memory_is_an_execution_error(box: Toolbox) -> None:
    result = await run(box, "x = [0] * 10**9")
    assert result.fault is FaultKind.EXECUTION_ERROR
    assert "MemoryError" in result.text


async def test_too_much_time_is_a_timeout_and_the_next_call_works(box: Toolbox) -> None:
    started = time.perf_counter()
    result = await run(box, "print('begun', flush=True)\nwhile True: pass")
    assert time.perf_counter() - started < 4
    assert result.fault is FaultKind.TIMEOUT
    assert result.text == "error: timeout: stopped after 1 s\nIt printed before:\nbegun"
    assert (await run(box, "print(1)")).text == "1"


async def test_nothing_survives_a_call(box: Toolbox) -> None:
    assert (await run(box, "x = 1\nopen('left', 'w').write('behind')")).fault is None
    assert "NameError" in (await run(box, "print(x)")).text
    assert "FileNotFoundError" in (await run(box, "open('left')")).text


@pytest.mark.parametrize("message", ["raise ValueError('x' * 10**6)", "print('y' * 10**6); raise ValueError('short')"])
async def test_long_complaints_are_cut(box: Toolbox, message: str) -> None:
    result = await run(box, message)
    assert result.text.startswith("error: execution_error: ValueError: ")
    assert len(result.text) < 3_000


async def test_a_flood_of_error_lines_is_cut_to_a_complaint() -> None:
    """Waited for, however long a busy machine takes to write it: with a second for it, that was a timeout at times."""
    async with started(Python(timeout=60.0, memory_mib=128, slots=1)) as patient:
        box = open_box(patient)
        result = await run(box, "import sys\nfor n in range(100_000): print(n, file=sys.stderr)\nsys.exit(1)")
        await box.aclose()
    assert result.fault is FaultKind.EXECUTION_ERROR
    assert result.text.startswith("error: execution_error: 0\n1\n2\n")
    assert len(result.text) < 600


def test_a_complaint_is_looked_for_once_in_each_line() -> None:
    """However many lines there are: eight times as many take eight times as many steps, and not sixty-four."""
    steps = []
    for lines in (1_000, 8_000):
        seen = 0

        def count(*_: object) -> Callable[..., object]:
            nonlocal seen
            seen += 1
            return count

        failed = Result("error", 1, "", "\n".join(map(str, range(lines))), 0, 0, 1.0)
        before = sys.gettrace()
        sys.settrace(count)
        try:
            with contextlib.suppress(ToolFault):
                printed(failed)
        finally:
            sys.settrace(before)
        steps.append(seen)
    assert steps[0] > 1_000
    assert steps[1] < 9 * steps[0]


async def test_half_a_surrogate_pair_does_no_harm(box: Toolbox) -> None:
    assert (await run(box, "print(len('\ud800'))")).text == "1"


async def test_an_attempt_keeps_its_sandbox_while_nobody_waits(tools: ToolSet) -> None:
    one = open_box(tools)
    await run(one, "print(1)")
    (queue,) = tools.offers["python"].tool._queues.values()  # type: ignore[attr-defined]
    (first,) = queue._idle.values()
    await run(one, "print(2)")
    assert list(queue._idle.values()) == [first]
    await one.aclose()
    assert not queue._idle


async def test_two_attempts_never_share_a_sandbox(tools: ToolSet) -> None:
    one, two = open_box(tools), open_box(tools)
    await run(one, "print(1)")
    await run(two, "print(1)")
    (queue,) = tools.offers["python"].tool._queues.values()  # type: ignore[attr-defined]
    assert len(set(map(id, queue._idle.values()))) == 2
    await one.aclose()
    await two.aclose()


async def test_attempts_that_think_do_not_starve_the_others(tools: ToolSet) -> None:
    """Twelve attempts under way on two slots, all of which stay open until the last has had its second turn."""
    boxes = [open_box(tools) for _ in range(12)]
    for turn in range(2):
        answers = await asyncio.gather(*(run(box, f"print({number}, {turn})") for number, box in enumerate(boxes)))
        assert [answer.text for answer in answers] == [f"{number} {turn}" for number in range(12)]
    for box in boxes:
        await box.aclose()


async def test_waiting_for_a_slot_is_not_the_models_timeout() -> None:
    tools = ToolSet([Python(timeout=1.0, slots=1)])
    boxes = [open_box(tools) for _ in range(5)]  # the last of which waits longer than that
    answers = await asyncio.gather(*(run(box, "import time; time.sleep(.3); print(1)") for box in boxes))
    assert [answer.fault for answer in answers] == [None] * 5
    await tools.aclose()


async def test_a_cancelled_call_gives_its_slot_back() -> None:
    tools = ToolSet([Python(timeout=5, slots=1)])
    one, two = open_box(tools), open_box(tools)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(one, "import time; time.sleep(4)"), 1.0)
    assert (await asyncio.wait_for(run(two, "print(1)"), 4)).text == "1"
    await tools.aclose()


def test_one_tool_serves_several_event_loops() -> None:
    tool = Python(slots=1)

    async def once() -> str:
        try:
            return await tool._arun("print('here')")
        finally:
            await tool.aclose()

    assert [asyncio.run(once()) for _ in range(2)] == ["here", "here"]


def test_a_dead_sandbox_is_the_infrastructures_fault() -> None:
    with pytest.raises(SandboxDied, match="the worker is gone"):
        printed(Result("sandbox_died", None, "", "", 0, 0, 1.0, "the worker is gone"))


@pytest.mark.parametrize("status", ["oom", "killed"])
def test_other_ends_are_told_in_the_sandboxs_words(status: str) -> None:
    with pytest.raises(ToolFault, match="used more than it may") as caught:
        printed(Result(status, None, "", "forged: Error\n", 0, 0, 1.0, "used more than it may"))  # type: ignore[arg-type]
    assert caught.value.kind is FaultKind.EXECUTION_ERROR


def test_fingerprint_names_what_can_change_a_result() -> None:
    mine = Python().fingerprint()
    json.dumps(mine)
    assert "python-3" in mine["sandbox"]
    assert mine == Python(slots=3).fingerprint()
    assert mine != Python(timeout=9).fingerprint()
    assert mine != Python(memory_mib=64).fingerprint()


@pytest.mark.parametrize("options", [{"slots": 0}, {"timeout": 0}, {"timeout": -1}, {"memory_mib": 1}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Python(**options)  # type: ignore[arg-type]


async def test_an_unknown_sandbox_is_refused_before_the_run() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'bwrap'"):
        await Python(sandbox="bwarp").start()
