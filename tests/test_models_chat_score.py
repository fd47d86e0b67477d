"""Log-probabilities from servers, beside those of the same model in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from helpers.openai_process import Server, openai_server
from testbed.errors import ModelError
from testbed.models import Request, Sampling, make_model
from testbed.models.base import Scorer
from testbed.models.chat import Chat
from testbed.models.chat_score import marked, scores_of
from testbed.types import Message

PYTHON = {"type": "function", "function": {"name": "python", "description": "", "parameters": {"type": "object"}}}
SUM: list[Message] = [
    {"role": "user", "content": "What is 4821*9377?"},
    {"role": "assistant", "content": "I compute it."},
    {"role": "user", "content": "Go on, and mind that 4821 is no 4812."},
    {"role": "assistant", "content": "<answer>45206517</answer>"},
]
CALLED: list[Message] = [
    SUM[0],
    {
        "role": "assistant",
        "content": '<tool_call>{"name": "python", "arguments": {"code": "print(4821*9377)"}}</tool_call>',
    },
    {"role": "tool", "name": "python", "content": "45206517"},
    {"role": "assistant", "content": "<answer>45206517</answer>"},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server() as server:
        yield server


@asynccontextmanager
async def chat(server: Server, name: str, **options: Any) -> AsyncIterator[Chat]:
    model = Chat(f"openai:{name}", base_url=server.url, **options)
    try:
        yield model
    finally:
        await model.aclose()


@pytest.mark.parametrize(
    ("messages", "which", "tools", "native"),
    [(SUM, [3, 1, 2], [], False), (CALLED, [2, 3], [PYTHON], True), (SUM, [0], [PYTHON], True)],
)
async def test_a_server_gives_the_figures_of_teacher_forcing(
    server: Server, messages: list[Message], which: list[int], tools: list[object], native: bool
) -> None:
    here = make_model("reference")
    assert isinstance(here, Scorer)
    expected = await here.score(messages, tools, which)  # type: ignore[arg-type]
    async with chat(server, "reader", system="", native=native) as there:
        found = await there.score(messages, tools, which)  # type: ignore[arg-type]
    await here.aclose()
    assert [score.message for score in found] == which
    for ours, theirs in zip(expected, found, strict=True):
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-4)


async def test_native_calls_are_not_scored(server: Server) -> None:
    async with chat(server, "reader") as model:
        with pytest.raises(ModelError, match="set native = false"):
            await model.score(CALLED, [PYTHON], [1, 2])


async def test_a_server_that_does_not_say_is_told_by_name(server: Server) -> None:
    async with chat(server, "caller") as model:
        with pytest.raises(ModelError, match=r"chat:openai:caller cannot score .* gives no prompt_logprobs"):
            await model.score(SUM, [], [0])


async def test_logprobs_of_what_was_written_are_the_models(server: Server) -> None:
    async with chat(server, "reference", system="") as model:
        reply = await model.generate(Request(SUM[:1], max_tokens=80, stream=3, logprobs=True))
    assert reply.logprobs is not None
    assert len(reply.logprobs) == reply.usage.generated_tokens
    assert all(logprob <= 0 for logprob in reply.logprobs)


@pytest.mark.parametrize(
    ("name", "sampling", "message"),
    [
        ("without-end-logprob", Sampling(), "chat:openai:without-end-logprob: .* of every token that it bills"),
        ("caller", Sampling(), "chat:openai:caller: .* leave logprobs out"),
        ("reference", Sampling(temperature=0.5), "only at temperature = 1"),
        ("reference", Sampling(top_p=0.9), "top_p = 1"),
    ],
)
async def test_logprobs_that_are_not_told_or_mean_something_else_are_refused(
    server: Server, name: str, sampling: Sampling, message: str
) -> None:
    async with chat(server, name, system="") as model:
        with pytest.raises(ModelError, match=message):
            await model.generate(Request(SUM[:1], sampling=sampling, max_tokens=80, logprobs=True))


def tokens(*texts: str) -> list[tuple[str, float]]:
    return [(text, -float(n)) for n, text in enumerate(texts)]


def test_a_short_message_is_found_by_its_place() -> None:
    messages: list[Message] = [{"role": "user", "content": "a"}, {"role": "tool", "content": "a"}]
    read = tokens("", "[a", "sk]", "a", "[a", "]", "a", "[end]")
    template = tokens("", "[a", "sk]", "a", "[a", "]", *marked(messages, [1])[1]["content"], "[end]")
    (score,) = scores_of(read, template, messages, [1])
    assert score.logprobs == (-6.0,)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (("[a", " b", "]"), "a token holds the end of a message"),
        (("[", "a b]", ""), "a token holds the end of a message"),
        (("[", "a", "]"), "is not as it was said"),
        (("<", "a", " b", "]"), "is not as it was said"),
        (("[", "a", " b", ")"), "puts other things around"),
    ],
)
def test_messages_that_cannot_be_told_from_their_surroundings_are_refused(read: tuple[str, ...], message: str) -> None:
    messages: list[Message] = [{"role": "user", "content": "a b"}]
    template = tokens("[", marked(messages, [0])[0]["content"], "]")
    with pytest.raises(ModelError, match=message):
        scores_of(tokens(*read), template, messages, [0])
