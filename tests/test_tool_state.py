"""State per attempt, the life of tools, and their identity."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import Field, PrivateAttr

from helpers.calling import AsyncCall, Call, Order, characters, double
from testbed.budget import Budget, Meter
from testbed.errors import SandboxDied, SandboxUnavailable, UsageError
from testbed.tool import AttemptContext, Tool, Toolbox, ToolSet
from testbed.types import Control, ToolCall, digest
from testbed.wrappers import under_control

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
