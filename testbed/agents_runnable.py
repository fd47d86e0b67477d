"""Runnables and graphs as agents: the conversation that they are invoked with, and the answer that they return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool

from testbed.agents import MAKER, Agent
from testbed.agents_env import AgentEnv, AsyncAgentEnv
from testbed.errors import UsageError
from testbed.protocol import ANSWER_INSTRUCTION, parse, write_answer


def opened(agent: Agent, tools: Sequence[BaseTool]) -> Any:
    """The Runnable of one attempt.

    Raises:
        UsageError: the maker returned something else.
    """
    if agent.kind != MAKER:
        return agent.thing
    made = agent.thing(list(tools))
    if not callable(getattr(made, "invoke", None)):
        raise UsageError(f"{agent.where} returned {made!r:.80} and no Runnable.")
    return made


def converse(runnable: Any, env: AgentEnv, system: str | None) -> None:
    """Invokes a Runnable until its attempt is over, or it says nothing: again after a wrong answer, if one is left."""
    messages, config = _opening(env.task_prompt, system), _config(env)
    while (text := said(result := runnable.invoke({"messages": messages}, config))) is not None:
        observation, _, terminated, truncated, _ = env.step(as_answer(text))
        if terminated or truncated:
            return
        messages = _continued(result, messages, text, observation["text"])


async def aconverse(runnable: Any, env: AsyncAgentEnv, system: str | None) -> None:
    """`converse`, awaited."""
    messages, config = _opening(env.task_prompt, system), _config(env)
    while (text := said(result := await runnable.ainvoke({"messages": messages}, config))) is not None:
        observation, _, terminated, truncated, _ = await env.step(as_answer(text))
        if terminated or truncated:
            return
        messages = _continued(result, messages, text, observation["text"])


def said(result: Any) -> str | None:
    """The text that a Runnable returned: itself, a message's, or that of the last of its messages; None without any."""
    if isinstance(result, dict):
        messages = result.get("messages")
        result = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(result, BaseMessage):
        result = str(result.text)
    return result if isinstance(result, str) and result.strip() else None


def as_answer(text: str) -> str:
    """A message that gives `text` as the answer; text with an answer in tags stays as it is."""
    return text if parse(text).answer is not None else write_answer(text)


def _opening(prompt: str, system: str | None) -> list[BaseMessage]:
    instruction = ANSWER_INSTRUCTION if system is None else system
    return [*([SystemMessage(instruction)] if instruction else []), HumanMessage(prompt)]


def _continued(result: Any, before: list[BaseMessage], text: str, told: str) -> list[BaseMessage]:
    """The conversation that goes on after a wrong answer."""
    whole = result.get("messages") if isinstance(result, dict) else None
    return [*(whole if isinstance(whole, list) else [*before, AIMessage(text)]), HumanMessage(told)]


def _config(env: AgentEnv | AsyncAgentEnv) -> dict[str, Any]:
    """What a graph's nodes may read: the arm's tools, a seed, and a thread of its own for what keeps checkpoints."""
    return {"configurable": {"tools": env.tools, "seed": env.seed, "thread_id": uuid4().hex}}
