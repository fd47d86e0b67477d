"""Agents for tests: good ones, and ones that do whatever agents may do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda

from testbed.errors import ContextFull, SandboxDied
from testbed.protocol import write_answer, write_call

seen: dict[str, Any] = {}  # what agents were given, for tests to look at
release = threading.Event()  # lets an agent go that hangs


def number(text: str) -> str:
    """Of the task: "Say 7."."""
    return text[4:-1]


class Model(BaseChatModel):
    """A chat model that says what it is told to, and what that used."""

    says: Sequence[str] = ("done",)
    prompt: int = 10
    written: int = 5
    tells: bool = True
    breaks: Any = None
    ls: str = "small"
    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "test"

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return {"ls_provider": "house", "ls_model_name": self.ls, "ls_model_type": "chat"}

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> ChatResult:
        if self.breaks is not None:
            raise self.breaks
        text = self.says[min(self.calls, len(self.says) - 1)]
        self.calls += 1
        usage = {"input_tokens": self.prompt, "output_tokens": self.written, "total_tokens": self.prompt + self.written}
        said = AIMessage(text, usage_metadata=usage if self.tells else None)  # type: ignore[arg-type]
        return ChatResult(generations=[ChatGeneration(message=said)])


# -- functions


def plain(env: Any) -> str:
    observation, _ = env.reset(seed=3)
    return number(observation["text"])


def stepping(env: Any) -> None:
    observation, info = env.reset()
    said = number(observation["text"])
    if info["tools"]:
        observation, *_ = env.step(write_call("echo", {"text": said}))
        said = observation["text"]
    _, reward, terminated, truncated, _ = env.step(write_answer(said))
    seen["reward"], seen["over"] = reward, terminated or truncated


def with_tools(env: Any) -> str:
    for tool in env.tools:
        return str(tool.invoke({"text": number(env.task_prompt)}))
    return "no tools"


def shown_tools(env: Any) -> str:
    seen["tools"], seen["schemas"] = env.tools, env.reset()[1]["tools"]
    return "none"


async def awaiting(env: Any) -> str:
    observation, _ = await env.reset()
    said = number(observation["text"])
    if env.tools:
        said = await env.tools[0].ainvoke({"text": said})
    await env.step(write_answer(said))
    return "ignored"


def gambling(env: Any) -> str:
    seen.setdefault("draws", []).append((env.task_prompt, float(env.np_random.random()), env.seed))
    return number(env.task_prompt) if env.np_random.random() < 0.5 else "no"


gambling.reproducible = True  # type: ignore[attr-defined]
gambling.version = "2"  # type: ignore[attr-defined]


def keeps_asking(env: Any) -> None:
    while True:
        try:
            env.step(write_call("echo", {"text": "again"}))
        except Exception:  # noqa: BLE001 (agents catch everything)
            seen["swallowed"] = True


def never_right(env: Any) -> None:
    told = env.step(write_answer("no"))[0]["text"]
    seen["told"] = told
    env.step(write_answer(number(env.task_prompt)))


def raises(env: Any) -> str:
    raise ValueError("I cannot")


def exits(env: Any) -> str:
    raise SystemExit(3)


def silent(env: Any) -> None:
    env.reset()


def returns_a_number(env: Any) -> int:
    env.reset()
    return 42


def returns_a_step(env: Any) -> Any:
    env.reset()
    return env.step("a message that answers nothing")


def twice(env: Any) -> str:
    env.reset()
    env.reset()
    return "no"


def hangs(env: Any) -> str:
    if number(env.task_prompt) == "0":
        release.wait(60)
    return number(env.task_prompt)


async def blocks(env: Any) -> str:
    if number(env.task_prompt) == "0":
        time.sleep(4)
    await asyncio.sleep(0)
    return number(env.task_prompt)


def fickle(env: Any) -> str:
    seen["tries"] = seen.get("tries", 0) + 1
    if seen["tries"] < 3:
        raise SandboxDied("the worker died")
    return number(env.task_prompt)


def disconnected(env: Any) -> str:
    raise httpx.ConnectError("no route")


def not_found(env: Any) -> str:
    request = httpx.Request("GET", "http://example.org")
    raise httpx.HTTPStatusError("404", request=request, response=httpx.Response(404, request=request))


def full(env: Any) -> str:
    model = Model(breaks=ContextFull("too long"))
    return str(model.invoke("hello").text)


def model_down(env: Any) -> str:
    try:
        Model(breaks=httpx.ReadError("reset")).invoke("hello")
    except httpx.ReadError as error:
        raise RuntimeError("my model failed") from error
    return "no"


def wrong_key(env: Any) -> str:
    request = httpx.Request("POST", "http://example.org")
    response = httpx.Response(401, request=request)
    return str(Model(breaks=httpx.HTTPStatusError("401", request=request, response=response)).invoke("x").text)


def asks(env: Any) -> str:
    model = Model(written=20)
    model.invoke("think")
    env.step(write_call("echo", {"text": "x"}))
    model.invoke("think again")
    model.invoke("and again")
    return number(env.task_prompt)


def asks_for_ever(env: Any) -> str:
    model = Model()
    while True:
        model.invoke("think")


def asks_the_silent(env: Any) -> str:
    Model(tells=False, says=["12345678"]).invoke("1234")
    return number(env.task_prompt)


class SlowModel(Model):
    """A model that answers when nobody waits for it any more."""

    def _generate(self, *given: Any, **named: Any) -> ChatResult:
        time.sleep(1)
        return super()._generate(*given, **named)

    async def _agenerate(self, *given: Any, **named: Any) -> ChatResult:
        seen["asked"] = True
        await asyncio.sleep(20)
        return super()._generate(*given, **named)


def waits_for_a_model(env: Any) -> str:
    return str(SlowModel().invoke("12345678").text)


async def awaits_a_model(env: Any) -> str:
    return str((await SlowModel().ainvoke("12345678")).text)


# -- Runnables


def _last(state: Any) -> str:
    return str(next(m for m in state["messages"] if isinstance(m, HumanMessage)).text)


def _react(tools: Sequence[Any]) -> Any:
    """A little graph: asks a model, calls the tool, answers."""

    def act(state: dict[str, Any]) -> dict[str, Any]:
        seen["messages"] = state["messages"]
        Model(written=20).invoke(state["messages"])
        said = number(_last(state))
        for tool in tools:
            said = tool.invoke({"type": "tool_call", "id": "1", "name": tool.name, "args": {"text": said}}).content
        return {"messages": [*state["messages"], AIMessage(f"<answer>{said}</answer>")]}

    return RunnableLambda(act)


def make(tools: Sequence[Any]) -> Any:
    return _react(tools)


def _configured(state: dict[str, Any], config: Any) -> str:
    seen["configurable"] = dict(config["configurable"])
    return number(_last(state))


async def _aact(state: dict[str, Any]) -> str:
    await asyncio.sleep(0)
    return number(_last(state))


def _stubborn(state: dict[str, Any]) -> AIMessage:
    seen.setdefault("turns", []).append([str(m.text) for m in state["messages"]])
    return AIMessage(number(_last(state)) if len(state["messages"]) > 2 else "no")


runnable = RunnableLambda(_configured)
arunnable = RunnableLambda(_aact)
stubborn = RunnableLambda(_stubborn)


def makes_nothing(tools: Any) -> Any:
    return 7


class NoAgent:
    """Not an instance."""


def two(env: Any, more: Any) -> str:
    return ""
