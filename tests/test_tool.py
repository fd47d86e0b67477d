"""Calls: results, faults, foreign tools and metering."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool, ToolException, tool
from langchain_core.tools import Tool as SimpleTool

from helpers.calling import BOTH, AsyncCall, Call, call, characters, double, raising
from testbed.budget import Budget, Meter
from testbed.errors import FaultKind, SandboxDied, SandboxUnavailable, ToolFault, TransportError, UsageError
from testbed.protocol import parse
from testbed.tool import NO_OUTPUT, ToolSet
from testbed.types import ToolCall

# -- results


@BOTH
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("text", "text"),
        ("", ""),
        (None, NO_OUTPUT),
        (b"caf\xc3\xa9 \xff", "café \ufffd"),
        (bytearray(b"x"), "x"),
        (3, "3"),
        (True, "True"),
        ({"a": [1, None], "é": "ü"}, '{"a": [1, null], "é": "ü"}'),
        ((1, 2), "[1, 2]"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        ("half \ud800.", "half \ufffd."),
        ("pair \ud83d\ude42", "pair 🙂"),
        (["half \ud800"], '["half \ufffd"]'),
    ],
)
async def test_any_result_becomes_text_that_can_be_stored(kind: type[Call], value: Any, shown: str) -> None:
    result = await call([kind(does=lambda _: value)])
    assert (result.text, result.fault) == (shown, None)
    result.text.encode()


async def test_fifty_megabytes_are_cut_and_the_cut_is_stated() -> None:
    start = time.process_time()
    result = await call([Call(does=lambda _: "x" * 50_000_000)], result_chars=1000)
    assert result.text == "x" * 1000 + "\n[49999000 more characters cut]"
    assert time.process_time() - start < 2


async def test_artifacts_are_kept_from_the_model() -> None:
    assert (
        await call([Call(does=lambda _: ("shown", object()), response_format="content_and_artifact")])
    ).text == "shown"


# -- faults


@BOTH
@pytest.mark.parametrize(
    ("error", "kind_of_fault", "message"),
    [
        (ValueError("no such page"), FaultKind.EXECUTION_ERROR, "ValueError: no such page"),
        (ToolFault(FaultKind.INVALID_ARGS, "no such page"), FaultKind.INVALID_ARGS, "no such page"),
        (ToolException("nope"), FaultKind.EXECUTION_ERROR, "nope"),
        (TimeoutError("read timed out"), FaultKind.TIMEOUT, "call: read timed out."),
        (SystemExit(3), FaultKind.EXECUTION_ERROR, "SystemExit"),
        (StopIteration("end"), FaultKind.EXECUTION_ERROR, "StopIteration"),
        (asyncio.CancelledError(), FaultKind.EXECUTION_ERROR, "cancelled"),
        (RecursionError("too deep"), FaultKind.EXECUTION_ERROR, "too deep"),
        (ValueError("half \ud800"), FaultKind.EXECUTION_ERROR, "half \ufffd"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else "",
)
async def test_what_a_tool_raises_is_the_result_of_the_call(
    kind: type[Call], error: BaseException, kind_of_fault: FaultKind, message: str
) -> None:
    result = await call([kind(does=raising(error))])
    assert result.fault is kind_of_fault
    assert result.text.startswith(f"error: {kind_of_fault}: ")
    assert message.lower() in result.text.replace("Cancelled", "cancelled").lower()
    result.text.encode()


@BOTH
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError("gone"), TransportError),
        (BrokenPipeError("gone"), TransportError),
        (SandboxDied("gone"), SandboxDied),
        (SandboxUnavailable("install bubblewrap"), SandboxUnavailable),
    ],
)
async def test_faults_of_the_infrastructure_and_of_the_setup_are_not_the_models(
    kind: type[Call], error: Exception, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        await call([kind(does=raising(error))])


async def test_broken_connections_of_http_libraries_are_transport_errors() -> None:
    httpx = pytest.importorskip("httpx")
    with pytest.raises(TransportError, match="refused"):
        await call([Call(does=raising(httpx.ConnectError("refused")))])
    assert (await call([Call(does=raising(httpx.InvalidURL("bad")))])).fault is FaultKind.EXECUTION_ERROR


async def test_a_hanging_synchronous_tool_times_out_as_the_models_fault() -> None:
    release = threading.Event()
    result = await call([Call(does=lambda _: release.wait(), timeout=0.05)])
    release.set()
    assert result.fault is FaultKind.TIMEOUT
    assert result.text == "error: timeout: call: took longer than 0.05 s."


async def test_a_tool_without_a_limit_may_say_itself_that_it_took_too_long() -> None:
    result = await call([Call(does=raising(TimeoutError()), timeout=math.inf)])
    assert (result.fault, result.text) == (FaultKind.TIMEOUT, "error: timeout: call: timed out.")


async def test_a_hanging_asynchronous_tool_times_out_as_the_models_fault() -> None:
    result = await call([AsyncCall(does=lambda _: asyncio.sleep(1000), timeout=0.05)])
    assert result.fault is FaultKind.TIMEOUT
    assert result.text == "error: timeout: call: took longer than 0.05 s."


async def test_waiting_behind_other_attempts_is_not_the_models_timeout() -> None:
    toolset = ToolSet([Call(does=lambda _: time.sleep(0.06), timeout=0.5)])
    boxes = [toolset.open(Meter(Budget()), characters) for _ in range(100)]  # .75 s of work for 8 threads
    results = await asyncio.gather(*(box.call(ToolCall("call")) for box in boxes))
    await toolset.aclose()
    assert {result.fault for result in results} == {None}


@BOTH
async def test_an_attempt_that_is_cancelled_during_a_call_is_cancelled(kind: type[Call]) -> None:
    release = threading.Event()
    slow = (lambda _: release.wait()) if kind is Call else (lambda _: asyncio.sleep(1000))
    task = asyncio.create_task(call([kind(does=slow)]))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()


@BOTH
async def test_the_attempts_own_deadline_is_not_mistaken_for_the_tools(kind: type[Call]) -> None:
    release = threading.Event()
    slow = (lambda _: release.wait()) if kind is Call else (lambda _: asyncio.sleep(1000))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await call([kind(does=slow)])
    release.set()


@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_a_tool_without_time_is_refused(bad: float) -> None:
    with pytest.raises(UsageError, match="tool call: timeout must be above 0"):
        ToolSet([Call(timeout=bad)])


HANGS = """
import asyncio, threading
from langchain_core.tools import StructuredTool
from testbed.budget import Budget, Meter
from testbed.tool import ToolSet, Tool
from testbed.types import ToolCall
import testbed.offer
testbed.offer.FOREIGN_TIMEOUT = 0.1

def hang() -> str:
    "Hangs."
    threading.Event().wait()

class Hang(Tool):
    name: str = "own"
    description: str = "Hangs."
    timeout: float = 0.1
    def _run(self) -> str:
        threading.Event().wait()

async def main():
    tools = ToolSet([StructuredTool.from_function(hang), Hang()])
    box = tools.open(Meter(Budget()), len)
    print([str((await box.call(ToolCall(name))).fault) for name in ("hang", "own")])
    await tools.aclose()

asyncio.run(main())
"""


def test_hung_tools_ours_and_foreign_do_not_keep_a_run_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['timeout', 'timeout']\n"


# -- foreign tools


@tool
async def triple(n: int) -> int:
    """Triples a number."""
    await asyncio.sleep(0)
    return 3 * n


def test_foreign_tools_are_advertised_as_langchain_does() -> None:
    schema = ToolSet([double]).schemas[0]["function"]
    assert schema["name"] == "double"
    assert schema["description"].startswith("Doubles a number.")
    assert schema["parameters"]["properties"]["n"]["type"] == "integer"
    assert schema["parameters"]["required"] == ["n"]


@pytest.mark.parametrize(("foreign", "shown"), [(double, "14"), (triple, "21")], ids=["sync", "async"])
async def test_decorated_functions_work(foreign: BaseTool, shown: str) -> None:
    assert (await call([foreign], foreign.name, {"n": 7})).text == shown
    wrong = await call([foreign], foreign.name, {"n": "seven"})
    assert wrong.fault is FaultKind.INVALID_ARGS


async def test_foreign_synchronous_tools_run_off_the_event_loop() -> None:
    where: list[str] = []
    look = StructuredTool.from_function(
        lambda: where.append(threading.current_thread().name), name="look", description="Looks."
    )
    assert (await call([look], "look")).text == NO_OUTPUT
    assert where == ["testbed-tool"]


async def test_a_simple_tool_of_one_text_works() -> None:
    shout = SimpleTool(name="shout", description="Shouts.", func=str.upper)
    assert (await call([shout], "shout", {"__arg1": "hey"})).text == "HEY"
    assert (await call([shout], "shout", {"__arg1": 3})).fault is FaultKind.INVALID_ARGS


async def test_foreign_errors_and_hangs_are_the_models() -> None:
    def fail(x: str = "") -> str:
        raise ToolException("out of range")

    failing = StructuredTool.from_function(fail, description="Fails.")
    result = await call([failing], "fail")
    assert (result.fault, result.text) == (
        FaultKind.EXECUTION_ERROR,
        "error: execution_error: ToolException: out of range",
    )


async def test_what_is_no_tool_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a tool"):
        ToolSet([str.upper])  # type: ignore[list-item]


# -- metering


async def test_a_call_of_a_tool_that_is_not_offered_is_refused_metered_and_reported() -> None:
    meter = Meter(Budget())
    box = ToolSet([Call()]).open(meter, characters)
    result = await box.call(ToolCall("cal", {}))
    assert result.fault is FaultKind.TOOL_NOT_FOUND
    assert result.text == "error: tool_not_found: there is no tool 'cal'. Did you mean 'call'?"
    assert meter.cost.tool_calls == 1
    assert meter.cost.observed_tokens == len(result.text)


async def test_a_bare_arm_has_no_tools_to_name() -> None:
    result = await call([], "python", {"code": "1"})
    assert result.text == "error: tool_not_found: there is no tool 'python'. No tools are offered."


async def test_a_call_that_could_not_be_read_is_metered_and_reported() -> None:
    meter = Meter(Budget())
    box = ToolSet([Call()]).open(meter, characters)
    (parsed,) = parse("<tool_call>{</tool_call>").calls
    result = await box.call(parsed)
    assert result.fault is FaultKind.PARSE_ERROR
    assert (meter.cost.tool_calls, meter.cost.observed_tokens) == (1, len(result.text))


async def test_exactly_as_many_calls_as_the_budget_has() -> None:
    made: list[str] = []
    meter = Meter(Budget(tool_calls=3))
    box = ToolSet([Call(does=made.append)]).open(meter, characters)
    faults = [(await box.call(ToolCall("call"))).fault for _ in range(5)]
    assert faults == [None] * 3 + [FaultKind.BUDGET_EXHAUSTED] * 2
    assert len(made) == 3
    assert meter.cost.tool_calls == 5  # what was asked for is told as it is


async def test_calls_per_tool_are_limited_and_other_tools_go_on() -> None:
    meter = Meter(Budget(calls={"call": 1}))
    box = ToolSet([Call(), double]).open(meter, characters)
    await box.call(ToolCall("call"))
    refused = await box.call(ToolCall("call"))
    assert refused.fault is FaultKind.BUDGET_EXHAUSTED
    assert "no calls of call are left" in refused.text
    assert (await box.call(ToolCall("double", {"n": 1}))).text == "2"


@pytest.mark.parametrize("limit", [1, 7, 99, 100, 101])
async def test_observed_tokens_are_cut_at_exactly_the_limit(limit: int) -> None:
    meter = Meter(Budget(observed_tokens=limit))
    box = ToolSet([Call(does=lambda _: "é" * 100)]).open(meter, characters)
    first = await box.call(ToolCall("call"))
    assert first.text == "é" * min(limit, 100)
    second = await box.call(ToolCall("call"))
    assert meter.cost.observed_tokens == limit or (limit == 101 and len(second.text) == 1)
    assert meter.cost.observed_tokens == min(limit, 101) if limit >= 101 else limit
    assert second.fault is (None if limit > 100 else FaultKind.BUDGET_EXHAUSTED)
    assert meter.left("observed_tokens") >= 0


async def test_observed_tokens_never_pass_the_limit_when_prefixes_count_unevenly() -> None:
    def words(text: str) -> int:
        return len(text.split()) + text.count("7") * 3  # not the sum of its parts

    meter = Meter(Budget(observed_tokens=20))
    box = ToolSet([Call(does=lambda _: " ".join(map(str, range(60))))]).open(meter, words)
    await box.call(ToolCall("call"))
    assert 15 <= meter.cost.observed_tokens <= 20
