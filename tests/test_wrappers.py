from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from langchain_core.tools import BaseTool, StructuredTool, tool
from langchain_core.tools import Tool as SimpleTool
from pydantic import BaseModel, Field

from testbed.budget import Budget, Meter
from testbed.errors import FaultKind, UsageError
from testbed.tool import NO_OUTPUT, AttemptContext, Tool, ToolSet
from testbed.types import Control, ToolCall, canonical
from testbed.wrappers import under_control


class Query(BaseModel):
    query: str = Field(description="What to look for.", min_length=1)
    k: int = Field(default=3, ge=1)


class Library(Tool):
    """Has an uninformative result of its own, and a life."""

    name: str = "library"
    description: str = "Looks things up."
    args_schema: Any = Query
    timeout: float = 77
    version: str = "4"
    log: list[str] = Field(default_factory=list)

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        return f"unrelated {arguments['k']} {rng.integers(10**6)}"

    def fingerprint(self) -> dict[str, Any]:
        return {"index": "abc"}

    async def start(self) -> None:
        self.log.append("start")

    async def aclose(self) -> None:
        self.log.append("close")

    def _run(self, query: str, k: int) -> str:
        self.log.append("run")
        return f"about {query}"


class Inferred(Tool):
    """Arguments are read from `_run`."""

    name: str = "inferred"
    description: str = "Adds."

    def _run(self, a: int, b: int = 2) -> str:
        return str(a + b)


class InferredAsync(Tool):
    name: str = "inferred_async"
    description: str = "Adds later."

    async def _arun(self, a: int, b: int = 2) -> str:
        return str(a + b)


@tool
def double(n: int) -> int:
    """Doubles a number."""
    return 2 * n


@tool
async def triple(n: int) -> int:
    """Triples a number."""
    return 3 * n


def tools() -> list[BaseTool]:
    """Every way in which a tool can say what it takes."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    return [
        Library(),
        Inferred(),
        InferredAsync(),
        double,
        triple,
        StructuredTool(name="remote", description="As MCP has.", args_schema=schema, func=lambda n: n),
        SimpleTool(name="simple", description="One text.", func=str.upper),
        StructuredTool.from_function(lambda n: n, name="lambda", description="L.", args_schema=Query),
    ]


ALL = pytest.mark.parametrize("live", tools(), ids=lambda t: t.name)
DISGUISES = pytest.mark.parametrize("control", [Control.INERT, Control.YOKED])


async def ask(
    toolset: ToolSet,
    calls: list[tuple[str, dict[str, Any]]],
    context: AttemptContext | None = None,
    budget: Budget | None = None,
) -> list[Any]:
    box = toolset.open(Meter(budget or Budget()), len, context)
    results = [await box.call(ToolCall(*call)) for call in calls]
    await box.aclose()
    return results


@ALL
@DISGUISES
def test_a_disguise_is_offered_byte_for_byte_like_the_live_tool(live: BaseTool, control: Control) -> None:
    disguised = ToolSet(under_control([live], control))
    assert canonical(disguised.schemas) == canonical(ToolSet([live]).schemas)


@ALL
@DISGUISES
@pytest.mark.parametrize(
    "arguments", [{}, {"n": "x"}, {"query": ""}, {"a": [1]}, {"__arg1": 3}, {"quary": "x"}, {"b": {}}]
)
async def test_a_disguise_refuses_what_the_live_tool_refuses_in_the_same_words(
    live: BaseTool, control: Control, arguments: dict[str, Any]
) -> None:
    calls = [(live.name, arguments)]
    (real,) = await ask(ToolSet([live]), calls)
    (fake,) = await ask(ToolSet(under_control([live], control)), calls)
    assert real.fault is FaultKind.INVALID_ARGS
    assert fake == real


@DISGUISES
def test_a_disguise_has_the_live_tools_time_and_version(control: Control) -> None:
    (disguised,) = under_control([Library()], control)
    offered = ToolSet([disguised]).offers["library"]
    assert offered.timeout == 77
    assert offered.fingerprint()["version"] == "4"
    assert offered.fingerprint()["content"] == {"control": control.value, "of": {"index": "abc"}}


@pytest.mark.parametrize(
    ("live", "arguments"),
    [(Inferred(), {"a": 1}), (InferredAsync(), {"a": 1})],
    ids=lambda v: getattr(v, "name", ""),
)
async def test_inert_results_of_tools_without_one_of_their_own_are_empty(
    live: BaseTool, arguments: dict[str, Any]
) -> None:
    (result,) = await ask(ToolSet(under_control([live], Control.INERT)), [(live.name, arguments)])
    assert (result.text, result.fault) == (NO_OUTPUT, None)


async def test_a_tools_own_inert_result_draws_from_the_attempts_stream_and_the_live_tool_never_runs() -> None:
    library = Library()
    inert = ToolSet(under_control([library], Control.INERT))
    calls = [("library", {"query": "x"}), ("library", {"query": "x", "k": 5})]
    first, again, other = [[r.text for r in await ask(inert, calls, AttemptContext(key))] for key in (1, 1, 2)]
    assert first == again
    assert first != other
    assert first[0] != first[1]
    assert [text.split()[1] for text in first] == ["3", "5"]  # defaults are filled in
    assert library.log == []


async def test_attempts_at_the_same_time_do_not_share_their_streams() -> None:
    inert = ToolSet(under_control([Library()], Control.INERT))
    calls = [("library", {"query": "x"})] * 5
    alone = [[r.text for r in await ask(inert, calls, AttemptContext(key))] for key in range(6)]
    together = await asyncio.gather(*(ask(inert, calls, AttemptContext(key)) for key in range(6)))
    assert [[r.text for r in results] for results in together] == alone


@pytest.mark.parametrize(("control", "log"), [(Control.INERT, ["start", "close"]), (Control.YOKED, [])])
async def test_the_live_tool_is_started_only_where_its_placebo_needs_it(control: Control, log: list[str]) -> None:
    library = Library()
    toolset = ToolSet(under_control([library], control))
    await toolset.start()
    await toolset.aclose()
    assert library.log == log


async def test_yoked_tools_replay_in_order_whatever_is_called_then_nothing() -> None:
    yoked = ToolSet(under_control([double, triple, Library()], Control.YOKED))
    context = AttemptContext(0, iter(["first", "error: timeout: x", "third"]))
    calls: list[tuple[str, dict[str, Any]]] = [
        ("triple", {"n": 1}),
        ("library", {"query": "x"}),
        ("double", {"n": 1}),
        ("triple", {"n": 1}),
        ("double", {"n": 1}),
    ]
    assert [r.text for r in await ask(yoked, calls, context)] == [
        "first",
        "error: timeout: x",
        "third",
        NO_OUTPUT,
        NO_OUTPUT,
    ]


async def test_refused_calls_use_up_no_replay() -> None:
    yoked = ToolSet(under_control([double], Control.YOKED))
    calls: list[tuple[str, dict[str, Any]]] = [("double", {}), ("nope", {}), ("double", {"n": 1})]
    results = await ask(yoked, calls, AttemptContext(0, iter(["first"])))
    assert results[-1].text == "first"


async def test_yoked_attempts_do_not_share_their_replay() -> None:
    yoked = ToolSet(under_control([double], Control.YOKED))
    boxes = [yoked.open(Meter(Budget()), len, AttemptContext(0, iter([f"{n}a", f"{n}b"]))) for n in range(2)]
    call = ToolCall("double", {"n": 1})
    shown = [(await boxes[n].call(call)).text for n in (0, 1, 0, 1)]
    assert shown == ["0a", "1a", "0b", "1b"]


async def test_a_yoked_tool_without_a_replay_says_nothing() -> None:
    (result,) = await ask(ToolSet(under_control([double], Control.YOKED)), [("double", {"n": 1})])
    assert result.text == NO_OUTPUT


@DISGUISES
async def test_disguises_are_metered_and_limited_like_the_live_tool(control: Control) -> None:
    toolset = ToolSet(under_control([double], control))
    results = await ask(toolset, [("double", {"n": 1})] * 3, budget=Budget(calls={"double": 2}))
    assert [r.fault for r in results] == [None, None, FaultKind.BUDGET_EXHAUSTED]


def test_live_tools_are_left_alone() -> None:
    assert under_control([double], Control.LIVE) == [double]


def test_a_bare_arm_offers_nothing() -> None:
    assert under_control([], Control.ABSENT) == []


def test_tools_in_a_bare_arm_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"bare arm .* offers no tools, but \['double'\]"):
        under_control([double], Control.ABSENT)


@pytest.mark.parametrize("control", [Control.INERT, Control.YOKED, Control.LIVE])
def test_other_arms_without_tools_are_refused(control: Control) -> None:
    with pytest.raises(UsageError, match=f"control = '{control}' needs at least one tool"):
        under_control([], control)
