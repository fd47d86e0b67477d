"""Answers that nearly speak the OpenAI protocol, or not at all: what becomes of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from helpers.answering import USED, answer, called, served
from testbed.errors import (
    ContextFull,
    FaultKind,
    InfrastructureError,
    ModelBusy,
    ModelError,
    ModelNotAsked,
    ModelUnavailable,
    TransportError,
)
from testbed.models import Reply, Request
from testbed.protocol import parse
from testbed.types import Message

LOOKUP = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
ASKED: list[Message] = [{"role": "user", "content": "Who?"}]
PAGE = "<html><head><title>Please log in</title></head></html>"


async def reply_to(told: Any, **how: Any) -> Reply:
    async with served(told, **how) as model:
        return await model.generate(Request(ASKED, [LOOKUP], max_tokens=64))


async def replies_to(*told: Any) -> tuple[Reply, Reply]:
    """A reply, and what is said after it and a tool's result were sent back."""
    async with served(*told) as model:
        first = await model.generate(Request(ASKED, [LOOKUP], max_tokens=64))
        said: list[Message] = [*ASKED, {"role": "assistant", "content": first.text}]
        said += [{"role": "tool", "content": "x"}] if parse(first.text).calls else []
        return first, await model.generate(Request(said, [LOOKUP], max_tokens=64))


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        ({"error": {"message": "slow down", "code": 429}}, ModelNotAsked, "429.*slow down"),
        ({"error": {"message": "upstream", "code": "502"}}, ModelUnavailable, "502.*upstream"),
        ({"error": "overloaded"}, ModelUnavailable, "500.*overloaded"),
        ({"error": {"message": "x", "code": 99}}, ModelUnavailable, "500"),
        (
            {"object": "error", "message": "This model's maximum context length is 10 tokens", "code": 400},
            ContextFull,
            "10 tokens",
        ),
        (answer(finish="error", error={"message": "lost", "code": 502}), ModelUnavailable, "502.*lost"),
        (answer(finish="abort"), ModelUnavailable, "500.*interrupted: finish_reason = 'abort'"),
        (answer(finish="insufficient_system_resource"), ModelUnavailable, "interrupted"),
    ],
)
async def test_an_error_that_came_as_an_answer_is_the_error_that_it_is(
    told: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await reply_to(told)


async def test_an_error_that_came_as_an_answer_is_waited_for_like_others() -> None:
    async with served({"error": {"message": "slow down", "code": 429}}, answer()) as model:
        model._pace._patience = 5.0  # half a second is waited
        reply = await model.generate(Request(ASKED, max_tokens=64))
    assert (parse(reply.text).answer, reply.usage.resent) == ("4", 1)


UNREADABLE = [
    {**answer(), "choices": []},
    {**answer(), "choices": [None]},
    {**answer(), "choices": {}},
    {**answer(), "choices": [{"index": 0, "message": None, "finish_reason": "stop"}]},
    answer({"role": "assistant", "content": 4}),
    answer({"role": "assistant", "content": "x", "tool_calls": [None]}),
    answer(called("{}", name=4)),
    {"detail": "no such thing"},
    "null",
    "[]",
    "",
    PAGE,
    b'{"choices": "\xff"}',
]


async def test_an_answer_that_cannot_be_read_is_lost_and_ends_no_run() -> None:
    async with served(*UNREADABLE) as model:
        for _ in UNREADABLE:
            with pytest.raises(TransportError, match="cannot be read"):
                await model.generate(Request(ASKED, [LOOKUP], max_tokens=64))


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (200, TransportError, "cannot be read"),
        (302, ModelError, "base_url"),
        (403, ModelError, "403"),
        (413, ContextFull, "413"),
        (502, ModelUnavailable, "502.*Please log in"),
    ],
)
async def test_a_page_of_a_proxy_is_told_by_its_status(status: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        await reply_to(PAGE + "x" * 10_000, status=status, kind="text/html")
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (402, "Insufficient Balance"),
        (400, "filtered by the content management policy"),
        (403, "Your input was flagged"),
    ],
)
async def test_what_waiting_cannot_help_is_missing_at_once_and_ends_no_run(status: int, said: str) -> None:
    with pytest.raises(ModelNotAsked, match=said) as raised:
        await reply_to({"error": {"message": said}}, status=status)
    assert isinstance(raised.value, InfrastructureError)
    assert not raised.value.passing
    assert not isinstance(raised.value, ModelBusy)


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (called({"query": "x"}), None),
        (called(None), None),
        ({"content": None, "function_call": {"name": "lookup", "arguments": '{"query": "x"}'}}, None),
        ({**called("{}"), "role": "model"}, None),
        (called(""), None),
        (called(" "), None),
        ({**called("{}"), "tool_calls": called("{}")["tool_calls"][0]}, None),
        ({**called("{}"), "tool_calls": [{**called("{}")["tool_calls"][0], "id": 3}]}, None),
        (called("[1]"), FaultKind.PARSE_ERROR),
        (called("4"), FaultKind.PARSE_ERROR),
        (called([1]), FaultKind.PARSE_ERROR),
        (called('{"query": NaN}'), FaultKind.PARSE_ERROR),
    ],
)
async def test_calls_in_every_form_are_calls_and_wrong_arguments_the_models_fault(
    message: Mapping[str, Any], fault: FaultKind | None
) -> None:
    first, second = await replies_to(answer(dict(message)), answer())
    (call,) = parse(first.text).calls
    assert call.fault is fault
    assert parse(second.text).answer == "4"  # it could be sent back


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "half \ud83d of one"},
        called(json.dumps({"query": "\ud83d"})),
        called("{}", name="look\ud83d"),
    ],
)
async def test_half_a_character_can_be_sent_back(message: Any) -> None:
    _, second = await replies_to(answer(message), answer())
    assert parse(second.text).answer == "4"


TEXT = "<answer>4</answer>"


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": TEXT}]},
        {"content": [{"type": "output_text", "text": "<answer>"}, {"type": "output_text", "text": "4</answer>"}]},
        {"content": ["<answer>4", "</answer>"]},
        {"content": {"type": "text", "text": TEXT}},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": TEXT},
            ]
        },
        {"content": None, "refusal": TEXT},
        {"content": TEXT, "refusal": None, "reasoning": "hm", "annotations": [{"url": 1}], "audio": {"id": 1}},
    ],
)
async def test_what_was_said_is_text_in_whatever_parts_it_came(message: dict[str, Any]) -> None:
    assert (await reply_to(answer({"role": "assistant", **message}))).text == TEXT


UNTRUE = [
    None,
    {},
    [1, 2],
    {"prompt_tokens": -5, "completion_tokens": 7},
    {"prompt_tokens": 11, "completion_tokens": 0},
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": "many", "completion_tokens": 7},
    {"prompt_tokens": 11.5, "completion_tokens": 7},
    {"prompt_tokens": 10**30, "completion_tokens": 7},
]


async def test_counts_that_cannot_be_true_are_estimated_and_that_is_said() -> None:
    async with served(*[answer(usage=usage) for usage in UNTRUE]) as model:
        replies = [await model.generate(Request(ASKED, max_tokens=64)) for _ in UNTRUE]
        assert model.counts_are_approximate
    assert {(reply.usage.prompt_tokens, reply.usage.generated_tokens) for reply in replies} == {(22, 5)}


@pytest.mark.parametrize(
    ("usage", "written"),
    [
        ({**USED, "total_tokens": 50}, 39),
        ({**USED, "total_tokens": None}, 7),
        ({**USED, "total_tokens": 3}, 7),
        ({**USED, "prompt_tokens_details": [1], "completion_tokens_details": "none"}, 7),
        ({**USED, "prompt_tokens_details": {"cached_tokens": "5"}}, 7),
    ],
)
async def test_thoughts_that_the_total_alone_counts_were_written_and_odd_details_lose_no_reply(
    usage: dict[str, Any], written: int
) -> None:
    used = (await reply_to(answer(usage=usage))).usage
    assert (used.prompt_tokens, used.generated_tokens) == (11, written)


@pytest.mark.parametrize(
    ("finish", "meant"),
    [
        *((finish, "length") for finish in ("content_filter", "length", "max_output_tokens", "SENSITIVE")),
        *((finish, "context") for finish in ("model_length", "model_context_window_exceeded")),
    ],
)
async def test_what_was_cut_is_not_completed_and_a_full_context_told_as_such(finish: str, meant: str) -> None:
    async with served(answer({"role": "assistant", "content": "<answer>4"}, finish=finish)) as model:
        model._native = False
        reply = await model.generate(Request(ASKED, max_tokens=64))
    assert (reply.finish, parse(reply.text).answer) == (meant, None)


@pytest.mark.parametrize("native", [True, False])
async def test_the_closing_tag_at_which_a_server_or_a_model_ends_is_put_back(native: bool) -> None:
    async with served(answer({"role": "assistant", "content": "so <answer>4"}, finish="stop")) as model:
        model._native = native
        reply = await model.generate(Request(ASKED, max_tokens=64))
    assert reply.text == "so <answer>4</answer>"


async def test_without_a_finish_a_reply_is_as_it_says_and_thoughts_are_no_part_of_it() -> None:
    thought = {"role": "assistant", "content": "<answer>4</answer>", "reasoning_content": "<answer>9</answer>"}
    reply = await reply_to(answer(thought, finish=None))
    assert (reply.finish, parse(reply.text).answer) == ("stop", "4")


@pytest.mark.parametrize("logprobs", [[], {"content": [None] * 7}, {"content": [{"token": "x", "logprob": None}] * 7}])
async def test_logprobs_that_are_none_are_refused_by_name(logprobs: Any) -> None:
    async with served(answer(logprobs=logprobs)) as model:
        with pytest.raises(ModelError, match="leave logprobs out"):
            await model.generate(Request(ASKED, max_tokens=64, logprobs=True))


@pytest.mark.parametrize(
    "told",
    [
        {"choices": [None]},
        {"choices": [{"logprobs": {"tokens": ["a", "b"], "token_logprobs": ["x", {}]}}], "usage": []},
        {"prompt_logprobs": [{"1": None}, 4], "tokens": [1, 2], "prompt": 4},
        PAGE,
    ],
)
async def test_a_server_that_tells_anything_is_one_that_cannot_score(told: Any) -> None:
    async with served(told) as model:
        with pytest.raises((ModelError, TransportError), match=r"cannot score texts|cannot be read"):
            await model.score(ASKED, [], [0])
