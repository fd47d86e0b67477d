from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import openai
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from helpers.openai_process import Server, openai_server
from testbed.errors import (
    ContextFull,
    FaultKind,
    ModelBusy,
    ModelError,
    ModelNotAsked,
    ModelUnavailable,
    TransportError,
    UsageError,
)
from testbed.models import Model, Reply, Request, Sampling, make_model
from testbed.models.chat import Chat
from testbed.models.chat_errors import translated
from testbed.protocol import parse
from testbed.types import Message

LOOKUP = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks up.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server() as server:
        yield server


@asynccontextmanager
async def chat(server: Server, name: str, **options: Any) -> AsyncIterator[Model]:
    model = make_model(f"chat:openai:{name}", {"base_url": server.url, "timeout": 60.0, **options})
    try:
        yield model
    finally:
        await model.aclose()


def ask(*more: Message, tools: bool = True, **fields: Any) -> Request:
    return Request([{"role": "user", "content": "Who?"}, *more], [LOOKUP] if tools else [], **fields)


async def reply_of(server: Server, name: str, request: Request | None = None, **options: Any) -> Reply:
    async with chat(server, name, **options) as model:
        return await model.generate(request or ask())


async def test_native_calls_become_the_text_protocols(server: Server) -> None:
    reply = await reply_of(server, "caller")
    action = parse(reply.text)
    assert action.answer is None  # written before the results were seen
    assert [(call.name, dict(call.arguments), call.fault) for call in action.calls] == [
        ("lookup", {"query": "</tool_call>é"}, None),
        ("lookup", {}, None),
    ]


async def test_a_conversation_goes_back_as_native_calls_and_results(server: Server) -> None:
    async with chat(server, "caller") as model:
        first = await model.generate(ask())
        results: list[Message] = [{"role": "tool", "name": "lookup", "content": text} for text in ("north", "south")]
        second = await model.generate(ask({"role": "assistant", "content": first.text}, *results))
    assert parse(second.text).answer == "north+south"  # the server refuses results without the call they belong to
    sent = server.requests("caller")[-1]["messages"]
    assert [json.loads(call["function"]["arguments"]) for call in sent[-3]["tool_calls"]] == [
        {"query": "</tool_call>é"},
        {},
    ]


async def test_arguments_that_are_no_json_become_a_fault_of_the_model(server: Server) -> None:
    reply = await reply_of(server, "invalid-arguments")
    assert [call.fault for call in parse(reply.text).calls] == [FaultKind.PARSE_ERROR]


async def test_a_faulty_call_can_be_answered(server: Server) -> None:
    async with chat(server, "invalid-arguments") as model:
        first = await model.generate(ask())
        said: Message = {"role": "assistant", "content": first.text}
        second = await model.generate(ask(said, {"role": "tool", "name": "", "content": "error: parse_error"}))
    assert parse(second.text).answer == "error: parse_error"


async def test_without_native_calls_tools_stand_in_the_system_text(server: Server) -> None:
    reply = await reply_of(server, "text-calls", native=False)
    sent = server.requests("text-calls")[-1]
    assert "tools" not in sent
    assert '"lookup"' in sent["messages"][0]["content"]
    assert parse(reply.text).calls[0].name == "lookup"
    assert reply.text.endswith("</tool_call>")  # which the server left out


async def test_an_answer_cut_at_its_limit_stays_unfinished(server: Server) -> None:
    reply = await reply_of(server, "cut-short", native=False)
    assert (reply.finish, parse(reply.text).answer) == ("length", None)


async def test_the_reference_model_behind_a_server_calls_and_answers(server: Server) -> None:
    python = {"type": "function", "function": {"name": "python", "description": "", "parameters": {"type": "object"}}}
    asked = [{"role": "user", "content": "What is 4821*9377?"}]
    async with chat(server, "reference", system="") as model:
        requests = [Request(asked, [python], max_tokens=80, stream=n) for n in range(24)]  # type: ignore[arg-type]
        replies = await asyncio.gather(*map(model.generate, requests))
        again = await model.generate(requests[0])
    assert any(parse(reply.text).calls for reply in replies)
    assert all(0 < reply.usage.generated_tokens <= 80 for reply in replies)
    assert again.text == replies[0].text  # the seed is the attempt's


async def test_settings_and_seed_reach_the_server(server: Server) -> None:
    await reply_of(server, "caller", ask(sampling=Sampling(0.5, 0.9), max_tokens=33, stream=5))
    await reply_of(server, "caller", ask(sampling=Sampling(0.5, 0.9), max_tokens=33, stream=6))
    first, second = server.requests("caller")[-2:]
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.5, 0.9, 33)
    assert first["seed"] != second["seed"]
    assert all(0 <= sent["seed"] < 2**31 for sent in (first, second))


async def test_further_fields_reach_the_server_beside_the_limit(server: Server) -> None:
    await reply_of(server, "caller", ask(max_tokens=33), extra_body={"top_k": 0, "min_p": 0.0})
    sent = server.requests("caller")[-1]
    assert (sent["top_k"], sent["min_p"], sent["max_tokens"], sent["top_p"]) == (0, 0.0, 33, 1.0)


async def test_a_server_that_refuses_the_older_limit_gets_the_newer(server: Server) -> None:
    async with chat(server, "newer") as model:
        first = await asyncio.gather(*(model.generate(ask(tools=False)) for _ in range(3)))
        await model.generate(ask(tools=False, max_tokens=33))
    assert all(parse(reply.text).answer == "4" for reply in first)
    sent = server.requests("newer")
    assert "max_tokens" not in sent[-1]
    assert sent[-1]["max_completion_tokens"] == 33


async def test_a_server_that_keeps_to_no_limit_is_refused(server: Server) -> None:
    with pytest.raises(ModelError, match="wrote 300 tokens where the limit was 64"):
        await reply_of(server, "unlimited", ask(tools=False, max_tokens=64))


async def test_a_later_turn_has_a_seed_of_its_own(server: Server) -> None:
    for position in (0, 9):
        await reply_of(server, "caller", ask(stream=5, position=position))
    first, second = server.requests("caller")[-2:]
    assert first["seed"] != second["seed"]


async def test_tokens_are_the_servers_and_have_their_price(server: Server) -> None:
    reply = await reply_of(server, "caller", usd_per_million={"input": 2.0, "output": 10.0})
    assert (reply.usage.prompt_tokens, reply.usage.generated_tokens) == (11, 7)
    assert reply.usage.usd == pytest.approx((11 * 2 + 7 * 10) / 1e6)


async def test_missing_token_counts_are_estimated_and_that_is_said(server: Server) -> None:
    model = Chat("openai:no-usage", base_url=server.url)
    reply = await model.generate(ask(tools=False))
    assert model.counts_are_approximate
    assert reply.usage.generated_tokens == model.count(reply.text) == 7
    await model.aclose()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("rate-limited", ModelNotAsked, "429.*slow down"),
        ("overloaded", ModelNotAsked, "503"),
        ("crashed", ModelUnavailable, "500"),
        ("cut-off", TransportError, "connection failed"),
        ("malformed", TransportError, "cannot be read"),
        ("no-choices", TransportError, "cannot be read"),
        ("nosuch", ModelError, "404.*Check the model's name"),
        ("locked", ModelError, "401.*Check the API key"),
    ],
)
async def test_a_failure_is_told_by_its_kind_and_tried_once(
    server: Server, name: str, error: type[Exception], message: str
) -> None:
    before = len(server.requests(name))
    with pytest.raises(error, match=message):
        await reply_of(server, name, patience=1e-9)
    assert len(server.requests(name)) == before + 1  # trying again is the runner's


async def test_a_server_that_hangs_is_given_up_in_time(server: Server) -> None:
    begun = time.monotonic()
    with pytest.raises(TransportError, match=r"did not answer within 0\.5 s"):
        await reply_of(server, "hang", timeout=0.5)
    assert time.monotonic() - begun < 5


async def test_a_server_that_is_not_there_was_not_asked() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        model = Chat("openai:x", base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1", timeout=10)
        with pytest.raises(ModelNotAsked, match="no connection"):
            await model.generate(ask())
        await model.aclose()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "Jan +2400 00:00:00 0 " + "9" * 80}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "inf"}, 0.0),
        ({}, 0.0),
    ],
)
@pytest.mark.parametrize(("status", "kind"), [(429, ModelBusy), (500, ModelUnavailable)])
def test_when_a_server_wants_to_be_asked_again_is_read(
    headers: dict[str, str], seconds: float, status: int, kind: type[ModelUnavailable]
) -> None:
    response = httpx.Response(status, headers=headers, request=httpx.Request("POST", "http://server"))
    error = translated(openai.APIStatusError("x", response=response, body=None), "name", 1.0)
    assert type(error) is kind
    assert error.retry_after == seconds
    assert error.retry_after >= 0


def test_a_date_to_be_asked_again_at_is_read() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    response = httpx.Response(429, headers={"retry-after": at}, request=httpx.Request("POST", "http://server"))
    error = translated(openai.APIStatusError("x", response=response, body=None), "name", 1.0)
    assert type(error) is ModelBusy
    assert error.retry_after == pytest.approx(3600, abs=60)


def test_a_server_that_a_proxy_lost_on_the_way_may_have_begun() -> None:
    response = httpx.Response(503, request=httpx.Request("POST", "http://server"))
    lost = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
    assert type(translated(openai.APIStatusError(lost, response=response, body=None), "name", 1.0)) is ModelUnavailable


class Told(GenericFakeChatModel):
    """Fails, or tells tokens that nobody can have counted."""

    error: Any = None

    async def ainvoke(self, *_: Any, **__: Any) -> AIMessage:
        if self.error is not None:
            raise self.error
        details = {"cache_read": 50}
        return AIMessage(
            "x", usage_metadata=dict(input_tokens=-3, output_tokens=-2, total_tokens=-5, input_token_details=details)
        )


async def test_tokens_below_none_give_nothing_back_and_are_estimated() -> None:
    model = Chat(Told(messages=iter([])), usd_per_million={"input": 4, "output": 8, "cached_input": 1})
    usage = (await model.generate(ask(tools=False))).usage
    assert (usage.prompt_tokens, usage.generated_tokens) == (22, 1)
    assert usage.usd == pytest.approx((22 * 4 + 8) / 1e6)
    assert model.counts_are_approximate


async def test_a_key_that_the_server_repeats_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    response = httpx.Response(401, request=httpx.Request("POST", "http://server"))
    error = openai.APIStatusError("no access with Bearer sk-secret", response=response, body=None)
    with pytest.raises(ModelError, match="no access with Bearer …") as refused:
        await Chat(Told(messages=iter([]), error=error), api_key_env="MY_KEY").generate(ask(tools=False))
    assert "sk-secret" not in str(refused.value)


async def test_what_is_no_error_of_the_providers_stays_as_it_is() -> None:
    error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError) as raised:
        await Chat(Told(messages=iter([]), error=error)).generate(ask(tools=False))
    assert raised.value.__cause__ is None


async def test_a_request_that_the_server_refuses_is_the_callers(server: Server) -> None:
    stray: Message = {"role": "system", "content": "s"}
    call: Message = {"role": "assistant", "content": '<tool_call>{"name":"lookup","arguments":{}}</tool_call>'}
    with pytest.raises(ModelError, match=r"400.*not answered"):
        await reply_of(server, "caller", ask(call, stray))


async def test_a_conversation_that_is_too_long_for_the_server_is_a_full_context(server: Server) -> None:
    with pytest.raises(ContextFull, match="4096 tokens"):
        await reply_of(server, "too-long")


async def test_the_key_comes_from_the_named_variable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "right")
    reply = await reply_of(server, "locked", ask(tools=False), api_key_env="MY_KEY")
    assert parse(reply.text).answer == "in"


def test_a_key_that_is_not_set_is_named() -> None:
    with pytest.raises(UsageError, match="NO_SUCH_KEY is not set"):
        make_model("chat:openai:x", {"api_key_env": "NO_SUCH_KEY"})


async def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ModelError, match=r"chat:openai:x has no API key: set OPENAI_API_KEY, or .* api_key_env\.$"):
        await Chat("openai:x").start()


async def test_the_server_may_come_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    model = Chat("openai:caller")
    reply = await model.generate(ask(tools=False))
    await model.aclose()
    assert reply.text == "no tools"


def test_one_model_serves_several_event_loops_in_turn(server: Server) -> None:
    model = Chat("openai:caller", base_url=server.url)

    async def once() -> str:
        reply = await model.generate(ask(tools=False))
        await model.aclose()
        return reply.text

    assert [asyncio.run(once()) for _ in range(3)] == ["no tools"] * 3


async def test_any_langchain_model_object_can_be_asked() -> None:
    model = Chat(GenericFakeChatModel(messages=iter([AIMessage("<answer>42</answer>")])))
    reply = await model.generate(ask(tools=False))
    assert parse(reply.text).answer == "42"
    assert model.name == "chat:GenericFakeChatModel:"


async def test_a_model_without_native_calls_says_what_to_do() -> None:
    model = Chat(GenericFakeChatModel(messages=iter([AIMessage("x")])))
    with pytest.raises(ModelError, match="set native = false"):
        await model.generate(ask())


def test_a_provider_whose_package_is_missing_is_named() -> None:
    with pytest.raises(ModelError, match="pip install langchain langchain-google-vertexai"):
        make_model("chat:google_anthropic_vertex:model")


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("chat:openai", {}, "chat:PROVIDER:MODEL"),
        ("chat:openai:x", {"usd_per_million": {"inptu": 1}}, "input = … and output"),
        ("chat:openai:x", {"usd_per_million": {"input": -1}}, "input = -1"),
        ("chat:openai:x", {"timeout": 0}, "timeout must be"),
        ("chat:openai:x", {"patience": float("nan")}, "patience must be"),
        ("chat:openai:x", {"concurrency": 0.5}, "concurrency must be"),
        ("chat:openai:x", {"extra_body": ["top_k"]}, "extra_body must be a table"),
        ("chat:openai:x", {"extra_body": {"top_k": 0, "seed": 1}}, "may not set seed"),
        ("chat:openai:x", {"prices": "nowhere.toml"}, r"the prices nowhere\.toml cannot be read"),
    ],
)
def test_bad_options_are_refused(id: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_model(id, options)


def test_what_changes_an_outcome_changes_the_fingerprint() -> None:
    made = [
        Chat("openai:x"),
        Chat("openai:y"),
        Chat("openai:x", native=False),
        Chat("openai:x", system="s"),
        Chat("openai:x", base_url="http://127.0.0.1:1/v1"),
        Chat("openai:x", extra_body={"top_k": 0}),
    ]
    assert len({json.dumps(model.fingerprint(), sort_keys=True) for model in made}) == len(made)
