from __future__ import annotations

import asyncio
import copy
import math
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Annotated, Any

import pytest
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, ToolException, tool
from langchain_core.tools import Tool as SimpleTool
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from testbed.budget import Budget, Meter
from testbed.errors import FaultKind, SandboxDied, SandboxUnavailable, ToolFault, TransportError, UsageError
from testbed.protocol import parse
from testbed.tool import NO_OUTPUT, AttemptContext, Tool, Toolbox, ToolSet
from testbed.types import Control, ToolCall, ToolResult, canonical, digest
from testbed.wrappers import under_control


def characters(text: str) -> int:
    return len(text)


class Call(Tool):
    """Returns, or raises, what a function of its argument says."""

    name: str = "call"
    description: str = "Calls."
    does: Callable[[str], Any] = str.upper

    def _run(self, text: str = "x") -> Any:
        return self.does(text)


class AsyncCall(Call):
    """The same on the event loop."""

    async def _arun(self, text: str = "x") -> Any:
        result = self.does(text)
        return await result if asyncio.iscoroutine(result) else result


BOTH = pytest.mark.parametrize("kind", [Call, AsyncCall])


async def call(
    tools: list[BaseTool] | ToolSet,
    name: str = "call",
    arguments: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    **more: Any,
) -> ToolResult:
    toolset = tools if isinstance(tools, ToolSet) else ToolSet(tools, **more)
    box = toolset.open(Meter(budget or Budget()), characters)
    try:
        return await box.call(ToolCall(name, arguments or {}))
    finally:
        await box.aclose()
        await toolset.aclose()


def raising(error: BaseException) -> Callable[[str], Any]:
    def fail(text: str) -> Any:
        raise error

    return fail


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


# -- arguments


class Order(BaseModel):
    count: int = Field(ge=1)
    size: str = "small"
    to: str = Field(default="here", alias="from")

    @field_validator("size")
    @classmethod
    def known(cls, value: str) -> str:
        if value == "boom":
            raise KeyError("a bug in a validator")
        return value


class Shop(Tool):
    name: str = "shop"
    description: str = "Orders."
    args_schema: Any = Order

    def _run(self, count: int, size: str, to: str) -> str:
        return f"{count!r} {size} {to}"


SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["count"],
}


def mcp_like(schema: dict[str, Any] = SCHEMA) -> BaseTool:
    async def run(**arguments: Any) -> str:
        return canonical(arguments)

    return StructuredTool(name="shop", description="Orders.", args_schema=schema, coroutine=run)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [({"count": 2}, "2 small here"), ({"count": 2, "size": "big", "to": "x"}, "2 big x")],
)
async def test_pydantic_arguments_get_their_defaults_and_go_by_the_advertised_names(
    arguments: dict[str, Any], shown: str
) -> None:
    assert (await call([Shop()], "shop", arguments)).text == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "count: Field required"),
        ({"count": 0}, "count: Input should be greater than or equal to 1"),
        ({"count": "many"}, "count: Input should be a valid integer"),
        ({"count": 1, "siez": "big"}, "shop has no argument 'siez'. Did you mean 'size'?"),
        ({"count": 1, "from": "there"}, "shop has no argument 'from'."),
    ],
)
async def test_wrong_pydantic_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    result = await call([Shop()], "shop", arguments)
    assert result.fault is FaultKind.INVALID_ARGS
    assert message in result.text


async def test_a_validator_with_a_bug_ends_the_call_and_not_the_run() -> None:
    result = await call([Shop()], "shop", {"count": 1, "size": "boom"})
    assert result.fault is FaultKind.EXECUTION_ERROR
    assert "a bug in a validator" in result.text


@pytest.mark.parametrize("arguments", [{"count": 10**400}, {"count": 1, "size": "half \ud800"}])
async def test_extreme_arguments_reach_the_tool_and_what_it_says_can_be_stored(arguments: dict[str, Any]) -> None:
    result = await call([Shop()], "shop", arguments)
    assert result.fault is None
    result.text.encode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "'count' is a required property"),
        ({"count": 0}, "count: 0 is less than the minimum of 1"),
        ({"count": "2"}, "count: '2' is not of type 'integer'"),
        ({"count": 1, "tags": ["a", "c"]}, "tags.1: 'c' is not one of ['a', 'b']"),
        ({"count": 1, "tgas": ["a"]}, "shop has no argument 'tgas'. Did you mean 'tags'?"),
    ],
)
async def test_wrong_json_schema_arguments_are_named_though_langchain_does_not_look(
    arguments: dict[str, Any], message: str
) -> None:
    result = await call([mcp_like()], "shop", arguments)
    assert result.fault is FaultKind.INVALID_ARGS
    assert message in result.text


async def test_right_json_schema_arguments_arrive() -> None:
    assert (await call([mcp_like()], "shop", {"count": 1, "tags": ["a"]})).text == '{"count":1,"tags":["a"]}'


async def test_a_json_schema_may_allow_further_arguments() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": True}
    assert (await call([mcp_like(schema)], "shop", {"any": 1})).text == '{"any":1}'


async def test_a_pydantic_model_may_allow_further_arguments() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int = 1

    class Any_(Tool):
        name: str = "any"
        description: str = "Takes all."
        args_schema: Any = Open

        def _run(self, **arguments: Any) -> str:
            return canonical(arguments)

    assert (await call([Any_()], "any", {"b": 2})).text == '{"a":1,"b":2}'


def test_a_schema_that_is_none_is_refused_when_the_tool_is_offered() -> None:
    with pytest.raises(UsageError, match="tool shop: args_schema is not a JSON schema"):
        ToolSet([mcp_like({"type": "object", "properties": {"a": {"type": "text"}}})])


def test_arguments_that_only_a_framework_can_fill_in_are_refused_when_the_tool_is_offered() -> None:
    @tool
    def remember(text: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
        """Remembers."""
        return text

    with pytest.raises(UsageError, match=r"tool remember: .*call_id"):
        ToolSet([remember])


async def test_deeply_nested_arguments_do_not_break_the_validator() -> None:
    schema = {
        "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/tree"}},
    }
    text = '<tool_call>{"name":"shop","arguments":{"tree":' + "[" * 600 + "]" * 600 + "}}</tool_call>"
    (parsed,) = parse(text).calls
    assert parsed.fault is None
    assert (await call([mcp_like(schema)], "shop", parsed.arguments)).fault is FaultKind.INVALID_ARGS


async def test_a_megabyte_of_a_wrong_name_is_told_briefly() -> None:
    for result in [
        await call([Shop()], "shop" * 250_000),
        await call([Shop()], "shop", {"count" * 200_000: 1}),
    ]:
        assert len(result.text) < 400
        assert len(result.name) <= 100


async def test_only_arun_and_no_schema_is_enough_for_a_tool() -> None:
    class Only(Tool):
        name: str = "only"
        description: str = "Repeats."

        async def _arun(self, text: str, times: int = 2) -> str:
            return text * times

    toolset = ToolSet([Only()])
    assert set(toolset.schemas[0]["function"]["parameters"]["properties"]) == {"text", "times"}
    assert (await call(toolset, "only", {"text": "a"})).text == "aa"
    assert (await call([Only()], "only", {"text": "a", "times": "x"})).fault is FaultKind.INVALID_ARGS


def test_a_tool_that_implements_nothing_is_refused_and_not_scored_against_the_model() -> None:
    class Nothing(Tool):
        name: str = "nothing"
        description: str = "Does nothing."
        args_schema: Any = Order

    with pytest.raises(UsageError, match=r"nothing does nothing.*_run or _arun"):
        ToolSet([Nothing()])


# -- foreign tools


@tool
def double(n: int) -> int:
    """Doubles a number.

    Args:
        n: the number.
    """
    return 2 * n


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


# -- state


class Counter(Tool):
    """Counts its calls within an attempt."""

    name: str = "count"
    description: str = "Counts."
    ended: list[int] = Field(default_factory=list)
    fails: bool = False
    _calls: int = PrivateAttr(0)
    _key: int = PrivateAttr(-1)

    def for_attempt(self, context: AttemptContext) -> Tool:
        mine = self.model_copy()
        mine._key = context.key
        return mine

    async def end_attempt(self) -> None:
        self.ended.append(self._key)
        if self.fails:
            raise SandboxDied("could not end")

    async def _arun(self) -> str:
        self._calls += 1
        return f"{self._key}:{self._calls}"


async def test_each_attempt_has_its_own_state_and_ends_it_once() -> None:
    counter = Counter()
    toolset = ToolSet([counter, Call()])
    boxes = [toolset.open(Meter(Budget()), characters, AttemptContext(key)) for key in (1, 2)]
    shown = [(await box.call(ToolCall("count"))).text for box in (boxes[0], boxes[1], boxes[0])]
    assert shown == ["1:1", "2:1", "1:2"]
    for box in boxes:
        await box.aclose()
        await box.aclose()
    assert counter.ended == [1, 2]


async def test_an_attempt_that_never_calls_a_tool_takes_nothing_of_it() -> None:
    counter = Counter()
    box = ToolSet([counter]).open(Meter(Budget()), characters)
    await box.call(ToolCall("count", {"wrong": 1}))
    await box.aclose()
    assert counter.ended in ([], [0])


async def test_every_tool_of_an_attempt_is_ended_though_one_cannot_be() -> None:
    first, second = Counter(name="one", fails=True), Counter(name="two")
    box = ToolSet([first, second]).open(Meter(Budget()), characters)
    await box.call(ToolCall("one"))
    await box.call(ToolCall("two"))
    with pytest.raises(SandboxDied):
        await box.aclose()
    assert (first.ended, second.ended) == ([0], [0])


class Service(Tool):
    name: str = "service"
    description: str = "Has a life."
    log: list[str] = Field(default_factory=list)
    broken: bool = False

    async def start(self) -> None:
        if self.broken:
            raise SandboxUnavailable("install it")
        self.log.append("start")

    async def aclose(self) -> None:
        self.log.append("close")

    async def _arun(self) -> str:
        return "ok"


async def test_tools_start_once_until_they_are_closed() -> None:
    service = Service()
    toolset = ToolSet([service])
    await toolset.start()
    await toolset.start()
    await toolset.aclose()
    await toolset.start()
    assert service.log == ["start", "close", "start"]


async def test_if_one_tool_cannot_start_the_others_are_closed() -> None:
    good = Service(name="good")
    with pytest.raises(SandboxUnavailable):
        await ToolSet([good, Service(name="bad", broken=True)]).start()
    assert good.log == ["start", "close"]


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two tools are named 'call'"):
        ToolSet([Call(), AsyncCall()])


# -- identity


class Versioned(Tool):
    name: str = "v"
    description: str = "Has options."
    depth: int = 1

    def _run(self) -> str:
        return ""


def identity(tool: BaseTool) -> str:
    return digest(ToolSet([tool]).fingerprint())


def test_fingerprint_changes_with_whatever_changes_results() -> None:
    tools = [
        Versioned(),
        Versioned(version="2"),
        Versioned(depth=2),
        Versioned(timeout=3),
        Versioned(timeout=math.inf),
        Versioned(description="Other."),
        Versioned(name="w"),
    ]
    assert len({identity(tool) for tool in tools}) == len(tools)
    assert identity(Versioned()) == identity(Versioned())
    assert digest(ToolSet([Versioned()], result_chars=9).fingerprint()) != identity(Versioned())


def test_foreign_tools_are_known_by_their_source() -> None:
    one = StructuredTool.from_function(lambda n: n + 1, name="f", description="F.", args_schema=Order)
    two = StructuredTool.from_function(lambda n: n + 2, name="f", description="F.", args_schema=Order)
    assert identity(one) != identity(two)
    assert identity(double) == identity(double)


@pytest.mark.parametrize("control", [Control.INERT, Control.YOKED])
def test_a_control_has_another_fingerprint_than_the_live_tool(control: Control) -> None:
    (changed,) = under_control([Versioned()], control)
    assert identity(changed) != identity(Versioned())
    assert identity(changed) != identity(under_control([Versioned(depth=2)], control)[0])


def test_tools_are_shared_and_not_copied_by_whoever_copies_a_specification() -> None:
    locked = Call(does=threading.Lock().locked)  # type: ignore[arg-type]
    assert copy.deepcopy({"tools": [locked]})["tools"][0] is locked


@pytest.fixture
async def box() -> AsyncIterator[Toolbox]:
    toolset = ToolSet([AsyncCall()])
    yield toolset.open(Meter(Budget()), characters)
    await toolset.aclose()


async def test_a_call_costs_microseconds(box: Toolbox) -> None:
    await box.call(ToolCall("call", {"text": "a"}))
    start = time.process_time()
    for _ in range(500):
        await box.call(ToolCall("call", {"text": "a"}))
    assert (time.process_time() - start) / 500 < 300e-6  # 25 µs measured; the runner's target leaves 600 µs an attempt


def test_iterators_of_replays_are_what_contexts_hold() -> None:
    replay: Iterator[str] = iter(["a"])
    assert AttemptContext(3, replay).replay is replay
