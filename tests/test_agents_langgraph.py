"""Compiled graphs of LangGraph as agents, where it is installed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from helpers import some_agents
from helpers.runs import SAY_AND_ECHO, registered
from test_agents import ECHO, attempts_of

pytest.importorskip("langgraph", reason="langgraph is not installed (pip install langgraph)")

from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode


class Caller(some_agents.Model):
    """Calls echo twice in one reply, then answers with the first result; or goes on calling."""

    stubborn: bool = False

    def _generate(self, messages: list[Any], stop: Any = None, run_manager: Any = None, **kw: Any) -> ChatResult:
        usage: Any = {"input_tokens": 10, "output_tokens": 40, "total_tokens": 50}
        results = [message for message in messages if message.type == "tool"]
        if results and not self.stubborn:
            said = AIMessage(f"It is <answer>{results[0].text}</answer>.", usage_metadata=usage)
        else:
            texts = (some_agents.number(some_agents._last({"messages": messages})), "another")
            calls = [{"name": "echo", "args": {"text": t}, "id": f"{len(messages)}{n}"} for n, t in enumerate(texts)]
            said = AIMessage("", tool_calls=calls, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=said)])


def graph(tools: Sequence[Any], model: Caller) -> Any:
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    def goes_on(state: MessagesState) -> str:
        return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", goes_on)
    builder.add_edge("tools", "ask")
    return builder.compile()


def make(tools: Sequence[Any]) -> Any:
    return graph(tools, Caller())


def make_stubborn(tools: Sequence[Any]) -> Any:
    return graph(tools, Caller(stubborn=True))


async def _wait(state: MessagesState) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"messages": [AIMessage(some_agents.number(str(state["messages"][-1].text)))]}


def only_async() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("wait", _wait)
    builder.add_edge(START, "wait")
    builder.add_edge("wait", END)
    return builder.compile()


compiled = only_async()


@pytest.fixture(autouse=True)
def say_and_echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "graphs_under_test", sys.modules[__name__])
    with registered(SAY_AND_ECHO):
        yield


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_graph_with_a_tool_node_is_metered(tmp_path: Path, asynchronous: bool) -> None:
    attempts = await attempts_of(
        "make", tmp_path, ECHO, tasks=3, module="graphs_under_test", model={"asynchronous": asynchronous}
    )
    for attempt in attempts:
        assert (attempt.success, attempt.ended) == (True, "answered")
        cost = attempt.cost
        assert (cost.model_calls, cost.prompt_tokens, cost.generated_tokens) == (2, 20, 80)
        assert (cost.tool_calls, cost.turns) == (2, 3)


async def test_a_graph_that_goes_on_for_ever_is_stopped_by_its_budget(tmp_path: Path) -> None:
    for budget, limit in (({"turns": 5}, "turns"), ({"turns": 100, "model_calls": 4}, "model_calls")):
        attempts = await attempts_of(
            "make_stubborn", tmp_path / limit, ECHO, tasks=2, module="graphs_under_test", budget=budget
        )
        assert {a.ended for a in attempts} == {f"limit:{limit}"}


async def test_a_compiled_graph_of_coroutines_is_awaited(tmp_path: Path) -> None:
    attempts = await attempts_of("compiled", tmp_path, module="graphs_under_test", model={"asynchronous": True})
    assert [a.success for a in attempts] == [True, True]
